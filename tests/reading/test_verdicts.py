"""The three answers that a pasted text gives, the next step, and what it cannot tell."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fp8doctor import api
from fp8doctor.judging.report import Report
from fp8doctor.reporting import terminal
from tests.reading import texts


def answers(report: Report) -> tuple[bool | None, bool | None, bool | None]:
    return report.verdict.fp8_hardware, report.verdict.fp8_software, report.verdict.fp8_runs


def first_command(report: Report) -> str:
    return str(report.findings[0].actions[0].command or report.findings[0].actions[0].text)


def printed(report: Report) -> str:
    out = io.StringIO()
    terminal.render(api.terminal_view(report), Console(file=out, width=100))
    return out.getvalue()


def test_a_healthy_ada_box_has_the_hardware_and_no_finding_on_the_box() -> None:
    report = api.read(texts.collect_env())
    assert answers(report) == (True, None, None)
    assert [finding.id for finding in report.findings if finding.scope == "box"] == []


def test_an_a100_has_none() -> None:
    report = api.read(texts.collect_env(gpus=" GPU 0: NVIDIA A100-SXM4-80GB"))
    assert answers(report)[0] is False
    assert report.verdict.status == "unavailable"
    assert "NVIDIA A100-SXM4-80GB has no FP8 tensor cores" in report.verdict.headline


def test_a_5090_with_a_wheel_for_cuda_126_needs_another_wheel() -> None:
    report = api.read(texts.collect_env(torch="2.7.0+cu126", cuda="12.6", gpus=" GPU 0: NVIDIA GeForce RTX 5090"))
    assert answers(report)[:2] == (True, False)
    assert report.findings[0].id == "TOR005"
    assert "whl/cu128" in first_command(report)


def test_a_wheel_for_the_cpu_needs_a_gpu_build() -> None:
    report = api.read(texts.collect_env(torch="2.6.0+cpu", cuda="None", available="False", pip=("torch==2.6.0+cpu",)))
    assert answers(report)[:2] == (True, False)
    assert report.findings[0].id == "TOR003"
    assert "--force-reinstall torch" in first_command(report)


def test_an_old_driver_is_the_first_finding() -> None:
    report = api.read(texts.collect_env(driver="510.47.03", available="False"))
    assert answers(report)[0] is True
    assert report.findings[0].id == "DRV001"
    assert report.findings[0].explains == ("TOR004",), "that torch does not start follows from it"
    assert "branch 525 or newer" in first_command(report)


def test_lacking_hardware_is_the_answer_whatever_else_is_wrong() -> None:
    report = api.read(texts.collect_env(driver="510.47.03", available="False", gpus=" GPU 0: NVIDIA A10G"))
    assert report.verdict.headline == "No FP8 compute here: NVIDIA A10G has no FP8 tensor cores."


def test_unlike_gpus_are_answered_one_by_one() -> None:
    report = api.read(texts.SGLANG)
    assert answers(report)[0] is None
    assert [(f.id, f.about) for f in report.findings if f.id == "GPU001"] == [("GPU001", "gpu:2")]
    assert [f.severity.value for f in report.findings if f.id == "GPU001"] == ["warning"]
    assert "2 of 3 GPUs have FP8 tensor cores" in report.verdict.headline


def test_of_two_boxes_the_verdict_says_first_that_one_was_judged() -> None:
    report = api.read(texts.collect_env() + "\nAnd on the server:\n\n" + texts.NVIDIA_SMI)
    assert report.verdict.headline.startswith("2 boxes or environments in this text; only the first was judged. ")
    for text in (printed(report), api.report_to_markdown(report)):
        assert "nothing wrong found" not in text
    assert "nothing wrong found" in printed(api.read(texts.collect_env()))


def test_an_error_alone_is_answered_with_the_command_that_tells_the_box() -> None:
    untold = api.read("ImportError: FlashAttention only supports Ampere GPUs or newer.").facts["reading"]["untold"]
    assert untold[0]["what"] == "which GPU, driver and torch it is"
    assert untold[0]["command"] == "python -m torch.utils.collect_env"


def test_a_missing_kernel_image_is_an_error_whose_owner_is_asked_for() -> None:
    report = api.read("RuntimeError: CUDA error: no kernel image is available for execution on the device")
    (finding,) = report.findings
    assert (finding.name, finding.severity.value, finding.scope) == ("no-kernel-image", "error", "box")
    assert "get_arch_list" in str(finding.actions[0].command)
    assert "nothing wrong found" not in printed(report)
    assert "get_arch_list" in report.facts["reading"]["untold"][0]["command"]


def test_a_missing_kernel_image_is_explained_where_torch_is_seen_to_lack_the_gpu() -> None:
    box = texts.collect_env(torch="2.6.0+cu124", gpus=" GPU 0: NVIDIA GeForce RTX 5090")
    report = api.read(f"{box}\nRuntimeError: CUDA error: no kernel image is available for execution on the device")
    assert report.findings[0].id == "TOR005"
    assert "TOR021" in report.findings[0].explains


def test_an_error_of_another_kind_is_called_unknown_to_fp8doctor_not_absent() -> None:
    with pytest.raises(api.NothingRecognisedError, match="log line or error that fp8doctor knows"):
        api.read("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    ("line", "id", "unseen"),
    [
        ("AssertionError: FP8 execution requires 2D input matrices with height divisible by 8", "TE022", "te.Linear"),
        ("AssertionError: Torch not compiled with CUDA enabled", "TOR003", "on a box with a GPU"),
        (
            "RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment",
            "TOR004",
            "visible",
        ),
        ("RuntimeError: cuDNN error: CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED", "TE012", "Transformer Engine"),
        ("AssertionError: libcuda.so cannot found!", "CMP007", "FP8"),
        ("NotImplementedError: FA3 backward does not support fp8", "FA008", "for this GPU"),
    ],
)
def test_a_finding_of_a_message_says_no_more_than_the_message_shows(line: str, id: str, unseen: str) -> None:
    report = api.read(line)
    assert [finding.id for finding in report.findings] == [id]
    assert unseen not in report.findings[0].title
    assert report.findings[0].evidence[0].text == f"the text printed: {line}"
    assert " ".join(line.split()[:4]) in " ".join(printed(report).split())


def test_what_uses_fp8_is_no_question_where_there_is_none() -> None:
    ada = api.read(texts.collect_env())
    ampere = api.read(texts.collect_env(gpus=" GPU 0: NVIDIA A100-SXM4-80GB"))
    for write in (printed, api.report_to_markdown):
        asked, not_asked = (write(report).partition("<details>")[0] for report in (ada, ampere))
        assert "FlashAttention and Transformer Engine are installed" in asked
        assert "FlashAttention and Transformer Engine are installed" not in not_asked
        assert "whether FP8 runs" not in not_asked


def test_a_gpu_that_no_name_tells_of_is_asked_for_its_compute_capability() -> None:
    report = api.read(texts.collect_env(gpus=" GPU 0: NVIDIA L20Z"))
    assert "nvidia-smi --query-gpu=name,compute_cap --format=csv" in report.verdict.headline


def test_what_the_text_cannot_tell_stands_in_every_form_of_the_report() -> None:
    report = api.read(texts.TRANSFORMERS)
    for text in (printed(report), api.report_to_markdown(report)):
        assert "This text cannot tell" in text
        assert "the driver's version" in text
        assert "python -m pip show flash-attn transformer-engine" in text
    assert "This text cannot tell" not in printed(api.diagnose(report.to_json()))


def test_a_cut_text_says_that_it_is_cut() -> None:
    report = api.read("PyTorch version: 2.6.0+cu124\nCUDA used to build PyTorch: 12.4\nROCM used to b")
    assert "it is cut off" in printed(report)
    assert "it is cut off" in api.report_to_markdown(report)


def test_what_is_known_of_a_gpu_is_advised_whatever_the_report_names_it_by() -> None:
    by_name = api.read(texts.collect_env(gpus=" GPU 0: NVIDIA H100 80GB HBM3"))
    assert [use.config for use in by_name.use] == ["torchao-fp8-rowwise+compile"]


def test_where_the_software_does_not_get_to_fp8_none_is_advised() -> None:
    report = api.read(texts.collect_env(torch="2.7.0+cu126", cuda="12.6", gpus=" GPU 0: NVIDIA GeForce RTX 5090"))
    assert report.verdict.fp8_software is False
    assert report.use == ()


def test_nothing_is_advised_for_a_box_on_which_torch_does_not_start() -> None:
    report = api.read(texts.collect_env(torch="2.9.0+cu130", cuda="13.0", driver="535.183.01", available="False"))
    assert "DRV" in report.findings[0].id
    assert report.use == ()
    assert [use.config for use in api.read(texts.collect_env(gpus=" GPU 0: NVIDIA A100-SXM4-80GB")).use] == [
        "torch-bf16+compile"
    ]


def test_nothing_is_advised_for_a_gpu_that_a_message_contradicts() -> None:
    report = api.read(
        "GPU: NVIDIA GeForce RTX 4090\nTorch: 2.6.0+cu124\ntype fp8e4nv not supported in this architecture"
    )
    assert report.verdict.headline.startswith("Cannot say: a message contradicts what was seen")
    assert report.use == ()
    assert "GPU001" not in [finding.id for finding in report.findings]
