"""Commands print the output that the documents show. (The documents' Python examples run as doctests.)"""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRACT = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")


def test_the_readmes_sample_of_a_plan_is_what_the_command_prints(invoke):
    sample = re.search(r"\$ depthwidth plan 1T\n(.*?)\n\.\.\.\n", README, re.DOTALL)[1]
    assert invoke("plan", "1T").output.startswith(sample)


@pytest.mark.slow
def test_every_command_line_of_the_readme_parses(invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "config.json").write_text('{"model_type": "llama"}')
    block = re.search(r"```sh\n(depthwidth plan 7B.*?)```", README, re.DOTALL)[1]
    lines = [line.partition("#")[0].split() for line in block.splitlines()]
    assert len(lines) == 7
    for _, *arguments in lines:
        assert invoke(*arguments).status == 0


@pytest.mark.slow
def test_the_keys_of_the_contract_are_there(invoke, tmp_path):
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "gpt2"}')
    runs = tmp_path / "runs.csv"
    runs.write_text("width,loss\n" + "".join(f"{w},{2 + 30 / w**0.5 + 1e-3 * (w % 7)}\n" for w in range(60, 900, 100)))
    commands = {
        "plan BUDGET": ("plan", "1B"),
        "compare A B ...": ("compare", "24x1024", "12x1408"),
        "rules": ("rules",),
        "compute FLOPS": ("compute", "1e20", "--law", "liu2026"),
        "pareto PARAMETERS": ("pareto", "50M"),
        "serve CONFIG": ("serve", str(config)),
        "describe FILE": ("describe", config),
        "moments CONFIG": ("moments", config, "--context", "16"),
        "init CONFIG --scheme NAME": ("init", config, "--scheme", "deepscale"),
        "fit RUNS": ("fit", runs, "--law", "loss = E + A * width**-p", "--errors", "curvature", "--starts", "4"),
        "evidence": ("evidence",),
        "formulas list": ("formulas", "list"),
        "formulas show NAME": ("formulas", "show", "levine_width"),
        "formulas eval NAME ...": ("formulas", "eval", "levine_width", "depth=3"),
    }
    for name, arguments in commands.items():
        row = re.search(rf"^\| `{re.escape(name)} --json` \|(.*)\|$", CONTRACT, re.MULTILINE)[1]
        keys = re.findall(r"`(\w+)`", re.sub(r"\([^()]*\)", "", row))
        printed = json.loads(invoke(*arguments, "--json").output)
        printed = printed[0] if isinstance(printed, list) else printed
        assert keys
        assert set(keys) <= set(printed)


def test_the_public_names_of_the_contract_are_the_packages():
    import depthwidth

    listed = CONTRACT.partition("`from depthwidth import ...`: ")[2].partition(".\n")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == set(depthwidth.__all__)


def test_every_link_leads_somewhere():
    for document in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "data" / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_letter_of_a_formula_is_in_the_glossary():
    from letters import letters, written

    listed = written((ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"))
    missing = {letter: names - listed.get(letter, set()) for letter, names in letters().items()}
    assert not {letter: names for letter, names in missing.items() if names}, "python tests/letters.py writes the table again"


def numbered_formulas(page):
    """The rows of a derivation's table of numbered formulas: number, and what is in its last cell."""
    table = page.read_text(encoding="utf-8").partition("## Numbered formulas")[2].partition("```")[0]
    return dict(re.findall(r"^\| \((\w+)\) \|.*\| (.*) \|$", table, re.MULTILINE))


def test_numbers_of_derivations_that_the_code_names_exist():
    named = 0
    for source in (ROOT / "depthwidth").rglob("*.py"):
        for name, numbers in re.findall(
            r"docs/derivations/([\w-]+\.md)(?:, )?((?:[^\n.]*\(\w+\))*)", source.read_text("utf-8")
        ):
            rows = numbered_formulas(ROOT / "docs" / "derivations" / name)
            assert rows, name
            for number in re.findall(r"\((\w\d+)\)", numbers):
                assert number in rows, f"{source.name} names ({number}) of {name}"
                named += 1
    assert named > 60


def test_what_derivations_name_is_in_the_code():
    defined = set()
    for source in (ROOT / "depthwidth").rglob("*.py"):
        defined |= set(re.findall(r"^ *(?:def|class) (\w+)|^ +(\w+): ", source.read_text("utf-8"), re.MULTILINE))
    defined = {name for pair in defined for name in pair if name}
    for page in (ROOT / "docs" / "derivations").glob("*.md"):
        for number, cell in numbered_formulas(page).items():
            for name in re.findall(r"`([\w.]+)", cell):
                assert name.rpartition(".")[2] in defined, f"{page.name} ({number}) names {name}"


def places_of(cell):
    """The names in a cell that are followed by a file or folder in brackets, each with it."""
    for names, place in re.findall(r"((?:`[\w.]+`(?:, )?)+) \(([\w/]+(?:\.py|/))\)", cell):
        yield from ((name, ROOT / "depthwidth" / place) for name in re.findall(r"`([\w.]+)`", names))


def test_derivations_name_the_files_of_the_code():
    named = []
    for page in (ROOT / "docs" / "derivations").glob("*.md"):
        for number, cell in numbered_formulas(page).items():
            for name, place in places_of(cell):
                last, files = name.rpartition(".")[2], [place] if place.suffix else list(place.rglob("*.py"))
                text = "".join(file.read_text("utf-8") for file in files)
                assert re.search(rf"^ *(?:def|class) {last}\b|^ +{last}: ", text, re.MULTILINE), f"{page.name} ({number})"
                named.append(name)
    assert len(named) > 15
    place = ROOT / "depthwidth" / "signal" / "x.py"
    assert [*places_of("`one`, `Two.three` (signal/x.py)")] == [("one", place), ("Two.three", place)]


def test_the_map_of_derivations_states_their_numbers():
    folder = ROOT / "docs" / "derivations"
    stated = re.findall(r"\]\(([\w-]+\.md)\) \| \((\w+)\) to \((\w+)\)", (folder / "README.md").read_text(encoding="utf-8"))
    assert {name for name, _, _ in stated} == {page.name for page in folder.glob("*.md")} - {"README.md"}
    for name, first, last in stated:
        table = (folder / name).read_text(encoding="utf-8").partition("## Numbered formulas")[2]
        numbers = re.findall(r"^\| \((\w+)\) \|", table, re.MULTILINE)
        assert numbers == [f"{first[0]}{k}" for k in range(1, len(numbers) + 1)], name
        assert (first, last) == (numbers[0], numbers[-1]), name


def test_every_page_is_on_the_map():
    """The site takes its navigation from the map."""
    folder = ROOT / "docs"
    linked = set(re.findall(r"\]\(([^)#]+)", (folder / "README.md").read_text(encoding="utf-8")))
    assert {page.name for page in folder.glob("*.md")} - {"README.md"} <= linked


def test_the_readme_is_short():
    assert len(README.split()) <= 700
