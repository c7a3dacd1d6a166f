"""Where did torch.compile break a graph or compile again in this process, and what reason does it give?

Read is what Dynamo keeps for itself: nothing is switched on, and it is not imported where nobody compiled anything.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from fp8doctor.observed import CompileEvent
from fp8doctor.observing.belonging import Code, is_torch, plain

MOST, LONGEST = 20, 200
BREAK, RECOMPILE = "graph-break", "recompile"
# What is said of a function that Dynamo gave up on; rules look for it.
LIMIT = "recompile limit reached"
GIVEN_UP = "what no earlier code fits runs without being compiled"
NOT_COMPILED = "the whole function runs without being compiled"
_LIMIT = re.compile(r"(recompile|cache_size)[ _]limit")
# "4/7: " before a guard: the seventh code of the fourth function did not fit.
_COMPILE_ID = re.compile(r"^(!?[\d/]+): ")
_SOURCE = re.compile(r"\s+# .*?# (?P<file>[^\s:]+):(?P<line>\d+) in \S+")
_HINT = re.compile(r"\(HINT: .*\)")
_EXPLANATION = re.compile(r"Explanation: *(.*?)(?=\n\s*Hint:|\n\s*\n|\Z)", re.DOTALL)
_FOLDERS = re.compile(r"(?<![\w.])[\w.~+-]*[/\\](?:[^\s'\"`:()]*[/\\])?(?=[\w.-]+\.py\b)")
# A text that a guard compares with may be a prompt: its beginning is enough.
_LONG_TEXT = re.compile(r"(?<=== )'([^'\\]{24})[^']*'")
_LOCAL = re.compile(r"L\['(\w+)'\]")
# Differ from one recompilation to the next: numbers, addresses, texts.
_VARYING = re.compile(r"0x[0-9a-f]+|\d+(?:\.\d+)?|(?<=== )'[^']*'")


class _Said:
    """What Dynamo keeps of this process, as it is now."""

    def __init__(self, utils: Any) -> None:
        # torch 2.6 to 2.13 keep these: the reason and the stack of each break, the guards that failed by code, the
        # last 64 compilations, and how often each reason was given.
        self.breaks = list(getattr(utils, "graph_break_reasons", None) or ())
        self.failures = {
            code: list(reasons) for code, reasons in (getattr(utils, "guard_failures", None) or {}).items()
        }
        metrics = getattr(utils, "get_compilation_metrics", None)
        self.metrics = list(metrics()) if metrics is not None else []
        counters = getattr(utils, "counters", None) or {}
        self.counted = Counter({str(reason): int(n) for reason, n in dict(counters.get("graph_break") or {}).items()})

    @property
    def compiled(self) -> bool:
        """Whether anything was."""
        return bool(self.metrics or self.breaks or self.failures or self.counted)

    def guards(self) -> list[tuple[Any, str, str]]:
        """Each recompilation once: the code, which compilation of it did not fit, and the guard that failed.

        A recompilation names all earlier ones; only the one directly before it is named for the first time.
        """
        first: dict[tuple[int, str], tuple[Any, str, str]] = {}
        for code, reasons in self.failures.items():
            for reason in reasons:
                name = _name(reason)
                first.setdefault((id(code), name), (code, name, reason))
        return list(first.values())


def _name(reason: str) -> str:
    """Which compilation did not fit: "4/7"."""
    found = _COMPILE_ID.match(reason)
    return found.group(1) if found else reason


class _Ours:
    """What was compiled on the doctor's account, which nobody else is to be told of."""

    def __init__(self) -> None:
        # The objects are kept, so that no other gets their identity.
        self.things: list[Any] = []
        self.guards: set[tuple[Any, str]] = set()
        self.counted: Counter[str] = Counter()

    def add(self, before: _Said, after: _Said) -> None:
        known = {id(one) for one in (*before.breaks, *before.metrics)}
        self.things += [one for one in (*after.breaks, *after.metrics) if id(one) not in known]
        named = {(code, name) for code, name, _ in before.guards()}
        self.guards |= {(code, name) for code, name, _ in after.guards()} - named
        self.counted += after.counted - before.counted

    def without(self, said: _Said) -> _Said:
        ours = {id(one) for one in self.things}
        said.breaks = [one for one in said.breaks if id(one) not in ours]
        said.metrics = [one for one in said.metrics if id(one) not in ours]
        said.counted = said.counted - self.counted
        said.failures = {code: reasons for code, reasons in said.failures.items() if self._left(code, reasons)}
        return said

    def _left(self, code: Any, reasons: list[str]) -> bool:
        return any((code, _name(reason)) not in self.guards for reason in reasons)


_OURS = _Ours()


