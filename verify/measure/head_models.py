"""Models and texts for the measurement of heads: a local folder of the transformers library, and a text file."""

from __future__ import annotations

import sysconfig
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from depthwidth.architecture import Transformer
from depthwidth.architecture.hf import FAMILIES, find_family, read_source
from depthwidth.errors import InputError, shown
from depthwidth.hub import local_checkpoint
from depthwidth.planning.head_allocation import check_attention_alone

LONGEST_TEXT = 50_000_000
"""Largest size of a text file in bytes."""

LARGEST_RANDOM = 2_000_000_000
"""Largest number of parameters of a model with random weights."""

LONGEST_CONTEXT = 1024
"""Largest default number of tokens per sequence."""

SEQUENCES = 8
"""Largest number of calibration sequences."""


def load_model(path: str | Path, seed: int = 0) -> tuple[nn.Module, Transformer, str]:
    """Load a model from a local folder (config.json and safetensors), or build one with random weights from a configuration.

    The folder may be that of a repository in the hub's cache, by its name.

    Nothing is downloaded or unpickled, and no code in the folder is run.

    Returns
    -------
    The model in evaluation mode, its tree, and a description of the source of its weights.

    Raises
    ------
    InputError
        if the configuration cannot be read, or the weights are not safetensors or do not match the configuration.
    """
    place = local_checkpoint(path)
    fields = read_source(place)
    tree = Transformer.from_config(fields)
    check_measurable(tree)
    family = str(fields.get("model_type"))
    if find_family(family) is None:
        raise InputError(
            f"heads: the text stack inside a model of type {shown(family)} is counted but not measured; measure a text model"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

    known = FAMILIES[family].models
    class_name = next((name for name in fields.get("architectures") or () if name in known), next(iter(known)))
    plain = {key: value for key, value in fields.items() if key not in ("auto_map", "architectures", "_attn_implementation")}
    folder = place if place.is_dir() else None
    weights = [] if folder is None else sorted(folder.glob("*.safetensors"))
    others = (
        []
        if folder is None
        else [f for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")]
    )
    if others and not weights:
        raise InputError(f"heads: {shown(others[0].name)} is not a safetensors file; no other format is read")
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # hides warnings about special tokens, which are not used here
    bar = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = transformers.AutoConfig.for_model(**plain)
            cls = getattr(transformers, class_name)
            if weights and folder is not None:
                model, about = cls.from_pretrained(
                    str(folder), config=config, local_files_only=True, use_safetensors=True, dtype=torch.float32,
                    output_loading_info=True, ignore_mismatched_sizes=True,
                )  # fmt: skip
                check_weights(model, about)
                return model.eval(), tree, "the folder's weights"
            if tree.parameters > LARGEST_RANDOM:
                raise InputError(
                    f"heads: the model has {tree.parameters:,} parameters; with random weights at most {LARGEST_RANDOM:,} "
                    "are measured"
                )
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return cls(config).eval(), tree, f"random weights as transformers initialises them, seed {seed}"
    except InputError:
        raise
    except Exception as error:  # the library has no common class for errors about damaged files and invalid fields
        line = " ".join(str(error).split()) or type(error).__name__
        what = f"{type(error).__name__}, {line[:200]}"
        raise InputError(f"heads: {shown(str(path))} cannot be loaded: {what}") from None
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bar:
            transformers.utils.logging.enable_progress_bar()


def check_weights(model: nn.Module, about: Mapping[str, Any]) -> None:
    """Refuse weights that are not those of the model: the library draws missing ones at random, unseeded.

    Parameters
    ----------
    model : as it was loaded.
    about : the library's report on loading: names of tensors under ``missing_keys``, ``unexpected_keys`` and
        ``mismatched_keys``.

    Raises
    ------
    InputError
        with the first of the tensors that are missing, unexpected, of another shape, or hold what is not a number.
    """
    faults = {
        "are missing from": about.get("missing_keys"),
        "of another shape are in": about.get("mismatched_keys"),
        "that the model does not have are in": about.get("unexpected_keys"),
        "hold numbers that are not finite in": [name for name, one in model.named_parameters() if not one.isfinite().all()],
    }
    for fault, found in faults.items():
        names = sorted(one if isinstance(one, str) else str(one[0]) for one in found or ())
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise InputError(f"heads: tensors {fault} the folder's weights: {', '.join(names[:3])}{more}")


def _text(file: str | Path | None, least: int) -> tuple[str, str]:
    """The calibration text and its name. Without a file it is Python's standard library, in the order of file names."""
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
            raise InputError(f"heads: {shown(str(file), limit=300)} cannot be read ({error.strerror})") from None
    parts, size = [], 0
    for source in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        parts.append(source.read_text(encoding="utf-8", errors="ignore"))
        size += len(parts[-1])
        if size >= least:
            break
    return "\n".join(parts), "Python's own library"


def _tokens(text: str, folder: Path | None, vocab: int) -> tuple[Tensor, str]:
    """Tokens of a text by the tokenizer in the folder, or bytes if there is none; and a description of them."""
    if folder is not None and (folder / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        try:
            ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
        except Exception:  # plain ones, also for a word that a vocabulary without an unknown token lacks
            raise InputError(
                f"heads: the tokenizer {shown(str(folder / 'tokenizer.json'), limit=300)} cannot be read, or lacks a word"
            ) from None
        if ids and max(ids) >= vocab:
            raise InputError(f"heads: the folder's tokenizer gives tokens outside the model's vocabulary of {vocab:,}")
        return torch.tensor(ids, dtype=torch.long), "tokens of the model's tokenizer"
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
    """Up to eight sequences of `context` tokens from the start of a text, and a description of them.

    The first `skip` sequences are omitted. With `skip` = 8 the result is a held-out text for a model that was calibrated on the
    first eight sequences.

    Returns
    -------
    Tokens of shape (sequences, context), and their description.

    Raises
    ------
    InputError
        if the text has too few tokens, the text or the tokenizer cannot be read, or the context is longer than the model's.
    """
    if isinstance(skip, bool) or not isinstance(skip, int) or skip < 0:
        raise InputError(f"heads: skip={shown(skip)} is not a whole number from 0")
    own = tree.context or LONGEST_CONTEXT
    length = min(own, LONGEST_CONTEXT) if context is None else context
    if not 8 <= length <= own:
        raise InputError(f"heads: context={length} is not a whole number from 8 to the model's {own:,}")
    words, name = _text(text, 8 * length * (SEQUENCES + skip))
    ids, kind = _tokens(words[: 40 * length * (SEQUENCES + skip)], folder, tree.vocab)
    if len(ids) < (1 + skip) * length:
        least = f"the context of {length:,}" if not skip else f"{1 + skip} times the context of {length:,}"
        raise InputError(f"heads: the text has {len(ids):,} tokens, fewer than {least}; give a longer one")
    ids = ids[skip * length :]
    rows = min(SEQUENCES, len(ids) // length)
    return ids[: rows * length].view(rows, length), f"{name}, {kind}"


def check_measurable(tree: Transformer) -> None:
    """Refuse a model whose heads cannot be measured."""
    if tree.kind == "encoder-decoder" or tree.vocab == 0:
        raise InputError("heads: only text models with one stack (decoders or encoders) can be measured")
    check_attention_alone(tree)
    if tree.attention.factorised:
        raise InputError("heads: the keys and values of this model have one set of latent features for all heads, not one each")
