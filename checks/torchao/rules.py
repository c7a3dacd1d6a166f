"""What is wrong with this torchao, and what does it say when it cannot work?"""

from __future__ import annotations

import re

from fp8doctor.checks.gpu import Gpus
from fp8doctor.checks.gpu.facts import capability
from fp8doctor.checks.libraries.importing import hung, patience
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.checks.torchao.facts import (
    ABOUT,
    ABSENT,
    IMPORTING,
    IMPORTING_WITHOUT_KERNELS,
    QuantizedLinear,
    Torchao,
)
from fp8doctor.model import (
    Action,
    ErrorText,
    Evidence,
    Finding,
    NotApplicable,
    NotObservedError,
    ProbeRun,
    Severity,
    observed,
)
from fp8doctor.registry import rule

# The torchao whose kernels were built for a torch. Sources: pytorch/ao#2919 (0.12 to 0.14),
# axolotl-ai-cloud/axolotl#3432 (0.16), torchao/__init__.py of 0.17.0, which wants torch 2.11 or newer.
PAIRS = (((2, 11), "0.17.0"), ((2, 10), "0.16.0"), ((2, 9), "0.14.1"), ((2, 8), "0.13.0"), ((2, 5), "0.12.0"))

# torchao/quantization/quant_api.py: what it says on a GPU without FP8 tensor cores.
NO_FP8_HARDWARE = r"Float8 dynamic (activation )?quantization (is only supported on CUDA|requires CUDA compute cap)"

# Literal texts of torchao/__init__.py and quantization/quant_api.py, 0.13.0 to 0.18.0.
ERROR_TEXTS = (
    ErrorText(
        r"Skipping import of cpp extensions(?! due to TORCHAO_FORCE)",
        "AO001",
        "Take the torchao that was built for this torch (table: https://github.com/pytorch/ao/issues/2919); dense FP8"
        " layers work without these kernels.",
    ),
    ErrorText(
        r"Failed to load \S*torchao\S*_C\S*\.so:",
        "AO001",
        "Take the torchao that was built for this torch (table: https://github.com/pytorch/ao/issues/2919); dense FP8"
        " layers work without these kernels.",
    ),
    ErrorText(NO_FP8_HARDWARE, "AO007", "This GPU has no FP8 tensor cores: use BF16, or INT8."),
    ErrorText(
        r"PerRow quantization only works for bfloat16 precision input weight",
        "AO008",
        "Convert the model to bfloat16 before quantising it, or take PerTensor().",
    ),
)


def _pair(torch_version: str | None) -> str | None:
    """The torchao that goes with a torch; None where no source says so."""
    found = re.match(r"(\d+)\.(\d+)", torch_version or "")
    if not found:
        return None
    version = (int(found[1]), int(found[2]))
    return next((ao for least, ao in PAIRS if version >= least), None)


def match(torch_version: str | None, installed: str | None = None) -> Action:
    """What to install beside this torch; over what is installed, if that is the right version and broken."""
    wanted = _pair(torch_version)
    if wanted is None:
        return Action("Take the pair of versions from https://github.com/pytorch/ao/issues/2919")
    again = "--force-reinstall " if installed is not None and installed.partition("+")[0] == wanted else ""
    return Action(
        f"Take the torchao whose kernels were built for torch {torch_version}",
        f"python -m pip install {again}--no-deps torchao=={wanted}",
    )


def _absent(run: ProbeRun[Torchao]) -> bool:
    return run.facts is not None and run.facts.installed is False


def import_failure(run: ProbeRun[Torchao]) -> str | None:
    """What importing torchao ended with; None if it succeeded.

    Raises:
        NotObservedError: if it was not seen.
    """
    seen = observed(run.facts, "torchao")
    if seen.import_ok:
        return None
    if seen.import_error is not None:
        return seen.import_error
    if seen.attempting == IMPORTING and run.failed:
        return f"{run.outcome}: {run.detail}"
    if seen.torch_error is not None:
        raise NotObservedError(f"torchao was not imported, because torch cannot be: {seen.torch_error}")
    raise NotObservedError("importing torchao was not observed")


