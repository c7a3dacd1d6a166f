"""A pipeline in memory: made from local files alone, its denoiser exchanged, its parts timed, called for an image.

Runs in the child; torch and diffusers are imported inside.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fp8doctor.checks.ladder.caching import STEPS
from fp8doctor.checks.pipeline.facts import Part
from fp8doctor.checks.pipeline.folder import NoPipelineError, PipelineFolder
from fp8doctor.checks.pipeline.images import as_tensor
from fp8doctor.checks.workload.build import Built, weight_bytes
from fp8doctor.checks.workload.catalogue import ModelPlan
from fp8doctor.measuring.stepping import Meter

SEED = 0
# What is drawn where nobody said what, and the class of pictures where there are classes.
PROMPT = "a photograph of a red fox in fresh snow, morning light"
CLASS_LABELS = [0]


@dataclass
class PartClock:
    """How long each part of a pipeline works, from events on the device, or by the host's clock without one.

    A part is timed from outside of what is compiled, and nothing is waited for.
    """

    meter: Meter
    spans: dict[str, list[tuple[Any, Any]]] = field(default_factory=dict)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, each of its calls written down under a name."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = self._now()
            result = function(*args, **kwargs)
            self.spans.setdefault(name, []).append((begin, self._now()))
            return result

        return call

    def _now(self) -> Any:
        if not self.meter.on_gpu:
            return time.perf_counter()
        event = self.meter.torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def take(self) -> tuple[dict[str, float], dict[str, int]]:
        """Seconds and calls of each part since it was last asked; the device must have ended its work."""
        seconds = {name: sum(self._length_s(*span) for span in spans) for name, spans in self.spans.items()}
        calls = {name: len(spans) for name, spans in self.spans.items()}
        self.forget()
        return seconds, calls

    def forget(self) -> None:
        """Drop what was written down: after a failure, some of it may never have ended."""
        self.spans.clear()

    def _length_s(self, begin: Any, end: Any) -> float:
        return float(begin.elapsed_time(end) / 1e3 if self.meter.on_gpu else end - begin)


class Session:
    """A pipeline whose denoiser can be exchanged.

    Raises:
        NoPipelineError: if the installed libraries do not have it, or it asks for more than a prompt.
    """

    def __init__(self, folder: PipelineFolder, prompt: str | None, steps: int | None, meter: Meter) -> None:
        self.folder, self.meter = folder, meter
        self.clock = PartClock(meter)
        cls = pipeline_class(folder)
        self.arguments = _arguments(cls, prompt, steps)
        self.pipe = cls.from_pretrained(str(folder.path), **self._from_disk())
        self.pipe.set_progress_bar_config(disable=True)
        self._loaded = getattr(self.pipe, folder.denoiser)
        self.denoiser_class = type(self._loaded)
        self.parts = tuple(self._part(name, part) for name, part in self._models().items())
        for name, part in self._models().items():
            if name != folder.denoiser:
                part.to(meter.device)
                self._watch(name, part)

    @property
    def steps(self) -> int:
        """The steps of an image."""
        return int(self.arguments["num_inference_steps"])

    def _from_disk(self) -> dict[str, Any]:
        import torch

        variant = {"variant": self.folder.variant} if self.folder.variant else {}
        # diffusers says that "torch_dtype" ends with 1.0.0 (utils/deprecation_utils.py in 0.40).
        name = "dtype" if int(importlib.import_module("diffusers").__version__.partition(".")[0]) else "torch_dtype"
        return {name: torch.bfloat16, "local_files_only": True, "use_safetensors": True, **variant}

    def _models(self) -> dict[str, Any]:
        import torch

        return {name: part for name, part in self.pipe.components.items() if isinstance(part, torch.nn.Module)}

    def _part(self, name: str, part: Any) -> Part:
        if empty := next((n for n, p in part.named_parameters() if p.is_meta), None):
            raise NoPipelineError(f"the weights of its {name} are not those of its config.json: {empty} is missing")
        parameters = sum(p.numel() for p in part.parameters())
        return Part(name, type(part).__name__, parameters, round(weight_bytes(part) / 1e9, 3))

    def _watch(self, name: str, part: Any) -> None:
        # Pipelines call text encoders, and ask an autoencoder to decode.
        method = "decode" if hasattr(part, "decode") else "forward"
        setattr(part, method, self.clock.timed(name, getattr(part, method)))

    def fresh(self) -> Built:
        """The denoiser in BF16, as it lies on the disk, on the host; the pipeline has none until `put`."""
        self.drop()
        model, self._loaded = self._loaded, None
        if model is None:
            model = self.denoiser_class.from_pretrained(
                str(self.folder.path / self.folder.denoiser), **self._from_disk()
            )
        import torch

        model = model.eval().requires_grad_(False)
        plan = ModelPlan(
            name=self.folder.path.name,
            title=self.folder.class_name,
            library="diffusers",
            class_name=type(model).__name__,
            config=dict(model.config),
            steps=(),
            depth_keys=(),
        )
        return Built(plan, model, self.meter.device, torch.bfloat16, depth=repeated(model))

    def drop(self) -> None:
        """Take the denoiser out of the pipeline, so that its memory can be given back."""
        self.pipe.register_modules(**{self.folder.denoiser: None})

    def put(self, model: Any, around: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        """Let the pipeline call this denoiser, with `around()` round each of its calls."""
        forward = model.forward

        @functools.wraps(forward)
        def call(*args: Any, **kwargs: Any) -> Any:
            with around():
                return forward(*args, **kwargs)

        model.forward = self.clock.timed(self.folder.denoiser, call)
        self.pipe.register_modules(**{self.folder.denoiser: model})

    def image(self) -> Any:
        """One image of the same seed every time: (number, 3, height, width), float32 on the host, from 0 to 1."""
        import torch

        generator = torch.Generator("cpu").manual_seed(SEED)
        with torch.no_grad():
            return as_tensor(self.pipe(generator=generator, **self.arguments)[0])


def offline() -> None:
    """No library of Hugging Face may ask the network; to be called before one is imported."""
    os.environ["HF_HUB_OFFLINE"] = "1"


def pipeline_class(folder: PipelineFolder) -> Any:
    """The class of the pipeline, where the installed libraries have it and the class of each part.

    Raises:
        NoPipelineError: if one is missing.
    """
    diffusers = importlib.import_module("diffusers")
    written = f"; the folder was written by diffusers {folder.written_by}" if folder.written_by else ""
    here = f"diffusers {diffusers.__version__}"
    cls = getattr(diffusers, folder.class_name, None)
    if not (inspect.isclass(cls) and issubclass(cls, diffusers.DiffusionPipeline)):
        raise NoPipelineError(f"{here} has no pipeline {folder.class_name}{written}")
    for part, (library, name) in folder.parts.items():
        module: Any
        if library in ("diffusers", "transformers"):
            module = importlib.import_module(library)
            said = here if library == "diffusers" else f"transformers {module.__version__}"
        else:  # classes that diffusers keeps beside a pipeline ("stable_diffusion"); any other library is not imported
            module, said = getattr(diffusers.pipelines, library, None), here
        if getattr(module, name, None) is None:
            raise NoPipelineError(f"{said} has no {library}.{name}, its {part}{written}")
    return cls


def _arguments(cls: Any, prompt: str | None, steps: int | None) -> dict[str, Any]:
    """What the pipeline is called with, beside the generator."""
    known = inspect.signature(cls.__call__).parameters
    default_steps = known["num_inference_steps"].default if "num_inference_steps" in known else None
    offered = {
        "prompt": prompt or PROMPT,
        "class_labels": CLASS_LABELS,
        "num_inference_steps": steps or default_steps or STEPS,
        "output_type": "np",
    }
    asked_for = [name for name, p in known.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    needed = [name for name in asked_for if name != "self"]
    if missing := [name for name in needed if name not in offered]:
        raise NoPipelineError(f"{cls.__name__} asks for {', '.join(missing)}, which is more than a prompt")
    if absent := [n for n in ("generator", "output_type", "num_inference_steps") if n not in known]:
        raise NoPipelineError(f"{cls.__name__} cannot be given {', '.join(absent)}")
    if prompt is not None and "prompt" not in known:
        raise NoPipelineError(f"{cls.__name__} takes no prompt")
    return {name: value for name, value in offered.items() if name in known}


def repeated(model: Any) -> dict[str, int]:
    """The lists of repeated blocks at the top of a model, by name, with their lengths; a UNet has none."""
    import torch

    return {
        name: len(child)
        for name, child in model.named_children()
        if isinstance(child, torch.nn.ModuleList)
        and len(child)
        and len({type(block) for block in child}) == 1
        and all(next(block.parameters(), None) is not None for block in child)
        and not name.startswith(("down_", "up_"))
    }
