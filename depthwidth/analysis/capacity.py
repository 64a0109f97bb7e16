"""Capacity of trained weights: the results that formulas give of norms, with their nature, and the norms of a state of weights.

A state is read one matrix at a time, so that memory is bounded by the largest. Products of many norms overflow, so that they
are kept as sums of logarithms. :func:`verify.capacity` adds what needs a live model and data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import check_whole
from ..errors import InputError
from ..formulas import capacity as laws
from ..numerics.network_norms import matrix, spectral_norm
from ..values import frozen

if TYPE_CHECKING:
    from ..formula import Formula
    from ..stored_tensors import StoredTensors

Array = Any

NATURES = {
    "bound": "it holds with its constants, with the stated probability",
    "measure": "a number to compare networks by; no bound follows from it alone",
    "proxy": "a bound whose constant is unknown: it orders networks, and is never a probability",
}
_ROWS = 2**14
"""Rows of a table that are in double precision at once."""
LARGEST_WHOLE = 2**26
"""Numbers of a matrix that is read as a whole; of a larger one the smaller Gram matrix is summed over pieces."""
STATE_TOLERANCE = 1e-3
"""Relative, of the spectral norms of a state: a singular value lies within it, and the norm is off by its square or so."""
_NATURE = re.compile(rf": an? ({'|'.join(NATURES)})\b")


@frozen
class CapacityResult:
    """One number, its permitted use and its formula; or the reason for its absence."""

    name: str
    value: float | None
    """None if the formula does not apply; `sentence` then says why."""
    nature: str
    """A key of :data:`NATURES`."""
    formula: str
    """As ``depthwidth formulas show`` knows it."""
    site: str = ""
    """The part of the model that it is about; all of it by default."""
    vacuous: bool | None = None
    """Of a bound on an error or gap: true at 1 and above, where it says nothing. None for other results."""
    sentence: str = ""
    """The reason why there is no value, or what the value leaves out."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data."""
        return dict(vars(self))


def nature_of(formula: Formula) -> str:
    """The nature that a formula's validity ends with.

    Examples
    --------
    >>> nature_of(laws.spectral_margin_gap), nature_of(laws.l2_capacity), nature_of(laws.vc_order)
    ('bound', 'measure', 'proxy')
    """
    found = _NATURE.search(formula.validity)
    if found is None:
        raise InputError(f"{formula.name} states no nature")
    return found[1]


def evaluated(
    name: str, formula: Formula, arguments: Mapping[str, Any], *, of_error: bool = False, site: str = "", sentence: str = ""
) -> CapacityResult:
    """The result of a formula; without a value if its arguments are outside its domain.

    Parameters
    ----------
    of_error : true if the value bounds an error or a gap; such a bound says nothing from 1 on.
    """
    try:
        value = float(formula(**arguments))
    except (InputError, OverflowError) as error:
        return without_value(name, formula, str(error), site=site)
    if not math.isfinite(value):
        return without_value(name, formula, "the value exceeds double precision", site=site)
    vacuous = value >= 1 if of_error else None
    return CapacityResult(name, value, nature_of(formula), formula.name, site, vacuous, sentence)


def without_value(name: str, formula: Formula, sentence: str, *, site: str = "") -> CapacityResult:
    """The result of a formula that does not apply."""
    return CapacityResult(name, None, nature_of(formula), formula.name, site, None, sentence)


# ---- states of weights ----


@frozen
class MatrixNorms:
    """The norms of one matrix of a state."""

    name: str
    outputs: int
    inputs: int
    spectral: float | None
    """None for a table of embeddings: its rows are looked up, and nothing is multiplied."""
    frobenius: float
    largest_row: float
    """Largest norm of a row: of a table, the largest norm of an embedding."""
    converged: bool = True
    """False if the spectral norm is a lower bound of unknown distance."""

    @property
    def stable_rank(self) -> float | None:
        """Squared Frobenius norm over squared spectral norm; None for a table or a matrix of zeros."""
        return (self.frobenius / self.spectral) ** 2 if self.spectral else None

    def to_dict(self) -> dict[str, Any]:
        """The fields and the stable rank as plain data."""
        return vars(self) | {"stable_rank": self.stable_rank}


