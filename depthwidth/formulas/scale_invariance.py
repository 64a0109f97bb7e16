r"""Training of scale-invariant weights: x with L(c x) = L(x) for every c > 0, so that only its direction acts.

.. math:: x_{t+1} = (1 - \eta\lambda)\, x_t - \eta\, g_t, \qquad g_t \perp x_t, \qquad E|g_t|^2 = \sigma^2/|x_t|^2

The gradient is orthogonal to x and falls as 1/|x|: it makes the norm grow, weight decay makes it shrink, and both balance at a
norm at which x turns by the same angle in each step. Source: Li, Bhojanapalli, Zaheer, Reddi, Kumar 2022, arXiv 2202.00980
(SIBERT). Sections 2 and 4 of the paper print the norm at balance as of order (lambda/eta)^(1/4); its own stationary point
gives (eta/lambda)^(1/4), which is used here. Forms with momentum and of AdamW are derived in the docstrings. The clipped mean
is in :mod:`depthwidth.numerics.scale_invariance`.
"""

from __future__ import annotations

from typing import Annotated, Any

from ..formula import Domain, formula
from ..mathematics import asin, exp, log, maximum, pi, sqrt
from ._regime import require

PAPER = "Li et al. 2022, arXiv 2202.00980"
KOSSON = "rotational equilibrium, Kosson et al. 2024, arXiv 2305.17212"
_ONE_SIZE = "E g^2 is the same in every direction of x, and fluctuations of the norm are left out"
_INDEPENDENT = f"{_ONE_SIZE}; with momentum, gradients of different steps are uncorrelated and orthogonal to x"
_COUNT: dict[str, Any] = {"closed_low": True, "integer": True}
_MOST, _WEAK = 0.1, 0.01
_NOT_FAR = "eta lambda at most 0.01, and a norm after the first step of at most 1000 times the equilibrium"

LearningRate = Annotated[Any, Domain(0, symbol="eta", typical=(1e-3, 0.3)), "learning rate"]
WeightDecay = Annotated[
    Any, Domain(0, symbol="lambda", typical=(1e-3, 0.3)), "coefficient of weight decay; a step takes eta lambda of the weights"
]
Momentum = Annotated[
    Any, Domain(0, 1, closed_low=True, symbol="alpha", typical=(0.1, 0.95)), "momentum of SGD, v' = alpha v + g"
]
Beta1 = Annotated[Any, Domain(0, 1, closed_low=True, symbol="beta_1", typical=(0.1, 0.95)), "decay of Adam's first moment"]
GradientNorm = Annotated[
    Any, Domain(0, symbol="sigma"), "root mean square norm of a sample's gradient at weights of norm 1, all weights together"
]
Norm = Annotated[Any, Domain(0, symbol="x"), "norm of all scale-invariant weights together"]
StartNorm = Annotated[Any, Domain(0, symbol="x_0"), "norm of the weights at the start"]
Sharpness = Annotated[Any, Domain(0, symbol="rho"), "largest spectral norm of the loss's Hessian at weights of norm 1"]


def _require_decay(learning_rate: Any, weight_decay: Any, most: float = 1.0) -> None:
    holds = learning_rate * weight_decay < 1 if most == 1 else learning_rate * weight_decay <= most
    sentence = "below 1" if most == 1 else f"at most {most:g}"
    require(holds, f"eta lambda, the share of the weights that decay takes in a step, has to be {sentence}")


@formula(kind="exact", source=f"fixed point of {PAPER}, equation (1)", status="derived", symbol="x", domain=_INDEPENDENT)
def equilibrium_norm(
    learning_rate: LearningRate, weight_decay: WeightDecay, gradient_norm: GradientNorm, momentum: Momentum = 0
) -> Any:
    r"""Norm of scale-invariant weights at which growth by gradients and weight decay balance, under SGD.

    .. math:: |x|^4 = \frac{\eta\sigma^2}{\lambda (1-\alpha) (2 - \eta\lambda/(1+\alpha))}

    Returns
    -------
    The norm of all scale-invariant weights together, whatever the start; about (eta sigma^2/(2 lambda (1 - alpha)))^(1/4).

    Notes
    -----
    Let v' = alpha v + g + lambda x and x' = x - eta v'. The stationary second moments are E <x, v> = -eta E v^2/2 and
    lambda E x^2 = eta E v^2/(2 (1 + alpha)). With E g^2 = sigma^2/|x|^2 they give the norm.

    Examples
    --------
    >>> round(equilibrium_norm(8e-4, 0.01, 1.0) ** 2, 7)
    0.2000004
    """
    _require_decay(learning_rate, weight_decay)
    shrinks = weight_decay * (1 - momentum) * (2 - learning_rate * weight_decay / (1 + momentum))
    return sqrt(gradient_norm) * sqrt(sqrt(learning_rate / shrinks))


