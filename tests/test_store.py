"""Facts and reports as files: what was written comes back, and what cannot be judged is refused in one line."""

from __future__ import annotations

import json
import math
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp8doctor import store
from fp8doctor.judging.report import SCHEMA_VERSION, OutcomeRecord, ProbeRecord, Report, Tool, VerdictRecord
from fp8doctor.model import Facts, Message, Messages, ProbeRun, Request
from fp8doctor.plain import from_plain, to_plain
from fp8doctor.registry import OWN_FACTS, Registry, probe
from fp8doctor.store import NotAFactsFileError


@dataclass(frozen=True)
class Blade:
    length_mm: float | None = None
    material: Literal["steel", "resin"] | None = None


@dataclass(frozen=True)
class Fan(Facts, key="fan"):
    rpm: float | None = None
    name: str | None = None
    on: bool | None = None
    count: int | None = None
    blades: tuple[Blade, ...] | None = None
    by_hour: dict[str, float | None] | None = None


@probe(runs_in="tool", timeout_s=1)
def gather(request: Request) -> Iterator[Fan]:
    """Looking at the fan."""
    yield Fan()


REGISTRY = Registry(probes={"fan": gather.__fp8doctor__})  # type: ignore[attr-defined]


def report(**facts: Facts) -> Report:
    return Report(
        tool=Tool("9.9"),
        created="2026-01-02T03:04:05+00:00",
        source="live",
        verdict=VerdictRecord("unknown", "Cannot say.", None, None, None),
        elapsed_s=1.5,
        probes={key: ProbeRecord("ok", elapsed_ms=3.0) for key in facts},
        facts={key: to_plain(value) for key, value in facts.items()},
        captions=("a caption",),
    )


def document(version: str = SCHEMA_VERSION, **changes: Any) -> dict[str, Any]:
    made = {
        "schema": "fp8doctor.facts",
        "schema_version": version,
        "tool": {"version": "0.1.0"},
        "created": "2026-01-02T03:04:05+00:00",
        "source": "live",
        "probes": {"fan": {"outcome": "ok"}},
        "facts": {"fan": {"rpm": 900.0}},
    }
    return {key: value for key, value in {**made, **changes}.items() if value is not ...}


def decoded(content: Any) -> store.Saved:
    return store.decode(content if isinstance(content, bytes) else json.dumps(content).encode(), REGISTRY)


def refusal(content: Any) -> str:
    with pytest.raises(NotAFactsFileError) as refused:
        decoded(content)
    text = str(refused.value)
    assert "\n" not in text
    assert len(text) <= store.MAX_REASON
    return text


# --- there and back


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
fans = st.builds(
    Fan,
    rpm=st.none() | numbers,
    name=st.none() | texts,
    on=st.none() | st.booleans(),
    count=st.none() | st.integers(-(2**63), 2**63),
    blades=st.none()
    | st.lists(st.builds(Blade, st.none() | numbers, st.none() | st.sampled_from(["steel", "resin"])), max_size=3).map(
        tuple
    ),
    by_hour=st.none() | st.dictionaries(texts, st.none() | numbers, max_size=3),
)


@given(fans)
def test_facts_come_back_as_they_were_from_a_report_and_from_a_facts_file(fan: Fan) -> None:
    whole = report(fan=fan, messages=Messages((Message("FAN001", "rotor locked", "fan"),)))
    for made in (store.report_document(whole), store.facts_document(whole)):
        for indent in (0, 1):
            saved = decoded(store.encode(made, indent=indent).encode())
            assert saved.runs["fan"] == ProbeRun("ok", fan, elapsed_ms=3.0)
            assert saved.runs["messages"].facts == Messages((Message("FAN001", "rotor locked", "fan"),))
            assert (saved.created, saved.tool_version, saved.not_understood) == (whole.created, "9.9", [])


@given(fans)
def test_a_child_rebuilds_the_facts_that_it_is_given_with_the_standard_library_alone(fan: Fan) -> None:
    assert from_plain(Fan, json.loads(json.dumps(to_plain(fan)))) == fan


def test_a_report_is_what_the_contract_says_and_a_facts_file_is_its_first_half() -> None:
    whole = store.report_document(report(fan=Fan()))
    assert list(whole)[:2] == ["schema", "schema_version"]
    assert whole["schema"] == "fp8doctor.report"
    assert whole["tool"] == {"version": "9.9"}
    assert "captions" not in whole
    half = store.facts_document(report(fan=Fan()))
    assert half.keys() == {"schema", "schema_version", "tool", "created", "source", "probes", "facts"}
    assert half["schema"] == "fp8doctor.facts"


def test_json_text_is_strict_and_ends_with_a_line_feed() -> None:
    text = store.encode({"a": math.nan, "b": "ü"})
    assert text.endswith("}\n")
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == {"a": None, "b": "ü"}
    assert "\n" not in store.encode({"a": [1, 2]}, indent=0)


