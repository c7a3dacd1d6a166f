"""The rules of the subject `gpu`: each once on facts that it fires on, once on facts that it does not."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from fp8doctor.checks.gpu import rules
from fp8doctor.checks.gpu import sharing_rules as sharing
from fp8doctor.checks.gpu import state_rules as state
from fp8doctor.checks.gpu.absence import Traces, conclude, look
from fp8doctor.checks.gpu.clocks import Clocks, ClockSample
from fp8doctor.checks.gpu.facts import Gpu, Gpus
from fp8doctor.checks.gpu.names import capability_by_name
from fp8doctor.checks.torch_build.facts import TorchBuild, TorchDevice
from fp8doctor.model import Finding, NotApplicable, RuleResult, Unknown

H200 = Gpu(
    index=0,
    name="NVIDIA H200",
    compute_capability="9.0",
    vendor="nvidia",
    uuid="GPU-11111111-2222-3333-4444-555555555555",
    sm_count=132,
    memory_total_mib=143771.0,
    memory_used_mib=4.0,
    power_limit_w=700.0,
    power_limit_default_w=700.0,
    temperature_c=31.0,
    sm_clock_mhz=345,
    sm_clock_max_mhz=1980,
    application_clock_mhz=1980,
    application_clock_default_mhz=1980,
    clock_event_reasons=("GpuIdle",),
    mig_enabled=False,
    mps_active=False,
    utilization_percent=0,
    processes=(),
    graphics_memory_mib=0.0,
)
IDLE = Gpus(gpus=(H200,), source="nvml", visibility={}, doctor_idle=True)
EMPTY = Gpus(gpus=())


def box(**changes: object) -> Gpus:
    return replace(IDLE, gpus=(replace(H200, **changes),))  # type: ignore[arg-type]


def fired(result: RuleResult) -> list[Finding]:
    return [r for r in (result if isinstance(result, list) else [result]) if isinstance(r, Finding)]


def unknown(result: RuleResult) -> bool:
    return any(isinstance(r, Unknown) for r in (result if isinstance(result, list) else [result]))


def load(*reasons: str, sm_clock_mhz: int = 1980, count: int = 20) -> Clocks:
    sample = ClockSample(sm_clock_mhz=sm_clock_mhz, event_reasons=reasons)
    return Clocks(gpu_index=0, samples=tuple(replace(sample, t_s=i / 10) for i in range(count)))


def test_a_healthy_idle_h200_has_no_finding() -> None:
    full_load = load("SwPowerCap", sm_clock_mhz=1650)
    assert not fired(rules.no_fp8_hardware(IDLE))
    assert rules.no_gpu_visible(IDLE) is None
    assert not fired(rules.geforce_half_rate(IDLE))
    assert not fired(rules.no_fast_fp16(IDLE))
    assert rules.hidden_by_variable(IDLE, None) is None
    assert not fired(state.power_cap(IDLE))
    assert not fired(sharing.shared_or_mig(IDLE, None))
    assert not fired(state.lost(IDLE))
    for clocks in (None, full_load):
        assert not fired(state.braked(IDLE, clocks))
        assert not fired(state.clocks_pinned(IDLE, clocks))


@pytest.mark.parametrize("known", ["8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1", "gfx942", "gfx950", "gfx1201"])
def test_fp8_hardware(known: str) -> None:
    assert rules.no_fp8_hardware(box(compute_capability=known)) == [None]


@pytest.mark.parametrize("known", ["6.1", "7.0", "7.5", "8.0", "8.6", "8.7", "gfx90a", "gfx908", "gfx1030", "gfx1100"])
def test_no_fp8_hardware(known: str) -> None:
    (finding,) = fired(rules.no_fp8_hardware(box(name="A board", compute_capability=known)))
    assert "no FP8" in finding.title
    assert finding.about == "gpu:0"
    assert known in finding.evidence[0].text


@pytest.mark.parametrize(("known", "instead"), [("8.0", "BF16"), ("7.5", "FP16"), ("6.1", "FP32")])
def test_what_to_use_instead_of_fp8(known: str, instead: str) -> None:
    (finding,) = fired(rules.no_fp8_hardware(box(compute_capability=known)))
    assert f"Compute in {instead} on it" in finding.actions[0].text


def test_the_name_tells_where_no_capability_was_printed() -> None:
    assert fired(rules.no_fp8_hardware(box(name="NVIDIA A100-SXM4-80GB", compute_capability=None)))
    assert rules.no_fp8_hardware(box(name="NVIDIA H100 80GB HBM3", compute_capability=None)) == [None]
    assert fired(rules.no_fp8_hardware(box(name="Intel(R) Arc(TM) Pro B60 Graphics", compute_capability=None)))


def test_whether_an_unknown_gpu_has_fp8_is_unknown() -> None:
    assert unknown(rules.no_fp8_hardware(box(name="Some GPU", compute_capability=None)))
    assert unknown(rules.no_fp8_hardware(box(name="AMD Radeon", compute_capability="gfx1250")))
    assert unknown(rules.no_fp8_hardware(EMPTY))
    assert unknown(rules.no_fp8_hardware(Gpus()))


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA GB200", "10.0"),
        ("NVIDIA GB10", "12.1"),
        ("NVIDIA GH200 480GB", "9.0"),
        ("NVIDIA H20", "9.0"),
        ("NVIDIA L40S", "8.9"),
        ("NVIDIA A800-SXM4-40GB", "8.0"),
        ("NVIDIA L4", "8.9"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "8.9"),
        ("NVIDIA RTX 6000 Ada Generation", "8.9"),
        ("Quadro RTX 6000", "7.5"),
        ("NVIDIA RTX A6000", "8.6"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "12.0"),
        ("NVIDIA A10G", "8.6"),
        ("NVIDIA A10", "8.6"),
        ("Tesla T4", "7.5"),
        ("Tesla V100-SXM2-32GB", "7.0"),
        ("Tesla P40", "6.1"),
        ("AMD Instinct MI300X", "gfx942"),
        ("NVIDIA Graphics Device", None),
        ("", None),
        (None, None),
    ],
)
def test_names_of_architectures(name: str | None, known: str | None) -> None:
    assert capability_by_name(name) == known


@pytest.mark.parametrize("why", rules.WHY_NONE)
def test_no_gpu_visible_says_why(why: str) -> None:
    finding = rules.no_gpu_visible(Gpus(gpus=(), why_none=why, why_none_detail="what was seen"))
    assert finding is not None
    assert rules.WHY_NONE[why][0] in finding.title
    assert finding.evidence[0].text == "what was seen"
    assert finding.actions[-1].command == "fp8doctor demo"


def test_no_gpu_visible_does_not_guess() -> None:
    finding = rules.no_gpu_visible(EMPTY)
    assert finding is not None
    assert finding.title == "No GPU is visible"
    assert unknown(rules.no_gpu_visible(Gpus()))


LOADED = Traces(driver_loaded=True, device_files=("nvidia0",), nvidia_on_pci=1, amd_on_pci=0)
BARE = Traces(nvidia_on_pci=0, amd_on_pci=0)


@pytest.mark.parametrize(
    ("traces", "nvml", "why"),
    [
        (BARE, "LIBRARY_NOT_FOUND", "no-gpu"),
        (replace(BARE, amd_on_pci=1), "LIBRARY_NOT_FOUND", "amd-not-shown"),
        (replace(BARE, nvidia_on_pci=None, amd_on_pci=None), "LIBRARY_NOT_FOUND", "no-driver"),
        (replace(BARE, nvidia_on_pci=2), "LIBRARY_NOT_FOUND", "no-driver"),
        (replace(BARE, nvidia_on_pci=2), "DRIVER_NOT_LOADED", "no-driver"),
        (replace(LOADED, device_files=()), "LIBRARY_NOT_FOUND", "no-device-files"),
        (replace(LOADED, device_files=()), None, "no-device-files"),
        (LOADED, "LIBRARY_NOT_FOUND", "no-driver-library"),
        (LOADED, "LIB_RM_VERSION_MISMATCH", "driver-mismatch"),
        (LOADED, "NO_PERMISSION", "no-permission"),
        (replace(LOADED, device_files=(), visibility={"NVIDIA_VISIBLE_DEVICES": "void"}), None, "hidden-by-variable"),
        (replace(BARE, visibility={"NVIDIA_VISIBLE_DEVICES": "void"}), "LIBRARY_NOT_FOUND", "no-gpu"),
        (replace(BARE, visibility={"NVIDIA_VISIBLE_DEVICES": "none"}), None, "hidden-by-variable"),
        (replace(BARE, wsl=True), "LIBRARY_NOT_FOUND", "wsl"),
        (LOADED, "UNKNOWN", None),
        (LOADED, None, None),
    ],
)
def test_why_no_gpu_is_visible(traces: Traces, nvml: str | None, why: str | None) -> None:
    found, detail = conclude(traces, nvml)
    assert found == why
    assert detail
    assert found is None or found in rules.WHY_NONE


def test_traces_are_read_from_the_system(tmp_path: Path) -> None:
    for address, vendor, kind in (("0000:65:00.0", "0x10de", "0x030200"), ("0000:00:1f.3", "0x10de", "0x040300")):
        device = tmp_path / "sys/bus/pci/devices" / address
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
    for file in ("proc/driver/nvidia/version", "dev/nvidia0", "dev/nvidiactl"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "proc/version").write_text("Linux version 6.6.87.2-microsoft-standard-WSL2")
    traces = look({"CUDA_VISIBLE_DEVICES": "", "HOME": "/root"}, tmp_path)
    assert traces == Traces(True, ("nvidia0",), 1, 0, True, {"CUDA_VISIBLE_DEVICES": ""})
    assert look({}, tmp_path / "nothing") == Traces(visibility={})


@pytest.mark.parametrize(
    ("known", "name", "fires"),
    [
        ("8.9", "NVIDIA GeForce RTX 4090", True),
        ("12.0", "NVIDIA GeForce RTX 5070", True),
        ("9.0", "NVIDIA H200", False),
    ],
)
def test_geforce_half_rate(known: str, name: str, fires: bool) -> None:
    result = rules.geforce_half_rate(box(name=name, compute_capability=known))
    assert bool(fired(result)) is fires


def test_geforce_half_rate_shows_the_rates() -> None:
    (finding,) = fired(rules.geforce_half_rate(box(name="NVIDIA GeForce RTX 4090", compute_capability="8.9")))
    assert "512 and 1024 FLOP per clock and SM" in finding.evidence[1].text
    ampere = rules.geforce_half_rate(box(name="NVIDIA GeForce RTX 3090", compute_capability="8.6"))
    assert isinstance(ampere, list)
    assert isinstance(ampere[0], NotApplicable)


def test_no_fast_fp16() -> None:
    assert fired(rules.no_fast_fp16(box(name="Tesla P40", compute_capability="6.1")))
    assert not fired(rules.no_fast_fp16(box(name="Tesla P100", compute_capability="6.0")))


@pytest.mark.parametrize(
    ("value", "count"),
    [
        ("", 0),
        ("-1", 0),
        ("7", 0),
        ("NoDevFiles", 0),
        ("0", 1),
        ("0,9,1", 1),
        ("GPU-1111", 1),
        ("MIG-abc", 1),
        ("GPU-9", 0),
    ],
)
def test_visible_count(value: str, count: int) -> None:
    assert rules.visible_count(value, [H200]) == count


def test_gpu_hidden_by_variable() -> None:
    hidden = replace(IDLE, visibility={"CUDA_VISIBLE_DEVICES": ""})
    assert rules.hidden_by_variable(hidden, None) is not None
    assert fired(rules.hidden_by_variable(hidden, TorchBuild(devices=())))
    assert rules.hidden_by_variable(hidden, TorchBuild(devices=(TorchDevice(index=0),))) is None
    assert rules.hidden_by_variable(replace(IDLE, visibility={"CUDA_VISIBLE_DEVICES": "0"}), None) is None
    assert isinstance(rules.hidden_by_variable(EMPTY, None), NotApplicable)


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        ('ValueError("type fp8e4nv not supported in this architecture. The supported ...")', "GPU001"),
        (
            "RuntimeError: torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0 or 8.9, "
            "or ROCm MI300+",
            "GPU001",
        ),
        ("RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU", "GPU002"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "GPU002"),
        ("RuntimeError: No CUDA GPUs are available", "GPU002"),
        ('docker: Error response: could not select device driver "" with capabilities: [[gpu]].', "GPU002"),
    ],
)
def test_error_texts(message: str, rule: str) -> None:
    assert [t.rule for t in rules.ERROR_TEXTS if re.search(t.pattern, message)] == [rule]
