"""Did the engine take the attention that fits this GPU, and what did an FP8 KV cache cost?"""

from __future__ import annotations

from fp8doctor.checks.gpu import Gpus, capability, capability_of
from fp8doctor.checks.serving.facts import Serving, says_fp8
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, Severity, observed
from fp8doctor.registry import rule

HOPPER = (9, 0)
# Backends that the engines take last or only when asked, and what is said of them (vllm/platforms/cuda.py,
# `_get_backend_priorities`; sglang/srt/server_args.py on torch_native and flex_attention).
RANKED_LAST = {
    "FLEX_ATTENTION": "the last in vLLM's list",
    "FlexAttention": "the last in vLLM's list",
    "torch_native": "torch's own, for which SGLang turns CUDA graphs off",
    "flex_attention": "torch's flex attention, for which SGLang turns CUDA graphs off",
}


@rule("SRV006", "kv-cache-scales-missing", Severity.INFO, scope="usage")
def scales_missing(serving: Serving) -> Finding | NotApplicable | None:
    """The FP8 KV cache has no calibrated scales.

    What it means: the checkpoint brings no scales for keys and values, so that the engine takes 1.0 for all of them.

    Why it costs time: none. It may cost accuracy: e4m3 keeps three bits behind the leading one, whatever the scale,
    but values above 448 are cut and small ones lose bits. vLLM's documentation reports little loss as a rule.

    What to do: compare answers with a BF16 KV cache, over long ones too. If they differ, calibrate the scales with
    llm-compressor, or keep the KV cache in BF16.

    Sources: vLLM's documentation, Quantized KV Cache, "Scale Calibration Approaches", and FP8 E4M3 KV Cache (0.6.6);
    kv_cache.py of vLLM; model_runner.py of SGLang.
    """
    if not serving.kv_scales_missing:
        return _no_fp8_cache(serving)
    return Finding(
        "The FP8 KV cache runs with scales of 1.0: accuracy is not assured",
        (Evidence("the engine took 1.0 for missing KV scales", True, fact="serving.kv_scales_missing"),),
        (Action("Compare answers with --kv-cache-dtype auto; calibrate with llm-compressor if they differ."),),
    )


@rule("SRV007", "fp8-kv-overhead", Severity.WARNING, scope="usage")
def gives_up_flash_attention(serving: Serving) -> Finding | NotApplicable | None:
    """For the FP8 KV cache the engine gave FlashAttention up.

    What it means: the FlashAttention of this release does not read an FP8 KV cache on this GPU, so that vLLM took
    another backend (XFormers, in earlier releases).

    Why it costs time: Llama-3-70B on H200 made 1,793 tokens a second with XFormers and an FP8 cache, 2,606 with
    XFormers and a 16-bit one, and 2,210 with FlashInfer and an FP8 one.

    What to do: take FlashInfer (VLLM_ATTENTION_BACKEND=FLASHINFER, later --attention-backend), update vLLM, or keep the
    cache in 16 bits where memory allows.

    Sources: vllm-project/vllm#7798 (the numbers) and #24577; vllm/platforms/cuda.py.
    """
    why = serving.flash_attention_refused
    if why is None or not says_fp8(why):
        return _no_fp8_cache(serving)
    taken = f", it took {serving.attention_backend}" if serving.attention_backend else ""
    return Finding(
        "The FP8 KV cache cost FlashAttention",
        (Evidence(f"FlashAttention was refused for {why}{taken}", why, fact="serving.flash_attention_refused"),),
        (
            Action("Take FlashInfer for the FP8 cache.", "export VLLM_ATTENTION_BACKEND=FLASHINFER"),
            Action("Or keep the KV cache in 16 bits: --kv-cache-dtype auto."),
        ),
    )


def _no_fp8_cache(serving: Serving) -> NotApplicable | None:
    kind = observed(serving.kv_cache_dtype, "the type of the KV cache")
    return None if says_fp8(kind) else NotApplicable(f"the KV cache is {kind}")


@rule("SRV008", "attention-backend-slow", Severity.WARNING, scope="usage")
def slow_backend(serving: Serving, gpus: Gpus | None) -> Finding | None:
    """The engine took an attention backend that it would not choose by itself on this GPU.

    What it means: either one that the engine ranks last, which it takes when asked by name or when nothing else fits
    the model; or FlashAttention 2 on Hopper, whose own kernels came with FlashAttention 3.

    Why it costs time: attention takes a growing share of each step as the context grows, and FP8 layers do not shorten
    it.

    What to do: leave the backend to the engine (no --attention-backend, no VLLM_ATTENTION_BACKEND), and update it. On
    Hopper see why version 3 was not taken: VLLM_FLASH_ATTN_VERSION, or a build without it.

    Sources: vllm/platforms/cuda.py (`_get_backend_priorities`); sglang/srt/server_args.py; flashinfer-ai/flashinfer#521
    (a kernel older than Hopper on Hopper).
    """
    backend = observed(serving.attention_backend, "the attention backend")
    if backend in RANKED_LAST:
        return Finding(
            f"The attention backend is {RANKED_LAST[backend]}",
            (Evidence(f"the engine took {backend}", backend, fact="serving.attention_backend"),),
            (Action("Let the engine choose its attention backend, and compare again."),),
            severity=Severity.INFO,
        )
    if serving.flash_attention == 2 and _is_hopper(gpus):
        return Finding(
            "FlashAttention 2 runs on Hopper, which has kernels of its own in FlashAttention 3",
            (Evidence("the engine took FlashAttention 2", 2, fact="serving.flash_attention"),),
            (Action("Unset the version, or install a build of the engine that brings FlashAttention 3."),),
        )
    return None


def _is_hopper(gpus: Gpus | None) -> bool:
    seen = (gpus.gpus if gpus else None) or ()
    return bool(seen) and all(capability(capability_of(gpu)) == HOPPER for gpu in seen)
