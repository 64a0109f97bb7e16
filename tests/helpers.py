"""What tests share: how close a computed value must come to a printed one."""

import csv
from decimal import Decimal
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"
ROUNDING = Decimal("0.5001")  # of a unit in the last printed place: a correctly rounded print, and no more


def agrees(value, printed: str, digits: int | None = None, slack: float = 1.0) -> bool:
    """Whether `value`, rounded as `printed` was, would print the same.

    The unit is that of the last printed place (of ``2.18320e6``, ten) or, with `digits`, of that significant digit, for
    integers padded with zeros and numbers printed without trailing ones. `slack` widens it where a printed value was computed
    from rounded inputs.
    """
    expected = Decimal(printed)
    last_place = expected.as_tuple().exponent if digits is None else expected.adjusted() - digits + 1
    return abs(Decimal(float(value)) - expected) <= ROUNDING * Decimal(slack) * Decimal(1).scaleb(last_place)


def check(value, printed: str, digits: int | None = None, slack: float = 1.0) -> None:
    """Fail, naming both values, unless they agree."""
    assert agrees(value, printed, digits, slack), f"computed {float(value):.9g}, printed {printed}"


def golden(name: str) -> list[dict[str, str]]:
    """The rows of a table of worked values."""
    with (GOLDEN / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(text):
    """A table written as its source prints it: one line a row, cells apart by bars."""
    lines = [line.split("|") for line in text.strip().splitlines()]
    return [tuple(cell.strip() for cell in line) for line in lines]


def exact_norm_correlation(r, d):
    """Expected sample correlation of d pairs of Gaussian features, in closed form at 30 digits."""
    import mpmath

    with mpmath.workdps(30):
        r, d = mpmath.mpf(r), mpmath.mpf(d)
        ratio = mpmath.gamma(d / 2) ** 2 / (mpmath.gamma((d - 1) / 2) * mpmath.gamma((d + 1) / 2))
        return float(r * ratio * mpmath.hyp2f1(0.5, 0.5, (d + 1) / 2, r**2))
