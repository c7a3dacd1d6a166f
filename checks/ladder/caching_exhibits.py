"""Step caches: how fast would a picture be, if so many of its steps are skipped, and at what error?"""

from __future__ import annotations

from typing import Any

from fp8doctor.checks.ladder.facts import Ladder, Rung, SkippedStep
from fp8doctor.checks.ladder.slugs import config_of
from fp8doctor.checks.ladder.winners import LEAST_GAIN
from fp8doctor.measuring.statistics import differs, speedup
from fp8doctor.model import Estimate, Exhibit
from fp8doctor.registry import exhibit

# Seconds that a public report gives for a picture of FLUX.1-dev on an H100, 28 steps at 1024x1024: all steps computed,
# and with first-block caching at the smallest and the largest threshold that it tried, 0.15 and 0.35.
REPORTED_S = 7.11
REPORTED_CACHED_S = (3.21, 1.87)


def hit_rate_behind(seconds: float, cached_seconds: float) -> float:
    """The least share of steps that a cache must have skipped to bring a picture from `seconds` to `cached_seconds`.

    As if a skipped step cost nothing and steps were all the work: as they are not, more were skipped.
    """
    return 1 - cached_seconds / seconds


# Shares of steps that are worth looking at: what was reported to be reached.
HIT_RATES = tuple(hit_rate_behind(REPORTED_S, cached) for cached in REPORTED_CACHED_S)


def with_hit_rate(skipping: SkippedStep, rate: float, plain_ms: float | None = None) -> float | None:
    """How many times as fast steps are with a cache that skips the share `rate` of them (Amdahl's law).

    Args:
        skipping: what a computed and a skipped step cost.
        rate: from 0 (all are computed) to 1 (all are skipped).
        plain_ms: a step without the cache, in milliseconds; None: the computed step with it.

    Returns None where a time is missing or is nothing.

    Raises:
        ValueError: if `rate` is no share.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"a share of steps lies between 0 and 1, not at {rate}")
    if skipping.full_ms is None or skipping.skipped_ms is None:
        return None
    full, skipped = skipping.full_ms.median, skipping.skipped_ms.median
    cost = (1 - rate) * full + rate * skipped
    return (full if plain_ms is None else plain_ms) / cost if cost > 0 else None


def without_cache(config: str) -> str:
    """The same configuration with every step computed: "torch-bf16+cache-mag" is "torch-bf16"."""
    cache = config_of(config).cache
    return "+".join(part for part in config.split("+") if part != cache)


def plain_step(ladder: Ladder, rung: Rung) -> Estimate | None:
    """What a step takes in the rung's configuration without its cache."""
    wanted = (without_cache(rung.config or ""), rung.step)
    return next((r.step_ms for r in ladder.rungs or () if (r.config, r.step) == wanted and r.outcome == "ok"), None)


def costs_more(plain: Estimate | None, skipping: SkippedStep) -> bool:
    """Whether a step that is computed under the cache takes longer than the plain one, beyond the noise."""
    if plain is None or skipping.full_ms is None:
        return False
    ratio = speedup(skipping.full_ms, plain)
    return differs(ratio) and ratio.median >= LEAST_GAIN


@exhibit
def step_caches(ladder: Ladder) -> Exhibit | None:
    """What each step cache costs and gives, apart from the configurations that compute every step."""
    rates = [*HIT_RATES, *([] if ladder.hit_rate is None else [ladder.hit_rate])]
    rows = tuple(
        {"cells": _cells(ladder, rung, rung.skipping, sorted(rates))}
        for rung in ladder.rungs or ()
        if rung.skipping is not None and rung.config and rung.outcome == "ok"
    )
    title = (
        "step caches: ms of a step computed (full; + more than without the cache) and of one skipped, its error, and"
        " the steps' speed-up if that share of them is skipped"
    )
    return Exhibit("ladder-step-caches", "table", title, "ms", rows) if rows else None


def _cells(ladder: Ladder, rung: Rung, skipping: SkippedStep, rates: list[float]) -> dict[str, Any]:
    plain = plain_step(ladder, rung)
    cells = {
        "config": rung.config or "",
        "full": _ms(skipping.full_ms) + ("+" if costs_more(plain, skipping) else ""),
        "skip": _ms(skipping.skipped_ms),
        "error": "" if skipping.skipped_error is None else f"{skipping.skipped_error:.1%}",
    }
    for rate in rates:
        factor = with_hit_rate(skipping, rate, plain.median if plain else None)
        cells[f"{rate:.0%}"] = "" if factor is None else f"{factor:.2f}x"
    return cells


def _ms(value: Estimate | None) -> str:
    return "" if value is None else f"{value.median:.1f}"
