"""Which configurations compete for the linear layer, and which is the best known where nothing was timed?"""

from __future__ import annotations

from functools import cache

from fp8doctor.checks.gpu.facts import FIRST_FP8, Gpus, capability
from fp8doctor.checks.gpu.names import capability_of
from fp8doctor.checks.libraries.facts import Libraries
from fp8doctor.checks.linear.cases import cases_of, waits_for_host
from fp8doctor.checks.linear.facts import Case, Linear
from fp8doctor.checks.torch_build.facts import TorchBuild
from fp8doctor.checks.torch_build.hardware import release
from fp8doctor.model import Candidate
from fp8doctor.registry import candidates

TASK = "linear"
# Static scales are fast and need calibration on the user's data: shown as a figure, never advised unseen.
NOT_ADVISED = ("static",)
# The first torch with which torchao scales row by row.
ROWWISE = (2, 5)

_IMPORT = "import torchao.quantization as q"
_DYNAMIC = """Config = q.Float8DynamicActivationFloat8WeightConfig
# False: with torchao's own Inductor settings compiling takes ten times as long
q.quantize_(model, Config(granularity=q.{granularity}(), set_inductor_config=False))"""
_NAMES = {
    "torch-bf16": "BF16",
    "torch-fp8-rowwise": "FP8 row-wise (torch._scaled_mm)",
    "torch-fp8-tensorwise": "FP8 tensor-wise (torch._scaled_mm)",
    "torch-fp8-blockwise": "FP8 in 1x128 blocks (torch scaled_mm)",
    "torch-fp8-weightonly": "FP8 weight-only",
    "torchao-fp8-rowwise": "torchao float8 row-wise",
    "torchao-fp8-tensorwise": "torchao float8 tensor-wise",
    "torchao-fp8-weightonly": "torchao float8 weight-only",
    "torchao-int8-dynamic": "torchao int8 (activation and weight)",
}
_SUFFIXES = {"compile": "torch.compile", "cudagraph": "CUDA graph"}


@cache
def label(config: str) -> str:
    """A configuration's slug in words: "torchao float8 row-wise + torch.compile"."""
    base, *suffixes = config.split("+")
    return " + ".join([_NAMES.get(base, base), *(_SUFFIXES.get(s, s) for s in suffixes)])


@cache
def how(config: str, waits_up_to: int | None = None) -> str:
    """Code or a command that gets a configuration; `waits_up_to` as in `_candidate`."""
    base, *suffixes = config.split("+")
    lines = []
    if "fp8" in base and base != "torch-fp8-blockwise":
        granularity = "PerRow" if "rowwise" in base else "PerTensor"
        quantise = (
            "q.quantize_(model, q.Float8WeightOnlyConfig(set_inductor_config=False))"
            if "weightonly" in base
            else _DYNAMIC
        )
        lines += [_IMPORT, quantise.format(granularity=granularity)]
        if base.startswith("torch-"):
            lines.insert(0, "# pip install torchao (measured here: the same steps by hand)")
    elif base == "torch-fp8-blockwise":
        lines += ["# torch.nn.functional.scaled_mm with ScalingType.BlockWise1x128 and BlockWise128x128"]
    elif base == "torchao-int8-dynamic":
        lines += [_IMPORT, "q.quantize_(model, q.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))"]
        # _int_mm_out_cuda in PyTorch's Blas.cpp; uncompiled, torchao then multiplies in FP32 (torchao/kernel/intmm.py).
        lines.append("# leave out layers that are called with 16 tokens or fewer: torch._int_mm refuses them")
    if "cudagraph" in suffixes:
        lines.append(f"model = torch.compile(model, {_MODE})  # CUDA graphs" if "compile" in suffixes else _GRAPH)
    elif "compile" in suffixes:
        lines.append("model = torch.compile(model)")
        if waits_up_to:
            lines.append(f"# up to {waits_up_to:,} tokens also {_MODE} (LIN004)")
    return "\n".join(lines) or "model.to(torch.bfloat16)"


_MODE = 'mode="reduce-overhead"'
_GRAPH = "step = torch.cuda.make_graphed_callables(model, (sample_input,))"


