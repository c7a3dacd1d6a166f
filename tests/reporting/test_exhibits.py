"""Drawing: every kind, at every width, with figures that a careless scale would trip over."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp8doctor.reporting.exhibits import caption, draw
from fp8doctor.reporting.text import clean, factor, number, to_ascii
from tests.sample_reports import HEALTHY

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "label": st.text(max_size=30),
            "value": st.floats(0, 1e9) | st.integers(0, 10**9),
            "start": st.floats(0, 1e9),
            "ratio": st.none() | st.floats(0, 1e4),
        }
    ),
    max_size=6,
)


def bars(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"id": "x", "kind": "bars", "title": "t", "unit": "us", "rows": list(rows)}


@given(ROWS, st.integers(20, 160))
def test_bars_fit_whatever_they_show(rows: list[dict[str, Any]], width: int) -> None:
    lines = draw(bars(*rows), width)
    assert len(lines) == len(rows)
    assert all(line.cell_len <= width for line in lines)


def test_the_smallest_step_still_shows() -> None:
    first, last = draw(
        bars({"label": "a", "value": 1000, "start": 0}, {"label": "b", "value": 0.1, "start": 999.9}), 60
    )
    assert first.plain.count("█") == 44
    assert last.plain.count("█") == 1
    assert last.plain.index("█") <= first.plain.rindex("█")


def test_nothing_is_drawn_of_nothing_or_of_a_kind_from_the_future() -> None:
    assert draw(bars(), 80) == []
    assert draw({"id": "x", "kind": "sculpture", "title": "", "unit": "", "rows": [{"a": 1}]}, 80) == []


@pytest.mark.parametrize("exhibit", HEALTHY.exhibits, ids=lambda exhibit: str(exhibit.kind))
@pytest.mark.parametrize("width", [30, 60, 100])
def test_every_kind_fits(exhibit: Any, width: int) -> None:
    lines = draw({**vars(exhibit), "rows": list(exhibit.rows)}, width)
    assert lines
    assert all(line.cell_len <= width for line in lines)


def test_a_caption_says_its_unit_once() -> None:
    assert caption({"title": "GEMM, us on the device", "unit": "us"}) == "GEMM, us on the device"
    assert caption({"title": "GEMM", "unit": "TFLOP/s"}) == "GEMM, TFLOP/s"


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.038, "0.038"), (1.234, "1.23"), (99.96, "100"), (1234.5, "1,234"), (-3, "-3")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_small_things() -> None:
    assert factor(1.8349) == "1.83x"
    assert clean("a\x1b]0;title\x07b\x1b[1;31mc\x9bd\tе\r\nf") == "abcd    е\nf"
    assert to_ascii("✓ 3 × 4 µs … 漢") == "ok 3 x 4 us ... ?"
