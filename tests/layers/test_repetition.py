"""Many copies of a block: the copies that are evaluated, the accuracy of the rest, and the policy numbers that decide both."""

import math

import numpy as np
import pytest
from passes import Given, start

from depthwidth import Transformer, propagate, recipe
from depthwidth.layers import Attention, Block, FeedForward, LayerNorm, Repeat, Residual, RMSNorm, varying_numbers
from depthwidth.layers import repetition as module
from depthwidth.layers.base import component
from depthwidth.layers.block import PLACEMENTS
from depthwidth.layers.depth_steps import Increments, depth_variable
from depthwidth.layers.varying_numbers import follow_from_few
from depthwidth.numerics import recursion
from depthwidth.signal import Offset, Signal, Spread, TokenSignal
from depthwidth.signal.positions import Alike, Positions

WIDTH = 64
SEEN = []
"""Layers, or ranges of layers, at which the blocks below were asked for moments."""


@component
class Watched(Block):
    """A block that records the layers at which its moments are evaluated."""

    def moments(self, x, site, /):
        if not site.trace.silent:
            SEEN.append(site.trace.layer)
        return super().moments(x, site)


def block(kind=Watched, eps=0.0, causal=True, placement="pre", norm=RMSNorm, **choices):
    norm = {name: norm(WIDTH, eps=eps) for name in PLACEMENTS[placement]}
    attention = Attention(WIDTH, 2, 2, 32, 32, causal=causal, bias=False, out_bias=False)
    feed_forward = FeedForward(WIDTH, 4 * WIDTH, activation="relu", bias=False)
    return kind(Residual(attention, **norm), Residual(feed_forward, **norm), **choices)


def given(kind=Given, **scales):
    matrices = ("query_weight", "key_weight", "value_weight", "out_weight", "up_weight")
    return kind(**scales, **dict.fromkeys(matrices, 1 / WIDTH), down_weight=1 / (4 * WIDTH))


def tokens(length=12, correlation=0.2):
    positions = Positions.smooth(length)
    return TokenSignal(*positions.uniform(1.0, correlation), positions)


def of_kinds(different=0.2, equal=0.7, spread=True, length=12):
    positions = Alike.of(length, 0.1)
    x = TokenSignal(np.array([1.0]), np.array([[different], [equal]]), positions)
    return x.spread_as(Spread.of_gaussian(x, WIDTH)) if spread else x


def evaluate(one, times, x, scales=None, gradient=True):
    """The stream after the last block and the gradient at the input of the first."""
    SEEN.clear()
    y, pull = Repeat(one, times).moments(x, start(scales or given(), finite_width=x.spread is not None))
    g = Signal(1.0, 0.2) if isinstance(x, Signal) else y.of(0 * y.second_moment + 1.0, 0 * y.covariance + 0.2)
    return y, pull(g) if gradient else None


@pytest.mark.parametrize(("times", "singly"), [(1, True), (2, True), (3, False), (9, False)])
def test_few_exchangeable_blocks_are_evaluated_one_by_one_and_more_together(times, singly):
    evaluate(block(causal=False), times, Signal(1.0, 0.2))
    assert ([*range(times)] if singly else [range(times)]) == SEEN


@pytest.mark.parametrize(("times", "singly"), [(16, True), (17, False)])
def test_up_to_sixteen_blocks_of_tokens_that_differ_are_evaluated_one_by_one(times, singly, monkeypatch):
    """Beyond that they may be sampled; steps longer than one begin where both ends are 14 blocks away."""
    asked = []
    monkeypatch.setattr(
        "depthwidth.layers.repetition.apply_sampled_blocks", lambda one, x, *others: asked.append(1) or (x, None)
    )
    evaluate(block(), times, tokens(), gradient=False)
    assert (asked == []) == singly
    assert ([*range(times)] if singly else []) == SEEN


def test_how_a_deep_stack_is_sampled():
    """The first 10 blocks one by one, then steps of at most 30 % of the number of blocks below less 2; the last block."""
    depth = 400
    evaluate(block(), depth, tokens(), gradient=False)
    assert SEEN[:10] == list(range(10))
    assert SEEN[10] == 11
    visited = sorted(set(SEEN))
    assert visited[-1] == depth - 1
    steps = np.diff(visited)
    assert (steps <= [max(1, int(0.3 * (layer - 2))) for layer in visited[:-1]]).all()
    assert steps.max() > 60
    assert len(SEEN) < depth / 10


