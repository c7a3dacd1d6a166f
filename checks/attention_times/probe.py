"""Measures attention: every route that runs here, at every shape, in turn, within the time that is left."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from fp8doctor.checks.attention.call import check_context, ended_as
from fp8doctor.checks.attention.facts import Attention
from fp8doctor.checks.attention_times.facts import AttentionCase, AttentionTimes
from fp8doctor.checks.attention_times.plan import Closed, Route, closed, routes
from fp8doctor.checks.attention_times.routes import can_switch_back
from fp8doctor.checks.attention_times.shapes import Key, Task, planned, why_not
from fp8doctor.checks.attention_times.te import import_engine, listener
from fp8doctor.checks.attention_times.timing import AttentionBench, case_of
from fp8doctor.checks.flash_attention.facts import FlashAttention
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.checks.torch_build.early import has_device, import_torch
from fp8doctor.checks.transformer_engine.facts import TransformerEngine
from fp8doctor.checks.workload import WorkloadSeen
from fp8doctor.measuring.timer import SAMPLES_A_BATCH, Timer
from fp8doctor.measuring.workloads import Workload
from fp8doctor.model import Request
from fp8doctor.plain import from_plain
from fp8doctor.registry import probe

# Batches of each route, in turn with the other routes of the call; and rounds of call times over all shapes.
ROUNDS = {"default": 3, "thorough": 9}
WARM_S = 1.0
# Kept free for ending in order.
RESERVE_S = 0.5
# What one call with all its routes may take, and one profile, to know whether the next one still fits.
SHAPE_S = 1.5
PROFILE_S = 1.0
# Importing Transformer Engine where its own probe did not say how long that took: the longest that was seen
# (tests/boxes/h200.json).
IMPORT_S = 8.0
# The unfused route may fill this share of the memory that is free, and a call's tensors this one.
SCORES_SHARE, OPERANDS_SHARE = 0.25, 0.5
# Calls that are timed keep their tensors until the end, as long as this share of the memory is free.
LEAST_FREE = 0.4

_ENDED_A_CHILD = ": the child ended by "
_CALLS_LOST = "calls and kernels of what was timed before a child ended"
_IMPORTING = "importing Transformer Engine"


@dataclass(frozen=True)
class Known:
    """What earlier probes learnt, and what was asked for."""

    attention: Attention | None = None
    flash: FlashAttention | None = None
    te: TransformerEngine | None = None
    workload: Workload | None = None


def prepare() -> None:
    """Import torch and Transformer Engine, where it is, while the probes that do not time anything still run."""
    import_torch("torch.nn.attention", "torch.profiler")
    with contextlib.suppress(Exception):  # it is imported again when it is needed, and what it says is told then
        if has_device():
            import_engine()


@probe(
    runs_in="target",
    timeout_s=300,
    times_gpu=True,
    order=30,
    share=2.0,
    modes=("default", "thorough"),
    prepare=prepare,
)
def gather(
    request: Request,
    torch_build: TorchBuild | None,
    attention: Attention | None,
    flash: FlashAttention | None,
    te: TransformerEngine | None,
    seen: WorkloadSeen | None,
) -> Iterator[AttentionTimes]:
    """Timing attention by every route that runs here."""
    if torch_build is None or not torch_build.devices:
        why = "torch sees no GPU" if torch_build and torch_build.installed else "there is no torch to measure with"
        yield AttentionTimes(measurable=False, why_not=why)
        return
    import torch

    torch.cuda.set_device(request.gpu)
    device = torch.device("cuda", request.gpu)
    known = Known(attention, flash, te, seen.workload if seen else None)
    yield from Run(torch, device, request, known).records()


class Run:
    """One measurement; the record grows and is yielded before each step that may crash."""

    def __init__(self, torch: Any, device: Any, request: Request, known: Known) -> None:
        self.began = time.monotonic()
        self.torch = torch
        self.device = device
        self.request = request
        self.known = known
        thorough = request.mode == "thorough"
        self.tasks = planned(known.workload, thorough=thorough)
        self.routes = routes(known.attention, known.flash, known.te, patient=thorough or known.workload is not None)
        self.record = resumed(request, self.tasks)
        self.cases: dict[tuple[str, Key], AttentionCase] = {
            (case.route or "", _key(case)): case for case in self.record.cases or ()
        }
        self.not_measured = list(self.record.not_measured or ())
        self.skip = ended_children(self.record)
        self.benches: list[AttentionBench] = []
        self.engine: Any = None

    def left_s(self) -> float:
        """Seconds of this probe's part that are left."""
        return self.request.seconds_left - RESERVE_S - (time.monotonic() - self.began)

    def records(self) -> Iterator[AttentionTimes]:
        """Measure; yields the growing record."""
        torch = self.torch
        yield self._now("warming up")
        timer = Timer(torch, self.device)
        properties = torch.cuda.get_device_properties(self.device)
        hip = getattr(properties, "gcnArchName", "").partition(":")[0] if torch.version.hip else None
        self.record = replace(
            self.record,
            method=timer.method(ROUNDS[self.request.mode] * SAMPLES_A_BATCH),
            device_name=properties.name,
            compute_capability=hip or f"{properties.major}.{properties.minor}",
            warm_up_s=round(timer.warm(_product(torch, self.device), WARM_S), 2),
        )
        timer.calibrate()
        yield from self._import_engine()
        for place, task in enumerate(self.tasks):
            if (why := why_not(task.use)) is not None:
                self._leave_out(task.label, why)
            else:
                # What earlier probes saw refused is told once, at the leading call.
                yield from self._task(timer, task, closed(self.known.flash, self.known.te) if place == 0 else ())
        if "calls" not in self.skip:
            yield self._now("calls")
            self._time_calls()
        yield from self._profile()
        yield self._now(None)

    def _now(self, attempting: str | None) -> AttentionTimes:
        return replace(
            self.record,
            cases=tuple(self.cases.values()),
            not_measured=tuple(self.not_measured),
            took_s=round(time.monotonic() - self.began, 2),
            attempting=attempting,
        )

    def _import_engine(self) -> Iterator[AttentionTimes]:
        if not any(route.library == "te" for route in self.routes):
            return
        takes_s = (self.known.te.import_s if self.known.te else None) or IMPORT_S
        if "transformer_engine.pytorch" in sys.modules:
            takes_s = 0.0
        if _IMPORTING not in self.skip and self.left_s() < takes_s + SHAPE_S:
            self._leave_out("Transformer Engine's attention", "no time left to import it")
        elif _IMPORTING not in self.skip:
            yield self._now(_IMPORTING)
            try:
                self.engine = import_engine()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit has been seen
                self._leave_out("Transformer Engine's attention", f"{type(error).__name__}: {error}"[:300])
        if self.engine is None:
            self.routes = tuple(route for route in self.routes if route.library != "te")

    def _task(self, timer: Timer, task: Task, shut: tuple[Closed, ...]) -> Iterator[AttentionTimes]:
        """Call every route once at this call, then time them together."""
        if any(case.device_us for (_, key), case in self.cases.items() if key == task.key):
            return  # by an earlier child
        if self.left_s() < SHAPE_S:
            self._leave_out(task.label, "the time budget was spent")
            return
        if task.label in self.skip:
            return
        for item in shut:
            self._keep(case_of(task, item.slug, item.outcome, item.why))
        if task.operand_bytes > OPERANDS_SHARE * self._make_room():
            self._leave_out(task.label, "its tensors do not fit into the GPU's memory")
            return
        yield self._now(task.label)
        try:
            bench = AttentionBench(self.torch, timer, task, self._keep)
        except self.torch.cuda.OutOfMemoryError:
            self._out_of_memory(task.label)
            return
        if self.engine is not None:
            bench.engine, bench.listener = self.engine, listener()
        for route in self.routes:
            if not self._applies(route, task):
                continue
            yield self._now(f"{route.slug}: {task.label}")
            bench.begin(route)
            yield self._now(None)
            check_context(self.device)
        yield self._now(task.label)
        try:
            bench.time_device(ROUNDS[self.request.mode], self.request.epoch_s)
            self.benches.append(bench)
        except self.torch.cuda.OutOfMemoryError:
            self._out_of_memory(task.label)

    def _applies(self, route: Route, task: Task) -> bool:
        tried = self.cases.get((route.slug, task.key))
        if (tried is not None and tried.outcome != "ok") or (task.trains and not route.trains):
            return False  # one that an earlier child only called is called again, to be timed
        if route.switch is not None and not can_switch_back():
            self._leave_out(route.slug, "this torch cannot turn its switch back")
            return False
        if route.backend == "math":
            free, _ = self.torch.cuda.mem_get_info(self.device)
            if task.score_bytes > SCORES_SHARE * free:
                self._leave_out(f"{route.slug} at {task.label}", "its scores would fill too much of the memory")
                return False
        return True

    def _make_room(self) -> float:
        """Bytes of memory that are free; where it is short, the calls so far are finished now and let go."""
        free, total = self.torch.cuda.mem_get_info(self.device)
        if self.benches and free < LEAST_FREE * total:
            if "calls" not in self.skip:
                self._time_calls()
            for bench in self.benches:
                self._leave_out(f"kernels of {bench.task.label}", "its tensors had to make room")
            self.benches = []
            self.torch.cuda.empty_cache()
            free, _ = self.torch.cuda.mem_get_info(self.device)
        return float(free)

    def _time_calls(self) -> None:
        """The call times of all calls that wait for it, round by round over the whole of them."""
        for _ in range(ROUNDS[self.request.mode]):
            for bench in self.benches:
                if self.left_s() > 0:
                    bench.time_calls()
        for bench in self.benches:
            bench.keep_calls()

    def _profile(self) -> Iterator[AttentionTimes]:
        for bench in self.benches:
            label = f"kernels of {bench.task.label}"
            if label in self.skip:
                continue
            if self.left_s() < PROFILE_S:
                self._leave_out(label, "the time budget was spent")
                continue
            yield self._now(label)
            bench.profile()

    def _keep(self, case: AttentionCase) -> None:
        self.cases[case.route or "", _key(case)] = case

    def _out_of_memory(self, label: str) -> None:
        self.torch.cuda.empty_cache()
        self._leave_out(label, "out of GPU memory")

    def _leave_out(self, what: str, why: str) -> None:
        words = f"{what}: {why}"
        if words not in self.not_measured:
            self.not_measured.append(words)


