"""What does `torch.utils.collect_env` say, and vLLM's collect_env, which is built on it, flat or in sections?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from fp8doctor.reading import vllm_env
from fp8doctor.reading.saying import (
    Found,
    Record,
    driver_version,
    gpu,
    merged_packages,
    normalised,
    platform_says,
    say_torch,
    stated,
    torch_version,
    version,
    yes,
)

# The keys of its header, by their lower-case text; vLLM's sections pad them before the colon.
FIRST = "pytorch version"
KEYS = frozenset(
    (
        *(FIRST, "is debug build", "cuda used to build pytorch", "rocm used to build pytorch"),
        *("xpu used to build pytorch", "os", "gcc version", "clang version", "cmake version", "libc version"),
        *("python version", "python platform", "is cuda available", "cuda runtime version"),
        *("cuda_module_loading set to", "gpu models and configuration", "nvidia driver version", "cudnn version"),
        *("is xpu available", "hip runtime version", "miopen runtime version", "is xnnpack available"),
        *vllm_env.KEYS,
    )
)
# Keys that no other tool prints, and its list of packages; one of them makes it this report.
_LIST = "[pip3]"
OWN = frozenset(
    (
        *("cuda used to build pytorch", "gpu models and configuration", "rocm used to build pytorch"),
        *("nvidia driver version", _LIST),
    )
)
_KEY = re.compile(r"[ \-*]{0,8}([A-Za-z][\w /?()]{1,44}?) {0,40}: ?(.*)$")
_GPU = re.compile(r" {0,40}GPU (\d{1,3}) ?: ?(.{1,160})$")
_MIG = re.compile(r" {0,16}MIG \S{1,24} {1,24}Device {1,8}\d{1,3}: ?")
_PACKAGE = re.compile(r" {0,8}\[pip3?\] ([A-Za-z0-9][\w.\-]{0,80})==(\S{1,120})")
_CONDA = re.compile(
    r" {0,8}\[conda\] ([A-Za-z0-9][\w.\-]{0,80}) {1,60}(\d\S{0,80})(?: {1,60}(\S{1,80}))?(?: {1,60}(\S{1,200}))?"
)
_VARIABLE = re.compile(r" {0,8}[A-Z][A-Z0-9_]{2,80}=")
_CPU = re.compile(r" {0,8}(Architecture|CPU\(s\)|Model name|Hypervisor vendor|Name)[:=] {0,60}(.{1,120})$")
_CUDA_ERROR = re.compile(r"CUDA initialization: (.{1,300})")
_TRIGGERED = re.compile(r" ?\(Triggered internally at.*$")
# Conda's own builds of Python packages; all else that conda lists is no distribution, or repeats pip's list.
_CONDA_NAMES = {"pytorch": "torch", "torchtriton": "triton"} | {
    name: name for name in ("torchvision", "torchaudio", "numpy", "triton", "torchao", "transformers")
}
# Packages that put another accelerator behind torch's CUDA questions.
_SHIMS = ("torch-npu", "torch-xla", "torch-mlu", "torch-musa", "intel-extension-for-pytorch", "habana-torch-plugin")
# The fields that read "No CUDA" where all of them came back empty (torch/utils/collect_env.py, pretty_str).
_DYNAMIC = ("gpu models and configuration", "nvidia driver version")
_NO_CUDA = "the report says No CUDA: torch starts on no GPU, and neither nvidia-smi nor nvcc answered there"
# What the list of relevant packages is filtered for, so that absence is proof. Source: torch/utils/collect_env.py,
# DEFAULT_PIP_PATTERNS ("torch" matches torchao); triton is among them from 2.0 on.
_PROVABLE = ("triton", "torchao")
# Other names of triton: builds of other publishers.
_TRITONS = ("triton", "pytorch-triton", "pytorch-triton-rocm", "pytorch-triton-xpu", "triton-rocm", "triton-windows")


def blocks(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where each of these reports begins and ends: at its first key, or where a key is said again."""
    start: int | None = None
    seen: set[str] = set()
    for place, line in enumerate(lines):
        key = _LIST if "[" in line and (_PACKAGE.match(line) or _CONDA.match(line)) else _key(line)[0]
        if key is None or key in vllm_env.KEYS:
            continue
        again = key in seen and key in (FIRST, "cuda used to build pytorch", "is cuda available")
        if start is None or again:
            if start is not None and seen & OWN:
                yield start, _end(lines, start, place)
            start, seen = place, set()
        seen.add(key)
    if start is not None and seen & OWN:
        yield start, _end(lines, start, len(lines))


