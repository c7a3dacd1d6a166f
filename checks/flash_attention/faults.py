"""What kind of failure is it, and what is to be done about it? Shared by the rules."""

from __future__ import annotations

import re
from collections.abc import Callable

from fp8doctor.checks.flash_attention.facts import FlashAttention, Generation
from fp8doctor.checks.gpu import capability
from fp8doctor.model import Action, Evidence, NotApplicable, RuleResult, Unknown, Verdict, observed, per_item

# Mangled names in the namespaces at, c10, torch and caffe2, and torch's stable C functions: only torch defines them.
TORCH_SYMBOL = r"undefined symbol: (_Z\w*?[NK](2at|3c10|5torch|6caffe2)|aoti_torch_)"
_PIP_NAME = {2: "flash-attn", 3: "flash-attn-3", 4: "flash-attn-4"}


def name_of(item: Generation) -> str:
    """The generation and its version."""
    return f"FlashAttention {item.generation}" + (f" ({item.version})" if item.version else "")


def about(item: Generation) -> str:
    """What a finding on it is about."""
    return f"package:{_PIP_NAME[item.generation or 2]}"


def said(item: Generation) -> Evidence:
    """What it said, and at which step."""
    step = f"calling {item.module}.flash_attn_func" if item.imported else f"importing {item.module}"
    return Evidence(f"{step}: {item.error or item.outcome}", fact="flash_attention.generations")


def fault(item: Generation, seen: FlashAttention) -> str | None:
    """Which rule a failure belongs to, None where there is none."""
    text = item.error or ""
    if item.outcome not in ("error", "crashed", "timeout", "refused"):
        return None
    if not item.imported:
        return "torch-abi" if re.search(TORCH_SYMBOL, text) else "other"
    if item.generation == 3 and capability(seen.compute_capability) not in (None, (9, 0)):
        return "not-hopper"
    if "no kernel image" in text:
        return "arch"
    return "refused" if item.outcome == "refused" else "other"


def _inherits(item: Generation, seen: FlashAttention) -> bool:
    """FlashAttention 4 lies under flash_attn, whose own code (FlashAttention 2) runs first and fails the same way."""
    below = seen.generation(2)
    return (
        item.generation == 4
        and below is not None
        and below.imported is False
        and item.imported is False
        and item.error == below.error
    )


def judge_installed(seen: FlashAttention, judge: Callable[[Generation], Verdict]) -> RuleResult:
    """Judge each generation that is here and was tried; what was not tried is unknown."""

    def tried(item: Generation) -> Verdict:
        if item.outcome is None and item.imported is None:
            return Unknown(f"{name_of(item)} was not tried: {item.not_called or 'the probe did not come to it'}")
        if _inherits(item, seen):
            return NotApplicable("FlashAttention 4 fails as the FlashAttention 2 around it does")
        return judge(item)

    here = [item for item in observed(seen.generations, "FlashAttention") if item.installed]
    return per_item(here, tried) if here else NotApplicable("no FlashAttention package is installed")


def unless_ran(item: Generation) -> Unknown | NotApplicable | None:
    """None (pass) if it was called and came back with a result, otherwise why that tells nothing."""
    if item.outcome is None:
        why = item.not_called or "the probe did not come to it"
        return Unknown(f"{name_of(item)} was imported and not called: {why}")
    return None if item.outcome in ("ok", "wrong") else NotApplicable(f"{name_of(item)} gave no result")


def remove_or_rebuild(item: Generation) -> tuple[Action, ...]:
    """The two ways out of a broken package; the one that is done in seconds comes first."""
    remove = f"python -m pip uninstall -y {item.distribution}" if item.distribution else None
    again = (
        "install it again, with all that it needs" if item.generation == 4 else "build it for this torch and this GPU"
    )
    return (
        Action("If nothing here needs it, remove it: torch's own attention does without.", remove),
        Action(f"If something does, {again}.", rebuild(item.generation or 2, item.version)),
    )


def rebuild(generation: int, version: str | None = None) -> str:
    """The command that makes the package anew, in the same version where that is known, and leaves torch as it is."""
    wanted = _PIP_NAME[generation] + (f"=={version.partition('+')[0]}" if version else "")
    if generation == 4:
        pip = "python -m pip install"
        return f"{pip} --force-reinstall --no-deps --pre '{wanted}' && {pip} --pre '{wanted}'"
    # Without the variable pip may take the same wheel again (setup.py, hopper/setup.py).
    if generation == 3:
        return (
            "git clone --recursive https://github.com/Dao-AILab/flash-attention && cd flash-attention/hopper"
            " && MAX_JOBS=4 FLASH_ATTENTION_FORCE_BUILD=TRUE python -m pip install --no-deps --no-build-isolation ."
        )
    return (
        "MAX_JOBS=4 FLASH_ATTENTION_FORCE_BUILD=TRUE python -m pip install --force-reinstall --no-deps"
        f" --no-build-isolation --no-cache-dir '{wanted}'"
    )
