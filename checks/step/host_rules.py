"""Was the GPU kept waiting: by a sleeping host, by one that looks, compiles or launches?"""

from __future__ import annotations

from fp8doctor.checks.step.advice import as_graph
from fp8doctor.checks.step.sums import (
    LEAST,
    MUCH,
    a_step,
    chosen,
    elsewhere_us,
    gain_without,
    launching_us,
    part,
    per_step,
    severity_of,
    shown,
    span_of,
    sum_us,
    took,
    unmarked,
    unreadable,
    us_of,
)
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, Severity, Verdict, observed
from fp8doctor.registry import rule
from fp8doctor.traced import Trace, WaitTotal

# A profiler slows the host down, one that keeps stacks by more: a small share of idle time is its own.
IDLE_LEAST, IDLE_MUCH, IDLE_MUCH_WITH_STACKS = 0.10, 0.25, 0.40
_SLOWED = Evidence("recorded with stacks, which slows the host: without them it idles less", fact="trace.has_stacks")
# Between two steps a program logs and counts; a GPU that waits less than this for it is not starved.
STALL_MUCH = 0.20
# Reading a few values back a step is customary (a loss, a norm of the gradients, whether the scaler found infinities):
# they are told only if they cost much. One is never told.
CUSTOMARY_LOOKS, ALWAYS_FINE = 4, 1
# Operators that bring a value of the GPU to the host.
LOOKING = {"aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal"}
# A compiled block is one region of dozens of kernels; many regions of few kernels are a model in pieces.
PIECES_A_STEP, LAUNCHES_A_PIECE = 50, 8


def _idle_names(trace: Trace) -> Evidence:
    parts = (
        (launching_us(trace), "the host launches"),
        (trace.idle_waiting_us, "it waits in a call"),
        (elsewhere_us(trace), "it does something else"),
    )
    span = span_of(trace)
    said = ", ".join(f"{part(us, span)} while {words}" for us, words in parts if us is not None)
    return Evidence(f"the GPU is idle for {said}", trace.idle_us, "us", "trace.idle_us")


@rule("STP001", "host-stall", Severity.WARNING, scope="usage")
def host_stalls(trace: Trace) -> Verdict:
    """The GPU waits while the host does something else than feeding it.

    What it means: there are stretches without any GPU work in which the host neither launches work nor waits for a
    result. It sleeps, loads data, decodes images, writes a checkpoint or runs Python of its own.

    Why it costs time: the GPU is idle. A faster number format makes the rest shorter and this not at all.

    What to do: prepare the next batch while the GPU works (DataLoader with workers and pin_memory), move logging and
    saving to another thread or to every n-th step. Recorded with stacks, the trace shows the Python function.

    Sources: the trace itself: idle time of the device, set against what the host's threads did then. A twentieth is not
    told, a fifth is a warning (two fifths with stacks, which slow Python down); profilers spend some time between steps
    themselves. Without marked steps it is a note: a server that is asked for nothing is idle, too.
    """
    if (missing := unreadable(trace)) is not None:
        return missing
    lost, span = observed(elsewhere_us(trace), "what the host did while the GPU was idle"), span_of(trace)
    severity = severity_of(lost, span, LEAST, IDLE_MUCH_WITH_STACKS if trace.has_stacks else STALL_MUCH)
    if severity is None:
        return None
    evidence = [took("idle, the host elsewhere", lost, trace, None), _idle_names(trace)]
    evidence += [
        Evidence(
            f"{function.name}{f', called by {function.caller}' if function.caller else ''}: "
            f"{(function.us or 0.0) / 1e3:,.2f} ms",
            function.us,
            "us",
            "trace.idle_functions",
        )
        for function in (trace.idle_functions or ())[:2]
    ]
    if trace.has_stacks:
        evidence.append(_SLOWED)
        action = Action("Move what the host does then off the path to the next step: another thread, every n-th step")
    else:
        action = Action("See what the host does then: record with with_stack=True, which names Python's functions")
    if trace.idle_loading_us:
        evidence.append(took("idle, the host in a data loader", trace.idle_loading_us, trace, "idle_loading_us"))
        action = Action(
            "Prepare the next step's data while the GPU works",
            "DataLoader(..., num_workers=8, pin_memory=True, persistent_workers=True)",
        )
    no_work = "" if trace.steps else ", or no work was there to do"
    return Finding(
        title=f"The GPU is idle for {part(lost, span)} of the time while the host neither launches nor waits{no_work}",
        evidence=tuple(evidence),
        actions=(action,),
        gain=gain_without(lost, span) if trace.steps else None,
        severity=severity if trace.steps else Severity.INFO,
    )


