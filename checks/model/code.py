"""Which code puts this model into a configuration, with the names of its own blocks and layers?"""

from __future__ import annotations

from keyword import iskeyword

from fp8doctor.checks.ladder.conversions import RECIPES
from fp8doctor.checks.model.layers import keeping, linears, mostly_fp32, multiplying
from fp8doctor.checks.model.trying import attention
from fp8doctor.observed import Model, Trial
from fp8doctor.observing.looking import alike

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
# What peft does not offer by a call where it was put into a model in place.
_MERGED = [
    "from peft.tuners.tuners_utils import BaseTunerLayer",
    "for name, layer in list(model.named_modules()):",
    "    if isinstance(layer, BaseTunerLayer):",
    "        layer.merge()",
    "        model.set_submodule(name, layer.get_base_layer())",
]
# What peft's own model puts before all names.
_PEFT = "base_model.model."
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
    prepared, each = _conversion(base)
    lines = [*_undone(model), *_attention(model, modifiers), *prepared]
    if base in RECIPES:
        lines += _TO_TE
    then = [*each, *(["block.compile()"] if "compile" in modifiers else [])]
    if then:
        lines += _to_each(model, trial, then) if each else _loop(_all_blocks(model), then)
    if base in RECIPES:
        recipe = RECIPES[base]
        lines += [f"from transformer_engine.common.recipe import {recipe}"]
        lines += [f"with te.autocast(enabled=True, recipe={recipe}()): model(...)"]
    if not lines:
        return "# the model as it was loaded in torch.bfloat16, neither converted nor compiled"
    needs_torch = any("torch." in line.partition("#")[0] and "import" not in line for line in lines)
    return "\n".join(["import torch", *lines] if needs_torch else lines)


def _undone(model: Model) -> list[str]:
    layers = linears(model)
    lines: list[str] = []
    if keeping(layers):
        if any(layer.cast_by for layer in layers):
            lines.append("# load in torch.bfloat16, and do not call enable_layerwise_casting")
        else:
            lines.append("# load the BF16 weights: model = ....from_pretrained(..., torch_dtype=torch.bfloat16)")
    if _has_adapters(model):
        library = (model.class_name or "").partition(".")[0]
        if library == "diffusers":
            lines += ["model.fuse_lora()  # or pipe.fuse_lora()", "model.unload_lora()  # takes off what is left of it"]
        else:
            lines += ["model = model.merge_and_unload()"] if library == "peft" else _MERGED
    if mostly_fp32(layers):
        lines.append("model.to(torch.bfloat16)")
    return lines


def _has_adapters(model: Model) -> bool:
    return not model.training and any(layer.adapter_rank for layer in linears(model))


def _attention(model: Model, modifiers: list[str]) -> list[str]:
    return [attention.code(model.class_name)] if attention.SDPA in modifiers else []


def _lists(model: Model) -> dict[str, str]:
    """The lists of blocks by name, and how each is written; the model itself, which repeats nothing, has none."""
    return {blocks.name or "": _written(model, blocks.name or "") for blocks in model.blocks or ()}


def _written(model: Model, name: str) -> str:
    if _has_adapters(model) and (model.class_name or "").startswith("peft."):
        name = name.removeprefix(_PEFT)
    if not name:
        return "model"
    plain = all(part.isidentifier() and not iskeyword(part) for part in name.split("."))
    return f"model.{name}" if plain else f'model.get_submodule("{name}")'


def _all_blocks(model: Model) -> str:
    lists = list(_lists(model).values()) or ["[model]"]
    return lists[0] if len(lists) == 1 else f"[{', '.join(f'*{one}' for one in lists)}]"


def _loop(blocks: str, each: list[str], indent: str = "") -> list[str]:
    return [f"{indent}for block in {blocks}:", *(f"{indent}    {line}" for line in each)]


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


def _to_each(model: Model, trial: Trial, each: list[str]) -> list[str]:
    """Each block converted but for exactly the layers that stay in 16 bits, by their names within a block.

    One set of names serves all lists of blocks, unless a layer of another list has a name in it and is converted.
    """
    by_list: dict[str, list[str]] = {name: [] for name in _lists(model)}
    for name in sorted(trial.kept or ()):
        by_list.setdefault(list_of(name) or "", []).append(within(name))
    every = sorted({name for names in by_list.values() for name in names})
    known = {layer.name for layer in linears(model)}

    def differs(blocks: str) -> bool:
        others = set(every) - set(by_list[blocks])
        return any(alike(f"{blocks}.*.{name}".removeprefix(".")) in known for name in others)

    if len(by_list) > 1 and any(map(differs, by_list)):
        return [
            "in_16_bits = [  # blocks, and what stays as it is of each, named as within a block",
            *(line for blocks, names in by_list.items() for line in _entry(_written(model, blocks), names)),
            "]",
            "for blocks, kept in in_16_bits:",
            *_wanted("kept", "    "),
            *_loop("blocks", each, "    "),
        ]
    if not every:
        return [*_wanted(None), *_loop(_all_blocks(model), each)]
    lines = ["in_16_bits = {  # named as within a block", *_rows(every, "    "), "}"]
    return [*lines, *_wanted("in_16_bits"), *_loop(_all_blocks(model), each)]


def _entry(blocks: str, names: list[str]) -> list[str]:
    if not names:
        return [f"    ({blocks}, ()),"]
    return [f"    ({blocks}, {{", *_rows(names, "        "), "    }),"]


def _rows(names: list[str], indent: str) -> list[str]:
    rows = [names[i : i + _A_LINE] for i in range(0, len(names), _A_LINE)]
    return [f"{indent}{', '.join(map(repr, row))}," for row in rows]


def _wanted(kept: str | None, indent: str = "") -> list[str]:
    but_for = f" and name not in {kept}" if kept else ""
    lines = ["def wanted(module, name):", f"    return isinstance(module, torch.nn.Linear){but_for}"]
    return [f"{indent}{line}" for line in lines]


def within(name: str) -> str:
    """A layer's name within its block: "blocks.*.attn.to_q" -> "attn.to_q"."""
    return f".{name}".partition(".*.")[2] or name


def list_of(name: str) -> str | None:
    """The list of blocks that a layer is in: "blocks.*.attn.to_q" -> "blocks"; None of a model that repeats nothing."""
    blocks, found, _ = f".{name}".partition(".*.")
    return blocks.removeprefix(".") if found else None
