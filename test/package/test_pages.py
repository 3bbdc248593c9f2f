"""The pages that people read: their links lead somewhere, and the README stays short."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from upsnet_ros import Predictor

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")],
    key=lambda path: path.as_posix(),
)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.M)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def test_the_readme_has_at_most_1100_words():
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 1100


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_pages_lead_somewhere(page):
    lost = []
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]*))?\)", page.read_text("utf-8")):
        file = page.parent / target if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            lost.append(f"{target}#{anchor}")
    assert lost == []


def test_the_api_page_lists_every_argument_of_predictor():
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    table = page.partition("## Predictor")[2].partition("## ")[0]
    cells = re.findall(r"^\| (`[^|]+`) \|", table, re.M)
    listed = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(listed) == sorted(inspect.signature(Predictor).parameters)
