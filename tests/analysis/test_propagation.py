"""Moments through whole models: worked stacks, a simulation of our own, laws of depth, and what must not be accepted."""

import inspect
import json
import math

import numpy as np
import pytest
from helpers import one_quick_in, table

from depthwidth.analysis.propagation import PropagationOptions, TraceOptions, moments_of, propagate, trace_tree
from depthwidth.architecture import Transformer
from depthwidth.errors import AccuracyWarning, InputError
from depthwidth.formulas.depth import post_norm_layer_log_variance
from depthwidth.initialization import recipe


def stack(layers, placement, *, width=128, heads=2, length=64, **choices):
    """Setting of the worked stacks: ReLU, four times the width, full attention, no affine norms, no stem and head."""
    return Transformer(
        layers, width, heads, kind="encoder", activation="relu", bias=False, positions="none", vocab=100, context=length,
        placement=placement, head="none", final_norm=False, norm_affine=False, **choices,
    )  # fmt: skip


def ends(tree, made, *, finite_width, **given):
    """Second moment and correlation at the last block's output, and the input gradient's second moment."""
    rows = trace_tree(tree, made, variance=1.0, correlation=0.2, finite_width=finite_width, **given).records
    (top,) = [row for row in rows if (row.role, row.direction) == ("encoder", "forward")]
    (front,) = [row for row in rows if (row.role, row.direction) == ("encoder.input", "gradient")]
    return top.second_moment, top.covariance / top.second_moment, front.second_moment


# Worked by the recursion of docs/derivations for d = 128, h = 2, L = 64, r_0 = 0.2, r_g = 0, p = 0: q, r and gamma_in at
# infinite width, and gamma_in with finite width. They were worked with an attention formula of width d, whose terms of order
# 1/d ours has not at infinite width: with values of a leading constant near 1 they reach half of 1/d in q and 1.7 / d in gamma.
# That ours is the limit of large widths is tested below.
STACKS = table("""
pre | xavier | 1 | 1.551 | .372 | 1.362 | 1.369
pre | xavier | 2 | 2.264 | .511 | 1.664 | 1.677
pre | xavier | 6 | 6.109 | .764 | 2.563 | 2.609
pre | xavier | 12 | 12.95 | .867 | 3.581 | 3.678
pre | xavier | 48 | 57.98 | .958 | 8.19 | 8.63
pre | xavier | 192 | 244.9 | .986 | 23.5 | 25.6
pre | deepscale | 2 | 1.010 | .823 | .384 | .396
pre | deepscale | 6 | 1.011 | .779 | .419 | .429
pre | deepscale | 12 | 1.011 | .770 | .427 | .437
pre | deepscale | 48 | 1.011 | .763 | .434 | .444
pre | deepscale | 192 | 1.011 | .762 | .436 | .446
post | xavier | 1 | 1 | .378 | .878 | .890
post | xavier | 2 | 1 | .573 | .675 | .696
post | xavier | 6 | 1 | .961 | .138 | .156
post | xavier | 12 | 1 | .9994 | .070 | .090
post | deepscale | 6 | 1 | .785 | .407 | .437
post | deepscale | 12 | 1 | .775 | .416 | .447
post | deepscale | 48 | 1 | .769 | .422 | .455
post | deepscale | 192 | 1 | .767 | .424 | .457""")


@one_quick_in(4, ("placement", "scheme", "layers", "q", "r", "gamma", "gamma_width"), STACKS)
def test_worked_stacks(placement, scheme, layers, q, r, gamma, gamma_width):
    tree = stack(int(layers), placement)
    made = recipe(tree, scheme, **({"embedding_correlation": 0.2} if scheme == "deepscale" else {}))
    wide = ends(tree, made, finite_width=False)
    assert wide[0] == pytest.approx(float(q), rel=5e-4 + 0.5 / 128)
    assert wide[1] == pytest.approx(float(r), abs=5e-4 + 0.5 / 128)
    assert wide[2] == pytest.approx(float(gamma), rel=1.7 / 128, abs=6e-4)
    # In post-norm stacks we subtract the gradient's projection, which the worked values leave out on purpose: up to 4/d in
    # total while tokens stay apart, and 1.5/d per layer once they have collapsed. Pre-norm stacks gain, as norms divide by
    # one stream, up to 5/d, also left out there. Which of them hold is measured below.
    narrow = ends(tree, made, finite_width=True)
    projection = 0.0 if placement == "pre" else 1.5 * int(layers) / 128 if scheme == "xavier" else 4 / 128
    leaning = 5 / 128 if placement == "pre" else 0.0
    assert (1 - projection) * 0.98 * float(gamma_width) - 6e-4 < narrow[2] < (1 + leaning) * 1.02 * float(gamma_width) + 6e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("placement", "scheme", "layers"), [("pre", "xavier", 6), ("pre", "deepscale", 6), ("post", "xavier", 2)]
)
def test_infinite_width_is_the_limit_of_large_widths(placement, scheme, layers):
    def gaps(width):
        tree = stack(layers, placement, width=width)
        made = recipe(tree, scheme, **({"embedding_correlation": 0.2} if scheme == "deepscale" else {}))
        pairs = zip(ends(tree, made, finite_width=True), ends(tree, made, finite_width=False), strict=True)
        return np.array([abs(narrow / wide - 1) for narrow, wide in pairs])

    near, far = gaps(2**14), gaps(2**12)
    assert np.all(near < 20 / 2**14)
    # Of order 1/d; a quantity that no width changes stays at rounding.
    assert np.all((abs(far / np.maximum(near, 1e-12) - 4) < 0.4) | (near < 1e-9))


