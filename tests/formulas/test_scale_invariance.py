"""Scale-invariant weights: laws of balance against exact training on small losses, and the worked values of the theory."""

import cmath
import itertools
import math

import numpy as np
import pytest

from depthwidth.coefficients import reference
from depthwidth.errors import InputError
from depthwidth.formulas import scale_invariance as law
from depthwidth.numerics.scale_invariance import clipped_mean, clipped_share

# In the plane a function of the angle alone is scale invariant: of x as a complex number the gradient is i x f'(angle)/|x|^2.
# f = sigma angle has a gradient of one norm in every direction.


def gradient(x, slope):
    return 1j * x * slope / abs(x) ** 2


def descended(x, slopes, rate, decay, ratio=math.inf):
    """The weights after each step, clipped relative to their norm."""
    for slope in slopes:
        g = gradient(x, slope(cmath.phase(x)) if callable(slope) else slope)
        g *= min(1.0, math.sqrt(2 * ratio * decay / rate) * abs(x) / abs(g)) if g else 1.0
        x = (1 - rate * decay) * x - rate * g
        yield x


def end(*args, **kwargs):
    *_, last = descended(*args, **kwargs)
    return last


@pytest.mark.parametrize(("rate", "decay", "sigma"), [(0.1, 0.5, 2.0), (0.8, 0.6, 0.3), (0.02, 0.9, 7.0)])
def test_balance_is_exact_on_a_loss_proportional_to_the_angle(rate, decay, sigma):
    """Norm, angle, gradient and effective rate to 13 digits, from any start and of any sign of the gradient."""
    norm = law.equilibrium_norm(rate, decay, sigma)
    for start, sign in ((1.0, 1), (0.01, -1), (50.0, 1)):
        x = end(start, [sign * sigma] * math.ceil(40 / (rate * decay)), rate, decay)
        after = end(x, [sign * sigma], rate, decay)
        assert abs(x) == pytest.approx(norm, rel=1e-13)
        assert abs(cmath.phase(after / x)) == pytest.approx(law.angle_per_step(rate, decay), rel=1e-12)
        assert abs(gradient(x, sigma)) == pytest.approx(law.equilibrium_gradient(rate, decay, abs(x)), rel=1e-12)
        assert rate / abs(x) ** 2 == pytest.approx(law.effective_learning_rate(rate, decay, sigma), rel=1e-12)
    # The controls: what the paper prints, lambda/eta, and the limit of weak decay, are off.
    assert abs(law.equilibrium_norm(decay, rate, sigma) / norm - 1) > 0.05
    assert (
        abs(law.small_angle_per_step(rate, decay) / law.angle_per_step(rate, decay) - 1) > 1e-3 if rate * decay < 0.1 else True
    )


def test_the_norm_grows_with_the_learning_rate():
    """The erratum: sections 2 and 4 of the paper print (lambda/eta)^(1/4)."""
    for factor in (2, 16):
        assert law.equilibrium_norm(factor * 1e-4, 1e-3, 1) / law.equilibrium_norm(1e-4, 1e-3, 1) == pytest.approx(
            factor**0.25, rel=1e-5
        )
        assert law.equilibrium_norm(1e-4, factor * 1e-3, 1) / law.equilibrium_norm(1e-4, 1e-3, 1) == pytest.approx(
            factor**-0.25, rel=1e-5
        )


def test_moments_with_momentum_are_stationary():
    """The linear recursion of E v^2, E <x, v> and E x^2, iterated with the gradient's square as sigma^2/|x|^2."""
    rate, decay, sigma = 0.3, 0.2, 1.7
    for alpha in (0.0, 0.5, 0.9):
        vv = xv = 0.0
        xx = 4.0
        for _ in range(20_000):
            vv, before = (
                alpha**2 * vv + sigma**2 / xx + decay**2 * xx + 2 * alpha * decay * xv,
                alpha * xv + decay * xx,  # of x with the new v
            )
            xv, xx = before - rate * vv, xx - 2 * rate * before + rate**2 * vv
        assert math.sqrt(xx) == pytest.approx(law.equilibrium_norm(rate, decay, sigma, alpha), rel=1e-12)
        cosine = 1 - rate * (alpha * xv + decay * xx) / xx
        assert math.acos(cosine) == pytest.approx(law.angle_per_step(rate, decay, alpha), rel=1e-11)


