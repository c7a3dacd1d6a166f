"""What is a configuration called, and which code gets it?"""

from __future__ import annotations

from functools import cache

from fp8doctor.checks.ladder.slugs import config_of

_BASES = {
    "torch-bf16": "BF16",
    "torch-fp16": "FP16",
    "torchao-fp8-rowwise": "torchao float8 row-wise",
    "torchao-fp8-tensorwise": "torchao float8 tensor-wise",
    "torchao-fp8-weightonly": "torchao float8 weight-only",
    "torchao-int8-dynamic": "torchao INT8 dynamic",
    "diffusers-fp8-storage": "diffusers FP8 storage",
    "torchao-fp8train-tensorwise": "torchao float8 training, tensor-wise",
    "torchao-fp8train-rowwise": "torchao float8 training, row-wise",
    "torchao-fp8train-rowwise-gw-hp": "torchao float8 training, row-wise, weight gradient in BF16",
    "te-bf16": "Transformer Engine BF16",
    "te-fp8-delayed": "Transformer Engine FP8, delayed scaling",
    "te-fp8-current": "Transformer Engine FP8, current scaling",
    "te-fp8-block": "Transformer Engine FP8, block scaling",
    "te-mxfp8": "Transformer Engine MXFP8",
    "te-nvfp4": "Transformer Engine NVFP4",
}
_MODIFIERS = {
    "compile": "torch.compile of each block",
    "compile-whole": "torch.compile of the whole model",
    "tuned": "torchao's Inductor settings",
    "cudagraph": "CUDA graph",
    "lora": "unfused LoRA",
    "lora-fused": "fused LoRA",
    "attention-cudnn": "cuDNN attention",
    "attention-flash": "torch's flash attention",
    "attention-efficient": "memory-efficient attention",
    "attention-math": "math attention",
    "attention-fa2": "FlashAttention 2",
    "attention-fa3": "FlashAttention 3",
    "cache-first-block": "first-block cache",
    "cache-mag": "MagCache",
    "cache-taylorseer": "TaylorSeer cache of attention",
    "cache-taylorseer-lite": "TaylorSeer cache of all blocks",
    "cache-faster": "FasterCache",
    "cache-pyramid": "pyramid attention broadcast",
}
_TORCHAO = {
    "torchao-fp8-rowwise": ("Float8DynamicActivationFloat8WeightConfig", "granularity=q.PerRow()"),
    "torchao-fp8-tensorwise": ("Float8DynamicActivationFloat8WeightConfig", "granularity=q.PerTensor()"),
    "torchao-fp8-weightonly": ("Float8WeightOnlyConfig", ""),
    "torchao-int8-dynamic": ("Int8DynamicActivationInt8WeightConfig", ""),
}
_TRAINING = {
    "torchao-fp8train-tensorwise": "tensorwise",
    "torchao-fp8train-rowwise": "rowwise",
    "torchao-fp8train-rowwise-gw-hp": "rowwise_with_gw_hp",
}
_BACKENDS = {"attention-cudnn": "CUDNN_ATTENTION", "attention-flash": "FLASH_ATTENTION"}


@cache
def label(slug: str) -> str:
    """A slug in words: "torchao float8 row-wise + torch.compile of each block"."""
    config = config_of(slug)
    return " + ".join([_BASES.get(config.base, config.base), *(_MODIFIERS.get(m, m) for m in config.modifiers)])


@cache
def number_format(slug: str) -> str:
    """ "bf16", "fp16", "int8", "fp8", "mxfp8" or "nvfp4": what the products are computed in, or the weights stored."""
    base = config_of(slug).base
    return next((name for name in ("mxfp8", "nvfp4", "int8", "fp16", "bf16") if name in base), "fp8")


@cache
def how(slug: str) -> str:
    """Code that puts `model` into a configuration."""
    config = config_of(slug)
    lines: list[str] = []
    if config.base in _TORCHAO:
        name, granularity = _TORCHAO[config.base]
        # As it was measured; with True, torchao's default, the first call takes minutes (benchmarks/RESULTS.md).
        tuned = "tuned" in config.modifiers
        arguments = ", ".join(filter(None, [granularity, "" if tuned else "set_inductor_config=False"]))
        lines += ["import torchao.quantization as q", f"config = q.{name}({arguments})"]
        lines += ["for block in blocks:  # model.transformer_blocks, model.layers, ..."]
        lines += ["    q.quantize_(block, config)  # filter_fn: without layers of fewer than 16 rows (modulation)"]
    elif config.base in _TRAINING:
        recipe = _TRAINING[config.base]
        lines += ["from torchao.float8 import Float8LinearConfig, convert_to_float8_training"]
        lines += [
            f'convert_to_float8_training(model, config=Float8LinearConfig.from_recipe_name("{recipe}"))'
            "  # leave out the output layer"
        ]
    elif config.recipe is not None:
        lines += ["import transformer_engine.pytorch as te  # te.Linear in the place of nn.Linear"]
        lines += [f"from transformer_engine.common.recipe import {config.recipe}"]
        lines += [f"with te.autocast(enabled=True, recipe={config.recipe}()): model(...)"]
    elif config.base == "diffusers-fp8-storage":
        lines += ["model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)"]
    elif config.base == "torch-bf16":
        lines += ["model.to(torch.bfloat16)"]
    for modifier in config.modifiers:
        if modifier == "lora-fused":
            lines.append("pipe.fuse_lora()  # or peft's merge_and_unload()")
        elif modifier in _BACKENDS:
            lines.append(f"with torch.nn.attention.sdpa_kernel(SDPBackend.{_BACKENDS[modifier]}): model(...)")
        elif modifier == "compile":
            lines.append("for block in blocks: block.compile()  # diffusers: model.compile_repeated_blocks()")
        elif modifier == "compile-whole":
            lines.append("model = torch.compile(model)")
        elif modifier == "cudagraph":
            lines.append("# the whole step captured once by torch.cuda.graph, then replayed")
    return "\n".join(lines)
