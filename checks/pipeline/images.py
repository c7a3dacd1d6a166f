"""How far is an image from another, and how is one written down?

Runs in the child; torch, torchmetrics and Pillow are imported inside. Images are torch tensors of float32 on the host,
(number, 3, height, width), values from 0 to 1.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fp8doctor.checks.pipeline.facts import Likeness
from fp8doctor.checks.torch_build.numerics import relative_error

# The network that LPIPS' authors advise for comparing images (richzhang/PerceptualSimilarity, README).
LPIPS_NET = "alex"


class Comparer:
    """Takes the measures of likeness that can be taken here; `missing` says why one cannot."""

    def __init__(self) -> None:
        self.missing: dict[str, str] = {}
        self._lpips: Callable[[Any, Any], Any] | None = None
        if find_spec("torchmetrics") is None:
            why = "torchmetrics is not installed"
            self.missing = {"psnr_db": why, "ssim": why, "lpips": why}
            return
        try:
            self._lpips = _lpips()
        except _MissingError as error:
            self.missing["lpips"] = str(error)
        except Exception as error:  # whatever torchvision or its weights raise costs this measure alone
            self.missing["lpips"] = f"{type(error).__name__}: {error}"[:200]

    def likeness(self, image: Any, reference: Any) -> Likeness:
        """Compare two images of one size."""
        import torch

        error = relative_error(image, reference)
        return Likeness(
            identical=bool(torch.equal(image, reference)),
            psnr_db=self._value("psnr_db", "peak_signal_noise_ratio", image, reference),
            ssim=self._value("ssim", "structural_similarity_index_measure", image, reference),
            lpips=self._perceived(image, reference),
            relative_error=_finite(error),
        )

    def _value(self, name: str, function: str, image: Any, reference: Any) -> float | None:
        if name in self.missing:
            return None
        try:
            measure = getattr(importlib.import_module("torchmetrics.functional.image"), function)
            return _finite(float(measure(image, reference, data_range=1.0)))
        except Exception as error:  # an image smaller than a measure's window, for example
            self.missing[name] = f"{type(error).__name__}: {error}"[:200]
            return None

    def _perceived(self, image: Any, reference: Any) -> float | None:
        if self._lpips is None:
            return None
        try:
            return _finite(float(self._lpips(image, reference)))
        except Exception as error:  # as above
            self.missing["lpips"] = f"{type(error).__name__}: {error}"[:200]
            return None


class _MissingError(Exception):
    """What a measure needs and is not here."""


def _lpips() -> Callable[[Any, Any], Any]:
    """LPIPS with weights that lie on this disk already: torchvision would download them.

    Raises:
        _MissingError: if torchvision or its weights are not here.
    """
    import torch

    if find_spec("torchvision") is None:
        raise _MissingError("torchvision is not installed")
    weights = importlib.import_module("torchvision.models").AlexNet_Weights.IMAGENET1K_V1
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not file.is_file():
        raise _MissingError(f"its network's weights are not on this disk ({file.name}); nothing is downloaded")
    module = importlib.import_module("torchmetrics.image.lpip").LearnedPerceptualImagePatchSimilarity
    measure = module(net_type=LPIPS_NET, normalize=True).eval()

    def perceived(image: Any, reference: Any) -> Any:
        with torch.no_grad():
            return measure(image, reference)

    return perceived


def _finite(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None


def as_tensor(result: Any) -> Any:
    """What a pipeline gave with `output_type="np"` as an image: (number, height, width, 3), of videos the frames.

    Raises:
        ValueError: if it is no image.
    """
    import numpy as np
    import torch

    array = np.asarray(result, dtype=np.float32)
    if array.ndim == 5:  # the frames of the first video
        array = array[0]
    if array.ndim != 4 or array.shape[-1] != 3:
        raise ValueError(f"the pipeline gave no image: {array.shape}")
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


def save_png(image: Any, file: Path) -> None:
    """Write the first of the images as PNG."""
    pillow = importlib.import_module("PIL.Image")
    pixels = (image[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    pillow.fromarray(pixels).save(file)
