"""A recipe on a live model: weights set in place, parameter groups for the optimizer, and what weights alone cannot do.

Nothing of the model is replaced or wrapped, so that compiled and sharded models keep working. Tensors are found by name: a
model whose parameters are called as the tree's (``decoder.block.3.attention.query.weight``) needs no rules, and those of the
transformers library are written below as data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from depthwidth.architecture import Transformer
from depthwidth.errors import InputError, nearest, shown
from depthwidth.initialization import Recipe, TensorInit, Weight, at_block, parameters, stacks, weights
from depthwidth.layers import Attention, Block, Residual, RMSNorm, Stack

# Names. `#` is the number of a block; alternatives are apart by `|`, of which the first that the tree has is meant; what
# stands before `>` says how one tensor is cut into the roles after it.


def _blocks(prefix: str, stack: str, table: Mapping[str, str]) -> dict[str, str]:
    """Names in a block and what they are in the tree's."""
    made = {}
    for name, roles in table.items():
        cut, _, rest = roles.rpartition("> ")
        places = re.sub(r"[^ |]+", lambda found: f"{stack}.block.{found[0]}", rest)
        made[f"{prefix}.{name}"] = f"{cut}> {places}" if cut else places
    return made


_QKV = "attention.query attention.key attention.value"
_GPT2_BLOCK = {
    "ln_1": "attention.norm_in|norm", "ln_2": "feed_forward.norm_in",
    "attn.c_attn": f"last> {_QKV}", "attn.c_proj": "attention.out",
    "attn.attention.q_proj": "attention.query", "attn.attention.k_proj": "attention.key",
    "attn.attention.v_proj": "attention.value", "attn.attention.out_proj": "attention.out",
    "attn.q_proj": "attention.query", "attn.k_proj": "attention.key", "attn.v_proj": "attention.value",
    "attn.qkv_proj": f"codegen> {_QKV}", "attn.out_proj": "attention.out",
    "mlp.c_fc": "feed_forward.up", "mlp.c_proj": "feed_forward.down",
    "mlp.fc_in": "feed_forward.up", "mlp.fc_out": "feed_forward.down",
}  # fmt: skip
_GPT2 = {
    "wte": "stem.tokens", "wpe": "stem.positions", "ln_f": "decoder.norm", "lm_head": "head.unembedding",
    **_blocks("h.#", "decoder", _GPT2_BLOCK),
}  # fmt: skip
_LLAMA_BLOCK = {
    "input_layernorm": "attention.norm_in|norm",
    "post_attention_layernorm": "attention.norm_out|feed_forward.norm_in",
    "pre_feedforward_layernorm": "feed_forward.norm_in", "post_feedforward_layernorm": "feed_forward.norm_out",
    "self_attn.q_proj": "attention.query", "self_attn.k_proj": "attention.key", "self_attn.v_proj": "attention.value",
    "self_attn.o_proj": "attention.out", "self_attn.dense": "attention.out", "self_attn.qkv_proj": f"first> {_QKV}",
    "self_attn.q_norm": "attention.query_norm", "self_attn.k_norm": "attention.key_norm",
    "self_attn.q_layernorm": "attention.query_norm", "self_attn.k_layernorm": "attention.key_norm",
    "mlp.gate_proj": "feed_forward.gate", "mlp.up_proj": "feed_forward.up", "mlp.down_proj": "feed_forward.down",
    "mlp.gate_up_proj": "halves> feed_forward.gate feed_forward.up",
    "mlp.c_fc": "feed_forward.up", "mlp.c_proj": "feed_forward.down",
    "mlp.fc1": "feed_forward.up", "mlp.fc2": "feed_forward.down",
    "mlp.gate": "feed_forward.router",
    "mlp.experts.gate_up_proj": "halves> feed_forward.expert.gate feed_forward.expert.up",
    "mlp.experts.down_proj": "feed_forward.expert.down",
    "mlp.shared_expert_gate": "feed_forward.shared_gate", "mlp.shared_expert.gate_proj": "feed_forward.shared.gate",
    "mlp.shared_expert.up_proj": "feed_forward.shared.up", "mlp.shared_expert.down_proj": "feed_forward.shared.down",
}  # fmt: skip
_LLAMA = {
    "embed_tokens": "stem.tokens", "norm": "decoder.norm", "final_layernorm": "decoder.norm", "lm_head": "head.unembedding",
    **_blocks("layers.#", "decoder", _LLAMA_BLOCK),
}  # fmt: skip
_FUSED_BLOCK = {
    "input_layernorm": "attention.norm_in|norm", "post_attention_layernorm": "feed_forward.norm_in",
    "ln_attn": "attention.norm_in", "ln_mlp": "feed_forward.norm_in",
    "mlp.dense_h_to_4h": "feed_forward.up", "mlp.dense_4h_to_h": "feed_forward.down",
    **{f"{name}.query_key_value": f"groups> {_QKV}" for name in ("attention", "self_attention")},
    **{f"{name}.dense": "attention.out" for name in ("attention", "self_attention")},
}  # fmt: skip
_NEOX = {
    "embed_in": "stem.tokens", "final_layer_norm": "decoder.norm", "lm_head": "head.unembedding",
    **_blocks("layers.#", "decoder", _FUSED_BLOCK),
}  # fmt: skip
_BLOOM = {
    "word_embeddings": "stem.tokens", "word_embeddings_layernorm": "stem.norm", "ln_f": "decoder.norm",
    "lm_head": "head.unembedding", **_blocks("h.#", "decoder", _FUSED_BLOCK),
}  # fmt: skip
_OPT_BLOCK = {
    "self_attn.q_proj": "attention.query", "self_attn.k_proj": "attention.key", "self_attn.v_proj": "attention.value",
    "self_attn.out_proj": "attention.out", "fc1": "feed_forward.up", "fc2": "feed_forward.down",
    "self_attn_layer_norm": "attention.norm_in|attention.norm_stream",
    "final_layer_norm": "feed_forward.norm_in|feed_forward.norm_stream",
}  # fmt: skip
_OPT = {
    "decoder.embed_tokens": "stem.tokens", "decoder.embed_positions": "stem.positions",
    "decoder.project_in": "stem.projection", "decoder.project_out": "head.transform",
    "decoder.final_layer_norm": "decoder.norm", "lm_head": "head.unembedding",
    **_blocks("decoder.layers.#", "decoder", _OPT_BLOCK),
}  # fmt: skip
_BERT_BLOCK = {
    "attention.self.query": "attention.query", "attention.self.key": "attention.key",
    "attention.self.value": "attention.value", "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "attention.norm_stream", "intermediate.dense": "feed_forward.up",
    "output.dense": "feed_forward.down", "output.LayerNorm": "feed_forward.norm_stream",
    "attention.q_lin": "attention.query", "attention.k_lin": "attention.key", "attention.v_lin": "attention.value",
    "attention.out_lin": "attention.out", "sa_layer_norm": "attention.norm_stream", "ffn.lin1": "feed_forward.up",
    "ffn.lin2": "feed_forward.down", "output_layer_norm": "feed_forward.norm_stream",
}  # fmt: skip
_BERT = {
    "embeddings.word_embeddings": "stem.tokens", "embeddings.position_embeddings": "stem.positions",
    "embeddings.token_type_embeddings": "stem.segments", "embeddings.LayerNorm": "stem.norm",
    "pooler.dense": "head.pooler.linear|head.linear", "classifier": "head.linear",
    **_blocks("encoder.layer.#", "encoder", _BERT_BLOCK),
    **_blocks("transformer.layer.#", "encoder", _BERT_BLOCK),
    # BERT's, RoBERTa's and DistilBERT's heads
    "cls.predictions": "head.unembedding", "cls.predictions.decoder": "head.unembedding",
    "cls.predictions.transform.dense": "head.transform", "cls.predictions.transform.LayerNorm": "head.norm",
    "lm_head": "head.unembedding", "lm_head.decoder": "head.unembedding", "lm_head.dense": "head.transform",
    "lm_head.layer_norm": "head.norm", "classifier.dense": "head.pooler.linear", "classifier.out_proj": "head.linear",
    "vocab_projector": "head.unembedding", "vocab_transform": "head.transform", "vocab_layer_norm": "head.norm",
    "pre_classifier": "head.pooler.linear",
}  # fmt: skip
_VIT_BLOCK = {
    "attention.q_proj": "attention.query", "attention.k_proj": "attention.key", "attention.v_proj": "attention.value",
    "attention.o_proj": "attention.out", "layernorm_before": "attention.norm_in", "layernorm_after": "feed_forward.norm_in",
    "mlp.fc1": "feed_forward.up", "mlp.fc2": "feed_forward.down",
}  # fmt: skip
_VIT = {
    "embeddings.cls_token": "stem.class_token", "embeddings.position_embeddings": "stem.positions",
    "embeddings.patch_embeddings.projection": "stem.patch", "layernorm": "encoder.norm",
    "pooler.dense": "head.pooler.linear|head.linear", "classifier": "head.linear",
    **_blocks("layers.#", "encoder", _VIT_BLOCK),
}  # fmt: skip


