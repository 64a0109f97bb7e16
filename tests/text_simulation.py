"""Pre-norm stacks at infinite width on drawn texts, written out by hand: scores are drawn, all else is exact for each text."""

import math

import numpy as np

HEADS = 12
"""Draws of the scores of a layer, whose mean takes the place of infinitely many heads"""


def drawn_text(rng, vocab, length):
    """Tokens by Zipf's law."""
    p = 1 / np.arange(1, vocab + 1)
    return rng.choice(vocab, length, p=p / p.sum())


def text_stack(text, depth, causal, size, eps, rng):
    """Second moments and covariances (L, L) of one text: Xavier weights, RMSNorm, ReLU, four times the width inside.

    `size` is the variance of the embedding, `eps` that of the norms. The output's gradient is independent at all positions.

    Returns
    -------
    Of each block the stream after attention and its correlations there, then the gradient at the stack's input.
    """
    x, found, passed = size * (text[:, None] == text), [], []
    for _ in range(depth):
        normed, sizes = _norm(x, eps)
        p = _weights(normed, causal, rng)
        x = x + (p @ normed @ p.swapaxes(1, 2)).mean(0)
        correlations, more = _norm(x, eps)
        found.append((x, correlations))
        passed.append((normed, sizes, correlations, more))
        x = x + 1.6 * 0.4 * _arc(correlations)
    g = np.eye(len(text)) / _norm(x, eps)[1]
    for normed, sizes, correlations, more in reversed(passed):
        g = g + 1.6 * 0.4 * g * (1 - np.arccos(correlations.clip(-1, 1)) / math.pi) / 2 / more
        g = g + _pull(normed, _weights(normed, causal, rng), g) / sizes
    return found, g


def _norm(x, eps):
    roots = np.sqrt(np.diag(x) + eps)
    return x / np.outer(roots, roots), np.outer(roots, roots)


def _arc(r):
    """E relu(a) relu(b) of unit Gaussians of correlation r (Cho and Saul)."""
    angle = np.arccos(r.clip(-1, 1))
    return (np.sin(angle) + (math.pi - angle) * np.cos(angle)) / (2 * math.pi)


def _weights(k, causal, rng):
    values, vectors = np.linalg.eigh(k)
    root = vectors * np.sqrt(values.clip(0))
    s = root @ rng.standard_normal((HEADS, *k.shape)) @ root.T
    if causal:
        s = np.where(np.tri(len(k), dtype=bool), s, -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def _pull(k, p, g):
    """The gradient through values, keys and queries: with J = diag p - p p', the scores of rows i, i' have G J K J'."""
    t = p.swapaxes(1, 2)
    mean, h = p @ k, k * g
    output, sent = mean @ t, h @ p
    value = t @ g @ p
    crossed = t @ (mean * sent)
    key = k * (t @ sent) - crossed - crossed.swapaxes(1, 2) + t @ (h * output) @ p
    squares = (mean * mean) @ t
    query = g * (p @ (k * k) @ t - squares - squares.swapaxes(1, 2) + output * output)
    return (value + key + query).mean(0)