class _Theirs:
    """Which records are a model's: those of its code, and all that came while its step ran.

    What has no file but torch's, or none at all, may be another model's: it counts only if it came with the step.
    """

    def __init__(self, model: Any, step: Any, before: _Said | None) -> None:
        self.code = Code(model, step)
        self.before = before
        self.known: set[int] = set()
        self.guards: set[tuple[Any, str]] = set()

    def keep(self, said: _Said) -> None:
        """Leave the model's records alone in what was said."""
        before = self.before or said
        self.known = {id(one) for one in (*before.breaks, *before.metrics)}
        self.guards = {(code, name) for code, name, _ in before.guards()}
        located = {str(one.reason) for one in said.breaks}
        located |= {str(getattr(one, "fail_reason", None)) for one in said.metrics}
        fresh = said.counted - before.counted
        said.counted = Counter({reason: n for reason, n in fresh.items() if reason not in located})
        said.breaks = [one for one in said.breaks if self._is_new(one) or self.code.has(*_files(one.user_stack))]
        called = {_function_of(one) for one in said.metrics if self._made(one)}
        said.metrics = [one for one in said.metrics if self._is_new(one) or _function_of(one) in called]
        said.failures = {
            code: kept for code, reasons in said.failures.items() if (kept := self._failures(code, reasons, called))
        }

    def _is_new(self, one: Any) -> bool:
        return id(one) not in self.known

    def _made(self, one: Any) -> bool:
        files = (getattr(one, "co_filename", None), getattr(one, "fail_user_frame_filename", None))
        return self.code.has(*files) or self.code.called(getattr(one, "stack_trace", None))

    def _failures(self, code: Any, reasons: list[str], called: set[tuple[Any, ...]]) -> list[str]:
        if self.code.has(code.co_filename) or (code.co_filename, code.co_firstlineno, code.co_name) in called:
            return reasons
        return [reason for reason in reasons if (code, _name(reason)) not in self.guards]


def _files(stack: Any) -> list[str]:
    return [frame.filename for frame in stack or ()]


def _function_of(one: Any) -> tuple[Any, ...]:
    """The function that a compilation was of, by itself."""
    return tuple(getattr(one, name, None) for name in ("co_filename", "co_firstlineno", "co_name"))


def _said() -> _Said | None:
    utils = sys.modules.get("torch._dynamo.utils")
    if utils is None:
        return None
    try:
        return _Said(utils)
    except Exception:  # kept in another way by another version: then it is not known
        return None


@contextlib.contextmanager
def hearing(model: Any = None, step: Any = None) -> Iterator[Callable[[], tuple[CompileEvent, ...] | None]]:
    """Gives a function that tells the events so far, those of a model alone if one is given.

    What is compiled after it was asked, until the end, is the doctor's own, and no event of any later call.
    """
    before: list[_Said | None] = []
    since = so_far_said()

    def so_far() -> tuple[CompileEvent, ...] | None:
        before[:] = [_said()]
        return events(model, step, since)

    try:
        yield so_far
    finally:
        after = _said()
        if before and after is not None:
            with contextlib.suppress(Exception):
                _OURS.add(before[0] or _Said(None), after)


def so_far_said() -> object:
    """What is kept until now, for `events` to know what came later."""
    return _said() or _Said(None)


def events(model: Any = None, step: Any = None, since: object = None) -> tuple[CompileEvent, ...] | None:
    """What torch.compile said so far in this process, the most frequent first.

    Args:
        model: the torch.nn.Module whose events are wanted; without one all are told.
        step: a function that somebody wrote to call it.
        since: `so_far_said()` from before its step was called: what came later is the model's, whatever code it is of;
            without it nothing came later.

    Returns None where nothing was compiled, or Dynamo keeps it in a way that is not known here.
    """
    said = _said()
    if said is None:
        return None
    try:
        said = _OURS.without(said)
        if model is not None:
            _Theirs(model, step, since if isinstance(since, _Said) else None).keep(said)
        return _events(said) if said.compiled else None
    except Exception:  # as above
        return None


def _events(said: _Said) -> tuple[CompileEvent, ...]:
    found: dict[tuple[str | None, ...], CompileEvent] = {}
    counts: Counter[tuple[str | None, ...]] = Counter()
    for kind, where, reason, count in (*_broken(said), *_given_up(said), *_compiled_again(said)):
        key = (kind, where, _VARYING.sub("#", reason))
        found.setdefault(key, CompileEvent(kind, where, cut(reason)))
        counts[key] += count
    return tuple(replace(found[key], count=count) for key, count in counts.most_common(MOST))


