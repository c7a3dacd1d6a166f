"""Start-up logs of vLLM and SGLang: what is read of them, and what each rule makes of it.

The lines in tests/serving_logs are wordings of the engines (see checks/serving/log.py); paths and names in them are
made up.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks.gpu import Gpu, Gpus
from fp8doctor.checks.serving.attention_rules import gives_up_flash_attention, scales_missing, slow_backend
from fp8doctor.checks.serving.facts import Serving
from fp8doctor.checks.serving.kernel_rules import built_for_a_sibling, no_fp4_units
from fp8doctor.checks.serving.log import read
from fp8doctor.checks.serving.rules import (
    compiled_while_serving,
    config_missing,
    eager,
    fallback,
    graphs_off,
    not_applied,
    weight_only,
)
from fp8doctor.model import Finding, NotApplicable, Severity, Unknown
from fp8doctor.pasted import Pasted

LOGS = Path(__file__).resolve().parent.parent / "serving_logs"
VLLM = (LOGS / "vllm.txt").read_text()

SGLANG = (LOGS / "sglang.txt").read_text()


def said(text: str) -> Serving | None:
    return read(Pasted(tuple(text.splitlines())))


def test_a_start_of_vllm() -> None:
    assert said(VLLM) == Serving(
        engine="vllm",
        version="0.30.0",
        quantization="fp8",
        quantization_resolved=True,
        model_named_fp8=True,
        dtype="bfloat16",
        tensor_parallel_size=2,
        linear_kernels=("MarlinFP8ScaledMMLinearKernel for Fp8LinearMethod",),
        moe_backends=("MARLIN",),
        weight_only=True,
        missing_configs=(
            "N=4096,K=5120,device_name=NVIDIA_L40S,dtype=fp8_w8a8,block_shape=[128,128].json",
            "E=16,N=1536,device_name=NVIDIA_L40S,dtype=fp8_w8a8.json",
        ),
        enforce_eager=True,
        attention_backend="FLASH_ATTN",
        flash_attention=2,
        kv_cache_dtype="fp8_e4m3",
        kv_scales_missing=True,
        compiled_while_serving=("_lora_expand_kernel",),
    )


def test_a_start_of_sglang() -> None:
    assert said(SGLANG) == Serving(
        engine="sglang",
        quantization="fp8",
        quantization_resolved=True,
        model_named_fp8=True,
        tensor_parallel_size=8,
        missing_configs=("N=2048,K=4096,device_name=NVIDIA_H100_80GB_HBM3,dtype=fp8_w8a8,block_shape=[128, 128].json",),
        cuda_graphs=True,
        attention_backend="fa3",
        kv_cache_dtype="float8_e4m3fn",
        kv_scales_missing=True,
    )


EARLIER = (LOGS / "vllm-0.6.txt").read_text()


def test_what_an_earlier_vllm_printed() -> None:
    assert said(EARLIER) == Serving(
        engine="vllm",
        version="0.6.4",
        quantization="none",
        quantization_resolved=True,
        model_named_fp8=False,
        dtype="float16",
        tensor_parallel_size=1,
        enforce_eager=False,
        cuda_graphs=True,
        attention_backend="XFormers",
        flash_attention_refused="FP8 KV cache",
        kv_cache_dtype="fp8",
    )


@pytest.mark.parametrize(
    ("line", "backend"),
    [
        ("INFO 09-22 [cuda.py:284] Using Flash Attention backend on V1 engine.", "Flash Attention"),
        ("INFO 11-04 [cuda.py:414] Using FlexAttention backend.", "FlexAttention"),
        ("INFO 05-01 [cuda.py:274] Using AttentionBackendEnum.FLASHINFER backend.", "FLASHINFER"),
        ("[2025-11-11] Attention backend not explicitly specified. Use fa3 backend by default.", "fa3"),
    ],
)
def test_the_attention_backend_in_the_words_of_several_releases(line: str, backend: str) -> None:
    found = said(line)
    assert found is not None
    assert found.attention_backend == backend


def test_a_configuration_that_a_terminal_broke_is_put_together() -> None:
    whole = next(line for line in VLLM.splitlines() if "with config: " in line)
    broken = [whole[start : start + 90] for start in range(0, len(whole), 90)]
    assert read(Pasted((*broken, "(EngineCore pid=1) INFO x"))) == said(whole)


def test_sglang_says_why_graphs_are_off() -> None:
    native = said("[2025-11-11] Cuda graph is disabled because of using torch native attention backend")
    assert native is not None
    assert (native.cuda_graphs, native.cuda_graphs_off_because) == (False, "using torch native attention backend")
    asked = said("server_args=ServerArgs(model_path='a/b', quantization='w8a8_fp8', disable_cuda_graph=True)")
    assert asked is not None
    assert (asked.cuda_graphs, asked.quantization, asked.quantization_resolved) == (False, "w8a8_fp8", False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "PyTorch version: 2.11.0+cu130\nCUDA used to build PyTorch: 13.0\nGPU 0: NVIDIA H200",
        "I serve my model in FP8 with vLLM, using the FlashInfer backend, and it is slower than BF16.",
        "We are using Marlin for 4 bits. FlashAttention is enabled. Using XFormers backend was slower.",
        'Traceback (most recent call last):\n  File "a.py", line 3, in <module>\nRuntimeError: quantization=fp8',
    ],
)
def test_a_text_that_is_no_log_says_nothing(text: str) -> None:
    assert said(text) is None


@pytest.mark.parametrize(
    "line",
    [
        "LLM engine (v1) with config: a",
        "LLM engine (v1) with config: " + "quantization=" * 100,
        "Performance might be sub-optimal! E=1",
        "Performance might be sub-optimal! " + "E=1" * 300,
        "Load weight end." + "quan" * 30,
        "a.py:1] Using " * 10 + " backend",
        "Cannot use FlashAttention backend for " * 20,
        "a" * 2_000_000,
    ],
)
def test_a_long_text_takes_no_longer_than_its_length(line: str) -> None:
    lines = (line,) * max(1, 2_000_000 // len(line))
    start = time.process_time()
    read(Pasted(lines))
    # A second or two; a quadratic one would take hours.
    assert time.process_time() - start < 10


def gpus(*names: str) -> Gpus:
    return Gpus(gpus=tuple(Gpu(index=number, name=name) for number, name in enumerate(names)))


ADA = gpus("NVIDIA L40S")
AMPERE = gpus("NVIDIA A100-SXM4-80GB")
MARLIN = Serving(engine="vllm", weight_only=True, linear_kernels=("MarlinFP8ScaledMMLinearKernel for Fp8LinearMethod",))
CUTLASS = Serving(engine="vllm", linear_kernels=("CutlassFP8ScaledMMLinearKernel for Fp8LinearMethod",))


def test_weight_only_is_said_where_the_gpu_has_no_fp8_or_is_not_known() -> None:
    on_ampere = weight_only(MARLIN, AMPERE)
    assert isinstance(on_ampere, Finding)
    assert len(on_ampere.actions) == 1
    unknown = weight_only(MARLIN, None)
    assert isinstance(unknown, Finding)
    assert any("compute_cap" in (action.command or "") for action in unknown.actions)
    assert isinstance(weight_only(MARLIN, ADA), NotApplicable)
    assert weight_only(CUTLASS, ADA) is None
    assert isinstance(weight_only(Serving(engine="vllm"), ADA), Unknown)


def test_a_fallback_is_said_where_the_gpu_has_fp8() -> None:
    assert isinstance(fallback(MARLIN, ADA), Finding)
    assert isinstance(fallback(MARLIN, AMPERE), NotApplicable)
    assert isinstance(fallback(MARLIN, None), Unknown)
    assert isinstance(fallback(MARLIN, gpus("NVIDIA L40S", "NVIDIA A100-SXM4-80GB")), Unknown)
    assert fallback(CUTLASS, ADA) is None


def test_the_gpu_may_be_known_by_the_file_that_was_looked_for() -> None:
    known = said(VLLM)
    assert known is not None
    assert isinstance(fallback(known, None), Finding)
    assert isinstance(weight_only(known, None), NotApplicable)


RULES: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
    (config_missing, {"missing_configs": ("N=1,K=2.json",)}, {"engine": "vllm"}),
    (eager, {"enforce_eager": True}, {"enforce_eager": False}),
    (graphs_off, {"cuda_graphs": False}, {"cuda_graphs": True}),
    (
        not_applied,
        {"quantization": "none", "quantization_resolved": True, "model_named_fp8": True},
        {"quantization": "fp8", "quantization_resolved": True, "model_named_fp8": True},
    ),
    (
        not_applied,
        {"quantization": "none", "quantization_resolved": True, "model_named_fp8": True},
        {"quantization": "none", "quantization_resolved": True, "model_named_fp8": False},
    ),
    (scales_missing, {"kv_cache_dtype": "fp8", "kv_scales_missing": True}, {"kv_cache_dtype": "fp8"}),
    (
        gives_up_flash_attention,
        {"kv_cache_dtype": "fp8", "flash_attention_refused": "FP8 KV cache"},
        {"kv_cache_dtype": "fp8", "flash_attention_refused": "Volta and Turing GPUs"},
    ),
]


@pytest.mark.parametrize(("rule", "bad", "good"), RULES)
def test_a_rule_fires_and_does_not(rule: Any, bad: dict[str, Any], good: dict[str, Any]) -> None:
    assert isinstance(rule(Serving(**bad)), Finding)
    assert rule(Serving(**good)) is None


@pytest.mark.parametrize("rule", [eager, graphs_off, not_applied, scales_missing, gives_up_flash_attention])
def test_what_the_log_does_not_say_is_unknown(rule: Any) -> None:
    assert isinstance(rule(Serving(engine="vllm")), Unknown)


def test_a_cache_of_16_bits_is_no_question_of_scales() -> None:
    for rule in (scales_missing, gives_up_flash_attention):
        assert isinstance(rule(Serving(kv_cache_dtype="bfloat16")), NotApplicable)


def test_eager_mode_and_graphs_are_one_finding() -> None:
    assert isinstance(graphs_off(Serving(enforce_eager=True, cuda_graphs=False)), NotApplicable)


def test_kernels_that_were_compiled_while_serving() -> None:
    assert isinstance(compiled_while_serving(Serving(compiled_while_serving=("_k",))), Finding)
    assert isinstance(compiled_while_serving(Serving(engine="vllm")), Unknown)


def test_an_attention_backend_that_the_engine_ranks_last_or_that_is_old_for_hopper() -> None:
    last = slow_backend(Serving(attention_backend="FLEX_ATTENTION"), None)
    assert isinstance(last, Finding)
    assert last.severity is Severity.INFO
    two = Serving(attention_backend="FLASH_ATTN", flash_attention=2)
    assert isinstance(slow_backend(two, gpus("NVIDIA H200")), Finding)
    assert slow_backend(two, ADA) is None
    assert slow_backend(two, None) is None
    assert isinstance(slow_backend(Serving(engine="vllm"), None), Unknown)


H100_FILE = "N=4096,K=512,device_name=NVIDIA_H100_80GB_HBM3,dtype=fp8_w8a8,block_shape=[128,128].json"


@pytest.mark.parametrize("name", ["NVIDIA H100 80GB HBM3", "H100", "NVIDIA H100", "NVIDIA GeForce ..."])
def test_a_missing_file_for_the_gpu_of_the_text_is_a_finding(name: str) -> None:
    gpus = Gpus(gpus=(Gpu(index=0, name=name),))
    assert isinstance(config_missing(Serving(missing_configs=(H100_FILE,)), gpus), Finding)


def test_a_missing_file_for_another_gpu_settles_nothing() -> None:
    gpus = Gpus(gpus=(Gpu(index=0, name="RTX 4090"),))
    result = config_missing(Serving(missing_configs=(H100_FILE,)), gpus)
    assert isinstance(result, Unknown)
    assert "RTX 4090" in result.reason


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("Llama-3-8B-Instruct-FP8", True),
        ("Qwen3-8B-FP8-dynamic", True),
        ("Llama-3-70B-FP8-KV", True),
        ("qwen-fp8-converted-bf16", False),
    ],
)
def test_a_name_promises_fp8_where_it_ends_in_it(name: str, ends: bool) -> None:
    line = f"INFO [core.py:58] Initializing a V1 LLM engine (v0.8.2) with config: model='/m/{name}', quantization=None"
    serving = said(line)
    assert serving is not None
    assert serving.model_named_fp8 is ends


def test_a_cutlass_kernel_that_fails_on_a_sibling_was_built_for_another_gpu() -> None:
    failed = said("RuntimeError: Error Internal") or Serving()
    assert failed == Serving(cutlass_internal_error=True)
    for capability, fires in (("12.1", True), ("10.3", True), ("9.0", False), ("12.0", False)):
        found = built_for_a_sibling(failed, Gpus(gpus=(Gpu(compute_capability=capability),)))
        assert isinstance(found, Finding if fires else Unknown)
    assert isinstance(built_for_a_sibling(failed, None), Unknown)
    assert isinstance(built_for_a_sibling(Serving(), None), NotApplicable)


def test_fp4_weights_that_are_unpacked_are_a_finding_below_blackwell() -> None:
    unpacked = said("Your GPU does not have native support for FP4 computation but FP4 quantization is being used.")
    assert unpacked is not None
    assert unpacked == Serving(fp4_weight_only=True)
    for capability, kind in (("9.0", Finding), ("8.9", Finding), ("12.0", NotApplicable)):
        assert isinstance(no_fp4_units(unpacked, Gpus(gpus=(Gpu(compute_capability=capability),))), kind)
    assert isinstance(no_fp4_units(unpacked, None), Unknown)
    assert isinstance(no_fp4_units(Serving(), None), NotApplicable)
