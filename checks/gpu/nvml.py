"""How is NVML asked, so that what is not supported, or a GPU that is lost, costs one value and not the report?"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NoAnswerYet
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
# Names beside NVML's own: a call that does not return, one that ended the process, a library that is there and does
# not load, and no nvidia-ml-py that could call it.
NO_ANSWER, CRASHED, LIBRARY_BROKEN, NOT_INSTALLED = "NO_ANSWER", "CRASHED", "LIBRARY_BROKEN", "NOT_INSTALLED"
# Errors after which nothing more is heard of a GPU; all others ("not supported") are normal for single values.
GONE = ("GPU_IS_LOST", "RESET_REQUIRED", "IRQ_ISSUE", "INSUFFICIENT_POWER", NO_ANSWER)
# nvmlClockType_t, nvmlTemperatureSensors_t and nvmlEnableState_t of nvml.h: a stray module named pynvml may lack them.
CLOCK_GRAPHICS, CLOCK_SM, CLOCK_MEMORY = 0, 1, 2
TEMPERATURE_GPU = 0
ENABLED = 1
# Opening the library wakes every GPU that no persistence daemon keeps awake, which takes seconds.
OPENING_PATIENCE_S = 4.0
# Calls on an opened library take milliseconds, more where the driver is busy: they get half of that, at least this.
PATIENCE_S = 3.0
# Once one did not return, others may wait for the lock that it holds: they get this part of it.
PART_AFTERWARDS = 1 / 6

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


class NoAnswerError(Exception):
    """A call of NVML did not return in time."""


class Nvml:
    """The one door to NVML: a call that fails, or does not return, gives None.

    Args:
        patience_s: how long opening the library may take.

    Raises:
        NvmlUnavailableError: if the binding, the library or the driver is missing, does not answer, or the two do not
            match.
    """

    def __init__(self, patience_s: float = OPENING_PATIENCE_S) -> None:
        try:
            import pynvml
        except Exception as error:  # a stray module of that name may raise anything
            raise NvmlUnavailableError(NOT_INSTALLED, str(error)) from None
        self.library: Any = pynvml
        # What the last call that failed said.
        self.last_error: str | None = None
        self._gone: str | None = None
        self._caller = ThreadPoolExecutor(max_workers=1)
        self._patience_s = max(patience_s / 2, PATIENCE_S)
        self._hung = False
        try:
            self._call("nvmlInit", (), max(patience_s, OPENING_PATIENCE_S))
        except NoAnswerError as error:
            raise NvmlUnavailableError(NO_ANSWER, str(error)) from None
        except AttributeError as error:  # a folder or a module of that name which is not nvidia-ml-py
            raise NvmlUnavailableError(NOT_INSTALLED, str(error)) from None
        except Exception as error:
            name = self._name(error)
            broken = why_not_loaded() if name == "LIBRARY_NOT_FOUND" else None
            raise NvmlUnavailableError(LIBRARY_BROKEN if broken else name, broken or str(error)) from None

    def get(self, names: str | tuple[str, ...], *arguments: Any) -> Any:
        """Call NVML and return what it says, or None; of several names the first that answers counts."""
        for name in (names,) if isinstance(names, str) else names:
            if self._gone is not None and self._gone.startswith(NO_ANSWER):
                return None
            try:
                return self._call(name, arguments, self._patience_s * (PART_AFTERWARDS if self._hung else 1))
            except NoAnswerError as error:
                self._hung = True
                self._gone = self.last_error = f"{NO_ANSWER}: {error}"
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

    def _call(self, name: str, arguments: tuple[Any, ...], patience_s: float) -> Any:
        """Call NVML in a thread, which is left behind with a call that never returns."""
        function: Callable[..., Any] = getattr(self.library, name)
        try:
            return self._caller.submit(function, *arguments).result(timeout=patience_s)
        except NoAnswerYet:
            self._caller = ThreadPoolExecutor(max_workers=1)
            raise NoAnswerError(f"{name} did not return within {patience_s:.2g} s") from None

    def _name(self, error: Exception) -> str:
        code = getattr(error, "value", None)
        names = (n for n, v in vars(self.library).items() if n.startswith("NVML_ERROR_") and v == code)
        return next(names, type(error).__name__).removeprefix("NVML_ERROR_")


def why_not_loaded() -> str | None:
    """What the loader says against a library that it found; None if it found none, or loads it."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError as error:
        return None if "cannot open shared object file" in str(error) else str(error)
    return None


def plausible(value: int | None, most: int) -> int | None:
    """The value, None for what nothing can have: a broken sensor answers with all bits set."""
    return value if value is not None and 0 <= value <= most else None


def in_words(error: str) -> str:
    """An error as evidence shows it: NVML's by name and text, what it did not say itself in words alone."""
    name, _, words = error.partition(": ")
    if name == CRASHED:
        return f"the process that asked NVML was ended by it: {words}"
    return words if words and name in (NO_ANSWER, LIBRARY_BROKEN, NOT_INSTALLED) else f"NVML: {error}"


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
