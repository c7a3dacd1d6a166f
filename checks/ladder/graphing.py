"""A step as one CUDA graph: does its replay give what the step gives?

Runs in the child; torch comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from fp8doctor.checks.ladder.comparing import Reference, compare
from fp8doctor.checks.ladder.conversions import RefusedError
from fp8doctor.checks.ladder.slugs import Config
from fp8doctor.checks.ladder.training import TrainingStep
from fp8doctor.checks.torch_build.numerics import relative_error

GRAPH_WARM_UPS = 3


def captured(torch: Any, call: Callable[[], Any]) -> tuple[Callable[[], Any], Any]:
    """The call as one CUDA graph, its inputs in place, and where its result lies after each replay.

    It is torch's own recipe: warm up on a side stream, then capture.

    Raises:
        RefusedError: on a machine without CUDA.
        RuntimeError: if something in the step cannot be captured.
    """
    if not torch.cuda.is_available():
        raise RefusedError("CUDA graphs need a GPU")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(GRAPH_WARM_UPS):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return lambda: graph.replay(), result


def compare_replay(replay: Callable[[], Any], result: Any, reference: Reference, config: Config) -> dict[str, Any]:
    """Is the output of a replay right?

    Args:
        replay: replays the graph of a step without training.
        result: where the graph leaves its output.
        reference: what BF16 gave.
        config: the configuration that was captured.
    """
    replay()
    return compare(lambda: result, reference, config)


def compare_training_replay(
    replay: Callable[[], Any],
    step: TrainingStep,
    within: Callable[[], AbstractContextManager[Any]],
    reference: Reference,
    config: Config,
) -> dict[str, Any]:
    """Does the replay of a training step leave the gradients that the step itself gives with the same weights?

    Args:
        replay: replays the graph of the step.
        step: the step; its weights' gradients are still those that the graph writes.
        within: what the configuration puts round every call.
        reference: what tells how far a format may be off.
        config: the configuration that was captured.

    Returns:
        Nothing if they agree as far as the format explains; else the outcome and the error.
    """
    written = step.hand_over_gradients()
    with within():
        eager = step.first_gradient()
    replay()
    error = relative_error(step.joined(written), eager)
    if error <= reference.limit(config.numerics):
        return {}
    if error == float("inf"):
        return {"outcome": "wrong", "error": "replayed, its gradient holds values that are not finite"}
    said = f"replayed, its gradient is off by {error:.2g} from what the same step gives without a graph"
    return {"outcome": "wrong", "error": said}
