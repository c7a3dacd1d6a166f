"""One rung: load the denoiser, put it into the configuration, and make images with it.

Runs in the child; torch and diffusers are imported inside.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from fp8doctor.checks.ladder.caching import compile_inside
from fp8doctor.checks.ladder.calibration import CALIBRATING_CALLS, DELAYED, learning
from fp8doctor.checks.ladder.climbing import LEAST_ROWS, compilation, convert, gigabytes, layers_to_convert, tidy
from fp8doctor.checks.ladder.conversions import RefusedError, around, compile_blocks
from fp8doctor.checks.ladder.outcomes import failure
from fp8doctor.checks.ladder.slugs import Config, config_of
from fp8doctor.checks.ladder.stepping import MemoryWatch
from fp8doctor.checks.pipeline.facts import ImageRung
from fp8doctor.checks.pipeline.images import Comparer
from fp8doctor.checks.pipeline.session import Session
from fp8doctor.checks.workload.build import Built, weight_bytes
from fp8doctor.measuring.statistics import estimate
from fp8doctor.measuring.stepping import Meter

# Images after the first, and the seconds that they may take: their times agree within a few percent.
IMAGES_S, FEWEST_IMAGES, MOST_IMAGES = 20.0, 2, 10
# The matrix products of FP8 and INT8 want dimensions of this multiple (torch's _scaled_mm and _int_mm refuse others).
MULTIPLE = 16
# Loading onto the device leaves this share of what is free for the images.
LOADED_SHARE = 0.8
FIRST_BLOCK = "cache-first-block"
# Layers of these names scale and shift (adaptive norms) or embed a timestep: they see a row an image, not a token.
FEW_ROWS = ("norm", "embed", "time")


@dataclass
class Reference:
    """What the pipeline gives in BF16."""

    # None: BF16 does not fit into the memory.
    image: Any = None
    # The denoiser's linear layers that could be converted, and the rows that each is called with.
    rows: dict[str, int] = field(default_factory=dict)


@dataclass
class Painter:
    """Makes images in one configuration after the other."""

    session: Session
    meter: Meter
    comparer: Comparer
    epoch_s: float = 0.0
    # Whether the calls of the denoiser update its scales.
    _learning: bool = False

    def reference(self) -> Reference:
        """Make the image in BF16 that all others are compared with, and see what each layer is called with."""
        import torch

        found = Reference()
        built = self.session.fresh()
        layers = convertible(built)
        hooks = [layer.register_forward_hook(functools.partial(_note, found.rows, name)) for name, layer in layers]
        try:
            built.model.to(self.meter.device)
            self.session.put(built.model, functools.partial(around, "torch-bf16", (), built))
            found.image = self.session.image()
        except torch.cuda.OutOfMemoryError:
            found.rows = {name: 0 if any(w in name for w in FEW_ROWS) else LEAST_ROWS for name, _ in layers}
        for hook in hooks:
            hook.remove()
        self._end()
        return found

    def paint(self, slug: str, reference: Reference, left_s: float, save: Callable[[Any], str | None]) -> ImageRung:
        """Measure one configuration; whatever goes wrong is the outcome.

        Args:
            slug: the configuration.
            reference: what BF16 gave.
            left_s: seconds that it should take at most.
            save: keeps an image, and says in which file.
        """
        began = time.monotonic()
        rung = ImageRung(config=slug, started_s=round(began - self.epoch_s, 2))
        try:
            rung = self._paint(rung, config_of(slug), reference, began + left_s, save)
        except Exception as error:  # refusals and faults of the libraries are results
            rung = replace(rung, **failure(error))
        self._end()
        return replace(rung, ended_s=round(time.monotonic() - self.epoch_s, 2))

    def _end(self) -> None:
        self._learning = False
        self.session.drop()
        self.session.clock.forget()
        tidy(self.meter)

    def _paint(
        self, rung: ImageRung, config: Config, reference: Reference, until: float, save: Callable[[Any], str | None]
    ) -> ImageRung:
        import torch

        _refuse(config)
        watch = MemoryWatch(self.meter)
        self.meter.forget_peak()
        with watch.phase("build"):
            built = self.session.fresh()
            # Where BF16 does not fit, it is converted on the host.
            early = self._fits(weight_bytes(built.model))
            if early:
                built.model.to(self.meter.device)
        names = layers_to_convert(config, reference.rows)
        torch._dynamo.utils.counters.clear()
        with watch.phase("convert"):
            convert(built, config, names)
            if not early:
                built.model.to(self.meter.device)
            computed = _prepare(built, config)
        rung = replace(
            rung,
            converted=None if config.base in ("torch-bf16", "torch-fp16") else len(names),
            linears=len(reference.rows),
            load_peak_gb=self._peak_gb(),
            weights_gb=gigabytes(weight_bytes(built.model)),
            threshold=computed.threshold if computed else None,
        )
        self.session.put(built.model, functools.partial(self._around, config, built))
        if config.recipe == DELAYED:
            with watch.phase("scales"):
                self._calibrate()
        with watch.phase("first image"):
            seconds, image = self._image()
        rung = replace(rung, first_image_s=round(seconds, 3), **compilation(config))
        rung = replace(rung, file=save(image), **self._compare(image, reference))
        return replace(self._images(rung, computed, until, watch), memory=watch.kept() if self.meter.on_gpu else None)

    @contextlib.contextmanager
    def _around(self, config: Config, built: Built) -> Iterator[None]:
        """What stands round each call of the denoiser; a pipeline calls it without gradients."""
        with learning() if self._learning else contextlib.nullcontext(), around(config.base, config.modifiers, built):
            yield

    def _calibrate(self) -> None:
        """Let the scales fit that are taken from earlier calls, as those of an image are: of all of its steps."""
        self._learning = True
        for _ in range(max(1, math.ceil(CALIBRATING_CALLS / self.session.steps))):
            self.session.image()
        self._learning = False

    def _peak_gb(self) -> float | None:
        """The peak on the device; the host's memory is not looked at."""
        return gigabytes(self.meter.peak_bytes()) if self.meter.on_gpu else None

    def _fits(self, size: int) -> bool:
        import torch

        return not self.meter.on_gpu or size < LOADED_SHARE * torch.cuda.mem_get_info(self.meter.device)[0]

    def _image(self) -> tuple[float, Any]:
        kept: list[Any] = []
        seconds = self.meter.first(lambda: kept.append(self.session.image()))
        return seconds, kept[0]

    def _compare(self, image: Any, reference: Reference) -> dict[str, Any]:
        if not bool(image.isfinite().all()):
            return {"outcome": "wrong", "error": "the image holds values that are not finite"}
        if reference.image is None:
            return {"outcome": "ok"}
        if float(image.std()) == 0.0 < float(reference.image.std()):
            return {"outcome": "wrong", "error": "the image is of one colour"}
        return {"outcome": "ok", "likeness": self.comparer.likeness(image, reference.image)}

    def _images(self, rung: ImageRung, computed: Computed | None, until: float, watch: MemoryWatch) -> ImageRung:
        """The images after the first."""
        self.session.clock.forget()
        self.meter.forget_peak()
        times: list[float] = []
        parts: list[dict[str, float]] = []
        began = time.monotonic()
        while len(times) < MOST_IMAGES:
            spent = time.monotonic() - began
            if len(times) >= FEWEST_IMAGES and (spent > IMAGES_S or time.monotonic() + spent / len(times) > until):
                break
            before = computed.calls if computed else 0
            times.append(self._image()[0])
            seconds, calls = self.session.clock.take()
            parts.append(seconds)
        denoiser = self.session.folder.denoiser
        rung = replace(
            rung,
            image_s=estimate(times),
            parts_s={name: round(_middle([p.get(name, 0.0) for p in parts]), 4) for name in parts[-1]},
            denoiser_calls=calls.get(denoiser),
            skipped_calls=calls.get(denoiser, 0) - (computed.calls - before) if computed else None,
            peak_gb=self._peak_gb(),
        )
        if time.monotonic() + times[-1] < until:
            with watch.phase("images"):
                self._image()
        return rung


