"""The parts that every check shares: thresholds, findings, remedies, and the check itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...display import Overview, with_overview
from .network import Network

SEVERITIES = ("fine", "watch", "problem")

OURS = "ours"
"""The source of a threshold of this project, without a publication."""


class Thresholds(NamedTuple):
    """The two bounds of one kind of finding: a value beyond `threshold` should be watched, one beyond `limit` is a problem."""

    threshold: float
    limit: float
    source: str
    """The origin of both bounds; ``ours`` without a publication."""
    at_most: bool = True
    """True if values should stay below the bounds, False if above."""

    def severity(self, value: float) -> str:
        """One of :data:`SEVERITIES`."""
        beyond = [value > bound if self.at_most else value < bound for bound in (self.threshold, self.limit)]
        return SEVERITIES[2 if beyond[1] else 1 if beyond[0] else 0]


@with_overview
@dataclass(frozen=True)
class Finding:
    """One number of a network at initialisation, and the thresholds that judge it."""

    name: str
    """``gradient_ratio``, ``forward_growth``, ``stream_growth``, ``correlation_at_top``, ``branch_share``, ``score_variance``,
    ``effective_tokens``, ``overflow_KIND``, ``underflow_KIND`` (bits of headroom), ``gradient_spread``, ``depth_to_width``."""
    site: str
    """The site of the network with the worst value."""
    value: float
    rule: Thresholds
    sentence: str
    """The number's meaning for training."""
    remedy: str | None = None
    """``scheme NAME`` for :func:`~depthwidth.initialization.recipe`, or a quantity to multiply and the factor. None if the
    value is fine, or if none of the remedies tried improves it."""
    after: float | None = None
    """The same number of the remedied network, propagated again."""

    @property
    def threshold(self) -> float:
        """The bound that decides: the limit if the value is beyond it, otherwise the first threshold."""
        return self.rule.limit if self.severity == "problem" else self.rule.threshold

    @property
    def source(self) -> str:
        """The origin of the threshold."""
        return self.rule.source

    @property
    def severity(self) -> str:
        """``fine``, ``watch`` or ``problem``."""
        return self.rule.severity(self.value)

    @property
    def severity_after(self) -> str | None:
        """The severity of :attr:`after`; None without a remedy."""
        return None if self.after is None else self.rule.severity(self.after)

    @property
    def comparison(self) -> str:
        """The value and its threshold, such as ``494, above 403``."""
        side = "above" if self.value > self.threshold else "below"
        return f"{_short(self.value, 4)}, {side} {_short(self.threshold, 3)}"

    @property
    def advice(self) -> str:
        """The meaning, the remedy and the origin of the threshold, on one line."""
        mended = (
            "none of the remedies tried improves it" if self.remedy is None else f"{self.remedy} changes it to {self.after:.4g}"
        )
        return f"{self.severity.capitalize()}: {self.sentence}. Remedy: {mended}. Threshold: {self.source}."

    def overview(self) -> Overview:
        """The number, its threshold and the advice, for a prompt or a notebook."""
        title = f"{self.name.replace('_', ' ')}, {self.severity}"
        bound = f"{'at most' if self.rule.at_most else 'at least'} {_short(self.threshold, 3)} ({self.source})"
        facts = {"value": _short(self.value, 4), "threshold": bound, "site": self.site, "meaning": self.sentence}
        if self.remedy is not None:
            facts["remedy"] = f"{self.remedy} changes it to {self.after:.4g}"
        return Overview(title, facts)

    def to_dict(self) -> dict[str, Any]:
        """Plain data. ``direction`` is the side of ``threshold`` on which the value should lie."""
        return {
            "name": self.name,
            "site": self.site,
            "value": self.value,
            "threshold": self.threshold,
            "direction": "at most" if self.rule.at_most else "at least",
            "source": self.source,
            "severity": self.severity,
            "sentence": self.sentence,
            "remedy": self.remedy,
            "after": self.after,
            "severity_after": self.severity_after,
        }


def _short(value: float, digits: int) -> str:
    """A number in a few digits; its distance from 1 if that is small, as of a correlation."""
    if 0.999 < value < 1:
        return f"1 - {1 - value:.2g}"
    return f"{value:,.0f}" if 1e3 <= value < 1e6 else f"{value:.{digits}g}"


class Remedy(NamedTuple):
    """A change to a network, and the value of the finding after it."""

    text: str
    after: float


def no_own_remedy(network: Network, finding: Finding) -> Remedy | None:
    """The default of :attr:`Check.own_remedy`: only the schemes given to ``diagnose`` are tried."""
    return None


@dataclass(frozen=True)
class Check:
    """One check: a file of :mod:`~depthwidth.analysis.diagnosis.checks` that defines one as ``CHECK``.

    An outsider's check is passed to :func:`~depthwidth.analysis.diagnosis.add_check`.
    """

    order: float
    """Findings are listed by this number."""
    findings: Callable[[Network], Iterable[Finding]]
    """The findings in one network: none if the check does not apply, several if it looks at several kinds of tensor."""
    own_remedy: Callable[[Network, Finding], Remedy | None] = no_own_remedy
    """A remedy better suited than another scheme, tried first."""

    def again(self, network: Network, finding: Finding) -> Finding | None:
        """The finding of the same name in another network; None if there is none."""
        return next((found for found in self.findings(network) if found.name == finding.name), None)


# Thresholds for a ratio between the two ends of a stack.

TENFOLD = math.log(10)
"""In ln(ratio), the first threshold. Ours: past a factor of ten, one step size cannot suit both ends of a stack."""
E_FOLDINGS = 6.0
"""In ln(ratio), the limit: stacks have trained to a depth of about six e-foldings of signal or gradient."""
TRAINABLE = "Schoenholz et al. 2017, arXiv 1611.01232: networks trained up to about 6 e-foldings (recalled)"


def ratio_thresholds(
    ratio: float, source: str, watched: float = math.exp(TENFOLD), limit: float = math.exp(E_FOLDINGS)
) -> Thresholds:
    """Bounds on the side of 1 on which `ratio` lies: factors of `watched` and of `limit`."""
    sign = 1 if ratio >= 1 else -1
    return Thresholds(watched**sign, limit**sign, source, at_most=ratio >= 1)


RECORD = f"{OURS}: 19 in 20 of the networks on record that trained are within it (docs/diagnosis.md)"
"""The source of a first threshold that is calibrated on ``data/reference/trainability.csv``."""
SEPARATED = f"{RECORD}; limit: halfway, in the logarithm, from the last of them to the first that did not train"
BEYOND_RECORD = f"{RECORD}; limit: ten times the largest of them, as growth alone kept none on record from training"


def worst_stack(measure: Callable[[Network, str, int], Finding | None]) -> Callable[[Network], list[Finding]]:
    """A check of every stack (its name, its depth) that reports the worst one."""

    def findings(network: Network) -> list[Finding]:
        found = [f for name, depth in network.stacks if (f := measure(network, name, depth)) is not None]
        return [max(found, key=_badness)] if found else []

    return findings


def _badness(finding: Finding) -> tuple[int, float]:
    """Severity, then the distance beyond the first threshold in the logarithm."""
    beyond = math.log(max(finding.value, 1e-300) / finding.rule.threshold)
    return SEVERITIES.index(finding.severity), beyond if finding.rule.at_most else -beyond
