"""Positions in attention scores: DIET's biases, biases of segments, Shaw's relative vectors, TUPE's untied positions.

A bias that does not depend on the input is computed once in a pass of any batch, and kept at inference. Its tables belong to
one block or, with `shared_layers`, to all blocks of a stack; each head has its own or, with `shared_heads`, all have one.
"""

from __future__ import annotations

from dataclasses import field, replace

from ..checks import check_whole
from ..errors import InputError
from ..formulas import positions as laws
from ..numerics.homogeneity import Place, Powers
from ..signal import Site
from ..values import cached_property
from .base import Child, Run, component
from .linear import Linear
from .positions import BiasMoments, Position
from .tensor import ZEROS, Tensor


@component
class SegmentBias(Position):
    """A trained score bias for each pair of segments, the query's and the key's (Chen et al. 2021, arXiv 2104.08698, eq. 2)."""

    heads: int
    segments: int = 2
    shared_layers: bool = False
    shared_heads: bool = False

    adds_scores = True
    least_segments = 1

    def __post_init__(self) -> None:
        check_whole(type(self).__name__, heads=self.heads)
        check_whole(type(self).__name__, smallest=self.least_segments, segments=self.segments)

    @property
    def home(self) -> str:  # type: ignore[override]
        """``stack`` if blocks share the tables, else ``attention``."""
        return "stack" if self.shared_layers else "attention"

    @property
    def tables(self) -> int:
        """Distinct tables of one block: one for each head, or one."""
        return 1 if self.shared_heads else self.heads

    def fitted(self, heads: int, width: int) -> Position:
        return replace(self, heads=heads)

    def tensors(self) -> dict[str, Tensor]:
        if not self.segments:
            return {}
        return {"segments": Tensor((self.segments, self.segments, self.tables), "score_bias", start=ZEROS)}

    def degree(self, x: Powers, at: Place) -> Powers:
        """The powers of the tables that a stack's blocks share, which attention adds; else of the scores with their sum."""
        tables = self.bias_degree(at)
        if self.segments:
            own = at.weight("segments")
            tables = own if tables is None else at.apply("sum", tables, own, reason="biases of segments have another degree")
        tables = tables or {}
        if self.home == "stack":
            return tables
        return at.apply("sum", x, tables, reason="a trained bias is added to scores of another degree")

    def bias_degree(self, at: Place) -> Powers | None:
        """The powers of the biases of positions; None without them."""
        return None

    def own_saved(self, run: Run) -> int:
        return self.own_bias(run) * run.value_bytes

    def own_bias(self, run: Run) -> int:
        values: int = laws.bias_bytes.body(run.tokens, self.tables, 1)
        return values * (run.batch if self.segments else 1)

    def score_bias(self, site: Site) -> BiasMoments | None:
        return None  # equal segments have equal biases


@component
class DecoupledPositions(SegmentBias):
    """The common part of DIET's two kinds: score biases of `context` positions, and of `segments` if there are some."""

    segments: int = 0
    context: int = field(kw_only=True)

    least_segments = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(type(self).__name__, context=self.context)

    @property
    def longest(self) -> int:
        return self.context


@component
class DietRel(DecoupledPositions):
    """A trained score bias for each difference of positions, query less key (DIET-REL, arXiv 2104.08698, eq. 3)."""

    def tensors(self) -> dict[str, Tensor]:
        rows: int = laws.relative_bias_parameters.body(self.context, 1)
        return {"weight": Tensor((rows, self.tables), "score_bias", start=ZEROS)} | super().tensors()

    degree = SegmentBias.degree

    def bias_degree(self, at: Place) -> Powers:
        return at.weight("weight")

    def score_bias(self, site: Site) -> BiasMoments | None:
        return BiasMoments(site.variance("weight"))


@component
class DietAbs(DecoupledPositions):
    """A score bias that is a product of two trained tables of `rank` features a position (DIET-ABS, arXiv 2104.08698, eq. 1).

    The paper shares it between layers. It states no start: here the table of queries starts at zero and that of keys is drawn,
    so that scores start with the variance of query and key and the tables still get a gradient.
    """

    shared_layers: bool = True
    rank: int = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("DietAbs", rank=self.rank)

    def tensors(self) -> dict[str, Tensor]:
        shape = (self.tables, self.context, self.rank)
        own = {"query": Tensor(shape, "score_bias", start=ZEROS), "key": Tensor(shape, "positions")}
        return own | super().tensors()

    degree = SegmentBias.degree

    def bias_degree(self, at: Place) -> Powers:
        return at.apply("product", at.weight("query"), at.weight("key"))

    def own_flops(self, run: Run) -> int:
        flops: int = laws.absolute_bias_flops.body(run.tokens, self.rank, self.tables)
        return flops

    def score_bias(self, site: Site) -> BiasMoments | None:
        variance = laws.absolute_bias_variance.body(self.rank, site.variance("query"), site.variance("key"))
        return BiasMoments(variance, self.rank)


