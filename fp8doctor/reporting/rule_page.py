"""What is there to say of a rule? One page, for `fp8doctor explain` and for the documentation."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fp8doctor.reporting import summary
from fp8doctor.reporting.text import one_line

if TYPE_CHECKING:
    from fp8doctor.registry import Registry
    from fp8doctor.specs import Need, Probe, Rule

View = dict[str, Any]
_SECTION = re.compile(r"^(What it means|Why it costs time|What to do|Sources):\s*", re.MULTILINE)
_SETTLES = {
    "hardware": "whether the hardware has FP8", "software": "whether this software build has FP8",
    "runs": "whether FP8 ran and was right",
}  # fmt: skip
# What the readers of environment reports fill (reading/environment.py); what other readers fill, they say themselves.
OF_TEXTS = frozenset({"driver", "gpus", "libraries", "machine", "torch_build"})
# What no probe gathers, and no text says.
_UNPROBED = {
    "trace": "a profiler's trace (fp8doctor trace), or the recorded step of a model",
    "messages": "messages that probes printed, or a text has",
}
_EVERY_RUN = {"quick", "default", "thorough", "bench"}
_ID = re.compile(r"\b[A-Z]{2,4}\d{3}\b")
_CODE = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)
_URL = re.compile(r"https?://[^\s<>()\"']+[^\s<>()\"'.,;:]")
# "owner/name#1", and "#2" after it for another of the same repository.
_ISSUE = re.compile(r"(?<![\w/.#-])(?P<repo>[A-Za-z0-9][\w-]{0,38}/[A-Za-z0-9][\w.-]{0,99})?#(?P<number>\d{1,7})\b")


@dataclass(frozen=True)
class Page:
    """A rule's page: its head and its sections, each a title and text with paragraphs and lists as in Markdown."""

    id: str
    name: str
    title: str
    note: str
    sections: tuple[tuple[str, str], ...]


def page(rule: Rule, registry: Registry, last: View | None = None) -> Page:
    """The page of a rule; `last` is the judgement of the last report on this machine, if there is one."""
    said = _sections(rule.page)
    here = _here(rule, last) if last is not None else ""
    sections = (
        ("What it means", said.get("What it means", "")),
        ("How it is established", _established(rule, registry)),
        ("Why it costs time", said.get("Why it costs time", "")),
        ("What it costs here", here),
        ("What to do", said.get("What to do", "")),
        ("Sources", said.get("Sources", "")),
    )
    note = f"{rule.severity.value} at most, {rule.scope}"
    kept = tuple((title, text) for title, text in sections if text)
    return Page(rule.id, rule.name, rule.title, note, kept)


def _sections(text: str) -> dict[str, str]:
    pieces = _SECTION.split(text)[1:]
    return {title: body.strip() for title, body in zip(pieces[::2], pieces[1::2], strict=True)}


# --- how it is established --------------------------------------------------------------------------------------------


def _established(rule: Rule, registry: Registry) -> str:
    lines = [f"- {_seen_by(need, registry)}" for need in {need.key: need for need in rule.needs.values()}.values()]
    texts = sum(text.rule == rule.id for text in registry.error_texts)
    if texts:
        messages = "a known message" if texts == 1 else f"one of {texts} known messages"
        lines.append(f"- {messages} settles it alone, in a pasted text or in what a probe printed")
    if rule.settles:
        lines.append(f"- with others it settles {_SETTLES[rule.settles]}")
    for words, others in (
        ("found together, it explains", _named(rule.explains, rule, registry)),
        ("it may itself be explained by", [one for one in registry.rules.values() if rule.name in one.explains]),
        ("the same problem elsewhere:", _named([rule.name], rule, registry)),
    ):
        if listed := [f"{one.id} {one.name}" for one in others if one.id != rule.id]:
            lines.append(f"- {words} {', '.join(listed)}")
    return "\n".join(lines)


def _named(names: Iterable[str], rule: Rule, registry: Registry) -> list[Rule]:
    return [one for name in names for one in registry.rules.values() if one.name == name and one.id != rule.id]


def _seen_by(need: Need, registry: Registry) -> str:
    """Who sees the facts that a rule needs, and when: "looking for GPUs (`gpus`), in every run"."""
    key = f"`{need.key}`" + (", if it was seen" if need.kind == "optional" else "")
    probe = registry.probes.get(need.key)
    text = need.key in OF_TEXTS or need.key in registry.readers
    if probe is None:
        return f"{key}: {_UNPROBED.get(need.key, 'a pasted text (fp8doctor read)')}"
    said = f"{key}: {probe.title}, {_when(probe)}"
    if text:
        said += "; in part from a pasted text"
    if need.kind == "run":
        said += "; also how that ended"
    return said


