"""What is said of timed attention: on what was measured on an H200, and on changes to it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fp8doctor.checks.attention_times.facts import AttentionTimes
from fp8doctor.checks.attention_times.lookup import DEFAULT, NAMES, best_route, device_us
from fp8doctor.checks.attention_times.rules import family
from fp8doctor.judging.advice import advise
from fp8doctor.measuring.workloads import AttentionUse
from fp8doctor.model import NotApplicable, Severity, Unknown
from tests.attention_facts import (
    CAUSAL,
    IMAGE,
    NO_BACKEND,
    NO_GPU,
    RATES,
    REGISTRY,
    TIMES,
    candidates,
    case,
    changed,
    exhibits,
    finding,
    findings,
    more,
    only,
    refused,
    us,
    verdict,
)

FA4 = case("flash-attn-4", IMAGE, 692.0)
EVERY_RULE = sorted(REGISTRY.rules)


@pytest.mark.parametrize("rule", EVERY_RULE)
def test_without_a_gpu_the_question_does_not_arise(rule: str) -> None:
    assert verdict(rule, NO_GPU) == NotApplicable("torch sees no GPU")


@pytest.mark.parametrize("rule", EVERY_RULE)
def test_what_nobody_measured_never_reads_as_passed(rule: str) -> None:
    for nothing in (AttentionTimes(), AttentionTimes(measurable=True, cases=())):
        assert isinstance(verdict(rule, nothing), Unknown | NotApplicable)


def test_an_h200_gets_lessons_and_no_alarm() -> None:
    fired = {rule: findings(rule, TIMES) for rule in EVERY_RULE}
    assert {rule for rule, found in fired.items() if found} == {"ATT003", "ATT007"}
    for rule in fired:
        assert REGISTRY.rules[rule].severity is Severity.INFO or not fired[rule]


# --- faster elsewhere ------------------------------------------------------------------------------------------------


def test_a_package_that_is_faster_than_torchs_pick_is_named_with_its_gain() -> None:
    found = finding("ATT006", more(FA4))
    assert found.title.startswith("FlashAttention 4 is 1.07x as fast as the attention that torch picks")
    assert found.gain is not None
    assert (found.gain.speedup, found.gain.versus, found.gain.basis) == (1.073, DEFAULT, "measured")
    assert "cuDNN" in found.evidence[0].text
    assert "flash_attn.cute" in (found.actions[0].command or "")


def test_no_gain_inside_the_noise_and_none_for_what_is_slower_or_wrong() -> None:
    assert verdict("ATT006", TIMES) is None
    assert verdict("ATT006", more(replace(FA4, device_us=us(0.98 * device(DEFAULT))))) is None
    assert verdict("ATT006", more(replace(FA4, outcome="wrong"))) is None
    blurred = replace(us(0.9 * device(DEFAULT)), high=1.1 * device(DEFAULT))
    assert verdict("ATT006", more(replace(FA4, device_us=blurred))) is None


def test_the_backend_that_torch_picks_is_no_other_one() -> None:
    assert verdict("ATT006", changed("torch-sdpa-cudnn", device_us=us(0.5 * device(DEFAULT)))) is None
    # Elsewhere torch picks another, and the same time is news.
    flash = changed("torch-sdpa-cudnn", device_us=us(0.5 * device(DEFAULT)))
    other = replace(
        flash, cases=tuple(replace(c, backend="flash") if c.route == DEFAULT else c for c in flash.cases or ())
    )
    assert finding("ATT006", other).gain is not None


def test_fp8_is_no_answer_to_which_16_bit_attention_is_fastest() -> None:
    assert verdict("ATT006", changed("te-fp8-delayed-attention", device_us=us(1.0))) is None


def test_the_call_that_costs_a_step_most_leads() -> None:
    seldom, often = replace(IMAGE, calls=1), replace(CAUSAL, calls=100)
    cases = [case(route, use, rate) for use in (seldom, often) for route, rate in ((DEFAULT, 300.0),)]
    faster = [case("flash-attn-3", seldom, 900.0), case("flash-attn-3", often, 400.0)]
    found = finding("ATT006", replace(TIMES, cases=(*cases, *faster)))
    assert found.title.endswith("4096x128 causal")
    assert found.gain is not None
    assert found.gain.speedup == pytest.approx(4 / 3, rel=0.01)


def device(route: str, use: AttentionUse = IMAGE) -> float:
    time = device_us(TIMES, route, use)
    assert time is not None
    return time.median


# --- forced ----------------------------------------------------------------------------------------------------------


def test_forcing_flash_attention_2_on_hopper_is_advised_against_with_its_price() -> None:
    found = finding("ATT007", TIMES)
    assert found.title == "Forcing FlashAttention 2 would take 1.95x the time: torch already picks cuDNN"
    assert found.gain is None
    assert "sdpa_kernel" not in (found.actions[0].command or "")
    assert any("Transformer Engine picks cuDNN, too" in line.text for line in found.evidence)


def test_without_the_package_the_same_kernels_inside_torch_show_it() -> None:
    found = finding("ATT007", only(DEFAULT, "torch-sdpa-flash"))
    assert "torch's flash backend (FlashAttention 2)" in found.title


def test_nothing_is_forced_slower_where_torch_picks_flash_itself() -> None:
    ampere = [case(DEFAULT, IMAGE, 200.0, backend="flash"), case("torch-sdpa-flash", IMAGE, 160.0)]
    assert isinstance(verdict("ATT007", replace(TIMES, cases=tuple(ampere))), NotApplicable)
    package = case("flash-attn-2", IMAGE, 202.0)
    assert verdict("ATT007", replace(TIMES, cases=(*ampere, package))) is None


@pytest.mark.parametrize("rule", ["ATT006", "ATT007"])
def test_without_torchs_own_time_there_is_nothing_to_compare_with(rule: str) -> None:
    assert isinstance(verdict(rule, only("flash-attn-2")), Unknown)


# --- FP8 -------------------------------------------------------------------------------------------------------------


def test_which_recipe_has_no_attention_which_has_and_what_it_gains() -> None:
    found = finding("ATT003", TIMES)
    assert found.title == "No FP8 attention here with Float8CurrentScaling; with DelayedScaling there is, 1.12x BF16"
    said = [line.text for line in found.evidence]
    assert f"te-fp8-current-attention: {NO_BACKEND}" in said
    assert any(text.startswith("flash-attn-2-fp8: ") for text in said)
    assert found.gain is not None
    assert found.gain.speedup == pytest.approx(RATES["te-fp8-delayed-attention"][1] / RATES[DEFAULT][1], rel=0.01)
    assert "DelayedScaling(fp8_dpa=True)" in (found.actions[0].command or "")


def test_a_way_that_works_and_gains_nothing_is_no_advice() -> None:
    slow = changed("te-fp8-delayed-attention", device_us=us(2000.0))
    found = finding("ATT003", slow)
    assert found.gain is None
    assert "gains nothing" in found.title
    assert "BF16" in found.actions[0].text


def test_where_no_way_works_bf16_is_kept() -> None:
    none = replace(TIMES, cases=tuple(c for c in TIMES.cases or () if c.route != "te-fp8-delayed-attention"))
    found = finding("ATT003", none)
    assert found.title == "No FP8 attention runs here (3 ways were tried)"
    assert found.gain is None


def test_a_recipe_that_this_gpu_never_had_is_no_news_where_another_works() -> None:
    cases = tuple(c for c in TIMES.cases or () if c.route != "te-fp8-current-attention")
    assert verdict("ATT003", replace(TIMES, cases=cases)) is None


def test_flash_attention_alone_is_another_rules_question() -> None:
    cases = (case(DEFAULT, IMAGE, 645.0), refused("flash-attn-2-fp8", IMAGE, "only fp16 and bf16"))
    assert isinstance(verdict("ATT003", replace(TIMES, cases=cases)), NotApplicable)
    assert "fp8-attention-unavailable" in REGISTRY.rules["ATT003"].explains


def test_a_gpu_without_fp8_is_not_asked_for_it() -> None:
    for rule in ("ATT003", "ATT010"):
        assert isinstance(verdict(rule, replace(TIMES, compute_capability="8.0")), NotApplicable)
        assert isinstance(verdict(rule, only(DEFAULT)), NotApplicable)


def test_an_engine_that_there_was_no_time_for_is_unknown() -> None:
    late = replace(only(DEFAULT), not_measured=("Transformer Engine's attention: no time left to import it",))
    assert isinstance(verdict("ATT003", late), Unknown)


def test_fp8_attention_that_is_no_faster() -> None:
    assert verdict("ATT010", TIMES) is None
    slow = changed("te-fp8-delayed-attention", IMAGE, device_us=us(1.3 * device(DEFAULT)))
    found = finding("ATT010", slow)
    assert found.title == "FP8 attention takes 1.30x BF16's time at 1x24x4608x128"
    same = changed("te-fp8-delayed-attention", IMAGE, device_us=us(device(DEFAULT)))
    assert "is no faster than BF16" in finding("ATT010", same).title


# --- right, and what was asked for -----------------------------------------------------------------------------------


def test_a_wrong_route_is_named_and_the_one_that_torch_picks_is_the_box() -> None:
    package = finding("ATT008", changed("flash-attn-2", IMAGE, outcome="wrong", relative_error=0.4))
    assert (package.scope, package.severity) == ("usage", None)
    assert "0.4" in package.evidence[0].text
    own = finding("ATT008", changed(DEFAULT, IMAGE, outcome="wrong", relative_error=0.4))
    assert own.scope is None
    assert "cuDNN is what torch picks" in own.title
    fp8 = finding("ATT008", changed("te-fp8-delayed-attention", IMAGE, outcome="wrong", relative_error=0.5))
    assert fp8.severity is Severity.WARNING
    assert verdict("ATT008", TIMES) is None


def test_a_wrong_gradient_or_one_that_is_not_finite_is_told() -> None:
    words = "the result holds values that are not finite"
    found = finding("ATT008", changed(DEFAULT, IMAGE, outcome="wrong", relative_error=None, error=words))
    assert [line.text for line in found.evidence] == [words]
    gradient = changed(DEFAULT, IMAGE, outcome="wrong", gradient_error=0.3, gradient_error_limit=0.02)
    assert any("gradient" in line.text for line in finding("ATT008", gradient).evidence)


def test_fp8_that_is_as_exact_as_bf16_did_not_run() -> None:
    found = finding("ATT009", changed("te-fp8-delayed-attention", IMAGE, relative_error=0.0022))
    assert "DelayedScaling" in found.title
    assert "nothing was rounded to e4m3" in found.evidence[0].text
    assert "NVTE" in (found.actions[0].command or "")
    assert verdict("ATT009", TIMES) is None


def test_where_bf16_may_err_as_much_as_fp8_exactness_proves_nothing() -> None:
    near = changed("te-fp8-delayed-attention", relative_error=0.03, bf16_error_limit=0.04)
    assert verdict("ATT009", near) is None


def test_a_switch_that_changed_nothing_shows_in_the_kernels_name() -> None:
    flash = next(c.kernel for c in TIMES.cases or () if c.route == "torch-sdpa-flash")
    switched = case("torch-sdpa-fa4", IMAGE, 331.0, kernel=flash)
    found = finding("ATT009", more(switched))
    assert "torch switched to FlashAttention 4" in found.title
    assert "pytorch_flash" in found.evidence[0].text
    assert verdict("ATT009", more(replace(switched, kernel="kernel_cutlass_FlashAttentionForwardSm90_object"))) is None
    assert verdict("ATT009", more(replace(switched, kernel="some_kernel_of_the_next_release"))) is None


def test_without_any_kernels_name_the_answer_is_not_known() -> None:
    unseen = only(DEFAULT, "torch-sdpa-flash")
    unseen = replace(unseen, cases=tuple(replace(c, kernel=None) for c in unseen.cases or ()))
    assert isinstance(verdict("ATT009", unseen), Unknown)
    assert isinstance(verdict("ATT009", only(DEFAULT)), NotApplicable)


@pytest.mark.parametrize(
    ("kernel", "whose"),
    [
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<...>", "flash"),
        ("void flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<...>>", "flash-attn-2"),
        ("cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<...>>>", "flash-attn-3"),
        ("kernel_cutlass_kernel_flash_attncuteflash_fwdFlashAttentionForwardSm90_object_at_0", "flash-attn-4"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_5", "cudnn"),
        ("fmha_cutlassF_bf16_aligned_64x128_rf_sm80", "efficient"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_NNT", None),
        (None, None),
    ],
)
def test_whose_kernel_it_is(kernel: str | None, whose: str | None) -> None:
    assert family(kernel) == whose


def test_a_route_that_fails_at_a_models_size() -> None:
    found = finding("ATT011", changed("flash-attn-2", IMAGE, outcome="crashed", error="SIGSEGV", device_us=None))
    assert (found.scope, found.severity) == ("usage", Severity.INFO)
    own = finding("ATT011", changed(DEFAULT, IMAGE, outcome="error", error="RuntimeError: cuDNN", device_us=None))
    assert (own.scope, own.severity) == (None, Severity.ERROR)
    assert verdict("ATT011", TIMES) is None
    big = changed("torch-sdpa-math", IMAGE, outcome="out-of-memory", device_us=None)
    assert verdict("ATT011", big) is None
    late = changed(DEFAULT, IMAGE, outcome="timeout", error="too long", device_us=None)
    assert finding("ATT011", late).severity is Severity.WARNING


# --- looking it up, advice, exhibits ---------------------------------------------------------------------------------


def test_the_best_route_by_number_format() -> None:
    assert best_route(TIMES, IMAGE) == "te-fp8-delayed-attention"
    assert best_route(TIMES, IMAGE, fp8=True) == "te-fp8-delayed-attention"
    # cuDNN, forced, is inside the noise of what torch picks by itself.
    assert best_route(TIMES, IMAGE, fp8=False) == DEFAULT
    assert best_route(more(FA4), IMAGE, fp8=False) == "flash-attn-4"
    assert best_route(TIMES, replace(IMAGE, calls=57)) == "te-fp8-delayed-attention"
    assert best_route(TIMES, IMAGE, trains=True) is None
    assert best_route(TIMES, replace(IMAGE, keys=77)) is None


def test_the_time_of_a_route_at_a_call() -> None:
    time = device_us(TIMES, DEFAULT, IMAGE)
    assert time is not None
    # 4 x 24 x 4608^2 x 128 operations at 644.7 TFLOP/s.
    assert time.median == pytest.approx(4 * 24 * 4608**2 * 128 / 644.7e12 * 1e6)
    assert device_us(TIMES, DEFAULT, IMAGE, trains=True) is None
    assert device_us(TIMES, "te-fp8-current-attention", IMAGE) is None


def test_a_record_that_was_looked_at_before_does_not_answer_for_another() -> None:
    assert best_route(TIMES, IMAGE) != best_route(only(DEFAULT), IMAGE)


def test_routes_compete_at_the_same_shape_over_the_length() -> None:
    made = candidates(TIMES)
    assert {c.task for c in made} == {"attention"}
    assert {c.config for c in made} == set(RATES) - {"torch-sdpa-math"}
    assert {c.config for c in made if c.baseline} == {DEFAULT}
    assert {c.config for c in made if c.format == "fp8"} == {"te-fp8-delayed-attention"}
    assert {c.sweep for c in made} == {4608, 4096}
    shapes = {tuple(sorted(c.shape.items())) for c in made}
    assert tuple(sorted({"batch": 1, "heads": 24, "head_dim": 128, "causal": 0}.items())) in shapes
    assert len(shapes) == 2


def test_groups_single_queries_and_backwards_compete_among_themselves() -> None:
    decode = AttentionUse(16, 32, 8, 1, 2048, 128, causal=False)
    (one,) = candidates(replace(TIMES, cases=(case("flash-attn-3-fp8", decode, 1.0),)))
    assert (one.shape["kv_heads"], one.shape["queries"], one.sweep) == (8, 1, 2048)
    (both,) = candidates(replace(TIMES, cases=(case("te-fp8-delayed-attention", IMAGE, 400.0, trains=True),)))
    assert both.shape["backward"] == 1


def test_where_there_is_nothing_to_choose_there_is_no_advice() -> None:
    """It would read "FP8 gains nothing there", and FP8 was not timed."""
    assert candidates(only(DEFAULT, "torch-sdpa-cudnn", "torch-sdpa-flash", "flash-attn-2")) == []
    with_fa4 = replace(TIMES, cases=(*(only(DEFAULT).cases or ()), case("flash-attn-4", IMAGE, 692.0)))
    assert {(c.config, c.sweep) for c in candidates(with_fa4)} == {(DEFAULT, 4608), ("flash-attn-4", 4608)}


def test_what_to_use_on_an_h200() -> None:
    (causal, image) = advise(candidates(TIMES))
    assert (causal.config, causal.versus) == ("te-fp8-delayed-attention", DEFAULT)
    assert causal.speedup is not None
    assert causal.speedup.high == pytest.approx(689.6 / 615.9, rel=0.01)
    assert image.speedup is not None
    assert image.speedup.high == pytest.approx(690.4 / 644.7, rel=0.01)
    assert "fp8_dpa=True" in image.how


def test_a_call_that_waits_for_the_host_is_judged_by_the_call() -> None:
    waiting = changed("te-fp8-delayed-attention", call_us=us(2000.0), host_us=us(1990.0))
    for use in advise(candidates(waiting)):
        assert use.config != "te-fp8-delayed-attention"


def test_the_rates_of_each_route_stand_beside_torchs_own_pick() -> None:
    table = exhibits(TIMES)["attention-rates"]
    assert (table.kind, table.unit) == ("table", "TFLOP/s")
    rows = {row["cells"]["route"]: row["cells"] for row in table.rows}
    assert next(iter(rows)) == NAMES["te-fp8-delayed-attention"], "the fastest leads"
    assert rows[NAMES[DEFAULT]]["1x24x4608x128"] == "645 (cudnn)"
    assert rows[NAMES["te-fp8-delayed-attention"]]["1x24x4608x128"] == "690 (1.07x)"
    assert rows[NAMES["flash-attn-2"]]["1x32x4096x128 causal"] == "320 (0.52x)"
    assert rows[NAMES["te-fp8-current-attention"]]["1x24x4608x128"] == ""
    assert set(rows) == {NAMES[case.route or ""] for case in TIMES.cases or ()}


def test_the_reports_first_bars_are_left_to_the_linear_layer() -> None:
    assert not any(shown.answers_why for shown in exhibits(TIMES).values())


def test_the_routes_of_the_first_call_are_drawn_beside_torchs_own_pick() -> None:
    drawn = exhibits(TIMES)["attention-routes"]
    rates = [row["value"] for row in drawn.rows]
    assert drawn.kind == "bars"
    assert rates == sorted(rates, reverse=True)
    assert [row["label"] for row in drawn.rows if row["ratio"] is None] == ["torch's own pick"]


def test_the_table_shows_what_was_refused_and_why() -> None:
    table = exhibits(TIMES)["attention-cases"]
    assert len(table.rows) == len(TIMES.cases or ())
    assert len({tuple(row["cells"]) for row in table.rows}) == 1, "each row has the same columns"
    shown = [row["cells"]["kernel, or why not"] for row in table.rows]
    assert f"refused: {NO_BACKEND}" in shown
    assert exhibits(NO_GPU) == {}


@pytest.mark.parametrize("rule", EVERY_RULE)
def test_every_page_has_its_four_parts(rule: str) -> None:
    page = REGISTRY.rules[rule].page
    parts = ("What it means:", "Why it costs time:", "What to do:", "Sources:")
    assert [page.count(part) for part in parts] == [1, 1, 1, 1]
