"""Tables of runs: guesses of columns, conditions, and bad tables, each with one sentence or handled in bounded time."""

import json
import math
import time

import numpy as np
import pandas as pd
import pytest

from depthwidth import InputError
from depthwidth.fitting import read_runs
from depthwidth.fitting.table import MOST_BYTES, THINNED

NEEDS = ("width", "depth", "parameters", "tokens", "loss")


def rows(n=6):
    return [
        {
            "run_name": f"r{i // 2}",
            "d_model": 64 + i,
            "n_layers": 4 + i,
            "total_params": 1e6 + i,
            "tokens": 1e9,
            "val_loss": 3.0 + i,
        }
        for i in range(n)
    ]


def write(folder, kind, data):
    path = folder / f"runs.{kind}"
    if kind == "csv":
        pd.DataFrame(data).to_csv(path, index=False)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in data))
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "frame", "rows"])
def test_columns_are_guessed_and_the_guesses_told(tmp_path, kind):
    data = rows()
    source = {"frame": lambda: pd.DataFrame(data), "rows": lambda: iter(data)}.get(kind, lambda: write(tmp_path, kind, data))()
    found = read_runs(source, NEEDS)
    assert found.guesses == {
        "width": "d_model", "depth": "n_layers", "parameters": "total_params", "tokens": "tokens", "loss": "val_loss",
        "model": "run_name",
    }  # fmt: skip
    assert found["width"].tolist() == [64.0, 65, 66, 67, 68, 69]
    assert found.models == ("r0", "r1", "r2")
    assert found.model.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.notes == ()


def test_a_column_may_be_an_expression(tmp_path):
    columns = {"non_embedding": "total_params - 2*50*d_model", "loss": "val_loss"}
    found = read_runs(rows(), ("non_embedding", "loss"), columns=columns)
    assert found["non_embedding"][1] == 1e6 + 1 - 100 * 65
    for text, sentence in (("__import__('os')", "holds"), ("total_params - heads", "uses 'heads', which is not a column")):
        with pytest.raises(InputError, match=sentence):
            read_runs(rows(), ("non_embedding",), columns={"non_embedding": text})


def test_rows_of_one_shape_are_one_model_where_no_column_says(tmp_path):
    data = [{k: v for k, v in row.items() if k != "run_name"} for row in rows(4)]
    found = read_runs([*data, *data], NEEDS)
    assert (found.rows, len(found.models)) == (8, 4)
    assert any("no column identifies models" in note for note in found.notes)
    assert found.models[0] == "64 x 4 x 1000000"


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("val_loss < 5", 2),
        ("val_loss<=5", 3),
        ("d_model % 2 == 0", 3),
        ("run_name == r1", 2),
        ("run_name != r1", 4),
        ("tokens > 1", 6),
    ],
)
def test_conditions_choose_rows(where, kept):
    assert read_runs(rows(), NEEDS, where=[where]).rows == kept


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("val_loss", "is no condition"),
        ("los < 3", "is about 'los', which is not a column"),
        ("d_model % 0 == 1", "divides by 0"),
        ("run_name < r1", "which is not a number"),
        ("val_loss > 1e9", "no row fulfils"),
        ("__import__('os') == 1", "which is not a column"),
    ],
)
def test_a_bad_condition_is_one_sentence(where, sentence):
    with pytest.raises(InputError, match=sentence):
        read_runs(rows(), NEEDS, where=[where])


