"""How is a built model put into a configuration? By the parts of its slug, one function each.

Runs in the child; torch and the libraries are imported inside.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

from fp8doctor.checks.transformer_engine.calls import Engine
from fp8doctor.checks.transformer_engine.configurations import NOT_STORED
from fp8doctor.checks.workload.build import Built

# What a conversion gets: the model, and the names of the linear layers that it may convert.
Convert = Callable[[Built, tuple[str, ...]], None]
# The rank that people's image LoRAs mostly have.
LORA_RANK = 16


class RefusedError(Exception):
    """The library or the model does not do this, and why."""


def _torchao(config_class: str, **arguments: Any) -> Convert:
    def convert(built: Built, names: tuple[str, ...]) -> None:
        q = importlib.import_module("torchao.quantization")
        cls = getattr(q, config_class, None)
        if cls is None:
            raise RefusedError(f"this torchao has no {config_class}")
        made = {name: getattr(q, value)() if isinstance(value, str) else value for name, value in arguments.items()}
        known = inspect.signature(cls).parameters
        config = cls(**{name: value for name, value in made.items() if name in known})
        before = {name: type(built.model.get_submodule(name).weight.data) for name in names}
        q.quantize_(built.model, config, filter_fn=lambda module, name: name in before)
        _expect_change(built, before)

    return convert


def _expect_change(built: Built, before: dict[str, type]) -> None:
    left = [n for n, kind in before.items() if type(built.model.get_submodule(n).weight.data) is kind]
    if left:
        raise RefusedError(f"torchao left {len(left)} of {len(before)} linear layers as they were ({left[0]})")


# torchao turns its own Inductor settings on with these classes unless it is told not to; they make the compiler try
# more and take many times as long. The rung "+tuned" leaves them on.
_QUIET = {"set_inductor_config": False}


def _float8_training(recipe: str) -> Convert:
    def convert(built: Built, names: tuple[str, ...]) -> None:
        float8 = importlib.import_module("torchao.float8")
        wanted = set(names)
        float8.convert_to_float8_training(
            built.model,
            config=float8.Float8LinearConfig.from_recipe_name(recipe),
            module_filter_fn=lambda module, name: name in wanted,
        )

    return convert


def _te_linears(base: str) -> Convert:
    """Swap nn.Linear for te.Linear, with the same weights.

    Where nothing trains they lie in FP8, as far as the recipe allows that: otherwise every call would cast them anew.
    """

    def convert(built: Built, names: tuple[str, ...]) -> None:
        import torch

        te = importlib.import_module("transformer_engine.pytorch")
        engine = Engine(te, importlib.import_module("transformer_engine.common.recipe"))
        stored = base in RECIPES and base not in NOT_STORED and not built.model.training
        for name in names:
            old = built.model.get_submodule(name)
            # te.Linear keeps its init_method, which therefore must not keep the weight.
            weights = [old.weight]
            # Without gradients no transposed copy is made of a stored weight; and only a GPU casts to FP8.
            with torch.no_grad(), engine.stored_weights(engine.recipe(RECIPES[base])) if stored else nullcontext():
                new = te.Linear(
                    old.in_features,
                    old.out_features,
                    bias=old.bias is not None,
                    params_dtype=old.weight.dtype,
                    device=str(built.device if stored else old.weight.device),
                    init_method=partial(_fill, weights),
                )
                if old.bias is not None:
                    new.bias.copy_(old.bias)
            weights.clear()
            new.train(old.training)
            new.requires_grad_(old.weight.requires_grad)
            _put(built.model, name, new)

    return convert


def _fill(weights: list[Any], parameter: Any) -> None:
    parameter.data.copy_(weights[0])


def _put(model: Any, name: str, module: Any) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def _layerwise_storage(built: Built, names: tuple[str, ...]) -> None:
    """diffusers' own FP8 storage: weights lie in e4m3 and are cast to BF16 before each layer."""
    import torch

    enable = getattr(built.model, "enable_layerwise_casting", None)
    if enable is None:
        raise RefusedError("only diffusers' models have enable_layerwise_casting")
    enable(storage_dtype=torch.float8_e4m3fn, compute_dtype=built.dtype)


def _lora(fused: bool) -> Convert:
    def convert(built: Built, names: tuple[str, ...]) -> None:
        peft = importlib.import_module("peft")
        layer_class = importlib.import_module("peft.tuners.tuners_utils").BaseTunerLayer
        config = peft.LoraConfig(r=LORA_RANK, target_modules=list(names), init_lora_weights=True)
        peft.inject_adapter_in_model(config, built.model)
        layers = {n: m for n, m in built.model.named_modules() if isinstance(m, layer_class)}
        if len(layers) != len(names):
            raise RefusedError(f"peft put a LoRA on {len(layers)} of {len(names)} linear layers")
        for name, layer in layers.items():
            layer.to(built.dtype).requires_grad_(False)
            if fused:
                layer.merge()
                _put(built.model, name, layer.get_base_layer())

    return convert


