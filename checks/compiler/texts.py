"""Literal messages of Triton, Inductor and C compilers that settle a rule of this subject."""

from __future__ import annotations

from fp8doctor.model import ErrorText

ERROR_TEXTS = (
    ErrorText(
        r"Cannot find a working triton installation\. Either the package is not installed or it is too old",
        "CMP001",
        "Install the Triton that this torch names among its requirements.",
    ),
    ErrorText(
        r"Failed to find C compiler\. Please specify via CC environment variable",
        "CMP003",
        "Install gcc, or set CC to the path of a C compiler.",
        "sudo apt-get install -y gcc libc6-dev",
    ),
    ErrorText(
        r"fatal error: '?std(io|def|lib|bool)\.h'?( file not found|: No such file or directory)",
        "CMP003",
        "The C compiler lacks its own headers: reinstall it together with the C library's.",
        "sudo apt-get install --reinstall -y gcc libc6-dev",
    ),
    ErrorText(
        r"Compiler: cl is not found\.|Failed to find MSVC",
        "CMP003",
        "On Windows, start from a Visual Studio developer prompt, so that cl.exe is found.",
    ),
    ErrorText(
        r"fatal error: '?Python\.h'?( file not found|: No such file or directory)",
        "CMP004",
        "Install the development headers of the very Python that runs this program.",
    ),
    ErrorText(
        r"The most common reason this may occur is if the .+ folder is mounted with noexec",
        "CMP005",
        "Point TORCHINDUCTOR_CACHE_DIR at a folder from which programs may be run.",
        'export TORCHINDUCTOR_CACHE_DIR="$HOME/.cache/torchinductor"',
    ),
    ErrorText(
        r"which is too old to be supported by the triton GPU compiler",
        "CMP007",
        "Triton needs compute capability 7.0: run without torch.compile on this GPU.",
    ),
    ErrorText(
        r"libcuda\.so cannot found!",
        "CMP007",
        "Triton finds the driver's library through ldconfig: refresh its list, or set TRITON_LIBCUDA_PATH to the "
        "folder that holds libcuda.so.1.",
        "sudo ldconfig",
    ),
)