@rule("STP002", "host-sync-in-step", Severity.WARNING, scope="usage")
def host_looks(trace: Trace) -> Verdict:
    """The host reads values back from the GPU in the middle of a step.

    What it means: `.item()`, `nonzero`, `if tensor:` or printing a tensor brings a value to the host. The host must
    wait until the GPU has done all that was asked for, and only then asks for more.

    Why it costs time: the GPU's queue runs empty at each of them, and kernels are then launched one by one into an
    idle GPU. A faster format shortens the work and lengthens the wait for the host.

    What to do: keep the value on the GPU (torch.where, a mask), read it once after the step, or every n-th step.
    torch.cuda.set_sync_debug_mode("warn") names each place.

    Sources: the trace itself: waiting calls below aten::item, aten::_local_scalar_dense or aten::nonzero. Counted as
    lost is the idle time of the GPU, no more than the host waits in them: it would launch meanwhile, and the step take
    as long as the GPU's work or the host's. Up to four a step are told only from a tenth of the time on. PyTorch's
    tuning guide asks to avoid unnecessary CPU-GPU synchronisation.
    """
    if (missing := unreadable(trace)) is not None:
        return missing
    looks = [w for w in observed(trace.waits, "waiting calls") if w.operator in LOOKING]
    count = _looks(looks)
    lost, span = _lost_by_looks(trace, looks), span_of(trace)
    severity = severity_of(lost, span)
    if severity is None:
        return None
    each = per_step(trace, count)
    if each is None:
        return unmarked("values read back cannot be counted for one")
    if each <= ALWAYS_FINE or (each <= CUSTOMARY_LOOKS and severity is Severity.INFO):
        return None
    waited = sum(w.us or 0.0 for w in looks)
    return Finding(
        title=f"The host reads values back {each:,.0f} times a step, and the GPU idles for it about "
        f"{part(lost, span)} of the time",
        evidence=(
            Evidence(
                f"{' and '.join(sorted({w.operator or '' for w in looks}))}: the host waits {count:,} times, "
                f"{waited / 1e3:,.2f} ms in all",
                count,
                None,
                "trace.waits",
            ),
            *_places(looks),
            _idle_names(trace),
        ),
        actions=(
            Action("Find each place, and keep the value on the GPU", 'torch.cuda.set_sync_debug_mode("warn")'),
            Action("Read values back once after the step"),
        ),
        gain=gain_without(lost, span),
        severity=severity,
    )


def _places(looks: list[WaitTotal]) -> list[Evidence]:
    """The functions that look, where the trace has stacks, the one that waits longest first."""
    waited: dict[str, float] = {}
    for look in looks:
        if look.function:
            waited[look.function] = waited.get(look.function, 0.0) + (look.us or 0.0)
    longest = sorted(waited.items(), key=lambda item: -item[1])[:3]
    return [Evidence(f"asked for by {name}", round(us, 1), "us", "trace.waits") for name, us in longest]


def _lost_by_looks(trace: Trace, looks: list[WaitTotal]) -> float:
    """Idle time that would be gone if the host launched while it looks: as much as it waits in them, at most."""
    waited = sum(w.us or 0.0 for w in looks)
    return min(waited, (launching_us(trace) or 0.0) + (trace.idle_waiting_us or 0.0))


def _looks(waits: list[WaitTotal]) -> int:
    """One look is a copy and a wait for it: the waits alone count, where there are some."""
    synchronising = [w for w in waits if "ynchronize" in (w.call or "")]
    return sum(w.count or 0 for w in synchronising or waits)


