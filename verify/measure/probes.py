# mypy: disable-error-code="misc"
"""Probes: what happens at every site of a live model, ours or anyone's, as tidy rows.

>>> from depthwidth import Transformer
>>> from verify import build
>>> model = build(Transformer(depth=2, width=32, heads=4, vocab=50, context=16), seed=1)
>>> tokens = torch.randint(50, (8, 16), generator=torch.Generator().manual_seed(0))
>>> with probe(model, quantities=["variance", "entropy"], sites=["*.attention", "*.mix"]) as rows:
...     logits = model(tokens)
>>> [(row["site"], row["quantity"]) for row in rows][:3]
[('decoder.block.0.attention', 'variance'), ('decoder.block.0.attention.mix', 'variance'),
 ('decoder.block.0.attention.mix', 'entropy')]

A probe uses torch's hooks and nothing of it is attached outside the ``with`` block, or at steps that are not measured: there
it costs nothing. Where it measures, it reads; the model computes what it would have computed.
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

from depthwidth.errors import InputError, nearest, shown

from ..models.locate import WRAPPERS
from .attention import concentration

MOMENTS = ("mean", "second_moment", "variance", "covariance", "correlation")
"""Of an output (batch, tokens, features), as ``propagate`` has them: covariance and correlation of two different tokens."""
RANKS = ("stable_rank", "effective_rank")
"""Of the matrix (tokens, features) of each sequence."""
GRADIENTS = tuple(f"gradient_{name}" for name in MOMENTS)
"""The moments of the gradient of an output."""
ATTENTION = ("entropy", "entropy_tokens", "effective_tokens", "score_variance", "visible_tokens")
"""Of softmax attention, averaged over queries and heads."""
WEIGHTS = ("weight_stable_rank", "weight_effective_rank")
"""Of each weight matrix, by the name of the parameter."""
UPDATES = ("update_ratio",)
"""Of each parameter across an optimizer's step."""
QUANTITIES = (*MOMENTS, *GRADIENTS, *ATTENTION, *RANKS, *WEIGHTS, *UPDATES)
COLUMNS = ("run", "step", "site", "quantity", "value", "stderr")

Sites = str | Iterable[str] | Callable[[str, nn.Module], bool] | None
Steps = Collection[int] | Callable[[int], bool] | None

_CHUNK = 2**24  # scores looked at in one go


