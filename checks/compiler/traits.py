"""By which compilers and switches of torch.compile are two reports compared?"""

from __future__ import annotations

from fp8doctor.checks.compiler.facts import CompileCache, Compiler
from fp8doctor.checks.compiler.switches import SWITCHES
from fp8doctor.model import Listing, Trait
from fp8doctor.registry import traits

ABSENT = "not set"
_COMPILED = ("compile", "compile-whole")


@traits
def of_compiler(compiler: Compiler) -> list[Trait | Listing]:
    """The C compiler, the caches as far as they can be used, and the switches that are set."""
    found: list[Trait | Listing] = [
        Trait("software", "C compiler", compiler.c_compiler_version, None, "compiler.c_compiler_version"),
        *(_cache(cache) for cache in compiler.caches or () if cache.used_by),
    ]
    if compiler.switches is not None:
        found.append(Listing(tuple(_switch(name, value) for name, value in compiler.switches.items()), ABSENT))
    return found


def _cache(cache: CompileCache) -> Trait:
    """Whether a cache can be used: where it lies is nobody's business."""
    usable = None if cache.writable is None else cache.problem or ("usable" if cache.writable else "not writable")
    return Trait("setting", f"compile cache of {cache.used_by}", usable, None, "compiler.caches")


def _switch(name: str, value: str) -> Trait:
    known = next((switch for switch in SWITCHES if switch.variable == name), None)
    # What only makes compiling slow is paid before a time is taken.
    matters = known is not None and known.kind != "slow-compile"
    why = known.effect if known is not None and matters else None
    return Trait("setting", name, value, None, f"compiler.switches.{name}", why=why, affects=_COMPILED if why else ())
