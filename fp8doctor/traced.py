"""What does a profiler trace add up to? The engine's own record of one, which rules judge.

Only the standard library is imported here: this module also runs inside the examined environment. All times are
microseconds, summed over the recorded steps unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.model import Caption, Facts

# What a GPU activity is. The subjects' `KERNELS` declare the first line's kinds by operator and name; the reader knows
# the others by the operator above them, by the format's own category, or by names that belong to no subject.
KINDS = (
    *("fp8-gemm", "fp4-gemm", "bf16-gemm", "fp16-gemm", "tf32-gemm", "fp32-gemm", "int8-gemm", "other-gemm"),
    *("quantize", "dequantize", "amax", "scale-layout", "attention"),
    *("normalisation", "convolution", "elementwise", "optimizer", "communication"),
    *("copy-from-host", "copy-to-host", "copy-on-device", "fill", "compile", "other"),
)

# What a person calls those whose name is not it.
KIND_WORDS = {
    "fp8-gemm": "FP8 products",
    "fp4-gemm": "FP4 products",
    "bf16-gemm": "BF16 products",
    "fp16-gemm": "FP16 products",
    "tf32-gemm": "TF32 products",
    "fp32-gemm": "FP32 products",
    "int8-gemm": "INT8 products",
    "other-gemm": "other products",
    "quantize": "casts to FP8",
    "dequantize": "casts from FP8",
    "amax": "maxima for scales",
    "scale-layout": "layout of scales",
    "copy-from-host": "copies from the host",
    "copy-to-host": "copies to the host",
    "copy-on-device": "copies on the device",
    "fill": "filling memory",
    "compile": "the compiler's own trials",
}

# What is no calculation, and runs beside them on streams of its own.
_BESIDE = ("communication", "copy-from-host", "copy-to-host")


@dataclass(frozen=True)
class KernelTotal:
    """All launches of one kernel below one operator."""

    kind: str | None = None
    # The kernel's name, shortened to 200 characters.
    name: str | None = None
    # The nearest operator above it whose name says what it does ("aten::_scaled_mm"); None: the trace does not say.
    operator: str | None = None
    # What told the kind: "operator", "name", or "sequence" (scaled and clamped directly before a cast to FP8).
    known_by: str | None = None
    count: int | None = None
    us: float | None = None
    # Of attention: "flash" | "cudnn" | "efficient" | "math" | "flash-attn-2" | "flash-attn-3" | "flash-attn-4" | "te"
    backend: str | None = None
    # "fp8" | "16-bit" | "32-bit", where operator, types or name say so.
    precision: str | None = None


@dataclass(frozen=True)
class ProductTotal:
    """All matrix products of one operator, one size and one type; only of traces that record shapes."""

    operator: str | None = None
    kind: str | None = None
    m: int | None = None
    k: int | None = None
    n: int | None = None
    # How many products of that size one call computes (`aten::bmm`, grouped ones); None: one.
    batch: int | None = None
    # The operands' types as the trace has them ("c10::BFloat16", "c10::Float8_e4m3fn").
    types: tuple[str, ...] | None = None
    # The innermost modules that called it ("Linear_12"), at most eight; only of traces with stacks or modules.
    modules: tuple[str, ...] | None = None
    count: int | None = None
    us: float | None = None


@dataclass(frozen=True)
class CastTotal:
    """All copies from one number type to another, of which one has 8 bits; only of traces that record shapes."""

    # As the trace has them ("c10::Float8_e4m3fn", "c10::BFloat16"), by the operands of aten::copy_.
    source: str | None = None
    target: str | None = None
    count: int | None = None
    us: float | None = None


@dataclass(frozen=True)
class OperatorTotal:
    """One operator of the host: how often it ran, its own host time, and the GPU time of what it launched itself."""

    name: str | None = None
    count: int | None = None
    host_self_us: float | None = None
    device_us: float | None = None


@dataclass(frozen=True)
class WaitTotal:
    """A call in which the host waits for the device or copies ("cudaStreamSynchronize", "cudaMemcpyAsync")."""

    call: str | None = None
    # The operator or Python function above it ("aten::item"), if the trace says so.
    operator: str | None = None
    count: int | None = None
    us: float | None = None
    # The part of that time in which the GPU had nothing to do.
    idle_us: float | None = None
    # The Python function that asked for it ("model.py(162): look"); only of traces with stacks, and of long calls.
    function: str | None = None


@dataclass(frozen=True)
class FunctionTotal:
    """A Python function in which the host was while the GPU had long been idle; only of traces with stacks."""

    name: str | None = None
    # The function that called it.
    caller: str | None = None
    us: float | None = None


@dataclass(frozen=True)
class RankTotal:
    """One rank's file where several were read."""

    rank: int | None = None
    span_us: float | None = None
    busy_us: float | None = None
    communication_us: float | None = None
    # Communication during which nothing else ran on that GPU.
    exposed_communication_us: float | None = None


