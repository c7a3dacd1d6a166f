"""What does one recording add up to?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeVar

from fp8doctor.reading.trace import device as devices
from fp8doctor.reading.trace import host as hosts
from fp8doctor.reading.trace import idle as idling
from fp8doctor.reading.trace import kernel_names, operators, products
from fp8doctor.reading.trace.intervals import Overlap, without
from fp8doctor.reading.trace.kinds import NOTHING, Above, Kinds, Told
from fp8doctor.reading.trace.recording import FROM_HOST, KERNEL, TO_HOST, Recording
from fp8doctor.traced import CastTotal, FunctionTotal, KernelTotal, OperatorTotal, ProductTotal, Trace, WaitTotal

# Of each list; what is left out of the kernels is said.
MAX_LISTED = 200
MAX_MODULES = 8
MAX_FUNCTIONS = 10
MAX_NAME = 200
_US_DIGITS = 3
T = TypeVar("T")
# Operators that stand in a row before a cast to FP8, or before a largest value is found.
_PARTS = {"aten::clamp": "clamp", "aten::mul": "scale", "aten::div": "scale", "aten::copy": "copy", "aten::abs": "abs"}


@dataclass
class _Sum:
    count: int = 0
    us: float = 0.0
    told: Told = field(default_factory=lambda: Told("other"))
    modules: dict[str, None] = field(default_factory=dict)


def add_up(recording: Recording, kinds: Kinds) -> Trace:
    """The totals of one recording: of the device on which most time was spent, and of the host."""
    return _Adder(recording, kinds).trace()


class _Adder:
    def __init__(self, recording: Recording, kinds: Kinds) -> None:
        self.recording = recording
        self.kinds = kinds
        self.told: dict[devices.Key, Told] = {}
        self.above: dict[int, Above] = {}
        self.shapes = {number: key for key, number in recording.shapes.items()}
        self.host = hosts.follow(recording, kinds.role, _copies(recording))

    def trace(self) -> Trace:
        recording, host = self.recording, self.host
        facts: dict[str, Any] = {}
        device_us: dict[int, float] = {}
        gaps = None
        if len(recording.activities):
            device = devices.follow(recording, host, devices.busiest(recording), self._part)
            idle = idling.idle(device, host)
            gaps = idle.gaps if idle else None
            facts = self._of_device(device, idle)
            for (_, _, context, _), (_, us) in device.totals.items():
                if operator := host.contexts[context][0]:
                    device_us[operator] = device_us.get(operator, 0.0) + us
        regions = next((count for count in host.regions if count), 0)
        has_host = len(recording.host) > 0
        return Trace(
            format=recording.format,
            torch_version=recording.torch_version,
            accelerator=self._accelerator(),
            has_shapes=recording.has_shapes,
            has_stacks=recording.has_stacks,
            cut=recording.cut,
            events=recording.events,
            skipped_events=recording.skipped,
            missing=tuple(recording.missing) or None,
            steps=len(recording.steps) if recording.steps else None,
            step_us=_us(median(end - start for start, end in recording.steps.values())) if recording.steps else None,
            operators=self._operators(device_us) if host.operators else None,
            waits=self._waits(gaps) if host.calls else None,
            launches=host.launches if host.calls else None,
            graph_launches=host.graph_launches if host.calls else None,
            compiled_regions=regions if has_host else None,
            recompiled=host.recompiled if has_host else None,
            graph_breaks=self._graph_breaks() if recording.has_stacks else None,
            compilations=host.compilations if has_host else None,
            compilation_us=_us(host.compilation_us) if has_host else None,
            **facts,
        )

    def _graph_breaks(self) -> dict[str, int]:
        """Where graphs go on after a break, the most frequent first."""
        texts = self.recording.names.texts
        found: dict[str, int] = {}
        for name, count in self.host.graph_breaks.items():
            place = (operators.graph_break_at(texts[name]) or "")[:MAX_NAME]
            found[place] = found.get(place, 0) + count
        return dict(_largest(found.items(), lambda item: item[1])[:MAX_FUNCTIONS])

    def _functions(self, idle: idling.Idle) -> tuple[FunctionTotal, ...]:
        texts = self.recording.names.texts
        rows = [
            FunctionTotal(texts[name][:MAX_NAME], texts[caller][:MAX_NAME] if caller else None, _us(us))
            for (name, caller), us in idle.functions.items()
        ]
        return tuple(_largest(rows, lambda row: row.us or 0.0)[:MAX_FUNCTIONS])

    def _accelerator(self) -> str:
        recording = self.recording
        if not len(recording.activities):
            return "cpu"
        if recording.xpu:
            return "xpu"
        names = recording.names.texts
        hip = recording.hip or any(name.startswith(("hip", "Cijk_")) for name in names)
        amd = any("AMD" in name or "Instinct" in name for name, _ in recording.properties.values())
        return "rocm" if hip or amd else "cuda"

    def _of_device(self, device: devices.Device, idle: idling.Idle | None) -> dict[str, Any]:
        us_by_kind: dict[str, float] = {}
        count_by_kind: dict[str, int] = {}
        kernels: dict[tuple[str, str, str | None, str | None], _Sum] = {}
        found: dict[tuple[int, str], _Sum] = {}
        casts: dict[bytes, _Sum] = {}
        inductor = 0
        for key, (count, us) in device.totals.items():
            category, name, context, _ = key
            if not count:  # all of it was told by its neighbours
                continue
            told = self._tell(key)
            us_by_kind[told.kind] = us_by_kind.get(told.kind, 0.0) + us
            count_by_kind[told.kind] = count_by_kind.get(told.kind, 0) + int(count)
            text = self.recording.names.texts[name]
            if category == KERNEL and kernel_names.is_inductor(text):
                inductor += int(count)
            _add(kernels, (told.kind, text[:MAX_NAME], told.operator, told.known_by), told, count, us)
            _, _, _, shape, module = self.host.contexts[context]
            if shape and self.shapes[shape][0] == operators.CAST:
                _add(casts, self.shapes[shape][2], told, count, us)
            elif shape and told.kind.endswith("gemm"):
                # What adds up a product that was split along K is no product more.
                products_here = 0 if kernel_names.is_reduction_of_product(text) else count
                modules = _add(found, (shape, told.kind), told, products_here, us).modules
                name_of_module = operators.module_of(self.recording.names.texts[module]) if module else None
                if name_of_module and len(modules) < MAX_MODULES:
                    modules[name_of_module] = None
        listed = _largest(kernels.items(), lambda item: item[1].us)
        busy, gaps = device.busy, device.gaps
        exposed = without(device.communication, device.working).total_us
        copied = without(device.copies, device.computing).total_us
        span = device.span_us
        names, capabilities = self._properties(device)
        return {
            "device_names": names,
            "compute_capabilities": capabilities,
            "devices": len(self.recording.devices),
            "span_us": _us(span),
            "busy_us": _us(min(span, busy.total_us)),
            "idle_us": _us(gaps.total_us),
            "idle_launching_us": _us(idle.launching_us) if idle else None,
            "idle_waiting_us": _us(idle.waiting_us) if idle else None,
            "idle_elsewhere_us": _us(idle.elsewhere_us) if idle else None,
            "idle_loading_us": _us(idle.loading_us) if idle else None,
            "idle_between_us": _us(idle.between_us) if idle else None,
            "idle_functions": self._functions(idle) if idle else None,
            "before": device.before,
            "before_us": _us(device.before_us),
            "between_products_us": _us(device.between_products_us),
            "us_by_kind": {kind: _us(us) for kind, us in sorted(us_by_kind.items(), key=lambda item: -item[1])},
            "count_by_kind": count_by_kind,
            "kernels": tuple(_kernel_total(key, total) for key, total in listed),
            "kernels_left_out_us": _us(
                max(0.0, sum(us_by_kind.values()) - sum(total.us for _, total in listed))
                if len(kernels) > MAX_LISTED
                else 0.0
            ),
            "products": self._products(found) if self.recording.has_shapes else None,
            "casts": self._casts(casts) if self.recording.has_shapes else None,
            "inductor_kernels": inductor,
            "streams": device.streams,
            "communication_us": _us(us_by_kind.get("communication", 0.0)),
            "exposed_communication_us": _us(exposed),
            "exposed_copies_us": _us(copied),
        }

    def _properties(self, device: devices.Device) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
        """The devices that did something, the one that counts first."""
        properties = self.recording.properties
        seen = sorted(self.recording.devices.items(), key=lambda item: item[1] != device.number)
        known = [properties[key] for key, _ in seen if key in properties]
        # What Kineto calls the compute capability of an AMD GPU is none.
        capabilities = tuple(capability for _, capability in known if capability)
        names = tuple(name for name, _ in known)
        return names or None, (capabilities or None) if self._accelerator() == "cuda" else None

    def _tell(self, key: devices.Key) -> Told:
        told = self.told.get(key)
        if told is None:
            category, name, context, kind = key
            text = self.recording.names.texts[name]
            told = self.kinds.tell(category, text, self._above(context))
            self.told[key] = told = Told(kind, told.operator, "sequence") if kind else told
        return told

    def _part(self, key: devices.Key) -> str | None:
        told = self._tell(key)
        kind = told.kind
        if kind in ("communication", "amax", "dequantize"):
            return kind
        operator = self._above(key[2]).direct
        if told.operator in operators.BATCHED and kind.endswith("gemm"):
            return "batched"
        if operators.is_softmax(f"{told.operator} {self.recording.names.texts[key[1]]}"):
            return "softmax"
        if kind == "quantize":
            cast = operator == operators.CAST or "float8_copy" in self.recording.names.texts[key[1]]
            return "cast" if cast else None
        return _PARTS.get(operator.rstrip("_")) if kind == "elementwise" and operator else None

    def _above(self, context: int) -> Above:
        if not context:
            return NOTHING
        above = self.above.get(context)
        if above is None:
            texts = self.recording.names.texts
            direct, telling, enclosing, shape, _ = self.host.contexts[context]
            operator, _, types = self.shapes.get(shape, ("", b"", b""))
            self.above[context] = above = Above(
                texts[direct] if direct else None,
                texts[telling] if telling else None,
                texts[enclosing] if enclosing else None,
                products.types_of(operator, types) if operator else "",
            )
        return above

    def _products(self, found: dict[tuple[int, str], _Sum]) -> tuple[ProductTotal, ...]:
        totals: dict[Any, _Sum] = {}
        for (shape, kind), total in found.items():
            operator, dims, types = self.shapes[shape]
            merged = _add(
                totals, (operator, kind, products.product(operator, dims, types)), total.told, total.count, total.us
            )
            merged.modules.update(total.modules)
        return tuple(
            ProductTotal(
                operator=operator,
                kind=kind,
                m=size.m,
                k=size.k,
                n=size.n,
                batch=size.batch,
                types=size.types or None,
                modules=tuple(total.modules)[:MAX_MODULES] or None,
                count=total.count,
                us=_us(total.us),
            )
            for (operator, kind, size), total in _largest(totals.items(), lambda item: item[1].us)
        )

    def _casts(self, found: dict[bytes, _Sum]) -> tuple[CastTotal, ...]:
        rows = []
        for types, total in found.items():
            target, _, source = products.types_of(operators.CAST, types).partition(",")
            if source and source != target:
                rows.append(CastTotal(source[:80], target[:80], total.count, _us(total.us)))
        return tuple(_largest(rows, lambda row: row.us or 0.0))

    def _operators(self, device_us: dict[int, float]) -> tuple[OperatorTotal, ...]:
        texts = self.recording.names.texts
        rows = [
            OperatorTotal(texts[name][:MAX_NAME], int(count), _us(max(0.0, own)), _us(device_us.get(name, 0.0)))
            for name, (count, own) in self.host.operators.items()
            if not operators.is_step(texts[name])
        ]
        return tuple(_largest(rows, lambda row: max(row.host_self_us or 0.0, row.device_us or 0.0)))

    def _waits(self, gaps: Any) -> tuple[WaitTotal, ...]:
        texts = self.recording.names.texts
        idle = Overlap(gaps) if gaps is not None else None
        totals: dict[tuple[int, int, int], list[float]] = {}
        for call, start, end, operator, function in self.host.waits:
            total = totals.setdefault((call, operator, function), [0, 0.0, 0.0])
            total[0] += 1
            total[1] += end - start
            total[2] += idle.us(start, end) if idle else 0.0
        rows = [
            WaitTotal(
                texts[call][:MAX_NAME],
                texts[operator][:MAX_NAME] if operator else None,
                int(count),
                _us(us),
                _us(idle_us) if idle else None,
                texts[function][:MAX_NAME] if function else None,
            )
            for (call, operator, function), (count, us, idle_us) in totals.items()
        ]
        return tuple(_largest(rows, lambda row: row.us or 0.0))


def _copies(recording: Recording) -> Any:
    """Whether a copy from or to the host was done when its call returned: that call has waited for it."""
    kept = recording.activities
    ends = {
        kept.correlation[at]: kept.start[at] + kept.dur[at]
        for at, category in enumerate(kept.category)
        if category in (FROM_HOST, TO_HOST)
    }
    return lambda correlation, returned: correlation in ends and ends[correlation] <= returned


def _kernel_total(key: tuple[str, str, str | None, str | None], total: _Sum) -> KernelTotal:
    kind, name, operator, known_by = key
    return KernelTotal(
        kind=kind,
        name=name,
        operator=operator[:MAX_NAME] if operator else None,
        known_by=known_by,
        count=total.count,
        us=_us(total.us),
        backend=total.told.backend,
        precision=total.told.precision,
    )


def _add(sums: dict[T, _Sum], key: T, told: Told, count: float, us: float) -> _Sum:
    total = sums.get(key)
    if total is None:
        total = sums[key] = _Sum(told=told)
    total.count += int(count)
    total.us += us
    return total


def _largest(rows: Iterable[T], by: Any) -> list[T]:
    return sorted(rows, key=by, reverse=True)[:MAX_LISTED]


def _us(us: float) -> float:
    return round(us, _US_DIGITS)
