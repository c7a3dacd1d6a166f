"""Faults that need a real GPU: planted beside the command, which is called as a person calls it.

    python -m tests.ward.on_gpu FOLDER [NAME ...]

writes FOLDER/ward.json (what was said of each fault, for docs/ward.md) and FOLDER/reports.json.gz.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.broken_packages import BrokenSite, Fault
from tests.ward.visit import OVER_BUDGET_S, left_running


@dataclass
class Box:
    """What a fault changes: packages in front of the installed ones, the environment, programs that run beside."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    # Programs on the GPU; each says "ready" before the command is called.
    beside: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.site = BrokenSite(self.folder / "site")
        self.site.folder.mkdir()


@dataclass(frozen=True)
class GpuFault:
    """One fault: what is planted, what must come first, what one of its actions must say."""

    name: str
    planted: str
    plant: Callable[[Box], None]
    first: str | None
    fix: str = ""
    arguments: tuple[str, ...] = ("--quick",)
    budget_s: int = 20


@dataclass(frozen=True)
class Said:
    """What the command said of one fault, and how it ended."""

    name: str
    planted: str
    expected: str | None
    fix: str
    first: str | None
    title: str | None
    severity: str | None
    actions: tuple[str, ...]
    headline: str
    findings: tuple[str, ...]
    failed_probes: dict[str, str]
    status: int
    seconds: float
    in_time: bool
    left_running: tuple[str, ...]


def _nothing(box: Box) -> None:
    """Plant nothing: the healthy box that the others are compared with."""


def _variables(**variables: str) -> Callable[[Box], None]:
    return lambda box: box.environment.update(variables)


def _extension(module: str, fault: Fault) -> Callable[[Box], None]:
    def plant(box: Box) -> None:
        distribution = module.replace("_", "-")
        box.site.metadata(distribution, "2.8.3")
        importing = "transformer_engine.pytorch" if module == "transformer_engine" else module
        box.site.break_import(importing, fault)

    return plant


def _flash_attention(kernel: str, call: str) -> Callable[[Box], None]:
    """A FlashAttention 2 whose function launches a kernel of ours."""

    def plant(box: Box) -> None:
        box.site.metadata("flash-attn", "2.8.3")
        source = f"import torch, triton\nimport triton.language as tl\n\n@triton.jit\n{kernel}\n"
        box.site.module("flash_attn", f"{source}\ndef flash_attn_func(q, k, v, **options):\n{call}\n")

    return plant


ILLEGAL = "def touch(p):\n    tl.store(p + (1 << 40), 1.0)\n"
ENDLESS = "def spin(p):\n    v = tl.load(p, volatile=True)\n    while v == 0:\n        v = tl.load(p, volatile=True)\n"

HOLD = """
import sys, time, torch
free, total = torch.cuda.mem_get_info()
held = torch.empty(int(free - {leave_mib} * 2**20), dtype=torch.uint8, device="cuda")
print("ready", flush=True)
time.sleep(600)
"""
COMPUTE = """
import time, torch
time.sleep({after_s})
a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
print("ready", flush=True)
while True:
    for _ in range(20):
        a @ a
    torch.cuda.synchronize()
"""


def _hold(leave_mib: int) -> Callable[[Box], None]:
    return lambda box: box.beside.append(HOLD.format(leave_mib=leave_mib))


def _compute(after_s: float = 0.0) -> Callable[[Box], None]:
    """A program that computes all the time: from before the command, or from `after_s` seconds after it was called."""
    said_early = "print('ready', flush=True)\n" if after_s else ""
    return lambda box: box.beside.append(said_early + COMPUTE.format(after_s=after_s))


def _two_cudnns(box: Box) -> None:
    """The loader is given one part of cuDNN from elsewhere: the system's, or a copy where the system has none."""
    import importlib.util

    name = "libcudnn_graph.so.9"
    system = (Path("/usr/lib/x86_64-linux-gnu", name), Path("/usr/local/cuda/lib64", name))
    foreign = next((path for path in system if path.exists()), None)
    if foreign is None:
        spec = importlib.util.find_spec("nvidia.cudnn")
        places = [Path(place) / "lib" / name for place in (spec.submodule_search_locations if spec else None) or ()]
        foreign = box.folder / name
        foreign.write_bytes(next(place for place in places if place.exists()).read_bytes())
    box.environment["LD_PRELOAD"] = str(foreign)


