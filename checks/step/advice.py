"""What is advised where the GPU waits for launches?"""

from __future__ import annotations

from fp8doctor.checks.step.sums import a_step, operator_count, shown
from fp8doctor.model import Action
from fp8doctor.traced import Trace

# Layers of Transformer Engine, which torch.compile does not take well; it has a way of its own to graphs.
TE_LAYERS = ("_Linear", "_LayerNormLinear", "_LayerNormMLP", "_GroupedLinear")


def as_graph(trace: Trace, before: str = "") -> Action:
    """Replaying the step as a CUDA graph, or doing more in the one that there is; `before` begins the sentence."""
    if trace.graph_launches:
        replayed = f"{shown(trace, trace.graph_launches):,.0f}"
        graphs = "CUDA graph is" if replayed == "1" else "CUDA graphs are"
        return Action(
            f"{replayed} {graphs} replayed {a_step(trace)} already: record more in one, or shorten what the host does "
            "around them"
        )
    said = f"{before}replay the step as a CUDA graph" if before else "Replay the step as a CUDA graph"
    if operator_count(trace, *TE_LAYERS):
        return Action(said, "module = te.make_graphed_callables(module, sample_inputs, enabled=True, recipe=recipe)")
    if trace.recompiled or trace.compilations:
        return Action(f"{said}, once its shapes stay the same")
    return Action(said, 'model = torch.compile(model, mode="reduce-overhead")')
