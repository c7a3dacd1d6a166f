"""Record profiler traces with one known cause each, small enough to keep: two blocks, three steps.

python -m benchmarks.record_traces FOLDER [--only NAME ...] [--small]

Each situation is a Llama-like model of true width that does one thing wrong, or none. `--small` takes a narrow model
and the CPU, to see that all of it runs. A situation that this box cannot run is told and left out; exits 1 then.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import re
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812
from torch.profiler import ProfilerActivity, profile, schedule

from fp8doctor.checks.transformer_engine.cudnn import keep_torchs_cudnn
from fp8doctor.checks.workload.language_model import LanguageModelConfig, language_model

STEPS = 3
WARM_UPS = 4
TRUE = LanguageModelConfig(width=4096, layers=2, heads=32, kv_heads=8, hidden=14_336, vocabulary=4096)
SMALL = LanguageModelConfig(width=64, layers=2, heads=4, kv_heads=2, hidden=128, vocabulary=64)
DEEP = LanguageModelConfig(width=2048, layers=8, heads=16, kv_heads=4, hidden=7168, vocabulary=4096)
NARROW_TE, WIDE_TE, WIDEST_TE = 1024, 8192, 16_384
TOKENS = 4096
LORA_RANK = 16
MICRO_BATCHES = 8

Step = Callable[[], Any]


@dataclass(frozen=True)
class Place:
    """Where and how large."""

    device: str
    config: LanguageModelConfig

    def model(self, dtype: torch.dtype = torch.bfloat16, **changed: Any) -> Any:
        """A model with seeded random weights, for inference."""
        torch.manual_seed(0)
        config = LanguageModelConfig(**{**vars(self.config), **changed})
        with torch.device(self.device):
            return language_model(config).to(dtype).eval()

    def deep(self) -> Place:
        """More blocks, narrower."""
        return self if self.device == "cpu" else Place(self.device, DEEP)

    def tokens(self, count: int = TOKENS, batch: int = 1) -> torch.Tensor:
        """Seeded tokens, (batch, count)."""
        torch.manual_seed(1)
        count = count if self.device == "cuda" else min(count, 64)
        return torch.randint(0, self.config.vocabulary, (batch, count), device=self.device)


def forward(place: Place, model: Any, count: int = TOKENS) -> Step:
    """One forward without gradients."""
    tokens = place.tokens(count)

    def step() -> Any:
        with torch.no_grad():
            return model(tokens)

    return step


def rowwise(model: Any, wanted: Callable[[str], bool] = lambda name: "blocks" in name) -> Any:
    """torchao's dynamic FP8 with a scale a row, in the layers that `wanted` names."""
    q = importlib.import_module("torchao.quantization")
    config = q.Float8DynamicActivationFloat8WeightConfig(granularity=q.PerRow(), set_inductor_config=False)
    q.quantize_(model, config, lambda module, name: isinstance(module, torch.nn.Linear) and wanted(name))
    return model


def compiled(model: Any) -> Any:
    """Each block compiled."""
    for block in model.blocks:
        block.compile()
    return model


def te_layers(place: Place, width: int, tokens: int, microbatches: int = 1) -> Step:
    """Two te.Linear layers trained on the micro-batches of one step, their weights cast at each."""
    keep_torchs_cudnn()
    te = importlib.import_module("transformer_engine.pytorch")
    recipe = importlib.import_module("transformer_engine.common.recipe").Float8CurrentScaling()
    autocast = partial(te.autocast, enabled=True, recipe=recipe)
    layers = torch.nn.Sequential(
        *(te.Linear(width, width, bias=False, params_dtype=torch.bfloat16, device=place.device) for _ in range(2))
    )
    x = torch.randn(tokens, width, device=place.device, dtype=torch.bfloat16, requires_grad=True)

    def step() -> None:
        layers.zero_grad(set_to_none=True)
        for _ in range(microbatches):
            with autocast():
                y = layers(x)
            y.sum().backward()

    return step


def attention_with(place: Place, model: Any, attend: Callable[..., Any]) -> Step:
    """The model with another function in the place of torch's attention."""
    step = forward(place, model)

    def changed() -> Any:
        own = F.scaled_dot_product_attention
        F.scaled_dot_product_attention = attend
        try:
            return step()
        finally:
            F.scaled_dot_product_attention = own

    return changed


