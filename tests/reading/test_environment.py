"""What each kind of environment report says, in the words of the facts."""

from __future__ import annotations

from typing import Any

import pytest

from fp8doctor import api
from fp8doctor.judging.report import Report
from fp8doctor.reading import environment
from fp8doctor.reading.text import clean
from tests.reading import texts


def facts(text: str) -> dict[str, Any]:
    return environment.read(clean(text))[0]


def names(text: str) -> list[str]:
    return [gpu["name"] for gpu in facts(text)["gpus"]["gpus"]]


def found(report: Report) -> dict[str, str]:
    return {finding.id: finding.severity.value for finding in report.findings}


def test_collect_env_tells_gpu_driver_and_torch() -> None:
    said = facts(texts.collect_env())
    assert said["gpus"]["gpus"] == [{"index": 0, "name": "NVIDIA GeForce RTX 4090", "vendor": "nvidia"}]
    assert said["driver"] == {"version": "550.54.14", "installed": True}
    torch = said["torch_build"]
    assert (torch["version"], torch["cuda"], torch["accelerator"]) == ("2.6.0+cu124", "12.4", "cuda")
    assert torch["cuda_available"] is True
    assert torch["python"] == "3.11.9"
    assert said["libraries"]["installed"] == {"numpy": "1.26.4", "torch": "2.6.0", "triton": "3.2.0"}
    assert said["machine"]["cpu"] == "Some CPU @ 2.00GHz"
    assert said["machine"]["logical_cpus"] == 32


def test_several_gpus_stand_in_lines_of_their_own_and_a_slice_marks_its_gpu() -> None:
    listed = "\nGPU 0: NVIDIA H100\nGPU 1: NVIDIA H100\n  MIG 1g.12gb     Device  0:\n  MIG 1g.12gb     Device  1:\n"
    gpus = facts(texts.collect_env(gpus=listed))["gpus"]["gpus"]
    assert [gpu.get("mig_enabled") for gpu in gpus] == [None, True]


def test_an_amd_gpu_is_named_with_its_target_and_without_a_number() -> None:
    text = texts.collect_env(
        torch="2.5.0+rocm6.2",
        cuda="N/A",
        rocm="6.2.41133-dd7f95766",
        gpus=" AMD Instinct MI300X (gfx942:sramecc+:xnack-)",
        driver="Could not collect",
    )
    said, reading = environment.read(clean(text))
    assert said["gpus"]["gpus"][0]["compute_capability"] == "gfx942"
    assert (said["torch_build"]["hip"], said["torch_build"]["accelerator"]) == ("6.2.41133", "hip")
    assert "driver" not in said
    assert "how many GPUs it has" in [gap.what for gap in reading.untold or ()]


def test_nothing_collected_is_nothing_said_and_no_cuda_is_a_box_without_a_reachable_gpu() -> None:
    untold = facts(texts.collect_env(gpus=" Could not collect", driver="Could not collect", available="False"))
    assert "gpus" not in untold
    assert "driver" not in untold
    no_cuda = texts.collect_env(gpus=" No CUDA", driver="No CUDA", available="False")
    assert facts(no_cuda)["gpus"]["gpus"] == []
    report = api.read(no_cuda)
    assert found(report) == {"GPU002": "error"}
    assert report.verdict.fp8_hardware is None


def test_a_mac_and_another_vendors_accelerator_are_no_boxes_without_a_gpu() -> None:
    mac = texts.collect_env(
        torch="2.6.0", cuda="None", gpus=" No CUDA", driver="No CUDA", available="False", os="macOS 14.7.3 (arm64)",
        platform="macOS-14.7.3-arm64-arm-64bit", pip=("torch==2.6.0",),
    )  # fmt: skip
    assert "gpus" not in facts(mac)
    assert "accelerator" not in facts(mac)["torch_build"]
    npu = texts.collect_env(
        torch="2.6.0+cpu", cuda="None", gpus=" No CUDA", driver="No CUDA", available="True", pip=("torch_npu==2.6.0",)
    )
    assert "gpus" not in facts(npu)


def test_torch_that_the_reporting_python_lacks_is_not_missing_on_the_box() -> None:
    said = facts(texts.collect_env(torch="N/A", cuda="N/A", available="N/A", pip=()))
    assert "torch_build" not in said
    assert said["driver"]["version"] == "550.54.14"


def test_a_package_list_proves_the_absence_of_what_its_filter_lets_through() -> None:
    def absent(*pip: str) -> Any:
        return facts(texts.collect_env(pip=pip)).get("libraries", {}).get("absent")

    assert absent("torch==2.6.0", "triton==3.2.0") == ["torchao"]
    assert absent("torch==2.6.0", "torchao==0.9.0") == ["triton"]
    assert absent("torch==2.6.0", "pytorch-triton==3.2.0") == ["torchao"]
    assert absent("torch==2.4.0") is None, "the list is of another environment than the header"
    assert absent() is None


