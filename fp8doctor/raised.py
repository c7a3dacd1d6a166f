"""How is an exception of an examined package told, so that the line says what happened and no more?

Only the standard library is imported here: this module also runs inside the examined environment.
"""

from __future__ import annotations

import re

# What torch appends to every error of CUDA (c10/cuda/CUDAMiscFunctions.cpp, CUDAException.cpp); the same words each
# time, longer than the error.
_APPENDED = re.compile(
    r"\n(?:Search for `\w*' in https://docs\.nvidia\.com/|CUDA kernel errors might be asynchronously reported"
    r"|For debugging consider passing CUDA_LAUNCH_BLOCKING|Compile with `TORCH_USE_CUDA_DSA`)[^\n]*"
)


def in_words(error: BaseException, longest: int = 2000) -> str:
    """Type and text of an error; the type alone where its text cannot be had.

    Args:
        error: what was raised.
        longest: characters after which the text is cut.
    """
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # its text is the package's own code too
        return name
    return f"{name}: {_APPENDED.sub('', text)}".strip().rstrip(": ")[:longest]
