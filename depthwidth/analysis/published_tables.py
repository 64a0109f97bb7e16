"""Published tables with the values of our formulas: ``depthwidth table NAME``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..coefficients import coefficient, reference, reference_tables
from ..errors import InputError, nearest, shown
from ..formulas import positions, shape_penalty
from ..formulas import rules as laws
from ..formulas.scaling import kaplan_nonembedding_parameters
from ..planning.caveats import penalty_error

Row = dict[str, Any]


def table_names() -> list[str]:
    """Every table there is: computed ones, and those that are only transcribed."""
    return sorted({*(_spell(name) for name in reference_tables()), *_COMPUTED, *_WHOLE})


def table(name: str) -> list[Row]:
    """The rows of a table: numbers for numeric cells, and computed columns if formulas give any.

    Raises
    ------
    InputError
        if there is no such table.
    """
    spelled = _spell(name)
    if spelled not in table_names():
        raise InputError(f"there is no table {shown(name)}{nearest(spelled, table_names())}; `depthwidth table` lists them")
    if spelled in _WHOLE:
        return _WHOLE[spelled]()
    rows = [{column: _cell(text) for column, text in row.items()} for row in reference(spelled.replace("-", "_"))]
    return [_COMPUTED[spelled](row) for row in rows] if spelled in _COMPUTED else rows


def _schemes() -> list[Row]:
    """Every initialisation scheme at three depths."""
    from .scheme_table import scheme_rows

    return scheme_rows()


def _spell(name: str) -> str:
    return name.replace("_", "-")


def _cell(text: str) -> Any:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def _projection(row: Row) -> Row:
    """The paper's projection of one model and the closed form at the same N = 12 L d^2, with its standard errors."""
    trained = row["trained_depth"], row["trained_width"]
    parameters = kaplan_nonembedding_parameters(*trained) if all(trained) else row["nominal_params"]
    depth = laws.levine_optimal_depth(parameters)
    return {
        "model": row["model"],
        "nominal_params": row["nominal_params"],
        "trained_depth": row["trained_depth"],
        "trained_width": row["trained_width"],
        "params_12Ld2": parameters,
        "paper_depth": row["paper_optimal_depth"],
        "paper_width": row["paper_optimal_width"],
        "depth": depth,
        "depth_stderr": laws.levine_optimal_depth_error(parameters),
        "width": laws.levine_optimal_width(parameters),
        "width_stderr": laws.levine_optimal_width_error(parameters),
        "width_at_paper_depth": (parameters / kaplan_nonembedding_parameters(row["paper_optimal_depth"], 1)) ** 0.5,
        "curve_width_at_paper_depth": laws.levine_width(row["paper_optimal_depth"]),
        "paper_status": row["status"],
        "stderr_status": coefficient("levine2020", "var_a").status,
        "note": row["note"],
    }


def _real_model(row: Row) -> Row:
    """A model's shape and the 2020 curve at the same size."""
    parameters = kaplan_nonembedding_parameters(row["depth"], row["width"])
    best = laws.levine_optimal_width(parameters)
    return {
        **row,
        "levine_depth": laws.levine_optimal_depth(parameters),
        "levine_width": best,
        "loss_penalty": shape_penalty.shape_penalty(row["width"], best),
        "loss_penalty_stderr": penalty_error(row["width"], best, parameters),
    }


def _diet_parameters() -> list[Row]:
    """Parameters of schemes of positions in BERT-Base: as printed, and the printed base plus each scheme's additions."""
    rows = [{column: _cell(text) for column, text in row.items()} for row in reference("diet2021_parameters")]
    tokens, width, heads, head_dim, layers = 512, 768, 12, 64, 12
    base = rows[0]
    for row in rows:
        tables = heads if row["shared"] == "layers" else heads * layers
        match row["positions"]:
            case "input":
                added = positions.input_position_parameters(tokens, width)
            case "shaw":
                added = positions.relative_vector_parameters(tokens - 1, head_dim, 4 * layers)
            case "diet-rel":
                added = positions.relative_bias_parameters(tokens, tables)
            case _:
                added = positions.absolute_bias_parameters(tokens, row["rank"], tables)
        change = (added - positions.input_position_parameters(tokens, width)) / 1e6
        row |= {f"{name}_computed": base[f"{name}_params_m"] + change for name in ("english", "multilingual")}
    return rows


_COMPUTED: dict[str, Callable[[Row], Row]] = {
    "levine2020-projections": _projection,
    "real-models": _real_model,
}
_WHOLE: dict[str, Callable[[], list[Row]]] = {"schemes": _schemes, "diet2021-parameters": _diet_parameters}
"""Tables that are computed as a whole."""
