"""What is a model's step called with? Random inputs of the true shapes, by class.

Runs in the child; torch is imported inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fp8doctor.checks.workload.catalogue import StepPlan


class UnknownInputsError(Exception):
    """Nobody has written down what a model of this class is called with."""


def inputs(class_name: str, config: dict[str, Any], step: StepPlan, device: Any, dtype: Any) -> dict[str, Any]:
    """Keyword arguments of one forward of a diffusers transformer.

    Args:
        class_name: the class in diffusers.
        config: its configuration, defaults filled in.
        step: `sequence` counts latent patches, `text` the tokens of the prompt.
        device: where the tensors are made.
        dtype: of the floating ones.

    Raises:
        UnknownInputsError: for a class whose inputs are not known here.
    """
    make = DIFFUSERS.get(class_name)
    if make is None:
        raise UnknownInputsError(f"what {class_name} is called with is not known; known are {', '.join(DIFFUSERS)}")
    return {**make(config, step, device, dtype), "return_dict": False}


def _noise(*shape: int, device: Any, dtype: Any) -> Any:
    """Random normal numbers that BF16 can hold, so that the same step in another dtype gets the same."""
    import torch

    return torch.randn(*shape, device=device).to(torch.bfloat16).to(dtype)


def _flux(config: dict[str, Any], step: StepPlan, device: Any, dtype: Any) -> dict[str, Any]:
    import torch

    kind = {"device": device, "dtype": dtype}
    found = {
        "hidden_states": _noise(step.batch, step.sequence, config["in_channels"], **kind),
        "encoder_hidden_states": _noise(step.batch, step.text, config["joint_attention_dim"], **kind),
        "pooled_projections": _noise(step.batch, config["pooled_projection_dim"], **kind),
        "timestep": torch.full((step.batch,), 0.5, **kind),
        "img_ids": _places(torch, *_sides(step.sequence), device),
        "txt_ids": torch.zeros(step.text, 3, device=device),
    }
    if config.get("guidance_embeds"):
        # The model multiplies by 1000: unlike 3500, 4000 is a number that BF16 can hold.
        found["guidance"] = torch.full((step.batch,), 4.0, **kind)
    return found


def _qwen_image(config: dict[str, Any], step: StepPlan, device: Any, dtype: Any) -> dict[str, Any]:
    import torch

    kind = {"device": device, "dtype": dtype}
    rows, columns = _sides(step.sequence)
    return {
        "hidden_states": _noise(step.batch, step.sequence, config["in_channels"], **kind),
        "encoder_hidden_states": _noise(step.batch, step.text, config["joint_attention_dim"], **kind),
        "timestep": torch.full((step.batch,), 0.5, **kind),
        "img_shapes": [[(1, rows, columns)]] * step.batch,
    }


def _sd3(config: dict[str, Any], step: StepPlan, device: Any, dtype: Any) -> dict[str, Any]:
    import torch

    kind = {"device": device, "dtype": dtype}
    patch = config["patch_size"]
    rows, columns = _sides(step.sequence)
    return {
        "hidden_states": _noise(step.batch, config["in_channels"], rows * patch, columns * patch, **kind),
        "encoder_hidden_states": _noise(step.batch, step.text, config["joint_attention_dim"], **kind),
        "pooled_projections": _noise(step.batch, config["pooled_projection_dim"], **kind),
        "timestep": torch.full((step.batch,), 500.0, **kind),
    }


def _pixart(config: dict[str, Any], step: StepPlan, device: Any, dtype: Any) -> dict[str, Any]:
    import torch

    kind = {"device": device, "dtype": dtype}
    patch = config["patch_size"]
    rows, columns = _sides(step.sequence)
    pixels = torch.tensor([[rows * patch * 8.0, columns * patch * 8.0]], **kind).expand(step.batch, 2)
    return {
        "hidden_states": _noise(step.batch, config["in_channels"], rows * patch, columns * patch, **kind),
        "encoder_hidden_states": _noise(step.batch, step.text, config["caption_channels"], **kind),
        "timestep": torch.full((step.batch,), 500.0, **kind),
        "added_cond_kwargs": {"resolution": pixels, "aspect_ratio": torch.ones(step.batch, 1, **kind)},
    }


def _wan(config: dict[str, Any], step: StepPlan, device: Any, dtype: Any) -> dict[str, Any]:
    import torch

    kind = {"device": device, "dtype": dtype}
    frames, height, width = config["patch_size"]
    rows, columns = _sides(step.sequence)
    return {
        "hidden_states": _noise(step.batch, config["in_channels"], frames, rows * height, columns * width, **kind),
        "encoder_hidden_states": _noise(step.batch, step.text, config["text_dim"], **kind),
        "timestep": torch.full((step.batch,), 500, device=device, dtype=torch.int64),
    }


# Checked against the signatures in diffusers 0.40 and by calling each on the meta device (tests/checks).
DIFFUSERS: dict[str, Callable[[dict[str, Any], StepPlan, Any, Any], dict[str, Any]]] = {
    "FluxTransformer2DModel": _flux,
    "QwenImageTransformer2DModel": _qwen_image,
    "SD3Transformer2DModel": _sd3,
    "PixArtTransformer2DModel": _pixart,
    "WanTransformer3DModel": _wan,
}


def _sides(patches: int) -> tuple[int, int]:
    """Rows and columns of the most square picture with that many patches."""
    rows = max(side for side in range(1, math.isqrt(patches) + 1) if patches % side == 0)
    return rows, patches // rows


def _places(torch: Any, rows: int, columns: int, device: Any) -> Any:
    """FLUX's (0, row, column) of each patch."""
    grid = torch.zeros(rows, columns, 3, device=device)
    grid[..., 1] = torch.arange(rows, device=device)[:, None]
    grid[..., 2] = torch.arange(columns, device=device)[None, :]
    return grid.reshape(rows * columns, 3)