def _end(lines: Sequence[str], start: int, limit: int) -> int:
    """Behind the last line that is surely the report's; what people wrote below it is theirs."""
    for place in range(limit - 1, start, -1):
        line = lines[place]
        listed = line.lstrip().startswith(("[pip", "[conda]"))
        if listed or _key(line)[0] or _GPU.match(line) or _VARIABLE.match(line):
            return place + 1
    return start + 1


def _key(line: str) -> tuple[str | None, str]:
    found = _KEY.match(line)
    if found is None:
        return None, ""
    name = " ".join(found[1].lower().split())
    return (name, found[2]) if name in KEYS else (None, "")


def read(lines: Sequence[str], start: int) -> Found:
    """Read one report; `start` is the number of its first line in the text."""
    found = Found("torch-collect-env", start)
    values: dict[str, str] = {}
    for line in lines:
        key, value = _key(line)
        if key is not None:
            values.setdefault(key, value)
    _torch(found, values)
    _gpus(found, values, lines)
    found.say("driver", version=driver_version(values.get("nvidia driver version")))
    if found.get("driver", "version"):
        found.say("driver", installed=True)
    _machine(found, values, lines)
    _packages(found, lines)
    if FIRST not in values:  # its head is cut off
        say_torch(found, torch_version((found.get("libraries", "installed") or {}).get("torch")))
    vllm_env.read(found, values, lines)
    _conclude(found, values)
    return found


def _torch(found: Found, values: dict[str, str]) -> None:
    said = torch_version(values.get(FIRST))
    if (
        said is None and FIRST in values
    ):  # "N/A": not importable by the Python that ran the report, which may be another
        return
    say_torch(found, said)
    found.say("torch_build", python=version(values.get("python version")))
    cuda = version(values.get("cuda used to build pytorch"))
    hip = version((values.get("rocm used to build pytorch") or "").partition("-")[0])
    if cuda:
        found.say("torch_build", cuda=cuda, accelerator="cuda")
    if hip:
        found.say("torch_build", hip=hip, accelerator="hip")
    if version(values.get("xpu used to build pytorch")) or yes(values.get("is xpu available")):
        found.say("torch_build", accelerator="xpu")
    found.say("torch_build", cuda_available=yes(values.get("is cuda available")))


def _built_for_cpu(found: Found, values: dict[str, str]) -> bool:
    """Neither CUDA nor ROCm is in the build, and nothing says that another accelerator is behind it."""
    build = found.records.get("torch_build", {})
    told = (values.get("cuda used to build pytorch") or "").strip().lower() in ("none", "could not collect")
    other = _is_mac(values) or "abi" in str(build.get("version"))
    return bool(told and build.get("cuda_available") is False and "accelerator" not in build and not other)


def _is_mac(values: dict[str, str]) -> bool:
    told = f"{values.get('os', '')} {values.get('python platform', '')}".lower()
    return "macos" in told or "mac os" in told or "darwin" in told


def _gpus(found: Found, values: dict[str, str], lines: Sequence[str]) -> None:
    told = values.get("gpu models and configuration")
    listed = list(_listed(lines))
    if told is not None and (inside := _GPU.match(told)):
        first = gpu(int(inside[1]), inside[2])
        listed = listed or ([first] if first else [])
    elif not listed and told and stated(told) and (alone := gpu(0, told)):
        # ROCm and old torch: the first GPU without an index, however many there are.
        listed, found.first_gpu_only = [alone], True
    if listed:
        found.say("gpus", gpus=listed, source="nvidia-smi -L in collect_env" if not found.first_gpu_only else "torch")


