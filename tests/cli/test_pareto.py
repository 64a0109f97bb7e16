"""``depthwidth pareto``: its front, its page, its refusals."""

import json


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
    assert "are beaten by no other" in page
    assert "a proxy" in page
    lines = page.splitlines()
    assert len(lines) == 3 + 5 + 4


def test_what_is_wrong_is_one_sentence(invoke):
    for arguments, words in (
        (("10",), "too few"), (("1B", "--preset", "mixtral"), "dense language models"), (("1B", "--law", "none"), "law='none'"),
        (("1B", "--accelerator", "none"), "there is no accelerator"), (("-5",), "parameters"),
    ):  # fmt: skip
        result = invoke("pareto", *arguments)
        assert result.status == 2
        assert words in result.error
