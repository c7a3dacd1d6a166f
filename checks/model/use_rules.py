"""What stands beside a model's FP8 layers: compiling, adapters, offloading, a first call?"""

from __future__ import annotations

from fp8doctor.checks.model.layers import counted, keeping, linears, multiplying, named
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, Severity, Unknown, Verdict
from fp8doctor.observed import Layer, Model
from fp8doctor.registry import rule

# torchao's layers scale and cast by a row of kernels unless they are compiled; those of other libraries have kernels
# of their own.
_NEED_COMPILING = ("torchao",)
# The part of a GPU's memory up to which it is worth trying whether a step that keeps its activations fits.
ROOM = 0.25
# A first call that takes so many steps' time shows in an average of a hundred steps; shorter than a second it is no
# compilation that anybody waits for.
LONG_FIRST, LONG_FIRST_MS = 10.0, 1000.0
# Where nothing is compiled the first call loads libraries and fills caches; that is long from half a minute on.
LONG_FIRST_EAGER_MS = 30_000.0
# A host that is done before half of the step: whoever reads the clock then is wrong by a factor of two and more.
EARLY = 0.5


@rule("MOD010", "not-compiled", Severity.WARNING, scope="usage", explains=("not-compiled", "quantize-overhead"))
def not_compiled(model: Model) -> Verdict:
    """FP8 layers that need torch.compile are not compiled.

    What it means: torchao's FP8 layers find scales and cast with plain PyTorch operators. Compiled, these become one or
    two kernels; eager, each reads and writes the whole activation.

    Why it costs time: on an H200 eager quantising takes longer than what the FP8 product saves (this project's README).

    What to do: compile each repeated block, after quantising.

    Sources: the model's own modules (a compiled call on a module, or torch.compile's wrapper). Decorated functions and
    torch.compile of a function that calls the model are not seen from it. pytorch/ao#685.
    """
    layers = [layer for layer in multiplying(linears(model)) if layer.library in _NEED_COMPILING]
    if not layers:
        return NotApplicable("no FP8 layer here needs torch.compile")
    eager = [layer for layer in layers if not layer.compiled]
    if not eager:
        return None
    if counted(eager) < counted(layers):
        return NotApplicable("some are compiled, which is told by itself")
    lists = [blocks.name for blocks in model.blocks or () if blocks.name]
    code = f"for block in model.{lists[0]}: block.compile()" if lists else "model.compile()"
    return Finding(
        title=f"{counted(eager):,} FP8 layers of torchao are not compiled",
        evidence=tuple(named(eager)),
        actions=(Action("Compile each repeated block, after quantising", code),),
    )


@rule("MOD011", "partial-compile", Severity.WARNING, scope="usage", explains=("not-compiled", "quantize-overhead"))
def partly_compiled(model: Model) -> Verdict:
    """Some FP8 layers are compiled and others are not.

    What it means: torch.compile was called on a part of the model, and FP8 layers stand outside of it.

    Why it costs time: outside, each FP8 layer scales and casts by a row of kernels.

    What to do: compile all blocks.

    Sources: the model's own modules.
    """
    layers = [layer for layer in multiplying(linears(model)) if layer.library in _NEED_COMPILING]
    eager = [layer for layer in layers if not layer.compiled]
    if not eager or counted(eager) == counted(layers):
        return NotApplicable("not some of the FP8 layers alone are compiled")
    parts = [b for b in model.blocks or () if b.compiled and b.count and b.compiled < b.count]
    code = f"for block in model.{parts[0].name}: block.compile()" if parts else None
    return Finding(
        title=f"{counted(eager):,} of {counted(layers):,} FP8 layers stand outside of what is compiled",
        evidence=(
            *(Evidence(f"{b.name}: {b.compiled} of {b.count} blocks are compiled", b.compiled) for b in parts),
            *named(eager),
        ),
        actions=(Action("Compile all blocks", code),),
    )


