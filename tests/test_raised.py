"""An error is told by what happened: without what is appended to each, and even if it has no text."""

from __future__ import annotations

from fp8doctor.raised import in_words

OUT_OF_MEMORY = """CUDA error: out of memory
Search for `cudaErrorMemoryAllocation' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for \
more information.
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""


class SilentError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_what_torch_appends_to_every_cuda_error_is_left_out() -> None:
    assert in_words(RuntimeError(OUT_OF_MEMORY)) == "RuntimeError: CUDA error: out of memory"


def test_a_text_of_several_lines_stays() -> None:
    assert in_words(ValueError("first\nsecond")) == "ValueError: first\nsecond"


def test_an_error_without_a_text_is_its_type() -> None:
    assert in_words(StopIteration()) == "StopIteration"
    assert in_words(SilentError()) == "SilentError"


def test_a_long_text_is_cut() -> None:
    assert in_words(ValueError("x" * 100), 20) == "ValueError: xxxxxxxx"