def in_fp32(q: Any, k: Any, v: Any, **more: Any) -> Any:
    """Attention computed in FP32, as a model that casts its queries does."""
    return torch.ops.aten.scaled_dot_product_attention(q.float(), k.float(), v.float(), **more).to(v.dtype)


def by_hand(q: Any, k: Any, v: Any, *, enable_gqa: bool = False, **_: Any) -> Any:
    """Attention as three operations: scores, softmax, sum."""
    if enable_gqa:
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    return scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v


def with_lora(model: Any) -> Any:
    """A LoRA beside each linear layer of the blocks, computed at every call."""

    def beside(layer: Any) -> None:
        down = torch.randn(LORA_RANK, layer.in_features, device=layer.weight.device, dtype=layer.weight.dtype) * 0.01
        up = torch.randn(layer.out_features, LORA_RANK, device=layer.weight.device, dtype=layer.weight.dtype) * 0.01
        layer.register_forward_hook(lambda module, args, output: output + (args[0] @ down.T) @ up.T)

    for module in model.blocks.modules():
        if isinstance(module, torch.nn.Linear):
            beside(module)
    return model


def with_item(model: Any) -> Any:
    """A value is read back to the host after every block."""

    def look(module: Any, args: Any, output: Any) -> None:
        output.abs().max().item()

    for block in model.blocks:
        block.register_forward_hook(look)
    return model


def offloaded(place: Place) -> Step:
    """The weights of every block come from the host at every step."""
    model = place.model()
    held = [{name: p.detach().cpu() for name, p in block.named_parameters()} for block in model.blocks]
    if place.device == "cuda":
        held = [{name: tensor.pin_memory() for name, tensor in block.items()} for block in held]

    def fetch(index: int, block: Any) -> None:
        for name, parameter in block.named_parameters():
            parameter.data = held[index][name].to(place.device, non_blocking=True)

    for index, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda module, args, index=index: fetch(index, module))
    return forward(place, model)


def asleep(place: Place) -> Step:
    """The host waits for its data between steps."""
    step = forward(place, compiled(place.model()))

    def slow() -> Any:
        result = step()
        if place.device == "cuda":
            torch.cuda.synchronize()
        time.sleep(0.02)
        return result

    return slow


def storage_only(place: Place) -> Any:
    """Weights kept in FP8 and cast to BF16 at every call, as a loader does that only saves memory."""
    model = place.model()

    def cast(layer: Any, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, layer.weight_fp8.to(x.dtype))

    for module in model.blocks.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight_fp8 = module.weight.detach().to(torch.float8_e4m3fn)
            module.forward = partial(cast, module)
    return model


def recompiling(place: Place) -> Step:
    """A compiled part that meets another length at every step, told not to generalise."""
    model = place.model(layers=1)
    model.blocks[0].feed_forward.compile(dynamic=False)
    tokens = place.tokens()
    lengths = iter(range(tokens.shape[1], 0, -4))

    def step() -> Any:
        with torch.no_grad():
            return model(tokens[:, : next(lengths)])

    return step


def training(place: Place, dtype: torch.dtype = torch.bfloat16) -> Step:
    """A compiled training step with torchao's FP8 in the blocks' layers; weights in `dtype`, no autocast."""
    float8 = importlib.import_module("torchao.float8")
    model = place.model(dtype).train()
    config = float8.Float8LinearConfig.from_recipe_name("tensorwise")
    float8.convert_to_float8_training(
        model.blocks, config=config, module_filter_fn=lambda module, name: isinstance(module, torch.nn.Linear)
    )
    compiled(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=place.device == "cuda")
    tokens = place.tokens()

    def step() -> None:
        logits = model(tokens)
        F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def as_graph(place: Place, layers: int) -> Step:
    """Compiled FP8 whose launches Inductor keeps in a CUDA graph."""
    return forward(place, torch.compile(rowwise(place.model(layers=layers)), mode="reduce-overhead"), 512)


def weight_only(place: Place) -> Any:
    """FP8 weights that are multiplied in BF16."""
    q = importlib.import_module("torchao.quantization")
    model = place.model()
    config = q.Float8WeightOnlyConfig(set_inductor_config=False)
    q.quantize_(model, config, lambda module, name: isinstance(module, torch.nn.Linear) and "blocks" in name)
    return model