# Measured in simulations of these stacks, with its standard error: q, its error, gamma_in, its error.
MEASURED = table("""
pre | xavier | 6 | 6.05 | .13 | 2.61 | .04
pre | xavier | 12 | 12.9 | .2 | 3.76 | .11
pre | xavier | 192 | 254 | 6 | 22.9 | 2.1
pre | deepscale | 12 | 1.014 | .018 | .442 | .009
pre | deepscale | 192 | 1.042 | .021 | .434 | .009
post | xavier | 6 | 1 | .001 | .162 | .013
post | xavier | 12 | 1 | .001 | .082 | .011
post | deepscale | 12 | 1 | .001 | .450 | .020
post | deepscale | 192 | 1 | .001 | .424 | .018""")


@pytest.mark.parametrize(("placement", "scheme", "layers", "q", "q_error", "gamma", "gamma_error"), MEASURED)
def test_the_stacks_as_they_were_measured(placement, scheme, layers, q, q_error, gamma, gamma_error):
    tree = stack(int(layers), placement)
    made = recipe(tree, scheme, **({"embedding_correlation": 0.2} if scheme == "deepscale" else {}))
    predicted = ends(tree, made, finite_width=True)
    assert abs(predicted[0] - float(q)) < 3 * float(q_error)
    assert abs(predicted[2] - float(gamma)) < 3 * float(gamma_error)


