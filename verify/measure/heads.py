"""Heads of an existing model: measure them on a text, classify them, and allocate their dimensions.

Any model of the transformers library that uses the library's attention interface can be measured unchanged. During a few
forward passes our function replaces softmax attention; it receives queries and keys after rotation and norms. For each head it
accumulates the second moment G_q of the queries, the covariance G_k of the keys (a constant added to all keys does not change
the softmax) and statistics of the attention weights. The whitened query-key form of a head, C_q^(1/2) M C_k^(1/2), has the
singular values of G_q^(1/2) G_k^(1/2) times the scale; the sum of their squares is the variance of the logits.

Values are truncated by their effect on the layer's output. A head averages the tokens to m = sum_j p_j x_j and adds W_o W_v m
to the output. A value map of rank r loses the tail of the squared singular values of W_o W_v C_m^(1/2), where C_m is the
covariance of m (the averaged tokens, not the tokens). W_v C_m W_v' is the covariance of the head's output, which is the input
of W_o, and it is measured there.

Logits and keys exclude the first token, which many models use as an attention sink. All averages exclude rows with fewer than
half of the context, except the averages of outputs, which exclude only the first token's row in a decoder.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from depthwidth.architecture import Transformer
from depthwidth.errors import InputError
from depthwidth.formulas import heads as laws
from depthwidth.hub import local_checkpoint
from depthwidth.layers.positions import positions_as
from depthwidth.layers.rotary import Rotary
from depthwidth.planning.head_allocation import Allocation, LayerNeed, allocate_heads, diffuse_need, retrieval_need
from depthwidth.progress import announced

from ..models.live_weights import LiveWeights
from ..models.locate import locate, tree_of
from .attention import concentration
from .head_cuts import cut_losses, query_key_spectrum, value_loss_curve
from .head_forms import HeadMeasure, LayerForms, ValueForms
from .head_models import calibration_tokens, check_measurable, load_model
from .head_weights import capped_by_weights, weight_ranks

SHARP_TOKENS, SHARP_WEIGHT, BY_POSITION = 4.0, 0.5, 0.9
"""Thresholds of the classification. A head is a retrieval head if half of its rows attend to at most 4 effective tokens, or if
its largest weight is at least 0.5 on average. It is positional if the distance explains more than 90 % of the variation of its
weights; this takes precedence."""
_NAME = "depthwidth_measure"


# ---- results ----


@dataclass(frozen=True)
class HeadsReport:
    """Measurements of every head of a model."""

    heads: tuple[HeadMeasure, ...]
    forms: tuple[LayerForms, ...] = field(repr=False)
    tree: Transformer = field(repr=False)
    context: int
    tokens: int
    source: str
    notes: tuple[str, ...] = ()
    batches: Tensor = field(repr=False, default_factory=lambda: torch.empty(0, 0, dtype=torch.long))
    """The calibration tokens, (sequences, context)."""
    values: tuple[ValueForms, ...] = field(repr=False, default=())
    """One entry per layer. Empty if the output maps were not found; value dimensions are then unchanged."""

    def rows(self) -> list[dict[str, Any]]:
        """One row per head."""
        return [head.to_dict() for head in self.heads]

    def needs(self, share: float = 2.0, tolerance: float = 0.05, values: bool = True) -> list[LayerNeed]:
        """The dimensions that each layer needs. The head with the largest need sets the rank; the error is the mean over heads.

        Values need the smallest rank at which the relative squared error of the layer's output is at most `tolerance`. If
        `values` is false, value dimensions are unchanged.
        """
        if not 0 < tolerance < 1:
            raise InputError(f"tolerance={tolerance} is not between 0 and 1")
        needs = []
        for index, form in enumerate(self.forms):
            lost = cut_losses(self.tree.attention.position, form)
            own = [self._need(head, lost[head.kv_head], share, tolerance) for head in self.heads if head.layer == index]
            most = max(own, key=lambda need: need.rank)
            present = form.queries.shape[-1]
            need = replace(most, rank=min(most.rank, max(present, most.floor)), error=_mean_error(own))
            if values and self.values:
                need = replace(need, **_value_need(self.values[index], self.tree.attention.kv_heads, tolerance))
            layer_heads = [head for head in self.heads if head.layer == index]
            need = capped_by_weights(need, layer_heads, self.tree.attention, values=bool(values and self.values))
            needs.append(need)
        return needs

    def _need(self, head: HeadMeasure, lost: Sequence[float], share: float, tolerance: float) -> LayerNeed:
        def kept(rank: int) -> float:
            return lost[min(rank, len(lost) - 1)]

        if head.kind == "retrieval":
            ideal = retrieval_need(self.context, share)
            most = laws.saturation_dim(lost, 0.01)
            rank = ideal.rank if most == len(lost) - 1 else max(ideal.rank, most)
            return LayerNeed(
                "retrieval", rank, f"{ideal.criterion}, measured as sharp", lambda d: max(kept(d), ideal.error(d)), ideal.floor
            )
        if head.kind == "positional":
            rank = max(1, laws.saturation_dim(lost, 0.01))
            return LayerNeed("positional", rank, "positional: 99 % of the logits' variance", kept)
        if not sum(head.spectrum):
            return LayerNeed("diffuse", 1, "diffuse: the logits have no variance", lambda d: 0.0)
        layer = self.tree.attention
        if positions_as(Rotary, layer.position) is not None or layer.heads != layer.kv_heads:
            # Here truncation drops pairs of dimensions, or is shared by the heads of one key: not the best form of each head.
            rank = max(1, laws.saturation_dim(lost, tolerance))
            return LayerNeed("diffuse", rank, f"diffuse: logits' variance within {100 * tolerance:g} %", kept)
        return diffuse_need(head.spectrum, tolerance, head.gains if sum(head.gains) else None)

    def allocate(self, *, share: float = 2.0, tolerance: float = 0.05, values: bool = True, **options: Any) -> Allocation:
        """Allocate heads and head dimensions for this model.

        `options` are those of :func:`depthwidth.planning.head_allocation.allocate_heads`. Rotary layers always get an even
        number of query and key dimensions, for any `multiple`. If `values` is false, value dimensions are unchanged.
        """
        layer = self.tree.attention
        if positions_as(Rotary, layer.position) is not None:
            options["multiple"] = math.lcm(2, options.get("multiple", 8))
        shape = {"heads": layer.heads, "head_dim": layer.head_dim, "kv_heads": layer.kv_heads, "value_dim": layer.value_dim}
        needs = self.needs(share, tolerance, values)
        allocation = allocate_heads(self.tree.width, self.context, needs, bias=layer.bias, notes=self.notes, **shape, **options)
        return replace(allocation, measured=self)


def _value_need(form: ValueForms, kv_heads: int, tolerance: float) -> dict[str, Any]:
    """The fields of a :class:`LayerNeed` that concern values."""
    loss = value_loss_curve(form, kv_heads)
    too_low, sufficient = 0, form.means.shape[1]
    while sufficient - too_low > 1:  # bisection: the loss falls with the rank, except if outputs of heads cancel
        middle = (too_low + sufficient) // 2
        too_low, sufficient = (too_low, middle) if loss(middle) <= tolerance else (middle, sufficient)
    return {
        "value_rank": sufficient,
        "value_criterion": f"layer output within {100 * tolerance:g} %",
        # If outputs of heads cancel, the loss can exceed 1, the loss without any output.
        "value_error": lambda d: min(1.0, max(0.0, loss(d))),
    }


def _mean_error(needs: Sequence[LayerNeed]) -> Any:
    return lambda d: math.fsum(need.error(d) for need in needs) / len(needs)


# ---- measurement ----


class _Collector:
    """Sums over sequences for each layer, in double precision."""

    def __init__(self, causal: bool) -> None:
        self.causal = causal
        self.layers: list[dict[str, Any]] = []
        self.first_output = 1 if causal else 0
        """The first row whose output counts. The first token of a decoder attends to itself only, and outputs of sinks differ
        in size."""
        self.index = 0

    def start(self) -> None:
        """Prepare for a forward pass."""
        self.index = 0

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float | None,
        **more: Any,
    ) -> tuple[Tensor, Tensor]:
        """Softmax attention, equal to the eager function of the transformers library, which also adds to the sums."""
        scale = query.size(-1) ** -0.5 if scaling is None else scaling
        group = query.shape[1] // key.shape[1]
        keys, values = (t.repeat_interleave(group, dim=1) if group > 1 else t for t in (key, value))
        scores = query @ keys.transpose(2, 3) * scale
        if more.get("softcap") is not None:
            scores = more["softcap"] * torch.tanh(scores / more["softcap"])
        masked = scores if mask is None else scores + mask[..., : keys.shape[-2]]
        weights = torch.softmax(masked, dim=-1, dtype=torch.float32).to(value.dtype)
        output = weights @ values
        if query.shape[2] != key.shape[2]:
            raise InputError("heads: cross-attention is not measured")
        if self.index == len(self.layers):
            self.layers.append({"scale": float(scale)})
        self._add(self.layers[self.index], query, key, value, scores, masked, weights, output)
        self.index += 1
        return output.transpose(1, 2).contiguous(), weights

    def _add(
        self,
        sums: dict[str, Any],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scores: Tensor,
        masked: Tensor,
        weights: Tensor,
        output: Tensor,
    ) -> None:
        n = query.shape[2]
        first = n // 2 if self.causal else 0
        # The keys that a row may attend to: masked scores are reduced to the lowest finite number of the dtype.
        open_ = (masked - scores > -1e4)[:, :, first:] if masked is not scores else torch.ones_like(scores[:, :, first:]).bool()
        p = weights[:, :, first:].double()
        x = scores[:, :, first:].double()
        seen = open_.clone()
        seen[..., 0] = False
        count = seen.sum(-1).clamp(min=1)
        mean = torch.where(seen, x, 0.0).sum(-1) / count
        variance = torch.where(seen, (x - mean[..., None]) ** 2, 0.0).sum(-1) / count
        entropy, shared = concentration(p)
        q = query[:, :, first:].double()
        k, v = (t[:, :, 1:].double() for t in (key, value))
        k, v = k - k.mean(2, keepdim=True), v - v.mean(2, keepdim=True)
        o = output[:, :, self.first_output :].double()
        rows, places = q.shape[0] * q.shape[2], k.shape[0] * k.shape[2]
        found = {
            "rows": rows,
            "places": places,
            "outputs": o.shape[0] * o.shape[2],
            "queries": torch.einsum("bhti,bhtj->hij", q, q),
            "keys": torch.einsum("bhti,bhtj->hij", k, k),
            "values": torch.einsum("bhti,bhtj->hij", v, k),
            "value_variance": (v * v).sum((0, 2, 3)),
            "variance": variance.sum((0, 2)),
            "entropy": entropy.sum((0, 2)),
            "largest": p.amax(-1).sum((0, 2)),
            "mixed": torch.einsum("bhti,bgtj->hgij", o, o),
            "mean_output": o.sum((0, 2)),
            **self._by_distance(p, open_, first),
        }
        for name, amount in found.items():
            sums[name] = amount if name not in sums else sums[name] + amount
        sums.setdefault("effective", []).append((1 / shared).transpose(0, 1).flatten(1))

    @staticmethod
    def _by_distance(p: Tensor, open_: Tensor, first: int) -> dict[str, Tensor]:
        """Sums of the weights' deviation from uniform weights, by the distance between query and key."""
        rows, n = p.shape[2:]
        allowed = open_.to(p.dtype)
        away = torch.where(open_, p - 1 / allowed.sum(-1, keepdim=True).clamp(min=1), 0.0)
        distance = (torch.arange(first, first + rows)[:, None] - torch.arange(n)[None, :] + n - 1).flatten().to(p.device)
        flat = away.sum(0).flatten(1)
        opened = allowed.expand_as(p).sum(0).flatten(1)
        zeros = torch.zeros(p.shape[1], 2 * n - 1, dtype=p.dtype, device=p.device)
        return {
            "distance_sum": zeros.index_add(1, distance, flat),
            "distance_count": zeros.index_add(1, distance, opened),
            "variation": (away * away).sum((0, 2, 3)),
        }


