"""What is a model made of, layer by layer, and what did its steps take?

Only the standard library is imported here: this module also runs inside the examined environment.
"""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.model import Caption, Estimate, Facts

# What a person calls the formats of products.
_FORMATS = {"fp8": "FP8", "fp4": "FP4", "int8": "INT8", "int4": "INT4", "16-bit": "16 bits", "32-bit": "32 bits"}

# The configuration of a trial that changes nothing.
AS_IT_IS = "as-it-is"


@dataclass(frozen=True)
class Conversion:
    """How a layer was converted: by which library, in which format its weight lies, and in which it is multiplied."""

    library: str
    # "fp8", "int8", "int4", "fp4", "16-bit", ...: what the weight is kept in.
    keeps: str | None = None
    # What the product is meant to be computed in; None: what `keeps` is cast to is multiplied in 16 bits.
    multiplies: str | None = None
    # "rowwise", "tensorwise", "block", "delayed", "current", "mxfp8", "nvfp4"; None: not known.
    scaling: str | None = None
    # The rank of a LoRA that runs beside the layer.
    adapter_rank: int | None = None


@dataclass(frozen=True)
class Layer:
    """Layers alike: of one class, size and format, whose names differ in their numbers alone."""

    # "transformer_blocks.*.attn.to_q"
    name: str | None = None
    count: int | None = None
    # The true names of the first few.
    examples: tuple[str, ...] | None = None
    class_name: str | None = None
    # "linear", "convolution", "attention", "embedding", "experts"
    kind: str | None = None
    # Inputs and outputs: a product of M tokens is M x K x N.
    k: int | None = None
    n: int | None = None
    # The type that its weight has for others ("bfloat16"), and what it is kept in ("float8_e4m3fn").
    dtype: str | None = None
    kept_dtype: str | None = None
    library: str | None = None
    keeps: str | None = None
    multiplies: str | None = None
    scaling: str | None = None
    adapter_rank: int | None = None
    trains: bool | None = None
    device: str | None = None
    # It, or a module round it, was handed to torch.compile.
    compiled: bool | None = None
    # Its weight is brought from elsewhere at each call ("accelerate", "diffusers-group").
    offloaded_by: str | None = None
    # Its weight is cast at each call ("diffusers-layerwise").
    cast_by: str | None = None
    # The address of its weight is no multiple of 16 bytes.
    misaligned: bool | None = None
    # Rows of its input, where it was called.
    rows: tuple[int, ...] | None = None
    # Of attention: what it asks for ("eager", "sdpa", "flash_attention_3", "_sage").
    implementation: str | None = None
    # Of experts in one tensor: how many.
    experts: int | None = None
    # Of a weight that is cut over ranks (tensor parallel): over how many. `k` and `n` are what one rank multiplies.
    ranks: int | None = None
    # Which of "k" and "n" is cut over them; None: both, or none.
    cut: str | None = None


@dataclass(frozen=True)
class Blocks:
    """Modules of one class that stand in one list: what a model repeats."""

    name: str | None = None
    class_name: str | None = None
    count: int | None = None
    parameters: int | None = None
    compiled: int | None = None


@dataclass(frozen=True)
class StepRun:
    """What calling the model took, without a profiler. Milliseconds by the host's clock, to the end of the work."""

    # "forward" or "forward and backward"; None: a step of the caller's own.
    does: str | None = None
    first_ms: float | None = None
    step_ms: Estimate | None = None
    # Until the host had asked for a step, of a device that was idle when it began.
    host_ms: float | None = None
    peak_gb: float | None = None
    # What went wrong, and in which part: "the first call", "profiling".
    error: str | None = None
    failed_at: str | None = None


@dataclass(frozen=True)
class Memory:
    """What lies on the GPU, by what it is for; GB of a billion bytes, as torch's allocator counts."""

    weights_gb: float | None = None
    buffers_gb: float | None = None
    gradients_gb: float | None = None
    # What else there was before the step: an optimizer's state, inputs, caches.
    other_gb: float | None = None
    # What a step needs on top of these at its peak: activations, gradients made in it, workspaces.
    step_gb: float | None = None
    # What the GPU has.
    device_gb: float | None = None

    @property
    def peak_gb(self) -> float | None:
        """All that is there at the peak of a step; None where a part of it is not known."""
        parts = (self.weights_gb, self.buffers_gb, self.gradients_gb, self.other_gb, self.step_gb)
        return None if None in parts else sum(gb for gb in parts if gb is not None)


@dataclass(frozen=True)
class CompileEvent:
    """Where torch.compile broke a graph, or compiled again, and the reason that it gives."""

    # "graph-break" or "recompile"
    kind: str | None = None
    # "model.py:98 in forward"
    where: str | None = None
    reason: str | None = None
    count: int | None = None


@dataclass(frozen=True)
class LayerGain:
    """What FP8 gives the layers of one size: timed by themselves, on random operands, microseconds of the device."""

    # "blocks.*.attn.to_q", as in `Layer.name`.
    names: tuple[str, ...] | None = None
    # How many layers of the model these are.
    count: int | None = None
    rows: int | None = None
    k: int | None = None
    n: int | None = None
    # "rowwise" or "tensorwise"
    scaling: str | None = None
    bf16_us: Estimate | None = None
    # The FP8 product alone, its operands quantised before.
    product_us: Estimate | None = None
    # Compiled: the activation is quantised, then multiplied.
    layer_us: Estimate | None = None
    # Why it was not timed.
    detail: str | None = None


@dataclass(frozen=True)
class LayerError:
    """How far one layer's output is from BF16's on the same input: signal to quantisation noise, in decibels."""

    name: str | None = None
    sqnr_db: float | None = None
    # What the layer's format explains on random operands.
    expected_db: float | None = None


