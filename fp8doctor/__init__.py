"""fp8doctor: why is FP8 slow, missing or broken on this box, and what to use instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fp8doctor.api import NothingRecognisedError, diagnose, diff, examine, merge, read, trace
    from fp8doctor.differing import Difference
    from fp8doctor.judging.report import Report
    from fp8doctor.your_model import examine_model, watch

__all__ = [
    "Difference",
    "NothingRecognisedError",
    "Report",
    "__version__",
    "diagnose",
    "diff",
    "examine",
    "examine_model",
    "merge",
    "read",
    "trace",
    "watch",
]
# In these the caller's process has torch, and it is needed.
_WITH_TORCH = ("examine_model", "watch")


def __getattr__(name: str) -> Any:
    # Loaded on first use: the child imports this package where only the standard library can be counted on.
    if name == "Difference":
        from fp8doctor import differing

        return differing.Difference
    if name in _WITH_TORCH:
        from fp8doctor import your_model

        return getattr(your_model, name)
    if name in __all__:
        from fp8doctor import api

        return getattr(api, name)
    raise AttributeError(f"module 'fp8doctor' has no attribute {name!r}")


def __dir__() -> list[str]:
    # What is loaded on first use is offered to completion too.
    return sorted({*globals(), *__all__})
