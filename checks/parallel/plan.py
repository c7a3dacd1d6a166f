"""What is measured on several GPUs, in which sizes and which order?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SINGLE, DATA, SHARDED, TENSOR = "single", "data", "sharded-data", "tensor"
BF16 = "torch-bf16"
FP8 = "torchao-fp8train-tensorwise"
# Weights are gathered in FP8; the scales of all of them come from one all-reduce, or from one each.
GATHERED = f"{FP8}-fp8gather"
GATHERED_EACH = f"{FP8}-fp8gather-each"
CONFIGS = {
    SINGLE: (BF16, FP8),
    SHARDED: (BF16, FP8, GATHERED, GATHERED_EACH),
    DATA: (BF16, FP8),
    TENSOR: (BF16, FP8),
}
# Numbers of GPUs: the powers of two up to Llama 3.1 8B's eight heads of keys.
NUMBERS = (2, 4, 8)
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter")


@dataclass(frozen=True)
class Sizes:
    """How large all is. The default: two blocks in the shapes of Llama 3.1 8B, a small vocabulary.

    Source of the shapes: meta-llama/Llama-3.1-8B, config.json (as in checks/workload/catalogue.py).
    """

    width: int = 4096
    hidden: int = 14336
    heads: int = 32
    kv_heads: int = 8
    blocks: int = 2
    vocabulary: int = 2048
    tokens: int = 4096
    collective_bytes: tuple[int, ...] = (1 << 20, 64 << 20, 512 << 20)
    collective_samples: int = 20
    # Seconds of timed steps for each case, within these numbers of them.
    steps_s: float = 0.5
    fewest_steps: int = 8
    most_steps: int = 40
    compiled: bool = True
    # "nccl", or "gloo" on CPUs, where products are computed in BF16 from what was rounded to FP8.
    backend: str = "nccl"

    @property
    def kv_width(self) -> int:
        """The width of all keys of a token."""
        return self.width // self.heads * self.kv_heads


@dataclass(frozen=True)
class Case:
    """One thing to measure: what the workers are asked for."""

    # "step" | "profile" | "collective"
    do: str
    gpus: int
    parallelism: str = ""
    config: str = ""
    collective: str = ""
    dtype: str = ""
    size_bytes: int = 0

    @property
    def label(self) -> str:
        """The case in words."""
        if self.do == "collective":
            size = f"{self.size_bytes / (1 << 20):g} MiB"
            return f"{self.collective} of {size} in {self.dtype} on {self.gpus} GPUs"
        on = f"{self.config} @ {self.parallelism}, {self.gpus} GPU{'s' if self.gpus > 1 else ''}"
        return f"kernels of {on}" if self.do == "profile" else on


def numbers(gpus: int) -> tuple[int, ...]:
    """The numbers of GPUs to measure with, of so many that are there; all of them first, as that tells most."""
    return tuple(sorted((n for n in NUMBERS if n <= gpus), reverse=True))


def cases(gpus: int, sizes: Sizes) -> Iterator[Case]:
    """Everything, in order: what all GPUs exchange, one GPU, all, fewer; and at last the kernels of all GPUs' steps.

    Collectives take tenths of a second and steps are compiled first, which takes most of a short run.

    Profiling comes after all timing: a profiler that was once attached may leave launches slower for the host.
    """
    found = numbers(gpus)
    yield from _collectives(found[0], sizes)
    yield from (Case("step", 1, SINGLE, config) for config in CONFIGS[SINGLE])
    for n in found:
        if n != found[0]:
            yield from _collectives(n, sizes)
        yield from _steps("step", n)
    yield from _steps("profile", found[0])


def _steps(do: str, n: int) -> Iterator[Case]:
    for parallelism in (DATA, SHARDED, TENSOR):  # the first two share their compiled blocks with one GPU's
        yield from (Case(do, n, parallelism, config) for config in CONFIGS[parallelism])


def _collectives(n: int, sizes: Sizes) -> Iterator[Case]:
    for size in sizes.collective_bytes:
        for name in COLLECTIVES:
            yield Case("collective", n, collective=name, dtype="bf16", size_bytes=size)
        yield Case("collective", n, collective="all-gather", dtype="uint8", size_bytes=size // 2)
