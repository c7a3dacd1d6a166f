"""What does one step of a model call? Traced on torch's meta device: shapes, no memory and no arithmetic.

Runs in the child, and when the shapes of the built-in workloads are written down; torch is imported inside.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from fp8doctor.checks.workload.build import build, step_call
from fp8doctor.checks.workload.catalogue import ModelPlan, StepPlan
from fp8doctor.measuring.workloads import AttentionUse, LinearUse, Step, Workload


def trace(plan: ModelPlan) -> Workload:
    """Build the whole model without memory, call each step once and write down its linear layers and attention.

    Raises:
        fp8doctor.checks.workload.build.CannotBuildError: if it cannot be built.
        fp8doctor.checks.workload.inputs.UnknownInputsError: if nobody knows what to call it with.
    """
    import torch

    built = build(plan, "meta", torch.bfloat16)
    return Workload(
        name=plan.name,
        title=plan.title,
        model_class=f"{plan.library}.{plan.class_name}",
        parameters=sum(p.numel() for p in built.model.parameters()),
        steps=tuple(_step(built, step) for step in plan.steps),
    )


def _step(built: Any, step: StepPlan) -> Step:
    import torch
    from torch.overrides import TorchFunctionMode

    linears: Counter[tuple[int, int, int]] = Counter()
    examples: dict[tuple[int, int, int], str] = {}
    attentions: Counter[tuple[Any, ...]] = Counter()

    def watch(name: str) -> Any:
        def seen(module: Any, args: tuple[Any, ...], output: Any) -> None:
            k, n = module.in_features, module.out_features
            shape = (output.numel() // n, k, n)
            linears[shape] += 1
            examples.setdefault(shape, name)

        return seen

    class Attention(TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if function is torch.Tensor.__bool__:
                # Models ask whether a mask is all true, to leave it out; a meta tensor cannot say. Ours mask nothing.
                return True
            if function is torch.nn.functional.scaled_dot_product_attention:
                given = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False))
                attentions[_attention_shape({**given, **kwargs})] += 1
            return function(*args, **kwargs)

    hooks = [
        module.register_forward_hook(watch(name))
        for name, module in built.model.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    call = step_call(built, step)
    try:
        with torch.no_grad(), Attention():
            call()
    finally:
        for hook in hooks:
            hook.remove()
    return Step(
        name=step.name,
        title=step.title,
        trains=step.trains,
        tokens=step.tokens,
        linears=tuple(
            LinearUse(m=m, k=k, n=n, calls=calls, example=examples[m, k, n]) for (m, k, n), calls in linears.items()
        ),
        attentions=tuple(_attention_use(shape, calls) for shape, calls in attentions.items()),
    )


def _attention_use(shape: tuple[Any, ...], calls: int) -> AttentionUse:
    batch, heads, kv_heads, queries, keys, head_dim, causal = shape
    return AttentionUse(batch, heads, kv_heads, queries, keys, head_dim, causal, calls)


def _attention_shape(given: dict[str, Any]) -> tuple[Any, ...]:
    batch, heads, queries, head_dim = given["query"].shape
    return (batch, heads, given["key"].shape[1], queries, given["key"].shape[2], head_dim, bool(given.get("is_causal")))
