"""Heads of an existing model: measured on a text, classified, allocated, and shrunk.

Any model of the transformers library whose attention goes through its attention interface is measured as it is: for the time
of a few forward passes a function of ours takes the place of softmax attention, with queries and keys as they meet it, behind
rotation and norms. For each head it keeps the second moment G_q of the queries, the covariance G_k of the keys (a constant of
the keys leaves the softmax as it is) and what the weights do. The whitened query-key form of a head, C_q^(1/2) M C_k^(1/2), has
the singular values of G_q^(1/2) G_k^(1/2) times the scale: their squares add up to the variance of the logits.

Values are cut by what the layer puts out. A head mixes the tokens to m = sum_j p_j x_j and adds W_o W_v m to the output. What
a value map of rank r loses of it on the text is the tail of the squared singular values of W_o W_v C_m^(1/2), where C_m is the
covariance of m: of what the weights make of the tokens, not of the tokens. W_v C_m W_v' is the covariance of what the head
puts out in front of W_o, and is measured there.

The first token, which many models use as a sink, is left out of logits and keys; rows with fewer than half of the context are
left out of every average but those of what the layers put out, where only the row of a decoder's first token is.
"""

from __future__ import annotations

import functools
import math
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from depthwidth.architecture import Transformer
from depthwidth.architecture.hf.files import read_json
from depthwidth.errors import InputError, shown
from depthwidth.formulas import heads as laws
from depthwidth.layers.positions import Rotary
from depthwidth.planning.head_allocation import Allocation, LayerNeed, allocate_heads, diffuse_need, retrieval_need

from ..models.locate import locate, tree_of

LONGEST_TEXT = 50_000_000
LARGEST_RANDOM = 2_000_000_000
LONGEST_CONTEXT = 1024
SEQUENCES = 8
SHARP_TOKENS, SHARP_WEIGHT, BY_POSITION = 4.0, 0.5, 0.9
"""A head is a look-up head where half of its rows attend to 4 tokens or fewer, or the largest weight is 0.5 on average; it is
positional where the distance alone explains 90 % of how its weights vary."""
_NAME = "depthwidth_measure"


# ---- what is measured ----


@dataclass(frozen=True)
class HeadMeasure:
    """One head on the calibration text. Averages are over rows with at least half of the context."""

    layer: int
    head: int
    kv_head: int
    kind: str
    """retrieval, positional or diffuse"""
    logit_std: float
    """root of the mean variance of a row's logits, the first token left out, nats"""
    entropy: float
    """nats"""
    effective_tokens: float
    """median of 1 / sum p^2"""
    mean_effective_tokens: float
    squared_sum: float
    """mean of sum p^2, whose inverse is what the theory calls effective tokens"""
    largest_weight: float
    """mean of the largest weight"""
    positional_share: float
    """of the weights' variation about uniform, what the distance alone explains"""
    spectrum: tuple[float, ...]
    """s_m^2 of the whitened query-key form, nats^2, largest first"""
    gains: tuple[float, ...]
    """squared length of the value image of each whitened key direction, over the values' total variance"""

    @property
    def rank_99(self) -> int:
        """Directions that hold 99 % of the logits' variance."""
        return laws.saturation_dim(laws.readout_errors(self.spectrum), 0.01 * sum(self.spectrum))

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "spectrum": list(self.spectrum), "gains": list(self.gains), "rank_99": self.rank_99}


@dataclass(frozen=True)
class LayerForms:
    """What shrinking a layer needs: second moments of its queries, for each query head, and covariances of its keys."""

    queries: Tensor
    """(heads, d_h, d_h)"""
    keys: Tensor
    """(kv_heads, d_h, d_h)"""
    scale: float
    """what query times key is multiplied by"""


@dataclass(frozen=True)
class ValueForms:
    """What cutting a layer's values needs: how its heads' outputs vary together, and what the output map makes of them."""

    mixed: Tensor
    """(heads, heads, d_v, d_v): covariances of what the heads put out, about `means`"""
    means: Tensor
    """(heads, d_v): what the output map's bias can carry; zeros where it has none, and `mixed` are second moments then"""
    gram: Tensor
    """(heads, heads, d_v, d_v): W_g' W_h for the parts W_h of the output map"""


