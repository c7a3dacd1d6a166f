"""Where did the lines end, in a report whose newlines a bot or an archive turned into spaces?"""

from __future__ import annotations

import re
from itertools import pairwise

# Keys that begin a line in one of the reports. Two of them in one line: its newlines are gone.
KEYS = (
    *("PyTorch version", "Is debug build", "CUDA used to build PyTorch", "ROCM used to build PyTorch"),
    *("XPU used to build PyTorch", "OS", "GCC version", "Clang version", "CMake version", "Libc version"),
    *("Python version", "Python platform", "Is CUDA available", "CUDA runtime version", "CUDA_MODULE_LOADING set to"),
    *("GPU models and configuration", "Nvidia driver version", "cuDNN version", "Is XPU available"),
    *("HIP runtime version", "MIOpen runtime version", "Is XNNPACK available", "CPU", "Model name", "Flags"),
    *("Versions of relevant libraries", "ROCM Version", "Neuron SDK Version", "vLLM Version", "vLLM Build Flags"),
    *("CUDA Archs", "GPU Topology", "Python", "CUDA available", "ROCM available", "CUDA_HOME", "ROCM_HOME", "NVCC"),
    *("HIPCC", "CUDA Driver Version", "CUDA Driver Versions", "ROCM Driver Version", "PyTorch", "NVIDIA Topology"),
    *("AMD Topology", "Hypervisor vendor", "ulimit soft", "sglang", "sgl_kernel", "flashinfer", "flashinfer_python"),
    *("triton", "transformers", "torchao", "numpy", "vllm", "xgrammar"),
    *("Platform", "Huggingface_hub version", "Safetensors version", "Accelerate version", "Accelerate config"),
    *("DeepSpeed version", "PyTorch version (GPU?)", "PyTorch version (accelerator?)", "PyTorch accelerator"),
    *("Tensorflow version (GPU?)", "Using GPU in script?", "GPU type", "Numpy version", "System RAM", "Accelerator"),
)
# Of these one is enough: nobody else writes them, whatever a log collector put in front.
SURE = (
    "PyTorch version:",
    "CUDA used to build PyTorch",
    "GPU models and configuration",
    "Nvidia driver version",
    "Is CUDA available",
)
_KEY = "|".join(re.escape(key) for key in sorted(KEYS, key=len, reverse=True))
# A key, with the bullet of a list before it, and what of a GPU or of a package begins a line of its own.
_ITEMS = r"`(?:transformers|[Aa]ccelerate)` (?:version|default config|bash location)"
_GPU = r"GPU \d{1,3}(?:,\d{1,3}){0,63}(?: Compute Capability)?"
_OTHERS = r"\[(?:pip3?|conda)\] |MIG \S{1,24} {1,24}Device {1,8}\d{1,3}:"
_BEGINNING = re.compile(rf"(?<![\w`])(?:[-*] )?(?:(?:{_KEY}|{_ITEMS}|{_GPU}) {{0,40}}:(?= |$)|{_OTHERS})")
# Those that need no second one: nothing else is written before them.
_PREAMBLE = re.compile(r"(Collecting environment information\.{3}) *(?=\S)")
# The early vLLM report forgot a newline.
_GLUED = re.compile(r"(?<=\S)(?=ROCM Version: )")
# Keys in a shorter line than this are looked at one by one; prose holds one key at most.
LEAST_KEYS = 2
# What a line of a whole report begins with, cheap to ask of every line.
_MARKS = (":", "[pip", "[conda]")


def split_collapsed(lines: list[str]) -> list[str]:
    """The lines, with those taken apart in which several keys of a report stand."""
    found: list[str] = []
    for line in lines:
        if len(line) < 20 or not any(mark in line for mark in _MARKS):
            found.append(line)
            continue
        if "Collecting environment" in line:
            line = _PREAMBLE.sub(r"\1\n", line, count=1)
        if "ROCM Version: " in line:
            line = _GLUED.sub("\n", line, count=1)
        # A report in a JSON string has its newlines spelled.
        if "\\n" in line and len(_BEGINNING.findall(line.replace("\\n", "\n"))) > LEAST_KEYS:
            line = line.replace("\\r\\n", "\n").replace("\\n", "\n").replace("\\t", "    ").replace('\\"', '"')
        for part in line.split("\n"):
            found += _apart(part)
    return found


def _apart(line: str) -> list[str]:
    starts = [match.start() for match in _BEGINNING.finditer(line)]
    if len(starts) < LEAST_KEYS and not (starts and starts[0] and line.startswith(SURE, starts[0])):
        return [line]
    edges = [0, *starts, len(line)] if starts[0] else [*starts, len(line)]
    return [line[a:b].rstrip() for a, b in pairwise(edges)]
