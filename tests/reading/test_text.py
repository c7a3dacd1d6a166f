"""What people put round a report is taken off, and what is in it stays."""

from __future__ import annotations

import pytest

from fp8doctor.reading import environment
from fp8doctor.reading.text import MAX_CHARACTERS, MAX_LINE, clean
from tests.reading import texts

PLAIN = texts.collect_env(pip=("torch==2.6.0", "triton==3.2.0"))
SAID = environment.read(clean(PLAIN))[0]


def each(prefix: str) -> str:
    return "".join(f"{prefix}{line}\n" for line in PLAIN.splitlines())


@pytest.mark.parametrize(
    "text",
    [
        f"Hi!\n\n<details>\n<summary>`python collect_env.py`</summary>\n\n```text\n{PLAIN}\n```\n</details>\n",
        f"<details><summary>env</summary><pre>{PLAIN}</pre></details>",
        "The output of ``" + PLAIN + "``\n",
        each("> "),
        each("> > "),
        each("(RayWorkerWrapper pid=4711, ip=10.0.0.7) "),
        each("\x1b[36m(EngineCore_0 pid=99)\x1b[0m "),
        each("server-1  | "),
        each("[pod/llm-0/engine] "),
        each("2025-02-03T04:05:06.789012Z "),
        each("2025-02-03T04:05:06.789012345+01:00 stdout F "),
        each("Feb 03 04:05:06 node7 vllm[123]: "),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "   \n"),
        PLAIN.replace(" ", "\u00a0"),
        PLAIN.replace("PyTorch", "Py\u200bTorch").replace("GPU", "G\u202ePU"),
        "\ufeff" + PLAIN,
        "\x00".join(PLAIN),
        "(venv) user@box:~$ python -m torch.utils.collect_env\n" + PLAIN,
        PLAIN.replace("...\n", "...                 ", 1),
    ],
)
def test_what_stands_round_a_report_changes_nothing_of_what_it_says(text: str) -> None:
    assert environment.read(clean(text))[0] == SAID


def test_bytes_are_read_as_what_they_are() -> None:
    assert environment.read(clean(PLAIN.encode()))[0] == SAID
    assert environment.read(clean(PLAIN.encode("utf-16")))[0] == SAID
    assert environment.read(clean(b"\xff\xfa\n" + PLAIN.encode()))[0] == SAID


def test_newlines_that_a_bot_took_are_found_again() -> None:
    for text in (PLAIN.replace("\n", " "), '{"body": "' + PLAIN.replace("\n", "\\n") + '"}'):
        said = environment.read(clean(text))[0]
        assert said["gpus"]["gpus"] == SAID["gpus"]["gpus"]
        assert said["driver"] == SAID["driver"]
        assert said["torch_build"] == SAID["torch_build"]
        assert said["libraries"]["installed"] == SAID["libraries"]["installed"]
    collapsed = environment.read(clean(texts.TRANSFORMERS.replace("\n", " ")))[0]
    assert collapsed["torch_build"]["version"] == "2.5.0+cu124"
    assert collapsed["gpus"]["gpus"][0]["name"] == "NVIDIA L40S"


def test_prose_with_one_key_stays_whole() -> None:
    prose = "Is it the driver? My OS: Ubuntu, and it worked yesterday."
    assert clean(prose).lines == (prose,)


def test_a_table_of_nvidia_smi_is_no_log_of_a_service() -> None:
    assert environment.read(clean(texts.NVIDIA_SMI))[0] == environment.read(clean("\n" + texts.NVIDIA_SMI))[0]
    assert "gpus" in environment.read(clean(texts.NVIDIA_SMI))[0]


def test_what_is_too_long_is_cut_and_said_to_be() -> None:
    long = clean(PLAIN + "x" * MAX_CHARACTERS)
    assert long.cut
    assert max(map(len, long.lines)) <= MAX_LINE
    said, reading = environment.read(long)
    assert reading.cut is True
    assert said["driver"] == SAID["driver"]
    assert environment.read(clean(PLAIN))[1].cut is False
