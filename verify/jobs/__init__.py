"""Jobs: one claim a file.

A file in this folder, or in the folder that ``DEPTHWIDTH_JOBS`` names, that defines ``JOB`` is a job; no list names it. A job's
file must import quickly and without torch: import torch inside the functions that need it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType

from depthwidth.errors import InputError, nearest, shown
from depthwidth.plugins import plugins

from .base import ABOVE_ZERO as ABOVE_ZERO
from .base import BELOW_ZERO as BELOW_ZERO
from .base import OUTCOMES as OUTCOMES
from .base import SIZES as SIZES
from .base import Comparison as Comparison
from .base import Context as Context
from .base import Ensemble as Ensemble
from .base import Job as Job
from .base import Limit as Limit
from .base import Measurement as Measurement
from .base import Outcome as Outcome
from .base import Prediction as Prediction
from .base import Run as Run
from .base import Size as Size
from .base import Verdict as Verdict
from .base import check_size as check_size
from .base import difference_error as difference_error
from .base import outcome_of as outcome_of
from .base import run_name as run_name
from .versions import code_of as code_of
from .versions import version_of as version_of

JOBS_VARIABLE = "DEPTHWIDTH_JOBS"
"""Name of the environment variable that holds a folder of further jobs."""


_PARTS = ("base", "versions")
"""Modules of this folder that define no job."""


@functools.cache
def _jobs(own: str) -> dict[str, Job]:
    modules = [
        importlib.import_module(f"{__name__}.{info.name}")
        for info in pkgutil.iter_modules(__path__)
        if not info.name.startswith("_") and info.name not in _PARTS
    ]
    if own:
        folder = Path(own)
        if not folder.is_dir():
            raise InputError(f"{JOBS_VARIABLE}={shown(own)} is not a folder")
        modules += [_load(path) for path in sorted(folder.glob("*.py")) if not path.name.startswith("_")]
    found: dict[str, Job] = {}
    for module in modules:
        job = getattr(module, "JOB", None)
        if not isinstance(job, Job):
            raise InputError(f"{module.__file__} defines no JOB")
        if job.name in found:
            raise InputError(f"there are two jobs called {job.name}")
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", job.name):
            raise InputError(f"a job's name is made of small letters, digits and -, not {shown(job.name)}")
        found[job.name] = job
    return dict(sorted(found.items()))


def _load(path: Path) -> ModuleType:
    name = f"verify_own_jobs_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise InputError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{path.name} cannot be loaded: {type(error).__name__}: {error}") from None
    return module


def jobs() -> dict[str, Job]:
    """All jobs by name: those of this folder, of the folder that ``DEPTHWIDTH_JOBS`` names, and of installed plug-ins.

    Raises
    ------
    InputError
        if a file there is no job, or two jobs have one name.
    """
    found = _jobs(os.environ.get(JOBS_VARIABLE, ""))
    added = {job.name: job for _, job in plugins("depthwidth.jobs") if isinstance(job, Job)}
    return dict(sorted((added | found).items()))


def find_job(name: str) -> Job:
    """The job called `name`.

    Raises
    ------
    InputError
        if there is none.
    """
    known = _jobs(os.environ.get(JOBS_VARIABLE, ""))
    if name not in known:
        known = jobs()
    if name not in known:
        raise InputError(f"there is no job {shown(name)}{nearest(name, known)}; there are {', '.join(known)}")
    return known[name]