def breaking(place: Place) -> Any:
    """Compiled blocks whose code the compiler cannot hold together."""
    model = rowwise(place.model())
    for block in model.blocks:
        block.attention.register_forward_hook(lambda module, args, output: torch._dynamo.graph_break())
        block.feed_forward.register_forward_hook(lambda module, args, output: torch._dynamo.graph_break())
    return compiled(model)


SITUATIONS: dict[str, Callable[[Place], Step]] = {
    "healthy-bf16": lambda place: forward(place, compiled(place.model())),
    "healthy-fp8": lambda place: forward(place, compiled(rowwise(place.model()))),
    "healthy-fp8-graph": lambda place: as_graph(place, 12),
    "healthy-fp8-training": training,
    "healthy-te": lambda place: te_layers(place, WIDE_TE, 16_384),
    "eager-bf16": lambda place: forward(place, place.model()),
    "eager-fp8": lambda place: forward(place, rowwise(place.model())),
    "short-graph": lambda place: as_graph(place, 2),
    "graph-breaks": lambda place: forward(place, breaking(place)),
    "weight-only": lambda place: forward(place, weight_only(place)),
    "storage-only": lambda place: forward(place, storage_only(place)),
    "recompiling": recompiling,
    "training-in-fp32": lambda place: training(place, torch.float32),
    "te-small-layers": lambda place: te_layers(place, NARROW_TE, 1024),
    "te-microbatches": lambda place: te_layers(place, WIDEST_TE, 2048, MICRO_BATCHES),
    "attention-fp32": lambda place: attention_with(place, place.model(), in_fp32),
    "attention-math": lambda place: attention_with(place, place.model(), by_hand),
    "lora-unfused": lambda place: forward(place, with_lora(place.model())),
    "half-converted": lambda place: forward(place, compiled(rowwise(place.model(), lambda name: "feed" in name))),
    "item-in-every-block": lambda place: forward(place, with_item(place.deep().model())),
    "weights-from-host": offloaded,
    "host-asleep": asleep,
    "sixteen-tokens": lambda place: forward(place, rowwise(place.model()), 16),
}


# Keeping stacks slows the host down, which these would be held by then; the compiler's calls fill megabytes.
WITHOUT_STACKS = ("recompiling", "healthy-fp8-graph", "short-graph", "healthy-te", "te-microbatches", "te-small-layers")


def record(step: Step, file: Path, device: str, *, stacks: bool) -> None:
    """Warm a step up and write the trace of `STEPS` steps, gzipped; `stacks`: with the lines of Python."""
    for _ in range(WARM_UPS):
        step()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(
        activities=activities,
        schedule=schedule(wait=0, warmup=1, active=STEPS),
        record_shapes=True,
        with_stack=stacks,
        on_trace_ready=lambda done: done.export_chrome_trace(str(file.with_suffix(""))),
    ) as profiler:
        for _ in range(1 + STEPS):
            step()
            profiler.step()
    written = file.with_suffix("")
    file.write_bytes(gzip.compress(without_places(written.read_text()).encode(), mtime=0))
    written.unlink()


def without_places(text: str) -> str:
    """The trace without the folders of the machine that it was recorded on."""
    text = re.sub(r'"traceName": "[^"]*"', '"traceName": ""', text)
    return re.sub(r"/[^\s\"\\]*?/(site-packages|lib/python3\.\d+|benchmarks|fp8doctor)/", r"\1/", text)


def main() -> int:
    """Record what was asked for; 1 if something could not be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=sorted(SITUATIONS), default=list(SITUATIONS))
    parser.add_argument("--small", action="store_true")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    place = Place("cpu", SMALL) if asked.small else Place("cuda", TRUE)
    failed = 0
    for name in asked.only:
        torch._dynamo.reset()
        began = time.monotonic()
        try:
            file = asked.folder / f"{name}.json.gz"
            record(SITUATIONS[name](place), file, place.device, stacks=name not in WITHOUT_STACKS)
            print(f"{name}: {file.stat().st_size >> 10} KiB, {time.monotonic() - began:.0f} s", flush=True)
        except Exception:
            failed = 1
            print(f"{name}: {traceback.format_exc(limit=-2)}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
