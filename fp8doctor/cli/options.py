"""The options that several commands share, and how their values are checked before any work begins."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fp8doctor.cli import completing, selecting
from fp8doctor.cli.settings import LEVELS

if TYPE_CHECKING:
    from fp8doctor.model import Shape

    Type = click.ParamType[Any]
else:
    Type = click.ParamType  # generic for type checkers alone in the older releases of click

F = TypeVar("F", bound=Callable[..., Any])
STDOUT = "-"
# A dimension beyond this, or a matrix beyond 2^34 elements (32 GiB in BF16), is a slip of the keyboard.
LARGEST_DIMENSION = 1 << 24
LARGEST_MATRIX = 1 << 34
LEAST_BUDGET_S = 5.0
LARGEST_BUDGET_S = 86_400.0
# The options that take a FILE if one follows.
_TAKES_FILE = {"json_to": "--json", "markdown_to": "--markdown"}
# The form of a report by the ending of its file.
FORMS = {
    ".json": "json", ".md": "markdown", ".markdown": "markdown", ".html": "html", ".htm": "html", ".txt": "text",
}  # fmt: skip
# How what we write begins: JSON with a schema of ours, Markdown and HTML with our name, a text with our header line.
_OURS = re.compile(
    rb'\s*(?:\{\s*"schema":\s*"fp8doctor\.|### fp8doctor\b|<!doctype html>\r?\n<!-- fp8doctor\b'
    rb"|fp8doctor (?:diff )?[0-9][\w.+-]{0,40}(?: \xc2\xb7 |\r?\n))"
)


class ShapeType(Type):
    """MxKxN: the tokens, input and output width of one linear layer."""

    name = "MxKxN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Shape:
        """The shape that the text means."""
        from fp8doctor.model import Shape

        if isinstance(value, Shape):
            return value
        parts = re.fullmatch(r"([0-9]{1,9})[xX*×]([0-9]{1,9})[xX*×]([0-9]{1,9})", str(value).strip())
        if parts is None:
            self.fail(f"{value!r} is no shape; write tokens x inputs x outputs, such as 4096x3072x3072.", param, ctx)
        m, k, n = (int(part) for part in parts.groups())
        if min(m, k, n) < 1:
            self.fail(f"{value!r} is no shape: each of its numbers is 1 or more.", param, ctx)
        if max(m, k, n) > LARGEST_DIMENSION or max(m * k, k * n, m * n) > LARGEST_MATRIX:
            self.fail(f"{value!r} is larger than any GPU's memory.", param, ctx)
        return Shape(m, k, n)


class Seconds(Type):
    """A budget in seconds."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number of seconds that the text means."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not LEAST_BUDGET_S <= seconds <= LARGEST_BUDGET_S:
            self.fail(f"must be between {LEAST_BUDGET_S:.0f} and {LARGEST_BUDGET_S:.0f} seconds.", param, ctx)
        return seconds


class OutputFile(Type):
    """A file to be written, looked at first: an examination of a minute must not end in "no such folder"."""

    name = "file"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> completing.Items:
        """Any file."""
        return completing.files(ctx, param, incomplete)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The path, if a file can be written there."""
        if value == STDOUT:
            return STDOUT
        path = Path(value)
        if path.is_dir():
            self.fail(f"cannot write {value}: it is a folder.", param, ctx)
        if path.is_symlink() and not path.exists():
            self.fail(f"cannot write {value}: it is a link that leads nowhere.", param, ctx)
        if not path.parent.is_dir():
            self.fail(f"cannot write {value}: there is no folder {path.parent}.", param, ctx)
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            self.fail(f"cannot write {value}: no permission.", param, ctx)
        if path.is_file() and not _is_ours(path):
            last = f"; without a FILE, {param.opts[0]} comes last" if param and param.name in _TAKES_FILE else ""
            self.fail(f"{value} is there, and nothing that fp8doctor wrote: it is not overwritten{last}.", param, ctx)
        return str(value)


def form_of(place: str) -> str | None:
    """The form of a report that the ending of a file's name asks for."""
    return FORMS.get(Path(place).suffix.lower())


