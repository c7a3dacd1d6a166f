"""What does a report say, before anyone draws it? Advice grouped, symptoms under causes, outcomes counted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fp8doctor.judging.report import BOX_NOT_ASKED
from fp8doctor.reporting.text import factor, one_line

View = dict[str, Any]
FAILED = ("exception", "timeout", "signal", "exit", "garbage")
# What a rule says that waits for facts which are not there (judging/outcomes.py).
_NOT_SEEN = " was not observed"
# Why probes are no part of a run (probing/schedule.py).
_NO_PART = re.compile(r"not part of a \w+ run$|no \w+ was named ")
# Of what a paste left out so many paths are named.
NAMED_PATHS = 4
# More layer sizes than this are counted, not listed.
LISTED_LAYERS = 3


@dataclass(frozen=True)
class Advice:
    """One configuration, everywhere it is the one to use."""

    label: str
    # "1.28x to 2.10x over BF16 + torch.compile", or what stands in its place.
    gain: str
    places: tuple[str, ...]
    how: str
    gains: bool = False
    # It is about a whole step of a workload.
    in_a_step: bool = False


@dataclass(frozen=True)
class Shown:
    """A finding that is shown by itself, with the symptoms that it explains folded under it."""

    finding: dict[str, Any]
    about: tuple[str, ...]
    symptoms: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Counts:
    """How many rules ended how."""

    passed: int = 0
    found: int = 0
    not_applicable: int = 0
    unknown: int = 0
    crashed: int = 0
    # What was left out on purpose: by the mode, the budget or the system.
    not_examined: int = 0

    def text(self) -> str:
        """The numbers in words: "31 passed, 12 not applicable, 1 could not tell"."""
        parts = [(self.passed, "passed"), (self.not_applicable, "not applicable"), (self.unknown, "could not tell")]
        parts += [(self.crashed, "crashed"), (self.not_examined, "not examined")]
        return ", ".join(f"{count} {word}" for count, word in parts if count or word == "passed")


def advice(view: View) -> list[Advice]:
    """The report's `use`, one entry a configuration: token ranges and layer sizes with equal advice are merged."""
    labels = {use["config"]: use["label"] for use in view["use"]}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for use in view["use"]:
        groups.setdefault((use["config"], use["label"]), []).append(use)
    return [_advice(one_line(label), uses, labels) for (_, label), uses in groups.items()]


def _advice(label: str, uses: list[dict[str, Any]], labels: dict[str, str]) -> Advice:
    places: dict[tuple[str, str | None], list[dict[str, Any]]] = {}
    for use in uses:
        clock = use["speedup"]["clock"] if use["speedup"] else None
        places.setdefault((_place_words(use["when"]), clock), []).append(use)
    gained = [use for use in uses if use["speedup"]]
    several = len(places) > 1
    return Advice(
        label=label,
        gain=_gain(gained, labels) if gained else _no_gain(uses),
        places=tuple(_place(where, clock, members, several) for (where, clock), members in places.items()),
        how=str(uses[0]["how"] or "").strip("\n"),
        gains=bool(gained),
        in_a_step=bool(uses[0]["when"].get("workload")),
    )


def to_do(found: list[Advice]) -> list[Advice]:
    """Those whose code is shown: the first, and each other that gains in a step of a workload."""
    return [one for place, one in enumerate(found) if one.how and (place == 0 or (one.in_a_step and one.gains))]


def _words(config: str, labels: dict[str, str]) -> str:
    """A configuration's label; of one that is not advised itself, the first part of what is built on it."""
    built_on_it = (label.partition(" + ")[0] for slug, label in labels.items() if slug.startswith(f"{config}+"))
    return labels.get(config) or next(built_on_it, config)


def _gain(uses: list[dict[str, Any]], labels: dict[str, str]) -> str:
    versus = {one_line(use.get("versus_label") or _words(use["versus"], labels)) for use in uses if use["versus"]}
    over = f" over {' or '.join(sorted(versus))}" if versus else ""
    basis = "" if uses[0]["basis"] == "measured" else f" ({uses[0]['basis']})"
    clock = " on the GPU" if all(use["speedup"]["clock"] == "device" for use in uses) else ""
    return f"{_span(uses)}{over}{clock}{basis}"


