"""Does importing Transformer Engine bring torch another cuDNN than its own?"""

from __future__ import annotations

from pathlib import PurePath

from fp8doctor.checks.libraries.facts import Libraries, LoadedLibrary
from fp8doctor.checks.transformer_engine.facts import ABOUT, ABSENT, TransformerEngine
from fp8doctor.checks.transformer_engine.texts import ONE_CUDNN
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, Severity, Unknown
from fp8doctor.registry import rule


@rule("TE023", "cudnn-mixed-by-te", Severity.WARNING, scope="box")
def another_cudnn(te: TransformerEngine, libraries: Libraries) -> Finding | NotApplicable | Unknown | None:
    """Once Transformer Engine is imported, torch calls another cuDNN than the one it came with.

    What it means: Transformer Engine looks for cuDNN in the system first, and its core asks the system for cuDNN's
    parts by name. Where the system has another version than torch's wheel, the process then holds two of them, and
    torch calls parts of the other one. Imported after torch has used its own cuDNN, Transformer Engine does not load
    at all ("undefined symbol ... version libcudnn_graph.so.9").

    Why it costs time: torch decides by the version that it finds whether cuDNN's attention comes first. On an H200 with
    torch 2.11 (cuDNN 9.19) and a system's cuDNN 9.14, `import transformer_engine.pytorch` made
    scaled_dot_product_attention take 786 us in place of 397 (1 x 24 heads x 4,608 tokens x 128): nothing is said, and
    nothing else was changed.

    What to do: let one cuDNN be found. Put torch's own first, before Python starts, or remove the system's.

    Sources: _load_cuda_library and what follows it in transformer_engine/common/__init__.py (2.20.2);
    check_prefer_cudnn_attention in aten/src/ATen/native/transformers/cuda/sdp_utils.cpp of PyTorch; both orders of
    importing were run (benchmarks/RESULTS.md). Public cases: NVIDIA/TransformerEngine#2373.
    """
    if te.installed is False:
        return ABSENT
    if te.cudnn is None or libraries.loaded is None:
        return Unknown("which cuDNN is loaded beside Transformer Engine was not seen")
    own = _parts(libraries.loaded)
    if not own or not te.cudnn:
        return NotApplicable("no cuDNN is loaded")
    known = _folders(own)
    foreign = [part for part in te.cudnn if part.path and str(PurePath(part.path).parent) not in known]
    version = _version(own)
    if len(known) > 1 or not foreign:
        return None  # of torch alone LIB001 tells
    if version is None or te.cudnn_version is None:
        return Unknown("parts of another cuDNN are loaded, and which version torch calls was not seen")
    if te.cudnn_version == version:
        return None
    return Finding(
        title=f"Importing Transformer Engine makes torch call cuDNN {te.cudnn_version} in place of its own {version}",
        evidence=(
            Evidence(f"torch alone: cuDNN {version} from {' and '.join(known)}", fact="libraries.loaded"),
            Evidence(
                f"with Transformer Engine: cuDNN {te.cudnn_version}, {len(foreign)} of its parts from"
                f" {' and '.join(_folders(foreign))}",
                fact="transformer_engine.cudnn",
            ),
        ),
        actions=(Action("Let torch's own cuDNN be found first, before Python starts", ONE_CUDNN),),
        about=ABOUT,
    )


def _parts(loaded: tuple[LoadedLibrary, ...]) -> list[LoadedLibrary]:
    return [library for library in loaded if (library.name or "").startswith("libcudnn")]


def _folders(parts: list[LoadedLibrary]) -> list[str]:
    return list(dict.fromkeys(str(PurePath(part.path).parent) for part in parts if part.path))


def _version(parts: list[LoadedLibrary]) -> str | None:
    """The version that cuDNN itself says, as torch alone loads it."""
    return next((part.version for part in parts if part.name == "libcudnn" and part.version_from == "call"), None)
