"""One schema for everything measured: the committed files are read and written again byte for byte."""

import pytest

from depthwidth import evidence
from depthwidth.coefficients import data_directory
from depthwidth.errors import InputError
from verify.rows import COLUMNS, Row, flat, rows_from_csv, rows_to_csv

FILES = sorted((data_directory() / "measured").iterdir())
LARGE = 300_000
"""Bytes from which reading a file takes a second."""


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] * (path.stat().st_size > LARGE)) for path in FILES],
    ids=lambda path: path.name,
)
def test_a_committed_file_has_the_columns_of_a_row_and_no_others(path):
    rows = rows_from_csv(path.read_bytes(), path.name)
    assert rows_to_csv(rows) == path.read_bytes()
    assert len({row.job for row in rows}) == 1
    assert all(row.quantity and row.depthwidth and row.device and row.date for row in rows)


def test_there_are_files():
    assert len(FILES) >= 14


def test_what_evidence_reads_are_columns_of_a_row():
    assert set(evidence.COLUMNS) < set(COLUMNS)


def test_a_file_with_one_column_less_or_renamed_is_refused():
    data = rows_to_csv([Row(quantity="loss", value=1.0)])
    for old, new in ((b"quantity", b"quality"), (b",date", b"")):
        with pytest.raises(InputError, match="does not begin with the columns"):
            rows_from_csv(data.replace(old, new, 1))


def test_labels_are_columns_of_a_table_for_people():
    (line,) = flat([Row(quantity="loss", value=1.0, labels={"depth": 3, "seed": 9}, seed=1)])
    assert (line["depth"], line["seed"]) == (3, 1)
    assert "labels" not in line
