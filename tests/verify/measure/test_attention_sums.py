"""Exact averages over one attention head, against autograd."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from verify.measure.attention_sums import attention_sums, gradient_moments  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("causal", "cross", "slope"), [(False, False, 0.0), (True, False, 0.0), (False, True, 0.0), (True, False, 0.6)]
)
def test_the_exact_averages_are_what_autograd_gives_on_average(causal, cross, slope):
    """Over value weights, output gradient and dropout mask, with tokens, queries and keys held."""
    torch.manual_seed(3)
    length, queries, width, head, p, r_g, draws = 5, 4 if cross else 5, 7, 4, 0.3, 0.4, 2500
    double = {"dtype": torch.float64}
    x = torch.randn(length, width, **double) + 0.5 * torch.randn(1, width, **double)
    asking = torch.randn(queries, width, **double) if cross else x
    wq, wk = (torch.randn(width, head, **double) / width**0.5 * 1.4 for _ in range(2))
    sums = attention_sums(x[None], wq[None], wk[None], asking[None] if cross else None, causal, slope)
    sums = {name: float(value) for name, value in sums.items()}
    ep = p / (1 - p)
    expected = [(sums["own"] + ep * sums["own_ep"]) / queries, (sums["all"] - sums["own"]) / (queries * (queries - 1))]
    expected += gradient_moments(sums, r_g, ep, length, queries, width, head, cross).values()
    inputs = [one.expand(draws, *one.shape).clone().requires_grad_() for one in ([x, asking] if cross else [x])]
    value = inputs[0] @ (torch.randn(draws, width, head, **double) / width**0.5)
    scores = (inputs[-1] @ wq) @ (inputs[0] @ wk).mT / head**0.5
    place = torch.arange(length)
    if not cross:
        scores = scores - slope * (place[:, None] - place).abs()
    if causal:
        scores = scores.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -math.inf)
    kept = (torch.rand(draws, queries, length, **double) >= p) / (1 - p)
    y = (scores.softmax(-1) * kept) @ value
    g = math.sqrt(r_g) * torch.randn(draws, 1, head, **double)
    g = g + math.sqrt(1 - r_g) * torch.randn(draws, queries, head, **double)
    values = []
    for t in (y.detach(), *torch.autograd.grad(y, inputs, g)):
        own, (tokens, features) = t.square().sum((1, 2)), t.shape[1:]
        pairs = t.sum(1).square().sum(1) - own
        values += [own / (tokens * features), pairs / (tokens * features * (tokens - 1))]
    found = torch.stack(values, 1).numpy()
    z = (found.mean(0) - np.array(expected)) / (found.std(0) / math.sqrt(draws))
    assert np.abs(z).max() < 4.5
    # A key path left out, or the mask left out, would be seen.
    without = gradient_moments(
        {n: 0.0 if n.startswith("key") else v for n, v in sums.items()}, r_g, ep, length, queries, width, head, cross
    )
    assert abs(found.mean(0)[2] - without["gradient_variance"]) > 6 * found.std(0)[2] / math.sqrt(draws)
