"""Does this torch have FP8 products for the GPU, do they run, and are they right?"""

from __future__ import annotations

from collections.abc import Iterable

from fp8doctor.checks.driver import Driver
from fp8doctor.checks.gpu.facts import Gpus, capability
from fp8doctor.checks.libraries.facts import Libraries
from fp8doctor.checks.machine.facts import Machine
from fp8doctor.checks.torch_build.facts import ScaledGemm, TorchBuild
from fp8doctor.checks.torch_build.hardware import multiplies_fp8, seen_gpus
from fp8doctor.checks.torch_build.renewal import install, on_windows
from fp8doctor.checks.torch_build.stated import no_product as no_product_on
from fp8doctor.model import (
    Action,
    Evidence,
    Finding,
    NotApplicable,
    RuleResult,
    Severity,
    Unknown,
)
from fp8doctor.registry import rule

FACT = "torch_build.scaled_gemms"
UPDATE = Action("Update torch.", "python -m pip install --upgrade torch")
# Scalings of which no product was seen to be right on any GPU yet: there, a difference may be the doctor's own way of
# laying out the scales.
LAYOUT_UNVERIFIED = ("mxfp8", "nvfp4")
NONE_TO_RUN = NotApplicable("this torch has no FP8 product for this GPU, so there is none to run")


@rule("TOR008", "no-fp8-gemm-in-torch", Severity.ERROR, scope="box", settles="software", explains=("fp8-gemm-fails",))
def no_product(
    torch_build: TorchBuild,
    gpus: Gpus | None,
    machine: Machine | None = None,
    driver: Driver | None = None,
    libraries: Libraries | None = None,
) -> RuleResult:
    """This torch has no FP8 matrix product for the GPU.

    What it means: the GPU multiplies FP8, and the torch that was examined does not get there: it is missing, broken or
    built for something else, or it refused tensorwise scaled products of complete legal operands.

    Why it costs time: FP8 is storage only then, and every use of it casts back to 16 bits.

    What to do: the finding above this one names the cause; without one, update torch.

    Sources: the calls made on this box (torch._scaled_mm and torch.nn.functional.scaled_mm).
    """
    if (why := _not_asked(torch_build, gpus)) is not None:
        return why
    update = install("Update torch.", seen_gpus(torch_build, gpus) or (), (machine, driver, libraries))
    if torch_build.installed is False:
        return _no_product(("there is no torch",), "torch_build.installed", update)
    if torch_build.import_error:
        return _no_product(("torch does not import",), "torch_build.import_error", update)
    if torch_build.accelerator == "cpu":
        return _no_product(("torch was built for the CPU only",), "torch_build.accelerator", update)
    products = _of(torch_build, "tensorwise")
    if not products:
        if "no kernel image" in (torch_build.trivial_kernel_error or ""):
            return _no_product(("torch has no code for this GPU",), "torch_build.trivial_kernel_error", update)
        reasons = _by_versions(torch_build, gpus, on_windows(machine))
        return _no_product(reasons, "torch_build.version", update) if reasons else Unknown(_why_untried(torch_build))
    if any(g.outcome in ("ok", "wrong") for g in products):
        return None
    if all(g.outcome in ("refused", "absent") for g in products):
        return _no_product(_told(products), FACT, update)
    return Unknown(f"the product was called and failed for another reason: {_first_error(products)}")


def _by_versions(build: TorchBuild, gpus: Gpus | None, windows: bool) -> tuple[str, ...]:
    """Why no GPU here that multiplies FP8 gets a product from this build, as far as versions settle it for all."""
    reasons = [no_product_on(build, gpu, windows) for gpu in seen_gpus(build, gpus) or () if gpu.has_fp8]
    known = tuple(dict.fromkeys(why for why in reasons if why))
    return known if reasons and all(reasons) else ()


def _no_product(reasons: tuple[str, ...], fact: str, update: Action) -> Finding:
    return Finding(
        title="This torch has no FP8 matrix product for this GPU",
        evidence=tuple(Evidence(text, fact=fact) for text in reasons),
        actions=(update,),
    )


