"""How facts become plain JSON values and back, with the standard library alone (the child has nothing else)."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from functools import cache
from typing import Any, TypeVar, Union

T = TypeVar("T")

_SCALARS = (str, int, float, bool)


def to_plain(value: Any) -> Any:
    """Turn facts (or any value made of dataclasses, tuples, dicts and scalars) into JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    return value


def from_plain(cls: type[T], plain: dict[str, Any]) -> T:
    """Rebuild the dataclass `cls` from JSON values; names it does not have are passed over.

    Raises:
        TypeError: if a value does not fit its field.
    """
    hints = _hints(typing.cast("Any", cls))
    return cls(**{name: _build(hints[name], value) for name, value in plain.items() if name in hints})


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _build(hint: Any, value: Any) -> Any:
    hint, optional = split_optional(hint)
    if (value is None and optional) or hint is Any:
        return value
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_plain(typing.cast("type[Any]", hint), value)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_build(typing.get_args(hint)[0], item) for item in value)
    if origin is dict and isinstance(value, dict):
        return {key: _build(typing.get_args(hint)[1], item) for key, item in value.items()}
    if origin is typing.Literal and value in typing.get_args(hint):
        return value
    if hint in _SCALARS and isinstance(value, (float, int) if hint is float else hint):
        return value
    raise TypeError(f"{value!r} is no {hint}")


def split_optional(hint: Any) -> tuple[Any, bool]:
    """Split `X | None` into (X, True); anything else comes back as (hint, False)."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        rest = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        if len(rest) == 1 and len(rest) < len(typing.get_args(hint)):
            return rest[0], True
    return hint, False


def plain_problem(cls: type[Any], where: str | None = None) -> str | None:
    """Say why `cls` is not made of plain data, or None if it is.

    Allowed: str, int, float, bool, Literal, `X | None`, `tuple[X, ...]`, `dict[str, X]` and nested frozen dataclasses.
    """
    where = where or cls.__name__
    if not dataclasses.is_dataclass(cls):
        return f"{where} is no dataclass"
    if "__slots__" in vars(cls):
        return f"{where} uses slots, which lose their defaults when they are rebuilt"
    if not typing.cast("Any", cls).__dataclass_params__.frozen:
        return f"{where} is not frozen"
    for name, hint in _hints(cls).items():
        if problem := _hint_problem(hint, f"{where}.{name}"):
            return problem
    return None


def fields_without_default(cls: type[Any]) -> list[str]:
    """Name the fields of the dataclass `cls` that must be given."""
    missing = dataclasses.MISSING
    return [f.name for f in dataclasses.fields(cls) if f.default is missing and f.default_factory is missing]


def _hint_problem(hint: Any, where: str) -> str | None:
    hint, _ = split_optional(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in _SCALARS or origin is typing.Literal:
        return None
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return _hint_problem(args[0], where)
    if origin is dict and args[0] is str:
        return _hint_problem(args[1], where)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return plain_problem(hint, where)
    return f"{where} is a {hint}, which is no plain data"


def unknown_names(cls: type[Any], plain: Any, where: str) -> list[str]:
    """List the paths in `plain` that `cls` has no field for (a newer version wrote them)."""
    kind, inner = _container(typing.cast("Any", cls))
    if kind == "fields" and isinstance(plain, dict):
        found = [f"{where}.{name}" for name in plain if name not in inner]
        for name, value in plain.items():
            if isinstance(value, (dict, list)) and name in inner:
                found += unknown_names(inner[name], value, f"{where}.{name}")
        return found
    if kind == "items" and isinstance(plain, list):
        return [path for i, item in enumerate(plain) for path in unknown_names(inner, item, f"{where}[{i}]")]
    if kind == "values" and isinstance(plain, dict):
        return [path for key, item in plain.items() for path in unknown_names(inner, item, f"{where}.{key}")]
    return []


@cache
def _container(hint: Any) -> tuple[str, Any]:
    """What a hint holds: ("fields", hints by name), ("items", hint), ("values", hint), or ("nothing", None)."""
    hint, _ = split_optional(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return "fields", _hints(typing.cast("Any", hint))
    if origin is tuple:
        return "items", args[0]
    if origin is dict:
        return "values", args[1]
    return "nothing", None
