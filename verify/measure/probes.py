# mypy: disable-error-code="misc"
"""Probes: measure every site of any torch model while it runs, as tidy rows.

>>> from depthwidth import Transformer
>>> from verify import build
>>> model = build(Transformer(depth=2, width=32, heads=4, vocab=50, context=16), seed=1)
>>> tokens = torch.randint(50, (8, 16), generator=torch.Generator().manual_seed(0))
>>> with probe(model, quantities=["variance", "entropy"], sites=["*.attention", "*.mix"]) as rows:
...     logits = model(tokens)
>>> [(row["site"], row["quantity"]) for row in rows][:3]
[('decoder.block.0.attention', 'variance'), ('decoder.block.0.attention.mix', 'variance'),
 ('decoder.block.0.attention.mix', 'entropy')]

A probe uses torch's hooks. They are attached only inside the ``with`` block and only at steps that are measured, so other steps
cost nothing. A probe only reads: it does not change the results of the model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import functools
import math
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from depthwidth.display import Overview, with_overview
from depthwidth.errors import InputError, nearest, shown
from depthwidth.numerics.spectra import effective_rank, stable_rank

from ..models.locate import WRAPPERS
from .attention import concentration

MOMENTS = ("mean", "second_moment", "variance", "covariance", "correlation")
"""Moments of an output (batch, tokens, features), defined as in ``propagate``; covariance and correlation are those of two
different tokens."""
RANKS = ("stable_rank", "effective_rank")
"""Ranks of the matrix (tokens, features) of each sequence's output."""
GRADIENTS = tuple(f"gradient_{name}" for name in MOMENTS)
"""Moments of the gradient with respect to an output."""
ATTENTION = ("entropy", "entropy_tokens", "mean_effective_tokens", "score_variance", "visible_tokens")
"""Statistics of softmax attention, averaged over queries and heads."""
WEIGHTS = ("weight_stable_rank", "weight_effective_rank")
"""Ranks of each weight matrix; the site is the name of the parameter."""
UPDATES = ("update_ratio",)
"""Relative change of each parameter in an optimizer step."""
QUANTITIES = (*MOMENTS, *GRADIENTS, *ATTENTION, *RANKS, *WEIGHTS, *UPDATES)
COLUMNS = ("run", "step", "site", "quantity", "value", "stderr")

Sites = str | Iterable[str] | Callable[[str, nn.Module], bool] | None
Steps = Collection[int] | Callable[[int], bool] | None

_CHUNK = 2**24  # number of attention scores computed at once


