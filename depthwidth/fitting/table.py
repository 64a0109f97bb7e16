"""Tables of training runs: meaning of the columns, selection of rows, and grouping by model."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, nearest, shown
from ..files import open_regular, reading
from ..numerics.expressions import read
from ..progress import during

if TYPE_CHECKING:
    import pandas

Array = NDArray[np.float64]
Index = NDArray[np.intp]

MOST_BYTES = 512 * 2**20
"""Bytes of a table that is read."""
MOST_ROWS = 2_000_000
"""Rows of a table that is read."""
LEAST = 1e-60
"""Least value of a positive quantity; the inverse is the largest. Products of a few of them stay numbers."""
THINNED = 4_000
"""Rows that are fitted; of more, rows of each model are left out evenly."""

ROLES: dict[str, tuple[str, ...]] = {
    "width": ("width", "d_model", "hidden_size", "n_embd", "model_dim", "dim", "w"),
    "depth": ("depth", "layers", "n_layer", "n_layers", "num_layers", "num_hidden_layers", "num_blocks"),
    "parameters": (
        "parameters", "params", "total_params", "params_total", "num_params", "n_params", "params_active_precise",
        "params_total_untied", "total_parameter_count", "dense_parameter_count", "params_read_from_figure", "n",
    ),
    "non_embedding": (
        "non_embedding", "non_embedding_parameters", "nonembedding_params", "params_nonembedding", "non_embedding_params",
    ),
    "tokens": ("tokens", "training_tokens", "train_tokens", "num_tokens", "d", "t"),
    "loss": ("loss", "final_loss", "val_loss", "validation_loss", "loss_validation", "eval_loss", "test_loss"),
    "model": ("model", "run_name", "run", "run_id", "name", "hyper_id"),
    "heads": ("heads", "n_head", "n_heads", "num_heads", "num_attention_heads"),
    "head_dim": ("head_dim", "head_size", "d_head", "kqv_size"),
    "ffn_ratio": ("ffn_ratio", "mlp_ratio", "mlp_attention_ratio"),
}  # fmt: skip
"""Column names that are taken for each quantity, the first that a table has; case does not matter."""

POSITIVE = frozenset(ROLES) - {"model"}
_EXAMPLE = "--column width=d_model"


@dataclass(frozen=True)
class Runs:
    """Rows of training runs as arrays."""

    columns: Mapping[str, Array]
    """Numbers by the name that a law calls them, shape (rows,)."""
    model: Index
    """Number of each row's model in `models`, shape (rows,). Rows of one model are not independent."""
    models: tuple[str, ...]
    guesses: Mapping[str, str]
    """From a quantity to the column of the table that it was read from, or the expression."""
    notes: tuple[str, ...] = ()
    """Omissions and assumptions, one sentence each."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.model)

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    def only(self, kept: NDArray[np.bool_] | Index) -> Runs:
        """Some of the rows."""
        models, model = np.unique(self.model[kept], return_inverse=True)
        columns = {name: column[kept] for name, column in self.columns.items()}
        return Runs(columns, model, tuple(self.models[i] for i in models), self.guesses, self.notes)

    def least(self, left: str) -> Runs:
        """Of rows that are equal in all columns but `left`, the one with the least of it: the best of several recipes."""
        others = np.stack([column for name, column in self.columns.items() if name != left])
        _, cell = np.unique(others, axis=1, return_inverse=True)
        order = np.lexsort((self.columns[left], cell.ravel()))
        first = np.sort(order[np.unique(cell.ravel()[order], return_index=True)[1]])
        if len(first) == self.rows:
            return self
        found = self.only(first)
        note = f"{len(first):,} of {self.rows:,} rows are kept, each the least {left} of rows that are equal otherwise"
        return Runs(found.columns, found.model, found.models, self.guesses, (*self.notes, note))


def read_runs(
    source: Any,
    needs: Sequence[str],
    *,
    columns: Mapping[str, str] | None = None,
    where: Sequence[str] = (),
    optional: Sequence[str] = ("parameters",),
) -> Runs:
    """The columns of a table of runs that a law needs.

    Parameters
    ----------
    source : path of a ``.csv``, ``.jsonl`` (or ``.ndjson``) or ``.parquet`` file, a DataFrame, or mappings, one a row.
    needs : quantities: names of :data:`ROLES`, or of columns of the table.
    columns : from a quantity to the table's column, or to an expression in its columns such as ``params - 2*50304*width``;
        ``model`` is the column that identifies models. The others are guessed by :data:`ROLES`.
    where : conditions on rows, such as ``step % 2385 == 0``, ``width >= 512`` or ``router == Dense``.
    optional : quantities that are read if the table has them.

    Raises
    ------
    InputError
        if the table cannot be read or is too large, lacks a column, holds text for a number, or no row remains.
    """
    table = open_table(source)
    asked = dict(columns or {})
    for role in asked:
        if role not in ROLES and role not in needs:
            raise InputError(f"fit: {shown(role)} is not a quantity of this law{nearest(role, (*needs, *ROLES))}")
    tests = [_condition(text, table.names) for text in where]
    found = {role: _source(role, asked, table.names) for role in dict.fromkeys((*needs, *asked))}
    extra = {role: one for role in optional if role not in found and (one := guess(role, table.names)) is not None}
    missing = [role for role in needs if found[role] is None]
    if missing:
        has = ", ".join(map(str, table.names[:20])) + (", ..." if len(table.names) > 20 else "")
        raise InputError(f"fit: the table has no {_and(missing)}; name the column, as in {_EXAMPLE}; it has {has}")
    known = {role: text for role, text in found.items() if text is not None and role != "model"}
    which = found.get("model") or guess("model", table.names)
    labels = [which] if which else [one for role in _SHAPE if (one := guess(role, table.names)) is not None]
    used = {name for text in known.values() for name in _columns_of(text, table.names)}
    frame = table.read([*used, *(test.column for test in tests), *extra.values(), *labels])
    return _assemble(frame, known, extra, labels, which, tests)


def _and(words: Sequence[str]) -> str:
    return " and no ".join(words)


def guess(role: str, names: Sequence[str]) -> str | None:
    """The column that is taken for a quantity, by its name; None if there is none."""
    lower: dict[str, str] = {}
    for name in names:
        lower.setdefault(name.lower(), name)
    return next((lower[alias] for alias in ROLES.get(role, (role,)) if alias in lower), None)


def _source(role: str, asked: Mapping[str, str], names: Sequence[str]) -> str | None:
    if role in asked:
        _columns_of(asked[role], names)
        return asked[role]
    return role if role in names else guess(role, names)


def _columns_of(text: str, names: Sequence[str]) -> list[str]:
    """The columns of the table that a column's name or an expression needs."""
    if text in names:
        return [text]
    if text.isidentifier():
        raise InputError(f"fit: the table has no column {shown(text)}{nearest(text, names)}; it has {', '.join(names[:20])}")
    variables = sorted(read(text).variables)
    for name in variables:
        if name not in names:
            raise InputError(f"fit: {shown(text)} uses {shown(name)}, which is not a column{nearest(name, names)}")
    return variables


