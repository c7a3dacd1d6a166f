"""Which configuration is best where? Ranks candidates without knowing what they are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from fp8doctor.judging.report import Speedup, Use, When
from fp8doctor.model import Candidate, Clock, Estimate

# Two runs of the default examination agree within 3 %, on times under 50 us within 8 % (benchmarks/RESULTS.md), so a
# smaller gain is no gain.
LEAST_GAIN, SHORT_GAIN, SHORT_US = 1.03, 1.08, 50.0
# A simpler configuration that serves this share of the sizes that another serves is preferred.
NEARLY_AS_MANY = 0.8
# Formats that compete with FP8: gaining with them is not gaining with FP8.
NOT_FP8 = ("bf16", "fp16", "int8")
# A configuration within this factor of the best is as good as the best: fewer ranges, same result.
AS_GOOD_AS_BEST = 1.05


@dataclass(frozen=True)
class Pick:
    """The choice at one value of the sweep."""

    # None: the task is one size, and nothing was swept.
    sweep: int | None
    candidate: Candidate
    baseline: Candidate | None
    speedup: float | None
    clock: Clock
    fp8_timed: bool


def advise(candidates: Iterable[Candidate]) -> tuple[Use, ...]:
    """Turn candidates into advice: measured where anything was timed, else what is known, marked so.

    Where a workload's steps were compared they alone are advised on: what a layer gains by itself, a step may lose.
    Ranges that gain with FP8 come first, largest gain first; then other gains, as another attention's; then those where
    the 16-bit baseline stays best.
    """
    candidates = compared_steps(candidates)
    by_task: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_task.setdefault(candidate.task, []).append(candidate)
    advice: list[Use] = []
    anything = any(effective(c) is not None for members in by_task.values() for c in members)
    for members in by_task.values():
        timed = [c for c in members if effective(c) is not None]
        if timed:
            shapes = [_choices(shape_members) for shape_members in _by_shape(timed).values()]
            served = _served(choice for choices in shapes for choice in choices)
            for choices in shapes:
                advice += _ranges(choices, served)
        elif not anything:
            advice += [_known(c) for c in members if c.basis != "measured"]
    eight = {c.config for c in candidates if in_fp8(c)}

    def place(use: Use) -> tuple[bool, bool, float]:
        return use.when.workload is None, not (use.speedup and use.config in eight), _gain_first(use)

    return tuple(sorted(advice, key=place))


def compared_steps(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The steps of a workload, if FP8 was timed or estimated in one of them; else all candidates."""
    members = list(candidates)
    steps = [c for c in members if c.workload is not None and effective(c) is not None]
    return steps if any(in_fp8(c) for c in steps) else members


def in_fp8(candidate: Candidate) -> bool:
    """Whether it computes or stores in FP8 or less, of the floating-point formats."""
    return not candidate.baseline and candidate.format not in NOT_FP8


def effective(candidate: Candidate) -> tuple[Estimate, Clock] | None:
    """The time that a user of this configuration waits for, in microseconds, and its clock.

    The device's time, unless the device waits for the host: then the time of the call. None if nothing was timed.
    """
    device, call = _plausible(candidate.device_us), _plausible(candidate.call_us)
    if device is not None and not (candidate.waits_for_host and call is not None):
        return device, "device"
    return (call, "call") if call is not None else None


def _plausible(estimate: Estimate | None) -> Estimate | None:
    """The estimate, if it is a time at all: a broken timer (or a file edited by hand) gives zero, or less."""
    if estimate is None:
        return None
    is_time = 0 < estimate.low < math.inf and 0 < estimate.median < math.inf and 0 < estimate.high < math.inf
    return estimate if is_time else None


def ratio(slower: Estimate, faster: Estimate) -> tuple[float, float, float]:
    """How many times as fast `faster` is: (median, low, high), the bounds from the ends of both intervals."""
    return slower.median / faster.median, slower.low / faster.high, slower.high / faster.low


def is_right(candidate: Candidate) -> bool:
    """Whether its result was compared and is within what its format explains."""
    if candidate.baseline:
        return True
    limit = math.inf if candidate.error_limit is None else candidate.error_limit
    return candidate.error is not None and math.isfinite(candidate.error) and candidate.error <= limit