def _broken(said: _Said) -> Iterator[tuple[str, str | None, str, int]]:
    """Breaks with their lines; those that only a counter knows of have none."""
    located = {str(getattr(one, "fail_reason", None)) for one in said.metrics}
    for one in said.breaks:
        located.add(str(one.reason))
        yield BREAK, _innermost(one.user_stack), _reason(str(one.reason)), 1
    for reason, count in said.counted.items():
        if reason not in located:
            yield BREAK, None, _reason(reason), count


def _given_up(said: _Said) -> Iterator[tuple[str, str | None, str, int]]:
    """Functions that run without being compiled: compiled too often, or broken where they cannot go on."""
    for one in said.metrics:
        failed, kind = (str(getattr(one, name, None) or "") for name in ("fail_reason", "fail_type"))
        if failed and _LIMIT.search(f"{failed} {kind}"):
            code, guard = _limited(said, str(getattr(one, "compile_id", "")))
            yield RECOMPILE, _place(code), f"{LIMIT}, {GIVEN_UP}{f'; last: {guard}' if guard else ''}", 1
        elif failed and "Unsupported" in kind:
            file, line = (getattr(one, f"fail_user_frame_{part}", None) for part in ("filename", "lineno"))
            at = f" at {_file(file)}:{line}" if file else ""
            yield BREAK, _compilation(one), f"{NOT_COMPILED}, for a break{at}: {_reason(failed)}", 1


def _compiled_again(said: _Said) -> Iterator[tuple[str, str | None, str, int]]:
    """Recompilations; of those from before torch._dynamo.reset() only the last compilations know."""
    guards = said.guards()
    for code, name, reason in guards:
        if (code, name) not in _OURS.guards:
            yield RECOMPILE, _guarded(code, reason), _guard(reason), 1
    names = {name for _, name, _ in guards}
    for one in said.metrics:
        reason = str(getattr(one, "recompile_reason", None) or "")
        known = _COMPILE_ID.match(reason)
        if known and known.group(1) not in names and not getattr(one, "fail_reason", None):
            yield RECOMPILE, _compilation(one), _guard(reason), 1


def _compilation(one: Any) -> str | None:
    """The function that a compilation was of."""
    file = getattr(one, "co_filename", None)
    return _at(file, getattr(one, "co_firstlineno", None), getattr(one, "co_name", None)) if file else None


def _limited(said: _Said, compile_id: str) -> tuple[Any, str | None]:
    """The function that was compiled too often, and the guard that failed last: "4/8" could not use "4/7"."""
    function = compile_id.rpartition("/")[0]
    last = [(code, reason) for code, name, reason in said.guards() if name.rpartition("/")[0] == function]
    return (last[-1][0], _guard(last[-1][1])) if function and last else (None, None)


def _innermost(stack: Any) -> str | None:
    """The innermost line that is not torch's own: hooks and wrapped modules are called through it."""
    frames = list(stack or ())
    own = [frame for frame in frames if not is_torch(frame.filename)]
    chosen = (own or frames)[-1:]
    return _at(chosen[0].filename, chosen[0].lineno, chosen[0].name) if chosen else None


def _at(file: str, line: Any, name: str | None) -> str:
    """ "model.py:98 in forward"."""
    name = plain(name)
    return f"{_file(file)}:{line}{f' in {name}' if name else ''}"


def _file(path: str) -> str:
    return re.split(r"[/\\]", path)[-1]


def _place(code: Any) -> str | None:
    return _at(code.co_filename, code.co_firstlineno, code.co_name) if code is not None else None


def _guarded(code: Any, reason: str) -> str | None:
    """The line that made the guard, where it is in the function's own file; else the function."""
    source = _SOURCE.search(reason.split("\n", 1)[0])
    if source is not None and _file(source["file"]) == _file(code.co_filename):
        return _at(code.co_filename, source["line"], code.co_name)
    return _place(code)


def _guard(reason: str) -> str:
    """The guard that failed, with torch's hint, without the stack."""
    line = _COMPILE_ID.sub("", reason.split("\n", 1)[0])
    hint = _HINT.search(line)
    # A comment names the line that made the guard, or says that it is not known.
    text = re.split(r"\s+# ", _HINT.sub("", line), maxsplit=1)[0]
    return _LOCAL.sub(r"\1", f"{text.strip()} {hint.group() if hint else ''}".strip())


def _reason(text: str) -> str:
    """What could not be compiled, and torch's explanation; hints and addresses of its pages are left out."""
    explanation = _EXPLANATION.search(text)
    first = text.strip().split("\n", 1)[0].strip("'")
    return f"{first}: {explanation.group(1)}" if explanation else first


def cut(text: str) -> str:
    """The text in one line, without folders, of 200 characters at most."""
    line = _LONG_TEXT.sub(r"'\1...'", _FOLDERS.sub("", " ".join(text.split())))
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."