@contextmanager
def _replace_attention(model: nn.Module, collector: _Collector) -> Iterator[None]:
    """Context in which the model's attention is computed by the collector; the model is in evaluation mode."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    def function(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **more: Any,
    ) -> tuple[Tensor, Tensor]:
        return collector.attend(module, query, key, value, attention_mask, scaling, **more)

    config: Any = model.config
    before = config._attn_implementation
    AttentionInterface.register(_NAME, function)
    AttentionMaskInterface.register(_NAME, eager_mask)
    training = model.training
    setter: Any = model.set_attn_implementation
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            setter(_NAME)
        model.eval()
        yield
    finally:
        setter(before)
        model.train(training)


@contextmanager
def record_outputs(modules: Sequence[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """Context that records the outputs of modules: a list of outputs for each module."""
    outputs: list[list[Tensor]] = [[] for _ in modules]

    def append_to(own: list[Tensor]) -> Any:
        return lambda module, inputs, output: own.append(output.detach())

    hooks = [module.register_forward_hook(append_to(own)) for module, own in zip(modules, outputs, strict=True)]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def run_passes(model: nn.Module, batches: Tensor, causal: bool) -> tuple[_Collector, Tensor]:
    """Forward passes of all calibration sequences, one at a time.

    Returns the collected sums, and the logits (or the last hidden states, if the model has no logits).
    """
    collector, ends = _Collector(causal), []
    device = next(model.parameters()).device
    with torch.no_grad(), _replace_attention(model, collector):
        for row in announced("sequence", list(batches)):
            collector.start()
            out = model(row[None].to(device))
            ends.append(
                (out.logits if hasattr(out, "logits") and out.logits is not None else out.last_hidden_state).float().cpu()
            )
            if not collector.index:
                raise InputError(f"heads: {type(model).__name__} does not use the attention interface of transformers")
    return collector, torch.cat(ends)


def measure_model(
    model: nn.Module, batches: Tensor, *, tree: Transformer | None = None, source: str = "tokens", notes: Sequence[str] = ()
) -> HeadsReport:
    """Measure every head of a torch model of the transformers library.

    Parameters
    ----------
    model : a text model with one stack. Its weights and its mode are unchanged afterwards.
    batches : calibration tokens, shape (sequences, context), dtype long, context at least 8.
    tree : description of the model; by default it is read from the model's configuration.
    source : description of the tokens, for the report.
    notes : further notes for the report.

    Raises
    ------
    InputError
        if the model cannot be measured or `batches` has the wrong shape.
    """
    tree = tree_of(model) if tree is None else tree
    check_measurable(tree)
    if batches.dim() != 2 or batches.shape[1] < 8 or not len(batches):
        raise InputError("heads: calibration tokens need the shape (sequences, context), with a context of at least 8")
    causal = tree.attention.causal
    collector, _ = run_passes(model, batches, causal)
    measured, forms = [], []
    try:
        places = Places(model, tree)
        values = tuple(_value_forms(sums, places.out(block)) for block, sums in enumerate(collector.layers))
    except InputError as error:  # the output map is unknown; queries and keys are measured without it
        values, notes = (), (*notes, f"value dimensions are unchanged: {error}")
    weights = LiveWeights(model, tree)
    for layer, sums in enumerate(collector.layers):
        scale, heads = sums["scale"], sums["queries"].shape[0]
        group = heads // sums["keys"].shape[0]
        of_weights = weight_ranks(weights, tree, layer)
        queries, keys = (sums["queries"] / sums["rows"]).cpu(), (sums["keys"] / sums["places"]).cpu()
        cross = (sums["values"] / sums["places"]).cpu()
        forms.append(LayerForms(queries, keys, scale))
        effective = torch.cat(sums["effective"], dim=1).cpu()
        explained = (sums["distance_sum"] ** 2 / sums["distance_count"].clamp(min=1)).sum(1).cpu()
        for head in range(heads):
            kv = head // group
            spectrum, gains = query_key_spectrum(
                queries[head], keys[kv], cross[kv], float(sums["value_variance"][kv]) / sums["places"], scale
            )
            variation = float(sums["variation"][head])
            share = float(explained[head]) / variation if variation > 1e-9 * sums["rows"] else 0.0
            median = float(effective[head].median())
            largest = float(sums["largest"][head]) / sums["rows"]
            sharp = median <= SHARP_TOKENS or largest >= SHARP_WEIGHT
            measured.append(
                HeadMeasure(
                    layer=layer,
                    head=head,
                    kv_head=kv,
                    kind="positional" if share > BY_POSITION else "retrieval" if sharp else "diffuse",
                    logit_std=math.sqrt(float(sums["variance"][head]) / sums["rows"]),
                    entropy=float(sums["entropy"][head]) / sums["rows"],
                    effective_tokens=median,
                    mean_effective_tokens=float(effective[head].mean()),
                    squared_sum=float((1 / effective[head]).mean()),
                    largest_weight=largest,
                    positional_share=share,
                    spectrum=tuple(spectrum),
                    gains=tuple(gains),
                    **of_weights[head],
                )
            )
    context, tokens = batches.shape[1], batches.numel()
    return HeadsReport(tuple(measured), tuple(forms), tree, context, tokens, source, tuple(notes), batches, values)


def _value_forms(sums: dict[str, Any], out: OutputMap) -> ValueForms:
    heads, dims = sums["mean_output"].shape
    second, mean = (sums["mixed"] / sums["outputs"]).cpu(), (sums["mean_output"] / sums["outputs"]).cpu()
    if out.bias is None:
        mean = torch.zeros_like(mean)
    parts = out.weight.detach().double().cpu().reshape(-1, heads, dims)
    return ValueForms(second - torch.einsum("hi,gj->hgij", mean, mean), mean, torch.einsum("dhi,dgj->hgij", parts, parts))


class OutputMap(NamedTuple):
    """The output map of a layer: its weight, shape (width, heads * d_v), its bias, and the module that contains both."""

    weight: Tensor
    bias: Tensor | None
    module: nn.Module


class Places:
    """The parameters of a torch model, found by their role in the tree."""

    def __init__(self, model: nn.Module, tree: Transformer) -> None:
        self.model, self.parameters = model, dict(model.named_parameters())
        self.named = {(s.role, s.block): (name, s) for name, slices in locate(model, tree).items() for s in slices}
        self.stack, self.first_use = tree.stack_name, tree.stack.first_use

    def find(self, role: str, leaf: str, block: int) -> tuple[Tensor, nn.Module] | None:
        """A view of one attention parameter, matrices as (outputs, inputs), and its module; None if it does not exist."""
        place = self.named.get((f"{self.stack}.block.attention.{role}.{leaf}", self.first_use(block)))
        if place is None:
            return None
        name, part = place
        owner = self.model.get_submodule(name.rpartition(".")[0])
        view = part.view(self.parameters[name])
        return (view.T if view.dim() == 2 and type(owner).__name__ == "Conv1D" else view), owner

    def out(self, block: int) -> OutputMap:
        """The output map of a block."""
        weight, bias = (self.find("out", leaf, block) for leaf in ("weight", "bias"))
        if weight is None:
            raise InputError(f"heads: the output map of block {block} was not found")
        return OutputMap(weight[0], None if bias is None else bias[0], weight[1])


# ---- loading ----


def measure_heads(
    model: str | Path | nn.Module, *, text: str | Path | None = None, context: int | None = None, seed: int = 0
) -> HeadsReport:
    """Measure every head of a model: a torch model, a local folder, or a configuration (with random weights).

    Parameters
    ----------
    model : a model of the transformers library, or the path of a folder or of a config.json.
    text : path of a UTF-8 file; by default the start of Python's standard library.
    context : tokens per sequence, at least 8; by default the model's context, at most 1024.
    seed : seed of random weights.

    Raises
    ------
    InputError
        if the model or the text cannot be used.
    """
    if isinstance(model, nn.Module):
        tree = tree_of(model)
        batches, source = calibration_tokens(tree, text=text, context=context)
        return measure_model(model, batches, tree=tree, source=source)
    loaded, tree, origin = load_model(model, seed)
    place = local_checkpoint(model)
    folder = place if place.is_dir() else None
    batches, source = calibration_tokens(tree, text=text, context=context, folder=folder)
    return measure_model(loaded, batches, tree=tree, source=source, notes=(f"measured with {origin}",))
