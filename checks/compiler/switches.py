"""Which environment variables switch torch.compile off, or make it or its kernels slow?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Switch:
    """A variable, when it acts, what it does, and where that is written."""

    variable: str
    acts: Callable[[str], bool]
    kind: Literal["off", "hides-errors", "slow-kernels", "slow-compile"]
    effect: str
    source: str


def _is_one(value: str) -> bool:
    return value == "1"


def _is_zero(value: str) -> bool:
    return value == "0"


def _is_set(value: str) -> bool:
    return value != ""


def _is_set_and_not_zero(value: str) -> bool:
    # How torch/utils/_config_module.py reads a variable that forces a setting.
    return value not in ("", "0")


def _is_true_for_triton(value: str) -> bool:
    # `getBoolEnv` in triton/Tools/Sys/GetEnv.hpp.
    return value.lower() in ("1", "true", "on")


# torch: read in the torch 2.13 sources; triton: in those of 3.2 to 3.9.
SWITCHES = (
    Switch(
        "TORCH_COMPILE_DISABLE",
        _is_one,
        "off",
        "torch.compile returns the function as it is: everything runs eagerly, and nothing says so",
        "torch/_dynamo/config.py, `disable`",
    ),
    Switch(
        "TORCHDYNAMO_DISABLE",
        _is_one,
        "off",
        "torch.compile returns the function as it is: everything runs eagerly, and nothing says so",
        "torch/_dynamo/eval_frame.py, `_optimize`",
    ),
    Switch(
        "TORCHDYNAMO_SUPPRESS_ERRORS",
        _is_set,
        "hides-errors",
        "what cannot be compiled runs eagerly instead of failing; any value does that, 0 too",
        "torch/_dynamo/config.py, `suppress_errors = bool(os.environ.get(...))`",
    ),
    Switch(
        "TRITON_INTERPRET",
        _is_true_for_triton,
        "slow-kernels",
        "Triton kernels are interpreted on the CPU instead of compiled for the GPU",
        "triton/knobs.py, `runtime.interpret`; Triton's README, tips for hacking",
    ),
    Switch(
        "DISABLE_PTXAS_OPT",
        _is_true_for_triton,
        "slow-kernels",
        "ptxas compiles every Triton kernel with --opt-level 0",
        "triton/backends/nvidia/compiler.py, `make_cubin`",
    ),
    Switch(
        "TORCHINDUCTOR_NAN_ASSERTS",
        _is_one,
        "slow-kernels",
        "each compiled graph looks for NaN and infinity in its inputs at every call, and waits for the GPU to do so",
        "torch/_inductor/codegen/wrapper.py, `codegen_input_nan_asserts`",
    ),
    Switch(
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES",
        _is_set_and_not_zero,
        "slow-compile",
        "nothing compiled is kept: every process compiles everything anew",
        "torch/compiler/config.py, `force_disable_caches`",
    ),
    Switch(
        "TORCH_COMPILE_FORCE_DISABLE_CACHES",
        _is_set_and_not_zero,
        "slow-compile",
        "nothing compiled is kept: every process compiles everything anew",
        "torch/compiler/config.py, `force_disable_caches`",
    ),
    Switch(
        "TORCHINDUCTOR_FX_GRAPH_CACHE",
        _is_zero,
        "slow-compile",
        "compiled graphs are not kept: every process generates its code anew",
        "torch/_inductor/config.py, `fx_graph_cache`",
    ),
    Switch(
        "TRITON_ALWAYS_COMPILE",
        _is_true_for_triton,
        "slow-compile",
        "Triton compiles each kernel anew and does not look into its cache",
        "triton/knobs.py, `compilation.always_compile`",
    ),
    Switch(
        "TORCHINDUCTOR_COMPILE_THREADS",
        _is_one,
        "slow-compile",
        "kernels are compiled one after another instead of by up to 32 processes",
        "torch/_inductor/config.py, `decide_compile_threads`",
    ),
)


def acting(variables: dict[str, str], kind: str) -> list[tuple[Switch, str]]:
    """The switches of this kind that are set so that they act, with their values."""
    return [
        (switch, variables[switch.variable])
        for switch in SWITCHES
        if switch.kind == kind and switch.variable in variables and switch.acts(variables[switch.variable])
    ]
