"""Looks at a model that a person named, runs its step and tries what would help, in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fp8doctor.checks.model.factory import NoModelError, made
from fp8doctor.checks.model.trying.running import all_tried
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.model import Request
from fp8doctor.observed import Model, StepRun
from fp8doctor.observing import compiling, looking, memory, running
from fp8doctor.observing.keeping import as_it_was
from fp8doctor.registry import load, probe

# Seconds that are kept for ending in order.
RESERVE_S = 3.0


@probe(runs_in="target", timeout_s=3600, times_gpu=True, order=5, share=20.0, for_model=True)
def gather(request: Request, torch_build: TorchBuild | None) -> Iterator[Model]:
    """Looking at your model, and running its step."""
    started = time.monotonic()
    name = request.model or ""
    if torch_build is None or not torch_build.installed:
        yield _failed(Model(name=name), "loading", "torch is not installed here")
        return
    import torch

    device = torch.device("cuda", request.gpu) if torch.cuda.is_available() else torch.device("cpu")
    try:
        named = made(torch, name, request.model_inputs, request.model_folder, device)
    except NoModelError as error:
        yield _failed(Model(name=name), "loading", str(error))
        return
    model, describers = named.model, load(()).describers
    found = replace(looking.look(model, describers), name=name)
    yield found
    if named.step is None and named.inputs is None:
        yield replace(found, untried="nothing was given that it can be called with (--input SHAPE:dtype)")
        return
    step = named.step or running.step_of(model, named.inputs)
    placed = running.device_of(model, device)
    before = compiling.so_far_said()
    with as_it_was(model):
        run = replace(running.timed(step, placed), does=running.done_by(model) if named.step is None else None)
        said = compiling.events(model, named.step, before)
        yield replace(found, run=run, compile_events=said)
        if run.error is not None:
            return
        found = replace(running.with_rows(looking.look(model, describers), model, step), name=name, run=run)
        found = replace(found, compile_events=said, memory=memory.of_step(model, step, placed))
        yield found
        if request.trace_file is not None:
            try:
                running.record(step, Path(request.trace_file), placed)
            except RuntimeError as error:
                found = _failed(found, "profiling", running.in_a_line(error))
                yield found
        yield from all_tried(
            found,
            model,
            step,
            lambda: request.seconds_left - RESERVE_S - (time.monotonic() - started),
            may_import=True,
            check_plan=request.check_plan,
        )


def _failed(found: Model, where: str, error: str) -> Model:
    return replace(found, run=replace(found.run or StepRun(), error=error, failed_at=where))