@formula(kind="exact", source=f"fixed point of {PAPER}, equation (1)", status="derived", symbol="g", domain=_ONE_SIZE)
def equilibrium_gradient(learning_rate: LearningRate, weight_decay: WeightDecay, norm: Norm) -> Any:
    r"""Gradient norm at which a step of SGD without momentum leaves the norm of scale-invariant weights as it is.

    .. math:: |g| = \sqrt{\lambda (2 - \eta\lambda)/\eta}\; |x|

    Returns
    -------
    A gradient norm; at small eta lambda :func:`clip_threshold` at C = 1.

    Examples
    --------
    >>> round(equilibrium_gradient(0.1, 5e-4, 1.0), 6)
    0.099999
    """
    _require_decay(learning_rate, weight_decay)
    return sqrt(weight_decay * (2 - learning_rate * weight_decay) / learning_rate) * norm


@formula(kind="exact", source=f"{PAPER}, section 3, Algorithm 1", status="primary", symbol="N_C")
def clip_threshold(
    learning_rate: LearningRate,
    weight_decay: WeightDecay,
    norm: Norm,
    ratio: Annotated[Any, Domain(1, closed_low=True, symbol="C", typical=(1.5, 16)), "clipping constant, 4 in the paper"] = 4,
) -> Any:
    r"""Threshold of relative global clipping: the gradient of all scale-invariant weights together is cut to this norm.

    .. math:: N_C = \sqrt{2 C \lambda/\eta}\; |x|

    Returns
    -------
    A gradient norm, sqrt(C) times the one at which the weights' norm is stationary.

    Examples
    --------
    >>> round(clip_threshold(8e-4, 0.01, 1.0), 10), round(clip_threshold(1e-3, 0.1, 1.0, 1), 4)
    (10.0, 14.1421)
    """
    return sqrt(2 * ratio * weight_decay / learning_rate) * norm


@formula(kind="exact", source=f"{PAPER}, section 2", status="derived", symbol="eta_e", domain=_ONE_SIZE)
def effective_learning_rate(learning_rate: LearningRate, weight_decay: WeightDecay, gradient_norm: GradientNorm) -> Any:
    r"""Learning rate of the direction x/|x| at the equilibrium norm, eta/|x|^2, under SGD without momentum.

    .. math:: \eta_e = \sqrt{\eta\lambda (2 - \eta\lambda)}/\sigma

    Returns
    -------
    A learning rate; about sqrt(2 eta lambda)/sigma, of order sqrt(eta lambda) as the paper has it.

    Examples
    --------
    >>> round(effective_learning_rate(8e-4, 0.01, 1.0), 6)
    0.004
    """
    decay = learning_rate * weight_decay
    _require_decay(learning_rate, weight_decay)
    return sqrt(decay * (2 - decay)) / gradient_norm


@formula(
    kind="exact", source=f"{KOSSON}, without their small-step limit", status="derived", symbol="theta", domain=_INDEPENDENT
)
def angle_per_step(learning_rate: LearningRate, weight_decay: WeightDecay, momentum: Momentum = 0) -> Any:
    r"""Angle by which SGD turns scale-invariant weights in one step at equilibrium.

    .. math:: \cos\theta = 1 - \frac{\eta\lambda}{1+\alpha}

    It is the same whatever the width, the start, the gradient's size and a factor on the loss. The norm stays, and the part of
    x' along x is (1 - eta lambda/(1 + alpha)) x on average.

    Returns
    -------
    Radians; root mean square, at small angles.

    Examples
    --------
    >>> round(angle_per_step(8e-4, 0.01), 6), round(angle_per_step(0.1, 5e-4, 0.9), 6)
    (0.004, 0.007255)
    """
    _require_decay(learning_rate, weight_decay)
    return 2 * asin(sqrt(learning_rate * weight_decay / (2 * (1 + momentum))))


