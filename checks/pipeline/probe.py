"""Makes the images of a pipeline that a person named, configuration by configuration, from files on this disk alone."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fp8doctor.checks.ladder.outcomes import alarm, ended, failure, not_here
from fp8doctor.checks.ladder.probe import import_engine_first
from fp8doctor.checks.ladder.slugs import BASELINE, config_of
from fp8doctor.checks.pipeline.asking import NO_GPU, NO_TORCH, NOT_NAMED
from fp8doctor.checks.pipeline.facts import ImageRung, PipelineRun
from fp8doctor.checks.pipeline.folder import NoPipelineError, PipelineFolder, read_folder
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.checks.transformer_engine.facts import TransformerEngine
from fp8doctor.model import Request
from fp8doctor.plain import from_plain
from fp8doctor.registry import probe

# What is tried where nobody said what, the most telling first.
CONFIGS = (
    "torch-bf16",
    "torch-bf16+compile",
    "torchao-fp8-rowwise+compile",
    "torchao-fp8-rowwise",
    "torchao-fp8-weightonly",
    "diffusers-fp8-storage",
    "torch-bf16+cache-first-block",
    "torchao-fp8-rowwise+compile+cache-first-block",
    "torchao-int8-dynamic+compile",
    "torch-bf16+attention-cudnn",
    "torch-bf16+attention-flash",
    "torch-bf16+attention-fa2",
    "torch-bf16+attention-fa3",
    "te-fp8-current",
    "te-fp8-delayed",
)
ENGINE = "transformer_engine"
# As for the ladder's rungs (checks/ladder/probe.py); an image takes longer than a step.
SHARES, LEAST_RUNG_S, RESERVE_S = 4.0, 30.0, 3.0
# What is tried before the first rung.
LOADING, REFERENCE = "loading the pipeline", "the image in BF16"
# What an earlier run need not try again.
FINISHED = ("ok", "wrong", "refused")


@probe(runs_in="target", timeout_s=86_400, times_gpu=True, order=80, share=10.0, for_pipeline=True, modes=("bench",))
def gather(request: Request, torch_build: TorchBuild | None, te: TransformerEngine | None) -> Iterator[PipelineRun]:
    """Making images with the pipeline, configuration by configuration."""
    if request.pipeline is None:
        yield PipelineRun(asked=False, measurable=False, why_not=NOT_NAMED)
        return
    run = Run(request, te)
    try:
        folder = read_folder(request.pipeline)
    except NoPipelineError as error:
        yield run.stopped(str(error))
        return
    if torch_build is None or not torch_build.devices:
        yield run.stopped(NO_GPU if torch_build and torch_build.installed else NO_TORCH)
        return
    yield from run.records(folder)


class Run:
    """All images of a pipeline; the record grows and is yielded before each rung."""

    def __init__(self, request: Request, te: TransformerEngine | None) -> None:
        self.began = time.monotonic()
        self.request, self.te = request, te
        self.output = Path(request.output_dir) if request.output_dir else None
        self.record = PipelineRun(
            asked=True,
            folder=Path(request.pipeline or "").name,
            own_prompt=request.prompt is not None,
            prompt_digest=digest(request.prompt),
            rungs=(),
        )

    def left_s(self) -> float:
        """Seconds that new rungs may use."""
        return self.request.seconds_left - RESERVE_S - (time.monotonic() - self.began)

    def records(self, folder: PipelineFolder) -> Iterator[PipelineRun]:
        """Load the pipeline and measure its rungs."""
        self.record = replace(self.record, class_name=folder.class_name, denoiser=folder.denoiser)
        why_not = self._go_on()
        if why_not is None and self.left_s() < LEAST_RUNG_S:
            left_s, least_s = max(0.0, self.left_s()), LEAST_RUNG_S
            why_not = f"{left_s:.0f} s are left, and loading it and drawing need {least_s:.0f} s at least (--budget)"
        if why_not is not None:
            yield self.stopped(why_not)
            return
        yield replace(self.record, attempting=LOADING)
        alarm(self.left_s())
        try:
            painter = self._painter(folder)
        except NoPipelineError as error:
            yield self.stopped(str(error))
            return
        except Exception as error:  # files that are damaged, parts that do not fit into the memory
            yield self.stopped(failure(error)["error"])
            return
        yield from self._rungs(painter)
        alarm(0)
        yield replace(self.record, attempting=None)

    def stopped(self, why: str) -> PipelineRun:
        """The record, where nothing more can be measured."""
        alarm(0)
        if any(rung.outcome == "ok" for rung in self.record.rungs or ()):
            self._leave(self._todo(), why)
        else:
            self.record = replace(self.record, measurable=False, why_not=why)
        return replace(self.record, attempting=None)

    def _go_on(self) -> str | None:
        """Keep what an earlier child, or an earlier run of the same pipeline, has measured.

        Returns why nothing more can be measured, if an earlier child ended before its first rung.
        """
        if self.request.so_far is None:
            return None
        earlier = from_plain(PipelineRun, self.request.so_far)
        how = self.request.so_far_ended
        if how is None:
            # A person asked to go on: what did not finish is tried again.
            failed = tuple(r.config for r in earlier.rungs or () if r.config and r.outcome not in FINISHED) or None
            if _same(earlier, self.record) and self.request.steps in (None, earlier.steps):
                self.record = replace(earlier, measurable=None, why_not=None, not_measured=None, untried=failed)
            return None
        self.record = replace(earlier, attempting=None)
        if earlier.attempting in (LOADING, REFERENCE):
            return f"{earlier.attempting}: {ended(how)['error']}"
        if earlier.attempting:
            self._keep(ImageRung(config=earlier.attempting, **ended(how)))
        return None

    def _painter(self, folder: PipelineFolder) -> Any:
        from fp8doctor.checks.pipeline.session import Session, offline

        offline()
        wanted = self.request.rungs or CONFIGS
        if self.te and self.te.import_ok and any(config_of(slug).library == ENGINE for slug in wanted):
            import_engine_first()
        import torch

        from fp8doctor.checks.pipeline.images import Comparer
        from fp8doctor.checks.pipeline.painting import Painter
        from fp8doctor.measuring.stepping import Meter

        device = torch.device("cuda", self.request.gpu) if torch.cuda.is_available() else torch.device("cpu")
        name = None
        if device.type == "cuda":
            torch.cuda.set_device(device)
            name = torch.cuda.get_device_name(device)
        meter = Meter(torch, device)
        session = Session(folder, self.request.prompt, self.request.steps, meter)
        self._compares(name, session.steps)
        self.record = replace(
            self.record,
            measurable=True,
            device_name=name,
            denoiser_class=session.denoiser_class.__name__,
            parts=session.parts,
            steps=session.steps,
        )
        return Painter(session, meter, Comparer(), self.request.epoch_s)

    def _compares(self, device: str | None, steps: int) -> None:
        """Refuse to add to finished images of another GPU, or in other steps: these do not compare."""
        before = self.record
        if not before.rungs or (before.device_name, before.steps) == (device, steps):
            return
        self.record = replace(before, rungs=(), untried=None)
        if not any(rung.outcome in FINISHED for rung in before.rungs):
            return
        if before.device_name != device:
            raise NoPipelineError(
                f"the earlier images are of another GPU ({before.device_name or 'none'}; here: {device or 'none'})"
            )
        raise NoPipelineError(f"the earlier images are drawn in {before.steps} steps, not in {steps}")

    def _todo(self) -> list[str]:
        untried = self.record.untried or ()
        done = {rung.config for rung in self.record.rungs or () if rung.config not in untried}
        return [slug for slug in self.request.rungs or CONFIGS if slug not in done]

    def _rungs(self, painter: Any) -> Iterator[PipelineRun]:
        if not (todo := self._todo()):
            return
        yield replace(self.record, attempting=REFERENCE)
        try:
            reference = painter.reference()
        except Exception as error:  # then the pipeline itself does not run
            self._keep(ImageRung(config=BASELINE, **failure(error)))
            self._leave(todo, "the pipeline does not run in BF16")
            return
        if reference.image is not None:
            height, width = reference.image.shape[-2:]
            self.record = replace(self.record, height=int(height), width=int(width))
        while todo:
            slug = todo.pop(0)
            if self.left_s() < LEAST_RUNG_S:
                self._leave([slug, *todo], "the time budget was spent", self._needs(len(todo) + 1))
                return
            if (why_not := not_here(config_of(slug), self.te)) is not None:
                self._keep(ImageRung(config=slug, outcome="not-measured", error=why_not))
                continue
            yield replace(self.record, attempting=slug)
            share_s = max(LEAST_RUNG_S, min(self.left_s(), SHARES * self.left_s() / (len(todo) + 1)))
            alarm(share_s)
            rung = painter.paint(slug, reference, share_s, lambda image, slug=slug: self._save_image(slug, image))
            alarm(0)
            self._keep(rung)
            self.record = replace(self.record, not_compared=dict(painter.comparer.missing))
            yield self.record

    def _keep(self, rung: ImageRung) -> None:
        """Take up a rung, in place of what an earlier run said of it."""
        untried = self.record.untried or ()
        others = tuple(r for r in self.record.rungs or () if r.config != rung.config or r.config not in untried)
        left = tuple(config for config in untried if config != rung.config)
        self.record = replace(self.record, rungs=(*others, rung), untried=left or None)

    def _leave(self, slugs: list[str], why: str, need: str = "") -> None:
        """Tell what is left out and why; what all of it needs stands once, behind the last."""
        # What failed in an earlier run stays with its own reason.
        left = [f"{slug}: {why}" for slug in slugs if slug not in (self.record.untried or ())]
        if left:
            left[-1] += need
        self.record = replace(self.record, not_measured=(*(self.record.not_measured or ()), *left) or None)

    def _needs(self, rungs: int) -> str:
        """What the rungs that are left need, by those that are done."""
        took = [r.ended_s - r.started_s for r in self.record.rungs or () if r.ended_s and r.started_s]
        each_s = sum(took) / len(took) if took else LEAST_RUNG_S
        said = "this one needs" if rungs == 1 else f"these {rungs} need"
        return f"; {said} about {rungs * each_s:.0f} s (--budget)"

    def _save_image(self, slug: str, image: Any) -> str | None:
        """Write an image into the folder that was asked for; a full disk costs the file alone."""
        if self.output is None:
            return None
        from fp8doctor.checks.pipeline.images import save_png

        file = self.output / f"{slug}.png"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_png(image, file)
        except OSError as error:
            self._leave([file.name], f"not written: {error.strerror or error}")
            return None
        return file.name


def digest(prompt: str | None) -> str | None:
    """What tells a prompt from another without keeping it; None for the doctor's own."""
    return None if prompt is None else hashlib.sha256(prompt.encode("utf-8", "replace")).hexdigest()[:8]


def _same(one: PipelineRun, other: PipelineRun) -> bool:
    """Whether images of both are of the same pipeline and prompt."""
    return (one.folder, one.class_name, one.prompt_digest) == (other.folder, other.class_name, other.prompt_digest)