@component
class UntiedPositions(SegmentBias):
    """A score bias of position vectors with a query and a key map of their own (TUPE, Ke et al. 2021, arXiv 2006.15595).

    The scores of the content are divided by sqrt(2 d_h), as those of positions are. The paper's two further parts, a relative
    bias and biases of their own for the first token, are not among them.
    """

    segments: int = 0
    shared_layers: bool = True
    context: int = field(kw_only=True)
    width: int = field(kw_only=True)
    head_dim: int = field(kw_only=True)
    embedding = True

    least_segments = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("UntiedPositions", context=self.context, width=self.width, head_dim=self.head_dim)
        if self.shared_heads:
            raise InputError("UntiedPositions: its maps have dimensions for each head, so heads cannot share a bias")

    @property
    def longest(self) -> int:
        return self.context

    @cached_property
    def map(self) -> Linear:
        """The map from a position's vector to the queries of all heads, and another to their keys."""
        return Linear(self.width, self.heads * self.head_dim, False)

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": Tensor((self.context, self.width), "positions")} | super().tensors()

    degree = SegmentBias.degree

    def bias_degree(self, at: Place) -> Powers:
        query, key = (at.at(name).through(self.map, at.weight("weight")) for name in ("query", "key"))
        return at.apply("product", query, key)

    def children(self) -> tuple[Child, ...]:
        return Child("query", self.map, kind="query"), Child("key", self.map, kind="key")

    def run_of(self, child: str, run: Run) -> Run:
        return replace(run, batch=1)

    def own_flops(self, run: Run) -> int:
        flops: int = laws.absolute_bias_flops.body(run.tokens, self.head_dim, self.heads)
        return flops

    def content_scale(self, head_dim: int) -> float:
        return float((2 * head_dim) ** -0.5)

    def score_bias(self, site: Site) -> BiasMoments | None:
        size = self.width * site.variance("weight")
        query, key = (size * site.at(name).variance("weight") for name in ("query", "key"))
        return BiasMoments(laws.absolute_bias_variance.body(self.head_dim, query, key) / (2 * self.head_dim), self.head_dim)


@component
class ShawVectors(Position):
    """A trained vector for each difference of positions, added to the keys, and with `values` to the values (arXiv 1803.02155).

    Differences, key less query, count up to `reach` on each side. All heads of a block share the vectors.
    """

    head_dim: int
    reach: int
    heads: int
    values: bool = True
    home = "attention"
    adds_scores = True

    def __post_init__(self) -> None:
        check_whole("ShawVectors", head_dim=self.head_dim, heads=self.heads)
        check_whole("ShawVectors", smallest=0, reach=self.reach)

    def fitted(self, heads: int, width: int) -> Position:
        return replace(self, heads=heads)

    def tensors(self) -> dict[str, Tensor]:
        vectors = Tensor((2 * self.reach + 1, self.head_dim), "bias", start=ZEROS)
        return {"key": vectors, "value": vectors} if self.values else {"key": vectors}

    def degree(self, x: Powers, at: Place) -> Powers:
        return x

    def key_degree(self, key: Powers, at: Place) -> Powers:
        return at.apply("sum", key, at.weight("key"), reason="vectors of positions are added to keys of another degree")

    def value_degree(self, value: Powers, at: Place) -> Powers:
        if not self.values:
            return value
        return at.apply("sum", value, at.weight("value"), reason="vectors of positions are added to values of another degree")

    def pair_dims(self, head_dim: int, value_dim: int) -> int:
        if head_dim != self.head_dim or (self.values and value_dim != head_dim):
            raise InputError(
                f"ShawVectors: its vectors have {self.head_dim} dimensions, and the heads {head_dim} and values {value_dim}"
            )
        return head_dim + value_dim if self.values else head_dim

    def score_bias(self, site: Site) -> BiasMoments | None:
        if any(site.variance(name) != 0 for name in self.tensors()):
            raise InputError(f"{site.role}: the moments of relative vectors are known if they start at zero")
        return None