def simulated(rng, tree, made, draws):
    """q, r at the top and gamma at the input of our own NumPy transformer, one row for each draw of the weights."""
    block = tree.encoder.repeats[0].block
    d, heads, length = tree.width, tree.heads, tree.context

    def norm(x):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True))

    def norm_back(x, g):
        centred = x - x.mean(-1, keepdims=True)
        size = np.sqrt((centred**2).mean(-1, keepdims=True))
        y = centred / size
        return (g - g.mean(-1, keepdims=True) - y * (g * y).mean(-1, keepdims=True)) / size

    def split(x):
        return x.reshape(length, heads, -1).transpose(1, 0, 2)

    found = []
    for _ in range(draws):
        shared, own = rng.standard_normal((1, d)), rng.standard_normal((length, d))
        x = math.sqrt(0.2) * shared + math.sqrt(0.8) * own
        tape = []
        for _ in range(tree.depth):
            weights = {
                name: rng.standard_normal(shape) * made.tensor(f"encoder.block.{name}.weight").std
                for name, shape in {
                    "attention.query": (d, d), "attention.key": (d, d), "attention.value": (d, d), "attention.out": (d, d),
                    "feed_forward.up": (d, 4 * d), "feed_forward.down": (4 * d, d),
                }.items()
            }  # fmt: skip
            y = norm(x)
            q, k, v = (split(y @ weights[f"attention.{name}"]) for name in ("query", "key", "value"))
            scores = q @ k.transpose(0, 2, 1) / math.sqrt(d // heads)
            p = np.exp(scores - scores.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            middle = x + (p @ v).transpose(1, 0, 2).reshape(length, d) @ weights["attention.out"]
            z = norm(middle)
            hidden = z @ weights["feed_forward.up"]
            tape.append((x, q, k, v, p, middle, hidden, weights))
            x = middle + np.maximum(hidden, 0) @ weights["feed_forward.down"]
        gram = x @ x.T / d
        second = np.trace(gram) / length
        pair = (gram.sum() - np.trace(gram)) / (length * (length - 1))
        g = rng.standard_normal((length, d))
        for x0, q, k, v, p, middle, hidden, weights in reversed(tape):
            g = g + norm_back(middle, ((g @ weights["feed_forward.down"].T) * (hidden > 0)) @ weights["feed_forward.up"].T)
            mixed = split(g @ weights["attention.out"].T)
            by_p = mixed @ v.transpose(0, 2, 1)
            by_scores = p * (by_p - (by_p * p).sum(-1, keepdims=True)) / math.sqrt(d // heads)
            paths = {"query": by_scores @ k, "key": by_scores.transpose(0, 2, 1) @ q, "value": p.transpose(0, 2, 1) @ mixed}
            front = sum(
                part.transpose(1, 0, 2).reshape(length, d) @ weights[f"attention.{name}"].T for name, part in paths.items()
            )
            g = g + norm_back(x0, front)
        found.append((second, pair, (g**2).mean()))
    assert block.attention.norm_in is not None
    return np.array(found)


@pytest.fixture(scope="module")
def simulation():
    tree = stack(4, "pre", width=96, heads=3, length=24)
    made = recipe(tree, "xavier")
    return tree, made, simulated(np.random.default_rng(403), tree, made, 160)


def scores_of(simulation, **changed):
    """Standard errors between prediction and simulation, for q, c and gamma."""
    tree, made, draws = simulation
    q, r, gamma = ends(tree, changed.pop("made", made), finite_width=True, **changed)
    errors = draws.std(axis=0, ddof=1) / math.sqrt(len(draws))
    return (draws.mean(axis=0) - np.array([q, q * r, gamma])) / errors


@pytest.mark.slow
def test_a_pre_norm_stack_by_simulation(simulation):
    assert np.all(np.abs(scores_of(simulation)) < 5)


@pytest.mark.slow
def test_a_wrong_variance_is_told_apart(simulation):
    """Thirty per cent on the variance of one matrix: far less than a slip of fan-in for the mean of the fans makes."""
    tree, made, _ = simulation
    wrong = made.__class__(
        **{
            **{name: getattr(made, name) for name in made.__dataclass_fields__},
            "tensors": tuple(
                t._replace(std=t.std * math.sqrt(1.3)) if t.role.endswith("down.weight") else t for t in made.tensors
            ),
        }
    )
    assert tree.depth == 4
    assert np.abs(scores_of(simulation, made=wrong)).max() > 5


def test_pre_norm_grows_linearly_and_deepscale_not_at_all():
    heights = []
    for layers in (48, 96):
        tree = stack(layers, "pre")
        heights.append(ends(tree, recipe(tree, "xavier"), finite_width=False)[0])
        steady = ends(tree, recipe(tree, "deepscale", embedding_correlation=0.2), finite_width=False)[0]
        assert steady == pytest.approx(1.0, abs=0.02)
    # 1 + 0.32 a layer once the tokens have aligned; at r = 0.97 attention still adds 2 % less than 1.
    assert (heights[1] - heights[0]) / 48 == pytest.approx(1.32, rel=0.03)


@pytest.mark.slow
def test_a_thousand_layers_with_defaults():
    frame = propagate(Transformer(depth=1000, width=1024, heads=16, vocab=32000, context=256))
    assert set(frame.columns) >= {"site", "layer", "direction", "mean", "variance", "correlation"}
    assert frame["variance"].gt(0).all()
    assert frame["correlation"].between(-1, 1).all()
    assert (frame["site"] == "decoder.block.999.feed_forward.down").sum() == 2
    forward = frame[(frame["direction"] == "forward") & frame["site"].str.fullmatch(r"decoder\.block\.\d+")]
    assert len(forward) == 1000
    assert forward["variance"].is_monotonic_increasing


@one_quick_in(
    2,
    "choices",
    [
        {"kind": "encoder-decoder", "positions": "relative", "norm": "rmsnorm"},
        {"parallel": True, "shared_norm": True, "positions": "rotary"},
        {"placement": "sandwich", "gated": True, "activation": "silu", "qk_norm": "head"},
        {"placement": "post", "positions": "sinusoidal", "dropout": 0.1, "attention_dropout": 0.1, "ffn_dropout": 0.1},
        {"kv_heads": 1, "window": 8, "score_softcap": 20.0, "norm_unit_offset": True, "norm": "rmsnorm"},
        {"kind": "encoder", "patch": 8, "image": 32, "head": "classifier"},
        {"placement": "output", "qk_norm": "full", "embedding_norm": True, "embedding_width": 32},
    ],
    ids=str,
    first=1,
)
def test_every_kind_of_tree_is_walked(choices):
    tree = Transformer(**{"depth": 3, "width": 64, "heads": 4, "vocab": 500, "context": 32} | choices)
    rows = moments_of(tree, "xavier")
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    for row in rows:
        assert row["second_moment"] > 0
        assert -1.0001 <= row["correlation"] <= 1.0001
    assert {row["direction"] for row in rows} == {"forward", "gradient"}


def test_the_arguments_that_are_handed_on_are_those_of_propagate():
    """`moments_of`, `diagnose` and others take them by one list, which type checkers and editors read."""
    arguments = list(inspect.signature(propagate).parameters)[2:]
    assert set(PropagationOptions.__annotations__) == set(arguments)
    assert set(TraceOptions.__annotations__) == set(arguments) - {"lengths"}


def test_the_gradient_is_linear_in_what_comes_back():
    tree = stack(3, "pre")
    made = recipe(tree, "xavier")

    def front(gradient):
        rows = trace_tree(tree, made, variance=1.0, correlation=0.2, gradient=gradient).records
        return next(row.second_moment for row in rows if (row.role, row.direction) == ("encoder.input", "gradient"))

    assert front((2.0, 0.3)) == pytest.approx(2 * front((1.0, 0.3)))
    assert front((1.0, 0.3)) == pytest.approx(0.7 * front((1.0, 0.0)) + 0.3 * front((1.0, 1.0)))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"variance": -1.0}, "variance=-1.0 is not a positive number"),
        ({"variance": math.nan}, "variance=nan is not a positive number"),
        ({"correlation": 1.5}, r"correlation=1.5 is outside \[-1, 1\]"),
        ({"gradient": (0.0, 0.0)}, "gradient: variance=0.0"),
        ({"token_match": 2.0}, "token_match=2.0 is not a probability"),
        ({"context": 1}, "context=1 is not a whole number from 2"),
        ({"init": "xaviar"}, "did you mean 'xavier'"),
    ],
)
def test_nonsense_gets_one_sentence(given, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        propagate(Transformer(2, 64, 2, vocab=100, context=16), **given)
    assert "\n" not in str(error.value)


def test_experts_share_a_token_by_the_weights_of_their_router():
    """Of k equal shares of independent experts the second moment is 1/k, and two unlike tokens rarely meet the same expert."""
    choices = {"depth": 1, "width": 64, "heads": 2, "vocab": 100, "context": 16, "kind": "encoder", "experts": 8, "top_k": 2}
    tree = Transformer(**choices)
    made = recipe(tree, "normal", std=1e-3)
    rows = {row["site"]: row for row in moments_of(tree, made, variance=1.0, correlation=0.0) if row["direction"] == "forward"}
    expert, mix = (rows[f"encoder.block.0.feed_forward.{name}"] for name in ("expert.down", "mix"))
    assert mix["second_moment"] == pytest.approx(expert["second_moment"] / 2, rel=0.01)
    assert mix["covariance"] == pytest.approx(expert["covariance"] / 8, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("placement", "scheme"),
    [
        ("pre", "xavier"),
        ("pre", "deepscale"),
        ("post", "xavier"),
        ("post", "deepscale"),
        ("sandwich", "xavier"),
        ("pre", "ds-init"),
    ],
)
def test_walking_some_blocks_of_a_causal_stack_is_walking_all(placement, scheme, monkeypatch):
    """Every site of every block: to 1e-4 forward and 1e-3 in gradients, as the walk promises."""
    tree = Transformer(
        80, 64, 1, activation="relu", bias=False, positions="none", vocab=100, context=24, placement=placement, head="none",
    )  # fmt: skip
    made = recipe(tree, scheme)
    some = propagate(tree, made, variance=1.0, correlation=0.2)
    monkeypatch.setattr("depthwidth.layers.repetition.MANY_BLOCKS", 10**6)
    every = propagate(tree, made, variance=1.0, correlation=0.2)
    both = some.merge(every, on=["site", "direction"], suffixes=("", "_every"))
    assert len(both) == len(some) == len(every)
    error = (both.second_moment / both.second_moment_every - 1).abs()
    assert error[both.direction == "forward"].max() < 1e-4
    assert error[both.direction == "gradient"].max() < 1e-3
    assert ((both.covariance - both.covariance_every).abs() / both.second_moment_every).max() < 1e-3
    assert (both.log_variance.isna() == both.log_variance_every.isna()).all()
    # Within a gap the shares of two tokens in the gradient are those at its upper end.
    assert ((both.log_variance - both.log_variance_every).abs() / both.log_variance_every.clip(0.1)).fillna(0.0).max() < 0.03
    assert both.log_variance.notna().any() == (placement == "post")
    shallower = both[both.layer == 20].second_moment_every.to_numpy() / both[both.layer == 21].second_moment_every.to_numpy()
    assert abs(shallower - 1).max() > 2e-3  # one block further is another number: what is compared could differ


def test_a_text_of_its_own_is_followed_position_by_position():
    """A text of one repeated token is one token: all positions are alike under any mask."""
    tree = Transformer(3, 64, 2, vocab=100, context=12, positions="none")
    alike = propagate(tree, "xavier", token_match=np.ones((12, 12)), finite_width=False)
    stream = alike[(alike.direction == "forward") & alike.site.str.fullmatch(r"decoder\.block\.\d")]
    assert stream.correlation.to_numpy() == pytest.approx(np.ones(3), abs=1e-6)
    unlike = propagate(tree, "xavier", token_match=np.eye(12), finite_width=False)
    first = unlike[(unlike.direction == "forward") & (unlike.site == "decoder.input")].iloc[0]
    assert first.correlation == pytest.approx(0.0, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_texts_of_zipfs_law_are_what_random_networks_read(kind, monkeypatch):
    """Moments after a block of 300 networks on texts over 100 tokens; by default, and position by position."""
    torch = pytest.importorskip("torch")
    from depthwidth.signal.positions import Alike, Positions
    from verify import apply_init, build

    vocab, length, draws = 100, 48, 300
    tree = Transformer(2, 96, 6, kind=kind, vocab=vocab, context=length, positions="none", tied=False, norm="rmsnorm")
    made = recipe(tree, "xavier")
    model, rng = build(tree, made, seed=0), np.random.default_rng(5)
    frequencies = 1 / np.arange(1, vocab + 1)
    found, seen = [], []
    block = getattr(model, tree.stack_name).block[0]
    block.register_forward_hook(lambda block, inputs, output: seen.append(output[0].double().numpy()) and None)
    for seed in range(draws):
        apply_init(model, made, seed=seed)
        with torch.no_grad():
            model(torch.from_numpy(rng.choice(vocab, (1, length), p=frequencies / frequencies.sum())))
        y = seen.pop()
        second = (y**2).mean()
        found.append([second, ((y.sum(0) ** 2).mean() - second * length) / (length * (length - 1))])
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / math.sqrt(draws)

    def after_a_block(match=None):
        frame = propagate(tree, made, token_match=match).set_index(["site", "direction"])
        return frame.loc[(f"{tree.stack_name}.block.0", "forward"), ["second_moment", "covariance"]].to_numpy(float)

    assert (abs(after_a_block() - mean) < 3 * error + 0.015 * mean).all()
    if kind == "decoder":
        assert (abs(after_a_block("sample") - mean) < 3 * error + 0.02 * mean).all()
    smooth = Positions.smooth  # the control: every pair with the mean correlation
    monkeypatch.setattr(Positions, "smooth", lambda length, match=None: smooth(length))
    monkeypatch.setattr(Alike, "of", lambda length, match: None)
    second, covariance = after_a_block()
    assert second < mean[0] - 3 * error[0]
    assert covariance > mean[1] + 4 * error[1]


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_a_given_correlation_is_that_of_every_pair(kind):
    """Equal tokens are followed apart only if the embedding decides how two tokens correlate."""
    tree = Transformer(2, 32, 2, kind=kind, vocab=50, context=24, positions="none")
    frames = [propagate(tree, "xavier", variance=1.0, correlation=0.2, token_match=match) for match in (0.02, 0.3)]
    given = [frame[frame.site != "stem"].reset_index(drop=True) for frame in frames]
    assert given[0].equals(given[1])
    free = [propagate(tree, "xavier", variance=2.0, token_match=match) for match in (None, 0.0)]
    assert free[0].second_moment.iloc[-1] != pytest.approx(free[1].second_moment.iloc[-1], rel=1e-3)
    stream = free[0].set_index(["site", "direction"]).loc[(f"{tree.stack_name}.input", "forward")]
    assert stream.second_moment == pytest.approx(2.0)
    assert stream.correlation == pytest.approx((1 / np.arange(1, 51) ** 2).sum() / (1 / np.arange(1, 51)).sum() ** 2)


def test_moments_of_several_texts_are_averaged(rng):
    tree = Transformer(2, 64, 2, vocab=10, context=12, activation="relu")
    texts = np.array([[rng.integers(0, 4, 12)] for _ in range(3)])
    matches = (texts[:, 0, :, None] == texts[:, 0, None, :]).astype(float)
    together = propagate(tree, "xavier", token_match=matches)
    each = [propagate(tree, "xavier", token_match=one) for one in matches]
    for name in ("second_moment", "spread"):
        expected = np.mean([frame[name].to_numpy(float, na_value=np.nan) for frame in each], axis=0)
        assert together[name].to_numpy(float, na_value=np.nan) == pytest.approx(expected, nan_ok=True)
    raw = np.mean([frame["covariance"] + frame["mean"] ** 2 for frame in each], axis=0)
    assert (together["covariance"] + together["mean"] ** 2).to_numpy() == pytest.approx(raw)
    for given in ({"token_match": matches[:0]}, {"token_match": matches, "lengths": [12]}):
        with pytest.raises(InputError, match="token_match holds no text, or both lengths"):
            propagate(tree, "xavier", **given)
    sample = "sample"
    with pytest.raises(InputError, match="up to 512 tokens"):
        propagate(Transformer(1, 64, 2, vocab=10, context=1024), "xavier", token_match=sample)


@pytest.mark.parametrize("vocab", [1, 2, 10])
def test_a_small_vocabulary_repeats_as_often_as_its_tokens_do(vocab):
    tree = Transformer(1, 64, 2, vocab=vocab, context=12, kind="encoder", positions="none")
    frame = propagate(tree, "xavier")
    first = frame[(frame.direction == "forward") & (frame.site == "encoder.input")].iloc[0]
    frequencies = 1 / np.arange(1, vocab + 1)
    assert first.correlation == pytest.approx((frequencies**2).sum() / frequencies.sum() ** 2, rel=1e-12)


@pytest.mark.parametrize("kind", ["decoder", "encoder", "encoder-decoder"])
def test_the_tokens_of_a_vocabulary_of_one_stay_equal(kind):
    frame = propagate(Transformer(3, 32, 4, vocab=1, context=16, kind=kind, positions="none"), "xavier")
    forward = frame[(frame.direction == "forward") & (frame.second_moment > 0)]
    assert forward.correlation.to_numpy() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.slow
def test_tokens_that_repel_pass_through_an_encoder(rng):
    """Full attention on three tokens of correlation -0.4, near the least they can have, against 3,000 layers at width 64."""
    length, r, width, heads, draws = 3, -0.4, 64, 2, 3000
    tree = Transformer(1, width, heads, vocab=100, context=length, kind="encoder", norm="rmsnorm", positions="none")
    rows = {(row["site"], row["direction"]): row for row in moments_of(tree, "xavier", variance=1.0, correlation=r)}
    own = rng.standard_normal((draws, length, width))
    mean = own.mean(1, keepdims=True)
    x = math.sqrt(1 - r) * (own - mean) + math.sqrt(1 + (length - 1) * r) * mean
    x *= math.sqrt(width) / np.linalg.norm(x, axis=-1, keepdims=True)
    q, k, v = (
        (x @ (rng.standard_normal((draws, width, width)) / math.sqrt(width)))
        .reshape(draws, length, heads, -1)
        .transpose(0, 2, 1, 3)
        for _ in range(3)
    )
    p = np.exp(q @ k.transpose(0, 1, 3, 2) / math.sqrt(width / heads))
    y = (p / p.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(draws, length, width)
    second = (y**2).mean((1, 2))
    covariance = ((y.sum(1) ** 2).mean(-1) - second * length) / (length * (length - 1))
    mixed = rows["encoder.block.0.attention.mix", "forward"]
    for values, name in ((second, "second_moment"), (covariance, "covariance")):
        error = values.std() / math.sqrt(draws)
        assert abs(values.mean() - mixed[name]) < 4 * error
        independent = propagate(tree, "xavier", variance=1.0, correlation=0.0).set_index(["site", "direction"])
        assert abs(values.mean() - independent.loc[("encoder.block.0.attention.mix", "forward"), name]) > 10 * error


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"correlation": -0.5}, r"correlation=-0.5 is impossible between all pairs of 16 tokens; least is -0.0666"),
        ({"gradient": (1.0, -0.07)}, "gradient: correlation=-0.07 is impossible"),
        ({"gram": 1.5 * np.eye(3) - 0.6}, "no tokens have gram as their products: its least eigenvalue is -0.3"),
        ({"token_match": np.array([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]])}, "no tokens have token_match as their products"),
    ],
)
def test_moments_that_no_tokens_have_are_refused(given, sentence):
    tree = Transformer(2, 64, 2, vocab=100, context=16, kind="encoder")
    with pytest.raises(InputError, match=sentence) as error:
        propagate(tree, **given)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_least_moments_that_tokens_have_are_not_refused():
    tree = Transformer(2, 64, 2, vocab=100, context=4, kind="encoder", positions="none")
    for given in ({"correlation": -1 / 3, "gradient": (1.0, -1 / 3)}, {"gram": np.eye(4) - 1 / 4}):
        frame = propagate(tree, "xavier", **given)
        assert (frame.second_moment > 0).all()
        assert (frame.correlation >= -1 / 3 - 1e-9).all()


