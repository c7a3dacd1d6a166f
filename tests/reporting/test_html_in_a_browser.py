"""The page in a real browser: no barrier, no script, no sideways scrolling on a phone, A4 on paper."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import pytest

from fp8doctor import api
from tests import browser

pytestmark = [pytest.mark.charts, pytest.mark.browser]
BOXES = sorted((Path(__file__).parent.parent / "boxes").glob("*.json"))
RICHEST = BOXES[0].with_name("h200-thorough.json")
# One of each kind of page: everything, a workload, images, a neighbour, nothing. The others have no other parts.
NAMED = ("h200-thorough", "h200-bench-flux", "h200-bench-pipeline", "h200-busy", "no-gpu")
KINDS = [box for box in BOXES if box.stem in NAMED]


@lru_cache(maxsize=2)
def page(box: Path) -> str:
    return api.diagnose(box).to_html()


@pytest.mark.parametrize("box", KINDS, ids=lambda box: box.stem)
def test_axe_core_finds_no_barrier(box: Path) -> None:
    assert browser.barriers(page(box)) == []


def test_nor_does_it_in_the_dark_or_on_a_phone() -> None:
    assert browser.barriers(page(RICHEST), dark=True) == []
    assert browser.barriers(page(RICHEST), width=500) == []


def test_axe_core_would_find_one() -> None:
    pale = page(RICHEST).replace("--muted: #57606a;", "--muted: #c9ced4;", 1)
    assert "color-contrast" in [rule for rule, *_ in browser.barriers(pale)]


def test_dark_follows_what_the_reader_prefers() -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    assert browser.answer(page(RICHEST), ground) == "rgb(255, 255, 255)"
    assert browser.answer(page(RICHEST), ground, dark=True) == "rgb(20, 23, 26)"


@pytest.mark.parametrize("width", [500, 1280])
def test_the_page_does_not_scroll_sideways(width: int) -> None:
    widths = browser.answer(
        page(RICHEST), "[document.documentElement.scrollWidth, document.documentElement.clientWidth]", width=width
    )
    assert widths[0] <= widths[1]


def test_charts_are_drawn_where_they_can_be_seen() -> None:
    boxes = browser.answer(
        page(RICHEST),
        "[...document.querySelectorAll('figure svg')].map(s => [s.getBoundingClientRect().width,"
        " [...s.querySelectorAll('text')].filter(t => t.getBoundingClientRect().left <"
        " s.closest('figure').getBoundingClientRect().left - 1).length])",
    )
    assert len(boxes) >= 8
    for width, cut in boxes:
        assert width > 300
        assert cut == 0, "no label is cut off at the left"


def test_all_that_scrolls_is_reached_by_the_keyboard() -> None:
    unreached = browser.answer(
        page(RICHEST),
        "[...document.querySelectorAll('*')].filter(e => ['auto', 'scroll'].includes(getComputedStyle(e).overflowX)"
        " && e.scrollWidth > e.clientWidth && e.tabIndex < 0).map(e => e.tagName)",
        width=500,
    )
    assert unreached == []
    first = browser.answer(page(RICHEST), "document.querySelector('a, button, summary, [tabindex]').textContent")
    assert first == "Skip to the report"


def test_without_scripts_it_shows_the_same() -> None:
    shown = browser.run(page(RICHEST))
    assert shown.count("<svg") == page(RICHEST).count("<svg")
    assert 'id="said"' not in shown


def test_it_prints_on_a4_with_its_evidence(tmp_path: Path) -> None:
    pdf = tmp_path / "report.pdf"
    browser.run(page(RICHEST), f"--print-to-pdf={pdf}", "--no-pdf-header-footer")
    boxes = set(re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf.read_bytes()))
    assert {(round(float(width)), round(float(height))) for width, height in boxes} == {(595, 842)}
