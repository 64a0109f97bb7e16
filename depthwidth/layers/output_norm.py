"""The norm of a branch's output, for tables of the branch that are made at a stream without a spread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..signal import DrawSpread, NormFactors, branch_spread, norm_factors, normed_input, pull_mixed_norms

if TYPE_CHECKING:
    from ..signal import AnySignal, Number, Site
    from .block import Residual


class OutputNorm(NamedTuple):
    """The norm of a branch's output: its factors at finite width follow the stream's spread, which a table has not seen."""

    bare: Residual
    """The branch up to that norm"""
    draw: DrawSpread
    """Of `bare`; the norm uses the parts that do not follow the correlation"""
    centred: bool
    length: float
    """Of :func:`~depthwidth.signal.residual.normed_input`"""

    @classmethod
    def of(cls, part: Residual, x: AnySignal, site: Site) -> OutputNorm | None:
        """That of a branch that reads streams like `x`; None if it has none, or at infinite width."""
        if part.norm_out is None or not site.trace.finite_width:
            return None
        bare = part.replace(norm_out=None, layer_scale=None, dropout=0.0)
        _, _, draw = bare.branch_moments(x.spread_as(None), site)
        return cls(bare, draw.constant(), part.norm_out.centred, part.mixed_length(site))

    @property
    def follows_spread(self) -> bool:
        """False if tokens are read one by one after a norm, which leaves each a single size."""
        return self.bare.norm_in is None or self.draw.whole is not None

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Number]:
        """The moments of what it normalises, and omega for pairs."""
        f, _, draw = self.bare.branch_moments(x.spread_as(None), site)
        return f, draw.pair_omega

    def factors(self, x: AnySignal, correlation: Number, output: AnySignal, pair_omega: Number) -> tuple[NormFactors, Number]:
        """Its factors relative to those of a branch that reads a stream without a spread, and :attr:`.DrawSpread.with_stream`.

        x : the stream.
        correlation : that of two tokens that the branch reads.
        output, pair_omega : the result of :meth:`moments`.
        """
        read, mixed = x, None
        draw, width = self.draw._replace(pairs=pair_omega), self.bare.width
        if self.bare.norm_in is not None:
            read, mixed = normed_input(x, x.of(1.0 + 0.0 * x.second_moment, correlation), draw, self.length)
        alone, whole = (
            norm_factors(output.spread_as(branch_spread(output, draw, width, x)), width, self.centred)
            for x in (read.spread_as(None), read)
        )
        factors = NormFactors(*(new / known for new, known in zip(whole, alone, strict=True)))
        with_stream, pull = pull_mixed_norms(draw, mixed, output, read, width)
        back = pull(x.of(factors.gradient, factors.gradient_covariance))
        return NormFactors(factors.covariance, back.second_moment, back.covariance), with_stream
