"""What was timed of Transformer Engine's linear layer."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.checks.linear.facts import Case
from fp8doctor.measuring.timer import Method
from fp8doctor.measuring.workloads import Workload
from fp8doctor.model import Facts, NotApplicable, Unknown

# Values of `LayerTime.passes`. The forward alone runs without gradients, as inference does. With the backward it is
# what one step of training asks of the layer: the output, the gradient of the input and that of the weight.
FORWARD = "forward"
TRAINING = "forward+backward"
BOTH = (TRAINING, FORWARD)


@dataclass(frozen=True)
class LayerTime(Case):
    """One configuration at one shape: from a BF16 input (M x K) to a BF16 output (M x N), `kind` is "layer"."""

    passes: str | None = None  # FORWARD | TRAINING
    # Relative Frobenius error against FP32 of the gradient that is more wrong, the input's or the weight's, and the
    # most that the formats of the backward explain.
    gradient_error: float | None = None
    gradient_error_limit: float | None = None


@dataclass(frozen=True)
class TransformerEngineTimes(Facts, key="transformer_engine_times"):
    """te.Linear beside nn.Linear, by shape. `measurable=False`: there is nothing to measure, or nothing to do it with.

    The shapes stand in the order in which they were measured, the most telling first.
    """

    measurable: bool | None = None
    why_not: str | None = None
    method: Method | None = None
    device_name: str | None = None
    # The configuration that Transformer Engine takes where no recipe is named, and all that were to be timed.
    default_config: str | None = None
    configs: tuple[str, ...] | None = None
    cases: tuple[LayerTime, ...] | None = None
    # What did not fit into the time, or could not be tried, in words.
    not_measured: tuple[str, ...] | None = None
    warm_up_s: float | None = None
    took_s: float | None = None
    # What was being tried when this record was written.
    attempting: str | None = None


def passes_of(workload: Workload | None) -> tuple[str, ...]:
    """What the steps of a workload run; both where none was named."""
    runs = {TRAINING if step.trains else FORWARD for step in (workload.steps if workload else None) or ()}
    return tuple(passes for passes in BOTH if passes in runs) or BOTH


def not_timed(times: TransformerEngineTimes) -> NotApplicable | Unknown | None:
    """Why nothing can be said of these times, None if a layer was timed."""
    if times.measurable is False:
        return NotApplicable(times.why_not or "te.Linear could not be timed")
    if not any(case.device_us for case in times.cases or ()):
        return Unknown("te.Linear was not timed")
    return None
