"""Which changes lead from a model as it is to the fastest configuration that was tried, and what does each give?"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fp8doctor.checks.ladder.conversions import RECIPES
from fp8doctor.checks.ladder.naming import label, number_format
from fp8doctor.checks.ladder.winners import AS_GOOD_AS_BEST, LEAST_GAIN, SIXTEEN_BIT
from fp8doctor.checks.model.code import CONVERTED, base_of
from fp8doctor.checks.model.layers import counted, keeping, linears, multiplying, padded_gain
from fp8doctor.checks.model.trying.attention import SDPA, by_hand
from fp8doctor.checks.model.trying.choosing import REASONS
from fp8doctor.measuring.statistics import differs, speedup
from fp8doctor.model import Estimate
from fp8doctor.observed import AS_IT_IS, Layer, Model, Trial
from fp8doctor.observing.looking import alike

PLAIN = "torch-bf16"


@dataclass(frozen=True)
class Change:
    """One step of the plan: what to do, the whole step after it, and how many times as fast it made that."""

    text: str
    # The same in a few words.
    short: str
    config: str
    step_ms: Estimate
    gain: Estimate
    # Over the model as it is.
    so_far: Estimate


def right(model: Model) -> dict[str, Trial]:
    """The trials that were right and of which the whole step is known, by configuration."""
    return {t.config: t for t in model.trials or () if t.config and t.outcome == "ok" and t.step_ms is not None}


def best(model: Model) -> Trial | None:
    """The configuration that the report advises; None where that is the model as it is, or where nothing was tried.

    FP8 where it beats each 16-bit step beyond the noise, else the best in 16 bits; of those that are as good as the
    best the one that changes least. A change is one from a gain of `LEAST_GAIN` over the model as it is.
    """
    trials = right(model)
    first = trials.get(AS_IT_IS)
    if first is None:
        return None
    plain = [t for t in trials.values() if format_of(model, t) in SIXTEEN_BIT]
    winners = [t for t in trials.values() if t not in plain and all(gains(t, other) for other in plain)]
    pool = winners or plain
    least = min(_ms(t) for t in pool)
    chosen = next(t for t in pool if _ms(t) <= AS_GOOD_AS_BEST * least)
    return chosen if chosen is not first and gains(chosen, first) else None


def format_of(model: Model, trial: Trial) -> str:
    """What a configuration's products are in; of the model as it is what most of them are in."""
    if trial.config != AS_IT_IS:
        return number_format(trial.config or "")
    layers = multiplying(linears(model))
    return max((layer.multiplies or "" for layer in layers), default="bf16")


def _ms(trial: Trial) -> float:
    return trial.step_ms.median if trial.step_ms else 0.0


def gains(trial: Trial, over: Trial) -> bool:
    """Whether a configuration's step is shorter than another's beyond the noise, and enough to be worth a change."""
    if trial.step_ms is None or over.step_ms is None:
        return False
    ratio = speedup(over.step_ms, trial.step_ms)
    return ratio.low > 1 and ratio.median >= LEAST_GAIN


def changes(model: Model) -> list[Change]:
    """The plan, in the order in which its parts build on one another; empty where nothing is to be changed."""
    last = best(model)
    trials = right(model)
    first = trials.get(AS_IT_IS)
    if last is None or last.config is None or first is None or first.step_ms is None:
        return []
    found: list[Change] = []
    state, before = state_of(model), first.step_ms
    waiting: list[str] = []
    short: list[str] = []
    for config in _path(last.config, state):
        trial = trials.get(config)
        waiting += _texts(model, state, config, trial)
        short += _shortly(state, config)
        state = _after(state, config)
        if trial is None or trial.step_ms is None:
            continue  # what is not known by itself is told with what comes next
        gain = speedup(before, trial.step_ms)
        if config != last.config and not (differs(gain) and gain.low > 1):
            continue
        text = "; ".join(waiting)
        so_far = speedup(first.step_ms, trial.step_ms)
        found.append(Change(text[:1].upper() + text[1:], ", ".join(short), config, trial.step_ms, gain, so_far))
        waiting, short, before = [], [], trial.step_ms
    return found


@dataclass(frozen=True)
class State:
    """What a configuration has of what a plan changes."""

    # None: something that no configuration here is.
    base: str | None
    sdpa: bool
    compiled: bool
    # Adapters that run beside their layers, weights kept in another format, parameters in FP32.
    to_undo: bool = False


