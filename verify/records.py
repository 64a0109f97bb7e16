"""The schemas of the records that are read back, and their one reader.

Anyone who can write to a folder of runs, or to an archive, can write anything into it. A record is therefore read as untrusted
text (:func:`depthwidth.files.parse_json`) and held against its schema below before any of it is used.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
from msgspec import Meta

from depthwidth.errors import InputError
from depthwidth.files import parse_json, read_regular

LARGEST_RECORD = 2**20
"""Bytes of a lease, a failure or another small record."""

LARGEST_PLAN = 48 * 2**20
"""Bytes of a plan. The largest job of the library, with 3,356 runs, has a plan of 20 MB."""

RunName = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
JobName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}\Z")]
Whole = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
"""A moment or a duration: at most 30,000 years."""
MOST_LABELS = 100
"""Labels of a run or a row; the library's jobs have at most eight. As objects they take ten times the memory of their text."""
Labels = Annotated[dict[str, bool | int | float | str | None], Meta(max_length=MOST_LABELS)]
"""A few plain values by name."""


class PredictionRecord(msgspec.Struct, forbid_unknown_fields=True):
    """A prediction: the fields of :class:`verify.jobs.Prediction`."""

    quantity: str
    value: float
    formula: str
    version: str
    site: str = ""
    step: Whole | None = None
    stderr: Annotated[float, Meta(ge=0)] | None = None


class RunRecord(TypedDict):
    """A planned run: the fields of :class:`verify.jobs.Run`, and its name."""

    run: RunName
    seed: Whole
    spec: dict[str, Any]
    labels: Labels
    cost: Annotated[float, Meta(ge=0, le=1e30)]
    cpus: Annotated[float, Meta(ge=0, le=1e6)]
    gpus: Annotated[float, Meta(ge=0, le=1e6)]
    predictions: list[PredictionRecord]


class PlanRecord(TypedDict):
    """A plan, without its seal."""

    job: JobName
    size: Literal["tiny", "small", "gpu", "full"]
    code: str
    created: str
    question: str
    claim: str
    measured: str
    criterion: str
    predictions: list[PredictionRecord]
    runs: list[RunRecord]
    judging: NotRequired[str]
    commit: NotRequired[str]
    depthwidth: NotRequired[str]
    ensemble: NotRequired[Annotated[int, Meta(ge=1, le=10**6)]]


class LeaseRecord(TypedDict):
    """A lease: the process that works on a run."""

    token: str
    machine: str
    pid: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    started: str
    since: Seconds


class FailureRecord(TypedDict):
    """The error of a run."""

    error: str
    job: NotRequired[str]
    deaths: NotRequired[Annotated[int, Meta(ge=0)]]
    host: NotRequired[str]
    date: NotRequired[str]


class ProgressRecord(TypedDict):
    """The progress of a run at work, for people."""

    share: Annotated[float, Meta(ge=0, le=1)]
    step: NotRequired[Annotated[float, Meta(ge=0, le=1e15)]]
    steps: NotRequired[Annotated[float, Meta(ge=0, le=1e15)]]
    loss: NotRequired[float]
    rate: NotRequired[Annotated[float, Meta(ge=0, le=1e15)]]


Members = Annotated[list[RunName], Meta(min_length=1, max_length=10**6)]
"""The runs of an ensemble."""


class CorpusIdentity(TypedDict):
    """The part of a corpus's identity that reading it needs; its source has further fields."""

    vocab: Annotated[int, Meta(ge=1, le=2**31)]
    train_tokens: Annotated[int, Meta(ge=0, le=2**50)]
    validation_tokens: Annotated[int, Meta(ge=0, le=2**50)]
    sha256: str


class CorpusRecord(TypedDict):
    """``corpus.json`` in the folder of the tokens."""

    dtype: Literal["uint8", "int16", "int32", "int64"]
    source: dict[str, Any]
    entropy: Annotated[float, Meta(ge=0)] | None
    identity: CorpusIdentity


def check_record(value: Any, schema: Any, label: str) -> None:
    """Hold a plain value against its schema.

    Raises
    ------
    InputError
        with the first place that differs.
    """
    try:
        msgspec.convert(value, schema, str_keys=True)
    except msgspec.ValidationError as error:
        text = str(error)
        raise InputError(f"{label}: {text[0].lower()}{text[1:]}") from None


def read_record(path: Path, schema: Any, what: str) -> Any:
    """The record in a small file, as plain data.

    Raises
    ------
    InputError
        if the file cannot be read, is not JSON, or does not follow the schema.
    """
    value = parse_json(read_regular(path, what, LARGEST_RECORD), f"{what} {path.name!r}")
    check_record(value, schema, f"{what} {path.name!r} is damaged")
    return value


@functools.lru_cache(maxsize=1 << 12)
def labels_of(cell: str) -> Mapping[str, Any]:
    """The labels in the cell of a row. Rows with equal cells share one mapping; do not change it.

    Raises
    ------
    InputError
        if they are not a JSON object of plain values.
    """
    value = parse_json(cell, "labels")
    check_record(value, Labels, "labels are not plain values by name")
    assert isinstance(value, dict)  # noqa: S101
    return value
