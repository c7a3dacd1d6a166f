"""What versions alone settle of FP8 products, for texts, and the names and variables that texts bring along."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fp8doctor.checks.driver import Driver
from fp8doctor.checks.gpu import Gpu, Gpus
from fp8doctor.checks.gpu.names import capability_by_name
from fp8doctor.checks.gpu.rules import hidden_by_variable, no_fp8_hardware, no_gpu_visible
from fp8doctor.checks.libraries.facts import Libraries
from fp8doctor.checks.machine.facts import Machine
from fp8doctor.checks.torch_build.facts import TorchBuild
from fp8doctor.checks.torch_build.product_rules import no_product
from fp8doctor.checks.torch_build.rules import cpu_only, cuda_too_old_for_ada, no_code_for_gpu, too_old_for_products
from fp8doctor.model import Finding, Severity, Unknown


def gpus(*names: str) -> Gpus:
    return Gpus(gpus=tuple(Gpu(index=index, name=name, vendor="nvidia") for index, name in enumerate(names)))


def build(version: str, cuda: str) -> TorchBuild:
    return TorchBuild(installed=True, version=version, cuda=cuda, accelerator="cuda")


RTX_5090, RTX_4090, RTX_3090 = (gpus(f"NVIDIA GeForce RTX {number}") for number in (5090, 4090, 3090))


def test_a_wheel_for_a_cuda_before_blackwell_has_no_code_for_it() -> None:
    result = no_code_for_gpu(build("2.7.0+cu126", "12.6"), RTX_5090)
    assert isinstance(result, list)
    assert isinstance(result[0], Finding)
    assert "whl/cu128" in (result[0].actions[0].command or "")
    assert isinstance(no_product(build("2.7.0+cu126", "12.6"), RTX_5090), Finding)


@pytest.mark.parametrize("version", ["2.7.0+cu128", "2.7.0", "2.7.0a0+git123", "2.6.0a0+df5bbc09d1.nv24.11"])
def test_a_newer_wheel_and_a_build_of_ones_own_are_not_accused(version: str) -> None:
    cuda = "12.8" if "cu128" in version else "12.6"
    result = no_code_for_gpu(build(version, cuda), RTX_5090)
    assert isinstance(result, Unknown) or (isinstance(result, list) and isinstance(result[0], Unknown))
    assert isinstance(no_product(build(version, cuda), RTX_5090), Unknown)


def test_torch_before_its_fp8_types_and_its_products_on_ada_is_too_old() -> None:
    for version, cuda, box in (
        ("2.0.1+cu118", "11.8", gpus("NVIDIA H100 PCIe")),
        ("2.2.2+cu121", "12.1", RTX_4090),
    ):
        assert isinstance(too_old_for_products(build(version, cuda), box), Finding)
        assert isinstance(no_product(build(version, cuda), box), Finding)
    assert too_old_for_products(build("2.2.2+cu121", "12.1"), gpus("NVIDIA H100 PCIe")) is None


def test_ada_has_products_from_torch_2_3_on_and_windows_from_2_4_on() -> None:
    torch = build("2.3.1+cu121", "12.1")
    assert too_old_for_products(torch, RTX_4090) is None
    assert isinstance(no_product(torch, RTX_4090), Unknown)
    for name in ("Windows-10-10.0.22631-SP0", "Microsoft Windows 11 Pro"):
        assert isinstance(too_old_for_products(torch, RTX_4090, Machine(os=name)), Finding)
        assert isinstance(no_product(torch, RTX_4090, Machine(os=name)), Finding)
        assert too_old_for_products(build("2.4.0+cu121", "12.1"), RTX_4090, Machine(os=name)) is None


WINDOWS, VLLM = Machine(os="Windows-11-10.0.26100-SP0"), Libraries(installed={"vllm": "0.6.0"})


@pytest.mark.parametrize(
    ("box", "driver", "machine", "index"),
    [
        (RTX_4090, "550.54.14", None, "cu126"),
        (RTX_4090, None, None, "cu126"),
        (RTX_4090, "580.95.05", None, None),
        (RTX_4090, "581.15", WINDOWS, "cu130"),
        (RTX_4090, "551.86", WINDOWS, "cu126"),
        (RTX_5090, "570.86.10", None, "cu128"),
        (gpus("Tesla V100-SXM2-16GB"), "580.95.05", None, "cu126"),
    ],
)
def test_the_torch_that_is_advised_is_one_that_the_driver_serves_and_the_gpu_has_code_in(
    box: Gpus, driver: str | None, machine: Machine | None, index: str | None
) -> None:
    result = cpu_only(replace(build("2.6.0+cpu", ""), accelerator="cpu"), box, machine, Driver(version=driver))
    assert isinstance(result, Finding)
    command = result.actions[0].command or ""
    assert command.partition("whl/")[2] == (index or "")


def test_where_an_engine_pins_torch_the_engine_is_updated() -> None:
    result = cuda_too_old_for_ada(build("2.1.2+cu118", "11.8"), RTX_4090, libraries=VLLM)
    assert isinstance(result, Finding)
    assert result.actions[0].text.startswith("Update vllm, which brings its own torch")
    assert result.actions[0].command is None
    missing = no_code_for_gpu(build("2.5.1+cu124", "12.4"), RTX_5090, libraries=VLLM)
    assert isinstance(missing, list)
    assert isinstance(missing[0], Finding)
    assert missing[0].actions == result.actions


def test_a_driver_before_cuda_12_is_updated_first() -> None:
    result = cuda_too_old_for_ada(build("2.1.2+cu118", "11.8"), RTX_4090, driver=Driver(version="520.61.05"))
    assert isinstance(result, Finding)
    assert "First update the driver" in result.actions[0].text


def test_of_unlike_gpus_one_that_may_have_products_keeps_the_answer_open() -> None:
    both = gpus("NVIDIA GeForce RTX 5090", "NVIDIA GeForce RTX 4090")
    assert isinstance(no_product(build("2.7.0+cu126", "12.6"), both), Unknown)
    mixed = gpus("NVIDIA GeForce RTX 5090", "NVIDIA GeForce RTX 3090")
    assert isinstance(no_product(build("2.7.0+cu126", "12.6"), mixed), Finding)


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("NVIDIA RTX 5000 Ada Generation", "8.9"),
        ("NVIDIA GeForce RTX 5060 Ti", "12.0"),
        ("RTX 4090", "8.9"),
        ("NVIDIA RTX 6000 Ada Generation", "8.9"),
        ("Quadro RTX 6000", "7.5"),
        ("NVIDIA RTX A6000", "8.6"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "12.0"),
        ("NVIDIA L40S-48C", "8.9"),
        ("NVIDIA A40-48Q", "8.6"),
        ("GRID A100-40C", "8.0"),
        ("NVIDIA H20-3e", "9.0"),
        ("NVIDIA GH200 480GB", "9.0"),
        ("AMD Instinct MI300A", "gfx942"),
        ("AMD Radeon PRO W7900NoGCNArchNameOnOldPyTorch", "gfx1100"),
        *((name, None) for name in ("NVIDIA RTX 4000", "NVIDIA A400", "NVIDIA L20Z", "NVIDIA M403")),
        *((name, None) for name in ("NVIDIA Graphics Device", "CUDA GPU", "K100_AI", "NVIDIA GeForce ...")),
    ],
)
def test_names_are_known_whole_or_not_at_all(name: str, capability: str | None) -> None:
    assert capability_by_name(name) == capability


def test_a_variable_hides_nothing_where_torch_starts() -> None:
    box = replace(RTX_4090, visibility={"CUDA_VISIBLE_DEVICES": "7"})
    assert isinstance(hidden_by_variable(box, None), Finding)
    assert hidden_by_variable(box, TorchBuild(cuda_available=True)) is None


def test_a_report_written_without_a_reachable_gpu_says_where_to_look() -> None:
    result = no_gpu_visible(Gpus(gpus=(), why_none="not-reachable", why_none_detail="No CUDA"))
    assert isinstance(result, Finding)
    assert result.actions[0].command == "nvidia-smi"


def test_a_cpu_build_is_named_before_what_containers_hide() -> None:
    nowhere = Gpus(gpus=(), why_none="not-reachable")
    result = no_gpu_visible(nowhere, replace(build("2.6.0+cpu", ""), accelerator="cpu"))
    assert isinstance(result, Finding)
    assert result.actions[0].text.startswith("This torch is a CPU build")
    assert "container" in result.actions[1].text
    assert "container" in (no_gpu_visible(nowhere, build("2.6.0+cu124", "12.4")) or result).actions[0].text


@pytest.mark.parametrize(("name", "compiles"), [("Tesla V100-PCIE-16GB", True), ("NVIDIA GeForce GTX 1080 Ti", False)])
def test_what_is_said_of_torch_compile_is_said_of_gpus_that_triton_has(name: str, compiles: bool) -> None:
    result = no_fp8_hardware(gpus(name))
    assert isinstance(result, list)
    assert isinstance(result[0], Finding)
    assert any("torch.compile" in action.text for action in result[0].actions) is compiles


def test_where_some_gpus_have_fp8_the_others_are_a_warning() -> None:
    result = no_fp8_hardware(gpus("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 3090"))
    assert isinstance(result, list)
    (found,) = [one for one in result if isinstance(one, Finding)]
    assert found.title == "2 of 3 GPUs have FP8 tensor cores; NVIDIA GeForce RTX 3090 has none"
    assert found.severity is Severity.WARNING
