"""``depthwidth verify``: run jobs, show their state, report, move rows between machines, fit."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from depthwidth.cli.live import Display
from depthwidth.cli.options import COUNT, NUMBER, Listing, formats
from depthwidth.cli.output import Row, emit, print_facts, print_table, say
from depthwidth.errors import InputError, shown
from depthwidth.progress import announced, is_quiet

if TYPE_CHECKING:
    from .runs.executors import Executor
    from .runs.store import Damage, Store

F = TypeVar("F", bound=Callable[..., Any])

RUNS_VARIABLE = "DEPTHWIDTH_RUNS"


def _folder(function: F) -> F:
    return click.option(
        "--out", metavar="DIR", default=lambda: os.environ.get(RUNS_VARIABLE) or "runs", show_default=False,
        help=f"Folder of plans and rows.  [default: {RUNS_VARIABLE} in the environment, else ./runs]",
    )(function)  # fmt: skip


def _how(function: F) -> F:
    """Options for the execution of runs."""
    for option in (
        click.option("--quiet", is_flag=True, help="Show no progress."),
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
        click.option(
            "--address", metavar="ADDRESS", help="Ray cluster: auto, HOST:PORT or ray://HOST:PORT.  [default: start one here]"
        ),
        click.option(
            "--ensemble",
            metavar="N",
            type=COUNT,
            help="Maximum runs of one shape in one program.  [default: as in the plan; 16 on a GPU, 1 on a CPU for a new one]",
        ),
        click.option(
            "--workers",
            metavar="N",
            type=int,
            help="Number of runs at a time.  [default: one per GPU or processor; all that fit the cluster]",
        ),
        click.option("--executor", "executor_name", type=click.Choice(["local", "ray"]), default="local", show_default=True),
    ):
        function = option(function)
    return function


class _OnDisk(click.Command):
    """A command on a folder of runs: a full or missing disk gives one sentence and status 3."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if error.name != "msgspec":
                raise
            raise InputError("reading runs needs msgspec; pip install 'depthwidth[verify]'") from None
        except BrokenPipeError:  # the reader of our output has closed it
            raise
        except OSError as error:
            where = "" if error.filename is None else f"{error.filename}: "
            say(f"Error: {where}{error.strerror or error}; files written before are whole", error=True)
            return 3


@click.group("verify", cls=Listing)
def commands() -> None:
    """Check predictions on real transformers: run jobs, keep their rows, report."""


commands.command_class = _OnDisk


@commands.command("list")
@formats
def list_jobs(form: str | None) -> None:
    """List the jobs: question, claim, measured quantity and criterion of each."""
    from .jobs import jobs

    rows: list[Row] = [job.to_dict() for job in jobs().values()]

    def human() -> None:
        for job in jobs().values():
            say(heading=job.name)
            words = job.to_dict()
            print_facts({f"  {key}": words[key] for key in ("question", "claim", "measured", "criterion")})

    emit(form, rows, rows, human)


@commands.command()
@click.argument("names", nargs=-1, required=True, metavar="JOB...")
@click.option("--size", default="tiny", show_default=True, help="Size of the job: tiny, small, gpu or full.")
@_folder
@_how
def run(names: tuple[str, ...], size: str, out: str, **how: Any) -> int:
    """Plan JOB, record its predictions, and run the missing measurements.

    Runs with rows in the folder are not measured again. The exit status is 3 if a run failed, whatever the verdict.
    """
    from .jobs import check_size, find_job
    from .runs.plans import prepare
    from .runs.store import Store

    for name in names:
        find_job(name)
    check_size(size)
    device, chosen = _ready(**how)
    store = Store(out).open()
    damaged = store.tidy()
    # One small model does not fill a GPU. It does fill a CPU, where single runs are repeatable bit for bit.
    plans = prepare(store, names, size, how["ensemble"], default=16 if device == "cuda" else 1)
    return _carry_out(store, plans, damaged, chosen, device, **how)


@commands.command()
@click.argument("names", nargs=-1, metavar="[JOB]...")
@_folder
@_how
def resume(names: tuple[str, ...], out: str, **how: Any) -> int:
    """Resume all planned runs of a folder that are not done, failed ones included; or those of JOB alone.

    Jobs that changed or no longer exist are skipped and reported, with exit status 3.
    """
    from .runs.plans import load_plans

    store = _existing(out)
    device, chosen = _ready(**how)
    damaged = store.open().tidy()
    plans, passed = load_plans(store, damaged, names, 16 if device == "cuda" else 1)
    for why in passed:
        say(f"Skipped: {why}.", error=True)
    return max(_carry_out(store, plans, damaged, chosen, device, **how), 3 if passed else 0)


