"""Draw one attention layer of finite width and head size again: the values kept in ``tests/golden/attention_positions.csv``.

    python tests/attention_draws.py            # four minutes of processor time; writes the file
    python tests/attention_draws.py 50         # a few draws of each setting, printed

Tokens and the weights of queries and keys are drawn; averages over values and over the gradient at the output are exact, and
linear parts whose mean is known given the tokens are taken off. Each head has weights of its own, so that the number of heads
does not enter. Written out by hand, independent of what it checks.
"""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

import numpy as np

QUANTITIES = (
    "output", "output_covariance",
    "query", "query_covariance",  # by the gradient's second moment, and by its covariance
    "source", "source_by_covariance", "source_covariance", "source_covariance_by_covariance",
)  # fmt: skip
"""Moments per feature: of the output; of the gradient at the queries' tokens; at the source, through keys and values."""

SETTINGS = [
    {"length": length, "width": width, "head_dim": dims, "correlation": r, "score_variance": s, "mask": mask, "rotary": rotary,
     "equal_norms": equal}
    for length, width, dims, r, s, mask, rotary, equal in (
        (16, 64, 16, 0.0, 1.0, "causal", 0, 1), (16, 64, 16, 0.0, 4.0, "causal", 0, 1), (16, 64, 16, 0.5, 4.0, "causal", 0, 1),
        (16, 64, 4, 0.3, 2.0, "causal", 0, 1), (16, 64, 64, 0.3, 4.0, "causal", 0, 1), (16, 64, 16, 0.3, 4.0, "causal", 1, 1),
        (16, 64, 16, 0.6, 2.0, "causal", 1, 1), (16, 64, 16, 0.3, 4.0, "window 6", 0, 1), (16, 64, 16, 0.3, 4.0, "full", 0, 1),
        (16, 32, 4, 0.3, 2.0, "causal", 0, 1), (16, 128, 64, 0.0, 4.0, "causal", 0, 1), (16, 64, 16, 0.3, 4.0, "causal", 0, 0),
        (8, 64, 64, 0.0, 4.0, "full", 0, 1), (8, 64, 16, 0.3, 4.0, "full", 0, 1), (8, 64, 16, 0.7, 8.0, "full", 0, 1),
        (8, 64, 16, 0.3, 1.0, "full", 0, 1),
        (16, 64, 16, 0.3, 4.0, "slope 0.25", 0, 1), (16, 64, 16, 0.0, 4.0, "slope 0.0625", 0, 1),
        (16, 64, 4, 0.3, 2.0, "slope 0.5", 0, 1), (16, 64, 64, 0.5, 4.0, "slope 0.125", 0, 1),
    )
]  # fmt: skip
FILE = Path(__file__).parent / "golden" / "attention_positions.csv"
Array = np.ndarray


def visible(length: int, mask: str) -> Array:
    """The keys that each row sees."""
    seen = np.ones((length, length), dtype=bool) if mask == "full" else np.tril(np.ones((length, length), dtype=bool))
    return seen & ~np.tril(seen, -int(mask.split()[1])) if mask.startswith("window") else seen


def penalties(length: int, mask: str) -> Array:
    """Distance takes nothing off the scores, but for the mask "slope m", which is causal with ALiBi."""
    slope = float(mask.split()[1]) if mask.startswith("slope") else 0.0
    return slope * np.abs(np.subtract.outer(np.arange(length), np.arange(length)))