@pytest.mark.slow
def test_how_a_deep_post_norm_stack_is_sampled():
    """Near the end steps of at most 15 % of the number of blocks above, and the last two blocks one by one."""
    depth = 200
    evaluate(block(placement="post"), depth, tokens(), given(branch=0.1), gradient=False)
    visited = sorted(set(SEEN))
    steps = np.diff(visited)
    assert len(SEEN) < depth / 3  # and few tries fail: increments of a size that a norm fixes would amplify its errors
    assert visited[-13:] == [*range(depth - 13, depth)]
    assert (steps[:-1] <= [max(1, int(0.15 * (depth - 2 - layer))) for layer in visited[:-2]]).all()
    assert steps.max() > 4


@pytest.mark.slow
def test_sizes_that_a_norm_fixes_are_not_extrapolated(monkeypatch):
    """Their increments are errors of earlier states: the stream would be off by 4e-6, from half as many blocks again."""
    tree = Transformer(300, 128, 2, placement="post")
    made = recipe(tree, "deepscale")
    some = propagate(tree, made)
    monkeypatch.setattr(module, "MANY_BLOCKS", 10**6)
    every, forward = propagate(tree, made), some.direction == "forward"
    assert (some.second_moment / every.second_moment - 1).abs()[forward].max() < 2e-6


@pytest.mark.slow
def test_a_stream_that_has_stopped_changing_is_held():
    """Tokens that collapse after a few dozen blocks of a post-norm stack: few of the later blocks are evaluated."""
    evaluate(block(placement="post"), 400, tokens(), gradient=False)
    late = [layer for layer in SEEN if 150 < layer < 350]
    assert 1 < len(late) < 20


@pytest.mark.slow
def test_steps_are_short_where_branches_add_much_to_the_stream():
    """A skip path that halves the stream: all that a block reads comes from the few blocks before it, in gradients too."""
    evaluate(block(), 60, tokens(), given(skip=0.5), gradient=False)
    assert sorted(set(SEEN)) == [*range(60)]


@pytest.mark.slow
@pytest.mark.parametrize("skip", [1.0, 0.97])
def test_sampled_blocks_end_where_all_blocks_do(skip, monkeypatch):
    """The stream to 1e-5 of its size for each step, the gradient to 1e-3."""
    scales = given(skip=skip, branch=0.5)
    some, front = evaluate(block(Block), 60, tokens(), scales)
    monkeypatch.setattr("depthwidth.layers.repetition.MANY_BLOCKS", 10**6)
    every, exact = evaluate(block(Block), 60, tokens(), scales)
    size = every.averages[0]
    assert np.abs(some.second_moment - every.second_moment).max() < 3e-5 * size
    assert np.abs(some.covariance - every.covariance).max() < 3e-5 * size
    assert front.averages == pytest.approx(exact.averages, rel=1e-3)
    assert np.abs(np.diff(every.second_moment)).max() > 1e-3 * size  # positions differ, or nothing was compared


@pytest.mark.slow
@pytest.mark.parametrize(
    ("skip", "branch", "parallel", "spread"),
    [
        (1.3, 0.5, False, False), (3.0, 0.5, False, False), (1.3, 0.5, True, False), (1.0, 0.0, False, False),
        (1.3, 0.5, False, True), (3.0, 0.5, False, True), (1.3, 0.5, True, True),
    ],
)  # fmt: skip
def test_sampled_blocks_whose_skip_paths_grow(skip, branch, parallel, spread, monkeypatch):
    """A stream that grows by orders of magnitude from block to block, and one that no branch changes.

    With a spread the gradient leans, and its leaning grows from block to block by the square of what the gradient does.
    """
    one, scales, x = block(Block, parallel=parallel), given(skip=skip, branch=branch), tokens()
    x = x.spread_as(Spread.of_gaussian(x, WIDTH)) if spread else x
    some, front = evaluate(one, 60, x, scales)
    monkeypatch.setattr("depthwidth.layers.repetition.MANY_BLOCKS", 10**6)
    every, exact = evaluate(one, 60, x, scales)
    size = every.averages[0]
    assert np.abs(some.second_moment - every.second_moment).max() < 3e-5 * size
    assert np.abs(some.covariance - every.covariance).max() < 3e-5 * size
    assert front.averages == pytest.approx(exact.averages, rel=1e-3)
    if spread:  # a leaning that took the factor once would be off by 5e-6 and 2e-4
        assert front.leaning.averages == pytest.approx(exact.leaning.averages, rel=1e-6)
    times = 60 if parallel else 120
    assert size == pytest.approx(skip ** (2 * times), rel=0.5 if branch else 1e-12)


