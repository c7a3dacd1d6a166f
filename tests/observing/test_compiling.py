"""What torch.compile said is read from Dynamo's own records, with lines and reasons, and nothing of it is changed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from fp8doctor.observed import CompileEvent
from fp8doctor.observing import compiling
from tests.observing.models import blocks

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

THIS_FILE = "test_compiling.py"


@pytest.fixture(autouse=True)
def nothing_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._dynamo.utils

    monkeypatch.setattr(compiling, "_OURS", compiling._Ours())
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch._dynamo.utils.clear_compilation_metrics()


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return torch.compile(function, backend="eager", **options)  # type: ignore[no-any-return]


def events() -> tuple[CompileEvent, ...]:
    found = compiling.events()
    assert found is not None
    return found


def the(kind: str) -> CompileEvent:
    (found,) = [event for event in events() if event.kind == kind]
    return found


class Broken(torch.nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x: Any) -> Any:
        x = self.linear(x)
        torch._dynamo.graph_break()
        return x * 2


class ReadsBack(torch.nn.Module):  # type: ignore[misc,name-defined]
    def inner(self, x: Any) -> Any:
        return x + 1 if x.sum().item() > 0 else x

    def forward(self, x: Any) -> Any:
        return self.inner(x + 1) * 2


class Counts(torch.nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.n, self.text = 0, ""

    def forward(self, x: Any) -> Any:
        return x * self.n if not self.text else x * len(self.text)


def test_a_break_has_its_line_and_its_reason() -> None:
    compiled(Broken())(torch.randn(2, 8))
    event = the("graph-break")
    line = Broken.forward.__code__.co_firstlineno + 2
    assert event.where == f"{THIS_FILE}:{line} in forward"
    assert event.count == 1
    assert event.reason is not None
    assert "graph_break" in event.reason
    assert "\n" not in event.reason
    assert "/" not in event.reason
    assert len(event.reason) <= 200


def test_a_value_that_is_read_back_is_told_where_it_is_read_though_its_caller_breaks_too() -> None:
    compiled(ReadsBack())(torch.ones(2, 8))
    event = the("graph-break")
    assert event.where == f"{THIS_FILE}:{ReadsBack.inner.__code__.co_firstlineno + 1} in inner"
    assert "item" in (event.reason or "")


def test_a_break_in_a_hook_is_told_by_the_hooks_own_line() -> None:
    model = torch.nn.Linear(8, 8)
    model.register_forward_hook(lambda module, arguments, output: output * output.max().item())
    compiled(model)(torch.randn(2, 8))
    assert THIS_FILE in (the("graph-break").where or "")
    assert "in <lambda>" in (the("graph-break").where or "")


def test_a_number_of_the_module_is_a_guard() -> None:
    model = Counts()
    run = compiled(model)
    for model.n in range(2):
        run(torch.randn(2, 8))
    event = the("recompile")
    line = Counts.forward.__code__.co_firstlineno  # torch 2.6 knows no line of a guard
    assert event.where in (f"{THIS_FILE}:{line} in forward", f"{THIS_FILE}:{line + 1} in forward")
    assert "n == 0" in (event.reason or "")


def test_recompilations_for_alike_guards_are_one_event_and_the_limit_another() -> None:
    model = Counts()
    run = compiled(model)
    limit = next(
        getattr(torch._dynamo.config, name)
        for name in ("recompile_limit", "cache_size_limit")
        if hasattr(torch._dynamo.config, name)
    )
    for length in range(1, limit + 4):
        model.text = "a" * length
        run(torch.randn(2, 8))
    again, reached = sorted((e for e in events() if e.kind == "recompile"), key=lambda e: -(e.count or 0))
    assert again.count == limit
    assert "text == 'a'" in (again.reason or "")
    assert (reached.reason or "").startswith(compiling.LIMIT)
    assert f"text == '{'a' * limit}'" in (reached.reason or "")


def test_a_size_that_changes_is_told_with_what_was_expected() -> None:
    run = compiled(lambda x: x * 2)
    for rows in (4, 5, 6):
        run(torch.randn(rows, 8))
    event = the("recompile")
    assert event.count == 1  # the second code takes all sizes
    assert event.reason == "tensor 'x' size mismatch at index 0. expected 4, actual 5"


def test_after_a_reset_the_last_compilations_still_know() -> None:
    run = compiled(lambda x: x * 2)
    run(torch.randn(4, 8))
    run(torch.randn(5, 8))
    before = events()
    torch._dynamo.reset()
    metrics = torch._dynamo.utils.get_compilation_metrics()
    if any(getattr(one, "recompile_reason", None) for one in metrics):  # from torch 2.7 on
        assert [e.reason for e in events()] == [e.reason for e in before]


def test_without_breaks_there_are_no_events_and_without_compiling_nothing_is_known() -> None:
    assert compiling.events() is None
    compiled(blocks(2))(torch.randn(2, 64))
    assert compiling.events() == ()


def test_at_most_twenty_are_told_the_most_frequent_first() -> None:
    for index in range(21):
        source = f"lambda x: x * {index}"  # codes are one if they differ in their files alone
        run = compiled(eval(compile(source, f"/a/folder/file{index}.py", "eval")))  # noqa: S307
        for dimensions in range(3 if index == 20 else 2):
            run(torch.randn(*[2] * (1 + dimensions)))
    found = events()
    assert [e.count for e in found] == [2] + 19 * [1]
    assert found[0].where == "file20.py:1 in <lambda>"


def test_what_is_compiled_on_the_doctors_account_is_no_event() -> None:
    run = compiled(Broken())
    with compiling.hearing() as so_far:
        run(torch.randn(2, 8))
        told = so_far()
        compiled(ReadsBack())(torch.ones(2, 8))
        run(torch.randn(3, 8))
    assert told == compiling.events()
    assert told is not None
    assert [e.kind for e in told] == ["graph-break"]
    run(torch.randn(3, 8).double().float()[:, :8].requires_grad_())
    assert {e.kind for e in events()} == {"graph-break", "recompile"}


def test_only_the_doctors_compilations_are_as_good_as_none() -> None:
    with compiling.hearing() as so_far:
        assert so_far() is None
        compiled(Broken())(torch.randn(2, 8))
    assert compiling.events() is None


def test_records_of_another_version_are_read_as_far_as_they_go(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled(Broken())(torch.randn(2, 8))
    utils = torch._dynamo.utils
    monkeypatch.setattr(utils, "graph_break_reasons", [object()])
    assert compiling.events() is None
    monkeypatch.delattr(utils, "graph_break_reasons")
    monkeypatch.delattr(utils, "get_compilation_metrics")
    monkeypatch.delattr(utils, "guard_failures")
    (event,) = events()  # a counter is left, which knows no line
    assert (event.kind, event.where, event.count) == ("graph-break", None, 1)
    monkeypatch.delattr(utils, "counters")
    assert compiling.events() is None


def test_dynamo_is_not_imported_for_it() -> None:
    code = (
        "import sys, torch; from fp8doctor.observing import compiling; "
        "print(compiling.events(), 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["None", "False"]


def test_reasons_lose_their_folders_and_long_texts() -> None:
    assert compiling.cut("skip f in file '/opt/x/site-packages/flash/ops.py'") == "skip f in file 'ops.py'"
    assert compiling.cut("prompt == 'a photograph of a cat that sleeps'") == "prompt == 'a photograph of a cat th...'"
    assert compiling.cut("'NoneType' object has no attribute 'size'") == "'NoneType' object has no attribute 'size'"
    assert len(compiling.cut("word " * 100)) == 200
