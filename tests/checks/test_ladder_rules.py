"""What the rungs of a workload teach: each rule on a ladder on which it fires, and on one on which it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fp8doctor.checks.ladder.facts import Ladder, SkippedStep
from fp8doctor.checks.ladder.winners import advised, baseline, combinations, fastest, gains, waits_for_host
from fp8doctor.measuring.statistics import estimate
from fp8doctor.model import Estimate, NotApplicable, Unknown
from tests.ladder_facts import (
    FLUX,
    NO_GPU,
    REGISTRY,
    STEP,
    candidates,
    changed,
    finding,
    findings,
    more,
    ms,
    only,
    rung,
    use,
    verdict,
    without,
)

PER_STEP = ("LAD002", "LAD003", "LAD004", "LAD005", "LAD006", "LAD007", "LAD008", "LAD009")
NEED_BF16 = ("LAD002", "LAD003", "LAD005", "LAD006", "LAD009")


@pytest.mark.parametrize("rule", sorted(set(REGISTRY.rules) - {"LAD012"}))  # LAD012 is the one that says so
def test_where_no_step_was_measured_no_rule_applies_and_says_why(rule: str) -> None:
    assert verdict(rule, NO_GPU) == NotApplicable("torch sees no GPU")


@pytest.mark.parametrize("rule", PER_STEP)
def test_without_steps_a_rule_cannot_tell(rule: str) -> None:
    assert isinstance(verdict(rule, replace(FLUX, tokens=None)), Unknown)


@pytest.mark.parametrize("rule", NEED_BF16)
def test_without_bf16_nothing_is_compared_with_it(rule: str) -> None:
    ladder = without("torch-bf16")
    assert verdict(rule, ladder) == [Unknown("denoise: BF16 was not measured")]
    assert verdict(rule, changed("torch-bf16", outcome="out-of-memory", step_ms=None)) == verdict(rule, ladder)


@pytest.mark.parametrize("rule", PER_STEP)
def test_each_step_is_judged_by_itself(rule: str) -> None:
    result = verdict(rule, replace(FLUX, tokens={"other": 16, STEP: 4608}))
    assert isinstance(result, list)
    assert [isinstance(one, (Unknown, NotApplicable)) for one in result] == [True, False]


# --- LAD002 to LAD009 -------------------------------------------------------------------------------------------------


def test_eager_fp8_is_slower_than_bf16_and_compiled_is_not() -> None:
    found = finding("LAD002", FLUX)
    assert found.title == "flux, denoise: eager FP8 runs at 0.80x BF16, compiled at 1.71x; BF16 compiled at 1.30x"
    assert found.actions[0].text == "Compile each repeated block"
    assert "[*model.transformer_blocks, *model.single_transformer_blocks]" in (found.actions[0].command or "")
    alone = finding("LAD002", without("torch-bf16+compile"))
    assert alone.title.endswith("compiled at 1.71x"), "BF16 was not compiled"
    assert found.gain is not None
    assert (found.gain.speedup, found.gain.versus, found.gain.basis) == (2.153, "torchao-fp8-rowwise", "measured")


def test_where_compiled_fp8_still_loses_a_win_is_not_promised() -> None:
    slow = changed("torchao-fp8-rowwise+compile", 140.0, without("torchao-fp8-tensorwise+compile"))
    graph = "torchao-fp8-rowwise+compile+cudagraph"
    (found,) = findings("LAD002", slow)
    assert found.actions[0].text == (
        "Compiling alone leaves it at 1.25x: use torchao float8 row-wise + torch.compile of each block + CUDA graph"
    )
    assert "torch.cuda.graph" in (found.actions[0].command or "")
    assert found.evidence[-1].text == f"{graph}: 101.17 ms a step"
    assert found.gain is None
    (found,) = findings("LAD002", without(graph, ladder=slow))
    assert found.actions[0].text == (
        "Compiling alone leaves it at 1.25x, no faster than 16-bit: use BF16 + torch.compile of each block"
    )


@pytest.mark.parametrize(
    "ladder",
    [
        changed("torchao-fp8-rowwise", 150.0),
        changed("torchao-fp8-rowwise", 176.0),
        changed("torchao-fp8-rowwise+compile", 218.0),
        changed("torchao-fp8-rowwise+compile", outcome="wrong"),
        without("torchao-fp8-rowwise"),
    ],
    ids=["eager gains", "eager is within the noise", "compiling gives nothing", "compiled is wrong", "no eager"],
)
def test_eager_fp8_is_no_lesson_otherwise(ladder: Ladder) -> None:
    assert verdict("LAD002", ladder) == [None]


def test_a_step_that_waits_for_the_host_is_faster_as_a_graph() -> None:
    ladder = changed("torch-bf16", host_ms=ms(173.0), ladder=changed("torch-bf16+cudagraph", 90.0))
    found = finding("LAD003", ladder)
    assert found.title == "flux, denoise: with BF16 the step waits for the host; as a CUDA graph it is 1.94x as fast"
    assert [e.value for e in found.evidence] == [173.0, 174.54, 90.0]
    code = found.actions[0].command or ""
    assert code.startswith("def step():\n    with torch.no_grad():"), "what was measured: one graph of the whole step"
    assert "torch.cuda.graph(graph)" in code
    assert "reduce-overhead" not in code
    fp8 = changed("torchao-fp8-rowwise+compile", host_ms=ms(101.0), ladder=ladder)
    quicker = changed("torchao-fp8-rowwise+compile+cudagraph", 30.0, ladder=fp8)
    assert "with torchao float8 row-wise" in finding("LAD003", quicker).title, "the one that gains most"


@pytest.mark.parametrize(
    "ladder",
    [
        FLUX,
        changed("torch-bf16", host_ms=ms(173.0)),
        changed("torch-bf16", host_ms=ms(173.0), ladder=changed("torch-bf16+cudagraph", 168.0)),
        changed("torch-bf16+cudagraph", 90.0),
        changed("torch-bf16", host_ms=None, ladder=changed("torch-bf16+cudagraph", 90.0)),
    ],
    ids=[
        "as measured",
        "a graph gives nothing",
        "a graph gains a little",
        "the host is done early",
        "the host was not timed",
    ],
)
def test_a_step_that_keeps_the_gpu_busy_is_not_held_by_the_host(ladder: Ladder) -> None:
    assert verdict("LAD003", ladder) == [None]


def test_an_unfused_lora_costs_part_of_the_speed() -> None:
    found = finding("LAD004", FLUX)
    assert found.title == "flux, denoise: an unfused LoRA costs 13% of the speed"
    assert found.gain is not None
    assert found.gain.versus == "torch-bf16+lora"
    assert found.actions[0].command == "pipe.fuse_lora()"
    language = finding("LAD004", replace(FLUX, model_class="transformers.LlamaForCausalLM"))
    assert language.actions[0].command == "model = model.merge_and_unload()  # peft"
    assert verdict("LAD004", changed("torch-bf16+lora", 176.0)) == [None]
    assert verdict("LAD004", without("torch-bf16+lora")) == [NotApplicable("denoise: no LoRA was measured")]


def test_a_long_first_call_is_told_with_the_steps_after_which_it_has_paid() -> None:
    found = finding("LAD005", FLUX)
    assert found.title == (
        "flux, denoise: compiling torchao float8 row-wise takes 9 s once and is earned back after about 120 steps,"
        " against eager BF16"
    )
    assert found.evidence[2].text == "torchao-fp8-rowwise+compile: 101.92 ms a step", "the one that is advised"
    assert found.evidence[1].text == "graphs compiled: 3, graph breaks: 0"
    useless = rung("torchao-int8-dynamic+compile", 173.0, first_call_s=900.0)
    assert finding("LAD005", more(useless)) == found, "however long another one took"


def test_a_graph_is_earned_back_with_the_code_that_it_was_captured_of() -> None:
    graph, plain = "torchao-fp8-rowwise+compile+cudagraph", "torchao-fp8-rowwise+compile"
    ladder = changed(graph, 80.0, ladder=only("torch-bf16", plain, graph))
    assert finding("LAD005", ladder).evidence[2].text == f"{plain}: 101.92 ms a step"


@pytest.mark.parametrize(
    ("first_call_s", "graphs", "step_ms"),
    [(4.9, 3, 10.0), (12.35, None, 134.0), (12.35, 3, 300.0), (None, 3, 134.0)],
    ids=["short", "nothing was compiled", "fewer than 50 steps", "not measured"],
)
def test_a_first_call_that_is_no_warm_up_to_tell_of(
    first_call_s: float | None, graphs: int | None, step_ms: float
) -> None:
    compiled = rung("torch-bf16+compile", step_ms, first_call_s=first_call_s, graphs=graphs)
    assert verdict("LAD005", more(compiled, ladder=only("torch-bf16"))) == [None]


def test_storage_in_fp8_saves_memory_and_costs_time() -> None:
    found = finding("LAD006", FLUX)
    assert found.title == "flux, denoise: torchao float8 weight-only runs at 0.64x, and saves 11.5 of 24.3 GB"
    assert [e.value for e in found.evidence] == [174.54, 273.59, 205.54]
    heavier = changed("torchao-fp8-weightonly", peak_gb=30.0)
    assert finding("LAD006", heavier).title == "flux, denoise: torchao float8 weight-only runs at 0.64x"


def test_storage_that_costs_nothing_is_no_finding() -> None:
    as_fast = changed("diffusers-fp8-storage", 175.0, ladder=changed("torchao-fp8-weightonly", 100.0))
    assert verdict("LAD006", as_fast) == [None]
    assert verdict("LAD006", only("torch-bf16")) == [None]


def test_where_no_fp8_beats_the_best_bf16_it_is_said() -> None:
    ladder = only("torch-bf16", "torch-bf16+compile", "torchao-fp8-rowwise+compile", "torchao-fp8-rowwise")
    assert verdict("LAD007", ladder) == [None]
    slow = changed("torchao-fp8-rowwise+compile", 140.0, ladder=ladder)
    found = finding("LAD007", slow)
    assert found.title == "flux, denoise: the best FP8 runs at 0.96x the speed of the best BF16"
    assert found.actions[0].text == "Use BF16 + torch.compile of each block"
    bf16, noisy = only("torch-bf16", "torch-bf16+compile"), replace(ms(120.0), high=133.0)
    assert (
        "at 1.12x"
        in finding("LAD007", more(replace(rung("torchao-fp8-rowwise", 1.0), step_ms=noisy), ladder=bf16)).title
    )
    simpler = more(rung("torch-bf16+compile+cudagraph", 133.0), ladder=slow)
    assert finding("LAD007", simpler).actions == found.actions, "as fast within the noise: the simpler, as is advised"
    assert [e.value for e in finding("LAD007", simpler).evidence] == [134.09, 133.0, 140.0]
    for lonely in (only("torch-bf16"), only("torchao-fp8-rowwise")):
        assert verdict("LAD007", lonely) == [Unknown("denoise: not both BF16 and FP8 were measured")]


def test_int8_is_neither_bf16_nor_fp8() -> None:
    ladder = more(rung("torchao-int8-dynamic+compile", 50.0), ladder=only("torch-bf16", "torchao-fp8-rowwise"))
    assert finding("LAD007", ladder).title.endswith("0.80x the speed of the best BF16")
    assert finding("LAD007", ladder).actions[0].text.startswith("Use torchao INT8"), "as is advised"


def test_a_model_with_a_lora_in_it_is_no_faster_way_to_run_the_model() -> None:
    # Fused, it is BF16 itself, and by the noise it may be ahead.
    ladder = changed("torch-bf16+lora-fused", 170.0, ladder=only("torch-bf16", "torch-bf16+lora-fused"))
    slow_fp8 = more(rung("torchao-fp8-rowwise", 219.0), ladder=ladder)
    assert finding("LAD007", slow_fp8).title.endswith("0.80x the speed of the best BF16")
    best = fastest(ladder, STEP)
    assert best is not None
    assert best.config == "torch-bf16"
    assert combinations(ladder, STEP) == ["torch-bf16+cudagraph"]


def test_a_result_that_rounding_does_not_explain_is_a_warning() -> None:
    wrong = changed("torchao-fp8-rowwise", outcome="wrong", relative_error=0.9)
    found = finding("LAD008", wrong)
    assert found.title == "flux, denoise: wrong results from torchao float8 row-wise"
    assert found.evidence[0].text == "torchao-fp8-rowwise: error 0.9 against BF16, at most 0.57"
    words = "the result holds values that are not finite"
    nan = changed("torchao-fp8-rowwise", outcome="wrong", relative_error=None, error=words)
    assert finding("LAD008", nan).evidence[0].text == f"torchao-fp8-rowwise: {words}"
    assert verdict("LAD008", FLUX) == [None]
    assert verdict("LAD008", replace(FLUX, rungs=())) == [Unknown("denoise: nothing was measured")]


def test_forcing_an_older_attention_costs_time() -> None:
    found = finding("LAD009", FLUX)
    assert found.title == (
        "flux, denoise: forcing another attention than torch's pick costs time (torch's flash attention 0.89x)"
    )
    assert verdict("LAD009", without("torch-bf16+attention-flash")) == [None], "nobody forces math by choice"


def test_an_attention_that_is_faster_than_torchs_pick_is_told() -> None:
    found = finding("LAD009", changed("torch-bf16+attention-cudnn", 150.0))
    assert found.title == "flux, denoise: cuDNN attention makes the step 1.16x as fast as torch's pick"
    assert found.actions[0].text == "Force cuDNN attention"
    assert "sdpa_kernel(SDPBackend.CUDNN_ATTENTION)" in (found.actions[0].command or "")
    assert found.about == "step:denoise"


def test_what_compiling_gains_is_not_laid_to_the_attention_beside_it() -> None:
    ladder = more(rung("torch-bf16+attention-cudnn+compile", 136.0), ladder=only("torch-bf16", "torch-bf16+compile"))
    assert verdict("LAD009", ladder) == [None]
    ladder = more(rung("torch-bf16+attention-flash", 150.0), ladder=ladder)
    assert "attention-cudnn" not in str(combinations(ladder, STEP))
    assert combinations(ladder, STEP) == [
        "torch-bf16+attention-flash+compile",
        "torch-bf16+compile+cudagraph",
    ]


@pytest.mark.parametrize("waiting", ["torch-bf16", "torch-bf16+attention-flash"])
def test_where_the_step_waits_for_the_host_nothing_is_laid_to_attention(waiting: str) -> None:
    assert len(findings("LAD009", FLUX)) == 1
    (busy,) = (changed(waiting, host_ms=r.step_ms) for r in FLUX.rungs or () if r.config == waiting)
    assert verdict("LAD009", busy) == [NotApplicable("denoise: the step waits for the host, not for attention")]
    assert len(findings("LAD009", changed("torch-bf16+compile", host_ms=ms(134.0)))) == 1, "no part of the comparison"


def test_a_step_waits_for_the_host_that_asks_nearly_as_long_as_it_takes() -> None:
    for host, waits in ((89.0, False), (91.0, True), (120.0, True)):
        assert waits_for_host(rung("torch-bf16", 100.0, host)) is waits
    assert not waits_for_host(rung("torch-bf16", 100.0))
    assert not waits_for_host(rung("torch-bf16", None, 100.0))


# --- who wins ---------------------------------------------------------------------------------------------------------


def test_a_ratio_within_the_noise_is_no_difference() -> None:
    bf16 = rung("torch-bf16", 100.0)
    assert not gains(bf16, rung("torch-bf16+compile", 98.5)), "the intervals overlap"
    steady = replace(bf16, step_ms=Estimate(100.0, 99.99, 100.01, 100))
    slightly = replace(steady, step_ms=Estimate(97.5, 97.49, 97.51, 100))
    assert not gains(steady, slightly), "two runs on one box differ by as much"
    assert gains(steady, replace(steady, step_ms=Estimate(97.0, 96.99, 97.01, 100)))
    assert not gains(steady, replace(steady, step_ms=None))


def test_two_runs_of_the_same_step_with_real_jitter_do_not_gain_on_one_another() -> None:
    one = [174.5, 172.7, 178.1, 175.0, 174.2, 173.9, 176.6, 172.8, 174.4, 175.8, 177.3, 173.1]
    other = [value * 0.99 for value in reversed(one)]
    first, second = (replace(rung("torch-bf16", 1.0), step_ms=estimate(samples)) for samples in (one, other))
    assert not gains(first, second)
    assert not gains(second, first)


def test_the_fastest_computes_every_step_and_is_right() -> None:
    best = fastest(FLUX, STEP)
    assert best is not None
    assert best.config == "torchao-fp8-rowwise+compile+cudagraph"
    skipping = SkippedStep(ms(175.0), ms(9.0), 0.03)
    cached = more(rung("torch-bf16+cache-first-block", 20.0, skipping=skipping))
    assert fastest(cached, STEP) == best
    wrong = changed(best.config, outcome="wrong")
    second = fastest(wrong, STEP)
    assert second is not None
    assert second.config == "torchao-fp8-rowwise+compile"
    assert fastest(FLUX, "another step") is None
    assert baseline(wrong, STEP) == (FLUX.rungs or ())[0]


def test_combinations_join_the_fastest_with_what_gained_by_itself() -> None:
    ladder = without("torchao-fp8-rowwise+compile+cudagraph")
    assert combinations(ladder, STEP) == ["torchao-fp8-rowwise+compile+cudagraph"]
    flash = changed("torch-bf16+attention-flash", 150.0, ladder=ladder)
    assert combinations(flash, STEP)[0] == "torchao-fp8-rowwise+attention-flash+compile"
    assert combinations(without("torch-bf16"), STEP) == []


# --- what is advised --------------------------------------------------------------------------------------------------


def test_the_advice_is_the_simplest_of_the_fastest_against_the_best_bf16() -> None:
    (advised,) = use(FLUX)
    assert advised.config == "torchao-fp8-rowwise+compile"
    assert advised.versus == "torch-bf16+compile"
    assert advised.speedup is not None
    assert advised.speedup.low == pytest.approx(134.09 / 101.92, abs=1e-3)
    assert (advised.when.workload, advised.when.text) == ("flux", "one denoising step, 1024x1024")
    assert advised.basis == "measured"


@pytest.mark.parametrize(
    "ladder",
    [
        FLUX,
        only("torch-bf16"),
        only("torch-bf16", "torch-bf16+compile", "torchao-fp8-rowwise"),
        without("torchao-fp8-rowwise+compile"),
        changed("torchao-fp8-rowwise+compile", 132.0, ladder=without("torchao-fp8-rowwise+compile+cudagraph")),
        more(rung("torch-bf16+compile+cudagraph", 133.0), ladder=only("torch-bf16", "torch-bf16+compile")),
        more(rung("torchao-int8-dynamic+compile", 50.0)),
        changed("torch-bf16+lora-fused", 50.0, ladder=changed("torch-bf16+attention-math", 50.0)),
        replace(FLUX, rungs=()),
    ],
)
def test_what_a_lesson_names_is_what_is_advised(ladder: Ladder) -> None:
    known = {c.config for c in candidates(ladder) if c.basis == "measured"}
    one = advised(ladder, STEP)
    assert [u.config for u in use(ladder) if u.config in known] == ([one.config] if one else [])


@pytest.mark.parametrize(
    "fields",
    [
        {"relative_error": 0.9},
        {"relative_error": None},
        {"outcome": "wrong"},
        {"outcome": "error", "step_ms": None},
        {"skipping": SkippedStep(ms(100.0), ms(9.0), 0.03)},
    ],
    ids=["off by more than its format", "never compared", "wrong", "failed", "a step cache"],
)
def test_a_rung_that_is_not_right_is_not_recommended(fields: dict[str, Any]) -> None:
    ladder = only("torch-bf16", "torch-bf16+compile", "torchao-fp8-rowwise+compile")
    assert [u.config for u in use(ladder)] == ["torchao-fp8-rowwise+compile"]
    (advised,) = use(changed("torchao-fp8-rowwise+compile", ladder=ladder, **fields))
    assert (advised.config, advised.speedup) == ("torch-bf16+compile", None)


def test_what_gains_within_the_noise_is_not_recommended() -> None:
    ladder = only("torch-bf16", "torch-bf16+compile", "torchao-fp8-rowwise+compile")
    (advised,) = use(changed("torchao-fp8-rowwise+compile", 132.0, ladder=ladder))
    assert advised.config == "torch-bf16+compile"


def test_a_lora_and_what_forces_a_slower_attention_are_never_what_to_use() -> None:
    ladder = changed("torch-bf16+lora-fused", 50.0, ladder=changed("torch-bf16+attention-math", 50.0))
    assert [u.config for u in use(ladder)] == ["torchao-fp8-rowwise+compile"]


def test_findings_name_their_step() -> None:
    for rule in ("LAD002", "LAD004", "LAD005", "LAD006", "LAD009"):
        assert [found.about for found in findings(rule, FLUX)] == ["step:denoise"]
