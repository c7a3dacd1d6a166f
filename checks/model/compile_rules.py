"""Why did torch.compile break a graph or compile again, and does the step show it?"""

from __future__ import annotations

import re
from collections.abc import Callable

from fp8doctor.checks.step.host_rules import compiles
from fp8doctor.checks.step.sums import shown
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, Severity, Unknown, Verdict
from fp8doctor.observed import CompileEvent, Model
from fp8doctor.registry import rule
from fp8doctor.traced import Trace

BREAK, RECOMPILE = "graph-break", "recompile"
# Places that are listed, and actions for what is most common among their reasons.
LISTED, MOST_ACTIONS = 5, 3
# As fp8doctor/observing/compiling.py says it of functions that Dynamo gave up on.
_LEFT_ALONE = re.compile(r"runs without being compiled")

# What mends the commonest reasons, by the words of torch 2.6 to 2.13 (torch/_dynamo: symbolic_convert.py, guards.py,
# variables/; the site of graph breaks, meta-pytorch.github.io/compile-graph-break-site). The first that fits counts.
_MENDING = tuple(
    (re.compile(pattern), action)
    for pattern, action in (
        (
            r"recompile limit reached",
            Action(
                "Keep the value that the guard names the same, or hand it over as a tensor; raise the limit if the "
                "number of its values is known and small",
                "torch._dynamo.config.recompile_limit = 32  # up to torch 2.6: cache_size_limit",
            ),
        ),
        (
            r"User-inserted graph break|skip function graph_break|[Cc]ompiler\.disable|_dynamo\.disable",
            Action(
                "Take out torch._dynamo.graph_break() and torch.compiler.disable() where the code can be compiled now"
            ),
        ),
        (
            r"item\b|tolist|[Dd]ata-dependent|generic_jump|_local_scalar_dense|___stack\d+ [=<>!]",
            Action(
                "Leave values on the GPU (torch.where instead of if, no .item()), or take single ones into the graph",
                "torch._dynamo.config.capture_scalar_outputs = True",
            ),
        ),
        (
            r"[Dd]ynamic shape operator|nonzero",
            Action(
                "Replace what returns as many rows as its values say (nonzero, a boolean index) by a mask, or take it "
                "into the graph",
                "torch._dynamo.config.capture_dynamic_output_shape_ops = True",
            ),
        ),
        (
            r"hook",
            Action("Register hooks before compiling, none for each call, and take off those that only look"),
        ),
        (
            r"marked as skipped|builtin|C/C\+\+|skip function|not traceable",
            Action(
                "Make an operator of the extension's function, or call it outside of what is compiled",
                "@torch.library.custom_op('mine::name', mutates_args=())",
            ),
        ),
        (
            r"(size|stride|rank) mismatch|\.(size|stride)\(\)\[",
            Action(
                "Say which sizes change, or pad to a few; hand over contiguous tensors",
                "torch._dynamo.mark_dynamic(x, 1)  # or torch.compile(model, dynamic=True)",
            ),
        ),
        (
            r"grad_mode|requires_grad|inference_mode",
            Action("Call it with gradients on or off, not both; one recompilation for each is as it should be"),
        ),
        (
            r"dtype mismatch|device mismatch|dispatch key set mismatch",
            Action("Hand over inputs of one type, on one device"),
        ),
        (
            r"BACKEND_MATCH",
            Action("Call torch.compile once, and keep what it returns"),
        ),
        (
            r"integer attributes of the nn\.Module",
            Action(
                "Hand numbers that change over as tensors, or let them vary",
                "torch._dynamo.config.allow_unspec_int_on_nn_module = True",
            ),
        ),
        (
            r" == | is | in |___check|len\(",
            Action("Keep the Python values the same from call to call, or hand them over as tensors"),
        ),
    )
)