@dataclass(frozen=True)
class HeadsReport:
    """Every head of a model, measured."""

    heads: tuple[HeadMeasure, ...]
    forms: tuple[LayerForms, ...] = field(repr=False)
    tree: Transformer = field(repr=False)
    context: int
    tokens: int
    source: str
    notes: tuple[str, ...] = ()
    batches: Tensor = field(repr=False, default_factory=lambda: torch.empty(0, 0, dtype=torch.long))
    """the calibration tokens, (sequences, context)"""
    values: tuple[ValueForms, ...] = field(repr=False, default=())
    """of each layer; empty where the output maps were not found, and values stay as they are then"""

    def rows(self) -> list[dict[str, Any]]:
        """One row a head."""
        return [head.to_dict() for head in self.heads]

    def needs(self, share: float = 2.0, tolerance: float = 0.05, values: bool = True) -> list[LayerNeed]:
        """What each layer needs: the most demanding of its heads decides the rank, the mean over heads is the error.

        Values need the rank at which the layer's output is within `tolerance` of what it was; with `values` false they stay.
        """
        if not 0 < tolerance < 1:
            raise InputError(f"tolerance={tolerance} is not between 0 and 1")
        made = []
        for index, form in enumerate(self.forms):
            lost = cut_losses(self.tree.attention.position, form)
            own = [self._need(head, lost[head.kv_head], share, tolerance) for head in self.heads if head.layer == index]
            most = max(own, key=lambda need: need.rank)
            present = form.queries.shape[-1]
            need = replace(most, rank=min(most.rank, max(present, most.floor)), error=_mean_error(own))
            if values and self.values:
                need = replace(need, **_value_need(self.values[index], self.tree.attention.kv_heads, tolerance))
            made.append(need)
        return made

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
            return LayerNeed("diffuse", 1, "diffuse: no variance of the logits at all", lambda d: 0.0)
        layer = self.tree.attention
        if isinstance(layer.position, Rotary) or layer.heads != layer.kv_heads:
            # What is cut is not each head's own best form, but pairs of dimensions, or what heads with one key share.
            rank = max(1, laws.saturation_dim(lost, tolerance))
            return LayerNeed("diffuse", rank, f"diffuse: logits' variance within {100 * tolerance:g} %", kept)
        return diffuse_need(head.spectrum, tolerance, head.gains if sum(head.gains) else None)

    def allocate(self, *, share: float = 2.0, tolerance: float = 0.05, values: bool = True, **options: Any) -> Allocation:
        """Heads and head dimensions for this model.

        `options` are those of :func:`depthwidth.planning.head_allocation.allocate_heads`.
        Rotary layers get an even number of dimensions of queries and keys whatever `multiple` is. With `values` false those of
        values stay as they are.
        """
        layer = self.tree.attention
        if isinstance(layer.position, Rotary):
            options["multiple"] = math.lcm(2, options.get("multiple", 8))
        shape = {"heads": layer.heads, "head_dim": layer.head_dim, "kv_heads": layer.kv_heads, "value_dim": layer.value_dim}
        needs = self.needs(share, tolerance, values)
        found = allocate_heads(self.tree.width, self.context, needs, bias=layer.bias, notes=self.notes, **shape, **options)
        return replace(found, measured=self)


def _value_need(form: ValueForms, kv_heads: int, tolerance: float) -> dict[str, Any]:
    """The part of a :class:`LayerNeed` that is about values."""
    lost = _value_curve(form, kv_heads)
    short, enough = 0, form.means.shape[1]
    while enough - short > 1:  # what is lost falls with the rank, but for heads that cancel each other
        middle = (short + enough) // 2
        short, enough = (short, middle) if lost(middle) <= tolerance else (middle, enough)
    return {
        "value_rank": enough,
        "value_criterion": f"layer output within {100 * tolerance:g} %",
        # Such heads can lose more than all there is; no layer does worse than not at all.
        "value_error": lambda d: min(1.0, max(0.0, lost(d))),
    }


def _mean_error(needs: Sequence[LayerNeed]) -> Any:
    return lambda d: math.fsum(need.error(d) for need in needs) / len(needs)


# ---- the measurement ----


