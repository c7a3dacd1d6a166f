"""Broken torches on a box with a GPU: missing, built for something else, too old or new, hidden by other files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.broken_packages import BrokenSite
from tests.broken_packages import Fault as Strike
from tests.ward.fault import Fault, Ground

Plant = Callable[[Ground], None]

TOO_OLD_A_DRIVER = (
    "CUDA initialization: The NVIDIA driver on your system is too old (found version 12020). Please update your GPU"
    " driver by downloading and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx"
)
# What is put behind a stated torch: one that starts on the GPU which it is told of, and cannot compute there.
WITH_GPU = """
from types import ModuleType
_C = SimpleNamespace(_cuda_getArchFlags=lambda: "{archs}")
cuda = SimpleNamespace(
    is_available=lambda: True, init=lambda: None, device_count=lambda: 1, is_initialized=lambda: True,
    get_device_properties=lambda index: SimpleNamespace(
        name="{name}", major={major}, minor={minor}, multi_processor_count=132, total_memory=150 << 30
    ),
)
def ones(*size, device=None):
    raise RuntimeError("{refusal}")
"""
NO_KERNEL_IMAGE = "CUDA error: no kernel image is available for execution on the device"


def faults() -> Iterator[Fault]:
    """The faults of this room."""
    yield _fault("missing", "no torch is installed", "torch-missing", r"install torch", lambda ground: None)
    yield _fault(
        "cpu-build", "torch's real CPU build is installed", "cpu-only-torch", r"--force-reinstall torch",
        lambda ground: ground.real_torch(), real=True, budget_s=30,
    )  # fmt: skip
    yield from _imports_that_fail()
    yield from _halves()
    yield from _ages()
    yield from _cuda_that_does_not_start()
    yield from _files_in_the_way()


def _imports_that_fail() -> Iterator[Fault]:
    extensions: tuple[tuple[Strike, str], ...] = (
        ("undefined-symbol", "its libraries are of two releases: a symbol is undefined"),
        ("segfault", "its import is a segmentation fault"),
        ("abort", "its import aborts"),
        ("exit", "its import ends the process with status 0"),
    )
    for kind, words in extensions:
        yield _fault(f"import-{kind}", words, "torch-broken", "force-reinstall", _extension(kind))
    yield _fault(
        "import-library-missing", "the CUDA library that it loads is not there", "torch-broken", "force-reinstall",
        _torch("import ctypes; ctypes.CDLL('libcudart.so.99')"),
    )  # fmt: skip
    yield _fault(
        "import-system-exit", "its import raises SystemExit", "torch-broken", "force-reinstall",
        _torch("raise SystemExit(7)"),
    )  # fmt: skip
    yield _fault(
        "import-hang", "its import never ends", "torch-broken", r"python -X importtime", _extension("hang"),
        also=("libraries",), budget_s=8,
    )  # fmt: skip
    yield _fault(
        "import-slow", "its import takes half a minute, and there is less time", "torch-broken", r"--budget",
        _torch("import time; time.sleep(30)"), also=("libraries",), budget_s=8,
    )  # fmt: skip


def _halves() -> Iterator[Fault]:
    yield _fault(
        "namespace", "an uninstallation left its empty folder", "torch-missing", r"install torch",
        lambda ground: (ground.site_packages / "torch" / "lib").mkdir(parents=True),
    )  # fmt: skip
    yield _fault(
        "metadata-alone", "pip's records name it and its code is gone", "torch-missing", r"--force-reinstall torch",
        lambda ground: ground.site.metadata("torch", "2.11.0+cu130"),
    )  # fmt: skip
    yield _fault(
        "code-alone", "half of its code is there, and pip has no record of it", "torch-broken", "force-reinstall",
        lambda ground: _write(ground.site.module("torch"), "from torch._C import _initExtension\n"),
    )  # fmt: skip


def _ages() -> Iterator[Fault]:
    old = "sm_37 sm_50 sm_60 sm_70 sm_75 sm_80 sm_86"
    yield _fault(
        "1.13", "torch 1.13, which has no code for Hopper", "arch-not-in-torch", r"install",
        _torch(_on_gpu(old, NO_KERNEL_IMAGE), "1.13.1+cu117", "11.7"),
    )  # fmt: skip
    yield _fault(
        "2.0", "torch 2.0, which knows no FP8 types", "torch-too-old-for-fp8-mm", r"--upgrade torch",
        _torch(_on_gpu(f"{old} sm_90", None), "2.0.1+cu118", "11.8"),
    )  # fmt: skip
    yield _fault(
        "no-code-for-blackwell", "torch for CUDA 12.4 on an RTX 5090", "arch-not-in-torch", r"cu128",
        _torch(
            _on_gpu("sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90", NO_KERNEL_IMAGE, "NVIDIA GeForce RTX 5090", 12),
            "2.6.0+cu124", "12.4",
        ),
        gpu={"name": "NVIDIA GeForce RTX 5090", "cc": "12.0", "cores": 21760, "memory": 32607 << 20},
    )  # fmt: skip
    yield _fault(
        "future", "a torch of the future, in which half of what is asked for has another name", None, "",
        _torch("del version.cuda, cuda.get_arch_list, cuda.is_available, cuda.device_count", "3.4.0", "15.0"),
    )  # fmt: skip


def _cuda_that_does_not_start() -> Iterator[Fault]:
    yield _fault(
        "cuda-raises", "every attribute of torch.cuda raises", "cuda-init-failed", r"torch\.cuda\.init",
        _torch("class _Cuda:\n    def __getattr__(self, name):\n        raise RuntimeError(name)\ncuda = _Cuda()\n"),
    )  # fmt: skip
    yield _fault(
        "cuda-init-raises", "CUDA reports an error that it cannot know", "cuda-init-failed", r"torch\.cuda\.init",
        _torch("def _fail(): raise RuntimeError('CUDA unknown error')\ncuda.is_available = cuda.init = _fail\n"),
    )  # fmt: skip
    yield _fault(
        "cuda-init-hangs", "starting CUDA never ends", "cuda-init-failed", r"torch\.cuda\.init",
        _torch("import time\ncuda.is_available = cuda.init = lambda: time.sleep(300)\n"),
        also=("libraries",), budget_s=8,
    )  # fmt: skip
    yield _fault(
        "cuda-init-segfault", "starting CUDA is a segmentation fault", "cuda-init-failed", r"torch\.cuda\.init",
        _torch("import os\ncuda.is_available = cuda.init = lambda: os.kill(os.getpid(), 11)\n"),
        also=("libraries",),
    )  # fmt: skip
    yield _fault(
        "driver-too-old", "the driver is older than torch's CUDA, and torch says so", "driver-too-old", r"driver",
        _torch(
            f"import warnings\ndef _warn():\n    warnings.warn({TOO_OLD_A_DRIVER!r})\n    return False\n"
            f"def _fail(): raise RuntimeError({TOO_OLD_A_DRIVER!r})\ncuda.is_available, cuda.init = _warn, _fail\n"
        ),
        gpu={"driver": "535.183.01", "cuda": 12020},
    )  # fmt: skip
    yield _fault(
        "gpus-hidden", "CUDA_VISIBLE_DEVICES is empty", "gpu-hidden-by-variable", "unset CUDA_VISIBLE_DEVICES",
        _hidden,
    )  # fmt: skip


def _files_in_the_way() -> Iterator[Fault]:
    yield _fault(
        "python-path", "PYTHONPATH brings another torch, which does not import", "torch-broken", "PYTHONPATH",
        _second_torch,
    )  # fmt: skip
    for name in ("random", "json", "torch"):
        yield _fault(
            f"{name}.py-here", f"the working directory has a file named {name}.py", "torch-missing", "install torch",
            _beside_us(f"{name}.py"),
        )  # fmt: skip
    yield _fault(
        "random.py-in-python-path", "PYTHONPATH has a file named random.py, and torch imports it", "torch-broken",
        r"random\.py", _own_random, also=("libraries", "compiler"),
    )  # fmt: skip
    yield _fault(
        "torch.py-in-python-path", "PYTHONPATH has a file named torch.py", "torch-broken", r"torch\.py",
        _own_torch,
    )  # fmt: skip


def _fault(
    name: str, words: str, first: str | None, fix: str, plant: Plant, *, gpu: dict[str, object] | None = None,
    real: bool = False, also: tuple[str, ...] = (), budget_s: int = 15,
) -> Fault:  # fmt: skip
    """A torch on a box with a GPU, judged by the command itself; Triton is there, so that torch alone is at fault."""

    def planted(ground: Ground) -> None:
        ground.played_gpu(**gpu or {})
        if not real:
            ground.stated_triton()
        plant(ground)

    return Fault(
        name=f"torch-{name}", room="torch", planted=f"torch: {words}", first=first, fix=fix, plant=planted,
        seen_by=("torch_build", *also), bed=None, needs_torch=real, budget_s=budget_s,
    )  # fmt: skip


def _torch(source: str, version: str = "2.11.0+cu130", cuda: str = "13.0") -> Plant:
    return lambda ground: ground.stated_torch(version, cuda, source)


def _extension(kind: Strike) -> Plant:
    def plant(ground: Ground) -> None:
        ground.stated_torch(source="from torch._native import *\n")
        ground.site.extension("torch._native", kind)

    return plant


def _on_gpu(archs: str, refusal: str | None, name: str = "NVIDIA H200", major: int = 9) -> str:
    source = WITH_GPU.format(archs=archs, refusal=refusal, name=name, major=major, minor=0)
    if refusal is None:  # one that adds
        source += "\nclass ones:\n    __init__ = lambda self, *size, device=None: None\n"
        source += "    __add__ = sum = lambda self, *other: self\n    item = lambda self: 16.0\n"
    return source


def _hidden(ground: Ground) -> None:
    ground.stated_torch()
    ground.environment["CUDA_VISIBLE_DEVICES"] = ""


def _second_torch(ground: Ground) -> None:
    ground.stated_torch()
    other = BrokenSite(ground.folder / "other")
    other.folder.mkdir()
    other.metadata("torch", "2.4.0+cu121")
    other.module("torch", "from torch._native import *\n")
    other.extension("torch._native", "undefined-symbol")
    ground.environment["PYTHONPATH"] = str(other.folder)


def _beside_us(name: str) -> Plant:
    return lambda ground: _write(ground.folder / name, "raise RuntimeError('my own file')\n")


def _own_random(ground: Ground) -> None:
    ground.stated_torch(source="import random\nrandom.Random(0)\n")
    _in_python_path(ground, "random.py", "print('my own dice')\n")


def _own_torch(ground: Ground) -> None:
    ground.stated_torch()
    _in_python_path(ground, "torch.py", "import nothing_of_the_kind\n")


def _in_python_path(ground: Ground, name: str, source: str) -> None:
    folder = ground.folder / "mine"
    folder.mkdir()
    _write(folder / name, source)
    ground.environment["PYTHONPATH"] = os.pathsep.join((str(folder), ""))


def _write(file: Path, source: str) -> None:
    (file / "__init__.py" if file.is_dir() else file).write_text(source)
