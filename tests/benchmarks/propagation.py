"""Speed of the moments, compared in one run with the alternatives to them.

    python tests/benchmarks/propagation.py           # prints a table of ratios; --json for machines

- the table of all sites of 1000 layers, forward and backward, against one random network of the same shape in torch (an average
  needs several dozen), for exchangeable tokens and with a causal mask, for which each position is computed separately;
- the same two tables of the default design, width 1024, against those of the simple stack;
- ten thousand settings of depth up to 1000 in one call, against one call per setting;
- the whole process ``depthwidth moments`` on a 96-layer configuration, against ``python -c "import numpy, click"``;
- the whole process ``depthwidth describe`` on Llama 3 8B, against the same with one thread of linear algebra.

This script measures; nothing passes or fails.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from calculator import interleaved, process, row

from depthwidth import Recipe, Transformer, propagate, recipe, sweep

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for stack_simulation

CONFIG = {"model_type": "gpt2", "n_layer": 96, "n_embd": 1536, "n_head": 16, "vocab_size": 50257, "n_positions": 1024}
LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 8192,
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rope_theta": 500000.0, "vocab_size": 128256,
}  # fmt: skip


def simple_stack(mask: str) -> Transformer:
    """A thousand blocks without all that costs time."""
    return Transformer(
        1000, 128, 2, kind="encoder" if mask == "full" else "decoder", activation="relu", bias=False, positions="none",
        vocab=100, context=64, head="none", final_norm=False, norm_affine=False,
    )  # fmt: skip


def default_tables() -> list[dict[str, object]]:
    """Times of a prediction for a thousand layers of the default design, beside that for the simple stack."""
    found = []
    for mask in ("full", "causal"):
        simple, default = simple_stack(mask), Transformer(1000, 1024, 16, kind="encoder" if mask == "full" else "decoder")
        one, other = recipe(default, "xavier"), recipe(simple, "xavier")

        def ours(tree: Transformer = default, made: Recipe = one) -> object:
            return propagate(tree, made)

        def theirs(tree: Transformer = simple, made: Recipe = other) -> object:
            return propagate(tree, made, variance=1.0, correlation=0.2)

        a, b = interleaved(ours, theirs, repeats=5)
        found.append(row(f"table of 1000 layers of the default design, {mask} mask", a, "the simple stack", b, faster=False))
    return found


def tables() -> list[dict[str, object]]:
    """Times of a prediction for a thousand layers and of one simulation."""
    import torch
    from stack_simulation import one_draw

    found = []
    for mask in ("full", "causal"):
        tree = simple_stack(mask)
        made = recipe(tree, "xavier")

        def predicted(tree: Transformer = tree, made: object = made) -> object:
            return propagate(tree, made, variance=1.0, correlation=0.2)

        def drawn(tree: Transformer = tree, made: object = made) -> object:
            return one_draw(tree, made, 0.2, torch.Generator().manual_seed(1), "cpu")

        ours, theirs = interleaved(predicted, drawn, repeats=5)
        found.append(row(f"table of 1000 layers, {mask} mask", ours, "one draw of it in torch, width 128, 64 tokens", theirs))
    return found


def settings() -> dict[str, object]:
    """Times of ten thousand settings in one call and in separate calls."""
    import numpy as np

    tree = Transformer(12, 512, 8, kind="encoder", vocab=1000, context=128)
    made = recipe(tree, "xavier")
    rng = np.random.default_rng(1)
    depth, correlation, branch = rng.integers(1, 1001, 10_000), rng.uniform(0, 1, 10_000), rng.uniform(0.05, 1, 10_000)

    def each() -> object:
        trees = [Transformer(int(d), 512, 8, kind="encoder", vocab=1000, context=128) for d in depth[:20]]
        return [propagate(t, "xavier", variance=1.0, correlation=float(r)) for t, r in zip(trees, correlation, strict=False)]

    ours, theirs = interleaved(lambda: sweep(tree, made, depth=depth, correlation=correlation, branch=branch), each, repeats=5)
    theirs = [seconds * len(depth) / 20 for seconds in theirs]
    return row("10,000 settings of depth up to 1000 in one call", ours, "propagate for each (20 timed)", theirs)


def whole_process() -> dict[str, object]:
    """Time of the command as a whole process."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(CONFIG))
        ours = process(sys.executable, "-m", "depthwidth", "moments", str(config))
        a, b = interleaved(ours, process(sys.executable, "-c", "import numpy, click"))
    return row("depthwidth moments, 96 layers of GPT-2, whole process", a, "import numpy, click", b, faster=False)


def one_thread() -> dict[str, object]:
    """Time of a command as a whole process, as it is and with one thread."""
    limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    free = {name: value for name, value in os.environ.items() if name not in limits}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(LLAMA))
        command = (sys.executable, "-m", "depthwidth", "describe", str(config))
        ours = process(*command, environment=free)
        theirs = process(*command, environment=free | dict.fromkeys(limits, "1"))
        a, b = interleaved(ours, theirs, repeats=5)
    return row("depthwidth describe, Llama 3 8B, whole process", a, "the same with one thread", b, faster=False)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    rows = [*tables(), *default_tables(), settings(), whole_process(), one_thread()]
    if parser.parse_args().json:
        print(json.dumps(rows, indent=2))  # noqa: T201
        return
    for found in rows:
        lines = (f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}" for key, value in found.items())
        print("\n".join(lines), end="\n\n")  # noqa: T201


if __name__ == "__main__":
    main()