@with_overview
class Rows(list[dict[str, Any]]):
    """Rows with the columns run, step, site, quantity, value and stderr."""

    def __init__(self) -> None:
        super().__init__()
        self._next: Callable[[], None] | None = None

    def next_step(self) -> None:
        """End the step, add its rows and begin the next step. If the probe has an optimizer, this happens automatically.

        Raises
        ------
        InputError
            if the probe has ended.
        """
        if self._next is None:
            raise InputError("the probe has ended; call next_step inside its with block")
        self._next()

    def overview(self) -> Overview:
        """The number of rows, and the last measured value of each quantity at each site, for a prompt or a notebook."""
        last = {(row["site"], row["quantity"]): row for row in self}
        rows = [
            (site, quantity, f"{row['value']:.4g}", "" if row["stderr"] is None else f"{row['stderr']:.2g}", str(row["step"]))
            for (site, quantity), row in last.items()
        ]
        sites, quantities = ({key[i] for key in last} for i in (0, 1))
        title = f"{len(self):,} rows of a probe, {len(sites):,} sites, {len(quantities)} quantities"
        return Overview(title, {}, ("site", "quantity", "value", "stderr", "step"), rows, ("quantity",), ".frame()")

    def frame(self) -> Any:
        """The rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(list(self), columns=list(COLUMNS))

    def value(self, site: str, quantity: str, step: int | None = None) -> float:
        """The value of one quantity at one site, by default at the last measured step.

        Raises
        ------
        InputError
            if there is no such row.
        """
        for row in reversed(self):
            if row["site"] == site and row["quantity"] == quantity and step in (None, row["step"]):
                return float(row["value"])
        raise InputError(f"no row has site={shown(site)} and quantity={shown(quantity)}")


@contextlib.contextmanager
def probe(
    model: nn.Module,
    quantities: str | Iterable[str] = (*MOMENTS, *GRADIENTS, *ATTENTION),
    sites: Sites = None,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    steps: Steps = None,
    start: int = 0,
    run: str = "",
    per_head: bool = False,
) -> Iterator[Rows]:
    """Measure a model while it runs.

    Parameters
    ----------
    model : any module. Sites are the names of its modules, without the prefixes of compilers and data-parallel wrappers.
    quantities : names from :data:`QUANTITIES`:

        - ``mean``, ``second_moment``, ``variance``, ``covariance``, ``correlation``: moments over the features of a module's
          output (batch, tokens, features). Covariance and correlation are averages over pairs of different tokens of a
          sequence. ``variance`` is the second moment minus the squared mean, as in :func:`depthwidth.propagate`. For an output
          (batch, features) only the first three exist. If the output is a tuple, dictionary or data class, its first
          floating-point tensor with at least two dimensions is measured; for output classes of the transformers library it is
          the last hidden state or the logits. If tokens come first (``batch_first=False``), tokens and sequences are exchanged.
        - ``gradient_mean`` .. ``gradient_correlation``: the same moments of the gradient with respect to that output as the
          module returned it, before any later in-place change. The gradient is that of the loss given to ``backward``.
        - ``entropy`` (nats), ``entropy_tokens`` (exp(entropy)), ``mean_effective_tokens`` (1/sum p^2), ``score_variance`` (over
          the keys visible to a query), ``visible_tokens`` (their number): for each softmax attention, averaged over queries
          and then over heads.
        - ``stable_rank`` (||X||_F^2 / ||X||_2^2) and ``effective_rank`` (exp of the entropy of the normalised singular values;
          Roy & Vetterli 2007) of each sequence's output; ``weight_stable_rank`` and ``weight_effective_rank`` of weight
          matrices before the step.
        - ``update_ratio``: ||new - old|| / ||old|| of each parameter in an optimizer step.
    sites : modules to measure: names, patterns such as ``"*.attention"``, or a function of name and module; all by default.
        Parameters belong to the site of their module.
    optimizer : each of its steps ends a step of the probe; needed for ``update_ratio``.
    steps : steps to measure, as a collection of numbers or a function of the number; all by default.
    start : number of the first step.
    run : value of the column `run`.
    per_head : also add a row for each attention head, at ``site.head.0`` and so on.

    Yields
    ------
    :class:`Rows`, a list of dictionaries with the keys :data:`COLUMNS`. Rows of a step are added when it ends: at the end of
    the ``with`` block, after the optimizer's step, or at ``rows.next_step()``. `stderr` is the jackknife standard error over
    the sequences of the step: NaN for a single sequence, 0 for quantities of weights, which are exact. If the model has
    diverged, values are NaN or infinite.

    Raises
    ------
    InputError
        if a quantity is unknown, no module matches one of the `sites`, `quantities` or `sites` is empty, or ``update_ratio`` is
        measured without an optimizer.

    Warns
    -----
    UserWarning
        names the sites whose gradient is NaN because it cannot be determined. Their output is a view (torch's linear layers
        return views for inputs of three dimensions) and was changed in place after the model's modules returned, or by an
        operation that autograd does not record.

    Notes
    -----
    Several passes in a step (gradient accumulation) and several calls of a module in a pass are pooled.

    Attention is measured if a module calls ``scaled_dot_product_attention``, torch's multi-head attention, or the softmax of
    scores (batch, heads, queries, keys). This covers eager and fused attention of torch and the transformers library, with
    grouped queries, masks and soft caps, but not other kernels (flex attention, external flash attention). A key is visible
    unless its masked score is close to the lowest number of its type. Weights are measured before dropout. The site is the
    module that makes the call (``mix`` in our models), or the nearest enclosing module among `sites`.

    Compiled models run uncompiled at measured steps. With activation checkpointing, the outputs of a block are counted twice.

    The time of a measured step, relative to a plain training step (``tests/benchmarks/probes.py``), at all sites of 4 blocks of
    width 256 on 8 x 128 tokens and one thread of a shared CPU: 1.2 for moments, 1.3 for moments with gradients, 1.1 for
    attention, 1.4 for all of these; 2.8 for ranks of outputs, 1.4 for ranks of weights, 1.0 for updates. It is 1.0 for a step
    that is not measured.
    """
    names = _check_quantities(quantities, optimizer)
    if _is_compiled(model) and not hasattr(torch.compiler, "set_stance"):
        raise InputError("probe: measuring a compiled model needs torch 2.6 or later; pass the uncompiled model")
    state = _Probe(model, names, _select_modules(model, sites), optimizer, steps, start, run, per_head)
    rows = state.rows
    rows._next = state.next_step
    try:
        with state.optimizer_hooks():
            state.begin()
            try:
                yield rows
            finally:
                state.end()
    finally:
        rows._next = None


def _is_compiled(model: nn.Module) -> bool:
    """True if the model or a part of it is compiled, by ``torch.compile(part)`` or ``part.compile()``."""
    return any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in model.modules())


def _check_quantities(quantities: str | Iterable[str], optimizer: Any) -> tuple[str, ...]:
    names = (quantities,) if isinstance(quantities, str) else tuple(quantities)
    for name in names:
        if name not in QUANTITIES:
            raise InputError(f"probe: there is no quantity {shown(name)}{nearest(str(name), QUANTITIES)}")
    if not names:
        raise InputError("probe: quantities is empty, so there is nothing to measure")
    if "update_ratio" in names and optimizer is None:
        raise InputError("probe: update_ratio is measured in an optimizer step; pass optimizer=")
    return names


def _select_modules(model: nn.Module, sites: Sites) -> dict[str, nn.Module]:
    """The modules to measure, by the names of their sites."""
    every = {}
    for name, part in model.named_modules():
        plain = WRAPPERS.sub("", f"{name}.").removesuffix(".")
        every[plain] = part  # a wrapper and its inner module have the same name; the inner one comes later and is kept
    if sites is None:
        return every
    if callable(sites):
        found = {name: part for name, part in every.items() if sites(name, part)}
        if not found:
            raise InputError("probe: the function sites selects no module of the model")
        return found
    patterns = (sites,) if isinstance(sites, str) else tuple(sites)
    if not patterns:
        raise InputError("probe: sites is empty, so there is nothing to measure; use None for all modules")
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in every):
            raise InputError(f"probe: no module has the name {shown(pattern)}{nearest(pattern, every)}")
    return {name: part for name, part in every.items() if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}


# Statistics of a tensor, for each sequence.


def _moments(x: Tensor) -> Tensor | None:
    """Mean, second moment and mean product of two tokens, for each sequence: (batch, 3).

    The product is NaN without pairs of tokens. The result is None if `x` is not a floating-point tensor of two dimensions.
    """
    if x.dim() < 2 or not x.is_floating_point() or x.numel() == 0:
        return None
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    if x.dim() != 3 or x.shape[1] < 2:
        x = x.flatten(1)
        pair = torch.full_like(x[:, 0], torch.nan)
        return torch.stack((x.mean(1), x.square().mean(1), pair), dim=1)
    tokens, width = x.shape[1:]
    squares = x.square().sum((1, 2))
    pair = (x.sum(1).square().sum(1) - squares) / (tokens * (tokens - 1) * width)
    return torch.stack((x.mean((1, 2)), squares / (tokens * width), pair), dim=1)


def _named_moments(m: Tensor) -> dict[str, Tensor]:
    """The five moments, from averages over sequences of the three values of :func:`_moments`: (..., 3)."""
    mean, second, pair = m.unbind(-1)
    variance, covariance = second - mean**2, pair - mean**2
    correlation = torch.where(variance > 0, covariance / variance, 0.0 * covariance)
    return dict(zip(MOMENTS, (mean, second, variance, covariance, correlation), strict=True))


def _ranks(x: Tensor) -> Tensor:
    """Stable and effective rank of each matrix (.., rows, columns): (.., 2)."""
    x = x.detach().double()
    finite = x.isfinite().all(-1).all(-1)  # after divergence there are no eigenvalues; the ranks are NaN
    x = torch.where(finite[..., None, None], x, 0.0)
    gram = x @ x.mT if x.shape[-2] <= x.shape[-1] else x.mT @ x
    squared = torch.linalg.eigvalsh(gram).clamp(min=0)
    sizes = squared.sqrt()
    # Eigenvalues of the Gram matrix are accurate to 1e-16 of the largest, hence singular values to 1e-8 of the largest.
    sizes = torch.where(sizes > 1e-7 * sizes[..., -1:], sizes, 0.0)
    known = (finite & (squared[..., -1] > 0)).reshape(-1).tolist()
    each = zip(sizes.reshape(-1, sizes.shape[-1]).cpu().numpy(), known, strict=True)
    ranks = [(stable_rank(one), effective_rank(one)) if valid else (math.nan, math.nan) for one, valid in each]
    return torch.tensor(ranks, dtype=torch.float64, device=x.device).reshape(*sizes.shape[:-1], 2)


def _mask_threshold(dtype: torch.dtype) -> float:
    """Threshold below which a score counts as masked.

    Masked scores are minus infinity or the lowest number of their type, which some models scale afterwards (CodeGen).
    """
    return float(torch.finfo(dtype).min) * (1 / 64 if dtype == torch.float16 else 1e-6)


def _attention(scores: Tensor) -> Tensor:
    """The quantities of :data:`ATTENTION` from masked scores (batch, heads, queries, keys): (batch, heads, 5)."""
    scores = scores.detach()
    seen = scores > _mask_threshold(scores.dtype)
    scores = scores.float()
    count = seen.sum(-1)
    weights = torch.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1)
    some = count > 0  # a query without visible keys (padding) has no weights
    entropy, shared = concentration(torch.where(some[..., None], weights, 0.0))
    effective = 1 / torch.where(some, shared, torch.nan)
    kept = torch.where(seen, scores, 0.0)
    centre = kept.sum(-1, keepdim=True) / count[..., None]
    variance = torch.where(seen, (kept - centre).square(), 0.0).sum(-1) / count
    columns = (
        torch.where(some, entropy, torch.nan),
        torch.where(some, entropy.exp(), torch.nan),
        effective,
        torch.where(count > 1, variance, torch.nan),
        torch.where(some, count.float(), torch.nan),
    )
    return torch.stack([column.nanmean(-1) for column in columns], dim=-1)


class _AttentionMode(TorchFunctionMode):
    """Passes the masked scores of every softmax attention in a forward pass to `handle`, if `enabled()` is true."""

    def __init__(self, enabled: Callable[[], bool], handle: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.enabled, self.handle = enabled, handle

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _ATTENTION_FUNCTIONS or not self.enabled():
            return func(*args, **kwargs)
        if func is nn.functional.scaled_dot_product_attention:
            for scores in _fused_scores(*args, **kwargs):
                self.handle(scores)
        elif func is nn.functional.multi_head_attention_forward:  # a mode does not see the calls inside this function
            with torch.no_grad():
                options = {**kwargs, "need_weights": True, "average_attn_weights": False, "training": False}
                self.handle(func(*args, **options)[1].log())  # scores up to a constant for each query
        else:
            scores = args[0] if args else kwargs["input"]
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if scores.dim() == 4 and dim in (-1, 3):
                self.handle(scores)
        return func(*args, **kwargs)


_ATTENTION_FUNCTIONS = (
    nn.functional.scaled_dot_product_attention,
    nn.functional.multi_head_attention_forward,
    nn.functional.softmax,
    torch.softmax,
    Tensor.softmax,
)


def _fused_scores(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Iterator[Tensor]:
    """The masked scores of a call of torch's fused attention, a few sequences at a time."""
    if query.dim() != 4:
        return
    queries, keys = query.shape[-2], key.shape[-2]
    with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
        mask = attn_mask
        if is_causal:
            mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril()
        step = max(1, _CHUNK // max(1, query.shape[1] * queries * keys))
        for first in range(0, len(query), step):
            q, k = query[first : first + step].float(), key[first : first + step].float()
            if q.shape[1] != k.shape[1]:
                k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
            scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
            if mask is not None:
                part = mask[first : first + step] if mask.dim() == 4 and mask.shape[0] > 1 else mask
                added = part.is_floating_point()
                hidden = part <= _mask_threshold(part.dtype) if added else ~part
                scores = (scores + part if added else scores).masked_fill(hidden, -torch.inf)
            yield scores


# The tensor that is measured.


def _first_tensor(out: Any) -> Tensor | None:
    """The tensor of a module's output that is measured, or None if there is none."""
    if isinstance(out, Tensor):
        return out if out.is_floating_point() and out.dim() >= 2 else None
    for name in ("last_hidden_state", "logits"):
        if isinstance(getattr(out, name, None), Tensor):
            return _first_tensor(getattr(out, name))
    parts: Iterable[Any] = ()
    if isinstance(out, Mapping):
        parts = out.values()
    elif isinstance(out, (tuple, list)):
        parts = out
    elif dataclasses.is_dataclass(out):
        parts = (getattr(out, one.name, None) for one in dataclasses.fields(out))
    return next((found for part in parts if (found := _first_tensor(part)) is not None), None)


class _ViewGradient:
    """The gradient with respect to an output as its module returned it, if that output is a view.

    A hook on a tensor receives the gradient with respect to the tensor's value at the time the hook was registered, unless the
    tensor is a view. After an in-place write to a view, or to another view of the same base, the gradient of later reads does
    not pass through the view's node in the graph: a node ``CopySlices`` sends it directly to the base. The gradient is then the
    sum over both paths. Graph nodes refer to this object through their hooks, so it must not refer to any node.
    """

    def __init__(self, first: Tensor, base: Tensor, keep: Callable[[Tensor], None], lost: Callable[[Tensor], None]) -> None:
        self.keep, self.lost = keep, lost
        # An empty alias shares the counter of in-place writes, but does not keep the memory alive.
        self.writes = first.detach()
        self.writes.data = first.new_empty(0)
        self.version = self.writes._version
        self.base = (base.size(), base.stride(), base.storage_offset())
        self.view = (first.size(), first.stride(), first.storage_offset())
        self.written = self.unknown = False
        self.parts: list[Tensor] = []

    def find_writes(self, base: Tensor, origin: Any) -> None:
        """Hook the node of the first in-place write; `origin` is the node of the base when the module returned.

        Autograd records every in-place write as a node. After a write that it does not record, it recreates the nodes of views,
        and the gradient of later reads cannot be observed.
        """
        writes, self.version = self.writes._version - self.version, self.writes._version
        node, first = base.grad_fn, None
        while node is not None and node is not origin and node.name().endswith("CopySlices"):
            node, first, writes = node.next_functions[0][0], node, writes - 1
        self.unknown = node is not origin or writes != 0
        if first is not None and not self.unknown:
            self.written = True
            first.register_hook(self.add_from_writes)

    def is_known(self) -> bool:
        return not self.unknown and self.version == self.writes._version

    def add_from_view(self, gradient: Tensor) -> None:
        if self.is_known() and not self.written:
            self.keep(gradient)
        else:
            self.parts.append(gradient)

    def add_from_writes(self, gradients: Sequence[Tensor | None], output_gradients: Any) -> None:
        whole = gradients[0]
        if whole is None:
            return
        size, stride, offset = self.base
        if whole.stride() != stride:
            whole = torch.empty_strided(size, stride, dtype=whole.dtype, device=whole.device).copy_(whole)
        size, stride, start = self.view
        self.parts.append(whole.as_strided(size, stride, start - offset + whole.storage_offset()))

    def finish(self, gradients: Any) -> None:
        """Add up both paths; called when the gradient with respect to the base is complete."""
        parts, self.parts = self.parts, []
        if not self.is_known():
            self.lost(self.writes)
        elif parts:
            self.keep(functools.reduce(torch.add, parts))


# The probe itself.


@dataclass
class _Step:
    """Measurements of the current step by site: for each pass a tensor with a row per sequence."""

    outputs: dict[str, list[Tensor]] = field(default_factory=dict)
    ranks: dict[str, list[Tensor]] = field(default_factory=dict)
    gradients: dict[str, list[Tensor]] = field(default_factory=dict)
    attention: dict[str, list[Tensor]] = field(default_factory=dict)
    exact: dict[tuple[str, str], float] = field(default_factory=dict)
    before: dict[str, Tensor] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)