def _linears(ao: Torchao) -> tuple[QuantizedLinear, ...]:
    tried = tuple(linear for linear in ao.linears or () if linear.forward_ok is not None)
    if not tried:
        raise NotObservedError("quantising a layer with torchao was not observed")
    return tried


@rule("AO001", "torchao-torch-mismatch", Severity.WARNING, scope="box")
def kernels_not_loaded(
    ao: Torchao, torch_build: TorchBuild | None, gpus: Gpus | None
) -> Finding | NotApplicable | None:
    """torchao runs without its compiled kernels.

    What it means: torchao's wheel brings libraries of kernels (`_C*.so`) that were built for certain versions of torch.
    With another one torchao passes them over, with one log line or silently, and goes on.

    Why it costs time: dense FP8 does not need them: `quantize_` with the float8 configurations and float8 training
    multiply with torch's own `_scaled_mm`. What is lost in 0.17 and 0.18: 2:4 sparse FP8 on Hopper (`_C_cutlass_90a`)
    and the CUDA kernel that quantises to MXFP8 on Blackwell (`_C_mxfp8`). It is a warning from compute capability 10.0
    up, a hint below.

    What to do: take the torchao that was built for this torch.

    Sources: torchao/__init__.py 0.9.0 to 0.18.0, quantization/quantize_/workflows/float8, float8 and
    prototype/mx_formats/kernels.py 0.17.0; pytorch/ao#2919.
    """
    if ao.installed is False:
        return ABSENT
    came = observed(ao.kernels, "which kernels torchao brought along")
    missing = [name for name in came if name not in observed(ao.kernels_loaded, "which kernels of torchao were loaded")]
    if not came:
        return NotApplicable("this torchao brought no compiled kernels")
    if not missing:
        return None
    if ao.kernels_switched_off:
        return NotApplicable("TORCHAO_FORCE_SKIP_LOADING_SO_FILES=1 switches its kernels off")
    if torch_build is not None and torch_build.accelerator in ("cpu", "xpu"):
        return NotApplicable(f"this torch is a {torch_build.accelerator} build, and the kernels are for CUDA")
    capabilities = [capability(gpu.compute_capability) for gpu in (gpus.gpus if gpus else None) or ()]
    needs_them = any(found is not None and found >= (10, 0) for found in capabilities)
    said = ((ao.kernels_message,) if ao.kernels_message else ()) + (ao.kernel_errors or ())
    return Finding(
        title="torchao runs without its compiled kernels",
        evidence=(
            Evidence(f"not loaded: {', '.join(missing)}", fact="torchao.kernels_loaded"),
            *(Evidence(f"it said: {text}", fact="torchao.kernels_message") for text in said[:2]),
            Evidence(f"torchao {ao.version} with torch {ao.torch_version}", fact="torchao.version"),
            Evidence("dense FP8 layers do not use these kernels"),
        ),
        actions=(match(ao.torch_version, ao.version),),
        about=ABOUT,
        severity=Severity.WARNING if needs_them else Severity.INFO,
    )


@rule("AO002", "torchao-torch-mismatch", Severity.ERROR, scope="box")
def kernels_end_the_process(run: ProbeRun[Torchao]) -> Finding | NotApplicable | None:
    """Importing torchao ends the process, and its compiled kernels are the reason.

    What it means: loading a library of kernels that was built for another torch aborted Python. A fresh process that
    refused to load these libraries imported the same torchao.

    Why it costs time: every program that imports torchao ends, also one that only looks whether it is there.

    What to do: take the torchao that was built for this torch. TORCHAO_FORCE_SKIP_LOADING_SO_FILES=1 gets recent
    versions to import meanwhile; dense FP8 works so.

    Sources: pytorch/ao#2901, #2919; torchao/__init__.py 0.17.0.
    """
    if _absent(run):
        return ABSENT
    error = import_failure(run)
    seen = run.facts
    if error is None or seen is None:
        return None
    if seen.imports_without_kernels is None and run.failed:
        raise NotObservedError("whether torchao imports without its kernels was not observed")
    if not seen.imports_without_kernels:
        return None
    return Finding(
        title="Loading torchao's kernels comes to no end"
        if hung(error)
        else "Importing torchao ends the process: its kernels were built for another torch",
        evidence=(
            Evidence(f"import torchao: {error}", fact="torchao.import_error"),
            Evidence("without its kernels it imports", fact="torchao.imports_without_kernels"),
            Evidence(f"torchao {seen.version} with torch {seen.torch_version}", fact="torchao.version"),
        ),
        actions=(match(seen.torch_version, seen.version),),
        about=ABOUT,
    )


