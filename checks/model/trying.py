"""What would the step take in another configuration? Tried on copies of the model's blocks, with its own inputs.

torch is imported inside: this runs where the model is.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from fp8doctor.checks.ladder.comparing import Reference
from fp8doctor.checks.ladder.conversions import BASES, RefusedError, around
from fp8doctor.checks.ladder.naming import label
from fp8doctor.checks.ladder.outcomes import failure
from fp8doctor.checks.ladder.slugs import Config, config_of
from fp8doctor.checks.model.blocks import Block, in_16_bits, kinds_of_blocks
from fp8doctor.checks.model.layers import MULTIPLE
from fp8doctor.checks.torch_build.numerics import FORMAT_ERRORS, relative_error
from fp8doctor.measuring.statistics import estimate
from fp8doctor.measuring.stepping import Meter
from fp8doctor.model import Estimate
from fp8doctor.observed import LayerError, Model, Trial

# What is tried, the most telling first: what a run of a minute tries of a workload (checks/ladder/slugs.py).
INFERENCE = (
    "torch-bf16",
    "torch-bf16+compile",
    "torchao-fp8-rowwise+compile",
    "torchao-fp8-tensorwise+compile",
)
TRAINING = (
    "torch-bf16",
    "torch-bf16+compile",
    "torchao-fp8train-tensorwise+compile",
    "torchao-fp8train-rowwise+compile",
)
AS_IT_IS = "as-it-is"
# Steps of one block that are timed, within these seconds.
STEPS, STEPS_S = 20, 1.0
# A trial is begun if the longest so far fits this often into what is left.
ROOM = 1.5
WORST = 5


@dataclass
class _Copy:
    """What conversions work on: a model, where it is and in which type."""

    model: Any
    device: Any
    dtype: Any


def tried(found: Model, model: Any, step: Callable[[], Any], left_s: Callable[[], float]) -> Iterator[Model]:
    """The record with one trial more at a time.

    Args:
        found: what is known of the model, with its timed step.
        model: a torch.nn.Module.
        step: one step, warmed up.
        left_s: how many seconds are left.
    """
    if found.compiled == "whole":
        yield replace(found, untried="the whole model is compiled at once, so that no block of it can be called alone")
        return
    try:
        blocks = kinds_of_blocks(model, step)
    except Exception as error:
        yield replace(found, untried=str(failure(error)["error"]))
        return
    if not blocks:
        yield replace(found, untried="the model repeats no blocks that could be tried")
        return
    trier = _Trier(found, blocks, model)
    longest = 0.0
    configs = (AS_IT_IS, *(TRAINING if model.training else INFERENCE))
    for index, config in enumerate(configs):
        if left_s() < ROOM * longest:
            yield replace(found, untried=f"no time was left for {', '.join(configs[index:])}")
            return
        began = time.monotonic()
        found = replace(found, trials=(*(found.trials or ()), trier.trial(config)))
        longest = max(longest, time.monotonic() - began)
        yield found


class _Trier:
    """Tries configurations on one block of each kind."""

    def __init__(self, found: Model, blocks: list[Block], model: Any) -> None:
        import torch

        self.torch, self.found, self.blocks = torch, found, blocks
        placed = next((p for p in model.parameters() if not p.is_meta), None)
        self.device = placed.device if placed is not None else torch.device("cpu")
        self.dtype = torch.bfloat16
        self.meter = Meter(torch, self.device)
        self.as_it_is: dict[str, Estimate] = {}
        self.references: dict[str, Reference] = {}

    def trial(self, config: str) -> Trial:
        """One configuration; what it raises is its outcome."""
        if config == AS_IT_IS:
            return self._baseline()
        named = label(config)
        if not self.as_it_is:
            return Trial(config, named, "failed", "the blocks cannot be called by themselves")
        try:
            return self._converted(config_of(config), named)
        except Exception as error:
            said = failure(error)
            return Trial(config, named, str(said["outcome"]), str(said["error"]))

    def _baseline(self) -> Trial:
        try:
            self.as_it_is = {block.name + _index(block): self._timed(block, block.alike) for block in self.blocks}
        except Exception as error:
            return Trial(AS_IT_IS, "as it is", "failed", str(failure(error)["error"]))
        step = self.found.run.step_ms if self.found.run else None
        return Trial(AS_IT_IS, "as it is", "ok", blocks_ms=self.as_it_is, step_ms=step)

    def _converted(self, config: Config, named: str) -> Trial:
        times: dict[str, Estimate] = {}
        errors, limits, worst, compile_s = [], [], [], 0.0
        for block in self.blocks:
            key = block.name + _index(block)
            plain = in_16_bits(block, self.dtype, self.device)
            reference = self._reference(key, block, plain)
            copied = _Copy(plain, self.device, self.dtype)
            names = convertible(plain)
            BASES[config.base][0](copied, names)  # type: ignore[arg-type]
            if config.numerics == "e4m3" and not block.module.training:
                worst += self._layer_errors(key, block, plain, names)
            several = [plain, *(copy.deepcopy(plain) for _ in block.alike[1:])]
            if config.compiled:
                for one in several:
                    one.compile()
            began = time.monotonic()
            with around(config.base, config.modifiers, copied):  # type: ignore[arg-type]
                output = self._output(block, plain)
                compile_s += time.monotonic() - began
                errors.append(relative_error(output, reference.output))
                limits.append(reference.limit(config.numerics))
                times[key] = self._timed(block, several)
        wrong = any(not error <= limit for error, limit in zip(errors, limits, strict=True))
        return Trial(
            config=config.slug,
            label=named,
            outcome="wrong" if wrong else "ok",
            blocks_ms=times,
            step_ms=self._step(times),
            relative_error=round(max(errors), 5) if math.isfinite(max(errors)) else None,
            error_limit=round(min(limits), 4),
            compile_s=round(compile_s, 1) if config.compiled else None,
            worst=tuple(sorted(worst, key=lambda one: one.sqnr_db or 0.0)[:WORST]) or None,
        )

    def _step(self, times: dict[str, Estimate]) -> Estimate | None:
        """The whole step with these blocks, all else as it was."""
        step = self.found.run.step_ms if self.found.run else None
        if step is None:
            return None
        counts = {block.name + _index(block): block.count for block in self.blocks}
        median, low, high = step.median, step.low, step.high
        for key, new in times.items():
            old = self.as_it_is[key]
            median -= counts[key] * (old.median - new.median)
            low -= counts[key] * (old.high - new.low)
            high -= counts[key] * (old.low - new.high)
        least = sum(counts[key] * new.low for key, new in times.items())
        return Estimate(
            median=round(max(median, least), 4),
            low=round(max(min(low, median), least), 4),
            high=round(max(high, median, least), 4),
            n=min(time.n for time in times.values()),
        )

    def _timed(self, block: Block, modules: list[Any]) -> Estimate:
        """Milliseconds of one block, of several that are called in turn."""
        calls = [self._call(block, module) for module in modules]

        def in_turn() -> None:
            for call in calls:
                call()

        again = min(self.meter.first(in_turn) for _ in range(3))
        steps = max(5, min(STEPS, int(STEPS_S / max(again, 1e-6))))
        return estimate([ms / len(calls) for ms in self.meter.steps_ms(in_turn, steps)], digits=4)

    def _call(self, block: Block, module: Any) -> Callable[[], Any]:
        if not block.module.training:
            return lambda: self._output(block, module)

        def forward_and_backward() -> None:
            with self.torch.enable_grad():
                output = _first_tensor(self.torch, block.call(module))
                output.float().square().mean().backward()
            module.zero_grad(set_to_none=True)

        return forward_and_backward

    def _output(self, block: Block, module: Any) -> Any:
        with self.torch.no_grad():
            return _first_tensor(self.torch, block.call(module))

    def _reference(self, key: str, block: Block, plain: Any) -> Reference:
        """What the block gives in BF16, and by how much that is off FP32."""
        if key not in self.references:
            output = self._output(block, plain).float().cpu()
            self.references[key] = Reference(output=output, bf16_error=self._bf16_error(block, plain, output))
        return self.references[key]

    def _bf16_error(self, block: Block, plain: Any, output: Any) -> float | None:
        torch = self.torch
        try:
            wide = copy.deepcopy(plain).float()
            arguments = torch.utils._pytree.tree_map_only(
                torch.Tensor, lambda t: t.float() if t.dtype is self.dtype else t, (block.arguments, block.keywords)
            )
            with torch.no_grad():
                exact = _first_tensor(torch, wide(*arguments[0], **arguments[1]))
            return relative_error(output, exact.float().cpu())
        except Exception:  # no memory for it, or a type that it insists on
            return None

    def _layer_errors(self, key: str, block: Block, converted: Any, names: tuple[str, ...]) -> list[LayerError]:
        """How far each converted layer is from BF16 on the input that it has in BF16."""
        plain = in_16_bits(block, self.dtype, self.device)
        found: list[LayerError] = []
        expected = round(-20 * math.log10(FORMAT_ERRORS["e4m3"]), 1)

        def compare(name: str) -> Callable[[Any, Any, Any], None]:
            def hook(module: Any, arguments: Any, output: Any) -> None:
                error = relative_error(converted.get_submodule(name)(*arguments), output)
                db = round(-20 * math.log10(error), 1) if 0 < error < float("inf") else None
                found.append(LayerError(f"{key}.{name}", db, expected))

            return hook

        handles = [plain.get_submodule(name).register_forward_hook(compare(name)) for name in names]
        try:
            self._output(block, plain)
        finally:
            for handle in handles:
                handle.remove()
        return found


def convertible(block: Any) -> tuple[str, ...]:
    """The names of the linear layers of a plain block that FP8 takes: both sizes multiples of 16, no modulation.

    A modulation is called with one row for each picture; FP8 pays for its cast there and gains nothing.
    """
    return tuple(
        name
        for name, module in block.named_modules()
        if isinstance(getattr(module, "in_features", None), int)
        and module.in_features % MULTIPLE == module.out_features % MULTIPLE == 0
        and "norm" not in name
    )


def _first_tensor(torch: Any, output: Any) -> Any:
    leaves = torch.utils._pytree.tree_leaves(output)
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
    if not tensors:
        raise RefusedError("the block returns no tensor")
    return tensors[0]


def _index(block: Block) -> str:
    """A list may hold blocks of several kinds."""
    return "" if block.count > 1 else ".*"
