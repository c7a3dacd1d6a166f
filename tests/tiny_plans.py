"""Models of the built-in workloads' classes, so small that a CPU calls them in milliseconds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from fp8doctor.checks.workload.catalogue import FLUX, LLAMA_8B, QWEN_IMAGE, TRAIN_454M, ModelPlan, StepPlan

LM_SIZES: dict[str, Any] = {
    "width": 64,
    "layers": 4,
    "heads": 4,
    "kv_heads": 2,
    "hidden": 128,
    "vocabulary": 96,
}
PREFILL = StepPlan("prefill", "a small prefill", batch=1, sequence=32)
DECODE = StepPlan("decode", "one token for each of 16 sequences", batch=16, sequence=1, context=15)
TINY_LM = replace(LLAMA_8B, name="tiny-lm", config=LM_SIZES, steps=(PREFILL, DECODE))
TINY_TRAIN = replace(
    TRAIN_454M,
    name="tiny-train",
    config={**LM_SIZES, "kv_heads": 4, "fused_qkv": True, "tied": True},
    steps=(StepPlan("train", "a small training step", batch=2, sequence=16, trains=True),),
)
IMAGE = StepPlan("denoise", "a small step", batch=1, sequence=16, text=8)
TINY_FLUX = replace(
    FLUX,
    name="tiny-flux",
    config={
        **FLUX.config,
        "attention_head_dim": 16,
        "axes_dims_rope": (4, 6, 6),
        "joint_attention_dim": 32,
        "num_attention_heads": 2,
        "num_layers": 3,
        "num_single_layers": 5,
        "pooled_projection_dim": 32,
    },
    steps=(IMAGE,),
)
TINY_QWEN = replace(
    QWEN_IMAGE,
    name="tiny-qwen",
    config={
        **QWEN_IMAGE.config,
        "attention_head_dim": 16,
        "axes_dims_rope": (4, 6, 6),
        "joint_attention_dim": 32,
        "num_attention_heads": 2,
        "num_layers": 4,
    },
    steps=(IMAGE,),
)

# config.json of diffusers' and transformers' own, made small.
SD3_JSON = {
    "_class_name": "SD3Transformer2DModel",
    "_diffusers_version": "0.29.0",
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "num_layers": 4,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 32,
    "out_channels": 4,
    "pos_embed_max_size": 64,
}
PIXART_JSON = {
    "_class_name": "PixArtTransformer2DModel",
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 3,
    "cross_attention_dim": 48,
    "caption_channels": 24,
    "sample_size": 128,
    "patch_size": 2,
    "norm_type": "ada_norm_single",
}
WAN_JSON = {
    "_class_name": "WanTransformer3DModel",
    "patch_size": [1, 2, 2],
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 32,
    "freq_dim": 32,
    "ffn_dim": 48,
    "num_layers": 2,
    "rope_max_seq_len": 128,
}
LLAMA_JSON = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 512,
}


def written(folder: Path, content: Any, name: str = "model") -> Path:
    """A config.json in a folder of the model's name."""
    place = folder / name / "config.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(content if isinstance(content, str) else json.dumps(content))
    return place


def small_step(plan: ModelPlan) -> ModelPlan:
    """The plan with few tokens, for being called in earnest."""
    return replace(plan, steps=tuple(replace(s, sequence=16, text=8 if s.text else 0) for s in plan.steps))
