"""What was seen of torch's scaled_dot_product_attention."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.model import Facts


@dataclass(frozen=True)
class AttentionBackend:
    """One of SDPA's backends, forced on a small BF16 call."""

    backend: str | None = None  # "flash" | "efficient" | "cudnn" | "math"
    # "ok", "wrong" (ran, not right), "refused" (torch says that it does not apply), "error", "crashed", "timeout",
    # "absent" (this torch does not know it)
    outcome: str | None = None
    # Why torch does not use it, as torch words it; or the error.
    reason: str | None = None
    relative_error: float | None = None


@dataclass(frozen=True)
class AttentionSwitch:
    """torch's switch that puts a FlashAttention package in the place of its flash backend."""

    implementation: str | None = None  # "FA3" | "FA4"
    installed: bool | None = None
    version: str | None = None
    # Whether torch took the switch; says nothing about the call after it.
    activated: bool | None = None
    # "ok" | "wrong" | "error" | "crashed" | "timeout", of the first call with the flash backend forced
    outcome: str | None = None
    error: str | None = None
    relative_error: float | None = None
    # Why it was left alone ("it compiles its kernels, which a quick run does not wait for").
    not_tried: str | None = None


@dataclass(frozen=True)
class Attention(Facts, key="attention"):
    """SDPA on this GPU. `device` is "none" if torch has no GPU to use, None if torch failed; `why_none` says why."""

    device: str | None = None  # "cuda" (ROCm as well) | "none"
    why_none: str | None = None
    torch_version: str | None = None
    head_dim: int | None = None
    # The most that BF16 explains: see `call.small_attention`.
    relative_error_limit: float | None = None
    # What torch's own dispatcher answers for a plain BF16 call, and the kernels that this call ran.
    default_backend: str | None = None
    default_kernels: tuple[str, ...] | None = None
    backends: tuple[AttentionBackend, ...] | None = None
    switches: tuple[AttentionSwitch, ...] | None = None
    # What was being tried when this record was written.
    attempting: str | None = None
