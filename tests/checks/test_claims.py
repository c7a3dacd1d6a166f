"""What a text's own sentences say of a GPU: heard where they state it, and held against what is known."""

from __future__ import annotations

import time

import pytest

import fp8doctor
from fp8doctor.checks.claims import Claims
from fp8doctor.checks.claims.expectation_rules import lower_mfu, said_to_be_capped, said_to_throttle, sparse_peak
from fp8doctor.checks.claims.limit_rules import (
    no_flash_attention_3,
    no_kernel,
    no_recipe,
    no_rowwise,
    other_layout,
)
from fp8doctor.checks.claims.reading import read
from fp8doctor.checks.claims.statement_rules import (
    needs_newer_cudnn,
    other_cudnn,
    other_fp8,
    said_to_be_shared,
    slow_on_rocm,
    variable_too_late,
)
from fp8doctor.checks.gpu import Gpu, Gpus
from fp8doctor.checks.libraries.facts import Libraries
from fp8doctor.model import Finding, NotApplicable, Severity
from fp8doctor.pasted import Pasted


def claims(*lines: str) -> Claims:
    return read(Pasted(lines)) or Claims()


def gpus(*capabilities: str, name: str | None = None) -> Gpus:
    return Gpus(gpus=tuple(Gpu(index=i, name=name, compute_capability=one) for i, one in enumerate(capabilities)))


# Sentences that say where something does not work, the rule that hears them, and a GPU that they are about.
LIMITS = [
    ("Rowwise scaled_mm is not supported on sm_89 in this wheel.", no_rowwise, "8.9"),
    ("cuBLAS does not support row-wise scaling on SM120", no_rowwise, "12.0"),
    ("MXFP8 is unsupported on sm_121 as of today", no_recipe, "12.1"),
    ("NVFP4 needs Blackwell", no_recipe, "9.0"),
    ("NVFP4 requires compute capability 10.0", no_recipe, "8.9"),
    ("Block scaling is emulated through MXFP8 on B200", no_recipe, "10.0"),
    ("FlashAttention 3 does not work on the 5090", no_flash_attention_3, "12.0"),
    ("Float8BlockScaling fails on Blackwell", no_recipe, "12.0"),
    ("TN only on sm_120", other_layout, "12.0"),
    ("FA3 is Hopper-only; use something else", no_flash_attention_3, "8.9"),
    ("DeepGEMM only supports Hopper", no_kernel, "12.0"),
    ("[Kernel] Add support for block FP8 on sm_121", no_kernel, "12.1"),
    ("With an NT layout: CUBLAS_STATUS_NOT_SUPPORTED on sm_120", other_layout, "12.0"),
]


@pytest.mark.parametrize(("sentence", "rule", "capability"), LIMITS)
def test_a_sentence_that_denies_it_to_this_architecture_is_a_warning(sentence: str, rule, capability: str) -> None:  # type: ignore[no-untyped-def]
    found = rule(claims(sentence), gpus(capability))
    assert isinstance(found, Finding)
    assert found.severity is None
    assert found.evidence[0].text.startswith("it says: ")


@pytest.mark.parametrize(("sentence", "rule", "capability"), LIMITS)
def test_of_a_gpu_that_is_not_known_it_is_a_hint(sentence: str, rule, capability: str) -> None:  # type: ignore[no-untyped-def]
    found = rule(claims(sentence), None)
    assert isinstance(found, Finding)
    assert found.severity is Severity.INFO


def test_what_is_denied_to_another_architecture_is_no_news_of_this_one() -> None:
    for sentence, rule, _ in LIMITS:
        assert (
            rule(claims(sentence), gpus("8.0")) is None
            or "Hopper" in sentence
            or "requires" in sentence
            or ("needs" in sentence)
        )
    assert no_kernel(claims("DeepGEMM only supports Hopper"), gpus("9.0")) is None
    assert no_flash_attention_3(claims("FA3 is not supported on sm_90 here"), gpus("9.0")) is None
    assert no_recipe(claims("MXFP8 is not supported on Hopper"), gpus("10.0")) is None
    assert no_recipe(claims("MXFP8 is not supported on Hopper"), gpus("9.0", "10.0")) is None
    assert no_rowwise(claims("rowwise is not supported on sm_89"), gpus("gfx942")) is None