def _existing(out: str) -> Store:
    from .runs.store import Store

    if not Path(out).is_dir():
        raise InputError(f"there is no folder {out!r}; `depthwidth verify run JOB --out {out}` makes one")
    return Store(out)


def _name_damage(damaged: list[Damage]) -> None:
    """Print one sentence for each damaged file that a command has left out."""
    for damage in damaged:
        say(f"Left out: {damage}.", error=True)


def _ready(device: str, executor_name: str, workers: int | None, address: str | None, **_: Any) -> tuple[str, Executor]:
    """The device and the executor, after a check that torch is installed."""
    if importlib.util.find_spec("torch") is None:
        raise InputError("running jobs needs torch; pip install 'depthwidth[verify]'")
    from .runs.executors import executor, visible_gpus

    if device == "auto":
        device = "cuda" if visible_gpus() else "cpu"
    return device, executor(executor_name, workers=workers, device=device, address=address)


def _carry_out(
    store: Store, plans: list[Any], damaged: list[Any], chosen: Executor, on: str, ensemble: int | None, quiet: bool, **_: Any
) -> int:
    from .runs.driver import carry_out

    for damage in damaged:
        say(f"Set aside {damage}.", error=True)
    display = None if quiet or is_quiet([]) else Display()
    summary = carry_out(store, plans, chosen, on, display.tell if display else lambda _: None, damaged, ensemble, display)
    say(
        f"{summary.done} runs measured, {summary.before} already done"
        + (f", {summary.busy} in progress in another process" if summary.busy else "")
        + (f", {len(summary.failed)} FAILED" if summary.failed else "")
        + f"; rows in {store.root}"
    )
    for name, error in summary.failed.items():
        say(f"{name}: {error.splitlines()[0]}", error=True)
    return summary.status


@commands.command()
@click.option("--watch", is_flag=True, help="Update the output until every run has ended, or until Ctrl-C.")
@_folder
@formats
def status(watch: bool, out: str, form: str | None) -> None:
    """Show the runs that are done, running, failed and left, and the time left."""
    from .runs.status import status_lines, status_table
    from .runs.watch import watch_status

    store = _existing(out)
    if watch:
        if form is not None:
            raise InputError(f"--watch shows a page to people; leave out --{form}, or leave out --watch")
        watch_status(store)
        return
    rows: list[Row] = list(status_table(store))
    emit(form, rows, rows, lambda: say(*status_lines(rows, store.damaged())))
    if form is not None:
        _name_damage(store.damaged())


@commands.command()
@click.argument("names", nargs=-1, metavar="[JOB]...")
@click.option("--html", metavar="FILE", help="Write one self-contained HTML page with pictures.")
@click.option("--now", is_flag=True, help="Judge by today's predictions instead of those recorded before measuring.")
@_folder
@formats
def report(names: tuple[str, ...], html: str | None, now: bool, out: str, form: str | None) -> None:
    """Compare predictions and measurements, claim by claim, with a verdict by the criterion stated beforehand."""
    from .runs.report import reports

    store = _existing(out)
    _name_damage(store.damaged_measurements())
    found = reports(store, names, now=now)
    if html is not None:
        from .runs.page import page

        page(found, html)
    emit(form, [one.to_dict() for one in found], [row for one in found for row in one.rows()], lambda: _print_reports(found))


@commands.command("export")
@click.argument("file")
@click.option("--job", "names", multiple=True, metavar="JOB", help="Only this job; may be repeated.  [default: all]")
@click.option(
    "--evidence",
    is_flag=True,
    help="Only rows with a prediction and an error, in the columns of data/measured; FILE is a .csv.",
)
@_folder
def export_command(file: str, names: tuple[str, ...], evidence: bool, out: str) -> None:
    """Write plans and rows to FILE: .zip to import on another machine, .csv or .parquet for other programs."""
    from .runs.transfer import export_evidence, export_rows

    _name_damage(_existing(out).damaged())
    if evidence:
        say(f"{export_evidence(_existing(out), file, names)} rows in {file}")
        return
    say(f"{export_rows(_existing(out), file, names)} runs in {file}")


@commands.command("import")
@click.argument("file")
@_folder
def import_command(file: str, out: str) -> int:
    """Add the plans and rows in FILE, an archive written by export. Importing it again changes nothing.

    If a run exists here with other values, the existing rows stay, the conflict is reported, and the exit status is 3.
    """
    from .runs.store import Store
    from .runs.transfer import import_rows

    if not Path(file).is_file():
        raise InputError(f"there is no file {shown(file)}")
    found = import_rows(Store(out).open(), file)
    say(f"{found.new} new runs, {found.same} already here; {found.plans} new plans")
    for line in found.conflicts:
        say(f"Conflict: {line}", error=True)
    for line in found.damaged:
        say(f"Damaged: {line}", error=True)
    return found.status