@rule("AO003", "torchao-import-fails", Severity.ERROR, scope="box", explains=("torch-symbol-missing",))
def import_fails(run: ProbeRun[Torchao]) -> Finding | NotApplicable | None:
    """torchao cannot be imported.

    What it means: importing it raised an error, ended the process or did not end, and not because of its compiled
    kernels. The evidence shows how.

    Why it costs time: nothing of torchao can be used, and programs that look for it (diffusers, transformers) may stop
    with the same error.

    What to do: install it again, in the version that goes with this torch.

    Sources: the import itself; pytorch/ao#2919 for the pairs of versions.
    """
    if _absent(run):
        return ABSENT
    error = import_failure(run)
    if error is None or run.facts is None or run.facts.imports_without_kernels:
        return None
    no_end = hung(error)
    also = run.facts.imports_without_kernels is False or run.facts.attempting == IMPORTING_WITHOUT_KERNELS
    return Finding(
        title="Importing torchao came to no end" if no_end else "torchao cannot be imported",
        evidence=(
            Evidence(f"import torchao: {error}", fact="torchao.import_error"),
            *((Evidence("without its kernels it fails, too", fact="torchao.imports_without_kernels"),) if also else ()),
            Evidence(f"torchao {run.facts.version} with torch {run.facts.torch_version}", fact="torchao.version"),
        ),
        actions=(*([patience("torchao")] if no_end else []), _mend(error, run.facts)),
        about=ABOUT,
        severity=Severity.WARNING if no_end else None,
    )


def _mend(error: str, seen: Torchao) -> Action:
    if "No module named 'torchao" in error and seen.version is not None:
        command = f"python -m pip install --force-reinstall --no-deps torchao=={seen.version}"
        return Action(f"Files of torchao {seen.version} are missing: install it again", command)
    return match(seen.torch_version, seen.version)


@rule("AO004", "fp8-silently-not-applied", Severity.ERROR, scope="box")
def not_applied(ao: Torchao) -> list[Finding | None] | NotApplicable:
    """torchao was asked for FP8 and did not apply it.

    What it means: after `quantize_` the layer's weight holds no FP8 tensor, or the result of a dynamic configuration is
    closer to the exact product than rounding both operands to FP8 allows, so the activation stayed in 16 bits.

    Why it costs time: the model runs in BF16 while its owner believes in FP8.

    What to do: look at the class of the weight after `quantize_`; torchao passes weights over whose dimensions are not
    multiples of 16, without a word. Here both were.

    Sources: _fp8_mm_compat in torchao 0.17.0; FORMAT_ERRORS in checks/torch_build/numerics.py.
    """
    if ao.installed is False:
        return ABSENT
    return [_judge_applied(linear) for linear in _linears(ao)]


def _judge_applied(linear: QuantizedLinear) -> Finding | None:
    what = f"torchao's {linear.config}"
    if linear.weight_is_fp8 is False:
        text = f"{what}: the weight is a {linear.weight_type} and holds no FP8 tensor"
    elif not linear.forward_ok or linear.finite is False:
        return None
    else:
        expected = observed(linear.relative_error_expected, "the error of the format")
        error = observed(linear.relative_error, f"the error of {what}")
        # One operand in e4m3 gives 0.71 of the error of two, BF16 alone 0.05 of it.
        if error > 0.85 * expected:
            return None
        text = f"{what}: relative error {error:.3g}; rounding to its format costs {expected:.3g}"
    return Finding(
        title=f"{what} configuration did not apply FP8",
        evidence=(Evidence(text, fact="torchao.linears"),),
        actions=(
            Action("Install a torchao that goes with this torch, and look at type(layer.weight) after quantize_"),
        ),
        about=ABOUT,
    )