def test_moments_of_adamw_are_stationary():
    rate, decay, weights = 0.3, 0.2, 50
    keep = 1 - rate * decay
    for beta in (0.0, 0.5, 0.9):
        uu = xu = 0.0
        xx = 4.0
        for _ in range(5_000):
            uu = beta**2 * uu + (1 - beta) ** 2 * weights
            before = beta * xu
            xu, xx = keep * before - rate * uu, keep**2 * xx - 2 * rate * keep * before + rate**2 * uu
        assert math.sqrt(xx) == pytest.approx(law.adamw_equilibrium_norm(rate, decay, beta, weights), rel=1e-12)
        cosine = keep - rate * beta * xu / xx
        assert math.acos(cosine) == pytest.approx(law.adamw_angle_per_step(rate, decay, beta), rel=1e-11)


def trained(rng, steps, rate, decay, alpha, width=200):
    """Mean fourth power of the norm and root mean square angle of a vector under gradients of random directions."""
    x, v = rng.standard_normal(width), np.zeros(width)
    x *= law.equilibrium_norm(rate, decay, 1.0, alpha) / np.linalg.norm(x)
    fourth, angles = [], []
    for step in range(steps):
        g = rng.standard_normal(width)
        square = x @ x
        g -= (g @ x) / square * x
        g /= np.linalg.norm(g) * math.sqrt(square)
        v = alpha * v + g + decay * x
        new = x - rate * v
        if step > steps // 4:
            fourth.append(square**2)
            angles.append(math.acos(min(1.0, new @ x / math.sqrt(square * (new @ new)))))
        x = new
    return np.mean(fourth), math.sqrt(np.mean(np.square(angles)))


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
def test_balance_of_vectors_by_simulation(rng, alpha):
    rate, decay = 0.1, 0.1
    fourth, angle = trained(rng, 8_000, rate, decay, alpha)
    assert angle == pytest.approx(law.angle_per_step(rate, decay, alpha), rel=0.01)
    assert fourth**0.25 == pytest.approx(law.equilibrium_norm(rate, decay, 1.0, alpha), rel=0.01)
    if alpha:  # the control
        assert abs(angle / law.angle_per_step(rate, decay) - 1) > 0.1


def test_every_case_of_the_sheet_s_recursion():
    for row in reference("scale_invariance_equilibrium_checks"):
        rate, decay, sigma, start = (float(row[name]) for name in ("learning_rate", "weight_decay", "sigma", "start_norm"))
        assert law.equilibrium_norm(rate, decay, sigma) ** 2 == pytest.approx(float(row["predicted_norm_squared"]), rel=3e-7)
        predicted = law.relaxation_steps(rate, decay, sigma, start, 0.05)
        assert abs(predicted - int(row["simulated_steps"])) <= 3
        simulated = law.relaxed_norm(rate, decay, sigma, start, 2_000_000) ** 2
        assert simulated == pytest.approx(float(row["simulated_norm_squared"]), rel=1e-6)
    # The control: without the first step a start at 0.005 is taken for one near 0.
    small = law.relaxation_steps(8e-4, 0.01, 1.0, 0.005, 0.05)
    assert abs(31250 * math.log(1 / 0.05) - small) > 500


def test_every_worked_value():
    columns = {
        "angle": lambda rate, decay: law.small_angle_per_step(rate, decay),
        "time_constant": lambda rate, decay: law.norm_time_constant(rate, decay),
        "clip_at_1": lambda rate, decay: law.clip_threshold(rate, decay, 1.0, 1),
        "clip_at_4": lambda rate, decay: law.clip_threshold(rate, decay, 1.0),
        "norm_squared": lambda rate, decay: law.equilibrium_norm(rate, decay, 1.0) ** 2,
        "adamw_angle": lambda rate, decay: law.adamw_small_angle_per_step(rate, decay, 0.9),
    }
    for row in reference("scale_invariance_worked_values"):
        rate, decay = float(row["learning_rate"]), float(row["weight_decay"])
        for name, of in columns.items():
            assert of(rate, decay) == pytest.approx(float(row[name]), rel=3e-5), name
            assert of(1.1 * rate, decay) != pytest.approx(float(row[name]), rel=3e-5), name