@rule("TOR009", "fp8-gemm-fails", Severity.ERROR, scope="box", settles="runs")
def product_fails(torch_build: TorchBuild, gpus: Gpus | None) -> RuleResult:
    """An FP8 matrix product was called, and did not come back right.

    What it means: the simplest product, with one scale a tensor, was called on small legal operands. It raised, took
    the process with it, or gave a wrong result, in every way torch has to call it.

    Why it costs time: nothing that is built on it runs in FP8.

    What to do: read the error; a GPU without free memory or in an error state fails here, too. Otherwise update torch
    and the driver.

    Sources: the calls made on this box; limits of error in checks/torch_build/numerics.py.
    """
    if (why := _not_asked(torch_build, gpus)) is not None:
        return why
    products = _of(torch_build, "tensorwise")
    if not products:
        gone = torch_build.installed is False or torch_build.import_error or torch_build.accelerator == "cpu"
        return NONE_TO_RUN if gone else Unknown(_why_untried(torch_build))
    if any(g.outcome == "ok" for g in products):
        return None
    failed = [g for g in products if g.outcome in ("error", "crashed", "wrong")]
    if not failed:
        return NONE_TO_RUN
    if any("out of memory" in (g.error or "") for g in failed):
        return Unknown("the GPU had no memory left to try it in")
    return Finding(
        title="The simplest FP8 matrix product fails on this GPU",
        evidence=tuple(Evidence(text, fact=FACT) for text in _told(failed)),
        actions=(UPDATE,),
    )


@rule("TOR010", "silent-wrong-result", Severity.ERROR, scope="box", explains=("fp8-gemm-fails",))
def wrong_result(torch_build: TorchBuild) -> RuleResult:
    """An FP8 matrix product runs and gives a wrong result.

    What it means: the result is further from the FP32 product, as a whole or in one row or column, than twice what
    rounding the operands to their format explains, or is not finite. Operands were random normal numbers. MXFP8 and
    NVFP4 products are not accused: how the doctor lays out their scales was not verified on a GPU that has them.

    Why it costs time: the time looks good, and what it buys is noise.

    What to do: leave this scaling alone on this GPU, update torch, and report it to PyTorch with the line shown here.

    Sources: huggingface/transformers#47030 (a case of it); limits of error and how they were computed in
    checks/torch_build/numerics.py.
    """
    ran = [g for g in torch_build.scaled_gemms or () if g.outcome in ("ok", "wrong") and not _is_odd(g)]
    if not ran:
        return _nothing_ran(torch_build)
    wrong = [g for g in ran if g.outcome == "wrong" and g.scaling not in LAYOUT_UNVERIFIED]
    if not wrong and any(g.outcome == "wrong" for g in ran):
        return Unknown(
            "the result differs; the layout of scales that the doctor writes was not verified on this architecture"
        )
    if not wrong:
        return None
    return Finding(
        title=f"FP8 products with {_scalings(wrong)} scaling run and are wrong on this GPU",
        evidence=tuple(
            Evidence(
                f"{_named(g)}: relative error {_number(g.relative_error)}, worst row or column"
                f" {_number(g.worst_line_error)}; the format explains {_number(g.relative_error_limit)}",
                g.relative_error,
                fact=FACT,
            )
            for g in wrong
        ),
        actions=(UPDATE,),
    )


@rule("TOR011", "rowwise-not-on-arch", Severity.WARNING, scope="box", explains=("fp8-gemm-crash",))
def no_rowwise(torch_build: TorchBuild) -> RuleResult:
    """This torch has no rowwise FP8 product for the GPU, though it has the tensorwise one.

    What it means: with one scale a row, torch leaves cuBLAS for a kernel of its own on most architectures (all but
    Hopper with CUDA 12.9 or newer), and that kernel is compiled for some only: Ada's came later than Hopper's, and
    Blackwell's later still.

    Why it costs time: rowwise recipes fail or fall back; tensorwise ones run.

    What to do: update torch, or use tensorwise scaling.

    Sources: pytorch/pytorch#135718, #145632, #160693, #161236; ScaledBlas.cpp and RowwiseScaledMM.cu in PyTorch.
    """
    rowwise = [g for g in _of(torch_build, "rowwise") if not _is_odd(g) and g.outcome != "absent"]
    if not rowwise or not any(g.outcome == "ok" for g in _of(torch_build, "tensorwise")):
        return _nothing_ran(torch_build)
    if any(g.outcome in ("ok", "wrong") for g in rowwise):
        return None
    if any(g.outcome == "error" for g in rowwise) and not any(g.outcome in ("refused", "crashed") for g in rowwise):
        return Unknown(f"rowwise products failed for another reason: {_first_error(rowwise)}")
    return Finding(
        title="This torch has no rowwise FP8 product for this GPU",
        evidence=tuple(Evidence(text, fact=FACT) for text in _told(rowwise)),
        actions=(UPDATE, Action("Until then use tensorwise scaling, which runs here.")),
    )


