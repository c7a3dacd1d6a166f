"""Which attention calls are timed, how much work is in them, and by which routes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fp8doctor.checks.attention import Attention, AttentionBackend, AttentionSwitch
from fp8doctor.checks.attention_times.lookup import NAMES, is_fp8
from fp8doctor.checks.attention_times.plan import Closed, closed, routes
from fp8doctor.checks.attention_times.shapes import (
    DEFAULT_USES,
    LONG_USE,
    Task,
    flops,
    normal,
    planned,
    why_not,
)
from fp8doctor.checks.flash_attention import FlashAttention, Generation
from fp8doctor.checks.transformer_engine import Recipe, TransformerEngine
from fp8doctor.measuring.workloads import AttentionUse, Step, Workload, built_in, names

IMAGE, CAUSAL = DEFAULT_USES
DECODE = AttentionUse(16, 32, 8, 1, 2048, 128, causal=False, calls=32)


def workload(*uses: AttentionUse, trains: bool = False) -> Workload:
    return Workload(steps=(Step(name="forward", trains=trains, attentions=uses),))


# --- how much work ---------------------------------------------------------------------------------------------------


def test_operations_are_counted_as_flash_attention_counts_them() -> None:
    # flops() of benchmarks/benchmark_flash_attention.py: 4 B S^2 H D, half if causal; backward 2.5 times the forward.
    whole = 4 * 1 * 4608**2 * 24 * 128
    assert flops(IMAGE) == whole
    assert flops(replace(IMAGE, causal=True)) == whole / 2
    assert flops(IMAGE, trains=True) == 3.5 * whole


def test_fewer_heads_of_keys_make_no_less_work() -> None:
    assert flops(replace(CAUSAL, kv_heads=8)) == flops(CAUSAL)


def test_a_single_query_sees_every_key_masked_or_not() -> None:
    masked = replace(DECODE, causal=True)
    assert flops(masked) == flops(DECODE) == 4 * 16 * 32 * 1 * 2048 * 128
    assert Task(normal(masked)).key == Task(normal(DECODE)).key
    assert why_not(masked) is None


# --- which calls -----------------------------------------------------------------------------------------------------


def test_without_a_workload_two_calls_forward() -> None:
    assert planned(None, thorough=False) == (Task(IMAGE), Task(CAUSAL))


def test_in_full_depth_also_their_backward_and_a_longer_one() -> None:
    keys = [task.key for task in planned(None, thorough=True)]
    uses = (IMAGE, CAUSAL, LONG_USE)
    assert keys == [Task(use, trains).key for use in uses for trains in (False, True)]


def test_a_workloads_calls_come_by_their_share_of_the_work() -> None:
    often = replace(CAUSAL, keys=512, queries=512, calls=1000)
    once = replace(CAUSAL, calls=1)
    assert [task.use for task in planned(workload(once, often), thorough=False)] == [often, once]
    assert flops(often) < flops(once)


def test_a_step_that_trains_has_a_backward_and_a_decoded_token_never() -> None:
    assert [task.trains for task in planned(workload(CAUSAL, trains=True), thorough=False)] == [False, True]
    assert [task.trains for task in planned(workload(DECODE), thorough=True)] == [False]


def test_the_same_call_of_two_steps_is_timed_once_and_counted_twice() -> None:
    one, other = replace(CAUSAL, calls=3), replace(CAUSAL, calls=4)
    (task,) = planned(workload(one, other), thorough=False)
    assert task.use.calls == 7


@pytest.mark.parametrize("name", names())
def test_every_call_of_the_built_in_workloads_can_be_timed(name: str) -> None:
    tasks = planned(built_in(name), thorough=False)
    assert tasks
    assert [why_not(task.use) for task in tasks] == [None] * len(tasks)
    assert len({task.label for task in tasks}) == len(tasks)


def test_what_means_different_things_to_different_packages_is_left_out() -> None:
    assert "lies differently" in (why_not(AttentionUse(1, 8, 8, 16, 64, 64, causal=True)) or "")
    assert "not known" in (why_not(AttentionUse(1, 8, None, None, 64, 64)) or "")
    assert why_not(AttentionUse(1, 8, 8, 16, 64, 64, causal=False)) is None


def test_what_calls_are_called() -> None:
    assert Task(IMAGE).label == "1x24x4608x128"
    assert Task(replace(CAUSAL, kv_heads=8), trains=True).label == "1x32/8x4096x128 causal, forward and backward"
    assert Task(DECODE).label == "16x32/8x1:2048x128"


def test_the_unfused_scores_outgrow_what_the_tensors_take() -> None:
    assert Task(IMAGE).score_bytes == 12 * 24 * 4608**2
    # Queries, keys, values and result: four tensors of BF16.
    assert Task(IMAGE).operand_bytes == 4 * 2 * 24 * 4608 * 128
    assert Task(IMAGE, trains=True).operand_bytes == 2 * Task(IMAGE).operand_bytes


# --- which routes ----------------------------------------------------------------------------------------------------

RIGHT = tuple(AttentionBackend(name, "ok") for name in ("flash", "efficient", "cudnn", "math"))
SEEN = Attention(device="cuda", default_backend="cudnn", backends=RIGHT, switches=())
FA2 = Generation(2, True, module="flash_attn", outcome="ok", fp8_outcome="refused", fp8_error="only fp16 and bf16")
FA3 = Generation(3, True, module="flash_attn_interface", outcome="ok", fp8_outcome="ok")
FA4 = Generation(4, True, module="flash_attn.cute", outcome="ok", fp8_outcome="refused", fp8_error="only on SM100")
MXFP8 = Recipe("MXFP8BlockScaling", available=False, reason="Device compute capability 10.0 or higher required")
TE = TransformerEngine(
    installed=True,
    import_ok=True,
    recipes=(
        Recipe("DelayedScaling", available=True, forward_ok=True),
        Recipe("Float8CurrentScaling", available=True, forward_ok=True),
        Recipe("Float8BlockScaling", available=True, forward_ok=True),
        MXFP8,
    ),
)


def slugs(*args: object, patient: bool = True) -> list[str]:
    return [route.slug for route in routes(*args, patient=patient)]  # type: ignore[arg-type]


def test_where_nothing_is_known_only_torchs_own_pick_is_called() -> None:
    assert slugs(None, None, None) == ["torch-sdpa"]


def test_every_route_that_ran_is_timed_torchs_own_pick_first() -> None:
    switches = (AttentionSwitch("FA3", outcome="ok"), AttentionSwitch("FA4", outcome="error"))
    found = slugs(replace(SEEN, switches=switches), FlashAttention(generations=(FA2, FA3, FA4)), TE)
    assert found == [
        "torch-sdpa",
        "torch-sdpa-flash",
        "torch-sdpa-efficient",
        "torch-sdpa-cudnn",
        "torch-sdpa-math",
        "flash-attn-2",
        "flash-attn-3",
        "flash-attn-3-fp8",
        "flash-attn-4",
        "torch-sdpa-fa3",
        "te-attention",
        "te-fp8-delayed-attention",
        "te-fp8-current-attention",
    ]
    assert set(found) <= set(NAMES)


@pytest.mark.parametrize("outcome", ["crashed", "wrong", "error", "timeout", "refused", "absent", None])
def test_what_did_not_come_back_right_is_never_called_again(outcome: str | None) -> None:
    attention = replace(SEEN, backends=(AttentionBackend("cudnn", outcome),))
    flash = FlashAttention(generations=(replace(FA2, outcome=outcome, fp8_outcome=None),))
    assert slugs(attention, flash, None) == ["torch-sdpa"]
    switched = replace(SEEN, backends=(), switches=(AttentionSwitch("FA3", outcome=outcome),))
    assert slugs(switched, None, None) == ["torch-sdpa"]


def test_transformer_engine_that_cannot_be_imported_is_not_called() -> None:
    assert slugs(None, None, replace(TE, import_ok=False)) == ["torch-sdpa"]


def test_a_default_run_does_not_wait_for_what_compiles_first() -> None:
    flash = FlashAttention(generations=(replace(FA4, fp8_outcome="ok"),))
    attention = replace(SEEN, switches=(AttentionSwitch("FA4", outcome="ok"),))
    hurried, patient = (slugs(attention, flash, None, patient=waits) for waits in (False, True))
    assert set(patient) - set(hurried) == {"flash-attn-4", "flash-attn-4-fp8", "torch-sdpa-fa4"}


def test_ways_to_fp8_that_are_known_to_be_closed_keep_their_reasons() -> None:
    broken = replace(TE, recipes=(Recipe("DelayedScaling", available=True, forward_ok=False, error="SIGSEGV"), MXFP8))
    assert closed(FlashAttention(generations=(FA2, FA3)), broken) == (
        Closed("flash-attn-2-fp8", "refused", "only fp16 and bf16"),
        Closed("te-fp8-delayed-attention", "error", "SIGSEGV"),
        Closed("te-mxfp8-attention", "unavailable", str(MXFP8.reason)),
    )
    assert "te-fp8-delayed-attention" not in slugs(None, None, broken)
    assert closed(None, None) == ()


def test_fp8_routes_are_told_by_their_names() -> None:
    fp8 = [route.slug for route in routes(SEEN, FlashAttention(generations=(FA2, FA3)), TE, patient=True) if route.fp8]
    assert fp8 == [slug for slug in slugs(SEEN, FlashAttention(generations=(FA2, FA3)), TE) if is_fp8(slug)]
    assert len(fp8) == 3