@formula(
    kind="approximation", source=f"{PAPER}, section 2; {KOSSON}", status="rederived", symbol="theta", accuracy=0.0087,
    given="eta lambda at most 0.1",
)  # fmt: skip
def small_angle_per_step(learning_rate: LearningRate, weight_decay: WeightDecay, momentum: Momentum = 0) -> Any:
    r"""Angle by which SGD turns scale-invariant weights in one step at equilibrium, for weak decay.

    .. math:: \theta \approx \sqrt{2\eta\lambda/(1+\alpha)}

    Returns
    -------
    Radians.

    Raises
    ------
    InputError
        if eta lambda is above 0.1.

    Examples
    --------
    >>> round(small_angle_per_step(1e-3, 0.1), 7)
    0.0141421
    """
    _require_decay(learning_rate, weight_decay, _MOST)
    return sqrt(2 * learning_rate * weight_decay / (1 + momentum))


_ADAM = "gradients of different steps are uncorrelated, orthogonal to x, and of one second moment in each weight; epsilon is 0"


@formula(kind="exact", source=f"{KOSSON}, without their small-step limit", status="derived", symbol="theta", domain=_ADAM)
def adamw_angle_per_step(learning_rate: LearningRate, weight_decay: WeightDecay, beta1: Beta1) -> Any:
    r"""Angle by which AdamW turns scale-invariant weights in one step at equilibrium.

    .. math:: \cos\theta = \frac{a + \beta_1}{1 + a \beta_1}, \qquad a = 1 - \eta\lambda

    Returns
    -------
    Radians; root mean square, at small angles. Neither the start nor the second moment's decay enters.

    Notes
    -----
    Let u' = beta u + (1 - beta) g and x' = a x - eta u'. For n weights of unit gradients E u^2 = n (1 - beta)/(1 + beta) and
    E <x, u> = -eta E u^2/(1 - a beta) are stationary. Then |x|^2 follows (:func:`adamw_equilibrium_norm`), and E <x, x'>.

    Examples
    --------
    >>> round(adamw_angle_per_step(1e-3, 0.1, 0.9), 7)
    0.0032445
    """
    _require_decay(learning_rate, weight_decay)
    decay = learning_rate * weight_decay
    return 2 * asin(sqrt(decay * (1 - beta1) / (2 * (1 + (1 - decay) * beta1))))


@formula(
    kind="approximation",
    source=KOSSON,
    status="rederived",
    symbol="theta",
    accuracy=0.027,
    within={"beta1": (0, 0.999)},
    given="eta lambda at most 0.1",
)
def adamw_small_angle_per_step(learning_rate: LearningRate, weight_decay: WeightDecay, beta1: Beta1) -> Any:
    r"""Angle by which AdamW turns scale-invariant weights in one step at equilibrium, for weak decay.

    .. math:: \theta \approx \sqrt{2\eta\lambda\, \frac{1-\beta_1}{1+\beta_1}}

    Returns
    -------
    Radians.

    Raises
    ------
    InputError
        if eta lambda is above 0.1.

    Examples
    --------
    >>> round(adamw_small_angle_per_step(1e-3, 0.1, 0.9), 8)
    0.00324443
    """
    _require_decay(learning_rate, weight_decay, _MOST)
    return sqrt(2 * learning_rate * weight_decay * (1 - beta1) / (1 + beta1))


@formula(kind="exact", source=f"{KOSSON}, without their small-step limit", status="derived", symbol="x", domain=_ADAM)
def adamw_equilibrium_norm(
    learning_rate: LearningRate,
    weight_decay: WeightDecay,
    beta1: Beta1,
    weights: Annotated[Any, Domain(1, symbol="n", typical=(100, 1e6), **_COUNT), "number of scale-invariant weights"],
) -> Any:
    r"""Norm of scale-invariant weights at equilibrium under AdamW.

    .. math::

        |x|^2 = \frac{\eta n (1-\beta_1)(1 + a\beta_1)}{\lambda (1+\beta_1)(1 - a\beta_1)(1 + a)}, \qquad a = 1 - \eta\lambda

    Returns
    -------
    The norm; about sqrt(eta n/(2 lambda)) if eta lambda is far below 1 - beta_1.

    Examples
    --------
    >>> round(adamw_equilibrium_norm(1e-3, 0.1, 0.9, 8000), 4), round((1e-3 * 8000 / (2 * 0.1)) ** 0.5, 4)
    (6.3217, 6.3246)
    """
    _require_decay(learning_rate, weight_decay)
    keep = 1 - learning_rate * weight_decay
    slow = (1 - beta1) * (1 + keep * beta1) / ((1 + beta1) * (1 - keep * beta1) * (1 + keep))
    return sqrt(learning_rate * weights / weight_decay * slow)


