"""Whole stacks with penalties on distance: their biases are transformers', and their moments are predicted."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from drawn_models import drawn_models  # noqa: E402

from depthwidth import Transformer, propagate, recipe  # noqa: E402
from depthwidth.layers import ALiBi  # noqa: E402
from verify.models.base import Pass  # noqa: E402

pytestmark = pytest.mark.slow


def test_penalties_are_those_of_transformers():
    """Up to a constant of each row, which a softmax does not see."""
    pytest.importorskip("transformers")
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

    for heads in (1, 4, 12, 112):
        slopes = torch.tensor(ALiBi().slopes(heads))
        bloom = build_alibi_tensor(torch.ones(1, 9), heads, torch.float32).reshape(heads, 9)
        torch.testing.assert_close(bloom.diff(dim=1), slopes[:, None].expand(-1, 8))
        # MPT orders the slopes of heads that are no power of two in another way.
        mpt = build_mpt_alibi_tensor(heads, 9).reshape(heads, 9)
        torch.testing.assert_close(mpt.diff(dim=1).sort(dim=0).values, slopes.sort().values[:, None].expand(-1, 8))


def simulated(tree, made, correlation, draws):
    """Moments at the output of each block, second moment of the gradient at the first input, with errors."""
    length, width, found = tree.context, tree.width, []
    for seed, model in drawn_models(tree, made, draws):
        generator = torch.Generator().manual_seed(seed)
        model.eval()
        shared, own = (torch.randn(2, n, width, generator=generator) for n in (1, length))
        first = x = (math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own).requires_grad_()
        run, moments = Pass(), []
        for block in model.decoder.block:
            x = block(x, run)
            y = x.detach().double()
            square = y.square().sum((1, 2))
            pairs = (y.sum(1).square().sum(-1) - square) / (length - 1)
            moments += [float(part.mean()) / (length * width) for part in (square, pairs)]
        (gradient,) = torch.autograd.grad(x, first, torch.randn(x.shape, generator=generator))
        found.append([*moments, float(gradient.square().mean())])
    values = np.array(found)
    return values.mean(0), values.std(0) / math.sqrt(draws)


STACKS = {
    "bloom": {"activation": "gelu_tanh", "bias": True},
    "mpt": {"activation": "gelu", "bias": False, "norm_bias": False},
}


@pytest.mark.parametrize("name", STACKS)
def test_the_moments_of_a_stack_are_those_of_its_draws(name):
    options = {"context": 48, "vocab": 100, "head": "none", "final_norm": False, **STACKS[name]}
    draws, correlation = 40, 0.05
    frames, made = {}, None
    for positions in ("none", "alibi"):
        tree = Transformer(4, 96, 6, positions=positions, **options)
        made = recipe(tree, "xavier")
        frames[positions] = propagate(tree, made, variance=1.0, correlation=correlation)
    means, errors = simulated(tree, made, correlation, draws)

    def predicted(frame):
        outputs = frame[(frame.direction == "forward") & frame.site.str.fullmatch(r"decoder\.block\.\d+")]
        front = frame[(frame.direction == "gradient") & (frame.site == "decoder.input")]
        return np.array([*outputs[["second_moment", "covariance"]].to_numpy().ravel(), front.second_moment.iloc[0]])

    allowed = np.maximum(4 * errors, 0.03 * means)
    right, wrong = (np.abs(predicted(frames[which]) - means) / allowed for which in ("alibi", "none"))
    assert right.max() < 1, right
    assert wrong.max() > 2, wrong