@rule("STP003", "graph-break-recompile", Severity.WARNING, scope="usage", explains=("cpu-launch-bound", "host-stall"))
def compiles(trace: Trace) -> Verdict:
    """torch.compile compiled within the recorded time, or a compiled model is in many pieces.

    What it means: a compilation belongs to the first call. In the recorded steps it means that warming up was too
    short, or that something changes at each step (a size, a Python value, an adapter) and the code is made anew. Many
    compiled regions of a few kernels each mean that the graph breaks again and again.

    Why it costs time: compiling takes the host seconds in which the GPU has nothing to do. Each region costs its guards
    and its launch, and nothing is fused across a break.

    What to do: warm up for three steps and more; look for the reason (TORCH_LOGS="recompiles,graph_breaks"); mark sizes
    that change (torch._dynamo.mark_dynamic); leave Transformer Engine's layers and attention packages outside.

    Sources: the trace itself (Dynamo's and Inductor's frames; functions named torch_dynamo_resume_in_..., which go on
    after a break; a region's number, "0/5" for one that was compiled five times before). A step of 50 regions with
    fewer than 8 launches each is called one in pieces; a repeated block that is compiled by itself has dozens. Graph
    breaks are a note unless the GPU waits for the host. NVIDIA/TransformerEngine#2759.
    """
    if (missing := unreadable(trace)) is not None:
        return missing
    compilations, span = observed(trace.compilations, "whether something was compiled"), span_of(trace)
    idle = trace.idle_us or 0.0
    lost = min(trace.compilation_us or 0.0, idle + us_of(trace, "compile"))
    look = Action("Ask torch for the reasons", 'TORCH_LOGS="recompiles,graph_breaks" python ...')
    severity = severity_of(lost, span) if compilations else None
    if severity is not None:
        times = "once" if compilations == 1 else f"{compilations:,} times"
        return Finding(
            title=f"torch.compile compiled {times} within the recorded steps",
            evidence=(
                took("compiling, with the GPU idle or at its trials", lost, trace, "compilation_us"),
                *([] if not trace.recompiled else [_again(trace)]),
            ),
            actions=(_compile_less(trace), look),
            gain=gain_without(lost, span),
            severity=severity,
        )
    launching, regions = launching_us(trace) or 0.0, trace.compiled_regions or 0
    if trace.graph_breaks and (severity := severity_of(launching, span, LEAST, IDLE_MUCH_WITH_STACKS)) is not None:
        return _breaks(trace, trace.graph_breaks, severity, look)
    if regions < PIECES_A_STEP or not trace.launches or launching < IDLE_MUCH * span:
        return None
    if trace.launches >= LAUNCHES_A_PIECE * regions:
        return None
    pieces = per_step(trace, regions)
    if pieces is None:
        return unmarked("compiled regions cannot be counted for one")
    if pieces < PIECES_A_STEP:
        return None
    return Finding(
        title=f"A step enters {pieces:,.0f} compiled regions of a few kernels each, and the GPU waits for the host",
        evidence=(
            Evidence(f"{trace.launches:,} launches in {trace.compiled_regions:,} regions", trace.compiled_regions),
            _idle_names(trace),
        ),
        actions=(look,),
        gain=gain_without(launching, span),
    )


def _again(trace: Trace) -> Evidence:
    return Evidence(f"a region had been compiled {trace.recompiled} times before", trace.recompiled, None)


def _compile_less(trace: Trace) -> Action:
    if not trace.recompiled:
        return Action("Warm up for three steps before recording or timing")
    return Action(
        "Let the code serve all sizes: mark those that change, or pad to a few",
        "torch._dynamo.mark_dynamic(x, 1)  # or torch.compile(model, dynamic=True)",
    )


def _breaks(trace: Trace, breaks: dict[str, int], severity: Severity, look: Action) -> Finding:
    each, count = per_step(trace, sum(breaks.values())), sum(breaks.values())
    often = f"{each:,.0f} times a step" if each else f"{count:,} times"
    return Finding(
        title=f"Compiled code breaks into pieces {often}, and the GPU waits for the host "
        f"{part(launching_us(trace) or 0.0, span_of(trace))} of the time",
        evidence=(
            *(Evidence(f"goes on at {at}: {n:,} times", n, None, "trace.graph_breaks") for at, n in breaks.items()),
            _idle_names(trace),
        ),
        actions=(look,),
        severity=severity,
    )


