"""A feed-forward part and a norm of its output, against many draws of one such part written out by hand."""

import math

import pytest
from passes import Given, start

from depthwidth.layers import FeedForward, Residual, RMSNorm
from depthwidth.layers.normed_feed_forward import LEAST_HIDDEN, normed_output
from depthwidth.signal import Signal, Spread

WIDTH, CORRELATION = 36, 0.3
PARTS = {
    "gated": FeedForward(WIDTH, 96, "silu", gated=True, bias=False),
    "plain": FeedForward(WIDTH, 144, "gelu", bias=False),
}


def predicted(kind, *, normed):
    """Second moment and covariance of the gradient at the input, of equal gradients of two tokens at the output."""
    part = PARTS[kind]
    norm = RMSNorm(WIDTH, affine=False, eps=1e-12)
    residual = Residual(part, norm_in=norm if normed else None, norm_out=norm)
    one = 1 / WIDTH
    site = start(Given(up_weight=one, gate_weight=one, down_weight=1 / part.hidden))
    x = Signal(1.0, CORRELATION)
    x = x.spread_as(Spread.of_gaussian(x, WIDTH))
    x = norm.moments(x, site)[0].spread_as(Spread(0.0, 0.0, 0.0, 0.0, 0.0))  # tokens of one norm
    _, pull, _ = residual.branch_moments(x, site)
    g = pull(Signal(1.0, 1.0))
    return g.second_moment, g.covariance


def drawn(kind, *, normed, draws=12000, batch=1000):
    """The same in `draws` networks: means and standard errors."""
    torch = pytest.importorskip("torch")
    part = PARTS[kind]
    generator = torch.Generator().manual_seed(5)

    def gaussian(*shape):
        return torch.randn(batch, *shape, generator=generator)

    def brought_to_one(y):
        return y / y.square().mean(-1, keepdim=True).sqrt()

    found = []
    for _ in range(draws // batch):
        x = math.sqrt(CORRELATION) * gaussian(1, WIDTH) + math.sqrt(1 - CORRELATION) * gaussian(2, WIDTH)
        x = brought_to_one(x).requires_grad_()
        y = brought_to_one(x) if normed else x
        up = y @ gaussian(WIDTH, part.hidden) / math.sqrt(WIDTH)
        if part.gated:
            h = torch.nn.functional.silu(y @ gaussian(WIDTH, part.hidden) / math.sqrt(WIDTH)) * up
        else:
            h = torch.nn.functional.gelu(up)
        g = gaussian(1, WIDTH).expand(-1, 2, -1)
        (back,) = torch.autograd.grad(brought_to_one(h @ gaussian(part.hidden, WIDTH)), x, g)
        found.append(torch.stack([back.square().mean((1, 2)), (back[:, 0] * back[:, 1]).mean(-1)]).double())
    found = torch.cat(found, 1)
    return found.mean(1).tolist(), (found.std(1) / math.sqrt(draws)).tolist()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "normed", "off"), [("gated", False, 0.12), ("gated", True, 0.05), ("plain", True, None)])
def test_the_gradient_through_a_norm_of_the_output(kind, normed, off, monkeypatch):
    """Two tokens are followed to first order in 1/36, one beyond; with the numbers of a branch of any kind both are off."""
    means, errors = drawn(kind, normed=normed)
    second, covariance = predicted(kind, normed=normed)
    assert abs(second / means[0] - 1) < 0.003 + 4 * errors[0] / means[0]
    assert abs(covariance / means[1] - 1) < 0.03 + 4 * errors[1] / means[1]
    if off is not None:
        monkeypatch.setattr(FeedForward, "through_norm", lambda self, *given, **how: None)
        assert predicted(kind, normed=normed)[1] < (1 - off) * means[1] - 4 * errors[1] + 0.03 * means[1]


def test_what_is_beyond_the_first_order_falls_with_the_square_of_the_width():
    """ReLU at four times the width, W2's and the norm's own parts left out: 5/4 for the kurtosis, -1/4, and -1.5 along f."""

    def beyond(width):
        trace = start(Given()).trace
        found = normed_output(Signal(1.0, 0.3), "relu", 1.0, 4 * width, width, trace, gated=False, normed=False)
        return abs(found.gain - (1 - 0.5 / width))

    assert beyond(256) < 0.3 * beyond(128) < 0.1 * beyond(64)


def test_parts_that_are_too_small_have_no_such_factors():
    site = start(Given())
    few = normed_output(Signal(1.0, 0.3), "relu", 1.0, LEAST_HIDDEN - 1, 36, site.trace, gated=False, normed=False)
    assert few is None
