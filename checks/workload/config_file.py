"""Which model does a local config.json of transformers or diffusers describe?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fp8doctor.checks.workload.catalogue import ModelPlan, StepPlan

# Configuration files have some kilobytes; one of this size is something else.
LARGEST_BYTES = 4 << 20
# How configurations call their number of blocks (transformers' attribute_map names, diffusers' transformers).
DEPTH_KEYS = ("num_hidden_layers", "num_layers", "num_single_layers", "n_layer", "n_layers")
# A prompt of everyday length where the configuration allows it, and a picture of 1024x1024 pixels.
PROMPT_TOKENS, PATCHES, TEXT_TOKENS = 4096, 4096, 256


class NoModelError(Exception):
    """The file describes no model that can be built, and why, in words for a report."""


def read_plan(path: str | Path) -> ModelPlan:
    """The plan of the model that a configuration file describes.

    Args:
        path: a config.json of transformers (with "architectures") or of diffusers (with "_class_name").

    Raises:
        NoModelError: if the file cannot be read, is no JSON object or names no model class.
    """
    path = Path(path)
    config = json_object(path)
    name = path.parent.name if path.name == "config.json" and path.parent.name else path.stem
    if isinstance(config.get("_class_name"), str):
        return _diffusers(name, config)
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures and isinstance(architectures[0], str):
        return _transformers(name, architectures[0], config)
    raise NoModelError(
        f'{path.name} names no model: diffusers writes "_class_name" into it, transformers "architectures"'
    )


def json_object(path: Path) -> dict[str, Any]:
    """What a configuration file says.

    Raises:
        NoModelError: if it cannot be read, is far too large or is no JSON object.
    """
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise NoModelError(f"{path.name} is too large for a configuration file")
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NoModelError(f"{path.name} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise NoModelError(f"{path.name} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise NoModelError(f"{path.name} is no JSON object")
    return found


def _diffusers(name: str, config: dict[str, Any]) -> ModelPlan:
    class_name = config["_class_name"]
    kept = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in config.items()
        if not key.startswith("_") and key != "quantization_config"
    }
    step = StepPlan("denoise", "one denoising step, 4,096 latent patches", 1, PATCHES, text=TEXT_TOKENS)
    return ModelPlan(name, f"{class_name} of {name}", "diffusers", class_name, kept, (step,), _depth_keys(kept))


def _transformers(name: str, class_name: str, config: dict[str, Any]) -> ModelPlan:
    kept = {key: value for key, value in config.items() if key not in ("architectures", "quantization_config")}
    if not isinstance(kept.get("model_type"), str):
        raise NoModelError('the configuration has no "model_type", which transformers needs')
    most = kept.get("max_position_embeddings")
    tokens = min(PROMPT_TOKENS, most) if isinstance(most, int) and most > 0 else PROMPT_TOKENS
    step = StepPlan("prefill", f"a forward of {tokens:,} tokens", 1, tokens)
    return ModelPlan(name, f"{class_name} of {name}", "transformers", class_name, kept, (step,), _depth_keys(kept))


def _depth_keys(config: dict[str, Any]) -> tuple[str, ...]:
    return tuple(key for key in DEPTH_KEYS if isinstance(config.get(key), int) and config[key] > 0)
