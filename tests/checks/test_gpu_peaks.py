"""The table of peaks: plausible in every row, and exact in what it matches."""

from __future__ import annotations

import re

import pytest

from fp8doctor.checks.gpu.facts import Gpu, capability
from fp8doctor.checks.gpu.peaks import PEAKS, Peak, peak_of

# FLOP per clock and SM (or CU) in BF16, dense, FP32 accumulation; a board has one of its architecture's rates.
RATES = {
    "8.0": (2048,),
    "8.6": (1024, 512),
    "8.9": (1024, 512),
    "9.0": (4096,),
    "12.0": (1024, 512),
    "gfx942": (2048,),
    "gfx950": (4096,),
    "gfx1201": (1024,),
}


def by_name(row: Peak) -> str:
    return f"{row.pattern} {row.memory_gib}"


@pytest.mark.parametrize("row", PEAKS, ids=by_name)
def test_rows_are_plausible(row: Peak) -> None:
    assert row.source
    assert row.bandwidth_gb_s is None or 100 <= row.bandwidth_gb_s <= 20_000
    assert row.sm_count is None or 20 <= row.sm_count <= 320
    assert row.clock_mhz is None or 1300 <= row.clock_mhz <= 3000
    assert 12 <= row.memory_gib <= 300
    if row.fp8_tflops is not None:
        assert row.bf16_tflops is not None
        assert 1.99 <= row.fp8_tflops / row.bf16_tflops <= 2.03
    if (found := capability(row.compute_capability)) is not None and found < (8, 9):
        assert row.fp8_tflops is None


@pytest.mark.parametrize("row", [r for r in PEAKS if r.clock_mhz and r.bf16_tflops], ids=by_name)
def test_rates_are_sms_times_clock(row: Peak) -> None:
    rate, _ = row.flop_per_clock_per_sm()
    assert rate is not None
    assert any(abs(rate / known - 1) < 0.015 for known in RATES[row.compute_capability]), rate


@pytest.mark.parametrize(
    ("name", "bf16", "fp8"),
    [
        ("NVIDIA H200", 989, 1979),
        ("NVIDIA H200 NVL", 835.5, 1670.5),
        ("NVIDIA H100 80GB HBM3", 989, 1979),
        ("NVIDIA H100 PCIe", 756, 1513),
        ("NVIDIA H100 NVL", 835.5, 1670.5),
        ("NVIDIA L40", 181, 362),
        ("NVIDIA L40S", 362, 733),
        ("NVIDIA L4", 121, 242),
        ("NVIDIA A10", 125, None),
        ("NVIDIA A10G", 70, None),
        ("NVIDIA B200", 2250, 4500),
        ("NVIDIA GeForce RTX 4090", 165.2, 330.3),
        ("NVIDIA GeForce RTX 5090", 209.5, 419),
        ("AMD Instinct MI300X", 1307.4, 2614.9),
    ],
)
def test_exact_boards(name: str, bf16: float, fp8: float | None) -> None:
    peak = peak_of(Gpu(name=name))
    assert peak is not None
    assert (peak.bf16_tflops, peak.fp8_tflops) == (bf16, fp8)


@pytest.mark.parametrize("name", ["NVIDIA GB200", "NVIDIA GB300", "NVIDIA H800"])
def test_rates_on_which_sources_differ_are_left_out(name: str) -> None:
    peak = peak_of(Gpu(name=name))
    assert peak is not None
    assert (peak.bf16_tflops, peak.fp8_tflops) == (None, None)


@pytest.mark.parametrize("name", ["NVIDIA GB200", "NVIDIA GB300", "NVIDIA GeForce RTX 4080"])
def test_bandwidths_on_which_sources_differ_are_left_out(name: str) -> None:
    peak = peak_of(Gpu(name=name))
    assert peak is not None
    assert peak.bandwidth_gb_s is None


@pytest.mark.parametrize(
    "name",
    [
        None,
        "",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 5090 D",
        "NVIDIA GeForce RTX 4080 SUPER",
        "A board",
    ],
)
def test_other_boards_have_no_peak(name: str | None) -> None:
    assert peak_of(Gpu(name=name)) is None


def test_memory_tells_boards_of_one_name() -> None:
    small = peak_of(Gpu(name="NVIDIA H20", memory_total_mib=97871.0))
    large = peak_of(Gpu(name="NVIDIA H20", memory_total_mib=143771.0))
    unknown = peak_of(Gpu(name="NVIDIA H20"))
    assert small is not None
    assert large is not None
    assert unknown is not None
    assert (small.bandwidth_gb_s, large.bandwidth_gb_s, unknown.bandwidth_gb_s) == (4000, 4800, None)
    assert unknown.fp8_tflops == 296
    assert peak_of(Gpu(name="NVIDIA H20", memory_total_mib=49140.0)) is None


def test_no_name_matches_two_unlike_rows() -> None:
    names = [re.sub(r"\\b|\$", "", row.pattern) for row in PEAKS]
    for name in names:
        matching = {row.pattern for row in PEAKS if re.search(row.pattern, f"NVIDIA {name}")}
        assert len(matching) == 1, name


def test_a_mig_slice_has_its_share() -> None:
    gpu = Gpu(name="NVIDIA H200", mig_enabled=True, sm_count=66, memory_total_mib=143771.0)
    peak = peak_of(gpu)
    assert peak is not None
    assert peak.bf16_tflops == pytest.approx(989 / 2)
    assert peak.fp8_tflops == pytest.approx(1979 / 2)
    assert peak.bandwidth_gb_s is None
    assert peak.computed
    uncounted = peak_of(Gpu(name="NVIDIA H200 MIG 3g.71gb"))
    assert uncounted is not None
    assert uncounted.fp8_tflops is None
