"""How is everything as it was before, once a model has been called?"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def as_it_was(model: Any) -> Iterator[None]:
    """Keep random states, gradients and buffers, and put them back.

    Gradients that were there are set aside, so that a step adds nothing to them. What the step itself changes (an
    optimizer's parameters, a cache) is the step's own.

    Args:
        model: a torch.nn.Module.
    """
    import torch

    # torch.random.fork_rng forks all devices; those that were never used need not be initialised for it.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    python_state = random.getstate()
    numpy = sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy is not None else None
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers() if not buffer.is_meta]
    with torch.random.fork_rng(devices=list(devices)):
        try:
            for parameter, _ in gradients:
                parameter.grad = None
            yield
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient
            with torch.no_grad():
                for buffer, before in buffers:
                    if buffer.shape == before.shape:
                        buffer.copy_(before)
            random.setstate(python_state)
            if numpy is not None:
                numpy.random.set_state(numpy_state)
