"""What is said of te.Linear's times: each rule where it fires and where it does not, the advice, the exhibits."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp8doctor.checks.transformer_engine import texts
from fp8doctor.checks.transformer_engine.times import FORWARD, TRAINING, LayerTime, TransformerEngineTimes
from fp8doctor.judging.advice import advise
from fp8doctor.model import EXHIBIT_ROWS, Estimate, Finding, NotApplicable, Severity, Unknown
from fp8doctor.plain import from_plain, to_plain
from tests.linear_facts import LINEAR, us
from tests.linear_facts import candidates as linear_candidates
from tests.transformer_engine_facts import (
    ABSENT,
    LARGE,
    LARGEST,
    MIDDLE,
    REGISTRY,
    RULES,
    SMALL,
    TIMES,
    WIDE,
    candidates,
    changed,
    exhibits,
    finding,
    only,
    timed,
    verdict,
    without,
)

CURRENT, DELAYED = "te-fp8-current", "te-fp8-delayed"
GRAPH = f"{CURRENT}+cudagraph"
BROKEN_TIMER = to_plain(Estimate(0.0, 0.0, 0.0, 15, 0.0))
LESSONS = ("TE004", "TE016", "TE017", "TE018")


def said(found: Finding) -> str:
    return " | ".join([found.title, *(evidence.text for evidence in found.evidence)])


# --- all of them -----------------------------------------------------------------------------------------------------


def test_every_rule_on_these_times_is_known_here() -> None:
    assert set(RULES) == {*LESSONS, "TE019", "TE020", "TE021", "TE022"}


def test_on_a_real_h200_there_are_lessons_and_no_alarm() -> None:
    found = {rule: verdict(rule, TIMES) for rule in RULES}
    assert [rule for rule, result in found.items() if result is not None] == ["TE004", "TE016", "TE017"]
    assert {REGISTRY.rules[rule].severity for rule in LESSONS} == {Severity.INFO}


@pytest.mark.parametrize("rule", RULES)
def test_without_transformer_engine_no_question_arises(rule: str) -> None:
    assert verdict(rule, ABSENT) == NotApplicable(str(ABSENT.why_not))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("times", [TransformerEngineTimes(), TransformerEngineTimes(measurable=True, cases=())])
def test_what_was_not_measured_never_passes(rule: str, times: TransformerEngineTimes) -> None:
    assert isinstance(verdict(rule, times), Unknown)


@given(st.data())
def test_whatever_was_not_observed_no_rule_breaks(data: st.DataObject) -> None:
    draw, plain, names = data.draw, to_plain(TIMES), sorted(to_plain(LayerTime()))
    places = st.tuples(st.integers(0, len(plain["cases"]) - 1), st.sampled_from(names))
    everywhere = draw(st.sets(st.sampled_from(names), max_size=3))
    plain["cases"] = [{**case, **dict.fromkeys(everywhere)} for case in plain["cases"]]
    for place, name in draw(st.sets(places, max_size=12)):
        broken = name in ("device_us", "call_us", "host_us") and draw(st.booleans())
        plain["cases"][place][name] = BROKEN_TIMER if broken else None
    for name in draw(st.sets(st.sampled_from(sorted(plain)), max_size=2)):
        plain[name] = None
    times = from_plain(TransformerEngineTimes, plain)
    for rule in RULES:
        assert isinstance(verdict(rule, times), (Finding, Unknown, NotApplicable, type(None)))
    exhibits(times)
    advise(candidates(times, LINEAR))


# --- TE004 -----------------------------------------------------------------------------------------------------------


def test_te004_tells_the_hosts_time_beside_the_work_and_what_a_graph_gives() -> None:
    found = finding("TE004")
    case = next(c for c in TIMES.cases or () if (c.config, c.passes, c.m) == (CURRENT, TRAINING, MIDDLE.m))
    assert case.call_us is not None
    assert f"{case.call_us.median:,.0f} us a call" in found.title
    assert str(MIDDLE) in found.title
    assert found.gain is not None
    assert (found.gain.versus, found.gain.basis) == (CURRENT, "measured")
    assert found.gain.speedup == pytest.approx(911.1 / 259.5, abs=0.01)
    text = said(found)
    for words in ("te.Linear in BF16: 91 us", "nn.Linear in BF16: 89 us", "FP8 as a CUDA graph"):
        assert words in text
    assert "make_graphed_callables" in (found.actions[0].command or "")


def test_te004_says_where_it_waits_and_from_where_fp8_wins() -> None:
    waits, against = (evidence.text for evidence in finding("TE004").evidence[-2:])
    waiting, working = waits.split(";")
    assert all(str(shape) in waiting for shape in (SMALL, MIDDLE, LARGE))
    assert all(str(shape) in working for shape in (WIDE, LARGEST))
    losing, winning = against.split(";")
    assert "also as a CUDA graph" in losing
    assert str(LARGE) in losing
    assert f"as fast at {WIDE}" in winning


def test_te004_takes_the_hosts_time_apart() -> None:
    (parts,) = [e for e in finding("TE004").evidence if "more for FP8" in e.text]
    figures = [float(number.replace(",", "")) for number in re.findall(r"([\d,]+) us", parts.text)]
    assert sum(figures[1:]) == pytest.approx(figures[0], abs=2)


def test_te004_speaks_of_the_recipe_that_is_asked_for_soonest() -> None:
    slow = changed(CURRENT, call_us=us(2000.0), host_us=us(1950.0))
    assert "delayed scaling" in finding("TE004", slow).evidence[0].text


def test_te004_is_silent_where_the_work_takes_longer() -> None:
    assert verdict("TE004", only(WIDE, LARGEST)) is None


def test_te004_promises_nothing_where_no_graph_was_timed_or_it_is_no_faster() -> None:
    ungraphed = finding("TE004", without(GRAPH))
    assert ungraphed.gain is None
    assert "make_graphed_callables" in (ungraphed.actions[0].command or "")
    slow = finding("TE004", changed(GRAPH, call_us=us(905.0)))
    assert slow.gain is None
    assert not [action for action in slow.actions if action.command]


def test_te004_cannot_tell_without_calls() -> None:
    uncalled = replace(TIMES, cases=tuple(replace(c, call_us=None, host_us=None) for c in TIMES.cases or ()))
    assert isinstance(verdict("TE004", uncalled), Unknown)
    assert isinstance(verdict("TE004", without(CURRENT, DELAYED)), Unknown)


# --- TE016 -----------------------------------------------------------------------------------------------------------


def test_te016_tells_what_casting_the_weight_takes() -> None:
    found = finding("TE016")
    assert found.gain is not None
    assert found.gain.speedup == pytest.approx(103.2 / 80.0, abs=0.01)
    assert f"{1 - 80.0 / 103.2:.0%}" in found.title
    assert "stored in FP8" in said(found)
    assert "weight cast before" in said(found)


def test_te016_is_silent_where_it_costs_nothing() -> None:
    cached = [f"{CURRENT}+cachedweight", f"{CURRENT}+fp8weight"]
    cases = tuple(c for c in TIMES.cases or () if c.config not in cached)
    plain = next(c for c in cases if (c.config, c.passes, c.m) == (CURRENT, FORWARD, MIDDLE.m))
    same = replace(TIMES, cases=(*cases, replace(plain, config=cached[0])))
    assert verdict("TE016", same) is None
    assert isinstance(verdict("TE016", replace(TIMES, cases=cases)), Unknown)


def test_te016_compares_the_work_where_nothing_waits_for_the_host() -> None:
    cases = [
        timed(CURRENT, TRAINING, LARGEST, 3000.0, 3010.0),
        timed(f"{CURRENT}+cachedweight", TRAINING, LARGEST, 2800.0, 3005.0),
    ]
    found = finding("TE016", replace(TIMES, cases=tuple(cases)))
    assert found.gain is not None
    assert found.gain.speedup == pytest.approx(3000 / 2800, abs=0.01)


# --- TE017 -----------------------------------------------------------------------------------------------------------


def test_te017_names_the_shape_from_which_fp8_wins() -> None:
    found = finding("TE017")
    assert f"up to {LARGE}; from {WIDE} on" in found.title
    assert [evidence.text.split(",")[0] for evidence in found.evidence] == [
        str(shape) for shape in (SMALL, MIDDLE, LARGE, WIDE, LARGEST)
    ]
    assert "eager: BF16 103 us, FP8 911 us" in said(found)
    assert "as a CUDA graph: BF16 89 us, FP8 160 us" in said(found)


def test_te017_says_where_nothing_wins_and_is_silent_where_all_does() -> None:
    assert "at any measured shape" in finding("TE017", only(SMALL, MIDDLE)).title
    assert verdict("TE017", only(WIDE, LARGEST)) is None
    assert isinstance(verdict("TE017", without("torch-bf16", "torch-bf16+cudagraph")), Unknown)


def test_te017_lists_the_shapes_where_they_are_not_in_order() -> None:
    fast = changed("te-fp8-current+cudagraph", shape=SMALL, device_us=us(30.0))
    found = finding("TE017", fast)
    assert found.title.endswith(f"at {MIDDLE} and {LARGE}")


def test_te017_takes_no_difference_within_the_noise_for_a_gain() -> None:
    cases = (timed("torch-bf16", TRAINING, WIDE, 1000.0, 1005.0), timed(CURRENT, TRAINING, WIDE, 985.0, 990.0))
    assert str(WIDE) in finding("TE017", replace(TIMES, cases=cases)).title


# --- TE018 -----------------------------------------------------------------------------------------------------------


def test_te018_names_the_faster_recipe() -> None:
    found = finding("TE018", changed(DELAYED, shape=LARGEST, device_us=us(3600.0), call_us=us(3650.0)))
    assert "delayed scaling, takes 1.18x the time of current scaling" in found.title
    assert str(LARGEST) in found.title
    assert found.gain is not None
    assert found.gain.versus == DELAYED
    assert found.actions[0].command == "te.autocast(recipe=Float8CurrentScaling())"


def test_te018_takes_a_host_that_wavers_for_no_difference() -> None:
    assert verdict("TE018", TIMES) is None
    waver = changed(DELAYED, shape=MIDDLE, call_us=us(980.0), host_us=us(970.0))
    assert verdict("TE018", waver) is None
    slow = changed(DELAYED, shape=MIDDLE, call_us=us(1188.0), host_us=us(1180.0))
    assert "1.30x" in finding("TE018", slow).title


def test_te018_cannot_tell_without_a_default_or_another() -> None:
    assert isinstance(verdict("TE018", replace(TIMES, default_config=None)), Unknown)
    assert isinstance(verdict("TE018", without(CURRENT)), Unknown)


# --- TE019 to TE022 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"relative_error": 0.3}, "relative error 0.3"),
        ({"gradient_error": 0.5}, "relative error of a gradient 0.5"),
        ({"relative_error": None, "error": "a gradient holds values that are not finite"}, "not finite"),
    ],
)
def test_te019_a_wrong_result_is_found_and_never_advised(fields: dict[str, Any], words: str) -> None:
    wrong = changed(CURRENT, shape=WIDE, **fields)
    found = finding("TE019", wrong)
    assert CURRENT in found.title
    assert words in found.evidence[0].text
    advised = [use.config for use in advise(candidates(wrong)) if (use.when.k, use.when.n) == (WIDE.k, WIDE.n)]
    assert CURRENT not in advised
    assert CURRENT in [use.config for use in advise(candidates()) if (use.when.k, use.when.n) == (WIDE.k, WIDE.n)]


def test_te019_rounding_of_a_split_bf16_product_is_no_fault() -> None:
    assert verdict("TE019", changed("te-bf16", relative_error=0.01)) is None
    assert isinstance(
        verdict("TE019", without(CURRENT, DELAYED, GRAPH, f"{CURRENT}+cachedweight", f"{CURRENT}+fp8weight")), Unknown
    )


def test_te020_what_failed_at_a_shape_is_found() -> None:
    crashed = timed(GRAPH, TRAINING, WIDE, None, None, outcome="crashed", error="the process ended: SIGSEGV")
    found = finding("TE020", replace(TIMES, cases=(*(TIMES.cases or ()), crashed)))
    assert GRAPH in found.title
    assert "SIGSEGV" in found.evidence[0].text
    refused = replace(crashed, outcome="refused")
    assert verdict("TE020", replace(TIMES, cases=(*(TIMES.cases or ()), refused))) is None


def test_te021_says_what_is_missing() -> None:
    full = timed(CURRENT, TRAINING, LARGEST, None, None, outcome="out-of-memory", error="CUDA out of memory")
    for spoilt, words in (
        (replace(TIMES, not_measured=("kernels: the time budget was spent",)), "kernels"),
        (replace(TIMES, attempting=f"timing {WIDE}"), str(WIDE)),
        (replace(TIMES, cases=(full,)), str(LARGEST)),
        (replace(TIMES, cases=(replace(full, outcome="not-measured", error="launches"),)), "launches"),
    ):
        result = verdict("TE021", spoilt)
        assert isinstance(result, Unknown)
        assert words in result.reason


def test_te022_a_refused_size_is_a_lesson_here_and_an_error_in_a_users_log() -> None:
    message = "FP8 execution requires the product of all dimensions except the last to be divisible by 8 and the last"
    refused = timed(CURRENT, TRAINING, SMALL, None, None, outcome="refused", error=f"ValueError: {message}")
    found = finding("TE022", replace(TIMES, cases=(refused,)))
    assert found.severity is Severity.INFO
    assert message in found.evidence[0].text
    assert verdict("TE022", TIMES) is None
    other = replace(refused, error="RuntimeError: this recipe is not supported with that weight")
    assert verdict("TE022", replace(TIMES, cases=(other,))) is None
    of_old = "FP8 execution requires 2D input matrices with height divisible by 8 and width divisible by 16, "
    for line in (message, of_old):
        assert [text.rule for text in texts.ERROR_TEXTS if re.search(text.pattern, line)] == ["TE022"]


# --- advice and exhibits ---------------------------------------------------------------------------------------------


def test_inference_competes_where_the_linear_layer_has_a_baseline() -> None:
    assert not [c for c in candidates(TIMES, None) if c.task == "linear"]
    found = [c for c in candidates(TIMES, LINEAR) if c.task == "linear"]
    baselines = {(c.sweep, c.shape["k"], c.shape["n"]) for c in linear_candidates(LINEAR) if c.baseline}
    assert {(c.sweep, c.shape["k"], c.shape["n"]) for c in found} <= baselines
    assert not [c for c in found if c.baseline or c.config == "te-bf16"]
    assert f"{CURRENT}+fp8weight" in {c.config for c in found}


def test_training_is_a_task_of_its_own_with_bf16_as_its_baseline() -> None:
    found = [c for c in candidates(TIMES, LINEAR) if c.task == "linear-training"]
    assert {c.config for c in found if c.baseline} == {"torch-bf16", "torch-bf16+cudagraph"}
    assert {c.config for c in found if not c.baseline} == {CURRENT, DELAYED, GRAPH}, "a kept weight is no whole step"
    waiting = {(c.config, c.sweep) for c in found if c.waits_for_host}
    assert (CURRENT, MIDDLE.m) in waiting
    assert (CURRENT, LARGEST.m) not in waiting
    assert not [config for config, _ in waiting if "cudagraph" in config]
    assert {c.doing for c in found} == {"training"}


def test_the_advice_trains_in_fp8_only_where_it_wins() -> None:
    uses = [use for use in advise(candidates()) if use.speedup is not None]
    assert {(use.when.k, use.when.n) for use in uses} == {(WIDE.k, WIDE.n), (LARGEST.k, LARGEST.n)}
    assert {use.versus for use in uses} <= {"torch-bf16", "torch-bf16+cudagraph"}


def test_exhibits_keep_their_schema() -> None:
    shown = exhibits()
    assert set(shown) == {"te-linear", "te-linear-host", "te-linear-cases"}
    for exhibit in shown.values():
        for row in exhibit.rows:
            assert set(row) == set(EXHIBIT_ROWS[exhibit.kind])
            assert all(isinstance(row[name], types) for name, types in EXHIBIT_ROWS[exhibit.kind].items())
    for table in ("te-linear", "te-linear-cases"):
        assert len({tuple(row["cells"]) for row in shown[table].rows}) == 1
    assert len(shown["te-linear-cases"].rows) == len(TIMES.cases or ())


def test_the_table_shows_each_shape_forward_and_with_backward() -> None:
    rows = [row["cells"] for row in exhibits()["te-linear"].rows]
    assert [row["M x K x N"] for row in rows[::2]] == [str(s) for s in (SMALL, MIDDLE, LARGE, WIDE, LARGEST)]
    winning = {row["M x K x N"] for row in rows[1::2] if "*" in row["te FP8"] + row["te FP8, graph"]}
    assert winning == {str(WIDE), str(LARGEST)}


def test_the_bars_of_the_hosts_time_add_up() -> None:
    rows = {row["label"]: row for row in exhibits()["te-linear-host"].rows}
    whole = rows["= te.Linear, current scaling"]
    assert rows["+ FP8, backward"]["start"] + rows["+ FP8, backward"]["value"] == pytest.approx(whole["value"], abs=0.2)


def test_without_times_there_is_nothing_to_look_at() -> None:
    assert exhibits(ABSENT) == exhibits(TransformerEngineTimes()) == {}
    assert candidates(ABSENT, LINEAR) == []