@pytest.mark.parametrize("placement", ["pre", "post", "output", "sandwich"])
@one_quick_in(4, ("kind", "length", "correlation"), [
    ("encoder", 16, -0.05), ("encoder", 16, -0.01), ("encoder", 2, -1.0), ("encoder", 3, -0.499), ("decoder", 16, -0.05),
    ("decoder", 16, -0.01), ("decoder", 2, -1.0), ("decoder", 3, -0.499),
])  # fmt: skip
def test_tokens_that_repel_have_moments_wherever_norms_stand(kind, length, correlation, placement):
    """The sizes of two such tokens may vary against each other, so that they share no spread."""
    tree = Transformer(2, 32, 4, vocab=100, context=length, kind=kind, norm="rmsnorm", placement=placement, positions="none")
    frame = propagate(tree, "xavier", variance=1.0, correlation=correlation, gradient=(1.0, correlation))
    assert (frame.second_moment >= 0).all()
    assert (frame.correlation >= -1 / (length - 1) - 1e-9).all()
    spread = frame.spread[frame.site == f"{kind}.block.0"].dropna()
    assert len(spread) == 1
    assert spread.iloc[0] >= 0


def test_scores_beyond_the_integrals_are_warned_of(recwarn):
    """Without a norm before attention scores of block l vary by (2 l + 1)^2, beyond 64 nats^2 from block 4 on.

    Simulated, the gradient at the input of twelve such blocks of width 64 is four times as large as the predicted one.
    """

    def deep(blocks, **more):
        return Transformer(blocks, 32, 4, vocab=100, context=8, norm="rmsnorm", placement="output", positions="none", **more)

    sentence = "vary by up to 81 nats.2, beyond 64 from decoder.block.4.attention.scores on"
    with pytest.warns(AccuracyWarning, match=sentence):
        propagate(deep(5), "xavier", variance=1.0, correlation=0.3)
    propagate(deep(4), "xavier", variance=1.0, correlation=0.3)
    propagate(deep(5, score_softcap=6.0), "xavier", variance=1.0, correlation=0.3)  # which bounds scores by 6 nats
    assert not [one for one in recwarn if issubclass(one.category, AccuracyWarning)]


