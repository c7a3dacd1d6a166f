"""Do the versions alone settle that torchao's kernels were built for another torch? For texts."""

from __future__ import annotations

import re

from fp8doctor.checks.libraries.facts import Libraries
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.checks.torchao.facts import ABOUT, ABSENT, Torchao
from fp8doctor.checks.torchao.rules import match
from fp8doctor.model import Evidence, Finding, NotApplicable, Severity, observed
from fp8doctor.registry import rule

# The torch that a torchao's kernels were built against. Source: torchao/__init__.py of 0.15 and 0.16
# (torchao_pytorch_compatible_versions); pytorch/ao#2919.
BUILT_AGAINST = {"0.13.0": "2.8.0", "0.14.0": "2.8.0", "0.14.1": "2.9.0", "0.15.0": "2.9.1"}
# From 0.17.0 on they ask for this torch or a newer one (torchao/__init__.py of 0.17.0).
FIRST_OPEN, LEAST_TORCH = (0, 17), (2, 11)
# Kernels built with 2.8 end a Python with 2.9, and 0.13.0 is the last that loads them unasked (pytorch/ao#2908).
ABORTS, FIRST_TORCH_THAT_ENDS = "0.13.0", (2, 9)


@rule("AO011", "torchao-torch-mismatch", Severity.WARNING, scope="box")
def versions_do_not_fit(
    libraries: Libraries, torch_build: TorchBuild, torchao: Torchao | None = None
) -> Finding | NotApplicable | None:
    """These versions of torchao and torch were not built for one another.

    What it means: torchao's wheel brings kernels that were built against one release of torch. With another one it
    passes them over, with a log line; 0.13.0 loads them, and with torch 2.9 or newer that ends Python ("Aborted").
    Asked only where torchao itself was not looked at.

    Why it costs time: dense FP8 does not need these kernels, hence a hint; where Python ends, nothing runs.

    What to do: take the torchao that was built for this torch.

    Sources: torchao/__init__.py 0.15 to 0.17; pytorch/ao#2908, #2919.
    """
    if torchao is not None:
        return NotApplicable("torchao itself was looked at")
    if "torchao" in (libraries.absent or ()):
        return ABSENT
    ao = observed(libraries.version("torchao"), "torchao's version")
    torch = observed(_numbers(torch_build.version), "torch's version")
    if not _differ(ao, torch) or "dev" in (torch_build.version or ""):
        return None
    ends = ao == ABORTS and torch >= FIRST_TORCH_THAT_ENDS
    return Finding(
        title=f"torchao {ao} ends Python with torch {torch_build.version}"
        if ends
        else f"torchao {ao} runs without its compiled kernels with torch {torch_build.version}",
        evidence=(
            Evidence(f"torchao {ao} was built against torch {_wanted(ao)}", ao, fact="libraries.installed.torchao"),
            Evidence(f"torch {torch_build.version}", torch_build.version, fact="torch_build.version"),
        ),
        actions=(match(torch_build.version),),
        about=ABOUT,
        severity=Severity.WARNING if ends else Severity.INFO,
    )


def _numbers(version: str | None) -> tuple[int, ...] | None:
    found = re.match(r"\d+(?:\.\d+){1,2}", version or "")
    return tuple(map(int, found[0].split("."))) if found else None


def _wanted(ao: str) -> str:
    return BUILT_AGAINST.get(ao, f"{LEAST_TORCH[0]}.{LEAST_TORCH[1]} or newer")


def _differ(ao: str, torch: tuple[int, ...]) -> bool:
    """Whether a table says of both that they differ; a torch of two numbers is any of its patches."""
    if built := _numbers(BUILT_AGAINST.get(ao)):
        return torch != built[: len(torch)]
    known = _numbers(ao)
    return known is not None and known[:2] >= FIRST_OPEN and torch[:2] < LEAST_TORCH