def test_a_fallback_of_fp4_weights_is_heard_where_the_title_names_them() -> None:
    title = "NVFP4 checkpoint on Hopper is slow"
    assert isinstance(no_recipe(claims(title, "Marlin fallback at 5000 tok/s"), gpus("9.0")), Finding)
    assert no_recipe(claims(title, "Marlin fallback at 5000 tok/s"), gpus("10.0")) is None
    assert claims("AWQ checkpoint on Hopper", "Marlin fallback at 5000 tok/s") == Claims()


# What names things, asks, supposes, wishes or praises.
HARMLESS = [
    "I use NVFP4 on a B200 and MXFP8 on a GB300, both are fast.",
    "Is MXFP8 supported on sm_120?",
    "Does FA3 support Ada?",
    "If rowwise scaling is not supported on sm_89, tensorwise should be used.",
    "It would be nice if DeepGEMM did not support Hopper alone.",
    "Rowwise scaling works on sm_89 since torch 2.5.",
    "DeepGEMM is now supported on Blackwell.",
    "bitsandbytes is not supported on Blackwell",
    "The checkpoint is not available for download on Hopper day.",
    "FP8 peak memory was 1466 MB",
    "We expect 1979 requests in BF16",
    "power limit 700 W",
    "nvidia-smi shows 83W / 300W",
    "The clock is 1980 MHz",
    "no power throttling was seen",
    "MFU is 55 % in BF16 and FP8 is faster.",
    "We run two processes on two GPUs.",
    "I set the environment variable before the launch.",
    "cuDNN 9.19 is installed",
    "loads cuDNN from the wheel",
    "float8_e4m3fn weights on an H100",
    "FP8 is not slow here.",
    "FlashAttention only for Hopper? No, FlashAttention 2 works on Ampere and newer.",
    "I am using fp8 with FlashAttention 3 on a H100 and it is slower than bf16.",
]


@pytest.mark.parametrize("sentence", HARMLESS)
def test_what_only_mentions_asks_or_supposes_alarms_nobody(sentence: str) -> None:
    said = fp8doctor.diagnose(
        {
            **{"schema": "fp8doctor.facts", "schema_version": "1.0", "source": "text"},
            **{"created": "2026-01-01T00:00:00+00:00", "tool": {"version": "0"}, "probes": {}},
            "facts": {"claims": _plain(sentence), "gpus": {"gpus": [{"index": 0, "compute_capability": "9.0"}]}},
        }
    )
    assert [finding.title for finding in said.findings if finding.id.startswith("CLM")] == []


def _plain(sentence: str) -> object:
    from fp8doctor.plain import to_plain

    return to_plain(claims(sentence))


def test_a_rate_with_sparsity_is_known_from_the_boards_dense_one() -> None:
    h100 = gpus("9.0", name="NVIDIA H100 80GB HBM3")
    found = sparse_peak(claims("I expected the peak of 3958 TFLOPS in FP8"), h100)
    assert isinstance(found, Finding)
    assert found.evidence[0].text == "dense: 1979 TFLOP/s"
    assert isinstance(sparse_peak(claims("expected 1979 TFLOPS BF16"), h100), Finding)
    assert sparse_peak(claims("expected 1979 TFLOPS in FP8"), h100) is None
    assert sparse_peak(claims("expected 989 TFLOPS BF16"), h100) is None
    # A board that is not in the table is held against its architecture's.
    assert isinstance(sparse_peak(claims("expected 1979 TFLOPS BF16"), gpus("9.0")), Finding)
    assert isinstance(sparse_peak(claims("it is fast"), h100), NotApplicable)


