"""``depthwidth formulas list | show | eval``: the commands and their pages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError, shown
from ..quantities import parse_count
from .options import Listing, formats, option
from .output import Row, emit, print_facts, print_table, say

if TYPE_CHECKING:
    from ..evidence import Evidence
    from ..formula import Formula
    from ..formulas._composites import Composite


@click.group(cls=Listing)
def formulas() -> None:
    """List, show and evaluate formulas, with source, kind of claim and domain."""


@formulas.command("list")
@option("--kind", metavar="KIND", help="Only this kind: exact, asymptotic, approximation, fitted or heuristic.")
@option("--topic", metavar="TOPIC", help="Only this topic, e.g. attention.")
@option("--used/--unused", default=None, help="Only formulas that the calculator itself uses, or only those that it does not.")
@formats
def formulas_list(kind: str | None, topic: str | None, used: bool | None, form: str | None) -> None:
    """List the formulas."""
    from ..checks import check_choice
    from ..formula import KINDS
    from ..formula import formulas as find
    from ..formulas._composites import COMPOSITES

    if kind is not None:
        check_choice("formulas list", tuple(KINDS), kind=kind)
    if topic is not None:
        check_choice("formulas list", tuple(sorted({f.topic for f in find()})), topic=topic)
    found = find(kind, topic)  # type: ignore[arg-type]
    if used is not None:
        from ..formulas._usage import used_formulas

        reached = used_formulas()
        found = [f for f in found if (f.name in reached) == used]
    composites = [one for one in COMPOSITES if kind in (None, one.kind) and topic in (None, one.topic) and used is not False]
    cards = [*(f.card() for f in found), *(one.card() for one in composites)]
    columns = ("name", "kind", "status", "source", "summary")
    rows: list[Row] = [{key: card[key] for key in columns} for card in cards]
    emit(
        form,
        cards,
        rows,
        lambda: print_table(
            ("name", "kind", "status", "summary"),
            ([row[c] for c in columns if c != "source"] for row in rows),
            words=("kind", "status", "summary"),
        ),
    )


@formulas.command("show")
@click.argument("name")
@formats
def formulas_show(name: str, form: str | None) -> None:
    """Show a formula.

    Prints its LaTeX, the domains of its arguments, its source and documentation, and its error against measurements.
    """
    from ..evidence import evidence
    from ..formula import find_formula
    from ..formulas._composites import find_composite

    whole = find_composite(name)
    if whole is not None:
        errors = evidence(whole.name)
        about = whole.card() | {"documentation": whole.documentation, "evidence": [item.to_dict() for item in errors]}
        emit(form, about, about["arguments"], lambda: _print_composite(about, errors))
        return
    found = find_formula(name)
    measured = evidence(found.name)
    card = {
        **found.card(), "latex": found.latex() if found.closed else None,
        "expression": str(found.expr) if found.closed else None, "documentation": found.__doc__,
        "evidence": [item.to_dict() for item in measured],
    }  # fmt: skip

    emit(form, card, card["arguments"], lambda: print_formula(found, card, measured))


@formulas.command("eval")
@click.argument("name")
@click.argument("arguments", nargs=-1, metavar="[ARGUMENT=VALUE]...")
@formats
def formulas_eval(name: str, arguments: tuple[str, ...], form: str | None) -> None:
    """Evaluate a formula.

    Example: `depthwidth formulas eval levine_width depth=24`.

    A value is a number (24, 6.7e9, 1.3B), several numbers (6,12,24), or a letter, which stays symbolic.
    """
    from ..formula import find_formula
    from ..formulas._composites import find_composite

    values = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals:
            raise InputError(f"{shown(argument)} is not of the form ARGUMENT=VALUE, e.g. depth=24")
        if key in values:
            raise InputError(f"the argument {key!r} is given twice")
        values[key] = _value(key, text)
    import numpy

    whole = find_composite(name)
    if whole is not None:
        _evaluate_composite(whole, values, form)
        return
    found = find_formula(name)
    with numpy.errstate(all="ignore"):  # what overflows is refused in the next line, in a sentence
        result = found(**values)
    if not hasattr(result, "free_symbols") and not _finite(result):
        raise InputError(f"{found.name} leaves the range of floating-point numbers at these arguments")
    plain = result.tolist() if hasattr(result, "tolist") else result
    plain = plain if isinstance(plain, (int, float, list)) else str(plain)
    claimed = {"valid for": found.validity, "accuracy": found.claim, "outside": found.outside_claim(values)}
    row = {"name": found.name, "value": plain, "kind": found.kind, "status": found.status, "source": found.source}
    emit(form, row | claimed, [row], lambda: say(str(plain), *([] if isinstance(plain, str) else _range_claimed(claimed))))


def _evaluate_composite(whole: Composite, values: dict[str, Any], form: str | None) -> None:
    """Print every number of a function that evaluates several formulas."""
    import numpy

    with numpy.errstate(all="ignore"):
        numbers = whole.evaluate(values)
    if not all(map(_finite, numbers.values())):
        raise InputError(f"{whole.name} leaves the range of floating-point numbers at these arguments")
    rows: list[Row] = [{"name": name, "value": value} for name, value in numbers.items()]
    claims = whole.accuracies()

    def print_page() -> None:
        accuracy = {claim["number"]: _accuracy(claim) for claim in claims}
        cells = ((name.replace("_", " "), f"{value:.6g}", accuracy.get(name, "")) for name, value in numbers.items())
        print_table(("number", "value", "accuracy"), cells, words=("number", "accuracy"))
        say(*_claims(claims))

    whole_card = {"name": whole.name, "value": numbers, "kind": whole.kind, "combines": list(whole.combines)}
    emit(form, whole_card | {"accuracies": claims}, rows, print_page)


def _accuracy(claim: dict[str, Any]) -> str:
    """The accuracy of one number, in words."""
    error = claim["accuracy"]
    return "exact" if error == "exact" else "" if error is None else f"{100 * error:.3g} %"


def _claims(claims: list[dict[str, Any]]) -> list[str]:
    """The claim of each formula, a line each."""
    found = {name: claim for one in claims for name, claim in one["claims"].items()}
    return [f"{name}: {claim}" for name, claim in found.items()]


def _print_composite(card: dict[str, Any], measured: tuple[Evidence, ...]) -> None:
    """Print a function that evaluates several formulas: its arguments, its accuracy, its errors, and the formulas."""
    say(f"  {card['summary']}", "", heading=card["name"])
    print_facts({"kind": card["kind"], "source": card["source"]})
    print_table(
        ("argument", "default", "meaning"),
        ((a["name"], "" if a["default"] is None else str(a["default"]), a["meaning"]) for a in card["arguments"]),
        words=("meaning",),
    )
    claims = card["accuracies"]
    cells = ((claim["number"].replace("_", " "), _accuracy(claim)) for claim in claims)
    print_table(("number", "accuracy"), cells, words=("number", "accuracy"))
    say(*_claims(claims), "")
    _print_evidence(measured)
    say(f"It evaluates {', '.join(card['combines'])}.")


def _range_claimed(claimed: dict[str, Any]) -> list[str]:
    lines = [f"claimed for: {claimed['valid for']}"] if claimed["valid for"] else []
    lines += [f"accuracy: {claimed['accuracy']}"] if claimed["accuracy"] else []
    return lines + [f"outside that range: {', '.join(claimed['outside'])}"] * bool(claimed["outside"])


def _finite(result: Any) -> bool:
    import numpy

    try:
        return bool(numpy.isfinite(numpy.asarray(result, dtype=float)).all())
    except (OverflowError, TypeError, ValueError):  # a whole number too large for a float
        return False


_LETTER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")


def _value(name: str, text: str) -> Any:
    if "," in text and not re.fullmatch(r"\d{1,3}(,\d{3})+", text):
        import numpy

        return numpy.array([_number(name, part) for part in text.split(",")])
    if _LETTER.fullmatch(text) and text.lower() not in ("nan", "inf", "infinity"):
        import sympy

        return sympy.Symbol(text, real=True)
    return _number(name, text)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float(parse_count(text, name))


def print_formula(found: Formula, card: dict[str, Any], measured: tuple[Evidence, ...]) -> None:
    """Print a formula: its arguments, documentation, and error against measurements."""
    from ..formula import KINDS, STATUSES

    say(f"  {found.summary}", "", heading=found.name)
    facts = {
        "formula": card["latex"] or "no closed form: an integral or a numerical root",
        "kind": f"{found.kind}: {KINDS[found.kind]}",
        "source": found.source,
        "status": f"{found.status}: {STATUSES[found.status]}",
    }
    if found.claim:
        facts["accuracy"] = found.claim + (", relative to the exact value" if found.measure == "relative" else "")
    if found.order is not None:
        facts["remainder"] = f"relative to the value, of order size^-{found.order:g}"
    print_facts(facts | ({"valid for": found.validity} if found.validity else {}))
    print_table(
        ("argument", "symbol", "domain", "unit", "default", "meaning"),
        (
            (
                a["name"],
                a["symbol"],
                a["domain"],
                a["unit"],
                "" if a["default"] is None else f"{float(a['default']):g}",
                a["meaning"],
            )
            for a in card["arguments"]
        ),
        words=("symbol", "domain", "unit", "meaning"),
    )
    say(*_notes(found.__doc__ or "").splitlines(), "")
    _print_evidence(measured)


def _print_evidence(measured: tuple[Evidence, ...]) -> None:
    """Print the errors of a formula against measurements, in per cent, each with the standard error of its measurement."""
    if not measured:
        say("Evidence: none; no measurement tests this formula by itself.")
        return
    print_table(
        ("measured", "settings", "median error", "worst error", "worst at", "date", "device", "file"),
        (
            (
                item.what, f"{item.settings:,}", _error(item.median_error, item.median_stderr),
                _error(item.worst_error, item.worst_stderr, "+"), item.worst_at, item.date, item.device,
                f"data/measured/{item.file}",
            )
            for item in measured
        ),
        title="Evidence: error of the formula against measurements; noise is one standard error",
        words=("worst at", "date", "device", "file"),
    )  # fmt: skip


def _error(error: float | None, noise: float | None, sign: str = "") -> str:
    if error is None or noise is None:
        return "undecided"
    figures = ".3g" if abs(error) >= 1 else ".2g"
    return f"{100 * error:{sign}{figures}} % (noise {100 * noise:.2g})"


def _notes(documentation: str) -> str:
    """The sections Returns and Notes; the page prints the rest itself."""
    from inspect import cleandoc

    heading, rest = "Returns\n-------\n", cleandoc(documentation)
    return "Returns: " + rest.partition(heading)[2].partition("Examples\n")[0].strip()
