"""What is a configuration called, and which code gets it?"""

from __future__ import annotations

from functools import cache

from fp8doctor.checks.ladder.conversions import OWN_SWITCH, PACKAGES, SDPA
from fp8doctor.checks.ladder.slugs import Config, config_of

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
    "attention-sdpa": "torch's attention",
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
# Where the classes of the built-in workloads keep their repeated blocks; a language model of one's own, or another's.
_BLOCKS = {
    "diffusers.FluxTransformer2DModel": "[*model.transformer_blocks, *model.single_transformer_blocks]",
    "diffusers.QwenImageTransformer2DModel": "model.transformer_blocks",
    "fp8doctor.LanguageModel": "model.layers  # in transformers: model.model.layers",
}
_BLOCKS_OF_LIBRARY = {
    "diffusers": "model.transformer_blocks  # or whatever the model calls its repeated blocks",
    "transformers": "model.model.layers",
}
_SOME_BLOCKS = "model.layers  # the model's repeated blocks, whatever it calls them"
# torch's own recipe: warm up on a side stream, then capture.
_CAPTURE = (
    "side = torch.cuda.Stream()",
    "side.wait_stream(torch.cuda.current_stream())",
    "with torch.cuda.stream(side):",
    "    for _ in range(3): step()",
    "torch.cuda.current_stream().wait_stream(side)",
    "graph = torch.cuda.CUDAGraph()",
    "with torch.cuda.graph(graph): output = step()",
    "graph.replay()  # each step; copy its inputs into the same tensors before",
)


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
def how(slug: str, model_class: str | None = None, *, trains: bool = False) -> str:
    """Code that puts `model` into a configuration.

    Args:
        slug: the configuration.
        model_class: the model's class with its library, "diffusers.FluxTransformer2DModel"; it names the blocks.
        trains: whether a step has a backward and an optimizer.
    """
    config = config_of(slug)
    lines = [fuse_lora(model_class)] if "lora-fused" in config.modifiers else []
    lines += _to_each_block(config, model_class)
    if trains and config.compiled is not None:
        lines.append("loss_of = torch.compile(loss_of)")
    lines += [f'model.set_attention_backend("{PACKAGES[m]}")' for m in config.modifiers if m in PACKAGES]
    lines += ['model.set_attn_implementation("sdpa")' for m in config.modifiers if m == OWN_SWITCH]
    if config.compiled == "compile-whole":
        lines.append("model.compile()")
    around = [f"sdpa_kernel(SDPBackend.{SDPA[m]})" for m in config.modifiers if m in SDPA]
    if around:
        lines.append("from torch.nn.attention import SDPBackend, sdpa_kernel")
    if config.recipe is not None:
        lines += [f"from transformer_engine.common.recipe import {config.recipe}"]
        around.append(f"te.autocast(enabled=True, recipe={config.recipe}())")
        if config.recipe == "DelayedScaling" and not trains:
            lines += ["# its scales come from earlier calls, where gradients are enabled"]
            lines += [f"with torch.enable_grad(), {around[-1]}:", "    for _ in range(3): model(...)"]
    if config.graphed:
        lines += [*_step(around, trains), *_CAPTURE]
    elif around:
        lines.append(f"with {', '.join(around)}: model(...)")
    return "\n".join(lines)


def fuse_lora(model_class: str | None) -> str:
    """The call that adds a LoRA to the weights: diffusers' or peft's."""
    library = _library(model_class)
    if library is None:
        return "pipe.fuse_lora()  # diffusers; else peft's model = model.merge_and_unload()"
    return "pipe.fuse_lora()" if library == "diffusers" else "model = model.merge_and_unload()  # peft"


def capture(slug: str, *, trains: bool = False) -> str:
    """What follows where the model is in a configuration already: its step as a CUDA graph."""
    code = how(slug, trains=trains)
    return code[code.index("def step") :]


def compile_each_block(model_class: str | None) -> str:
    """Regional compilation."""
    return f"blocks = {_blocks(model_class)}\nfor block in blocks: block.compile()"


# Before 2.9 autocast and quantized_model_init were fp8_autocast and fp8_model_init. For a forward the weights were
# measured as they lie in FP8 (quantized_model_init), which needs the model to be built so.
_SWAP = [
    "import torch",
    "import transformer_engine.pytorch as te",
    "def to_te(module):",
    "    for name, old in module.named_children():",
    "        if isinstance(old, torch.nn.Linear):",
    "            new = te.Linear(old.in_features, old.out_features, bias=old.bias is not None,",
    "                            params_dtype=old.weight.dtype)",
    "            new.load_state_dict(old.state_dict(), strict=False)",
    "            setattr(module, name, new)",
    "        else:",
    "            to_te(old)",
]


def _to_each_block(config: Config, model_class: str | None) -> list[str]:
    """What is done to the model, or to each of its blocks by itself."""
    lines, each = [], []
    if config.base in _TORCHAO:
        name, granularity = _TORCHAO[config.base]
        # As it was measured; with True, torchao's default, the first call takes minutes (benchmarks/RESULTS.md).
        quiet = "" if "tuned" in config.modifiers else "set_inductor_config=False"
        lines += ["import torchao.quantization as q", f"config = q.{name}("]
        lines += [f"    {', '.join(filter(None, [granularity, quiet]))})"]
        note = (
            "  # filter_fn: not the modulation, of fewer than 16 rows" if _library(model_class) == "diffusers" else ""
        )
        each.append(f"q.quantize_(block, config){note}")
    elif config.base in _TRAINING:
        lines += ["from torchao.float8 import Float8LinearConfig, convert_to_float8_training"]
        lines += [f'config = Float8LinearConfig.from_recipe_name("{_TRAINING[config.base]}")']
        each.append("convert_to_float8_training(block, config=config)")
    elif config.base.startswith("te-"):
        lines += _SWAP
        each.append("to_te(block)")
    elif config.base == "diffusers-fp8-storage":
        lines += ["model.enable_layerwise_casting(torch.float8_e4m3fn, compute_dtype=torch.bfloat16)"]
    else:
        lines += [f"model.to(torch.{'float16' if config.base == 'torch-fp16' else 'bfloat16'})"]
    if config.compiled == "compile":
        each.append("block.compile()")
    if each:
        lines += [f"blocks = {_blocks(model_class)}", "for block in blocks:", *(f"    {line}" for line in each)]
    return lines


def _blocks(model_class: str | None) -> str:
    return _BLOCKS.get(model_class or "") or _BLOCKS_OF_LIBRARY.get(_library(model_class) or "", _SOME_BLOCKS)


def _library(model_class: str | None) -> str | None:
    return model_class.partition(".")[0] if model_class else None


def _step(around: list[str], trains: bool) -> list[str]:
    """The step that is captured."""
    if not trains:
        within = ", ".join(["torch.no_grad()", *around])
        return ["def step():", f"    with {within}:", "        return model(**inputs)"]
    call = "loss_of(model(**inputs)).backward()"
    calls = [f"    with {', '.join(around)}:", f"        {call}"] if around else [f"    {call}"]
    ending = "    optimizer.step()  # an optimizer with capturable=True"
    return ["def step():", "    optimizer.zero_grad()", *calls, ending]
