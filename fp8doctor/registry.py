"""Which probes, rules, candidates and exhibits are there? Decorators mark them; a registry collects the marked.

Only the standard library is imported here: this module also runs inside the examined environment.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

from fp8doctor.model import (
    ErrorText,
    Facts,
    Kernel,
    Messages,
    Mode,
    NotObservedError,
    ProbeRun,
    Request,
    RuleResult,
    Scope,
    Settles,
    Severity,
    Unknown,
)
from fp8doctor.pasted import Pasted, Reading
from fp8doctor.plain import fields_without_default, plain_problem, split_optional
from fp8doctor.reliance import Reliance
from fp8doctor.specs import Describer, Maker, Makes, Need, NeedKind, Probe, Reader, RegistrationError, Rule, RunsIn
from fp8doctor.traced import Trace

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

F = TypeVar("F", bound=Callable[..., Any])
_MARK = "__fp8doctor__"
# Facts of the engine itself, which no probe gathers: what was printed, what a text was, what a trace adds up to, how
# many times can be relied on.
OWN_FACTS: dict[str, type[Facts]] = {facts.key: facts for facts in (Messages, Reading, Trace, Reliance)}


def probe(
    *,
    runs_in: RunsIn,
    timeout_s: float,
    times_gpu: bool = False,
    order: int = 0,
    share: float = 1.0,
    for_workload: bool = False,
    for_pipeline: bool = False,
    for_model: bool = False,
    watches: bool = False,
    modes: Iterable[str] = ("quick", "default", "thorough", "bench"),
    prepare: Callable[[], None] | None = None,
) -> Callable[[F], F]:
    """Mark a function as the probe of the Facts type that it returns.

    The function takes a `Request` and any Facts as parameters: they are its needs, and probes run after what they
    need. It returns its facts, or yields the growing record, of which the last counts whatever ends the child.

    Args:
        runs_in: "tool" for fp8doctor's own interpreter, "target" for the examined one.
        timeout_s: seconds after which the child is killed.
        times_gpu: whether it times the GPU, so that nothing else may run meanwhile.
        order: its place among the probes that time the GPU; what tells most per second comes first.
        share: among those, its share of the time that is left when its turn comes.
        for_workload: whether it runs only where a workload was named.
        for_pipeline: whether it runs only where a pipeline was named.
        for_model: whether it runs only where a model of the person's own was named.
        watches: whether it samples sensors until the timing probes have ended.
        modes: the modes that it runs in.
        prepare: if given, the child starts with the run and calls this while the probe waits for its turn. It may
            import what takes long; it must not use the GPU. Whatever it raises is forgotten.
    """

    def mark(function: F) -> F:
        hints = typing.get_type_hints(function)
        returned = hints.get("return")
        if get_origin(returned) in (Iterator, Iterable, Generator):
            returned = get_args(returned)[0]
        returned = _facts_type(function, returned, "probe")
        chosen = typing.cast("tuple[Mode, ...]", (modes,) if isinstance(modes, str) else tuple(modes))
        if strange := set(chosen) - set(get_args(Mode)):
            raise RegistrationError(f"{function.__name__}: no such mode: {', '.join(sorted(strange))}")
        spec = Probe(
            function=function,
            facts_type=returned,
            needs=_needs(function, hints, allow_request=True),
            runs_in=runs_in,
            timeout_s=timeout_s,
            times_gpu=times_gpu,
            order=order,
            share=share,
            for_workload=for_workload,
            for_pipeline=for_pipeline,
            for_model=for_model,
            watches=watches,
            modes=chosen,
            prepare=prepare,
            title=_title(function),
        )
        setattr(function, _MARK, spec)
        return function

    return mark


def rule(
    id: str,
    name: str,
    severity: Severity,
    *,
    scope: Scope,
    settles: Settles | None = None,
    explains: Iterable[str] = (),
) -> Callable[[F], F]:
    """Mark a pure function of facts as a rule; its docstring is its page.

    Args:
        id: two to four capital letters for the subject and three digits, unique ("GPU001").
        name: kebab-case name of the problem, from the list of causes where the cause is there.
        severity: the highest severity of its findings.
        scope: "box" for what is wrong with the machine, "usage" for how FP8 is used.
        settles: which of the three answers (hardware, software, runs) it decides.
        explains: names of the rules whose findings are symptoms of this one.

    Raises:
        RegistrationError: if id, name, docstring or parameters are not as described.
    """

    def mark(function: F) -> F:
        where = f"rule {id} ({function.__name__})"
        if not re.fullmatch(r"[A-Z]{2,4}\d{3}", id):
            raise RegistrationError(f"{where}: an id is two to four capital letters and three digits")
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
            raise RegistrationError(f"{where}: {name!r} is not kebab-case")
        if scope not in get_args(Scope):
            raise RegistrationError(f"{where}: {scope!r} is no scope")
        if settles is not None and settles not in get_args(Settles):
            raise RegistrationError(f"{where}: {settles!r} is none of the three answers")
        _refuse_generator(function)

        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> RuleResult:
            try:
                return typing.cast("RuleResult", function(*args, **kwargs))
            except NotObservedError as error:
                return Unknown(str(error))

        spec = Rule(
            id=id,
            name=name,
            severity=Severity(severity),
            scope=scope,
            settles=settles,
            explains=tuple(explains),
            function=guarded,
            needs=_needs(function, typing.get_type_hints(function), allow_request=False),
            title=_title(function),
            page=inspect.cleandoc(function.__doc__ or ""),
        )
        setattr(guarded, _MARK, spec)
        return typing.cast("F", guarded)

    return mark


def reader(function: F) -> F:
    """Mark a pure function that reads what a pasted text says of its subject, `(Pasted) -> Facts | None`.

    Raises:
        RegistrationError: if it does not take a `Pasted` alone, or promises no Facts.
    """
    hints = typing.get_type_hints(function)
    returned, _ = split_optional(hints.get("return"))
    if [hints.get(name) for name in inspect.signature(function).parameters] != [Pasted]:
        raise RegistrationError(f"{function.__name__}: a reader takes a Pasted, and nothing else")
    setattr(function, _MARK, Reader(function, _facts_type(function, returned, "reader")))
    return function


def describes(function: F) -> F:
    """Mark a function that tells how a module of a model was converted, `(module) -> Conversion | None`.

    It runs in the user's own process, where the module's library is imported already, and imports nothing itself.
    """
    setattr(function, _MARK, Describer(function))
    return function


def _facts_type(function: Callable[..., Any], returned: Any, what: str) -> type[Facts]:
    if not (isinstance(returned, type) and issubclass(returned, Facts) and hasattr(returned, "key")):
        raise RegistrationError(f"{function.__name__}: a {what} returns Facts with a key, not {returned}")
    if problem := plain_problem(returned):
        raise RegistrationError(f"{function.__name__}: {problem}")
    if required := fields_without_default(returned):
        raise RegistrationError(f"{returned.__name__}.{required[0]} has no default: None means not observed")
    return returned


def candidates(function: F) -> F:
    """Mark a pure function that turns timed facts into candidates, `(...) -> list[Candidate]`."""
    return _mark_maker(function, "candidates")


def exhibit(function: F) -> F:
    """Mark a pure function that turns facts into something worth looking at, `(...) -> Exhibit | None`."""
    return _mark_maker(function, "exhibit")


def traits(function: F) -> F:
    """Mark a pure function that says by what two reports are compared, `(...) -> list[Trait | Listing]`."""
    return _mark_maker(function, "traits")


def timings(function: F) -> F:
    """Mark a pure function that turns more of what was timed into candidates, `(...) -> list[Candidate]`.

    They are compared with another report's and never advised: what competes is a candidate already.
    """
    return _mark_maker(function, "timings")


def disturbances(function: F) -> F:
    """Mark a pure function that says when something made times unreliable, `(...) -> list[Disturbance]`."""
    return _mark_maker(function, "disturbances")


def _mark_maker(function: F, makes: Makes) -> F:
    _refuse_generator(function)
    hints = typing.get_type_hints(function)
    setattr(function, _MARK, Maker(function, _needs(function, hints, allow_request=False), makes))
    return function


def _refuse_generator(function: Callable[..., Any]) -> None:
    if inspect.isgeneratorfunction(function):
        raise RegistrationError(f"{function.__name__} is a generator; only a probe may be one")


def _title(function: Callable[..., Any]) -> str:
    if not (function.__doc__ or "").strip():
        raise RegistrationError(f"{function.__name__} has no docstring")
    return inspect.cleandoc(function.__doc__ or "").split("\n", 1)[0].rstrip(".")


def _needs(function: Callable[..., Any], hints: dict[str, Any], *, allow_request: bool) -> dict[str, Need]:
    needs = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise RegistrationError(f"{function.__name__}: parameter {name} cannot be given by its name")
        hint = hints.get(name)
        if allow_request and hint is Request:
            continue
        kind: NeedKind = "required"
        if get_origin(hint) is ProbeRun:
            kind, hint = "run", get_args(hint)[0]
        else:
            hint, optional = split_optional(hint)
            kind = "optional" if optional else "required"
        if not (isinstance(hint, type) and issubclass(hint, Facts) and hasattr(hint, "key")):
            raise RegistrationError(f"{function.__name__}: parameter {name} is {hint}; it must be Facts with a key")
        needs[name] = Need(hint, kind)
    return needs


@dataclass
class Registry:
    """All that the doctor knows, collected from modules."""

    probes: dict[str, Probe] = field(default_factory=dict)
    rules: dict[str, Rule] = field(default_factory=dict)
    makers: list[Maker] = field(default_factory=list)
    readers: dict[str, Reader] = field(default_factory=dict)
    error_texts: list[ErrorText] = field(default_factory=list)
    kernels: list[Kernel] = field(default_factory=list)
    describers: list[Callable[[Any], Any]] = field(default_factory=list)
    # Environment variables that name a folder for compiled code; children get the doctor's own folder there.
    cache_variables: list[str] = field(default_factory=list)
    # Plug-ins that could not be loaded, with the reason.
    broken: dict[str, str] = field(default_factory=dict)
    # Modules of plug-ins, to be made importable in children: name -> file.
    plugin_paths: dict[str, str] = field(default_factory=dict)

    def collect(self, module: types.ModuleType) -> None:
        """Take up what `module`, and its submodules if it is a package, declares.

        Raises:
            RegistrationError: for a repeated id or key.
        """
        for value in list(vars(module).values()):
            # What a package re-exports is taken up where it was declared, once.
            if inspect.isfunction(value) and hasattr(value, _MARK) and value.__module__ == module.__name__:
                self._add(getattr(value, _MARK), module.__name__)
        _add_new(self.error_texts, _declared(module, "ERROR_TEXTS", ErrorText))
        _add_new(self.kernels, _declared(module, "KERNELS", Kernel))
        _add_new(self.cache_variables, _declared(module, "CACHE_VARIABLES", str))
        for info in pkgutil.iter_modules(getattr(module, "__path__", ())):
            self.collect(importlib.import_module(f"{module.__name__}.{info.name}"))

    def take_up(self, other: Registry) -> None:
        """Take up all that `other` has collected, or nothing of it.

        Raises:
            RegistrationError: for a repeated id or key.
        """
        keys = {*other.probes, *other.readers}
        taken = (self.rules.keys() & other.rules.keys()) | (self.facts_types.keys() & keys)
        if taken:
            raise RegistrationError(f"already taken: {', '.join(sorted(taken))}")
        self.probes.update(other.probes)
        self.rules.update(other.rules)
        self.makers += other.makers
        self.readers.update(other.readers)
        _add_new(self.error_texts, other.error_texts)
        _add_new(self.kernels, other.kernels)
        _add_new(self.describers, other.describers)
        _add_new(self.cache_variables, other.cache_variables)
        self.plugin_paths.update(other.plugin_paths)

    def _add(self, spec: Probe | Rule | Maker | Reader | Describer, where: str) -> None:
        if isinstance(spec, Maker):
            self.makers.append(spec)
        elif isinstance(spec, Describer):
            self.describers.append(spec.function)
        elif isinstance(spec, Reader):
            if spec.key in self.readers or spec.key in OWN_FACTS:
                raise RegistrationError(f"{where}: facts key {spec.key!r} is read by another")
            self.readers[spec.key] = spec
        elif isinstance(spec, Rule):
            if spec.id in self.rules:
                raise RegistrationError(f"{where}: rule id {spec.id} is taken")
            self.rules[spec.id] = spec
        else:
            if spec.key in self.probes or spec.key in OWN_FACTS:
                raise RegistrationError(f"{where}: facts key {spec.key!r} is taken")
            self.probes[spec.key] = spec

    @property
    def facts_types(self) -> dict[str, type[Facts]]:
        """The type of facts behind each key."""
        read = {key: reader.facts_type for key, reader in self.readers.items()}
        return {**OWN_FACTS, **read, **{key: probe.facts_type for key, probe in self.probes.items()}}

    def find_rule(self, id_or_name: str) -> list[Rule]:
        """Return the rules with this id or name (several rules may share a name)."""
        wanted = id_or_name.strip()
        return [r for r in self.rules.values() if r.id == wanted.upper() or r.name == wanted.lower()]


def _add_new(known: list[Any], declared: Iterable[Any]) -> None:
    known += [item for item in dict.fromkeys(declared) if item not in known]


def _declared(module: types.ModuleType, name: str, kind: type[Any]) -> list[Any]:
    value = vars(module).get(name, ())
    declared = [value] if isinstance(value, str) else list(value)
    for item in declared:
        if not isinstance(item, kind):
            raise RegistrationError(f"{module.__name__}.{name} holds a {type(item).__name__}")
        # Compiling the built-in patterns takes a tenth of a `fp8doctor diagnose`; a test holds them to it instead.
        if isinstance(item, (ErrorText, Kernel)) and not module.__name__.startswith("fp8doctor."):
            try:
                re.compile(item.pattern)
            except re.error as error:
                raise RegistrationError(f"{module.__name__}.{name}: {item.pattern!r}: {error}") from None
    return declared


def load(plugins: Iterable[EntryPoint] | None = None) -> Registry:
    """Collect the built-in subjects and the plug-ins, by default those that are installed.

    A plug-in that cannot be loaded is kept in `Registry.broken` and costs nothing else.
    """
    import fp8doctor.checks
    from fp8doctor.plugins import plug_in

    registry = Registry()
    registry.collect(fp8doctor.checks)
    plug_in(registry, plugins)
    return registry
