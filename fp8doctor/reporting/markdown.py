"""The report as Markdown for an issue: short to read, whole to a program, and nothing in it breaks out of its place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fp8doctor.reporting import exhibits, summary
from fp8doctor.reporting.smaller import LISTS_GONE, SAMPLES_GONE, Fitting, carried, within_room
from fp8doctor.reporting.text import clean, one_line

View = dict[str, Any]
# GitHub refuses a comment of more than 65,536 characters (its API answers "body is too long (maximum is 65536
# characters)"); the rest is room for what the person writes around it.
LONGEST = 60_000
# What a person reads takes at most half; the rest is for the JSON.
LONGEST_READABLE = 30_000
LONGEST_TEXT = 600
LONGEST_CODE = 2_000
MOST_EVIDENCE = 8
MOST_ACTIONS = 4
BAR_COLUMNS = 88
# All tables together; one with more rows than this is left to the JSON and to the files of `-o`.
LONGEST_TABLES, SHORTEST_TABLES = 9_000, 4_000
MOST_TABLE_LINES = 60
TABLE_COLUMNS = 118
JSON_TITLE = "The report as JSON, for programs: fp8doctor read takes this whole text"

# What Markdown, HTML, mentions, references, mathematics, emoji and links are made of. A word with any of it stands as
# code, where none of it means anything.
_SPECIAL = re.compile(
    r"[`*_<>\[\]{}|\\~&$#@]|://|www\.|:[\w+-]+:|(?:^|\W)GH-\d|(?:^|\W)(?=[a-f]{0,39}\d)(?=\d{0,39}[a-f])[0-9a-f]{7,40}(?:$|\W)",
    re.IGNORECASE,
)
# What ends an item of a list or a sentence, behind a word; by itself it means nothing.
_SEPARATOR = re.compile(r"(?<=[^,;:.!?)])\)?[,;:.!?]*$")
_PYTHON = re.compile(r"(?:import|from|with|for|def|model|[a-z_0-9.]+\(|[A-Za-z_.]+ = |[a-z_]+=[A-Z]\w+$)\b")
# What begins a list or a heading at the start of a line.
_OPENING = re.compile(r"[-+=]+|\d+[.)]")


def render(view: View) -> str:
    """The report as Markdown of less than 60,000 characters.

    Args:
        view: the report's document with its captions (`fp8doctor.api.view`).
    """
    readable = within(_readable(view), LONGEST_READABLE)
    room = LONGEST - len(readable) - AROUND_JSON
    document = carried(view, room)
    # Tables for people; few where programs would lose more than samples by them, none where they would lose records.
    for tables_room, most_cuts in ((LONGEST_TABLES, SAMPLES_GONE), (SHORTEST_TABLES, LISTS_GONE), (0, 99)):
        fitting = within_room(document, room - tables_room)
        if fitting is not None and fitting.cuts <= most_cuts:
            break
    return readable + _tables(view, tables_room) + json_block(fitting, JSON_TITLE)


def within(parts: Iterator[str], limit: int) -> str:
    """The parts that fit, and a line that says so if not all do."""
    kept: list[str] = []
    length = 0
    for part in parts:
        length += len(part) + 1
        if length > limit:
            kept.append("\n(The rest is in the JSON below.)\n")
            break
        kept.append(part)
    return "\n".join(kept) + "\n"


def _readable(view: View) -> Iterator[str]:
    pieces = [f"fp8doctor {view['tool']['version']}", *view["captions"]]
    if view["source"] != "live":
        pieces.append(f"{summary.dated(view)} {view['created'][:10]}")
    yield f"### {' · '.join(inline(piece) for piece in pieces)}\n"
    if python := summary.examined_python(view):
        yield f"Examined: {inline(python)}\n"
    verdict = view["verdict"]
    yield f"**Verdict: {inline(verdict['status'])}.** {inline(summary.headline(view))}\n"
    for place, one in enumerate(summary.advice(view)):
        if place == 0:
            yield "**Use**\n"
        yield f"- **{inline(one.label)}**: {inline(one.gain)}"
        yield from (f"  - {inline(where)}" for where in one.places)
        if one.how and place == 0:
            yield code_block(one.how, "python", indent=2)
    for bars in summary.leading_bars(view):
        drawing = "\n".join(line.plain for line in exhibits.draw(bars, BAR_COLUMNS))
        yield f"\n**Why**: {inline(exhibits.caption(bars))}\n\n{code_block(drawing, 'text')}"
    yield from _findings(view)
    yield from _untold(view)
    yield from _not_known(view)


def _tables(view: View, room: int) -> str:
    """Charts and tables that did not lead, each folded, as far as there is room; the others by name."""
    room -= 2 * LONGEST_TEXT
    if room <= 0:
        return (
            "\nNo room here for charts and tables; `fp8doctor -o report.html` shows them.\n" if view["exhibits"] else ""
        )
    text, too_long = "", []
    for exhibit in summary.others_to_look_at(view):
        title = exhibits.caption(exhibit)
        drawn = exhibits.draw(exhibit, TABLE_COLUMNS) if len(exhibit["rows"]) <= MOST_TABLE_LINES else []
        body = code_block("\n".join(line.plain for line in drawn), "text", most=room)
        block = f"\n<details><summary>{html_text(title)}</summary>\n\n{body}\n\n</details>\n"
        if drawn and len(text) + len(block) <= room:
            text += block
        else:
            too_long.append(title)
    if too_long:
        text += f"\nNo room here for: {inline('; '.join(too_long))}. `fp8doctor -o report.html` shows all.\n"
    return text


def html_text(value: object) -> str:
    """The value as text inside an HTML element in which GitHub reads Markdown, too."""
    text = one_line(value)[:LONGEST_TEXT]
    return re.sub(r"[^\w \-.,:;()/+%=\[\]]", lambda found: f"&#{ord(found[0])};", text)


def _findings(view: View) -> Iterator[str]:
    shown = summary.fold(view["findings"])
    counts = summary.counts(view).text()
    if not summary.box_was_examined(view) and not any(one.finding["scope"] == "box" for one in shown):
        yield f"\n**Checks**: {counts}"
    elif not any(one.finding["scope"] == "box" for one in shown):
        yield f"\n**On this box**: {summary.all_well(view)} ({counts})"
    for scope, title in (("box", f"On this box** ({counts})"), ("usage", "In use**")):
        members = [one for one in shown if one.finding["scope"] == scope]
        if members:
            yield f"\n**{title}\n"
        for one in members:
            yield _finding(one)


def _finding(one: summary.Shown) -> str:
    finding = one.finding
    about = f" ({inline(', '.join(one.about))})" if one.about else ""
    head = f"{finding['severity']} **{inline(finding['id'])}** {inline(finding['name'])}"
    lines = [f"- {head}: {inline(finding['title'])}{about}"]
    lines += [f"  - {inline(evidence['text'])}" for evidence in finding["evidence"][:MOST_EVIDENCE]]
    for action in finding["actions"][:MOST_ACTIONS]:
        lines.append(f"  - do: {inline(summary.deed(action))}")
        if action["command"]:
            lines.append(code_block(action["command"], language_of(action["command"]), indent=4))
    if gain := summary.gain(finding):
        lines.append(f"  - gives {inline(gain)}")
    if one.symptoms:
        lines.append(f"  - also explains: {inline(', '.join(s['id'] + ' ' + s['name'] for s in one.symptoms))}")
    return "\n".join(lines)


def _untold(view: View) -> Iterator[str]:
    gaps = summary.untold(view)
    if gaps or summary.was_cut(view):
        yield "\n**This text cannot tell**\n"
    if summary.was_cut(view):
        yield "- what comes after its end: it is cut off"
    for gap, command in gaps:
        yield f"- {inline(gap)}"
        if command:
            yield code_block(command, "sh", indent=2)


def _not_known(view: View) -> Iterator[str]:
    parts = [f"{key}: {happened}" for key, happened in summary.failed_probes(view)]
    if parts:
        yield "\n**Ended badly**\n"
        yield from (f"- {inline(part)}" for part in parts)
    left_out = summary.not_examined(view)
    if left_out and not summary.is_foreign(view):
        yield "\n**Not examined**\n"
        yield from (f"- {inline(line)}" for line in left_out)
    if silenced := summary.silenced(view):
        yield f"\n**Silenced**: {inline('; '.join(silenced))}\n"
    if lost := summary.lost(view):
        yield f"\n**Left out of the text that this was read from**: {inline(lost)}\n"
    if reasons := summary.unsettled(view):
        yield "\n**Could not tell**\n"
        yield from (f"- {inline(', '.join(ids))}: {inline(reason)}" for reason, ids in reasons)


def inline(value: object) -> str:
    """The value as text inside a line: words that could mean something to Markdown or to GitHub become code."""
    text = one_line(value)
    if len(text) > LONGEST_TEXT:
        text = text[:LONGEST_TEXT] + "…"
    # Special words that follow one another are one span, but for the items of a list and what stands in brackets.
    runs: list[tuple[bool, str, list[str], str]] = []
    for place, word in enumerate(text.split(" ")):
        special = bool(_SPECIAL.search(word)) or (place == 0 and bool(_OPENING.fullmatch(word)))
        before, core, after = _taken_apart(word) if special else ("", word, "")
        if runs and runs[-1][0] == special and not runs[-1][3] and not before:
            _, opened, words, _ = runs.pop()
            runs.append((special, opened, [*words, core], after))
        else:
            runs.append((special, before, [core], after))
    return " ".join(
        f"{before}{_span(' '.join(words)) if special else ' '.join(words)}{after}"
        for special, before, words, after in runs
    )


def _taken_apart(word: str) -> tuple[str, str, str]:
    """What stands before and behind a word: a bracket that was opened before it, what ends an item or a sentence."""
    before = "(" if word.startswith("(") and len(word) > 1 else ""
    end = _SEPARATOR.search(word)
    core, after = (word[len(before) : end.start()], end.group()) if end else (word[len(before) :], "")
    if after.startswith(")") and "(" in core:
        core, after = f"{core})", after[1:]
    return before, core, after


def _span(text: str) -> str:
    fence = "`" * (_longest_run(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def code_block(text: object, language: str, indent: int = 0, most: int = LONGEST_CODE) -> str:
    """The text in a fenced block that nothing in it can end, and that keeps its place in a list."""
    body = clean(str(text)[: 4 * most]).rstrip()
    if len(body) > most:
        body = body[:most] + "\n…"
    fence = "`" * max(3, _longest_run(body) + 1)
    lines = [f"{fence}{language}", *body.splitlines(), fence]
    return "\n".join(" " * indent + line for line in lines)


def language_of(code: str) -> str:
    """What a command to paste is written in: most are a shell's, some are lines of Python."""
    first = clean(code).lstrip().partition("\n")[0]
    return "python" if _PYTHON.match(first) else "sh"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


# --- the JSON ---------------------------------------------------------------------------------------------------------

# What stands round the JSON, names of what was left out among it, is shorter than this.
AROUND_JSON = 1_200


def json_block(found: Fitting | None, title: str) -> str:
    """JSON in a folded block; what it lacks is named above it.

    Args:
        found: the JSON that fits into the room that there is, less `AROUND_JSON`; None if none does.
        title: the line that opens the block.
    """
    if found is None:
        return "\n(The JSON is too long for this place; `fp8doctor --json FILE` writes it.)\n"
    lost = f"\nLeft out for length: {inline(', '.join(found.left_out))}.\n" if found.left_out else ""
    # "<\/" is "</" to JSON, and no end of the folded block to anybody.
    text = clean(found.text).replace("</", "<\\/")
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"\n<details><summary>{title}</summary>\n{lost}\n{fence}json\n{text}\n{fence}\n\n</details>\n"