def _by_shape(candidates: list[Candidate]) -> dict[tuple[tuple[str, int], ...], list[Candidate]]:
    groups: dict[tuple[tuple[str, int], ...], list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(tuple(sorted(candidate.shape.items())), []).append(candidate)
    return groups


@dataclass(frozen=True)
class Choice:
    """What is good at one value of the sweep: the near-best, as listed, and the best baseline to compare with."""

    sweep: int | None
    options: tuple[Candidate, ...]
    baseline: Candidate | None
    fp8_timed: bool


def _choices(members: list[Candidate]) -> list[Choice]:
    """The choice at each value of the sweep, largest first."""
    sizes = sorted({c.sweep for c in members}, key=lambda m: -1 if m is None else m, reverse=True)
    return [_choice(size, [c for c in members if c.sweep == size]) for size in sizes]


def _choice(sweep: int | None, timed: list[Candidate]) -> Choice:
    here = [c for c in timed if is_right(c)]
    baselines = [c for c in here if c.baseline]
    winners = [c for c in here if not c.baseline and all(_gains(c, b) for b in baselines)]
    pool = winners or baselines
    best = min(map(_us, pool), default=0.0)
    near = tuple(c for c in pool if _us(c) <= AS_GOOD_AS_BEST * best)
    return Choice(sweep, near, _to_beat(sweep, baselines), any(map(in_fp8, timed)))


def _served(choices: Iterable[Choice]) -> Counter[str]:
    """How many sizes each configuration would serve as well as the best one there."""
    return Counter(option.config for choice in choices for option in choice.options)


def _ranges(choices: list[Choice], served: Counter[str]) -> list[Use]:
    """One Use for each run of neighbouring sweep values with the same choice, walked from the largest down.

    Among the near-best the configuration that serves the most sizes is chosen: less to remember, same result. Of those
    that serve nearly as many it is the one that was listed first, the simpler one.
    """
    runs: list[list[Pick]] = [[]]
    for choice in choices:
        pick = _pick(choice, served)
        last = runs[-1][-1] if runs[-1] else None
        if pick is None or not (last and _goes_on(last, pick)):
            runs.append([])  # also where nothing gave a right result: no range may reach across
        if pick is not None:
            runs[-1].append(pick)
    return [_use(run, is_top=run[0].sweep == choices[0].sweep) for run in runs if run]


def _goes_on(last: Pick, pick: Pick) -> bool:
    same_clock = last.clock == pick.clock or pick.candidate.baseline
    same_grounds = last.fp8_timed == pick.fp8_timed or not pick.candidate.baseline
    return last.candidate.config == pick.candidate.config and same_clock and same_grounds and pick.sweep is not None


def _pick(choice: Choice, served: Counter[str]) -> Pick | None:
    if not choice.options:
        return None
    most = max(served[c.config] for c in choice.options)
    chosen = next(c for c in choice.options if served[c.config] >= NEARLY_AS_MANY * most)
    speedup = None if chosen.baseline or choice.baseline is None else _us(choice.baseline) / _us(chosen)
    return Pick(choice.sweep, chosen, choice.baseline, speedup, _time(chosen)[1], choice.fp8_timed)


def _to_beat(sweep: int | None, members: list[Candidate]) -> Candidate | None:
    """What a gain is stated over: the fastest.

    Of a range of sizes an earlier (simpler) one stays unless a later one is faster beyond the noise: the noise of
    neighbours would name now one, now the other.
    """
    if sweep is None:
        return min(members, key=_us, default=None)
    best: Candidate | None = None
    for candidate in members:
        if best is None or _gains(candidate, best):
            best = candidate
    return best


def _gains(candidate: Candidate, over: Candidate) -> bool:
    median, low, _ = ratio(_time(over)[0], _time(candidate)[0])
    return low > 1.0 and median >= (SHORT_GAIN if _us(candidate) < SHORT_US else LEAST_GAIN)


def _time(candidate: Candidate) -> tuple[Estimate, Clock]:
    found = effective(candidate)
    assert found is not None, "only timed candidates are ranked"
    return found


def _us(candidate: Candidate) -> float:
    return _time(candidate)[0].median


def _use(run: list[Pick], *, is_top: bool) -> Use:
    high, low = run[0], run[-1]
    chosen = high.candidate
    speedups = [p.speedup for p in run if p.speedup is not None]
    baselines = {p.baseline.config: p.baseline.label for p in run if p.baseline and not p.candidate.baseline}
    return Use(
        when=When(
            text=chosen.when
            if low.sweep is None and chosen.when
            else _when_text(low.sweep, high.sweep, is_top, chosen.shape),
            workload=chosen.workload,
            doing=chosen.doing,
            k=chosen.shape.get("k"),
            n=chosen.shape.get("n"),
            m_min=low.sweep,
            m_max=None if is_top else high.sweep,
        ),
        config=chosen.config,
        label=chosen.label,
        speedup=Speedup(round(min(speedups), 3), round(max(speedups), 3), high.clock) if speedups else None,
        versus=" or ".join(sorted(baselines)) or None,
        basis=chosen.basis,
        how=chosen.how,
        fp8_timed=high.fp8_timed,
        versus_label=" or ".join(sorted(baselines.values())) or None,
    )


def _when_text(low: int | None, high: int | None, is_top: bool, shape: dict[str, int]) -> str:
    where = " ".join(f"{name.upper()}={value}" for name, value in shape.items())
    if low is None or high is None:
        return f"at {where}" if where else "as it was timed here"
    if is_top:
        tokens = f"from {low:,} tokens (measured up to {high:,})" if low != high else f"at {low:,} tokens and more"
    else:
        tokens = f"{low:,} to {high:,} tokens" if low != high else f"at {low:,} tokens"
    return f"{tokens}, {where}" if where else tokens


def _known(candidate: Candidate) -> Use:
    return Use(
        when=When(
            text=candidate.when or "in general; nothing was timed here",
            workload=candidate.workload,
            doing=candidate.doing,
            k=candidate.shape.get("k"),
            n=candidate.shape.get("n"),
        ),
        config=candidate.config,
        label=candidate.label,
        speedup=None,
        versus=None,
        basis=candidate.basis,
        how=candidate.how,
    )


def _gain_first(use: Use) -> float:
    return -(use.speedup.high if use.speedup else 0.0)