def _no_gain(uses: list[dict[str, Any]]) -> str:
    if uses[0]["basis"] == "measured":
        timed = [use.get("fp8_timed") is not False for use in uses]
        return "FP8 gains nothing there" if all(timed) else "FP8 was not timed there" if not any(timed) else "as it is"
    return "known to suit this hardware, not measured here" if uses[0]["basis"] == "known" else "estimated"


def _span(uses: list[dict[str, Any]]) -> str:
    low = min(use["speedup"]["low"] for use in uses)
    high = max(use["speedup"]["high"] for use in uses)
    return factor(high) if factor(low) == factor(high) else f"{factor(low)} to {factor(high)}"


def _place(where: str, clock: str | None, uses: list[dict[str, Any]], several: bool) -> str:
    text = f"{where}{layers(use['when'] for use in uses)}"
    if several and clock is not None:
        text += f": {_span(uses)}"
    return f"{text} (time of the whole call)" if clock == "call" else text


def _place_words(when: dict[str, Any]) -> str:
    doing = one_line(when.get("doing") or "")
    return f"{doing}, {tokens(when)}" if doing else tokens(when)


def tokens(when: dict[str, Any]) -> str:
    """The token range in words: "from 1,024 tokens", "16 to 256 tokens"."""
    low, high = when.get("m_min"), when.get("m_max")
    if low is None and high is None:
        return one_line(when["text"])
    if high is None:
        measured = re.search(r"\(measured up to [\d,]+\)", when.get("text") or "")
        return f"from {low:,} tokens" + (f" {measured.group()}" if measured else "")
    if low is None:
        return f"up to {high:,} tokens"
    return f"at {low:,} tokens" if low == high else f"{low:,} to {high:,} tokens"


def layers(whens: Iterable[dict[str, Any]]) -> str:
    """The layer sizes as PyTorch writes them (" in Linear(3072, 12288)"), or how many there are."""
    sizes = list(dict.fromkeys((w.get("k"), w.get("n")) for w in whens if w.get("k") and w.get("n")))
    if len(sizes) > LISTED_LAYERS:
        return f" at {len(sizes)} layer sizes"
    return " in " + ", ".join(f"Linear({k}, {n})" for k, n in sizes) if sizes else ""


def fold(findings: list[dict[str, Any]]) -> list[Shown]:
    """The findings in their order, alike ones of several GPUs merged, symptoms folded under the cause shown first."""
    by_id: dict[str, list[dict[str, Any]]] = {}
    for finding in findings:
        by_id.setdefault(finding["id"], []).append(finding)
    folded: set[str] = set()
    shown: list[Shown] = []
    for id, members in by_id.items():
        if id in folded:
            continue
        symptoms = _symptoms(id, by_id, {one.finding["id"] for one in shown} | {id})
        folded |= {symptom["id"] for symptom in symptoms}
        alike: dict[str, list[dict[str, Any]]] = {}
        for member in members:
            alike.setdefault(f"{member['severity']} {member['title']}", []).append(member)
        for place, same in enumerate(alike.values()):
            about = tuple(one_line(f["about"]) for f in same if f["about"])
            shown.append(Shown(same[0], about, symptoms if place == 0 else ()))
    return shown


def is_a_message(finding: dict[str, Any]) -> bool:
    """Whether a printed line alone shows it: then that line says more than any title."""
    return bool(finding["evidence"]) and all(evidence["fact"] == "messages" for evidence in finding["evidence"])


def _symptoms(cause: str, by_id: dict[str, list[dict[str, Any]]], stop: set[str]) -> tuple[dict[str, Any], ...]:
    """All that `cause` explains, and what that explains in turn; what is shown already is left out."""
    found: dict[str, dict[str, Any]] = {}
    waiting = list(by_id[cause][0]["explains"])
    while waiting:
        id = waiting.pop(0)
        if id in by_id and id not in found and id not in stop:
            found[id] = by_id[id][0]
            waiting += by_id[id][0]["explains"]
    return tuple(found.values())


def counts(view: View) -> Counts:
    """How many rules passed, found something, do not apply, could not tell, crashed, were not examined."""
    skipped = _skipped(view)
    names = ["not-examined" if _on_purpose(o, skipped) else o["outcome"] for o in view["outcomes"]]
    ends = ("pass", "finding", "not-applicable", "unknown", "crashed", "not-examined")
    return Counts(*(names.count(name) for name in ends))


def _skipped(view: View) -> set[str]:
    """What rules say that wait for what was left out on purpose (judging/outcomes.py)."""
    said = {f"{key} was not examined: {reason}" for reason, keys in left_out(view) for key in keys}
    return said | {f"{key}{_NOT_SEEN}" for key in _unrecorded(view)}