@rule(
    "MOD012",
    "lora-on-fp8",
    Severity.WARNING,
    scope="usage",
    explains=("lora-on-fp8", "lora-unfused", "cpu-launch-bound"),
)
def adapters_on_fp8(model: Model) -> Verdict:
    """A LoRA runs unfused beside layers with FP8 weights.

    What it means: each of these layers has two products of a small rank beside it, in 16 bits, and their result is
    added.

    Why it costs time: FP8 shortens the layer alone; the adapter's part weighs more beside it, and each layer has three
    kernels and more besides its own for the host to launch.

    What to do: fuse the LoRA into the BF16 weights, then quantise.

    Sources: the model's own layers (peft's, not merged). huggingface/diffusers#10685, Comfy-Org/ComfyUI#4577.
    """
    layers = linears(model)
    beside = [layer for layer in multiplying(layers) + keeping(layers) if layer.adapter_rank]
    if not beside:
        return NotApplicable("no adapter runs beside an FP8 layer")
    return _adapters(beside, "FP8 layers", "in BF16, then quantise")


@rule("MOD013", "lora-unfused", Severity.WARNING, scope="usage", explains=("lora-unfused", "cpu-launch-bound"))
def adapters(model: Model) -> Verdict:
    """A LoRA that is not fused runs beside its layers.

    What it means: each of these layers has two products of a small rank beside it, and their result is added.

    Why it costs time: on an H200 a step of FLUX with a LoRA of rank 16 on every linear layer takes 1.15 times as long
    (benchmarks/RESULTS.md). The host has three kernels and more besides the layer's own to launch.

    What to do: fuse it where adapters are not exchanged often. In training it is what is trained: leave it.

    Sources: the model's own layers (peft's, not merged).
    """
    layers = linears(model)
    fp8 = multiplying(layers) + keeping(layers)
    beside = [layer for layer in layers if layer.adapter_rank and layer not in fp8]
    if not beside:
        return NotApplicable("no adapter runs beside a layer in 16 bits")
    if model.training:
        return NotApplicable("it is being trained")
    return _adapters(beside, "layers", "where it need not be exchanged")


def _adapters(beside: list[Layer], what: str, when: str) -> Finding:
    ranks = ", ".join(map(str, sorted({layer.adapter_rank or 0 for layer in beside})))
    return Finding(
        title=f"A LoRA of rank {ranks} runs unfused beside {counted(beside):,} {what}",
        evidence=tuple(named(beside)),
        actions=(Action(f"Fuse it, {when}", "model = model.merge_and_unload()  # or pipe.fuse_lora()"),),
    )


@rule("MOD014", "vram-offload-dominates", Severity.WARNING, scope="usage", explains=("vram-offload-dominates",))
def offloaded(model: Model) -> Verdict:
    """Weights are brought to the GPU at every call.

    What it means: a hook of accelerate or diffusers keeps weights in the host's memory and copies them for each
    forward, or layers lie on the CPU while others are on the GPU.

    Why it costs time: the link to the host is tens of times slower than the GPU's memory; in which format the product
    is then computed does not matter.

    What to do: keep the weights on the GPU if they fit (FP8 halves them), or offload fewer blocks.

    Sources: the model's own hooks and devices. invoke-ai/InvokeAI#9478.
    """
    layers = linears(model)
    hooked = [layer for layer in layers if layer.offloaded_by]
    on_gpu = any((layer.device or "").startswith(("cuda", "hip", "xpu")) for layer in layers)
    on_host = [layer for layer in layers if on_gpu and layer.device == "cpu" and not layer.offloaded_by]
    if not hooked and not on_host:
        return None
    by = ", ".join(sorted({str(layer.offloaded_by) for layer in hooked})) or "their device"
    away = hooked + on_host
    return Finding(
        title=f"The weights of {counted(away):,} layers are not kept on the GPU ({by})",
        evidence=tuple(named(away)),
        actions=(Action("Keep them on the GPU; FP8 or INT8 weights take half the memory of BF16"),),
    )