@rule("TOR012", "rowwise-kernel-bug", Severity.ERROR, scope="box")
def rowwise_bug(torch_build: TorchBuild) -> RuleResult:
    """The rowwise FP8 product fails when the number of rows does not fill its tiles.

    What it means: with 256 rows it is right; with 257 it is wrong, raises or ends the process. A known fault of old
    rowwise kernels reads beyond the scales when M is no multiple of 256. It does not fail in every run, so that a pass
    here does not clear an old torch.

    Why it costs time: a serving batch or a last, short training batch has any number of rows; the process dies or
    the result is noise.

    What to do: update torch; until then pad the rows to a multiple of 256.

    Sources: pytorch/pytorch#133334; the calls made on this box.
    """
    rowwise = _of(torch_build, "rowwise")
    full = [g for g in rowwise if not _is_odd(g) and g.outcome == "ok"]
    odd = [g for g in rowwise if _is_odd(g)]
    if not full or not odd:
        return _nothing_ran(torch_build)
    if all(g.outcome == "ok" for g in odd):
        return None
    return Finding(
        title="The rowwise FP8 product fails with 257 rows and not with 256",
        evidence=tuple(Evidence(text, fact=FACT) for text in _told(odd)),
        actions=(UPDATE, Action("Until then pad the rows of activations to a multiple of 256.")),
    )


@rule("TOR013", "fp8-gemm-crash", Severity.WARNING, scope="box", explains=("fp8-gemm-fails",))
def crashes(torch_build: TorchBuild) -> RuleResult:
    """An FP8 matrix product ends the process or leaves the GPU unusable in it.

    What it means: the call did not raise an error that a program could handle; it took the process, or the CUDA
    context and with it everything the process had on the GPU.

    Why it costs time: a program that tries this product to see whether it is there does not survive the try.

    What to do: leave this scaling alone on this GPU, update torch, and report it to PyTorch.

    Sources: the calls made on this box, each in a process that may die.
    """
    products = [g for g in torch_build.scaled_gemms or () if not _is_odd(g)]
    if not products:
        return _nothing_ran(torch_build)
    crashed = [g for g in products if g.outcome == "crashed"]
    if not crashed:
        return None
    return Finding(
        title=f"FP8 products with {_scalings(crashed)} scaling crash on this GPU",
        evidence=tuple(Evidence(text, fact=FACT) for text in _told(crashed)),
        actions=(UPDATE,),
    )


@rule("TOR014", "amd-fnuz-vs-ocp", Severity.INFO, scope="usage")
def other_generation(torch_build: TorchBuild) -> RuleResult:
    """This AMD GPU multiplies one kind of FP8 only, and checkpoints often hold the other.

    What it means: CDNA3 (gfx942) multiplies e4m3fnuz and e5m2fnuz, the GPUs after it (gfx950, gfx12) the OCP types
    e4m3fn and e5m2. The same byte stands for half the value in fnuz, so that weights of the wrong kind are refused,
    or, if only relabelled, wrong by a factor of two.

    Why it costs time: a path that meets the wrong kind fails or falls back to 16 bits.

    What to do: convert weights with the factor in their scales (vLLM and SGLang do), and choose the type by
    architecture, not by name.

    Sources: ROCm's "Data types and precision support"; vllm-project/vllm#33713, pytorch/ao#1066. Not exercised on AMD
    hardware.
    """
    gfx = _architecture(torch_build)
    if gfx is None and torch_build.devices == ():
        return NotApplicable("torch sees no GPU")
    if gfx is None:
        return Unknown("the GPU's architecture was not observed")
    if not gfx.startswith("gfx"):
        return NotApplicable("no AMD GPU")
    products = _of(torch_build, "tensorwise")
    right = next((g for g in products if g.outcome == "ok"), None)
    refused = [g for g in products if right and g.dtype != right.dtype and g.outcome in ("refused", "error")]
    if right is None:
        return _nothing_ran(torch_build)
    if not refused:
        return None
    return Finding(
        title=f"{gfx} multiplies {right.dtype} and refuses {refused[0].dtype}",
        evidence=tuple(Evidence(text, fact=FACT) for text in _told(refused)),
        actions=(Action(f"Convert FP8 weights to {right.dtype}, with the change of range in their scales."),),
    )


