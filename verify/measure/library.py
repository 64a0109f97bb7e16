"""Exact counts of a model for which there is no tree but a class of the transformers library, without its weights.

Without a tree there are no rules, no moments and no initialisation scheme. The model is built on the device ``meta`` in a
separate process (:mod:`verify.measure.library_process`), with bounds on its time and memory, from the configuration alone:
nothing is downloaded and no foreign code is run.
"""

from __future__ import annotations

import importlib.util
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from depthwidth.architecture.number_formats import bits_of
from depthwidth.errors import InputError, shown

LONGEST = 120.0
"""Seconds that building the model, and then running it, may take."""
LARGEST = 8 * 2**30
"""Bytes of memory that the process may take; a model without weights needs a hundredth of it."""


@dataclass(frozen=True)
class LibraryCounts:
    """Counts of a model that transformers builds, exact: weights by module, and the operations of a forward pass."""

    model_type: str
    model_class: str
    transformers: str
    """The version of the library."""
    parameters: int
    embedding_parameters: int
    """Weights of the token table and of an output matrix that is not tied to it."""
    components: tuple[dict[str, Any], ...]
    """A row for each module with weights, equal modules of a list together."""
    batch: int
    tokens: int | None
    """Length of each counted sequence; None for models that read images or sounds."""
    source: int | None
    """Length of the encoder's input, of an encoder-decoder."""
    forward_flops: int | None
    """Operations of a forward pass over the batch; None if the pass does not run without numbers."""
    uncounted: str
    """The reason if they are None, one sentence."""
    notes: tuple[str, ...]

    def to_dict(self, dtype: str = "bf16") -> dict[str, Any]:
        """Plain data, as ``depthwidth describe --json`` prints it."""
        known = asdict(self) | {"components": [dict(row) for row in self.components], "notes": list(self.notes)}
        return {
            **known,
            "non_embedding_parameters": self.parameters - self.embedding_parameters,
            "forward_flops_per_token": self.flops_per_token,
            "weight_bytes": -(-self.parameters * bits_of(dtype) // 8),
            "dtype": dtype,
            "theory": False,
        }

    @property
    def flops_per_token(self) -> float | None:
        """Operations of a forward pass over one token; None for images, or if the pass was not counted."""
        if self.forward_flops is None or self.tokens is None:
            return None
        return self.forward_flops / (self.batch * self.tokens)

    def rows(self) -> list[dict[str, Any]]:
        """One row per module."""
        return [dict(row) for row in self.components]


def library_counts(
    config: Mapping[str, Any], context: int | None = None, *, source: int | None = None, batch: int = 1, reason: str = ""
) -> LibraryCounts:
    """The counts of a configuration, by the installed transformers library.

    Parameters
    ----------
    config : the fields of a ``config.json``, with a ``model_type`` that the library knows.
    context, source : tokens of each sequence, and of the encoder's input; by default the model's context, at most 2,048.
    batch : sequences, or images.
    reason : the reason why the theory does not cover this model, one sentence.

    Raises
    ------
    InputError
        if torch or transformers is not installed, if the library does not know the model type or refuses the configuration, or
        if it takes more than two minutes or 8 GB. `reason` starts the sentence.
    """
    model_type = config.get("model_type")
    start = f"{reason}; " if reason else ""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
        raise InputError(f"{start}pip install 'depthwidth[hf]' for the exact counts of any model that transformers can build")
    try:
        asked = json.dumps({"config": dict(config), "tokens": context, "source": source, "batch": batch, "memory": LARGEST})
    except (TypeError, ValueError, RecursionError):
        raise InputError(f"{start}the configuration is not plain JSON") from None
    sizes, pass_ = _answers(asked)
    if sizes is None:
        raise InputError(f"{start}transformers could not build it within {LONGEST:.0f} s and {LARGEST // 2**30} GB")
    library = f"transformers {sizes['version']}"
    if sizes.get("unknown"):
        raise InputError(
            f"{start}{library} does not know it either" if reason else f"{library} does not know {shown(model_type)}"
        )
    if "refused" in sizes:
        raise InputError(f"{start}{library} refuses the configuration with {sizes['refused']}")
    return _counts(str(model_type), sizes, pass_, reason, config)


def _counts(
    model_type: str, sizes: dict[str, Any], passed: dict[str, Any] | None, reason: str, config: Mapping[str, Any]
) -> LibraryCounts:
    late = f"it took more than {LONGEST:.0f} s; give a shorter context"
    uncounted = late if passed is None else passed.get("reason", "")
    notes = [reason] if reason else []
    notes.append("the theory does not cover this model: it has counts, but no rules, moments or initialisation")
    if not sizes["as_named"]:
        named = shown(config.get("architectures"))
        notes.append(
            f"architectures={named} names no class of transformers for this model type; {sizes['model_class']} was counted"
        )
    if passed is not None and passed["flops"] is not None:
        notes.append(
            "FLOPs are torch's count of the forward pass without fused attention: scores hidden by a mask or a window count"
        )
    return LibraryCounts(
        model_type,
        sizes["model_class"],
        sizes["version"],
        sizes["parameters"],
        sizes["embedding_parameters"],
        tuple(sizes["rows"]),
        sizes["batch"],
        sizes["tokens"],
        sizes["source"],
        None if passed is None else passed["flops"],
        uncounted,
        tuple(notes),
    )


def _answers(asked: str) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The two objects that the process writes; None for each that did not come in time."""
    # By its path, and without the folder it is started in: a file there must not pass for a library.
    command = [sys.executable, "-P", str(Path(__file__).with_name("library_process.py"))]
    process = subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
    )
    assert process.stdin is not None  # noqa: S101
    assert process.stdout is not None  # noqa: S101
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    stdout = process.stdout

    def listen() -> None:
        for line in stdout:
            lines.put(line)
        lines.put("")

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        try:
            process.stdin.write(asked)
            process.stdin.close()
        except OSError:  # it has ended already
            return None, None
        first = _next(lines)
        last = None if first is None or "parameters" not in first else _next(lines)
        return first, last
    finally:
        process.kill()
        process.wait()
        thread.join()
        stdout.close()


def _next(lines: queue.SimpleQueue[str]) -> dict[str, Any] | None:
    try:
        line = lines.get(timeout=LONGEST)
    except queue.Empty:
        return None
    value = json.loads(line) if line else None
    return value if isinstance(value, dict) else None