def _after(state: State, config: str) -> State:
    """The state after a change to a configuration."""
    base, *modifiers = config.split("+")
    sdpa = state.sdpa or SDPA in modifiers
    return replace(state, base=base, compiled="compile" in modifiers, sdpa=sdpa, to_undo=False)


def state_of(model: Model) -> State:
    """What the model has as it is."""
    layers = linears(model)
    blocks = [b for b in model.blocks or () if b.count]
    compiled = bool(blocks) and all(b.compiled == b.count for b in blocks)
    return State(base_of(model), not by_hand(model), compiled, bool(_undone(model, layers)))


def _path(config: str, state: State) -> list[str]:
    """The configurations on the way to this one, without those that the model is beyond already."""
    base, *modifiers = config.split("+")
    sdpa = [SDPA] if SDPA in modifiers else []
    path = []
    if base != state.base or state.to_undo:
        path.append(PLAIN)
    if base != PLAIN and base == state.base and not state.to_undo:
        return [config]  # the format is right, and what stands beside it changes
    if sdpa and not state.sdpa:
        path.append("+".join([PLAIN, *sdpa]))
    if "compile" in modifiers and not (state.compiled and state.base == PLAIN):
        path.append("+".join([PLAIN, *sdpa, "compile"]))
    if state.base == PLAIN and not state.to_undo and PLAIN in path:
        path.remove(PLAIN)
    return [*(one for one in path if one != config), config]


def _texts(model: Model, state: State, config: str, trial: Trial | None) -> list[str]:
    """What to do to come from a state to a configuration."""
    base, *modifiers = config.split("+")
    found = []
    if state.to_undo:
        found += _undone(model, linears(model))
    if SDPA in modifiers and not state.sdpa:
        found.append("let it attend by torch's scaled_dot_product_attention")
    if base != state.base:
        if base in CONVERTED or base in RECIPES:
            count = counted(_converted(model, trial))
            found.append(f"convert {count:,} linear layers: {label(base)}{_but_for(trial)}")
        elif state.base is not None and not state.to_undo:
            found.append(f"go back from {label(state.base)} to BF16")
    if "compile" in modifiers and not state.compiled:
        found.append("compile each repeated block" if model.blocks else "compile the model")
    return found


def _shortly(state: State, config: str) -> list[str]:
    """The same in a few words."""
    base, *modifiers = config.split("+")
    found = []
    if base != state.base or state.to_undo:
        found.append("plain BF16" if base == PLAIN else label(base))
    if SDPA in modifiers and not state.sdpa:
        found.append("torch's attention")
    if "compile" in modifiers and not state.compiled:
        found.append("compiled blocks")
    return found


def _undone(model: Model, layers: list[Layer]) -> list[str]:
    """What stands in the way of plain BF16 layers."""
    beside = [layer for layer in layers if layer.adapter_rank]
    kept = keeping(layers)
    found = []
    if beside and not model.training:
        found.append(f"fuse the LoRA into {counted(beside):,} layers")
    if kept:
        found.append(f"keep the weights of {counted(kept):,} layers in BF16, not in FP8")
    wide = [layer for layer in layers if layer.dtype == "float32" and layer not in multiplying(layers)]
    if counted(wide) > counted(layers) / 2 and model.autocast in (None, "off"):
        found.append("run in BF16 (model.to(torch.bfloat16))")
    return found


def _converted(model: Model, trial: Trial | None) -> list[Layer]:
    """The layers of the repeated blocks that a trial converted."""
    kept = (trial.kept or {}) if trial else {}
    lists = tuple(f"{blocks.name}.*." for blocks in model.blocks or () if blocks.name)
    inside = [layer for layer in linears(model) if not lists or (layer.name or "").startswith(lists)]
    exact = {alike(name) for name in kept}
    return [layer for layer in inside if alike(layer.name or "") not in exact]


def _but_for(trial: Trial | None) -> str:
    """The layers that stay in 16 bits, and why, in words."""
    kept = (trial.kept or {}) if trial else {}
    if not kept:
        return ""
    reasons = sorted({REASONS.get(why, why) for why in kept.values()})
    return f" (not {len(kept)} of each block's: {'; '.join(reasons)})"


def padding(model: Model) -> list[tuple[str, float]]:
    """Layers whose sizes FP8 does not take, and the milliseconds of a step that padding their weights would save."""
    return [
        (", ".join(gain.names or ()), saved)
        for gain in model.gains or ()
        if (saved := padded_gain(gain)) is not None and saved > 0
    ]