@dataclass(frozen=True)
class Trial:
    """One configuration tried on copies of the model's blocks, on what they are called with."""

    config: str | None = None
    label: str | None = None
    # "ok" | "wrong" | "refused" | "out-of-memory" | "failed"
    outcome: str | None = None
    detail: str | None = None
    # By the name of the list of blocks: milliseconds of one block.
    blocks_ms: dict[str, Estimate] | None = None
    # Until the host had asked for one block, of a device that was idle.
    host_ms: dict[str, float] | None = None
    # The whole step by them, all else as it was.
    step_ms: Estimate | None = None
    relative_error: float | None = None
    error_limit: float | None = None
    compile_s: float | None = None
    # The layers that lose most by it.
    worst: tuple[LayerError, ...] | None = None
    # Layers that stayed in 16 bits: name as in `Layer.name` -> why ("sizes", "rows", "slower", "inexact").
    kept: dict[str, str] | None = None


@dataclass(frozen=True)
class Check:
    """The advised configuration in the whole model, put there for a moment and measured."""

    config: str | None = None
    # As of a trial.
    outcome: str | None = None
    detail: str | None = None
    # The whole step measured, and as it had been estimated by its blocks.
    step_ms: Estimate | None = None
    estimated_ms: Estimate | None = None
    # The step as it is, measured again directly before and after.
    as_it_is_ms: Estimate | None = None
    # The first call with it, most of which is compiling.
    first_s: float | None = None
    # How far the step's output is from that of the model as it is: ||then - now|| / ||now||; None if it returns none.
    relative_error: float | None = None


@dataclass(frozen=True)
class Model(Facts, key="model"):
    """A model of the user's own: its layers, its steps, and what was tried on its blocks."""

    name: str | None = None
    class_name: str | None = None
    parameters: int | None = None
    # Bytes of parameters and buffers by the type that they are kept in, and parameters by device.
    bytes_by_dtype: dict[str, int] | None = None
    parameters_by_device: dict[str, int] | None = None
    training: bool | None = None
    # "whole", "parts" or "none".
    compiled: str | None = None
    checkpointing: bool | None = None
    # The type that torch.autocast was on for in the step; "off".
    autocast: str | None = None
    layers: tuple[Layer, ...] | None = None
    blocks: tuple[Blocks, ...] | None = None
    run: StepRun | None = None
    trials: tuple[Trial, ...] | None = None
    # What the step takes outside of its blocks: the device, if all was asked for beforehand, and the host.
    outside_ms: Estimate | None = None
    outside_host_ms: float | None = None
    # What the trials leave out, and why.
    untried: str | None = None
    # Of each size of linear layer in the blocks.
    gains: tuple[LayerGain, ...] | None = None
    check: Check | None = None
    memory: Memory | None = None
    # What torch.compile said of this process's graphs so far; at most twenty.
    compile_events: tuple[CompileEvent, ...] | None = None
    # Milliseconds that looking took, and what watching added to a step outside its window.
    looking_ms: float | None = None

    @property
    def on_cpu(self) -> bool:
        """Whether its step runs on the CPU; what is brought from there for each call does not."""
        devices = {device.partition(":")[0] for device in self.parameters_by_device or ()} - {"meta"}
        return devices == {"cpu"} and not any(layer.offloaded_by for layer in self.layers or ())

    def caption(self) -> Caption | None:
        """Which model it is, in the header line."""
        name = self.name or (self.class_name or "").rpartition(".")[2]
        return (
            Caption(5, f"{name}, {_amount(self.parameters)} parameters" if self.parameters else name) if name else None
        )

    def headline(self) -> str | None:
        """In which format its layers multiply, and what a step takes."""
        if self.layers is None and self.run is None and self.untried:
            return f"Nothing of a model was seen: {self.untried}"
        if self.layers is None:
            return "Nothing of the model was seen" if self.run is not None and self.run.error else None
        step = self.run.step_ms if self.run is not None else None
        does = f" ({self.run.does})" if self.run is not None and self.run.does else ""
        took = f"; a step{does} takes {_figure(step.median)} ms" if step is not None and step.median else ""
        if self.run is None and self.untried:
            return f"{self._products()}; no step was timed: {self.untried}"
        if self.on_cpu:
            took = f"{took} on the CPU" if took else "; it is on the CPU"
            took += ", where timing tells nothing of FP8"
        return f"{self._products()}{took}"

    def _products(self) -> str:
        counts: dict[str | None, int] = {}
        for layer in self.layers or ():
            if layer.kind == "linear":
                # Autocast casts the operands of products in 32 bits.
                cast = layer.multiplies == "32-bit" and self.autocast not in (None, "off")
                kind = "16-bit" if cast else layer.multiplies
                counts[kind] = counts.get(kind, 0) + (layer.count or 1)
        total = sum(counts.values())
        if not total:
            return "It has no linear layers"
        # FP8 is what is asked about; else the most.
        first = next((kind for kind in ("fp8", "fp4") if kind in counts), max(counts, key=lambda kind: counts[kind]))
        words = _FORMATS.get(first or "", first) or "an unknown format"
        if counts[first] < total:
            return f"{counts[first]:,} of {total:,} linear layers multiply in {words}"
        return (
            f"All {total:,} linear layers multiply in {words}"
            if total > 1
            else f"Its linear layer multiplies in {words}"
        )


def _figure(value: float) -> str:
    """Three digits, as a person reads them."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _amount(count: int) -> str:
    """ "11.9 billion", "8 million", "33,472"."""
    for size, word in ((1_000_000_000, "billion"), (1_000_000, "million")):
        if count >= size:
            return f"{count / size:.3g} {word}"
    return f"{count:,}"
