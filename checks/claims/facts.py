"""What a person's own sentences say. Each is hearsay: rules hold it against what is known of the GPU."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.model import Facts


@dataclass(frozen=True)
class Limit:
    """One sentence that says where something does not work, or where alone it does."""

    # "rowwise", "mxfp8", "nvfp4", "block-scaling", "flash-attention-3", "kernel" or "layout".
    thing: str | None = None
    # Architectures where it does not work, as they are called there: "sm_120", "hopper", "gfx942".
    lacking: tuple[str, ...] | None = None
    # Architectures where alone it works.
    only: tuple[str, ...] | None = None
    text: str | None = None


@dataclass(frozen=True)
class Figure:
    """A rate that is expected or named as a peak."""

    tflops: float | None = None
    format: str | None = None  # "bf16" | "fp8"
    text: str | None = None


@dataclass(frozen=True)
class Said:
    """A sentence on one of the topics of `checks/claims/topics.py`."""

    topic: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class Claims(Facts, key="claims"):
    """What the sentences of a text say of GPUs. None = no sentence says it."""

    limits: tuple[Limit, ...] | None = None
    figures: tuple[Figure, ...] | None = None
    # A power cap in watts, and the largest power that stands beside it.
    power_cap_w: float | None = None
    power_beside_w: float | None = None
    # An SM clock that fell, in a text that speaks of throttling.
    clock_before_mhz: int | None = None
    clock_after_mhz: int | None = None
    # The newest cuDNN that the text calls a requirement.
    cudnn_needed: str | None = None
    said: tuple[Said, ...] | None = None

    def on(self, topic: str) -> str | None:
        """The first sentence on a topic, None if there is none."""
        return next((one.text for one in self.said or () if one.topic == topic), None)