@rule("AO005", "silent-wrong-result", Severity.ERROR, scope="box")
def wrong_result(ao: Torchao) -> list[Finding | None] | NotApplicable:
    """A layer that torchao quantised gives a wrong result.

    What it means: a forward on random normal operands was compared with the exact product of the operands before they
    were quantised. Its error is more than twice what rounding to the format costs by itself, or it is not finite.

    Why it costs time: a fast wrong result is worth nothing.

    What to do: use another configuration, and report the case to pytorch/ao with this evidence.

    Sources: FORMAT_ERRORS in checks/torch_build/numerics.py; huggingface/transformers#47030 for such a case.
    """
    if ao.installed is False:
        return ABSENT
    return [_judge_error(linear) for linear in _linears(ao)]


def _judge_error(linear: QuantizedLinear) -> Finding | None:
    what = f"torchao's {linear.config}"
    if not linear.forward_ok:
        return None
    if linear.finite is False:
        seen = Evidence(f"{what}: the result is not finite", fact="torchao.linears")
    else:
        limit = observed(linear.relative_error_limit, "the error that the format explains")
        error = observed(linear.relative_error, f"the error of {what}")
        if error <= limit:
            return None
        text = f"{what}: relative error {error:.3g}, where the format explains {limit:.3g} at most"
        seen = Evidence(text, value=error, fact="torchao.linears")
    return Finding(
        title=f"A layer in {what} configuration gives a wrong result",
        evidence=(seen,),
        actions=(Action("Use another configuration, and report this to https://github.com/pytorch/ao/issues"),),
        about=ABOUT,
    )


@rule("AO006", "torchao-fp8-fails", Severity.ERROR, scope="box")
def forward_fails(ao: Torchao) -> list[Finding | NotApplicable | None] | NotApplicable:
    """A layer that torchao quantised to FP8 does not run.

    What it means: quantising a small linear layer, or calling it, raised an error or ended the process. The shapes were
    legal.

    Why it costs time: this configuration cannot be used on this box.

    What to do: take a configuration that ran. `CUBLAS_STATUS_NOT_SUPPORTED` with the row-wise one is a known gap of
    some cuBLAS versions; the tensor-wise one does without.

    Sources: the call itself; the warning on CUDA 12.9 in torchao 0.18.0 (quantization/quant_api.py), pytorch/ao#4582.
    """
    if ao.installed is False:
        return ABSENT
    tried = _linears(ao)
    ran = [str(linear.config) for linear in tried if linear.forward_ok and linear.config != "weight-only"]
    return [_judge_call(linear, ran) for linear in tried]


def _judge_call(linear: QuantizedLinear, ran: list[str]) -> Finding | NotApplicable | None:
    if linear.forward_ok:
        return None
    if re.search(NO_FP8_HARDWARE, linear.error or ""):
        return NotApplicable("the GPU has no FP8 tensor cores, says torchao")
    return Finding(
        title=f"torchao's {linear.config} configuration does not run",
        evidence=(Evidence(f"{linear.config}: {linear.error}", fact="torchao.linears"),),
        actions=(Action(f"Take one that ran: {', '.join(ran)}" if ran else "Mend torch's own FP8 product first"),),
        about=ABOUT,
    )


@rule("AO007", "no-fp8-hardware", Severity.ERROR, scope="box")
def refused_without_hardware() -> NotApplicable:
    """torchao refuses FP8 because the GPU has no FP8 tensor cores.

    What it means: dynamic FP8 quantisation needs a GPU that multiplies in FP8: compute capability 8.9 or newer, or an
    AMD MI300 or newer.

    Why it costs time: the program stops. Weight-only FP8 would run, and saves memory alone.

    What to do: use BF16, or INT8 where the GPU has it.

    Sources: torchao/quantization/quant_api.py 0.17.0.
    """
    return NotApplicable("whether this GPU has FP8 is asked elsewhere; an error message of a program shows this one")


@rule("AO008", "rowwise-needs-bf16-weight", Severity.ERROR, scope="usage")
def rowwise_needs_bf16() -> NotApplicable:
    """Row-wise FP8 was asked for weights that are not BF16.

    What it means: torchao's row-wise configuration takes BF16 weights only.

    Why it costs time: the program stops.

    What to do: convert the model with `.to(torch.bfloat16)` before `quantize_`, or take `PerTensor()`.

    Sources: torchao/quantization/quant_api.py 0.17.0.
    """
    return NotApplicable("it depends on the program; its error message shows it")