def _when(probe: Probe) -> str:
    if probe.for_model:
        return "of a model that is named (fp8doctor model, examine_model)"
    if probe.for_pipeline:
        return "of a pipeline that is named (fp8doctor bench --pipeline)"
    modes = "in every run" if set(probe.modes) >= _EVERY_RUN else f"in {' and '.join(probe.modes)} runs"
    return f"{modes} for a workload" if probe.for_workload else modes


# --- what it costs here -----------------------------------------------------------------------------------------------


def _here(rule: Rule, last: View) -> str:
    """What the last report on this machine says of the rule; "" if it does not know the rule."""
    outcome = next((one for one in last["outcomes"] if one["id"] == rule.id), None)
    if outcome is None:
        return ""
    gpus = ", ".join(dict.fromkeys(one_line(name) for name in last["gpus"]))
    head = f"In the last report on this machine ({one_line(last['created'])[:10]}, {gpus or 'no GPU seen'})"
    findings = [one for one in last["findings"] if one["id"] == rule.id]
    silenced = next((one_line(one["by"]) for one in last["silenced"] if one["id"] == rule.id), None)
    if findings:
        return "\n".join([f"{head}:", "", *(line for finding in findings for line in _found(finding))])
    if silenced is not None:
        return f"{head} it was found, and silenced by {silenced}."
    return f"{head} {_ended(outcome)}."


def _found(finding: View) -> list[str]:
    about = f" [{one_line(finding['about'])}]" if finding["about"] else ""
    lines = [f"- {one_line(finding['title'])}{about}"]
    lines += [f"- {one_line(evidence['text'])}" for evidence in finding["evidence"]]
    return lines + ([f"- what to do gives {gain}"] if (gain := summary.gain(finding)) else [])


def _ended(outcome: View) -> str:
    reason = one_line(outcome["reason"] or "").rstrip(".")
    because = f": {reason}" if reason else ""
    said = {
        "pass": "it was looked for and not found",
        "not-applicable": f"it does not apply{because}",
        "unknown": f"it could not be told{because}",
        "crashed": f"its rule crashed{because}",
        "finding": "it was found",
    }
    return said[outcome["outcome"]]


# --- the documentation ------------------------------------------------------------------------------------------------


def markdown(page: Page, known: Iterable[str]) -> str:
    """The page as Markdown, with links to what it names: issues, addresses, and the pages of the rules in `known`."""
    ids = set(known) - {page.id}
    parts = [f"# {page.id} {page.name}", f"**{page.title}.**", f"Severity and scope: {page.note}."]
    for title, text in page.sections:
        parts.append(f"**{title}:**{between(text)}{linked(text, ids)}")
    return "\n\n".join(parts) + "\n"


def between(text: str) -> str:
    """What stands between the title of a section and its text: a list begins by itself."""
    return "\n\n" if text.startswith("- ") else " "


def linked(text: str, ids: set[str]) -> str:
    """The text with links, but for what stands as code."""
    repo: str | None = None

    def issue(match: re.Match[str]) -> str:
        nonlocal repo
        repo = match["repo"] or repo
        return f"[{match[0]}](https://github.com/{repo}/issues/{match['number']})" if repo else match[0]

    pieces = _CODE.split(text)
    for place in range(0, len(pieces), 2):
        piece = _ISSUE.sub(issue, _URL.sub(lambda match: f"<{match[0]}>", pieces[place]))
        pieces[place] = _ID.sub(lambda match: f"[{match[0]}]({match[0]}.md)" if match[0] in ids else match[0], piece)
    return "".join(pieces)


def index(registry: Registry) -> str:
    """The list of all rules as Markdown, by subject."""
    subjects: dict[tuple[str, str], list[Rule]] = {}
    for rule in sorted(registry.rules.values(), key=lambda rule: rule.id):
        subjects.setdefault((rule.id.rstrip("0123456789"), _subject(rule)), []).append(rule)
    parts = ["# Rules", "What the doctor can find. `fp8doctor explain ID` shows the same pages."]
    letters = ""
    for (group, subject), rules in subjects.items():
        parts += [f"## {group}"] if group != letters else []
        letters = group
        lines = [f"- [{one.id} {one.name}]({one.id}.md): {one.title} ({one.severity.value})" for one in rules]
        parts += [subject, "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _subject(rule: Rule) -> str:
    """The question of the subject that declares the rule: the first line of its module, or of its package."""
    module = ".".join(rule.function.__module__.split(".")[:3])
    return next(iter((sys.modules[module].__doc__ or "").strip().splitlines()), "")
