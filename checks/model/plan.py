"""Which changes lead from a model as it is to the fastest configuration that was tried, and what does each give?"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fp8doctor.checks.ladder.advice import microseconds
from fp8doctor.checks.ladder.conversions import BASES, RECIPES
from fp8doctor.checks.ladder.naming import label, number_format
from fp8doctor.checks.ladder.winners import AS_GOOD_AS_BEST, LEAST_GAIN, SIXTEEN_BIT
from fp8doctor.checks.model.code import (
    AUTOCAST,
    CONVERTED,
    base_of,
    has_autocast,
    inside,
    is_converted_so,
    list_of,
)
from fp8doctor.checks.model.layers import counted, keeping, linears, mostly_fp32, multiplying
from fp8doctor.checks.model.trying.attention import SDPA, by_hand
from fp8doctor.checks.model.trying.choosing import REASONS
from fp8doctor.measuring.statistics import differs, speedup
from fp8doctor.model import Estimate
from fp8doctor.observed import AS_IT_IS, Layer, Model, Trial

PLAIN = "torch-bf16"
# A model in plain BF16 whose LoRA runs beside its layers as before: a step on the way, and never advised.
BESIDE = "lora"
# As judging has it (fp8doctor/judging/advice.py): steps under 50 us gain by more than others, or not at all.
SHORT_GAIN, SHORT_US = 1.08, 50.0


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
    return {
        t.config: t
        for t in model.trials or ()
        if t.config and t.outcome == "ok" and t.step_ms is not None and t.step_ms.low > 0
    }


def competing(model: Model) -> list[Trial]:
    """What the advice chooses from, which judging does as it does with all candidates; see `best`.

    Beside the model as it is: of the same format what gains over it; FP8 for a model in 16 bits, or what is in 16 bits
    for one in FP8, unless the two are as good as each other. FP8 that was compared with nothing does not compete. All
    are judged by what was estimated: what was checked in the whole model by itself compares with none of them.
    What has the model's own conversion comes first, as it changes less than another.
    """
    compared = [t for t in right(model).values() if t.relative_error is not None or t.config == AS_IT_IS]
    own = (AS_IT_IS, base_of(model))
    trials = sorted((t for t in compared if BESIDE not in _parts(t)), key=lambda t: _parts(t)[0] not in own)
    first = next((t for t in trials if t.config == AS_IT_IS), None)
    if first is None:
        return trials
    in_16_bits = format_of(model, first) in SIXTEEN_BIT
    return [t for t in trials if t is first or gains(t, first) or _stays(model, t, first, in_16_bits=in_16_bits)]


def _parts(trial: Trial) -> list[str]:
    """The base of a configuration, and its modifiers."""
    return (trial.config or "").split("+")


def _stays(model: Model, trial: Trial, first: Trial, *, in_16_bits: bool) -> bool:
    """Whether a configuration that does not gain over the model as it is says something of FP8 beside it."""
    plain = format_of(model, trial) in SIXTEEN_BIT
    return not plain if in_16_bits else plain and gains(first, trial)


def best(model: Model) -> Trial | None:
    """The configuration that the report advises; None where that is the model as it is, or where nothing was tried.

    FP8 where it beats each 16-bit step that competes, beyond the noise, else the best in 16 bits; of those that are as
    good as the best the one that was tried first, which is the model as it is or what changes least. Where that gives
    wrong results, the best of the rest is advised.
    """
    trials = competing(model)
    plain = [t for t in trials if format_of(model, t) in SIXTEEN_BIT]
    winners = [t for t in trials if t not in plain and all(gains(t, other) for other in plain)]
    pool = winners or plain
    least = min(map(_us, pool), default=0.0)
    chosen = next((t for t in pool if _us(t) <= AS_GOOD_AS_BEST * least), None)
    return None if chosen is None or chosen.config == AS_IT_IS else chosen


def format_of(model: Model, trial: Trial) -> str:
    """What a configuration's products are in; of the model as it is what most of them are in."""
    if trial.config != AS_IT_IS:
        return number_format(trial.config or "")
    layers = multiplying(linears(model))
    return max((layer.multiplies or "" for layer in layers), default="bf16")


def _us(trial: Trial) -> float:
    us = microseconds(trial.step_ms)
    return us.median if us is not None else 0.0


def gains(trial: Trial, over: Trial) -> bool:
    """Whether a configuration's step is shorter than another's beyond the noise, and enough to be worth a change."""
    fast, slow = microseconds(trial.step_ms), microseconds(over.step_ms)
    if fast is None or slow is None:
        return False
    least = SHORT_GAIN if fast.median < SHORT_US else LEAST_GAIN
    return slow.low / fast.high > 1.0 and slow.median / fast.median >= least


