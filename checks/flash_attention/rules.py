"""Which FlashAttention is broken?"""

from __future__ import annotations

from fp8doctor.checks.flash_attention.facts import FlashAttention, Generation
from fp8doctor.checks.flash_attention.faults import (
    about,
    fault,
    judge_installed,
    name_of,
    rebuild,
    remove_or_rebuild,
    said,
    unless_ran,
)
from fp8doctor.checks.libraries.facts import Libraries
from fp8doctor.checks.libraries.importing import patience
from fp8doctor.checks.torch_build.no_image import missing_symbol_of
from fp8doctor.model import Action, Evidence, Finding, Messages, NotApplicable, RuleResult, Severity, Verdict, observed
from fp8doctor.registry import rule


@rule(
    "FA001",
    "abi-mismatch-flash-attn",
    Severity.WARNING,
    scope="box",
    explains=("attention-switch-fails", "torch-symbol-missing"),
)
def built_for_another_torch(
    flash: FlashAttention | None, messages: Messages | None = None, libraries: Libraries | None = None
) -> RuleResult:
    """FlashAttention was built for another torch.

    What it means: its extension asks torch for a C++ function that this torch does not have, so it cannot be loaded.
    The name of a wheel is no proof of what is in it: wheels marked for one C++ ABI were built for the other.

    Why it costs time: every program that imports it stops there, or quietly takes another attention if its author
    caught the error. FP8 matrix products and torch's own attention are not touched, hence a warning.

    What to do: if nothing here needs it, remove it; torch's scaled_dot_product_attention has its own kernels. If
    something does, build it against this torch.

    Sources: Dao-AILab/flash-attention#836, #853, #1644, #1783, #1832; setup.py there, for the variable that forces a
    build.
    """
    if flash is None and (said_so := missing_symbol_of("flash-attn", messages, libraries)) is not None:
        return Finding(
            title="FlashAttention was built for another torch",
            evidence=(said_so, Evidence("it is the only extension that the text names", fact="libraries.installed")),
            actions=(Action("Build it for this torch, or remove it.", rebuild(2)),),
            about="package:flash-attn",
        )
    seen = observed(flash, "FlashAttention")
    return judge_installed(seen, lambda item: _abi(item, seen))


def _abi(item: Generation, seen: FlashAttention) -> Verdict:
    if fault(item, seen) != "torch-abi":
        return None if item.imported else NotApplicable(f"{name_of(item)} fails in another way")
    return Finding(
        title=f"{name_of(item)} was built for another torch and cannot be imported",
        evidence=(said(item),),
        actions=remove_or_rebuild(item),
        about=about(item),
    )


@rule("FA004", "ext-built-without-arch", Severity.WARNING, scope="box", explains=("attention-switch-fails",))
def built_without_this_gpu(flash: FlashAttention) -> RuleResult:
    """FlashAttention was built without kernels for this GPU.

    What it means: it imports, and its first call ends with "no kernel image is available": the extension holds no
    code for this architecture, while torch itself may well run here.

    Why it costs time: the call fails; what catches the error goes on with another attention.

    What to do: remove it if nothing needs it, or build it with this GPU among its architectures (FLASH_ATTN_CUDA_ARCHS
    for FlashAttention 2).

    Sources: setup.py in Dao-AILab/flash-attention (FLASH_ATTN_CUDA_ARCHS, by default 80;90;100;110;120);
    thu-ml/SageAttention#173 and microsoft/onnxruntime#26181 for the same fault in other packages.
    """

    def judge(item: Generation) -> Verdict:
        if fault(item, flash) != "arch":
            return unless_ran(item)
        return Finding(
            title=f"{name_of(item)} has no kernels for this GPU",
            evidence=(said(item),),
            actions=remove_or_rebuild(item),
            about=about(item),
        )

    return judge_installed(flash, judge)


