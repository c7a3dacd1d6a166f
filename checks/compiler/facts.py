"""What was seen of what torch.compile needs, and of one FP8 function that it compiled."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.model import Caption, Facts


@dataclass(frozen=True)
class CompileCache:
    """A folder for compiled code, as the user has it (not the doctor's own)."""

    # "inductor" (torch.compile) | "triton" (kernels that a library launches through Triton itself)
    used_by: str | None = None
    # The variable that names it, None for the default place.
    variable: str | None = None
    path: str | None = None
    writable: bool | None = None
    # Compiled code can be loaded from there: its file system is not mounted noexec.
    executable: bool | None = None
    # Why not, in words.
    problem: str | None = None


@dataclass(frozen=True)
class Compiler(Facts, key="compiler"):
    """What Triton and Inductor need on this machine, looked for the way they look for it."""

    triton_installed: bool | None = None
    triton_version: str | None = None
    # None if `import triton` worked.
    triton_import_error: str | None = None
    # The C compiler that Triton would call: $CC, else gcc, else clang.
    c_compiler: str | None = None
    c_compiler_found: bool | None = None
    # The variable that names it ("CC"), None if it was found on PATH.
    c_compiler_variable: str | None = None
    c_compiler_version: str | None = None
    # It built a shared library from a file that includes <stdio.h>.
    c_compiler_works: bool | None = None
    c_compiler_error: str | None = None
    python_include: str | None = None
    python_header_found: bool | None = None
    # The same with <Python.h>; None if the compiler does not even get so far.
    python_header_works: bool | None = None
    python_header_error: str | None = None
    caches: tuple[CompileCache, ...] | None = None
    # The variables of `rules.SWITCHES` that are set, with their values.
    switches: dict[str, str] | None = None
    # What was being tried when this record was written.
    attempting: str | None = None

    def caption(self) -> Caption | None:
        """Triton's version, where it is installed."""
        return Caption(34, f"triton {self.triton_version}") if self.triton_installed and self.triton_version else None


@dataclass(frozen=True)
class CompiledCast:
    """One function that scales BF16 to FP8 and back, compiled on the GPU and compared with the same run eagerly."""

    dtype: str | None = None
    # "ok", "wrong" (ran, not right), "eager" (ran, but nothing was compiled), "error", "crashed"
    outcome: str | None = None
    error: str | None = None
    # Wall time of the first call: tracing, code generation and compilation with empty caches. The first cast to be
    # compiled also pays for starting the compiler.
    first_call_s: float | None = None
    graphs: int | None = None
    graph_breaks: int | None = None
    # FP8 values whose bits differ from those cast eagerly; differences alone are no fault.
    differing_values: int | None = None
    values: int | None = None
    # Relative Frobenius error of the round trip, compiled and eager.
    relative_error: float | None = None
    relative_error_eager: float | None = None


@dataclass(frozen=True)
class CompiledFunction(Facts, key="compiled_function"):
    """Whether torch.compile really compiles FP8 code on this GPU, from empty caches."""

    # Why nothing was compiled; None if it was tried.
    not_tried: str | None = None
    casts: tuple[CompiledCast, ...] | None = None
    # The dtype being compiled when this record was written.
    attempting: str | None = None

    def cast(self, dtype: str) -> CompiledCast | None:
        """What became of the cast to `dtype`, None if it was not tried."""
        return next((cast for cast in self.casts or () if cast.dtype == dtype), None)

    @property
    def works(self) -> bool | None:
        """True if some FP8 code was compiled and right, False if none was; None if nothing tells."""
        outcomes = {cast.outcome for cast in self.casts or ()} - {None, "eager"}
        return "ok" in outcomes if outcomes else None
