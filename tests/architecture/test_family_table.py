"""The table of families in the documentation is what the command prints."""

import re

import pytest
from family_table import PAGE, printed, row_of, table

from depthwidth.architecture.hf import FAMILIES


@pytest.mark.slow
def test_the_table_of_families_is_current():
    page = PAGE.read_text(encoding="utf-8")
    assert printed(page) == table()


def test_no_page_has_the_number_of_families():
    """It would be typed by hand, and wrong after the next one."""
    root = PAGE.parents[1]
    for page in (root / "README.md", *(root / "docs").glob("*.md")):
        if page.name != "log.md":
            found = re.search(r"\b\d\d+ (Hugging Face )?families", page.read_text(encoding="utf-8"))
            assert found is None, (page.name, found)


def test_a_row_follows_its_family(monkeypatch):
    """A class or a field more is seen."""
    from dataclasses import replace

    plain = row_of(FAMILIES["gpt2"])
    changed = replace(FAMILIES["gpt2"], only={**FAMILIES["gpt2"].only, "colour": (1,)}, models={"GPT2Model": {"head": "none"}})
    assert plain != row_of(changed)
    assert "`colour` other than `1`" in row_of(changed)[-1]
