"""Laws fitted to training runs, with errors over models and a verdict on undetermined coefficients.

>>> from depthwidth.fitting import fit
>>> rows = [{"width": w, "depth": l, "loss": 2 + 30 * w**-0.5 + 3 / l} for w in (64, 128, 256, 512) for l in (4, 8, 16)]
>>> found = fit(rows, "loss = E + A * width**-p + B / depth", errors="none", held_out=False)
>>> round(found["p"], 6), round(float(found.predict({"width": 1024, "depth": 16})), 4)
(0.5, 3.125)
"""

from .fit import fit, fit_runs, objective_of
from .laws import LAWS, Law, find_law, own_law
from .result import Fit, HeldOut
from .saving import save
from .table import Runs, read_runs

__all__ = [
    "LAWS",
    "Fit",
    "HeldOut",
    "Law",
    "Runs",
    "find_law",
    "fit",
    "fit_runs",
    "objective_of",
    "own_law",
    "read_runs",
    "save",
]