class ReportFile(OutputFile):
    """A file for the report, in the form that the ending of its name says."""

    def __init__(self, *, html: bool = True) -> None:
        self.endings = [ending for ending, form in FORMS.items() if html or form != "html"]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The path, if it ends as a form does, and a file can be written there."""
        if Path(str(value)).suffix.lower() not in self.endings:
            self.fail(f"{value}: the ending of FILE says the form; there is {', '.join(self.endings)}.", param, ctx)
        place = super().convert(value, param, ctx)
        if form_of(place) == "html":
            _require_charts()
        return place


class HtmlFile(OutputFile):
    """A file for the report as HTML, whatever its name."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The path, if a file can be written there and HTML can be made."""
        if value == STDOUT:
            self.fail("HTML goes to a FILE, not to standard output.", param, ctx)
        place = super().convert(value, param, ctx)
        _require_charts()
        return place


def _require_charts() -> None:
    """End the command before any work if what draws the charts of the HTML is not installed."""
    from fp8doctor.reporting import html

    try:
        html.check()
    except html.MissingChartsError as error:
        raise click.ClickException(str(error)) from None


def _is_ours(path: Path) -> bool:
    """Whether a file may be written over: it is empty, or begins as a document or Markdown of ours does."""
    try:
        with path.open("rb") as file:
            start = file.read(256)
    except OSError:
        return False
    return not start.strip() or _OURS.match(start) is not None


def swallowed(params: Mapping[str, Any]) -> str:
    """Which option may have taken the argument that is missing, as the end of a complaint; "" if none did."""
    for name, flag in _TAKES_FILE.items():
        if (taken := params.get(name)) not in (None, STDOUT):
            return f"; {flag} takes a FILE after it, here {taken}: without one it comes last"
    return ""


def refuse_inputs(chosen: Mapping[str, Any], inputs: Iterable[str]) -> None:
    """A report is never written over what it is made from."""
    asked = [(flag, chosen.get(name)) for name, flag in (*_TAKES_FILE.items(), ("html_to", "--html"))]
    for flag, place in [*asked, *(("-o", place) for place in chosen["files"])]:
        if place not in (None, STDOUT) and any(_is_same(Path(place), Path(one)) for one in inputs):
            raise click.UsageError(f"{flag} {place}: this file is read, and is not overwritten.")


def named_twice(files: Sequence[str]) -> str | None:
    """The first of the files that was named before, by whatever path."""
    paths = [Path(file) for file in files]
    again = (str(one) for place, one in enumerate(paths) if any(_is_same(one, other) for other in paths[:place]))
    return next(again, None)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):  # one of them is not there, or its name holds a NUL
        return False


