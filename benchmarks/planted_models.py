"""Does `fp8doctor.examine_model` say first what is wrong with a model, and nothing of healthy ones?

python -m benchmarks.planted_models [--only NAME ...] [--small] [--try-for SECONDS]

Each model is built from real classes (diffusers, transformers, torchao, peft, accelerate, Transformer Engine) with one
fault planted, or none. Prints a table in Markdown; exits 1 if a fault did not come first or a healthy model brought a
warning. `--small` takes narrow models and the CPU, to see that all of it runs; timing tells nothing there.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

import fp8doctor
from fp8doctor.checks.transformer_engine.cudnn import keep_torchs_cudnn

LORA_RANK = 16


@dataclass(frozen=True)
class Asked:
    """What is examined: a model, and its inputs or a step."""

    model: Any
    inputs: Any = None
    step: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Place:
    """Where and how large."""

    device: str
    small: bool

    def flux(self, dtype: torch.dtype = torch.bfloat16) -> Asked:
        """Two double and four single blocks of FLUX's width, 1,024 tokens and 256 of text."""
        diffusers = importlib.import_module("diffusers")
        heads, depth, tokens = (2, 16, 64) if self.small else (24, 128, 4096)
        torch.manual_seed(0)
        with torch.device(self.device):
            model = diffusers.FluxTransformer2DModel(
                num_layers=2,
                num_single_layers=4,
                num_attention_heads=heads,
                attention_head_dim=depth,
                joint_attention_dim=256,
                pooled_projection_dim=64,
                axes_dims_rope=(4, 6, 6) if self.small else (16, 56, 56),
            )
        model = model.to(dtype).eval().requires_grad_(False)
        make = partial(torch.randn, device=self.device, dtype=dtype)
        return Asked(
            model,
            {
                "hidden_states": make(1, tokens, 64),
                "encoder_hidden_states": make(1, 64, 256),
                "pooled_projections": make(1, 64),
                "timestep": torch.tensor([0.5], device=self.device, dtype=dtype),
                "img_ids": torch.zeros(tokens, 3, device=self.device, dtype=dtype),
                "txt_ids": torch.zeros(64, 3, device=self.device, dtype=dtype),
                "guidance": None,
                "return_dict": False,
            },
        )

    def llama(self, dtype: torch.dtype = torch.bfloat16, tokens: int = 4096, layers: int = 4, **more: Any) -> Asked:
        """Four blocks of Llama 3's width."""
        transformers = importlib.import_module("transformers")
        width, hidden = (128, 256) if self.small else (4096, 14_336)
        config = transformers.LlamaConfig(
            hidden_size=width,
            intermediate_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=width // 128 * 4 if self.small else 32,
            num_key_value_heads=width // 128 * 4 if self.small else 8,
            vocab_size=1024,
            **more,
        )
        torch.manual_seed(0)
        with torch.device(self.device):
            model = transformers.LlamaForCausalLM(config).to(dtype).eval().requires_grad_(False)
        ids = torch.randint(0, 1024, (1, 64 if self.small else tokens), device=self.device)
        return Asked(model, {"input_ids": ids, "use_cache": False})


def blocks(asked: Asked) -> list[Any]:
    """The repeated blocks."""
    model = asked.model
    if hasattr(model, "transformer_blocks"):
        return [*model.transformer_blocks, *model.single_transformer_blocks]
    return list(model.model.layers)


def linear(module: Any, name: str) -> bool:
    """A linear layer that FP8 may take: no modulation, which has one row."""
    return isinstance(module, torch.nn.Linear) and "norm" not in name


def quantised(asked: Asked, config: str = "Float8DynamicActivationFloat8WeightConfig", keep: str = "$^") -> Asked:
    """torchao's quantisation of the blocks' layers, but those whose name `keep` finds."""
    q = importlib.import_module("torchao.quantization")
    arguments = {"granularity": q.PerRow()} if config.startswith("Float8Dynamic") else {}
    made = getattr(q, config)(**arguments, set_inductor_config=False)
    for index, block in enumerate(blocks(asked)):
        q.quantize_(
            block, made, lambda module, name, i=index: linear(module, name) and not re.search(keep, f"{i}.{name}")
        )
    return asked