class Varied(Given):
    """Output maps with a standard deviation of their own in each block."""

    def __init__(self, course, **scales):
        super().__init__(**scales)
        self.course = course

    def tensor(self, role):
        made = super().tensor(role)
        if role.endswith("out.weight"):
            made.std = tuple(made.std * factor for factor in self.course)
        return made

    def along_blocks(self, role, layers):
        return (self.course[layers.start : layers.stop],)


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("x", [of_kinds, lambda: Signal(1.0, 0.2)])
def test_blocks_whose_variances_change_slowly_follow_from_a_few(x, placement, monkeypatch):
    """Scales of 1/sqrt(block + 1), and a last block of its own: fewer than half of the blocks, and the same stream."""
    course = (*((layer + 1) ** -0.5 for layer in range(199)), 3.0)
    one, scales = block(Block, causal=False, eps=1e-5, placement=placement), given(Varied, course=course, branch=0.3)
    counted = []
    evaluate_block = Block.moments
    monkeypatch.setattr(Block, "moments", lambda self, x, site: counted.append(1) or evaluate_block(self, x, site))
    some = module.block_inputs(one, x(), start(scales, finite_width=x is of_kinds), range(200))
    assert len(counted) < 100
    monkeypatch.setattr(module, "_evaluated_states", lambda *others: None)
    monkeypatch.setattr(module, "_SINGLE", 10**6)
    every = module.block_inputs(one, x(), start(scales, finite_width=x is of_kinds), range(200))
    moments = 3 if x is of_kinds else 2
    for number, (found, exact) in enumerate(zip(module._columns_of(some), module._columns_of(every), strict=True)):
        # A tenth of the tolerance of a step, which a spread has a hundred times larger than a moment.
        assert found == pytest.approx(exact, rel=1e-6 if number < moments else 1e-4, abs=1e-9)
    assert np.ptp(module._columns_of(every)[1]) > 0.1  # the stream changes, or nothing was compared


@pytest.mark.parametrize("rough", [
    lambda layer: 3.0 if layer == 60 else 1.0, lambda layer: 1 + 0.1 * (layer % 2), lambda layer: 1 + 0.1 * (layer > 70),
])  # fmt: skip
def test_blocks_whose_variances_jump_do_not_follow_from_a_few(rough):
    """One block apart, every other block, and a step; the last block may differ."""
    course = np.array([rough(layer) for layer in range(120)])
    assert not follow_from_few([course], 120, 0.07)
    assert follow_from_few([np.arange(1.0, 121.0)], 120, 0.07)


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_a_block_with_a_variance_of_its_own_is_not_passed_over(placement, monkeypatch):
    """Three times the standard deviation in one block, deep in a gap: its records and those that follow."""
    course = tuple(3.0 if layer == 77 else 1.0 for layer in range(120))
    scales = given(Varied, course=course, branch=0.3)

    def records(many=16):
        monkeypatch.setattr(module, "MANY_BLOCKS", many)
        site = start(scales, finite_width=False)
        y, pull = Repeat(block(Block, placement=placement), 120).moments(tokens(), site)
        pull(y.of(0 * y.second_moment + 1.0, 0 * y.covariance + 0.2))
        values = {}
        for record in site.trace.records:
            for layer, value in zip(np.atleast_1d(record.layer), np.atleast_1d(record.second_moment), strict=True):
                values[record.role, record.direction, int(layer)] = value
        return values

    every, some = records(10**6), records()
    for (role, direction, layer), exact in every.items():
        assert some[role, direction, layer] == pytest.approx(exact, rel=1e-3 if direction == "gradient" else 3e-5)
    monkeypatch.setattr(varying_numbers, "_ROUGH", math.inf)
    passed_over = records()
    assert max(abs(passed_over[key] / exact - 1) for key, exact in every.items()) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("times", [150, 200])