@rule("MOD015", "benchmark-artifact", Severity.INFO, scope="usage")
def long_first_call(model: Model) -> Verdict:
    """A careless clock would read something else than what a step takes.

    What it means: the first call compiles and chooses algorithms; later ones do not. And a call returns once the host
    has asked for the work, long before a GPU has done it.

    Why it costs time: it costs none; it misleads. In an average of few steps a first call hides what the steps take,
    and a clock that is read without waiting for the GPU shows the host's time alone, whichever format is timed.

    What to do: call the step three times before timing, and wait for the GPU (torch.cuda.synchronize()) before reading
    the clock.

    Sources: timed here, by the host's clock: the first call and the steps to the end of the work, and how long the host
    took to ask for one of an idle GPU; the latter is told of models that are wholly on GPUs.
    """
    run = model.run
    if run is None or run.error is not None:
        return NotApplicable("no step ran")
    if run.first_ms is None or run.step_ms is None:
        return Unknown("no step was timed")
    first, step = run.first_ms, run.step_ms.median
    if first < max(LONG_FIRST * step, LONG_FIRST_MS):
        return None
    if model.compiled in (None, "none") and first <= LONG_FIRST_EAGER_MS:
        return None
    evidence = [Evidence(f"{first / step:,.0f} times as long", round(first, 1), "ms", "model.run.first_ms")]
    # Without the former this is so of every model that is well: no finding by itself.
    if run.host_ms is not None and run.host_ms < EARLY * step and _all_on_gpu(model):
        text = f"a clock that does not wait for the GPU reads {run.host_ms:,.1f} ms for a step of {step:,.1f} ms"
        evidence.append(Evidence(text, run.host_ms, "ms", "model.run.host_ms"))
    return Finding(
        title=f"The first call took {first / 1e3:,.1f} s, and the steps after it {step:,.1f} ms",
        evidence=tuple(evidence),
        actions=(
            Action(
                "Leave the first calls out of what you time, and wait for the GPU before you read the clock",
                "torch.cuda.synchronize()",
            ),
        ),
    )


def _all_on_gpu(model: Model) -> bool:
    devices = [name for name in model.parameters_by_device or {} if name != "meta"]
    return bool(devices) and all(name.startswith(("cuda", "hip", "xpu")) for name in devices)


@rule("MOD016", "model-does-not-run", Severity.ERROR, scope="usage")
def does_not_run(model: Model) -> Verdict:
    """The model's step ended with an error.

    What it means: what was called raised an exception, here as it would elsewhere.

    Why it costs time: nothing could be timed; what is known comes from looking at the layers alone.

    What to do: call the step by itself first; the message says what is wrong with it.

    Sources: the exception itself.
    """
    if model.run is None:
        return NotApplicable("no step was called")
    if model.run.error is None:
        return None
    loading = model.run.failed_at == "loading"
    return Finding(
        title="The model could not be loaded" if loading else f"The step failed in {model.run.failed_at}",
        evidence=(Evidence(model.run.error, fact="model.run.error"),),
        actions=(
            Action("Name it as Python does (package.module:factory), from the folder that it is in; call it by itself")
            if loading
            else Action("Call the model by itself with the same inputs, and mend what it says"),
        ),
    )


@rule("MOD017", "gradient-checkpointing", Severity.INFO, scope="usage")
def checkpointing_with_room(model: Model) -> Verdict:
    """Activations are computed again in the backward, on a GPU whose memory is mostly free.

    What it means: gradient checkpointing is on, which keeps few activations and repeats the forward of each block in
    the backward; at the step's peak more than three quarters of the GPU's memory were free.

    Why it costs time: one forward more for each step, in FP8 with its casts.

    What to do: try without it, or keep it for some blocks only, and watch the peak: how much the activations would take
    was not measured.

    Sources: the model's own switch; torch's allocator at the step's peak.
    """
    memory = model.memory
    if not model.training or not model.checkpointing:
        return NotApplicable("no activations are computed again")
    peak_gb = memory.peak_gb if memory is not None else None
    if memory is None or memory.device_gb is None or peak_gb is None:
        return Unknown("what the step needs of the GPU's memory was not seen")
    if peak_gb > ROOM * memory.device_gb:
        return None
    return Finding(
        title=f"Gradient checkpointing is on, and a step needs {peak_gb:,.0f} of {memory.device_gb:,.0f} GB with it",
        evidence=(Evidence(f"{peak_gb:,.1f} GB at the step's peak", round(peak_gb, 2), "GB", "model.memory"),),
        actions=(
            Action("Try without, or for some blocks, and watch the peak", "model.gradient_checkpointing_disable()"),
        ),
    )
