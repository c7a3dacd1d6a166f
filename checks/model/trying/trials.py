"""What would the step take in another configuration? Tried on copies of the model's blocks, with its own inputs.

torch is imported inside: this runs where the model is.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

from fp8doctor.checks.ladder.comparing import Reference
from fp8doctor.checks.ladder.conversions import BASES, Convert, RefusedError, around
from fp8doctor.checks.ladder.naming import label
from fp8doctor.checks.ladder.outcomes import failure
from fp8doctor.checks.ladder.slugs import Config, config_of
from fp8doctor.checks.model.layers import keeping
from fp8doctor.checks.model.plan import PLAIN, State, state_of
from fp8doctor.checks.model.trying.attention import SDPA, by_hand, with_sdpa
from fp8doctor.checks.model.trying.block_times import BlockTime, time_blocks
from fp8doctor.checks.model.trying.blocks import IN_TURN, Block, kinds_of_blocks
from fp8doctor.checks.model.trying.choosing import is_inexact, kept_back
from fp8doctor.checks.model.trying.comparing import compared_output, dropouts, layer_errors, output_of, reference_of
from fp8doctor.checks.model.trying.converting import (
    compiled_graphs,
    in_16_bits,
    left_alone,
    linears,
    most_common_type,
    with_code_of_its_own,
)
from fp8doctor.checks.model.trying.estimating import as_it_is_of, whole_step
from fp8doctor.checks.model.trying.layer_times import sizes, timed
from fp8doctor.checks.model.trying.placing import outside
from fp8doctor.checks.torch_build.numerics import relative_error
from fp8doctor.checks.transformer_engine.cudnn import keep_torchs_cudnn
from fp8doctor.measuring.statistics import estimate
from fp8doctor.measuring.stepping import Meter
from fp8doctor.observed import AS_IT_IS, LayerError, LayerGain, Model, Trial
from fp8doctor.observing.looking import compiled_names

# What is tried, the most telling first: what a run of a minute tries of a workload (checks/ladder/slugs.py), and
# Transformer Engine where it is imported already, or may be.
INFERENCE = (
    "torch-bf16",
    "torch-bf16+compile",
    "torchao-fp8-rowwise+compile",
    "torchao-fp8-tensorwise+compile",
    "te-fp8-current",
)
TRAINING = (
    "torch-bf16",
    "torch-bf16+compile",
    "torchao-fp8train-tensorwise+compile",
    "torchao-fp8train-rowwise+compile",
    "te-fp8-current",
)
_ENGINE = "transformer_engine"
# A step that is so much longer or shorter than its parts is timed again, so many times.
APART, AGAIN = 0.10, 12
_NONE_LEFT = "no layer is left that FP8 would take and gain by"
WORST = 5
# Entries of the error limits (checks/torch_build/numerics.py) by what a model's layers multiply in.
_NUMERICS = {"fp8": "e4m3", "fp4": "nvfp4", "int8": "int8"}


@dataclass
class _Copy:
    """What conversions work on: a model, where it is and in which type."""

    model: Any
    device: Any
    dtype: Any


class Trier:
    """Tries configurations on one block of each kind.

    Args:
        found: what is known of the model, with its timed step.
        model: a torch.nn.Module.
        blocks: its kinds of blocks.
        may_import: whether libraries may be imported that the process has not: Transformer Engine brings a cuDNN.
    """

    def __init__(self, found: Model, model: Any, blocks: list[Block], *, may_import: bool = False) -> None:
        import torch

        self.torch, self.found, self.model, self.blocks = torch, found, model, blocks
        self.with_engine = _ENGINE in sys.modules or (may_import and find_spec(_ENGINE) is not None)
        placed = next((p for p in model.parameters() if not p.is_meta), None)
        self.device = placed.device if placed is not None else torch.device("cpu")
        # What trains in FP32 keeps that: the optimizer's small steps would vanish in BF16.
        in_fp32 = model.training and most_common_type(model) is torch.float32
        self.dtype = torch.float32 if in_fp32 else torch.bfloat16
        self.meter = Meter(torch, self.device)
        self.as_it_is: dict[str, BlockTime] = {}
        self.references: dict[str, Reference] = {}
        self.shapes: dict[str, dict[str, tuple[int, int]]] = {}
        self.layer_gains: dict[tuple[int, int, int], LayerGain] = {}
        self.attends_by_sdpa = False
        self.outside: BlockTime | None = None

    def configurations(self) -> list[str]:
        """What is tried, in order: of a model that attends by hand, all but plain BF16 with torch's attention.

        What it is already is not tried.
        """
        every = TRAINING if self.found.training else INFERENCE
        listed = [config for config in every if self.with_engine or not config.startswith("te-")]
        layers = [layer for layer in self.found.layers or () if layer.kind == "linear"]
        if not self.found.training and keeping(layers) and any(layer.adapter_rank for layer in keeping(layers)):
            listed.insert(0, f"{PLAIN}+lora")
        if by_hand(self.found):
            split = (config.split("+") for config in listed)
            with_attention = ["+".join([base, SDPA, *modifiers]) for base, *modifiers in split]
            listed = [*(config for config in listed if config == PLAIN), *with_attention]
        is_plain = replace(state_of(self.found), sdpa=True) == State(base=PLAIN, sdpa=True, compiled=False)
        return [AS_IT_IS, *(config for config in listed if config != PLAIN or not is_plain)]

    def time_outside(self, model: Any, step: Callable[[], Any]) -> None:
        """Time the step without its blocks, if it can be called so."""
        with contextlib.suppress(Exception):
            self.outside = outside(self.meter, model, self.blocks, step)
            self.found = replace(self.found, outside_ms=self.outside.device_ms, outside_host_ms=self.outside.host_ms)

    def attend_by_sdpa(self, step: Callable[[], Any]) -> None:
        """From here blocks are called as the model calls them when its attention is torch's."""
        with with_sdpa(self.model):
            self.blocks = kinds_of_blocks(self.model, step)
        self.attends_by_sdpa = True

    def trial(self, config: str, step: Callable[[], Any]) -> Trial:
        """One configuration; what it raises is its outcome."""
        if config == AS_IT_IS:
            return self._baseline(step)
        named = label(config)
        if config.startswith("te-") and _ENGINE not in sys.modules:
            keep_torchs_cudnn()  # the model has called it by now; Transformer Engine would bring another
        if not self.as_it_is:
            return Trial(config, named, "failed", "the blocks cannot be called by themselves")
        try:
            if SDPA in config and not self.attends_by_sdpa:
                self.attend_by_sdpa(step)
            return self._converted(config_of(config), named)
        except Exception as error:
            return Trial(config, named, *ended(error))
        finally:
            if self.meter.on_gpu:
                self.torch.cuda.empty_cache()

    def gains(self, left_s: Callable[[], float]) -> tuple[LayerGain, ...]:
        """What FP8 gives each linear layer of the blocks; nothing where their plain copies could not be called."""
        layers = []
        for block in self.blocks:
            rows = self.references[block.key].rows if block.key in self.references else {}
            shapes = self.shapes.get(block.key, {})
            layers += [
                (block.layer_name(name), block.count, rows[name], *shapes[name]) for name in rows if name in shapes
            ]
        scaling = "tensorwise" if self.blocks[0].module.training else "rowwise"
        try:
            found = timed(sizes(layers), self.device, scaling, left_s)
        except Exception:  # no memory for operands, or a clock that does not work here
            return ()
        self.layer_gains = {(gain.rows or 0, gain.k or 0, gain.n or 0): gain for gain in found}
        return tuple(found)

    def _baseline(self, call: Callable[[], Any]) -> Trial:
        try:
            several = {block.key: block.as_they_stand for block in self.blocks}
            self.as_it_is = time_blocks(self.meter, self.blocks, several)
            self._time_again(call)
        except Exception as error:
            return Trial(AS_IT_IS, "as it is", *ended(error))
        step = self.found.run.step_ms if self.found.run else None
        times = {key: time.device_ms for key, time in self.as_it_is.items()}
        host = {key: time.host_ms for key, time in self.as_it_is.items()}
        trial = Trial(AS_IT_IS, "as it is", "ok", blocks_ms=times, host_ms=host, step_ms=step)
        try:
            return self._against_plain(trial)
        except Exception:  # the model runs, and what it is compared with does not: the BF16 trial says why
            return trial

    def _time_again(self, call: Callable[[], Any]) -> None:
        """Time the step once more if its parts do not add up to it: a host that wavers was in another mood then."""
        run = self.found.run
        if run is None or run.step_ms is None or self.outside is None:
            return
        parts = sum(block.count * self.as_it_is[block.key].loop_ms.median for block in self.blocks)
        parts += self.outside.device_ms.median
        if abs(parts / run.step_ms.median - 1) > APART:
            again = estimate(self.meter.steps_ms(call, AGAIN))
            self.found = replace(self.found, run=replace(run, step_ms=again))

    def _against_plain(self, trial: Trial) -> Trial:
        """The same with how far the model as it is is off its own weights in BF16."""
        layers = self.found.layers or ()
        formats = Counter(layer.multiplies for layer in layers if layer.kind == "linear")
        numerics = next((name for kind, name in _NUMERICS.items() if formats[kind]), "bf16")
        errors, limits = [], []
        for block in self.blocks:
            stands = block.as_they_stand[0]
            if dropouts(block.module) and compiled_names(stands):
                return trial  # without them it would be compiled anew
            reference = self._reference(block)
            errors.append(_off(block, stands, reference))
            limits.append(reference.limit(numerics))
        return _judged(trial, errors, limits)

    def _converted(self, config: Config, named: str) -> Trial:
        times: dict[str, BlockTime] = {}
        errors, limits, worst, compile_s = [], [], [], 0.0
        kept: dict[str, str] = {}
        in_16_bits_alone = BASES[config.base][1] == "bf16"
        if not in_16_bits_alone and not any(map(self._taken, self.blocks)):
            raise RefusedError(_NONE_LEFT)
        converts = in_16_bits_alone
        for block in self.blocks:
            reference = self._reference(block)
            several, left, lost = self.converted(block, config, block.alike[:IN_TURN])
            kept |= {block.layer_name(name): why for name, why in left.items()}
            converts |= len(left) < len(self.shapes[block.key])
            worst += lost
            drops = bool(dropouts(several[0]))
            called = self._plain_call(block)
            with around(config.base, config.modifiers, self.a_copy(several[0])):  # type: ignore[arg-type]
                if drops:  # compared before it is compiled: without its dropouts it would be compiled anew
                    errors.append(_off(called, several[0], reference))
                if config.compiled:
                    with_code_of_its_own(several)
                    for one in several:
                        one.compile()
                began, graphs = time.monotonic(), compiled_graphs()
                if not drops:
                    errors.append(_off(called, several[0], reference))
                else:
                    output_of(called, several[0])
                compile_s += time.monotonic() - began
                if config.compiled and compiled_graphs() == graphs:
                    raise RefusedError("torch.compile compiled nothing of a block")
                limits.append(reference.limit(config.numerics))
                times |= time_blocks(self.meter, [called], {block.key: several})
        if not converts:
            raise RefusedError(_NONE_LEFT)
        trial = Trial(
            config=config.slug,
            label=named,
            blocks_ms={key: time.device_ms for key, time in times.items()},
            host_ms={key: time.host_ms for key, time in times.items()},
            step_ms=whole_step(self.found.run, as_it_is_of(self.blocks, self.as_it_is), times, self.outside),
            compile_s=round(compile_s, 1) if config.compiled else None,
            worst=tuple(sorted(worst, key=lambda one: one.sqnr_db or 0.0)[:WORST]) or None,
            kept=kept or None,
        )
        return _judged(trial, errors, limits)

    def converted(
        self, block: Block, config: Config, members: list[Any]
    ) -> tuple[list[Any], dict[str, str], list[LayerError]]:
        """Copies of some blocks of a kind in a configuration, the layers left in 16 bits, and what the others lose.

        Raises:
            RefusedError: if the blocks cannot be turned back to 16 bits, or the library does not do this.
        """
        with with_sdpa(self.model) if SDPA in config.modifiers else contextlib.nullcontext():
            return self._members_converted(block, config, members)

    def _members_converted(
        self, block: Block, config: Config, members: list[Any]
    ) -> tuple[list[Any], dict[str, str], list[LayerError]]:
        convert, numerics = BASES[config.base]
        left: dict[str, str] = {}
        lost: list[LayerError] = []
        found: list[Any] = []
        for member in members:
            plain = in_16_bits(block, member, self.dtype, self.device, with_adapters="lora" in config.modifiers)
            if numerics != "bf16":
                names = tuple(name for name in self._taken(block) if name not in left)
                self._convert(convert, plain, names)
                if not found and numerics == "e4m3" and not block.module.training:
                    lost = self._lost(block, plain, names, config)
                    if inexact := [name for name in names if _is_among(block.layer_name(name), lost)]:
                        left = dict.fromkeys(inexact, "inexact")
                        plain = in_16_bits(block, member, self.dtype, self.device)
                        self._convert(convert, plain, tuple(name for name in names if name not in left))
            found.append(plain)
        if numerics != "bf16":
            left |= self._kept_back(block)
        return found, left, lost

    def _kept_back(self, block: Block) -> dict[str, str]:
        """The layers that FP8 does not take or would not gain by; what one kind of a list keeps, all of it keep."""
        kept: dict[str, str] = {}
        for one in self.blocks:
            if one.name == block.name:
                rows = self._reference(one).rows
                kept |= kept_back(self.shapes[one.key], rows, self.layer_gains)
        return kept

    def _taken(self, block: Block) -> list[str]:
        """The others."""
        kept = self._kept_back(block)
        return [name for name in self.shapes[block.key] if name not in kept]

    def _convert(self, convert: Convert, plain: Any, names: tuple[str, ...]) -> None:
        """Convert some layers of a copy; none of a block that has none that FP8 takes."""
        if not names:
            return
        convert(self.a_copy(plain), names)  # type: ignore[arg-type]
        if left := left_alone(plain, names):
            raise RefusedError(f"{len(left)} of {len(names)} linear layers were left as they were ({left[0] or 'it'})")

    def _lost(self, block: Block, converted: Any, names: tuple[str, ...], config: Config) -> list[LayerError]:
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(self.torch.no_grad())
                stack.enter_context(around(config.base, config.modifiers, self.a_copy(converted)))  # type: ignore[arg-type]
                plain = in_16_bits(block, block.module, self.dtype, self.device)
                return layer_errors(self._plain_call(block), plain, converted, names)
        except RuntimeError:  # a layer that cannot be called by itself; the trial will say why
            return []

    def a_copy(self, module: Any) -> _Copy:
        """What conversions of the ladder work on."""
        return _Copy(module, self.device, self.dtype)

    def _plain_call(self, block: Block) -> Block:
        """The block as its copies are called: with tensors of their type; of FP32 that trains, under autocast."""
        if self.dtype is self.torch.float32:
            autocast = partial(self.torch.autocast, self.device.type, dtype=self.torch.bfloat16)
            return block if block.around else replace(block, around=[autocast])
        mostly = most_common_type(block.module)
        return block.cast(mostly, self.dtype) if mostly is not None else block

    def _reference(self, block: Block) -> Reference:
        """What the block gives in BF16, and by how much that is off FP32."""
        if block.key not in self.references:
            with with_sdpa(self.model) if self.attends_by_sdpa else contextlib.nullcontext():
                plain = in_16_bits(block, block.module, self.dtype, self.device)
            self.references[block.key] = reference_of(self._plain_call(block), plain)
            self.shapes[block.key] = linears(plain)
        return self.references[block.key]


def ended(error: Exception) -> tuple[str, str]:
    """The outcome and the detail of what raised."""
    said = failure(error)
    return "failed" if said["outcome"] == "error" else str(said["outcome"]), str(said["error"])


def _off(block: Block, module: Any, reference: Reference) -> float:
    return relative_error(compared_output(block, module), reference.output)


def _is_among(name: str, errors: list[LayerError]) -> bool:
    """Whether this layer is one of those that are further off than their format explains."""
    return any(error.name == name and is_inexact(error) for error in errors)


def _judged(trial: Trial, errors: list[float], limits: list[float]) -> Trial:
    """The trial with its error against BF16, and whether its format explains that; of the block that comes nearest."""
    error, limit = max(zip(errors, limits, strict=True), key=lambda pair: pair[0] / pair[1])
    return replace(
        trial,
        outcome="ok" if error <= limit else "wrong",
        relative_error=round(error, 5) if math.isfinite(error) else None,
        error_limit=round(limit, 5),
    )
