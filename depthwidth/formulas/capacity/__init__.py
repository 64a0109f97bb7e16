r"""Capacity of trained networks: PAC-Bayes and margin bounds, norm measures, bounds for attention.

The `validity` of each formula ends with its nature. A *bound* holds with its constants. A *measure* is a number computed
from weights and margins, to be compared between networks. A *proxy* is a bound whose constant is unknown: it orders networks,
and is never a probability. Spectral bounds of trained networks are far above 1, so their use is that of a measure too.

A network is f(x) = W_d relu(W_(d-1) ... relu(W_1 x)) without biases, W_i of shape (h_i, h_(i-1)), with spectral norms s_i and
Frobenius norms F_i. :mod:`depthwidth.numerics.network_norms` computes the sums and products that are arguments here.
"""

from .attention import (
    covered_rademacher,
    head_covering_order,
    head_perturbation,
    initial_score_entry_norm,
    initial_score_group_norm,
    rademacher_gap,
    sparse_covering,
    vc_lower_order,
    vc_order,
)
from .margins import (
    covering_size,
    derandomised_gap,
    margin_divergence,
    noise_norm,
    perturbation_bound,
    spectral_complexity,
    spectral_margin_gap,
    spectral_margin_order,
)
from .measures import (
    flatness_measure,
    gaussian_divergence,
    geometric_norm_sum,
    group_product_index,
    l1_path_capacity,
    l2_capacity,
    l2_path_capacity,
    layered_vc_order,
    magnitude_flatness_term,
    magnitude_noise,
    norm_product_index,
    pac_bayes_penalty,
    pair_certainty,
    relative_sharpness,
    reported_measure,
    sharpness_measure,
    spectral_capacity,
    spectral_distance_index,
    spectral_group_index,
    spectral_margin_measure,
)

__all__ = [
    "covered_rademacher",
    "covering_size",
    "derandomised_gap",
    "flatness_measure",
    "gaussian_divergence",
    "geometric_norm_sum",
    "group_product_index",
    "head_covering_order",
    "head_perturbation",
    "initial_score_entry_norm",
    "initial_score_group_norm",
    "l1_path_capacity",
    "l2_capacity",
    "l2_path_capacity",
    "layered_vc_order",
    "magnitude_flatness_term",
    "magnitude_noise",
    "margin_divergence",
    "noise_norm",
    "norm_product_index",
    "pac_bayes_penalty",
    "pair_certainty",
    "perturbation_bound",
    "rademacher_gap",
    "relative_sharpness",
    "reported_measure",
    "sharpness_measure",
    "sparse_covering",
    "spectral_capacity",
    "spectral_complexity",
    "spectral_distance_index",
    "spectral_group_index",
    "spectral_margin_gap",
    "spectral_margin_measure",
    "spectral_margin_order",
    "vc_lower_order",
    "vc_order",
]