def test_the_paper_s_recipe():
    rows = {row["item"]: row["value"] for row in reference("sibert2022_hyperparameters")}
    rate, decay = float(rows["learning rate"]), float(rows["weight decay"])
    root = float(rows["clipping factor"])
    assert law.clip_threshold(rate, decay, 1.0, root**2) == pytest.approx(10)
    assert law.small_angle_per_step(rate, decay) == pytest.approx(0.004)
    # Each drop of the learning rate to a tenth comes sooner than the norm can follow the one before.
    assert law.norm_time_constant(rate, decay) < 600_000 / 10
    assert law.norm_time_constant(rate / 10, decay) > 300_000
    assert law.norm_time_constant(rate / 100, decay) > 10 * 100_000


def test_a_drop_of_the_learning_rate_takes_its_whole_factor():
    """At first the effective rate falls by 10, not by the sqrt(10) of equilibria, and comes back with the norm."""
    rate, decay = 8e-4, 0.01
    before, after = law.equilibrium_norm(rate, decay, 1.0), law.equilibrium_norm(rate / 10, decay, 1.0)
    at_once = law.relaxed_norm(rate / 10, decay, 1.0, before, 1)
    assert rate / before**2 / (rate / 10 / at_once**2) == pytest.approx(10, rel=1e-4)
    assert rate / before**2 / (rate / 10 / after**2) == pytest.approx(math.sqrt(10), rel=1e-4)
    phase = law.relaxed_norm(rate / 10, decay, 1.0, before, 300_000)
    assert after * 1.1 < phase < before * 0.9


def test_a_factor_on_the_loss_delays_by_its_logarithm():
    for factor in (10.0, 1e3):
        added = law.relaxation_steps(1e-2, 1e-2, 1.0, 5.0 * factor, 0.05) - law.relaxation_steps(1e-2, 1e-2, 1.0, 5.0, 0.05)
        assert added == pytest.approx(math.log(factor) / 1e-4, rel=1e-3)


def noisy(rng, steps):
    """Slopes of f = a angle + 0.3 sin(angle) for random a with heavy tails: losses of samples."""
    return [lambda angle, a=a: a + 0.3 * math.cos(angle) for a in rng.standard_t(3, steps)]


@pytest.mark.parametrize("ratio", [math.inf, 4.0])
def test_equivalent_trainings_pass_through_the_same_directions(rng, ratio):
    """With noise and clipping, to rounding; a factor that is 2 % off leaves the path."""
    slopes, rate, decay, x = noisy(rng, 300), 0.05, 0.1, 1.3 + 0.4j
    of_loss, of_start, of_rate, of_decay = 7.0, 0.3, 2.5, 1.6

    def changed(slope):
        return lambda angle: of_loss * slope(angle)

    with_all = descended(of_start * x, map(changed, slopes), of_rate * rate, of_decay * decay, ratio)
    factor = law.equivalent_start(of_loss, of_start, of_rate)
    angles = [cmath.phase(y) for y in with_all]
    with_start = [cmath.phase(y) for y in descended(factor * x, slopes, rate, of_rate * of_decay * decay, ratio)]
    assert np.abs(np.subtract(angles, with_start)).max() < 1e-11
    wrong = [cmath.phase(y) for y in descended(1.02 * factor * x, slopes, rate, of_rate * of_decay * decay, ratio)]
    assert np.abs(np.subtract(angles, wrong)).max() > 1e-4


def test_equivalent_starts_of_a_measured_table():
    """A hundredth of the loss is ten times the start, a hundredfold loss a tenth: all printed digits are equal."""
    rows = {(r["optimizer"], r["init_scale"]): r for r in reference("scale_invariance_digits_robustness")
            if r["model"] == "scale-invariant MLP" and r["steps"] == "3000"}  # fmt: skip
    for factor in (0.01, 100):
        scaled = rows[f"SGD+WD loss x {factor}", "1"]
        start = rows["SGD+WD", f"{law.equivalent_start(factor, 1, 1):g}"]
        assert [scaled[name] for name in ("loss_at_500", "loss_end", "test_accuracy")] == [
            start[name] for name in ("loss_at_500", "loss_end", "test_accuracy")
        ]
    assert rows["SGD+WD", "10"]["loss_end"] != rows["SGD+WD", "0.1"]["loss_end"]


# cos(2 angle): the Hessian at norm 1 is [[0, 2 sin], [2 sin, -4 cos]] of the angle's double, of largest norm 4.
SHARPNESS = 4.0


