"""By which state of Transformer Engine are two reports compared? Its version is among the packages."""

from __future__ import annotations

from fp8doctor.checks.transformer_engine.facts import TransformerEngine
from fp8doctor.checks.transformer_engine.times import TransformerEngineTimes
from fp8doctor.measuring.comparing import method_trait
from fp8doctor.model import Listing, Trait
from fp8doctor.registry import traits

_CUDNN = "Transformer Engine's attention is cuDNN's"


@traits
def of_transformer_engine(te: TransformerEngine) -> list[Trait | Listing]:
    """That it cannot be imported, if so, and the cuDNN that is called once it is there."""
    if te.installed is None:
        return []
    fails = Trait("software", "Transformer Engine fails to import", True, None, "transformer_engine.import_error")
    cudnn = Trait(
        "software", "cuDNN beside Transformer Engine", te.cudnn_version, None, "transformer_engine.cudnn_version",
        why=_CUDNN, affects=("transformer-engine", "te"),
    )  # fmt: skip
    return [Listing((fails,) if te.import_ok is False else (), "no"), cudnn]


@traits
def how_timed(times: TransformerEngineTimes) -> list[Trait]:
    """How its layers were timed."""
    return method_trait("te.Linear", times.method, "transformer_engine_times.method", ("transformer-engine",))