# Which block scalings an architecture multiplies by itself, by major version. Source: ScaledBlas.cpp in PyTorch
# (SM90 for 128-blocks); cuBLAS's manual (MXFP8 and NVFP4 from 10.0). MXFP8 on 12.x depends on the release of cuBLAS.
NATIVE: dict[str, tuple[int, ...]] = {"blockwise-1x128": (9,), "mxfp8": (10,), "nvfp4": (10, 12)}


@rule("TOR015", "cublas-version", Severity.INFO, scope="usage")
def recipe_needs_newer_cublas(torch_build: TorchBuild) -> RuleResult:
    """The GPU has a block-scaled product that the cuBLAS of this torch refuses.

    What it means: block scalings came to cuBLAS release by release: MXFP8 and NVFP4 on Blackwell with CUDA 12.8,
    128-blocks with FP32 scales on Hopper with 12.9. The architecture has the scaling and this build refuses it.

    Why it costs time: recipes that scale by block fall back or fail; tensorwise and rowwise ones are not touched.

    What to do: update torch, whose newer builds bring a newer cuBLAS.

    Sources: ScaledBlas.cpp in PyTorch; the calls made on this box.
    """
    major = (capability(_architecture(torch_build)) or (0, 0))[0]
    called = [g for g in torch_build.scaled_gemms or () if major in NATIVE.get(g.scaling or "", ())]
    if not called:
        return NotApplicable("no block scaling that this GPU is known to have was called")
    served = {g.scaling for g in called if g.outcome in ("ok", "wrong")}
    refused = [g for g in called if g.scaling not in served and g.outcome == "refused"]
    if not refused:
        return None
    return Finding(
        title=f"The GPU has {_scalings(refused)} products, and this torch's cuBLAS refuses them",
        evidence=tuple(Evidence(text, fact=FACT) for text in _told(refused)),
        actions=(UPDATE,),
    )


def _not_asked(build: TorchBuild, gpus: Gpus | None) -> NotApplicable | Unknown | None:
    """Why the question of an FP8 product does not arise, or cannot be answered for want of a GPU's name."""
    architecture = _architecture(build)
    if architecture is not None:
        return NotApplicable(f"{architecture} does not multiply FP8") if multiplies_fp8(architecture) is False else None
    seen = seen_gpus(build, gpus)
    if seen is None:
        return Unknown("the GPUs were not observed")
    if not seen:
        return NotApplicable("no GPU is visible")
    if all(gpu.has_fp8 is False for gpu in seen):
        return NotApplicable("no GPU here multiplies FP8")
    return None if any(gpu.has_fp8 for gpu in seen) else Unknown("the GPU's architecture was not observed")


def _architecture(build: TorchBuild) -> str | None:
    """The architecture of the GPU that the products ran on."""
    if build.examined_gpu is None or not build.devices or build.examined_gpu >= len(build.devices):
        return None
    return build.devices[build.examined_gpu].compute_capability


def _nothing_ran(build: TorchBuild) -> NotApplicable | Unknown:
    if build.scaled_gemms is not None:
        return NotApplicable("no product of this kind ran")
    if build.installed is False or build.accelerator == "cpu" or build.devices == ():
        return NotApplicable("there is no torch with a GPU to run one")
    return Unknown(_why_untried(build))


def _why_untried(build: TorchBuild) -> str:
    reason = build.import_error or build.cuda_error or build.trivial_kernel_error
    return f"no FP8 product was called ({reason})" if reason else "no FP8 product was called"


def _of(build: TorchBuild, scaling: str) -> list[ScaledGemm]:
    return [g for g in build.scaled_gemms or () if g.scaling == scaling]


def _is_odd(gemm: ScaledGemm) -> bool:
    return gemm.shape is not None and gemm.shape.m % 16 != 0


def _named(gemm: ScaledGemm) -> str:
    accumulation = "" if gemm.fast_accum is None else f", {'fast' if gemm.fast_accum else 'full'} accumulation"
    return f"{gemm.api} {gemm.scaling} {gemm.dtype} {gemm.shape}{accumulation}"


def _told(gemms: Iterable[ScaledGemm]) -> tuple[str, ...]:
    """What came of each call, in the words of torch; its message's first line says it."""
    return tuple(f"{_named(g)}: {g.outcome}. {(g.error or '').strip().partition(chr(10))[0]}".rstrip() for g in gemms)


def _first_error(gemms: Iterable[ScaledGemm]) -> str:
    return next((g.error.partition("\n")[0] for g in gemms if g.error), "it said nothing")


def _scalings(gemms: Iterable[ScaledGemm]) -> str:
    return " and ".join(dict.fromkeys(g.scaling or "?" for g in gemms))


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3f}"
