"""By which state of torchao are two reports compared? Its version is among the packages."""

from __future__ import annotations

from fp8doctor.checks.torchao.facts import Torchao
from fp8doctor.model import Listing, Trait
from fp8doctor.registry import traits

_WHY = "what needs a compiled kernel falls back, or fails, without it"


@traits
def of_torchao(torchao: Torchao) -> list[Listing]:
    """What is wrong with it: that it cannot be imported, and its libraries of kernels that torch did not load."""
    if torchao.installed is None:
        return []
    wrong = []
    if torchao.import_ok is False:
        wrong.append(Trait("software", "torchao fails to import", True, None, "torchao.import_error"))
    if torchao.kernels is not None and torchao.kernels_loaded is not None:
        missing = len(torchao.kernels) - len(torchao.kernels_loaded)
        name = "torchao's libraries of kernels that do not load"
        if missing:
            wrong.append(Trait("software", name, missing, None, "torchao.kernel_errors", 0.0, _WHY, ("torchao",)))
    return [Listing(tuple(wrong), "none")]
