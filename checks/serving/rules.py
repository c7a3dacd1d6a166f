"""Does the engine compute in FP8 at all, and with kernels that fit this GPU?"""

from __future__ import annotations

import re

from fp8doctor.checks.gpu import FIRST_FP8, Gpu, Gpus, capability, capability_of
from fp8doctor.checks.serving.facts import Serving, says_fp8
from fp8doctor.model import Action, ErrorText, Evidence, Finding, NotApplicable, Severity, Unknown, observed
from fp8doctor.registry import rule

_TAKEN = "the engine took Marlin, which unpacks FP8 weights for a 16-bit product"


def _has_fp8(gpus: Gpus | None, serving: Serving) -> bool | None:
    """Whether all GPUs that the text names have FP8 tensor cores; None if it names none, or they differ."""
    seen = list((gpus.gpus if gpus else None) or ()) or _named_in_configs(serving)
    found = [capability(capability_of(gpu)) for gpu in seen]
    known = {pair >= FIRST_FP8 for pair in found if pair is not None}
    return known.pop() if len(known) == 1 and None not in found else None


def _named_in_configs(serving: Serving) -> list[Gpu]:
    """The GPU that a kernel configuration was looked for: its name stands in the file's name."""
    names = [re.search(r"device_name=(\w+)", file) for file in serving.missing_configs or ()]
    return [Gpu(name=name[1].replace("_", " ")) for name in names[:1] if name]


def _weight_only_evidence(serving: Serving) -> tuple[Evidence, ...]:
    lines = [Evidence(_TAKEN, True, fact="serving.weight_only")]
    lines += [
        Evidence(f"the kernel of linear layers: {kernel}", kernel, fact="serving.linear_kernels")
        for kernel in (serving.linear_kernels or ())[:2]
    ]
    if serving.moe_backends:
        shown = ", ".join(serving.moe_backends)
        lines.append(Evidence(f"the experts' backend: {shown}", shown, fact="serving.moe_backends"))
    return tuple(lines)


@rule("SRV001", "weight-only-dequant", Severity.WARNING, scope="usage")
def weight_only(serving: Serving, gpus: Gpus | None) -> Finding | NotApplicable | Unknown | None:
    """The engine stores FP8 weights and computes in 16 bits.

    What it means: vLLM and SGLang took the Marlin kernel. It reads FP8 weights, unpacks them inside the product and
    multiplies in BF16 or FP16. That is what there is for GPUs without FP8 tensor cores (below compute capability 8.9).

    Why it costs time: the weights take half the room and half the traffic, which helps where few tokens are decoded at
    a time. The product itself runs at the rate of 16 bits, so that prompts and large batches gain nothing, and pay for
    the unpacking.

    What to do: keep it where memory or single requests count. For throughput take an INT8 (W8A8) checkpoint, which
    these GPUs multiply by themselves, or the BF16 one.

    Sources: vllm-project/vllm#5975 (FP8 Marlin); marlin_utils_fp8.py of vLLM and of SGLang; vLLM's documentation on
    quantisation, supported hardware.
    """
    if serving.weight_only is None:
        return _not_said(serving)
    has_fp8 = _has_fp8(gpus, serving)
    if has_fp8:
        return NotApplicable("this GPU has FP8 tensor cores: that they are not used is another finding")
    what_next = [Action("For throughput serve an INT8 (W8A8) checkpoint, or BF16; keep this one to save memory.")]
    if has_fp8 is None:
        what_next.append(
            Action(
                "See which GPU it is: from compute capability 8.9 it has FP8 tensor cores, and Marlin is a fallback.",
                "nvidia-smi --query-gpu=name,compute_cap --format=csv",
            )
        )
    return Finding(
        "The engine stores FP8 weights and multiplies in 16 bits (Marlin)",
        _weight_only_evidence(serving),
        tuple(what_next),
    )


