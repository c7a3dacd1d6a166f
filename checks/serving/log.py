"""Which lines of a start-up log of vLLM or SGLang say something about FP8, and what?

Each wording was looked up in the engines' own sources, or in logs that they wrote, since messages change:

- cutlass/cutlass.h (cutlassGetStatusString), which vLLM and SGLang raise as it is: a CUTLASS kernel that failed.
- vllm/v1/engine/core.py and vllm/engine/llm_engine.py: the engine with its configuration; entrypoints: the version.
- vllm/model_executor/kernels/linear/__init__.py: the kernel of linear layers ("Selected", in earlier ones "Using");
  layers/fused_moe/oracle/fp8.py: that of the experts.
- vllm/model_executor/layers/quantization/utils/marlin_utils_fp8.py, and SGLang's file of that name: weight-only FP8.
- fp8_utils.py and fused_moe.py of vLLM, fp8_kernel.py and the triton_utils of SGLang: kernels without a tuned file.
- vllm/config/vllm.py: eager mode; vllm/v1/worker/gpu_model_runner.py and gpu/model_runner.py: CUDA graphs.
- vllm/platforms/cuda.py, and vllm/attention/selector.py before 0.7: attention; v1/attention/backends/flash_attn.py.
- vllm/model_executor/layers/quantization/kv_cache.py; model_runner.py of SGLang: the KV cache and its scales.
- vllm's jit_monitor.py: kernels that are compiled while requests are served.
- sglang/srt/server_args.py: SGLang's arguments, what they default to and what turns CUDA graphs off.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from fp8doctor.checks.serving.facts import Serving
from fp8doctor.pasted import Pasted
from fp8doctor.registry import reader

Found = dict[str, Any]
# A configuration that a terminal broke into lines is put together again: so many lines, so many characters.
WRAPPED_LINES = 16
MAX_CHARACTERS = 20_000
MAX_JOINS = 100
# Of what is listed, so much is kept.
MAX_KEPT = 12

_NEW_LINE_OF_LOG = re.compile(r"\s*(\(|\[|INFO\b|WARNING\b|ERROR\b|DEBUG\b|Loading |Capturing |$)")
# Where a line of vLLM's log begins to speak: after file and number, "[cuda.py:334]", earlier "selector.py:116]".
_SAYS = r"\w\.py:\d+\]\s+"
_ENGINE = re.compile(r"LLM engine \(v([\w.+-]{1,60})\) with config: ")
_ARGUMENTS = re.compile(r"\bserver_args=ServerArgs\(")
_SERVER = re.compile(r"vLLM API server version (\d[\w.+-]{0,60})")
_KERNEL = re.compile(r"(?:Selected|Using) (\w{1,80}LinearKernel|\w{1,80}ScaledMMKernel) for (\w{1,80})")
_EXPERTS = re.compile(r"Using '?([A-Z][\w ]{1,40}?)'? Fp8 MoE backend")
_CONFIG_FILE = re.compile(r"([EN]=\d[^/\\']{0,200}?\.json)")
# "Using TRITON backend for Unquantized MoE" is another choice.
_CHOSEN = r" (?:attention backend|backend(?=\.| out of| on V1|\s*$))"
_BACKEND = re.compile(_SAYS + r"Using (?:AttentionBackendEnum\.)?([A-Z][A-Z0-9_]{2,40})" + _CHOSEN)
_BACKEND_IN_WORDS = re.compile(_SAYS + r"Using (XFormers|Flash Attention|FlashInfer|Triton|FlexAttention)" + _CHOSEN)
_DEFAULT_BACKEND = re.compile(r"Attention backend not (?:explicitly )?specified\. Use (\w{1,40}) backend by default")
_FLASH_ATTENTION = re.compile(r"Using FlashAttention version (\d)\b")
_NO_FLASH_ATTENTION = re.compile(r"Cannot use FlashAttention(?:-2)? backend (?:for|due to) ([\w .-]{1,60})")
_KV_CACHE = re.compile(r"Using (\w{1,30}) data type to store kv cache")
_KV_CACHE_OF_SGLANG = re.compile(r"(?:Using KV cache dtype|KV Cache is allocated\. dtype): torch\.(\w{1,30})")
_LOADED = re.compile(r"Load weight end\.[^\n]{0,120}?\b(quant|dtype)=(?:torch\.)?([\w-]{1,40})")
_COMPILED = re.compile(r"kernel JIT compilation during inference: (\w{1,80})")
_GRAPHS_OFF = re.compile(r"(?i)cuda graph is disabled because (?:of )?([^.]{1,80})")

# Publishers write how it was quantised behind it; "qwen-fp8-converted-bf16" is no FP8 any more.
_NAMED_FP8 = re.compile(r"[-_.]fp8([-_.](dynamic|block|kv))?$", re.IGNORECASE)


def _field(text: str, name: str) -> str | None:
    """The value of `name=` in a printed configuration, without quotes; None if it is not there."""
    found = re.search(rf"\b{name}=['\"]?([^'\",\s)]{{0,300}})", text)
    return found[1] if found else None


def _of_vllm(found: Found, text: str, match: re.Match[str]) -> None:
    found.update(engine="vllm", version=match[1])
    if (method := _field(text, "quantization")) is not None:
        found.update(quantization=_named(method), quantization_resolved=True)
    _common(found, text, model="model", parallel="tensor_parallel_size")
    if (eager := _field(text, "enforce_eager")) in ("True", "False"):
        found["enforce_eager"] = eager == "True"


def _of_sglang(found: Found, text: str, match: re.Match[str]) -> None:
    found["engine"] = "sglang"
    # None here leaves the choice to the checkpoint; what came of it stands where the weights were loaded.
    if (method := _field(text, "quantization")) not in (None, "None"):
        found.update(quantization=method, quantization_resolved=False)
    _common(found, text, model="model_path", parallel="tp_size")
    if _field(text, "disable_cuda_graph") == "True":
        found.update(cuda_graphs=False, cuda_graphs_off_because="disable_cuda_graph=True")
    if (backend := _field(text, "attention_backend")) not in (None, "None"):
        found["attention_backend"] = backend


def _common(found: Found, text: str, model: str, parallel: str) -> None:
    if name := _field(text, model):
        last = name.rstrip("/").rpartition("/")[2]
        found["model_named_fp8"] = _NAMED_FP8.search(last) is not None
    if (size := _field(text, parallel)) and size.isdigit():
        found["tensor_parallel_size"] = int(size[:6])
    for key in ("dtype", "kv_cache_dtype"):
        if (kind := _field(text, key)) not in (None, "auto"):
            found[key] = str(kind).removeprefix("torch.")


def _named(method: str) -> str:
    return "none" if method == "None" else method


def _keep(found: Found, key: str, value: str) -> None:
    known = found.setdefault(key, [])
    if value not in known and len(known) < MAX_KEPT:
        known.append(value)


def _kernel(found: Found, text: str, match: re.Match[str]) -> None:
    _keep(found, "linear_kernels", f"{match[1]} for {match[2]}")
    # Of FP8, MXFP8 and FP8 stored for a 16-bit product; Marlin's other kernels are for 4-bit weights.
    if re.search(r"(?i)marlin(mx)?fp8|w8a16fp8", match[1]):
        found["weight_only"] = True


def _experts(found: Found, text: str, match: re.Match[str]) -> None:
    _keep(found, "moe_backends", match[1])
    if match[1] == "MARLIN":
        found["weight_only"] = True


def _missing(found: Found, text: str, match: re.Match[str]) -> None:
    _keep(found, "missing_configs", match[1])


def _put(key: str, change: Callable[[str], Any] = str) -> Callable[[Found, str, re.Match[str]], None]:
    def put(found: Found, text: str, match: re.Match[str]) -> None:
        found[key] = change(match[1])

    return put


def _loaded(found: Found, text: str, match: re.Match[str]) -> None:
    found["engine"] = "sglang"
    if match[1] == "quant":
        found.update(quantization=match[2], quantization_resolved=True)
    else:
        found["dtype"] = match[2]


def _kv_cache_of_sglang(found: Found, text: str, match: re.Match[str]) -> None:
    found.update(engine="sglang", kv_cache_dtype=match[1])


def _default_backend(found: Found, text: str, match: re.Match[str]) -> None:
    found.update(engine="sglang", attention_backend=match[1])


def _compiled(found: Found, text: str, match: re.Match[str]) -> None:
    _keep(found, "compiled_while_serving", match[1])


def _graphs_off(found: Found, text: str, match: re.Match[str]) -> None:
    found.update(cuda_graphs=False, cuda_graphs_off_because=match[1].strip())


# A line that holds the words on the left is read by the expression on the right: most lines cost a search for words.
_READ: tuple[tuple[str, re.Pattern[str], Callable[[Found, str, re.Match[str]], None]], ...] = (
    ("LLM engine (v", _ENGINE, _of_vllm),
    ("server_args=ServerArgs(", _ARGUMENTS, _of_sglang),
    ("vLLM API server version", _SERVER, lambda found, text, match: found.update(engine="vllm", version=match[1])),
    ("Kernel for ", _KERNEL, _kernel),
    ("Fp8 MoE backend", _EXPERTS, _experts),
    ("Performance might be sub-optimal!", _CONFIG_FILE, _missing),
    (" backend", _BACKEND, _put("attention_backend")),
    (" backend", _BACKEND_IN_WORDS, _put("attention_backend")),
    ("Attention backend not ", _DEFAULT_BACKEND, _default_backend),
    ("Using FlashAttention version", _FLASH_ATTENTION, _put("flash_attention", int)),
    ("Cannot use FlashAttention", _NO_FLASH_ATTENTION, _put("flash_attention_refused", lambda why: why.strip(" ."))),
    ("data type to store kv cache", _KV_CACHE, _put("kv_cache_dtype")),
    ("KV ", _KV_CACHE_OF_SGLANG, _kv_cache_of_sglang),
    ("Load weight end.", _LOADED, _loaded),
    ("kernel JIT compilation during inference", _COMPILED, _compiled),
    ("uda graph is disabled because", _GRAPHS_OFF, _graphs_off),
)
# Lines that are said word for word, and what they say.
_SAID: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("Your GPU does not have native support for FP8 computation", {"weight_only": True}),
    ("Your GPU does not have native support for FP4 computation", {"fp4_weight_only": True}),
    ("Error Internal", {"cutlass_internal_error": True}),
    ("Enforce eager set, ", {"engine": "vllm", "enforce_eager": True}),
    ("Cudagraph is disabled under eager mode", {"engine": "vllm", "enforce_eager": True}),
    (
        "Skipping CUDA graph capture. ",
        {"engine": "vllm", "cuda_graphs": False, "cuda_graphs_off_because": "cudagraph_mode is NONE"},
    ),
    ("Graph capturing finished in ", {"engine": "vllm", "cuda_graphs": True}),
    ("Capture cuda graph end. ", {"engine": "sglang", "cuda_graphs": True}),
    ("decode CUDA graph end. ", {"engine": "sglang", "cuda_graphs": True}),
    ("Using KV cache scaling factor 1.0 for fp8_e4m3", {"engine": "vllm", "kv_scales_missing": True}),
    ("Using FP8 KV cache but no scaling factors", {"kv_scales_missing": True}),
)
_LISTS = ("linear_kernels", "moe_backends", "missing_configs", "compiled_while_serving")


@reader
def read(pasted: Pasted) -> Serving | None:
    """What the start-up log in this text says; None where there is none."""
    found: Found = {}
    joins = 0
    for number, line in enumerate(pasted.lines):
        text = line[:MAX_CHARACTERS]
        for words, said in _SAID:
            if words in text:
                found.update(said)
        for words, pattern, take in _READ:
            if words not in text:
                continue
            match = pattern.search(text)
            if take in _BROKEN and joins < MAX_JOINS and not _is_whole(take, match, text):
                joins += 1
                text = _joined(pasted.lines, number)
                match = pattern.search(text)
            if match:
                take(found, text[match.end() :] if take in _CONFIGURATIONS else text, match)
    if not found:
        return None
    found.update({key: tuple(found[key]) for key in _LISTS if key in found})
    return Serving(**found)


_CONFIGURATIONS = (_of_vllm, _of_sglang)
# What may go on in the next lines, where a terminal or a forum broke it.
_BROKEN = (*_CONFIGURATIONS, _missing)


def _is_whole(take: Callable[..., None], match: re.Match[str] | None, text: str) -> bool:
    """Whether a line says all that is wanted of it, so that the next ones need not be joined to it."""
    return match is not None and (take is _missing or "kv_cache_dtype=" in text)


def _joined(lines: tuple[str, ...], number: int) -> str:
    """The line at `number` with those that go on with it; a line that begins a message of its own ends it."""
    parts = [lines[number]]
    for line in lines[number + 1 : number + WRAPPED_LINES]:
        if _NEW_LINE_OF_LOG.match(line):
            break
        parts.append(line)
    return "".join(parts)[:MAX_CHARACTERS]
