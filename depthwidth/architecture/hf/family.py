"""A family of models: the fields of its configuration, its model classes and its weight names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from typing import Any, NamedTuple, TypeVar

from ...errors import InputError
from ...layers.activation_entries import spelling_of
from ...layers.mixer import mixer_as
from ...values import frozen
from ..design import Design
from .fields import Fields, NoTreeError, brief
from .weights import WeightNames

Choices = dict[str, Any]
M = TypeVar("M")


class Part(NamedTuple):
    """Choices of a design that are more than the copy of one field, with the functions that read and write them."""

    read: Callable[[Fields], Choices]
    """The function from the fields to the choices."""
    write: Callable[[Design], dict[str, Any]]
    """The function from a design to the fields."""


SETTINGS = {
    "coarse_penalty": "True if ALiBi's penalty is computed in bf16",
    "late_norms": "True if queries and keys are normalised after their rotation",
    "backward_rotation": "True if rotary positions turn by the negative angle",
    "rotary_factor": "the factor of a stretch of rotary positions on queries and keys, if later norms take it away",
    "query_growth": "the rate and the length by which queries grow with the logarithm of their position (Ministral 3)",
    "temperature": "the rate and the length by which queries grow in blocks without positions (Llama 4); None for none",
    "least_step": "the least step of a state-space mixer",
    "norm_before_gate": "True if a state-space mixer is normalised before its gate, not after it",
    "most_step": "the largest step of a state-space mixer",
    "qkv_clip": "the largest absolute value of queries, keys and values; None for no limit",
    "score_softcap": "the cap of attention scores; None for no cap",
}
"""The settings of a torch module that a tree does not hold."""

INITIAL_RULES = {
    "normal": "every matrix and table normal with one standard deviation",
    "normal-by-depth": "the same, over the square root of the number of branches for matrices that write to the stream (GPT-2)",
    "normal-attention-by-depth": "the same for the output of attention alone (nanochat)",
    "normal-doubled-gains": "the same, and ones for gains that are stored as their difference from one (Nemotron)",
    "normal-zero-tables": "the same, and zeros for class tokens, positions and score biases (DeiT, BEiT)",
    "normal-by-classes": "the same as the first, and over the square root of their number for a map to classes (T5Gemma)",
    "normal-router-bias": "the same as the first, and biases of routers normal too (gpt-oss)",
    "mamba": "the same, and steps and decays of Mamba, uniform convolutions and output matrices",
    "mamba2": "the same of Mamba 2",
    "nemotron_h": "the same as the first, and steps and decays of Mamba 2, and output matrices that are smaller by depth",
    "jamba": "the same as the first, and Mamba's decays, with steps of no bias",
    "state-space": "the same as the first, and Mamba 2's decays, with biases of one on steps (Granite 4, Falcon-H1)",
    "gated-delta": "the same as the first, and uniform decays, with biases of one on steps (Qwen3-Next)",
    "rwkv": "orthogonal matrices, and decays and shares by place and block",
    "t5": "T5's rule, with one factor for all",
    "clip": "CLIP's rule, by width and depth",
    "siglip": "SigLIP's rule, by fans",
    "modernbert": "normal, cut at two standard deviations, and smaller by depth for the ends of branches (ModernBERT)",
}
"""The rules by which the library's model classes draw new weights; the scheme ``shipped`` implements them."""


