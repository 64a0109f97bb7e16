"""Mixtures of experts: the learnt gate of a shared part, and the gradient that reaches the router.

The averages over the router's choice are integrals, :mod:`depthwidth.numerics.routing`.
"""

from __future__ import annotations

from typing import Annotated, Any

from ..formula import Domain, formula


@formula(
    kind="approximation",
    source="square of a sigmoid at its middle",
    status="derived",
    symbol="E sigma^2",
    domain="gate scores of small variance; the relative error is about -s^2/4 for s^2 below 0.5, and -21 % at s^2 = 2",
    accuracy=0.12,
    within={"score_variance": (0, 0.5)},
)
def sigmoid_gate_second_moment(
    score_variance: Annotated[
        Any,
        Domain(0, closed_low=True, symbol="s^2", unit="nats^2", typical=(0.001, 0.1)),
        "variance of the gate's score; the leading order does not depend on it",
    ],
) -> Any:
    r"""Second moment of the sigmoid gate that scales the shared part of a mixture of experts.

    .. math:: E\,\sigma(z)^2 = \tfrac14, \qquad z \sim N(0, s^2)

    Returns
    -------
    1/4. The exact value is ``activation("sigmoid").second_moment(score_variance)``, 1/4 + s^2/16 to next order.

    Notes
    -----
    The part of the gradient that returns to the stream through the gate's score, of relative order s^2/16, is left out as well.

    Examples
    --------
    >>> sigmoid_gate_second_moment(0.01)
    0.25
    """
    return 0.25 + 0.0 * score_variance


@formula(
    kind="exact",
    source="chain rule through the weighted sum of the experts' outputs",
    status="derived",
    symbol="g",
    domain="experts' outputs independent of each other, of the router and of the gradient",
)
def router_gradient_gain(
    expert_moment: Annotated[
        Any,
        Domain(symbol="a", unit="per feature", typical=(0.1, 2)),
        "second moment of one expert's output; its covariance over two tokens for the covariance",
    ],
    jacobian: Annotated[
        Any,
        Domain(symbol="J", typical=(0.01, 0.3)),
        "expected squared Frobenius norm of the Jacobian of the experts' weights with respect to the scores",
    ],
    width: Annotated[
        Any,
        Domain(0, symbol="d", unit="dimensions", typical=(64, 4096)),
        "features over which the inner product of gradient and expert's output runs",
    ],
    experts: Annotated[
        Any,
        Domain(1, closed_low=True, symbol="E", typical=(2, 128)),
        "experts; J is summed over the scores, and g is per score",
    ],
) -> Any:
    r"""Factor from the second moment of the gradient at a mixture's output to that at one of its router's scores.

    .. math:: g = \frac{d\, J}{E}\, a

    Returns
    -------
    g, such that the gradient at a score has the second moment g gamma.

    Notes
    -----
    J is :func:`~depthwidth.numerics.routing.routing`'s; for the covariance it is that of the product of two tokens'
    Jacobians.

    Examples
    --------
    >>> router_gradient_gain(0.5, 0.25, 64, 8)
    1.0
    """
    return width * jacobian / experts * expert_moment
