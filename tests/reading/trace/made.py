"""Traces made from the format of libkineto/src/output_json.cpp, event by event."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

HOST, MAIN = 4242, 4242
H200 = {"id": 0, "name": "NVIDIA H200", "computeMajor": 9, "computeMinor": 0}
BF16, FP8, FLOAT = "c10::BFloat16", "c10::Float8_e4m3fn", "float"
ELEMENTWISE = (
    "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<c10::BFloat16>, "
    "std::array<char*, 3ul> >(int, at::native::CUDAFunctor_add<c10::BFloat16>, std::array<char*, 3ul>)"
)
NVJET_FP8 = "nvjet_sm90_qqtst_128x128_128x6_1x2_h_bz_ovscale_TNT"
NVJET_BF16 = "nvjet_sm90_tst_256x160_64x4_1x2_h_bz_coopA_TNT"


class Made:
    """A trace to which events are added; times in microseconds."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.ids = 0

    def _add(self, cat: str, name: str, pid: Any, tid: Any, ts: float, dur: float, **args: Any) -> None:
        event = {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": dur, "args": args}
        self.events.append(event)

    def operator(self, name: str, ts: float, dur: float, dims: Any = None, types: Any = None, tid: int = MAIN) -> int:
        """Add an operator; its external id."""
        self.ids += 1
        shapes = {} if dims is None else {"Input type": types or [], "Input Dims": dims}
        self._add("cpu_op", name, HOST, tid, ts, dur, **{"External id": self.ids, **shapes, "Ev Idx": self.ids})
        return self.ids

    def annotation(self, name: str, ts: float, dur: float, tid: int = MAIN) -> None:
        self.ids += 1
        self._add("user_annotation", name, HOST, tid, ts, dur, **{"External id": self.ids})

    def frame(self, name: str, ts: float, dur: float, tid: int = MAIN) -> None:
        self._add("python_function", name, HOST, tid, ts, dur, **{"Python parent id": None, "Python id": 1})

    def call(self, name: str, ts: float, dur: float, correlation: int = 0, external: int = 0, tid: int = MAIN) -> int:
        """Add a call of the runtime; its correlation."""
        self.ids += 1
        said = {"External id": external} if external else {}
        self._add("cuda_runtime", name, HOST, tid, ts, dur, **said, cbid=211, correlation=correlation or self.ids)
        return correlation or self.ids

    def kernel(
        self,
        name: str,
        ts: float,
        dur: float,
        correlation: int = 0,
        external: int = 0,
        stream: int = 7,
        device: int = 0,
    ) -> None:
        said = {"External id": external} if external else {}
        self._add(
            "kernel",
            name,
            device,
            stream,
            ts,
            dur,
            **said,
            queued=0,
            device=device,
            context=1,
            stream=stream,
            correlation=correlation,
            grid=[1, 1, 1],
        )

    def copy(self, name: str, ts: float, dur: float, correlation: int = 0, external: int = 0) -> None:
        said = {"External id": external} if external else {}
        self._add("gpu_memcpy", name, 0, 7, ts, dur, **said, device=0, stream=7, correlation=correlation, bytes=64)

    def launch(
        self, operator: str, kernel: str, ts: float, dur: float, dims: Any = None, types: Any = None, stream: int = 7
    ) -> None:
        """Add an operator of 8 us, the launch in it and the kernel that it launches 10 us later."""
        external = self.operator(operator, ts, 8, dims, types)
        correlation = self.call("cudaLaunchKernel", ts + 2, 4, external=external)
        self.kernel(kernel, ts + 10, dur, correlation, external, stream)

    def document(self, **head: Any) -> dict[str, Any]:
        """The whole document; `head` overrides fields beside the events."""
        said = {"schemaVersion": 1, "deviceProperties": [H200], "record_shapes": 1, "displayTimeUnit": "ms"}
        return {**said, **head, "traceEvents": self.events, "traceName": "made"}

    def write(self, folder: Path, name: str = "trace.json", **head: Any) -> Path:
        """Write it; gzipped if the name ends so."""
        path = folder / name
        text = json.dumps(self.document(**head)).encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        return path


def linear_fp8(made: Made, at: float, m: int = 4096, k: int = 3072, n: int = 3072) -> float:
    """Add one eager FP8 linear layer: quantising the activation by several operators, then the product; its end."""
    made.launch("aten::amax", "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float> >(float)", at, 12)
    made.launch("aten::clamp", ELEMENTWISE.replace("CUDAFunctor_add", "clamp"), at + 10, 14)
    made.launch(
        "aten::copy_",
        "void at::native::unrolled_elementwise_kernel<at::native::float8_copy_kernel_cuda>(int)",
        at + 20,
        15,
        [[m, k], [m, k], []],
        [FP8, BF16, "Scalar"],
    )
    made.launch("aten::_scaled_mm", NVJET_FP8, at + 40, 56, [[m, k], [k, n], [], []], [FP8, FP8, FLOAT, FLOAT])
    return at + 110


def training_step(made: Made, at: float, number: int, layers: int = 24) -> float:
    """Add a step of FP8 layers, norms, attention, BF16 products and a wait for the loss; its end."""
    begin = at
    for _ in range(layers):
        made.launch("aten::native_layer_norm", "void at::native::vectorized_layer_norm_kernel<float>(int)", at, 9)
        at = linear_fp8(made, at + 20)
        made.launch("aten::mm", NVJET_BF16, at, 103, [[4096, 3072], [3072, 3072]], [BF16, BF16])
        made.launch("aten::_flash_attention_forward", "void pytorch_flash::flash_fwd_kernel<int>()", at + 110, 80)
        made.launch("aten::add", ELEMENTWISE, at + 195, 11)
        at += 210
    external = made.operator("aten::_local_scalar_dense", at, 50)
    correlation = made.call("cudaMemcpyAsync", at + 1, 8, external=external)
    made.copy("Memcpy DtoH (Device -> Pinned)", at + 20, 2, correlation, external)
    made.call("cudaStreamSynchronize", at + 10, 15, external=external)
    made.annotation(f"ProfilerStep#{number}", begin - 1, at + 60 - begin)
    return at + 70
