"""Links between the pages of this repository: files and anchors that they name are there."""

import re
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt

from swiftkv.config import ROOT

FOLDERS = "config docs notebooks packaging profiles requirements results/reference tests workflow".split()
PAGES = sorted({*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))})
# Files whose comments and docstrings name pages by their path from the top.
SOURCES = sorted(
    path
    for folder in ("benchmarks", "config", "profiles", "swiftkv", "tests", "workflow", "packaging", "notebooks")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".sh", ".smk", ".yaml", ".ipynb", ".rst"} or path.name == "Containerfile"
)
SOURCES.append(ROOT / "Makefile")


@cache
def tokens(page: Path) -> list:
    """The page as CommonMark with tables, inline tokens last in each block."""
    blocks = MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))
    return [token for block in blocks for token in (block, *(block.children or []))]


@cache
def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    seen, found = Counter(), set()
    for opening, text in pairwise(tokens(page)):
        if opening.type == "heading_open":
            shown = "".join(t.content for t in text.children if t.type in {"text", "code_inline"})
            slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return found


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere. Links to other hosts are not followed."""
    found = []
    for token in tokens(page):
        link = str(token.attrs.get("href") or token.attrs.get("src") or "")
        parts = urlsplit(link)
        if not link or parts.scheme or parts.netloc:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not target.exists() or (parts.fragment and parts.fragment not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    assert not broken(page)


def test_pages_named_in_comments_are_there():
    named = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in SOURCES
        for name in re.findall(r"(?<![\w/-])docs/[\w/-]+\.md", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 10
    assert not [pair for pair in sorted(named) if not (ROOT / pair[1]).is_file()]


def test_broken_links_are_found(tmp_path):
    (tmp_path / "b.md").write_text("# `x_y`, and More: 2\n\n# `x_y`, and More: 2\n")
    good = ["b.md#x_y-and-more-2", "b.md#x_y-and-more-2-1", "#top", ".", "https://nowhere.invalid/x"]
    bad = ["c.md", "b.md#more", "#bottom", "b.md#x_y-and-more-2-2"]
    row = " ".join(f"[z]({link})" for link in good + bad)
    page = tmp_path / "a.md"
    page.write_text(f"# Top\n\n| x |\n|---|\n| {row} |\n\n![](x.png)\n\n`[no](code.md)`\n")
    assert broken(page) == [*bad, "x.png"]