@rule("SRV002", "fallback-despite-hw", Severity.WARNING, scope="usage")
def fallback(serving: Serving, gpus: Gpus | None) -> Finding | NotApplicable | Unknown | None:
    """The GPU has FP8 tensor cores and the engine fell back to weight-only FP8.

    What it means: the engine took Marlin, which computes in 16 bits, on a GPU that can multiply FP8. Known reasons:
    weights scaled in blocks of 128 on Ada, where vLLM's CUTLASS kernel for blocks begins at 9.0; a build without
    kernels for this architecture (sm_121); VLLM_TEST_FORCE_FP8_MARLIN; a backend asked for by name. The warning that
    the GPU has no native support is printed in all of these, and is then not true.

    Why it costs time: prompts and large batches run at the rate of 16-bit products.

    What to do: on Ada take a checkpoint scaled per tensor or per channel; take the engine's image for this GPU; leave
    the choice of the backend to the engine. The name of the kernel in the log tells what became of it.

    Sources: vllm-project/vllm#58241 (blocks on Ada), #43367 (sm_121), #56603 (the warning is no statement on the GPU).
    """
    if serving.weight_only is None:
        return _not_said(serving)
    has_fp8 = _has_fp8(gpus, serving)
    if has_fp8 is None:
        return Unknown("the text does not say which GPU it is")
    if not has_fp8:
        return NotApplicable("this GPU has no FP8 tensor cores")
    return Finding(
        "This GPU can multiply FP8, and the engine computes in 16 bits (Marlin)",
        _weight_only_evidence(serving),
        (
            Action("On Ada serve a checkpoint with scales per tensor or channel, not in blocks."),
            Action("Leave the backend to the engine: no VLLM_TEST_FORCE_FP8_MARLIN, no --linear-backend marlin."),
        ),
    )


def _not_said(serving: Serving) -> Unknown | None:
    """What it means that no line speaks of Marlin: a pass where another kernel for FP8 was named."""
    kernels = [*(serving.linear_kernels or ()), *(serving.moe_backends or ())]
    if any(says_fp8(kernel) for kernel in kernels) or serving.moe_backends:
        return None
    return Unknown("the log does not name the kernel of FP8 layers")


@rule("SRV003", "kernel-config-missing", Severity.WARNING, scope="usage")
def config_missing(serving: Serving, gpus: Gpus | None = None) -> Finding | Unknown | None:
    """A Triton kernel of the engine runs untuned on this GPU.

    What it means: for FP8 in blocks and for mixtures of experts the engines keep files of tile sizes, by shape, GPU
    name and type. There was none for this GPU, so that a general one was taken.

    Why it costs time: tiles that fit another GPU leave part of this one idle. How much depends on shape and GPU: kernel
    files for one more GPU were contributed because the default measured slower.

    What to do: tune it with the engine's script (vLLM: benchmarks/kernels/benchmark_w8a8_block_fp8.py and
    benchmark_moe.py --tune), or take another backend than Triton where the engine offers one for this GPU. A newer
    release may have the file.

    Sources: fp8_utils.py and fused_moe.py of vLLM; vllm-project/vllm#58005 and #47732, sgl-project/sglang#5675.
    """
    if not serving.missing_configs:
        return None
    names = [gpu.name for gpu in (gpus.gpus if gpus else None) or () if gpu.name]
    missing = [file for file in serving.missing_configs if _is_for(file, names)]
    if not missing:
        return Unknown(f"the files that were missing are for another GPU than {', '.join(dict.fromkeys(names))}")
    return Finding(
        f"The engine has no tuned kernel configuration for this GPU ({len(missing)} shape{'s' * (len(missing) > 1)})",
        tuple(Evidence(f"not found: {file}", file, fact="serving.missing_configs") for file in missing[:4]),
        (Action("Tune these shapes with the engine's benchmark script, or update the engine: it may have the files."),),
    )


def _is_for(file: str, names: list[str]) -> bool:
    """Whether a file is for one of these GPUs: the engines put its name in; people leave parts of a name out."""
    device = re.search(r"device_name=([^,]{1,80}?)(?:,|\.json$)", file)
    if device is None or not names:
        return True
    wanted = _words(device[1])
    return any(wanted <= words or words <= wanted for words in map(_words, names))


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower())) - {"nvidia", "geforce", "tesla", "amd"}


@rule("SRV004", "engine-eager-mode", Severity.WARNING, scope="usage")
def eager(serving: Serving) -> Finding | NotApplicable | None:
    """The engine runs eagerly: no torch.compile and no CUDA graphs.

    What it means: vLLM was started with enforce_eager. That turns off both compilation, which fuses the quantisation
    of activations into the kernels round it, and CUDA graphs, which launch a step at once.

    Why it costs time: each token pays for every launch from Python, and FP8 launches more kernels than BF16. Where
    decoding waits for the CPU, FP8 cannot show what it gains.

    What to do: take --enforce-eager out. Where it was set to save memory, lower --gpu-memory-utilization or
    --max-num-seqs instead.

    Sources: vllm-project/vllm#55271 (it turns off both) and #34523; vllm/config/vllm.py; marin-community/marin#9339.
    """
    if observed(serving.enforce_eager, "whether the engine runs eagerly"):
        return Finding(
            "enforce_eager turns off torch.compile and CUDA graphs",
            (Evidence("the engine said: enforce_eager", True, fact="serving.enforce_eager"),),
            (Action("Start the engine without --enforce-eager, and compare again."),),
        )
    return None


