"""What may be registered, what is refused, and that every part is found once."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from fp8doctor.model import (
    Candidate,
    ErrorText,
    Exhibit,
    Facts,
    Finding,
    Messages,
    ProbeRun,
    Request,
    Severity,
    Unknown,
    observed,
)
from fp8doctor.registry import OWN_FACTS, Registry, candidates, exhibit, load, probe, rule
from fp8doctor.specs import RegistrationError


@dataclass(frozen=True)
class Fan(Facts, key="fan"):
    rpm: float | None = None


@dataclass(frozen=True)
class Nameless(Facts):
    rpm: float | None = None


def a_rule(id: str = "FAN001", name: str = "fan-stopped", **options: Any) -> Callable[[Any], Any]:
    return rule(id, name, Severity.WARNING, **{"scope": "box", **options})


def module(name: str = "some_subject", **members: Any) -> types.ModuleType:
    made = types.ModuleType(name)
    for member in members.values():
        if hasattr(member, "__fp8doctor__"):
            member.__module__ = name
    vars(made).update(members)
    return made


def collected(*modules: types.ModuleType) -> Registry:
    registry = Registry()
    for each in modules:
        registry.collect(each)
    return registry


# --- rules


def test_a_rule_is_known_by_its_docstring_its_needs_and_what_it_explains() -> None:
    @a_rule(settles="runs", explains=["hot-gpu"])
    def stopped(fan: Fan, maybe: Fan | None, run: ProbeRun[Fan]) -> Finding | None:
        """The fan stands still.

        What it means: nothing moves.
        """
        return None

    spec = collected(module(stopped=stopped)).rules["FAN001"]
    assert spec.title == "The fan stands still"
    assert spec.page == "The fan stands still.\n\nWhat it means: nothing moves."
    assert {name: (need.key, need.kind) for name, need in spec.needs.items()} == {
        "fan": ("fan", "required"),
        "maybe": ("fan", "optional"),
        "run": ("fan", "run"),
    }
    assert spec.explains == ("hot-gpu",)


def test_a_rule_is_called_as_a_function_and_an_unobserved_value_makes_it_unknown() -> None:
    @a_rule()
    def stopped(fan: Fan) -> Finding | None:
        """The fan stands still."""
        return Finding("stopped") if observed(fan.rpm, "the fan's speed") == 0 else None

    assert stopped(Fan(rpm=0.0)) == Finding("stopped")
    assert stopped(Fan(rpm=900.0)) is None
    assert stopped(Fan()) == Unknown("not observed: the fan's speed")


@pytest.mark.parametrize("id", ["fan001", "F001", "FANFAN001", "FAN01", "FAN0001", "FAN001 ", ""])
def test_a_rule_with_a_bad_id_is_refused(id: str) -> None:
    with pytest.raises(RegistrationError, match="an id is"):
        a_rule(id=id)(lambda: None)


@pytest.mark.parametrize("name", ["Fan-stopped", "fan_stopped", "fan stopped", "-fan", "fan--stopped", ""])
def test_a_rule_whose_name_is_not_kebab_case_is_refused(name: str) -> None:
    with pytest.raises(RegistrationError, match="kebab-case"):
        a_rule(name=name)(lambda: None)


@pytest.mark.parametrize("options", [{"scope": "everything"}, {"settles": "speed"}])
def test_a_rule_with_a_word_that_nobody_knows_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(RegistrationError):
        a_rule(**options)(lambda: None)


def test_a_rule_that_is_a_generator_is_refused() -> None:
    def stopped(fan: Fan) -> Iterator[Finding]:
        """The fan stands still."""
        yield Finding("stopped")

    for mark in (a_rule(), candidates, exhibit):
        with pytest.raises(RegistrationError, match="generator"):
            mark(stopped)


def test_a_rule_or_probe_without_a_docstring_is_refused() -> None:
    def silent(fan: Fan) -> None:
        return None

    def looks(request: Request) -> Fan:
        return Fan()

    with pytest.raises(RegistrationError, match="docstring"):
        a_rule()(silent)
    with pytest.raises(RegistrationError, match="docstring"):
        probe(runs_in="tool", timeout_s=1)(looks)


def no_annotation(fan) -> None:  # type: ignore[no-untyped-def]
    """A page."""


def plain_value(fan: int) -> None:
    """A page."""


def two_kinds(fan: Fan | int) -> None:
    """A page."""


def the_request(request: Request) -> None:
    """A page."""


def facts_without_key(fan: Nameless) -> None:
    """A page."""


def any_number(*fan: Fan) -> None:
    """A page."""


def any_name(**fan: Fan) -> None:
    """A page."""


def only_by_place(fan: Fan, /) -> None:
    """A page."""


@pytest.mark.parametrize(
    "function",
    [no_annotation, plain_value, two_kinds, the_request, facts_without_key, any_number, any_name, only_by_place],
)
def test_a_parameter_that_is_no_facts_by_name_is_refused(function: Callable[..., Any]) -> None:
    for mark in (a_rule(), candidates, exhibit):
        with pytest.raises(RegistrationError, match="parameter"):
            mark(function)


def test_a_repeated_rule_id_is_refused_wherever_it_is_repeated() -> None:
    def rule_of(text: str) -> Any:
        def function(fan: Fan) -> None:
            """A page."""

        return a_rule()(function)

    one, other = module("one", a=rule_of("a")), module("other", b=rule_of("b"))
    with pytest.raises(RegistrationError, match="FAN001 is taken"):
        collected(one, other)


# --- probes and their facts


def probe_of(facts_type: Any, **options: Any) -> Any:
    def gather(request: Request) -> Any:
        """Looking at the fan."""

    gather.__annotations__["return"] = facts_type
    return probe(**{"runs_in": "tool", "timeout_s": 1, **options})(gather)


def test_a_probe_that_returns_or_yields_facts_is_known_by_their_key() -> None:
    for returned in (Fan, Iterator[Fan]):
        registry = collected(module(gather=probe_of(returned)))
        assert registry.probes["fan"].facts_type is Fan
        assert registry.probes["fan"].title == "Looking at the fan"
        assert registry.facts_types == {**OWN_FACTS, "fan": Fan}


@pytest.mark.parametrize("returned", [None, int, Nameless, Facts, list[int], "Fan | int"])
def test_a_probe_that_returns_no_facts_with_a_key_is_refused(returned: Any) -> None:
    with pytest.raises(RegistrationError):
        probe_of(returned)


def facts_with(field_type: Any, **options: Any) -> Any:
    kind: Any = make_dataclass("Odd", [("value", field_type, None)], bases=(Facts,), **{"frozen": True, **options})
    kind.key = "odd"
    return kind


@dataclass
class Mutable:
    value: int | None = None


@pytest.mark.parametrize(
    "field_type",
    [
        list[int],
        set[str],
        bytes,
        Path,
        complex,
        int | str,
        tuple[int, str],
        tuple,
        dict,
        dict[int, str],
        dict[str, list[int]],
        Mutable | None,
        tuple[Mutable, ...],
        Any,
        object,
    ],
)
def test_facts_that_are_no_plain_data_are_refused(field_type: Any) -> None:
    with pytest.raises(RegistrationError):
        probe_of(facts_with(field_type))


@pytest.mark.parametrize(
    "field_type",
    [str, int | None, float, bool | None, Literal["a", "b"], tuple[Fan, ...], dict[str, Fan | None], Fan | None],
)
def test_facts_that_are_plain_data_are_taken(field_type: Any) -> None:
    assert probe_of(facts_with(field_type))


def test_facts_with_slots_or_that_can_be_changed_or_must_be_given_are_refused() -> None:
    with pytest.raises(RegistrationError, match="slots"):
        probe_of(facts_with(int | None, slots=True))
    with pytest.raises(RegistrationError, match="frozen"):
        probe_of(facts_with(int | None, frozen=False))
    required: Any = make_dataclass("Required", [("value", int)], bases=(Facts,), frozen=True)
    required.key = "required"
    with pytest.raises(RegistrationError, match="no default"):
        probe_of(required)


def test_a_mode_is_one_of_three_and_may_be_named_alone() -> None:
    assert collected(module(gather=probe_of(Fan, modes="thorough"))).probes["fan"].modes == ("thorough",)
    with pytest.raises(RegistrationError, match="slow"):
        probe_of(Fan, modes=("quick", "slow"))


def test_one_key_has_one_probe_and_the_engines_own_key_is_taken() -> None:
    with pytest.raises(RegistrationError, match="'fan' is taken"):
        collected(module("one", a=probe_of(Fan)), module("other", b=probe_of(Fan)))
    with pytest.raises(RegistrationError, match="'messages' is taken"):
        collected(module(a=probe_of(Messages)))


# --- what a module declares


def test_error_texts_of_the_wrong_type_or_with_a_bad_pattern_are_refused() -> None:
    with pytest.raises(RegistrationError, match="ERROR_TEXTS holds a str"):
        collected(module(ERROR_TEXTS=("no kernel image",)))
    with pytest.raises(RegistrationError, match="ERROR_TEXTS"):
        collected(module(ERROR_TEXTS=(ErrorText("(", rule="FAN001", fix="close it"),)))
    with pytest.raises(RegistrationError, match="CACHE_VARIABLES holds a int"):
        collected(module(CACHE_VARIABLES=(1,)))


def test_a_package_is_collected_with_its_submodules_once_even_when_it_re_exports_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "reexporting"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from reexporting.inner import ERROR_TEXTS, CACHE_VARIABLES, Pump, choose, gather, show, still\n"
    )
    (package / "inner" / "__init__.py").write_text(
        "from reexporting.inner.rules import *\nfrom reexporting.inner.rules import ERROR_TEXTS, CACHE_VARIABLES\n"
    )
    (package / "inner" / "rules.py").write_text(
        '''
from dataclasses import dataclass
from fp8doctor.model import Candidate, ErrorText, Exhibit, Facts, Finding, Request, Severity
from fp8doctor.registry import candidates, exhibit, probe, rule

@dataclass(frozen=True)
class Pump(Facts, key="pump"):
    on: bool | None = None

@probe(runs_in="target", timeout_s=5)
def gather(request: Request) -> Pump:
    """Looking at the pump."""
    return Pump(on=True)

@rule("PMP001", "pump-off", Severity.ERROR, scope="box")
def still(pump: Pump) -> Finding | None:
    """The pump is off."""
    return None

@candidates
def choose(pump: Pump) -> list[Candidate]:
    """Choose."""
    return []

@exhibit
def show(pump: Pump) -> Exhibit | None:
    """Show."""
    return None

ERROR_TEXTS = (ErrorText("pump", rule="PMP001", fix="switch it on"),)
CACHE_VARIABLES = ("PUMP_CACHE",)
'''
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import reexporting  # type: ignore[import-not-found]

    registry = collected(reexporting)
    assert list(registry.probes) == ["pump"]
    assert list(registry.rules) == ["PMP001"]
    assert [maker.makes for maker in registry.makers] == ["candidates", "exhibit"]
    assert len(registry.error_texts) == 1
    assert registry.cache_variables == ["PUMP_CACHE"]
    for name in [name for name in sys.modules if name.startswith("reexporting")]:
        monkeypatch.delitem(sys.modules, name)


def test_what_only_looks_like_a_probe_is_passed_over() -> None:
    class Obliging:
        """Answers to every name, as lazy modules and mocks do."""

        def __getattr__(self, name: str) -> str:
            return "some_subject" if name == "__module__" else name

    @candidates
    def foreign(fan: Fan) -> list[Candidate]:
        """From somewhere else."""
        return []

    @exhibit
    def own(fan: Fan) -> Exhibit | None:
        """From here."""
        return None

    subject = module(lazy=Obliging(), own=own)
    vars(subject)["foreign"] = foreign
    assert [maker.function for maker in collected(subject).makers] == [own]


def test_a_rule_is_found_by_its_id_and_by_its_name() -> None:
    def twin() -> Any:
        def function(fan: Fan) -> None:
            """A page."""

        return function

    both = module(a=a_rule("FAN001")(twin()), b=a_rule("FAN002")(twin()))
    registry = collected(both)
    assert [r.id for r in registry.find_rule("fan001")] == ["FAN001"]
    assert [r.id for r in registry.find_rule(" Fan-Stopped")] == ["FAN001", "FAN002"]
    assert registry.find_rule("fan") == []


# --- all that is built in


def test_every_built_in_subject_can_be_loaded() -> None:
    assert load(plugins=[]).broken == {}