@dataclass
class Computed:
    """Calls of the denoiser's last block: what a step cache did not skip."""

    threshold: float
    calls: int = 0

    def counted(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The block's forward, each of its calls counted."""

        @functools.wraps(forward)
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return forward(*args, **kwargs)

        return call


def convertible(built: Built) -> list[tuple[str, Any]]:
    """The linear layers that FP8 could take: in the repeated blocks, or anywhere if there are none."""
    import torch

    return [
        (name, module)
        for name, module in built.model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and module.in_features % MULTIPLE == 0
        and module.out_features % MULTIPLE == 0
        and (not built.depth or any(name.startswith(f"{blocks}.") for blocks in built.depth))
    ]


def _note(rows: dict[str, int], name: str, module: Any, args: Any, output: Any) -> None:
    rows[name] = output.numel() // output.shape[-1]


def _refuse(config: Config) -> None:
    if config.base == "torch-fp16":
        raise RefusedError("the pipeline's other parts stay in BF16, and hand the denoiser BF16")
    if "train" in config.base:
        raise RefusedError("this conversion is for training")
    if config.graphed:
        raise RefusedError("an image is more than one CUDA graph; `fp8doctor bench` measures a step as one")
    if config.cache not in (None, FIRST_BLOCK):
        raise RefusedError("this cache skips by settings made for one model; `fp8doctor bench` measures a skip")


def _prepare(built: Built, config: Config) -> Computed | None:
    """Compile the denoiser, and put a step cache on it."""
    import torch

    if config.compiled == "compile" and built.depth:
        (compile_inside if config.cache else compile_blocks)(built)
    elif config.compiled is not None:  # not `model.compile()`: what is put round the call stays outside
        built.model.forward = torch.compile(built.model.forward)
    if config.cache is None:
        return None
    if not hasattr(built.model, "enable_cache") or not built.depth:
        raise RefusedError(f"{type(built.model).__name__} has no enable_cache: diffusers has no step cache for it")
    settings = importlib.import_module("diffusers").FirstBlockCacheConfig()
    computed = Computed(settings.threshold)
    last = built.blocks()[-1]
    last.forward = computed.counted(last.forward)
    built.model.enable_cache(settings)
    return computed


def _middle(values: list[float]) -> float:
    return estimate(values, digits=6).median
