"""The probes that ask NVML, in real children, with nvidia-ml-py on a stub library that plays the GPUs."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks import driver as driver_check
from fp8doctor.checks.driver import Driver
from fp8doctor.checks.gpu import clocks as clocks_check
from fp8doctor.checks.gpu import probe as gpu_check
from fp8doctor.checks.gpu.clocks import MAX_SAMPLES, Clocks, ClockSample, during
from fp8doctor.checks.gpu.facts import Gpus
from fp8doctor.checks.torch_build.facts import TorchBuild, TorchDevice
from fp8doctor.model import Facts, Finding, ProbeRun, Request
from fp8doctor.probing.children import importable_here, run_probe
from fp8doctor.store import decode_facts
from tests import stub_nvml
from tests.stub_nvml import H200

pytestmark = pytest.mark.skipif(stub_nvml.compiler() is None, reason="needs a C compiler to build the stub library")

CPU_TORCH = TorchBuild(installed=True, accelerator="cpu", cuda_available=False, devices=())
UUID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stub_nvml.build(tmp_path_factory.mktemp("nvml"))


def run(
    function: Any,
    environment: dict[str, str],
    build: TorchBuild | None = CPU_TORCH,
    request: Request | None = None,
    watch_s: float | None = None,
) -> ProbeRun[Any]:
    """Run a probe as the doctor does, and stop it after `watch_s` if it is one that watches."""
    needed: Mapping[str, ProbeRun[Facts]] = {"torch_build": ProbeRun("ok", build)}
    stop = threading.Event()
    if watch_s is not None:
        threading.Timer(watch_s, stop.set).start()
    return run_probe(
        function.__fp8doctor__,
        request or Request(epoch_s=time.monotonic()),
        interpreter=sys.executable,
        importable=importable_here({}),
        runs=needed,
        environment=environment,
        deadline_s=30,
        decode=decode_facts,
        cancel=threading.Event(),
        stop=stop if watch_s is not None else None,
    )


def facts(ended: ProbeRun[Any]) -> Any:
    assert ended.facts is not None, ended
    return ended.facts


def gpus(
    library: Path, build: TorchBuild | None = None, script: Mapping[str, object] | None = None, **changes: object
) -> Gpus:
    played = {k: v for k, v in {**H200, **(script or {}), **changes}.items() if v is not None}
    ended = run(gpu_check.gather, stub_nvml.environment(library, played), build or CPU_TORCH)
    assert ended.outcome == "ok", ended
    assert isinstance(ended.facts, Gpus)
    return ended.facts


def test_an_h200(library: Path) -> None:
    found = gpus(library)
    assert found.source == "nvml"
    assert found.gpus is not None
    (gpu,) = found.gpus
    assert (gpu.index, gpu.name, gpu.compute_capability, gpu.vendor) == (0, "NVIDIA H200", "9.0", "nvidia")
    assert (gpu.uuid, gpu.pci_bus_id) == (H200["uuid"], H200["pci"])
    assert gpu.sm_count == 132
    assert (gpu.memory_total_mib, gpu.memory_used_mib) == (143771.0, 4.0)
    assert (gpu.power_limit_w, gpu.power_limit_default_w, gpu.power_w) == (700.0, 700.0, 76.12)
    assert (gpu.temperature_c, gpu.clock_event_reasons) == (31.0, ("GpuIdle",))
    assert (gpu.sm_clock_mhz, gpu.sm_clock_max_mhz, gpu.memory_clock_mhz) == (345, 1980, 3201)
    assert (gpu.application_clock_mhz, gpu.application_clock_default_mhz) == (1980, 1980)
    assert (gpu.mig_enabled, gpu.mps_active, gpu.ecc_enabled, gpu.persistence_mode) == (False, False, True, True)
    assert (gpu.pcie_generation, gpu.pcie_width_max) == (5, 16)
    assert (gpu.compute_mode, gpu.virtualization) == ("default", "none")
    assert (gpu.utilization_percent, gpu.processes, gpu.failure) == (0, (), None)
    assert gpu.graphics_memory_mib == 0.0


def test_a_power_cap(library: Path) -> None:
    (gpu,) = gpus(library, power_limit=500000).gpus or ()
    assert (gpu.power_limit_w, gpu.power_limit_default_w) == (500.0, 700.0)


def test_nvlinks_that_are_up_are_counted(library: Path) -> None:
    for up in (18, 17, 0):
        (gpu,) = gpus(library, nvlinks=up).gpus or ()
        assert gpu.nvlinks_active == up
    (without,) = gpus(library).gpus or ()
    assert without.nvlinks_active is None


def test_what_is_not_supported_is_none(library: Path) -> None:
    kept = {"driver", "count", "name", "cc"}
    (gpu,) = gpus(library, None, {key: None for key in H200 if key not in kept}).gpus or ()
    assert (gpu.name, gpu.compute_capability) == ("NVIDIA H200", "9.0")
    others = {k: v for k, v in vars(gpu).items() if k not in ("index", "vendor", "name", "compute_capability")}
    assert set(others.values()) == {None}


def test_a_gpu_that_is_lost_costs_only_itself(library: Path) -> None:
    found = gpus(library, None, {"count": 3, "1.lost": 5})
    first, lost, last = found.gpus or ()
    assert first.failure is None
    assert first == type(first)(**{**vars(last), "index": 0})
    assert (lost.index, lost.uuid, lost.name) == (1, H200["uuid"], "NVIDIA H200")
    assert (lost.sm_clock_mhz, lost.processes) == (None, None)
    assert (lost.failure or "").startswith("GPU_IS_LOST")


EIGHT = {"count": 8}


def test_a_gpu_that_hangs_costs_only_itself(library: Path) -> None:
    found = gpus(library, None, {**EIGHT, "3.blocks": "nvmlDeviceGetUtilizationRates"}).gpus or ()
    assert [gpu.index for gpu in found if gpu.failure] == [3]
    assert (found[3].failure or "").startswith("NO_ANSWER: nvmlDeviceGetUtilizationRates did not return")
    assert (found[3].name, found[3].compute_capability) == ("NVIDIA H200", "9.0")
    assert {gpu.power_limit_w for gpu in found if gpu.index != 3} == {700.0}


def test_a_call_that_ends_the_process_costs_only_its_gpu(library: Path) -> None:
    found = gpus(library, None, {**EIGHT, "3.crashes": "nvmlDeviceGetPowerUsage"})
    assert [gpu.index for gpu in found.gpus or () if gpu.failure] == [3]
    lost = (found.gpus or ())[3]
    assert (lost.failure, lost.name) == ("CRASHED: SIGSEGV", "NVIDIA H200")
    assert {gpu.power_w for gpu in found.gpus or () if gpu.index != 3} == {76.12}
    assert found.attempting is None


def test_a_gpu_that_crashes_when_it_is_named_is_not_asked_again(library: Path) -> None:
    found = gpus(library, None, {"count": 2, "0.crashes": "nvmlDeviceGetName"}).gpus or ()
    assert [gpu.failure for gpu in found] == ["CRASHED: SIGSEGV", None]
    assert found[1].power_limit_w == 700.0


@pytest.mark.parametrize(("what", "name"), [("blocks", "NO_ANSWER"), ("crashes", "CRASHED")])
def test_a_library_that_cannot_be_opened_leaves_what_torch_shows(library: Path, what: str, name: str) -> None:
    device = TorchDevice(index=0, name="NVIDIA H200", compute_capability="9.0", sm_count=132)
    build = TorchBuild(installed=True, accelerator="cuda", devices=(device,))
    script = stub_nvml.environment(library, {**H200, what: "nvmlInitWithFlags"})
    found = facts(run(gpu_check.gather, script, build, Request(seconds_left=2.0)))
    assert [(gpu.name, gpu.sm_count) for gpu in found.gpus] == [("NVIDIA H200", 132)]
    driver = facts(run(driver_check.gather, script, request=Request(seconds_left=2.0)))
    assert (driver.nvml_error or "").startswith(f"{name}: ")


@pytest.mark.parametrize(("content", "words"), [(b"", "file too short"), (b"no library " * 99, "invalid ELF header")])
def test_a_library_that_does_not_load_is_told_from_none(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_bytes(content)
    found = facts(run(driver_check.gather, stub_nvml.environment(tmp_path, {})))
    assert (found.nvml_error or "").startswith("LIBRARY_BROKEN: ")
    assert words in (found.nvml_error or "")


def test_what_cannot_be_true_was_not_observed(library: Path) -> None:
    (gpu,) = gpus(
        library, power_default=-1, power=-1, temperature=-1, sm_clock_max=-1, utilization=255, memory=-1, cc="4095.7",
        pcie_width=-1, persistence=7, processes=f"4294967295:{1 << 62}",
    ).gpus or ()  # fmt: skip
    seen = (gpu.power_limit_default_w, gpu.power_w, gpu.temperature_c, gpu.sm_clock_max_mhz, gpu.utilization_percent)
    assert set(seen) == {None}
    assert (gpu.memory_total_mib, gpu.memory_used_mib, gpu.compute_capability, gpu.pcie_width) == (None,) * 4
    assert gpu.processes is not None
    assert [(p.pid, p.used_memory_mib) for p in gpu.processes] == [(None, None)]
    assert (gpu.name, gpu.power_limit_w) == ("NVIDIA H200", 700.0)


def test_a_count_that_cannot_be_true_is_not_believed(library: Path) -> None:
    assert len(gpus(library, count=3, count_told=2**31).gpus or ()) == 3


def test_a_name_is_a_line_of_text(library: Path) -> None:
    (gpu,) = gpus(library, name="NVIDIA\x1b[2J H200\x07").gpus or ()
    assert gpu.name == "NVIDIA[2J H200"
    (gpu,) = gpus(library, name=b"NVIDIA \xff".decode("utf-8", "surrogateescape")).gpus or ()
    assert (gpu.name, gpu.compute_capability) == (None, "9.0")


def test_a_module_that_is_not_nvidia_ml_py_is_told(library: Path, tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text("")
    script = {**stub_nvml.environment(library, H200), "PYTHONPATH": str(tmp_path)}
    found = facts(run(driver_check.gather, script))
    assert (found.nvml_error or "").startswith("NOT_INSTALLED: ")


def test_a_gpu_that_is_lost_from_the_start(library: Path) -> None:
    first, lost = gpus(library, None, {"count": 2, "1.lost": 0}).gpus or ()
    assert first.name == "NVIDIA H200"
    assert (lost.name, lost.index) == (None, 1)
    assert (lost.failure or "").startswith("GPU_IS_LOST")


def test_an_older_driver_calls_the_reasons_by_another_name(tmp_path: Path) -> None:
    (gpu,) = gpus(stub_nvml.build(tmp_path, old_driver=True), reasons=0x48).gpus or ()
    assert gpu.clock_event_reasons == ("HwSlowdown", "HwThermalSlowdown")


def test_processes_of_others(library: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as own:  # a child of this process: to the probe, a part of the doctor
        try:
            listed = f"1:{3 << 30},{own.pid}:{1 << 30},4194303:{2 << 30}"
            (gpu,) = gpus(library, processes=listed).gpus or ()
        finally:
            own.kill()
    assert gpu.processes is not None
    assert [(p.pid, p.used_memory_mib) for p in gpu.processes] == [(1, 3072.0), (None, 2048.0)]


def test_memory_of_graphics_is_told_apart(library: Path) -> None:
    # The second process computes as well, so that it stands in both lists.
    (gpu,) = gpus(library, graphics=f"1:{1 << 30},4194303:{2 << 30}", processes=f"4194303:{2 << 30}").gpus or ()
    assert gpu.graphics_memory_mib == 1024.0
    (gpu,) = gpus(library, graphics=None).gpus or ()
    assert gpu.graphics_memory_mib is None


def test_an_applications_clock_that_was_lowered(library: Path) -> None:
    (gpu,) = gpus(library, application_clock=1200).gpus or ()
    assert (gpu.application_clock_mhz, gpu.application_clock_default_mhz) == (1200, 1980)


def test_clients_of_mps_and_mig(library: Path) -> None:
    (gpu,) = gpus(library, mps=f"1:{1 << 30}", mig=1).gpus or ()
    assert (gpu.mps_active, gpu.mig_enabled) == (True, True)
    assert gpu.sm_count is None  # the cores are the whole card's


def test_torch_counts_the_sms_of_a_slice(library: Path) -> None:
    device = TorchDevice(index=0, name="NVIDIA H200 MIG 3g.71gb", sm_count=60, uuid="other", pci_bus_id="0000:65:00.0")
    build = TorchBuild(installed=True, accelerator="cuda", devices=(device,))
    (gpu,) = gpus(library, build, mig=1).gpus or ()
    assert gpu.sm_count == 60


def test_an_amd_gpu_is_seen_through_torch(tmp_path: Path) -> None:
    device = TorchDevice(index=0, name="AMD Instinct MI300X", compute_capability="gfx942:sramecc+:xnack-", sm_count=304)
    build = TorchBuild(installed=True, accelerator="hip", devices=(device,))
    found = facts(run(gpu_check.gather, stub_nvml.environment(tmp_path, {}), build))
    (gpu,) = found.gpus
    assert (found.source, gpu.vendor, gpu.compute_capability, gpu.sm_count) == ("torch", "amd", "gfx942", 304)


def test_a_version_mismatch(library: Path) -> None:
    found = gpus(library, init=18)
    assert (found.gpus, found.why_none) == ((), "driver-mismatch")
    assert "LIB_RM_VERSION_MISMATCH" in (found.why_none_detail or "")


def test_no_permission(library: Path) -> None:
    assert gpus(library, init=4).why_none == "no-permission"


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has an NVIDIA driver")
def test_no_driver(tmp_path: Path) -> None:
    found = facts(run(gpu_check.gather, stub_nvml.environment(tmp_path, {})))
    assert found.gpus == ()
    assert found.why_none in ("no-driver", "no-gpu", "amd-not-shown", "wsl")


def test_variables_that_hide_are_kept(library: Path) -> None:
    environment = {**stub_nvml.environment(library, H200), "CUDA_VISIBLE_DEVICES": ""}
    found = facts(run(gpu_check.gather, environment))
    assert found.visibility == {"CUDA_VISIBLE_DEVICES": ""}
    assert len(found.gpus) == 1


def test_the_driver(tmp_path: Path) -> None:
    folder = stub_nvml.build(tmp_path, version="580.159.04")
    found = facts(run(driver_check.gather, stub_nvml.environment(folder, H200)))
    assert isinstance(found, Driver)
    assert (found.installed, found.version, found.cuda_version) == (True, "580.159.04", "13.0")
    assert (found.library_version, found.nvml_error) == ("580.159.04", None)
    assert found.libcuda_overrides == ()


def test_the_driver_that_does_not_match(library: Path) -> None:
    found = facts(run(driver_check.gather, stub_nvml.environment(library, {**H200, "init": 18})))
    assert (found.nvml_error or "").startswith("LIB_RM_VERSION_MISMATCH")
    assert isinstance(driver_check.mismatch(found, None), Finding)


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has an NVIDIA driver")
def test_the_driver_that_is_not_there(tmp_path: Path) -> None:
    found = facts(run(driver_check.gather, stub_nvml.environment(tmp_path, {})))
    assert (found.installed, found.version) == (False, None)


def watched(library: Path, request: Request, build: TorchBuild | None = CPU_TORCH, **script: object) -> Clocks:
    ended = run(clocks_check.watch, stub_nvml.environment(library, {**H200, **script}), build, request, watch_s=2.0)
    assert ended.outcome == "ok", ended
    assert isinstance(ended.facts, Clocks)
    return ended.facts


def test_clocks_are_watched_until_the_timing_ends(library: Path) -> None:
    began = time.monotonic()
    clocks = watched(library, Request(epoch_s=began), reasons=4, sm_clock=1650, power=699000)
    assert (clocks.gpu_index, clocks.gpu_uuid, clocks.interval_s) == (0, H200["uuid"], 0.1)
    assert clocks.samples is not None
    assert len(clocks.samples) >= 8
    times = [s.t_s for s in clocks.samples if s.t_s is not None]
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < time.monotonic() - began
    assert clocks.samples[0] == ClockSample(times[0], 1650, 3201, 699.0, 31.0, ("SwPowerCap",))


def test_the_watched_gpu_is_found_by_uuid(library: Path) -> None:
    devices = (TorchDevice(index=0, uuid="99999999"), TorchDevice(index=1, uuid=UUID))
    build = TorchBuild(installed=True, accelerator="cuda", devices=devices)
    script = {"count": 2, "0.uuid": "GPU-other", "1.uuid": f"GPU-{UUID}"}
    clocks = watched(library, Request(gpu=1, epoch_s=time.monotonic()), build, **script)
    assert (clocks.gpu_index, clocks.gpu_uuid) == (1, f"GPU-{UUID}")


def test_which_gpu_to_watch_is_not_guessed(library: Path) -> None:
    clocks = watched(library, Request(gpu=1, epoch_s=time.monotonic()), count=2)
    assert clocks.samples == ()
    assert "not known" in (clocks.error or "")


def test_clocks_without_nvml(tmp_path: Path) -> None:
    clocks = watched(tmp_path, Request(epoch_s=time.monotonic()))
    assert clocks.samples == ()
    assert clocks.error


def sample(t_s: float, mhz: int | None, watts: float, *reasons: str) -> ClockSample:
    return ClockSample(t_s=t_s, sm_clock_mhz=mhz, power_w=watts, temperature_c=50.0, event_reasons=reasons)


def test_during() -> None:
    clocks = Clocks(
        samples=(
            sample(0.0, 345, 76.0, "GpuIdle"),
            sample(1.0, 1980, 400.0),
            sample(1.1, 1650, 699.0, "SwPowerCap"),
            sample(1.2, 1700, 690.0, "SwPowerCap"),
            sample(1.3, None, 650.0),
            sample(9.0, 345, 76.0, "GpuIdle"),
        )
    )
    summary = during(clocks, 0.5, 2.0)
    assert summary is not None
    assert (summary.samples, summary.sm_clock_mhz, summary.sm_clock_min_mhz) == (4, 1700, 1650)
    assert (summary.power_max_w, summary.temperature_max_c) == (699.0, 50.0)
    assert summary.reasons == {"SwPowerCap": 0.5}
    assert during(clocks, 3.0, 4.0) is None
    assert during(Clocks(), 0.0, 9.0) is None


def test_a_long_watch_stays_bounded(library: Path) -> None:
    # The loop of the probe without its pauses, and with fewer samples kept than it takes.
    script = stub_nvml.environment(library, {**H200, "reasons": 4})
    code = (
        "import time; time.sleep = lambda s: None\n"
        "from fp8doctor.checks.gpu import clocks as c\n"
        "from fp8doctor.model import ProbeRun, Request\n"
        "c.MAX_SAMPLES = 50\n"
        "records = c.watch.__fp8doctor__.function(Request(), ProbeRun('ok'))\n"
        "last = [next(records) for _ in range(3)][-1]\n"
        "print(len(last.samples), last.interval_s)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=script, capture_output=True, text=True, check=True)
    count, interval_s = done.stdout.split()
    assert int(count) <= 50 < MAX_SAMPLES
    assert float(interval_s) > 0.1
