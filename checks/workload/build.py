"""A workload's model with random weights, and its steps ready to be called.

Runs in the child; torch and the model's library are imported inside.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from fp8doctor.checks.workload.catalogue import ModelPlan, StepPlan
from fp8doctor.checks.workload.inputs import inputs
from fp8doctor.checks.workload.language_model import LanguageModelConfig, language_model

INPUTS_SEED = 1


class CannotBuildError(Exception):
    """The model cannot be built here, and why, in words for a report."""


@dataclass
class Built:
    """A model in evaluation or training mode, and how its blocks stand for its depth."""

    plan: ModelPlan
    model: Any
    device: Any
    dtype: Any
    # By the name of each list of blocks: how many the true model has.
    depth: dict[str, int] = field(default_factory=dict)

    def blocks(self) -> list[Any]:
        """The distinct repeated blocks."""
        lists = (self.model.get_submodule(name) for name in self.depth)
        return list({id(block): block for blocks in lists for block in blocks}.values())

    def visit_true_depth(self, *, separate: bool = False) -> None:
        """Let the few blocks that were built stand for all: each list visits its blocks in turn, to its true length.

        A step then does all the true model's work, with the weights of a few blocks in memory. Those must not fit into
        L2, or reading them again would be cheaper than reading the true model's.

        `separate` gives each visit a module of its own around the same weights, for what keeps a state in a block.
        """
        import torch

        for name, count in self.depth.items():
            parent, _, last = name.rpartition(".")
            blocks = list(self.model.get_submodule(name))
            # Stable Diffusion 3's last block is unlike the others: it stays the last, once.
            alike = [block for block in blocks if _sizes(block) == _sizes(blocks[0])]
            unlike = [block for block in blocks if block not in alike]
            repeats = [alike[i % len(alike)] for i in range(len(alike), count - len(unlike))]
            everyone = [*alike, *(map(_twin, repeats) if separate else repeats), *unlike] if repeats else blocks
            setattr(self.model.get_submodule(parent), last, torch.nn.ModuleList(everyone))
        config = getattr(self.model, "config", None)
        if self.plan.library == "transformers":
            for key in self.plan.depth_keys:
                setattr(config, key, self.plan.config[key])

    def absent_bytes(self) -> int:
        """Bytes of the weights that the true model has beyond the blocks that were built."""
        found = 0.0
        for name, count in self.depth.items():
            blocks = list({id(block): block for block in self.model.get_submodule(name)}.values())
            found += (count - len(blocks)) * sum(weight_bytes(block) for block in blocks) / len(blocks)
        return round(found)


def _sizes(block: Any) -> list[tuple[str, Any]]:
    return [(name, parameter.shape) for name, parameter in block.named_parameters()]


def _twin(block: Any) -> Any:
    """Another module that has the same parameters and buffers: what else it keeps is its own.

    Raises:
        CannotBuildError: if a forward in it was replaced: the twin would call the block's own layers.
    """
    if any("forward" in vars(module) for module in block.modules()):
        raise CannotBuildError("its layers are hooked already, and a hook cannot be copied; measure it at full depth")
    shared = {id(tensor): tensor for tensor in (*block.parameters(), *block.buffers())}
    return copy.deepcopy(block, shared)


def weight_bytes(module: Any) -> int:
    """Bytes of a module's parameters and buffers; of quantised weights, those of the tensors inside."""
    return sum(_tensor_bytes(t) for t in [*module.parameters(), *module.buffers()])


def _tensor_bytes(tensor: Any) -> int:
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return sum(_tensor_bytes(getattr(tensor, name)) for name in names)
    return int(tensor.numel() * tensor.element_size())


def build(plan: ModelPlan, device: Any, dtype: Any, *, blocks: int | None = None, seed: int = 0) -> Built:
    """Build the model of `plan` with random weights.

    Args:
        plan: what to build.
        device: where.
        dtype: of its weights.
        blocks: how many blocks of each kind; None: all.
        seed: of the weights; equal seeds and blocks give equal weights.

    Raises:
        CannotBuildError: if the library or the class is not there or refuses the configuration, or if the blocks that
            were left out cannot be found again.
    """
    import torch

    config = shortened(plan, blocks)
    torch.manual_seed(seed)
    try:
        model = _MAKERS[plan.library](plan, config, torch.device(device), dtype)
    except (ImportError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CannotBuildError(f"{plan.library}.{plan.class_name}: {type(error).__name__}: {error}") from error
    trains = any(step.trains for step in plan.steps)
    model = model.train() if trains else model.eval().requires_grad_(False)
    built = Built(plan, model, device, dtype)
    built.depth = _depths(model, plan, config)
    return built


def shortened(plan: ModelPlan, blocks: int | None) -> dict[str, Any]:
    """The configuration with `blocks` of each kind; lists with one entry a block are cut as well.

    Tuples are left alone: diffusers' configurations, in which lists are tuples here, have one entry an axis in them.
    """
    config = dict(plan.config)
    for key in plan.depth_keys:
        depth = config.get(key)
        if blocks is None or not isinstance(depth, int) or depth <= blocks:
            continue
        for name, value in config.items():
            if isinstance(value, list) and len(value) == depth:
                config[name] = value[:blocks]
        config[key] = blocks
    return config


def _depths(model: Any, plan: ModelPlan, config: dict[str, Any]) -> dict[str, int]:
    """The lists of blocks, by the configuration's keys in order: each list of that length with blocks of one class.

    Raises:
        CannotBuildError: if blocks were left out and their list is not found: the step would not do the model's work.
    """
    import torch

    found: dict[str, int] = {}
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList)
        and len(module)
        and len({type(block) for block in module}) == 1
        and next(module[0].parameters(), None) is not None
    }
    for key in plan.depth_keys:
        name = next((n for n, blocks in lists.items() if len(blocks) == config.get(key) and n not in found), None)
        if name is not None:
            found[name] = plan.config[key]
        elif config.get(key) != plan.config[key]:
            raise CannotBuildError(
                f"{plan.class_name} has no list of blocks for its {key} of {plan.config[key]}; measure it at full depth"
            )
    return found


