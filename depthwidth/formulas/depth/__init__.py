"""Laws of depth: the moments of a signal and of its gradient along a stack of equal residual blocks.

Symbols as in :mod:`.moments`: q and c are second moment and covariance of the stream, r = c/q its correlation between tokens,
gamma the gradient's second moment, p dropout, lambda and beta the factors on skip and branch. A layer is an attention block and
a feed-forward block, which add a_A and a_F to the stream and whose gradients gain J_A and J_F, all at a norm's unit input.
In a real tree a and J change with the correlation, and :mod:`depthwidth.analysis.propagation` follows them; the laws here are
its closed-form limits once they no longer change.

A gradient has two parts that grow differently: gamma - kappa, in which the tokens' gradients differ, and kappa, which they
share. If tokens have aligned and there is no dropout, attention passes on the second part only: J_A is 0 for the first and a_A
for the second, while a ReLU part has J_F = a_F for both.
"""

from .blocks import (
    attention_block_second_moment,
    feed_forward_matrix_moment,
    feed_forward_matrix_spread,
    relu_block_second_moment,
    residual_correlation,
    xavier_relu_block_second_moment,
)
from .deepscale import (
    deepscale_correlation,
    deepscale_correlation_limit,
    deepscale_correlation_rate,
    deepscale_gradient_bound,
    deepscale_gradient_gain,
)
from .post_norm import (
    post_norm_collapse,
    post_norm_gradient_factor,
    post_norm_gradient_growth,
    post_norm_layer_log_drift,
    post_norm_layer_log_variance,
    post_norm_log_drift,
    post_norm_log_variance,
)
from .pre_norm import (
    pre_norm_collapse,
    pre_norm_collapse_exponent,
    pre_norm_correlation_limit,
    pre_norm_gradient_growth,
    pre_norm_gradient_power_law,
    pre_norm_growth,
    pre_norm_second_moment,
    sandwich_norm_second_moment,
    scaled_pre_norm_second_moment,
)