DEFAULT = ()
FAULTS = (
    GpuFault("healthy", "nothing", _nothing, None, arguments=DEFAULT, budget_s=60),
    GpuFault("flash-attn-undefined-symbol", "flash_attn's extension lacks a symbol of torch",
             _extension("flash_attn", "undefined-symbol"), "abi-mismatch-flash-attn", "--no-build-isolation"),
    GpuFault("transformer-engine-segfault", "importing transformer_engine is a segmentation fault",
             _extension("transformer_engine", "segfault"), "te-import-fails", "install"),
    GpuFault("torchao-abort", "importing torchao aborts", _extension("torchao", "abort"), "torchao-import-fails",
             "install"),
    GpuFault("hidden-empty", 'CUDA_VISIBLE_DEVICES=""', _variables(CUDA_VISIBLE_DEVICES=""),
             "gpu-hidden-by-variable", "unset"),
    GpuFault("hidden-wrong", "CUDA_VISIBLE_DEVICES=7 on a box with fewer GPUs", _variables(CUDA_VISIBLE_DEVICES="7"),
             "gpu-hidden-by-variable", "unset"),
    GpuFault("illegal-access", "FlashAttention writes to an illegal address: the context is lost",
             _flash_attention(ILLEGAL, "    touch[(1,)](q)\n    torch.cuda.synchronize()\n    return q"),
             "flash-attention-fails", "uninstall"),
    GpuFault("memory-none", "another process leaves 300 MiB of memory: out of memory at every shape", _hold(300),
             "gpu-memory-full", "nvidia-smi", arguments=DEFAULT, budget_s=40),
    GpuFault("memory-95-percent", "another process holds 95 % of the memory and waits", _hold(7200),
             None, arguments=DEFAULT, budget_s=60),
    GpuFault("busy", "another process computes all the time", _compute(), "gpu-shared-or-mig", "alone",
             arguments=DEFAULT, budget_s=60),
    GpuFault("busy-later", "another process begins to compute while the doctor times", _compute(25.0),
             "gpu-shared-or-mig", "alone", arguments=DEFAULT, budget_s=60),
    GpuFault("launch-blocking", "CUDA_LAUNCH_BLOCKING=1", _variables(CUDA_LAUNCH_BLOCKING="1"), "env-var-wrong",
             "unset CUDA_LAUNCH_BLOCKING", arguments=DEFAULT, budget_s=60),
    GpuFault("tf32-override-0", "NVIDIA_TF32_OVERRIDE=0", _variables(NVIDIA_TF32_OVERRIDE="0"), None,
             arguments=DEFAULT, budget_s=40),
    GpuFault("cudnn-mixed", "LD_PRELOAD brings one part of cuDNN from another place", _two_cudnns,
             "cudnn-mixed-libraries", "LD_PRELOAD|LD_LIBRARY_PATH|one place"),
    GpuFault("endless-kernel", "FlashAttention's kernel never ends",
             _flash_attention(ENDLESS, "    spin[(1,)](torch.zeros(1, dtype=torch.int32, device=q.device))\n"
                                       "    torch.cuda.synchronize()\n    return q"),
             "flash-attention-fails", "uninstall"),
)  # fmt: skip


@contextmanager
def _running(programs: list[str]) -> Iterator[None]:
    started = []
    try:
        for program in programs:
            one = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
            started.append(one)
            assert one.stdout is not None
            one.stdout.readline()
        yield
    finally:
        for one in started:
            one.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.wait(timeout=20)


def examine(fault: GpuFault) -> tuple[Said, dict[str, Any]]:
    """Plant a fault, call the command, and say what it said."""
    with tempfile.TemporaryDirectory() as name:
        box = Box(Path(name))
        fault.plant(box)
        mark = f"{fault.name}-{os.getpid()}"
        path = os.pathsep.join(filter(None, [str(box.site.folder), os.environ.get("PYTHONPATH", "")]))
        command = [sys.executable, "-m", "fp8doctor", "--json", "--budget", str(fault.budget_s), *fault.arguments]
        with _running(box.beside):
            started = time.monotonic()
            done = subprocess.run(
                command,
                env={**os.environ, "PYTHONPATH": path, "FP8DOCTOR_WARD": mark, **box.environment},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=fault.budget_s + 60,
                check=False,
            )
            seconds = time.monotonic() - started
        report = json.loads(done.stdout)
    shown = [one for one in report["findings"] if one["severity"] != "info"]
    leading = shown[0] if shown else None
    said = Said(
        name=fault.name,
        planted=fault.planted,
        expected=fault.first,
        fix=fault.fix,
        first=leading["name"] if leading else None,
        title=leading["title"] if leading else None,
        severity=leading["severity"] if leading else None,
        actions=tuple(f"{one['text']} {one['command'] or ''}".strip() for one in leading["actions"]) if leading else (),
        headline=report["verdict"]["headline"],
        findings=tuple(f"{one['id']} {one['severity']}" for one in report["findings"]),
        failed_probes={
            key: f"{run['outcome']}: {run['detail']}"
            for key, run in report["probes"].items()
            if run["outcome"] not in ("ok", "skipped")
        },
        status=done.returncode,
        seconds=round(seconds, 1),
        in_time=seconds < fault.budget_s + OVER_BUDGET_S,
        left_running=left_running(mark),
    )
    return said, report


def main(folder: Path, names: list[str]) -> None:
    """Examine the faults named, or all, and write down what was said of each as soon as it was."""
    said: list[dict[str, Any]] = []
    reports: dict[str, Any] = {}
    for fault in FAULTS:
        if names and fault.name not in names:
            continue
        try:
            one, report = examine(fault)
        except Exception as error:
            print(f"{fault.name}: {type(error).__name__}: {error}", flush=True)
            continue
        mark = "right" if one.first == one.expected and one.in_time and not one.left_running else "WRONG"
        print(mark, one.name, one.seconds, one.first, one.title, one.failed_probes, one.findings, flush=True)
        said.append(asdict(one))
        reports[fault.name] = report
        (folder / "ward.json").write_text(json.dumps(said, indent=1) + "\n")
        (folder / "reports.json.gz").write_bytes(gzip.compress(json.dumps(reports).encode()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
