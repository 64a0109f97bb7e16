"""The reference of the site: public names, their docstrings as Markdown, and roles that lead somewhere."""

import importlib
import inspect
import pkgutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")  # the pages on verify
sys.path.insert(0, str(Path(__file__).parents[1] / ".ci" / "site"))
import reference

import depthwidth

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pages():
    return reference.pages()


def test_every_public_name_has_an_entry(pages):
    page = pages["reference/depthwidth.md"]
    for name in depthwidth.__all__:
        thing = getattr(depthwidth, name)
        if inspect.isclass(thing) or inspect.isroutine(thing):
            assert f"## {name} {{ #{name} }}" in page
    assert "### Transformer.from_config { #Transformer.from_config }" in page
    assert "## Block { #Block }" in pages["reference/depthwidth.layers.md"]
    assert "## from_hf { #from_hf }" in pages["reference/verify.md"]


def test_links_lead_to_entries(pages):
    """Each link within the reference has a page and an anchor there; mkdocs checks the same of the whole site."""
    links = 0
    for name, text in pages.items():
        for page, anchor in reference.links(text):
            target = f"reference/{page}" if page else name
            if not page.startswith("../"):
                links += 1
                assert not anchor or f"{{ #{anchor} }}" in pages[target], (name, page, anchor)
    assert links > 300


def first():
    """See :func:`second`, :func:`~depthwidth.plan` and :class:`.Transformer`; *not* <b>."""


def second():
    """See :func:`no_such_function`."""


def test_a_role_without_a_target_is_an_error(monkeypatch):
    """The negative control: a docstring that names nothing is found, and one that names what is there is not."""
    dead = []
    shown = reference.markdown(first, "x.md", {id(depthwidth.plan): reference.Place("depthwidth.md", "plan")}, dead)
    assert shown == r"See `second`, [`plan`](depthwidth.md#plan) and `.Transformer`; \*not\* &lt;b>."
    assert dead == []
    reference.markdown(second, "x.md", {}, dead)
    assert dead == [f"no_such_function in {second.__module__}.second"]
    monkeypatch.setattr(depthwidth.plan, "__doc__", second.__doc__)
    with pytest.raises(reference.DeadLinkError, match=r"no_such_function in depthwidth\.planning\.plan\.plan"):
        reference.pages()


def documented(package):
    """Every function, class and method that the modules of a package define."""
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for thing in list(vars(module).values()):
            if (inspect.isclass(thing) or inspect.isroutine(thing)) and getattr(thing, "__module__", "") == info.name:
                yield thing
                yield from (inner for _, inner in reference._methods(thing))


def test_every_role_of_every_docstring_leads_somewhere():
    dead = []
    count = 0
    for thing in documented(depthwidth):
        count += 1
        reference.markdown(thing, "x.md", {}, dead)
    assert dead == []
    assert count > 2000


def test_sections_become_lists():
    text = reference.markdown(depthwidth.propagate, "x.md", {}, [])
    assert "**Parameters**" in text
    assert "- `tree`: " in text
    assert "**Raises**" in text
    assert text.count("```") % 2 == 0
