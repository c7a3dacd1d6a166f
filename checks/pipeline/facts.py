"""What was measured of a pipeline's images, configuration by configuration."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.checks.ladder.facts import MemoryPoint
from fp8doctor.model import Estimate, Facts


@dataclass(frozen=True)
class Part:
    """A model that the pipeline consists of, in BF16."""

    name: str | None = None
    class_name: str | None = None
    parameters: int | None = None
    weights_gb: float | None = None


@dataclass(frozen=True)
class Likeness:
    """How far an image is from the one that BF16 makes of the same seed; values from 0 to 1, sums over all pixels."""

    # Every value is the same: PSNR is then infinite, and stands as None.
    identical: bool | None = None
    # Peak signal-to-noise ratio in dB, structural similarity (1: alike), learned perceptual distance (0: alike).
    psnr_db: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    # Relative Frobenius error.
    relative_error: float | None = None


@dataclass(frozen=True)
class ImageRung:
    """One configuration of the denoiser, in an otherwise unchanged pipeline."""

    config: str | None = None
    # "ok" | "wrong" | "refused" | "error" | "out-of-memory" | "crashed" | "too-long" | "not-measured"
    outcome: str | None = None
    error: str | None = None
    # From the call with a prompt to the image on the host; the first one after loading holds what is compiled.
    first_image_s: float | None = None
    image_s: Estimate | None = None
    # Seconds of an image that each part worked, by its name; what is left is the pipeline's own.
    parts_s: dict[str, float] | None = None
    # Calls of the denoiser for an image, and how many of them a step cache skipped; the threshold it decided by.
    denoiser_calls: int | None = None
    skipped_calls: int | None = None
    threshold: float | None = None
    # Linear layers that were converted, and linear layers that could be.
    converted: int | None = None
    linears: int | None = None
    # What torch.compile made of it: graphs compiled, and breaks.
    graphs: int | None = None
    graph_breaks: int | None = None
    # Peaks of all that the pipeline keeps on the device: while loading and converting, and of images after the first.
    load_peak_gb: float | None = None
    peak_gb: float | None = None
    # Of the denoiser, once converted.
    weights_gb: float | None = None
    memory: tuple[MemoryPoint, ...] | None = None
    likeness: Likeness | None = None
    # The image's file in the folder that was asked for.
    file: str | None = None
    # Seconds since the run began.
    started_s: float | None = None
    ended_s: float | None = None


@dataclass(frozen=True)
class PipelineRun(Facts, key="pipeline"):
    """All rungs of a pipeline. `measurable=False`: nothing could be measured, and `why_not` says why."""

    # The folder's own name, without the path to it.
    folder: str | None = None
    class_name: str | None = None
    measurable: bool | None = None
    why_not: str | None = None
    # Whether a folder was named at all.
    asked: bool | None = None
    # The part that is called at every step and put into the configurations.
    denoiser: str | None = None
    denoiser_class: str | None = None
    parts: tuple[Part, ...] | None = None
    steps: int | None = None
    height: int | None = None
    width: int | None = None
    # Of a person's own prompt, the first digits of its SHA-256: enough to tell two apart. The words are not kept.
    own_prompt: bool | None = None
    prompt_digest: str | None = None
    device_name: str | None = None
    rungs: tuple[ImageRung, ...] | None = None
    # Measures of likeness that could not be taken, and why, by their field's name.
    not_compared: dict[str, str] | None = None
    not_measured: tuple[str, ...] | None = None
    # Rungs that failed in an earlier run and were not tried again yet, by their configuration.
    untried: tuple[str, ...] | None = None
    # What was being tried when this record was written.
    attempting: str | None = None
