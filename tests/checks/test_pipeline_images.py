"""How far is an image from another, and how is one written down?"""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch


def noise(*, seed: int = 0, size: int = 32) -> Any:
    import torch

    return torch.rand((1, 3, size, size), generator=torch.Generator().manual_seed(seed))


def comparer() -> Any:
    from fp8doctor.checks.pipeline.images import Comparer

    return Comparer()


def test_an_image_is_like_itself() -> None:
    pytest.importorskip("torchmetrics")
    likeness = comparer().likeness(noise(), noise())
    assert likeness.identical is True
    assert likeness.relative_error == 0.0
    assert likeness.ssim == pytest.approx(1.0)
    assert likeness.psnr_db is None  # infinite


def test_psnr_is_what_its_formula_says_and_ssim_sinks() -> None:
    pytest.importorskip("torchmetrics")
    image, reference = (noise() * 0.5 + 0.1).clamp(0, 1), noise() * 0.5
    found = comparer()
    likeness = found.likeness(image, reference)
    assert likeness.identical is False
    # 10 log10(1 / mean square error), of values from 0 to 1, all off by a tenth.
    assert likeness.psnr_db == pytest.approx(20.0, abs=0.01)
    assert likeness.ssim is not None
    assert found.likeness(noise(seed=1), reference).ssim < likeness.ssim < 1.0
    expected = float((image - reference).norm() / reference.norm())
    assert likeness.relative_error == pytest.approx(expected, abs=1e-4)


def test_an_image_smaller_than_the_window_of_ssim_costs_ssim_alone() -> None:
    pytest.importorskip("torchmetrics")
    found = comparer()
    likeness = found.likeness(noise(seed=1, size=4), noise(size=4))
    assert likeness.psnr_db is not None
    assert likeness.ssim is None
    assert found.missing["ssim"]


def test_lpips_without_its_weights_is_not_measured_and_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("torchmetrics")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # no weights lie there, and nothing may be downloaded
    found = comparer()
    assert found.likeness(noise(), noise(seed=1)).lpips is None
    assert "torchvision is not installed" in found.missing["lpips"] or "not on this disk" in found.missing["lpips"]


def test_without_torchmetrics_the_relative_error_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    images = importlib.import_module("fp8doctor.checks.pipeline.images")
    monkeypatch.setattr(images, "find_spec", lambda name: None)
    found = comparer()
    likeness = found.likeness(noise(seed=1), noise())
    assert set(found.missing) == {"psnr_db", "ssim", "lpips"}
    assert "torchmetrics is not installed" in found.missing["ssim"]
    assert (likeness.psnr_db, likeness.ssim, likeness.lpips) == (None, None, None)
    assert likeness.relative_error is not None
    assert math.isfinite(likeness.relative_error)


def test_what_a_pipeline_gives_becomes_a_tensor_and_a_png(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    pillow = pytest.importorskip("PIL.Image")
    from fp8doctor.checks.pipeline.images import as_tensor, save_png

    pixels = np.zeros((1, 8, 12, 3), dtype=np.float32)
    pixels[0, 2, 5] = (1.0, 0.5, 0.0)
    image = as_tensor(pixels)
    assert tuple(image.shape) == (1, 3, 8, 12)
    save_png(image, tmp_path / "a.png")
    written = pillow.open(tmp_path / "a.png")
    assert written.size == (12, 8)
    assert written.getpixel((5, 2)) == (255, 128, 0)
    assert written.getpixel((0, 0)) == (0, 0, 0)
    frames = as_tensor(np.zeros((1, 4, 8, 12, 3), dtype=np.float32))
    assert tuple(frames.shape) == (4, 3, 8, 12)
    with pytest.raises(ValueError, match="the pipeline gave no image"):
        as_tensor(np.zeros((1, 8)))