def compiled(asked: Asked, count: int | None = None) -> Asked:
    """Each block compiled, or the first `count`."""
    for block in blocks(asked)[:count]:
        block.compile()
    return asked


def with_lora(asked: Asked, *, fused: bool = False) -> Asked:
    """A LoRA of peft beside each linear layer of the blocks."""
    peft = importlib.import_module("peft")
    wanted = {id(m) for b in blocks(asked) for n, m in b.named_modules() if linear(m, n)}
    names = [name for name, module in asked.model.named_modules() if id(module) in wanted]
    peft.inject_adapter_in_model(peft.LoraConfig(r=LORA_RANK, target_modules=names), asked.model)
    for module in asked.model.modules():
        if hasattr(module, "merge") and hasattr(module, "base_layer"):
            module.to(torch.bfloat16)
            if fused:
                module.merge()
    return asked


def layerwise(asked: Asked) -> Asked:
    """diffusers' FP8 storage."""
    asked.model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    return asked


def stored(asked: Asked) -> Asked:
    """Weights cast to FP8 in plain layers, and back at each call."""

    def forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, layer.weight.to(x.dtype), layer.bias)

    for block in blocks(asked):
        for name, module in block.named_modules():
            if linear(module, name):
                module.weight.data = module.weight.data.to(torch.float8_e4m3fn)
                module.forward = partial(forward, module)
    return asked


def attention_by(asked: Asked, name: str) -> Asked:
    """Another attention of transformers."""
    asked.model.set_attn_implementation(name)
    return asked


def hooked(asked: Asked, hook: Callable[..., Any]) -> Asked:
    """A forward hook on each part of each block."""
    for block in blocks(asked):
        for child in block.children():
            child.register_forward_hook(hook)
    return asked


def look(module: Any, args: Any, output: Any) -> None:
    """Read a value back."""
    output = output[0] if isinstance(output, tuple) else output
    output.abs().max().item()


def breaking(asked: Asked) -> Asked:
    """Compiled blocks with breaks in them."""
    for block in blocks(asked):
        for child in block.children():
            child.register_forward_hook(lambda *_: torch._dynamo.graph_break())
    return compiled(asked)


def offloaded(asked: Asked) -> Asked:
    """accelerate's offloading of the weights to the host."""
    importlib.import_module("accelerate").cpu_offload(asked.model, execution_device=0)
    return asked


def asleep(asked: Asked) -> Asked:
    """The host waits before each step."""
    model, inputs = asked.model, asked.inputs

    def step() -> Any:
        time.sleep(0.05)
        with torch.no_grad():
            return model(**inputs)

    return Asked(model, None, step)


def odd(place: Place) -> Asked:
    """A layer whose width is no multiple of 16, beside FP8 ones."""
    asked = place.llama()
    for block in blocks(asked):
        mlp = block.mlp
        hidden = mlp.gate_proj.out_features - 6
        for name, sizes in (("gate_proj", (None, hidden)), ("up_proj", (None, hidden)), ("down_proj", (hidden, None))):
            old = getattr(mlp, name)
            new = torch.nn.Linear(sizes[0] or old.in_features, sizes[1] or old.out_features, bias=False)
            setattr(mlp, name, new.to(old.weight.device, old.weight.dtype).requires_grad_(False))
    return compiled(quantised(asked, keep="mlp"))


def misaligned(asked: Asked) -> Asked:
    """One weight in the middle of a larger tensor."""
    weight = blocks(asked)[0].mlp.gate_proj.weight
    inner = weight.qdata
    room = torch.empty(inner.numel() + 8, dtype=inner.dtype, device=inner.device)
    moved = room[8:].view(inner.shape)
    moved.copy_(inner)
    weight.qdata = moved
    return asked


