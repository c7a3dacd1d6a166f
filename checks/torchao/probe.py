"""Look for torchao, import it, see whether its kernels came along, and quantise a linear layer in several ways."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import logging
import os
import sys
import time
import traceback
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from fp8doctor.checks.torch_build.numerics import ERROR_LIMITS, FORMAT_ERRORS, relative_error
from fp8doctor.checks.torchao import coverage, searching
from fp8doctor.checks.torchao.facts import (
    CONVERTING,
    IMPORTING,
    IMPORTING_TORCH,
    IMPORTING_WITHOUT_KERNELS,
    SEARCHING,
    PackageSearch,
    QuantizedLinear,
    Torchao,
)
from fp8doctor.model import Request
from fp8doctor.plain import from_plain
from fp8doctor.raised import in_words
from fp8doctor.registry import probe

SWITCH = "TORCHAO_FORCE_SKIP_LOADING_SO_FILES"
# Multiples of 16: torchao leaves a weight of another size as it is (_fp8_mm_compat in quant_api.py).
TOKENS, IN_FEATURES, OUT_FEATURES = 256, 512, 256


@dataclass(frozen=True)
class _Known:
    """A way to quantise: the configuration's class, its granularity, its format, and whether it multiplies in FP8."""

    name: str
    config: str
    granularity: str | None
    format: str
    fp8_product: bool


WAYS = (
    _Known("dynamic-rowwise", "Float8DynamicActivationFloat8WeightConfig", "PerRow", "e4m3", True),
    _Known("dynamic-tensorwise", "Float8DynamicActivationFloat8WeightConfig", "PerTensor", "e4m3", True),
    _Known("weight-only", "Float8WeightOnlyConfig", None, "e4m3-one-operand", False),
)


@probe(runs_in="target", timeout_s=90)
def gather(request: Request) -> Iterator[Torchao]:
    """Importing torchao and quantising a linear layer with it."""
    if request.so_far is None:
        seen = _installed()
    else:
        seen = _after_crash(from_plain(Torchao, request.so_far), request.so_far_ended)
    yield seen
    if not seen.installed or seen.torch_error or (seen.import_error and seen.imports_without_kernels is False):
        return
    seen = yield from _import(seen)
    if request.mode != "quick" and (seen.import_ok or seen.imports_without_kernels):
        seen = yield from _try_ways(seen, request.gpu)
        seen = yield from _convert_odd(seen, request.gpu)
        yield from _count_searches(seen)


def _installed() -> Torchao:
    try:
        version = metadata.version("torchao")
    except metadata.PackageNotFoundError:
        version = None
    spec = importlib.util.find_spec("torchao")
    # A folder without code, which an uninstallation leaves behind, is no package.
    present = version is not None or (spec is not None and spec.origin is not None)
    return Torchao(installed=present, version=version, kernels_switched_off=os.environ.get(SWITCH) == "1")


def _after_crash(seen: Torchao, ended: str | None) -> Torchao:
    """Put down what ended the child before this one, so that it is not tried again."""
    said = f"the process ended: {ended}"
    if seen.attempting == IMPORTING_TORCH:
        return replace(seen, attempting=None, torch_error=said)
    if seen.attempting == IMPORTING:
        return replace(seen, attempting=None, import_ok=False, import_error=said)
    if seen.attempting == IMPORTING_WITHOUT_KERNELS:
        return replace(seen, attempting=None, imports_without_kernels=False)
    if seen.attempting == CONVERTING:
        return replace(seen, attempting=None, odd_linears=())
    if seen.attempting == SEARCHING:
        return replace(seen, attempting=None, searches=(PackageSearch(error=said),))
    linears = tuple(
        replace(linear, forward_ok=False, error=said) if linear.config == seen.attempting else linear
        for linear in seen.linears or ()
    )
    return replace(seen, attempting=None, linears=linears if seen.linears is not None else None)


def _import(seen: Torchao) -> Generator[Torchao, None, Torchao]:
    seen = replace(seen, attempting=IMPORTING_TORCH)
    yield seen
    try:
        torch = importlib.import_module("torch")
    except BaseException as error:
        seen = replace(seen, attempting=None, torch_error=in_words(error))
        yield seen
        return seen
    without = seen.import_error is not None
    if without:
        # Importing it ended the process. If it imports without its kernels, they were the reason.
        torch.ops.load_library = _refuse
    seen = replace(
        seen,
        attempting=IMPORTING_WITHOUT_KERNELS if without else IMPORTING,
        torch_version=str(torch.__version__),
    )
    yield seen
    heard = _Ear()
    logger = logging.getLogger("torchao")
    logger.addHandler(heard)
    logger.setLevel(logging.DEBUG)
    started = time.monotonic()
    try:
        importlib.import_module("torchao")
        quantization = importlib.import_module("torchao.quantization")
    except BaseException as error:  # whatever it raises, SystemExit included, is its answer
        traceback.print_exc()
        failed = (
            {"imports_without_kernels": False} if without else {"import_ok": False, "import_error": in_words(error)}
        )
        seen = replace(seen, attempting=None, **failed)
        yield seen
        return seen
    took_s = round(time.monotonic() - started, 2)
    seen = replace(
        seen,
        attempting=None,
        configs=tuple(name for name in dir(quantization) if name.startswith("Float8") and name.endswith("Config")),
    )
    if without:
        seen = replace(seen, imports_without_kernels=True)
    elif seen.import_ok is None:
        seen = replace(seen, import_ok=True, import_s=took_s, **_kernels(torch, heard.said))
    yield seen
    return seen


