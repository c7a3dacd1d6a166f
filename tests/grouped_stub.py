"""Torch on the CPU with a grouped FP8 product, which it lacks there: FP8 operands, multiplied expert by expert in FP32.

What it is called with is first given to torch's own meta function, which checks it as a GPU would.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.stub_cuda import L2_BYTES, StubTorch

ON_ANOTHER_GPU = (
    "torch._scaled_grouped_mm is only supported on CUDA devices with compute capability = [9.0, 10.0], or ROCm MI300+"
)


class GroupingStub(StubTorch):
    """`refusal` is what the product raises instead; `spoilt_expert` is one that it computes wrong."""

    def __init__(self, torch: Any, **more: Any) -> None:
        super().__init__(torch, **more)
        self.refusal: Exception | None = None
        self.spoilt_expert: int | None = None
        self.properties = SimpleNamespace(L2_cache_size=L2_BYTES, name="A stub", major=9, minor=0)
        self.cuda.get_device_properties = lambda device: self.properties
        self.compiled: list[Any] = []

    def compile(self, layer: Any) -> Any:
        """Notes what was to be compiled; that it can be is another test's matter."""
        self.compiled.append(layer)
        return layer

    def _scaled_grouped_mm(self, a: Any, b: Any, scale_a: Any, scale_b: Any, **options: Any) -> Any:
        if self.refusal is not None:
            raise self.refusal
        torch, ends = self._torch, options["offs"]
        on_meta = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta") for t in (a, b)]
        scales = [t.to("meta") for t in (scale_a, scale_b)]
        torch._scaled_grouped_mm(*on_meta, *scales, **{**options, "offs": ends.to("meta")})
        out = torch.full((a.shape[0], b.shape[2]), torch.nan, dtype=torch.bfloat16)
        start = 0
        for expert, end in enumerate(ends.tolist()):
            if end > start:
                scales_of_group = scale_a[start:end].unsqueeze(1) * scale_b[expert]
                out[start:end] = (a[start:end].float() @ b[expert].float()) * scales_of_group
            if expert == self.spoilt_expert:
                out[start:end] *= 2
            start = end
        return out
