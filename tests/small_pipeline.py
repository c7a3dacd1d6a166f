"""Pipelines of diffusers' own classes with random weights, so small that a CPU draws an image in a moment.

They are saved as a person's pipeline lies on the disk; nothing is downloaded.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

# Words that the tokenizer knows; every other one is unknown to it.
WORDS = ("a", "photograph", "of", "red", "fox", "in", "fresh", "snow", "morning", "light", "cat")
WIDTH = 32


def flux(folder: Path, *, still: bool = False) -> Path:
    """FluxPipeline: CLIP and T5, a transformer of two kinds of blocks, a VAE; an image has 4,096 tokens at any size.

    `still` makes all steps alike, so that a step cache has something to skip.
    """
    import torch

    diffusers, transformers = _libraries()
    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=True,
    )
    if still:
        with torch.no_grad():
            transformer.time_text_embed.timestep_embedder.linear_2.weight.zero_()
            transformer.proj_out.weight.zero_()
            transformer.proj_out.bias.zero_()
    t5 = transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=64, d_model=WIDTH, d_kv=8, d_ff=64, num_layers=1, num_heads=4, feed_forward_proj="gated-gelu"
        )
    )
    pipe = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=_vae(diffusers, latent_channels=4, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=transformers.CLIPTextModel(_clip_config(transformers)),
        tokenizer=_tokenizer(transformers),
        text_encoder_2=t5,
        tokenizer_2=_tokenizer(transformers),
        transformer=transformer,
    )
    return _saved(pipe, folder)


def dit(folder: Path) -> Path:
    """DiTPipeline: no text, a class of pictures; one kind of blocks."""
    import torch

    diffusers, _ = _libraries()
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        sample_size=8,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        activation_fn="gelu-approximate",
    )
    pipe = diffusers.DiTPipeline(transformer=transformer, vae=_vae(diffusers), scheduler=diffusers.DDIMScheduler())
    return _saved(pipe, folder)


def stable_diffusion(folder: Path) -> Path:
    """StableDiffusionPipeline: a UNet, which has no list of like blocks."""
    import torch

    diffusers, transformers = _libraries()
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
    )
    pipe = diffusers.StableDiffusionPipeline(
        unet=unet,
        vae=_vae(diffusers),
        scheduler=diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False),
        text_encoder=transformers.CLIPTextModel(_clip_config(transformers)),
        tokenizer=_tokenizer(transformers),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _saved(pipe, folder)


def _libraries() -> tuple[Any, Any]:
    return importlib.import_module("diffusers"), importlib.import_module("transformers")


def _saved(pipe: Any, folder: Path) -> Path:
    import torch

    pipe.to(torch.bfloat16).save_pretrained(str(folder))
    return folder


def _vae(diffusers: Any, **more: Any) -> Any:
    """Two pixels of an image to one of its latents, each way."""
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=16,
        **more,
    )


def _clip_config(transformers: Any) -> Any:
    return transformers.CLIPTextConfig(
        vocab_size=64,
        hidden_size=WIDTH,
        intermediate_size=64,
        projection_dim=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )


def _tokenizer(transformers: Any) -> Any:
    tokenizers = importlib.import_module("tokenizers")
    vocabulary = {word: i for i, word in enumerate(("<pad>", "</s>", "<unk>", *WORDS))}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=77
    )
