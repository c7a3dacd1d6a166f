"""The probe of attention run in a test: what it knows of the packages, a stub for its GPU, and what it yields."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fp8doctor.checks.attention import Attention, AttentionBackend
from fp8doctor.checks.attention_times.facts import AttentionCase, AttentionTimes
from fp8doctor.checks.attention_times.lookup import task_of
from fp8doctor.checks.attention_times.probe import Known, Run
from fp8doctor.checks.attention_times.shapes import Task
from fp8doctor.checks.flash_attention import FlashAttention, Generation
from fp8doctor.checks.transformer_engine import Recipe, TransformerEngine
from fp8doctor.measuring.workloads import AttentionUse, Step, Workload
from fp8doctor.model import Request
from tests.stub_cuda import L2_BYTES, StubTorch

GROUPED = AttentionUse(1, 4, 2, 48, 48, 32, causal=True, calls=8)
DECODE = AttentionUse(2, 4, 2, 1, 64, 32, causal=False, calls=8)
WORKLOAD = Workload(steps=(Step(name="forward", trains=False, attentions=(GROUPED, DECODE)),))
ONE = Workload(steps=(Step(name="forward", attentions=(GROUPED,)),))
TRAINING = Workload(steps=(Step(name="train", trains=True, attentions=(GROUPED,)),))
SEEN = Attention(backends=(AttentionBackend("flash", "ok"), AttentionBackend("math", "ok")), switches=())
FA3 = FlashAttention(generations=(Generation(3, True, module="flash_attn_interface", outcome="ok", fp8_outcome="ok"),))
TE = TransformerEngine(
    installed=True,
    import_ok=True,
    import_s=0.1,
    recipes=(
        Recipe("DelayedScaling", available=True, forward_ok=True),
        Recipe("Float8CurrentScaling", available=True, forward_ok=True),
        Recipe("MXFP8BlockScaling", available=False, reason="Device compute capability 10.0 or higher required"),
    ),
)
ALL = Known(SEEN, FA3, TE, WORKLOAD)
GIB = 1 << 30


def stub(torch: Any, *, free: int = 64 * GIB, launches_show: bool = False) -> StubTorch:
    """A torch whose stub device has as much memory free as is said."""
    made = StubTorch(torch, launches_show=launches_show)
    made.cuda.mem_get_info = lambda device: (free, 128 * GIB)
    properties = SimpleNamespace(L2_cache_size=L2_BYTES, name="NVIDIA Stub", major=9, minor=0)
    made.cuda.get_device_properties = lambda device: properties
    return made


def records(known: Known, *, seconds: float = 60.0, torch_here: StubTorch | None = None, **more: Any) -> list[Any]:
    """All that the probe yields."""
    torch = pytest.importorskip("torch")
    request = Request(**{"mode": "default", "seconds_left": seconds, **more})
    return list(Run(torch_here or stub(torch), torch.device("cpu"), request, known).records())


def by_route(record: AttentionTimes, use: AttentionUse, *, trains: bool = False) -> dict[str, AttentionCase]:
    """The cases at one call."""
    return {case.route or "": case for case in record.cases or () if task_of(case).key == Task(use, trains).key}
