"""What is a GPU activity: the operator above it is asked first, its own name second."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from fp8doctor.model import Kernel
from fp8doctor.reading.trace import kernel_names
from fp8doctor.reading.trace.operators import CAST, ENCLOSING, role
from fp8doctor.reading.trace.recording import FILL, FROM_HOST, KERNEL, ON_DEVICE, TO_HOST

_BY_CATEGORY = {FROM_HOST: "copy-from-host", TO_HOST: "copy-to-host", ON_DEVICE: "copy-on-device", FILL: "fill"}
_BESIDE_ATTENTION = ("quantize", "dequantize", "amax", "scale-layout")
_PRECISION = {
    "fp8-gemm": "fp8",
    "bf16-gemm": "16-bit",
    "fp16-gemm": "16-bit",
    "tf32-gemm": "32-bit",
    "fp32-gemm": "32-bit",
}
# A kernel's name is asked this far: templates of Eigen and CUTLASS go on for thousands of characters.
_ASKED_CHARACTERS = 2000


@dataclass(frozen=True)
class Above:
    """What stands above an activity on the host, as names; None: nothing, or not said."""

    # The innermost operator, the innermost one that says what it does, and the one round it all that does.
    direct: str | None = None
    telling: str | None = None
    enclosing: str | None = None
    # The operands' types of a product or a cast, as the trace has them.
    types: str = ""


NOTHING = Above()


@dataclass(frozen=True)
class Told:
    """What an activity is; `operator` and `known_by` as in `fp8doctor.traced.KernelTotal`."""

    kind: str
    operator: str | None = None
    known_by: str | None = None
    backend: str | None = None
    precision: str | None = None


class Kinds:
    """The kinds of activities, by the subjects' `KERNELS` and what the reader knows itself."""

    def __init__(self, kernels: Iterable[Kernel]) -> None:
        kernels = tuple(kernels)
        self._patterns = tuple((re.compile(kernel.pattern), kernel.kind) for kernel in kernels)
        self._operators: dict[str, str] = {}
        for kernel in kernels:
            if kernel.operator:
                self._operators.setdefault(kernel.operator, kernel.kind)
        self._roles: dict[str, str | None] = {}
        self._by_subject: dict[str, str | None] = {}

    def role(self, operator: str | None) -> str | None:
        """What an operator does by its name: a kind, or "gemm"; None if it does not say."""
        if operator is None:
            return None
        if operator not in self._roles:
            self._roles[operator] = self._operators.get(operator) or role(operator)
        return self._roles[operator]

    def tell(self, category: int, name: str, above: Above) -> Told:
        """What an activity of this category and name is, below these operators."""
        operator = above.telling or above.direct
        if category != KERNEL:
            return Told(_BY_CATEGORY[category], operator)
        name = name[:_ASKED_CHARACTERS]
        if kernel_names.is_communication(name):
            return Told("communication", operator, "name")
        kind, by = self._kind(name, above)
        if by == "operator" and kind == self.role(above.enclosing):
            operator = above.enclosing
        return Told(kind, operator, by, *self._details(kind, name, above))

    def _kind(self, name: str, above: Above) -> tuple[str, str | None]:
        named = self._named(name)
        telling, enclosing = self.role(above.telling), self.role(above.enclosing)
        generic = kernel_names.is_generic(name)
        if enclosing == "compile":
            return "compile", "operator"
        if enclosing == "attention":
            return (named, "name") if named in _BESIDE_ATTENTION else ("attention", "operator")
        if telling is not None and telling.endswith("gemm") and not generic:
            return self._product(name, named, telling, above)
        if telling == "convolution" and not generic:
            return telling, "operator"
        if enclosing is not None:
            # Inside of quantising, finding the largest value is a part that is told apart.
            return ("amax" if enclosing == "quantize" and telling == "amax" else enclosing), "operator"
        if named is not None:
            return named, "name"
        by_name = kernel_names.kind_by_name(name)
        if above.telling == CAST and "Float8" in above.types:
            to_fp8 = "Float8" in above.types.split(",")[0]
            return ("quantize" if to_fp8 else "dequantize"), "operator"
        if telling is not None and not telling.endswith("gemm") and not (telling == "elementwise" and by_name):
            return (telling, "operator") if not generic or telling == "amax" else (by_name or telling, "name")
        return (by_name, "name") if by_name else ("other", None)

    def _named(self, name: str) -> str | None:
        if name not in self._by_subject:
            if len(self._by_subject) > 100_000:
                self._by_subject.clear()
            self._by_subject[name] = next((kind for found, kind in self._patterns if found.search(name)), None)
        return self._by_subject[name]

    def _product(self, name: str, named: str | None, telling: str, above: Above) -> tuple[str, str]:
        if named == "fp4-gemm" or "Float4" in above.types:
            return "fp4-gemm", "name" if named == "fp4-gemm" else "operator"
        if telling != "gemm":
            return telling, "operator"
        types = above.types
        for text, kind in (
            ("Float8", "fp8-gemm"),
            ("BFloat16", "bf16-gemm"),
            ("Half", "fp16-gemm"),
            ("char", "int8-gemm"),
        ):
            if text in types:
                return kind, "operator"
        by_name = named if named and named.endswith("-gemm") else kernel_names.kind_by_name(name)
        if by_name is not None and by_name.endswith("-gemm"):
            return by_name, "name" if by_name != "other-gemm" else "operator"
        return "other-gemm", "operator"

    def _details(self, kind: str, name: str, above: Above) -> tuple[str | None, str | None]:
        """The backend and the precision of attention; the precision of products, norms and element-wise work."""
        if kind in ("elementwise", "normalisation"):
            return None, kernel_names.precision_by_types(name)
        if kind != "attention":
            return None, _PRECISION.get(kind)
        by_operator = next(
            (
                b
                for o in (above.telling, above.enclosing, above.direct)
                if o and (b := kernel_names.backend_by_operator(o))
            ),
            None,
        )
        by_name = kernel_names.backend_by_name(name)
        # What a package calls is told by the package: TE calls cuDNN's kernels, or FlashAttention's.
        backend = (
            by_operator if by_operator in ("te", "math") and by_name in (None, "cudnn") else by_name or by_operator
        )
        return backend, kernel_names.precision_by_name(name)


def is_enclosing(found: str | None) -> bool:
    """Whether all that an operator with this role launches, but products, is part of what it does."""
    return found in ENCLOSING
