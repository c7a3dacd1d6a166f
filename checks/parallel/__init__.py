"""Several GPUs: what does FP8 keep of its gain on two, four or eight GPUs of this box?"""

from fp8doctor.checks.parallel.facts import Parallel

__all__ = ["Parallel"]
