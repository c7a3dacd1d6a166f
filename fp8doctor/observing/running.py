"""What do the steps of a model take, with how many rows is each layer called, and what does the profiler see?"""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fp8doctor.measuring.statistics import estimate
from fp8doctor.measuring.stepping import Meter
from fp8doctor.observed import Layer, Model, StepRun
from fp8doctor.observing.looking import alike, compiled_names, own_name

Call = Callable[[], Any]
# After the first call: compiling, choosing algorithms and filling caches may need a second one, and a host that has
# just built a model settles for some tenths of a second (an eager FP8 step took 61 ms at first and 37 later, H200).
WARM_UPS, MOST_WARM_UPS, WARM_UP_S = 2, 50, 0.5
# Steps timed, within these seconds; and steps that the profiler records.
STEPS, STEPS_S = 12, 3.0
RECORDED = 3
FIRST = "the first call"


def step_of(model: Any, inputs: Any) -> Call:
    """One step of a model: a forward without gradients, or in training forward and backward of the output's mean.

    Args:
        model: a torch.nn.Module.
        inputs: what it is called with: a tensor, a tuple of arguments or a dict of keyword arguments.
    """
    import torch

    arguments = inputs if isinstance(inputs, (tuple, list)) else () if isinstance(inputs, dict) else (inputs,)
    keywords = inputs if isinstance(inputs, dict) else {}

    def forward() -> Any:
        with torch.no_grad():
            return model(*arguments, **keywords)

    def forward_and_backward() -> Any:
        output = model(*arguments, **keywords)
        _loss(output).backward()
        for parameter in model.parameters():
            parameter.grad = None
        return output

    return forward_and_backward if model.training else forward


def done_by(model: Any) -> str:
    """What the step of `step_of` does."""
    return "forward and backward" if model.training else "forward"


def _loss(output: Any) -> Any:
    import torch

    found = getattr(output, "loss", None)
    if isinstance(found, torch.Tensor):
        return found
    tensors = [t for t in torch.utils._pytree.tree_leaves(output) if isinstance(t, torch.Tensor) and t.requires_grad]
    if not tensors:
        raise ValueError("no output has a gradient: call model.eval(), or pass a step of your own")
    return sum(t.float().mean() for t in tensors)


def device_of(model: Any, default: Any) -> Any:
    """The device that a model computes on; meta where nothing says it, `default` without parameters.

    That of the first parameter with data. accelerate keeps offloaded weights on meta between calls: its hooks name the
    device that it brings them to (`execution_device`, accelerate/hooks.py).
    """
    devices = [parameter.device for parameter in model.parameters()]
    real = next((device for device in devices if device.type != "meta"), None)
    return real or _brought_to(model) or (devices[0] if devices else default)


def _brought_to(model: Any) -> Any:
    import torch

    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            wanted = getattr(one, "execution_device", None)
            if wanted is not None:
                return torch.device("cuda", wanted) if isinstance(wanted, int) else torch.device(wanted)
    return None


def timed(step: Call, device: Any) -> StepRun:
    """Time the first call and steps after it; what it raises ends the timing and is told.

    Args:
        step: one step.
        device: a torch.device, whose work is waited for.
    """
    import torch

    if device.type == "meta":
        return StepRun(error="all weights are on meta: nothing can be computed before they are loaded", failed_at=FIRST)
    meter = Meter(torch, device)
    run = StepRun(failed_at=FIRST)
    try:
        meter.forget_peak()
        first = meter.first(step)
        run = replace(run, first_ms=round(1e3 * first, 3), failed_at="timing")
        began = time.perf_counter()
        warm_ups = 0
        while warm_ups < WARM_UPS or (time.perf_counter() - began < WARM_UP_S and warm_ups < MOST_WARM_UPS):
            again = meter.first(step)
            warm_ups += 1
        steps = max(3, min(STEPS, int(STEPS_S / max(again, 1e-6))))
        times = meter.steps_ms(step, steps)
        host = sorted(meter.host_ms(step))
        return StepRun(
            first_ms=run.first_ms,
            step_ms=estimate(times),
            host_ms=round(host[len(host) // 2], 3),
            peak_gb=round(meter.peak_bytes() / 1e9, 3) if meter.on_gpu else None,
        )
    except Exception as error:
        return replace(run, error=in_a_line(error))


def in_a_line(error: BaseException) -> str:
    """What was raised, for a report."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first[:300]}".removesuffix(": ")


def with_rows(found: Model, model: Any, step: Call) -> Model:
    """The same with the rows that each layer was called with, and the autocast round it; compiled parts are left alone.

    A hook on a compiled module would have it compiled anew.
    """
    seen: dict[str, dict[int, None]] = {}
    autocast: dict[str, None] = {}
    with _watching(model, seen, autocast):
        step()
    layers = tuple(_rows(layer, seen) for layer in found.layers or ())
    return replace(found, layers=layers, autocast=next(iter(autocast), None))


def _rows(layer: Layer, seen: dict[str, dict[int, None]]) -> Layer:
    rows = tuple(sorted(seen.get(layer.name or "", {})))
    return replace(layer, rows=rows or None) if not layer.compiled else layer


@contextlib.contextmanager
def _watching(model: Any, seen: dict[str, dict[int, None]], autocast: dict[str, None]) -> Iterator[None]:
    compiled = compiled_names(model)
    handles = []
    for name, module in model.named_modules():
        name = own_name(name)
        inside = any(one == "" or name == one or name.startswith(f"{one}.") for one in compiled)
        if inside or not isinstance(getattr(module, "in_features", None), int):
            continue
        noted = seen.setdefault(alike(name).removesuffix(".base_layer"), {})
        handles.append(module.register_forward_pre_hook(_note(noted, autocast)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _note(noted: dict[int, None], autocast: dict[str, None]) -> Callable[[Any, Any], None]:
    import torch

    def note(module: Any, arguments: Any) -> None:
        kind = next((str(a.device.type) for a in arguments if isinstance(a, torch.Tensor)), "cpu")
        on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        autocast[str(torch.get_autocast_dtype(kind)).removeprefix("torch.") if on else "off"] = None
        shape = getattr(arguments[0], "shape", None) if arguments else None
        if shape:
            noted[int(shape.numel() // shape[-1]) if shape[-1] else 0] = None

    return note


def record(step: Call, file: Path, device: Any) -> None:
    """Write a profiler's trace of some steps.

    Args:
        step: one step, warmed up.
        file: where the trace is written.
        device: a torch.device.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile, schedule

    if torch.autograd._profiler_enabled():
        raise RuntimeError("another profiler is on")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with (
        _quiet(),
        profile(
            activities=activities,
            schedule=schedule(wait=0, warmup=1, active=RECORDED),
            record_shapes=True,
            on_trace_ready=lambda done: done.export_chrome_trace(str(file)),
        ) as profiler,
    ):
        for _ in range(1 + RECORDED):
            step()
            profiler.step()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the profiler's remarks on its own schedule."""
    logger = logging.getLogger("torch.profiler")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*Profiler clears events")
            yield
    finally:
        logger.setLevel(before)
