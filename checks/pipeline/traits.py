"""When are the images of two reports the same work?"""

from __future__ import annotations

from fp8doctor.checks.pipeline.advice import TASK
from fp8doctor.checks.pipeline.facts import PipelineRun
from fp8doctor.model import Trait
from fp8doctor.registry import traits


@traits
def of_images(run: PipelineRun) -> list[Trait]:
    """The pipeline, its steps, the size of the image and the prompt."""
    size = f"{run.width}x{run.height}" if run.width and run.height else None
    prompt = run.prompt_digest or ("the doctor's own" if run.own_prompt is False else None)
    fields = (
        ("pipeline", run.class_name, "class_name"),
        ("denoiser", run.denoiser_class, "denoiser_class"),
        ("steps of an image", run.steps, "steps"),
        ("size of an image", size, "width"),
        ("prompt", prompt, "prompt_digest"),
    )
    return [Trait("method", name, value, None, f"pipeline.{field}", affects=(TASK,)) for name, value, field in fields]
