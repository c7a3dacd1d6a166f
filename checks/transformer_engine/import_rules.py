"""Does Transformer Engine come up here? Each rule is one known reason why it does not."""

from __future__ import annotations

import re
from dataclasses import replace

from fp8doctor.checks.libraries.facts import Libraries
from fp8doctor.checks.libraries.importing import hung, patience
from fp8doctor.checks.torch_build.no_image import missing_symbol_of
from fp8doctor.checks.transformer_engine.facts import ABOUT, ABSENT, IMPORTING, TransformerEngine
from fp8doctor.checks.transformer_engine.texts import ONE_CUDNN, REINSTALL, UPGRADE_CUDNN, import_cause
from fp8doctor.model import (
    Action,
    Evidence,
    Finding,
    Messages,
    NotApplicable,
    NotObservedError,
    ProbeRun,
    Severity,
    observed,
)
from fp8doctor.registry import rule


def _import_finding(
    run: ProbeRun[TransformerEngine], cause: str, title: str, *actions: Action
) -> Finding | NotApplicable | None:
    """A finding if importing failed by `cause`."""
    if run.facts is not None and run.facts.installed is False:
        return ABSENT
    error = import_failure(run)
    if error is None or import_cause(error) != cause:
        return None
    return Finding(
        title=title,
        evidence=(
            Evidence(f"import transformer_engine.pytorch: {error}", fact="transformer_engine.import_error"),
            *_packages(run.facts),
        ),
        actions=actions,
        about=ABOUT,
    )


def import_failure(run: ProbeRun[TransformerEngine]) -> str | None:
    """What importing Transformer Engine ended with; None if it succeeded.

    Raises:
        NotObservedError: if it was not seen.
    """
    seen = observed(run.facts, "Transformer Engine")
    if seen.import_ok:
        return None
    if seen.import_error is not None:
        return seen.import_error
    if seen.attempting == IMPORTING and run.failed:
        return f"{run.outcome}: {run.detail}"
    if seen.torch_error is not None:
        raise NotObservedError(f"Transformer Engine was not imported, because torch cannot be: {seen.torch_error}")
    raise NotObservedError("importing Transformer Engine was not observed")


def _packages(seen: TransformerEngine | None) -> tuple[Evidence, ...]:
    if seen is None or not seen.packages:
        return ()
    listed = ", ".join(f"{name} {version}" for name, version in seen.packages.items())
    return (Evidence(f"installed: {listed}", fact="transformer_engine.packages"),)


@rule("TE001", "abi-mismatch-te", Severity.ERROR, scope="box", explains=("torch-symbol-missing",))
def abi_mismatch(
    run: ProbeRun[TransformerEngine], messages: Messages | None = None, libraries: Libraries | None = None
) -> Finding | NotApplicable | None:
    """Transformer Engine was compiled for another torch.

    What it means: the compiled part of Transformer Engine asks for a C++ symbol that the installed torch (or libstdc++)
    does not have, so `import transformer_engine.pytorch` fails. `import transformer_engine` alone hides this: it
    swallows the error.

    Why it costs time: nothing of Transformer Engine can be used, and programs that only look whether it is there
    (accelerate, transformers) may stop with the same error.

    What to do: remove all its parts, also one that a vendor's image brought along, and build it against this torch.

    Sources: transformer_engine/__init__.py 2.20.2; NVIDIA/TransformerEngine#1684, #1192; huggingface/accelerate#1475.
    """
    title = "Transformer Engine was compiled for another torch and cannot be imported"
    action = Action("Remove all parts and build the extension against the torch that is installed", REINSTALL)
    said = missing_symbol_of("transformer-engine", messages, libraries) if run.facts is None else None
    if said is not None:
        alone = Evidence("it is the only extension that the text names", fact="libraries.installed")
        return Finding(title, (said, alone), (action,), about=ABOUT)
    return _import_finding(run, "abi-mismatch-te", title, action)


