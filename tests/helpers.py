"""Helpers shared by tests: comparison of computed with printed values, and tables of expected values."""

import csv
import signal
import warnings
from decimal import Decimal
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
PATIENCE = 600
"""Seconds after which a process or thread that a test waits for has hung; a busy machine takes minutes for seconds."""
ROUNDING = Decimal("0.5001")  # tolerance in units of the last printed place: half a unit, as for correct rounding


def heed_ctrl_c():
    """Let a process that a test starts end by Ctrl-C: a shell makes its commands in the background ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def agrees(value, printed: str, digits: int | None = None, slack: float = 1.0) -> bool:
    """True if `value`, rounded to the precision of `printed`, equals `printed`.

    The precision is the last printed place (for ``2.18320e6``, ten). If `digits` is given, it is that significant digit, for
    integers padded with zeros and for numbers printed without trailing zeros. `slack` multiplies the tolerance if the printed
    value was computed from rounded inputs.
    """
    expected = Decimal(printed)
    last_place = expected.as_tuple().exponent if digits is None else expected.adjusted() - digits + 1
    return abs(Decimal(float(value)) - expected) <= ROUNDING * Decimal(slack) * Decimal(1).scaleb(last_place)


def check(value, printed: str, digits: int | None = None, slack: float = 1.0) -> None:
    """Assert that `value` agrees with `printed`; the message shows both."""
    assert agrees(value, printed, digits, slack), f"computed {float(value):.9g}, printed {printed}"


def golden(name: str) -> list[dict[str, str]]:
    """The rows of a table of expected values in ``tests/golden``."""
    with (GOLDEN / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(text):
    """The rows of a table written as text: one line per row, cells separated by bars."""
    lines = [line.split("|") for line in text.strip().splitlines()]
    return [tuple(cell.strip() for cell in line) for line in lines]


def exact_norm_correlation(r, d):
    """Expected sample correlation of d pairs of Gaussian features, by a closed form evaluated with 30 digits."""
    import mpmath

    with mpmath.workdps(30):
        r, d = mpmath.mpf(r), mpmath.mpf(d)
        ratio = mpmath.gamma(d / 2) ** 2 / (mpmath.gamma((d - 1) / 2) * mpmath.gamma((d + 1) / 2))
        return float(r * ratio * mpmath.hyp2f1(0.5, 0.5, (d + 1) / 2, r**2))


def one_quick_in(every, names, cases, *, first=0, **more):
    """``pytest.mark.parametrize``, with case number `first` and each `every`-th after it quick, and the others marked slow."""
    single = isinstance(names, str) and "," not in names
    given = list(cases)
    for i, case in enumerate(given):
        if i % every != first:
            given[i] = pytest.param(*((case,) if single else case), marks=pytest.mark.slow)
    return pytest.mark.parametrize(names, given, **more)


def statements(tree):
    """The statements of a parsed source at every depth. `ast.walk` visits its expressions too, ten times as many."""
    waiting = [tree]
    for node in waiting:
        yield node
        for part in ("body", "handlers", "orelse", "finalbody", "cases"):
            within = getattr(node, part, ())
            waiting.extend(within if isinstance(within, list) else ())


def quiet_transformers():
    """The transformers library, imported without its warnings and messages; tests that ask for it are skipped without it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip("transformers")
    library.logging.set_verbosity_error()
    return library