def matrix_norms(name: str, value: Any, *, table: bool = False, tolerance: float = STATE_TOLERANCE) -> MatrixNorms:
    """The norms of one matrix, (outputs, inputs); of a `table` the spectral norm is left out.

    Raises
    ------
    InputError
        if it is no matrix, or holds NaN.

    Examples
    --------
    >>> found = matrix_norms("w", [[3.0, 0.0], [0.0, 4.0]])
    >>> round(found.spectral, 9), found.frobenius, found.largest_row
    (4.0, 5.0, 4.0)
    """
    if table:  # in parts, as a table may be the largest tensor by far
        w = np.asarray(value)
        parts = [_row_norms(matrix(w[i : i + _ROWS], name)) for i in range(0, len(w) if w.ndim == 2 else 1, _ROWS)]
        rows, found = np.concatenate(parts), None
    else:
        w = matrix(value, name)
        rows, found = _row_norms(w), spectral_norm(w, tolerance)
    return MatrixNorms(
        name, len(w), w.shape[1], None if found is None else found.value, float(np.linalg.norm(rows)), float(rows.max()),
        found is None or found.converged,
    )  # fmt: skip


def in_pieces(shape: Sequence[int], *, table: bool) -> bool:
    """True if a stored matrix of this shape is read in pieces of rows."""
    return len(shape) == 2 and (table or (math.prod(shape) > LARGEST_WHOLE and shape[0] >= shape[1]))


def stored_norms(stored: StoredTensors, name: str, *, table: bool, tolerance: float = STATE_TOLERANCE) -> Iterator[MatrixNorms]:
    """The norms of the matrices in a tensor of a checkpoint: of a stack one at a time, of a large matrix in pieces of rows."""
    shape = stored.entries[name].shape
    if len(shape) == _STACK:
        for number, piece in enumerate(stored.pieces(name, most=1)):
            yield matrix_norms(f"{name}[{number}]", piece[0], table=table, tolerance=tolerance)
    elif in_pieces(shape, table=table):
        yield _norms_by_pieces(stored, name, table=table, tolerance=tolerance)
    else:
        for part, value in matrices_in(name, stored.read(name)):
            yield matrix_norms(part, value, table=table, tolerance=tolerance)


def _norms_by_pieces(stored: StoredTensors, name: str, *, table: bool, tolerance: float) -> MatrixNorms:
    """The norms of a tall matrix, read in pieces of rows; the spectral norm is the root of its Gram matrix's."""
    rows, columns = stored.entries[name].shape
    squared, largest = 0.0, 0.0
    gram = None if table else np.zeros((columns, columns))
    for piece in stored.pieces(name):
        sizes = np.einsum("ij,ij->i", piece, piece, dtype=np.float64)
        squared, largest = squared + float(sizes.sum()), max(largest, float(sizes.max()))
        if gram is not None:
            gram += piece.T @ piece
    if gram is None:
        return MatrixNorms(name, rows, columns, None, math.sqrt(squared), math.sqrt(largest))
    found = spectral_norm(gram, tolerance)
    return MatrixNorms(name, rows, columns, math.sqrt(found.value), math.sqrt(squared), math.sqrt(largest), found.converged)


def _row_norms(w: Array) -> Array:
    return np.sqrt(np.einsum("ij,ij->i", w, w))


@frozen
class NormSums:
    """Sums over the matrices of a network. Products are kept as logarithms, as those of deep models overflow."""

    depth: int
    """Matrices."""
    weights: int
    log_spectral: float
    """Logarithm of the product of the squared spectral norms."""
    log_frobenius: float
    """Logarithm of the product of the squared Frobenius norms."""
    log_widths: float
    """Logarithm of the product of the outputs of the matrices."""
    stable_ranks: float
    squared_norm: float