def test_bounds_over_all_directions(rng):
    """Of x'Ax/x'x by its Hessian at drawn directions of norm 1, and of cos(2 angle)."""
    for _ in range(5):
        matrix = rng.standard_normal((4, 4))
        matrix += matrix.T
        x = rng.standard_normal((4, 400))
        x /= np.linalg.norm(x, axis=0)
        value = np.einsum("in,ij,jn->n", x, matrix, x)
        slope = 2 * (matrix @ x - value * x)
        outer = np.einsum("in,jn->nij", slope, x)
        hessian = 2 * (matrix - value[:, None, None] * np.eye(4)) - 2 * (outer + outer.transpose(0, 2, 1))
        sharpness = np.abs(np.linalg.eigvalsh(hessian)).max()
        assert np.linalg.norm(slope, axis=0).max() < law.largest_gradient(sharpness)
        eigenvalues = np.linalg.eigvalsh(matrix)
        assert eigenvalues[-1] - eigenvalues[0] < law.loss_range(sharpness)
    assert 2 < law.largest_gradient(SHARPNESS) < 8 * 2
    assert 2 < law.loss_range(SHARPNESS) < 10 * 2


def test_no_step_takes_less_than_its_bound(rng):
    nearest = math.inf
    for _ in range(2_000):
        rate, decay = (math.exp(rng.uniform(math.log(1e-3), 0)) for _ in range(2))
        angle, norm = rng.uniform(0, math.pi), math.exp(rng.uniform(-1, 2))
        x = cmath.rect(norm, angle)
        y = (1 - rate * decay) * x - rate * gradient(x, -2 * math.sin(2 * angle))
        taken = math.cos(2 * angle) - math.cos(2 * cmath.phase(y))
        bound = law.least_decrease(rate, decay, SHARPNESS, norm, abs(2 * math.sin(2 * angle)) / norm)
        assert taken >= bound - 1e-12
        nearest = min(nearest, (taken - bound) / abs(bound))
    assert nearest < 0.05  # a bound a twentieth higher would be broken


