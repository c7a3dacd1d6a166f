"""What does a difference say, in words and in which order?"""

from __future__ import annotations

from typing import Any

from fp8doctor.reporting.sections import Line, Section
from fp8doctor.reporting.text import factor, number, one_line

View = dict[str, Any]
# More lines than this of one list are counted; the JSON has them all.
MOST_LINES = 30
# So many changes that came or went alike share a line.
MANY_ALIKE = 4
# A value longer than this (a path, a list of architectures) is cut.
LONGEST_VALUE = 64
# Of what an explanation concerns, this many are named.
MOST_TOLD = 2
# Up to this, a longer time is told as a share ("8 % longer"), beyond it as a multiple.
TWICE = 2.0
NOISE_NOTE = "noise: up to 3 %, steps and times under 50 us 8 %, calls that wait for the host 1.4x"
RECORDED_NOTE = "one recording each, which has no interval: less than 10 % is no difference; of other work it is none"
KIND_WORDS = {"hardware": "hardware", "software": "software", "setting": "setting"}


def sections(view: View, *, verbose: bool = False) -> list[Section]:
    """The difference as sections, the answer first; those with nothing to say are left out."""
    found = [
        Section("Compared", tuple(_side(view, which) for which in ("before", "after"))),
        Section("Result", (Line(view["headline"]),)),
        _explanations(view),
        _changes(view),
        _times(view, verbose),
        _conditions(view),
        _findings(view, verbose),
        _silenced(view),
        _verdict(view),
        _advice(view),
        _not_known(view, verbose),
    ]
    told = [section for section in found if section is not None and section.lines]
    return told if verbose else [_short(section) for section in told]


def _short(section: Section) -> Section:
    if len(section.lines) <= MOST_LINES:
        return section
    left = len(section.lines) - MOST_LINES
    return Section(section.title, (*section.lines[:MOST_LINES], Line(f"{left} more; --json has all")), section.note)


def _side(view: View, which: str) -> Line:
    side = view[which]
    pieces = [*side["captions"], f"{_WRITTEN.get(side['source'], 'written')} {side['created'][:16].replace('T', ' ')}"]
    letter = _letter(which)
    name = f"{side['name']}: " if side["name"] != letter else ""
    return Line(f"{name}{' · '.join(one_line(piece) for piece in pieces)}", letter)


_WRITTEN = {"text": "a text, read", "trace": "a trace, read"}


def _letter(which: str) -> str:
    return "A" if which == "before" else "B"


def value(shown: Any, unit: str | None = None) -> str:
    """A value as a person reads it, cut where it is long."""
    if isinstance(shown, bool):
        return "yes" if shown else "no"
    if isinstance(shown, (int, float)):
        return f"{number(shown)}{f' {unit}' if unit else ''}"
    text = one_line(shown)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def _step(change: View) -> str:
    unit = change.get("unit")
    name = one_line(change["name"])
    # The other distributions of a package, by what their names have beyond its own.
    parts = ", ".join(one_line(part).removeprefix(name) for part in change.get("parts") or ())
    also = f" (and its {parts})" if parts else ""
    return f"{name}{also}: {value(change['before'], unit)} -> {value(change['after'], unit)}"


# --- why --------------------------------------------------------------------------------------------------------------


def _explanations(view: View) -> Section | None:
    shifts = view["times"]["shifts"]
    lines: list[Line] = []
    last: list[int] = []
    beside: dict[str, list[str]] = {}
    for one in view["explanations"]:
        if one["certainty"] == "coincident":
            beside.setdefault(one["text"], []).append(one_line(one["name"]))
            continue
        same = bool(lines) and one["shifts"] == last  # said already, one line above
        last = one["shifts"]
        told = [] if same else [_shift_words(shifts[number]) for number in one["shifts"][:MOST_TOLD]]
        rest = len(one["shifts"]) - len(told)
        more = [f"it concerns {'; '.join(told)}{f'; and {rest} more' if rest else ''}"] if told else []
        lines.append(Line(_step(one), one["certainty"], (one["text"], *more)))
    moved = any(not shift["lone"] for shift in shifts)
    if moved and not any(one["shifts"] for one in view["explanations"]):
        lines.insert(0, Line("nothing that both reports tell explains the times that changed", "unknown"))
    lines += [Line(f"{text}: {_listed(names)}", "beside") for text, names in beside.items()]
    if view["try_first"]:
        lines.append(Line(view["try_first"], "try"))
    return Section(_explained(view, moved), tuple(lines))


