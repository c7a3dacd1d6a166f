"""What does one GPU reach? Runs in a process of its own, which answers what it is asked line by line.

Torch is imported in `main` alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from fp8doctor.checks.gpu.facts import FIRST_FP8
from fp8doctor.checks.linear.ceilings import copy_gb_s, product, sustained_tflops
from fp8doctor.checks.linear.variants import fp8_dtype
from fp8doctor.checks.torch_build.numerics import ERROR_LIMITS, relative_error
from fp8doctor.measuring.statistics import quantile
from fp8doctor.measuring.timer import Timer

# The same work for all, so that they can be compared; the first that fits into a quarter of the free memory.
SHAPES = ((8192, 8192, 8192), (4096, 4096, 4096), (2048, 2048, 2048))
# Its result is compared with FP32.
COMPARED = (1024, 1024, 1024)
HOLD_S = 0.8
WARM_S = 1.0
SAMPLE_S = 0.05
LINK_BYTES = 256 << 20
LINK_COPIES = 5
FINGERPRINT_DIGITS = 12
LONGEST_ERROR = 300


def main() -> None:
    """Answer requests until there are no more: {"do": "measure"} or {"do": "links"}, each with one line of JSON."""
    index, epoch_s = int(sys.argv[1]), float(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print belongs elsewhere
    serve(sys.stdin, answers, index, epoch_s)


def serve(requests: IO[str], answers: IO[str], index: int, epoch_s: float) -> None:
    """Say that it is ready and who it is, then answer; an error is an answer, too."""
    try:
        one = _OneGpu(index, epoch_s)
        _say(answers, one.identity())
    except Exception as error:
        _say(answers, {"error": _words(error)})
        return
    for line in requests:
        try:
            asked = json.loads(line)["do"]
            _say(answers, one.measure() if asked == "measure" else one.links())
        except Exception as error:
            _say(answers, {"error": _words(error)})


def _say(answers: IO[str], said: dict[str, Any]) -> None:
    answers.write(json.dumps(said) + "\n")
    answers.flush()


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:LONGEST_ERROR]


class _OneGpu:
    """The GPU of this process, warmed up."""

    def __init__(self, index: int, epoch_s: float) -> None:
        import torch

        self.torch, self.index, self.epoch_s = torch, index, epoch_s
        torch.cuda.set_device(index)
        self.device = torch.device("cuda", index)
        self.properties = torch.cuda.get_device_properties(index)
        self.timer = Timer(torch, self.device)
        self.timer.calibrate()

    def identity(self) -> dict[str, Any]:
        uuid = str(getattr(self.properties, "uuid", "") or "")
        digest = hashlib.sha256(uuid.encode()).hexdigest()[:FINGERPRINT_DIGITS]
        return {
            "name": self.properties.name,
            "compute_capability": f"{self.properties.major}.{self.properties.minor}",
            "fingerprint": digest if uuid else None,
        }

    def measure(self) -> dict[str, Any]:
        """The rates; a format that the GPU lacks is left out."""
        torch = self.torch
        with_fp8 = (self.properties.major, self.properties.minor) >= FIRST_FP8
        free, _ = torch.cuda.mem_get_info(self.index)
        shape = next((s for s in SHAPES if 4 * 2 * s[0] * s[1] * 3 < free), SHAPES[-1])
        started = time.monotonic()
        with sensors(torch, self.index) as seen:
            self.timer.warm(product(torch, self.device, "bf16", shape), WARM_S)
            seen.clear()
            bf16 = sustained_tflops(torch, self.timer, "bf16", shape, HOLD_S)
            fp8 = sustained_tflops(torch, self.timer, "fp8", shape, HOLD_S) if with_fp8 else None
        said = {
            "bf16_tflops": bf16,
            "fp8_tflops": fp8,
            "copy_gb_s": copy_gb_s(torch, self.timer),
            **(self._error() if with_fp8 else {}),
            **summary(seen),
            "started_s": round(started - self.epoch_s, 3),
            "ended_s": round(time.monotonic() - self.epoch_s, 3),
        }
        return {key: round(value, 5) if isinstance(value, float) else value for key, value in said.items()}

    def _error(self) -> dict[str, Any]:
        """How far an FP8 product of random numbers is off: each operand rounded with one scale for all of it."""
        torch = self.torch
        m, k, n = COMPARED
        torch.manual_seed(0)
        a = torch.randn(m, k, device=self.device, dtype=torch.bfloat16)
        b = torch.randn(n, k, device=self.device, dtype=torch.bfloat16)
        e4m3 = fp8_dtype(torch)
        most = torch.finfo(e4m3).max
        scale_a, scale_b = (x.abs().max().float() / most for x in (a, b))
        a8, b8 = (a.float() / scale_a).to(e4m3), (b.float() / scale_b).to(e4m3)
        found = torch._scaled_mm(a8, b8.t(), scale_a, scale_b, out_dtype=torch.bfloat16)
        error = relative_error(found, a.float() @ b.float().t())
        return {"fp8_error": error, "fp8_error_limit": ERROR_LIMITS["e4m3"]}

    def links(self) -> dict[str, Any]:
        """What a copy from each GPU's memory into each other's reaches, one pair after the other."""
        torch = self.torch
        count = torch.cuda.device_count()
        found = []
        for source in range(count):
            for target in range(count):
                if source != target:
                    direct = bool(torch.cuda.can_device_access_peer(target, source))
                    rate = self._link(source, target)
                    found.append({"source": source, "target": target, "direct": direct, "gb_s": round(rate, 1)})
        return {"links": found}

    def _link(self, source: int, target: int) -> float:
        torch = self.torch
        there = torch.empty(LINK_BYTES, dtype=torch.int8, device=f"cuda:{source}")
        here = torch.empty(LINK_BYTES, dtype=torch.int8, device=f"cuda:{target}")
        with torch.cuda.device(source):
            times = []
            for _ in range(LINK_COPIES):
                for device in (source, target):
                    torch.cuda.synchronize(device)
                began = torch.cuda.Event(enable_timing=True)
                ended = torch.cuda.Event(enable_timing=True)
                began.record()
                here.copy_(there, non_blocking=True)
                ended.record()
                torch.cuda.synchronize(source)
                torch.cuda.synchronize(target)
                times.append(began.elapsed_time(ended))
        return float(LINK_BYTES / (sorted(times)[LINK_COPIES // 2] * 1e-3) / 1e9)


@contextmanager
def sensors(torch: Any, index: int) -> Iterator[list[tuple[float | None, float | None, float | None]]]:
    """Clock, power and temperature every 50 ms meanwhile, where this environment has nvidia-ml-py."""
    seen: list[tuple[float | None, float | None, float | None]] = []
    stop = threading.Event()

    def watch() -> None:
        try:
            while not stop.wait(SAMPLE_S):
                seen.append(
                    (
                        float(torch.cuda.clock_rate(index)),
                        torch.cuda.power_draw(index) / 1000,
                        float(torch.cuda.temperature(index)),
                    )
                )
        except Exception:  # no nvidia-ml-py, or NVML does not tell: the rates count
            return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(timeout=1.0)


def summary(seen: list[tuple[float | None, float | None, float | None]]) -> dict[str, float | None]:
    """The median clock, and the most of power and temperature; nothing where nothing was seen."""
    clocks, powers, degrees = ([v for one in seen if (v := one[place]) is not None] for place in range(3))
    return {
        "sm_clock_mhz": quantile(sorted(clocks), 0.5) if clocks else None,
        "power_w": max(powers) if powers else None,
        "temperature_c": max(degrees) if degrees else None,
    }
