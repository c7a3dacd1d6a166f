"""Climbs the ladder of a workload, rung by rung; a rung that ends the child costs itself alone."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fp8doctor.checks.ladder.facts import Ladder, Rung
from fp8doctor.checks.ladder.outcomes import alarm, ended, not_here
from fp8doctor.checks.ladder.slugs import BASELINE, FORWARD, SHORT, TRAINING, Config, config_of
from fp8doctor.checks.ladder.stepping import MOST_STEPS_S, SHORT_STEPS_S, STEPS_PART
from fp8doctor.checks.ladder.winners import combinations
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.checks.torch_build.early import has_device, import_torch
from fp8doctor.checks.transformer_engine.cudnn import keep_torchs_cudnn
from fp8doctor.checks.transformer_engine.facts import TransformerEngine
from fp8doctor.checks.workload.catalogue import BUILT_IN, ModelPlan, StepPlan
from fp8doctor.checks.workload.config_file import read_plan
from fp8doctor.checks.workload.facts import WorkloadSeen
from fp8doctor.measuring.stepping import STEPS_S
from fp8doctor.model import Request
from fp8doctor.plain import from_plain
from fp8doctor.registry import probe

# A rung may take this many times its even share of what is left.
SHARES = 4.0
# It is not begun with less left than its like took so far, times this: compiling is not the same twice. Of the first of
# a kind the seconds below are kept: on an H200 two kinds of blocks compiled in 10 s, and a rung without compiling took
# 6 s (benchmarks/RESULTS.md).
LIKE_THE_OTHERS = 1.2
# In a run of a minute the one rung to go by is BF16 compiled, which starts the compiler too: FP8 took 0.5 to 0.8 of its
# time for a forward step, 1.1 to 1.3 for a training step (the rungs of tests/boxes/h200-bench-*.json).
AFTER_BF16 = {"forward": 0.9, "train": 1.3}
LEAST_RUNG_S = {"bench": 25.0, "thorough": 25.0, "default": 8.0}
# Kept for ending in order.
RESERVE_S = 2.0
# What an earlier run need not try again.
FINISHED = ("ok", "wrong", "refused")
SPENT = "the time budget was spent"
STATISTIC = "median of the times between the ends of successive steps"


def prepare() -> None:
    """Import torch, its compiler and what models come from while the probes that look at the box still run.

    Transformer Engine takes longer to import than they run, and a run of a minute has no rung of it.
    """
    import_torch("torch._dynamo", "torch._inductor.compile_fx")
    for library in ("torchao.quantization", "diffusers"):
        with contextlib.suppress(ImportError):
            import_torch(library)
    if has_device():
        with contextlib.suppress(Exception):  # the compiler's own processes: not every torch starts them so
            importlib.import_module("torch._inductor.async_compile").maybe_warm_pool()


def import_engine_first() -> None:
    """Import Transformer Engine, where it is, beside torch's own cuDNN, before torch calls that.

    Otherwise the BF16 steps would be timed with another cuDNN (TE023), or the import fails after them (seen with
    2.20.2: OSError, libcudnn_cnn.so.9: undefined symbol). What it says is told by its own rungs.
    """
    keep_torchs_cudnn()
    with contextlib.suppress(Exception):
        import_torch("transformer_engine.pytorch")


@probe(
    runs_in="target",
    timeout_s=86_400,
    times_gpu=True,
    order=5,
    # In a run for one workload, its whole steps come first; what they leave serves the others.
    share=1000.0,
    for_workload=True,
    modes=("default", "thorough", "bench"),
    prepare=prepare,
)
def gather(
    request: Request, torch_build: TorchBuild | None, seen: WorkloadSeen | None, te: TransformerEngine | None
) -> Iterator[Ladder]:
    """Measuring whole steps of the workload, configuration by configuration."""
    why_not = _why_not(torch_build, seen)
    if why_not is not None or request.workload is None:
        yield Ladder(workload=request.workload, measurable=False, why_not=why_not)
        return
    plan = BUILT_IN.get(request.workload) or read_plan(request.workload)
    yield from Run(request, plan, te, seen).records()


def _why_not(torch_build: TorchBuild | None, seen: WorkloadSeen | None) -> str | None:
    # The workload's own fault first: on another box it would be the same.
    if seen is not None and seen.why_not is not None:
        return seen.why_not
    if torch_build is None or not torch_build.devices:
        return "torch sees no GPU" if torch_build and torch_build.installed else "there is no torch to measure with"
    return "the workload could not be read" if seen is None or seen.workload is None else None


class Run:
    """One climb; the record grows and is yielded before each rung."""

    def __init__(
        self, request: Request, plan: ModelPlan, te: TransformerEngine | None, seen: WorkloadSeen | None
    ) -> None:
        self.began = time.monotonic()
        self.request = request
        self.plan = plan
        self.te = te
        self.least_s = LEAST_RUNG_S[request.mode]
        self.record = self._resumed(seen)

    def _resumed(self, seen: WorkloadSeen | None) -> Ladder:
        """The record to go on from: a fresh one, an earlier child's, or that of an earlier run with the same model."""
        workload = seen.workload if seen else None
        fresh = Ladder(
            workload=self.plan.name,
            title=self.plan.title,
            model_class=f"{self.plan.library}.{self.plan.class_name}",
            parameters=workload.parameters if workload else None,
            tokens={step.name: step.tokens for step in self.plan.steps},
            measurable=True,
            full=self.request.full,
            statistic=STATISTIC,
            rungs=(),
            hit_rate=self.request.hit_rate,
        )
        if self.request.so_far is None:
            return fresh
        record = from_plain(Ladder, self.request.so_far)
        if self.request.so_far_ended is not None:
            config, _, step = (record.attempting or "").partition(" @ ")
            record = (
                _with(record, Rung(config=config, step=step, **ended(self.request.so_far_ended))) if config else record
            )
            return _untold(replace(record, attempting=None), f": {SPENT}")  # it is tried again, or told again
        if (record.workload, record.full, record.tokens) != (fresh.workload, fresh.full, fresh.tokens):
            return fresh
        # A person asked to go on: what did not finish is tried again.
        failed = tuple(_name(rung) for rung in record.rungs or () if rung.outcome not in FINISHED)
        return replace(fresh, rungs=record.rungs or (), device_name=record.device_name, untried=failed or None)

    def left_s(self) -> float:
        """Seconds that new rungs may use."""
        return self.request.seconds_left - RESERVE_S - (time.monotonic() - self.began)

    def records(self) -> Iterator[Ladder]:
        """Climb all rungs of all steps."""
        import torch

        from fp8doctor.checks.ladder.climbing import Climber
        from fp8doctor.measuring.stepping import Meter

        if self.te and self.te.import_ok and self.request.mode != "default":
            import_engine_first()
        device = torch.device("cuda", self.request.gpu) if torch.cuda.is_available() else torch.device("cpu")
        if device.type == "cuda":
            torch.cuda.set_device(device)
            name = torch.cuda.get_device_name(device)
            if (differs := self._differs_from(name)) is not None:
                yield replace(self.record, rungs=(), untried=None, measurable=False, why_not=differs, device_name=name)
                return
            self.record = replace(self.record, device_name=name)
        meter = Meter(torch, device)
        climbers: dict[str, Climber] = {}
        for place, step in enumerate(self.plan.steps):
            # What is left is shared by the steps that are still to come.
            self.until_s = self.left_s() / (len(self.plan.steps) - place)
            self.step_began = time.monotonic()
            climbers[step.name] = Climber(
                self.plan, step, meter, self.record.full or False, self.request.mode == "default", self.request.epoch_s
            )
            yield from self._step(climbers[step.name], step)
        for step in self.plan.steps:  # what a quick step left of its time serves the others
            if self._left(step):
                self.until_s, self.step_began = self.left_s(), time.monotonic()
                yield from self._step(climbers[step.name], step)
        yield replace(self.record, attempting=None)

    def _differs_from(self, device: str) -> str | None:
        """Why the finished rungs of an earlier run do not compare with those of this device; None if they do."""
        before = self.record.device_name
        if before in (None, device):
            return None
        if any(rung.outcome in FINISHED for rung in self.record.rungs or ()):
            return f"the earlier run is of another GPU ({before}; here: {device})"
        self.record = replace(self.record, rungs=(), untried=None)
        return None

    def _left(self, step: StepPlan) -> bool:
        """Whether rungs of a step were left out that now fit; they are then to be measured, and no longer told."""
        without = _untold(self.record, f" @ {step.name}: {SPENT}")
        left_out = len(without.not_measured or ()) < len(self.record.not_measured or ())
        todo = self._todo(step) or self._combined(step)
        left_out = left_out or any(f"{slug} @ {step.name}" in (self.record.untried or ()) for slug in todo)
        if not left_out or not todo or self.left_s() < self.need_s(config_of(todo[0])):
            return False
        self.record = without
        return True

    def need_s(self, config: Config) -> float:
        """Seconds that a rung may need, by those of its kind: what compiles first, and what does not compile."""
        rungs = [r for r in self.record.rungs or () if r.outcome == "ok" and r.ended_s and r.started_s]
        known = {_code(config_of(r.config or "")) for r in rungs}
        anew = config.compiled is not None and _code(config) not in known
        took = [
            (r.ended_s or 0.0) - (r.started_s or 0.0)
            for r in rungs
            if (config_of(r.config or "").compiled is not None and (r.first_call_s or 0.0) > 1.0) == anew
        ]
        if not took:
            return self.least_s
        if anew and self.request.mode == "default":
            return max(took) * AFTER_BF16["train" if "fp8train" in config.base else "forward"]
        return LIKE_THE_OTHERS * max(took)

    def step_left_s(self) -> float:
        """Seconds that new rungs of the step under way may use."""
        return self.until_s - (time.monotonic() - self.step_began)

    def _step(self, climber: Any, step: StepPlan) -> Iterator[Ladder]:
        todo = self._todo(step) or self._combined(step)
        if not todo:
            return
        yield replace(self.record, attempting=f"{BASELINE} @ {step.name}")
        try:
            reference = climber.reference()
        except Exception as error:  # then nothing of this step can be measured
            text = f"{type(error).__name__}: {error}"[:300]
            self.record = _with(self.record, Rung(config=BASELINE, step=step.name, outcome="error", error=text))
            self._leave(step, todo, "BF16 itself failed")
            self.record = replace(self.record, untried=self._untried_elsewhere(step))
            return
        while todo:
            slug = todo.pop(0)
            if self.step_left_s() < self.need_s(config_of(slug)) + self._kept_s(step):
                self._leave(step, [slug, *todo], SPENT, self._needs(len(todo) + 1))
                break
            refused = self._refused(config_of(slug))
            if refused is None:
                yield replace(self.record, attempting=f"{slug} @ {step.name}")
                share_s = self._share_s(len(todo) + 1)
                climber.meter.steps_s = self._steps_s(len(todo) + 1)
                alarm(share_s)
                regional = self._rung(step, f"{config_of(slug).base}+compile")
                rung = climber.climb(slug, reference, share_s, regional)
                alarm(0)
            else:
                rung = Rung(config=slug, step=step.name, outcome="not-measured", error=refused)
            self.record = _with(self.record, rung)
            yield self.record
            todo = todo or self._combined(step)
        told = any(rung.step == step.name for rung in self.record.again or ())
        if self.step_left_s() > self.need_s(config_of(BASELINE)) and self.request.mode == "bench" and not told:
            again = climber.climb(BASELINE, reference, self.step_left_s())
            self.record = replace(self.record, again=(*(self.record.again or ()), again))

    def _steps_s(self, rungs: int) -> float:
        """Seconds of steps that are timed for the next of so many rungs."""
        if self.request.mode == "default":
            return SHORT_STEPS_S
        return min(MOST_STEPS_S, max(STEPS_S, STEPS_PART * self.step_left_s() / rungs))

    def _kept_s(self, step: StepPlan) -> float:
        """Seconds kept for measuring BF16 a second time: whether the box drifted is asked of every benchmark."""
        told = any(rung.step == step.name for rung in self.record.again or ())
        if self.request.mode != "bench" or told or self._rung(step, BASELINE) is None:
            return 0.0
        return self.need_s(config_of(BASELINE))

    def _untried_elsewhere(self, step: StepPlan) -> tuple[str, ...] | None:
        return tuple(name for name in self.record.untried or () if not name.endswith(f" @ {step.name}")) or None

    def _share_s(self, rungs: int) -> float:
        """Seconds that the next of so many rungs may take.

        A run of a minute has no time for a second child, which would import and compile anew: there it is all that is
        left, and the run's own deadline ends it.
        """
        left_s = self.left_s() if self.request.mode == "default" else self.step_left_s()
        return left_s if self.request.mode == "default" else min(left_s, max(self.least_s, SHARES * left_s / rungs))

    def _needs(self, rungs: int) -> str:
        """What the rungs that are left need, by those that are done."""
        took = [r.ended_s - r.started_s for r in self.record.rungs or () if r.ended_s and r.started_s]
        each_s = sum(took) / len(took) if took else self.least_s
        said = "this one needs" if rungs == 1 else f"these {rungs} need"
        return f"; {said} about {rungs * each_s:.0f} s (--budget)"

    def _rung(self, step: StepPlan, slug: str) -> Rung | None:
        return next((r for r in self._done(step) if r.config == slug), None)

    def _done(self, step: StepPlan) -> list[Rung]:
        """The rungs of a step that were tried; those of an earlier run that are to be tried again are not."""
        untried = self.record.untried or ()
        return [rung for rung in self.record.rungs or () if rung.step == step.name and _name(rung) not in untried]

    def _todo(self, step: StepPlan) -> list[str]:
        wanted = self.request.rungs or (TRAINING if step.trains else FORWARD)
        if self.request.mode == "default":
            wanted = tuple(slug for slug in SHORT[step.name or "forward"] if slug in wanted)
        done = {r.config for r in self._done(step)}
        return [slug for slug in wanted if slug not in done]

    def _combined(self, step: StepPlan) -> list[str]:
        """The combinations of what won, unless a person named what is to be measured."""
        if self.request.mode != "bench" or self.request.rungs:
            return []
        done = {r.config for r in self._done(step)}
        return [slug for slug in combinations(self.record, step.name or "") if slug not in done]

    def _refused(self, config: Config) -> str | None:
        """Why a rung need not be tried."""
        if config.cache and self.plan.library != "diffusers":
            return "step caches are for diffusion"
        if config.base == "diffusers-fp8-storage" and self.plan.library != "diffusers":
            return "only diffusers' models have it"
        return not_here(config, self.te)

    def _leave(self, step: StepPlan, slugs: list[str], why: str, need: str = "") -> None:
        """Tell what is left out and why; what all of it needs stands once, behind the last."""
        names = [f"{slug} @ {step.name}" for slug in slugs]
        # What failed in an earlier run stays with its own reason.
        left = [f"{name}: {why}" for name in names if name not in (self.record.untried or ())]
        if left:
            left[-1] += need
        self.record = replace(self.record, not_measured=(*(self.record.not_measured or ()), *left) or None)


def _name(rung: Rung) -> str:
    return f"{rung.config} @ {rung.step}"


def _with(record: Ladder, rung: Rung) -> Ladder:
    """The record with this rung, in place of what an earlier run said of it."""
    untried = record.untried or ()
    others = tuple(one for one in record.rungs or () if _name(one) != _name(rung) or _name(one) not in untried)
    left = tuple(name for name in untried if name != _name(rung))
    return replace(record, rungs=(*others, rung), untried=left or None)


def _code(config: Config) -> tuple[str, str | None, bool]:
    """What is compiled for a configuration: one with the same finds its code made."""
    return config.base, config.compiled, "tuned" in config.modifiers


def _untold(record: Ladder, words: str) -> Ladder:
    """The record without what it tells as not measured in these words."""
    return replace(record, not_measured=tuple(w for w in record.not_measured or () if words not in w) or None)
