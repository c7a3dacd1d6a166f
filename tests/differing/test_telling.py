"""How a difference reads: in a terminal, in Markdown, as JSON, whatever the reports hold."""

from __future__ import annotations

import io
import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from fp8doctor import api
from fp8doctor.differing import Difference
from fp8doctor.reporting.difference import render
from fp8doctor.reporting.difference_words import longer
from tests.difference_cases import NAMES, Document, both, changed, fact, recorded, slower

SCHEMA = Path(__file__).parents[2] / "fp8doctor" / "schema" / "difference-1.0.json"
EVIL = "\x1b[31m\u202eevil <img src=x onerror=1> @everyone | [a](http://b)\nnew line"


def terminal(found: Difference, width: int = 80, *, verbose: bool = False, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=stream, width=width, color_system=None, highlight=False, markup=False, emoji=False)
    render(api.difference_view(found), console, verbose=verbose)
    stream.seek(0)
    return stream.read()


def much() -> Difference:
    """A difference with something in every section."""
    change = both(
        fact("gpus.gpus.0.power_limit_w", 450.0),
        fact("torch_build.version", "2.12.0+cu130"),
        fact("machine.environment.CUDA_LAUNCH_BLOCKING", "1"),
        fact("gpus.gpus.0.processes", [{"pid": 1, "used_memory_mib": 900.0}]),
        fact("driver.cuda_version", None),
        slower(1.3, lambda case: "bf16" in case["config"]),
    )
    return api.diff(recorded(), changed(change))


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    for found in (much(), api.diff(recorded(), recorded("no-gpu")), api.diff(recorded("no-gpu"), recorded())):
        for text in (terminal(found, width), terminal(found, width, verbose=True)):
            assert max(map(len, text.splitlines())) <= width


def test_everything_is_told() -> None:
    text = " ".join(terminal(much()).split())
    for words in (
        "power limit: 700 W -> 450 W",
        "torch: 2.11.0+cu130 -> 2.12.0+cu130",
        "CUDA_LAUNCH_BLOCKING: not set -> 1",
        "other processes: 0 -> 1",
        "30 % longer",
        "cannot tell them apart",
        "SYS001",
        "in B newest CUDA of the driver",
    ):
        assert words in text


def test_nothing_is_said_in_more_than_one_screen_where_nothing_differs() -> None:
    assert len(terminal(api.diff(recorded(), recorded())).splitlines()) <= 30


def test_ascii_terminals_get_ascii() -> None:
    assert terminal(much(), encoding="ascii").isascii()


@pytest.mark.parametrize("pair", [(a, b) for a in NAMES for b in NAMES if a <= b])
def test_every_pair_of_boxes_gives_valid_json_and_markdown_that_fits(pair: tuple[str, str]) -> None:
    found = api.diff(recorded(pair[0]), recorded(pair[1]))
    document = json.loads(found.to_json())
    assert (document["schema"], document["schema_version"]) == ("fp8doctor.difference", "1.0")
    assert list(jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).iter_errors(document)) == []
    assert len(found.to_markdown()) < 60_000
    assert terminal(found)


def test_what_strangers_wrote_breaks_out_of_nothing() -> None:
    def hostile(facts: Document) -> None:
        facts["torch_build"]["version"] = EVIL
        facts["gpus"]["gpus"][0]["name"] = EVIL
        facts["libraries"]["installed"][EVIL] = EVIL
        facts["machine"]["environment"]["NVTE_DEBUG"] = EVIL
        for case in facts["linear"]["cases"][:40]:
            case["config"] = EVIL

    found = api.diff(changed(hostile), recorded(), names=(EVIL, "B"))
    text, markdown = terminal(found, verbose=True), found.to_markdown()
    assert not {"\x1b", "\u202e"} & set(text + markdown)
    readable = markdown.partition("<details>")[0]
    for line in readable.splitlines():
        outside = "".join(line.split("`")[::2])
        assert "<img" not in outside
        assert "@everyone" not in outside


@settings(max_examples=25)
@given(text=st.text(max_size=80), which=st.sampled_from(["torch_build.version", "machine.cpu", "driver.version"]))
def test_any_text_can_be_told(text: str, which: str) -> None:
    clean = text.encode("utf-8", "ignore").decode()
    found = api.diff(recorded(), changed(fact(which, clean)))
    assert terminal(found)
    assert json.loads(found.to_json())
    assert found.to_markdown().startswith("### fp8doctor diff")


def test_who_and_where_are_replaced_unless_asked_otherwise() -> None:
    home = fact("machine.environment.CUDA_HOME", "/home/margarethe/cuda")
    found = api.diff(recorded(), changed(home))
    assert "margarethe" not in found.to_json() + found.to_markdown()
    assert "margarethe" in found.to_json(redact=False)


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(1.08, "8 % longer"), (0.92, "8 % shorter"), (2.3, "2.30x as long"), (0.4, "0.40x as long")],
)
def test_how_much_longer_is_said_as_people_say_it(ratio: float, words: str) -> None:
    assert longer(ratio) == words