def train(asked: Asked, recipe: str | None = "tensorwise", *, wanted: str = "layers") -> Asked:
    """A training step of a transformers model with torchao's float8."""
    model = asked.model.train().requires_grad_(True)
    if recipe:
        float8 = importlib.import_module("torchao.float8")
        float8.convert_to_float8_training(
            model,
            config=float8.Float8LinearConfig.from_recipe_name(recipe),
            module_filter_fn=lambda module, name: isinstance(module, torch.nn.Linear) and wanted in name,
        )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=asked.inputs["input_ids"].is_cuda)
    ids = asked.inputs["input_ids"]

    def step() -> None:
        logits = model(**asked.inputs).logits
        F.cross_entropy(logits.flatten(0, 1).float(), ids.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Asked(model, None, step)


def engine(place: Place, width: int, tokens: int, *, passes: int = 1, fp8: bool = True, forward: bool = False) -> Asked:
    """Layers of Transformer Engine, trained or called."""
    keep_torchs_cudnn()
    te = importlib.import_module("transformer_engine.pytorch")
    recipe = importlib.import_module("transformer_engine.common.recipe").Float8CurrentScaling()
    layers = torch.nn.Sequential(
        *(te.Linear(width, width, bias=False, params_dtype=torch.bfloat16, device=place.device) for _ in range(4))
    )
    x = torch.randn(tokens, width, device=place.device, dtype=torch.bfloat16, requires_grad=not forward)

    def step() -> None:
        layers.zero_grad(set_to_none=True)
        for _ in range(passes):
            with torch.set_grad_enabled(not forward), te.autocast(enabled=fp8, recipe=recipe):
                y = layers(x)
            if not forward:
                y.sum().backward()

    return Asked(layers, None, step)


# name -> (causes that may come first, how it is built)
FAULTS: dict[str, tuple[tuple[str, ...], Callable[[Place], Asked]]] = {
    "flux-storage": (("storage-only-fp8",), lambda p: layerwise(p.flux())),
    "llama-plain-float8-weights": (("storage-only-fp8",), lambda p: stored(p.llama())),
    "flux-weight-only": (("weight-only-dequant",), lambda p: quantised(p.flux(), "Float8WeightOnlyConfig")),
    "llama-weight-only-compiled": (
        ("weight-only-dequant",),
        lambda p: compiled(quantised(p.llama(), "Float8WeightOnlyConfig")),
    ),
    "flux-eager": (("not-compiled",), lambda p: quantised(p.flux())),
    "llama-eager": (("not-compiled",), lambda p: quantised(p.llama())),
    "llama-half-compiled": (("partial-compile",), lambda p: compiled(quantised(p.llama()), 2)),
    "llama-mlp-left-out": (("fp8-partial-coverage",), lambda p: compiled(quantised(p.llama(), keep="mlp"))),
    "flux-one-block-left-out": (("fp8-partial-coverage",), lambda p: compiled(quantised(p.flux(), keep=r"^1\."))),
    "llama-odd-sizes": (("dims-not-multiple-of-16",), odd),
    "llama-misaligned": (("misaligned-pointer",), lambda p: misaligned(compiled(quantised(p.llama())))),
    "flux-lora": (("lora-unfused",), lambda p: with_lora(p.flux())),
    "flux-lora-on-storage": (("lora-on-fp8", "storage-only-fp8"), lambda p: with_lora(layerwise(p.flux()))),
    "llama-eager-attention": (("attention-backend-slow",), lambda p: attention_by(p.llama(), "eager")),
    "llama-fp32": (("attention-backend-slow", "fp8-without-bf16-autocast"), lambda p: p.llama(torch.float32)),
    "llama-item-a-block": (("host-sync-in-step",), lambda p: hooked(p.llama(tokens=2048, layers=8), look)),
    "llama-graph-breaks": (("graph-break-recompile",), lambda p: breaking(quantised(p.llama(tokens=512)))),
    "llama-offloaded": (("vram-offload-dominates",), lambda p: offloaded(p.llama())),
    "llama-host-asleep": (("host-stall",), lambda p: asleep(compiled(p.llama()))),
    "llama-16-tokens": (("small-shapes", "not-compiled"), lambda p: quantised(p.llama(tokens=16))),
    "train-fp8-eager": (("not-compiled",), lambda p: train(p.llama(layers=2))),
    "train-fp8-in-fp32": (
        ("fp8-without-bf16-autocast",),
        lambda p: train(compiled(p.llama(torch.float32, layers=2, tokens=2048))),
    ),
    "te-small-layers": (("small-shapes",), lambda p: engine(p, 1024, 1024)),
    "te-microbatches": (("weight-requantized-every-microbatch",), lambda p: engine(p, 16_384, 2048, passes=8)),
    "te-without-autocast": (("fp8-silently-not-applied",), lambda p: engine(p, 8192, 8192, fp8=False)),
}
HEALTHY: dict[str, Callable[[Place], Asked]] = {
    "llama-bf16": lambda p: p.llama(),
    "llama-bf16-compiled": lambda p: compiled(p.llama()),
    "llama-fp8-compiled": lambda p: compiled(quantised(p.llama())),
    "flux-bf16": lambda p: p.flux(),
    "flux-bf16-compiled": lambda p: compiled(p.flux()),
    "flux-fp8-compiled": lambda p: compiled(quantised(p.flux())),
    "flux-lora-fused": lambda p: with_lora(p.flux(), fused=True),
    "train-bf16-compiled": lambda p: train(compiled(p.llama(layers=2)), None),
    "train-fp8-compiled": lambda p: train(compiled(p.llama(layers=2))),
    "te-wide-layers": lambda p: engine(p, 8192, 16_384),
}


def examined(make: Callable[[Place], Asked], place: Place, try_for_s: float) -> tuple[Any, float]:
    """The report on a model, and the seconds that it took with building."""
    torch._dynamo.reset()
    began = time.monotonic()
    asked = make(place)
    report = fp8doctor.examine_model(asked.model, asked.inputs, asked.step, try_for_s=try_for_s)
    del asked
    if place.device == "cuda":
        torch.cuda.empty_cache()
    return report, time.monotonic() - began


def main() -> int:
    """Examine what was asked for; 1 if something was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[*FAULTS, *HEALTHY], default=[*FAULTS, *HEALTHY])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--try-for", type=float, default=0.0, metavar="S", help="what else is tried on each model")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    place = Place("cpu", True) if asked.small else Place("cuda", False)
    missed = 0
    print("| model | first finding | as planted | ms a step | s |\n|---|---|---|---|---|", flush=True)
    for name in asked.only:
        causes, make = FAULTS.get(name) or ((), HEALTHY[name])
        try:
            report, took_s = examined(make, place, asked.try_for)
        except Exception:
            missed = 1
            print(f"| {name} | could not be examined | no | | |\n{traceback.format_exc(limit=-3)}", flush=True)
            continue
        first = report.findings[0] if report.findings else None
        warned = [f for f in report.findings if f.severity.value != "info"]
        right = first is not None and first.name in causes if causes else not warned
        missed |= not right
        said = f"{first.severity.value} {first.id} {first.name}: {first.title}" if first else "nothing"
        run = report.facts["model"]["run"] or {}
        step_ms = (run.get("step_ms") or {}).get("median")
        error = f" ({run['error']})" if run.get("error") else ""
        print(f"| {name} | {said}{error} | {'yes' if right else 'NO'} | {step_ms} | {took_s:.0f} |", flush=True)
        if not right:
            print(
                "\n".join(f"    {f.severity.value} {f.id} {f.name}: {f.title}" for f in report.findings[:5]), flush=True
            )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
