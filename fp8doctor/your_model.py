"""The public API for a model of the caller's own, in the caller's own process."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fp8doctor import api
from fp8doctor.checks.model.trying.running import all_tried
from fp8doctor.judging.report import Report
from fp8doctor.model import Facts
from fp8doctor.observed import Model
from fp8doctor.observing import compiling, looking, memory, running
from fp8doctor.observing.keeping import as_it_was
from fp8doctor.observing.recorded import without_profiler
from fp8doctor.observing.watching import Watch, Watcher
from fp8doctor.reading.trace import NotATraceError, add_up
from fp8doctor.traced import Trace

# Four compilations of a block or two.
TRY_FOR_S = 60.0


def examine_model(
    model: Any,
    inputs: Any = None,
    step: Callable[[], Any] | None = None,
    *,
    try_for_s: float = TRY_FOR_S,
    check_plan: bool = False,
) -> Report:
    """Look at a model of the caller's own, run its step, and judge both.

    Nothing in the model is changed: hooks are removed, random states, gradients and buffers are as before. What `step`
    changes itself (an optimizer's parameters) is its own. Without inputs and step the model is looked at alone.

    Args:
        model: a torch.nn.Module.
        inputs: what it is called with: a tensor, a tuple of arguments, or a dict of keyword arguments. One step is then
            a forward without gradients, or in training forward and backward.
        step: one step of the caller's own, called one or two hundred times: what it
            changes stays changed.
        try_for_s: for how many seconds at most other configurations are tried on copies of the model's blocks; 0: none
            is tried.
        check_plan: whether the best of these is put into the whole model for a moment and measured. Its blocks lie
            beside the model's own meanwhile, and all of them are compiled; that takes as long as it takes.

    Raises:
        TypeError: if `model` is no torch.nn.Module, or `step` cannot be called.
    """
    import torch

    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"a torch.nn.Module is examined, not a {type(model).__name__}")
    if step is not None and not callable(step):
        raise TypeError(f"a step is called: step=lambda: model(x), not a {type(step).__name__}")
    registry = api.knowledge()
    found = looking.look(model, registry.describers)
    if step is None and inputs is None:
        found = dataclasses.replace(found, untried="neither inputs nor a step were given")
        return api.read_report(registry, {Model.key: found}, "model")
    call = step if step is not None else running.step_of(model, inputs)
    device = running.device_of(model, torch.device("cpu"))
    facts: dict[str, Facts] = {}
    gradients = memory.gradients_of(model)
    with (
        compiling.hearing(model, step) as said_so_far,
        as_it_was(model),
        tempfile.TemporaryDirectory(prefix="fp8doctor-") as folder,
    ):
        run = running.timed(call, device)
        run = dataclasses.replace(run, does=running.done_by(model) if step is None else None)
        said = said_so_far()
        if run.error is None:
            # What a layer did is known by some libraries only once it ran.
            found = running.with_rows(looking.look(model, registry.describers), model, call)
            file = Path(folder) / "trace.json"
            try:
                running.record(call, file, device)
                trace = add_up([file], registry.kernels)
                facts[Trace.key] = without_profiler(trace, run.step_ms.median) if run.step_ms else trace
            except NotATraceError:
                run = dataclasses.replace(run, error="the step ran no operator of torch", failed_at="profiling")
            except RuntimeError as error:
                run = dataclasses.replace(run, error=running.in_a_line(error), failed_at="profiling")
            found = dataclasses.replace(found, memory=memory.of_step(model, call, device, gradients))
        found = dataclasses.replace(found, run=run, compile_events=said)
        if run.error is None and try_for_s > 0:
            until = time.monotonic() + try_for_s
            left_s = lambda: until - time.monotonic()  # noqa: E731
            found = [found, *all_tried(found, model, call, left_s, check_plan=check_plan)][-1]
    facts[Model.key] = found
    return api.read_report(registry, facts, "model")


def watch() -> Watch:
    """Watch a block of the caller's own code: `with fp8doctor.watch() as w: train()`, then `w.report`.

    The first steady steps are recorded by torch's profiler; a step is an optimizer's step, or where none is taken a
    call of the outermost module. After that the block runs as it would by itself. While another profiler is on nothing
    is recorded, and the report says so.
    """
    registry = api.knowledge()
    before = compiling.so_far_said()

    def judged(watcher: Watcher) -> Report:
        facts: dict[str, Facts] = {}
        found = looking.look(watcher.model, registry.describers) if watcher.model is not None else None
        error = watcher.failed or ("no model was called in the block" if watcher.model is None else None)
        try:
            trace = add_up([watcher.file], registry.kernels) if watcher.file.exists() else None
        except NotATraceError as broken:
            trace, error = None, str(broken)
        if trace is not None:
            facts[Trace.key] = dataclasses.replace(trace, steps=watcher.steps or None)
        if error:  # of watching, and no fault of the model
            found = dataclasses.replace(found or Model(), untried=error)
        if found is not None:
            said = compiling.events(watcher.model, since=before) if watcher.model is not None else None
            facts[Model.key] = dataclasses.replace(found, compile_events=said)
        return api.read_report(registry, facts, "model")

    return Watch(judged)
