"""What is the dense peak of exactly this board? A percentage of peak is only said where this table says so.

All rates are dense (vendors also print figures for 2:1 sparsity, twice as high) and with FP32 accumulation. A figure
that no source settles is None, and so is one that two good sources put differently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from fp8doctor.checks.gpu.facts import Gpu

# How far the memory that a driver reports may be from the board's nominal size (ECC takes 6 % of GDDR6).
_MEMORY_TOLERANCE = 0.12


@dataclass(frozen=True)
class Peak:
    """The dense peak of one board, or of a MIG slice of it."""

    # Searched in the name that NVML or ROCm gives.
    pattern: str
    compute_capability: str
    sm_count: int | None
    # The boost clock behind the rates; NVML's maximum is often higher. None where the rates are not SMs x clock.
    clock_mhz: int | None
    bf16_tflops: float | None
    fp8_tflops: float | None
    memory_gib: int
    bandwidth_gb_s: float | None
    source: str
    # True if a rate is SMs x clock x the architecture's rate, and no sheet with that figure was read.
    computed: bool = False

    def flop_per_clock_per_sm(self) -> tuple[float | None, float | None]:
        """BF16 and FP8 FLOP per clock and SM that the rates come from, None where they are not SMs x clock."""
        if self.clock_mhz is None or self.sm_count is None:
            return None, None
        factor = 1e6 / (self.sm_count * self.clock_mhz)
        return _times(self.bf16_tflops, factor), _times(self.fp8_tflops, factor)


_WP_AMPERE = "NVIDIA, Ampere architecture in depth"
_WP_ADA = "NVIDIA, Ada GPU architecture whitepaper, appendix A"
_WP_RTX = "NVIDIA, RTX Blackwell GPU architecture whitepaper, appendix A"
_WP_PRO = "NVIDIA, RTX Blackwell PRO GPU architecture whitepaper, appendix A"
_TRTLLM = "NVIDIA datasheets, as in TensorRT-LLM's cluster_info.py"
_MLE = "stas00/ml-engineering, accelerator tables"
_PAGES = "NVIDIA product page (sparse figures, halved)"
_VERL = "volcengine/verl, flops_counter.py"
_UNSETTLED = "sources differ on the figures left out"
_GPUMAP_4080 = f"BF16: lamonoai/gpumap; FP8 computed ({_UNSETTLED})"
_AMD = "AMD Instinct MI350X datasheet and CDNA 4 white paper"

# fmt: off
# name, capability, SMs, MHz, BF16, FP8, GiB, GB/s, source
PEAKS: tuple[Peak, ...] = (
    # No BF16 and no FP8 units: listed for the bandwidth.
    Peak(r"V100-SXM2", "7.0", 80, 1530, None, None, 16, 900, _WP_AMPERE),
    Peak(r"V100-SXM2", "7.0", 80, 1530, None, None, 32, 900, _WP_AMPERE),
    Peak(r"V100-PCIE", "7.0", 80, None, None, None, 16, 900, "NVIDIA V100 datasheet, as in lightning's throughput.py"),
    Peak(r"V100-PCIE", "7.0", 80, None, None, None, 32, 900, "NVIDIA V100 datasheet, as in lightning's throughput.py"),
    Peak(r"\bT4$", "7.5", 40, 1590, None, None, 16, 320, "NVIDIA T4 product page"),
    # Ampere: no FP8.
    Peak(r"\bA100-SXM4-40GB$", "8.0", 108, 1410, 312, None, 40, 1555, f"{_WP_AMPERE}; {_TRTLLM}"),
    Peak(r"\bA100-SXM4-80GB$", "8.0", 108, 1410, 312, None, 80, 2039, _TRTLLM),
    Peak(r"\bA100-PCIE-40GB$", "8.0", 108, 1410, 312, None, 40, 1555, _TRTLLM),
    Peak(r"\bA100 80GB PCIe$", "8.0", 108, 1410, 312, None, 80, 1935, _TRTLLM),
    Peak(r"\bA30$", "8.0", 56, 1440, 165, None, 24, 933, _TRTLLM),
    Peak(r"\bA10$", "8.6", 72, 1695, 125, None, 24, 600, _TRTLLM),
    Peak(r"\bA10G$", "8.6", None, None, 70, None, 24, 600, _TRTLLM),
    Peak(r"\bA40$", "8.6", 84, 1740, 149.7, None, 48, 696, "NVIDIA A40 datasheet"),
    Peak(r"\bRTX A6000$", "8.6", 84, 1800, 154.8, None, 48, 768, _WP_PRO),
    Peak(r"GeForce RTX 3090$", "8.6", 82, 1695, 71, None, 24, 936, "NVIDIA, GA102 whitepaper"),
    # Ada. The L40 and L20 have half the rate of the L40S, which is the same chip.
    Peak(r"\bL4$", "8.9", 58, 2040, 121, 242, 24, 300, "NVIDIA L4 datasheet (sparse figures, halved)"),
    Peak(r"\bL20$", "8.9", 92, 2520, 119.5, 239, 48, 864, _TRTLLM),
    Peak(r"\bL40$", "8.9", 142, 2490, 181, 362, 48, 864, "NVIDIA L40 datasheet"),
    Peak(r"\bL40S$", "8.9", 142, 2520, 362, 733, 48, 864, "NVIDIA L40S datasheet"),
    Peak(r"\bRTX 6000 Ada", "8.9", 142, 2505, 364, 728.5, 48, 960, _WP_PRO),
    Peak(r"GeForce RTX 4090$", "8.9", 128, 2520, 165.2, 330.3, 24, 1008, _WP_ADA),
    Peak(r"GeForce RTX 4090 D$", "8.9", 114, 2520, 147.1, 294.2, 24, 1008, "SMs x clock x Ada's GeForce rate", True),
    Peak(r"GeForce RTX 4080$", "8.9", 76, 2505, 97, 195, 16, None, _GPUMAP_4080, True),
    Peak(r"GeForce RTX 4070 Ti$", "8.9", 60, 2610, 80, 160, 12, 504, "BF16: lamonoai/gpumap; FP8 computed", True),
    # Hopper. The NVL boards are limited by power, and the H20 by export rules: below SMs x clock.
    Peak(r"\bH100 80GB HBM3$", "9.0", 132, 1830, 989, 1979, 80, 3350, f"{_PAGES}; {_TRTLLM}"),
    Peak(r"\bH100 PCIe$", "9.0", 114, 1620, 756, 1513, 80, 2000, _TRTLLM),
    Peak(r"\bH100 NVL$", "9.0", 132, None, 835.5, 1670.5, 94, 3938, _PAGES),
    Peak(r"\bH800$", "9.0", 132, None, None, None, 80, 3350, f"NVIDIA H800 datasheet; {_VERL} ({_UNSETTLED})"),
    Peak(r"\bH800 PCIe$", "9.0", None, None, 756, None, 80, 2000, "karpathy/nanochat, runtime.py"),
    Peak(r"\bH20\b", "9.0", 78, None, 148, 296, 96, 4000, f"Tom's Hardware on H20, L20 and L2; {_VERL}"),
    Peak(r"\bH20\b", "9.0", 78, None, 148, 296, 141, 4800, f"Tom's Hardware on H20, L20 and L2; {_VERL}"),
    Peak(r"\bH200$", "9.0", 132, 1830, 989, 1979, 141, 4800, _PAGES),
    Peak(r"\bH200 NVL$", "9.0", 132, None, 835.5, 1670.5, 141, 4800, _PAGES),
    Peak(r"\bGH200\b", "9.0", 132, 1830, 989, 1979, 96, 4000, _MLE),
    Peak(r"\bGH200\b", "9.0", 132, 1830, 989, 1979, 141, None, f"{_MLE} (4800 and 4900 GB/s are both printed)"),
    # Blackwell of the data centre. Its clocks are known only from the rates themselves.
    Peak(r"\bB200$", "10.0", 148, None, 2250, 4500, 180, 7700, "NVIDIA Blackwell datasheet (sparse figures, halved)"),
    Peak(r"\bB300 SXM6\b", "10.3", None, None, 2250, 4500, 288, None, f"{_MLE} (7700 and 8000 GB/s are both printed)"),
    Peak(r"\bGB200\b", "10.0", None, None, None, None, 186, None, f"NVIDIA Blackwell datasheet; {_MLE} ({_UNSETTLED})"),
    Peak(r"\bGB300\b", "10.3", None, None, None, None, 288, None, f"{_MLE}; Verda on GB300 NVL72 ({_UNSETTLED})"),
    # Blackwell of desks. NVIDIA prints no BF16 or FP8 rate for the GB10.
    Peak(r"\bGB10$", "12.1", 48, None, None, None, 128, 273, "NVIDIA blog quoted in NVIDIA/cudnn-frontend#1164"),
    Peak(r"GeForce RTX 5090$", "12.0", 170, 2407, 209.5, 419, 32, 1792, _WP_RTX),
    Peak(r"GeForce RTX 5080$", "12.0", 84, 2617, 112.6, 225, 16, 960, f"{_WP_RTX}; lamonoai/gpumap"),
    Peak(r"\bRTX PRO 6000 Blackwell Workstation", "12.0", 188, 2617, 503.8, 1007.6, 96, 1792, _WP_PRO),
    Peak(r"\bRTX PRO 6000 Blackwell Max-Q", "12.0", 188, 2280, 438.9, 877.9, 96, 1792, _WP_PRO),
    Peak(r"\bRTX PRO 6000 Blackwell Server", "12.0", 188, None, None, None, 96, None, "NVIDIA datasheet (no rates)"),
    # AMD; SMs are compute units.
    Peak(r"\bMI300X\b", "gfx942", 304, 2100, 1307.4, 2614.9, 192, 5300, f"AMD Instinct MI300X product page; {_AMD}"),
    Peak(r"\bMI325X\b", "gfx942", 304, 2100, 1307.4, 2614.9, 256, 6000, _MLE),
    Peak(r"\bMI350X\b", "gfx950", 256, 2200, 2309.6, 4614, 288, 8000, _AMD),
    Peak(r"\bMI355X\b", "gfx950", 256, 2400, 2500, 5000, 288, 8000, _AMD),
    Peak(r"\bRX 9070 XT$", "gfx1201", 64, 2970, 194.6, None, 16, 640, "CUs x clock x rate (AMD GPUOpen, RDNA 4)", True),
)
# fmt: on


def peak_of(gpu: Gpu) -> Peak | None:
    """The dense peak of this GPU, None for a board that is not in the table.

    A MIG slice gets its share of the rates by SMs if those were counted, else no rates; it gets no bandwidth, because a
    slice's share of the memory is not its share of the SMs.
    """
    name, slice_mark, _ = (gpu.name or "").partition(" MIG ")
    rows = [row for row in PEAKS if re.search(row.pattern, name)]
    if not rows:
        return None
    is_slice = bool(gpu.mig_enabled or slice_mark)
    peak = rows[0] if len(rows) == 1 else _by_memory(rows, None if is_slice else gpu.memory_total_mib)
    return _slice(peak, gpu.sm_count) if peak is not None and is_slice else peak


def _by_memory(rows: list[Peak], memory_mib: float | None) -> Peak | None:
    """Tell boards of one name by their memory; without it, keep only what they share."""
    if memory_mib is None:
        same_bandwidth = len({row.bandwidth_gb_s for row in rows}) == 1
        return rows[0] if same_bandwidth else replace(rows[0], bandwidth_gb_s=None)
    fitting = (row for row in rows if abs(memory_mib / 1024 / row.memory_gib - 1) < _MEMORY_TOLERANCE)
    return next(fitting, None)


def _slice(peak: Peak, sm_count: int | None) -> Peak:
    share = sm_count / peak.sm_count if sm_count and peak.sm_count and sm_count <= peak.sm_count else None
    return replace(
        peak,
        sm_count=sm_count,
        bf16_tflops=_times(peak.bf16_tflops, share),
        fp8_tflops=_times(peak.fp8_tflops, share),
        bandwidth_gb_s=None,
        source=f"{peak.source}; the share of a MIG slice by its SMs",
        computed=True,
    )


def _times(value: float | None, factor: float | None) -> float | None:
    return None if value is None or factor is None else value * factor