def test_the_gradient_of_a_deep_post_norm_stack(times, monkeypatch):
    """Plain sums before the norm: gaps of dozens of blocks that grow the gradient, fractions of blocks, and rounding errors."""
    one = block(Block, placement="post")
    _, front = evaluate(one, times, tokens())
    monkeypatch.setattr(module, "MANY_BLOCKS", 10**6)
    _, exact = evaluate(one, times, tokens())
    assert front.averages == pytest.approx(exact.averages, rel=1e-3)


@component
class Wavy(Watched):
    """A block whose increments wave along the depth, in closed form."""

    def moments(self, x, site, /):
        super().moments(x, site)
        a = 0.02 * (1 + 0.1 * math.sin(site.trace.layer / 8))
        return x.plus(x.of(0 * x.second_moment + a, 0 * x.covariance + 0.3 * a)), lambda g: g


@pytest.mark.slow
def test_steps_are_halved_where_the_stream_bends():
    """A step errs by at most 1e-5 of the stream; most errors cancel, and all 300 blocks together err by less than that."""
    y, _ = evaluate(block(Wavy), 300, tokens(), gradient=False)
    exact = 1 + sum(0.02 * (1 + 0.1 * math.sin(layer / 8)) for layer in range(300))
    assert y.second_moment == pytest.approx(exact, rel=3e-6)
    assert 100 < len(SEEN) < 200  # evaluated, tries that were too long included


