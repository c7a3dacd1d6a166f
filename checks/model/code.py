"""Which code puts this model into a configuration, with the names of its own blocks and layers?"""

from __future__ import annotations

from fp8doctor.checks.ladder.conversions import RECIPES
from fp8doctor.checks.model.layers import keeping, linears, multiplying
from fp8doctor.checks.model.trying import attention
from fp8doctor.observed import Model, Trial

CONVERTED = {
    "torchao-fp8-rowwise": "granularity=q.PerRow()",
    "torchao-fp8-tensorwise": "granularity=q.PerTensor()",
    "torchao-fp8train-tensorwise": "tensorwise",
    "torchao-fp8train-rowwise": "rowwise",
}
_FOR_TRAINING = "torchao-fp8train-"
_TO_TE = [
    "import transformer_engine.pytorch as te",
    "def to_te(block):",
    "    for name, old in list(block.named_modules()):",
    "        if wanted(old, name):",
    "            new = te.Linear(old.in_features, old.out_features, bias=old.bias is not None,",
    "                            params_dtype=old.weight.dtype)",
    "            new.load_state_dict(old.state_dict(), strict=False)",
    "            block.set_submodule(name, new)",
]
# Names on one line of the code.
_A_LINE = 3


def base_of(model: Model) -> str | None:
    """The base of the configuration that the model is in: of most of its converted layers; None if it is none here."""
    layers = linears(model)
    if any(layer.adapter_rank for layer in layers) or keeping(layers):
        return None
    found = multiplying(layers)
    if not found:
        return "torch-bf16" if all(layer.multiplies == "16-bit" for layer in layers) else None
    most = max(found, key=lambda layer: (layer.k or 0) * (layer.n or 0) * (layer.count or 0))
    if most.library == "torchao":
        return f"torchao-fp8{'train' if most.keeps != 'fp8' else ''}-{most.scaling}"
    if most.library != "transformer-engine":
        return None
    return f"te-{most.scaling}" if most.scaling in ("mxfp8", "nvfp4") else f"te-fp8-{most.scaling}"


def code(model: Model, trial: Trial) -> str:
    """Code to paste that puts the model, as it was before anything was done to it, into a configuration.

    Blocks are converted one by one; what stays in 16 bits is named within its block.
    """
    base, *modifiers = (trial.config or "").split("+")
    lines = [*_undone(model), *_attention(model, modifiers)]
    prepared, each = _conversion(base)
    lines += prepared
    if each:
        lines += _filter(trial)
    if base in RECIPES:
        lines += _TO_TE
    if "compile" in modifiers:
        each = [*each, "block.compile()"]
    if each:
        lines += [f"for block in {_blocks(model)}:", *(f"    {line}" for line in each)]
    if base in RECIPES:
        recipe = RECIPES[base]
        lines += [f"from transformer_engine.common.recipe import {recipe}"]
        lines += [f"with te.autocast(enabled=True, recipe={recipe}()): model(...)"]
    return "\n".join(lines)


def _undone(model: Model) -> list[str]:
    layers = linears(model)
    lines = []
    if any(layer.adapter_rank for layer in layers) and not model.training:
        diffusers = (model.class_name or "").startswith("diffusers")
        lines.append("model.fuse_lora()  # or pipe.fuse_lora()" if diffusers else "model = model.merge_and_unload()")
    if keeping(layers):
        if any(layer.cast_by for layer in layers):
            lines.insert(0, "# load in torch.bfloat16, and do not call enable_layerwise_casting")
        else:
            lines.insert(0, "# load the BF16 weights: model = ....from_pretrained(..., torch_dtype=torch.bfloat16)")
    elif any(layer.dtype == "float32" for layer in layers) and model.autocast in (None, "off"):
        lines.append("model.to(torch.bfloat16)")
    return lines


def _attention(model: Model, modifiers: list[str]) -> list[str]:
    return [attention.code(model.class_name)] if attention.SDPA in modifiers else []


def _blocks(model: Model) -> str:
    lists = [f"model.{blocks.name}" for blocks in model.blocks or () if blocks.name]
    if not lists:
        return "model" if model.blocks else "[model]"
    return lists[0] if len(lists) == 1 else f"[{', '.join(f'*{one}' for one in lists)}]"


def _conversion(base: str) -> tuple[list[str], list[str]]:
    """What comes first, and what is done to each block."""
    how = CONVERTED.get(base)
    if base in RECIPES:
        return [], ["to_te(block)"]
    if how is None:
        return [], []
    if base.startswith(_FOR_TRAINING):
        return [
            "from torchao.float8 import Float8LinearConfig, convert_to_float8_training",
            f'config = Float8LinearConfig.from_recipe_name("{how}")',
        ], ["convert_to_float8_training(block, config=config, module_filter_fn=wanted)"]
    return [
        "import torchao.quantization as q",
        "config = q.Float8DynamicActivationFloat8WeightConfig(",
        f"    {how}, set_inductor_config=False)",
    ], ["q.quantize_(block, config, filter_fn=wanted)"]


def _filter(trial: Trial) -> list[str]:
    """A filter that leaves out exactly the layers that stay in 16 bits, by their names within a block."""
    kept = sorted({within(name) for name in trial.kept or ()})
    lines = ["import torch"]
    if not kept:
        return [*lines, "def wanted(module, name):", "    return isinstance(module, torch.nn.Linear)"]
    rows = [kept[i : i + _A_LINE] for i in range(0, len(kept), _A_LINE)]
    lines += ["in_16_bits = {  # named as within a block", *(f"    {', '.join(map(repr, row))}," for row in rows), "}"]
    return [
        *lines,
        "def wanted(module, name):",
        "    return isinstance(module, torch.nn.Linear) and name not in in_16_bits",
    ]


def within(name: str) -> str:
    """A layer's name within its block: "blocks.*.attn.to_q" -> "attn.to_q"."""
    return name.partition(".*.")[2] or name
