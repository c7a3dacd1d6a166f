"""Which code puts this model into a configuration, with the names of its own blocks and layers?"""

from __future__ import annotations

from keyword import iskeyword

from fp8doctor.checks.ladder.conversions import RECIPES
from fp8doctor.checks.model.layers import FP8, keeping, linears, mostly_fp32, multiplying
from fp8doctor.checks.model.trying import attention
from fp8doctor.checks.transformer_engine.configurations import NOT_STORED
from fp8doctor.observed import Layer, Model, Trial
from fp8doctor.observing.looking import alike

CONVERTED = {
    "torchao-fp8-rowwise": "granularity=q.PerRow()",
    "torchao-fp8-tensorwise": "granularity=q.PerTensor()",
    "torchao-fp8train-tensorwise": "tensorwise",
    "torchao-fp8train-rowwise": "rowwise",
}
_FOR_TRAINING = "torchao-fp8train-"
# What computes in BF16 and leaves the weights that an optimizer steps in FP32.
AUTOCAST = 'torch.autocast("cuda", dtype=torch.bfloat16)'
# As checks/ladder/conversions.py does it: filled while it is made, so that a weight that lies in FP8 is cast once, and
# without gradients, so that no transposed copy of it is made.
_TO_TE = [
    "def to_te(block):",
    "    for name, old in list(block.named_modules()):",
    "        if wanted(old, name):",
    "            weights = [old.weight]",
    "            with torch.no_grad(){stored}:",
    "                new = te.Linear(old.in_features, old.out_features, bias=old.bias is not None,",
    "                                params_dtype=old.weight.dtype, device=old.weight.device,",
    "                                init_method=lambda weight: weight.data.copy_(weights[0]))",
    "                if old.bias is not None:",
    "                    new.bias.copy_(old.bias)",
    "            weights.clear()",
    "            new.train(old.training).requires_grad_(old.weight.requires_grad)",
    "            block.set_submodule(name, new)",
]
_STORED = ", te.quantized_model_init(enabled=True, recipe=recipe)"
# What leaves out a conversion that a model has, by how its base begins.
_WITHOUT = {
    "torchao-fp8train": "# build the model without convert_to_float8_training",
    "torchao-fp8": "# build the model without quantize_ (its weights in BF16)",
    "te-": "# build the model with nn.Linear in place of te.Linear",
}
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
        cast = bool(model.training) and has_autocast(model) and mostly_fp32(layers)
        return "torch-bf16" if cast or all(layer.multiplies == "16-bit" for layer in layers) else None
    most = max(found, key=lambda layer: (layer.k or 0) * (layer.n or 0) * (layer.count or 0))
    if most.library == "torchao":
        return f"torchao-fp8{'train' if most.keeps != 'fp8' else ''}-{most.scaling}"
    if most.library != "transformer-engine":
        return None
    return f"te-{most.scaling}" if most.scaling in ("mxfp8", "nvfp4") else f"te-fp8-{most.scaling}"


def has_autocast(model: Model) -> bool:
    """Whether torch.autocast was seen on in the step."""
    return model.autocast not in (None, "off")


def code(model: Model, trial: Trial) -> str:
    """Code to paste that puts the model, as it was before anything was done to it, into a configuration.

    Blocks are converted one by one; what stays in 16 bits is named within its block. A conversion that the model has is
    not made again where it is only compiled, and is to be left out where another takes its place.
    """
    base, *modifiers = (trial.config or "").split("+")
    compiled = "compile" in modifiers
    if compiled and is_converted_so(model, trial):
        lines = ["# the conversion that the model has stays", *_attention(model, modifiers)]
        return "\n".join([*lines, *_loop(_all_blocks(model), ["block.compile()"])])
    prepared, each = _conversion(base, stored=base not in NOT_STORED and not model.training)
    without = _without(model)
    lines = [*_undone(model), *_attention(model, modifiers), *prepared]
    then = [*each, *(["block.compile()"] if compiled else [])]
    if then:
        lines += _to_each(model, trial, then) if each else _loop(_all_blocks(model), then)
    if base in RECIPES and model.training:
        lines.append("# make the optimizer after this")
    around = [AUTOCAST] if model.training and mostly_fp32(linears(model)) and not has_autocast(model) else []
    around += ["te.autocast(enabled=True, recipe=recipe)"] if base in RECIPES else []
    if around:
        lines += [f"# run the forward under {around[0]}"] if around[0] == AUTOCAST else []
        lines.append(f"with {', '.join(around)}: model(...)")
    if base in RECIPES:
        lines.append("# te.autocast is of 2.8; before: te.fp8_autocast(enabled=True, fp8_recipe=recipe)")
    if not lines and not without:
        return "# the model as it was loaded in torch.bfloat16, neither converted nor compiled"
    needs_torch = any("torch." in line.partition("#")[0] and "import" not in line for line in lines)
    return "\n".join([*without, *(["import torch"] if needs_torch else []), *lines])


def is_converted_so(model: Model, trial: Trial) -> bool:
    """Whether the model has a configuration's conversion, in just the layers that the configuration converts."""
    base = (trial.config or "").partition("+")[0]
    if not base.startswith(tuple(_WITHOUT)) or base != base_of(model):
        return False
    kept = {alike(name) for name in trial.kept or ()}
    return all((layer.name not in kept) == (layer.multiplies in FP8) for layer in inside(model))


def inside(model: Model) -> list[Layer]:
    """The linear layers of the repeated blocks; all of a model that repeats nothing."""
    lists = [blocks.name or "" for blocks in model.blocks or ()]
    prefixes = tuple(f"{alike(name)}.*.".removeprefix(".") for name in lists)
    return [layer for layer in linears(model) if not lists or (layer.name or "").startswith(prefixes)]


def _without(model: Model) -> list[str]:
    """What to leave out of a converted model where it is built, before it is converted otherwise, or not at all."""
    base = base_of(model) or ""
    return [said for begins, said in _WITHOUT.items() if base.startswith(begins)][:1]


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
    if mostly_fp32(layers) and not model.training:
        lines.append("model.to(torch.bfloat16)  # and what it is called with")
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


def _conversion(base: str, *, stored: bool) -> tuple[list[str], list[str]]:
    """What comes first, and what is done to each block; `stored`: Transformer Engine keeps the weights in FP8 alone."""
    how = CONVERTED.get(base)
    if base in RECIPES:
        recipe = RECIPES[base]
        return [
            "import transformer_engine.pytorch as te",
            f"from transformer_engine.common.recipe import {recipe}",
            f"recipe = {recipe}()",
            *(["# te.quantized_model_init is of 2.9; before: te.fp8_model_init"] if stored else []),
            *(line.format(stored=_STORED if stored else "") for line in _TO_TE),
        ], ["to_te(block)"]
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
