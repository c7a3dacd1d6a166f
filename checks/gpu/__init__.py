"""GPUs: which are there, can they multiply FP8 at all, and is anything holding them back?"""

from fp8doctor.checks.gpu.facts import Gpu, GpuProcess, Gpus, architecture, capability

__all__ = ["Gpu", "GpuProcess", "Gpus", "architecture", "capability"]
