"""What is truly wrong on the recorded boxes: each was established there by measuring it (benchmarks/RESULTS.md)."""

from __future__ import annotations

from collections.abc import Mapping

# Importing Transformer Engine made torch call the system's cuDNN 9.14 in place of its own 9.19; cuDNN's FP8 attention
# of Transformer Engine came back wrong at a size that models use; torch switches to a FlashAttention 4 that it cannot
# call. All else on them is healthy.
_CUDNN = frozenset({"cudnn-mixed-by-te"})
_WRONG = frozenset({"silent-wrong-result"})
TRUE_OF_BOXES: Mapping[str, frozenset[str]] = {
    "h200": frozenset(),
    "h200-torch-only": frozenset(),
    "h200-x4": frozenset(),
    "h200-busy": frozenset({"gpu-shared-or-mig"}),
    "h200-everything": _CUDNN | _WRONG,
    "h200-thorough": _CUDNN | _WRONG,
    "h200-for-flux": _CUDNN,
    "h200-bench-flux": _CUDNN,
    "h200-bench-llama-8b": _CUDNN,
    "h200-bench-pipeline": _CUDNN,
    "h200-bench-qwen-image": _CUDNN,
    "h200-bench-train-454m": _CUDNN,
    "h200-bench-train-8b": _CUDNN,
    "h200-flash-attn-4": frozenset({"attention-switch-fails"}),
    "no-gpu": frozenset({"no-gpu-visible"}),
}
