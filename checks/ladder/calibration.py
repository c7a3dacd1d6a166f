"""Scales that are taken from earlier calls: how a model that is only called forward gets them.

Runs in the child; torch is imported inside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

# The recipe that takes its scales from earlier calls, and how many of them it is given.
DELAYED, CALIBRATING_CALLS = "DelayedScaling", 3


@contextlib.contextmanager
def learning() -> Iterator[None]:
    """Within it, calls update their scales: Transformer Engine's autocast does so where gradients are enabled.

    Nothing is kept for a backward.
    """
    import torch

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_nothing, _nothing):
        yield


def calibrate(call: Callable[[], Any]) -> None:
    """Let the scales of a forward fit, its autocast included."""
    for _ in range(CALIBRATING_CALLS):
        with learning():
            call()


def _nothing(tensor: Any) -> None:
    return None
