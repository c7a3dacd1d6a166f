"""Is a configuration's result right, as far as its format and the model's depth explain?

Runs in the child.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fp8doctor.checks.ladder.slugs import BASELINE, Config
from fp8doctor.checks.ladder.training import TrainingStep
from fp8doctor.checks.torch_build.numerics import FORMAT_ERRORS, TOLERANCE, relative_error

# However much rounding grows in a model, a result that is off by half its own size is not explained by it: FP8 was off
# by 0.03 to 0.17 in the workloads of benchmarks/RESULTS.md, a result of zeros is by 1, one that has nothing to do with
# it by 1.4.
LARGEST_ERROR = 0.5


@dataclass
class Reference:
    """What the step gives in BF16, and by how much it is off a step whose blocks compute in FP32."""

    output: Any = None
    gradient: Any = None
    # None where the memory did not suffice for blocks in FP32.
    bf16_error: float | None = 0.0
    # Rows that each linear layer of the built blocks is called with.
    rows: dict[str, int] = field(default_factory=dict)

    def limit(self, numerics: str) -> float:
        """The most that a format explains at the end of a whole model.

        What rounding costs one layer grows through a model as BF16's own rounding is seen to grow in it.
        """
        if self.bf16_error is None:
            return LARGEST_ERROR
        growth = max(1.0, self.bf16_error / FORMAT_ERRORS["bf16"])
        return min(LARGEST_ERROR, TOLERANCE * FORMAT_ERRORS[numerics] * growth)


def compare(run: Any, reference: Reference, config: Config) -> dict[str, Any]:
    """The errors against BF16, and whether they pass.

    Args:
        run: a call that returns the output, or a training step that has run once.
        reference: what BF16 gave.
        config: the configuration that ran.
    """
    found: dict[str, Any] = {}
    gradient_error = 0.0
    if isinstance(run, TrainingStep):
        output = run.first_output
        gradient_error = relative_error(run.gradient, reference.gradient)
        found["gradient_error"] = round(gradient_error, 5) if gradient_error < float("inf") else None
    else:
        output = run()
    error = relative_error(output.float().cpu(), reference.output)
    limit = reference.limit(config.numerics)
    found["relative_error"] = round(error, 5) if error < float("inf") else None
    found["relative_error_limit"] = round(limit, 4)
    if not max(error, gradient_error) < float("inf"):
        return {**found, "outcome": "wrong", "error": "the result holds values that are not finite"}
    if gradient_error > LARGEST_ERROR:
        said = f"the first gradient is off by {gradient_error:.2g}; {LARGEST_ERROR} is the most that rounding explains"
        return {**found, "outcome": "wrong", "error": said}
    return {**found, "outcome": "ok" if error <= limit or config.slug == BASELINE else "wrong"}
