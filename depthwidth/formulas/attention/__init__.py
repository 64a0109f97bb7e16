"""Moments of activations and gradients through softmax attention with random weights: queries, keys, values, weighted sum.

Tokens are exchangeable: x has second moment q per feature and correlation r between two tokens. The output before its
projection has second moment and covariance *per feature*; so has its gradient, gamma and kappa. The number of heads cancels in
all of them.

The softmax enters through a few averages, from :mod:`depthwidth.numerics.softmax`: over one row of probabilities,
P = E sum p^2, M3, M4, A22 = E sum_{i != j} p_i^2 p_j^2 and T = E ||diag p - pp'||^2; over two rows, P2 and T2. They are taken
at score variance s2 = (1 - r) ss and row correlation rho = r, ss being the variance of a raw score. Under a causal mask the
same formulas hold with the averages over row lengths.

=====================  ==========================================================================
symbol                 meaning
=====================  ==========================================================================
V                      second moment of a value, A_v q; A_v is width times variance of a weight
g_V                    V/q: gain of a gradient through the value weights
r, rho                 correlation of two keys' tokens, and of two queries'; equal in self-attention
gamma, kappa           E g_t^2 and E g_t g_t' of the output's gradient
e_p                    p/(1 - p) for dropout p on the probabilities
=====================  ==========================================================================

The gradient reaches the input by three paths: values, queries and keys. The published theory keeps the first only; the
names of its forms end in ``_published``.

Derivation: docs/derivations/attention.md, which the functions cite by number, (A1) to (A26).
"""

from .gradients import (
    grouped_feature_gradient,
    key_gradient_covariance,
    key_gradient_second_moment,
    key_row_correlation,
    query_gradient_covariance,
    query_gradient_second_moment,
    query_noise,
    value_gradient_covariance,
    value_gradient_second_moment,
)
from .layer import AttentionMoments, attention_moments
from .output import (
    dropout_noise,
    grouped_head_correlation,
    long_output_second_moment,
    output_covariance,
    output_noise,
    output_second_moment,
)
from .published import (
    gradient_covariance_published,
    gradient_second_moment_published,
    output_covariance_published,
    output_second_moment_published,
    softmax_gradient_full_published,
    softmax_gradient_published,
    softmax_variance_full_published,
    softmax_variance_published,
)
from .scores import jacobian_norm, raw_score_variance, score_variance
from .sinks import sink_gradient
from .token_norms import (
    common_share_variance,
    equal_norm_covariance_shift,
    equal_norm_shift,
    norm_fluctuation,
    short_row_covariance_shift,
)
