"""What runs inside a child: one probe, in the examined interpreter, its record written line by line to a descriptor.

Run as a script with the standard library alone. The task comes as JSON on standard input; lines go to the descriptor
that the task names, because standard output and standard error belong to the examined packages.
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

import importlib  # noqa: E402
import importlib.util  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
import traceback  # noqa: E402
from typing import Any  # noqa: E402


def _make_importable(name: str, file: str) -> None:
    """Import the package or module `name` from `file`, whatever sys.path says, and nothing beside it."""
    is_package = os.path.basename(file) == "__init__.py"  # noqa: PTH119
    folders = [os.path.dirname(file)] if is_package else None  # noqa: PTH120
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=folders)
    if spec is None or spec.loader is None:
        raise ImportError(f"no module in {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


class _Channel:
    """Writes one JSON line a message, whole, to the descriptor of our own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def send(self, kind: str, value: Any) -> None:
        data = (json.dumps({kind: value}, allow_nan=False) + "\n").encode()
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


def main() -> int:
    """Run the task on standard input; 0 if the probe returned, 3 if it raised."""
    task = json.loads(sys.stdin.buffer.read())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    channel = _Channel(task["descriptor"])
    for name, file in task["importable"]:
        _make_importable(name, file)
    from fp8doctor.plain import to_plain

    try:
        module = importlib.import_module(task["module"])
        spec = getattr(module, task["function"]).__fp8doctor__
        result = spec.function(**_arguments(spec, task))
        records = iter([result]) if isinstance(result, spec.facts_type) else result
        for record in records:
            channel.send("facts", _finite(to_plain(record)))
    except BaseException as error:  # a package may raise SystemExit or anything of its own
        tail = "".join(traceback.format_exception(type(error), error, error.__traceback__))[-8000:]
        sys.stderr.write(tail)
        sys.stderr.flush()
        channel.send("exception", f"{type(error).__name__}: {error}"[:2000])
        return 3
    channel.send("done", True)
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # Not sys.exit: atexit hooks and static destructors of examined packages have been seen to hang and to crash.
    os._exit(status)
