"""How is NVML asked, so that what is not supported, or a GPU that is lost, costs one value and not the report?"""

from __future__ import annotations

from typing import Any

# Errors after which nothing more is heard of a GPU; all others ("not supported") are normal for single values.
GONE = ("GPU_IS_LOST", "RESET_REQUIRED", "IRQ_ISSUE", "INSUFFICIENT_POWER")

# Bits of nvmlDeviceGetCurrentClocksEventReasons (constants nvmlClocksEventReason* of nvidia-ml-py; older drivers call
# them throttle reasons, with the same bits).
EVENT_REASONS = {
    0x001: "GpuIdle",
    0x002: "ApplicationsClocksSetting",
    0x004: "SwPowerCap",
    0x008: "HwSlowdown",
    0x010: "SyncBoost",
    0x020: "SwThermalSlowdown",
    0x040: "HwThermalSlowdown",
    0x080: "HwPowerBrakeSlowdown",
    0x100: "DisplayClockSetting",
    0x200: "BoardLimit",
    0x400: "Reliability",
}
_EVENT_REASON_CALLS = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")


class NvmlUnavailableError(Exception):
    """NVML cannot be used at all; `name` is the NVML error without its prefix ("DRIVER_NOT_LOADED")."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


class Nvml:
    """The one door to NVML: a call that fails gives None.

    Raises:
        NvmlUnavailableError: if the binding, the library or the driver is missing, or the two do not match.
    """

    def __init__(self) -> None:
        try:
            import pynvml
        except Exception as error:  # a stray module of that name may raise anything
            raise NvmlUnavailableError("NOT_INSTALLED", str(error)) from None
        self.library: Any = pynvml
        # What the last call that failed said.
        self.last_error: str | None = None
        self._gone: str | None = None
        try:
            pynvml.nvmlInit()
        except Exception as error:
            raise NvmlUnavailableError(self._name(error), str(error)) from None

    def get(self, names: str | tuple[str, ...], *arguments: Any) -> Any:
        """Call NVML and return what it says, or None; of several names the first that answers counts."""
        for name in (names,) if isinstance(names, str) else names:
            try:
                return getattr(self.library, name)(*arguments)
            except Exception as error:  # NVMLError, or AttributeError from an older binding
                name = self._name(error)
                self.last_error = f"{name}: {error}"
                if name in GONE:
                    self._gone = self.last_error
        return None

    def event_reasons(self, handle: Any) -> tuple[str, ...] | None:
        """Name what lowers the clocks at this moment."""
        bits = self.get(_EVENT_REASON_CALLS, handle)
        return None if bits is None else tuple(name for bit, name in EVENT_REASONS.items() if bits & bit)

    def take_gone(self) -> str | None:
        """Return how NVML said that a GPU is gone since this was last asked, if it did."""
        gone, self._gone = self._gone, None
        return gone

    def _name(self, error: Exception) -> str:
        code = getattr(error, "value", None)
        names = (n for n, v in vars(self.library).items() if n.startswith("NVML_ERROR_") and v == code)
        return next(names, type(error).__name__).removeprefix("NVML_ERROR_")


def milliwatts(value: int | None) -> float | None:
    """NVML counts power in milliwatts; facts are in watts."""
    return None if value is None else value / 1000


def uuid_key(uuid: str | None) -> str | None:
    """A GPU's UUID in the form that NVML ("GPU-1a2b...") and torch ("1a2b...") share."""
    return uuid.lower().removeprefix("gpu-") if uuid else None


def pci_key(address: str | None) -> tuple[int, int, int] | None:
    """Domain, bus and device of a PCI address, however many zeros it is written with."""
    parts = (address or "").partition(".")[0].split(":")
    try:
        numbers = [int(part, 16) for part in parts]
    except ValueError:
        return None
    if len(numbers) == 2:
        numbers.insert(0, 0)
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else None