def _assemble(
    frame: pandas.DataFrame, known: Mapping[str, str], extra: Mapping[str, str], labels: Sequence[str], which: str | None,
    tests: Sequence[_Condition],
) -> Runs:  # fmt: skip
    frame = _select_rows(frame, tests)
    numbers = {name: _numbers(frame[name]) for name in {n for text in known.values() for n in _columns_of(text, list(frame))}}
    columns: dict[str, Array] = {}
    for role, text in known.items():
        with np.errstate(all="ignore"):
            value = numbers[text] if text in numbers else np.asarray(read(text)(numbers), dtype=float)
        columns[role] = np.broadcast_to(value, (len(frame),)).astype(float)
    notes = []
    finite = np.all([np.isfinite(column) for column in columns.values()], axis=0)
    if not finite.all():
        empty = [known[role] for role, column in columns.items() if not np.isfinite(column).all()]
        notes.append(f"{np.sum(~finite):,} of {len(frame):,} rows have no finite number in {', '.join(empty)} and are left out")
    for role, column in columns.items():
        if role not in POSITIVE:
            continue
        for wrong, expected in (
            (column <= 0, "above 0"),
            ((column < LEAST) | (column > 1 / LEAST), f"from {LEAST:g} to {1 / LEAST:g}"),
        ):
            if (wrong & finite).any():
                row = int(np.flatnonzero(wrong & finite)[0])
                raise InputError(f"fit: {role} is {column[row]:g} in row {row + 1} of {known[role]}; it must be {expected}")
    if not finite.any():
        raise InputError("fit: no row has a finite number in every column")
    if which is None:
        what = f"of equal {', '.join(labels)}" if labels else "taken one by one"
        notes.append(f"no column identifies models, so rows {what} are one model; name one with --column model=COLUMN")
    models, model = np.unique(_labels(frame, labels)[finite], return_inverse=True)
    kept_columns = {role: column[finite] for role, column in columns.items()}
    for role, name in extra.items():
        with contextlib.suppress(InputError):
            column = _numbers(frame[name])[finite]
            if (np.isfinite(column) & (column > 0)).all():
                kept_columns[role] = column
    guesses = {role: text for role, text in (*known.items(), *extra.items()) if role in kept_columns}
    return _thin(
        Runs(kept_columns, model, tuple(map(str, models)), guesses | ({"model": which} if which else {}), tuple(notes))
    )


