"""Hooks of the site: pages from outside of docs/, the atlas of formulas, and links that lead to files without a page."""

from __future__ import annotations

import json
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = {"data/README.md": "data.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages at the root of the project, and their names on the site."""
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]+)?\)")

_SHIM = re.compile(r"<script src=[^>]*iframe-worker/shim[^>]*></script>")
_ASSET = re.compile(
    r"<(?:script|img|iframe|link(?=[^>]*rel=.?(?:stylesheet|preload|preconnect)))[^>]*(?:src|href)=.?(?P<address>(?:https?:)?//[^\s>]+)"
)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that stand outside of docs/, the atlas and the reference, whose links are checked as all others are."""
    sys.path.insert(0, str(Path(__file__).parent))  # mkdocs restores the path after it has loaded a hook
    import atlas
    import reference

    for path, name in OUTSIDE.items():
        files.append(File.generated(config, name, content=(ROOT / path).read_text(encoding="utf-8")))
    for book in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{book.stem}.md", content=_notebook_page(book)))
    made = atlas.pages()
    try:
        listed = reference.pages()
    except reference.DeadLinkError as error:
        raise PluginError(f"docstrings name what is not there: {error}") from None
    for name, text in (made | listed).items():
        files.append(File.generated(config, name, content=text))
    derivations = sorted(f.src_uri for f in files.documentation_pages() if f.src_uri.startswith("derivations/"))
    config.nav = [
        *_navigation(files),
        "changelog.md",
        {"Derivations": derivations},
        {"Atlas of formulas": list(made)},
        {"Reference": list(listed)},
    ]
    return files


def _navigation(files: Files) -> list[Any]:
    """The pages in the order of the map, docs/README.md, under its headings."""
    found: list[Any] = ["README.md"]
    section: list[Any] = found
    for line in (ROOT / "docs" / "README.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = []
            found.append({line.removeprefix("## "): section})
        elif line.startswith("| ["):
            for match in _LINK.finditer(line.split(" | ")[0]):
                name = _page_name(posixpath.normpath(posixpath.join("docs", match["path"])))
                if name is not None and not name.startswith("derivations/") and files.get_file_from_path(name) is not None:
                    section.append({match["text"]: name})
    return found


def _page_name(path: str) -> str | None:
    """The name on the site of a file of the project; None if it is no page."""
    inside = path.removeprefix("docs/").replace(".ipynb", ".md") if path.startswith("docs/") else None
    return OUTSIDE.get(path) or inside


def _notebook_page(book: Path) -> str:
    """A notebook with its stored outputs as Markdown."""
    parts = []
    for cell in json.loads(book.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "text/html" in data:
                parts.append(f"<div>{''.join(data['text/html'])}</div>")
            else:
                parts.append(f"```text\n{''.join(data['text/plain']).rstrip()}\n```")
    return "\n\n".join(parts)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links at pages of the site; a link to another file of the project becomes its name."""
    inverse = {name: path for path, name in OUTSIDE.items()}
    here = posixpath.dirname(inverse.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def pointed(match: re.Match[str]) -> str:
        text, path, anchor = match["text"], match["path"], match["anchor"] or ""
        target = posixpath.normpath(posixpath.join(here, path))
        name = "README.md" if target == "README.md" else _page_name(target)
        if name is not None and files.get_file_from_path(name) is not None:
            relative = posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or ".")
            return f"[{text}]({relative}{anchor})"
        if not (ROOT / target).exists():
            return match[0]  # mkdocs reports it
        return f"{text} (`{target}`)"

    return _LINK.sub(pointed, markdown)


def on_post_build(config: Any) -> None:
    """Refuse a page that asks the network for anything: the site is read offline.

    The theme's one script from elsewhere only makes the search work without a server. It is taken out.
    """
    for page in Path(config.site_dir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        own = _SHIM.sub("", text)
        if own != text:
            page.write_text(own, encoding="utf-8")
        asked = _ASSET.search(own)
        if asked is not None:
            raise PluginError(f"{page.name} loads {asked['address']}")
