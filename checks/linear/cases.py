"""Finding one's way in the measured cases: which shape stands for all, and which FP8 configuration?"""

from __future__ import annotations

from collections.abc import Iterator

from fp8doctor.checks.gpu.facts import FIRST_FP8, capability
from fp8doctor.checks.linear.facts import Case, Linear
from fp8doctor.measuring.statistics import differs, speedup
from fp8doctor.model import Estimate, Evidence, NotApplicable, Unknown

# A layer of this many tokens is large enough to be about the GPU and small enough to be everyday.
TYPICAL_TOKENS = 4096
# What two runs differ by (benchmarks/RESULTS.md): gains below it are none.
LEAST_GAIN, SHORT_GAIN, SHORT_US = 1.03, 1.08, 50.0
# A loop in which the host asks this share of the time, for calls that last this factor of their work.
ASKING_SHARE, HOST_BOUND = 0.9, 1.15
Layer = tuple[int, int]


class Cases:
    """The timed cases of one record, by configuration and shape."""

    def __init__(self, linear: Linear) -> None:
        self._timed = {
            (case.kind, case.config, case.m, case.k, case.n): case
            for case in linear.cases or ()
            if time_of(case.device_us) is not None
        }
        self._tokens: dict[Layer, set[int]] = {}
        self._in_fp8: set[Layer] = set()
        self._compiled = {(c.k, c.n) for c in linear.compilations or () if _is_dynamic_fp8(c.config)}
        # A record that does not say what was compiled leaves nothing out, unless another layer was.
        self._all_compiled = linear.compilations is None
        for case in self._timed.values():
            if case.m is not None and case.k is not None and case.n is not None:
                layer = (case.k, case.n)
                self._tokens.setdefault(layer, set()).add(case.m)
                if case.kind == "layer" and _is_dynamic_fp8(case.config):
                    self._in_fp8.add(layer)
                    if (case.config or "").endswith("+compile"):
                        self._compiled.add(layer)

    def compared(self, layer: Layer) -> bool:
        """Whether FP8 was timed here in its best form: compiled, unless compiling it failed.

        Where the time ended before a layer was compiled, eager FP8's loss is not FP8's.
        """
        nowhere = self._all_compiled and not self._compiled
        return nowhere or layer in self._compiled or layer not in self._in_fp8

    def get(self, config: str, m: int, layer: Layer, kind: str = "layer") -> Case | None:
        """The timed case of a configuration at (M, (K, N)), None if it was not timed."""
        return self._timed.get((kind, config, m, *layer))

    def device_us(self, config: str, m: int, layer: Layer, kind: str = "layer") -> Estimate | None:
        """Its device time in microseconds."""
        case = self.get(config, m, layer, kind)
        return case.device_us if case else None

    def layers(self) -> list[Layer]:
        """The (K, N) pairs that were timed, in the order of measuring."""
        return list(self._tokens)

    def tokens(self, layer: Layer) -> list[int]:
        """The token counts timed for a layer, ascending."""
        return sorted(self._tokens.get(layer, ()))

    def configs(self, kind: str = "layer") -> list[str]:
        """The configurations that were timed, in the order of measuring."""
        return list(dict.fromkeys(c.config for c in self._timed.values() if c.kind == kind and c.config))

    def typical(self) -> tuple[int, Layer] | None:
        """The shape that stands for all: 4,096 tokens, or the nearest below, or above, of the first layer.

        The first in which a dynamic FP8 layer was timed, if there is one: a shape that FP8 refuses stands for none.
        """
        layers = self.layers()
        for layer in [*(layer for layer in layers if layer in self._in_fp8), *layers]:
            tokens = self.tokens(layer)
            below = [m for m in tokens if m <= TYPICAL_TOKENS]
            return (max(below) if below else tokens[0]), layer
        return None

    def fp8(self) -> str | None:
        """The eager FP8 configuration to speak of: torchao's where it was timed, the scaling that is faster compiled.

        None if no dynamic FP8 layer was timed.
        """
        where = self.typical()
        if where is None:
            return None
        for library in ("torchao", "torch"):
            eager = [c for s in ("rowwise", "tensorwise") if self.get(c := f"{library}-fp8-{s}", *where)]
            if eager:
                return min(eager, key=lambda config: self._rank(config, *where))
        return None

    def _rank(self, config: str, m: int, layer: Layer) -> float:
        compiled = self.device_us(f"{config}+compile", m, layer)
        own = self.device_us(config, m, layer)
        return compiled.median if compiled else 1e9 + (own.median if own else 0.0)

    def speedups(self, config: str, versus: str, layer: Layer) -> Iterator[tuple[int, Estimate]]:
        """The device-time factor of `config` over `versus` at each token count where both were timed."""
        for m in self.tokens(layer):
            fast, slow = self.device_us(config, m, layer), self.device_us(versus, m, layer)
            if fast and slow:
                yield m, speedup(slow, fast)


