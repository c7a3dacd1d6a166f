"""The converter of public issues: it sees what they state, and makes no fact of what is uncertain."""

from __future__ import annotations

from typing import Any

import pytest

import fp8doctor
from benchmarks.cases import ANSWERS, table, told_of
from benchmarks.cases_converter import facts_of


class Unanswered(dict[str, Any]):
    """A case whose answers nobody may look at."""

    def __getitem__(self, key: str) -> Any:
        assert key not in ANSWERS
        return super().__getitem__(key)


def case(**stated: Any) -> Unanswered:
    empty = {"id": "owner-repo-1", "gpu": "not seen", "cc": "", "env": {}, "mode": "", "shapes": "", "symptom": ""}
    answers = {"cause": "no-fp8-hardware", "fix": "-", "revealed_by": ["static"], "established": True}
    return Unanswered({**empty, "title": "", **answers, **stated})


def facts(**stated: Any) -> dict[str, Any]:
    said: dict[str, Any] = facts_of(case(**stated))["facts"]
    return said


def test_the_answers_of_a_case_are_never_looked_at_and_change_nothing_that_is_said() -> None:
    one = case(gpu="RTX 3090", cc="8.6", symptom="slow")
    assert "no-fp8-hardware" not in str(facts_of(one))
    assert told_of({**one, "cause": "power-cap"}).names == told_of(dict(one)).names == ("no-fp8-hardware",)


def test_a_case_becomes_the_facts_that_it_states() -> None:
    env = {
        "torch": "2.5.1+cu121",
        "driver": "550.54 (CUDA 12.4)",
        "te": "2.1.0",
        "cudnn": "90100",
        "env": "NCCL_DEBUG=1",
    }
    said = facts(gpu="2x RTX 4090 (Windows)", cc="8.9", env=env)
    assert [(one["name"], one["compute_capability"]) for one in said["gpus"]["gpus"]] == [("RTX 4090", "8.9")] * 2
    assert said["machine"] == {"os": "Windows", "environment": {"NCCL_DEBUG": "1"}}
    assert said["torch_build"]["cuda"] == "12.1"
    assert said["driver"]["version"] == "550.54"
    assert said["libraries"] == {"installed": {"transformer-engine": "2.1.0"}, "cudnn_version": "9.1.0"}


@pytest.mark.parametrize(
    ("gpu", "cc"),
    [
        ("not seen", ""),
        ("any", ""),
        ("Hopper vs Blackwell", "9.0/10.0"),
        ("RTX 4090 / 3080", ["8.9", "8.6"]),
        ("sm_89+", "8.9"),
        ("< sm_90", "8.9"),
        ("not stated (nightly torch 2.5 dev)", ""),
        ("H100, B200", ""),
        ("CPU/GPU/XPU", None),
    ],
)
def test_unknown_and_several_gpus_are_no_facts(gpu: str, cc: Any) -> None:
    assert "gpus" not in facts(gpu=gpu, cc=cc)


def test_an_architecture_is_a_capability_however_it_is_written() -> None:
    for gpu, cc in (("sm_120", ""), ("sm_120 (Windows)", "12.0"), ("", "sm_120"), ("", ["12.0"])):
        assert [one["compute_capability"] for one in facts(gpu=gpu, cc=cc)["gpus"]["gpus"]] == ["12.0"]


def test_of_unnamed_gpus_with_one_capability_that_alone_is_known() -> None:
    assert facts(gpu="8 GPUs", cc="9.0")["gpus"]["gpus"][7] == {
        "index": 7,
        "vendor": "nvidia",
        "compute_capability": "9.0",
    }
    assert facts(gpu="H100/H200", cc="9.0")["gpus"]["gpus"] == [facts(gpu="8 GPUs", cc="9.0")["gpus"]["gpus"][0]]


@pytest.mark.parametrize("version", ["2.5-2.10", ">=2.4", "2.3.x vs >=2.4", "source build", "fixed with 2.8.0", "<3"])
def test_a_range_of_versions_is_no_version(version: str) -> None:
    assert facts(env={"torch": version, "torchao": version}) == facts()


def test_a_case_that_says_nothing_or_is_broken_is_diagnosed_all_the_same() -> None:
    for broken in ({}, {"env": None, "gpu": None, "cc": 9.0}, {"env": ["torch"], "symptom": ["a", 2], "title": 3}):
        assert fp8doctor.diagnose(facts_of(broken)).verdict.fp8_software is None


def test_a_case_is_counted_once_its_cause_is_established_and_told_if_it_leads() -> None:
    told = [
        told_of(dict(case(symptom="fatal error: Python.h: No such file or directory", cause="python-headers-missing"))),
        told_of(dict(case(cause="power-cap", established=False))),
    ]
    assert [(one.group, one.counted, one.first) for one in told] == [("B", True, True), ("E", False, False)]
    assert told[0].false_alarms == ()
    assert table(told)[-1].split()[-4:] == ["1", "1", "1", "0"]
