"""The report as Markdown for an issue: short to read, whole to a program, and nothing in it breaks out of its place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from fp8doctor.reporting import exhibits, summary
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
# A list in the facts that is longer than this holds samples.
MOST_ITEMS = 64
BAR_COLUMNS = 88

# What Markdown, HTML, mentions, references, mathematics, emoji and links are made of. A word with any of it stands as
# code, where none of it means anything.
_SPECIAL = re.compile(
    r"[`*_<>\[\]{}|\\~&$#@]|://|www\.|:[\w+-]+:|(?:^|\W)GH-\d|(?:^|\W)(?=[a-f]{0,39}\d)(?=\d{0,39}[a-f])[0-9a-f]{7,40}(?:$|\W)",
    re.IGNORECASE,
)
# What ends an item of a list or a sentence, behind a word; by itself it means nothing.
_SEPARATOR = re.compile(r"(?<=[^,;:.!?])[,;:.!?]+$")
# What begins a list or a heading at the start of a line.
_OPENING = re.compile(r"[-+=]+|\d+[.)]")


def render(view: View) -> str:
    """The report as Markdown of less than 60,000 characters.

    Args:
        view: the report's document with its captions (`fp8doctor.api.view`).
    """
    readable = within(_readable(view), LONGEST_READABLE)
    document = {name: value for name, value in view.items() if name != "captions"}
    return readable + json_block(_smaller(compact(document)), LONGEST - len(readable))


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
    yield f"**Verdict: {inline(verdict['status'])}.** {inline(verdict['headline'])}\n"
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
            lines.append(code_block(action["command"], "sh", indent=4))
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
    if reasons := summary.unsettled(view):
        yield "\n**Could not tell**\n"
        yield from (f"- {inline(', '.join(ids))}: {inline(reason)}" for reason, ids in reasons)


def inline(value: object) -> str:
    """The value as text inside a line: words that could mean something to Markdown or to GitHub become code."""
    text = one_line(value)
    if len(text) > LONGEST_TEXT:
        text = text[:LONGEST_TEXT] + "…"
    # Special words that follow one another are one span, but for the items of a list: each ends with its separator.
    runs: list[tuple[bool, list[str], str]] = []
    for place, word in enumerate(text.split(" ")):
        special = bool(_SPECIAL.search(word)) or (place == 0 and bool(_OPENING.fullmatch(word)))
        end = _SEPARATOR.search(word) if special else None
        core, after = (word[: end.start()], end.group()) if end else (word, "")
        if runs and runs[-1][0] == special and not runs[-1][2]:
            _, words, _ = runs.pop()
            runs.append((special, [*words, core], after))
        else:
            runs.append((special, [core], after))
    return " ".join((_span(" ".join(words)) if special else " ".join(words)) + after for special, words, after in runs)


def _span(text: str) -> str:
    fence = "`" * (_longest_run(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def code_block(text: object, language: str, indent: int = 0) -> str:
    """The text in a fenced block that nothing in it can end, and that keeps its place in a list."""
    body = clean(text).rstrip()
    if len(body) > LONGEST_CODE:
        body = body[:LONGEST_CODE] + "\n…"
    fence = "`" * max(3, _longest_run(body) + 1)
    lines = [f"{fence}{language}", *body.splitlines(), fence]
    return "\n".join(" " * indent + line for line in lines)


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


# --- the JSON ---------------------------------------------------------------------------------------------------------


def json_block(documents: Iterable[dict[str, Any]], room: int) -> str:
    """The first of these documents that fits, as JSON in a folded block; what it has `left_out` is named above it."""
    for smaller in documents:
        lost = f"\nLeft out for length: {inline(', '.join(smaller['left_out']))}.\n" if "left_out" in smaller else ""
        text = json.dumps(smaller, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        # "<\/" is "</" to JSON, and no end of the folded block to anybody.
        text = clean(text).replace("</", "<\\/")
        fence = "`" * max(3, _longest_run(text) + 1)
        block = f"\n<details><summary>JSON</summary>\n{lost}\n{fence}json\n{text}\n{fence}\n\n</details>\n"
        if len(block) < room:
            return block
    return "\n(The JSON is too long for this place; `fp8doctor --json FILE` writes it.)\n"


def compact(value: Any) -> Any:
    """The same JSON values without the names whose value is null: what is left out was not observed."""
    if isinstance(value, dict):
        return {key: compact(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [compact(item) for item in value]
    return value


def _smaller(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The document, and then ever smaller ones: samples go first, judgements last."""
    yield document
    lost: list[str] = []
    document = {**document, "left_out": lost}
    document["facts"] = {key: _without_samples(facts, f"facts.{key}", lost) for key, facts in document["facts"].items()}
    yield document
    lost.append("exhibits")
    document["exhibits"] = []
    yield document
    lost.append("probes.*.stderr_tail")
    document["probes"] = {
        key: {name: value for name, value in run.items() if name != "stderr_tail"}
        for key, run in document["probes"].items()
    }
    yield document
    facts = dict(document["facts"])
    for key in sorted(facts, key=lambda key: -len(json.dumps(facts[key]))):
        lost.append(f"facts.{key}")
        document["facts"] = facts = {name: value for name, value in facts.items() if name != key}
        yield document
    lost.append("the reasons of outcomes")
    document["outcomes"] = [{"id": o["id"], "outcome": o["outcome"]} for o in document["outcomes"]]
    yield document


def _without_samples(value: Any, path: str, lost: list[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without_samples(item, f"{path}.{key}", lost) for key, item in value.items()}
    if isinstance(value, list):
        if len(value) > MOST_ITEMS:
            lost.append(path)
            return []
        return [_without_samples(item, path, lost) for item in value]
    return value
