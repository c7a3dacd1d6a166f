"""torch: does this build have FP8 for this GPU, and is what it computes right?"""

from fp8doctor.checks.torch_build.facts import ScaledGemm, TorchBuild, TorchDevice

__all__ = ["ScaledGemm", "TorchBuild", "TorchDevice"]
