"""What was measured on several GPUs, as rules and exhibits ask for it."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.checks.parallel.facts import Parallel, ParallelStep
from fp8doctor.checks.parallel.plan import BF16, DATA, FP8, GATHERED, SHARDED, SINGLE, TENSOR
from fp8doctor.measuring.statistics import speedup
from fp8doctor.model import Estimate, Evidence, NotApplicable, Unknown

WORDS = {
    SINGLE: "one GPU",
    DATA: "data parallel (DDP)",
    SHARDED: "sharded data parallel (FSDP2)",
    TENSOR: "tensor parallel",
}


@dataclass(frozen=True)
class Gain:
    """FP8's factor over BF16 on so many GPUs, spread in one way; `fp8` is the faster FP8 step of those measured."""

    parallelism: str
    gpus: int
    bf16: ParallelStep
    fp8: ParallelStep
    factor: Estimate


class Measured:
    """The steps that ran, by how they are spread."""

    def __init__(self, parallel: Parallel) -> None:
        self._steps = {
            (step.parallelism, (step.config or "").removesuffix("+compile"), step.gpus): step
            for step in parallel.steps or ()
            if step.outcome == "ok" and step.step_ms is not None
        }

    def step(self, parallelism: str, config: str, gpus: int) -> ParallelStep | None:
        """The step of one configuration, if it ran."""
        return self._steps.get((parallelism, config, gpus))

    def numbers(self, parallelism: str) -> list[int]:
        """Numbers of GPUs at which something was timed, ascending."""
        return sorted({gpus for spread, _, gpus in self._steps if spread == parallelism and gpus})

    def gain(self, parallelism: str, gpus: int) -> Gain | None:
        """FP8's best factor over BF16; None unless both ran."""
        bf16 = self.step(parallelism, BF16, gpus)
        tried = (self.step(parallelism, config, gpus) for config in (FP8, GATHERED))
        ran = [step for step in tried if step is not None]
        if bf16 is None or not ran:
            return None
        fp8 = min(ran, key=lambda step: _ms(step).median)
        return Gain(parallelism, gpus, bf16, fp8, speedup(_ms(bf16), _ms(fp8)))

    def single(self) -> Gain | None:
        """FP8's factor on one GPU."""
        return self.gain(SINGLE, 1)

    def largest(self, parallelism: str) -> Gain | None:
        """FP8's factor on the most GPUs on which both formats ran."""
        found = [gain for n in self.numbers(parallelism) if (gain := self.gain(parallelism, n)) is not None]
        return found[-1] if found else None


def _ms(step: ParallelStep) -> Estimate:
    assert step.step_ms is not None
    return step.step_ms


def without_waiting(gain: Gain) -> float | None:
    """FP8's factor over BF16 in what is not exposed communication; None where kernels were not looked at.

    The share of communication is that of the profiled step, taken off the step as it was timed.
    """
    bf16, fp8 = exposed_share(gain.bf16), exposed_share(gain.fp8)
    if bf16 is None or fp8 is None or fp8 >= 1:
        return None
    return _ms(gain.bf16).median * (1 - bf16) / (_ms(gain.fp8).median * (1 - fp8))


def exposed_share(step: ParallelStep) -> float | None:
    """The share of a step in which it only communicates."""
    if step.exposed_ms is None or not step.profiled_ms:
        return None
    return step.exposed_ms / step.profiled_ms


def unmeasured(parallel: Parallel) -> NotApplicable | Unknown | None:
    """Why nothing can be said of these facts, None if FP8 was timed beside BF16 on several GPUs."""
    if parallel.measurable is False:
        return NotApplicable(parallel.why_not or "several GPUs could not be measured")
    measured = Measured(parallel)
    if not any(measured.largest(spread) for spread in (DATA, SHARDED, TENSOR)):
        return Unknown("no FP8 step was timed beside BF16 on several GPUs")
    return None


def gain_line(gain: Gain) -> Evidence:
    """A factor as evidence, with both times."""
    text = (
        f"{where(gain)}: FP8 {_ms(gain.fp8).median:.2f} ms, BF16 {_ms(gain.bf16).median:.2f} ms, "
        f"{gain.factor.median:.2f}x ({gain.factor.low:.2f} to {gain.factor.high:.2f})"
    )
    return Evidence(text, gain.factor.median, "x", "parallel.steps")


def where(gain: Gain) -> str:
    """ "tensor parallel on 4 GPUs"; "one GPU"."""
    return WORDS[gain.parallelism] + (f" on {gain.gpus} GPUs" if gain.gpus > 1 else "")
