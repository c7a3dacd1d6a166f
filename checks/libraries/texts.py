"""What the loader says when a program meets another CUDA library than it was built for: literal messages and fixes."""

from __future__ import annotations

from fp8doctor.model import ErrorText, NotApplicable, Severity
from fp8doctor.registry import rule

_OTHER_COPY = (
    "See whether it starts without the folders that LD_LIBRARY_PATH adds, and take those out that hold another copy (in"
    " a container keep the one with the driver's libcuda)"
)
_WITHOUT = 'env -u LD_LIBRARY_PATH python -c "import torch"'
ERROR_TEXTS = (
    # libcusparse of torch's wheels loads it by name (pytorch/pytorch#111469, #134929, #140797).
    ErrorText(
        r"(undefined symbol: |symbol )__nvJitLink\w+, version libnvJitLink\.so",
        "LIB008",
        f"{_OTHER_COPY}. Newer releases of torch load their own first.",
        _WITHOUT,
        title="torch cannot be imported: it finds an older libnvJitLink than its own",
    ),
    # pytorch/pytorch#119932, #119072, #186591.
    ErrorText(
        r"libtorch_cuda\.so: undefined symbol: nccl\w+",
        "LIB008",
        f"{_OTHER_COPY}; if it stays, another package has put an older NCCL over torch's: reinstall torch.",
        _WITHOUT,
        title="torch cannot be imported: it finds an older NCCL than its own",
    ),
    # Dao-AILab/flash-attention#208, #631.
    ErrorText(
        r"ImportError: libcudart\.so\.\d[\d.]*: cannot open shared object file",
        "LIB008",
        "Look at the import above it in the traceback: that package was built for another CUDA than torch. Build it for"
        " this torch, or install it in the version for torch's CUDA.",
        'python -c "import torch; print(torch.version.cuda)"',
        title="An extension was built for another CUDA than the one that is installed",
    ),
)


@rule("LIB008", "other-cuda-library", Severity.ERROR, scope="box")
def other_library() -> NotApplicable:
    """A program finds another CUDA library than the one it was built for, or none of that version.

    What it means: libraries of CUDA are found by name when a program starts. A folder in LD_LIBRARY_PATH, or a package
    that brings its own copy, may be found before the one that torch was installed with; its older copy lacks functions.
    An extension that was built for CUDA 11 or 12 asks for that release's runtime by its number.

    Why it costs time: the import fails, and nothing of the package runs.

    What to do: take folders with another copy out of LD_LIBRARY_PATH (in a container keep the one with the driver's
    libcuda); build extensions for the CUDA of the torch that is installed.

    Sources: pytorch/pytorch#111469, #140797, #141063 (later torch loads its own libnvJitLink first), #119932;
    Dao-AILab/flash-attention#208, #631.
    """
    return NotApplicable("only a message shows it, and none was read that does")