def changed(**values):
    return [{**rows()[0], **values}, *rows()[1:]]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (changed(val_loss=-1.0), "loss is -1 in row 1 of val_loss; it must be above 0"),
        (changed(d_model=0), "width is 0 in row 1"),
        (changed(n_layers=1e-308), r"depth is 1e-308 in row 1 of n_layers; it must be from 1e-60 to 1e\+60"),
        (changed(tokens=1e200), r"tokens is 1e\+200 in row 1 of tokens; it must be from 1e-60"),
        (changed(val_loss="low"), "column 'val_loss' holds 'low' in row 1, which is not a number"),
        ([{**row, "val_loss": math.nan} for row in rows()], "no row has a finite number"),
        ([{k: v for k, v in row.items() if k != "n_layers"} for row in rows()], "the table has no depth; name the column"),
        ([], "has no columns"),
        ([1, 2], "mappings, one a row"),
        (3, "mappings, one a row"),
        ({"loss": [1]}, "not one mapping"),
    ],
)
def test_a_bad_table_is_one_sentence(data, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        read_runs(data, NEEDS)
    assert "\n" not in str(error.value)


def test_rows_without_a_loss_are_left_out_and_counted():
    found = read_runs(changed(val_loss=math.nan), NEEDS)
    assert found.rows == 5
    assert found.notes == ("1 of 6 rows have no finite number in val_loss and are left out",)
    assert read_runs(changed(val_loss=math.inf), NEEDS).rows == 5


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("runs.txt", b"a,b\n", "ends in none of .csv, .jsonl"),
        ("runs.csv", b"", "has no columns"),
        ("runs.csv", b"\xff\xfe\x00loss", "is not comma-separated text in UTF-8"),
        ("runs.csv", b"loss,loss\n1,2\n", "has the column 'loss' twice"),
        ("runs.csv", b"d_model,n_layers,params,tokens,loss\n", "has no rows"),
        ("runs.jsonl", b"", "is empty"),
        ("runs.jsonl", b"[1]\n", "holds no JSON object in line 1"),
        ("runs.jsonl", b'{"loss": 1}\n{"loss"\n', "holds no JSON object in line 2"),
        ("runs.jsonl", b"[" * 100_000, "holds no JSON object in line 1"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, name, content, sentence):
    path = tmp_path / name
    path.write_bytes(content)
    needs = ("loss",) if b"n_layers" not in content else NEEDS
    with pytest.raises(InputError, match=sentence):
        read_runs(path, needs)


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="there is no table"):
        read_runs(tmp_path / "none.csv", NEEDS)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match="is not a regular file"):
        read_runs(tmp_path / "folder.csv", NEEDS)


def test_a_file_of_two_gigabytes_is_refused_at_once(tmp_path):
    path = tmp_path / "large.csv"
    with path.open("wb") as file:
        file.write(b"width,depth,parameters,tokens,loss\n")
        file.truncate(2 * 2**30)
    start = time.process_time()
    with pytest.raises(InputError, match=f"has 2,147,483,648 bytes; at most {MOST_BYTES:,} are read"):
        read_runs(path, NEEDS)
    assert time.process_time() - start < 0.5


@pytest.mark.slow
def test_a_million_rows_are_thinned_evenly():
    n = 10**6
    at = np.arange(n)
    frame = pd.DataFrame({
        "run": at % 50, "width": 64.0 + at % 50, "depth": 4.0, "parameters": 1e6, "tokens": 1e6 * (1 + at), "loss": 3.0,
    })  # fmt: skip
    start = time.process_time()
    found = read_runs(frame, NEEDS)
    assert time.process_time() - start < 20
    assert found.rows == THINNED
    assert np.ptp(np.bincount(found.model)) <= 1
    assert any("4,000 of 1,000,000 rows" in note for note in found.notes)


def test_parquet_is_read_or_its_reader_named(tmp_path):
    path = tmp_path / "runs.parquet"
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        path.write_bytes(b"PAR1")
        with pytest.raises(InputError, match=r"needs pyarrow; pip install 'depthwidth\[parquet\]'"):
            read_runs(path, NEEDS)
        return
    pd.DataFrame(rows()).to_parquet(path)
    assert read_runs(path, NEEDS).rows == 6
    path.write_bytes(b"PAR1 and nothing")
    with pytest.raises(InputError, match="is not a Parquet file"):
        read_runs(path, NEEDS)
