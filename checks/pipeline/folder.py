"""Which pipeline lies in a folder, and is it whole? Read without importing anything that its files name.

A folder may come from anywhere. Nothing in it is run: no Python file of its own (diffusers would take it for a class
of the pipeline: pipelines/pipeline_loading_utils.py, `get_class_obj_and_candidates`), and no pickle.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fp8doctor.checks.workload.config_file import NoModelError, json_object

INDEX = "model_index.json"
# The part that is called at every step (diffusers' pipelines call it by one of these names).
DENOISERS = ("transformer", "unet")
# Endings of files that torch.load reads, which may run what is in them.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# "diffusion_pytorch_model.safetensors", with ".fp16" before the ending or the shard's number for a variant.
_WEIGHTS = re.compile(r"[\w-]+?(?:\.(?P<variant>\w+))?(?:-\d{5}-of-\d{5})?\.safetensors")


class NoPipelineError(Exception):
    """The folder holds no pipeline that can be measured, and why, in words for a report."""


@dataclass(frozen=True)
class PipelineFolder:
    """A pipeline as it lies on the disk."""

    path: Path
    class_name: str
    # Name of each part -> its library and class.
    parts: dict[str, tuple[str, str]] = field(default_factory=dict)
    denoiser: str = DENOISERS[0]
    # The release of diffusers that wrote it.
    written_by: str | None = None
    # The variant of the weights ("fp16") where there are no plain ones.
    variant: str | None = None


def read_folder(folder: str | Path) -> PipelineFolder:
    """Read what pipeline a folder holds.

    Args:
        folder: as `DiffusionPipeline.save_pretrained` writes it: model_index.json and a folder for each part.

    Raises:
        NoPipelineError: if it is none, a part of it is missing, or it could only be loaded by running code of its own.
    """
    path = Path(folder)
    index = _index(path)
    name = index.get("_class_name")
    if own := next(iter(sorted(path.rglob("*.py"))), None):
        raise NoPipelineError(f"it holds code of its own ({own.relative_to(path)}), which is not run")
    if not isinstance(name, str):
        raise NoPipelineError(f'{INDEX} names no class of diffusers ("_class_name")')
    parts = dict(_parts(index))
    denoiser = next((part for part in DENOISERS if part in parts), None)
    if denoiser is None:
        raise NoPipelineError(f"{name} has neither a transformer nor a unet among its parts")
    variants = {_variant_of(path / part, part) for part in parts}
    if _json(path / denoiser / "config.json").get("quantization_config"):
        raise NoPipelineError(f"its {denoiser} is quantised already; BF16 cannot be had from it")
    written_by = index.get("_diffusers_version")
    return PipelineFolder(
        path=path,
        class_name=name,
        parts=parts,
        denoiser=denoiser,
        written_by=written_by if isinstance(written_by, str) else None,
        variant=next((variant for variant in sorted(filter(None, variants))), None),
    )


def _index(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise NoPipelineError("there is no such folder")
    if not (path / INDEX).is_file():
        raise NoPipelineError(f"it has no {INDEX}, which every pipeline of diffusers has")
    try:
        return json_object(path / INDEX)
    except NoModelError as error:
        raise NoPipelineError(str(error)) from error


def _parts(index: dict[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Parts stand in the index as [library, class]; those that were left out as [null, null]."""
    for name, value in index.items():
        if not name.startswith("_") and isinstance(value, list) and len(value) == 2:
            library, cls = value
            if isinstance(library, str) and isinstance(cls, str):
                if not name.isidentifier():
                    raise NoPipelineError(f"{INDEX} names a part {name!r}")
                yield name, (library, cls)


def _json(file: Path) -> dict[str, Any]:
    try:
        return json_object(file)
    except NoModelError as error:
        raise NoPipelineError(f"its {file.parent.name} cannot be read: {error}") from error


def _variant_of(folder: Path, part: str) -> str | None:
    """The variant of a part's weights where it has no plain ones; of a part without weights, None."""
    if not folder.is_dir():
        raise NoPipelineError(f"its part {part} is missing: there is no folder of that name")
    files = sorted(file.name for file in folder.iterdir())
    found = [match for file in files if (match := _WEIGHTS.fullmatch(file))]
    pickles = [file for file in files if file.endswith(PICKLES)]
    if not found and pickles:
        raise NoPipelineError(
            f"the weights of its {part} are a pickle ({pickles[0]}), which can run code when it is loaded; load it "
            "where you trust it and save it again as safetensors: pipe.save_pretrained(folder)"
        )
    # Models have a config.json; schedulers, tokenizers and image processors call theirs otherwise.
    if not found and "config.json" in files:
        raise NoPipelineError(f"its {part} has no weights (no .safetensors file)")
    for index in (file for file in files if file.endswith(".safetensors.index.json")):
        shards = _json(folder / index).get("weight_map")
        named = {shard for shard in shards.values() if isinstance(shard, str)} if isinstance(shards, dict) else set()
        if missing := sorted(named - set(files)):
            raise NoPipelineError(f"its {part} lacks {missing[0]}")
    variants = {match["variant"] for match in found}
    return None if None in variants else min(variants, default=None)