@pytest.mark.parametrize(("parallel", "placement", "skip"), [
    (False, "pre", 1.0), (False, "pre", 0.9), (False, "post", 1.0), (False, "post", 0.9), (True, "pre", 1.0),
    (True, "pre", 0.9), (False, "sandwich", 1.0), (True, "sandwich", 0.9),
])  # fmt: skip
@pytest.mark.parametrize("spread", [True, False])
def test_blocks_evaluated_together_equal_blocks_evaluated_one_by_one(parallel, placement, skip, spread, monkeypatch):
    """Tables with plain floats compared with the evaluation of each component, spreads included."""
    from passes import gaussian

    x = gaussian(1.0, 0.2, WIDTH) if spread else Signal(1.0, 0.2)
    scales = given(skip=skip, branch=0.7)
    one = block(Block, eps=1e-9, causal=False, placement=placement, parallel=parallel)
    together, front = evaluate(one, 40, x, scales)
    monkeypatch.setattr("depthwidth.layers.repetition.FEW_BLOCKS", 10**6)
    monkeypatch.setattr("depthwidth.layers.repetition.MANY_BLOCKS", 10**6)
    singly, exact = evaluate(one, 40, x, scales)
    assert together[:2] == pytest.approx(singly[:2], rel=1e-7)
    assert front[:2] == pytest.approx(exact[:2], rel=1e-6)
    if spread:
        assert tuple(together.spread) == pytest.approx(tuple(singly.spread), rel=1e-6, abs=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize(("parallel", "placement", "skip"), [
    (False, "pre", 1.0), (False, "pre", 0.9), (False, "post", 1.0), (True, "pre", 1.0), (True, "pre", 0.9),
    (False, "sandwich", 1.0), (True, "sandwich", 0.9),
])  # fmt: skip
@pytest.mark.parametrize("x", [of_kinds(), of_kinds(spread=False), of_kinds(0.3, 0.25), of_kinds(0.3, 1.0)])
def test_blocks_of_two_kinds_of_pairs_together_equal_blocks_one_by_one(parallel, placement, skip, x, monkeypatch):
    """Tables compared with the evaluation of each component, below, between and above the correlations that are usual."""
    scales = given(skip=skip, branch=0.7)
    one = block(Watched, eps=1e-9, causal=False, placement=placement, parallel=parallel)
    together, front = evaluate(one, 24, x, scales)
    assert SEEN[-1] == range(24)
    monkeypatch.setattr("depthwidth.layers.repetition.FEW_OF_KINDS", 10**6)
    monkeypatch.setattr("depthwidth.layers.repetition.MANY_BLOCKS", 10**6)
    singly, exact = evaluate(one, 24, x, scales)
    assert [*range(24)] == SEEN
    # A norm of the output makes it steeper: the tables then err by 4.7e-6 if equal tokens are the less alike, at any width.
    error = 6e-6 if placement == "sandwich" else 2e-6
    for found, known, rel in ((together, singly, error), (front, exact, 2e-5)):
        assert found.second_moment == pytest.approx(known.second_moment, rel=rel)
        assert found.covariance == pytest.approx(known.covariance, rel=rel)
    if x.spread:
        for found, known in zip(together.spread, singly.spread, strict=True):
            assert found == pytest.approx(known, rel=2e-5, abs=1e-15)
    assert singly.covariance[1] != pytest.approx(singly.covariance[0], rel=3e-6)  # kinds differ, or nothing was compared


def test_a_table_of_two_kinds_grows_with_the_angle():
    """Small angles first, which a short table holds, and then larger ones, in each of its three regions."""
    points = []

    def outputs(covariance):
        c, equal = covariance / 2.0
        points.append(c.size)
        return np.stack([np.arccos(np.minimum(c, 1.0)) * equal, equal + c**3], axis=-1)

    table = module._KindsTable(outputs, 2.0)
    for c, equal in ((0.8, 0.9), (0.9, 0.8), (0.8, 1.04), (0.95, 1.0), (0.1, 0.7), (0.7, 0.1), (0.1, 1.01)):
        assert table(c, equal) == pytest.approx([math.acos(c) * equal, equal + c**3], rel=1e-6)
    small = round(module._SMALL_ANGLE * 64) + 1
    assert points == [small * 9, small * 9, small * 3, 65 * 9, 65 * 9, 65 * 3]


@pytest.mark.parametrize("times", [3, 24])
def test_a_gradient_of_two_kinds_and_its_leaning_pass_a_branch_together_as_apart(times, monkeypatch):
    one = block(Block, eps=1e-9, causal=False)
    _, together = evaluate(one, times, of_kinds())
    monkeypatch.setattr(Alike, "takes_several", False)
    _, apart = evaluate(one, times, of_kinds())
    for found, known in ((together, apart), (together.leaning, apart.leaning)):
        assert found.second_moment == pytest.approx(known.second_moment, rel=1e-12)
        assert found.covariance == pytest.approx(known.covariance, rel=1e-12)
    assert np.abs(together.leaning.second_moment).max() > 0.1  # or nothing was compared


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [False, True])
def test_few_blocks_of_a_thousand_stand_for_all(kinds, monkeypatch):
    """The stream at the input of each block from the tables of some forty, against that from the tables of every block."""
    from passes import gaussian

    def columns(step=None, every=False):
        monkeypatch.setattr(module, "_STEP", step or usual)
        monkeypatch.setattr(module, "MANY_BLOCKS", 10**6 if every else 16)
        x = of_kinds() if kinds else gaussian(1.0, 0.2, WIDTH)
        site = start(given(), finite_width=True)
        return np.array(module._columns_of(module.block_inputs(block(Block, eps=1e-9, causal=False), x, site, range(1000))))

    usual = module._STEP
    exact = columns(every=True)
    moments = 2 + kinds

    def errors(found):
        relative = np.abs(found - exact).max(1) / np.abs(exact).max(1)
        return relative[:moments].max(), relative[moments:].max()

    size, spread = errors(columns())
    assert size < 1e-9
    assert spread < 5e-8
    monkeypatch.setattr(recursion, "_TOLERANCE", 1.0)
    assert errors(columns(0.3))[1] > 1e-7  # longer steps, which the recursion itself would refuse