def test_an_older_file_with_less_in_it_is_read() -> None:
    saved = decoded(document(version="0.9", tool=..., created=..., source=..., facts={}, probes={}))
    assert (saved.created, saved.tool_version, saved.elapsed_s) == ("", "", None)
    assert saved.runs["fan"] == ProbeRun("not-observed")


def test_facts_without_a_record_of_their_probe_were_observed_and_the_rest_was_not() -> None:
    assert decoded(document(probes={})).runs["fan"] == ProbeRun("ok", Fan(900.0))
    assert decoded(document(facts={}, probes={})).runs["fan"].outcome == "not-observed"
    crashed = decoded(document(facts={"fan": None}, probes={"fan": {"outcome": "signal", "detail": "SIGSEGV"}}))
    assert crashed.runs["fan"] == ProbeRun("signal", None, "SIGSEGV")


def test_the_order_of_what_was_read_is_the_registrys() -> None:
    backwards = document(facts={"zz": {}, "fan": {}, "aa": {}}, probes={})
    assert list(decoded(backwards).runs) == [*OWN_FACTS, "fan"]
    assert decoded(backwards).not_understood == ["facts.zz", "facts.aa"]


# --- versions


def test_of_a_newer_minor_version_what_is_unknown_is_kept_and_named() -> None:
    facts = {
        "fan": {"rpm": 900.0, "colour": "red", "blades": [{"length_mm": 1.0}, {"weight_g": 5}]},
        "pump": {"on": True},
    }
    saved = decoded(document(version="1.7", facts=facts))
    assert saved.runs["fan"].facts == Fan(rpm=900.0, blades=(Blade(1.0), Blade()))
    assert saved.not_understood == ["facts.fan.colour", "facts.fan.blades[1].weight_g", "facts.pump"]
    assert saved.raw_facts == facts


def test_of_our_own_version_an_unknown_field_is_refused() -> None:
    assert refusal(document(facts={"fan": {"colour": "red"}})) == "unknown fields: facts.fan.colour"


def test_a_subject_that_is_not_installed_here_is_kept_and_named_in_any_version() -> None:
    assert decoded(document(facts={"pump": {"on": True}})).not_understood == ["facts.pump"]


def test_a_newer_major_version_is_refused_and_says_what_to_do() -> None:
    assert refusal(document(version="2.0")) == f"schema version 2.0 is newer than {SCHEMA_VERSION}: update fp8doctor"


@pytest.mark.parametrize("version", [None, "", "1", "one.two", "1.0.0", [], {}, 1, "9" * 5000 + ".0"])
def test_a_version_that_is_none_is_refused(version: Any) -> None:
    assert "version" in refusal(document(schema_version=version))


# --- what is no facts file


@pytest.mark.parametrize("schema", [..., None, "", "fp8doctor.other", 7, ["fp8doctor.facts"], {}])
def test_another_schema_is_refused(schema: Any) -> None:
    assert refusal(document(schema=schema)) == "neither a facts file nor a report of fp8doctor"


@pytest.mark.parametrize("content", [b"[]", b"null", b"3", b'"facts"', b"true", b"{}"])
def test_json_that_is_something_else_is_refused(content: bytes) -> None:
    assert refusal(content) == "neither a facts file nor a report of fp8doctor"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" ",
        b"\n",
        b"not json",
        b"<html></html>",
        b"\x00\x01\xff",
        b"\xff\xfe{\x00}\x00",
        b"{'schema': 1}",
        b"{}{}",
    ],
)
def test_what_is_no_json_is_refused(content: bytes) -> None:
    assert refusal(content).startswith("not JSON, or cut short")


WHOLE = store.encode(store.report_document(report(fan=Fan(900.0, "é", True, 3, (Blade(),), {"a": 1.0})))).encode()


@given(st.integers(0, len(WHOLE.rstrip()) - 1))
def test_a_file_that_was_cut_short_is_refused_wherever_it_was_cut(length: int) -> None:
    assert refusal(WHOLE[:length]).startswith("not JSON, or cut short")


@given(st.binary(max_size=200))
def test_garbage_is_refused(content: bytes) -> None:
    refusal(content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(string.printable, max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from(["tool", "created", "source", "elapsed_s", "probes", "facts", "schema_version", "schema"]),
    json_values,
)
def test_any_value_in_any_place_is_read_or_refused_and_never_crashes(name: str, value: Any) -> None:
    try:
        saved = decoded(document(**{name: value}))
    except NotAFactsFileError:
        return
    store.encode({"facts": saved.raw_facts, "elapsed_s": saved.elapsed_s})


@given(st.sampled_from(["fan", "messages", "pump"]), json_values, json_values)
def test_the_same_holds_for_each_record(key: str, facts: Any, record: Any) -> None:
    try:
        saved = decoded(document(facts={key: facts}, probes={key: record}))
    except NotAFactsFileError:
        return
    assert set(saved.runs) == {"fan", *OWN_FACTS}


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"0x10", b"1" * 5000])
def test_a_number_that_json_does_not_have_is_refused(number: bytes) -> None:
    content = json.dumps(document()).encode().replace(b"900.0", number)
    assert number in content
    assert refusal(content).startswith("not JSON, or cut short")