def _select_rows(frame: pandas.DataFrame, tests: Sequence[_Condition]) -> pandas.DataFrame:
    if not len(frame):
        raise InputError("fit: the table has no rows")
    kept = np.ones(len(frame), dtype=bool)
    for test in tests:
        kept &= test(frame[test.column])
    if not kept.any():
        raise InputError(f"fit: no row fulfils {' and '.join(test.text for test in tests)}")
    return frame if kept.all() else frame[kept]


_SHAPE = ("width", "depth", "heads", "non_embedding", "parameters")
"""Quantities whose equal values identify a model, if no column does."""


def _labels(frame: pandas.DataFrame, names: Sequence[str]) -> NDArray[Any]:
    """The model of each row in words: the text of the columns `names`, or its number."""
    if not names:
        return np.array([f"row {number + 1}" for number in range(len(frame))])
    distinct = frame[list(dict.fromkeys(names))].astype(str).drop_duplicates()
    words = [
        " x ".join(str(cell).removesuffix(".0") for cell in row) if len(names) > 1 else str(row[0])  # texts may lack a cell
        for row in distinct.itertuples(index=False)
    ]
    if len(distinct) == len(frame):
        return np.array(words)
    keys = frame.groupby(list(distinct), sort=False, dropna=False).ngroup().to_numpy()
    first = dict(zip(keys[frame.index.get_indexer(distinct.index)], words, strict=True))
    return np.array([first[key] for key in keys])


def _thin(runs: Runs) -> Runs:
    if runs.rows <= THINNED:
        return runs
    order = np.argsort(runs.model, kind="stable")
    kept = np.sort(order[np.linspace(0, runs.rows - 1, THINNED).round().astype(int)])
    note = f"{THINNED:,} of {runs.rows:,} rows are fitted, evenly from all models"
    thinned = runs.only(kept)
    return Runs(thinned.columns, thinned.model, thinned.models, runs.guesses, (*runs.notes, note))


