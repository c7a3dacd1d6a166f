"""Were the times of two reports taken in one way?"""

from __future__ import annotations

from fp8doctor.measuring.timer import Method
from fp8doctor.model import Trait


def method_trait(of: str, method: Method | None, fact: str, affects: tuple[str, ...]) -> list[Trait]:
    """The method as a trait: times of two versions of it are not compared.

    Args:
        of: what was timed, in words.
        method: the method of the record; None says nothing.
        fact: where it stands among the facts.
        affects: the tasks or packages whose times it gave (`Trait.affects`).
    """
    version = method.version if method else None
    return [Trait("method", f"timing method of {of}", version, None, fact, affects=affects)]