def test_a_lower_mfu_in_fp8_is_a_lesson() -> None:
    assert isinstance(lower_mfu(claims("With FP8 the MFU drops from 45 % to 32 %.")), Finding)
    assert isinstance(lower_mfu(claims("MFU is 45 %.")), NotApplicable)


def test_a_cap_counts_beside_a_higher_power() -> None:
    found = said_to_be_capped(claims("500 TFLOPS at 400 W cap, 900 at 700 W"))
    assert isinstance(found, Finding)
    assert found.title == "The text names a power cap of 400 W, beside 700 W"
    assert isinstance(said_to_be_capped(claims("power limit 700 W")), NotApplicable)


def test_a_clock_that_fell_is_a_warning_and_hearsay_of_throttling_a_hint() -> None:
    said = ("The GPU throttles.", "SM clock 1980 -> 1410 MHz under load")
    found = said_to_throttle(claims(*said))
    assert isinstance(found, Finding)
    assert found.severity is None
    assert said_to_throttle(claims("throttling", "clocks 1980 to 1950 MHz")) is None
    hint = said_to_throttle(claims("The benchmark is power throttled."))
    assert isinstance(hint, Finding)
    assert hint.severity is Severity.INFO
    assert isinstance(said_to_throttle(claims("It is not power throttled.")), NotApplicable)


def test_sentences_that_name_what_is_wrong_are_hints() -> None:
    assert isinstance(other_cudnn(claims("TE finds cuDNN by ldconfig instead of the wheel's")), Finding)
    assert isinstance(other_cudnn(claims("cuDNN is fast")), NotApplicable)
    assert isinstance(said_to_be_shared(claims("Two jobs run on the same GPU")), Finding)
    assert isinstance(said_to_be_shared(claims("No other job runs on the same GPU")), NotApplicable)
    assert isinstance(variable_too_late(claims("Setting this variable in Python has no effect")), Finding)
    assert isinstance(variable_too_late(claims("Set the variable to 1")), NotApplicable)


def test_amd_hears_of_its_fp8_types_and_of_slow_products_and_others_do_not() -> None:
    mi300, h100 = gpus("gfx942"), gpus("9.0")
    denied, slow = claims("gfx942 does not support FP8 here"), claims("FP8 scaled_mm is very slow on ROCm")
    assert isinstance(other_fp8(denied, mi300), Finding)
    assert isinstance(other_fp8(denied, h100), NotApplicable)
    assert isinstance(slow_on_rocm(slow, mi300), Finding)
    assert isinstance(slow_on_rocm(slow, h100), NotApplicable)
    assert isinstance(slow_on_rocm(claims("FP8 is not slow on ROCm"), mi300), NotApplicable)


def test_that_fp8_is_slow_says_nothing_by_itself() -> None:
    assert claims("FP8 is slow on my box.") == Claims()
    assert claims("MXFP8 attention is what I want.") == Claims()


@pytest.mark.parametrize(
    ("has", "severity"), [(None, Severity.INFO), ("9.10.2", None), ("9.14.0", "none"), ("9.21.1", "none")]
)
def test_a_cudnn_that_is_needed_is_held_against_the_one_that_is_there(has: str | None, severity: object) -> None:
    found = needs_newer_cudnn(claims("FP8 current scaling requires cuDNN 9.14"), Libraries(cudnn_version=has))
    if severity == "none":
        assert found is None
    else:
        assert isinstance(found, Finding)
        assert found.severity is severity
    assert isinstance(needs_newer_cudnn(claims("cuDNN 9.14 is here"), None), NotApplicable)


@pytest.mark.parametrize("piece", ["a", "not ", "cudnn 9.1 ", "fp8 mfu ", "two on "])
def test_a_long_text_of_nothing_costs_little(piece: str) -> None:
    text = Pasted(tuple([(piece * 600)[:600]] * 3000))
    start = time.process_time()
    read(text)
    assert time.process_time() - start < 5
