"""By which GPUs, clocks and other users of a GPU are two reports compared?"""

from __future__ import annotations

from collections import Counter

from fp8doctor.checks.gpu.clocks import Clocks
from fp8doctor.checks.gpu.facts import Gpu, Gpus
from fp8doctor.checks.gpu.rules import path
from fp8doctor.model import Trait
from fp8doctor.registry import traits

_WORK = ("device", "step")
_POWER = "what computes on the device for long runs into the power limit, and is clocked down there"
_CLOCK = "what computes on the device takes longer at a lower clock"
# Field, its words, unit, how it changes times (None: not known to), what a larger one makes of them.
_FIELDS = (
    ("power_limit_w", "power limit", "W", _POWER, "faster"),
    ("sm_clock_max_mhz", "highest SM clock", "MHz", _CLOCK, "faster"),
    ("application_clock_mhz", "SM clock that is set", "MHz", _CLOCK, "faster"),
    ("memory_clock_max_mhz", "highest memory clock", "MHz", "what moves data takes longer at a lower one", "faster"),
    ("sm_count", "SMs", None, "what computes on the device takes longer with fewer", "faster"),
    ("memory_total_mib", "memory", "MiB", None, None),
    ("mig_enabled", "MIG", None, "a part of a GPU has a part of its SMs and of its memory's bandwidth", None),
    ("mps_active", "other programs through MPS", None, "they share the GPU's time", None),
    ("ecc_enabled", "ECC", None, None, None),
    ("compute_mode", "compute mode", None, None, None),
    ("persistence_mode", "persistence mode", None, None, None),
    ("pcie_generation_max", "PCIe generation", None, None, None),
    ("pcie_width", "PCIe lanes", None, None, None),
    ("nvlinks_active", "active NVLink links", None, "GPUs exchange data over them", "faster"),
    ("virtualization", "virtualisation", None, None, None),
)
# Reasons that name a fault of cooling or supply. SwPowerCap is not among them: heavy work brings it about anywhere.
_HELD = ("HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")
# In fewer samples than this share of those under load it is a moment, not a state.
_HELD_SHARE = 0.05


@traits
def of_gpus(gpus: Gpus) -> list[Trait]:
    """Which GPUs there are, how they are set, and who else computed on them."""
    if gpus.gpus is None:
        return []
    names = Counter(gpu.name for gpu in gpus.gpus)
    known = None if None in names else ", ".join(f"{n} x {name}" if n > 1 else str(name) for name, n in names.items())
    which = known if gpus.gpus else "none visible"
    found = [Trait("hardware", "GPU", which, fact="gpus.gpus[0].name", is_identity=True)]
    for gpu in gpus.gpus:
        found += _of(gpu, f" of GPU {gpu.index or 0}" if len(gpus.gpus) > 1 else "")
    return found


def _of(gpu: Gpu, which: str) -> list[Trait]:
    found = [
        Trait(
            "setting" if unit == "W" or field in ("application_clock_mhz", "compute_mode", "persistence_mode")
            else "hardware",
            f"{words}{which}",
            getattr(gpu, field),
            unit,
            path(gpu, field),
            why=why,
            affects=_WORK if why else (),
            more_is=more,  # type: ignore[arg-type]
        )
        for field, words, unit, why, more in _FIELDS
    ]  # fmt: skip
    others = None if gpu.processes is None else len(gpu.processes)
    why = "they take a share of the GPU while it is timed"
    found.append(Trait("condition", f"other processes{which}", others, None, path(gpu, "processes"), why=why))
    return found


@traits
def while_timed(clocks: Clocks) -> list[Trait]:
    """What the sensors said while times were taken: the clock that was reached, and what held it down."""
    loaded = [s for s in clocks.samples or () if s.event_reasons is not None and "GpuIdle" not in s.event_reasons]
    if not loaded:
        return []
    fastest = max((s.sm_clock_mhz for s in loaded if s.sm_clock_mhz is not None), default=None)
    shares = {name: sum(name in (s.event_reasons or ()) for s in loaded) / len(loaded) for name in _HELD}
    held = ", ".join(name for name, share in shares.items() if share >= _HELD_SHARE)
    fact = "clocks.samples"
    return [
        Trait("condition", "highest SM clock while timed", fastest, "MHz", fact, 0.02, _CLOCK, _WORK, "faster"),
        Trait("condition", "clocked down while timed by", held or "nothing", None, fact, why=_CLOCK, affects=_WORK),
    ]