def test_a_gram_matrix_is_the_input_of_the_first_block():
    tree = Transformer(2, 64, 2, vocab=100, context=10, kind="encoder")
    gram = 0.3 + np.diag(np.linspace(0.5, 1.5, 10))
    frame = propagate(tree, "xavier", gram=gram)
    entrance = frame[(frame.direction == "forward") & (frame.site == "encoder.input")].iloc[0]
    assert entrance.second_moment == pytest.approx(gram.diagonal().mean())
    assert entrance.covariance == pytest.approx(0.3)


@pytest.mark.slow
def test_the_loss_starts_the_backward_pass(rng):
    """Gradient of the summed cross-entropy by the features, with random output weights, targets and features."""
    vocab, width, tokens, draws, std = 40, 32, 8, 400, 0.3
    tree = Transformer(1, width, 1, vocab=vocab, context=tokens, tied=False)
    made = recipe(tree, "normal", std=std)
    frame = propagate(tree, made, gradient="loss", token_match=1 / vocab)
    gradient = frame[(frame.direction == "gradient") & (frame.site == "decoder")].iloc[0]
    top = frame[(frame.direction == "forward") & (frame.site == "decoder")].iloc[0]
    found = []
    for _ in range(draws):
        shared, own = rng.standard_normal((1, width)), rng.standard_normal((tokens, width))
        r = top.covariance / top.second_moment
        x = math.sqrt(top.second_moment) * (math.sqrt(r) * shared + math.sqrt(1 - r) * own)
        weights = std * rng.standard_normal((vocab, width))
        p = np.exp(x @ weights.T)
        p /= p.sum(1, keepdims=True)
        p[np.arange(tokens), rng.integers(0, vocab, tokens)] -= 1
        found.append(((p @ weights) ** 2).mean())
    error = np.std(found) / math.sqrt(draws)
    assert abs(np.mean(found) - gradient.second_moment) < 5 * error
    assert abs(np.mean(found) - 1.5 * gradient.second_moment) > 5 * error