class _Probe:
    def __init__(
        self,
        model: nn.Module,
        quantities: tuple[str, ...],
        sites: dict[str, nn.Module],
        optimizer: torch.optim.Optimizer | None,
        steps: Steps,
        start: int,
        run: str,
        per_head: bool,
    ) -> None:
        self.model, self.quantities, self.sites, self.optimizer = model, quantities, sites, optimizer
        self.is_measured = steps if callable(steps) else (lambda step: steps is None or step in steps)
        self.step, self.run, self.per_head = start, run, per_head
        self.rows = Rows()
        self.seen = _Step()
        self.attached = contextlib.ExitStack()
        self.running: list[str] = []
        self.views: list[tuple[_ViewGradient, Tensor, Any]] = []
        self.attention_mode: _AttentionMode | None = None
        self.active = False

    def _any(self, names: tuple[str, ...]) -> bool:
        return any(name in self.quantities for name in names)

    # Steps.

    def begin(self) -> None:
        """Attach the hooks, if the step is measured."""
        if not self.is_measured(self.step):
            return
        self.active = True
        self.seen = _Step()
        outputs = self._any((*MOMENTS, *RANKS, *GRADIENTS))
        for name, part in self.sites.items():
            if outputs and not isinstance(part, (nn.ModuleList, nn.ModuleDict)):
                self._remove_later(part.register_forward_hook(functools.partial(self._measure_output, name)))
        if self._any((*ATTENTION, *GRADIENTS)):
            for name, part in _select_modules(self.model, None).items():
                self._remove_later(part.register_forward_pre_hook(functools.partial(self._enter, name)))
                self._remove_later(part.register_forward_hook(self._leave, always_call=True))
        if self._any(WEIGHTS):
            self._measure_weights()
        if _is_compiled(self.model):
            self.attached.enter_context(torch.compiler.set_stance("force_eager"))

    def end(self) -> None:
        """Remove the hooks and add the rows of the step."""
        if self.active:
            self.attached.close()
            self.active = False
            self.views.clear()
            self._write()

    def next_step(self) -> None:
        """End this step and begin the next."""
        self.end()
        self.step += 1
        self.begin()

    @contextlib.contextmanager
    def optimizer_hooks(self) -> Iterator[None]:
        """Context in which each optimizer step ends a step of the probe."""
        if self.optimizer is None:
            yield
            return
        before = self.optimizer.register_step_pre_hook(self._before_update)
        after = self.optimizer.register_step_post_hook(self._after_update)
        try:
            yield
        finally:
            before.remove()
            after.remove()

    def _remove_later(self, handle: Any) -> None:
        self.attached.callback(handle.remove)

    # Hooks.

    def _measure_output(self, name: str, part: nn.Module, inputs: Any, out: Any) -> None:
        first = _first_tensor(out)
        if first is None:
            return
        x = _join_heads(part, first)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            if self._any(MOMENTS):
                _keep(self.seen.outputs, name, _moments(x))
            if self._any(RANKS) and x.dim() == 3:
                _keep(self.seen.ranks, name, _ranks(x))
        if self._any(GRADIENTS) and first.requires_grad:
            keep = functools.partial(self._gradient, name, part, self.seen)
            base = first._base
            if base is None or base.grad_fn is None or base.dtype != first.dtype:
                first.register_hook(keep)
                return
            view = _ViewGradient(first, base, keep, functools.partial(self._lose, name, len(first), self.seen))
            origin = base.grad_fn
            first.register_hook(view.add_from_view)
            origin.register_prehook(view.finish)
            self.views.append((view, base, origin))

    def _gradient(self, name: str, part: nn.Module, seen: _Step, gradient: Tensor) -> None:
        with torch.no_grad():
            _keep(seen.gradients, name, _moments(_join_heads(part, gradient)))

    def _lose(self, name: str, sequences: int, seen: _Step, like: Tensor) -> None:
        _keep(seen.gradients, name, torch.full((sequences, 3), torch.nan, device=like.device))
        seen.lost.add(name)

    def _enter(self, name: str, part: nn.Module, inputs: Any) -> None:
        if not self.running and self._any(ATTENTION):
            self.attention_mode = _AttentionMode(lambda: self._attention_site() is not None, self._measure_attention)
            self.attention_mode.__enter__()
        self.running.append(name)

    def _leave(self, part: nn.Module, inputs: Any, out: Any) -> None:
        if not self.running:
            return
        self.running.pop()
        if not self.running:  # the outermost module has returned, so all in-place writes of the model are done
            for view, base, origin in self.views:
                view.find_writes(base, origin)
            self.views.clear()
        if not self.running and self.attention_mode is not None:
            self.attention_mode.__exit__(None, None, None)
            self.attention_mode = None

    def _attention_site(self) -> str | None:
        """The site of the module that calls softmax, or of the nearest enclosing module that is measured."""
        return next((name for name in reversed(self.running) if name in self.sites), None)

    def _measure_attention(self, scores: Tensor) -> None:
        name = self._attention_site()
        if name is not None:
            with torch.no_grad(), torch.autocast(scores.device.type, enabled=False):
                _keep(self.seen.attention, name, _attention(scores))

    # Parameters.

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        seen = set()
        for name, part in self.sites.items():
            for leaf, parameter in part.named_parameters(recurse=False):
                if id(parameter) not in seen:  # tied parameters appear once
                    seen.add(id(parameter))
                    yield ".".join(filter(None, (name, leaf))), parameter

    def _measure_weights(self) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters():
                if parameter.dim() >= 2 and parameter.numel() > max(parameter.shape):
                    matrix = (
                        parameter if parameter.dim() == 3 else parameter.flatten(1)
                    )  # weights of experts are stacked along the first axis
                    stable, effective = _ranks(matrix).reshape(-1, 2).mean(0).tolist()
                    self.seen.exact[name, "weight_stable_rank"] = stable
                    self.seen.exact[name, "weight_effective_rank"] = effective

    def _before_update(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self.active and "update_ratio" in self.quantities:
            self.seen.before = {name: parameter.detach().clone() for name, parameter in self._parameters()}

    def _after_update(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self.active:
            now = dict(self._parameters())
            with torch.no_grad():
                for name, old in self.seen.before.items():
                    change, size = (now[name] - old).float().norm(), old.float().norm()
                    ratio = (change / size).item() if size > 0 else (math.inf if change > 0 else 0.0)
                    self.seen.exact[name, "update_ratio"] = ratio
        self.next_step()

    # Rows.

    def _write(self) -> None:
        if self.seen.lost:
            sites = ", ".join(sorted(self.seen.lost))
            reason = "its output was changed in place and the change cannot be traced"
            warnings.warn(f"probe: the gradient is nan at {sites}: {reason}", stacklevel=2)
        order = {name: place for place, name in enumerate(self.sites)}
        found: list[tuple[str, str, float, float]] = []
        for kind, names, prefix in ((self.seen.outputs, MOMENTS, ""), (self.seen.gradients, MOMENTS, "gradient_")):
            for site, parts in kind.items():
                values = _with_error(torch.cat(parts), _named_moments)
                # An output without pairs of tokens has no covariance; if the output itself is NaN, all its moments are rows.
                paired = math.isnan(values["mean"][0]) or not math.isnan(values["covariance"][0])
                found += [(site, prefix + name, *values[name]) for name in (names if paired else names[:3])]
        for site, parts in self.seen.ranks.items():
            values = _with_error(torch.cat(parts), lambda m: dict(zip(RANKS, m.unbind(-1), strict=True)))
            found += [(site, name, *values[name]) for name in RANKS]
        for site, parts in self.seen.attention.items():
            values = _with_error(torch.cat([part.nanmean(1) for part in parts]), _named_attention)
            found += [(site, name, *values[name]) for name in ATTENTION]
            alike = len({part.shape[1] for part in parts}) == 1
            for head in range(parts[0].shape[1]) if self.per_head and alike else ():
                values = _with_error(torch.cat([part[:, head] for part in parts]), _named_attention)
                found += [(f"{site}.head.{head}", name, *values[name]) for name in ATTENTION]
        found = [row for row in found if row[1] in self.quantities]
        found.sort(key=lambda row: order[_site(row[0], order)])
        found += [(site, name, value, 0.0) for (site, name), value in self.seen.exact.items() if name in self.quantities]
        self.rows += [dict(zip(COLUMNS, (self.run, self.step, *row), strict=True)) for row in found]


def _site(name: str, order: dict[str, int]) -> str:
    return name if name in order else name.rpartition(".head.")[0]


def _named_attention(m: Tensor) -> dict[str, Tensor]:
    return dict(zip(ATTENTION, m.unbind(-1), strict=True))


def _join_heads(part: nn.Module, x: Tensor) -> Tensor:
    """Reshape (batch, heads, tokens, dim) to (batch, tokens, heads * dim), if the module has separate heads."""
    return x.transpose(1, 2).flatten(2) if getattr(part, "heads_apart", False) and x.dim() == 4 else x


def _keep(place: dict[str, list[Tensor]], name: str, value: Tensor | None) -> None:
    if value is not None:
        place.setdefault(name, []).append(value)


def _with_error(each: Tensor, of: Callable[[Tensor], dict[str, Tensor]]) -> dict[str, tuple[float, float]]:
    """Values of `of` at the mean over sequences of `each`, shape (n, k), with jackknife standard errors."""
    each = each.double().cpu()
    count = len(each)
    values = of(each.mean(0))
    if count < 2:
        return {name: (value.item(), math.nan) for name, value in values.items()}
    without = of((each.sum(0) - each) / (count - 1))
    errors = {name: ((count - 1) / count * (w - w.mean()).square().sum()).sqrt() for name, w in without.items()}
    return {name: (value.item(), errors[name].item()) for name, value in values.items()}
