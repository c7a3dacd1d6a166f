"""The report in a terminal: what a person needs on one screen, the details when asked for."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from fp8doctor.reporting import exhibits, summary
from fp8doctor.reporting.text import can_show, clean, one_line, to_ascii

View = dict[str, Any]
SIGNS = {"error": ("✗", "bold red"), "warning": ("!", "bold yellow"), "info": ("•", "cyan")}
STATUS_STYLE = {"ready": "bold green", "slow": "bold yellow", "unavailable": "bold red", "broken": "bold red"}
LABEL_WIDTH = 9
# Lines longer than this are hard to read, however wide the terminal is.
WIDEST = 120
DEFAULT_WIDTH = 100
NARROWEST = 30
# What of a list is shown before --verbose is needed.
SHOWN_REASONS = 3
SHOWN_CODE_LINES = 16
# Code to copy is of use whole or not at all; what is longer is no advice of ours.
COPIED_CODE_LINES = 60


def render(view: View, console: Console, *, verbose: bool = False) -> None:
    """Print the report.

    Args:
        view: the report's document with its captions (`fp8doctor.api.view`).
        console: where to print; its width, colours and encoding are respected.
        verbose: also everything that one screen has no place for.
    """
    for line in _Page(view, console, verbose).lines():
        # Code is longer than the terminal rather than broken: it is there to be pasted.
        console.print(line, no_wrap=True, overflow="ignore", crop=False)


def plain(view: View, encoding: str, *, verbose: bool = False) -> str:
    """The report as text without colours, in signs that `encoding` can carry; as wide as the terminal, if there is one.

    Args:
        view: as of `render`.
        encoding: the encoding of what it will be written to.
        verbose: as of `render`.
    """
    width = shutil.get_terminal_size((DEFAULT_WIDTH, 24)).columns
    to = _Plain(file=io.StringIO(), width=width, color_system=None, highlight=False, markup=False, emoji=False)
    to.carries = encoding
    with to.capture() as captured:
        render(view, to, verbose=verbose)
    return captured.get().rstrip("\n")


class _Plain(Console):
    """A console whose text ends up somewhere else."""

    carries = "utf-8"

    @property
    def encoding(self) -> str:
        return self.carries


class _Page:
    def __init__(self, view: View, console: Console, verbose: bool) -> None:
        self.view = view
        self.console = console
        self.width = max(min(console.width, WIDEST), NARROWEST)
        self.ascii_only = not can_show(console.encoding)
        self.verbose = verbose
        self.advice = summary.advice(view)
        self.from_a_command = view["source"] != "model" or summary.box_was_examined(view)

    def lines(self) -> Iterator[Text]:
        yield from self._wrapped(self._header())
        if python := summary.examined_python(self.view):
            yield from self._wrapped(self._text(f"examined: {python}", "dim"))
        yield Text()
        yield from self._labelled("VERDICT", self._verdict())
        yield from self._labelled("USE", self._use())
        yield from self._labelled("HOW", self._how())
        yield Text()
        if why := list(self._why()):
            yield from self._labelled("WHY", why)
            yield Text()
        yield from self._findings()
        yield from self._untold()
        yield from self._not_known()
        if self.verbose:
            yield from self._details()
        yield Text()
        yield from self._farewell()

    # --- laying out ---------------------------------------------------------------------------------------------

    def _text(self, value: object, style: str = "") -> Text:
        text = one_line(value)
        return Text(to_ascii(text) if self.ascii_only else text, style=style)

    def _join(self, *pieces: Text | str) -> Text:
        return Text.assemble(*(to_ascii(p) if self.ascii_only and isinstance(p, str) else p for p in pieces))

    def _wrapped(self, text: Text, indent: int = 0, mark: Text | None = None) -> Iterator[Text]:
        """The text in lines that fit, `indent` columns in, with `mark` in front of the first."""
        pieces = text.wrap(self.console, max(self.width - indent, 12), overflow="fold")
        for place, piece in enumerate(pieces):
            piece.rstrip()
            margin = mark if place == 0 and mark is not None else Text()
            yield Text.assemble(margin, " " * (indent - margin.cell_len), piece)

    def _code(self, value: object, indent: int, style: str = "green") -> Iterator[Text]:
        for line in clean(value).rstrip().splitlines():
            yield Text(" " * indent + (to_ascii(line) if self.ascii_only else line), style=style)

    def _drawn(self, drawing: list[Text], indent: int) -> Iterator[Text]:
        """The lines of an exhibit."""
        for line in drawing:
            if self.ascii_only:
                spelled = Text(to_ascii(line.plain), style=line.style)
                spelled.spans = line.spans if len(spelled) == len(line) else []
                line = spelled
            line.truncate(self.width - indent)
            yield Text.assemble(" " * indent, line)

    def _labelled(self, label: str, content: Iterable[Text]) -> Iterator[Text]:
        """The content beside its label; what is indented already only moves."""
        for place, line in enumerate(content):
            mark = Text(label if place == 0 else "", style="bold")
            yield Text.assemble(mark, " " * (LABEL_WIDTH - mark.cell_len), line)

    def _sign(self, severity: str) -> Text:
        sign, style = SIGNS[severity]
        return Text.assemble("  ", self._text(sign, style))

    # --- the first screen ---------------------------------------------------------------------------------------

    def _header(self) -> Text:
        tool, elapsed = self.view["tool"]["version"], self.view["elapsed_s"]
        pieces = [f"fp8doctor {tool}", *self.view["captions"]]
        if self.view["source"] != "live":
            pieces.append(f"{summary.dated(self.view)} {self.view['created'][:10]}")
        if elapsed is not None:
            pieces.append(f"{elapsed:.0f} s")
        return self._text(" · ".join(pieces), "dim")

    def _verdict(self) -> Iterator[Text]:
        verdict = self.view["verdict"]
        yield from self._beside(self._text(summary.headline(self.view), STATUS_STYLE.get(verdict["status"], "bold")))

    def _beside(self, text: Text, indent: int = 0) -> Iterator[Text]:
        """Lines for the column beside the labels."""
        for line in self._wrapped(text, LABEL_WIDTH + indent):
            yield line[LABEL_WIDTH:]

    def _use(self) -> Iterator[Text]:
        for place, one in enumerate(self.advice):
            yield from self._beside(self._join(self._text(one.label, "bold"), ": ", self._text(one.gain)))
            for where in one.places:
                yield from self._beside(self._text(where), indent=2)
            if place > 0 and self.verbose:
                yield from self._code(one.how, indent=4)

    def _how(self) -> Iterator[Text]:
        """The code of the first advice, and of each other one for a workload's step."""
        shown = summary.to_do(self.advice)
        for one in shown:
            code = list(self._code(one.how, indent=0))
            if len(shown) > 1:
                yield from self._code(f"# {one.places[0].partition(' (')[0]}", indent=0)
            yield from code if self.verbose else code[:COPIED_CODE_LINES]

    def _why(self) -> Iterator[Text]:
        for place, bars in enumerate(summary.leading_bars(self.view)):
            if place:
                yield Text()
            yield from self._beside(self._text(exhibits.caption(bars)))
            yield from self._drawn(exhibits.draw(bars, self.width - LABEL_WIDTH), indent=0)

    def _findings(self) -> Iterator[Text]:
        shown = summary.fold(self.view["findings"])
        box = [one for one in shown if one.finding["scope"] == "box"]
        usage = [one for one in shown if one.finding["scope"] == "usage"]
        if box:
            counts = self._text(f"({summary.counts(self.view).text()})", "dim")
            yield Text.assemble(("On this box", "bold"), "  ", counts)
            for one in box:
                yield from self._finding(one, full=True)
        elif not summary.box_was_examined(self.view):
            counts = self._text(summary.counts(self.view).text(), "dim")
            yield from self._wrapped(counts, 13, Text("Checks       ", style="bold"))
        else:
            yield from self._wrapped(self._all_well(), 13, Text("On this box  ", style="bold"))
        if usage:
            lessons = all(one.finding["severity"] == "info" for one in usage)
            well = "how to get more from FP8" + ("" if self.view["silenced"] else "; nothing is broken")
            note = self._text(well if lessons else "what to mend", "dim")
            yield Text.assemble(("In use", "bold"), "       ", note)
            for one in usage:
                is_lesson = one.finding["severity"] == "info" and not summary.is_a_message(one.finding)
                yield from self._finding(one, full=self.verbose or not is_lesson)

    def _all_well(self) -> Text:
        counts = summary.counts(self.view)
        numbers = self._text(f"({counts.text()})", "dim")
        words = summary.all_well(self.view)
        if self.view["silenced"]:
            sign = self._text("•", "cyan")
        elif counts.passed > counts.unknown:
            sign = self._text("✓", "bold green")
        else:
            sign, words = Text("?", "bold yellow"), f"{words} in what little could be seen"
        return Text.assemble(sign, f" {words} ", numbers)

    def _finding(self, one: summary.Shown, *, full: bool) -> Iterator[Text]:
        finding = one.finding
        name = self._text(finding["name"], "bold")
        pieces: list[Text | str] = [self._text(finding["id"], "bold"), " ", name, "  ", self._text(finding["title"])]
        if one.about:
            pieces += [" ", self._text(f"[{', '.join(one.about)}]", "dim")]
        if not full and (outcome := _outcome(finding)):
            pieces += [" -> ", self._text(outcome)]
        yield from self._wrapped(self._join(*pieces), 4, self._sign(finding["severity"]))
        if full:
            yield from self._full(finding)
        if one.symptoms:
            names = ", ".join(f"{s['id']} {s['name']}" for s in one.symptoms)
            yield from self._wrapped(self._text(f"also explains: {names}", "dim"), 6)
            if self.verbose:
                for symptom in one.symptoms:
                    yield from self._finding(summary.Shown(symptom, (), ()), full=True)

    def _full(self, finding: dict[str, Any]) -> Iterator[Text]:
        for evidence in finding["evidence"]:
            yield from self._wrapped(self._text(evidence["text"], "dim"), 6)
        for action in finding["actions"]:
            yield from self._wrapped(self._text(summary.deed(action)), 9, Text("      ->", style="bold"))
            if action["command"]:
                yield from self._code(action["command"], indent=9)
        if gain := summary.gain(finding):
            yield from self._wrapped(self._text(f"gives {gain}"), 6)

    def _untold(self) -> Iterator[Text]:
        gaps = summary.untold(self.view)
        if gaps or summary.was_cut(self.view):
            yield Text("This text cannot tell", style="bold")
        if summary.was_cut(self.view):
            yield from self._wrapped(Text("what comes after its end: it is cut off"), 4, Text("  ?"))
        for gap, command in gaps:
            yield from self._wrapped(self._text(gap), 4, Text("  ?"))
            if command:
                yield from self._code(command, indent=6)

    def _not_known(self) -> Iterator[Text]:
        if failed := summary.failed_probes(self.view):
            yield Text("Ended badly", style="bold")
            for key, happened in failed:
                yield from self._wrapped(self._text(f"{key}: {happened}"), 4, self._sign("warning"))
        left_out = summary.not_examined(self.view)
        if left_out and (self.verbose or not summary.is_foreign(self.view)):
            yield Text("Not examined", style="bold")
            for line in left_out:
                yield from self._wrapped(self._text(line), 4, Text("  -"))
        if silenced := summary.silenced(self.view):
            yield Text("Silenced", style="bold")
            for line in silenced:
                yield from self._wrapped(self._text(line), 4, Text("  -"))
        if lost := summary.lost(self.view):
            yield Text("Left out of this text", style="bold")
            said = f"facts for which it had no room; verdict and findings are as they were written: {lost}"
            yield from self._wrapped(self._text(said), 4, Text("  -"))
        if reasons := summary.unsettled(self.view):
            kept = reasons if self.verbose else reasons[:SHOWN_REASONS]
            yield Text("Could not tell", style="bold")
            for reason, ids in kept:
                yield from self._wrapped(self._text(f"{_which(ids)}: {reason}"), 4, Text("  ?"))
            if len(reasons) > len(kept):
                more = len(reasons) - len(kept)
                how = "--verbose" if self.from_a_command else "report.to_text(verbose=True)"
                yield Text(f"    {more} more {'reason' if more == 1 else 'reasons'} with {how}", style="dim")

    def _farewell(self) -> Iterator[Text]:
        if summary.needs_demo(self.view):
            yield from self._wrapped(Text("No GPU at hand? fp8doctor demo shows the report of a recorded box."))
        explain = [f"fp8doctor explain {one_line(one['id'])} tells more." for one in self.view["findings"][:1]]
        paste = "fp8doctor --markdown" if self.from_a_command else "report.to_markdown()"
        yield from self._wrapped(Text("   ".join([*explain, f"{paste} is for pasting."]), style="dim"))

    # --- --verbose ----------------------------------------------------------------------------------------------

    def _details(self) -> Iterator[Text]:
        for exhibit in summary.others_to_look_at(self.view):
            if drawing := exhibits.draw(exhibit, self.width - 2):
                yield Text()
                yield from self._wrapped(self._text(exhibits.caption(exhibit), "bold"))
                yield from self._drawn(drawing, indent=2)
        yield Text()
        yield Text("Rules", style="bold")
        for ended, ids in summary.by_outcome(self.view):
            yield from self._wrapped(self._text(f"{ended}: {', '.join(ids)}"), 2)
        yield Text()
        yield Text("Probes", style="bold")
        for key, run in self.view["probes"].items():
            took = "" if run["elapsed_ms"] is None else f", {run['elapsed_ms'] / 1000:.1f} s"
            detail = f": {run['detail']}" if run["detail"] else ""
            yield from self._wrapped(self._text(f"{key} {run['outcome']}{took}{detail}"), 2)
            if run["outcome"] in summary.FAILED and run["stderr_tail"]:
                yield from self._code("\n".join(run["stderr_tail"].splitlines()[-SHOWN_CODE_LINES:]), 6, "dim")


def _outcome(finding: dict[str, Any]) -> str:
    """What to do and what it gives, in a few words: "torch.compile, 2.40x over eager-fp8"."""
    action = one_line(finding["actions"][0]["text"]).rstrip(".") if finding["actions"] else ""
    return ", ".join(filter(None, (action, summary.gain(finding))))


def _which(ids: tuple[str, ...]) -> str:
    return ", ".join(ids) if len(ids) <= 4 else f"{', '.join(ids[:3])} and {len(ids) - 3} more"