@rule("TE002", "te-framework-ext-missing", Severity.ERROR, scope="box")
def extension_missing(run: ProbeRun[TransformerEngine]) -> Finding | NotApplicable | None:
    """Transformer Engine lacks its compiled part for PyTorch.

    What it means: `transformer-engine` is Python code alone. The compiled core (`transformer-engine-cu12`, `-cu13`) and
    the extension for PyTorch (`transformer-engine-torch`) are packages of their own, and one of them is missing.

    Why it costs time: nothing of Transformer Engine can be used.

    What to do: install it with the extra `[pytorch]` and without build isolation, after removing what is there.

    Sources: transformer_engine/common/__init__.py 2.20.2; NVIDIA/TransformerEngine#1541.
    """
    return _import_finding(
        run,
        "te-framework-ext-missing",
        "Transformer Engine is installed without its compiled part for PyTorch",
        Action("Install it with its PyTorch extension", REINSTALL),
    )


@rule("TE003", "te-version-mismatch", Severity.ERROR, scope="box")
def versions_differ(run: ProbeRun[TransformerEngine]) -> Finding | NotApplicable | None:
    """The parts of Transformer Engine have different versions.

    What it means: the meta package, the core and the PyTorch extension must be of one version and one build.
    Transformer Engine compares them when it is imported and stops, or its extension misses a symbol of the core.

    Why it costs time: nothing of Transformer Engine can be used.

    What to do: remove all parts and install them together.

    Sources: transformer_engine/common/__init__.py 2.20.2 (load_framework_extension); NVIDIA/TransformerEngine#115.
    """
    return _import_finding(
        run,
        "te-version-mismatch",
        "The parts of Transformer Engine do not belong together",
        Action("Install all parts in one version", REINSTALL),
    )


@rule("TE005", "te-import-fails", Severity.ERROR, scope="box")
def import_fails(run: ProbeRun[TransformerEngine]) -> Finding | NotApplicable | None:
    """Transformer Engine cannot be imported.

    What it means: importing `transformer_engine.pytorch` raised an error, crashed or did not end. The evidence shows
    which. Often the cause is another package: it loads CUDA libraries by itself and imports flash-attn if that is
    there, so a broken one of those ends its import, too.

    Why it costs time: nothing of Transformer Engine can be used.

    What to do: mend what the error names. CUDA libraries are searched in CUDA_HOME, CUDA_PATH and /usr/local/cuda
    before the pip packages, so an old toolkit there wins over the newer libraries beside torch.

    Sources: transformer_engine/common/__init__.py and pytorch/attention/dot_product_attention/backends.py, 2.20.2.
    """
    error = None if run.facts is None or run.facts.installed is False else import_failure(run)
    if not hung(error):
        return _import_finding(run, "te-import-fails", "Transformer Engine cannot be imported", *_mend(error or ""))
    actions = (patience("transformer_engine.pytorch"), *_mend(""))
    found = _import_finding(run, "te-import-fails", "Importing Transformer Engine came to no end", *actions)
    return replace(found, severity=Severity.WARNING) if isinstance(found, Finding) else found


def _mend(error: str) -> tuple[Action, ...]:
    if "flash_attn" in error:
        return (
            Action(
                "flash-attn is at fault, which Transformer Engine imports where it is installed: rebuild it for this"
                " torch, or remove it",
                "python -m pip uninstall -y flash-attn",
            ),
        )
    if re.search(r"shared object not found|cannot open shared object file|ldconfig -p", error):
        return (Action("Make the CUDA libraries findable: set CUDA_HOME, or install NVIDIA's pip packages"),)
    if "No module named" in error:
        return (Action("A package it depends on is missing: install it again with its dependencies", REINSTALL),)
    return (Action("Install it again, built against this torch", REINSTALL),)


@rule("TE006", "cudnn-too-old", Severity.ERROR, scope="box")
def cudnn_too_old(run: ProbeRun[TransformerEngine]) -> Finding | NotApplicable | None:
    """Transformer Engine refuses the cuDNN that is loaded.

    What it means: Transformer Engine asks the cuDNN that was loaded for its version when it is imported, and stops
    below its minimum (9.12 in 2.20.2); or its extension misses a symbol that an older cuDNN does not have. The one
    loaded need not be the one beside torch: a system toolkit is searched first.

    Why it costs time: nothing of Transformer Engine can be used.

    What to do: update cuDNN, and see that no older copy is found before it.

    Sources: transformer_engine/common/__init__.py 2.20.2 (MIN_CUDNN_VERSION, _load_cuda_library).
    """
    return _import_finding(
        run,
        "cudnn-too-old",
        "cuDNN is too old for this Transformer Engine",
        Action("Update cuDNN", UPGRADE_CUDNN),
        Action("If a newer one is installed already, point to it", ONE_CUDNN),
    )


