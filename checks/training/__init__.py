"""Training: does a linear layer's forward and backward gain from FP8 here, and is what it computes right?"""

from fp8doctor.checks.training.facts import Training

__all__ = ["Training"]
