"""What torch.compile said is a note, and a warning only where the trace shows what it costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fp8doctor.checks.model import compile_rules
from fp8doctor.checks.step import host_rules
from fp8doctor.judging.causes import order_findings
from fp8doctor.judging.outcomes import Outcome
from fp8doctor.model import Finding, NotApplicable, Severity, Unknown
from fp8doctor.observed import Blocks, CompileEvent, Model
from fp8doctor.observing.compiling import GIVEN_UP, LIMIT, NOT_COMPILED
from fp8doctor.registry import load
from fp8doctor.traced import Trace

ITEM = CompileEvent("graph-break", "model.py:98 in forward", "Unsupported Tensor.item() call", 2)
AGAIN = CompileEvent("recompile", "model.py:90 in forward", "tensor 'x' size mismatch at index 1. expected 16, actual 20", 3)  # fmt: skip  # noqa: E501
REACHED = CompileEvent("recompile", "model.py:90 in forward", f"{LIMIT}, {GIVEN_UP}; last: x == 7", 1)
SKIPPED = CompileEvent("graph-break", "model.py:12 in forward", f"{NOT_COMPILED}, for a break at model.py:14: x", 1)
# 57 blocks, compiled one by one.
MODEL = Model(compiled="parts", blocks=(Blocks("blocks", "Block", 57, 1, 57),))
# Three steps of 100 ms on a GPU that waits for nothing.
FLUENT = Trace(
    accelerator="cuda", steps=3, span_us=3e5, busy_us=2.9e5, idle_us=1e4, compilations=0, compilation_us=0.0,
    idle_launching_us=1e4, idle_elsewhere_us=0.0, idle_waiting_us=0.0, compiled_regions=3 * 57, launches=3 * 57 * 12,
    us_by_kind={"bf16-gemm": 2.9e5},
)  # fmt: skip
WAITING = replace(FLUENT, busy_us=1.8e5, idle_us=1.2e5, idle_launching_us=1.2e5)
IN_PIECES = replace(WAITING, compiled_regions=3 * 57 * 3, launches=3 * 57 * 12)
COMPILING = replace(FLUENT, busy_us=1.5e5, idle_us=1.5e5, compilations=2, compilation_us=1.4e5, recompiled=4)


def judged(*events: CompileEvent, trace: Trace | None = None, model: Model = MODEL) -> Any:
    return compile_rules.compiled_in_pieces(replace(model, compile_events=events), trace)


def found(*events: CompileEvent, trace: Trace | None = None, model: Model = MODEL) -> Finding:
    verdict = judged(*events, trace=trace, model=model)
    assert isinstance(verdict, Finding), verdict
    return verdict


def test_without_a_seen_cost_it_is_a_note_with_lines_and_reasons() -> None:
    finding = found(AGAIN, ITEM, trace=FLUENT)
    assert finding.title == "torch.compile broke graphs at 1 place and compiled again 3 times"
    assert finding.severity is Severity.INFO
    assert finding.evidence[1].text == "model.py:98 in forward: Unsupported Tensor.item() call (2 times)"
    assert [action.command for action in finding.actions] == [
        "torch._dynamo.mark_dynamic(x, 1)  # or torch.compile(model, dynamic=True)",
        "torch._dynamo.config.capture_scalar_outputs = True",
        'TORCH_LOGS="recompiles,graph_breaks" python ...',
    ]
    assert found(ITEM, trace=None).severity is Severity.INFO
    assert found(ITEM, trace=Trace(accelerator="cpu")).severity is Severity.INFO


def test_breaks_in_every_block_are_a_warning_where_the_gpu_waits_for_them() -> None:
    finding = found(ITEM, trace=IN_PIECES)
    assert finding.severity is Severity.WARNING
    assert finding.gain is not None
    assert finding.evidence[-1].text.startswith("in the trace: a step enters 171 compiled regions")


def test_a_couple_of_breaks_outside_of_the_blocks_is_no_warning() -> None:
    two = (ITEM, replace(ITEM, where="model.py:200 in forward"))
    outside = replace(WAITING, compiled_regions=3 * 59, launches=3 * 59 * 12)
    assert found(*two, trace=outside).severity is Severity.INFO
    # Small blocks, compiled one by one, are many regions of few launches by themselves.
    small = replace(outside, launches=3 * 59 * 4)
    assert isinstance(host_rules.compiles(small), Finding)
    assert isinstance(judged(*two, trace=small), NotApplicable)


def test_compiling_in_the_recorded_steps_is_explained_by_recompilations_alone() -> None:
    assert found(AGAIN, trace=COMPILING).severity is Severity.WARNING
    assert isinstance(judged(ITEM, trace=COMPILING), NotApplicable)


def test_what_is_left_uncompiled_comes_first() -> None:
    finding = found(ITEM, AGAIN, REACHED, SKIPPED)
    assert finding.title == ("torch.compile broke graphs at 2 places, compiled again 3 times and gave up on 1 function")
    assert [e.text.split(":")[1] for e in finding.evidence[:2]] == ["90 in forward", "12 in forward"]
    assert "recompile_limit" in (finding.actions[0].command or "")
    assert len(finding.actions) <= 4


def test_many_places_are_counted() -> None:
    many = tuple(replace(ITEM, where=f"model.py:{line} in forward") for line in range(8))
    assert found(*many).evidence[-1].text == "and 3 places more"


@pytest.mark.parametrize(
    ("reason", "part"),
    [
        ("generic_jump TensorVariable()", "torch.where"),
        ("___stack0 == 0.27", "torch.where"),
        ("Dynamic shape operator: Operator `aten.nonzero.default`'s output shape", "mask"),
        ("Attempted to call function marked as skipped: the builtin `_qattn.sm90`", "extension"),
        ("Graph break due to unsupported builtin flash_attn_2_cuda.fwd", "extension"),
        ("Call to `torch._dynamo.graph_break()`: User-inserted graph break", "Take out"),
        ("skip function graph_break in file decorators.py", "Take out"),
        ("Skip calling `torch.compiler.disable()`d function", "Take out"),
        ("GLOBAL_STATE changed: grad_mode", "gradients"),
        ("tensor 'x' requires_grad mismatch. expected requires_grad=0", "gradients"),
        ("self.n == 1 (HINT: torch.compile considers integer attributes of the nn.Module to be static", "numbers"),
        ("self.name == 'a'", "Python values"),
        ("a hook that looks", "hooks"),
    ],
)
def test_each_common_reason_has_what_mends_it(reason: str, part: str) -> None:
    assert part in found(replace(ITEM, reason=reason)).actions[0].text


def test_an_unknown_reason_and_no_line_are_told_as_they_are() -> None:
    finding = found(CompileEvent("graph-break", None, "something new", 1))
    assert len(finding.actions) == 1
    assert finding.evidence[0].text == "at a line that torch does not tell: something new"


def test_nothing_said_is_no_finding() -> None:
    assert judged() is None
    assert isinstance(compile_rules.compiled_in_pieces(Model(compiled="none"), None), NotApplicable)
    assert isinstance(compile_rules.compiled_in_pieces(Model(compiled="whole"), FLUENT), Unknown)


def test_with_its_reasons_it_stands_before_what_the_trace_shows() -> None:
    rules = {rule.id: rule for rule in load(()).rules.values()}
    verdicts = {
        "MOD020": found(ITEM, trace=IN_PIECES),
        "STP003": host_rules.compiles(IN_PIECES),
        "STP004": host_rules.launch_bound(IN_PIECES),
    }
    ordered = order_findings(
        [Outcome(rules[id], "finding", findings=(one,)) for id, one in verdicts.items() if isinstance(one, Finding)]
    )
    assert [record.id for record in ordered] == ["MOD020", "STP003", "STP004"]
    assert ordered[0].explains == ("STP003",)
