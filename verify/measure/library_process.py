"""Counts of any model that the installed transformers library can build, on the device ``meta``, without its weights.

``python verify/measure/library_process.py`` reads one JSON object from its input and writes two to its output: the parameters,
and then the operations of a forward pass. It is a separate process so that a configuration, which is untrusted data, cannot
take more time or memory than :mod:`verify.measure.library` allows. Only classes of the installed library are used: nothing is
downloaded, and code that a configuration names is ignored.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: a configuration must not make it ask a server

FOREIGN = re.compile(
    r"auto_map|quantization_config|.*attn_implementation.*|.*experts_implementation.*|_?name_or_path|kernel_config"
)
"""Fields that name code, files or servers; none of them changes a count."""

HEADS = ("CAUSAL_LM", "MASKED_LM", "IMAGE_TEXT_TO_TEXT", "IMAGE_CLASSIFICATION", "CTC", "PRETRAINING")
"""The kinds of head to look for, in this order, if the configuration names no class."""

DEFAULT_TOKENS = 2048
"""Length of the forward pass that is counted by default, or the model's context if that is shorter."""


def remove_foreign(value: Any) -> Any:
    """A configuration without the fields of :data:`FOREIGN`, at any depth."""
    if isinstance(value, Mapping):
        return {name: remove_foreign(inner) for name, inner in value.items() if not FOREIGN.fullmatch(str(name))}
    return [remove_foreign(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def model_class(config: Any, named: Any) -> tuple[Any, bool]:
    """The class to build, and True if it is the one that the file names.

    Raises
    ------
    LookupError
        if the library has no class for this configuration.
    """
    import transformers
    from transformers.models.auto import modeling_auto

    kind, names = type(config), list(named) if isinstance(named, (list, tuple)) else []
    for name in names[:1]:
        found: Any = getattr(transformers, name, None) if isinstance(name, str) and name.isidentifier() else None
        known = inspect.isclass(found) and issubclass(found, transformers.PreTrainedModel)
        if known and getattr(found, "config_class", None) is kind:
            return found, True
    heads: tuple[str, ...] = HEADS
    if getattr(config, "is_encoder_decoder", False):
        heads = ("SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ")
    elif hasattr(config, "vision_config"):
        heads = ("IMAGE_TEXT_TO_TEXT",)
    every = [f"FOR_{head}_" for head in heads] + ["", "FOR_PRETRAINING_"]
    for table in (getattr(modeling_auto, f"MODEL_{one}MAPPING") for one in every):
        if kind in table:
            found = table[kind]
            return (found[0] if isinstance(found, (list, tuple)) else found), not names
    raise LookupError(f"transformers has no model class for {kind.__name__}")


def build(fields: Mapping[str, Any]) -> tuple[Any, bool]:
    """The model on the device meta, and True if it has the class that the file names."""
    import torch
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[fields["model_type"]]
    config = kind.from_dict(remove_foreign(fields))
    made, as_named = model_class(config, fields.get("architectures"))
    config._attn_implementation = "eager"
    config._experts_implementation = "batched_mm"  # its operations do not depend on the data
    config.use_cache = False
    with torch.device("meta"):
        return made(config).eval(), as_named


def sizes(model: Any) -> dict[str, Any]:
    """Parameters, all of them and by module; a tensor that several modules share is counted once.

    Equal modules of a list are one row, with ``#`` for their number.
    """
    rows: dict[tuple[str, str, str], list[int]] = {}
    tables: set[int] = set()
    for get in ("get_input_embeddings", "get_output_embeddings"):
        try:
            found = getattr(model, get)()
        except (AttributeError, NotImplementedError, TypeError):
            continue
        tables |= {id(p) for p in ([] if found is None else found.parameters())}
    total = embedding = 0
    for name, parameter in model.named_parameters():
        module, _, leaf = name.rpartition(".")
        owner = type(model.get_submodule(module)).__name__ if module else type(model).__name__
        row = rows.setdefault((re.sub(r"(?<=\.)\d+(?=\.|$)", "#", module), leaf, owner), [0, 0])
        row[0] += 1
        row[1] += parameter.numel()
        total += parameter.numel()
        embedding += parameter.numel() if id(parameter) in tables else 0
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for (module, _, owner), (copies, count) in rows.items():
        row_of = merged.setdefault((module, owner), {"site": module, "component": owner, "copies": copies, "parameters": 0})
        row_of["parameters"] += count
    return {"parameters": total, "embedding_parameters": embedding, "rows": list(merged.values())}


def context_of(config: Any) -> int | None:
    """The largest number of positions of the text part of a model; None if its configuration states none."""
    for one in (config, _text(config)):
        for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
            value = getattr(one, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def _text(config: Any) -> Any:
    try:
        return config.get_text_config(decoder=True)
    except (ValueError, AttributeError):
        return config


def inputs(model: Any, tokens: int, source: int, batch: int) -> Iterator[tuple[str, Any]]:
    """The inputs of a forward pass, by name.

    Raises
    ------
    LookupError
        if the model needs inputs of a kind that this does not make.
    """
    import torch

    config, main = model.config, model.main_input_name
    known = inspect.signature(model.forward).parameters
    both = bool(getattr(config, "is_encoder_decoder", False))

    def text(length: int) -> Any:
        return torch.zeros(batch, length, dtype=torch.long, device="meta")

    vision = getattr(config, "vision_config", None) or config
    side = getattr(vision, "image_size", None)
    if main == "input_ids" or "input_ids" in known:
        yield "input_ids", text(source if both else tokens)
        # Contrastive models read images beside the text; those that put images into the text read the text alone.
        if "pixel_values" in known and "logit_scale" in dict(model.named_parameters()) and isinstance(side, int):
            yield "pixel_values", torch.zeros(batch, getattr(vision, "num_channels", 3), side, side, device="meta")
    elif main == "pixel_values" and side is not None:
        height, width = side if isinstance(side, (list, tuple)) else (side, side)
        yield main, torch.zeros(batch, getattr(config, "num_channels", 3), height, width, device="meta")
    elif main == "input_features" and getattr(config, "num_mel_bins", None) and getattr(config, "max_source_positions", None):
        yield main, torch.zeros(batch, config.num_mel_bins, 2 * config.max_source_positions, device="meta")
    else:
        raise LookupError(f"no {main} are made here, which {type(model).__name__} reads")
    if both and "decoder_input_ids" in known:
        yield "decoder_input_ids", text(tokens)
    for name, length in (("attention_mask", source if both else tokens), ("decoder_attention_mask", tokens)):
        if name in known and (main == "input_ids" or name.startswith("decoder")):
            yield name, torch.ones(batch, length, dtype=torch.long, device="meta")
    if "use_cache" in known:
        yield "use_cache", False


def operations(model: Any, tokens: int, source: int, batch: int) -> int:
    """Operations of one forward pass, as torch counts them: two per multiply-add of matrix products and convolutions."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad():
        made = dict(inputs(model, tokens, source, batch))
        masks = [name for name in made if name.endswith("mask")]
        # The library looks at the numbers of a mask, or without one at those of the positions; here there are no numbers. Which
        # of the two it can do without differs by model.
        problems = []
        for left_out in ((), masks, *((name,) for name in masks)):
            counter = FlopCounterMode(display=False)
            try:
                with counter:
                    model(**{name: value for name, value in made.items() if name not in left_out})
            except RuntimeError as error:
                problems.append(error)
            else:
                return int(counter.get_total_flops())
    raise problems[0]


def reports(asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The output of the process: the parameters, then the operations; or one object with the reason for their absence."""
    import transformers

    transformers.logging.set_verbosity_error()
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    fields = asked["config"]
    if fields["model_type"] not in CONFIG_MAPPING:
        yield {"unknown": True, "version": transformers.__version__}
        return
    try:
        model, as_named = build(fields)
        known = context_of(model.config)
        # A model of images or sounds reads a whole one of them.
        text = "input_ids" in inspect.signature(model.forward).parameters or bool(model.config.is_encoder_decoder)
    except Exception as error:  # the library's code may fail with any error on untrusted data
        yield {"refused": _sentence(error), "version": transformers.__version__}
        return
    tokens = asked.get("tokens") or min(known or DEFAULT_TOKENS, DEFAULT_TOKENS)
    source = asked.get("source") or tokens
    batch = asked.get("batch") or 1
    yield {
        **sizes(model),
        "model_class": type(model).__name__,
        "as_named": as_named,
        "version": transformers.__version__,
        "context": known,
        "tokens": tokens if text else None,
        "source": source if text and model.config.is_encoder_decoder else None,
        "batch": batch,
    }
    try:
        yield {"flops": operations(model, tokens, source, batch)}
    except Exception as error:
        yield {"flops": None, "reason": _sentence(error)}


def _sentence(error: Exception) -> str:
    """An error on one line, without its full stop and control characters."""
    words = "".join(letter if letter.isprintable() else " " for letter in str(error)).split()
    text = " ".join(words)[:200].rstrip(".: ")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def main() -> None:
    """Answer the request on the standard input."""
    asked = json.load(sys.stdin)
    _limit(asked.get("memory"))
    warnings.simplefilter("ignore")
    answer, sys.stdout = sys.stdout, sys.stderr  # output printed by a library is not part of the answer
    for report in reports(asked):
        print(json.dumps(report), file=answer, flush=True)


def _limit(memory: int | None) -> None:
    try:
        import resource
    except ImportError:  # a system without such limits
        return
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


if __name__ == "__main__":
    main()
