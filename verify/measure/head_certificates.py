# mypy: disable-error-code="no-any-return"
"""Certificates of the ranks of a model's heads under weight decay, from one gradient with respect to each product of maps.

Coupled weight decay of both factors is a penalty on the nuclear norm of their product. At a minimum no singular value of the
loss's gradient with respect to the product exceeds the decay, and the number of those equal to it bounds the rank
(:func:`depthwidth.numerics.factorisation.certificate`). The gradient is that of the loss in the map from a token to a token,
with everything else held: of scores, sums of ``x_q x_k'`` times the derivative of the loss by the score; of outputs, sums of
the mixed input of a head times the derivative by the attention's output.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from depthwidth.analysis.head_ranks import attentions
from depthwidth.architecture import Transformer
from depthwidth.errors import InputError, shown
from depthwidth.formulas.implicit_rank import useful_head_dim
from depthwidth.hub import local_checkpoint
from depthwidth.numerics.factorisation import Certificate, certificate, joint_certificate
from depthwidth.numerics.spectra import SHARE, Ranks, product_sizes, ranks

from ..models.attention import Attention
from ..models.convert import from_hf
from ..models.locate import tree_of
from .head_models import calibration_tokens, load_model

if TYPE_CHECKING:
    from ..models.positions import Rotary

TOLERANCE = 1e-2
"""Relative, of the singular values of gradients: trainings end near a minimum, not at one."""


@dataclass(frozen=True)
class HeadCertificate:
    """The certificate of one product of one head, or of the heads that share a key or value, whose product is their stack."""

    stack: str
    layer: int
    kv_head: int
    product: str
    """``query-key`` or ``value-output``."""
    dim: int
    """Dimensions of a head."""
    ranks: Ranks
    """Of the product as it is."""
    found: Certificate

    @property
    def predicted(self) -> int:
        """The largest rank of a minimiser with the present gradient, of the dimensions that there are."""
        return int(useful_head_dim(self.dim, self.found.rank))

    def to_dict(self) -> dict[str, Any]:
        """One row of plain values."""
        return {
            "stack": self.stack,
            "layer": self.layer,
            "kv_head": self.kv_head,
            "product": self.product,
            "dim": self.dim,
            "predicted_rank": self.predicted,
            "gradient_rank": self.found.rank,
            "numerical_rank": self.ranks.numerical,
            "effective_rank": self.ranks.effective,
            "excess": self.found.excess,
            "misalignment": self.found.misalignment,
            "optimal": self.found.optimal,
        }


def certify(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    decay: float,
    *,
    tolerance: float = TOLERANCE,
    share: float = SHARE,
) -> list[HeadCertificate]:
    """The certificates of all heads of a model of :func:`verify.build` or :func:`verify.from_hf`.

    Parameters
    ----------
    model : it is used in evaluation mode, without dropout, and is unchanged afterwards.
    batches : inputs and targets as the model takes them; gradients are averaged over batches, which should be those that the
        model was trained on.
    decay : coupled weight decay of the maps, above 0: SGD's. AdamW's decoupled decay has no certificate.
    tolerance : relative, of the comparisons with the decay.
    share : of the largest singular value, above which one counts for the numerical rank.

    Raises
    ------
    InputError
        if there are no batches, decay is not above 0, or the scores of an attention are not products of maps: norms of queries
        and keys, caps and other maps between query and key.

    Notes
    -----
    With rotary positions each pair of dimensions has a product of its own, of complex vectors (:class:`_WatchedRotary`). Ranks
    count its two dimensions; gradients of all passes are kept, and a head costs one singular value decomposition for each pair.
    """
    if not decay > 0:
        raise InputError(f"certify: decay={decay} is not above 0")
    tree = tree_of(model)
    watched = _watched(model, tree)
    count, training = 0, model.training
    model.eval()
    try:
        with contextlib.ExitStack() as stack:
            for one in watched:
                stack.enter_context(one.watching())
            for tokens, targets in batches:
                _, loss = model(tokens, targets)
                torch.autograd.grad(loss, [one.anchor() for one in watched])
                count += 1
    finally:
        model.train(training)
    if not count:
        raise InputError("certify: there are no batches")
    return [row for one in watched for row in one.certificates(count, decay, tolerance, share)]


def certify_folder(
    path: str | Path, decay: float, *, text: str | Path | None = None, context: int | None = None, share: float = SHARE
) -> tuple[list[HeadCertificate], str]:
    """The certificates of a decoder in a local folder, by the gradient of a text's next tokens.

    Parameters
    ----------
    path : a folder with config.json and safetensors.
    text : path of a UTF-8 file, of the text that the model was trained on; by default the start of Python's standard library,
        on which the gradient of a model trained on something else is no training gradient.
    context : tokens per sequence; by default the model's, at most 1024.

    Returns
    -------
    The certificates, and a description of the tokens.

    Raises
    ------
    InputError
        if the model cannot be loaded or is not a decoder, the text cannot be used, or scores are not products of maps.
    """
    path = local_checkpoint(path)
    if not path.is_dir():
        raise InputError(f"certify: {shown(str(path), limit=300)} is not a folder with config.json and safetensors")
    loaded, tree, _ = load_model(path)
    if not tree.attention.causal:
        raise InputError("certify: only decoders have a loss by their own text, the next token's")
    tokens, source = calibration_tokens(tree, text=text, context=context, folder=Path(path))
    batches = [(row[None, :-1], row[None, 1:]) for row in tokens]
    return certify(from_hf(loaded), batches, decay, share=share), source


def _watched(model: nn.Module, tree: Transformer) -> list[_Watched]:
    found = []
    for stack, layer, path, _ in attentions(tree):
        module = model.get_submodule(f"{stack}.block.{layer}.{path}")
        branch = getattr(module, "branch", module)
        part = next((one for one in (module, branch) if type(one) is Attention), None)
        reason = "it is of another kind" if part is None else _refusal(part)
        if part is None or reason:
            raise InputError(f"certify: the scores of block {layer} are no products of maps, as {reason}")
        found.append((_WatchedRotary if _rotates(part) else _Watched)(part, stack, layer))
    if not found:
        raise InputError("certify: the model has no attention")
    return found


def _refusal(module: Attention) -> str:
    """The reason why the scores or outputs of an attention are not linear in the products of its maps; empty if they are."""
    layer, position = module.layer, module.position
    reasons = {
        "positions multiply its queries and keys otherwise than by a rotation": position is not None
        and bool(position.pairwise or (position.rotated(layer.head_dim) and not _rotates(module))),
        "queries and keys are normalised": module.query_norm is not None or module.key_norm is not None,
        "its joined heads are normalised": module.inner_norm is not None,
        "scores are capped or values clipped": module.clip is not None or module.mix.softcap is not None,
        "queries grow with position": module.temperature is not None or getattr(position, "query_growth", None) is not None,
        "it reads another stack": layer.cross,
        "its maps have fixed factors": any(m.multiplier != 1 for m in (module.query, module.key, module.value, module.out)),
    }
    return next((reason for reason, true in reasons.items() if true), "")


def _rotates(module: Attention) -> bool:
    """True if positions turn pairs of dimensions by angles in proportion to the position."""
    position = module.position
    return position is not None and position.turns_pairs and position.rotated(module.layer.head_dim) > 0


@dataclass
class _Watched:
    """One attention during the passes: its inputs, and the sums of its gradients."""

    module: Attention
    stack: str
    layer: int
    scores: Tensor | None = None
    """Gradient with respect to the product of query and key maps, summed over passes: (heads, width, width)."""
    outputs: Tensor | None = None
    seen: dict[str, Tensor] = field(default_factory=dict)

    def anchor(self) -> Tensor:
        """A tensor of this pass whose gradient runs through everything that is watched."""
        return self.seen["zeros"]

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Context in which passes of the model are watched."""
        module = self.module

        def mixed(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
            zeros = torch.zeros(*q.shape[:3], k.shape[-2], dtype=q.dtype, device=q.device, requires_grad=True)
            if causal or mask is None:
                seen = torch.ones(zeros.shape[-2:], dtype=torch.bool, device=q.device)
                mask = seen.tril() if causal else seen
            summand = zeros.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else zeros + mask
            x = self.seen["input"]
            with torch.no_grad():  # the same weights on the input itself: what a head mixes before its value map
                every = x[:, None].expand(-1, k.shape[1], -1, -1)
                self.seen["mixed"] = module.mix(q, k, every, summand, False, module.sinks)
            self.seen["zeros"] = zeros
            zeros.register_hook(self._add_scores)
            return module.mix(q, k, v, summand, False, module.sinks)

        def keep_input(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            self.seen["input"] = given[0].detach()

        def keep_output(_: nn.Module, given: Any, y: Tensor) -> None:
            if y.requires_grad:
                y.register_hook(self._add_outputs)

        hooks = [module.query.register_forward_pre_hook(keep_input), module.out.register_forward_hook(keep_output)]
        module.mixed = mixed  # type: ignore[method-assign]
        try:
            yield
        finally:
            del module.mixed
            for hook in hooks:
                hook.remove()
            self.seen.clear()

    def _add_scores(self, slope: Tensor) -> None:
        x = self.seen["input"].double()
        found = self.module.mix.scale * torch.einsum("bqi,bhqk,bkj->hij", x, slope.double(), x)
        self.scores = found if self.scores is None else self.scores + found

    def _add_outputs(self, slope: Tensor) -> None:
        found = torch.einsum("bhqi,bqj->hij", self.seen["mixed"].double(), slope.double())
        self.outputs = found if self.outputs is None else self.outputs + found

    def certificates(self, count: int, decay: float, tolerance: float, share: float) -> Iterator[HeadCertificate]:
        """The certificates of this attention, by the mean gradient of `count` passes."""
        layer, module = self.module.layer, self.module
        size = layer.heads // layer.kv_heads
        maps = {name: getattr(module, name).weight.detach().double().cpu().numpy() for name in ("query", "key", "value", "out")}
        if not self._reached or self.outputs is None:
            raise InputError(f"certify: the loss does not depend on the attention of block {self.layer}")
        slopes = (self.outputs / count).cpu().numpy()
        for group in range(layer.kv_heads):  # the stack of the queries, (size inputs, dim), with the key
            dim = layer.head_dim
            own, heads = slice(group * dim, (group + 1) * dim), slice(group * size * dim, (group + 1) * size * dim)
            many = maps["query"][heads].reshape(size, dim, -1).transpose(0, 2, 1).reshape(-1, dim)
            queries = slice(group * size, (group + 1) * size)
            found, sizes = self._of_scores(queries, many, maps["key"][own], count, decay, tolerance)
            yield HeadCertificate(self.stack, self.layer, group, "query-key", dim, ranks(sizes, share), found)
        for group in range(layer.kv_heads):  # the stack of the output maps, (size outputs, dim), with the value
            dim = layer.value_dim
            own, heads = slice(group * dim, (group + 1) * dim), slice(group * size * dim, (group + 1) * size * dim)
            many = maps["out"][:, heads].reshape(-1, size, dim).transpose(1, 0, 2).reshape(-1, dim)
            slope = slopes[group * size : (group + 1) * size].transpose(0, 2, 1).reshape(-1, layer.width)
            found = certificate(slope, many @ maps["value"][own], decay, tolerance)
            measured = ranks(product_sizes(many, maps["value"][own]), share)
            yield HeadCertificate(self.stack, self.layer, group, "value-output", dim, measured, found)

    @property
    def _reached(self) -> bool:
        """True if a gradient has come to the scores."""
        return self.scores is not None

    def _of_scores(
        self, queries: slice, many: Any, key: Any, count: int, decay: float, tolerance: float
    ) -> tuple[Certificate, Any]:
        """The certificate of the product of a key map (dim, width) and its query maps (heads width, dim), and its sizes."""
        assert self.scores is not None  # noqa: S101
        slope = (self.scores[queries] / count).cpu().numpy().reshape(-1, self.module.layer.width)
        return certificate(slope, many @ key, decay, tolerance), product_sizes(many, key)


@dataclass
class _WatchedRotary(_Watched):
    """Attention whose scores are a sum over pairs of dimensions that rotate, each with a product of its own.

    Take the two dimensions of a pair as the parts of a complex number, and let C be the product of the pair's complex query and
    key vectors, of rank one. The pair's scores are ``Re(e^{i(m-n)t} x_m' C x_n)``. Decay of both is a penalty on the nuclear
    norm of C, as for any product. So a pair is used at a minimum only if the largest singular value of the gradient by C is the
    decay. Dimensions that do not rotate have one real product.
    """

    passes: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Inputs (batch, length, width), and gradients by the scores before their factor (batch, heads, length, length)."""

    def _add_scores(self, slope: Tensor) -> None:
        self.passes.append((self.seen["input"].double(), self.module.mix.scale * slope.double()))

    @property
    def _reached(self) -> bool:
        return bool(self.passes)

    def _of_scores(
        self, queries: slice, many: Any, key: Any, count: int, decay: float, tolerance: float
    ) -> tuple[Certificate, Any]:
        position, dim = self._rotation, self.module.layer.head_dim
        pairs = _pairs(position.layer.interleaved, position.rotated(dim))
        factors = [(many[:, [one]] + 1j * many[:, [two]], key[[one]] - 1j * key[[two]]) for one, two in pairs]
        sizes = [np.array([np.linalg.norm(query) * np.linalg.norm(shared)]) for query, shared in factors]
        turned = 2 * len(pairs)
        if turned < dim:
            factors.append((many[:, turned:], key[turned:]))
            sizes.append(product_sizes(*factors[-1]))
        largest, parts = max(one.max() for one in sizes), []
        for number, ((query, shared), own) in enumerate(zip(factors, sizes, strict=True)):
            rotates = number < len(pairs)
            # The remainder of a pair that decay removes has a direction, but it is meaningless.
            product = (own.max() > tolerance * largest) * (query @ shared)
            found = certificate(self._slope(queries, count, number if rotates else None), product, decay, tolerance)
            parts.append((found, 1, 2) if rotates else (found, dim - turned, 1))
        twice = [one.repeat(2) if number < len(pairs) else one for number, one in enumerate(sizes)]
        return joint_certificate(parts), np.sort(np.concatenate(twice))[::-1]

    @property
    def _rotation(self) -> Rotary:
        return cast("Rotary", self.module.position)

    def _slope(self, queries: slice, count: int, pair: int | None) -> Any:
        """The gradient by the product of a pair, or of the dimensions that do not rotate: (heads width, width)."""
        total: Tensor | float = 0.0
        for x, slope in self.passes:
            left = right = x
            if pair is not None:
                cos, sin = self._rotation.angles(x.shape[1], self.module.layer.head_dim, x.device)
                turn = torch.complex(cos[:, pair].double(), (-sin if self._rotation.backward else sin)[:, pair].double())
                left, right = x * turn.conj()[:, None], x * turn[:, None]
            total = total + torch.einsum("bqi,bhqk,bkj->hij", left, slope[:, queries].to(left.dtype), right)
        assert isinstance(total, Tensor)  # noqa: S101
        return (total / count).cpu().numpy().reshape(-1, self.module.layer.width)


def _pairs(interleaved: bool, rotated: int) -> list[tuple[int, int]]:
    """The two dimensions of each pair that rotates."""
    if interleaved:
        return [(2 * i, 2 * i + 1) for i in range(rotated // 2)]
    return [(i, rotated // 2 + i) for i in range(rotated // 2)]