def _refuse(path: str) -> None:
    raise OSError(f"{path} is not loaded: it ended the process before")


class _Ear(logging.Handler):
    """Hears what torchao logs of its kernels while it is imported."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message if it is about kernels."""
        message = record.getMessage()
        if "cpp extensions" in message or "Failed to load" in message:
            self.said.append(message[:1000])


def _kernels(torch: Any, said: list[str]) -> dict[str, Any]:
    """Which libraries of kernels came with torchao, which torch has loaded, and what is wrong with the others."""
    files = sorted(Path(importlib.import_module("torchao").__file__ or "").parent.glob("_C*.so"))
    loaded = {Path(path) for path in torch.ops.loaded_libraries}
    # What torchao logs leaves out the loader's own words; only libraries that it tried are tried again.
    tried = [file for file in files if file not in loaded and any(file.name in message for message in said)]
    return {
        "kernels": tuple(file.name for file in files),
        "kernels_loaded": tuple(file.name for file in files if file in loaded),
        "kernel_errors": tuple(filter(None, map(_loader_error, tried))),
        "kernels_message": said[0] if said else None,
    }


def _loader_error(file: Path) -> str | None:
    try:
        ctypes.CDLL(str(file))
    except OSError as error:
        return str(error)[:1000]
    return None


def _device(gpu: int) -> str:
    import torch

    return f"cuda:{gpu}" if torch.cuda.is_available() else "cpu"


def _try_ways(seen: Torchao, gpu: int) -> Generator[Torchao, None, Torchao]:
    import torch

    device = _device(gpu)
    # Weight-only needs no FP8 unit: it runs wherever torch does.
    ways = [way for way in WAYS if way.config in (seen.configs or ()) and (device != "cpu" or not way.fp8_product)]
    if seen.linears is None:
        seen = replace(seen, linears=tuple(QuantizedLinear(config=way.name) for way in ways))
    for place, way in enumerate(ways):
        linears = seen.linears or ()
        if linears[place].forward_ok is not None:
            continue
        yield replace(seen, attempting=way.name)
        seen = replace(seen, linears=(*linears[:place], _try(way, device), *linears[place + 1 :]))
        yield seen
        if device != "cpu":
            # Raises if a kernel has poisoned the CUDA context; a fresh child then goes on with the rest.
            torch.cuda.synchronize(device)
    return seen


def _convert_odd(seen: Torchao, gpu: int) -> Generator[Torchao, None, Torchao]:
    """See what becomes of layers that FP8 cannot take."""
    if seen.odd_linears is None:
        yield replace(seen, attempting=CONVERTING)
        seen = replace(seen, odd_linears=coverage.observe(_device(gpu), seen.configs or ()))
        yield seen
    return seen


def _count_searches(seen: Torchao) -> Iterator[Torchao]:
    """See what each call of a layer searches for in vain."""
    if seen.searches is None:
        seen = replace(seen, mslk_installed=searching.installed(searching.MSLK), path_entries=len(sys.path))
        yield replace(seen, attempting=SEARCHING)
        yield replace(seen, searches=() if seen.mslk_installed else searching.observe())


def _try(way: _Known, device: str) -> QuantizedLinear:
    import torch

    tried = QuantizedLinear(
        config=way.name,
        relative_error_expected=FORMAT_ERRORS[way.format],
        relative_error_limit=ERROR_LIMITS[way.format],
    )
    try:
        model, x, reference = _quantised(way, device)
        weight = model[0].weight
        tried = replace(tried, weight_type=type(weight).__name__, weight_is_fp8=_holds_fp8(weight))
        with torch.no_grad():
            result = model(x)
        finite = bool(torch.isfinite(result).all())
        wrong_by = relative_error(result, reference)
    except Exception as error:
        traceback.print_exc()
        return replace(tried, forward_ok=False, error=in_words(error))
    return replace(tried, forward_ok=True, finite=finite, relative_error=round(wrong_by, 5) if finite else None)


def _quantised(way: _Known, device: str) -> tuple[Any, Any, Any]:
    """A quantised linear layer, a batch for it, and the exact product of that batch and the weight as it was."""
    import torch
    from torchao import quantization
    from torchao.quantization import granularity

    generator = torch.Generator(device=device).manual_seed(0)
    random = {"device": device, "dtype": torch.bfloat16, "generator": generator}
    linear = torch.nn.Linear(IN_FEATURES, OUT_FEATURES, bias=False, device=device, dtype=torch.bfloat16)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(OUT_FEATURES, IN_FEATURES, **random) / IN_FEATURES**0.5)
    x = torch.randn(TOKENS, IN_FEATURES, **random)
    reference = x.double() @ linear.weight.detach().double().T
    options = {"granularity": getattr(granularity, way.granularity)()} if way.granularity else {}
    model = torch.nn.Sequential(linear)
    quantization.quantize_(model, getattr(quantization, way.config)(**options))
    return model, x, reference


def _holds_fp8(tensor: Any) -> bool:
    """Whether an FP8 tensor is inside `tensor`, through as many wrappers as this version of torchao uses."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return "float8" in str(tensor.dtype)
    return any(_holds_fp8(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
