"""An installed package adds components, rules, schemes, families, jobs and activations by entry points."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from depthwidth import plugins
from depthwidth.errors import InputError

pytest.importorskip("torch")

ROOT = Path(__file__).parents[1]
ENTRY_POINTS = """\
[depthwidth.components]
gated_mean = third_party:GatedMean
[depthwidth.rules]
square = third_party:square
[depthwidth.schemes]
thirds = third_party:thirds
[depthwidth.families]
tinylm = third_party:tinylm
[depthwidth.jobs]
claim = third_party:JOB
[depthwidth.activations]
sharp = third_party:sharp
[depthwidth.positions]
parity = third_party:parity
"""
METADATA = "Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the third-party package, installed from a wheel."""
    folder = tmp_path_factory.mktemp("plugin")
    files = {
        "third_party.py": (ROOT / "tests/outsider/third_party.py").read_text(encoding="utf-8"),
        "third_party-1.0.dist-info/METADATA": METADATA,
        "third_party-1.0.dist-info/WHEEL": WHEEL,
        "third_party-1.0.dist-info/entry_points.txt": ENTRY_POINTS,
    }
    wheel = folder / "third_party-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        record = "".join(f"{name},,\n" for name in (*files, "third_party-1.0.dist-info/RECORD"))
        archive.writestr("third_party-1.0.dist-info/RECORD", record)
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)  # noqa: S603
    return target


FORKS = """
import json, os, runpy, sys, traceback
import torch  # as the package does; the commands do not
for line in sys.stdin:
    arguments = json.loads(line)
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        status = 1
        try:
            sys.argv = arguments[1:]
            if arguments[0] == "-m":
                runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
            else:
                exec(arguments[1], {})
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as printed:
        text = printed.read()
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text]), flush=True)
"""
"""A process of its own for each line of the input, forked where torch is loaded and the package is not."""


@pytest.fixture(scope="module")
def environment(installed):
    """That of a process with the package on its path."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)])}


@pytest.fixture(scope="module")
def run(installed, environment):
    """Run Python with the package on its path, and give back what it prints."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", FORKS], text=True, env=environment, cwd=installed, **pipes) as process:  # noqa: S603

        def run(*arguments):
            print(json.dumps(arguments), file=process.stdin, flush=True)
            status, text = json.loads(process.stdout.readline())
            assert status == 0, text
            return text

        yield run
        process.stdin.close()


@pytest.mark.slow
def test_a_component_is_counted_and_built(run):
    source = """
from dataclasses import replace
from third_party import GatedMean
from depthwidth import Transformer
from depthwidth.layers import Repeat, Stack
from verify import build
tree = Transformer(2, 64, 4, kind="encoder", vocab=50, context=8)
block = tree.encoder.repeats[0].block
block = block.replace(attention=replace(block.attention, branch=GatedMean(64, 128)))
tree = tree.replace(encoder=replace(tree.encoder, repeats=(Repeat(block, 2),)))
print(tree.parameters == sum(p.numel() for p in build(tree).parameters()))
"""
    assert run("-c", source).strip() == "True"


@pytest.mark.slow
def test_positions_are_planned_with(run):
    assert "total parameters" in run("-m", "depthwidth", "plan", "10M", "--positions", "parity")


@pytest.mark.slow
def test_a_rule_decides_a_plan(run):
    plan = json.loads(run("-m", "depthwidth", "plan", "350M", "--rule", "square", "--json"))
    assert plan["rule"] == "square"
    assert "square" in plan["rules"]
    assert "square" not in run("-m", "depthwidth", "plan", "350M", "--json"), "a plan by a known rule loads no plug-in"


@pytest.mark.slow
def test_a_family_is_described_under_a_scheme(run, tmp_path):
    config = {"model_type": "tinylm", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_act": "silu"}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config | {"hidden_act": "sharp_swish", "vocab_size": 100, "intermediate_size": 128}))
    described = json.loads(run("-m", "depthwidth", "describe", str(path), "--json"))
    assert (described["depth"], described["width"], described["vocab"]) == (2, 64, 100)
    rows = json.loads(run("-m", "depthwidth", "init", str(path), "--scheme", "thirds", "--json"))
    reasons = {row["parameter"]: row["reason"] for row in rows}
    assert reasons["decoder.block.0.attention.query.weight"] == "a share of 1/sqrt(fan-in)"
    assert "thirds" in run("-m", "depthwidth", "init")


@pytest.mark.slow
def test_a_job_is_listed(run):
    assert "outsider-claim" in run("-m", "depthwidth", "verify", "list")


@pytest.mark.slow
def test_nothing_is_loaded_for_what_is_known(installed, environment):
    source = """
import sys, depthwidth

from depthwidth.initialization import recipe
depthwidth.plan("1T")
tree = depthwidth.Transformer(2, 64, 4)
recipe(tree, "gpt2")
depthwidth.Transformer.from_config({"model_type": "gpt2"})
depthwidth.activation("gelu_new")
print("third_party" in sys.modules, "importlib.metadata" in sys.modules)
"""
    command = [sys.executable, "-c", source]  # torch would load the second
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=installed)  # noqa: S603
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_a_plugin_that_cannot_be_loaded_is_named(monkeypatch):
    from importlib.metadata import EntryPoint, EntryPoints

    broken = EntryPoint("broken", "no_such_package:thing", "depthwidth.rules")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **given: EntryPoints([broken]).select(**given))
    plugins._find_entries.cache_clear()
    try:
        with pytest.raises(InputError, match=r"the plug-in broken .* cannot be loaded: ModuleNotFoundError") as refused:
            list(plugins.plugins("depthwidth.rules"))
        assert "\n" not in str(refused.value)
    finally:
        plugins._find_entries.cache_clear()
