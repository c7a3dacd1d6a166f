"""Which code computes the call that was timed, by its route? It is given `query`, `key`, `value`, and `gradient`."""

from __future__ import annotations

from fp8doctor.checks.attention_times.facts import AttentionCase
from fp8doctor.checks.attention_times.lookup import is_fp8, task_of
from fp8doctor.checks.attention_times.shapes import Task

# As many calls as `te.engine_forward` gives DelayedScaling before it is timed.
_CALIBRATING_CALLS = 3
_HEADS_FIRST = "# query, key, value: (batch, heads, sequence, head_dim)"
_HEADS_THIRD = "# query, key, value: (batch, sequence, heads, head_dim)"
_RECIPES = {
    "te-fp8-delayed-attention": "DelayedScaling",
    "te-fp8-current-attention": "Float8CurrentScaling",
    "te-mxfp8-attention": "MXFP8BlockScaling",
}
_MODULES = {"2": "flash_attn", "3": "flash_attn_interface", "4": "flash_attn.cute"}
_FORCIBLE = {
    "torch-sdpa-flash": "FLASH_ATTENTION",
    "torch-sdpa-efficient": "EFFICIENT_ATTENTION",
    "torch-sdpa-cudnn": "CUDNN_ATTENTION",
    "torch-sdpa-math": "MATH",
}
_SWITCHED = "torch-sdpa-fa"
# FlashAttention 3 takes scales of the operands (hopper/flash_attn_interface.py); FlashAttention 4's public function
# does not (flash_attn/cute/interface.py, 4.0.0b36). They were timed without.
_SCALES = {"3": ["# a model's numbers: divided by scales first, which go in as q_descale, k_descale, v_descale"]}


def how(case: AttentionCase) -> str:
    """Code that computes the call of a case by its route, forward or forward and backward."""
    route, task = case.route or "", task_of(case)
    if route.startswith("flash-attn-"):
        lines = _of_package(route, task)
    elif route.startswith("te-"):
        lines = _of_engine(_RECIPES.get(route), task)
    else:
        lines = _of_torch(route, task)
    return "\n".join([*lines, *(["output.backward(gradient)"] if task.trains else [])])


def _of_torch(route: str, task: Task) -> list[str]:
    causal = ", is_causal=True" if task.use.causal else ""
    grouped = ", enable_gqa=True" if _grouped(task) else ""
    call = f"output = torch.nn.functional.scaled_dot_product_attention(query, key, value{causal}{grouped})"
    switched = route.startswith(_SWITCHED)
    backend = "FLASH_ATTENTION" if switched else _FORCIBLE.get(route)
    lines = ["import torch"]
    if backend is not None:
        more = ", activate_flash_attention_impl" if switched else ""
        lines.append(f"from torch.nn.attention import SDPBackend, sdpa_kernel{more}")
    if switched:
        lines.append(f'activate_flash_attention_impl("{route[-3:].upper()}")  # for the whole process')
    forced = [f"sdpa_kernel(SDPBackend.{backend})"] if backend else []
    return [*lines, _HEADS_FIRST, *_within([*_without_gradients(task), *forced], call)]


def _of_package(route: str, task: Task) -> list[str]:
    number = route.split("-")[2]
    causal = ", causal=True" if task.use.causal else ""
    lines = ["import torch", f"from {_MODULES[number]} import flash_attn_func", _HEADS_THIRD]
    taken = "query, key, value"
    if is_fp8(route):
        cast = "[tensor.to(torch.float8_e4m3fn) for tensor in (query, key, value)]"
        lines += [*_SCALES.get(number, []), f"in_fp8 = {cast}"]
        taken = "*in_fp8"
    lines += _within(_without_gradients(task), f"output = flash_attn_func({taken}{causal})")
    if number != "2":
        lines.append("output = output[0] if isinstance(output, tuple) else output  # some releases: (output, lse)")
    return lines


def _of_engine(recipe: str | None, task: Task) -> list[str]:
    _, heads, kv_heads, _, _, head_dim = task.size
    mask = "causal" if task.use.causal else "no_mask"
    lines = ["import torch", "import transformer_engine.pytorch as te"]
    if recipe is not None:
        lines += [f"from transformer_engine.common.recipe import {recipe}", f"recipe = {recipe}(fp8_dpa=True)"]
    lines += ["attention = te.DotProductAttention("]
    lines += [f'    {heads}, {head_dim}, num_gqa_groups={kv_heads}, qkv_format="bshd", attn_mask_type="{mask}"']
    lines += [")" if task.trains else ").eval()", _HEADS_THIRD]
    autocast = ["te.autocast(enabled=True, recipe=recipe)"] if recipe else []
    if recipe == "DelayedScaling":
        lines += [f"for _ in range({_CALIBRATING_CALLS}):  # its scales come from earlier calls with gradients enabled"]
        lines += [f"    {line}" for line in _within(["torch.enable_grad()", *autocast], "attention(query, key, value)")]
    call = "output = attention(query, key, value)  # (batch, sequence, heads * head_dim)"
    return [*lines, *_within([*_without_gradients(task), *autocast], call)]


def _grouped(task: Task) -> bool:
    return task.use.kv_heads not in (None, task.use.heads)


def _without_gradients(task: Task) -> list[str]:
    return [] if task.trains else ["torch.no_grad()"]


def _within(contexts: list[str], call: str) -> list[str]:
    return [f"with {', '.join(contexts)}:", f"    {call}"] if contexts else [call]
