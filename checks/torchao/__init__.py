"""torchao: does it import here with its kernels, does it quantise a linear layer to FP8, and is the layer right?"""

from fp8doctor.checks.torchao.facts import PackageSearch, QuantizedLinear, Torchao

__all__ = ["PackageSearch", "QuantizedLinear", "Torchao"]