@commands.command()
@click.argument("job")
@click.argument("law")
@click.option(
    "--start",
    "starts",
    multiple=True,
    required=True,
    metavar="NAME=VALUE",
    help="A coefficient and its start value; may be repeated.",
)
@click.option(
    "--site",
    default="",
    show_default=False,
    metavar="SITE",
    help="Use the quantities of this site.  [default: those without a site]",
)
@click.option("--steps", default="last", show_default=True, help="Steps of each run to use: last or all.")
@click.option("--logarithm", is_flag=True, help="Fit the logarithm of both sides, for relative errors.")
@click.option(
    "--errors", "method", default="bootstrap", show_default=True, help="Source of the errors: bootstrap, profile or curvature."
)
@click.option("--draws", type=COUNT, default=300, show_default=True, metavar="N", help="Number of bootstrap samples over runs.")
@click.option("--save", metavar="NAME", help="Write coefficients, covariance and rows as NAME.*.csv.")
@click.option("--into", metavar="FOLDER", help="Folder for these files.  [default: DIR/fits]")
@_folder
@formats
def fit(
    job: str, law: str, starts: tuple[str, ...], site: str, steps: str, method: str, draws: int, logarithm: bool,
    save: str | None, into: str | None, out: str, form: str | None,
) -> None:  # fmt: skip
    """Fit LAW, for example "loss = E + A * width**-alpha", to the rows of JOB.

    The left side is a measured quantity; the right side has coefficients, labels of the runs, and numbers.
    """
    from depthwidth.cli.fit import print_fit

    from .runs.fit import fit_law, points, save_fit

    store = _existing(out)
    begin: dict[str, float] = {}
    for name, value in map(_start, starts):
        if name in begin:
            raise InputError(f"--start gives {name} twice")
        begin[name] = value
    _name_damage(store.damaged_measurements())
    rows = [row for its in store.rows().values() for row in its if row.job == job]
    if not rows:
        known = sorted({its[0].job for its in store.rows().values()})
        raise InputError(f"{out} has no rows of {job!r}; it has rows of {', '.join(known) or 'no job'}")
    taken = [point for point in points(rows, site, steps) if law.partition("=")[0].strip() in point]
    if not taken:
        known = sorted({row.quantity for row in rows if row.site == site})
        raise InputError(
            f"{job} measured no {law.partition('=')[0].strip()!r} there; it measured {', '.join(known) or 'nothing'}"
        )
    found = fit_law(
        law, taken, begin, logarithm=logarithm, group="run", method=method, draws=_positive(draws, "draws"), held_out=True
    )
    if save is not None:
        save_fit(found, into or store.root / "fits", save, taken)
    emit(form, found.to_dict(), found.rows(), lambda: print_fit(found))


@commands.command()
@click.argument("checkpoint")
@click.option(
    "--text", metavar="FILE", help="Measure on this text; CHECKPOINT is then a model folder of the transformers library."
)
@click.option("--context", type=COUNT, help="Tokens of a sequence.  [default: the model's, at most 1,024]")
@click.option("--sequences", type=COUNT, default=8, show_default=True, help="Sequences of the text, at most 8.")
@click.option("--samples", type=COUNT, help="Without --text: divide measures by this number of training points.")
@click.option("--margin", type=NUMBER, help="Without --text: divide measures by this margin of the training points.")
@click.option("--failure", type=NUMBER, default=0.05, show_default=True, help="Probability with which each bound may fail.")
@click.option("--steps", type=COUNT, default=20, show_default=True, help="Steps of the ascent to the worst weights.")
@click.option(
    "--worst-case", is_flag=True, help="With --text: also measure the largest changes of weights that accuracy bears."
)
@click.option("--draws", type=COUNT, default=5, show_default=True, help="Number of noisy weights in each mean.")
@click.option("--seed", type=COUNT, default=0, show_default=True, help="Seed of the noise.")
@formats
def capacity(
    checkpoint: str, text: str | None, context: int | None, sequences: int, samples: int | None, margin: float | None,
    failure: float, steps: int, worst_case: bool, draws: int, seed: int, form: str | None,
) -> None:  # fmt: skip
    """Measure the capacity of trained weights: bounds, measures and proxies, each with its nature.

    CHECKPOINT is a safetensors file, its index, or a folder with one. Without --text it is read one tensor at a time, tables
    and very large matrices in pieces. With --text it must be a model folder: margins, sharpness, and bounds of noisy weights
    and of attention are then measured on the first sequences of the text, as if the model had been trained on them.

    Nothing is downloaded or unpickled.
    """
    from depthwidth.analysis.capacity import stored_capacity
    from depthwidth.hub import local_checkpoint
    from depthwidth.stored_tensors import FLOATS, open_tensors

    folder = local_checkpoint(checkpoint)
    stored = open_tensors(folder)
    if text is None:
        for option, given in (("--context", context is not None), ("--worst-case", worst_case)):
            if given:
                raise InputError(f"{option} applies with --text only")
        names = [name for name, entry in stored.entries.items() if entry.dtype in FLOATS]
        found: Any = stored_capacity(stored, announced("tensor", names), samples=samples, margin=margin)
        facts: dict[str, Any] = {"matrices": len(found.matrices), "tolerance": found.tolerance}
    else:
        if samples is not None or margin is not None:
            raise InputError("--samples and --margin follow from the text; give them without --text")
        settings: dict[str, Any] = {"failure": failure, "steps": steps, "worst_case": worst_case, "draws": draws, "seed": seed}
        found = _on_text(folder, text, context, sequences, settings)
        facts = {name: value for name, value in found.facts.items() if value is not None}
    emit(form, found.to_dict() if form == "json" else None, found.rows(), lambda: _print_capacity(facts, found.results))