@rule("TE012", "cudnn-mixed-libraries", Severity.ERROR, scope="box")
def cudnn_mixed(run: ProbeRun[TransformerEngine]) -> Finding | NotApplicable | None:
    """Transformer Engine found parts of cuDNN from two places.

    What it means: cuDNN is one library in several files. Transformer Engine loads one from the system or from a pip
    package, and cuDNN then could not load another of its files, because the next one found belongs to another copy.

    Why it costs time: attention and normalisation through cuDNN fail.

    What to do: let all of it come from one place, the pip package beside torch.

    Sources: Troubleshooting in the package's description, 2.20.2; NVIDIA/TransformerEngine#2373.
    """
    seen = run.facts
    said = [recipe.error for recipe in (seen.recipes if seen else None) or () if recipe.error]
    mixed = [error for error in said if import_cause(error) == "cudnn-mixed-libraries"]
    if mixed:
        return Finding(
            title="cuDNN is loaded from two places",
            evidence=(Evidence(mixed[0], fact="transformer_engine.recipes"),),
            actions=(Action("Let all parts come from one place", ONE_CUDNN),),
            about=ABOUT,
        )
    return _import_finding(
        run,
        "cudnn-mixed-libraries",
        "cuDNN is loaded from two places",
        Action("Let all parts come from one place", ONE_CUDNN),
    )


@rule("TE013", "build-isolation", Severity.ERROR, scope="box")
def built_in_isolation() -> NotApplicable:
    """Transformer Engine was built where torch cannot be seen.

    What it means: pip builds a package in an environment of its own, in which there is no torch, and the extension
    cannot be built without it.

    Why it costs time: Transformer Engine is not installed at all.

    What to do: install with `--no-build-isolation`, after torch.

    Sources: transformer_engine/pytorch/setup.py 2.20.2; Dao-AILab/flash-attention#1162 for the same cause.
    """
    return NotApplicable("nothing is built in an examination; a build log shows it")


@rule("TE024", "ext-built-without-arch", Severity.ERROR, scope="box")
def built_without_this_gpu() -> NotApplicable:
    """Transformer Engine was built without kernels for this GPU.

    What it means: its library holds kernels for the architectures that it was built for, and none that this GPU runs.

    Why it costs time: the first of its kernels that is needed raises, while torch itself works.

    What to do: take NVIDIA's wheels, which cover current GPUs, or build again with NVTE_CUDA_ARCHS naming this one,
    after removing every part of the installed copy.

    Sources: transformer_engine/common/util/logging.h (how the message is made), docs/envvars.rst (NVTE_CUDA_ARCHS).
    """
    return NotApplicable("only an error message shows it; one call of each recipe is made where the GPU is examined")


@rule("TE015", "cublas-version", Severity.ERROR, scope="box")
def cublas_version(run: ProbeRun[TransformerEngine]) -> Finding | NotApplicable | None:
    """The cuBLAS that is loaded lacks what Transformer Engine needs.

    What it means: a library of Transformer Engine asks for a cuBLASLt function that the copy loaded does not have: it
    is older than the one it was built with.

    Why it costs time: nothing of Transformer Engine can be used.

    What to do: update cuBLAS, and see that no older copy is found before it.

    Sources: NVIDIA/TransformerEngine#2504.
    """
    return _import_finding(
        run,
        "cublas-version",
        "The cuBLAS that is loaded is too old for this Transformer Engine",
        Action(
            "Update cuBLAS",
            "python -m pip install -U nvidia-cublas  # nvidia-cublas-cu12 with a CUDA 12 build of torch",
        ),
    )
