"""Drivers of pages, pictures and the options of the verifier."""

import json
import shutil

import click
from drivers import BRIEF, DRIVERS, LLAMA, WORDS, base_folder, command_of, harmed_file, limits, option_value, run, runs_table

# The page to explore.


def pages(rng, folder):
    """Settings of the page to explore, some of them odd: each answer is HTML with a sentence, never an exception."""
    from depthwidth.explore import page, pieces
    from depthwidth.explore.controls import Settings, controls
    from depthwidth.explore.state import answer

    chosen = {"budget": rng.choice(("20M", "1B", "1e9")), "vocab": "1000", "context": "128"}
    for control in rng.sample(controls(), rng.randrange(1, 5)):
        good = [value for value, _ in control.choices] or list(control.steps)
        chosen[control.name] = rng.choice(good) if rng.random() < 0.5 else rng.choice(WORDS)
    settings = Settings.of(chosen)
    with limits():
        found = [pieces.plan_pieces(settings), page.whole_page(settings, answer(settings), None)]
        if rng.random() < 0.5:
            found.append(pieces.depth_pieces(settings))
    text = json.dumps(found, allow_nan=False)
    assert "Traceback" not in text, text
    for refused in (*found[0]["errors"].values(), *(one["refused"] for one in found[2:])):
        assert isinstance(refused, str), refused
        assert "\n" not in refused, refused


# Pictures and pages of reports.

DRAWN = (
    ("plan", "1B"), ("plan", "20M", "--vocab", "1000"), ("moments", "llama.json"), ("heads", "llama.json", "--context", "16"),
    ("rules",), ("compute", "1e19"), ("pareto", "100M", "--rows", "3"), ("fit", "runs.csv", *BRIEF["fit"]),
)  # fmt: skip


def pictures(rng, folder):
    """A picture of a command with odd values for some of its options, or the page of a report on harmed rows."""
    if rng.random() < 0.4:
        place = folder / "drawn"
        shutil.rmtree(place, ignore_errors=True)
        base_folder(place)
        (path,) = (place / "rows").glob("*.csv")
        name, data = harmed_file(rng, path.name, path.read_bytes())
        path.unlink()
        path.with_name(name).write_bytes(data)
        run("verify", "report", "--html", folder / "page.html", "--out", place)
        return
    (folder / "llama.json").write_text(json.dumps(LLAMA))
    (folder / "runs.csv").write_bytes(runs_table(rng))
    first, *words = rng.choice(DRAWN)
    words = [str(folder / word) if word.endswith((".json", ".csv")) else word for word in words]
    parameters = [one for one in command_of(first).params if isinstance(one, click.Option) and not one.is_flag]
    for parameter in rng.sample(parameters, rng.randrange(3)):
        if parameter.name not in ("plot", "plot_collapse", "text", "like", "save", "measure", "draws", "starts"):
            words += [parameter.opts[0], option_value(rng, parameter)]
    file = rng.choice(("a.svg", "a.png", "a.svg", "missing/a.svg", "a.bmp", "", ".svg", "\x1b[31m.svg", "x" * 300 + ".svg"))
    run(first, *words, "--plot", str(folder / file) if file else "")


# Options of the verifier.


def verifier(rng, folder):
    """Commands of the verifier with odd options, on a folder of runs. They name no known job, and measure nothing."""
    place = folder / "odd"
    if not place.is_dir():
        base_folder(place)
        for path in (place / "plans").glob("moments.*"):  # a resumed folder has runs of the unknown job alone
            path.unlink()
    command = rng.choice(("run", "resume", "status", "report", "export", "import", "fit"))
    words = ["unknown-job"] if command == "run" else []
    words += ["moments", "loss = a + b*step"] if command == "fit" else []
    words += [str(folder / rng.choice(("a.csv", "a.zip", "a.parquet", "a.txt", "no/a.csv")))] if command == "export" else []
    words += [rng.choice((str(folder / "a.zip"), str(place), "/dev/null", *WORDS[:30]))] if command == "import" else []
    for parameter in command_of(f"verify {command}").params:
        if parameter.name in ("watch", "help", "out", "into") or rng.random() < 0.7:
            continue
        if isinstance(parameter, click.Argument):
            words += [rng.choice(WORDS)] if parameter.nargs == -1 else []
        elif parameter.is_flag:
            words.append(parameter.opts[0])
        else:
            good = {
                "size": ("tiny", "small"), "starts": ("a=1", "b=0", "a=nan"), "device": ("cpu",), "executor_name": ("local",),
                "save": ("mine",), "html": (str(folder / "page.html"),),
            }.get(parameter.name)  # fmt: skip
            # A cluster is asked for at no address, and pages are written nowhere else.
            odd = good is None or (parameter.name not in ("executor_name", "html", "save") and rng.random() < 0.5)
            words += [parameter.opts[0], rng.choice(WORDS) if odd else rng.choice(good)]
    run("verify", command, *words, "--out", rng.choice((place, place, place, folder / "none")))


DRIVERS |= {one.__name__: one for one in (pages, pictures, verifier)}