def norm_sums(norms: Iterable[MatrixNorms]) -> NormSums:
    """The sums over all matrices but tables.

    Raises
    ------
    InputError
        if there is none, or one is zero.
    """
    found = [one for one in norms if one.spectral is not None]
    if not found:
        raise InputError("the weights hold no matrix that is multiplied with its input")
    for one in found:
        if not one.spectral:
            raise InputError(f"{one.name} is zero: products of norms are zero, and their ratios have no value")
    return NormSums(
        depth=len(found),
        weights=sum(one.outputs * one.inputs for one in found),
        log_spectral=2 * math.fsum(math.log(one.spectral or 0.0) for one in found),
        log_frobenius=2 * math.fsum(math.log(one.frobenius) for one in found),
        log_widths=math.fsum(math.log(one.outputs) for one in found),
        stable_ranks=math.fsum(one.stable_rank or 0.0 for one in found),
        squared_norm=math.fsum(one.frobenius**2 for one in found),
    )


LAYERED = "of all matrices together, as in the large comparisons; with sums, attention or norms between them no bound follows"


def state_results(sums: NormSums, *, samples: int | None = None, margin: float | None = None) -> tuple[CapacityResult, ...]:
    """The measures that need the weights alone, and with samples and margin those that are normalised by them.

    Without `samples` the logarithms are not divided by the number of training points. Names and normalisations are those of
    Jiang et al. 2020 (``depthwidth table jiang2020-measures``).

    Examples
    --------
    >>> sums = norm_sums([matrix_norms("a", [[2.0]]), matrix_norms("b", [[3.0]])])
    >>> {one.name: round(one.value, 4) for one in state_results(sums)}["log-prod-of-spec"] == round(math.log(6), 4)
    True
    """
    if samples is not None:
        check_whole("capacity", 2, 2**63 - 1, samples=samples)
    if margin is not None and not 0 < margin < math.inf:
        raise InputError(f"margin={margin} is not above 0 and finite")
    gamma = 1 if margin is None else margin
    logs = {"log-prod-of-spec": sums.log_spectral, "log-prod-of-fro": sums.log_frobenius}
    logs["log-spec-orig-main"] = of_logarithm(laws.spectral_margin_measure, sums.log_spectral, sums.stable_ranks, gamma)
    for name, product in (("spec", sums.log_spectral), ("fro", sums.log_frobenius)):
        logs[f"log-sum-of-{name}"] = of_logarithm(laws.geometric_norm_sum, product, sums.depth, 1)
        if margin is not None:
            logs[f"log-prod-of-{name}-over-margin"] = product - 2 * math.log(margin)
            logs[f"log-sum-of-{name}-over-margin"] = of_logarithm(laws.geometric_norm_sum, product, sums.depth, margin)
    plain = {"params": float(sums.weights), "fro-over-spec": sums.stable_ranks, "param-norm": sums.squared_norm}
    found = {name: reported(value, samples, logarithm=False) for name, value in plain.items()}
    found |= {name: reported(value, samples, logarithm=True) for name, value in logs.items()}
    law = laws.reported_measure
    return tuple(CapacityResult(name, value, nature_of(law), law.name, sentence=LAYERED) for name, value in found.items())


def reported(value: float, samples: int | None, *, logarithm: bool) -> float:
    """A measure, or the logarithm of one, as the comparisons report it; not divided by the samples if there are none.

    Examples
    --------
    >>> reported(400.0, 10_000, logarithm=False), round(math.exp(reported(math.log(400), 10_000, logarithm=True)), 12)
    (0.2, 0.2)
    """
    # One sample is outside the law's domain and means no division.
    law, points = (laws.reported_measure.body, 1) if samples is None else (laws.reported_measure, samples)
    return of_logarithm(law, value, points) if logarithm else float(law(value, points))