@rule("STP004", "cpu-launch-bound", Severity.WARNING, scope="usage")
def launch_bound(trace: Trace) -> Verdict:
    """The GPU waits for the host to launch the next kernel.

    What it means: while the GPU is idle, the host is inside an operator or a launch call. It asks for work more slowly
    than the GPU does it.

    Why it costs time: the step takes as long as the host needs. FP8 makes kernels shorter and adds some (scales,
    casts), so the step gets longer, not shorter.

    What to do: record the step as a CUDA graph (`torch.compile(model, mode="reduce-overhead")`, torch.cuda.CUDAGraph,
    te.make_graphed_callables), or give each step more work (a larger batch). Compiling alone also launches less.

    Sources: the trace itself. A profiler slows the host down, one that keeps stacks by more, so that only a quarter of
    the time (with stacks: 40 %) is a warning; compare with the step's time without a profiler.
    NVIDIA/TransformerEngine#445, NVIDIA/TransformerEngine#836.
    """
    if (missing := unreadable(trace)) is not None:
        return missing
    lost, span = observed(launching_us(trace), "what the host did while the GPU was idle"), span_of(trace)
    severity = severity_of(lost, span, IDLE_LEAST, IDLE_MUCH_WITH_STACKS if trace.has_stacks else IDLE_MUCH)
    if severity is None:
        return None
    looks = [w for w in trace.waits or () if w.operator in LOOKING]
    if 2 * _lost_by_looks(trace, looks) >= lost and isinstance(host_looks(trace), Finding):
        return NotApplicable("the host reads values back, which is most of it")
    evidence = [_idle_names(trace)]
    if trace.launches and not trace.graph_launches:  # kernels of a graph have no launch of their own
        a_launch = (trace.busy_us or 0.0) / trace.launches
        text = f"{shown(trace, trace.launches):,.0f} launches {a_step(trace)}, {a_launch:,.1f} us of GPU time each"
        evidence.append(Evidence(text, trace.launches, None, "trace.launches"))
    if trace.has_stacks:
        evidence.append(_SLOWED)
    evidence += [
        Evidence(f"{op.name}: {op.count:,} times, {(op.host_self_us or 0) / 1e3:,.2f} ms of host time", op.host_self_us)
        for op in sorted(trace.operators or (), key=lambda op: -(op.host_self_us or 0.0))[:2]
        if op.count
    ]
    return Finding(
        title=f"The GPU waits for the host to launch work {part(lost, span)} of the time",
        evidence=tuple(evidence),
        actions=(
            as_graph(trace),
            Action("Give each step more work: a larger batch, packed sequences"),
        ),
        gain=gain_without(lost, span),
        severity=severity,
    )


@rule("STP005", "vram-offload-dominates", Severity.WARNING, scope="usage", explains=("host-stall", "cpu-launch-bound"))
def copied_from_host(trace: Trace) -> Verdict:
    """The GPU spends its time receiving data from the host.

    What it means: copies from the host's memory take a large part of the step: weights that do not stay on the GPU
    (offloading), or inputs that are moved late and from memory that is not pinned.

    Why it costs time: the host's link is tens of times slower than the GPU's own memory. While a layer's weights
    travel, its product cannot begin, in whichever format.

    What to do: keep the weights on the GPU. If they do not fit, FP8 weights halve them; offload fewer blocks, or
    overlap the copies (a stream of their own, pinned memory). Copy inputs with non_blocking=True from pinned memory.

    Sources: the trace itself (memory copies of the device). What runs beside calculations of the GPU is taken off;
    communication is none. invoke-ai/InvokeAI#9478.
    """
    if (missing := unreadable(trace)) is not None:
        return missing
    kinds = observed(trace.us_by_kind, "what the GPU's time was spent on")
    copies, span = kinds.get("copy-from-host", 0.0), span_of(trace)
    lost = trace.exposed_copies_us
    if lost is None:
        lost = max(0.0, copies - max(0.0, sum(kinds.values()) - (trace.busy_us or 0.0)))
    beside = max(0.0, copies - lost)
    severity = severity_of(lost, span, LEAST, MUCH)
    if severity is None:
        return None
    count = (trace.count_by_kind or {}).get("copy-from-host", 0)
    evidence = [took(f"copies from the host ({count:,})", copies, trace)]
    pageable = chosen(trace, lambda k: k.kind == "copy-from-host" and "Pinned" not in (k.name or ""))
    memory = "from pinned memory " if sum_us(pageable) > copies / 10 else ""
    if beside:
        evidence.append(took("beside calculations of the GPU", beside, trace, None))
    return Finding(
        title=f"Copies from the host take {part(lost, span)} of the time",
        evidence=tuple(evidence),
        actions=(
            Action("Keep the weights on the GPU; FP8 or INT8 weights take half the memory of BF16"),
            Action(f"Copy {memory}beside the computation (a stream of its own, non_blocking=True)"),
        ),
        gain=gain_without(lost, span),
        severity=severity,
    )