def _listed(lines: Sequence[str]) -> Iterator[Record]:
    """The GPUs of `nvidia-smi -L`; one that is sliced (MIG) is followed by its slices."""
    record: Record | None = None
    seen: set[int] = set()
    for line in lines:
        if "MIG " in line and record is not None and _MIG.match(line):
            record["mig_enabled"] = True
            continue
        if "GPU " not in line or (match := _GPU.match(line)) is None:
            continue
        index = int(match[1])
        if index in seen:  # another list
            continue
        seen.add(index)
        if record is not None:
            yield record
        record = gpu(index, match[2])
    if record is not None:
        yield record


def _machine(found: Found, values: dict[str, str], lines: Sequence[str]) -> None:
    found.say("machine", os=stated(values.get("os")))
    platform_says(found, values.get("python platform"))
    if found.get("machine", "wsl") and "driver" in found.records:
        found.say("driver", wsl=True)
    keys = {"Architecture": "architecture", "Model name": "cpu", "Name": "cpu"}
    for line in lines:
        if len(line) > 200 or (match := _CPU.match(line)) is None:
            continue
        name, value = match[1], match[2].strip()
        if name == "CPU(s)" and value.isdigit() and len(value) < 6:
            found.say("machine", logical_cpus=int(value))
        elif name == "Hypervisor vendor":
            found.say("machine", virtual_machine=True)
        elif name in keys and not found.get("machine", keys[name]) and not value.isdigit():
            found.say("machine", **{keys[name]: value})
    for line in lines:
        if "CUDA initialization: " in line and (match := _CUDA_ERROR.search(line)):
            found.say("torch_build", cuda_error=_TRIGGERED.sub("", match[1]))
            break


def _packages(found: Found, lines: Sequence[str]) -> None:
    pip = [(match[1], match[2]) for line in lines if "[pip" in line and (match := _PACKAGE.match(line))]
    conda = [match for line in lines if "[conda]" in line and (match := _CONDA.match(line))]
    pairs = list(pip)
    for match in conda:
        name = normalised(match[1])
        if match[4] and "pypi" in match[4].rpartition("/")[2]:
            pairs.append((name, match[2]))
        elif name in _CONDA_NAMES:
            pairs.append((_CONDA_NAMES[name], match[2]))
    packages = merged_packages(pairs)
    if packages:
        found.say("libraries", installed=packages, complete=False)
    _absent(found, packages, dict(pip), lines)


def _absent(found: Found, packages: dict[str, str], pip: dict[str, str], lines: Sequence[str]) -> None:
    """What the list proves not to be there: it is whole, and lists the torch of the header."""
    header = str(found.get("torch_build", "version") or "")
    ended = any(line.lstrip().startswith("[conda]") for line in lines)
    same = pip.get("torch", "").partition("+")[0] == header.partition("+")[0]
    # Triton's own wheels are for Linux, and a build for the CPU has no use for it.
    expected = found.get("machine", "wsl") is not None and found.get("torch_build", "accelerator") in ("cuda", "hip")
    if not (ended and same and header and expected) or header.startswith(("0.", "1.")):
        return
    absent = [name for name in _PROVABLE if name not in packages]
    if any(name in packages for name in _TRITONS):
        absent = [name for name in absent if name != "triton"]
    found.say("libraries", absent=absent)


def _conclude(found: Found, values: dict[str, str]) -> None:
    """What several lines say together."""
    build = found.records.get("torch_build", {})
    shims = any(name in _SHIMS for name in found.get("libraries", "installed") or {})
    if shims and not build.get("cuda"):
        build.pop("accelerator", None)
    elif _built_for_cpu(found, values):
        found.say("torch_build", accelerator="cpu")
    told = {(values.get(key) or "").strip().lower() for key in _DYNAMIC if key in values}
    # "No CUDA" stands where torch starts on no GPU and nvidia-smi and nvcc gave nothing; on a Mac, and where torch is
    # for another vendor's accelerator, that says nothing of GPUs.
    if told == {"no cuda"} and build.get("accelerator") in ("cuda", "cpu") and not _is_mac(values):
        found.say("gpus", gpus=[], source="torch and nvidia-smi", why_none="not-reachable", why_none_detail=_NO_CUDA)
    if build.get("cuda_available") is not False:
        build.pop("cuda_error", None)
    if build.get("accelerator") is None:  # a shim may answer torch's CUDA questions for another accelerator
        build.pop("cuda_available", None)
    found.cut = not ({"gpu models and configuration", "is cuda available"} & values.keys())
