"""The Hugging Face families, one or a few related ones to a file.

A :class:`~depthwidth.architecture.hf.family.Family` is a name at the top level of a file in this folder. :data:`FILES` says
which file has which, so that a model's configuration is read without importing the other families.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from importlib import import_module

from ..family import Family

FILES: dict[str, tuple[str, ...]] = {
    "albert": ("albert",),
    "apertus": ("apertus",),
    "arcee": ("arcee",),
    "bart": ("bart", "mbart", "blenderbot"),
    "beit": ("beit",),
    "bert": ("bert", "roberta", "xlm-roberta", "camembert", "distilbert"),
    "biogpt": ("biogpt",),
    "bitnet": ("bitnet",),
    "bloom": ("bloom",),
    "clip": ("clip_vision_model", "clip_text_model"),
    "cohere": ("cohere", "cohere2"),
    "deberta": ("deberta-v2", "deberta"),
    "deepseek": ("deepseek_v2", "deepseek_v3"),
    "dinov2": ("dinov2",),
    "electra": ("electra",),
    "ernie": ("ernie4_5", "ernie4_5_moe"),
    "esm": ("esm",),
    "eurobert": ("eurobert",),
    "exaone": ("exaone4",),
    "falcon": ("falcon",),
    "falcon_h1": ("falcon_h1",),
    "gemma": ("gemma", "gemma2", "gemma3_text"),
    "gemma3n": ("gemma3n_text",),
    "glm": ("glm", "glm4", "glm4_moe"),
    "gpt": ("gpt2", "gpt_neo", "gptj", "codegen"),
    "gpt_neox": ("gpt_neox",),
    "gpt_oss": ("gpt_oss",),
    "granite": ("granite", "granitemoe"),
    "granite_hybrid": ("granitemoehybrid",),
    "helium": ("helium",),
    "hunyuan": ("hunyuan_v1_dense", "hunyuan_v1_moe"),
    "jamba": ("jamba",),
    "lfm2": ("lfm2",),
    "llama": ("llama", "mistral", "ministral3", "mixtral"),
    "m2m_100": ("m2m_100", "xglm"),
    "llama4": ("llama4_text",),
    "mamba": ("mamba", "falcon_mamba", "mamba2"),
    "marian": ("marian", "pegasus"),
    "minicpm": ("minicpm3",),
    "mllama": ("mllama_text_model",),
    "modernbert": ("modernbert",),
    "mpnet": ("mpnet",),
    "mpt": ("mpt",),
    "nanochat": ("nanochat",),
    "nemotron": ("nemotron",),
    "nomic_bert": ("nomic_bert",),
    "nemotron_h": ("nemotron_h",),
    "olmo": ("olmo", "olmo2", "olmo3", "olmoe"),
    "opt": ("opt",),
    "phi": ("phi", "phi3"),
    "phimoe": ("phimoe",),
    "qwen": ("qwen2", "qwen3", "qwen2_moe", "qwen3_moe"),
    "qwen_next": ("qwen3_next", "qwen3_5_text"),
    "rwkv": ("rwkv",),
    "seed": ("seed_oss",),
    "siglip": ("siglip_vision_model", "siglip_text_model"),
    "smollm": ("smollm3",),
    "stablelm": ("stablelm",),
    "starcoder": ("gpt_bigcode", "starcoder2"),
    "switch": ("switch_transformers",),
    "t5": ("t5", "mt5", "umt5"),
    "t5gemma": ("t5gemma",),
    "vit": ("vit", "deit"),
    "vit_mae": ("vit_mae",),
    "whisper": ("whisper",),
}
"""The ``model_type`` of each family of each file, in order; a test compares this with the files. A file that is missing here is
found all the same, and imported with this package."""


def families_in(file: str) -> dict[str, Family]:
    """The families of a file in this folder by ``model_type``; it is imported if it was not yet."""
    found = vars(import_module(f"{__name__}.{file}")).values()
    return {family.model_type: family for family in found if isinstance(family, Family)}


class _Families(MutableMapping[str, Family]):
    """Families by ``model_type``; listing their names imports none of them."""

    def __init__(self) -> None:
        self._home = {model_type: file for file, types in FILES.items() for model_type in types}
        self._known: dict[str, Family] = {}
        for name in sorted(os.listdir(__path__[0])):
            file, _, ending = name.partition(".")
            if ending == "py" and file != "__init__" and file not in FILES:
                self._known |= families_in(file)

    def __getitem__(self, model_type: str) -> Family:
        if model_type not in self._known and model_type in self._home:
            for name, family in families_in(self._home[model_type]).items():
                if self._home.get(name) is not None:  # not one that was removed
                    self._known.setdefault(name, family)
        return self._known[model_type]

    def __setitem__(self, model_type: str, family: Family) -> None:
        self._known[model_type] = family

    def __delitem__(self, model_type: str) -> None:
        if model_type not in self:
            raise KeyError(model_type)
        self._home.pop(model_type, None)
        self._known.pop(model_type, None)

    def __contains__(self, model_type: object) -> bool:
        return model_type in self._home or model_type in self._known

    def __iter__(self) -> Iterator[str]:
        return iter({**self._home, **self._known})

    def __len__(self) -> int:
        return len({**self._home, **self._known})


FAMILIES: MutableMapping[str, Family] = _Families()
"""Every family by its ``model_type``."""