def changes(model: Model) -> list[Change]:
    """The plan, in the order in which its parts build on one another; empty where nothing is to be changed."""
    last = best(model)
    before = model.run.step_ms if model.run else None
    if last is None or last.config is None or before is None:
        return []
    trials = right(model)
    found: list[Change] = []
    state, first = state_of(model), before
    waiting: list[str] = []
    short: list[str] = []
    for config in _path(last.config, state, trials):
        trial = trials.get(config)
        waiting += _texts(model, state, config, trial)
        short += _shortly(model, state, config)
        state = _after(state, config)
        if trial is None or trial.step_ms is None:
            continue  # what is not known by itself is told with what comes next
        gain = speedup(before, trial.step_ms)
        if config != last.config and not (differs(gain) and gain.low > 1):
            continue
        text = "; ".join(waiting)
        so_far = speedup(first, trial.step_ms)
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
    # Weights kept in another format, or in FP32.
    to_undo: bool = False
    # Adapters that run beside their layers, and could be fused.
    lora: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether nothing stands in the way of a conversion."""
        return self.base == PLAIN and not self.to_undo and not self.lora


def _after(state: State, config: str) -> State:
    """The state after a change to a configuration."""
    base, *modifiers = config.split("+")
    sdpa = state.sdpa or SDPA in modifiers
    return replace(
        state,
        base=base,
        compiled="compile" in modifiers,
        sdpa=sdpa,
        to_undo=False,
        lora=state.lora and BESIDE in modifiers,
    )


def state_of(model: Model) -> State:
    """What the model has as it is."""
    layers = linears(model)
    blocks = [b for b in model.blocks or () if b.count]
    compiled = bool(blocks) and all(b.compiled == b.count for b in blocks)
    lora = not model.training and any(layer.adapter_rank for layer in layers)
    return State(base_of(model), not by_hand(model), compiled, bool(_cast_back(model, layers)), lora)


def _path(config: str, state: State, trials: dict[str, Trial]) -> list[str]:
    """The configurations on the way to this one, without those that the model is beyond already."""
    base, *modifiers = config.split("+")
    if base != PLAIN and base == state.base and not state.to_undo:
        return [config]  # the format is right, and what stands beside it changes
    sdpa = [SDPA] if SDPA in modifiers else []
    compiled = "compile" in modifiers
    own = "+".join([state.base or "", *sdpa, "compile"])
    may_be_compiled = state.base in CONVERTED and not state.to_undo and not state.compiled and own in trials
    if may_be_compiled and compiled and (base != PLAIN or gains(trials[config], trials[own])):
        return [own, config]  # what it has is compiled first
    path = []
    if not (compiled and state.compiled):  # what is compiled stays so on the way
        if state.to_undo and state.lora and f"{PLAIN}+{BESIDE}" in trials:
            path.append(f"{PLAIN}+{BESIDE}")
        if not state.is_plain:
            path.append(PLAIN)
        if sdpa and not state.sdpa:
            path.append("+".join([PLAIN, *sdpa]))
    if compiled and not (state.compiled and state.is_plain):
        path.append("+".join([PLAIN, *sdpa, "compile"]))
    return [*(one for one in path if one != config), config]


def _texts(model: Model, state: State, config: str, trial: Trial | None) -> list[str]:
    """What to do to come from a state to a configuration."""
    base, *modifiers = config.split("+")
    found = [_fused(model)] if state.lora and BESIDE not in modifiers else []
    found += _cast_back(model, linears(model)) if state.to_undo else []
    if SDPA in modifiers and not state.sdpa:
        found.append("let it attend by torch's scaled_dot_product_attention")
    if base != state.base:
        if base in CONVERTED or base in RECIPES:
            found.append(f"convert {_converted(model, trial):,} linear layers: {label(base)}{_but_for(trial)}")
        elif not state.to_undo and not state.lora:
            now = f" from {label(state.base)}" if state.base in BASES else ""
            found.append(f"go back{now} to BF16")
    elif base != PLAIN and not (trial and "compile" in modifiers and is_converted_so(model, trial)):
        found.append(f"convert {_converted(model, trial):,} linear layers alone{_but_for(trial)}")
    if "compile" in modifiers and not state.compiled:
        found.append("compile each repeated block" if model.blocks else "compile the model")
    elif state.compiled and "compile" not in modifiers:
        found.append("do not compile the blocks")
    return found or ["compile each repeated block, and with torch.compile's defaults"]


def _shortly(model: Model, state: State, config: str) -> list[str]:
    """The same in a few words."""
    base, *modifiers = config.split("+")
    found = []
    if base != PLAIN and base != state.base:
        found.append(label(base))
    elif BESIDE in modifiers:
        found.append("weights in BF16")
    elif state.lora and state.base == PLAIN:
        found.append("fused LoRA")
    elif base != state.base or state.to_undo:
        found.append("autocast" if model.training and mostly_fp32(linears(model)) else "plain BF16")
    if SDPA in modifiers and not state.sdpa:
        found.append("torch's attention")
    if "compile" in modifiers and not state.compiled:
        found.append("compiled blocks")
    elif state.compiled and "compile" not in modifiers:
        found.append("not compiled")
    return found or ["other layers" if base != PLAIN else "compiled otherwise"]


def _fused(model: Model) -> str:
    return f"fuse the LoRA into {counted(layer for layer in linears(model) if layer.adapter_rank):,} layers"


def _cast_back(model: Model, layers: list[Layer]) -> list[str]:
    """What is to be done about weights that do not lie in BF16; master weights in FP32 are what training needs."""
    found = []
    if kept := keeping(layers):
        found.append(f"keep the weights of {counted(kept):,} layers in BF16, not in FP8")
    if mostly_fp32(layers) and not model.training:
        cast = ": autocast casts them at each call" if has_autocast(model) else ""
        found.append(f"run in BF16 (model.to(torch.bfloat16)){cast}")
    elif mostly_fp32(layers) and not has_autocast(model):
        found.append(f"run the forward under {AUTOCAST}")
    return found


def _converted(model: Model, trial: Trial | None) -> int:
    """How many layers of the repeated blocks a trial converted."""
    lists = {blocks.name or "": blocks.count or 0 for blocks in model.blocks or ()}
    kept = [list_of(name) for name in (trial.kept or ())] if trial else []
    return max(0, counted(inside(model)) - sum(1 if blocks is None else lists.get(blocks, 1) for blocks in kept))


def _but_for(trial: Trial | None) -> str:
    """The layers that stay in 16 bits, and why, in words."""
    kept = (trial.kept or {}) if trial else {}
    if not kept:
        return ""
    reasons = sorted({REASONS.get(why, why) for why in kept.values()})
    return f" (not {len(kept)} of each block's: {'; '.join(reasons)})"