def test_vllm_adds_its_version_and_the_variables_that_matter() -> None:
    said, reading = environment.read(clean(texts.collect_env() + texts.VLLM_TAIL))
    assert said["libraries"]["installed"]["vllm"] == "0.7.3"
    assert said["machine"]["environment"] == {
        "CUDA_VISIBLE_DEVICES": "0",
        "LD_LIBRARY_PATH": "/opt/python/lib",
        "NCCL_P2P_DISABLE": "1",
    }
    assert said["gpus"]["visibility"] == {"CUDA_VISIBLE_DEVICES": "0"}
    assert reading.formats == ("vllm-collect-env",)


def test_vllm_in_sections_says_the_same() -> None:
    said, reading = environment.read(clean(texts.SECTIONED))
    assert names(texts.SECTIONED) == ["NVIDIA B200"] * 2
    assert said["torch_build"]["cuda"] == "12.8"
    assert said["libraries"]["installed"]["vllm"] == "0.10.1.dev7+gabcdef123"
    assert said["driver"]["version"] == "575.57.08"
    assert reading.formats == ("vllm-collect-env",)
    assert reading.cut is False


def test_a_forgotten_newline_of_the_early_vllm_report_hides_nothing() -> None:
    glued = texts.collect_env().rstrip("\n") + texts.VLLM_TAIL
    assert facts(glued)["libraries"]["installed"]["vllm"] == "0.7.3"


def test_sglang_gives_each_gpu_its_capability() -> None:
    gpus = facts(texts.SGLANG)["gpus"]["gpus"]
    assert [gpu["compute_capability"] for gpu in gpus] == ["8.9", "8.9", "8.6"]
    assert facts(texts.SGLANG)["libraries"]["absent"] == ["torchao", "vllm"]
    assert facts(texts.SGLANG)["torch_build"]["cuda"] == "12.4"


def test_under_rocm_the_capability_of_sglang_is_no_nvidia_one() -> None:
    gpus = facts(texts.SGLANG_ROCM)["gpus"]["gpus"]
    assert [gpu["compute_capability"] for gpu in gpus] == ["gfx942", "gfx942"]
    old = texts.SGLANG_ROCM.replace("9.4", "9.0").replace("MI300X", "MI250X")
    assert "compute_capability" not in facts(old)["gpus"]["gpus"][0]
    assert api.read(old).verdict.fp8_hardware is False, "9.0 is gfx90a there, and not Hopper"


@pytest.mark.parametrize(
    ("text", "format", "torch", "cuda", "gpus"),
    [
        (texts.TRANSFORMERS, "transformers-env", "2.5.0+cu124", "12.4", ["NVIDIA L40S"]),
        (texts.DIFFUSERS, "diffusers-cli-env", "2.4.1+cu121", "12.1", ["NVIDIA A100-SXM4-80GB"] * 2),
        (texts.ACCELERATE, "accelerate-env", "2.8.0+cpu", None, None),
        (texts.DS_REPORT, "ds-report", "2.3.1+cu118", "11.8", None),
        (texts.XFORMERS, "xformers-info", "2.4.1+cu121", "12.1", ["NVIDIA RTX 4000 Ada Generation"]),
    ],
)
def test_the_other_reports_of_libraries(
    text: str, format: str, torch: str, cuda: str | None, gpus: list[str] | None
) -> None:
    said, reading = environment.read(clean(text))
    assert reading.formats == (format,)
    assert said["torch_build"]["version"] == torch
    assert said["torch_build"].get("cuda") == cuda
    assert [gpu["name"] for gpu in said.get("gpus", {}).get("gpus", [])] == (gpus or [])
    assert "driver" not in said


def test_what_transformers_says_is_not_installed_is_absent() -> None:
    assert facts(texts.TRANSFORMERS)["libraries"]["absent"] == ["accelerate"]
    assert facts(texts.TRANSFORMERS)["libraries"]["installed"]["transformers"] == "4.46.0"


def test_nvidia_smi_tells_driver_gpus_and_what_lasts() -> None:
    said = facts(texts.NVIDIA_SMI)
    assert said["driver"] == {"version": "550.90.07", "cuda_version": "12.4", "installed": True}
    assert said["gpus"]["gpus"][1] == {
        "index": 1,
        "name": "NVIDIA H100 80GB HBM3",
        "vendor": "nvidia",
        "power_limit_w": 700.0,
        "memory_total_mib": 81559.0,
        "mig_enabled": True,
    }


