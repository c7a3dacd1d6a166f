"""Which cases changed their speed alike, so that one line tells them all?"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from statistics import median

from fp8doctor.differing.record import Direction, Shift, TimedCase

# One line tells cases that changed one way, by no more than this factor between the least and the most, if nearly all
# configurations are among them.
NEARLY_ALL = 0.9
SPREAD = 1.15
# A single case that changed among at least this many sizes of its configuration is one of those that two runs on one
# box show by chance: one of 222 in the runs that were compared (benchmarks/RESULTS.md).
LONE_AMONG = 4
_FORMATS = {"bf16": "BF16", "fp16": "FP16", "fp8": "FP8", "int8": "INT8", "mxfp8": "MXFP8", "nvfp4": "NVFP4"}

Grouping = Callable[[TimedCase], Hashable]
# From one line for everything to one for each configuration of a task.
_LEVELS: tuple[Grouping, ...] = (
    lambda case: case.clock,
    lambda case: (case.clock, case.format),
    lambda case: (case.clock, case.format, case.task),
    lambda case: (case.clock, case.format, case.task, case.label),
)


def shifts_of(cases: Sequence[TimedCase]) -> tuple[Shift, ...]:
    """The lines that tell all cases which changed, the largest change first, single ones last."""
    found = [shift for clock in dict.fromkeys(case.clock for case in cases)
             for shift in _split([case for case in cases if case.clock == clock], 0)]  # fmt: skip
    return tuple(sorted(found, key=lambda shift: (shift.lone, -_size(shift.middle))))


def _split(cases: list[TimedCase], level: int) -> Iterator[Shift]:
    """The shifts of these cases: one if they changed alike, else those of their parts."""
    if not any(case.changed for case in cases):
        return
    if level == len(_LEVELS) - 1 or _are_alike(cases):
        for direction in ("slower", "faster"):
            if changed := [case for case in cases if case.changed == direction]:
                yield _shift(direction, cases, changed)
        return
    for part in _parts(cases, _LEVELS[level + 1]):
        yield from _split(part, level + 1)


def _parts(cases: list[TimedCase], by: Grouping) -> list[list[TimedCase]]:
    parts: dict[Hashable, list[TimedCase]] = {}
    for case in cases:
        parts.setdefault(by(case), []).append(case)
    return list(parts.values())


def _are_alike(cases: list[TimedCase]) -> bool:
    """Whether cases of nearly every configuration changed one way, and about as much."""
    changed = [case for case in cases if case.changed]
    ratios = [time_ratio(case) for case in changed]
    one_way = len({case.changed for case in changed}) == 1 and max(ratios) <= SPREAD * min(ratios)
    return one_way and len(_parts(changed, _LEVELS[-1])) >= NEARLY_ALL * len(_parts(cases, _LEVELS[-1]))


def _parting_us(cases: list[TimedCase], changed: list[TimedCase]) -> float | None:
    """The time in A from which on nearly all changed and below which none did; None if no time parts them."""
    least = min(case.before.median for case in changed)
    longer = [case for case in cases if case.before.median >= least]
    return least if len(longer) < len(cases) and len(changed) >= NEARLY_ALL * len(longer) else None


def _shift(direction: Direction, cases: list[TimedCase], changed: list[TimedCase]) -> Shift:
    ratios = sorted(time_ratio(case) for case in changed)
    return Shift(
        direction=direction,
        title=_title(cases),
        clock=changed[0].clock,
        compared=len(cases),
        changed=len(changed),
        least=min(ratios, key=_size),
        middle=median(ratios),
        most=max(ratios, key=_size),
        example=max(changed, key=lambda case: _size(time_ratio(case))),
        tasks=tuple(dict.fromkeys(case.task for case in changed)),
        configs=tuple(dict.fromkeys(case.config for case in changed)),
        lone=len(changed) == 1 and len(cases) >= LONE_AMONG,
        other_kernels=sum(case.has_other_kernel for case in changed),
        from_us=_parting_us(cases, changed) if len(changed) > 1 else None,
    )


def _title(cases: list[TimedCase]) -> str:
    """What these cases have in common, in words: a configuration, a task, a format, or that they were timed."""
    labels, tasks = {case.label for case in cases}, {case.task for case in cases}
    formats = {case.format for case in cases}
    task = task_words(next(iter(tasks)))
    if len(labels) == 1:
        return f"{labels.pop()}, {task}" if len(tasks) == 1 else labels.pop()
    what = _FORMATS.get(name := next(iter(formats)), name) if len(formats) == 1 else None
    if len(tasks) == 1:
        return f"{task}, all that is {what}" if what else f"{task}, all that was timed"
    if what:
        return f"all that is {what}"
    return "all that was timed on the device" if cases[0].clock == "device" else "all calls and steps"


def task_words(task: str) -> str:
    """A task as a person reads it: "linear-training" is "linear training"."""
    return task.replace("-", " ")


def time_ratio(case: TimedCase) -> float:
    """The time in B as a multiple of that in A."""
    return case.after.median / case.before.median


def _size(ratio: float) -> float:
    """How much a ratio is off one, either way."""
    return max(ratio, 1 / ratio)
