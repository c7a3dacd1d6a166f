"""A support bot: reads an issue with fp8doctor and writes a short comment, or nothing.

Copy this file to `.github/fp8doctor/comment.py` and `fp8doctor.yml`, beside it here, to `.github/workflows/`. When an
issue is opened, the workflow calls this script, which reads the issue from GITHUB_EVENT_PATH and writes Markdown; a
step of the workflow's own posts it. Where nothing in the issue is recognised, or it is not about FP8 and nothing is
broken, nothing is written and nobody is bothered.

What the script promises:

- It needs no network, starts no process and sees no token.
- It reads the text alone, calls nothing that the text says, and is bounded in time and length.
- Of the issue it repeats only what fp8doctor took as evidence, with names and secrets replaced and every word that
  Markdown, HTML or GitHub could act on (mentions, links, images, commands) shown as code.

By hand:

    GITHUB_EVENT_PATH=event.json python comment.py
    GITHUB_EVENT_PATH=event.json python comment.py --output comment.md
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fp8doctor
from fp8doctor.api import NothingRecognisedError, knowledge
from fp8doctor.reporting.markdown import code_block, inline
from fp8doctor.reporting.summary import Shown, fold
from fp8doctor.store import NotAFactsFileError

# Marks the bot's comments, so that a later run or a person's script can find them.
MARK = "<!-- fp8doctor -->"
# GitHub takes 65,536 characters of a body; an event holds little else.
LARGEST_EVENT_BYTES = 4 << 20
LONGEST_ISSUE = 200_000
LONGEST_COMMENT = 8_000
MOST_FINDINGS = 3
MOST_GAPS = 3
MOST_NAMED = 8
# What settles most of what a text leaves open.
ONE_COMMAND = "fp8doctor --markdown"
# What an issue about narrow formats speaks of. Engines print "quantization=None" whatever the issue is about.
ON_TOPIC = re.compile(
    r"fp8|float8|nvfp4|mxfp[48]|e4m3|e5m2|\bquanti[sz](?:ation|ed?|ing)\b(?! {0,2}[=:] {0,2}['\"]?None)", re.IGNORECASE
)


class NoCommentError(Exception):
    """There is nothing to write, and why."""


def text_of(event: object) -> str:
    """The title and text that a person wrote.

    Raises:
        NoCommentError: for pull requests and for what another bot wrote.
    """
    issue = (event.get("issue") if isinstance(event, dict) else None) or {}
    written = (event.get("comment") if isinstance(event, dict) else None) or issue
    if "pull_request" in issue or (written.get("user") or {}).get("type") == "Bot":
        raise NoCommentError("pull requests and bots are not answered")
    parts = [issue.get("title"), written.get("body")]
    return "\n\n".join(part for part in parts if isinstance(part, str))[:LONGEST_ISSUE]


def comment(text: str) -> str:
    """The comment for this text.

    Raises:
        NoCommentError: if nothing in it is recognised, or nothing of it is asked.
    """
    try:
        report = fp8doctor.read(text)
    except NothingRecognisedError:
        raise NoCommentError("nothing in this issue is recognised") from None
    except NotAFactsFileError:
        raise NoCommentError("fp8doctor's own report in this issue is too short to be judged") from None
    # As JSON, because that is what is redacted.
    document = json.loads(report.to_json())
    if not ON_TOPIC.search(text) and not _is_broken(document):
        raise NoCommentError("this issue is not about FP8, and no error was found in it")
    kept: list[str] = []
    for part in _parts(document):
        if sum(map(len, kept)) + len(part) < LONGEST_COMMENT:
            kept.append(part)
    return "\n\n".join(kept) + "\n"


def _is_broken(document: dict[str, Any]) -> bool:
    """Whether an error was found; that a GPU has no FP8 is none to those who did not ask for it."""
    return any(one["severity"] == "error" and one["id"] != "GPU001" for one in document["findings"])


def _to_run() -> tuple[str, str]:
    """What to do on the machine, in words and as a command.

    The workflow's FP8DOCTOR says where pip gets it from; a wheel beside the workflow is nothing for others.
    """
    source = os.environ.get("FP8DOCTOR", "")
    if re.match(r"(git[+])?https://", source):
        command = f"python -m pip install {shlex.quote(source)} && {ONE_COMMAND}"
        return "One command settles it. Run it on the machine and paste what it prints:", command
    return "Install fp8doctor on the machine as its README says, run this and paste what it prints:", ONE_COMMAND


def _parts(document: dict[str, Any]) -> Iterator[str]:
    yield MARK
    if any(path.startswith("facts.") for path in document["left_out"]):
        yield from _as_pasted(document)
        return
    yield "Thanks for the report. This is what a program can see in the text that was pasted:"
    yield f"**Verdict: {inline(document['verdict']['status'])}.** {inline(document['verdict']['headline'])}"
    # What an earlier finding explains is told with that one.
    shown = fold(document["findings"])
    if not shown:
        yield "I found nothing in the text that explains slow or broken FP8."
    yield from (_finding(one) for one in shown[:MOST_FINDINGS])
    if more := shown[MOST_FINDINGS:]:
        yield f"And {len(more)} more: {_names(one.finding for one in more[:10])}."
    gaps = ((document["facts"].get("reading") or {}).get("untold")) or []
    if document["verdict"]["status"] == "unavailable":
        gaps = [gap for gap in gaps if not gap["of_fp8"]]
    if gaps:
        told = "\n".join(f"- {inline(gap['what'])}: {inline(gap['why'])}" for gap in gaps[:MOST_GAPS])
        yield f"What the text cannot tell:\n\n{told}"
    if gaps or document["verdict"]["fp8_runs"] is None:
        words, command = _to_run()
        yield words
        yield code_block(command, "sh")
    if shown:
        first = shown[0].finding["id"]
        yield f"`fp8doctor explain {first}` says more on the first point. I am a program and can be wrong."


def _as_pasted(document: dict[str, Any]) -> Iterator[str]:
    """Of a report that had no room for its facts: which findings it names, in our own words and not in the paste's.

    It cannot be judged again, so its sentences and commands are a stranger's.
    """
    rules = knowledge().rules
    found = dict.fromkeys(one["id"] for one in document["findings"] if one["id"] in rules)
    yield f"The report that was pasted says: {inline(document['verdict']['status'])}. Its facts were cut for length."
    named = list(found)[:MOST_NAMED]
    if named:
        yield "It names:\n\n" + "\n".join(f"- **{id}** {rules[id].name}: {rules[id].title}" for id in named)
        yield f"`fp8doctor explain {named[0]}` says more on the first. I am a program and can be wrong."


def _names(findings: Iterable[dict[str, Any]]) -> str:
    return ", ".join(f"{inline(one['id'])} {inline(one['name'])}" for one in findings)


def _finding(one: Shown) -> str:
    """A finding with its first evidence, the next step, and what it explains."""
    finding = one.finding
    lines = [
        f"- {finding['severity']} **{inline(finding['id'])}** {inline(finding['name'])}: {inline(finding['title'])}"
    ]
    lines += [f"  - {inline(evidence['text'])}" for evidence in finding["evidence"][:1]]
    for action in finding["actions"][:1]:
        lines.append(f"  - next: {inline(action['text'])}")
        if action["command"]:
            lines.append(code_block(action["command"], "sh", indent=4))
    if one.symptoms:
        lines.append(f"  - also explains: {_names(one.symptoms)}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Write the comment for the event in GITHUB_EVENT_PATH; 0 also where there is none to write, 2 without an event."""
    parser = argparse.ArgumentParser(description="Write the comment for the issue in GITHUB_EVENT_PATH.")
    parser.add_argument("--output", type=Path, help="the file to write; without it, stdout")
    options = parser.parse_args(arguments)
    try:
        with Path(os.environ["GITHUB_EVENT_PATH"]).open("rb") as file:
            event = json.loads(file.read(LARGEST_EVENT_BYTES))
    except (KeyError, OSError, ValueError) as error:
        sys.stderr.write(f"no event can be read: {type(error).__name__}\n")
        return 2
    try:
        written = comment(text_of(event))
    except NoCommentError as why:
        sys.stderr.write(f"{why}: no comment\n")
        return 0
    if options.output:
        options.output.write_text(written, encoding="utf-8")
    else:
        sys.stdout.write(written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
