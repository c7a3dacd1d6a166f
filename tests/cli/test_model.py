"""`fp8doctor model`: a model of one's own, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fp8doctor import api
from fp8doctor.checks.model import factory
from fp8doctor.checks.model.probe import gather
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.judging.report import Report
from fp8doctor.model import Request
from fp8doctor.plain import to_plain
from fp8doctor.reporting import summary

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

MINE = """
import torch

class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = torch.nn.Linear(64, 128), torch.nn.Linear(128, 64)
    def forward(self, x):
        return x + self.down(self.up(x))

def plain():
    return torch.nn.Sequential(Block(), Block()).eval()

def stored():
    model = plain()
    for block in model:
        block.up.weight.data = block.up.weight.data.to(torch.float8_e4m3fn)
    return model

def with_inputs():
    return plain(), torch.randn(8, 64)

def broken():
    raise FileNotFoundError("weights.safetensors")

def nothing():
    return 7
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def model(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fp8doctor", "model", *arguments]
    # So few kernels are compiled that it takes longer to compile their headers beforehand.
    environment = {**os.environ, "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=110)


def looked_at(folder: Path, name: str) -> Report:
    """The model alone, without the rest of the box."""
    *_, found = gather(Request(mode="quick", model=name, model_folder=str(folder)), TorchBuild(installed=True))
    facts = {"schema": "fp8doctor.facts", "schema_version": "1.0", "probes": {"model": {"outcome": "ok"}}}
    return api.diagnose({**facts, "facts": {"model": to_plain(found)}})


def test_a_factory_with_its_inputs_is_called_and_its_step_is_run(folder: Path) -> None:
    run = model(folder, "mine:with_inputs", "--json", "--no-cache")
    report = json.loads(run.stdout)
    assert report["source"] == "model"
    found = report["facts"]["model"]
    assert found["run"]["error"] is None
    assert [layer["rows"] for layer in found["layers"]] == [[8], [8]]
    assert report["facts"]["trace"]["accelerator"] == "cpu"
    assert "All 4 linear layers multiply in 32 bits; a step (forward) takes" in report["verdict"]["headline"]
    assert summary.not_examined(report) == ["what the box's parts take by themselves: run fp8doctor"]
    assert not any("GPU activity" in (outcome["reason"] or "") for outcome in report["outcomes"])
    assert {trial["config"] for trial in found["trials"]} >= {"as-it-is", "torch-bf16"}


def test_inputs_can_be_said_by_their_shape(folder: Path) -> None:
    named = factory.made(torch, "mine:plain", ("3x5x64:float32", "2x7:int64"), str(folder), torch.device("cpu"))
    tensors = named.inputs
    assert [(tuple(t.shape), t.dtype) for t in tensors] == [((3, 5, 64), torch.float32), ((2, 7), torch.int64)]


@pytest.mark.parametrize("text", ["64", "3x:float32", "x3", "3x4:no_such", "9999999999x9999999999:int8", "-1x3"])
def test_what_is_no_shape_is_refused(text: str) -> None:
    if text == "64":
        assert factory.tensor(torch, text, torch.device("cpu")).shape == (64,)
        return
    with pytest.raises(factory.NoModelError):
        factory.tensor(torch, text, torch.device("cpu"))


def test_without_inputs_the_layers_are_told_and_what_is_missing(folder: Path) -> None:
    report = looked_at(folder, "mine:stored")
    assert any(finding.name == "storage-only-fp8" for finding in report.findings)
    assert "--input" in report.facts["model"]["untried"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mine:broken", "FileNotFoundError: weights.safetensors"),
        ("mine:nothing", "returned a int"),
        ("mine:missing", "has no attribute 'missing'"),
        ("no_such_module:make", "No module named 'no_such_module'"),
    ],
)
def test_a_factory_that_makes_no_model_is_told_with_its_reason(folder: Path, name: str, said: str) -> None:
    with pytest.raises(factory.NoModelError, match=re.escape(said)):
        factory.made(torch, name, (), str(folder), torch.device("cpu"))


def test_a_model_that_cannot_be_loaded_is_reported(folder: Path) -> None:
    run = model(folder, "mine:broken", "--json", "--no-cache")
    failed = next(f for f in json.loads(run.stdout)["findings"] if f["name"] == "model-does-not-run")
    assert failed["title"] == "The model could not be loaded"
    assert "FileNotFoundError: weights.safetensors" in failed["evidence"][0]["text"]
    assert run.returncode == 1


def test_what_is_no_factory_is_refused_at_once(folder: Path) -> None:
    run = model(folder, "mine.py")
    assert run.returncode == 2
    assert "package.module:factory" in run.stderr
