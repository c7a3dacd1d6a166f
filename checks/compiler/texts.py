"""Literal messages of Triton, Inductor and compilers that settle a rule, and the rules that only a message settles."""

from __future__ import annotations

from fp8doctor.model import ErrorText, NotApplicable, Severity
from fp8doctor.registry import rule

_READ_ONLY = NotApplicable("only a message shows it, and none was read that does")


@rule("CMP012", "graph-break-recompile", Severity.WARNING, scope="usage")
def recompile_limit() -> NotApplicable:
    """A compiled function was recompiled too often and runs eagerly since.

    What it means: torch.compile made a new graph for every new shape or value that a graph was bound to, until its
    limit (8 by default). From then on that function is run as it stands in Python.

    Why it costs time: the quantisation of FP8 layers is fast where it is fused; eagerly it costs more than the FP8
    product gains.

    What to do: read "last reason" below the message. Mark sizes that change as dynamic (torch.compile(dynamic=True),
    torch._dynamo.mark_dynamic), pad to few sizes, or raise torch._dynamo.config.recompile_limit if there are few more.

    Sources: torch/_dynamo/convert_frame.py (cache_size_limit was the name before recompile_limit); vllm-project/
    vllm#27178, NVIDIA/TransformerEngine#705.
    """
    return _READ_ONLY


@rule("CMP013", "cuda-toolkit-mismatch", Severity.ERROR, scope="box")
def other_toolkit() -> NotApplicable:
    """An extension is built with a CUDA toolkit that does not fit.

    What it means: the nvcc that is found first is of another CUDA than torch was built with, or older than FP8 or than
    this GPU: cuda_fp8.h came with CUDA 11.8, and an nvcc knows the architectures of its time. Libraries that compile
    while they run (FlashInfer, in vLLM and SGLang) meet it as well.

    Why it costs time: the extension is not built, and the program stops or falls back to slower kernels.

    What to do: install the toolkit of torch's own CUDA (torch.version.cuda), and let CUDA_HOME and PATH lead to it.

    Sources: torch/utils/cpp_extension.py; flashinfer-ai/flashinfer#514 (headers before 11.8), sgl-project/sglang#5389,
    NVIDIA/TransformerEngine#553.
    """
    return _READ_ONLY


_TOOLKIT = "export CUDA_HOME=/usr/local/cuda PATH=/usr/local/cuda/bin:$PATH; nvcc --version"

ERROR_TEXTS = (
    ErrorText(
        r"Cannot find a working triton installation|ModuleNotFoundError: No module named 'triton'"
        # The second line of torch/utils/flop_counter.py, and people's words.
        r"|^(?!.*\b(?i:if|whether|unless)\b).*\b[Tt]riton (?:package |installation )?(?:is )?not (?:found|installed)\b",
        "CMP001",
        "Install the Triton that this torch names among its requirements.",
        title="torch.compile finds no Triton that works",
    ),
    ErrorText(
        r"Failed to find C compiler\. Please specify via CC environment variable",
        "CMP003",
        "Install gcc, or set CC to the path of a C compiler.",
        "sudo apt-get install -y gcc libc6-dev",
    ),
    ErrorText(
        r"No such file or directory: '(?:/usr/bin/)?(?:gcc|cc|clang)'|\b(?:gcc|clang|g\+\+): (?:command )?not found",
        "CMP003",
        "Install gcc, or set CC to the path of a C compiler.",
        "sudo apt-get install -y gcc g++ libc6-dev",
    ),
    ErrorText(
        r"fatal error: '?std(io|def|lib|bool)\.h'?( file not found|: No such file or directory)",
        "CMP003",
        "The C compiler lacks its own headers: reinstall it together with the C library's.",
        "sudo apt-get install --reinstall -y gcc libc6-dev",
        title="The C compiler does not find its own headers",
    ),
    ErrorText(
        r"Compiler: cl is not found\.|Failed to find (?:MSVC|Windows SDK)"
        r"|Microsoft Visual C\+\+ 14\.0 or greater is required",
        "CMP003",
        "On Windows, start from a Visual Studio developer prompt, so that cl.exe is found.",
    ),
    ErrorText(
        r"fatal error: '?Python\.h'?( file not found|: No such file or directory)"
        r"|\b[Mm]issing [Pp]ython (?:headers|include files|development headers)",
        "CMP004",
        "Install the development headers of the very Python that runs this program.",
        title="Python's C headers are missing, and an extension is compiled against them",
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
        title="The GPU is too old for Triton",
    ),
    ErrorText(
        r"libcuda\.so cannot found!",
        "CMP007",
        "Triton finds the driver's library through ldconfig: refresh its list, or set TRITON_LIBCUDA_PATH to the "
        "folder that holds libcuda.so.1.",
        "sudo ldconfig",
        title="Triton does not find the driver's library libcuda.so.1",
    ),
    # triton-lang/triton#8539; an architecture that FP8 runs on and this ptxas does not know yet.
    ErrorText(
        r"ptxas(-blackwell)? fatal\s*: Value 'sm_(89|9\d|1\d\d)[af]?' is not defined for option 'gpu-name'",
        "CMP007",
        "Triton's ptxas is older than this GPU: update torch and Triton, or let TRITON_PTXAS_PATH name that of a newer"
        " CUDA toolkit.",
        "export TRITON_PTXAS_PATH=/usr/local/cuda/bin/ptxas",
        title="The ptxas that is called does not know this GPU's architecture",
    ),
    ErrorText(
        r"torch\._dynamo hit config\.(recompile_limit|cache_size_limit) \(\d+\)",
        "CMP012",
        "Mark the sizes that change as dynamic, or pad to few sizes; the message's last reason names them.",
    ),
    ErrorText(
        r"The detected CUDA version \([\d.]+\) mismatches the version that was used to compile",
        "CMP013",
        "Install the CUDA toolkit of torch.version.cuda and let CUDA_HOME lead to it.",
        _TOOLKIT,
    ),
    ErrorText(
        r"\bnvcc\b.{0,40}\b(?:mismatch(?:es)?|differs from|does not match)\b.{0,40}\btorch",
        "CMP013",
        "Install the CUDA toolkit of torch.version.cuda and let CUDA_HOME lead to it.",
        _TOOLKIT,
    ),
    ErrorText(
        r"fatal error: '?cuda_fp8\.h(pp)?'?( file not found|: No such file or directory)",
        "CMP013",
        "The CUDA headers that are found are older than 11.8, or incomplete: let CUDA_HOME lead to a newer toolkit.",
        _TOOLKIT,
    ),
    ErrorText(
        r"nvcc fatal\s*: Unsupported gpu architecture 'compute_(89|9\d|1\d\d)[af]?'",
        "CMP013",
        "This nvcc is older than the GPU: install a newer CUDA toolkit and let CUDA_HOME lead to it.",
        _TOOLKIT,
    ),
)