@formula(
    kind="approximation", source=f"{PAPER}, equation (1), to first order in eta lambda", status="derived", symbol="tau",
    accuracy=0.016, given="eta lambda at most 0.01",
)  # fmt: skip
def norm_time_constant(learning_rate: LearningRate, weight_decay: WeightDecay) -> Any:
    r"""Steps in which the distance of |x|^4 from its equilibrium falls by the factor e, close to it.

    .. math:: \tau \approx \frac{1}{4\eta\lambda}

    Returns
    -------
    Steps.

    Raises
    ------
    InputError
        if eta lambda is above 0.01.

    Examples
    --------
    >>> round(norm_time_constant(8e-4, 0.01), 6), round(norm_time_constant(1e-3, 0.1), 6)
    (31250.0, 2500.0)
    """
    _require_decay(learning_rate, weight_decay, _WEAK)
    return 1 / (4 * learning_rate * weight_decay)


def _one_step(learning_rate: Any, weight_decay: Any, gradient_norm: Any, start_norm: Any) -> Any:
    """|x|^4 after one step, over its equilibrium: the step that throws a small norm far above sqrt(eta) sigma."""
    kept, kick = (1 - learning_rate * weight_decay) * start_norm, learning_rate * gradient_norm / start_norm
    size = kept * kept + kick * kick
    return size * size / _equilibrium(learning_rate, weight_decay, gradient_norm)


def _equilibrium(learning_rate: Any, weight_decay: Any, gradient_norm: Any) -> Any:
    return learning_rate * gradient_norm**2 / (weight_decay * (2 - learning_rate * weight_decay))


@formula(
    kind="approximation", source=f"{PAPER}, equation (1), to first order in eta lambda", status="derived", symbol="x_t",
    domain=_ONE_SIZE, accuracy=0.035, given=_NOT_FAR,
)  # fmt: skip
def relaxed_norm(
    learning_rate: LearningRate,
    weight_decay: WeightDecay,
    gradient_norm: GradientNorm,
    start_norm: StartNorm,
    steps: Annotated[Any, Domain(1, closed_low=True, symbol="t", unit="steps", typical=(10, 1e5)), "steps of SGD"],
) -> Any:
    r"""Norm of scale-invariant weights after some steps of SGD without momentum from any start.

    .. math::

        |x_t|^4 \approx y^* + (y_1 - y^*)\, e^{-4\eta\lambda (t-1)}, \qquad
        y^* = \frac{\eta\sigma^2}{\lambda (2-\eta\lambda)}, \qquad
        y_1 = \left((1-\eta\lambda)^2 x_0^2 + \eta^2\sigma^2/x_0^2\right)^2

    The first step is exact: from a norm below sqrt(eta sigma) it throws the weights outward. After a drop of the learning rate
    the norm follows within 1/(4 eta lambda) steps, often more than are left: this gives it, not :func:`equilibrium_norm`.

    Returns
    -------
    A norm.

    Raises
    ------
    InputError
        if eta lambda is above 0.01.

    Examples
    --------
    >>> [round(relaxed_norm(8e-4, 0.01, 1.0, 1.0, t) ** 2, 5) for t in (10_000, 31_250, 100_000)]
    [0.85855, 0.62703, 0.2813]
    """
    _require_decay(learning_rate, weight_decay, _WEAK)
    left = exp(-4 * learning_rate * weight_decay * (steps - 1))
    ratio = (1 - left) + _one_step(learning_rate, weight_decay, gradient_norm, start_norm) * left
    return sqrt(sqrt(_equilibrium(learning_rate, weight_decay, gradient_norm) * ratio))


