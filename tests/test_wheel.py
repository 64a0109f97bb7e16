"""The wheel holds all that is needed, and runs outside of the checkout."""

import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from helpers import PATIENCE

pytest.importorskip("hatchling")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built by the backend that pyproject.toml names, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = f"from hatchling import build; print(build.build_wheel({str(folder)!r}))"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.split()[-1]


def expected_files():
    """The files of both packages and of the data, as they lie in the wheel."""
    for package in ("depthwidth", "verify"):
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                yield str(path.relative_to(ROOT))
    for path in (ROOT / "data").rglob("*"):
        if path.is_file():
            yield f"depthwidth/{path.relative_to(ROOT)}"


def test_no_file_is_missing_and_none_too_many(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = set(expected_files())
    assert held == expected
    assert {"depthwidth/py.typed", "verify/py.typed", "depthwidth/data/README.md"} <= held
    assert sum(name.endswith(".csv") for name in held) > 50


def test_the_metadata_are_those_of_the_project(wheel):
    with zipfile.ZipFile(wheel) as archive:
        info = next(name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name)
        found = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        points = archive.read(f"{info}/entry_points.txt").decode()
        assert f"{info}/licenses/LICENSE" in archive.namelist()
    assert wheel.name == f"depthwidth-{PROJECT['version']}-py3-none-any.whl"
    assert (found["Name"], found["Version"], found["Requires-Python"]) == ("depthwidth", PROJECT["version"], ">=3.11")
    assert set(found.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    plain = [line for line in found.get_all("Requires-Dist") if "extra ==" not in line]
    assert {line.partition("<")[0] for line in plain} == {line.partition(">")[0] for line in PROJECT["dependencies"]}
    assert points.split() == ["[console_scripts]", "depthwidth", "=", "depthwidth.__main__:main"]
    versions = {line.rpartition(" :: ")[2] for line in found.get_all("Classifier") if "Python :: 3." in line}
    assert versions == {"3.11", "3.12", "3.13"}


def test_it_runs_in_an_empty_folder(wheel, tmp_path):
    """Unpacked beside nothing else of the project: commands that read each kind of data."""
    place, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    for words in (("plan", "7B"), ("table", "gpt3-family"), ("evidence",), ("formulas", "show", "rules.levine_width")):
        command = [sys.executable, "-P", "-m", "depthwidth", *words]
        environment = {"PYTHONPATH": str(place), "PATH": "", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(  # noqa: S603
            command, cwd=empty, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        assert (done.returncode, done.stderr) == (0, ""), (words, done.stderr)
        assert len(done.stdout.splitlines()) > 5
    source = "import depthwidth, verify; print(depthwidth.__file__, verify.__file__)"
    command = [sys.executable, "-P", "-c", source]
    done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
    assert all(Path(path).is_relative_to(place) for path in done.stdout.split())
    assert not list(empty.iterdir())