@rule("FA005", "flash-attention-fails", Severity.WARNING, scope="box", explains=("attention-switch-fails",))
def does_not_run(flash: FlashAttention) -> RuleResult:
    """FlashAttention is installed and does not run.

    What it means: importing it or calling it once on a small BF16 tensor raised an error, ended the process, or did
    not come back. The evidence says which. Metadata without code (an installation that was cut short or deleted by
    hand) belongs here as well: pip lists the package, and there is nothing to import.

    Why it costs time: programs ask whether it is installed, take it, and fail; or they catch the error and run
    something slower without a word.

    What to do: remove it if nothing needs it; torch's scaled_dot_product_attention does without. Otherwise install it
    again, whole. FlashAttention 4 lies inside the name flash_attn, so a broken FlashAttention 2 takes it along.

    Sources: the call itself; flash_attn/__init__.py in FlashAttention 2 (it loads its extension at once).
    """

    def judge(item: Generation) -> Verdict:
        if fault(item, flash) != "other":
            return unless_ran(item)
        without_code = item.modules == ()
        return Finding(
            title=f"{name_of(item)} is listed as installed, and its code is not there"
            if without_code
            else f"{name_of(item)} gave no answer"
            if item.outcome == "timeout"
            else f"{name_of(item)} is installed and does not run",
            evidence=(said(item),),
            actions=(
                *([patience(item.module or "flash_attn")] if item.outcome == "timeout" and not item.imported else []),
                *remove_or_rebuild(item),
            ),
            about=about(item),
        )

    return judge_installed(flash, judge)


@rule("FA006", "silent-wrong-result", Severity.ERROR, scope="box")
def wrong(flash: FlashAttention) -> RuleResult:
    """FlashAttention computes something else than attention.

    What it means: a small call came back without an error, and its result differs from the same attention in FP32 by
    more than twice what the number format explains. In FP8 the reference starts from the same e4m3 numbers, so the
    rounding of the inputs does not count.

    Why it costs time: nothing fails, so the fault is looked for in the model and the FP8 recipe.

    What to do: do not use this build. Build it again for this torch, CUDA and GPU, and compare before it is trusted.

    Sources: huggingface/transformers#47030 (a fast path, numerically wrong, that no error showed); the limits are
    those of checks/torch_build/numerics.py and checks/attention/call.py.
    """

    def judge(item: Generation) -> Verdict:
        made = (
            ("BF16", item.outcome, item.relative_error, item.relative_error_limit, item.error),
            ("FP8", item.fp8_outcome, item.fp8_relative_error, item.fp8_relative_error_limit, item.fp8_error),
        )
        evidence = tuple(
            Evidence(
                f"{kind}: relative error {error:.2g} against FP32, and {limit:.2g} is the most that rounding explains",
                error,
            )
            if error is not None and limit is not None
            else Evidence(f"{kind}: {words or 'the result could not be compared'}")
            for kind, outcome, error, limit, words in made
            if outcome == "wrong"
        )
        if not evidence:
            return unless_ran(item)
        return Finding(
            title=f"{name_of(item)} gives wrong results",
            evidence=evidence,
            actions=remove_or_rebuild(item),
            about=about(item),
        )

    return judge_installed(flash, judge)


@rule("FA009", "flash-attn-name-empty", Severity.WARNING, scope="box")
def name_without_package(flash: FlashAttention) -> RuleResult:
    """The name flash_attn can be found and holds no FlashAttention 2.

    What it means: Python takes any folder of that name for a package, also one that an uninstallation left behind or
    that only FlashAttention 4 has put something into. `import flash_attn` and importlib.util.find_spec then succeed,
    and flash_attn_func is not there.

    Why it costs time: programs that look for the name choose FlashAttention 2 and fail at the next line.

    What to do: delete a left-over folder. Where FlashAttention 4 owns it, nothing is wrong: ask for flash_attn.cute,
    and test for functions instead of names.

    Sources: Python's rules for namespace packages (PEP 420); flash_attn/__init__.py in Dao-AILab/flash-attention,
    which lets FlashAttention 2 and 4 share the name.
    """
    if observed(flash.flash_attn_name, "the name flash_attn") != "namespace":
        return None
    second, fourth = flash.generation(2), flash.generation(4)
    if second is not None and second.installed:
        return NotApplicable("FlashAttention 2 has metadata and no code, which FA005 tells")
    folders = ", ".join(flash.namespace_folders or ()) or "nothing"
    by_four = fourth is not None and fourth.installed is True
    return Finding(
        title="`import flash_attn` succeeds here without FlashAttention 2"
        + (": the name is FlashAttention 4's" if by_four else ": a left-over folder has that name"),
        evidence=(Evidence(f"in the folder flash_attn: {folders}", fact="flash_attention.namespace_folders"),),
        actions=(Action("Import FlashAttention 4 by its own name.", "from flash_attn.cute import flash_attn_func"),)
        if by_four
        else (
            Action(
                "Delete the folder, after a look at what is in it.",
                "python -c \"import flash_attn; print(*flash_attn.__path__, sep='\\n')\"",
            ),
        ),
        severity=Severity.INFO if by_four else None,
        scope="usage" if by_four else None,
        about="package:flash-attn",
    )