@formula(
    kind="approximation", source=f"{PAPER}, equation (1), to first order in eta lambda", status="derived", symbol="t_f",
    domain=_ONE_SIZE, accuracy=6.0, measure="absolute", within={"fraction": (0.005, 0.5)}, given=_NOT_FAR,
)  # fmt: skip
def relaxation_steps(
    learning_rate: LearningRate,
    weight_decay: WeightDecay,
    gradient_norm: GradientNorm,
    start_norm: StartNorm,
    fraction: Annotated[Any, Domain(0, 1, closed_high=True, symbol="f", typical=(0.01, 0.3)), "distance over the equilibrium"],
) -> Any:
    r"""Steps of SGD until |x|^4 is within a fraction f of its equilibrium.

    .. math:: t_f \approx 1 + \frac{\ln \max(1, |y_1/y^* - 1|/f)}{4\eta\lambda}

    with y_1 and y* of :func:`relaxed_norm`. A factor c on the start or on the loss enters by its logarithm only.

    Returns
    -------
    Steps.

    Raises
    ------
    InputError
        if eta lambda is above 0.01.

    Examples
    --------
    >>> round(relaxation_steps(8e-4, 0.01, 1.0, 1.0, 0.05))
    192931
    """
    _require_decay(learning_rate, weight_decay, _WEAK)
    away = abs(_one_step(learning_rate, weight_decay, gradient_norm, start_norm) - 1)
    return 1 + log(maximum(away / fraction, 1)) / (4 * learning_rate * weight_decay)


@formula(kind="exact", source=f"{PAPER}, section 5, from Lemma 2.4", status="rederived", symbol="c")
def equivalent_start(
    loss_factor: Annotated[Any, Domain(0, symbol="c_1"), "factor on the loss"],
    start_factor: Annotated[Any, Domain(0, symbol="c_2"), "factor on the weights at the start"],
    rate_factor: Annotated[Any, Domain(0, symbol="c_3"), "factor on the learning rate"],
) -> Any:
    r"""Factor on the start alone that has the effect of factors on loss, start and learning rate of SGD with weight decay.

    .. math:: c = \frac{c_2}{\sqrt{c_1 c_3}}

    With a factor c_4 on weight decay too, the training that differs in its start has weight decay c_3 c_4 lambda: the product
    eta lambda is the same in both. Relative clipping keeps this.

    Returns
    -------
    A factor: both trainings pass through the same directions x/|x|.

    Examples
    --------
    >>> round(equivalent_start(0.01, 1, 1), 12), equivalent_start(4, 2, 1)
    (10.0, 1.0)
    """
    return start_factor / (sqrt(loss_factor) * sqrt(rate_factor))


@formula(kind="exact", source=f"{PAPER}, Lemma 4.2; constants derived here", status="derived", symbol="D")
def least_decrease(
    learning_rate: LearningRate,
    weight_decay: WeightDecay,
    sharpness: Sharpness,
    norm: Norm,
    gradient: Annotated[Any, Domain(0, closed_low=True, symbol="g"), "norm of the loss's gradient at these weights"],
) -> Any:
    r"""Lower bound of the decrease that one step of gradient descent with weight decay causes in a scale-invariant loss.

    .. math::

        D = \eta \left(\frac{1}{1-\eta\lambda} - \frac{\rho\eta}{2 |x|^2 (1-\eta\lambda)^2}\right) g^2

    Returns
    -------
    Units of the loss; negative if the norm is too small for a useful bound.

    Examples
    --------
    >>> round(least_decrease(0.1, 0.01, 4.0, 1.0, 2.0), 4)
    0.3202
    """
    _require_decay(learning_rate, weight_decay)
    keep = 1 - learning_rate * weight_decay
    return learning_rate * (1 / keep - sharpness * learning_rate / (2 * norm * norm * keep * keep)) * gradient**2


@formula(
    kind="exact", source=f"{PAPER}, Theorem 4.1 and Lemma D.1", status="rederived", symbol="T_0", domain="eta lambda <= 1/2"
)
def descent_steps(learning_rate: LearningRate, weight_decay: WeightDecay, sharpness: Sharpness, start_norm: StartNorm) -> Any:
    r"""Steps of gradient descent with weight decay by which one direction with a gradient below the bound has been met.

    .. math:: T_0 = \frac{1}{2\eta\lambda} \left(\left|\ln \frac{x_0^2}{\rho\pi^2\eta}\right| + 3\right)

    Returns
    -------
    Steps, to be rounded up; the bound is :func:`descent_gradient_bound`.

    Raises
    ------
    InputError
        if eta lambda is above 1/2.

    Examples
    --------
    >>> from math import ceil
    >>> ceil(descent_steps(1, 1e-4, 1, 1)), ceil(descent_steps(8e-4, 0.01, 10, 10))
    (26448, 634002)
    """
    _require_decay(learning_rate, weight_decay, 0.5)
    distance = 2 * log(start_norm) - log(sharpness * learning_rate) - 2 * log(pi)
    return (abs(distance) + 3) / (2 * learning_rate * weight_decay)