def _explained(view: View, moved: bool) -> str:
    """What the explanations are of: times, and where none changed, findings and advice."""
    if moved:
        return "What may explain it"
    findings = any(one["what"] in ("new", "gone") and one["severity"] != "info" for one in view["finding_changes"])
    advice = any(one["in_before"] != one["in_after"] for one in view["advice"])
    of = [word for word, differs in (("findings", findings), ("advice", advice)) if differs]
    return f"What may explain the other {' and '.join(of)}" if of else "What goes with it"


def _listed(names: list[str], most: int = 6, between: str = ", ") -> str:
    return between.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# --- what changed -----------------------------------------------------------------------------------------------------


def _changes(view: View) -> Section | None:
    """The changes; of many that are not known to matter and came or went alike, one line."""
    alike: dict[tuple[str, str, str], list[View]] = {}
    for change in view["changes"]:
        for which in ("before", "after"):
            if change["why"] is None and isinstance(change[which], str):
                alike.setdefault((change["kind"], which, change[which]), []).append(change)
    told: set[int] = set()
    shared: list[Line] = []
    for (kind, which, same), members in sorted(alike.items(), key=lambda item: -len(item[1])):
        ones = [one for one in members if id(one) not in told]
        if len(ones) < MANY_ALIKE:
            continue
        told |= {id(one) for one in ones}
        other = "after" if which == "before" else "before"
        names = [f"{one_line(one['name'])} {value(one[other])}" for one in ones]
        where = f"{value(same)} in {_letter(which)}, and not known to matter"
        shared.append(Line(f"{where}: {_listed(names, MOST_LINES)}", KIND_WORDS.get(kind, "")))
    single = (change for change in view["changes"] if id(change) not in told)
    lines = [*(Line(_step(change), KIND_WORDS.get(change["kind"], "")) for change in single), *shared]
    return Section("What changed from A to B", tuple(lines), f"{view['alike']} other traits are alike")


def _conditions(view: View) -> Section | None:
    note = "not the box itself, and it moves times all the same"
    return Section("While it was timed", tuple(Line(_step(change)) for change in view["conditions"]), note)


# --- times ------------------------------------------------------------------------------------------------------------


def _times(view: View, verbose: bool) -> Section | None:
    times = view["times"]
    if not times["compared"] and not times["one_sided"]:
        return None
    lines = [_shift(shift) for shift in times["shifts"] if not shift["lone"]]
    if lone := [shift for shift in times["shifts"] if shift["lone"]]:
        more = tuple(f"{_shift_words(shift)}; {_example(shift)}" for shift in lone)
        lines.append(Line("single sizes alone, as two runs on one box show them by chance:", "lone", more))
    if times["alike"] and times["compared"]:
        lines.append(Line(f"{times['alike']:,} of {times['compared']:,}", "alike"))
    lines += [Line(text, "left out") for text in times["not_compared"]]
    for which in ("before", "after"):
        if alone := [one for one in times["one_sided"] if one["only_in"] == which]:
            cases = sum(one["cases"] for one in alone)
            lines.append(
                Line(f"{_families(alone)} ({cases} {'case' if cases == 1 else 'cases'})", f"only {_letter(which)}")
            )
    if verbose:
        lines += [Line(f"{_case_name(case)}: {_span(case)}", case["changed"] or "alike") for case in times["cases"]]
    recorded = times["cases"] and all(case["before"]["n"] == case["after"]["n"] == 1 for case in times["cases"])
    return Section("Times", tuple(lines), RECORDED_NOTE if recorded else NOISE_NOTE)


def _families(alone: list[View]) -> str:
    """Configurations by what they are built on: "torchao float8 row-wise in 3 forms"."""
    forms: dict[str, set[str]] = {}
    for one in alone:
        label = one_line(one["label"])
        forms.setdefault(label.partition(" + ")[0], set()).add(label)
    names = [f"{name} in {len(some)} forms" if len(some) > 1 else next(iter(some)) for name, some in forms.items()]
    return _listed(names, between="; ")


def _shift(shift: View) -> Line:
    return Line(_shift_words(shift), shift["direction"], (_example(shift), *_kernels(shift)))


