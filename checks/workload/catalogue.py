"""The built-in workloads: which model, in which configuration, and what its steps work on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class StepPlan:
    """What one step works on: `batch` items of `sequence` tokens (or latent patches), after `context` cached ones.

    A diffusion step has also `text` tokens beside the latent patches.
    """

    name: str
    title: str
    batch: int
    sequence: int
    context: int = 0
    text: int = 0
    trains: bool = False

    @property
    def tokens(self) -> int:
        """All that the step works on."""
        return self.batch * (self.sequence + self.text)


@dataclass(frozen=True)
class ModelPlan:
    """A model that can be built: its class in `library`, its configuration, and its steps.

    `library` is "diffusers", "transformers" or "fp8doctor" (checks/workload/language_model.py).
    """

    name: str
    title: str
    library: str
    class_name: str
    config: dict[str, Any]
    steps: tuple[StepPlan, ...]
    # The configuration's keys that say how many blocks there are.
    depth_keys: tuple[str, ...] = field(default=("layers",))


# FLUX: black-forest-labs/FLUX.1-dev, transformer/config.json; 1024x1024 pixels are 64x64 patches of 2x2 latents
# (8 pixels each), and T5's text is padded to 512 tokens (diffusers, pipelines/flux/pipeline_flux.py).
FLUX = ModelPlan(
    name="flux",
    title="FLUX.1-dev, one denoising step of a 1024x1024 image",
    library="diffusers",
    class_name="FluxTransformer2DModel",
    config={
        "attention_head_dim": 128,
        "axes_dims_rope": (16, 56, 56),
        "guidance_embeds": True,
        "in_channels": 64,
        "joint_attention_dim": 4096,
        "num_attention_heads": 24,
        "num_layers": 19,
        "num_single_layers": 38,
        "patch_size": 1,
        "pooled_projection_dim": 768,
    },
    steps=(StepPlan("denoise", "one denoising step, 1024x1024", batch=1, sequence=4096, text=512),),
    depth_keys=("num_layers", "num_single_layers"),
)
# Qwen/Qwen-Image, transformer/config.json; patches as FLUX's. Prompts are as long as people write them: 256 tokens are
# a long one.
QWEN_IMAGE = ModelPlan(
    name="qwen-image",
    title="Qwen-Image, one denoising pass of a 1024x1024 image",
    library="diffusers",
    class_name="QwenImageTransformer2DModel",
    config={
        "attention_head_dim": 128,
        "axes_dims_rope": (16, 56, 56),
        "guidance_embeds": False,
        "in_channels": 64,
        "joint_attention_dim": 3584,
        "num_attention_heads": 24,
        "num_layers": 60,
        "out_channels": 16,
        "patch_size": 2,
    },
    steps=(StepPlan("denoise", "one denoising pass, 1024x1024", batch=1, sequence=4096, text=256),),
    depth_keys=("num_layers",),
)
# meta-llama/Llama-3.1-8B, config.json.
_LLAMA_8B = {
    "width": 4096,
    "layers": 32,
    "heads": 32,
    "kv_heads": 8,
    "hidden": 14336,
    "vocabulary": 128256,
    "rope_base": 500_000.0,
}
LLAMA_8B = ModelPlan(
    name="llama-8b",
    title="Llama 3.1 8B, prefill and decode",
    library="fp8doctor",
    class_name="LanguageModel",
    config=_LLAMA_8B,
    steps=(
        StepPlan("prefill", "prefill of 4,096 tokens", batch=1, sequence=4096),
        StepPlan("decode", "one token for each of 16 sequences of 2,048", batch=16, sequence=1, context=2047),
    ),
)
# The sizes of a public report: a model of 24 layers of width 1024 with a SwiGLU of four times its width, which has
# 454 million parameters where 350 million were meant.
TRAIN_454M = ModelPlan(
    name="train-454m",
    title="training a 454M language model",
    library="fp8doctor",
    class_name="LanguageModel",
    config={
        "width": 1024,
        "layers": 24,
        "heads": 16,
        "kv_heads": 16,
        "hidden": 4096,
        "vocabulary": 50304,
        "fused_qkv": True,
        "tied": True,
    },
    steps=(StepPlan("train", "a training step of 4 x 2,048 tokens", batch=4, sequence=2048, trains=True),),
)
TRAIN_8B = ModelPlan(
    name="train-8b",
    title="training 4 layers of Llama 3.1 8B's width",
    library="fp8doctor",
    class_name="LanguageModel",
    config={**_LLAMA_8B, "layers": 4},
    steps=(StepPlan("train", "a training step of 2 x 4,096 tokens", batch=2, sequence=4096, trains=True),),
)

BUILT_IN = {plan.name: plan for plan in (FLUX, QWEN_IMAGE, LLAMA_8B, TRAIN_454M, TRAIN_8B)}
