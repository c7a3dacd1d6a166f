"""Of what a process compiled, a report tells what belongs to its own model."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.observing import compiling

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

MODEL = """
import torch
{imports}
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)
        self.n = 0
    def forward(self, x):
        x = self.linear(x) * self.n
        {breaks}
        return x + {number}
"""
HELPER = "def helper(x):\n    return x + 1 if x.sum().item() > 0 else x\n"


@pytest.fixture(autouse=True)
def nothing_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._dynamo.utils

    monkeypatch.setattr(compiling, "_OURS", compiling._Ours())
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch._dynamo.utils.clear_compilation_metrics()


def load(folder: Path, name: str, text: str) -> Any:
    (folder / f"{name}.py").write_text(text)
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def model(folder: Path, name: str, breaks: str = "torch._dynamo.graph_break()", imports: str = "") -> Any:
    number = sum(map(ord, name))  # codes are one if they differ in their files alone
    return load(folder, name, MODEL.format(breaks=breaks, imports=imports, number=number)).Model()


def run(one: Any, times: int = 2) -> None:
    compiled = torch.compile(one, backend="eager")
    for one.n in range(times):
        compiled(torch.randn(2, 8))


def files(events: Any) -> set[tuple[str, str]]:
    return {(event.kind, str(event.where).partition(":")[0]) for event in events}


def test_each_of_two_models_has_its_own_events(tmp_path: Path) -> None:
    one, other = model(tmp_path, "one_model"), model(tmp_path, "other_model")
    run(one)
    run(other)
    for mine, file in ((one, "one_model.py"), (other, "other_model.py")):
        assert files(compiling.events(mine)) == {("graph-break", file), ("recompile", file)}
    assert len(files(compiling.events())) == 4


def test_a_model_that_compiled_well_beside_another_has_none(tmp_path: Path) -> None:
    one, other = model(tmp_path, "one_model", "pass"), model(tmp_path, "other_model")
    run(other)
    run(one, 1)
    assert compiling.events(one) == ()


def test_a_function_that_the_model_calls_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    load(tmp_path, "a_helper", HELPER)
    imports = "from a_helper import helper"
    one, other = model(tmp_path, "one_model", "x = helper(x)", imports), model(tmp_path, "other_model", "pass")
    run(one, 1)
    run(other, 1)
    assert ("graph-break", "a_helper.py") in files(compiling.events(one))
    assert compiling.events(other) == ()


def test_what_comes_while_the_step_runs_is_its_own_whatever_code_it_is(tmp_path: Path) -> None:
    one, other, later = (model(tmp_path, f"{name}_model") for name in ("one", "other", "later"))
    run(other)
    with compiling.hearing(one) as so_far:
        run(one)
        run(later)
        told = so_far()
    assert {file for _, file in files(told)} == {"one_model.py", "later_model.py"}


def test_counters_without_a_file_count_from_the_step_on(tmp_path: Path) -> None:
    one = model(tmp_path, "one_model")
    counted = torch._dynamo.utils.counters["graph_break"]
    run(one, 1)
    counted["of another"] = 3
    before = compiling.so_far_said()
    counted["of another"] += 1
    (unlocated,) = [e for e in compiling.events(one, None, before) or () if e.where is None]
    assert (unlocated.reason, unlocated.count) == ("of another", 1)


def test_the_file_of_a_step_of_ones_own_counts_and_a_scripts_other_lines_do_not(tmp_path: Path) -> None:
    one, other = model(tmp_path, "one_model", "pass"), model(tmp_path, "other_model")

    def step(x: Any) -> Any:
        torch._dynamo.graph_break()
        return one(x)

    torch.compile(step, backend="eager")(torch.randn(2, 8))
    run(other)
    assert files(compiling.events(one, step)) == {("graph-break", "test_belonging.py")}
    assert compiling.events(one) is None
