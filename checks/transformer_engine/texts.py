"""What Transformer Engine says when it cannot work, and how its kernels are called.

The literal texts stand in transformer_engine/common/__init__.py, pytorch/__init__.py, pytorch/quantization.py and
pytorch/setup.py of 2.20.2, and in pytorch/fp8.py, pytorch/utils.py and pytorch/__init__.py of 1.13, 2.1 and 2.8.
"""

from __future__ import annotations

import re

from fp8doctor.model import ErrorText, Kernel

# Wheels of the extension that pip built earlier, against another torch, are kept in pip's cache.
REINSTALL = (
    "python -m pip uninstall -y transformer-engine transformer-engine-torch transformer-engine-cu12"
    " transformer-engine-cu13 && python -m pip install --no-cache-dir --no-build-isolation"
    ' "transformer_engine[pytorch]"'
)
UPGRADE_CUDNN = 'python -m pip install -U "nvidia-cudnn-cu13>=9.12"  # nvidia-cudnn-cu12 with a CUDA 12 build of torch'
ONE_CUDNN = (
    "export CUDNN_PATH=$(python -c 'import nvidia.cudnn as c; print(list(c.__path__)[0])');"
    " export CUDNN_HOME=$CUDNN_PATH LD_LIBRARY_PATH=$CUDNN_PATH/lib:$LD_LIBRARY_PATH"
)

# Why an import failed, by what it said; the first hit wins. The library at fault must be Transformer Engine's own: it
# also imports flash-attn, whose missing symbols end its import just as well.
_TE_LIBRARY = r"transformer_engine(?:\S*\.so[^:\s]*|_extensions|_torch):\s*"
_IMPORT_CAUSES = (
    (_TE_LIBRARY + r"undefined symbol:\s*cublas", "cublas-version"),
    (_TE_LIBRARY + r"undefined symbol:\s*cudnn|requires cuDNN [\d.]+ or later", "cudnn-too-old"),
    ("CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED", "cudnn-mixed-libraries"),
    # Symbols that Transformer Engine's own core would have: the two parts are not of one build.
    (_TE_LIBRARY + r"undefined symbol:\s*(nvte_|_ZNK?18transformer_engine)", "te-version-mismatch"),
    (r"Transformer ?Engine package version mismatch", "te-version-mismatch"),
    (_TE_LIBRARY + r"undefined symbol", "abi-mismatch-te"),
    (r"version `(GLIBCXX|CXXABI)_[\d.]+' not found \(required by \S*transformer_engine", "abi-mismatch-te"),
    (
        r"Found empty `transformer-engine` meta package|Could not find TE core package"
        r"|Could not find `transformer[-_]engine|Could not find shared object file for Transformer Engine (torch|core)"
        r"|^StopIteration",
        "te-framework-ext-missing",
    ),
)


def import_cause(error: str) -> str:
    """The name of the cause behind a failed import; "te-import-fails" for one that is not known."""
    return next((cause for pattern, cause in _IMPORT_CAUSES if re.search(pattern, error)), "te-import-fails")


