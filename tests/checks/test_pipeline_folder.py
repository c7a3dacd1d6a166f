"""Which pipeline lies in a folder, and what is missing of it? Seen without a library that could load it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks.pipeline.folder import NoPipelineError, read_folder

INDEX = {
    "_class_name": "FluxPipeline",
    "_diffusers_version": "0.35.1",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return laid_out(tmp_path / "painter")


def laid_out(place: Path) -> Path:
    """A folder as diffusers writes it; the weights are empty files, which nothing here opens."""
    write(place / "model_index.json", INDEX)
    write(place / "scheduler" / "scheduler_config.json", {})
    write(place / "tokenizer" / "tokenizer_config.json", {})
    write(place / "text_encoder" / "config.json", {})
    write(place / "transformer" / "config.json", {"num_layers": 2})
    (place / "text_encoder" / "model.safetensors").touch()
    (place / "transformer" / WEIGHTS).touch()
    return place


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def test_a_whole_folder_is_read(folder: Path) -> None:
    found = read_folder(folder)
    assert (found.class_name, found.denoiser, found.written_by, found.variant) == (
        "FluxPipeline",
        "transformer",
        "0.35.1",
        None,
    )
    assert set(found.parts) == {"scheduler", "text_encoder", "tokenizer", "transformer"}
    assert found.parts["text_encoder"] == ("transformers", "CLIPTextModel")


def test_a_unet_is_a_denoiser_too(folder: Path) -> None:
    write(folder / "model_index.json", {**INDEX, "transformer": [None, None], "unet": ["diffusers", "UNet"]})
    write(folder / "unet" / "config.json", {})
    (folder / "unet" / WEIGHTS).touch()
    assert read_folder(folder).denoiser == "unet"


def test_a_variant_is_taken_where_there_are_no_plain_weights(folder: Path) -> None:
    (folder / "transformer" / WEIGHTS).rename(folder / "transformer" / "diffusion_pytorch_model.fp16.safetensors")
    assert read_folder(folder).variant == "fp16"


def test_plain_weights_beside_a_variant_are_the_ones(folder: Path) -> None:
    (folder / "transformer" / "diffusion_pytorch_model.fp16.safetensors").touch()
    assert read_folder(folder).variant is None


def test_shards_are_weights(folder: Path) -> None:
    sharded(folder)
    assert read_folder(folder).variant is None


def sharded(folder: Path) -> None:
    part = folder / "transformer"
    (part / WEIGHTS).unlink()
    names = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name in names:
        (part / name).touch()
    write(part / f"{WEIGHTS}.index.json", {"weight_map": {"a": names[0], "b": names[1]}})


def gone(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def says(name: str, content: Any) -> Callable[[Path], None]:
    return lambda folder: write(folder / name, content)


def empty_part(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for file in (folder / name).iterdir():
            file.unlink()
        (folder / name).rmdir()

    return change


def pickled(folder: Path) -> None:
    (folder / "text_encoder" / "model.safetensors").rename(folder / "text_encoder" / "pytorch_model.bin")


def without_a_shard(folder: Path) -> None:
    sharded(folder)
    (folder / "transformer" / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (gone("model_index.json"), r"it has no model_index\.json, which every pipeline of diffusers has"),
        (says("model_index.json", '{"_class_name"'), r"model_index\.json is no JSON: "),
        (says("model_index.json", "[]"), r"model_index\.json"),
        (says("model_index.json", {"transformer": ["a", "b"]}), r'names no class of diffusers \("_class_name"\)'),
        (says("model_index.json", {"_class_name": "P"}), "P has neither a transformer nor a unet among its parts"),
        (says("model_index.json", {**INDEX, "../../x": ["a", "b"]}), r"names a part '\.\./\.\./x'"),
        (empty_part("tokenizer"), "its part tokenizer is missing: there is no folder of that name"),
        (says("transformer/config.json", "{"), r"its transformer cannot be read: config\.json is no JSON: "),
        (gone(f"transformer/{WEIGHTS}"), r"its transformer has no weights \(no \.safetensors file\)"),
        (without_a_shard, r"its transformer lacks diffusion_pytorch_model-00002-of-00002\.safetensors"),
        (pickled, r"the weights of its text_encoder are a pickle \(pytorch_model\.bin\), which can run code"),
        (says("transformer/block.py", "1"), r"it holds code of its own \(transformer/block\.py\), which is not run"),
        (says("transformer/config.json", {"quantization_config": {"a": 1}}), "its transformer is quantised already"),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_sentence(change: Callable[[Path], None], why: str, folder: Path) -> None:
    change(folder)
    with pytest.raises(NoPipelineError, match=why) as caught:
        read_folder(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(NoPipelineError, match="there is no such folder"):
            read_folder(place)
