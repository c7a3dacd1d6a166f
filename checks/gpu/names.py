"""Which architecture is behind a product name? For texts that print the name and not the compute capability."""

from __future__ import annotations

import re

from fp8doctor.checks.gpu.facts import Gpu

# Product lines of one architecture each; the first pattern that is found counts. Sources: NVIDIA's pages "CUDA GPU
# Compute Capability" and "Legacy CUDA GPU Compute Capability"; the LLVM targets of ROCm's "AMD GPU specifications".
# Not on NVIDIA's page: H800 and H20, the H100's chip; A800, of which `python -m sglang.check_env` printed 8.0.
# Names that people shorten ("RTX 4090") are matched where no other product is called so: RTX 4000, 5000 and 6000 are
# boards of three architectures each, and need their "Ada", "Quadro" or "Blackwell". Boards that a vendor renamed
# (L20X, L20Y, L20Z, M403, "Graphics Device") stay unknown: their names say nothing of the chip.
FAMILIES: tuple[tuple[str, str], ...] = (
    (r"\bGB300\b|\bB300\b", "10.3"),
    (r"\bGB200\b|\bB200\b", "10.0"),
    (r"\bGB10\b", "12.1"),
    (r"NVIDIA Thor\b", "11.0"),
    (r"GeForce RTX 50\d\d|\bRTX 50[5-9]0\b|\bRTX PRO \d+ Blackwell", "12.0"),
    (r"\bG?H[12]00\b|\bH800\b|\bH20\b", "9.0"),
    (r"GeForce RTX 40\d\d|\bRTX 40[5-9]0\b|\bRTX \d+ (SFF )?Ada\b|\bL(4|20|40|40S)\b", "8.9"),
    (r"\bOrin\b", "8.7"),
    (r"\bA[18]00\b|\bA30\b", "8.0"),
    (r"GeForce RTX 30\d\d|\bRTX 30[5-9]0\b|\bRTX A\d{4}\b|\bA(2|10|10G|16|40)\b", "8.6"),
    (r"GeForce RTX 20\d\d|\bRTX 20[6-8]0\b|\bGTX 16[56]0\b|\bTITAN RTX\b|\bT4\b|\bQuadro RTX \d{4}\b", "7.5"),
    (r"\bXavier\b", "7.2"),
    (r"\bV100S?\b|\bTITAN V\b|\bGV100\b", "7.0"),
    (r"\bP100\b|\bGP100\b", "6.0"),
    (r"\bGTX 10[5-8]0\b|\bP40?\b|\bTITAN Xp\b|\bQuadro P\d{3,4}\b", "6.1"),
    (r"\bGTX 9[5-8]0\b|\bTesla M(4|40|60)\b", "5.2"),
    (r"\bTesla K80\b", "3.7"),
    (r"Instinct MI3(00[AX]|25X)", "gfx942"),
    (r"Instinct MI35[05]X", "gfx950"),
    (r"Instinct MI2(10|50X?)", "gfx90a"),
    (r"Instinct MI100", "gfx908"),
    (r"Instinct MI[56]0|Radeon (Pro )?VII", "gfx906"),
    (r"Radeon RX 9070|Radeon AI PRO R9700", "gfx1201"),
    (r"Radeon RX 9060", "gfx1200"),
    (r"Radeon RX 7900|Radeon PRO W7[89]00", "gfx1100"),
    (r"Radeon RX 7[78]00|Radeon PRO W7700", "gfx1101"),
    (r"Radeon RX 7600", "gfx1102"),
    (r"Radeon RX 6[89][05]0|Radeon PRO W6800", "gfx1030"),
)


def capability_of(gpu: Gpu) -> str | None:
    """The compute capability as it was observed, else as the product name implies it, else None."""
    return (gpu.compute_capability or "").partition(":")[0] or capability_by_name(gpu.name)


def capability_by_name(name: str | None) -> str | None:
    """The compute capability ("9.0", "gfx942") of a product, None for a name that is not in the table."""
    if not name:
        return None
    return next((found for pattern, found in FAMILIES if re.search(pattern, name)), None)