ERROR_TEXTS = (
    ErrorText(
        _TE_LIBRARY + r"undefined symbol(?::\s*|\s+)(?!cublas|cudnn|nvte_|_ZNK?18transformer_engine)\w",
        "TE001",
        "Rebuild the extension against the torch that is installed; remove all parts first, a vendor's copy included.",
        REINSTALL,
    ),
    ErrorText(
        r"version `(GLIBCXX|CXXABI)_[\d.]+' not found \(required by \S*transformer_engine",
        "TE001",
        "Use a libstdc++ at least as new as the one the extension was built with, or rebuild the extension here.",
    ),
    ErrorText(
        r"Found empty `transformer-engine` meta package installed",
        "TE002",
        "Only the meta package is there: install it with its PyTorch part.",
        REINSTALL,
    ),
    ErrorText(r"Could not find TE core package `transformer-engine-cu", "TE002", "The core is missing.", REINSTALL),
    ErrorText(
        r"Could not find shared object file for Transformer Engine (torch|core) lib",
        "TE002",
        "The compiled part is missing in this environment: install Transformer Engine with its PyTorch part.",
        REINSTALL,
    ),
    ErrorText(
        r"Transformer ?Engine package version mismatch",
        "TE003",
        "Bring the meta package, the core and the PyTorch part to one version.",
        REINSTALL,
    ),
    ErrorText(
        r"\b(cudnn|nvrtc|curand|cublas|cudart) shared object not found\.",
        "TE005",
        "Make the CUDA libraries findable: CUDA_HOME, LD_LIBRARY_PATH, or NVIDIA's pip packages.",
    ),
    ErrorText(r"Minimum torch version 2\.1 required", "TE005", "Update torch."),
    ErrorText(r"Transformer Engine requires cuDNN [\d.]+ or later", "TE006", "Update cuDNN.", UPGRADE_CUDNN),
    ErrorText(
        r"Device compute capability 8\.9 or higher required for FP8 execution",
        "GPU001",
        "This GPU has no FP8 tensor cores: use BF16.",
        title="Transformer Engine has no FP8 on GPUs below compute capability 8.9",
    ),
    ErrorText(
        r"Device compute capability 10\.0 or higher required for (MXFP8|NVFP4) execution",
        "TE007",
        "On Ada and Hopper take Float8CurrentScaling or DelayedScaling.",
    ),
    ErrorText(
        r"(?i)MXFP8 \(for all gemm layouts\) is not supported on 12\.?0\+ arch",
        "TE007",
        "On these GPUs take Float8CurrentScaling.",
    ),
    ErrorText(
        r"FP8 block scaled GEMM requires (compute capability 9\.0 or higher|Hopper) and CUDA >= 12\.9",
        "TE007",
        "Float8BlockScaling needs Hopper or newer and a build of torch for CUDA 12.9 or newer;"
        " Float8CurrentScaling works without.",
    ),
    ErrorText(
        r"Cu(blasLt|da) version 12\.1(\.3\.x)? or higher required for FP8 execution on Ada",
        "TE011",
        "Install a build of torch for CUDA 12.4 or newer.",
    ),
    ErrorText(
        r"CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED",
        "TE012",
        "Let all parts of cuDNN come from one place.",
        ONE_CUDNN,
        title="cuDNN could not load one of its parts",
    ),
    ErrorText(
        r"This package needs Torch to build\.",
        "TE013",
        "Build without isolation, so that the build sees the torch it is made for.",
        'python -m pip install --no-build-isolation "transformer_engine[pytorch]"',
    ),
    ErrorText(
        r"DelayedScaling is not supported under torch\.compile",
        "TE014",
        "Take Float8CurrentScaling inside torch.compile, and make the recipe outside the compiled function.",
    ),
    ErrorText(
        r"FP8 execution requires (the product of all dimensions except the last to be|2D input matrices with height)",
        "TE022",
        "Pad the tokens to a multiple of 16 (8 without a backward) and K and N to 16, or leave this layer in BF16.",
        title="Transformer Engine refuses FP8 for a size that is no multiple of 8 or 16",
    ),
    ErrorText(
        r"transformer_engine/\S+:\d+ in function \w+: CUDA Error: no kernel image is available",
        "TE024",
        "Reinstall Transformer Engine from NVIDIA's wheels, or build it with NVTE_CUDA_ARCHS naming this GPU.",
        REINSTALL,
    ),
    ErrorText(_TE_LIBRARY + r"undefined symbol:\s*cublas", "TE015", "Update cuBLAS, and load one copy of it alone."),
)

# The kernels of 2.20.2, as they are called in libtransformer_engine.so; template arguments begin where a name ends.
_IN_TE = r"\btransformer_engine::[\w: ()]*"
KERNELS = (
    Kernel(_IN_TE + "dequantize_", "dequantize"),
    Kernel(_IN_TE + "swizzle", "scale-layout"),
    Kernel(_IN_TE + "amax", "amax"),
    Kernel(_IN_TE + r"(cast_transpose|(quantize|cast)_\w*(fp8|mxfp8|nvfp4|kernel)|block_scaled_[12]d)", "quantize"),
    # Compiled at run time, outside the namespace.
    Kernel(r"\bcast_transpose\w*_kernel", "quantize"),
)