class Rows(list[dict[str, Any]]):
    """Rows with the columns run, step, site, quantity, value and stderr."""

    def __init__(self) -> None:
        super().__init__()
        self._next: Callable[[], None] | None = None

    def next_step(self) -> None:
        """End the step: write its rows down and begin the next one. With an optimizer this happens by itself.

        Raises
        ------
        InputError
            when the probe has ended.
        """
        if self._next is None:
            raise InputError("the probe has ended, and there is no next step")
        self._next()

    def frame(self) -> Any:
        """The rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(list(self), columns=list(COLUMNS))

    def value(self, site: str, quantity: str, step: int | None = None) -> float:
        """One value; of the last step that was measured where none is named.

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
    model : any module. Sites are the names of its modules, without the prefixes of compilers and data parallel wrappers.
    quantities : any of :data:`QUANTITIES`:

        - ``mean``, ``second_moment``, ``variance``, ``covariance``, ``correlation`` of the output (batch, tokens, features) of
          a module, over features; the last two over pairs of different tokens of a sequence. ``variance`` is the second moment
          less the squared mean, as in the columns of :func:`depthwidth.propagate`. An output (batch, features) has the first
          three; of a tuple, dictionary or data class the first floating-point tensor of two dimensions or more is meant, of one
          of transformers' outputs the last hidden state or the logits. Where tokens come first (``batch_first=False``) tokens
          and sequences are exchanged.
        - ``gradient_mean`` .. ``gradient_correlation``: of the gradient of that output as the module returned it, whatever
          is written into it afterwards; as the loss scales it.
        - ``entropy`` in nats, ``entropy_tokens`` exp(entropy), ``effective_tokens`` 1/sum p^2, ``score_variance`` over the keys
          a query sees, ``visible_tokens`` that it sees: of each softmax attention, averaged over queries, then heads.
        - ``stable_rank`` ||X||_F^2 / ||X||_2^2 and ``effective_rank`` exp(entropy of the normalised singular values) (Roy &
          Vetterli 2007) of each sequence's output; ``weight_stable_rank``, ``weight_effective_rank`` of weight matrices, before
          the step.
        - ``update_ratio`` ||new - old|| / ||old|| of each parameter, across the optimizer's step.
    sites : which modules: names or patterns like ``"*.attention"``, or a function of name and module; all by default.
        Parameters belong to their module's site.
    optimizer : after each of its steps a step ends; needed for ``update_ratio``.
    steps : at which steps to measure, as numbers or as a function; all by default. At others nothing is attached.
    start : the number of the first step.
    run : what the column `run` says.
    per_head : whether attention has a row for each head as well, at ``site.head.0`` and so on.

    Yields
    ------
    :class:`Rows`, a list of dictionaries with the keys of :data:`COLUMNS`; a step's rows are there when it ends: at the end of
    the ``with`` block, after the optimizer's step, or after ``rows.next_step()``. `stderr` is the standard error over the
    sequences of the step (jackknife), nan for one sequence, 0 for weights, which are known exactly. Of a model that has
    diverged the values are nan or infinite.

    Raises
    ------
    InputError
        if a quantity is unknown, no module has one of the `sites`, none of either is named, or ``update_ratio`` has no
        optimizer.

    Warns
    -----
    UserWarning
        names the sites whose gradient is nan because it cannot be had: their output shares its memory with other tensors
        (a view, as torch's linear maps of three dimensions return) and was changed in place where no probe can follow, outside
        of the model's modules for one.

    Notes
    -----
    Several passes within a step (gradient accumulation) and several calls of one module within a pass are pooled.

    Attention is found where a module calls ``scaled_dot_product_attention``, torch's own multi-head attention, or the softmax
    of scores (batch, heads, queries, keys): eager and fused attention of torch and transformers, with grouped queries, masks
    and soft caps. Not covered are kernels that are none of these (flex attention, external flash attention). A key is seen when
    its masked score is nowhere near the lowest number of its type. The weights are those before dropout. The row stands at the
    module that makes the call (``mix`` in ours), or at the nearest one around it among `sites`.

    Compiled models run uncompiled at the steps that are measured. With activation checkpointing a block's outputs count twice.

    A measured step takes, in times of a plain training step, at all sites of 4 blocks of width 256 on 8 x 128 tokens, on one
    thread of a shared CPU (``tests/benchmarks/probes.py``): 1.2 for moments, 1.3 with those of gradients, 1.1 for attention,
    1.4 for all of these; 2.8 for the ranks of outputs, 1.4 for those of weights, 1.0 for updates. A step that is not measured
    takes 1.0, as nothing is attached.
    """
    asked = _asked(quantities, optimizer)
    if _is_compiled(model) and not hasattr(torch.compiler, "set_stance"):
        raise InputError("probe: to measure a compiled model uncompiled takes torch 2.6 or later; give the model itself")
    state = _Probe(model, asked, _chosen(model, sites), optimizer, steps, start, run, per_head)
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
    """By ``torch.compile(part)`` or by ``part.compile()``, the whole or a part."""
    return any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in model.modules())


def _asked(quantities: str | Iterable[str], optimizer: Any) -> tuple[str, ...]:
    asked = (quantities,) if isinstance(quantities, str) else tuple(quantities)
    for name in asked:
        if name not in QUANTITIES:
            raise InputError(f"probe: there is no quantity {shown(name)}{nearest(str(name), QUANTITIES)}")
    if not asked:
        raise InputError("probe: quantities names none, and there is nothing to measure")
    if "update_ratio" in asked and optimizer is None:
        raise InputError("probe: update_ratio is measured across a step of an optimizer; give optimizer=")
    return asked


def _chosen(model: nn.Module, sites: Sites) -> dict[str, nn.Module]:
    """The modules that are measured, by the name of their site."""
    every = {}
    for name, part in model.named_modules():
        plain = WRAPPERS.sub("", f"{name}.").removesuffix(".")
        every[plain] = part  # of a wrapper and what it wraps, the inner one
    if sites is None:
        return every
    if callable(sites):
        found = {name: part for name, part in every.items() if sites(name, part)}
        if not found:
            raise InputError("probe: no module of the model passes the filter of sites")
        return found
    patterns = (sites,) if isinstance(sites, str) else tuple(sites)
    if not patterns:
        raise InputError("probe: sites names none, and there is nothing to measure; None are all")
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in every):
            raise InputError(f"probe: no module is called {shown(pattern)}{nearest(pattern, every)}")
    return {name: part for name, part in every.items() if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}


# What is computed of a tensor, for each sequence.


def _moments(x: Tensor) -> Tensor | None:
    """Mean, second moment and product over pairs of tokens, for each sequence: (batch, 3); the last nan without pairs."""
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
    """The five moments from means over sequences of the three that add up: (..., 3)."""
    mean, second, pair = m.unbind(-1)
    variance, covariance = second - mean**2, pair - mean**2
    correlation = torch.where(variance > 0, covariance / variance, 0.0 * covariance)
    return dict(zip(MOMENTS, (mean, second, variance, covariance, correlation), strict=True))


def _ranks(x: Tensor) -> Tensor:
    """Stable and effective rank of each matrix (.., rows, columns): (.., 2)."""
    x = x.detach().double()
    finite = x.isfinite().all(-1).all(-1)  # the rest of a run that diverged has no ranks, and no decomposition either
    x = torch.where(finite[..., None, None], x, 0.0)
    gram = x @ x.mT if x.shape[-2] <= x.shape[-1] else x.mT @ x
    squared = torch.linalg.eigvalsh(gram).clamp(min=0)
    top = squared[..., -1]
    sizes = squared.sqrt()
    # Eigenvalues of the Gram matrix are good to 1e-16 of the largest, singular values to the root of that.
    shares = torch.where(sizes > 1e-7 * sizes[..., -1:], sizes, 0.0)
    shares = shares / shares.sum(-1, keepdim=True)
    effective = torch.special.entr(shares).sum(-1).exp()
    ranks = torch.stack((squared.sum(-1) / top, effective), dim=-1)
    return torch.where((finite & (top > 0))[..., None], ranks, torch.nan)


def _hidden_below(dtype: torch.dtype) -> float:
    """Masked scores are minus infinity or the lowest number there is, which a model may go on to scale (CodeGen)."""
    return float(torch.finfo(dtype).min) * (1 / 64 if dtype == torch.float16 else 1e-6)


def _attention(scores: Tensor) -> Tensor:
    """The quantities of :data:`ATTENTION` from masked scores (batch, heads, queries, keys): (batch, heads, 5)."""
    scores = scores.detach()
    seen = scores > _hidden_below(scores.dtype)
    scores = scores.float()
    count = seen.sum(-1)
    weights = torch.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1)
    some = count > 0  # a query that sees nothing (padding) has no weights
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


class _Watch(TorchFunctionMode):
    """Sees every softmax attention while a model runs forward, and hands its scores on."""

    def __init__(self, wanted: Callable[[], bool], found: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.wanted, self.found = wanted, found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _ATTENDING or not self.wanted():
            return func(*args, **kwargs)
        if func is nn.functional.scaled_dot_product_attention:
            for scores in _fused_scores(*args, **kwargs):
                self.found(scores)
        elif func is nn.functional.multi_head_attention_forward:  # torch's own, whose inside is hidden from a mode
            with torch.no_grad():
                whole = {**kwargs, "need_weights": True, "average_attn_weights": False, "training": False}
                self.found(func(*args, **whole)[1].log())  # scores up to a constant for each query
        else:
            scores = args[0] if args else kwargs["input"]
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if scores.dim() == 4 and dim in (-1, 3):
                self.found(scores)
        return func(*args, **kwargs)


_ATTENDING = (
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
    """The masked scores of a call of torch's fused attention, some sequences at a time."""
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
                hidden = part <= _hidden_below(part.dtype) if added else ~part
                scores = (scores + part if added else scores).masked_fill(hidden, -torch.inf)
            yield scores


# Whose moments these are.


def _first_tensor(out: Any) -> Tensor | None:
    """What of a module's output is measured."""
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


class _Returned:
    """The gradient of an output as its module returned it, where that output is a view.

    A hook on a tensor sees the gradient of what the tensor was when the hook was put on, unless the tensor is a view. Once
    something is written into a view, or into another one of the same base, autograd sends the gradient of what is read
    afterwards around the view's own place in the graph: through a node ``CopySlices`` straight to the base. The gradient is
    then the sum of both ways. Nodes come to hold this object by their hooks, so it must not hold any of them.
    """

    def __init__(self, first: Tensor, base: Tensor, keep: Callable[[Tensor], None], lost: Callable[[Tensor], None]) -> None:
        self.keep, self.lost = keep, lost
        # An alias without contents has the counter of writes, but does not keep the memory.
        self.writes = first.detach()
        self.writes.data = first.new_empty(0)
        self.version = self.writes._version
        self.base = (base.size(), base.stride(), base.storage_offset())
        self.view = (first.size(), first.stride(), first.storage_offset())
        self.around = self.unknown = False
        self.ways: list[Tensor] = []

    def settle(self, base: Tensor, origin: Any) -> None:
        """Look for the way around; `origin` is the node that the base came from when the module returned.

        Every write that autograd follows is a node. After one that it does not follow, it makes the nodes of views anew, and
        what is then read of them is in nobody's sight.
        """
        writes, self.version = self.writes._version - self.version, self.writes._version
        node, first = base.grad_fn, None
        while node is not None and node is not origin and node.name().endswith("CopySlices"):
            node, first, writes = node.next_functions[0][0], node, writes - 1
        self.unknown = node is not origin or writes != 0
        if first is not None and not self.unknown:
            self.around = True
            first.register_hook(self.through_writes)

    def known(self) -> bool:
        return not self.unknown and self.version == self.writes._version

    def through_view(self, gradient: Tensor) -> None:
        if self.known() and not self.around:
            self.keep(gradient)
        else:
            self.ways.append(gradient)

    def through_writes(self, gradients: Sequence[Tensor | None], behind: Any) -> None:
        whole = gradients[0]
        if whole is None:
            return
        size, stride, offset = self.base
        if whole.stride() != stride:
            whole = torch.empty_strided(size, stride, dtype=whole.dtype, device=whole.device).copy_(whole)
        size, stride, start = self.view
        self.ways.append(whole.as_strided(size, stride, start - offset + whole.storage_offset()))

    def arrived(self, gradients: Any) -> None:
        """Both ways have been gone: the gradient of the base is complete."""
        ways, self.ways = self.ways, []
        if not self.known():
            self.lost(self.writes)
        elif ways:
            self.keep(functools.reduce(torch.add, ways))


# The probe itself.


@dataclass
class _Step:
    """What has been seen in the step under way, by site: for each pass a tensor with a row for each sequence."""

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
        asked: tuple[str, ...],
        sites: dict[str, nn.Module],
        optimizer: torch.optim.Optimizer | None,
        steps: Steps,
        start: int,
        run: str,
        per_head: bool,
    ) -> None:
        self.model, self.asked, self.sites, self.optimizer = model, asked, sites, optimizer
        self.wanted = steps if callable(steps) else (lambda step: steps is None or step in steps)
        self.step, self.run, self.per_head = start, run, per_head
        self.rows = Rows()
        self.seen = _Step()
        self.attached = contextlib.ExitStack()
        self.running: list[str] = []
        self.returned: list[tuple[_Returned, Tensor, Any]] = []
        self.watch: _Watch | None = None
        self.active = False

    def _any(self, names: tuple[str, ...]) -> bool:
        return any(name in self.asked for name in names)

    # Steps.

    def begin(self) -> None:
        """Attach what the step needs, if it is one to measure."""
        if not self.wanted(self.step):
            return
        self.active = True
        self.seen = _Step()
        outputs = self._any((*MOMENTS, *RANKS, *GRADIENTS))
        for name, part in self.sites.items():
            if outputs and not isinstance(part, (nn.ModuleList, nn.ModuleDict)):
                self._hold(part.register_forward_hook(functools.partial(self._out, name)))
        if self._any((*ATTENTION, *GRADIENTS)):
            for name, part in _chosen(self.model, None).items():
                self._hold(part.register_forward_pre_hook(functools.partial(self._enter, name)))
                self._hold(part.register_forward_hook(self._leave, always_call=True))
        if self._any(WEIGHTS):
            self._weigh()
        if _is_compiled(self.model):
            self.attached.enter_context(torch.compiler.set_stance("force_eager"))

    def end(self) -> None:
        """Take everything off again and write the rows down."""
        if self.active:
            self.attached.close()
            self.active = False
            self.returned.clear()
            self._write()

    def next_step(self) -> None:
        """The end of one step and the begin of the next."""
        self.end()
        self.step += 1
        self.begin()

    @contextlib.contextmanager
    def optimizer_hooks(self) -> Iterator[None]:
        """The optimizer's steps as ours."""
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

    def _hold(self, handle: Any) -> None:
        self.attached.callback(handle.remove)

    # Hooks.

    def _out(self, name: str, part: nn.Module, given: Any, out: Any) -> None:
        first = _first_tensor(out)
        if first is None:
            return
        x = _joined(part, first)
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
            returned = _Returned(first, base, keep, functools.partial(self._lose, name, len(first), self.seen))
            origin = base.grad_fn
            first.register_hook(returned.through_view)
            origin.register_prehook(returned.arrived)
            self.returned.append((returned, base, origin))

    def _gradient(self, name: str, part: nn.Module, seen: _Step, gradient: Tensor) -> None:
        with torch.no_grad():
            _keep(seen.gradients, name, _moments(_joined(part, gradient)))

    def _lose(self, name: str, sequences: int, seen: _Step, like: Tensor) -> None:
        _keep(seen.gradients, name, torch.full((sequences, 3), torch.nan, device=like.device))
        seen.lost.add(name)

    def _enter(self, name: str, part: nn.Module, given: Any) -> None:
        if not self.running and self._any(ATTENTION):
            self.watch = _Watch(lambda: self._attending() is not None, self._attended)
            self.watch.__enter__()
        self.running.append(name)

    def _leave(self, part: nn.Module, given: Any, out: Any) -> None:
        if not self.running:
            return
        self.running.pop()
        if not self.running:  # the outermost is done, and what its modules wrote in place is written
            for returned, base, origin in self.returned:
                returned.settle(base, origin)
            self.returned.clear()
        if not self.running and self.watch is not None:
            self.watch.__exit__(None, None, None)
            self.watch = None

    def _attending(self) -> str | None:
        """The module that calls softmax, or the nearest one around it that was asked for."""
        return next((name for name in reversed(self.running) if name in self.sites), None)

    def _attended(self, scores: Tensor) -> None:
        name = self._attending()
        if name is not None:
            with torch.no_grad(), torch.autocast(scores.device.type, enabled=False):
                _keep(self.seen.attention, name, _attention(scores))

    # Parameters.

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        done = set()
        for name, part in self.sites.items():
            for leaf, parameter in part.named_parameters(recurse=False):
                if id(parameter) not in done:  # tied ones once
                    done.add(id(parameter))
                    yield ".".join(filter(None, (name, leaf))), parameter

    def _weigh(self) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters():
                if parameter.dim() >= 2 and parameter.numel() > max(parameter.shape):
                    matrix = parameter if parameter.dim() == 3 else parameter.flatten(1)  # experts are stacked
                    stable, effective = _ranks(matrix).reshape(-1, 2).mean(0).tolist()
                    self.seen.exact[name, "weight_stable_rank"] = stable
                    self.seen.exact[name, "weight_effective_rank"] = effective

    def _before_update(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self.active and "update_ratio" in self.asked:
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
            warnings.warn(f"probe: no gradient at {sites}, whose output was changed in place out of sight: nan", stacklevel=2)
        order = {name: place for place, name in enumerate(self.sites)}
        found: list[tuple[str, str, float, float]] = []
        for kind, names, prefix in ((self.seen.outputs, MOMENTS, ""), (self.seen.gradients, MOMENTS, "gradient_")):
            for site, parts in kind.items():
                values = _with_error(torch.cat(parts), _named_moments)
                # An output without pairs of tokens has no covariance; one that is no number has all as such.
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
        found = [row for row in found if row[1] in self.asked]
        found.sort(key=lambda row: order[_site(row[0], order)])
        found += [(site, name, value, 0.0) for (site, name), value in self.seen.exact.items() if name in self.asked]
        self.rows += [dict(zip(COLUMNS, (self.run, self.step, *row), strict=True)) for row in found]


def _site(name: str, order: dict[str, int]) -> str:
    return name if name in order else name.rpartition(".head.")[0]


def _named_attention(m: Tensor) -> dict[str, Tensor]:
    return dict(zip(ATTENTION, m.unbind(-1), strict=True))


def _joined(part: nn.Module, x: Tensor) -> Tensor:
    """Heads side by side where the mixed values (batch, heads, tokens, dim) of our own attention come out."""
    return x.transpose(1, 2).flatten(2) if getattr(part, "heads_apart", False) and x.dim() == 4 else x


def _keep(place: dict[str, list[Tensor]], name: str, value: Tensor | None) -> None:
    if value is not None:
        place.setdefault(name, []).append(value)


def _with_error(each: Tensor, of: Callable[[Tensor], dict[str, Tensor]]) -> dict[str, tuple[float, float]]:
    """Functions of the mean over sequences (n, k), each with its jackknife standard error."""
    each = each.double().cpu()
    count = len(each)
    values = of(each.mean(0))
    if count < 2:
        return {name: (value.item(), math.nan) for name, value in values.items()}
    without = of((each.sum(0) - each) / (count - 1))
    errors = {name: ((count - 1) / count * (w - w.mean()).square().sum()).sqrt() for name, w in without.items()}
    return {name: (value.item(), errors[name].item()) for name, value in values.items()}
