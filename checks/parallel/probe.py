"""Measures collectives and training steps on several GPUs, in BF16 and FP8; a case that hangs costs itself alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from fp8doctor.checks.parallel.facts import Collective, Parallel, ParallelStep
from fp8doctor.checks.parallel.plan import Case, Sizes, cases, numbers
from fp8doctor.checks.parallel.starting import Answer, Crew, is_sound, together
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.checks.torch_build.early import import_torch
from fp8doctor.model import Estimate, Request
from fp8doctor.plain import from_plain
from fp8doctor.registry import probe

# All of it together takes no longer, whatever the run has left.
MOST_S = 300.0
# Kept free for ending in order.
RESERVE_S = 1.5
# What a case needs to be begun, and after which it is taken to hang; the first steps are compiled.
NEED_S = {"collective": 1.0, "step": 4.0, "profile": 2.0}
HANGS_S = {"collective": 20.0, "step": 45.0, "profile": 30.0}
START_S = 60.0
# Kept for the kernels on all GPUs while fewer of them are timed.
KERNELS_S = 10.0
# A box on which so many cases ended their workers is not asked further.
MOST_STARTS = 4
STATISTIC = "median of the times between the ends of successive calls, on the first GPU"
SPENT = "the time budget was spent"
_ENDED_A_CHILD = ": the child ended by "


def prepare() -> None:
    """Have torch in the file cache while the probes before still run: each worker imports it."""
    import_torch("torch.distributed", "torch._dynamo", "torch._inductor.compile_fx")


@probe(runs_in="target", timeout_s=300, times_gpu=True, order=90, share=20.0, modes=("fleet",), prepare=prepare)
def gather(request: Request, torch_build: TorchBuild | None) -> Iterator[Parallel]:
    """Timing collectives and training steps on several GPUs."""
    why = why_not(torch_build)
    if why is not None or torch_build is None:
        yield Parallel(measurable=False, why_not=why)
        return
    names = tuple(device.name or "" for device in torch_build.devices or ())
    yield from Run(request, names, Sizes()).records()


def why_not(build: TorchBuild | None) -> str | None:
    """Why nothing is measured here, None if it can be."""
    if build is None or not build.devices:
        return "torch sees no GPU" if build and build.installed else "there is no torch to measure with"
    return "there is one GPU" if len(build.devices) == 1 else None


class Run:
    """One measurement on the GPUs of these names (or, for a rehearsal, processes); the record grows with each case."""

    def __init__(self, request: Request, names: tuple[str, ...], sizes: Sizes, most_s: float = MOST_S) -> None:
        self.began = time.monotonic()
        self.most_s = most_s
        self.request = request
        self.sizes = sizes
        self.gpus = numbers(len(names))[0]
        self.record = resumed(request, names[: self.gpus], sizes)
        self.collectives = list(self.record.collectives or ())
        self.steps = list(self.record.steps or ())
        self.not_measured = list(self.record.not_measured or ())
        self.crew: Crew | None = None
        self.starts = 0

    def left_s(self) -> float:
        """Seconds that cases may still use."""
        return min(self.request.seconds_left, self.most_s) - RESERVE_S - (time.monotonic() - self.began)

    def records(self) -> Iterator[Parallel]:
        """Measure case by case."""
        skip = {words.partition(_ENDED_A_CHILD)[0] for words in self.not_measured if _ENDED_A_CHILD in words}
        try:
            for case in cases(self.gpus, self.sizes):
                if case.label in skip or not self._is_open(case):
                    continue
                if self.left_s() < NEED_S[case.do] + self._kept_s(case):
                    self.not_measured.append(f"{case.label}: {SPENT}")
                    continue
                yield self._now(case.label)
                if (why := self._start()) is not None:
                    self.not_measured.append(why)
                    break
                self._measure(case)
        finally:
            self._end()
        yield self._now(None)

    def _is_open(self, case: Case) -> bool:
        """Whether a case was not measured by an earlier child; kernels are looked at where the step ran."""
        if case.do == "collective":
            return not any(
                (found.name, found.dtype, found.gpus) == (case.collective, case.dtype, case.gpus)
                and abs((found.size_bytes or 0) - case.size_bytes) < case.size_bytes / 8
                for found in self.collectives
            )
        step = self._step(case)
        if case.do == "profile":
            return step is not None and step.outcome == "ok" and step.profiled_ms is None
        return step is None

    def _kept_s(self, case: Case) -> float:
        return KERNELS_S if 1 < case.gpus < self.gpus else 0.0

    def _start(self) -> str | None:
        """Have workers; why there are none."""
        if self.crew is not None:
            return None
        if self.starts == MOST_STARTS:
            return f"the rest: {self.starts} cases ended the workers"
        self.starts += 1
        self.crew = Crew(self.gpus, self.sizes)
        answer = together(self.crew.start(min(START_S, max(self.left_s(), 0.0))))
        if answer["outcome"] == "ok":
            return None
        self._end()
        return f"the workers did not start: {answer['error']}"

    def _end(self) -> None:
        if self.crew is not None:
            self.crew.end()
            self.crew = None

    def _measure(self, case: Case) -> None:
        assert self.crew is not None
        began = time.monotonic()
        left_s = max(self.left_s(), 0.0)
        answers = self.crew.ask(case, min(HANGS_S[case.do], left_s))
        answer = together(answers)
        if not is_sound(answers):
            self._end()
        if answer["outcome"] == "hung" and left_s < HANGS_S[case.do]:
            self.not_measured.append(f"{case.label}: {SPENT}")
            return
        self._keep(case, {"began": began, "ended": time.monotonic(), **answer})

    def _keep(self, case: Case, answer: Answer) -> None:
        epoch_s = self.request.epoch_s
        seconds = {
            "started_s": round(answer.pop("began") - epoch_s, 3),
            "ended_s": round(answer.pop("ended") - epoch_s, 3),
        }
        if case.do == "profile":
            if answer["outcome"] != "ok":
                self.not_measured.append(f"{case.label}: {answer['error']}")
                return
            at = self.steps.index(self._step(case) or ParallelStep())
            self.steps[at] = replace(self.steps[at], **_known(ParallelStep, answer))
        elif case.do == "step":
            told = {"parallelism": case.parallelism, "config": case.config, "gpus": case.gpus}
            if self.sizes.compiled:
                told["config"] = f"{case.config}+compile"
            self.steps.append(ParallelStep(**{**told, **seconds, **_known(ParallelStep, answer)}))
        else:
            told = {"name": case.collective, "dtype": case.dtype, "gpus": case.gpus, "size_bytes": case.size_bytes}
            self.collectives.append(Collective(**{**told, **seconds, **_known(Collective, answer)}))

    def _step(self, case: Case) -> ParallelStep | None:
        for step in self.steps:
            config = (step.config or "").removesuffix("+compile")
            if (step.parallelism, config, step.gpus) == (case.parallelism, case.config, case.gpus):
                return step
        return None

    def _now(self, attempting: str | None) -> Parallel:
        return replace(
            self.record,
            collectives=tuple(self.collectives),
            steps=tuple(self.steps),
            not_measured=tuple(self.not_measured),
            took_s=round(time.monotonic() - self.began, 2),
            attempting=attempting,
        )


def _known(kind: type[Any], answer: Answer) -> dict[str, Any]:
    """What of an answer the record has fields for, estimates among it."""
    names = {field.name for field in fields(kind)}
    found = {name: value for name, value in answer.items() if name in names}
    return {name: from_plain(Estimate, value) if isinstance(value, dict) else value for name, value in found.items()}


def resumed(request: Request, names: tuple[str, ...], sizes: Sizes) -> Parallel:
    """The record to go on from: a fresh one, or that of a child that ended, with what it was trying told."""
    if request.so_far is None:
        return Parallel(
            measurable=True,
            device_names=names,
            backend=sizes.backend,
            statistic=STATISTIC,
            width=sizes.width,
            hidden=sizes.hidden,
            kv_width=sizes.kv_width,
            blocks=sizes.blocks,
        )
    record: Parallel = from_plain(Parallel, request.so_far)
    missing = list(record.not_measured or ())
    if record.attempting:
        missing.append(f"{record.attempting}{_ENDED_A_CHILD}{request.so_far_ended}")
    return replace(record, not_measured=tuple(missing), attempting=None)
