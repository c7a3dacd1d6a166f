"""Finding one's way in the measured training: which layer stands for all, and how much does each gain?"""

from __future__ import annotations

from collections.abc import Iterator

from fp8doctor.checks.linear.cases import beyond_noise, time_of, us
from fp8doctor.checks.training.facts import Training, TrainingCase
from fp8doctor.checks.training.recipes import named
from fp8doctor.measuring.statistics import speedup
from fp8doctor.model import Estimate, Evidence, NotApplicable, Unknown

Place = tuple[int, int, int]
BASELINES = ("torch-bf16", "torch-bf16+compile")


class Trained:
    """The timed cases of one record by shape (M, K, N) and configuration, in the order of measuring."""

    def __init__(self, training: Training) -> None:
        self._timed: dict[Place, dict[str, TrainingCase]] = {}
        for case in training.cases or ():
            if case.config and case.m and case.k and case.n and time_of(case.device_us):
                self._timed.setdefault((case.m, case.k, case.n), {})[case.config] = case

    def places(self) -> list[Place]:
        """The shapes at which BF16 and an FP8 recipe were timed."""
        return [place for place in self._timed if self.bf16(place) and self._fp8(place)]

    def us(self, config: str, place: Place) -> Estimate | None:
        """A configuration's device time at a shape, in microseconds."""
        case = self._timed.get(place, {}).get(config)
        return case.device_us if case else None

    def case(self, config: str, place: Place) -> TrainingCase | None:
        """A timed case."""
        return self._timed.get(place, {}).get(config)

    def bf16(self, place: Place) -> tuple[str, Estimate] | None:
        """The faster of the 16-bit forms."""
        return self._fastest(BASELINES, place)

    def best(self, place: Place) -> tuple[str, Estimate] | None:
        """The fastest FP8 recipe whose results are right."""
        return self._fastest([config for config in self._fp8(place) if is_right(self._timed[place][config])], place)

    def gain(self, place: Place) -> tuple[str, Estimate, bool] | None:
        """The best FP8 recipe, its factor over the best BF16, and whether that is a gain beyond the noise."""
        best, bf16 = self.best(place), self.bf16(place)
        if best is None or bf16 is None:
            return None
        ratio = speedup(bf16[1], best[1])
        return best[0], ratio, beyond_noise(ratio, best[1]) and ratio.median > 1

    def gains(self) -> Iterator[tuple[Place, str, Estimate, bool]]:
        """`gain` of each shape that has one."""
        for place in self.places():
            if (found := self.gain(place)) is not None:
                yield (place, *found)

    def _fp8(self, place: Place) -> list[str]:
        return [config for config in self._timed[place] if (recipe := named(config)) is not None and recipe.torchao]

    def _fastest(self, configs: list[str] | tuple[str, ...], place: Place) -> tuple[str, Estimate] | None:
        timed = [(config, time) for config in configs if (time := self.us(config, place)) is not None]
        return min(timed, key=lambda pair: pair[1].median, default=None)


def is_right(case: TrainingCase) -> bool:
    """Whether all that was computed is finite and within what its format explains."""
    return case.error is None and not list(wrong_parts(case))


def wrong_parts(case: TrainingCase) -> Iterator[tuple[str, float, float]]:
    """What of a case is wrong: (in words, relative error, the most that the format explains)."""
    for words, error, limit in (
        ("output", case.output_error, case.output_limit),
        ("gradient of the input", case.input_grad_error, case.input_grad_limit),
        ("gradient of the weight", case.weight_grad_error, case.weight_grad_limit),
    ):
        if error is not None and limit is not None and error > limit:
            yield words, error, limit


def unmeasured(training: Training) -> NotApplicable | Unknown | None:
    """Why nothing can be said of these facts, None if an FP8 recipe was timed beside BF16."""
    if training.measurable is False:
        return NotApplicable(training.why_not or "nothing could be timed")
    if not Trained(training).places():
        return Unknown("no FP8 training was timed beside BF16")
    return None


def layer_text(place: Place) -> str:
    """ "Linear(4096, 14336) with 8,192 tokens"."""
    m, k, n = place
    return f"Linear({k}, {n}) with {m:,} tokens"


def line(what: str, value: Estimate, more: str = "") -> Evidence:
    """A time as evidence."""
    return Evidence(f"{what}: {us(value)}{more}", value.median, "us", "training.cases")


def scaling(config: str) -> str:
    """The recipe of a slug as torchao spells it; "BF16" for one that is none of its."""
    recipe = named(config)
    return recipe.torchao if recipe and recipe.torchao else "BF16"
