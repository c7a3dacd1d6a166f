"""What can this text not tell, and which one command would settle it?"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fp8doctor.pasted import Untold
from fp8doctor.reading import header
from fp8doctor.reading.saying import Found

MOST = 5
# Packages that none of the reports' filters let through. Source: torch/utils/collect_env.py and vllm/collect_env.py.
_NEVER_LISTED = ("flash-attn", "transformer-engine")
_COLLECT = "python -m torch.utils.collect_env"
_OTHER_PYTHON = "the Python that wrote the report had no torch; ask with the Python that runs the model"
_RUNS = Untold("whether FP8 runs here, is right and pays", "a text calls and times nothing", "fp8doctor", of_fp8=True)
_LISTS = Untold(
    "whether FlashAttention and Transformer Engine are installed",
    "these reports never list them, so that their absence says nothing",
    "python -m pip show flash-attn transformer-engine",
    of_fp8=True,
)
# Any extension's kernel may raise it as well as torch's own, so that alone it does not say what to mend.
_NO_CODE = re.compile(r"CUDA error: no kernel image is available for execution on the device")
NO_CODE_FORMAT = "cuda-error"
_WHOSE_CODE = Untold(
    "whose code for this GPU is missing, torch's or an extension's",
    "CUDA found no kernel image, and the message does not say of what",
    'python -c "import torch; print(torch.cuda.get_arch_list(), torch.cuda.get_device_capability())"',
)


def lacks_code(lines: Sequence[str]) -> bool:
    """Whether CUDA said that some program has no code for the GPU."""
    return any("no kernel image" in line and _NO_CODE.search(line) for line in lines)


def untold(box: Found | None, formats: tuple[str, ...], others: list[Found]) -> tuple[Untold, ...]:
    """The gaps, the most useful to close first."""
    found = [_WHOSE_CODE] if NO_CODE_FORMAT in formats else []
    if box is None:
        gap = Untold("which GPU, driver and torch it is", "no report of the environment is in this text", _COLLECT)
        return (*found, gap, _RUNS)
    if header.FORMAT in formats:
        why = "its JSON is cut off or missing here, and its header line alone was judged"
        found.append(Untold("what that report of fp8doctor found", why, "fp8doctor --json FILE"))
    if others:
        found.insert(0, _others(others))
    gpus = box.get("gpus", "gpus")
    build = box.records.get("torch_build", {})
    found += _gpu(box, gpus)
    if not build.get("version"):
        why = _OTHER_PYTHON if "torch-collect-env" in formats else "no torch is named"
        found.append(Untold("which torch it is, and for which CUDA it was built", why, _COLLECT))
    elif build.get("accelerator") is None:
        command = 'python -c "import torch; print(torch.version.cuda, torch.version.hip)"'
        found.append(Untold("what this torch was built for", "the version says nothing of it", command))
    amd = build.get("accelerator") == "hip" or any(gpu.get("vendor") == "amd" for gpu in gpus or ())
    if gpus and not amd and not box.get("driver", "version"):
        why = "the report could not read it" if "collect-env" in box.format else "this kind of report never names it"
        found.append(Untold("the driver's version", why, "nvidia-smi"))
    installed = box.get("libraries", "installed") or {}
    if gpus != []:
        found.append(_RUNS)
    if build.get("version") and gpus != [] and not any(name in installed for name in _NEVER_LISTED):
        found.append(_LISTS)
    return tuple(found[:MOST])


def _gpu(box: Found, gpus: list[dict[str, object]] | None) -> list[Untold]:
    amd = box.get("torch_build", "accelerator") == "hip"
    command = "rocm-smi --showproductname" if amd else "nvidia-smi -L"
    if gpus == []:
        return [Untold("whether the machine has a GPU", "no GPU was visible where the report was written", command)]
    if gpus is None:
        return [Untold("which GPUs it has", "no GPU is named", command)]
    if box.first_gpu_only:
        return [Untold("how many GPUs it has", "only the first one is named", command)]
    if any(str(gpu.get("name")).endswith("...") and not gpu.get("compute_capability") for gpu in gpus):
        return [Untold("the GPU's whole name", "this nvidia-smi cuts it", command)]
    return []


def _others(others: list[Found]) -> Untold:
    told = "; ".join(_told(other) for other in others[:2])
    why = f"the first differs from the next ({told}); cut the text into one report each and read each"
    return Untold("what the other boxes are like", why)


def _told(other: Found) -> str:
    gpus = other.get("gpus", "gpus") or []
    names = [str(gpu.get("name")) for gpu in gpus[:1]]
    torch = other.get("torch_build", "version")
    driver = other.get("driver", "version")
    said = ", ".join([*names, *([f"torch {torch}"] if torch else []), *([f"driver {driver}"] if driver else [])])
    return f"{said or other.format}, from line {other.line + 1}"
