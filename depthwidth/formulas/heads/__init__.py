"""Dimensions that a head needs, heads that a layer needs, and the loss with fewer.

Sharp heads, which look up one token, need about 2 ln n dimensions and gain nothing beyond 6 ln n. Diffuse heads lose the
discarded singular directions of their query-key form; the absolute loss falls as 1/n, the relative loss does not. A layer needs
as many heads as it has things to deliver; with fewer, no width helps.

Attribution: the budget D = sum of H d_m over groups of heads, the trade of heads against head dimension in early layers and
the smaller head dimension of later ones are the confirmed structure of Yu et al. 2025 (arXiv 2510.03784), whose theorems could
not be read; formulas here whose source says *our reconstruction* are ours and not that paper's. Theorems of other papers carry
their names; statements that give an order without a constant are of kind ``heuristic`` and take the constant to be 1.

A spectrum below is the squared singular values s_m^2, in nats^2, of the whitened query-key form C_q^(1/2) M C_k^(1/2): the part
of the logits' variance that each direction carries, largest first.

Derivation: docs/derivations/heads.md, which the functions cite by number, (H1) to (H27).
"""

from .counts import (
    head_count_decay,
    log_low_rank_heads_high_accuracy,
    low_rank_heads_high_dim,
    memorised_examples,
    relation_key_dim,
    sparse_average_dim,
    too_few_heads_exponent,
)
from .lags import (
    best_lag_decay,
    best_lag_error,
    dedicated_lag_loss,
    fewer_heads_than_lags_loss,
    lag_error,
    lag_floor,
    one_head_lag_error,
    shared_lag_heads,
)
from .rank import (
    bottleneck_heads,
    causal_hardmax_rank,
    dense_pattern_head_dim,
    fixed_head_parameters,
    gaussian_hardmax_fraction,
    hardmax_rank,
    head_dim_for_hardmax_rank,
)
from .retrieval import (
    best_retrieval_error,
    comfortable_head_dim,
    critical_head_dim,
    largest_cosine,
    qk_norm_cap,
    smallest_gap,
    smallest_noise,
    unit_key_temperature,
)
from .split import group_budgets, split_error, split_heads, split_prefactor
from .truncation import (
    bounded_logit_error,
    diffuse_errors,
    fixed_query_error,
    output_certificate,
    power_spectrum,
    readout_errors,
    relative_truncation_error,
    saturation_dim,
    total_variation_bound,
    weight_growth,
)