def turned(x: Array, back: bool = False) -> Array:
    """Rotary positions on (..., tokens, dimensions)."""
    tokens, dims = x.shape[-2:]
    angles = np.arange(tokens)[:, None] * 10_000.0 ** (-np.arange(0, dims, 2) / dims)
    cosine, sine = np.cos(angles), -np.sin(angles) if back else np.sin(angles)
    one, other = x[..., : dims // 2], x[..., dims // 2 :]
    return np.concatenate([one * cosine - other * sine, one * sine + other * cosine], -1)


def tokens(rng: np.random.Generator, shape: tuple[int, ...], r: float, equal: bool) -> Array:
    """Tokens of features with mean square 1, of correlation r before they are brought to one norm."""
    x = math.sqrt(r) * rng.standard_normal((*shape[:-2], 1, shape[-1])) + math.sqrt(1 - r) * rng.standard_normal(shape)
    return x / np.sqrt((x * x).mean(-1, keepdims=True)) if equal else x


def mean_correlation(width: int, r: float, equal: bool) -> float:
    """The mean product of two tokens, over drawn pairs."""
    if not equal:
        return r
    x = tokens(np.random.default_rng(99), (200_000, 2, width), r, equal=True)
    return float((x[:, 0] * x[:, 1]).mean())


def one_head(
    x: Array, wq: Array, wk: Array, seen: Array, rotary: bool, less: Array | float = 0.0
) -> tuple[list[float], Array, Array, Array]:
    """The quantities of one head; its queries, keys and scores, before `less` is taken off these."""
    length, width = x.shape
    dims = wq.shape[1]
    every, features = np.arange(length), np.arange(width)
    q, k = x @ wq, x @ wk
    rotated = (turned(q), turned(k)) if rotary else (q, k)
    scores = rotated[0] @ rotated[1].T / math.sqrt(dims)
    p = np.where(seen, np.exp(scores - less - (scores - less).max(1, keepdims=True)), 0.0)
    p /= p.sum(1, keepdims=True)
    out = p @ (x @ x.T / width) @ p.T
    jacobian = -p[:, :, None] * p[:, None, :]
    jacobian[:, every, every] += p
    b = jacobian @ x  # (row, key, width): a gradient u of the values gives the scores b u
    reached = np.matmul(rotated[1].T, b)  # (row, dims, width)
    if rotary:
        reached = np.stack([turned(np.broadcast_to(part.T[:, None], (width, length, dims)), back=True)[:, row]
                            for row, part in enumerate(reached)]).transpose(0, 2, 1)  # fmt: skip
    query = np.matmul(wq, reached) / math.sqrt(dims)
    asked = np.broadcast_to(rotated[0][:, None], (length, length, dims))  # (row, key, dims)
    a = (turned(asked, back=True) if rotary else asked) @ wk.T / math.sqrt(dims)
    # The source's gradient at key t from row i is (p_it + a_it b_it') u_i.
    own = (p * p * width + 2 * p * (a * b).sum(2) + (a * a).sum(2) * (b * b).sum(2)).sum()
    over_keys = np.matmul(a.transpose(0, 2, 1), b)
    over_keys[:, features, features] += 1
    over_rows = np.matmul(a.transpose(1, 2, 0), b.transpose(1, 0, 2))
    over_rows[:, features, features] += p.sum(0)[:, None]
    rows, keys = (over_rows**2).sum(), (over_keys**2).sum()
    pairs = length * (length - 1)
    both = (over_rows.sum(0) ** 2).sum()
    found = [
        np.trace(out) / length, (out.sum() - np.trace(out)) / pairs,
        (query**2).sum() / length / width, ((query.sum(0) ** 2).sum() - (query**2).sum()) / width / pairs,
        own / width / length, (rows - own) / width / length,
        (keys - own) / width / pairs, (both - rows - keys + own) / width / pairs,
    ]  # fmt: skip
    return found, q, k, scores


def known(x: Array, q: Array, k: Array, scores: Array, seen: Array, s: float, r: float, rotary: bool) -> list[float]:
    """Numbers whose mean is 0 and that follow the quantities."""
    length = x.shape[0]
    gram, even = x @ x.T / x.shape[1], seen / seen.sum(1)[:, None]
    mixed = even @ gram @ even.T
    cosines = np.ones((length, length))
    if rotary:
        dims = q.shape[1]
        apart = np.subtract.outer(np.arange(length), np.arange(length))[..., None]
        cosines = np.cos(apart * 10_000.0 ** (-np.arange(0, dims, 2) / dims)).mean(-1)
    shared = np.einsum("ij,jl,il->i", even, gram * cosines, even)
    vary = (even * scores**2).sum(1) - (even * scores).sum(1) ** 2
    vary = vary - s * np.diagonal(gram) * (even @ np.diagonal(gram) - shared)
    long = seen.sum(1) > np.median(seen.sum(1))
    early = (seen.sum(1) > 1) & ~long
    size, pairs = np.diagonal(gram).mean(), length * (length - 1)
    root, alone = math.sqrt(s), float((1 / seen.sum(1)).mean())
    return [
        (gram.sum() - np.trace(gram)) / pairs - r, size - 1, np.trace(mixed) / length - (r + (1 - r) * alone),
        float(vary[early].mean()), float(vary[long].mean()) if long.any() else 0.0,
        (q * q).mean() - root * size, (k * k).mean() - root * size,
        ((k - k.mean(0)) ** 2).mean() - root * (size - gram.mean()), (q.mean(0) ** 2).mean() - root * gram.mean(),
    ]  # fmt: skip


def draw(seed: int, setting: dict, draws: int) -> tuple[float, Array, Array]:
    """The mean correlation of the tokens, means of the quantities and their standard errors."""
    rng = np.random.default_rng(seed)
    length, width, dims = setting["length"], setting["width"], setting["head_dim"]
    s, equal, rotary = setting["score_variance"], bool(setting["equal_norms"]), bool(setting["rotary"])
    r = mean_correlation(width, setting["correlation"], equal)
    seen, less = visible(length, setting["mask"]), penalties(length, setting["mask"])
    found, controls = [], []
    for _ in range(draws):
        x = tokens(rng, (length, width), setting["correlation"], equal)
        wq, wk = rng.standard_normal((2, width, dims)) * s**0.25 / math.sqrt(width)
        values, *of_head = one_head(x, wq, wk, seen, rotary, less)
        found.append(values)
        controls.append(known(x, *of_head, seen, s, r, rotary))
    values, zero = np.array(found), np.array(controls)
    zero = zero[:, zero.std(0) > 1e-9]
    values = values - zero @ np.linalg.lstsq(zero - zero.mean(0), values - values.mean(0), rcond=None)[0]
    return r, values.mean(0), values.std(0, ddof=1) / math.sqrt(draws)


def main() -> None:
    """Write the file, or print a few draws."""
    few = int(sys.argv[1]) if len(sys.argv) > 1 else None
    lines = []
    for seed, setting in enumerate(SETTINGS, 10):
        r, means, errors = draw(seed, setting, few or 3000)
        lines += [
            setting | {"correlation": f"{r:.5f}", "quantity": name, "value": f"{mean:.6g}", "stderr": f"{error:.2g}"}
            for name, mean, error in zip(QUANTITIES, means, errors, strict=True)
        ]
        if few:
            sys.stdout.write(f"{setting}\n{means}\n{errors}\n")
    if not few:
        with FILE.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)


if __name__ == "__main__":
    main()
