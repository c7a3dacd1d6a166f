"""What runs inside a child: one probe, in the examined interpreter, its record written line by line to a descriptor.

Run as a script with the standard library alone. Standard input brings two lines of JSON: which probe, and, when its
turn has come, with what. Records go to a descriptor of our own, because standard output and standard error belong to
the examined packages.
"""

import sys


def _clean_path() -> None:
    # The script's folder would shadow nothing of ours and could shadow theirs; the working directory likewise.
    # What the user put into PYTHONPATH stays.
    script_folder = __file__.rpartition("/")[0]
    if sys.path and sys.path[0] in ("", script_folder):
        del sys.path[0]
    sys.path[:] = [entry for entry in sys.path if entry]


_clean_path()

import contextlib  # noqa: E402
import importlib  # noqa: E402
import importlib.util  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import traceback  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from importlib.machinery import ModuleSpec  # noqa: E402
from typing import Any  # noqa: E402

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class _ByPath:
    """Finds the modules it was told of in their files, whatever sys.path says, and nothing beside them.

    A plug-in is imported only by the children that run its probes: one that this interpreter cannot import costs
    itself alone.
    """

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> "ModuleSpec | None":
        file = self._files.get(name)
        if file is None:
            return None
        is_package = os.path.basename(file) == "__init__.py"  # noqa: PTH119
        folders = [os.path.dirname(file)] if is_package else None  # noqa: PTH120
        return importlib.util.spec_from_file_location(name, file, submodule_search_locations=folders)


class _Channel:
    """Writes one JSON line a message, whole, to the descriptor of our own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def send(self, kind: str, value: Any) -> None:
        # A file name that is no UTF-8 reaches Python as lone surrogates, which no JSON can carry: they become "?".
        text = json.dumps({kind: value}, allow_nan=False, ensure_ascii=False) + "\n"
        data = text.encode("utf-8", "replace")
        while data:
            data = data[os.write(self._descriptor, data) :]


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by None: such a figure was not observed."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value


def _arguments(spec: Any, task: dict[str, Any]) -> dict[str, Any]:
    import inspect

    from fp8doctor.model import ProbeRun, Request
    from fp8doctor.plain import from_plain

    arguments: dict[str, Any] = {}
    for name in inspect.signature(spec.function).parameters:
        need = spec.needs.get(name)
        if need is None:
            arguments[name] = from_plain(Request, task["request"])
            continue
        plain = task["facts"].get(need.key)
        facts = None if plain is None else from_plain(need.facts_type, plain)
        if need.kind == "run":
            arguments[name] = ProbeRun(facts=facts, **task["runs"][need.key])
        else:
            arguments[name] = facts
    return arguments


def _records(spec: Any, task: dict[str, Any]) -> Iterator[Any]:
    """Run the probe; what it returns, or yields, as plain JSON values."""
    from fp8doctor.plain import to_plain

    result = spec.function(**_arguments(spec, task))
    seen = False
    for record in result if isinstance(result, Iterator) else (result,):
        if not isinstance(record, spec.facts_type):
            raise TypeError(f"the probe gave a {type(record).__name__} where it promised {spec.facts_type.__name__}")
        seen = True
        yield _finite(to_plain(record))
    if not seen:
        raise TypeError(f"the probe yielded no {spec.facts_type.__name__}")


def _words(error: BaseException) -> str:
    try:
        from fp8doctor.raised import in_words

        return in_words(error)
    except Exception:  # an interpreter in which nothing can be imported any more
        return type(error).__name__


def _die_with_the_doctor() -> None:
    """Have the kernel end this child when the doctor itself is killed, so that nothing is left on the GPU."""
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _be_the_first_without_memory() -> None:
    """Have the kernel end this child first when memory runs out, and not the doctor or a neighbour (proc(5))."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")


def _prepare(spec: Any) -> None:
    """Let the probe import what takes long while it waits; a failure shows again, and counts, when it runs."""
    try:
        spec.prepare()
    except BaseException:  # a package may raise SystemExit or anything of its own
        with contextlib.suppress(Exception):
            sys.stderr.write("while preparing: " + traceback.format_exc()[-2000:])


def main() -> int:
    """Run the probe that standard input names; 0 if the probe returned, 3 if it raised."""
    _die_with_the_doctor()
    _be_the_first_without_memory()
    # Put aside at once: what an examined package, or a program that it starts, reads must not be ours.
    source = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    head = json.loads(source.readline())
    channel = _Channel(head["descriptor"])
    sys.meta_path.insert(0, _ByPath(dict(head["importable"])))
    try:
        module = importlib.import_module(head["module"])
        spec = getattr(module, head["function"]).__fp8doctor__
        if head["prepare"]:
            _prepare(spec)
        task = json.loads(source.readline())
        source.close()
        for record in _records(spec, task):
            channel.send("facts", record)
    except BaseException as error:  # a package may raise SystemExit or anything of its own
        channel.send("exception", _words(error))
        with contextlib.suppress(Exception):  # standard error belongs to the examined package, which may have closed it
            sys.stderr.write("".join(traceback.format_exception(type(error), error, error.__traceback__))[-8000:])
            sys.stderr.flush()
        return 3
    channel.send("done", True)
    return 0


if __name__ == "__main__":
    status = main()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    # Not sys.exit: atexit hooks and static destructors of examined packages have been seen to hang and to crash.
    os._exit(status)