def _on_purpose(outcome: dict[str, Any], skipped: set[str]) -> bool:
    if outcome["reason"] == BOX_NOT_ASKED:
        return True
    return outcome["outcome"] == "unknown" and one_line(outcome["reason"] or "") in skipped


def unsettled(view: View) -> list[tuple[str, tuple[str, ...]]]:
    """Why rules could not tell, or crashed: (reason, ids), the reason that concerns most rules first.

    What was left out on purpose is told once, by itself (`left_out`).
    """
    reasons: dict[str, list[str]] = {}
    skipped = _skipped(view)
    for outcome in view["outcomes"]:
        if outcome["outcome"] in ("unknown", "crashed") and not _on_purpose(outcome, skipped):
            reason = one_line(outcome["reason"] or "no reason given")
            crashed = "crashed: " if outcome["outcome"] == "crashed" else ""
            reasons.setdefault(crashed + reason, []).append(outcome["id"])
    return sorted(((reason, tuple(ids)) for reason, ids in reasons.items()), key=lambda pair: -len(pair[1]))


def by_outcome(view: View) -> list[tuple[str, tuple[str, ...]]]:
    """How every rule ended: ("not-applicable, there is none", ids), grouped by outcome and reason."""
    groups: dict[str, list[str]] = {}
    for outcome in view["outcomes"]:
        reason = f", {one_line(outcome['reason'])}" if outcome["reason"] else ""
        groups.setdefault(outcome["outcome"] + reason, []).append(one_line(outcome["id"]))
    return [(ended, tuple(ids)) for ended, ids in groups.items()]


def failed_probes(view: View) -> list[tuple[str, str]]:
    """The probes that the examined subject itself ended: (key, what happened)."""
    failed = []
    for key, run in view["probes"].items():
        if run["outcome"] in FAILED:
            detail = one_line(run["detail"] or "")
            said = f"{run['outcome']}: {detail}" if detail and run["outcome"] != "timeout" else detail
            failed.append((one_line(key), said or run["outcome"]))
    return failed


def left_out(view: View) -> list[tuple[str, tuple[str, ...]]]:
    """What was not examined on purpose, by the mode, the budget or the system: (reason, keys)."""
    reasons: dict[str, list[str]] = {}
    for key, run in view["probes"].items():
        detail = one_line(run["detail"] or "")
        # What waits for another probe's facts follows from that probe, and is no reason of its own.
        if run["outcome"] == "skipped" and not detail.startswith("it needs "):
            reasons.setdefault(detail, []).append(one_line(key))
    if unrecorded := _unrecorded(view):
        reasons[_UNRECORDED.get(view["source"], "not part of this recording")] = sorted(unrecorded)
    return [(reason, tuple(keys)) for reason, keys in reasons.items()]


def not_examined(view: View) -> list[str]:
    """What was left out on purpose, in lines; of the box in which a model was examined, in one."""
    lines = []
    for reason, keys in left_out(view):
        if reason == BOX_NOT_ASKED:
            lines.append("the box itself: run fp8doctor")
        elif view["source"] == "model" and _NO_PART.match(reason):
            lines.append("what the box's parts take by themselves: run fp8doctor")
        else:
            lines.append(f"{', '.join(keys)}: {reason}")
    return list(dict.fromkeys(lines))


def headline(view: View) -> str:
    """The verdict in a sentence; of a paste that lacks facts to judge it again, that these are the paste's words."""
    said = one_line(view["verdict"]["headline"])
    return f"As the paste says, not judged again: {said}" if lost(view) else said


def silenced(view: View) -> list[str]:
    """What was found and is not shown, by what silenced it: "LIN004 cpu-launch-bound (--ignore LIN004)"."""
    return [one_line(f"{one['id']} {one['name']} ({one['by']})") for one in view["silenced"]]


def lost(view: View) -> str:
    """What the text that this was read from had no room for; "" if it had room for all that was judged."""
    facts = [path.removeprefix("facts.") for path in view["left_out"] if path.startswith("facts.")]
    more = f" and {len(facts) - NAMED_PATHS} more" if len(facts) > NAMED_PATHS else ""
    return f"{', '.join(map(one_line, facts[:NAMED_PATHS]))}{more}" if facts else ""