def _nothing(built: Built, names: tuple[str, ...]) -> None:
    """BF16 or FP16 as it was built."""


# The first part of a slug: the conversion, and its entry in the error limits (checks/torch_build/numerics.py).
BASES: dict[str, tuple[Convert, str]] = {
    "torch-bf16": (_nothing, "bf16"),
    "torch-fp16": (_nothing, "bf16"),
    "torchao-fp8-rowwise": (
        _torchao("Float8DynamicActivationFloat8WeightConfig", granularity="PerRow", **_QUIET),
        "e4m3",
    ),
    "torchao-fp8-tensorwise": (
        _torchao("Float8DynamicActivationFloat8WeightConfig", granularity="PerTensor", **_QUIET),
        "e4m3",
    ),
    "torchao-fp8-weightonly": (_torchao("Float8WeightOnlyConfig", **_QUIET), "e4m3-one-operand"),
    "torchao-int8-dynamic": (_torchao("Int8DynamicActivationInt8WeightConfig", **_QUIET), "int8"),
    "diffusers-fp8-storage": (_layerwise_storage, "e4m3-one-operand"),
    "torchao-fp8train-tensorwise": (_float8_training("tensorwise"), "e4m3"),
    "torchao-fp8train-rowwise": (_float8_training("rowwise"), "e4m3"),
    "torchao-fp8train-rowwise-gw-hp": (_float8_training("rowwise_with_gw_hp"), "e4m3"),
    "te-bf16": (_te_linears("te-bf16"), "bf16"),
    "te-fp8-delayed": (_te_linears("te-fp8-delayed"), "e4m3"),
    "te-fp8-current": (_te_linears("te-fp8-current"), "e4m3"),
    "te-fp8-block": (_te_linears("te-fp8-block"), "e4m3"),
    "te-mxfp8": (_te_linears("te-mxfp8"), "mxfp8"),
    "te-nvfp4": (_te_linears("te-nvfp4"), "nvfp4"),
}
TUNED = _torchao("Float8DynamicActivationFloat8WeightConfig", granularity="PerRow", set_inductor_config=True)
LORA = {"lora": _lora(fused=False), "lora-fused": _lora(fused=True)}
RECIPES = {
    "te-fp8-delayed": "DelayedScaling",
    "te-fp8-current": "Float8CurrentScaling",
    "te-fp8-block": "Float8BlockScaling",
    "te-mxfp8": "MXFP8BlockScaling",
    "te-nvfp4": "NVFP4BlockScaling",
}
SDPA = {
    "attention-cudnn": "CUDNN_ATTENTION",
    "attention-flash": "FLASH_ATTENTION",
    "attention-efficient": "EFFICIENT_ATTENTION",
    "attention-math": "MATH",
}
# diffusers' names for packages (diffusers/models/attention_dispatch.py, AttentionBackendName).
PACKAGES = {"attention-fa2": "flash", "attention-fa3": "_flash_3"}

# The model's own switch to torch's attention, where it attends by hand (two products and a softmax).
OWN_SWITCH = "attention-sdpa"


@contextlib.contextmanager
def around(base: str, modifiers: tuple[str, ...], built: Built) -> Iterator[None]:
    """What stands round every call of the step: a forced attention backend, Transformer Engine's autocast."""
    with contextlib.ExitStack() as stack:
        for modifier in modifiers:
            if modifier in SDPA:
                attention = importlib.import_module("torch.nn.attention")
                stack.enter_context(attention.sdpa_kernel(getattr(attention.SDPBackend, SDPA[modifier])))
        if base in RECIPES:
            stack.enter_context(_te_autocast(RECIPES[base]))
        yield


def _te_autocast(recipe: str) -> Any:
    te = importlib.import_module("transformer_engine.pytorch")
    made = getattr(importlib.import_module("transformer_engine.common.recipe"), recipe)()
    if hasattr(te, "autocast"):  # since 2.8; before, it was called after FP8
        return te.autocast(enabled=True, recipe=made)
    return te.fp8_autocast(enabled=True, fp8_recipe=made)


def modify(built: Built, modifiers: tuple[str, ...], names: tuple[str, ...]) -> None:
    """LoRA layers and attention packages; what stands round the call, compiling and capturing come later."""
    for modifier in modifiers:
        if modifier in LORA:
            LORA[modifier](built, names)
        elif modifier == OWN_SWITCH:
            own_switch = getattr(built.model, "set_attn_implementation", None)
            if own_switch is None:
                raise RefusedError("this model has no switch for its attention; transformers' models have")
            own_switch("sdpa")
        elif modifier in PACKAGES:
            switch = getattr(built.model, "set_attention_backend", None)
            if switch is None:
                raise RefusedError("this model has no switch for attention packages; diffusers' models have")
            switch(PACKAGES[modifier])


def compile_blocks(built: Built) -> None:
    """Compile each distinct repeated block by itself: "regional" compilation."""
    for block in built.blocks():
        block.compile()