@formula(kind="exact", source=f"{PAPER}, Theorem 4.1", status="rederived", symbol="B", domain="eta lambda <= 1/2")
def descent_gradient_bound(learning_rate: LearningRate, weight_decay: WeightDecay, sharpness: Sharpness) -> Any:
    r"""Bound of the least squared gradient norm, at weights of norm 1, met within :func:`descent_steps` steps.

    .. math:: B = 8\pi^4 \rho^2 \lambda\eta

    Returns
    -------
    A squared gradient norm. No squared gradient is above pi^2 rho^2, so the bound is useful only below eta lambda = 1/(8 pi^2).

    Raises
    ------
    InputError
        if eta lambda is above 1/2.

    Examples
    --------
    >>> round(descent_gradient_bound(1, 1e-4, 1), 5), round(descent_gradient_bound(8e-4, 0.01, 10), 4)
    (0.07793, 0.6234)
    """
    _require_decay(learning_rate, weight_decay, 0.5)
    return 8 * pi**4 * sharpness**2 * weight_decay * learning_rate


_BAND = "with probability 1 - 5 delta, if eta lambda <= 0.1 and Condition 4.4 holds, after the norm has relaxed"


@formula(kind="exact", source=f"{PAPER}, Theorem 4.5 and Lemma G.5", status="primary", symbol="x_lo", domain=_BAND)
def lower_norm_bound(
    learning_rate: LearningRate,
    weight_decay: WeightDecay,
    least_gradient_norm: Annotated[Any, Domain(0, symbol="sigma_lo"), "least of sigma over all directions"],
) -> Any:
    r"""Norm that scale-invariant weights stay above under SGD with weight decay once they have relaxed.

    .. math:: |x|^4 \ge \frac{\eta\sigma_{lo}^2}{4\lambda}

    Returns
    -------
    A norm, 0.84 of the equilibrium's at the least gradient.

    Raises
    ------
    InputError
        if eta lambda is above 0.1.

    Examples
    --------
    >>> round(lower_norm_bound(0.1, 5e-4, 1.0) ** 2, 4)
    7.0711
    """
    _require_decay(learning_rate, weight_decay, _MOST)
    return sqrt(least_gradient_norm) * sqrt(sqrt(learning_rate / (4 * weight_decay)))


@formula(kind="exact", source=f"{PAPER}, Theorem 4.5 and Lemma G.5", status="primary", symbol="x_hi", domain=_BAND)
def upper_norm_bound(
    learning_rate: LearningRate,
    weight_decay: WeightDecay,
    largest_gradient_norm: Annotated[Any, Domain(0, symbol="sigma_hi"), "largest of sigma over all directions"],
) -> Any:
    r"""Norm that scale-invariant weights stay below under SGD with weight decay once they have relaxed.

    .. math:: |x|^4 \le \frac{2\eta\sigma_{hi}^2}{\lambda}

    Returns
    -------
    A norm, 1.41 of the equilibrium's at the largest gradient.

    Raises
    ------
    InputError
        if eta lambda is above 0.1.

    Examples
    --------
    >>> round(upper_norm_bound(0.1, 5e-4, 1.0) ** 2, 4)
    20.0
    """
    _require_decay(learning_rate, weight_decay, _MOST)
    return sqrt(largest_gradient_norm) * sqrt(sqrt(2 * learning_rate / weight_decay))


@formula(
    kind="exact", source=f"{PAPER}, Theorem 4.8", status="primary", symbol="x_hi",
    domain="with probability 1 - 5 delta, under clipping and Assumption 4.7, after the norm has relaxed",
)  # fmt: skip
def clipped_upper_norm_bound(
    learning_rate: LearningRate,
    weight_decay: WeightDecay,
    largest_mean: Annotated[Any, Domain(0, symbol="mu_hi"), "largest clipped mean of squared gradients over all directions"],
) -> Any:
    r"""Norm that scale-invariant weights stay below under SGD with weight decay and relative clipping once they have relaxed.

    .. math:: |x|^4 \le \frac{\eta\mu_{hi}}{\lambda}

    The lower bound is :func:`lower_norm_bound` at the square root of the least clipped mean. Both means are
    :func:`depthwidth.numerics.scale_invariance.clipped_mean`; no bound on the largest gradient is needed.

    Returns
    -------
    A norm.

    Examples
    --------
    >>> round(clipped_upper_norm_bound(0.1, 5e-4, 1.0) ** 2, 4)
    14.1421
    """
    return sqrt(sqrt(learning_rate * largest_mean / weight_decay))


