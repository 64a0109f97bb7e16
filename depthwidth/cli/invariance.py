"""``depthwidth check-invariance``: the command and its page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from ..quantities import format_count
from .inputs import say_notes
from .options import NumberFirst, formats, option
from .output import emit, print_table, say

if TYPE_CHECKING:
    from ..analysis.invariance import Invariance, Scaling


@click.command(cls=NumberFirst)
@click.argument("config")
@option("--weights", "patterns", multiple=True, metavar="PATTERN", help="Also scale all weights with matching roles together.")
@option("--twin", is_flag=True, help="Check the scale-invariant encoder of the same sizes instead.")
@option(
    "--measure", is_flag=True, help="Also measure degrees on a small model with the same parts (requires depthwidth[verify])."
)
@formats
def check_invariance(config: str, patterns: tuple[str, ...], twin: bool, measure: bool, form: str | None) -> None:
    """Find the scale-invariant weights of CONFIG: all together, and each alone.

    CONFIG is a Hugging Face config.json, the folder that holds it, or the name of a repository of the hub.

    With degree k, a factor c on the weights multiplies the output by c^k; degree 0 is scale invariant. Weights of one role are
    scaled together in all blocks. PATTERN is like a file-name pattern, such as '*.attention.query.*'; patterns joined by commas
    form one group.
    """
    from ..analysis.invariance import scale_invariance, scale_invariant_twin
    from ..architecture import Transformer
    from ..architecture.hf import read_source

    fields = read_source(config)
    tree = Transformer.from_config(fields)
    tree = scale_invariant_twin(tree) if twin else tree
    found = scale_invariance(tree, patterns)
    measured = _measured_rows(tree, found) if measure else None
    data = found.to_dict() | ({} if measured is None else {"measured": measured})
    emit(form, data, found.rows(), lambda: _print(fields, found, measured, notes=not twin))


def _measured_rows(tree: Any, found: Invariance) -> list[dict[str, Any]]:
    """The measured degrees, row by row."""
    try:
        from verify.measure.invariance import measure_tree
    except ImportError:
        raise InputError("--measure needs torch; pip install 'depthwidth[verify]'") from None
    return [row.to_dict() for row in measure_tree(tree, found)]


def _print(fields: Any, found: Invariance, measured: list[dict[str, Any]] | None, *, notes: bool) -> None:
    beside = {} if measured is None else {row["name"]: row for row in measured}
    columns = ("weights", "parameters", "degree", "breaks at", "reason")
    extra = ("measured", "error") if measured is not None else ()
    for title, every in (("Scaled together", found.groups), ("Scaled alone", found.each)):
        print_table(
            (*columns[:3], *extra, *columns[3:]),
            (_line(one, beside.get(one.name) if extra else None, bool(extra)) for one in every),
            title=title,
            words=("breaks at", "reason"),
        )
    share = sum(one.parameters for one in found.each if one.name in found.invariant)
    total = sum(one.parameters for one in found.each)
    if found.invariant:
        roles = "one role" if len(found.invariant) == 1 else f"{len(found.invariant)} roles"
        say(f"Scale invariant: {format_count(share)} of {format_count(total)} parameters, in {roles}.")
    else:
        say("No weights are scale invariant, together or alone.")
    if any(one.invariant and not one.exact for one in (*found.groups, *found.each)):
        say("Note: a degree marked ~ holds while variances are far above the epsilon or the floor of a norm.")
    if notes:
        say_notes(fields)


def _line(one: Scaling, measured: dict[str, Any] | None, extra: bool) -> tuple[str, ...]:
    place, reason = one.breaks[0] if one.breaks else ("", "")
    more = f" (and {len(one.breaks) - 1} more)" if len(one.breaks) > 1 else ""
    cells: tuple[str, ...] = (one.name, format_count(one.parameters), _degree(one.degree, one.exact))
    if extra:
        cells += ("", "") if measured is None else (_degree(measured["degree"], measured["exact"]), f"{measured['error']:.1e}")
    return (*cells, place, reason + more)


def _degree(degree: float | None, exact: bool) -> str:
    return "none" if degree is None else f"{degree:g}" if exact else f"~{degree:g}"
