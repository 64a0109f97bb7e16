"""Printed names hold nothing that a terminal or a spreadsheet would act on."""

import csv
import io
import sys
from pathlib import Path

import pytest

import depthwidth
import verify
from depthwidth.cli.output import as_csv, as_markdown, emit, print_facts, print_table, say
from depthwidth.errors import InputError, printable

EVIL = "red \x1b[31m\nFAILED\r\0\x07\x9b \ud800 \u202e"


def test_text_of_anyone_is_one_printable_line():
    assert printable("é 名 😀") == "é 名 😀"
    assert printable(EVIL) == r"red \x1b[31m\nFAILED\r\x00\x07\x9b \ud800 \u202e"


def test_lines_tables_and_facts_are_clean(capsys):
    say(EVIL, "next", heading=EVIL)
    print_table(("a", EVIL), [(EVIL, "1")], title=EVIL)
    print_facts({"name": EVIL, EVIL: "x"})
    say(EVIL, error=True)
    captured = capsys.readouterr()
    for text in captured:
        assert not set(text) & set("\x1b\r\0\x07\x9b\ud800\u202e")
        assert "FAILED" not in {line.strip() for line in text.splitlines()}
    assert len(captured.out.splitlines()) == 2 + 5 + 3


def test_markdown_keeps_its_rows():
    assert len(as_markdown([{"a": EVIL, "b|": 1}]).splitlines()) == 3


@pytest.mark.parametrize("cell", ['=HYPERLINK("http://x")', "+1+cmd|' /C calc'!A0", "-1+2", "@SUM(1)", " =1", "\t=1", "=1e5"])
def test_a_spreadsheet_takes_no_text_for_a_formula(cell):
    ((found,),) = list(csv.reader(io.StringIO(as_csv([{"a": cell}]))))[1:]
    assert found[0] == "'"
    assert found[1:] == printable(cell)


@pytest.mark.parametrize("cell", ["-1", "+2.5e-3", "-inf", "a=b", 'with, "quotes"\nand lines', "", "-5%"])
def test_other_text_and_numbers_stay_as_they_are(cell):
    ((found,),) = list(csv.reader(io.StringIO(as_csv([{"a": cell or "x"}]))))[1:]
    assert found == (cell or "x")


def test_names_of_columns_are_text_of_anyone_too():
    assert as_csv([{"=A1": -1.5, "b": EVIL}]).encode().startswith(b"'=A1,b\n-1.5,")


def test_nothing_is_printed_beside_it():
    packages = [Path(package.__file__).parent for package in (depthwidth, verify)]
    printing = {
        path.name
        for package in packages
        for path in package.rglob("*.py")
        if any(f"click.{name}(" in path.read_text(encoding="utf-8") for name in ("echo", "secho"))
    }
    assert printing == {"output.py"}


@pytest.mark.parametrize(
    "arguments",
    [("describe", EVIL), ("verify", "status", "--out", EVIL), ("plan", EVIL), (EVIL,), ("plan", f"--{EVIL}"), ("table", EVIL)],
    ids=range(6),
)  # fmt: skip
def test_an_error_is_one_clean_line(invoke, arguments):
    result = invoke(*arguments)
    assert (result.status, result.output, result.error.count("\n")) == (2, "", 1)
    assert result.error.removesuffix("\n").isprintable()


@pytest.mark.slow
def test_an_output_that_cannot_be_written_is_told(in_fresh_python):
    source = """
import subprocess, sys
words = [sys.executable, "-m", "depthwidth", "table"]
done = subprocess.run(words, stdout=open("/dev/full", "w"), stderr=subprocess.PIPE, text=True)
print(done.returncode, done.stderr)
"""
    assert in_fresh_python(source).strip() == "3 Error: the output cannot be written: No space left on device"


@pytest.mark.parametrize(("words", "status"), [(("table",), 0), (("table", "--json"), 0), (("table", "none"), 2)])
@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_stream_that_the_caller_has_closed_gets_nothing(monkeypatch, capsys, words, status, closed):
    """Python then has None for the error stream, and prints errors to the output."""
    from depthwidth.__main__ import main
    from depthwidth.cli.live import Display

    monkeypatch.setattr(sys, "argv", ["depthwidth", *words])
    monkeypatch.setattr(sys, closed, None)
    Display().tell("progress")
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert end.value.code == status
    if closed == "stdout":
        assert ("progress" in err, "Error: " in err) == (True, status == 2)
    else:
        assert "progress" not in out
        assert (out == "") == (status == 2)


@pytest.mark.parametrize("word", ["null\0byte", "half \ud800"], ids=["null", "half"])
@pytest.mark.parametrize(
    "words", [("verify", "status", "--out"), ("verify", "report", "--html"), ("plan", "1B", "--plot"), ("text",)], ids=" ".join
)
def test_what_can_be_no_path_is_refused_in_one_place(invoke, words, word):
    result = invoke(*words, word)
    assert (result.status, result.error.count("\n")) == (2, 1)
    assert "holds a null byte or half a character" in result.error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ZeroDivisionError()], ids=["disk", "drawing"])
def test_a_picture_that_fails_leaves_no_file(tmp_path, error):
    from depthwidth.plots import save

    class Figure:
        def savefig(self, file, **_):
            file.write(b"half")
            raise error

    with pytest.raises((InputError, ZeroDivisionError)):
        save(Figure(), tmp_path / "plot.png")
    assert list(tmp_path.iterdir()) == []


READING = [("text", "text.txt", "--tokenizer"), ("describe",), ("text",), ("plan", "1B", "--like")]


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_a_name_that_is_too_long_is_one_sentence(invoke, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("a b a")
    result = invoke(*words, "x" * 5000)
    assert (result.status, result.output, result.error.count("\n")) == (2, "", 1)
    assert "File name too long" in result.error


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_that_json_has_none_of_are_refused(value, capsys):
    with pytest.raises(InputError, match="infinite or undefined"):
        emit("json", {"seconds": value}, [], lambda: None)
    emit("json", {"seconds": 1.5}, [], lambda: None)
    assert capsys.readouterr().out == '{\n  "seconds": 1.5\n}\n'