def workload(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The name of a built-in workload, or the path of a file that describes a model."""
    if value is None:
        return None
    from fp8doctor.checks.workload.config_file import NoModelError, read_plan
    from fp8doctor.measuring.workloads import names

    if value in names():
        return value
    path = Path(value)
    why = _no_workload(value)
    if path.is_file():
        try:
            read_plan(path)
        except NoModelError as error:
            why = f"{error}."
        else:
            return str(path.absolute())
    # An argument's own hint stands in the brackets of the usage line.
    hint = param.human_readable_name if isinstance(param, click.Argument) else None
    raise click.BadParameter(why, ctx, param, hint)


def _no_workload(value: str) -> str:
    """What is said of a text that is neither a workload's name nor a file."""
    from fp8doctor.measuring.workloads import names

    path = Path(value)
    if (path / "model_index.json").is_file():
        return f"{value} is a pipeline; fp8doctor bench --pipeline {value} measures it."
    if (path / "config.json").is_file():
        return f"{value} is a folder; name {path / 'config.json'}."
    if path.is_dir():
        return f"{value} is a folder without a config.json."
    if value.endswith(".json") or "/" in value:
        return f"{value}: no such file."
    return f"{value!r} is no workload and no config.json; there is {', '.join(names())}."


def _applied(function: F, decorators: Iterable[Callable[[F], F]]) -> F:
    for decorator in reversed(list(decorators)):
        function = decorator(function)
    return function


def python(does: str) -> Callable[[F], F]:
    """Whose packages are examined."""
    words = f"{does} the packages of this interpreter or environment."
    return click.option("--python", metavar="PATH", shell_complete=completing.files, help=words)


def examination(function: F) -> F:
    """What to examine, and for how long."""
    return _applied(
        function,
        (
            click.option("--quick", is_flag=True, help="Time and compile nothing: a look of some seconds."),
            click.option("--thorough", is_flag=True, help="Measure for minutes."),
            click.option("--budget", type=Seconds(), metavar="SECONDS", help="Time for the whole run. [default: 60]"),
            python("Examine"),
            click.option("--gpu", type=click.IntRange(0, 1023), default=0, metavar="INDEX", help="The GPU to measure."),
            click.option(
                "--for", "workload", callback=workload, metavar="WORKLOAD", shell_complete=completing.workloads,
                help="What you run: a built-in workload, or a model's config.json.",
            ),
            click.option(
                "--shape", "shapes", type=ShapeType(), multiple=True, metavar="MxKxN",
                help="Also measure this linear layer: tokens x inputs x outputs. May be repeated.",
            ),
        ),
    )  # fmt: skip


def cache(function: F) -> F:
    """Whether compiled kernels and the report are kept."""
    return click.option("--no-cache", is_flag=True, help="Keep no compiled kernels and no report for later.")(function)


def redaction(function: F) -> F:
    """Whether names and addresses are replaced."""
    return click.option(
        "--no-redact", is_flag=True, help="Leave names, paths, addresses and serial numbers as they are."
    )(function)


def output(function: F, fail_on: str = "error", saved: Callable[[F], F] | None = None, html: bool = True) -> F:
    """How the report is written, what it tells, and what makes the command fail.

    `fail_on` is the level unless another is asked for, `saved` the command's own -o.
    """
    optional_file: dict[str, Any] = {"is_flag": False, "flag_value": STDOUT, "type": OutputFile(), "metavar": "[FILE]"}
    rules: dict[str, Any] = {
        "multiple": True, "callback": selecting.rules, "metavar": "ID", "shell_complete": completing.rules_of_a_list,
    }  # fmt: skip
    return _applied(
        redaction(function),
        (
            saved or _saved(html),
            click.option("--json", "json_to", help="The report as JSON; alone, to standard output.", **optional_file),
            click.option("--markdown", "markdown_to", help="The report for pasting into an issue.", **optional_file),
            *([_HTML] if html else []),
            click.option("-v", "--verbose", is_flag=True, help="Everything: all figures, rules and evidence."),
            click.option(
                "--select", "selected", help="Tell only this finding: an id, a name or LIN for all LIN... Repeatable.",
                **rules,
            ),
            click.option("--ignore", "ignored", help="Do not tell this finding, nor count it. Repeatable.", **rules),
            click.option(
                "--fail-on", type=click.Choice(LEVELS), default=fail_on, show_default=True,
                help="The least finding that makes the exit status 1.",
            ),
        ),
    )  # fmt: skip


_HTML: Callable[[Any], Any] = click.option(
    "--html", "html_to", type=HtmlFile(), metavar="FILE", help="The report as a page with charts."
)


def _saved(html: bool) -> Callable[[F], F]:
    """Where the report is saved."""
    endings = ", ".join(ending for ending in (".json", ".md", ".html", ".txt") if html or ending != ".html")
    return click.option(
        "-o", "--output", "files", type=ReportFile(html=html), multiple=True, metavar="FILE",
        help=f"Also write the report here, in the form of the ending: {endings}. Repeatable.",
    )  # fmt: skip


def refuse_command_names(chosen: dict[str, Any], names: Iterable[str], before: str = "") -> None:
    """`--json demo` would write a file called "demo"; the command is meant."""
    for option, flag in _TAKES_FILE.items():
        if chosen[option] in names:
            raise click.UsageError(f"{flag} comes last: fp8doctor {before}{chosen[option]} {flag}.")
