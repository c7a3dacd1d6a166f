"""A training step that is spread over several GPUs: built in one way and one format, and timed.

Runs in the worker; torch is imported inside.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import replace
from functools import cache
from typing import Any

from fp8doctor.checks.parallel.plan import BF16, DATA, GATHERED, GATHERED_EACH, SHARDED, TENSOR, Case, Sizes
from fp8doctor.checks.torch_build.numerics import relative_error
from fp8doctor.checks.workload.language_model import LanguageModelConfig, language_model
from fp8doctor.measuring.statistics import estimate
from fp8doctor.measuring.stepping import Meter

# Steps before the number of timed ones is chosen.
TRIAL_STEPS = 2
# Of the logits, so many positions are held against BF16's.
COMPARED_POSITIONS = 256
_NORMS = ("attention_norm", "feed_forward_norm")


class Spread:
    """A callable that runs forward and backward once, together with the other ranks of the group."""

    def __init__(self, torch: Any, sizes: Sizes, case: Case, device: Any) -> None:
        self.torch = torch
        self.case = case
        self.gpus = case.gpus
        torch.manual_seed(0)  # every rank has the same model and the same tokens
        self.model = _model(torch, sizes, case, device)
        shape = (1, sizes.tokens + 1)
        tokens = torch.randint(0, sizes.vocabulary, shape, generator=torch.Generator().manual_seed(1)).to(device)
        self.tokens, self.targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        self._convert(emulate=device.type == "cpu")
        self._spread(sizes, device)
        self.logits: Any = None
        self.loss: Any = None

    def __call__(self) -> None:
        """Forward, loss and backward; the gradients of the step before are dropped first."""
        self.model.zero_grad(set_to_none=True)
        if self.case.config == GATHERED:
            from torchao.float8 import precompute_float8_dynamic_scale_for_fsdp

            precompute_float8_dynamic_scale_for_fsdp(self.model)
        logits = self.model(self.tokens)
        self.loss = self.torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), self.targets.flatten())
        self.loss.backward()
        if self.logits is None:
            self.logits = logits[:, -COMPARED_POSITIONS:].detach().float().cpu()

    def _convert(self, *, emulate: bool) -> None:
        """The blocks' linear layers into torchao's, where the format is FP8."""
        if self.case.config == BF16:
            return
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training

        gathered = self.case.config in (GATHERED, GATHERED_EACH)
        config = Float8LinearConfig(enable_fsdp_float8_all_gather=gathered, emulate=emulate)
        convert_to_float8_training(self.model, config=config, module_filter_fn=lambda _, name: "blocks" in name)
        if not any(type(module).__name__ == "Float8Linear" for module in self.model.modules()):
            raise RuntimeError("torchao left the layers as they were")

    def _spread(self, sizes: Sizes, device: Any) -> None:
        """Tensor parallelism before compiling, data parallelism after it: the order of torchtitan's parallelize.py."""
        from torch.distributed.device_mesh import init_device_mesh

        mesh = init_device_mesh(device.type, (self.gpus,))
        if self.case.parallelism == TENSOR:
            _split(self.model, mesh, in_fp8=self.case.config != BF16)
        if sizes.compiled:
            for place, block in enumerate(self.model.blocks):
                self.model.blocks[place] = self.torch.compile(block)
        if self.case.parallelism == SHARDED:
            from torch.distributed.fsdp import fully_shard

            for block in self.model.blocks:
                fully_shard(block, mesh=mesh)
            fully_shard(self.model, mesh=mesh)
        elif self.case.parallelism == DATA:
            from torch.nn.parallel import DistributedDataParallel

            self.model = DistributedDataParallel(self.model)


@cache
def _template(config: LanguageModelConfig) -> Any:
    """The model without weights. Copies share their classes, so that a block that was compiled once stays so."""
    import torch

    with torch.device("meta"):
        return language_model(config).to(torch.bfloat16)


