"""Tree attention: queries and keys go down a learned tree; a query sees the keys of its leaf, or mean values along its path."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from ..checks import check_choice, check_whole
from ..errors import InputError
from ..formula import is_symbolic
from ..formulas.treeformer import all_nodes_flops, leaf_scores, path_attention_flops, routing_flops
from ..numerics.homogeneity import Place, Powers
from ..signal import AnySignal, Pullback, Site, TokenSignal, finite
from ..values import frozen
from .attention import Attention, after_norm
from .attention_degrees import key_degree, mixed_degree, query_degree
from .attention_moments import starting_bias
from .base import Run, component
from .tensor import ZEROS, Constant, Tensor
from .tree_moments import mix_tree

HIGHEST = 30
"""Levels of a tree at most."""
_INDEX_BYTES = 4  # the leaf of a query or a key


@frozen
class Tree:
    """The tree of each head of :class:`TreeAttention`.

    Parameters
    ----------
    height : levels of decisions, from 0; the tree has 2^height leaves.
    reads : ``leaf`` (TF-attention: softmax over the keys of the query's leaf) or ``path`` (TC-attention: a weighted sum of the
        mean values of the nodes on the query's path, the root included).
    own_key : a query of TF-attention sees its own key as well as those of its leaf. Without it a query in a leaf without keys
        has an output of zero, and gradients through a nearly empty leaf can be large.
    imbalance : query-key pairs that share a leaf, over those of balanced leaves, the factor in counts of operations and memory:
        1 if balanced, 2^height if all share one leaf, below 1 if queries are where keys are not.
        :func:`verify.models.tree_attention.imbalance` measures it.
    all_nodes : every node's hyperplane is evaluated, as one matrix product, instead of those along the path.
    sharpness : factor on the scores of nodes in the sigmoid whose gradient the decisions have.

    Raises
    ------
    InputError
        if a value is out of range.
    """

    height: int
    reads: str = "leaf"
    own_key: bool = True
    imbalance: float = 1.0
    all_nodes: bool = False
    sharpness: float = 1.0

    def __post_init__(self) -> None:
        check_whole("Tree", 0, HIGHEST, height=self.height)
        check_choice("Tree", ("leaf", "path"), reads=self.reads)
        if not 0 <= self.imbalance <= self.leaves:
            raise InputError(f"Tree: imbalance={self.imbalance:g} is not between 0 and the {self.leaves:,} leaves")
        if not 0 < self.sharpness < float("inf"):
            raise InputError(f"Tree: sharpness={self.sharpness:g} is not a number above 0")

    @property
    def leaves(self) -> int:
        """Leaves of the tree."""
        return 1 << self.height

    @property
    def softmax(self) -> bool:
        """True for TF-attention, which has scores; TC-attention has none."""
        return self.reads == "leaf"

    def check_tokens(self, tokens: Any) -> None:
        """Refuse sequences of fewer tokens than leaves.

        Raises
        ------
        InputError
            if there are fewer.
        """
        if not is_symbolic(tokens) and tokens < self.leaves:
            raise InputError(f"Tree: height={self.height} makes {self.leaves:,} leaves for a context of {tokens:,} tokens")


@component
class TreeAttention(Attention):
    """Attention through a binary tree for each head (Treeformer: Madaan et al. 2023, arXiv 2208.09015).

    A node has a hyperplane and a threshold; queries and keys pass through the same tree, and the sign of
    ``hyperplane . x + threshold`` decides for one of two children. The nodes of a level follow each other: node j of level l is
    number 2^l - 1 + j, and its children are 2 j and 2 j + 1 of the next level. It is a method for encoders: a tree of the keys
    of a whole sequence has no causal form. The paper's body was not available; :class:`Tree` is our reading of the method.
    """

    tree: Tree = field(kw_only=True)

    routed = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.causal:
            raise InputError(
                "TreeAttention: it has no causal form, because a leaf holds keys of the whole sequence; use kind='encoder'"
            )
        if self.cross or self.window is not None or self.sinks or self.softcap is not None:
            raise InputError("TreeAttention: it has neither a memory, a window, sinks nor a soft cap")
        if self.position is not None and self.position.adds_scores:
            name = type(self.position).__name__
            if not self.tree.softmax:
                raise InputError(f"TreeAttention: {name} adds to scores, and means of nodes have none")
            if self.position.pair_dims(self.head_dim, self.value_dim):
                raise InputError(f"TreeAttention: {name} has products with every query and key, of which a leaf has few")
        if not is_symbolic(self.heads, self.kv_heads) and self.heads != self.kv_heads:
            raise InputError(f"TreeAttention: kv_heads={self.kv_heads} is not heads={self.heads}; every head has its own tree")
        if self.dropout and not self.tree.softmax:
            raise InputError("TreeAttention: there are no attention weights to drop in means of nodes")

    def tensors(self) -> dict[str, Tensor]:
        """The hyperplanes (heads, nodes, head_dim), thresholds (heads, nodes), and of TC weights (heads, levels)."""
        nodes, levels = self.tree.leaves - 1, self.tree.height + 1
        found: dict[str, Tensor] = {}
        if nodes:
            found["planes"] = Tensor((self.heads, nodes, self.head_dim), "routing", self.head_dim, nodes)
            found["thresholds"] = Tensor((self.heads, nodes), "bias", self.head_dim, nodes, start=ZEROS)
        if not self.tree.softmax:
            found["level_weights"] = Tensor((self.heads, levels), "vector", start=Constant(1 / levels))
        return super().tensors() | found

    def choices(self) -> dict[str, Any]:
        return super().choices() | {"tree": self.tree}

    def keys_seen(self, run: Run) -> int:
        """Query-key pairs of one sequence and head in TF-attention, at the tree's imbalance; none in TC-attention."""
        if not self.tree.softmax:
            return 0
        return self._pairs(run, 1)

    def _pairs(self, run: Run, copies: int) -> int:
        """Query-key pairs of as many sequences and heads, own keys included."""
        pairs: int = round(copies * leaf_scores.body(run.tokens, self.tree.height, self.tree.imbalance))
        return pairs + (copies * run.tokens if self._adds_own_key else 0)

    @property
    def _adds_own_key(self) -> bool:
        return self.tree.own_key and self.tree.height > 0

    def own_flops(self, run: Run) -> int:
        """Operations of the sorted form, which evaluates the tree first; two per multiply-add, one per term of a mean."""
        tree, features = self.tree, self.heads * self.head_dim
        route = all_nodes_flops if tree.all_nodes else routing_flops
        flops = int(run.batch * route.body(run.tokens, tree.height, features))
        if tree.softmax:
            return flops + 2 * self._pairs(run, run.batch * self.heads) * (self.head_dim + self.value_dim)
        values = self.heads * self.value_dim
        means = path_attention_flops.body(run.tokens, tree.height, values) - routing_flops.body(run.tokens, tree.height, values)
        return flops + int(run.batch * means)

    def own_saved(self, run: Run) -> int:
        """Bytes of the sorted form. The reference that trains in `verify` keeps matrices of all pairs instead."""
        values = run.positions * (self.width + self.heads * (2 * self.head_dim + 2 * self.value_dim))
        places = 2 * run.positions * self.heads * _INDEX_BYTES
        if self.tree.softmax:
            scores = 0 if run.fused or run.rescored else self._pairs(run, run.batch * self.heads)
            sums = run.positions * self.heads * _INDEX_BYTES if run.fused and not run.rescored else 0
            return (values + scores) * run.value_bytes + places + sums
        nodes = run.batch * self.heads * (2 * self.tree.leaves - 1) * self.value_dim
        return (values + nodes) * run.value_bytes + places

    def own_cache(self, run: Run) -> int:
        return 0

    def degree(self, x: Powers, at: Place) -> Powers:
        """A decision is a sign: it stays as it is if a node's product and its threshold have one degree."""
        query, key = query_degree(self, x, at), key_degree(self, x, at, self.key)
        if self.tree.height:
            for one in (query, key):
                node = at.apply("product", one, at.weight("planes"))
                at.apply("bias", node, own=at.weight("thresholds"), reason="a threshold has another degree than its hyperplane")
        value = at.at("value").through(self.value, x)
        if self.tree.softmax:
            mixed = mixed_degree(self, at.apply("product", query, key), value, at)
        else:
            mixed = at.apply("linear", value, own=at.weight("level_weights"))
            if self.inner_norm is not None:
                mixed = at.at("inner_norm").through(self.inner_norm, mixed)
        return at.at("out").through(self.out, mixed)

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        """The moments with hyperplanes drawn around the origin, on exchangeable tokens (docs/derivations/tree-attention.md).

        The gradient includes that through the decisions, by the derivative of :mod:`verify.models.tree_attention`.

        Raises
        ------
        InputError
            if positions rotate queries and keys or add biases that are not zero, tokens differ by position, or a query does not
            see its own key.
        """
        if self.tree.softmax and not self.tree.height:
            return super().moments(x, site)
        self._check_moments(x, site)
        trace = site.trace
        query, _ = self.query.moments(x, site.at("query"))
        key, _ = self.key.moments(x, site.at("key"))
        value, _ = self.value.moments(x, site.at("value"))
        query = after_norm(self.query_norm, query, site, "query_norm")
        key = after_norm(self.key_norm, key, site, "key_norm")
        gain = self.head_dim * (1 / self.head_dim if self.scale is None else self.scale**2)
        raw = gain * query.second_moment * key.second_moment
        if self.tree.softmax:
            scores = site.at("scores")
            scores.record(finite(x.of(raw, gain * query.first_second_moment * key.covariance), scores.role))
        bias = site.at("value").variance("bias") if self.bias else 0.0
        planes = site.variance("planes") if self.tree.height else 0.0
        decisions = [planes * self.head_dim * one.second_moment for one in (query, key)]
        mixed, pull = mix_tree(self, raw, x, decisions, value.second_moment - bias, trace)
        mixed = site.at("mix").record(mixed.with_bias(bias))
        pull_norm: Pullback = lambda g: g  # noqa: E731
        if self.inner_norm is not None:
            mixed, pull_norm = self.inner_norm.moments(mixed, site.at("inner_norm"))
        y, pull_out = self.out.moments(mixed, site.at("out"))
        pull_mixed = site.at("mix").record_gradient(pull)
        return y, lambda g: pull_mixed(pull_norm(pull_out(g)))

    def _check_moments(self, x: AnySignal, site: Site) -> None:
        refused = f"{site.role}: the moments of tree attention are not derived"
        if isinstance(x, TokenSignal):
            raise InputError(f"{refused} position by position; leave out gram and arrays of token_match")
        if self.position is not None and not self.position.adds_scores:
            raise InputError(f"{refused} where positions turn the queries and keys that the tree sends down")
        penalised = self.position is not None and self.position.penalties(self.heads, 1.0) is not None
        if penalised or (self.tree.softmax and starting_bias(self, site) is not None):
            raise InputError(f"{refused} for score biases that do not start at zero")
        if self.tree.softmax and not self.tree.own_key:
            raise InputError(f"{refused} for queries that may see no key; use own_key=True")
        self.tree.check_tokens(site.trace.length)