@pytest.mark.parametrize("start", [1e-2, 1.0, 1e2])
def test_descent_meets_a_small_gradient_in_time(start):
    """From a place where the gradient is larger; a large norm stays there at first."""
    rate, decay = 1.0, 2e-4
    bound = law.descent_gradient_bound(rate, decay, SHARPNESS)
    steps = math.ceil(law.descent_steps(rate, decay, SHARPNESS, start))
    path = descended(cmath.rect(start, 0.6), [lambda angle: -2 * math.sin(2 * angle)] * steps, rate, decay)
    squares = [4 * math.sin(2 * cmath.phase(x)) ** 2 for x in path]
    assert min(squares) <= bound < 4 * math.sin(1.2) ** 2
    assert start < 100 or min(squares[: steps // 100]) > bound


def test_worked_bounds_of_descent():
    for sharpness, rate, decay, start, steps, bound in (
        (1, 1, 1e-4, 1, 26448, 0.07793),
        (22.6, 0.01, 0.01, 1, 19012, 39.80),
        (10, 8e-4, 0.01, 10, 634002, 0.6234),
    ):
        assert math.ceil(law.descent_steps(rate, decay, sharpness, start)) == steps
        assert law.descent_gradient_bound(rate, decay, sharpness) == pytest.approx(bound, rel=1e-4)


def test_the_norm_stays_in_its_band(rng):
    """Of a loss whose gradient changes with the direction, entered from both sides; the bounds bracket all equilibria."""
    rate, decay = 0.05, 0.01
    slopes = [lambda angle, s=s: s * (2 + math.sin(angle)) for s in rng.choice([-1.0, 1.0], 30_000)]
    low, high = law.lower_norm_bound(rate, decay, 1.0), law.upper_norm_bound(rate, decay, 3.0)
    for start in (0.3, 4.0):
        relaxed = list(itertools.islice(descended(complex(start), slopes, rate, decay), 10_000, None))
        assert low < min(map(abs, relaxed)) < max(map(abs, relaxed)) < high
        assert law.equilibrium_norm(rate, decay, 1.0) < np.mean(np.abs(relaxed)) < law.equilibrium_norm(rate, decay, 3.0)
        assert not low < start < high


def test_the_condition_on_single_gradients():
    """At the paper's rates the least share is that of 1/350 but for the constant and the logarithm."""
    share = law.least_gradient_share(8e-4, 0.01, 1e6, 0.05)
    assert share / (3 * math.sqrt(math.log(2e12 / 0.05))) == pytest.approx(1 / 353.6, rel=1e-3)
    assert law.least_gradient_share(0.1, 0.1, 1e6, 0.05) > 1


def test_the_clipped_mean_is_the_largest_root(rng):
    squares = rng.standard_t(2.2, (4000, 10)) ** 2
    squares = squares.sum(1)
    for ratio in (1.2, 2, 4, 16):
        mean = clipped_mean(squares, ratio)
        assert np.minimum(squares, ratio * mean).mean() == pytest.approx(mean, rel=1e-12)
        assert np.minimum(squares, ratio * 1.01 * mean).mean() < 1.01 * mean
        assert mean <= squares.mean()
        quantile = np.quantile(squares, 1 - 1 / ratio)
        assert mean >= quantile / ratio * (1 - 1e-3)
        iterated = squares.mean()  # the definition's own fixed point, from above
        for _ in range(3000):
            iterated = np.minimum(squares, ratio * iterated).mean()
        assert iterated == pytest.approx(mean, rel=1e-9)
        assert clipped_share(squares, ratio) == pytest.approx((squares > ratio * mean).mean())
    assert clipped_mean([5.0] * 7, 2) == 5
    assert clipped_mean([10.0, 0, 0, 0, 0], 2) == 0


def test_clipped_training_balances_at_the_clipped_mean(rng):
    """(2 lambda/eta) |x|^4 of samples with heavy tails; the plain mean is far off."""
    squares = np.exp(2 * rng.standard_normal(2000))
    rate, decay, ratio = 0.05, 0.01, 4.0
    mean = clipped_mean(squares, ratio)
    slopes = np.sqrt(rng.choice(squares, 60_000)) * rng.choice([-1, 1], 60_000)
    start = law.equilibrium_norm(rate, decay, math.sqrt(mean))
    found = [2 * decay / rate * abs(x) ** 4 for x in descended(complex(start), slopes.tolist(), rate, decay, ratio)]
    assert np.mean(found) == pytest.approx(mean, rel=0.05)
    assert mean < 0.8 * squares.mean()
    assert mean / 2 < min(found) < max(found) < 2 * mean
    assert 2 * decay / rate * law.clipped_upper_norm_bound(rate, decay, mean) ** 4 == pytest.approx(2 * mean)
    assert 2 * decay / rate * law.lower_norm_bound(rate, decay, math.sqrt(mean)) ** 4 == pytest.approx(mean / 2)


@pytest.mark.parametrize(
    ("squares", "ratio", "sentence"),
    [([], 2, "at least one"), ([1.0], 1, "not a number above 1"), ([1.0], math.nan, "above 1"), ([-1.0], 2, "not negative"),
     ([math.nan], 2, "finite")],
)  # fmt: skip
def test_a_clipped_mean_of_nothing_is_refused(squares, ratio, sentence):
    with pytest.raises(InputError, match=sentence):
        clipped_mean(squares, ratio)


def test_strong_decay_is_refused():
    for call in (
        lambda: law.equilibrium_norm(2.0, 0.5, 1.0),
        lambda: law.small_angle_per_step(1.0, 0.11),
        lambda: law.relaxed_norm(1.0, 0.011, 1.0, 1.0, 5),
        lambda: law.descent_steps(1.0, 0.51, 1.0, 1.0),
    ):
        with pytest.raises(InputError, match="eta lambda, the share"):
            call()


def test_dead_rows_by_simulation(rng):
    for tokens in (2, 4):
        dead = (rng.standard_normal((40_000, tokens)) <= 0).all(1).mean()
        assert dead == pytest.approx(law.dead_row_probability(tokens), abs=5 * math.sqrt(0.25 / 40_000))


def test_memory_of_optimisers():
    sgd, momentum, adam = (law.training_state_bytes(340_000_000, states) for states in (0, 1, 2))
    assert (sgd, momentum, adam) == (1.36e9, 2 * 1.36e9, 4.08e9)


def test_quality_of_the_paper_s_models():
    """At equal steps clipped SIBERT is less accurate than BERT; with twice the steps it is near."""
    rows = {(row["size"], row["model"]): row for row in reference("sibert2022_downstream")}
    for size, gap in (("base", 1.8), ("large", 1.5)):
        bert, clipped = rows[size, "BERT (Adam)"], rows[size, "SIBERT + clipping"]
        assert float(bert["MNLI_acc"]) - float(clipped["MNLI_acc"]) == pytest.approx(gap)
        assert float(clipped["pretraining_loss"]) > float(bert["pretraining_loss"]) + 0.09