def _on_text(checkpoint: Path, text: str, context: int | None, sequences: int, settings: dict[str, Any]) -> Any:
    """The capacity of a model folder on a text."""
    if not checkpoint.is_dir():
        raise InputError(f"--text needs a model's folder, with config.json; {shown(str(checkpoint))} is a file")
    if not 2 <= sequences <= 8:
        raise InputError(f"--sequences {sequences} is not a whole number from 2 to 8")
    try:
        from .measure.capacity import capacity as measured
        from .measure.head_models import calibration_tokens, load_model
    except ImportError:
        raise InputError("--text needs torch and transformers; pip install 'depthwidth[hf]'") from None
    try:
        model, tree, _ = load_model(checkpoint)
        tokens, _ = calibration_tokens(tree, text=text, context=context, folder=checkpoint)
    except InputError as error:  # the loader is that of the measurement of heads
        raise InputError(f"capacity: {str(error).removeprefix('heads: ')}") from None
    if len(tokens) < 2:
        raise InputError("capacity: the text has fewer than two sequences; give a longer one or a smaller --context")
    return measured(model, tokens[:sequences], tolerance=1e-3, **settings)


def _print_capacity(facts: dict[str, Any], results: Any) -> None:
    print_facts({name: f"{value:.5g}" if isinstance(value, float) else str(value) for name, value in facts.items()})
    lines = [
        (
            one.name, "does not apply" if one.value is None and not one.vacuous else "above 1" if one.value is None
            else f"{one.value:.5g}", one.nature + (", says nothing" if one.vacuous else ""), one.formula, one.site,
        )
        for one in results
    ]  # fmt: skip
    print_table(("result", "value", "nature", "formula", "site"), lines, words=("nature", "formula", "site"))
    for sentence in dict.fromkeys(one.sentence for one in results if one.sentence):
        names = list(dict.fromkeys(one.name for one in results if one.sentence == sentence))
        say(f"{', '.join(names)}: {sentence}.")


def _start(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        if equals and name.isidentifier():
            return name, float(value)
    except ValueError:
        pass
    raise InputError(f"--start {text!r} is not of the form NAME=VALUE, such as alpha=0.4")


def _positive(value: int, name: str) -> int:
    if value < 2:
        raise InputError(f"{name}={value} is not a whole number from 2")
    return value


def _print_reports(found: Any) -> None:
    from .runs.margins import margin_in_words

    for one in found:
        say(heading=f"{one.plan['job']} ({one.plan['size']}): {one.standing}")
        say(f"{one.verdict.summary}.", f"{margin_in_words(one.verdict)}.", "")
        facts = {key: one.plan[key] for key in ("question", "claim", "criterion")}
        print_facts(facts | {"runs": f"{one.done} of {len(one.plan['runs'])} done, predicted {one.plan['created']}"})
        lines = [
            (
                line.what, *("" if v is None else f"{v:.5g}" for v in (line.predicted, line.measured, line.stderr)),
                _state_in_words(line),
            )
            for line in one.verdict.comparisons
        ]  # fmt: skip
        if lines:
            print_table(("", "predicted", "measured", "standard error", "criterion"), lines, words=("criterion",))
        for note in one.notes:
            say(f"Note: {note}.")


def _state_in_words(line: Any) -> str:
    state = "noise" if line.is_noisy else {True: "met", False: "NOT met", None: ""}[line.passes]
    return state + (f" ({line.note})" if line.note else "")
