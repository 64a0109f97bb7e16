"""Archives from anyone: counted piece by piece, and left before they fill the memory."""

import csv
import io
import tracemalloc
import zipfile

import pytest

pytest.importorskip("torch")

from test_records import OTHER, PLAN, RUN, row, sealed

from depthwidth import InputError
from verify.rows import COLUMNS, digest_of, rows_to_csv
from verify.runs import transfer
from verify.runs.store import Store
from verify.runs.transfer import export_rows, import_rows


def archive(path, **files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in files.items():
            made.writestr(name.replace("__", "/"), data)
    return path


def rows_file(data, run=RUN):
    return {f"rows__{run}.{digest_of(data)}.csv": data}


SHORTEST = b",,,,,,1,,,1,{},,,,,,,1,\n"


def test_more_rows_than_are_held_are_refused_before_any_is_read(tmp_path, monkeypatch):
    """Five million rows in 16 MB, 40 kB packed, took gigabytes: each row is an object."""
    monkeypatch.setattr(transfer, "MOST_LINES", 100_000)
    data = ",".join(COLUMNS).encode() + b"\n" + SHORTEST * 600_000
    path = archive(tmp_path / "a.zip", **rows_file(data))
    tracemalloc.start()
    with pytest.raises(InputError, match="holds more than 100,000 rows; nothing was imported"):
        import_rows(Store(tmp_path / "runs").open(), path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 6 * 2**20
    assert not list((tmp_path / "runs" / "rows").iterdir())


def test_a_run_of_too_many_rows_is_damage(tmp_path, monkeypatch):
    monkeypatch.setattr("verify.rows.MOST_ROWS", 100)
    data = ",".join(COLUMNS).encode() + b"\n" + SHORTEST * 101
    found = import_rows(Store(tmp_path / "runs").open(), archive(tmp_path / "a.zip", **rows_file(data)))
    assert "holds more than 100 rows" in found.damaged[0]


@pytest.mark.parametrize(
    ("names", "lines", "sentence"),
    [
        (101, 1, "labels must be an object of plain values"),
        (50, 41, "holds more than 2,000 values of labels"),
        (50, 40, ""),
    ],
)
def test_countless_labels_are_damage(tmp_path, monkeypatch, names, lines, sentence):
    """A label takes ten times the memory of its text: 20 MB of them took 1.1 GB."""
    monkeypatch.setattr("verify.rows.MOST_LABEL_VALUES", 2000)
    data = ",".join(COLUMNS).encode() + b"\n"
    for line in range(lines):
        labels = ",".join(f'""{name}"":{line}' for name in range(names)).encode()
        data += SHORTEST.replace(b"{}", b'"{' + labels + b'}"').replace(b",,,,,,1,", b",%s,,,,,1," % RUN.encode())
    found = import_rows(Store(tmp_path / "runs").open(), archive(tmp_path / "a.zip", **rows_file(data)))
    assert (found.new, sentence in " ".join(found.damaged)) == (int(not sentence), True), found


@pytest.mark.parametrize("value", [b"[]", b'""', b"{}", b"1"])
def test_a_plan_of_countless_values_is_damage(tmp_path, monkeypatch, value):
    monkeypatch.setattr("depthwidth.files.MOST_VALUES", 1000)
    data = b'{"runs": [' + b",".join([value] * 2000) + b"]}"
    path = archive(tmp_path / "a.zip", **{"plans__walk.tiny.json": data})
    found = import_rows(Store(tmp_path / "runs").open(), path)
    assert "holds more than 1,000 values" in found.damaged[0]


def test_one_bad_plan_does_not_stop_the_rest(tmp_path):
    bad = {**PLAN, "job": "other", "predictions": 1.5}
    files = {"plans__other.tiny.json": sealed(bad), "plans__walk.tiny.json": sealed(PLAN), **rows_file(rows_to_csv([row()]))}
    store = Store(tmp_path / "runs").open()
    found = import_rows(store, archive(tmp_path / "a.zip", **files))
    assert (found.plans, found.new, len(found.damaged)) == (1, 1, 1)
    assert "other.tiny.json: it is not a plan" in found.damaged[0]
    assert [plan["job"] for plan in store.plans()] == ["walk"]
    assert set(store.rows()) == {RUN}


def test_formulas_of_spreadsheets_from_an_archive_are_text(tmp_path):
    evil = '=HYPERLINK("http://x","y")'
    store = Store(tmp_path / "runs").open()
    store.publish(RUN, [row(site=evil, labels={"depth": 2, evil: "+1"})])
    store.publish(OTHER, [row(run=OTHER, site="end", quantity="a\x1b[31m")])
    export_rows(store, tmp_path / "rows.csv")
    header, *lines = csv.reader(io.StringIO((tmp_path / "rows.csv").read_text()))
    assert "'" + evil in header
    assert "'" + evil in lines[0]
    assert "'+1" not in lines[0]  # a number stays one
    assert "a\\x1b[31m" in lines[1]


def test_damaged_files_are_left_out_of_an_export(tmp_path):
    store = Store(tmp_path / "runs").open()
    store.write_plan(PLAN)
    store.publish(RUN, [row()])
    (tmp_path / "runs" / "plans" / "other.tiny.json").write_text("{")
    export_rows(store, tmp_path / "rows.zip")
    assert len(zipfile.ZipFile(tmp_path / "rows.zip").namelist()) == 2
