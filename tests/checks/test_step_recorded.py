"""The rules on a step's trace, from trace files: what a recording must not be taken for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks.step import (
    attention_rules,
    ceiling,
    coverage_rules,
    exhibits,
    format_rules,
    host_rules,
    quantising_rules,
)
from fp8doctor.model import Finding, NotApplicable, Severity, Unknown
from fp8doctor.traced import Trace
from tests.reading.trace.made import BF16, ELEMENTWISE, FLOAT, FP8, NVJET_BF16, NVJET_FP8, Made
from tests.reading.trace.reading_made import read

FLASH = "void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64, 4, cutlass::bfloat16_t>>(Flash_fwd_params)"
TE_CAST = "void transformer_engine::cast_transpose_fused_kernel<bf16, fp8>()"
SOFTMAX = "void at::native::(anonymous namespace)::cunn_SoftMaxForward<8, c10::BFloat16, float>"
STEPS = 3


class Recording(Made):
    """Operators that launch one kernel each: the host is ahead of the GPU, which is always busy."""

    host = gpu = 0.0
    steps = 0

    def run(self, operator: str, kernel: str, us: float, sizes: Any = None, kind: str = BF16, took: float = 4) -> None:
        external = self.operator(operator, self.host, took, sizes, [kind] * len(sizes) if sizes else None)
        correlation = self.call("cudaLaunchKernel", self.host + 1, 2, external=external)
        begin = max(self.gpu, self.host + took)
        self.kernel(kernel, begin, us, correlation, external)
        self.gpu, self.host = begin + us, self.host + took + 1

    def look(self, operator: str = "aten::item") -> None:
        """Wait for all that was launched."""
        end = max(self.host + 4, self.gpu + 2)
        external = self.operator(operator, self.host, end - self.host + 2)
        self.call("cudaStreamSynchronize", self.host + 1, end - self.host, external=external)
        self.host = end + 3

    @contextmanager
    def step(self) -> Iterator[None]:
        begin = self.host
        yield
        self.annotation(f"ProfilerStep#{self.steps}", begin, self.host - begin)
        self.steps += 1


def layer(m: int, k: int, n: int) -> list[list[int]]:
    return [[m, k], [k, n]]


def words(finding: Any) -> str:
    assert isinstance(finding, Finding), finding
    return f"{finding.title} {[e.text for e in finding.evidence]} {[a.command for a in finding.actions]}"


# --- what no steps were marked in


def _trained_by_te(*, marked: bool, norms: bool = False, passes: int = 1) -> Recording:
    """Six layers of four products; where a norm before them writes FP8 the input is cast once for all four."""
    made = Recording()

    def one_pass() -> None:
        for _ in range(6):
            for product in range(4):
                made.run("_Linear", TE_CAST, 20)
                if not norms or not product:
                    made.run("_Linear", TE_CAST, 8)
                made.run("_Linear", NVJET_FP8, 20)
        made.run("aten::ones_like", ELEMENTWISE, 2)
        for _ in range(24):
            made.run("_LinearBackward", TE_CAST, 8)
            made.run("_LinearBackward", NVJET_FP8, 20)
            made.run("_LinearBackward", NVJET_FP8, 20)

    for _ in range(STEPS):
        if marked:
            with made.step():
                for _ in range(passes):
                    one_pass()
        else:
            one_pass()
    return made


def test_iterations_that_nobody_marked_are_no_micro_batches(tmp_path: Path) -> None:
    verdict = quantising_rules.requantised(read(_trained_by_te(marked=False), tmp_path))
    assert isinstance(verdict, Unknown)
    assert "schedule" in verdict.reason
    assert quantising_rules.requantised(read(_trained_by_te(marked=True), tmp_path)) is None


def test_weights_are_cast_anew_also_where_a_norm_writes_fp8(tmp_path: Path) -> None:
    many = read(_trained_by_te(marked=True, norms=True, passes=8), tmp_path)
    assert "8 times a step" in words(quantising_rules.requantised(many))
    once = read(_trained_by_te(marked=True, norms=True), tmp_path)
    assert quantising_rules.requantised(once) is None


def test_a_model_that_calls_ones_like_has_no_more_micro_batches(tmp_path: Path) -> None:
    made = _trained_by_te(marked=True)
    for _ in range(STEPS * 6):
        made.run("aten::ones_like", ELEMENTWISE, 2)
    assert quantising_rules.requantised(read(made, tmp_path)) is None


def test_without_steps_times_are_those_of_the_recording(tmp_path: Path) -> None:
    made = Recording()
    for _ in range(40):
        made.run("aten::mm", NVJET_BF16, 60, layer(4096, 4096, 4096))
    trace = read(made, tmp_path)
    for exhibit in (
        exhibits.where_time_went(trace),
        exhibits.largest_kernels(trace),
        exhibits.largest_products(trace),
        ceiling.ceiling_table(trace, None),
    ):
        assert exhibit is not None
        assert "a step" not in exhibit.title
        assert "a step" not in str(exhibit.rows)


def test_values_read_back_are_not_counted_where_no_step_was_marked(tmp_path: Path) -> None:
    made = Recording()
    for _ in range(20):
        made.run("aten::mm", NVJET_BF16, 50)
        made.look()
    assert isinstance(host_rules.host_looks(read(made, tmp_path)), Unknown)


def test_a_server_that_is_asked_for_nothing_is_a_note(tmp_path: Path) -> None:
    made = Recording()
    for _ in range(6):
        for _ in range(40):
            made.run("aten::mm", NVJET_BF16, 60, layer(512, 4096, 4096))
        made.host = made.gpu + 2000
    found = host_rules.host_stalls(read(made, tmp_path))
    assert "no work was there to do" in words(found)
    assert "DataLoader" not in words(found)
    assert isinstance(found, Finding)
    assert found.severity is Severity.INFO
    assert "trace.idle_elsewhere_us" not in [e.fact for e in found.evidence]


# --- the host


def test_a_look_that_hardly_waits_costs_nothing(tmp_path: Path) -> None:
    made = Recording()
    for _ in range(STEPS):
        with made.step():
            for _ in range(60):
                made.run("aten::mm", NVJET_BF16, 60)
            made.host = max(made.host, made.gpu - 200)
            for _ in range(60):
                made.run("aten::add", ELEMENTWISE, 2, took=14)
            made.look()
            made.look()
    trace = read(made, tmp_path)
    assert host_rules.host_looks(trace) is None
    assert isinstance(host_rules.launch_bound(trace), Finding)


def test_copies_beside_communication_are_exposed(tmp_path: Path) -> None:
    made = Recording()
    for _ in range(STEPS):
        with made.step():
            for _ in range(30):
                made.run("aten::mm", NVJET_BF16, 60)
                made.kernel("ncclDevKernel_AllGather_RING_LL", made.gpu - 55, 50, stream=20)
                made.copy("Memcpy HtoD (Pinned -> Device)", made.gpu, 45)
                made.gpu += 45
    trace = read(made, tmp_path)
    assert trace.exposed_copies_us == STEPS * 30 * 45
    assert "43 % of the time" in words(host_rules.copied_from_host(trace))


# --- formats and attention


def _experts(scores: bool = False) -> Recording:
    """Experts as batched products beside a fused attention; or an attention by hand in their place."""
    made = Recording()
    first, second = ([[32, 512, 2880], [32, 2880, 5760]], [[32, 512, 5760], [32, 5760, 2880]])
    if scores:
        first, second = ([[32, 512, 128], [32, 128, 512]], [[32, 512, 512], [32, 512, 128]])
    for _ in range(STEPS):
        with made.step():
            for _ in range(24):
                if not scores:
                    made.run("aten::_flash_attention_forward", FLASH, 60)
                made.run("aten::mm", NVJET_BF16, 40, layer(4096, 2880, 4096))
                made.run("aten::bmm", NVJET_BF16, 120, first)
                made.run("aten::_softmax", SOFTMAX, 30)
                made.run("aten::bmm", NVJET_BF16, 120, second)
    return made


def test_experts_are_layers_and_no_attention(tmp_path: Path) -> None:
    trace = read(_experts(), tmp_path)
    assert attention_rules.slow_attention(trace) is None
    found = ceiling.ceiling_of(trace)
    assert found is not None
    assert found.share == pytest.approx(280 / 370, abs=0.02)


def test_scores_of_narrow_heads_are_an_attention_by_hand(tmp_path: Path) -> None:
    trace = read(_experts(scores=True), tmp_path)
    assert "separate products and softmax" in words(attention_rules.slow_attention(trace))
    found = ceiling.ceiling_of(trace)
    assert found is not None
    assert found.share == pytest.approx(40 / 310, abs=0.02)


def test_products_on_several_streams_share_the_time(tmp_path: Path) -> None:
    made = Recording()
    for _ in range(STEPS):
        with made.step():
            for _ in range(40):
                made.run("aten::mm", NVJET_BF16, 60, layer(4096, 4096, 4096))
                made.kernel(NVJET_BF16, made.gpu - 58, 57, stream=20)
                made.kernel(NVJET_BF16, made.gpu - 58, 57, stream=21)
    trace = read(made, tmp_path)
    assert "100 % BF16 products" in (trace.headline() or "")
    assert "at most 2.00x" in words(ceiling.only_products_gain(trace, None))
    bars = exhibits.where_time_went(trace)
    assert bars is not None
    assert "100 %" in bars.rows[0]["label"]


def test_a_model_in_tf32_has_no_ceiling_that_was_recorded(tmp_path: Path) -> None:
    made = Recording()
    for _ in range(40):
        made.run("aten::mm", "cutlass_80_tensorop_s1688gemm_256x128", 90, layer(4096, 4096, 4096), FLOAT)
    assert isinstance(ceiling.only_products_gain(read(made, tmp_path), None), Unknown)


def test_experts_of_untold_format_leave_open_whether_fp8_was_applied(tmp_path: Path) -> None:
    made = Recording()
    for _ in range(40):
        made.run("vllm::moe_forward", "void vllm::per_token_group_quant_8bit_kernel<c10::BFloat16>", 6)
        made.run("vllm::moe_forward", "fused_moe_kernel", 160)
        made.run("aten::mm", NVJET_BF16, 10, layer(512, 2048, 128))
    trace = read(made, tmp_path)
    assert (trace.us_by_kind or {})["other-gemm"] == 40 * 160
    assert isinstance(format_rules.not_applied(trace), Unknown)
    assert isinstance(ceiling.only_products_gain(trace, None), Unknown)


@pytest.mark.parametrize(
    "name", ["act_quant_kernel", "_kernel_quantize_fp8_row", "per_token_quant_fp8_kernel", "flashinfer::quantize_fp8"]
)
def test_a_fused_kernel_of_any_library_is_not_eager(tmp_path: Path, name: str) -> None:
    made = Recording()
    for _ in range(60):
        made.run("aten::empty", name, 12)
        made.run("aten::_scaled_mm", NVJET_FP8, 60, layer(4096, 4096, 4096), FP8)
    trace = read(made, tmp_path)
    assert (trace.us_by_kind or {})["quantize"] == 60 * 12
    assert quantising_rules.not_compiled(trace) is None


def test_element_wise_work_in_fp32_is_told_by_its_types(tmp_path: Path) -> None:
    def recorded(kind: str) -> Trace:
        made = Recording()
        for _ in range(40):
            made.run("aten::_scaled_mm", NVJET_FP8, 50, layer(4096, 4096, 4096), FP8)
            made.run("aten::_scaled_dot_product_efficient_attention", "fmha_cutlassF_f32_aligned_64x64_rf_sm80", 20)
            for _ in range(4):
                made.run("aten::add", ELEMENTWISE.replace("c10::BFloat16", kind), 30)
        return read(made, tmp_path)

    assert "in BF16" in words(coverage_rules.rest_in_fp32(recorded("float")))
    assert coverage_rules.rest_in_fp32(recorded("c10::BFloat16")) is None


# --- sizes


def _beside_fp8(sixteen: tuple[int, int, int], in_fp8: tuple[int, int, int], backward: bool = False) -> Recording:
    made = Recording()
    for _ in range(STEPS):
        with made.step():
            for _ in range(8):
                made.run("aten::_scaled_mm", NVJET_FP8, 50, layer(*in_fp8), FP8)
                made.run("MmBackward0" if backward else "aten::view", "nothing_known", 1)
                made.run("aten::mm", NVJET_BF16, 60, layer(*sixteen))
    return made


@pytest.mark.parametrize(
    ("sixteen", "told"),
    [
        ((8192, 8192, 2048), False),
        ((8192, 1024, 8192), False),
        ((8192, 2048, 4096), False),
        ((8192, 2048, 6144), True),
        ((8192, 4096, 6144), True),
    ],
)
def test_narrow_is_what_torchao_leaves_out(tmp_path: Path, sixteen: tuple[int, int, int], told: bool) -> None:
    verdict = coverage_rules.partly_covered(read(_beside_fp8(sixteen, (8192, 4096, 14336)), tmp_path))
    assert isinstance(verdict, Finding) is told, verdict


def test_a_gradient_of_its_layers_size_did_not_stay(tmp_path: Path) -> None:
    cube = (4096, 4096, 4096)
    assert coverage_rules.partly_covered(read(_beside_fp8(cube, cube, backward=True), tmp_path)) is None


def test_the_first_and_the_last_layer_of_an_image_model_are_no_adapter(tmp_path: Path) -> None:
    def recorded(narrow: int) -> Trace:
        made = Recording()
        with made.step():
            for at in range(16):
                made.run("aten::mm", NVJET_BF16, 60, layer(4096, 3072, 3072))
                if at < narrow:
                    made.run("aten::mm", NVJET_BF16, 60, layer(4096, 64, 3072))
                    made.run("aten::mm", NVJET_BF16, 60, layer(4096, 3072, 64))
        return read(made, tmp_path)

    assert coverage_rules.lora_unfused(recorded(1)) is None
    assert "rank 64" in words(coverage_rules.lora_unfused(recorded(16)))


def test_steps_without_fp8_are_asked_nothing_about_it(tmp_path: Path) -> None:
    made = Recording()
    made.run("aten::mm", NVJET_BF16, 60, layer(512, 4096, 4096))
    assert isinstance(quantising_rules.requantised(read(made, tmp_path)), NotApplicable)
