"""Plain simulations that several test files compare predictions with."""

import math

import numpy as np


def exchangeable(length, correlation):
    return (1 - correlation) * np.eye(length) + correlation


def summary(positions, attended, gradient):
    """Means over positions and pairs: output, then the gradient through queries, then through keys and values."""
    asked, source = attended.pull(*gradient)
    pairs = ((attended.second_moment, attended.covariance), asked, source)
    return np.array([value for q, c in pairs for value in (positions.mean(q), positions.pair_mean(c))])


def simulate(rng, keys, gradient, ss, mask, draws, queries=None, dropout=0.0, penalty=0.0):
    """Means over tokens and pairs for each draw of the scores, given which all else is known: output and three paths.

    Heads and width are infinite: scores are a matrix-normal sample of covariance `queries` times `keys`.
    """
    queries = keys if queries is None else queries
    rows, columns = mask.shape
    left, right = (np.linalg.cholesky(k + 1e-10 * np.eye(len(k))) for k in (queries, keys))
    noise = dropout / (1 - dropout)
    row, column = np.arange(rows), np.arange(columns)

    def means(kernel):
        n = len(kernel)
        return np.trace(kernel) / n, (kernel.sum() - np.trace(kernel)) / (n * (n - 1))

    found = []
    for _ in range(draws):
        scores = math.sqrt(ss) * left @ rng.standard_normal((rows, columns)) @ right.T
        scores -= penalty
        p = np.where(mask, np.exp(scores - scores.max(1, keepdims=True)), 0.0)
        p /= p.sum(1, keepdims=True)
        jacobian = -p[:, :, None] * p[:, None, :]
        jacobian[:, column, column] += p
        through = jacobian @ keys  # (row, key, key)
        back = jacobian.reshape(rows, -1)
        out, value = p @ keys @ p.T, p.T @ gradient @ p
        query = ss * gradient * (through.reshape(rows, -1) @ through.transpose(0, 2, 1).reshape(rows, -1).T)
        weighed = ((gradient * queries) @ back).reshape(rows, columns, columns)
        key = ss * np.einsum("iab,icb->ac", through, weighed, optimize=True)
        if noise:
            alone = jacobian * np.diagonal(keys)
            out[row, row] += noise * (p * p) @ np.diagonal(keys)
            value[column, column] += noise * (p * p).T @ np.diagonal(gradient)
            query[row, row] += noise * ss * np.diagonal(gradient) * np.einsum("iab,iba->i", alone, through)
            own = np.diagonal(gradient * queries)
            key += noise * ss * np.einsum("i,iab,icb->ac", own, alone, jacobian, optimize=True)
        found.append([*means(out), *means(query), *means(key + value), *means(value)])
    found = np.array(found)
    return found.mean(0), found.std(0) / math.sqrt(draws)
