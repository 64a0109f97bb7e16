"""Concentration of softmax attention: exact averages over Gaussian logits, closed forms with their ranges, lengths.

Logits l_j are independent, N(0, sigma^2), over the n entries a query attends to; weights are p_j = exp(l_j)/Z. A calculator
should use the integrals, whose names are plain (:func:`entropy`, :func:`squared_sum`, ...): each costs a fraction of a
millisecond and holds at every n and sigma. The closed forms say why, and refuse arguments outside the range in which they were
checked.

==========================  ==================================================================================
band                        where, with the condensation point sigma_c = sqrt(2 ln n)
==========================  ==================================================================================
diffuse                     sigma < 0.3 sigma_c: the weights are spread, n_eff = n exp(-sigma^2)
transitional                0.3 to 1 sigma_c: no closed form is better than a factor of two
condensed                   sigma > sigma_c: a few entries hold all the weight, however long the row
==========================  ==================================================================================

The saturation theorem of Yu et al. 2025 (arXiv 2510.03784) could not be read; that bounded logits make every weight of order
1/n is confirmed to be its content, and :func:`~depthwidth.formulas.heads.bounded_logit_error` is our statement of it.
"""

from ...numerics.bounds import LARGEST_VARIANCE, LONGEST
from .averages import (
    effective_tokens,
    entropy,
    jacobian_squared_norm,
    jacobian_trace,
    largest_weight,
    log_partition,
    logit_std_for_tokens,
    output_variance,
    softmax_entropy,
    squared_sum,
)
from .bands import (
    DIFFUSE,
    causal_uniform_overlap,
    condensation_point,
    condensed_entropy,
    condensed_length,
    condensed_squared_sum,
    diffuse_entropy,
    diffuse_entropy_next,
    diffuse_log_partition,
    diffuse_squared_sum,
    largest_normal,
    length_scaled_condensed_length,
    one_body_squared_sum,
    overlap_ratio,
    rare_squared_sum,
    softmax_variance_series,
    typical_squared_sum,
)
from .collapse import (
    collapsed_output_second_moment,
    critical_residual_gain,
    entropy_collapse_gain,
    finite_output_second_moment,
    residual_attention_correlation,
)
from .head_dim import (
    diffuse_finite_head_squared_sum,
    finite_head_entropy,
    finite_head_squared_sum,
    head_dim_correction,
    head_dim_entropy_correction,
)
from .length import critical_length_scaling, dispersion_lower, dispersion_upper, entropy_lower_bound, self_weight, ssmax_weight
from .target import (
    annealed_target_weight,
    distractor_squared_sum,
    gap_for_weight,
    target_entropy,
    target_largest_weight,
    target_weight,
    target_weight_squared,
)
