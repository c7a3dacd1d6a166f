"""Whose code is it? Of what a process compiled, what belongs to one model."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# A function that goes on behind a break is named for the line that it broke at.
RESUMED = re.compile(r"^torch_dynamo_resume_in_(.+)_at_\d+$")
# As Dynamo's metrics have the lines from which a function was called.
_CALLER = re.compile(r"Name: (?P<name>[^,]+), Filename: (?P<file>.+)$")


class Code:
    """The code of a model's own classes and hooks, and of a step that somebody wrote for it; torch's is nobody's."""

    def __init__(self, model: Any, step: Any = None) -> None:
        codes = [code for code in _codes(model) if not is_torch(code.co_filename)]
        self.functions = {(code.co_filename, code.co_name) for code in codes}
        self.files = {file for file, _ in self.functions}
        if (code := _code(step)) is not None:
            self.files.add(code.co_filename)

    def has(self, *files: Any) -> bool:
        """Whether one of these files is the model's."""
        return any(file in self.files for file in files)

    def called(self, callers: Any) -> bool:
        """Whether the model's own functions called what has these callers; a script's other lines are not its own."""
        lines = callers if isinstance(callers, (list, tuple)) else str(callers or "").splitlines()
        found = (_CALLER.search(str(line)) for line in lines)
        return any((one["file"].strip(), plain(one["name"])) in self.functions for one in found if one)


def _codes(model: Any) -> Iterator[Any]:
    kinds = {kind for module in model.modules() for kind in type(module).__mro__ if kind is not object}
    for kind in kinds:
        for one in vars(kind).values():
            if (code := _code(one)) is not None:
                yield code
    for module in model.modules():
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            if (code := _code(hook)) is not None:
                yield code


def _code(function: Any) -> Any:
    function = getattr(function, "__func__", getattr(function, "fget", None) or function)
    try:
        return getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    except ValueError:  # wraps itself
        return None


def plain(name: str | None) -> str | None:
    """A function's name without what Dynamo made of it."""
    while name and (resumed := RESUMED.match(name)):
        name = resumed.group(1)
    return name


def is_torch(file: str) -> bool:
    """Whether it is a file of torch itself."""
    torch = getattr(sys.modules.get("torch"), "__file__", None)
    return torch is not None and Path(torch).parent in Path(file).parents