class _Collector:
    """Sums over sequences, layer by layer, in double precision."""

    def __init__(self, causal: bool) -> None:
        self.causal = causal
        self.layers: list[dict[str, Any]] = []
        self.own = 1 if causal else 0
        """The first row whose output counts: the first token of a decoder sees itself alone, and sinks are of another size."""
        self.index = 0

    def start(self) -> None:
        """A forward pass begins."""
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
        """Softmax attention as transformers' own eager function computes it, with sums taken on the way."""
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
        self, sums: dict[str, Any], query: Tensor, key: Tensor, value: Tensor, scores: Tensor, masked: Tensor, weights: Tensor,
        output: Tensor,
    ) -> None:  # fmt: skip
        n = query.shape[2]
        first = n // 2 if self.causal else 0
        # What a row may attend to; the lowest finite number of the dtype stands for "not".
        open_ = (masked - scores > -1e4)[:, :, first:] if masked is not scores else torch.ones_like(scores[:, :, first:]).bool()
        p = weights[:, :, first:].double()
        x = scores[:, :, first:].double()
        seen = open_.clone()
        seen[..., 0] = False
        count = seen.sum(-1).clamp(min=1)
        mean = torch.where(seen, x, 0.0).sum(-1) / count
        variance = torch.where(seen, (x - mean[..., None]) ** 2, 0.0).sum(-1) / count
        shared = (p * p).sum(-1)
        entropy = -(p * torch.log(p.clamp(min=1e-300))).sum(-1)
        q = query[:, :, first:].double()
        k, v = (t[:, :, 1:].double() for t in (key, value))
        k, v = k - k.mean(2, keepdim=True), v - v.mean(2, keepdim=True)
        o = output[:, :, self.own :].double()
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
        """Sums of the weights' deviation from uniform, for each distance between query and key."""
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
def _measuring(model: nn.Module, collector: _Collector) -> Iterator[None]:
    """Put our function in the place of attention, and back."""
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
def _watching(modules: Sequence[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """What these modules put out, for as long as it lasts."""
    seen: list[list[Tensor]] = [[] for _ in modules]

    def keep(kept: list[Tensor]) -> Any:
        return lambda module, inputs, output: kept.append(output.detach())

    hooks = [module.register_forward_hook(keep(kept)) for module, kept in zip(modules, seen, strict=True)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _passes(model: nn.Module, batches: Tensor, causal: bool) -> tuple[_Collector, Tensor]:
    """All calibration sequences through the model, one at a time; what was collected, and the last outputs."""
    collector, ends = _Collector(causal), []
    device = next(model.parameters()).device
    with torch.no_grad(), _measuring(model, collector):
        for row in batches:
            collector.start()
            out = model(row[None].to(device))
            ends.append(
                (out.logits if hasattr(out, "logits") and out.logits is not None else out.last_hidden_state).float().cpu()
            )
            if not collector.index:
                raise InputError(f"heads: the attention of {type(model).__name__} does not go through transformers' interface")
    return collector, torch.cat(ends)


def _check_kind(tree: Transformer) -> None:
    if tree.kind == "encoder-decoder" or tree.vocab == 0:
        raise InputError("heads: only text models with one stack, decoders and encoders, are measured")


def measure_model(
    model: nn.Module, batches: Tensor, *, tree: Transformer | None = None, source: str = "tokens", notes: Sequence[str] = ()
) -> HeadsReport:
    """Measure every head of a live model of the transformers library.

    Parameters
    ----------
    model : a text model with one stack. Its weights and its mode are left as they are.
    batches : calibration tokens, (sequences, context) of dtype long; context from 8.
    tree : what it is; read from its configuration by default.
    source : what the tokens are, for the report.
    notes : what else the report should say.

    Raises
    ------
    InputError
        where the model is not of a kind that can be measured.
    """
    tree = tree_of(model) if tree is None else tree
    _check_kind(tree)
    if batches.dim() != 2 or batches.shape[1] < 8 or not len(batches):
        raise InputError("heads: calibration tokens have the shape (sequences, context), with a context from 8")
    causal = tree.attention.causal
    collector, _ = _passes(model, batches, causal)
    measured, forms = [], []
    try:
        places = _Places(model, tree)
        values = tuple(_value_forms(sums, places.out(block)) for block, sums in enumerate(collector.layers))
    except InputError as error:  # weights that no rule knows: queries and keys are measured without them
        values, notes = (), (*notes, f"value dimensions stay as they are: {error}")
    for layer, sums in enumerate(collector.layers):
        scale, heads = sums["scale"], sums["queries"].shape[0]
        group = heads // sums["keys"].shape[0]
        queries, keys = (sums["queries"] / sums["rows"]).cpu(), (sums["keys"] / sums["places"]).cpu()
        cross = (sums["values"] / sums["places"]).cpu()
        forms.append(LayerForms(queries, keys, scale))
        effective = torch.cat(sums["effective"], dim=1).cpu()
        explained = (sums["distance_sum"] ** 2 / sums["distance_count"].clamp(min=1)).sum(1).cpu()
        for head in range(heads):
            kv = head // group
            spectrum, gains = _spectrum(
                queries[head], keys[kv], cross[kv], float(sums["value_variance"][kv]) / sums["places"], scale
            )
            variation = float(sums["variation"][head])
            share = float(explained[head]) / variation if variation > 1e-9 * sums["rows"] else 0.0
            median = float(effective[head].median())
            largest = float(sums["largest"][head]) / sums["rows"]
            sharp = median <= SHARP_TOKENS or largest >= SHARP_WEIGHT
            measured.append(
                HeadMeasure(
                    layer=layer, head=head, kv_head=kv,
                    kind="positional" if share > BY_POSITION else "retrieval" if sharp else "diffuse",
                    logit_std=math.sqrt(float(sums["variance"][head]) / sums["rows"]),
                    entropy=float(sums["entropy"][head]) / sums["rows"],
                    effective_tokens=median, mean_effective_tokens=float(effective[head].mean()),
                    squared_sum=float((1 / effective[head]).mean()), largest_weight=largest,
                    positional_share=share, spectrum=tuple(spectrum), gains=tuple(gains),
                )
            )  # fmt: skip
    context, tokens = batches.shape[1], batches.numel()
    return HeadsReport(tuple(measured), tuple(forms), tree, context, tokens, source, tuple(notes), batches, values)


def _value_forms(sums: dict[str, Any], out: _Out) -> ValueForms:
    heads, dims = sums["mean_output"].shape
    second, mean = (sums["mixed"] / sums["outputs"]).cpu(), (sums["mean_output"] / sums["outputs"]).cpu()
    if out.bias is None:
        mean = torch.zeros_like(mean)
    parts = out.weight.detach().double().cpu().reshape(-1, heads, dims)
    return ValueForms(second - torch.einsum("hi,gj->hgij", mean, mean), mean, torch.einsum("dhi,dgj->hgij", parts, parts))


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _spectrum(
    queries: Tensor, keys: Tensor, cross: Tensor, value_variance: float, scale: float
) -> tuple[list[float], list[float]]:
    """Squared singular values of the whitened form, and the share of the values' variance that each key direction predicts."""
    _, s, vh = torch.linalg.svd(_root(queries) @ _root(keys))
    values, vectors = torch.linalg.eigh(keys)
    kept = values > 1e-10 * values.max().clamp(min=1e-300)
    inverse = (vectors[:, kept] / values[kept].sqrt()) @ vectors[:, kept].T
    images = cross @ inverse @ vh.T
    gains = (images * images).sum(0) / value_variance if value_variance > 0 else torch.zeros_like(s)
    return ((s * scale) ** 2).tolist(), gains.tolist()


class _Out(NamedTuple):
    """The output map of one layer's heads: its weight as (width, heads d_v), its bias, and the module that holds them."""

    weight: Tensor
    bias: Tensor | None
    module: nn.Module


class _Places:
    """Where a live model keeps what the tree calls by its roles."""

    def __init__(self, model: nn.Module, tree: Transformer) -> None:
        self.model, self.parameters = model, dict(model.named_parameters())
        self.named = {(s.role, s.block): (name, s) for name, slices in locate(model, tree).items() for s in slices}
        self.stack = tree.stack_name

    def find(self, role: str, leaf: str, block: int) -> tuple[Tensor, nn.Module] | None:
        """The model's own memory of a role of attention, matrices as (outputs, inputs), and the module that holds it."""
        place = self.named.get((f"{self.stack}.block.attention.{role}.{leaf}", block))
        if place is None:
            return None
        name, part = place
        owner = self.model.get_submodule(name.rpartition(".")[0])
        view = part.view(self.parameters[name])
        return (view.T if view.dim() == 2 and type(owner).__name__ == "Conv1D" else view), owner

    def out(self, block: int) -> _Out:
        """The output map."""
        weight, bias = (self.find("out", leaf, block) for leaf in ("weight", "bias"))
        if weight is None:
            raise InputError(f"heads: the output map of block {block} was not found")
        return _Out(weight[0], None if bias is None else bias[0], weight[1])


# ---- loading ----


def load_model(path: str | Path, seed: int = 0) -> tuple[nn.Module, Transformer, str]:
    """A model from a local folder (config.json and safetensors weights) or, with random weights, from a configuration alone.

    Nothing is downloaded, unpickled or run from the folder.

    Returns
    -------
    The model in evaluation mode, its tree, and where its weights come from.

    Raises
    ------
    InputError
        where the folder's weights are not safetensors, do not fit, or the configuration cannot be read.
    """
    fields = read_json(path)
    tree = Transformer.from_config(fields)
    _check_kind(tree)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

    from depthwidth.architecture.hf import FAMILIES

    family = str(fields.get("model_type"))
    known = FAMILIES[family].models
    wanted = next((name for name in fields.get("architectures") or () if name in known), next(iter(known)))
    plain = {key: value for key, value in fields.items() if key not in ("auto_map", "architectures", "_attn_implementation")}
    folder = Path(path) if Path(path).is_dir() else None
    weights = [] if folder is None else sorted(folder.glob("*.safetensors"))
    others = (
        []
        if folder is None
        else [f for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")]
    )
    if others and not weights:
        raise InputError(f"heads: {shown(others[0].name)} is not safetensors; only such weights are read")
    loud = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # remarks about token numbers that play no part here
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = transformers.AutoConfig.for_model(**plain)
            cls = getattr(transformers, wanted)
            if weights and folder is not None:
                model = cls.from_pretrained(
                    str(folder), config=config, local_files_only=True, use_safetensors=True, dtype=torch.float32
                )
                return model.eval(), tree, "the folder's weights"
            if tree.parameters > LARGEST_RANDOM:
                raise InputError(f"heads: random weights of {tree.parameters:,} parameters are too many to measure here")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return cls(config).eval(), tree, f"random weights as transformers initialises them, seed {seed}"
    except InputError:
        raise
    except Exception as error:  # a damaged file, a field that the library refuses: it has no one class of error for them
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"heads: {shown(str(path))} cannot be loaded: {line[:200]}") from None
    finally:
        transformers.logging.set_verbosity(loud)


def _text(file: str | Path | None, least: int) -> tuple[str, str]:
    """The calibration text and what to call it; without a file, Python's own library, in the order of its file names."""
    if file is not None:
        path = Path(file)
        try:
            if not path.is_file():
                raise InputError(f"heads: there is no text file {shown(str(file))}")
            if path.stat().st_size > LONGEST_TEXT:
                raise InputError(f"heads: {shown(str(file))} is larger than {LONGEST_TEXT:,} bytes; give a part of it")
            return path.read_text(encoding="utf-8"), shown(path.name)
        except UnicodeDecodeError:
            raise InputError(f"heads: {shown(str(file))} is not UTF-8 text") from None
        except OSError as error:
            raise InputError(f"heads: {shown(str(file))} cannot be read ({error.strerror})") from None
    parts, size = [], 0
    for source in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        parts.append(source.read_text(encoding="utf-8", errors="ignore"))
        size += len(parts[-1])
        if size >= least:
            break
    return "\n".join(parts), "Python's own library"


def _tokens(text: str, folder: Path | None, vocab: int) -> tuple[Tensor, str]:
    """Tokens by the folder's own tokenizer, or bytes."""
    if folder is not None and (folder / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        try:
            ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
        except Exception:  # the library raises plain Exception
            raise InputError(f"heads: {shown(str(folder / 'tokenizer.json'))} is not a tokenizer that can be read") from None
        if ids and max(ids) >= vocab:
            raise InputError(f"heads: the folder's tokenizer has tokens beyond the model's {vocab:,}")
        return torch.tensor(ids, dtype=torch.long), "tokens of its own tokenizer"
    ids = (
        torch.frombuffer(bytearray(text.encode("utf-8")), dtype=torch.uint8).long()
        if text
        else torch.empty(0, dtype=torch.long)
    )
    return ids % vocab, "bytes as tokens"


def calibration_tokens(
    tree: Transformer,
    *,
    text: str | Path | None = None,
    context: int | None = None,
    folder: Path | None = None,
    skip: int = 0,
) -> tuple[Tensor, str]:
    """Up to eight sequences of `context` tokens from the start of a text, and what they are.

    The first `skip` sequences are passed over: with 8 of them the rest is a text to measure on what was calibrated on those.

    Raises
    ------
    InputError
        where the text has fewer tokens than the context, or the context is longer than the model's.
    """
    if isinstance(skip, bool) or not isinstance(skip, int) or skip < 0:
        raise InputError(f"heads: skip={shown(skip)} is not a whole number from 0")
    own = tree.context or LONGEST_CONTEXT
    length = min(own, LONGEST_CONTEXT) if context is None else context
    if not 8 <= length <= own:
        raise InputError(f"heads: context={length} is not a whole number from 8 to the model's {own:,}")
    words, name = _text(text, 8 * length * (SEQUENCES + skip))
    ids, how = _tokens(words[: 40 * length * (SEQUENCES + skip)], folder, tree.vocab)
    if len(ids) < (1 + skip) * length:
        least = f"the context of {length:,}" if not skip else f"{1 + skip} times the context of {length:,}"
        raise InputError(f"heads: the text has {len(ids):,} tokens, fewer than {least}; give a longer one")
    ids = ids[skip * length :]
    rows = min(SEQUENCES, len(ids) // length)
    return ids[: rows * length].view(rows, length), f"{name}, {how}"


def measure_heads(
    model: str | Path | nn.Module, *, text: str | Path | None = None, context: int | None = None, seed: int = 0
) -> HeadsReport:
    """Measure every head of a model, given live, as a local folder or as a configuration (then with random weights).

    Parameters
    ----------
    model : a transformers model, or the path of a folder or config.json.
    text : path of a UTF-8 file; the start of Python's own library by default.
    context : tokens of a sequence; the model's by default, at most 1024 then.
    seed : of random weights.

    Raises
    ------
    InputError
        where the model or the text cannot be used.
    """
    if isinstance(model, nn.Module):
        tree = tree_of(model)
        batches, source = calibration_tokens(tree, text=text, context=context)
        return measure_model(model, batches, tree=tree, source=source)
    loaded, tree, origin = load_model(model, seed)
    folder = Path(model) if Path(model).is_dir() else None
    batches, source = calibration_tokens(tree, text=text, context=context, folder=folder)
    return measure_model(loaded, batches, tree=tree, source=source, notes=(f"measured with {origin}",))


# ---- shrinking ----


@dataclass(frozen=True)
class ShrinkReport:
    """What shrinking did, all layers together."""

    layers: tuple[dict[str, Any], ...]
    """layer, head_dim and value_dim before and after; predicted: the shares of the logits' variance and of the layer's output
    that are lost; measured: the relative squared change of what the layer's
    attention adds, without the first token of a decoder"""
    zeroed: int
    """weights that are zero now, which a smaller model would not have"""
    output_change: float
    """relative squared change of the model's logits (of its last hidden states, where it has none)"""
    loss_before: float | None
    """nats per token on the calibration text, or on `held_out`; None for models that predict no next token"""
    loss_after: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "layers": [dict(row) for row in self.layers]}


def shrink_heads(
    model: nn.Module, allocation: Allocation, report: HeadsReport | None = None, held_out: Tensor | None = None
) -> ShrinkReport:
    """Cut queries, keys and values of every layer to the allocated dimensions, in place, and measure before and after.

    Where positions are not rotated into queries and keys, each head's query-key form is replaced by the truncated singular
    value decomposition of its whitened form, the best of that rank on the calibration text; heads that share a key are cut
    together. With rotary positions whole pairs of dimensions are dropped, those that add least to the logits' variance first,
    so that the rotation stays what it was. Values and the output map are cut by the truncated singular value decomposition of
    W_o W_v C_m^(1/2), see above; heads that share a value are whitened by the mean of their covariances and then each given
    its own best output map. What a cut value loses on average goes into the output map's bias, where there is one. The modules
    keep their shapes, with zeros in the dimensions that are gone, and the scale 1/sqrt(d_h) of the full head: the function is
    exactly that of the smaller model.

    Parameters
    ----------
    model : a transformers model, changed in place.
    allocation : from :meth:`HeadsReport.allocate`; layers that ask for as many dimensions as there are, or more, stay.
    report : the measurement to cut by; the allocation's own by default.
    held_out : tokens to measure on before and after, (sequences, context); those that were calibrated on by default, which
        flatters the cut.

    Raises
    ------
    InputError
        where heads were added or taken away, queries or keys that norms stand behind are to be cut, or the model or its values
        were not measured.
    """
    report = allocation.measured if report is None else report
    if not isinstance(report, HeadsReport):
        raise InputError("shrink_heads needs the measurement: an allocation made by HeadsReport.allocate, or report=")
    tree = tree_of(model)
    layer = tree.attention
    if len(allocation.layers) != len(report.forms) or any(got.heads != layer.heads for got in allocation.layers):
        raise InputError("shrink_heads changes head dimensions only: the allocation has other layers or other heads")
    queries_cut = any(got.head_dim < layer.head_dim for got in allocation.layers)
    if queries_cut and (layer.query_norm is not None or layer.key_norm is not None):
        raise InputError("shrink_heads cannot cut heads whose queries and keys are normed behind their projection")
    if not report.values and any(got.value_dim < layer.value_dim for got in allocation.layers):
        raise InputError("shrink_heads cannot cut values that were not measured")
    causal, batches = layer.causal, report.batches if held_out is None else held_out
    if batches.dim() != 2 or batches.shape[1] < 2 or not len(batches):
        raise InputError("shrink_heads: held_out has the shape (sequences, context), with a context from 2")
    places = _Places(model, tree)
    outs = [places.out(block) for block in range(len(report.forms))]
    watched = [out.module for out in outs]
    with _watching(watched) as before:
        _, ends_before = _passes(model, batches, causal)
    zeroed, rows = 0, []
    with torch.no_grad():
        for block, (got, form, out) in enumerate(zip(allocation.layers, report.forms, outs, strict=True)):
            rank, size = min(got.head_dim, layer.head_dim), min(got.value_dim, layer.value_dim)
            lost = value_lost = 0.0
            if rank < layer.head_dim:
                pairs = _cuts(layer.position, form, rank)
                lost = _lost(form, pairs)
                group = layer.heads // layer.kv_heads
                zeroed += _send(places, block, "query", [to for to, _ in pairs for _ in range(group)])
                zeroed += _send(places, block, "key", [to for _, to in pairs])
            if size < layer.value_dim:
                cuts = _value_cuts(report.values[block], layer.kv_heads, size)
                value_lost = _value_lost(report.values[block], cuts)
                zeroed += _send(places, block, "value", [cut.to for cut in cuts])
                zeroed += _cut_out(out, report.values[block], cuts)
            rows.append({
                "layer": block, "head_dim_before": layer.head_dim, "head_dim_after": rank,
                "value_dim_before": layer.value_dim, "value_dim_after": size,
                "logit_variance_lost": lost, "value_error": value_lost,
            })  # fmt: skip
    with _watching(watched) as after:
        _, ends_after = _passes(model, batches, causal)
    for row, one, other in zip(rows, before, after, strict=True):
        row["output_change"] = _change(*(torch.cat(rows)[:, 1 if causal else 0 :] for rows in (one, other)))
    lm = causal and tree.head is not None and ends_before.shape[-1] == tree.vocab
    losses = [float(next_token_loss(ends, batches)) if lm else None for ends in (ends_before, ends_after)]
    return ShrinkReport(tuple(rows), zeroed, _change(ends_before, ends_after), *losses)


def _change(before: Tensor, after: Tensor) -> float:
    scale = float((before.double() ** 2).sum())
    return float(((before.double() - after.double()) ** 2).sum()) / scale if scale else 0.0


def next_token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean nats per token, of logits (B, L, V) about the tokens (B, L) that come next."""
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def _grouped(form: LayerForms) -> Tensor:
    """Second moments of the queries that share a key, summed: (kv_heads, d_h, d_h)."""
    kv_heads, dims = form.keys.shape[:2]
    return form.queries.view(kv_heads, -1, dims, dims).sum(1)


def _cuts(position: Any, form: LayerForms, rank: int) -> list[tuple[Tensor, Tensor]]:
    """For each key head the maps of queries and of keys, (d_h, d_h) with zeros in all but `rank` columns."""
    made = []
    for q, k in zip(_grouped(form), form.keys, strict=True):
        if isinstance(position, Rotary):
            mask = torch.diag(_staying(_dropped(q, k, position), len(q), rank).to(q.dtype))
            made.append((mask, mask))
            continue
        root_q, root_k = _root(q), _root(k)
        u, s, vh = torch.linalg.svd(root_q @ root_k)
        kept = min(rank, int((s > 1e-12 * s[0].clamp(min=1e-300)).sum()))
        to_q, to_k = torch.zeros_like(q), torch.zeros_like(k)
        to_q[:, :kept] = root_k @ vh.T[:, :kept] / s[:kept].sqrt()
        to_k[:, :kept] = root_q @ u[:, :kept] / s[:kept].sqrt()
        # How a product is split between its factors is free: both maps are given the same norm.
        balance = ((to_k**2).sum() / (to_q**2).sum().clamp(min=1e-300)) ** 0.25 if kept else torch.ones((), dtype=q.dtype)
        made.append((to_q * balance, to_k / balance))
    return made


def _dropped(q: Tensor, k: Tensor, position: Rotary) -> list[list[int]]:
    """Pairs of rotated dimensions, and single others, in the order in which they are dropped.

    Without the dimensions in S the logits lose the sum of q_ij k_ij over i and j in S; the unit that adds least for each of
    its dimensions goes next.
    """
    dims = len(q)
    rotated = int(dims * position.fraction) // 2 * 2
    if position.interleaved:
        units = [[i, i + 1] for i in range(0, rotated, 2)]
    else:
        units = [[i, i + rotated // 2] for i in range(rotated // 2)]
    units += [[i] for i in range(rotated, dims)]
    product = q * k
    coupled, order = torch.zeros(dims, dtype=q.dtype), []
    while units:
        added = [float(product[u][:, u].sum() + 2 * coupled[u].sum()) / len(u) for u in units]
        unit = units.pop(min(range(len(units)), key=added.__getitem__))
        coupled = coupled + product[:, unit].sum(1)
        order.append(unit)
    return order


def _staying(order: list[list[int]], dims: int, rank: int) -> Tensor:
    """Which dimensions stay: `rank` of them, or one fewer where only pairs are left to choose from."""
    stays = torch.ones(dims, dtype=torch.bool)
    left = dims
    for unit in order:
        if left - len(unit) >= rank:
            stays[unit] = False
            left -= len(unit)
    if left > rank:
        stays[next(unit for unit in order if stays[unit[0]])] = False
    return stays


def cut_losses(position: Any, form: LayerForms) -> list[list[float]]:
    """For each key head the share of the logits' variance that :func:`shrink_heads` loses at 0, 1, ..., d_h dimensions."""
    made = []
    for q, k in zip(_grouped(form), form.keys, strict=True):
        whole = float((q * k).sum())
        if whole <= 0:
            made.append([0.0] * (len(q) + 1))
            continue
        if isinstance(position, Rotary):
            order = _dropped(q, k, position)
            gone = [~_staying(order, len(q), rank) for rank in range(len(q) + 1)]
            losses = [max(0.0, float((q * k)[g][:, g].sum())) / whole for g in gone]
        else:
            s2 = torch.linalg.svdvals(_root(q) @ _root(k)) ** 2
            losses = [e / float(s2.sum()) for e in laws.readout_errors(s2.tolist())]
        made.append(losses)
    return made


def _lost(form: LayerForms, maps: list[tuple[Tensor, Tensor]]) -> float:
    """The share of the logits' variance that the maps lose, over all heads of the layer."""
    dims = form.keys.shape[-1]
    gone = whole = 0.0
    for q, k, (to_q, to_k) in zip(_grouped(form), form.keys, maps, strict=True):
        rest = torch.eye(dims, dtype=q.dtype) - to_q @ to_k.T
        gone += float(torch.einsum("ij,jk,kl,il->", q, rest, k, rest))
        whole += float((q * k).sum())
    return gone / whole if whole else 0.0


class _ValueCut(NamedTuple):
    """How the value of one key-value head is cut: the map into fewer dimensions, and each of its heads' map back."""

    to: Tensor
    """(d_v, d_v), zeros in all but so many columns"""
    back: tuple[Tensor, ...]
    """for each head, (d_v, d_v), with the same columns"""


def _value_bases(form: ValueForms, kv_heads: int) -> list[Tensor]:
    """For each key-value head the rows (up to d_v, d_v) that read its value's directions, in the order of what they carry.

    With C the mean covariance of its heads' outputs and G the sum of their W_h' W_h, the squared singular values of the
    whitened map [W_h C^(1/2)] are the eigenvalues of C^(1/2) G C^(1/2).
    """
    heads = len(form.mixed)
    each = torch.arange(heads).view(kv_heads, -1)
    bases = []
    for own in each:
        root = _root(form.mixed[own, own].mean(0))
        gram = form.gram[own, own].sum(0)
        carried, vectors = torch.linalg.eigh(root @ gram @ root)
        carried, vectors = carried.flip(0), vectors.flip(1)
        kept = carried > 1e-13 * carried[0].clamp(min=1e-300)
        bases.append((vectors[:, kept] / carried[kept].sqrt()).T @ root @ gram)
    return bases


def _value_cuts(form: ValueForms, kv_heads: int, rank: int, bases: Sequence[Tensor] | None = None) -> list[_ValueCut]:
    """The cut of every key-value head's value to so many dimensions."""
    heads, dims = form.means.shape
    each = torch.arange(heads).view(kv_heads, -1)
    made = []
    for own, rows in zip(each, _value_bases(form, kv_heads) if bases is None else bases, strict=True):
        read = rows[:rank]
        back = []
        for head in own:
            shared = form.mixed[head, head] @ read.T
            back.append(shared @ torch.linalg.pinv(read @ shared, hermitian=True, rtol=1e-12) if len(read) else shared)
        # How a product is split between its factors is free: each direction gets the same norm in both.
        balance = ((sum((b * b).sum(0) for b in back) + 1e-300) / ((read * read).sum(1) + 1e-300)) ** 0.25
        empty = read.new_zeros(dims, dims - len(read))
        made.append(_ValueCut(torch.cat([read.T * balance, empty], 1), tuple(torch.cat([b / balance, empty], 1) for b in back)))
    return made


def _left_out(cuts: Sequence[_ValueCut]) -> Tensor:
    """For each head what the cut leaves out of its output: (heads, d_v, d_v)."""
    kept = torch.stack([back @ cut.to.T for cut in cuts for back in cut.back])
    return torch.eye(kept.shape[-1], dtype=kept.dtype) - kept


def _value_lost(form: ValueForms, cuts: Sequence[_ValueCut]) -> float:
    """The share of the layer's output, squared, that the cuts lose: all heads together, and how they vary together."""
    gone = _left_out(cuts)
    whole = float((form.mixed * form.gram).sum())
    lost = float((gone[:, None] @ form.mixed @ gone[None].transpose(-1, -2) * form.gram).sum())
    return lost / whole if whole > 0 else 0.0


def _value_curve(form: ValueForms, kv_heads: int) -> Callable[[int], float]:
    """What is lost as a function of the values' dimensions, each computed when it is first asked for."""
    bases = _value_bases(form, kv_heads)
    empty = float((form.mixed * form.gram).sum()) <= 0

    @functools.cache
    def lost(rank: int) -> float:
        if empty or rank >= form.means.shape[1]:
            return 0.0
        return _value_lost(form, _value_cuts(form, kv_heads, rank, bases)) if rank else 1.0

    return lost


def value_losses(form: ValueForms, kv_heads: int) -> list[float]:
    """The share of a layer's output that :func:`shrink_heads` loses with values of 0, 1, ..., d_v dimensions.

    Exact on the calibration text for a layer whose input and weights of attention stay as they are.
    """
    return list(map(_value_curve(form, kv_heads), range(form.means.shape[1] + 1)))


def _send(places: _Places, block: int, role: str, maps: Sequence[Tensor]) -> int:
    """Send weight and bias of a projection through its heads' maps; how many zeros that a smaller one would not have."""
    found = (places.find(role, leaf, block) for leaf in ("weight", "bias"))
    return sum(_apply(place[0], maps) for place in found if place is not None)


def _cut_out(out: _Out, form: ValueForms, cuts: Sequence[_ValueCut]) -> int:
    """Let the output map read the cut values; its bias takes what they lose on average."""
    if out.bias is not None:
        missing = torch.einsum("hij,hj->hi", _left_out(cuts), form.means).flatten()
        out.bias.add_((out.weight.double().cpu() @ missing).to(out.bias))
    return _apply(out.weight.T, [back for cut in cuts for back in cut.back])


def _apply(view: Tensor, maps: Sequence[Tensor]) -> int:
    """Send a weight (heads d, others) or bias through one map a head; how many of its numbers are zero now by that."""
    flat = view.reshape(len(maps), len(maps[0]), -1).double().cpu()
    zeroed = 0
    for head, to in enumerate(maps):
        flat[head] = to.T @ flat[head]
        zeroed += int((to.abs().sum(0) == 0).sum()) * flat.shape[-1]
    view.copy_(flat.reshape(view.shape).to(view.dtype))
    return zeroed