def resumed(request: Request, tasks: tuple[Task, ...]) -> AttentionTimes:
    """The record to go on from: a fresh one, or that of a child that crashed, with what it was trying told."""
    if request.so_far is None:
        return AttentionTimes(measurable=True)
    record = from_plain(AttentionTimes, request.so_far)
    cases, missing = list(record.cases or ()), list(record.not_measured or ())
    slug, colon, label = (record.attempting or "").partition(": ")
    task = next((task for task in tasks if colon and task.label == label), None)
    if task is not None:
        cases.append(case_of(task, slug, *ended_as(request.so_far_ended)))
    elif record.attempting:
        missing.append(f"{record.attempting}{_ENDED_A_CHILD}{request.so_far_ended}")
    # The calls themselves were in the memory of the child that crashed.
    if any(case.device_us and not case.call_us for case in cases) and _CALLS_LOST not in missing:
        missing.append(_CALLS_LOST)
    return replace(record, measurable=True, cases=tuple(cases), not_measured=tuple(missing), attempting=None)


def ended_children(record: AttentionTimes) -> frozenset[str]:
    """What ended a child when it was tried, and is no route: it is not tried again."""
    told = (words.partition(_ENDED_A_CHILD) for words in record.not_measured or ())
    return frozenset(what for what, ended, _ in told if ended)


def _key(case: AttentionCase) -> Key:
    size = (case.batch, case.heads, case.kv_heads, case.queries, case.keys, case.head_dim)
    return (*(part or 0 for part in size), bool(case.causal), bool(case.trains))


def _product(torch: Any, device: Any) -> Any:
    """A matrix product that keeps the GPU busy, to warm it up."""
    side = 4096 if device.type != "cpu" else 64
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16) / math.sqrt(side)
    return lambda: torch.mm(a, a)