@formula(kind="exact", source=f"{PAPER}, Lemma C.3", status="primary", symbol="g_max")
def largest_gradient(sharpness: Sharpness) -> Any:
    r"""Bound of the gradient norm of a scale-invariant loss at weights of norm 1.

    .. math:: \max_{|x|=1} |\nabla L(x)| \le \pi\rho

    Returns
    -------
    A gradient norm.

    Examples
    --------
    >>> round(largest_gradient(22.6), 1)
    71.0
    """
    return pi * sharpness


@formula(kind="exact", source=f"{PAPER}, Lemma C.4", status="primary", symbol="R")
def loss_range(sharpness: Sharpness) -> Any:
    r"""Bound of the difference between the largest and the least value of a scale-invariant loss.

    .. math:: \sup L - \inf L \le \pi^2\rho/2

    Returns
    -------
    Units of the loss.

    Examples
    --------
    >>> round(loss_range(4.0), 4)
    19.7392
    """
    return pi**2 * sharpness / 2


@formula(kind="exact", source=f"{PAPER}, Condition 4.4, by way of Condition G.2", status="primary", symbol="q")
def least_gradient_share(
    learning_rate: LearningRate,
    weight_decay: WeightDecay,
    steps: Annotated[Any, Domain(1, closed_low=True, symbol="T", unit="steps", typical=(1e3, 1e6)), "steps of training"],
    failure: Annotated[Any, Domain(0, 1, symbol="delta", typical=(0.001, 0.2)), "failure probability"],
) -> Any:
    r"""Least ratio of the mean square of a gradient to its largest square for which bounds of the norm are proved.

    .. math:: q = 3 e^{4\eta\lambda} \sqrt{\eta\lambda \ln(2T^2/\delta)}

    Returns
    -------
    The bound on sigma_lo^2/M^2, M the largest gradient of a sample at weights of norm 1. Above 1 nothing is proved.

    Examples
    --------
    >>> round(least_gradient_share(8e-4, 0.01, 1e6, 0.05), 5)
    0.04749
    """
    decay = learning_rate * weight_decay
    return 3 * exp(4 * decay) * sqrt(decay * (log(2 / failure) + 2 * log(steps)))


@formula(kind="exact", source="independent scores of even densities", status="derived", symbol="P_0")
def dead_row_probability(
    tokens: Annotated[Any, Domain(1, symbol="n", unit="tokens", typical=(2, 30), **_COUNT), "tokens attended to"],
) -> Any:
    r"""Probability that no score of a row is positive, so that ReLU scores divided by their sum have no weights.

    .. math:: P_0 = 2^{-n}

    Returns
    -------
    A probability: 1/2 for the first token under a causal mask, which attends to itself only.

    Examples
    --------
    >>> [dead_row_probability(n) for n in (1, 2, 4)]
    [0.5, 0.25, 0.0625]
    """
    return 2**-tokens


@formula(kind="exact", source=f"{PAPER}, Table 1's caption for Adam; count of the states", status="derived", symbol="B_s")
def training_state_bytes(
    parameters: Annotated[Any, Domain(1, symbol="N", unit="parameters", typical=(1e6, 1e12), **_COUNT), "parameters"],
    states: Annotated[
        Any, Domain(0, symbol="s", typical=(0, 2), **_COUNT), "states of the optimiser: SGD 0, momentum 1, Adam 2"
    ],
    value_bytes: Annotated[Any, Domain(1, symbol="b", unit="bytes", typical=(2, 4), **_COUNT), "size of a number"] = 4,
) -> Any:
    r"""Bytes of the parameters and of their optimiser states; gradients and activations are not counted.

    .. math:: B_s = (1 + s)\, b N

    Returns
    -------
    Bytes: with Adam three times those of SGD, with momentum two times.

    Examples
    --------
    >>> training_state_bytes(110_000_000, 0), training_state_bytes(110_000_000, 2)
    (440000000, 1320000000)
    """
    return (1 + states) * value_bytes * parameters