@dataclass(frozen=True)
class Trace(Facts, key="trace"):
    """A step's time on the GPU, by what it was spent on, and what the host did while the GPU was idle."""

    # "pytorch-profiler" | "nsight-systems"
    format: str | None = None
    torch_version: str | None = None
    # "cuda" | "rocm" | "cpu": whose kernels were recorded; "cpu" means that no GPU activity is in it.
    accelerator: str | None = None
    device_names: tuple[str, ...] | None = None
    compute_capabilities: tuple[str, ...] | None = None
    has_shapes: bool | None = None
    has_stacks: bool | None = None
    # The file ends in the middle; what was read until there counts.
    cut: bool | None = None
    events: int | None = None
    # Events that were broken (not JSON, a duration of -1) and do not count.
    skipped_events: int | None = None
    # What an export lacks for the full account, each in words ("no table of runtime calls"); None: nothing.
    missing: tuple[str, ...] | None = None
    # Devices with activities in this file; the one counts on which most time was spent, the first in `device_names`.
    devices: int | None = None
    # Steps that the profiler marked ("ProfilerStep#3"), and the median of their length.
    steps: int | None = None
    step_us: float | None = None
    # From the first GPU activity to the end of the last, of one device; the union of its activities; the rest.
    span_us: float | None = None
    busy_us: float | None = None
    idle_us: float | None = None
    # Idle time that the profiler itself caused and that is taken off all of these, where the steps were clocked too.
    profiler_us: float | None = None
    # What the host did while the GPU was idle: launching (in an operator or a launch call), waiting in a synchronising
    # call, anything else (sleeping, loading data, Python outside any operator).
    idle_launching_us: float | None = None
    idle_waiting_us: float | None = None
    idle_elsewhere_us: float | None = None
    # Of the last, while PyTorch's data loader was asked for a batch.
    idle_loading_us: float | None = None
    # Of the same, in Python that leads within 0.1 ms from one operator to the next: eager code that is slow to launch.
    idle_between_us: float | None = None
    # Where the host was in pauses of a millisecond and more in which it did neither; at most ten.
    idle_functions: tuple[FunctionTotal, ...] | None = None
    # GPU work that was launched before the recording began and is left out of all else: activities, and their time.
    before: int | None = None
    before_us: float | None = None
    # What ran between two batched products with a softmax among it (an attention by hand), that softmax left out.
    between_products_us: float | None = None
    # kind -> microseconds, and kind -> launches. Overlapping streams are each counted in full here.
    us_by_kind: dict[str, float] | None = None
    count_by_kind: dict[str, int] | None = None
    # The largest by time, at most 200 of each list below; `kernels_left_out_us` is the rest.
    kernels: tuple[KernelTotal, ...] | None = None
    kernels_left_out_us: float | None = None
    products: tuple[ProductTotal, ...] | None = None
    casts: tuple[CastTotal, ...] | None = None
    operators: tuple[OperatorTotal, ...] | None = None
    waits: tuple[WaitTotal, ...] | None = None
    launches: int | None = None
    graph_launches: int | None = None
    # Regions of torch.compile that were entered, and Triton kernels that Inductor generated.
    compiled_regions: int | None = None
    inductor_kernels: int | None = None
    # The most often that one of them had been compiled before ("Torch-Compiled Region: 0/5").
    recompiled: int | None = None
    # Where compiled graphs broke and went on ("model.py(98)") -> how often; only of traces with stacks; at most ten.
    graph_breaks: dict[str, int] | None = None
    # Compilations that fell into the recorded time (Dynamo or Inductor frames), and how long they took.
    compilations: int | None = None
    compilation_us: float | None = None
    streams: int | None = None
    communication_us: float | None = None
    exposed_communication_us: float | None = None
    # Copies from the host during which the GPU calculated nothing (communication may have run).
    exposed_copies_us: float | None = None
    ranks: tuple[RankTotal, ...] | None = None

    @property
    def at_once(self) -> float:
        """What the times of calculations are multiplied by so that those which ran at once share it; 1: none did."""
        calculating = sum(us for kind, us in (self.us_by_kind or {}).items() if kind not in _BESIDE)
        return min(1.0, self.busy_us / calculating) if self.busy_us and calculating else 1.0

    def share(self, kind: str, us: float) -> float:
        """A kind's part of the recorded time; calculations that ran at once share it."""
        return us * (1.0 if kind in _BESIDE else self.at_once) / (self.span_us or us or 1.0)

    def caption(self) -> Caption | None:
        """What was recorded, in the header line."""
        said = [f"{self.steps} step{'s' if self.steps > 1 else ''}"] if self.steps else []
        return Caption(15, " of ".join([*said, f"a {self.format} trace"])) if self.format else None

    def headline(self) -> str | None:
        """Where the recorded time went: the largest parts, and the idle one."""
        cut = "The file breaks off in the middle. " if self.cut else ""
        if self.accelerator == "cpu" and self.cut:
            return f"{cut}Until there it holds no GPU activity: get the whole file"
        if self.accelerator == "cpu":
            return "The trace holds no GPU activity, so it does not say where the GPU's time went"
        if not self.span_us or not self.us_by_kind:
            return None
        parts = sorted(self.us_by_kind.items(), key=lambda item: -item[1])[:3]
        said = [f"{self.share(kind, us):.0%} {KIND_WORDS.get(kind, kind)}".replace("%", " %") for kind, us in parts]
        if self.idle_us is not None:
            said.append(f"{self.idle_us / self.span_us:.0%} idle".replace("%", " %"))
        steps = f"{self.steps} steps of " if self.steps and self.steps > 1 else ""
        whole = self.span_us / (self.steps or 1) / 1e3
        return f"{cut}Where the GPU's time went ({steps}{whole:,.1f} ms): {', '.join(said)}"