def _is_dynamic_fp8(config: str | None) -> bool:
    return any(scaling in (config or "") for scaling in ("-fp8-rowwise", "-fp8-tensorwise"))


# The cases of the record that was looked at last: twenty rules and exhibits ask for the same one.
_last: list[tuple[Linear, Cases]] = []


def cases_of(linear: Linear) -> Cases:
    """The cases of a record, by configuration and shape."""
    found = next(iter(_last), None)
    if found is None or found[0] is not linear:
        found = (linear, Cases(linear))
        _last[:] = [found]  # another thread may put its own there; what is returned is this one's
    return found[1]


def time_of(value: Estimate | None) -> Estimate | None:
    """The estimate, if it is a time at all: taking the flushes off a very short call may leave nothing of it."""
    return value if value is not None and value.low > 0 and value.median > 0 else None


def beyond_noise(ratio: Estimate, shorter: Estimate) -> bool:
    """Whether a factor is a gain: its interval leaves 1 out, and it exceeds what two runs differ by.

    Args:
        ratio: the factor.
        shorter: the shorter of the two times: two runs agree within 3 %, on times under 50 us within 8 %
            (benchmarks/RESULTS.md).
    """
    return differs(ratio) and ratio.median >= (SHORT_GAIN if shorter.median < SHORT_US else LEAST_GAIN)


def gains(slow: Estimate, fast: Estimate) -> bool:
    """Whether `fast` is faster than `slow` beyond the noise."""
    return beyond_noise(speedup(slow, fast), fast)


def waits_for_host(case: Case | None) -> bool:
    """Whether the device waits for the host when this case is called in a loop.

    The host then spends nearly the whole loop asking. A loop that takes longer than its bursts on the device shows
    less: at its power limit a GPU slows down, too.
    """
    if case is None or case.host_us is None or case.call_us is None or case.device_us is None:
        return False
    asks_all_the_time = case.host_us.median >= ASKING_SHARE * case.call_us.median
    return asks_all_the_time and case.call_us.low > HOST_BOUND * case.device_us.high


def us(value: Estimate | float | None) -> str:
    """Microseconds as a report shows them: three digits at most."""
    number = value.median if isinstance(value, Estimate) else value
    if number is None:
        return "?"
    return f"{number:,.0f} us" if number >= 20 else f"{number:.1f} us"


def shape_text(m: int, layer: Layer) -> str:
    """ "4096x3072x3072 (MxKxN)"."""
    return f"{m}x{layer[0]}x{layer[1]} (MxKxN)"


def not_measured(linear: Linear) -> NotApplicable | Unknown | None:
    """Why nothing can be said of these cases, None if an FP8 layer was timed."""
    if linear.measurable is False:
        return NotApplicable(linear.why_not or "nothing could be timed")
    cases = cases_of(linear)
    if cases.typical() is None:
        return Unknown("no shape was timed")
    if cases.fp8() is None and (capability(linear.compute_capability) or FIRST_FP8) < FIRST_FP8:
        return NotApplicable("this GPU has no FP8 tensor cores")
    if cases.fp8() is None:
        return Unknown("no FP8 layer was timed")
    return None


def typical(linear: Linear) -> tuple[Cases, str, int, Layer]:
    """The cases, the FP8 configuration to speak of, and the typical shape; only after `not_measured` said None."""
    cases = cases_of(linear)
    where, config = cases.typical(), cases.fp8()
    assert where is not None
    assert config is not None
    return cases, config, *where


def line(what: str, value: Estimate | float | None, more: str = "") -> Evidence:
    """A time as evidence."""
    number = value.median if isinstance(value, Estimate) else value
    return Evidence(f"{what}: {us(value)}{more}", number, "us", "linear.cases")


def gemm_of(config: str) -> str:
    """The bare product that a layer's configuration uses."""
    return "torch-fp8-rowwise" if "rowwise" in config else "torch-fp8-tensorwise"