@pytest.mark.slow
def test_blocks_of_two_kinds_of_pairs_without_tables_are_sampled(monkeypatch):
    """A stream that no norm has seen, or one too small beside an epsilon after a few blocks."""
    asked = []
    monkeypatch.setattr(
        "depthwidth.layers.repetition.apply_sampled_blocks", lambda one, x, *others: asked.append(1) or (x, None)
    )
    bare = Block(*(Residual(part.branch) for _, part in block(causal=False).branches))
    evaluate(bare, 20, of_kinds(spread=False), gradient=False)
    evaluate(block(eps=1e-3, causal=False), 20, of_kinds(spread=False), gradient=False)
    assert asked == [1, 1]
    monkeypatch.setattr(module, "_branch_tables", lambda *others: asked.append(2) or [])
    evaluate(block(eps=1e-9, causal=False), 20, of_kinds(spread=False), gradient=False)
    assert asked == [1, 1, 2, 1]


@pytest.mark.parametrize(("parallel", "placement", "skip"), [
    (False, "pre", 0.95), (False, "post", 0.9), (True, "pre", 0.95),
])  # fmt: skip
@pytest.mark.parametrize("causal", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_mean_over_the_features_passes_many_blocks(causal, parallel, placement, skip, monkeypatch):
    """Tables or samples give the same mean after the last block as a pass block by block, and the same moments."""
    x = tokens() if causal else Signal(1.0, 0.2)
    one, pair = 1.0 + 0.0 * x.second_moment, 1.0 + 0.0 * x.covariance
    x = x.offset_as(Offset(0.5 * one, 0.4 * pair, 0.3 * one, 0.1 * pair, WIDTH))
    x = x.spread_as(Spread.of_gaussian(x, WIDTH))
    scales = given(skip=skip, branch=0.7)
    one = block(Block, eps=1e-9, causal=causal, placement=placement, parallel=parallel, norm=LayerNorm)
    together, front = evaluate(one, 20, x, scales)
    monkeypatch.setattr("depthwidth.layers.repetition.FEW_BLOCKS", 10**6)
    monkeypatch.setattr("depthwidth.layers.repetition.MANY_BLOCKS", 10**6)
    singly, exact = evaluate(one, 20, x, scales)
    rel = 3e-5 if causal else 1e-6
    assert together.averages == pytest.approx(singly.averages, rel=rel)
    assert front.averages == pytest.approx(exact.averages, rel=1e-3 if causal else 1e-6)
    left = (together.whole().averages[0] - together.averages[0]) / 0.5
    assert left == pytest.approx(0.0 if placement == "post" else skip ** (2 * 20 * (1 if parallel else 2)), rel=1e-9)
    assert together.whole().averages == pytest.approx(singly.whole().averages, rel=rel)
    assert together.deviation(9) == pytest.approx(singly.deviation(9), rel=1e-5, abs=1e-15)


@pytest.mark.parametrize(("second_moment", "normal"), [(0.6, True), (0.4, False)])
def test_tables_need_an_epsilon_that_is_small_beside_the_stream(second_moment, normal):
    """At most 2e-5 of it, so that the branch's output depends on the correlation alone to that."""
    assert module._reads_normalised(block(eps=1e-5, causal=False), Signal(second_moment, 0.1), started=True) == normal
    assert not module._reads_normalised(block(causal=False), Signal(1.0, -0.1), started=True)
    assert not module._reads_normalised(block(causal=False, placement="post"), Signal(1.0, 0.1), started=False)


def test_the_variable_along_the_depth():
    """ln l at the middle of each block."""
    assert depth_variable(3) == pytest.approx([math.log(0.5), math.log(1.5), math.log(2.5)])


def test_increments_in_a_gap_are_extrapolated_by_a_cubic():
    """Exact for a cubic of that variable, from the last four evaluated blocks, and not for a quartic."""
    logs = depth_variable(50)
    for power, exact in ((0, True), (1, True), (3, True), (4, False)):
        course = Increments(50)
        for layer in (2, 3, 5, 8, 12):
            course.append(layer, np.array([logs[layer] ** power, 1.0]))
        found = course.between(12, 20)
        assert found[1] == pytest.approx(7)
        assert (found[0] == pytest.approx((logs[13:20] ** power).sum(), rel=1e-9)) == exact