def _numbers(column: pandas.Series[Any]) -> Array:
    import pandas as pd

    try:
        found = pd.to_numeric(column, errors="coerce").astype(float).to_numpy()
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"fit: column {shown(column.name)} does not hold numbers") from None
    text = np.flatnonzero(~np.isfinite(found) & column.notna().to_numpy())
    for row in text[:10_000]:
        value = column.iloc[row]
        if not isinstance(value, (int, float)) and str(value).strip().lower() not in _NO_NUMBER:
            raise InputError(f"fit: column {shown(column.name)} holds {shown(value)} in row {row + 1}, which is not a number")
    return np.asarray(found)


_NO_NUMBER = {"", "nan", "na", "n/a", "null", "none", "inf", "-inf", "infinity", "-infinity", "+inf"}


# ---- conditions ----

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_CONDITION = re.compile(r"\s*(?P<column>.+?)\s*(?:%\s*(?P<step>\d+)\s*)?(?P<sign>==|!=|<=|>=|<|>)\s*(?P<value>.+?)\s*")


@dataclass(frozen=True)
class _Condition:
    """A condition on a column: a comparison with a number or a word."""

    text: str
    column: str
    step: int | None
    sign: str
    value: str

    def __call__(self, column: pandas.Series[Any]) -> NDArray[np.bool_]:
        compare = _OPERATORS[self.sign]
        try:
            value = float(self.value)
        except ValueError:
            if self.step is not None or self.sign not in ("==", "!="):
                raise InputError(f"fit: {shown(self.text)} compares with {shown(self.value)}, which is not a number") from None
            return np.asarray(compare(column.astype(str).to_numpy(), self.value), dtype=bool)
        numbers = _numbers(column)
        with np.errstate(invalid="ignore"):
            return np.asarray(compare(numbers if self.step is None else numbers % self.step, value), dtype=bool)


def _condition(text: str, names: Sequence[str]) -> _Condition:
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise InputError(f"fit: {shown(text)} is no condition such as 'width >= 512' or 'step %% 100 == 0'".replace("%%", "%"))
    column, step = found["column"], found["step"]
    if column not in names:
        raise InputError(f"fit: {shown(text)} is about {shown(column)}, which is not a column{nearest(column, names)}")
    if step is not None and int(step) == 0:
        raise InputError(f"fit: {shown(text)} divides by 0")
    return _Condition(text, column, None if step is None else int(step), found["sign"], found["value"])


# ---- sources ----


@dataclass(frozen=True)
class Table:
    """The names of the columns of a table, and a function that reads some of them."""

    names: list[str]
    read: Callable[[Sequence[str]], pandas.DataFrame]


def open_table(source: Any) -> Table:
    """A table of runs, whose columns are read on demand.

    Raises
    ------
    InputError
        if it cannot be read, is too large, or is no table.
    """
    if isinstance(source, Table):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _file(Path(source))
    if isinstance(source, Mapping):
        raise InputError("fit: runs are a path, a DataFrame or mappings, one a row, not one mapping")
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        frame = source
    elif isinstance(source, Iterable):
        rows = list(itertools.islice(source, MOST_ROWS + 1))
        if not all(isinstance(row, Mapping) for row in rows):
            raise InputError("fit: runs are a path, a DataFrame or mappings, one a row")
        frame = pd.DataFrame(rows)
    else:
        raise InputError(f"fit: runs are a path, a DataFrame or mappings, one a row, not {shown(source)}")
    if len(frame) > MOST_ROWS:
        raise InputError(f"fit: the table has more than {MOST_ROWS:,} rows; leave some out")
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    _check_names(list(frame.columns), "the table")
    return Table(list(frame.columns), lambda names: frame[list(dict.fromkeys(names))])


def _check_names(names: Sequence[str], label: str) -> None:
    if not names:
        raise InputError(f"{label} has no columns")
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise InputError(f"{label} has the column {shown(twice)} twice")