def of_logarithm(formula: Callable[..., Any], logarithm: float, *arguments: float) -> float:
    """Logarithm of a formula whose first argument is given by its own, as products of deep models overflow doubles.

    >>> of_logarithm(laws.geometric_norm_sum, 4000.0, 2, 1) == math.log(2) + 2000.0
    True
    """
    import mpmath  # whose exponents have no limit; sympy depends on it

    return float(mpmath.log(formula(mpmath.exp(logarithm), *arguments)))


TABLE_NAMES = re.compile(r"(^|[._])(wte|wpe|embed\w*|\w*embeddings?|relative_attention_bias)([._]|$)")
"""Names of the tensors of checkpoints that hold tables; a table is read row by row."""
_VECTORS, _STACK = 1, 3  # dimensions of biases and gains, and of stacks of matrices


@frozen
class StateCapacity:
    """The norms of every matrix of a state, and the measures of all together."""

    matrices: tuple[MatrixNorms, ...]
    results: tuple[CapacityResult, ...]
    tolerance: float
    """Of the spectral norms."""

    def rows(self) -> list[dict[str, Any]]:
        """One row per result."""
        return [one.to_dict() for one in self.results]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "results": self.rows(),
            "matrices": [one.to_dict() for one in self.matrices],
            "tolerance": self.tolerance,
        }


def state_capacity(
    tensors: Iterable[tuple[str, Any]], *, samples: int | None = None, margin: float | None = None,
    tolerance: float = STATE_TOLERANCE,
) -> StateCapacity:  # fmt: skip
    """The capacity of a state of weights, which is read one tensor at a time.

    Parameters
    ----------
    tensors : names and arrays; an iterator keeps memory to the largest. Vectors are left out. The first dimension of a matrix
        is its output. A tensor of three dimensions is a stack of matrices, such as experts; one of four a kernel, whose matrix
        is (outputs, rest).
    samples, margin : of the training, if known: the measures are then normalised by them.

    Raises
    ------
    InputError
        if a tensor holds NaN, is zero, or none is a matrix.

    Examples
    --------
    >>> found = state_capacity([("a.weight", np.eye(3)), ("a.bias", np.ones(3)), ("wte.weight", np.eye(5))])
    >>> [(one.name, one.spectral) for one in found.matrices]
    [('a.weight', 1.0), ('wte.weight', None)]
    """
    norms = tuple(
        matrix_norms(part, value, table=bool(TABLE_NAMES.search(name)), tolerance=tolerance)
        for name, whole in tensors
        for part, value in matrices_in(name, whole)
    )
    return StateCapacity(norms, state_results(norm_sums(norms), samples=samples, margin=margin), tolerance)


def stored_capacity(
    stored: StoredTensors, names: Iterable[str], *, samples: int | None = None, margin: float | None = None,
    tolerance: float = STATE_TOLERANCE,
) -> StateCapacity:  # fmt: skip
    """:func:`state_capacity` of the named tensors of a checkpoint, of which tables and very large matrices are read in pieces.

    Raises
    ------
    InputError
        if a tensor holds NaN, is zero, or none is a matrix.
    """
    norms = tuple(
        one for name in names
        for one in stored_norms(stored, name, table=bool(TABLE_NAMES.search(name)), tolerance=tolerance)
    )  # fmt: skip
    return StateCapacity(norms, state_results(norm_sums(norms), samples=samples, margin=margin), tolerance)


def matrices_in(name: str, value: Any) -> Sequence[tuple[str, Array]]:
    """The matrices that a tensor of a checkpoint holds, with names."""
    w = np.asarray(value)
    if not w.size:
        raise InputError(f"{name} is empty")
    if w.ndim <= _VECTORS:
        return ()
    if w.ndim == 2:
        return ((name, w),)
    if w.ndim == 3:
        return tuple((f"{name}[{i}]", one) for i, one in enumerate(w))
    return ((name, w.reshape(len(w), -1)),)