@candidates
def timed(linear: Linear) -> list[Candidate]:
    """Every timed layer; the hand-written torch paths step aside where torchao's own were timed."""
    seen = [c for c in linear.cases or () if c.outcome == "ok" and (c.device_us or c.call_us)]
    layers = [c for c in seen if c.kind == "layer" and c.m and c.k and c.n and cases_of(linear).compared((c.k, c.n))]
    with_torchao = {(c.m, c.k, c.n) for c in layers if (c.config or "").startswith("torchao-fp8")}
    waiting: dict[str | None, int] = {}
    for case in layers:
        if waits_for_host(case):
            waiting[case.config] = max(case.m or 0, waiting.get(case.config, 0))
    return [
        _candidate(case, waiting.get(case.config))
        for case in layers
        if not any(word in (case.config or "") for word in NOT_ADVISED)
        and not ((case.config or "").startswith("torch-fp8") and (case.m, case.k, case.n) in with_torchao)
    ]


def _candidate(case: Case, waits_up_to: int | None) -> Candidate:
    """A timed case as a candidate; `waits_up_to` is the most tokens with which it waited for the host.

    A compiled model, or a CUDA graph, pays the host's time once for all its layers, so there the device's time counts.
    """
    config = case.config or ""
    baseline = config.startswith("torch-bf16")
    shared = "+" in config
    return Candidate(
        task=TASK,
        config=config,
        label=label(config),
        format=next((name for name in ("fp8", "int8") if name in config), "bf16"),
        how=how(config, waits_up_to if shared else None),
        shape={"k": case.k or 0, "n": case.n or 0},
        sweep=case.m,
        device_us=case.device_us,
        call_us=case.call_us,
        waits_for_host=waits_for_host(case) and not shared,
        error=case.relative_error,
        error_limit=case.relative_error_limit,
        requires=(config.partition("-")[0],),
        baseline=baseline,
    )


@candidates
def known(gpus: Gpus, linear: Linear | None, libraries: Libraries | None, build: TorchBuild | None) -> list[Candidate]:
    """What is known to be best for an architecture; it counts only where nothing was timed.

    Sources: hardware support by compute capability (Transformer Engine, pytorch/quantization.py); which scaling
    cuBLASLt does itself (PyTorch, ScaledBlas.cpp); torchao's own advice to compile
    (docs/source/eager_tutorials/pretraining.rst), and from which torch on it scales row by row (its README).
    """
    if not gpus.gpus or (linear is not None and any(c.device_us for c in linear.cases or ())):
        return []
    kinds = {capability_of(gpu) for gpu in gpus.gpus}
    if len(kinds) != 1:
        return []
    config, when = _known_for(kinds.pop())
    if config is None or ("rowwise" in config and (release(build.version if build else None) or ROWWISE) < ROWWISE):
        return []
    listed = libraries is not None and libraries.version("torchao") is not None
    install = [] if listed or not config.startswith("torchao") else ["# pip install torchao, if it is not there"]
    return [
        Candidate(
            task=TASK,
            config=config,
            label=label(config),
            format="fp8" if "fp8" in config else "bf16",
            how="\n".join([*install, how(config)]),
            basis="known",
            when=when,
            baseline="fp8" not in config,
        )
    ]


def _known_for(compute_capability: str | None) -> tuple[str | None, str]:
    large = "large layers and thousands of tokens"
    if compute_capability in ("gfx942", "gfx950", "gfx1200", "gfx1201"):
        return "torchao-fp8-tensorwise+compile", large
    found = capability(compute_capability)
    if found is None:
        return None, ""
    if found < (8, 0):
        return None, ""
    if found < FIRST_FP8:
        return "torch-bf16+compile", "everywhere: this GPU has no FP8 compute"
    # Only on 9.x does cuBLASLt scale row by row; elsewhere PyTorch takes CUTLASS (ScaledBlas.cpp).
    return ("torchao-fp8-rowwise+compile" if found[0] == 9 else "torchao-fp8-tensorwise+compile"), large