def _kernels(shift: View) -> tuple[str, ...]:
    """That another kernel ran, where it did: what two reports show of a cause by themselves."""
    case = shift["example"]
    if not shift["other_kernels"]:
        return ()
    count = f" in {shift['other_kernels']} of {shift['changed']}" if shift["changed"] > 1 else ""
    names = (value(case[which] or "?") for which in ("kernel_before", "kernel_after"))
    return (f"another kernel ran{count}" + (f": {' -> '.join(names)}" if _differs(case) else ""),)


def _differs(case: View) -> bool:
    return bool(case["kernel_before"] and case["kernel_after"] and case["kernel_before"] != case["kernel_after"])


def _shift_words(shift: View) -> str:
    least, most = longer(shift["least"]), longer(shift["most"])
    by = most if least == most else f"{least.partition(' %')[0]} % to {most}" if "%" in least and "%" in most else (
        f"{least} to {most}"
    )  # fmt: skip
    every = "" if shift["compared"] == 1 else f" in {shift['changed']} of {shift['compared']}"
    which = f", those of {number(shift['from_us'])} us and more" if shift["from_us"] else ""
    return f"{one_line(shift['title'])}: {by}{every}{which}"


def longer(ratio: float) -> str:
    """The time as a multiple of what it was, in words: "8 % longer", "2.30x as long"."""
    if not 1 / TWICE < ratio < TWICE:
        return f"{factor(ratio)} as long"
    return f"{abs(ratio - 1) * 100:.0f} % {'longer' if ratio > 1 else 'shorter'}"


def _example(shift: View) -> str:
    """The case that changed most, with what the line above it has not said of it already."""
    case = shift["example"]
    if shift["compared"] == 1:
        return ": ".join(filter(None, (_size(case), _span(case))))
    same = shift["title"].startswith(case["label"])
    return f"{'at' if shift['changed'] == 1 else 'most at'} {_size(case) if same else _case_name(case)}: {_span(case)}"


def _case_name(case: View) -> str:
    words = (one_line(case["label"]), one_line(case["doing"] or case["task"]).replace("-", " "), _size(case))
    return ", ".join(filter(None, words))


def _size(case: View) -> str:
    size = [f"{case['sweep']:,} tokens"] if case["sweep"] is not None else []
    return " ".join([*size, *(f"{one_line(name).replace('_', ' ')} {count}" for name, count in case["shape"].items())])


def _span(case: View) -> str:
    """Both times with their intervals, in one unit: "103 [102, 104] -> 112 [111, 113] us"."""
    most = max(case["before"]["median"], case["after"]["median"])
    scale, unit = (1e6, "s") if most >= 1e6 else (1e3, "ms") if most >= 1e4 else (1.0, "us")
    clock = ", waiting for the host" if case["waits_for_host"] else ""
    return f"{_time(case['before'], scale)} -> {_time(case['after'], scale)} {unit}{clock}"


def _time(estimate: View, scale: float) -> str:
    middle, low, high = (f"{estimate[part] / scale:.4g}" for part in ("median", "low", "high"))
    return f"{middle} [{low}, {high}]" if estimate["n"] > 1 else middle


# --- what is said of it -----------------------------------------------------------------------------------------------


def _findings(view: View, verbose: bool) -> Section | None:
    found: dict[str, list[View]] = {"new": [], "gone": [], "not-asked": [], "stayed": [], "not-told": []}
    for one in view["finding_changes"]:
        found[one["what"]].append(one)
    note = ", ".join(f"{len(ones)} {what.replace('-', ' ')}" for what, ones in found.items() if ones)
    lines = [
        Line(_finding(one), what.replace("-", " "), _reason(one))
        for what in ("new", "gone", "not-asked")
        for one in found[what]
    ]
    for one in found["stayed"]:
        if one["severity_before"]:
            lines.append(Line(f"{_finding(one)} (was {one['severity_before']})", "stayed"))
    rest = [one for one in found["stayed"] if not one["severity_before"]]
    if verbose:
        lines += [Line(_finding(one), "stayed") for one in rest]
    elif rest:
        names = dict.fromkeys(f"{one_line(one['id'])} {one_line(one['name'])}" for one in rest)
        lines.append(Line(", ".join(names), "stayed"))
    lines += _not_told(found["not-told"], verbose)
    return Section("Findings", tuple(lines), note)


