"""What does each GPU of a box do, alone and together with the others, and which is the odd one?"""

from fp8doctor.checks.each_gpu.facts import EachGpu, Link, OneGpu, Rates

__all__ = ["EachGpu", "Link", "OneGpu", "Rates"]
