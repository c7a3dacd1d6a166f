"""A reader is declared for one kind of facts, and reads a text alone."""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Any

import pytest

from fp8doctor.model import Facts
from fp8doctor.pasted import Pasted
from fp8doctor.registry import OWN_FACTS, Registry, reader
from fp8doctor.specs import RegistrationError


@dataclass(frozen=True)
class Fan(Facts, key="fan"):
    """A fan."""

    rpm: float | None = None


def collected(**declared: Any) -> Registry:
    module = types.ModuleType("of_a_subject")
    for name, function in declared.items():
        function.__module__ = module.__name__
        setattr(module, name, function)
    registry = Registry()
    registry.collect(module)
    return registry


def test_a_reader_is_known_by_the_facts_that_it_reads() -> None:
    @reader
    def read(text: Pasted) -> Fan | None:
        return Fan() if text.lines else None

    registry = collected(read=read)
    assert registry.readers["fan"].function(Pasted(())) is None
    assert registry.facts_types == {**OWN_FACTS, "fan": Fan}
    with pytest.raises(RegistrationError, match="'fan' is read by another"):
        collected(one=read, other=reader(second_reader()))


def second_reader() -> Any:
    def again(text: Pasted) -> Fan:
        return Fan()

    return again


def test_a_reader_takes_a_text_alone_and_promises_facts() -> None:
    def more(text: Pasted, fan: Fan) -> Fan:
        return fan

    def nothing(text: Pasted) -> int:
        return 0

    for wrong in (more, nothing):
        with pytest.raises(RegistrationError):
            reader(wrong)