def _own(plan: ModelPlan, config: dict[str, Any], device: Any, dtype: Any) -> Any:
    with device, _default_dtype(dtype):
        return language_model(LanguageModelConfig(**config))


def _diffusers(plan: ModelPlan, config: dict[str, Any], device: Any, dtype: Any) -> Any:
    cls = getattr(importlib.import_module("diffusers"), plan.class_name)
    with device, _default_dtype(dtype):
        return cls.from_config(config).to(dtype)


def _transformers(plan: ModelPlan, config: dict[str, Any], device: Any, dtype: Any) -> Any:
    transformers = importlib.import_module("transformers")
    made = transformers.AutoConfig.for_model(**config)
    cls = getattr(transformers, plan.class_name)
    with device:
        return cls._from_config(made, dtype=dtype) if hasattr(cls, "_from_config") else cls(made).to(dtype)


_MAKERS: dict[str, Callable[[ModelPlan, dict[str, Any], Any, Any], Any]] = {
    "fp8doctor": _own,
    "diffusers": _diffusers,
    "transformers": _transformers,
}


class _default_dtype:  # noqa: N801
    """Torch's default dtype for the time of a block."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype

    def __enter__(self) -> None:
        import torch

        self.before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)

    def __exit__(self, *_: object) -> None:
        import torch

        torch.set_default_dtype(self.before)


def to_dtype(built: Built, dtype: Any) -> None:
    """Turn a model that was built in BF16 into another dtype: the same weights."""
    built.model.to(dtype)
    built.dtype = dtype


def blocks_in_fp32(built: Built) -> None:
    """Let the repeated blocks compute in FP32, with BF16 between them: what BF16 costs inside of blocks shows.

    The rest stays as it was: a time embedding in BF16 may differ much from one in FP32, and every configuration has
    the one in BF16. Without repeated blocks, the whole model.
    """
    import torch
    from torch.utils import _pytree

    blocks = built.blocks()
    if not blocks:
        to_dtype(built, torch.float32)
        return

    def cast(tree: Any, old: Any, new: Any) -> Any:
        return _pytree.tree_map_only(torch.Tensor, lambda t: t.to(new) if t.dtype is old else t, tree)

    def before(module: Any, args: Any, kwargs: Any) -> Any:
        return cast(args, torch.bfloat16, torch.float32), cast(kwargs, torch.bfloat16, torch.float32)

    def after(module: Any, args: Any, output: Any) -> Any:
        return cast(output, torch.float32, torch.bfloat16)

    for block in blocks:
        block.float()
        block.register_forward_pre_hook(before, with_kwargs=True)
        block.register_forward_hook(after)


def diffusion_arguments(built: Built, step: StepPlan) -> dict[str, Any]:
    """The keyword arguments that `step_call` calls a diffusers model with: the same at each time of asking."""
    import torch

    torch.manual_seed(INPUTS_SEED)
    return inputs(built.plan.class_name, dict(built.model.config), step, built.device, built.dtype)


def step_call(built: Built, step: StepPlan) -> Callable[[], Any]:
    """One forward of `step` as a call that returns its output tensor; its inputs are made once, with a seed."""
    import torch

    plan, device = built.plan, built.device
    torch.manual_seed(INPUTS_SEED)
    model = built.model
    if plan.library == "diffusers":
        arguments = diffusion_arguments(built, step)
        return lambda: model(**arguments)[0]
    vocabulary = plan.config.get("vocabulary") or plan.config.get("vocab_size") or model.config.vocab_size
    shape = (step.batch, step.sequence)
    tokens = torch.randint(0, vocabulary, shape, device=device)
    if plan.library == "transformers":
        return lambda: model(input_ids=tokens, use_cache=False)[0]
    if not step.context:
        return lambda: model(tokens)
    config = LanguageModelConfig(**plan.config)
    kept = (step.batch, config.kv_heads, step.context + step.sequence, config.head_dim)
    # One cache a block that was built: those of blocks that are visited again are written over.
    cache = [
        tuple(torch.randn(kept, device=device).to(torch.bfloat16).to(built.dtype) for _ in range(2))
        for _ in range(len(built.blocks()))
    ]
    return lambda: model(tokens, cache)


def with_steps(plan: ModelPlan, names: tuple[str, ...]) -> ModelPlan:
    """The plan with these steps alone."""
    return replace(plan, steps=tuple(step for step in plan.steps if step.name in names))
