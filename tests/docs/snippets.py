"""Which snippets do the pages show, and what is said of each?

A comment right before a block says what cannot be seen in it:

    <!-- not run: needs a GPU -->              it is not run, and why
    <!-- exit status 1 without a GPU -->       how its commands end, if not with 0
    <!-- file: my_model.py -->                 the other snippets of the page find it under this name

A block of commands (`console`) has a prompt before each; what stands below a command is what it prints, with a line of
three dots for what is left out. Without any such line nothing is said of what it prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
PROMPT = "$ "
LEFT_OUT = "..."

_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<remark>[^\n]*?) -->\n)?^(?P<indent> *)```(?P<language>[\w{}-]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_STATUS = re.compile(r"exit status (?P<status>[0-9])(?P<without_gpu> without a GPU)?")


@dataclass(frozen=True)
class Snippet:
    """A block of a page."""

    page: str
    line: int
    language: str
    text: str
    not_run: str | None = None
    file: str | None = None
    status: int = 0
    # The status holds on a machine without a GPU.
    without_gpu: bool = False

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command of a `console` block, and what stands below it."""

    snippet: Snippet
    line: int
    text: str
    shown: tuple[str, ...]

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.snippet.page}:{self.line}"


def snippets() -> Iterator[Snippet]:
    """Every block of every page."""
    for page in PAGES:
        yield from snippets_of(page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8"))


def snippets_of(page: str, text: str) -> Iterator[Snippet]:
    """Every block of a page."""
    for found in _BLOCK.finditer(text):
        remark = found["remark"] or ""
        if found["language"].startswith("{"):
            continue  # a directive of the pages' generator
        status = _STATUS.fullmatch(remark)
        yield Snippet(
            page,
            text.count("\n", 0, found.start("text")) + 1,
            found["language"],
            "".join(line.removeprefix(found["indent"]) for line in found["text"].splitlines(keepends=True)),
            not_run=_after("not run: ", remark),
            file=_after("file: ", remark),
            status=int(status["status"]) if status else 0,
            without_gpu=bool(status and status["without_gpu"]),
        )


def _after(word: str, remark: str) -> str | None:
    return remark.removeprefix(word) if remark.startswith(word) else None


def commands_of(snippet: Snippet) -> list[Command]:
    """The commands of a `console` block.

    Raises:
        ValueError: if it does not begin with one.
    """
    found: list[tuple[int, str, list[str]]] = []
    for number, line in enumerate(snippet.text.splitlines(), snippet.line):
        if line.startswith(PROMPT):
            found.append((number, line.removeprefix(PROMPT), []))
        elif not found:
            raise ValueError(f"{snippet.place}: no command before {line!r}")
        else:
            found[-1][2].append(line.rstrip())
    return [Command(snippet, number, text, tuple(shown)) for number, text, shown in found]


def missing(shown: tuple[str, ...], printed: list[str]) -> str | None:
    """What is shown and was not printed, up to the next dots; or printed and not shown; None if all was."""
    place, anchored = 0, True
    for run in _runs(shown):
        places = [place] if anchored else range(place, len(printed) - len(run) + 1)
        found = next((at for at in places if printed[at : at + len(run)] == run), None)
        if found is None:
            return "\n".join(run)
        place, anchored = found + len(run), False
    return None if not shown or shown[-1].strip() == LEFT_OUT or place == len(printed) else "\n".join(printed[place:])


def _runs(shown: tuple[str, ...]) -> Iterator[list[str]]:
    """What stands between the dots; the first is empty if dots come first."""
    run: list[str] = []
    for line in shown:
        if line.strip() == LEFT_OUT:
            yield run
            run = []
        else:
            run.append(line)
    if run:
        yield run