def _t5_stack(stack: str, last: int) -> dict[str, str]:
    names = {"q": "query", "k": "key", "v": "value", "o": "out"}
    table = {
        **{f"0.SelfAttention.{name}": f"attention.{role}" for name, role in names.items()},
        **{f"1.EncDecAttention.{name}": f"cross_attention.{role}" for name, role in names.items()},
        "0.layer_norm": "attention.norm_in", "1.layer_norm": "cross_attention.norm_in",
        f"{last}.layer_norm": "feed_forward.norm_in", f"{last}.DenseReluDense.wi": "feed_forward.up",
        f"{last}.DenseReluDense.wi_0": "feed_forward.gate", f"{last}.DenseReluDense.wi_1": "feed_forward.up",
        f"{last}.DenseReluDense.wo": "feed_forward.down",
    }  # fmt: skip
    return {
        f"{stack}.final_layer_norm": f"{stack}.norm",
        f"{stack}.block.#.layer.0.SelfAttention.relative_attention_bias": f"{stack}.position",
        **_blocks(f"{stack}.block.#.layer", stack, table),
    }


_T5 = {"shared": "stem.tokens", "lm_head": "head.unembedding", **_t5_stack("encoder", 1), **_t5_stack("decoder", 2)}

RULES: dict[str, dict[str, str]] = {
    **dict.fromkeys(("gpt2", "gpt_neo", "gptj", "codegen"), _GPT2),
    **dict.fromkeys(("llama", "mistral", "mixtral", "phi", "phi3", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe"), _LLAMA),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text", "olmo", "olmo2", "stablelm", "starcoder2"), _LLAMA),
    "gpt_neox": _NEOX, "bloom": _BLOOM, "falcon": _BLOOM, "opt": _OPT,
    "bert": _BERT, "roberta": _BERT, "distilbert": _BERT, "vit": _VIT, "t5": _T5,
}  # fmt: skip
"""What each family calls its modules, and which roles of a tree they are."""

_WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.|^module\.")


class Slice(NamedTuple):
    """A part of a parameter that is one tensor of the tree, or all of it."""

    role: str
    block: int | None
    view: Callable[[Tensor], Tensor]


def _whole(tensor: Tensor) -> Tensor:
    return tensor


def _sections(cut: str, attention: Attention, part: int) -> Callable[[Tensor], Tensor]:
    """The view of the part-th role of a tensor that holds several."""
    heads, kv, dim = attention.heads, attention.kv_heads, attention.head_dim
    sizes = (heads * dim, kv * dim, kv * attention.value_dim)
    start = sum(sizes[:part])
    if cut == "last":  # stored as (inputs, outputs)
        return lambda tensor: tensor[..., start : start + sizes[part]]
    if cut == "first":
        return lambda tensor: tensor[start : start + sizes[part]]
    if cut == "halves":

        def half(tensor: Tensor) -> Tensor:
            return tensor.chunk(2, dim=-2 if tensor.dim() > 1 else 0)[part]

        return half
    if cut == "groups":  # for each key head its queries, its key, its value

        def group(tensor: Tensor) -> Tensor:
            split = tensor.view(kv, heads // kv + 2, dim, *tensor.shape[1:])
            return (split[:, :-2], split[:, -2], split[:, -1])[part]

        return group

    if heads % 4:
        raise InputError(f"codegen cuts its query map in four, and heads={heads} is not a multiple of four")

    def codegen(tensor: Tensor) -> Tensor:  # four device shards, each with query, value, key
        return tensor.view(4, 3, -1, *tensor.shape[1:])[:, (0, 2, 1)[part]]

    return codegen


def tree_of(model: nn.Module) -> Transformer:
    """The tree of a model of :func:`verify.build`, or of the transformers library.

    Raises
    ------
    InputError
        if the model has no configuration, or one that cannot be read.
    """
    inner = _unwrapped(model)
    tree = getattr(inner, "tree", None)
    if isinstance(tree, Transformer):
        return tree
    config = getattr(inner, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        raise InputError(f"{type(inner).__name__} has no configuration to read its tree from: give tree=")
    fields = {**config.to_dict(), "architectures": [type(inner).__name__]}
    if fields.get("sliding_window") == 0:  # how the class writes that there is none
        fields["sliding_window"] = None
    return Transformer.from_config(fields)


def _unwrapped(model: nn.Module) -> nn.Module:
    while True:
        inner = getattr(model, "_orig_mod", None) or (getattr(model, "module", None) if not hasattr(model, "config") else None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def locate(
    model: nn.Module, tree: Transformer, rules: Mapping[str, str] | None = None, *, unused: Collection[str] = ()
) -> dict[str, list[Slice]]:
    """For each parameter of `model`, the tensors of `tree` that it holds.

    Parameters
    ----------
    model : any module; its parameters are called as the tree's, or as `rules` or the rules of its ``config.model_type`` say.
    tree : what it is.
    rules : names of modules (with ``#`` for the number of a block) and their roles, as in :data:`RULES`.
    unused : names of parameters that the model holds and does not use; they are left out.

    Raises
    ------
    InputError
        if a parameter has no role, a tensor of the tree has no parameter, or their sizes differ.
    """
    inner = _unwrapped(model)
    if rules is None:
        rules = RULES.get(getattr(getattr(inner, "config", None), "model_type", ""), {})
    prefix = f"{getattr(inner, 'base_model_prefix', '')}."
    own = {name: (role, block) for name, role, block, _ in parameters(tree)}
    sizes = {(role, block): torch.Size(shape).numel() for _, role, block, shape in parameters(tree)}
    roles = {role for role, _ in sizes}
    blocks = {name: list(stack.blocks()) for name, stack in _stacks(tree).items()}
    found: dict[str, list[Slice]] = {}
    seen: dict[tuple[str, int | None], str] = {}
    for name, parameter in model.named_parameters():
        plain = _WRAPPERS.sub("", name)
        if plain in unused:
            continue
        if plain.endswith(".alpha") and hasattr(inner, "apply_multipliers"):
            found[name] = []  # a trainable residual scale of ReZero's, which the tree does not have
            continue
        if plain in own:
            slices = [Slice(*own[plain], _whole)]
        else:
            slices = list(_by_rule(plain.removeprefix(prefix), rules, roles, blocks))
        if not slices:
            raise InputError(f"no rule says what {name} of {type(inner).__name__} is{nearest(plain, own)}")
        for one in slices:
            key = (one.role, one.block)
            if key in seen:
                raise InputError(f"{seen[key]} and {name} are both {_named(*key)}")
            seen[key] = name
            if key not in sizes or one.view(parameter).numel() != sizes[key]:
                raise InputError(f"{name} has shape {list(parameter.shape)}, which {_named(*key)} of the tree has not")
        found[name] = slices
    missing = [_named(*key) for key in sizes if key not in seen]
    if missing:
        raise InputError(f"{type(inner).__name__} has no parameter for {missing[0]}")
    return found


def _named(role: str, block: int | None) -> str:
    return role if block is None else role.replace(".block.", f".block.{block}.", 1)


def _stacks(tree: Transformer) -> dict[str, Stack]:
    return {name: stack for name, stack in (("encoder", tree.encoder), ("decoder", tree.decoder)) if stack is not None}


def _by_rule(name: str, rules: Mapping[str, str], roles: set[str], blocks: Mapping[str, list[Block]]) -> Iterator[Slice]:
    number = re.search(r"\.(\d+)\.", f".{name}")
    block = int(number[1]) if number else None
    template = re.sub(r"(^|\.)\d+\.", r"\1#.", name, count=1)
    module, _, leaf = template.rpartition(".")
    if template in rules:  # a parameter of its own, not a module's weight or bias
        rule, leaf = rules[template], "weight"
    elif module in rules:
        rule = rules[module]
    else:
        return
    cut, _, rest = rule.rpartition("> ")
    if cut:
        role = rest.split()[0]
        attention = _attention(blocks[role.split(".")[0]][block or 0])
        for part, role in enumerate(rest.split()):
            yield Slice(f"{role}.{leaf}", block, _sections(cut, attention, part))
        return
    for role in rest.split("|"):
        for full in (f"{role}.{leaf}", role):
            if full in roles:
                yield Slice(full, block if ".block." in full else None, _whole)
                return


def _attention(block: Block) -> Attention:
    branch = block.attention.branch
    if not isinstance(branch, Attention):
        raise InputError("the first branch of a block is not attention")
    return branch


# Multipliers and residual scales that weights can carry.

_Key = tuple[str, int | None]


@dataclass(frozen=True)
class InitReport:
    """What :func:`apply_init` did, and what is left to the model's code."""

    initialised: tuple[dict[str, Any], ...]
    """Parameter, role, standard deviation and mean, one for each tensor of the tree."""
    folded: tuple[dict[str, Any], ...]
    """Multipliers and residual scales that weights carry: tensor, factor, reason. The function is the same, up to a norm's
    epsilon; :func:`parameter_groups` adapts learning rate and decay."""
    needs_code: tuple[str, ...]
    """What the model's own code must do, one sentence each."""

    def to_dict(self) -> dict[str, Any]:
        """Plain lists."""
        return {"initialised": list(self.initialised), "folded": list(self.folded), "needs_code": list(self.needs_code)}


class _Folds:
    """Factors on tensors, by role and block."""

    def __init__(self, tree: Transformer, recipe: Recipe) -> None:
        self.tree, self.recipe = tree, recipe
        self.factors: dict[_Key, float] = {}
        self.reasons: dict[_Key, list[str]] = {}
        self.needs_code: list[str] = list(recipe.notes)
        self.places: dict[_Key, Weight] = {}
        for weight in weights(tree):
            for block in weight.blocks if weight.stack else (None,):
                self.places[weight.role, block] = weight
        self._multipliers()
        for name, _, _ in stacks(tree):
            self._residuals(name)

    def scale(self, key: _Key, factor: float, reason: str) -> None:
        """Let a tensor carry a factor, and its bias with it."""
        if factor == 1.0:
            return
        for one in (key, (key[0].removesuffix("weight") + "bias", key[1])):
            if one in self.places:
                self.factors[one] = self.factors.get(one, 1.0) * factor
                self.reasons.setdefault(one, []).append(reason)

    def _tied(self) -> bool:
        return "head.unembedding.weight" not in {role for role, _ in self.places} and self.tree.vocab > 0

    def _multipliers(self) -> None:
        for line in self.recipe.tensors:
            factors = {key: at_block(line.multiplier, key[1]) for key in self.places if key[0] == line.role}
            if all(factor == 1.0 for factor in factors.values()):
                continue
            weight = next(iter(self.places[key] for key in factors))
            norm = weight.owner.query_norm if isinstance(weight.owner, Attention) else None
            if weight.kind == "tokens" and self._tied():
                self.needs_code.append(f"{line.role}: multiply by {at_block(line.multiplier, None):.6g} where it is looked up")
            elif weight.kind == "query" and norm is not None and not norm.affine:
                self.needs_code.append(f"{line.role}: multiply scores, a norm without weights stands behind the query")
            elif weight.kind == "bias":
                continue  # goes with its weight
            else:
                for key, factor in factors.items():
                    self.scale(key, factor, "multiplier")

    def _residuals(self, name: str) -> None:
        stack = _stacks(self.tree)[name]
        carried = 1.0  # what the model's stream is multiplied by to be the recipe's
        for index, block in enumerate(stack.blocks()):
            summed = False
            for branch in ("attention", "cross_attention", "feed_forward"):
                residual = getattr(block, branch)
                if residual is None:
                    continue
                line = self.recipe.residual(f"{name}.block.{branch}")
                skip, scale = at_block(line.skip, index), at_block(line.branch, index)
                if skip <= 0 or scale == 0:
                    what = f"skip {skip:g} and branch {scale:g}"
                    self._once(f"{name}.block.{branch}: {what} need a scalar of their own in the model ({line.reason})")
                    continue
                if residual.norm_stream is not None:
                    self._carry(name, index, branch, residual, scale / skip)
                    continue
                if not (block.parallel and summed):
                    carried *= skip
                summed = True
                if skip != 1.0 and not self._free(stack, block, residual):
                    self._once(f"{name}: the skip scale {skip:.6g} needs code, as not all that reads the stream is normed")
                    carried = 1.0
                self._carry(name, index, branch, residual, scale / carried)

    def _once(self, sentence: str) -> None:
        if sentence not in self.needs_code:
            self.needs_code.append(sentence)

    @staticmethod
    def _free(stack: Stack, block: Block, residual: Residual) -> bool:
        """Whether the scale of the stream can be chosen: everyone who reads it takes a norm first."""
        return stack.norm is not None and (residual.norm_in is not None or block.norm is not None)

    def _carry(self, name: str, index: int, branch: str, residual: Residual, factor: float) -> None:
        place = f"{name}.block.{branch}"
        reason = "residual scale"
        if residual.norm_out is not None:
            if (f"{place}.norm_out.weight", index) in self.places:
                self.scale((f"{place}.norm_out.weight", index), factor, reason)
            elif factor != 1.0:
                self._once(f"{place}: multiply the branch by {factor:.6g}, the norm behind it has no weights")
            return
        for last in ("out", "down", "expert.down", "shared.down"):
            self.scale((f"{place}.{last}.weight", index), factor, reason)

    def start(self, key: _Key, line: TensorInit) -> tuple[float, float]:
        """Mean and standard deviation that a tensor starts with, its factor carried."""
        factor = self.factors.get(key, 1.0)
        layer = self.places[key].layer
        offset = 1.0 if isinstance(layer, RMSNorm) and layer.unit_offset else 0.0
        return factor * (line.mean + offset) - offset, abs(factor) * at_block(line.std, key[1])


def _matched(model: nn.Module, recipe: Recipe, tree: Transformer | None) -> Transformer:
    tree = tree_of(model) if tree is None else tree
    ours = {"depth": tree.depth, "width": tree.width, "parameters": tree.parameters}
    theirs = recipe.extras.get("tree", ours)
    for name, value in ours.items():
        if theirs[name] != value:
            raise InputError(f"the recipe is for a model of {name} {theirs[name]:,}, and this one has {value:,}")
    return tree


def apply_init(
    model: nn.Module,
    recipe: Recipe,
    *,
    tree: Transformer | None = None,
    rules: Mapping[str, str] | None = None,
    seed: int = 0,
    fold: bool | None = None,
) -> InitReport:
    """Set every weight of `model` as `recipe` says, in place.

    Parameters
    ----------
    model : any module; before or after ``torch.compile``, wrapped or not.
    recipe : of the model's own tree.
    tree : the model's tree; read from its configuration by default.
    rules : see :func:`locate`.
    seed : of the random generator; equal seeds give equal weights on equal devices.
    fold : whether multipliers and residual scales are carried by weights where the function stays the same. Otherwise all
        of them are reported in ``needs_code``. A model of :func:`verify.build` has places for them in its code, which are
        set instead unless `fold` is true; by default other models have them folded.

    Raises
    ------
    InputError
        if the model is not the one the recipe is for, or a parameter is not recognised.

    Notes
    -----
    Behind a norm the size of the stream is free, so that ``skip x + branch f(norm(x))`` is carried by the last matrix of the
    branch as ``branch`` over the product of all skips so far (pre-norm, with a final norm), or ``branch / skip`` (post-norm).
    """
    tree = _matched(model, recipe, tree)
    found = locate(model, tree, rules)
    folds = _Folds(tree, recipe)
    apply_multipliers = getattr(_unwrapped(model), "apply_multipliers", None)
    fold = apply_multipliers is None if fold is None else fold
    carried, reasons = (folds.factors, folds.reasons) if fold else ({}, {})
    generators: dict[torch.device, torch.Generator] = {}
    done = []
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for one in found[name]:
                key, line = (one.role, one.block), recipe.tensor(one.role)
                mean, std = folds.start(key, line) if fold else (line.mean, at_block(line.std, one.block))
                if parameter.is_meta:
                    raise InputError(f"{name} has no memory yet: give the model a device before its weights are set")
                part = one.view(parameter)
                if std == 0:
                    part.fill_(mean)
                else:
                    if parameter.device not in generators:
                        generators[parameter.device] = torch.Generator(parameter.device).manual_seed(seed)
                    part.normal_(mean, std, generator=generators[parameter.device])
                done.append({"parameter": name, "tensor": _named(*key), "std": std, "mean": mean})
        for module in model.modules():
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
    folded = [
        {"tensor": _named(*key), "factor": factor, "reason": " and ".join(dict.fromkeys(reasons[key]))}
        for key, factor in carried.items()
    ]
    needs = list(folds.needs_code)
    if apply_multipliers is not None:
        apply_multipliers(None if fold else recipe)
    if apply_multipliers is not None and not fold:
        needs = list(recipe.notes)
    elif not fold:
        needs += [f"{_named(*key)}: multiply its output by {factor:.6g}" for key, factor in folds.factors.items()]
    return InitReport(tuple(done), tuple(folded), tuple(needs))


def parameter_groups(
    model: nn.Module,
    recipe: Recipe,
    lr: float,
    weight_decay: float = 0.0,
    *,
    tree: Transformer | None = None,
    rules: Mapping[str, str] | None = None,
    fold: bool | None = None,
) -> list[dict[str, Any]]:
    """Groups for a torch optimizer: parameters of one learning rate and one weight decay together, with their ``names``.

    Parameters
    ----------
    model, recipe, tree, rules, fold : as for :func:`apply_init`.
    lr, weight_decay : of the base; each group has them times its recipe's factors.

    Notes
    -----
    For Adam and its kin, whose step does not depend on the size of a gradient. A weight that carries a factor c takes c times
    the learning rate and 1/c times the decay, which moves the function as the unfolded model would. Where one parameter holds
    tensors of different rates (query, key and value in one matrix), it has their geometric mean.
    """
    for name, value in (("lr", lr), ("weight_decay", weight_decay)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise InputError(f"parameter_groups: {name}={shown(value)} is not a number from 0")
    tree = _matched(model, recipe, tree)
    found = locate(model, tree, rules)
    fold = not hasattr(_unwrapped(model), "apply_multipliers") if fold is None else fold
    folds = _Folds(tree, recipe) if fold else None
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        rate, decay = 1.0, 1.0 if found[name] else 0.0
        for one in found[name]:
            line = recipe.tensor(one.role)
            factor = abs(folds.factors.get((one.role, one.block), 1.0)) if folds else 1.0
            share = 1 / len(found[name])
            rate *= (at_block(line.learning_rate, one.block) * factor) ** share
            decay *= (at_block(line.weight_decay, one.block) / factor) ** share
        # Rates that differ by rounding only are one group.
        key = (float(f"{lr * rate:.9g}"), float(f"{weight_decay * decay:.9g}"))
        group = groups.setdefault(key, {"params": [], "lr": key[0], "weight_decay": key[1], "names": []})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())