@pytest.mark.parametrize("opened", [b"[", b'{"a":', b'[{"a":'])
@pytest.mark.parametrize("depth", [50, 500, 900, 100_000])
@pytest.mark.parametrize("place", [b'{"rpm": 900.0}', b"900.0", b'{"fan": {"rpm": 900.0}}'])
def test_nesting_made_to_break_readers_is_refused(opened: bytes, depth: int, place: bytes) -> None:
    closed = opened.replace(b'"a":', b"")[::-1].translate(bytes.maketrans(b"[{", b"]}"))
    bomb = opened * depth + b"1" + closed * depth
    content = json.dumps(document()).encode().replace(place, bomb)
    assert bomb in content
    refusal(content)


def test_the_engines_decoder_of_records_refuses_the_same() -> None:
    assert store.decode_facts(Fan, {"rpm": 1}) == Fan(rpm=1.0)
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    for plain in ({"colour": 1}, {"rpm": math.nan}, {"rpm": math.inf}, {"rpm": "1"}, {"name": "\ud800"}, 3, None, deep):
        with pytest.raises(ValueError):
            store.decode_facts(Fan, plain)
    with pytest.raises(ValueError):
        store.decode_facts(Fan, {"blades": deep})
    with pytest.raises(ValueError):
        store.decode_facts(Fan, {"by_hour": {"\udcff": 1.0}})


def test_a_name_out_of_the_file_does_not_break_the_line() -> None:
    assert refusal(document(facts={"fan": {"a\nb\r": 1}})).startswith("unknown fields: facts.fan.a b")


# --- files


def test_a_file_is_named_in_the_refusal(tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    file.write_bytes(b"not json")
    with pytest.raises(NotAFactsFileError, match=r"facts\.json: not JSON"):
        store.read_file(file, REGISTRY)
    file.write_bytes(WHOLE)
    assert store.read_file(file, REGISTRY).runs["fan"].facts == Fan(900.0, "é", True, 3, (Blade(),), {"a": 1.0})


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path, tmp_path / "a\0b", tmp_path / ("x" * 300)):
        with pytest.raises(NotAFactsFileError):
            store.read_file(path, REGISTRY)


def test_a_file_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    huge = tmp_path / "huge.json"
    with huge.open("wb") as file:
        file.truncate(store.MAX_FILE_BYTES + 1)
    for path in (huge, Path("/dev/zero")):
        with pytest.raises(NotAFactsFileError, match="larger than 64 MiB"):
            store.read_file(path, REGISTRY)


# --- what the Markdown report carries


def test_a_paste_that_lost_facts_keeps_what_it_said_of_them() -> None:
    verdict = {"status": "slow", "headline": "The fan is slow."}
    lost = ["facts.linear.cases", "exhibits"]
    found = decoded(document(left_out=lost, verdict=verdict, outcomes=[{"id": "FAN001", "outcome": "finding"}]))
    assert found.left_out == tuple(lost)
    assert found.judged is not None
    assert found.judged.verdict.headline == "The fan is slow."
    assert found.judged.verdict.fp8_runs is None
    assert found.judged.outcomes == (OutcomeRecord("FAN001", "finding"),)


def test_a_paste_that_lost_facts_and_says_nothing_of_them_is_refused() -> None:
    assert "verdict" in refusal(document(left_out=["facts.fan"]))
    assert "status" in refusal(document(left_out=["facts.fan"], verdict={"status": "wonderful", "headline": "x"}))


@pytest.mark.parametrize("left_out", [[], ["exhibits", "probes.*.stderr_tail"], "facts.fan", [1], None])
def test_a_paste_that_lost_only_what_is_made_anew_is_judged(left_out: Any) -> None:
    found = decoded(document(left_out=left_out))
    assert found.runs["fan"].facts == Fan(900.0)
    assert found.judged is None


def test_what_a_stranger_says_was_left_out_is_bounded() -> None:
    said = [f"facts.{place}" + "x" * 9_000 for place in range(9_000)]
    found = decoded(document(left_out=said, verdict={"status": "ready", "headline": "x"}))
    assert len(found.left_out) <= store.MOST_PATHS
    assert all(len(path) <= store.LONGEST_PATH for path in found.left_out)


def test_the_markdown_report_itself_is_refused_by_its_name() -> None:
    assert refusal(b"### fp8doctor 0.1.0\n").startswith(
        "this is the Markdown report, not a facts file; `fp8doctor --json"
    )