def _file(path: Path) -> Table:
    name = shown(str(path), limit=300)
    label = f"table {name}"
    readers = {".csv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{label} ends in none of {', '.join(readers)}")
    with reading("table", name), open_regular(path, "table", name) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MOST_BYTES:
            raise InputError(
                f"{label} has {size:,} bytes; at most {MOST_BYTES:,} are read: keep only the columns and rows that you need"
            )
        return reader(path, file, label)


def _csv(path: Path, file: BinaryIO, label: str) -> Table:
    import pandas as pd

    start = file.readline(1 << 20)
    try:
        names = next(csv.reader(io.StringIO(start.decode("utf-8-sig"))), [])
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"{label} is not comma-separated text in UTF-8") from None
    names = [name.strip() for name in names]
    _check_names(names, label)

    def read_columns(wanted: Sequence[str]) -> pandas.DataFrame:
        places = [names.index(name) for name in dict.fromkeys(wanted)]
        try:
            with during(f"reading {label}"):
                frame = pd.read_csv(
                    path, usecols=places, header=None, skiprows=1, names=names, nrows=MOST_ROWS + 1, encoding="utf-8-sig",
                    skipinitialspace=True, low_memory=False, index_col=False,
                )  # fmt: skip
        except pd.errors.EmptyDataError:
            return pd.DataFrame({name: [] for name in wanted})
        except (pd.errors.ParserError, UnicodeDecodeError, ValueError) as error:
            reason = str(error).partition("\n")[0].removeprefix("Error tokenizing data. C error: ")
            raise InputError(f"{label} cannot be read: {shown(reason, limit=120)}") from None
        if len(frame) > MOST_ROWS:
            raise InputError(f"{label} has more than {MOST_ROWS:,} rows; leave some out")
        return frame

    return Table(names, read_columns)


def _json_lines(path: Path, file: BinaryIO, label: str) -> Table:
    import pandas as pd

    first = next(_objects(file, label), None)
    if first is None:
        raise InputError(f"{label} is empty")
    names = list(first)

    def read_columns(wanted: Sequence[str]) -> pandas.DataFrame:
        kept: dict[str, list[Any]] = {name: [] for name in wanted}
        with during(f"reading {label}"), reading("table", label), open_regular(path, "table", label) as again:
            for row in _objects(again, label):
                for name, column in kept.items():
                    column.append(row.get(name))
        return pd.DataFrame(kept)

    return Table(names, read_columns)


def _objects(file: BinaryIO, label: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file, 1):
        if number > MOST_ROWS:
            raise InputError(f"{label} has more than {MOST_ROWS:,} rows; leave some out")
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f"{label} holds no JSON object in line {number}") from None
        if not isinstance(row, dict):
            raise InputError(f"{label} holds no JSON object in line {number}")
        yield row


def _parquet(path: Path, file: BinaryIO, label: str) -> Table:
    import pandas as pd

    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError("reading Parquet needs pyarrow; pip install 'depthwidth[parquet]'") from None
    try:
        inside = pyarrow.parquet.ParquetFile(path)
        names, rows = list(inside.schema_arrow.names), inside.metadata.num_rows
    except (pyarrow.ArrowException, OSError):
        raise InputError(f"{label} is not a Parquet file") from None
    if rows > MOST_ROWS:
        raise InputError(f"{label} has {rows:,} rows; at most {MOST_ROWS:,} are read")
    _check_names(names, label)

    def read_columns(wanted: Sequence[str]) -> pandas.DataFrame:
        try:
            with during(f"reading {label}"):
                return pd.read_parquet(path, columns=list(dict.fromkeys(wanted)))
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{label} cannot be read: {shown(str(error).partition(chr(10))[0], limit=120)}") from None

    return Table(names, read_columns)


def names_column(name: str, names: Sequence[str], columns: Mapping[str, str]) -> bool:
    """True if a name in a law is a column: of the table, in the caller's words, or a quantity whose column is guessed."""
    if name in columns or name in names:
        return True
    return name in ROLES and guess(name, names) is not None
