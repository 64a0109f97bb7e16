"""``depthwidth pareto``: its front, its page, its refusals."""

import json
import re


def test_the_front_is_beaten_by_none(invoke):
    found = json.loads(invoke("pareto", "200M", "--vocab", "1000", "--context", "256", "--json").output)
    assert found["candidates"] > len(found["front"]) > 2
    assert found["tokens"] == 4e9
    names = ("loss", "decode_seconds", "serving_memory")
    for one in found["front"]:
        for other in found["front"]:
            assert one == other or any(other[name] > one[name] for name in names)


def test_the_page_has_rows_by_time(invoke):
    page = invoke("pareto", "200M", "--rows", 5, "--tp", 2).output
    assert "are unbeaten in loss" in page
    assert "a proxy" in page
    lines = page.splitlines()
    assert len(lines) == 3 + 5 + 4


def test_every_loss_has_an_error_or_the_reason_why_not(invoke):
    arguments = ("pareto", "200M", "--vocab", "1000", "--context", "256")
    for row in json.loads(invoke(*arguments, "--json").output)["front"]:
        assert row["loss_stderr"] > 0
    for row in json.loads(invoke(*arguments, "--law", "liu2026", "--json").output)["front"]:
        assert row["loss_stderr"] is row["loss_change_stderr"] is None
    known, unknown = (invoke(*arguments, "--rows", 4, "--law", law).output for law in ("gemstones2025", "liu2026"))
    assert len(re.findall(r"\d\.\d{4} \+- \d\.\d{4}", known)) == 4
    assert "No error of these losses is known (liu2026)" in unknown
    assert "No error of these losses" not in known


def test_what_is_wrong_is_one_sentence(invoke):
    for arguments, words in (
        (("10",), "too few"), (("1B", "--preset", "mixtral"), "dense language models"), (("1B", "--law", "none"), "law='none'"),
        (("1B", "--accelerator", "none"), "there is no accelerator"), (("-5",), "parameters"),
    ):  # fmt: skip
        result = invoke("pareto", *arguments)
        assert result.status == 2
        assert words in result.error
