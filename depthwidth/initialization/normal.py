"""One standard deviation for every matrix (BERT), or smaller at the ends of branches (GPT-2)."""

from __future__ import annotations

from ..architecture import Transformer
from .draft import Draft, finite_number, scheme
from .tensor_rules import WRITING, normal_rule


@scheme("normal", "BERT (Devlin et al. 2018, arXiv 1810.04805) and most that follow", "primary")
def normal(tree: Transformer, std: float = 0.02) -> Draft:
    """The same `std` for every matrix and table."""
    return Draft(tree, normal_rule(tree, finite_number("normal", "std", std, closed=True)))


@scheme(
    "gpt2",
    "Radford et al. 2019, section 2.3, as transformers and Megatron-LM write it",
    "primary for the code; OpenAI's released code has 0.01 for positions and no 1/sqrt(N)",
)
def gpt2(tree: Transformer, std: float = 0.02) -> Draft:
    """`std`, divided by the square root of the number of residual branches for the last matrix of each branch."""
    return Draft(tree, normal_rule(tree, finite_number("gpt2", "std", std, closed=True), deep=WRITING))