@frozen
class Family:
    """One ``model_type`` of the transformers library.

    To add a family, write an instance from its configuration class and its model class, in a file of
    :mod:`depthwidth.architecture.hf.families`. The shared tests find it.
    """

    model_type: str
    defaults: Mapping[str, Any]
    """Every field that is read, with the library's default."""
    names: Mapping[str, str]
    """The field of each choice of a design that is one field: ``{"depth": "num_hidden_layers"}``."""
    fixed: Mapping[str, Any]
    """Choices that every model of the family shares."""
    models: Mapping[str, Choices]
    """The head of each model class; the first one is the default."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other spellings of fields."""
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Fields that can change the model beyond what a tree describes, with the supported values; the first is the default."""
    noted: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    """Fields that a tree ignores and that change no count: the value without effect, and a sentence about all others."""
    parts: tuple[Part, ...] = ()
    """Choices that are more than the copy of one field."""
    weights: WeightNames = field(default_factory=dict)
    """The role of each module of the library's model (:mod:`depthwidth.architecture.hf.weights`)."""
    buffers: Mapping[str, str] = field(default_factory=dict)
    """Numbers of a model that are not its parameters and that its logits depend on: the place of each in a tree's model."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the logits that are not in the tree: names of :data:`SETTINGS`, each with a value or a function of the
    configuration that returns it."""
    initial_rule: str = "normal"
    """The library's initialisation, a name of :data:`INITIAL_RULES`."""
    other_rules: tuple[tuple[str, str, str], ...] = ()
    """Versions of the library with another rule: the first of them, the first after them, the rule."""
    initial_std: float = 0.02
    """The standard deviation for a configuration that states none."""
    initial_field: str = "initializer_range"
    """The field of the standard deviation, or of a factor in its place, after a stack's name and a dot; empty for none."""
    even_rotation: bool = True
    """False if the library's code rotates an odd number of dimensions per head as ours does; otherwise it fails on them."""
    factors: Callable[[Mapping[str, Any]], Mapping[str, float]] | None = None
    """A function from a configuration to fixed factors on the outputs of linear maps, by role, which are not in the tree."""
    unlike: Callable[[Mapping[str, Any]], str] | None = None
    """A function from a configuration to the reason why its logits are not those of the tree's module; empty if they are."""

    def __post_init__(self) -> None:
        for name in self.settings:
            if name not in SETTINGS:
                raise InputError(f"{self.model_type}: there is no setting {brief(name)}; known are {', '.join(SETTINGS)}")
        if self.initial_rule not in INITIAL_RULES:
            known = ", ".join(INITIAL_RULES)
            raise InputError(f"{self.model_type}: there is no initial rule {brief(self.initial_rule)}; known are {known}")

    def design(self, config: Mapping[str, Any]) -> Design:
        """The design that `config` describes.

        Raises
        ------
        InputError
            which names the invalid field.
        """
        only = {name: values[0] for name, values in self.only.items()}
        labels = {"architectures": None, "num_labels": None, "id2label": None}
        fields = Fields(self.model_type, config, {**labels, **only, **self.defaults}, self.aliases)
        for name, values in self.only.items():
            # The types are compared because 0 == False, and a 0 instead of true or false is an error in the file.
            if not any(fields.raw(name) == value and type(fields.raw(name)) is type(value) for value in values):
                raise fields.beyond(name, f"is not supported, only {' or '.join(map(repr, values))}")
        choices: Choices = {**self.fixed}
        for choice, name in self.names.items():
            choices[choice] = READERS[choice](fields, name)
        blocks: Sequence[Choices] | None = None
        for part in self.parts:
            choices.update(part.read(fields))
            blocks = joined_blocks(blocks, choices.pop("blocks", None))
        choices["blocks"] = blocks
        choices.update(self._head(fields))
        self._check(fields, choices)
        return Design(**choices)

    def fields(self, design: Design) -> dict[str, Any]:
        """The fields that describe `design`; choices without a field in this family are ignored."""
        config: dict[str, Any] = {"model_type": self.model_type}
        if design.heads is None:  # no block has attention, so that any number is right
            design = replace(design, heads=1, kv_heads=1)
        for name, choices in self.models.items():
            if all(getattr(design, choice) == value for choice, value in choices.items()):
                config["architectures"] = [name]
                break
        else:
            known = ", ".join(self.models)
            raise InputError(f"{self.model_type} cannot express a model with this kind and head; its models are {known}")
        mixed = design.mixer != "attention" or design.ffn == 0 or design.blocks is not None
        for choice, name in self.names.items():
            value = getattr(design, choice)
            needed = READERS[choice] in (Fields.flag, Fields.positive) or self.defaults.get(name) is not None
            if value is None and mixed and needed:
                continue  # of attention or a feed-forward part that no block has
            config[name] = spelling_of(value) if READERS[choice] is Fields.activation else value
        for part in self.parts:
            config.update(part.write(design))
        if design.head in ("classifier", "pretraining"):
            config["num_labels"] = design.classes
        return config

    def setting(self, name: str, config: Mapping[str, Any]) -> Any:
        """The value of one of :attr:`settings` for a configuration."""
        value = self.settings[name]
        return value(config) if callable(value) else value

    def initial_rule_of(self, version: tuple[int, ...] | None) -> str:
        """The rule of a version of the library, given as numbers; None for the latest."""
        for first, after, rule in self.other_rules:
            if version is not None and version_numbers(first) <= version < version_numbers(after):
                return rule
        return self.initial_rule

    def _head(self, fields: Fields) -> Choices:
        name = fields.model() or next(iter(self.models))
        if name not in self.models:
            known = ", ".join(self.models)
            raise NoTreeError(
                f"{self.model_type} config: architectures names {brief(name)}", f", and only {known} are supported"
            )
        choices = dict(self.models[name])
        if choices.get("head") in ("classifier", "pretraining") and "classes" not in choices:
            labels = fields.table("id2label")
            choices["classes"] = len(labels) or (2 if fields.raw("num_labels") is None else fields.whole("num_labels"))
        return choices

    def _check(self, fields: Fields, choices: Choices) -> None:
        """Refuse numbers that contradict each other, with their names in the file."""
        heads = choices.get("heads", 1)
        if choices.get("head_dim") is None and choices["width"] % heads:
            self._misfit(fields, "width", "is not a multiple of", "heads")
        if heads % (choices.get("kv_heads") or heads):
            self._misfit(fields, "heads", "is not a multiple of", "kv_heads")
        if choices.get("experts") is not None and choices["top_k"] > choices["experts"]:
            self._misfit(fields, "top_k", "is more than", "experts")

    def _misfit(self, fields: Fields, choice: str, problem: str, other: str) -> None:
        # A family may derive its key heads from flags; then there is no single field to name.
        there = fields.spell(self.names[other]) if other in self.names else other
        raise fields.wrong(self.names.get(choice, choice), f"{problem} {there}")