def box_was_examined(view: View) -> bool:
    """Whether anybody looked at the box: not where a model was examined in its own process, nor by a trace."""
    probes = view["probes"].values()
    return view["source"] != "trace" and not any(run["detail"] == BOX_NOT_ASKED for run in probes)


def is_foreign(view: View) -> bool:
    """Whether somebody else's program wrote what was judged: then all that it does not say is no news."""
    return view["source"] in ("text", "trace")


def untold(view: View) -> list[tuple[str, str]]:
    """What a text cannot tell, and the command that would settle it: ("the driver's version: why", "nvidia-smi")."""
    gaps = _reading(view).get("untold") or []
    if view["verdict"]["status"] == "unavailable":
        gaps = [gap for gap in gaps if not gap.get("of_fp8")]
    return [(one_line(f"{gap['what']}: {gap['why']}"), str(gap.get("command") or "")) for gap in gaps]


def _reading(view: View) -> dict[str, Any]:
    """What a text was; nothing of other sources."""
    return (view["facts"].get("reading") or {}) if view["source"] == "text" else {}


def all_well(view: View) -> str:
    """What is said where no finding is; of several boxes in a text, of which one was judged, not that all is well."""
    if (_reading(view).get("boxes") or 1) > 1:
        return "no finding on the first box"
    return "nothing else found" if view["silenced"] else "nothing wrong found"


def was_cut(view: View) -> bool:
    """Whether a text was longer than what is read, or breaks off inside a report."""
    return bool(_reading(view).get("cut"))


def dated(view: View) -> str:
    """What the date in the header line is the date of: a text says nothing of when it was written."""
    if view["source"] == "model":
        return "examined"
    if view["source"] == "text" and not _reading(view):
        return "written"  # a report of our own, which says when
    return "read" if is_foreign(view) else "recorded"


_UNRECORDED = {"text": "not said by this text", "trace": "not in a trace"}


def _unrecorded(view: View) -> set[str]:
    """What a recording does not have, since its probe is younger; in a live run a probe that said nothing is told."""
    if view["source"] in ("live", "model"):
        return set()
    return {one_line(key) for key, run in view["probes"].items() if run["outcome"] == "not-observed"}


def leading_bars(view: View) -> list[dict[str, Any]]:
    """The exhibits that answer "why": the first bars that do, and those beside them (a workload's steps).

    Alike are ids with the same first word: "ladder-prefill" and "ladder-decode".
    """
    bars = [e for e in view["exhibits"] if e["kind"] == "bars" and e["rows"] and e["answers_why"]]
    return [e for e in bars if e["id"].partition("-")[0] == bars[0]["id"].partition("-")[0]]


def others_to_look_at(view: View) -> list[dict[str, Any]]:
    """The exhibits that do not lead, those of the leading subject first."""
    leading = leading_bars(view)
    subject = leading[0]["id"].partition("-")[0] if leading else ""
    others = [e for e in view["exhibits"] if e["rows"] and e not in leading]
    return sorted(others, key=lambda e: e["id"].partition("-")[0] != subject)


def gain(finding: dict[str, Any]) -> str:
    """What acting on the finding gives: "2.40x over BF16"; how it is known unless measured; "" if not said."""
    said = finding["gain"]
    if not said:
        return ""
    basis = "" if said["basis"] == "measured" else f" ({said['basis']})"
    return f"{factor(said['speedup'])} over {one_line(said.get('versus_label') or said['versus'])}{basis}"


def examined_python(view: View) -> str | None:
    """The examined interpreter (it runs most probes) where that is another than the doctor's own."""
    paths = [run["interpreter"] for run in view["probes"].values() if run["interpreter"]]
    return max(dict.fromkeys(paths), key=paths.count) if len(set(paths)) > 1 else None


def deed(action: dict[str, Any]) -> str:
    """What an action asks for, with a warning where it reaches beyond the person's own environment."""
    return one_line(action["text"]) + ("" if action["safe"] else " (changes more than your own environment)")


def needs_demo(view: View) -> bool:
    """Whether nothing could be said because no GPU was there to examine, and no finding points to the demo itself."""
    actions = (action for finding in view["findings"] for action in finding["actions"])
    if (
        is_foreign(view)
        or not box_was_examined(view)
        or any("fp8doctor demo" in (action["command"] or "") for action in actions)
    ):
        return False
    return view["verdict"]["status"] == "unknown" and view["verdict"]["fp8_hardware"] is None