def _not_told(ones: list[View], verbose: bool) -> list[Line]:
    """What one report could not tell of: by the reason, since one missing subject takes many findings with it."""
    if verbose:
        return [Line(_finding(one), "not told", _reason(one)) for one in ones]
    by_reason: dict[str, list[str]] = {}
    for one in ones:
        reason = _reason(one) or (f"{_letter(one['not_in'])} cannot tell",)
        by_reason.setdefault(reason[0], []).append(f"{one_line(one['id'])} {one_line(one['name'])}")
    return [Line(f"{reason}: {', '.join(dict.fromkeys(names))}", "not told") for reason, names in by_reason.items()]


def _silenced(view: View) -> Section:
    told = [Line(one_line(f"{one['id']} {one['name']} ({one['by']})")) for one in view["silenced"]]
    return Section("Silenced", tuple(told), "compared in neither")


def _finding(one: View) -> str:
    about = f" [{one_line(one['about'])}]" if one["about"] else ""
    severity = f"{one['severity']} " if one["severity"] != "info" else ""
    return f"{severity}{one_line(one['id'])} {one_line(one['name'])}: {one_line(one['title'])}{about}"


def _reason(one: View) -> tuple[str, ...]:
    if not one["reason"]:
        return ()
    if one["what"] == "not-asked":
        return (f"no longer asked, what it is about is gone: {one_line(one['reason'])}",)
    if one["what"] == "not-told":
        return (f"{_letter(one['not_in'])} cannot tell: {one_line(one['reason'])}",)
    return (f"in {'A' if one['what'] == 'new' else 'B'}: {one_line(one['reason'])}",)


_ANSWERS = (("fp8_hardware", "the hardware has FP8"), ("fp8_software", "the software has it"), ("fp8_runs", "it runs"))


def _verdict(view: View) -> Section | None:
    before, after = view["before"], view["after"]
    if before["headline"] == after["headline"]:
        return Section("Verdict", (Line("in both, in the same words", after["status"]),))
    lines = [Line(f"{side['status']}. {one_line(side['headline'])}", letter)
             for side, letter in ((before, "A"), (after, "B"))]  # fmt: skip
    lines += [
        Line(f"{words}: {_answer(before[name])} -> {_answer(after[name])}")
        for name, words in _ANSWERS if before[name] != after[name]
    ]  # fmt: skip
    return Section("Verdict", tuple(lines))


def _answer(answer: bool | None) -> str:
    return "not known" if answer is None else value(answer)


def _advice(view: View) -> Section | None:
    works = [{one["workload"] for one in view["advice"] if one[where]} for where in ("in_before", "in_after")]
    lines = tuple(_advised(one, len(works[0] | works[1]) > 1) for one in view["advice"])
    changed = any(one["in_before"] != one["in_after"] for one in view["advice"])
    apart = all(works) and works[0].isdisjoint(works[1])
    note = "for other work, and not compared" if apart else "" if changed else "the same in both"
    return Section("What to use", lines, note) if lines else None


def _advised(one: View, many: bool) -> Line:
    where = "both" if one["in_before"] and one["in_after"] else "only A" if one["in_before"] else "only B"
    gains = [(letter, one[which]) for letter, which in (("A", "before"), ("B", "after")) if one[which]]
    told = [f"{_gain(speedup)} in {letter}" if where == "both" else _gain(speedup) for letter, speedup in gains]
    if len(gains) == 2 and _gain(gains[0][1]) == _gain(gains[1][1]):
        told = [_gain(gains[0][1])]
    work = f"{one_line(one['workload'])}: " if many and one["workload"] else ""
    return Line(f"{work}{one_line(one['label'])}{': ' if told else ''}{', '.join(told)}", where)


def _gain(speedup: View) -> str:
    low, high = factor(speedup["low"]), factor(speedup["high"])
    return high if low == high else f"{low} to {high}"


def _not_known(view: View, verbose: bool) -> Section | None:
    lines = []
    for which in ("before", "after"):
        names = [one_line(one["name"]) for one in view["not_known"] if one["not_in"] == which]
        if names:
            lines.append(Line(_listed(names, 1000 if verbose else 12), f"in {_letter(which)}"))
    return Section("Not known", tuple(lines), "said by the other report alone, and no change")