READERS: dict[str, Callable[[Fields, str], Any]] = {
    **dict.fromkeys(("depth",), Fields.depth),
    **dict.fromkeys(("encoder_depth",), Fields.depth_or_none),
    **dict.fromkeys(("width", "heads", "vocab", "context", "experts", "top_k", "channels"), Fields.whole),
    **dict.fromkeys(
        ("kv_heads", "head_dim", "value_dim", "ffn", "shared_ffn", "window", "embedding_width", "pooler_width"),
        Fields.whole_or_none,
    ),
    **dict.fromkeys(("segments",), Fields.count),
    **dict.fromkeys(("dropout", "attention_dropout", "ffn_dropout", "embedding_dropout"), Fields.rate),
    **dict.fromkeys(("norm_eps", "embedding_scale", "residual_scale", "head_scale", "logit_scale"), Fields.positive),
    **dict.fromkeys(("score_softcap", "logit_softcap"), Fields.positive_or_none),
    **dict.fromkeys(
        (
            "tied",
            "bias",
            "attention_bias",
            "attention_out_bias",
            "ffn_bias",
            "parallel",
            "norm_affine",
            "norm_bias",
            "renormalized",
            "head_bias",
        ),
        Fields.flag,
    ),
    **dict.fromkeys(("activation", "pooler_activation"), Fields.activation),
}
"""The function that reads the field of each choice."""


SEQUENCE: Choices = {"head": "classifier", "pooler": False, "classifier_reads": "last", "classifier_bias": False}
TOKEN: Choices = {"head": "classifier", "pooler": False, "classifier_reads": "every"}
TASKS: dict[str, Choices] = {
    "SequenceClassification": SEQUENCE,
    "TokenClassification": TOKEN,
    "QuestionAnswering": {**TOKEN, "classes": 2},
}
"""The heads of a decoder's classes for other tasks: one class for the last token, one for each token, two logits a token for
the ends of an answer."""
ALL_TASKS = tuple(TASKS)
END: Choices = {"head": "classifier", "pooler": True, "classifier_reads": "end", "kind": "encoder-decoder"}
"""The head of an encoder-decoder's class for whole sequences, which reads the decoder's last token, the end of the text."""
END_WEIGHTS = {"classification_head.dense": "head.pooler.linear", "classification_head.out_proj": "head.linear"}
"""The weight names of this head."""
TASK_WEIGHTS = {"score": "head.linear", "qa_outputs": "head.linear", "classifier": "head.linear"}
"""The weight names of these heads."""


def causal(prefix: str, head: str = "ForCausalLM", tasks: Sequence[str] = (), **choices: Any) -> dict[str, Choices]:
    """The models that most decoders have: one with a language head, one without a head, and one for each of the `tasks`."""
    return {
        f"{prefix}{head}": {"head": "lm", "pooler": False, **choices},
        f"{prefix}Model": {"head": "none", "pooler": False},
        **{f"{prefix}For{task}": TASKS[task] for task in tasks},
    }


def version_numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: (5, 15, 0) for ``5.15.0.dev0``; empty if it has none."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(number) for number in found[0].split(".")) if found else ()


def joined_blocks(some: Sequence[Choices] | None, more: Sequence[Choices] | None) -> Sequence[Choices] | None:
    """The choices of single blocks from two parts of a family."""
    if some is None or more is None:
        return more if some is None else some
    return tuple({**one, **other} for one, other in zip(some, more, strict=True))


def every_block(design: Design) -> list[Design]:
    """The design of each block, with its own choices."""
    own = design.blocks or ({},) * design.depth
    return [replace(design, blocks=None, **choices) for choices in own]


def first_mixer(kind: type[M], design: Design) -> M | None:
    """The first mixer of this class among the blocks of a design; None if no block has one."""
    found = (mixer_as(kind, block.mixer) for block in every_block(design))
    return next((mixer for mixer in found if mixer is not None), None)


def per_block(value: Any, depth: int) -> Sequence[Any]:
    """One value per block of a choice that may differ between blocks."""
    return list(value) if isinstance(value, (list, tuple)) else [value] * depth


def without(table: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The table without some of its entries."""
    return {name: value for name, value in table.items() if name not in names}