def test_a_name_that_nvidia_smi_cut_stays_unknown_and_is_asked_for() -> None:
    said, reading = environment.read(clean(texts.NVIDIA_SMI_OLD))
    assert said["gpus"]["gpus"][0]["name"] == "NVIDIA GeForce ..."
    assert (reading.untold or ())[0].command == "nvidia-smi -L"
    assert api.read(texts.NVIDIA_SMI_OLD).verdict.fp8_hardware is None


def test_wsl_shows_the_driver_of_windows() -> None:
    text = texts.collect_env(platform="Linux-5.15.167.4-microsoft-standard-WSL2-x86_64-with-glibc2.35", driver="572.70")
    assert facts(text)["driver"] == {"version": "572.70", "installed": True, "wsl": True}
    assert facts(text)["machine"]["wsl"] is True


def test_two_reports_of_one_box_are_one_box() -> None:
    smi = texts.NVIDIA_SMI.replace("NVIDIA H100 80GB HBM3 ", "NVIDIA GeForce RTX 4090").replace(
        "550.90.07", "550.54.14"
    )
    said, reading = environment.read(clean(texts.collect_env() + "\n" + smi))
    assert reading.formats == ("torch-collect-env", "nvidia-smi")
    assert said["driver"]["cuda_version"] == "12.4"
    assert said["gpus"]["gpus"][0]["memory_total_mib"] == 81559.0
    assert said["torch_build"]["version"] == "2.6.0+cu124"


HALF = """                 GPU 3: NVIDIA H100 80GB HBM3
GPU 4: NVIDIA H100 80GB HBM3

Nvidia driver version: 535.161.08
Versions of relevant libraries:
[pip3] numpy==1.26.4
[pip3] torch==2.4.0
[conda] Could not collect
"""


def test_half_a_report_says_what_its_half_says() -> None:
    said = facts(HALF)
    assert names(HALF) == ["NVIDIA H100 80GB HBM3"] * 2
    assert said["driver"]["version"] == "535.161.08"
    assert said["torch_build"] == {"installed": True, "version": "2.4.0"}
    assert facts("[pip3] torch==2.4.0")["torch_build"]["version"] == "2.4.0"
    assert "torch_build" not in facts("PyTorch version: N/A\nIs CUDA available: N/A\n" + HALF)


def test_of_two_boxes_the_first_counts_and_the_other_is_told() -> None:
    said, reading = environment.read(clean(texts.collect_env() + "\nAnd on the server:\n\n" + texts.NVIDIA_SMI))
    assert [gpu["name"] for gpu in said["gpus"]["gpus"]] == ["NVIDIA GeForce RTX 4090"]
    assert said["driver"]["version"] == "550.54.14"
    assert reading.boxes == 2
    gap = (reading.untold or ())[0]
    assert gap.what == "what the other boxes are like"
    assert gap.why.endswith("cut the text into one report each and read each")
    assert gap.command is None
    assert "NVIDIA H100 80GB HBM3" in gap.why


def test_a_second_node_of_sglang_is_no_more_gpus() -> None:
    assert len(facts(texts.SGLANG + "\n" + texts.SGLANG)["gpus"]["gpus"]) == 3


def test_a_text_in_which_nothing_is_known_says_so() -> None:
    with pytest.raises(api.NothingRecognisedError):
        api.read("My model is slow. I tried FP8 and it did not help. GPU: a good one. Python: yes.")
    with pytest.raises(api.NothingRecognisedError):
        api.read("")


def test_what_was_written_by_hand_fills_what_no_tool_said() -> None:
    said = facts("**GPU**: 2x NVIDIA GeForce RTX 5090 32GB\n- Driver: 575.64\n- PyTorch: 2.8.0+cu128\n")
    assert [gpu["name"] for gpu in said["gpus"]["gpus"]] == ["NVIDIA GeForce RTX 5090"] * 2
    assert said["driver"]["version"] == "575.64"
    assert said["torch_build"]["cuda"] == "12.8"
    text = "It also fails on another machine.\nGPU: NVIDIA A100\n" + texts.collect_env()
    assert names(text) == ["NVIDIA GeForce RTX 4090"]


def test_torchs_warning_gives_the_architectures_of_the_build() -> None:
    warning = (
        "UserWarning: NVIDIA GeForce RTX 5090 with CUDA capability sm_120 is not compatible with the current PyTorch"
        " installation.\nThe current PyTorch install supports CUDA capabilities sm_50 sm_60 sm_70 sm_75 sm_80 sm_86"
        " sm_90.\n"
    )
    said = facts(warning)
    assert said["torch_build"]["arch_list"][-1] == "sm_90"
    assert said["gpus"]["gpus"][0]["compute_capability"] == "12.0"
    assert found(api.read(warning))["TOR005"] == "error"
