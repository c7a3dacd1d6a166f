"""Makes the images of a pipeline that a person named, configuration by configuration, from files on this disk alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fp8doctor.checks.ladder.outcomes import alarm, ended, failure, not_here
from fp8doctor.checks.ladder.slugs import BASELINE, config_of
from fp8doctor.checks.pipeline.facts import ImageRung, PipelineRun
from fp8doctor.checks.pipeline.folder import NoPipelineError, PipelineFolder, read_folder
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.checks.transformer_engine.facts import TransformerEngine
from fp8doctor.model import Request
from fp8doctor.plain import from_plain, to_plain
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
# As for the ladder's rungs (checks/ladder/probe.py); an image takes longer than a step.
SHARES, LEAST_RUNG_S, RESERVE_S = 4.0, 30.0, 3.0
NOT_ASKED = "no pipeline was named"
# What is tried before the first rung.
LOADING, REFERENCE = "loading the pipeline", "the image in BF16"
# What an earlier run need not try again.
FINISHED = ("ok", "wrong", "refused")
RESULTS = "pipeline.json"


@probe(runs_in="target", timeout_s=86_400, times_gpu=True, order=80, share=10.0, modes=("bench",))
def gather(request: Request, torch_build: TorchBuild | None, te: TransformerEngine | None) -> Iterator[PipelineRun]:
    """Making images with the pipeline, configuration by configuration."""
    if request.pipeline is None:
        yield PipelineRun(asked=False, measurable=False, why_not=NOT_ASKED)
        return
    if torch_build is None or not torch_build.devices:
        why = "torch sees no GPU" if torch_build and torch_build.installed else "there is no torch to measure with"
        yield PipelineRun(asked=True, folder=Path(request.pipeline).name, measurable=False, why_not=why)
        return
    yield from Run(request, te).records()


class Run:
    """All images of a pipeline; the record grows and is yielded before each rung."""

    def __init__(self, request: Request, te: TransformerEngine | None) -> None:
        self.began = time.monotonic()
        self.request, self.te = request, te
        self.output = Path(request.output_dir) if request.output_dir else None
        self.record = PipelineRun(asked=True, folder=Path(request.pipeline or "").name, rungs=())

    def left_s(self) -> float:
        """Seconds that new rungs may use."""
        return self.request.seconds_left - RESERVE_S - (time.monotonic() - self.began)

    def records(self) -> Iterator[PipelineRun]:
        """Load the pipeline and measure its rungs."""
        try:
            folder = read_folder(self.request.pipeline or "")
        except NoPipelineError as error:
            yield self._not_measurable(str(error))
            return
        earlier = self._earlier()
        if earlier is not None and earlier.attempting in (LOADING, REFERENCE) and self.request.so_far_ended:
            yield self._not_measurable(f"{earlier.attempting}: {ended(self.request.so_far_ended)['error']}")
            return
        self.record = replace(self.record, class_name=folder.class_name, denoiser=folder.denoiser)
        yield replace(self.record, attempting=LOADING)
        alarm(max(LEAST_RUNG_S, self.left_s()))
        try:
            painter = self._painter(folder)
        except NoPipelineError as error:
            yield self._not_measurable(str(error))
            return
        except Exception as error:  # files that are damaged, parts that do not fit into the memory
            yield self._not_measurable(failure(error)["error"])
            return
        self._go_on_from(earlier)
        yield from self._rungs(painter)
        alarm(0)
        yield self._saved(replace(self.record, attempting=None))

    def _painter(self, folder: PipelineFolder) -> Any:
        from fp8doctor.checks.pipeline.session import Session, offline

        offline()
        import torch

        from fp8doctor.checks.ladder.stepping import Meter
        from fp8doctor.checks.pipeline.images import Comparer
        from fp8doctor.checks.pipeline.painting import Painter

        device = torch.device("cuda", self.request.gpu) if torch.cuda.is_available() else torch.device("cpu")
        if device.type == "cuda":
            torch.cuda.set_device(device)
            self.record = replace(self.record, device_name=torch.cuda.get_device_name(device))
        meter = Meter(torch, device)
        session = Session(folder, self.request.prompt, self.request.steps, meter)
        self.record = replace(
            self.record,
            measurable=True,
            denoiser_class=session.denoiser_class.__name__,
            parts=session.parts,
            steps=session.steps,
            own_prompt=self.request.prompt is not None,
        )
        return Painter(session, meter, Comparer(), self.request.epoch_s)

    def _earlier(self) -> PipelineRun | None:
        return from_plain(PipelineRun, self.request.so_far) if self.request.so_far is not None else None

    def _go_on_from(self, earlier: PipelineRun | None) -> None:
        """Keep what an earlier child, or an earlier run of the same pipeline, has measured."""
        if earlier is None or earlier.rungs is None:
            return
        rungs = earlier.rungs
        if self.request.so_far_ended is not None:
            if earlier.attempting:
                rungs = (*rungs, ImageRung(config=earlier.attempting, **ended(self.request.so_far_ended)))
        else:
            now, then = ((r.folder, r.class_name, r.steps, r.own_prompt, r.device_name) for r in (self.record, earlier))
            # A person asked to go on: what did not finish is tried again.
            rungs = tuple(rung for rung in rungs if rung.outcome in FINISHED) if now == then else ()
        self.record = replace(self.record, rungs=rungs, not_measured=None)

    def _rungs(self, painter: Any) -> Iterator[PipelineRun]:
        done = {rung.config for rung in self.record.rungs or ()}
        todo = [slug for slug in self.request.rungs or CONFIGS if slug not in done]
        if not todo:
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
                self._leave([slug, *todo], "the time budget was spent")
                return
            if (why_not := not_here(config_of(slug), self.te)) is not None:
                self._keep(ImageRung(config=slug, outcome="not-measured", error=why_not))
                continue
            yield self._saved(replace(self.record, attempting=slug))
            share_s = max(LEAST_RUNG_S, min(self.left_s(), SHARES * self.left_s() / (len(todo) + 1)))
            alarm(share_s)
            rung = painter.paint(slug, reference, share_s, lambda image, slug=slug: self._save_image(slug, image))
            alarm(0)
            self._keep(rung)
            self.record = replace(self.record, not_compared=dict(painter.comparer.missing))
            yield self._saved(self.record)

    def _keep(self, rung: ImageRung) -> None:
        self.record = replace(self.record, rungs=(*(self.record.rungs or ()), rung))

    def _leave(self, slugs: list[str], why: str) -> None:
        left = tuple(f"{slug}: {why}" for slug in slugs)
        self.record = replace(self.record, not_measured=(*(self.record.not_measured or ()), *left))

    def _not_measurable(self, why: str) -> PipelineRun:
        alarm(0)
        return self._saved(replace(self.record, measurable=False, why_not=why, attempting=None))

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

    def _saved(self, record: PipelineRun) -> PipelineRun:
        """Write the record beside the images, as far as it came."""
        if self.output is not None:
            try:
                self.output.mkdir(parents=True, exist_ok=True)
                (self.output / RESULTS).write_text(json.dumps(to_plain(record), indent=1), encoding="utf-8")
            except OSError as error:
                self.output = None
                self._leave([RESULTS], f"not written: {error.strerror or error}")
        return record