@pytest.mark.slow
def test_a_masked_head_of_tokens_one_by_one_is_that_of_exchangeable_ones():
    """The same tokens at both grains, forward and back; the mean that an activation has is taken off every token."""
    tree = Transformer(1, 64, 2, vocab=100, context=6, kind="encoder", head="masked-lm", activation="relu", positions="none")
    match = np.where(np.eye(6), 1.0, 0.3)
    together, singly = (
        {
            (row["site"], row["direction"]): row
            for row in moments_of(tree, "xavier", gradient="loss", token_match=m, correlation=0.3)
        }
        for m in (0.3, match)
    )
    keys = [key for key in together if key[0].startswith("head")]
    assert len(keys) == 7
    for key in keys:
        # The two grains of attention agree to a few thousandths (their own tests); the head must not add to that.
        assert singly[key]["second_moment"] == pytest.approx(together[key]["second_moment"], rel=2e-3)
        assert singly[key]["correlation"] == pytest.approx(together[key]["correlation"], abs=5e-3)
    assert abs(together["head.activation", "forward"]["mean"]) > 0.1


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"gram": np.ones((3, 4))}, r"gram has shape \(3, 4\)"),
        ({"gram": -np.eye(4)}, "gram has a second moment on its diagonal that is not positive"),
        ({"gram": np.array([[1.0, 0.5], [0.2, 1.0]])}, "gram is not symmetric"),
        ({"gram": np.eye(4), "variance": 1.0}, "gram cannot be combined"),
        ({"token_match": 2 * np.ones((4, 4))}, "token_match holds a value that is not a probability"),
        ({"token_match": "half"}, "token_match is not an array of numbers"),
        ({"token_match": np.eye(4), "context": 8}, "context=8 is not the 4 tokens"),
        ({"segment_match": 1.5}, "segment_match=1.5 is not a probability"),
        ({"gradient": "losses"}, "gradient='losses' is not 'loss'"),
    ],
)
def test_arrays_that_say_nothing_get_one_sentence(given, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        propagate(Transformer(2, 64, 2, vocab=100, context=16), **given)
    assert "\n" not in str(error.value)


def test_the_log_variance_counts_what_lies_between_a_site_and_the_output():
    """Nothing at the top, the whole at the input; blocks alike add alike, and a branch's inner sites see their own residual."""
    tree = stack(6, "post")
    frame = (
        propagate(tree, "xavier", variance=1.0, correlation=0.9).query("direction == 'gradient'").set_index("site").log_variance
    )
    top, below = frame["encoder.block.5"], frame["encoder.block.4"]
    assert top == 0.0
    assert frame["encoder.block.5.feed_forward"] == 0.0
    assert (
        0
        < frame["encoder.block.5.feed_forward.up"]
        == frame["encoder.block.5.attention"]
        < frame["encoder.block.5.attention.out"]
    )
    assert frame["encoder.block.5.attention.out"] == pytest.approx(below)
    assert frame["encoder.input"] == frame["stem"] > frame["encoder.block.0"] > below
    assert propagate(stack(2, "pre"), "xavier", variance=1.0, correlation=0.5).log_variance.isna().all()


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_the_spread_of_an_input_is_that_of_the_mean_of_its_tokens(kind):
    """The squares of Gaussian features of 12 tokens: 2/d of each token, and r^2 of it for two."""
    tree = Transformer(1, 64, 1, kind=kind, vocab=100, context=12, positions="none")
    rows = propagate(tree, "xavier", variance=1.0, correlation=0.3).query("direction == 'forward'").set_index("site")
    assert rows.loc[f"{tree.stack_name}.input", "spread"] == pytest.approx(math.sqrt(2 / 64 * (1 + 11 * 0.3**2) / 12), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("given", [{}, {"gradient": "loss"}])
def test_the_log_variance_of_a_deep_causal_stack_is_that_of_tokens_alike(given):
    """Covariances of the gradient that cancel in the mean are not followed; `log_variance` overflowed with them."""
    tree = Transformer(60, 64, 4, vocab=100, context=32, placement="post", activation="relu")
    found = propagate(tree, "xavier", **given).query("direction == 'gradient'").log_variance.max()
    # Nearly all blocks see one token in many copies; under a causal mask most of the gradient ends at the first ones.
    assert found == pytest.approx(60 * post_norm_layer_log_variance(1.0, 0.32, 64), rel=0.25)


def test_an_embedding_norm_keeps_the_spread():
    """Draws differ in BERT as they do without the norm of its embedding: by nearly the same share."""
    without, bert = (stack(6, "post", embedding_norm=norm) for norm in (False, True))
    one, other = (propagate(tree, "xavier").query("site == 'encoder.input'").log_variance.max() for tree in (without, bert))
    assert other == pytest.approx(one, rel=0.1)


@pytest.mark.slow
def test_a_gram_matrix_reaches_the_encoder_of_an_encoder_decoder():
    tree = Transformer(2, 32, 2, kind="encoder-decoder", vocab=100, context=6, positions="none", head="none")
    gram = np.full((6, 6), 0.8) + 1.2 * np.eye(6)
    rows = propagate(tree, "xavier", gram=gram).query("site == 'encoder.input' and direction == 'forward'")
    assert (float(rows.second_moment.iloc[0]), float(rows.covariance.iloc[0])) == pytest.approx((2.0, 0.8))
