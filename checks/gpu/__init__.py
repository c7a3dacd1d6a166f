"""GPUs: which are there, can they multiply FP8 at all, and is anything holding them back?"""

from fp8doctor.checks.gpu.facts import FIRST_FP8, Gpu, GpuProcess, Gpus, architecture, capability
from fp8doctor.checks.gpu.names import capability_by_name, capability_of
from fp8doctor.checks.gpu.peaks import Peak, peak_of

__all__ = [
    "FIRST_FP8",
    "Gpu",
    "GpuProcess",
    "Gpus",
    "Peak",
    "architecture",
    "capability",
    "capability_by_name",
    "capability_of",
    "peak_of",
]
