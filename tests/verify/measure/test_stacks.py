"""Built models, probed, have the moments of a transformer that is written out by hand."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from stack_simulation import one_draw as by_hand  # noqa: E402

from depthwidth import Transformer, recipe  # noqa: E402
from verify.measure.stacks import sample_stack  # noqa: E402

DRAWS = 60


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "placement", "scheme", "activation", "rate"),
    [("encoder", "pre", "xavier", "relu", 0.0), ("decoder", "post", "deepscale", "silu", 0.0),
     ("decoder", "pre", "deepscale", "gelu", 0.2)],
)  # fmt: skip
def test_built_models_have_the_moments_of_plain_code(kind, placement, scheme, activation, rate):
    tree = Transformer(
        3, 48, 2, kind=kind, activation=activation, gated=activation == "silu", bias=False, positions="none", vocab=50,
        context=12, placement=placement, head="none", final_norm=False, norm_affine=False, dropout=rate,
        attention_dropout=rate, ffn_dropout=rate,
    )  # fmt: skip
    made = recipe(tree, scheme, **({"embedding_correlation": 0.3} if scheme == "deepscale" else {}))
    ours = sample_stack(tree, made, 0.3, DRAWS, seed=1)
    plain = np.array([by_hand(tree, made, 0.3, torch.Generator().manual_seed(k), "cpu").numpy() for k in range(DRAWS)])
    assert ours.shape == plain.shape == (DRAWS, 3, 3)
    error = np.sqrt((ours.var(0, ddof=1) + plain.var(0, ddof=1)) / DRAWS)
    some = error > 1e-9  # the size of a normalised stream is the same in every draw
    z = (ours.mean(0) - plain.mean(0))[some] / error[some]
    assert np.abs(z).max() < 5
    assert ours.mean(0)[~some] == pytest.approx(plain.mean(0)[~some], rel=1e-4)
    # The negative control: inputs that are more alike.
    other = sample_stack(tree, made, 0.6, DRAWS, seed=1)
    assert np.abs((other.mean(0) - plain.mean(0))[some] / error[some]).max() > 5


def test_a_draw_depends_on_its_seed_alone():
    tree = Transformer(2, 32, 2, kind="decoder", vocab=20, context=8, head="none", positions="none", dropout=0.1)
    made = recipe(tree, "xavier")
    whole = sample_stack(tree, made, 0.2, 3, seed=5)
    assert (sample_stack(tree, made, 0.2, 1, seed=7)[0] == whole[2]).all()
    assert (whole[0] != whole[1]).any()