@rule("MOD020", "graph-break-recompile", Severity.WARNING, scope="usage", explains=("graph-break-recompile",))
def compiled_in_pieces(model: Model, trace: Trace | None) -> Verdict:
    """torch.compile broke graphs or compiled again in this process, and these are its reasons.

    What it means: Dynamo came to something that it cannot put into a graph (a value read back, a hook, a call into an
    extension), or code that it had compiled did not fit a later call (another size, another Python value). Each place
    is told once, with the line and torch's own reason.

    Why it costs time: nothing is fused across a break, and the host enters each piece by itself. A recompilation takes
    the host seconds. A function that was compiled too often, or that cannot go on behind a break, runs without being
    compiled. A few breaks outside of the blocks that a model repeats cost nothing that a step shows: then this is a
    note.

    What to do: what the reasons name, the most frequent first. `TORCH_LOGS="recompiles,graph_breaks"` shows the stacks.

    Sources: Dynamo's own records of the process (torch._dynamo.utils: graph_break_reasons, guard_failures, the last
    compilations), read after the step was timed; how often a reason was given while compiling, not in each step. That
    it costs is told by the trace alone, as in STP003: compilations in the recorded steps where code was compiled again;
    dozens of small regions where graphs broke, at least two for each block that is compiled.
    """
    events = model.compile_events
    if events is None:
        if model.compiled == "none":
            return NotApplicable("nothing is compiled")
        return Unknown("torch keeps no record of what was compiled in this process")
    if not events:
        return None
    seen = compiles(trace) if trace is not None else None
    if not isinstance(seen, Finding):
        if model.compiled == "none":
            return NotApplicable("nothing of this model is compiled: the process compiled something else")
        return _finding(events, Severity.INFO)
    if trace is None or not _is_why(model, trace, events):
        return NotApplicable("the trace shows compiling that these reasons do not explain (STP003)")
    return _finding(events, seen.severity or Severity.WARNING, seen)


def _is_why(model: Model, trace: Trace, events: tuple[CompileEvent, ...]) -> bool:
    """Whether what the trace shows is of the kind that the events are of."""
    if trace.compilations:
        return any(event.kind == RECOMPILE for event in events)
    blocks = sum(one.compiled or 0 for one in model.blocks or ()) if model.compiled == "parts" else 0
    pieces = shown(trace, trace.compiled_regions or 0)
    return any(event.kind == BREAK for event in events) and pieces >= 2 * max(blocks, 1)


def _finding(events: tuple[CompileEvent, ...], severity: Severity, seen: Finding | None = None) -> Finding:
    # What is left uncompiled costs each step, however seldom it was said.
    ordered = sorted(events, key=lambda event: not _LEFT_ALONE.search(event.reason or ""))
    more = len(ordered) - LISTED
    return Finding(
        title=_title(events),
        evidence=(
            *(_line(event) for event in ordered[:LISTED]),
            *((Evidence(f"and {more} places more", more, None, "model.compile_events"),) if more > 0 else ()),
            *([Evidence(f"in the trace: {_in_short(seen.title)}")] if seen is not None else ()),
        ),
        actions=(*_actions(ordered), Action("See the stacks", 'TORCH_LOGS="recompiles,graph_breaks" python ...')),
        gain=seen.gain if seen is not None else None,
        severity=severity,
    )


def _in_short(title: str) -> str:
    return title[:1].lower() + title[1:] if not title.startswith("torch") else title


def _title(events: tuple[CompileEvent, ...]) -> str:
    breaks = _chosen(events, lambda event: event.kind == BREAK)
    again = sum(e.count or 1 for e in _chosen(events, lambda e: e.kind == RECOMPILE and not _limit(e)))
    limits = _chosen(events, _limit)
    said = []
    if breaks:
        said.append(f"broke graphs at {_number(len(breaks), 'place')}")
    if again:
        said.append(f"compiled again {_number(again, 'time')}")
    if limits:
        said.append(f"gave up on {_number(len(limits), 'function')}")
    return f"torch.compile {', '.join(said[:-1])}{' and ' if said[1:] else ''}{said[-1]}"


def _chosen(events: tuple[CompileEvent, ...], wanted: Callable[[CompileEvent], bool]) -> list[CompileEvent]:
    return [event for event in events if wanted(event)]


def _limit(event: CompileEvent) -> bool:
    return event.kind == RECOMPILE and bool(_LEFT_ALONE.search(event.reason or ""))


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count:,} {what}s"


def _line(event: CompileEvent) -> Evidence:
    often = f" ({event.count:,} times)" if (event.count or 1) > 1 else ""
    where = event.where or "at a line that torch does not tell"
    return Evidence(f"{where}: {event.reason}{often}", event.count, None, "model.compile_events")


def _actions(events: list[CompileEvent]) -> list[Action]:
    found: dict[str, Action] = {}
    for event in events:
        text = f"{event.reason or ''} {event.where or ''}"
        mending = next((action for pattern, action in _MENDING if pattern.search(text)), None)
        if mending is not None:
            found.setdefault(mending.text, mending)
    return list(found.values())[:MOST_ACTIONS]