@rule("SRV005", "cuda-graphs-off", Severity.WARNING, scope="usage")
def graphs_off(serving: Serving) -> Finding | NotApplicable | None:
    """The engine decodes without CUDA graphs.

    What it means: capturing was switched off, or the chosen attention backend cannot be captured.

    Why it costs time: every kernel of a step is launched from Python. With few requests the GPU waits for the CPU, and
    FP8, which has more and shorter kernels, waits longer.

    What to do: take out --disable-cuda-graph (SGLang), or cudagraph_mode NONE (vLLM), and choose an attention backend
    that can be captured.

    Sources: sglang/srt/server_args.py; vllm/v1/worker/gpu_model_runner.py.
    """
    if serving.enforce_eager:
        return NotApplicable("the engine runs eagerly altogether")
    if observed(serving.cuda_graphs, "whether CUDA graphs were captured"):
        return None
    why = serving.cuda_graphs_off_because or "capturing was skipped"
    return Finding(
        "The engine decodes without CUDA graphs",
        (Evidence(f"the engine said: {why}", why, fact="serving.cuda_graphs_off_because"),),
        (Action("Let the engine capture CUDA graphs, and compare again."),),
    )


@rule("SRV009", "fp8-silently-not-applied", Severity.WARNING, scope="usage")
def not_applied(serving: Serving) -> Finding | Unknown | None:
    """The model's name says FP8 and the engine found no quantisation in it.

    What it means: vLLM prints the method that it took after it has read the checkpoint. It printed None for a model
    whose name ends in FP8: the folder's config.json has no quantization_config, as after a conversion or a copy that
    left it out.

    Why it costs time: the weights are loaded as 16 bits, so that neither memory nor time is saved.

    What to do: look for quantization_config in the model's config.json; load the original checkpoint, or quantise
    while loading (--quantization fp8).

    Sources: vllm/config/model.py (`_verify_quantization` takes the method from the checkpoint).
    """
    if observed(serving.quantization, "the quantisation that the engine took") != "none":
        return None
    if not serving.quantization_resolved:
        return Unknown("the engine had not read the checkpoint yet")
    if not serving.model_named_fp8:
        return None
    return Finding(
        "The model is called FP8, and the engine loaded it without quantisation",
        (
            Evidence("the engine printed: quantization=None", "none", fact="serving.quantization"),
            Evidence("the model's name ends in FP8", True, fact="serving.model_named_fp8"),
        ),
        (Action("Look for quantization_config in the model's config.json, or serve with --quantization fp8."),),
    )


@rule("SRV010", "jit-warmup-counted", Severity.INFO, scope="usage")
def compiled_while_serving(serving: Serving) -> Finding | Unknown | None:
    """Kernels were compiled while requests were already served.

    What it means: the engine's warm-up did not cover a shape that a request brought, so that Triton compiled a kernel
    in between.

    Why it costs time: that request waits for the compiler, and a benchmark that counts it measures the compiler.

    What to do: send requests of the true lengths and batch sizes before timing, and leave the first runs out.

    Sources: jit_monitor.py of vLLM; sgl-project/sglang#4858 (five runs in a row, the first at a tenth of the last).
    """
    kernels = serving.compiled_while_serving
    if not kernels:
        return Unknown("the log does not say whether kernels were compiled while serving")
    shown = ", ".join(kernels[:4])
    return Finding(
        "Kernels were compiled while requests were served",
        (Evidence(f"compiled in between: {shown}", len(kernels), "kernels", "serving.compiled_while_serving"),),
        (Action("Send requests of all lengths and batch sizes first, and time afterwards."),),
    )


# vllm/config/vllm.py; vllm-project/vllm#4327. Below 8.9 no GPU of NVIDIA's has FP8, whatever the engine's minimum is.
ERROR_TEXTS = (
    ErrorText(
        r"The quantization method (?:fp8|fbgemm_fp8|w8a8_fp8|modelopt|modelopt_fp8) is not supported for the current "
        r"GPU\. Minimum capability: \d+\. Current capability: (?:[5-7]\d|8[0-8])\b",
        "GPU001",
        "This GPU has no FP8 tensor cores, and the engine no weight-only kernel for it: serve BF16 or INT8.",
    ),
)
