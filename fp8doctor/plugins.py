"""Which subjects do other distributions bring? They name a module in the entry point group `fp8doctor.checks`."""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

from fp8doctor.registry import Registry
from fp8doctor.specs import RegistrationError

ENTRY_POINT_GROUP = "fp8doctor.checks"


def plug_in(registry: Registry, plugins: Iterable[EntryPoint] | None = None) -> None:
    """Add what the plug-ins declare to `registry`; those that fail are kept in its `broken`, with the reason.

    Args:
        registry: what is known so far.
        plugins: the entry points; None for those that are installed.
    """
    for entry in _installed(registry) if plugins is None else plugins:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # standard output is the report's alone
                registry.take_up(_collected(entry))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plug-in may raise anything, SystemExit included
            registry.broken[entry.name] = f"{type(error).__name__}: {error}"


def _installed(registry: Registry) -> Iterable[EntryPoint]:
    try:
        return sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name)
    except Exception as error:  # one distribution with damaged metadata makes the look-up fail for all
        registry.broken["entry points"] = f"{type(error).__name__}: {error}"
        return ()


def _collected(entry: EntryPoint) -> Registry:
    module = entry.load()
    if not isinstance(module, types.ModuleType):
        raise RegistrationError(f"{entry.value} is no module")
    found = Registry(plugin_paths=_file_of(module))
    found.collect(module)
    return found


def _file_of(module: types.ModuleType) -> dict[str, str]:
    top = importlib.import_module(module.__name__.partition(".")[0])
    if not top.__file__:  # others share it, and a child is given one file a plug-in
        raise RegistrationError(f"{top.__name__} is a namespace package; a plug-in needs a top-level name of its own")
    return {top.__name__: top.__file__}