def _model(torch: Any, sizes: Sizes, case: Case, device: Any) -> Any:
    """The whole model with random weights; with tensor parallelism its attention sees the heads of one rank."""
    config = LanguageModelConfig(
        width=sizes.width,
        layers=sizes.blocks,
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        hidden=sizes.hidden,
        vocabulary=sizes.vocabulary,
    )
    model = copy.deepcopy(_template(config))
    if case.parallelism == TENSOR:
        n = case.gpus
        if sizes.kv_heads % n:
            raise RuntimeError(f"{sizes.kv_heads} heads of keys are not currently supported on {n} GPUs")
        share = replace(config, width=sizes.width // n, heads=sizes.heads // n, kv_heads=sizes.kv_heads // n)
        for block, shell in zip(model.blocks, copy.deepcopy(_template(share)).blocks, strict=True):
            for name, layer in list(block.attention.named_children()):
                setattr(shell.attention, name, layer)
            block.attention = shell.attention
    model.to_empty(device=device)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(std=weight.shape[1] ** -0.5)
            else:
                weight.fill_(1.0)
    return model


def _split(model: Any, mesh: Any, *, in_fp8: bool) -> None:
    """Tensor and sequence parallelism: products over the ranks, norms over the tokens, as torchtitan's Llama has it.

    In FP8 activations are cast before they are gathered.
    """
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        PrepareModuleInput,
        PrepareModuleOutput,
        RowwiseParallel,
        SequenceParallel,
        parallelize_module,
    )

    column, row, gather = ColwiseParallel, RowwiseParallel, PrepareModuleInput
    if in_fp8:
        from torchao.float8 import float8_tensor_parallel as fp8

        column, row, gather = fp8.Float8ColwiseParallel, fp8.Float8RowwiseParallel, fp8.PrepareFloat8ModuleInput
    here, everywhere = Shard(1), Replicate()
    parallelize_module(
        model,
        mesh,
        {
            # Every rank looks all tokens up and keeps its own. Gathered rows would come to the compiled block as an
            # AsyncCollectiveTensor, whose gradient it returns as another type (seen with torch 2.13: AttributeError).
            "embedding": PrepareModuleOutput(output_layouts=everywhere, desired_output_layouts=here),
            "norm": SequenceParallel(),
            "output": ColwiseParallel(input_layouts=here, output_layouts=everywhere),
        },
    )
    plan = {
        "attention": gather(input_layouts=(here, None, None), desired_input_layouts=(everywhere, None, None)),
        "feed_forward": gather(input_layouts=(here,), desired_input_layouts=(everywhere,)),
        **{name: SequenceParallel() for name in _NORMS},
        **{f"attention.{name}": column() for name in "qkv"},
        "attention.out": row(output_layouts=here),
        "feed_forward.gate": column(),
        "feed_forward.up": column(),
        "feed_forward.down": row(output_layouts=here),
    }
    for block in model.blocks:
        parallelize_module(block, mesh, plan)


# Of two blocks in FP8 the logits were off by 0.133 on four H200s, however they were spread (benchmarks/RESULTS.md).
MOST_ERROR = 0.3


def timed(meter: Meter, step: Spread, sizes: Sizes, reference: Any) -> tuple[dict[str, Any], Any]:
    """Time the step; the fields of what was measured, and the logits of the first one.

    Every rank takes the same number of steps, by the slowest rank's first ones.
    """
    meter.forget_peak()
    first_s = meter.first(step)
    rough_s = max(meter.first(step) for _ in range(TRIAL_STEPS))
    steps = _agreed(meter, step.gpus, sizes, rough_s)
    began = time.monotonic()
    step_ms = estimate(meter.steps_ms(step, steps))
    ended = time.monotonic()
    fields: dict[str, Any] = {
        "began": began,
        "ended": ended,
        "step_ms": step_ms,
        "first_call_s": round(first_s, 2),
        "tokens": sizes.tokens,
        "loss": round(float(step.loss.detach()), 5),
        "peak_gb": round(meter.peak_bytes() / 1e9, 2) or None,
    }
    error = relative_error(step.logits, reference) if reference is not None else 0.0
    if not math.isfinite(error) or not math.isfinite(fields["loss"]):
        return {**fields, "outcome": "wrong", "error": "the step gives values that are not finite"}, step.logits
    if reference is not None:
        fields["relative_error"] = round(error, 5)
    if error > MOST_ERROR:
        said = f"its logits are off by {error:.2f} of BF16's on one GPU; more than {MOST_ERROR} is no rounding"
        return {**fields, "outcome": "wrong", "error": said}, step.logits
    return fields, step.logits


def _agreed(meter: Meter, gpus: int, sizes: Sizes, rough_s: float) -> int:
    from torch import distributed

    slowest = meter.torch.tensor([rough_s], device=meter.device)
    if gpus > 1:
        distributed.all_reduce(slowest, op=distributed.ReduceOp.MAX)
    return max(sizes.fewest_steps, min(sizes.most_steps, int(sizes.steps_s / max(float(slowest), 1e-6))))
