"""What does a report of many nodes say, in words and in which order?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from fp8doctor.reporting.sections import Line, Section
from fp8doctor.reporting.text import number

View = dict[str, Any]
# More lines than this of one list are counted; the JSON has them all.
MOST_LINES = 12
# Of nodes, so many are named; the rest is counted.
MOST_NAMED = 6
LONGEST_VALUE = 64
ANSWERS = {True: "yes", False: "no", None: "not known"}
MEASURES = {
    "compute": "matrix products (geometric mean of BF16 and FP8)",
    "bf16": "matrix products in BF16",
    "copy": "copies in memory",
}


def sections(view: View, *, verbose: bool = False) -> list[Section]:
    """The report as sections, the answer first; those with nothing to say are left out."""
    found = [
        Section("VERDICT", (Line(view["headline"]),)),
        _odd(view),
        _missing(view),
        _groups(view),
        _differences(view),
        _findings(view),
        _spreads(view),
        _not_measured(view),
        _superseded(view),
    ]
    told = [section for section in found if section.lines]
    return told if verbose else [_short(section) for section in told]


def _short(section: Section) -> Section:
    left = len(section.lines) - MOST_LINES
    if left <= 0:
        return section
    more = Line(f"and {left:,} more with --verbose")
    return Section(section.title, (*section.lines[:MOST_LINES], more), section.note)


def _odd(view: View) -> Section:
    lines = []
    for one in view["odd"]:
        spreads = "" if one["spreads"] is None else f", {one['spreads']:.1f} times the spread of its kind"
        rate = f"{number(one['value'])} {one['unit']} where the median is {number(one['median'])}"
        text = (
            f"{one['node']} GPU {one['index']} ({one['gpu']}): {one['slower_percent']:.1f} % slower in"
            f" {MEASURES[one['measure']]} ({rate}{spreads})"
        )
        lines.append(Line(text, "slower", tuple(f"differs there: {reason}" for reason in one["differs"])))
    return Section("Odd ones", tuple(lines), "GPUs that are slower than their kind by more than its spread explains")


def _missing(view: View) -> Section:
    by_reason: dict[str, list[str]] = {}
    for one in view["missing"]:
        by_reason.setdefault(one["why"], []).append(one["name"])
    lines = tuple(Line(f"{named(names)}: {why}") for why, names in by_reason.items())
    return Section("Did not answer", lines, "nothing is known of these")


def _groups(view: View) -> Section:
    lines = []
    for one in view["groups"]:
        gpus = ", ".join(f"{count} x {name}" for name, count in one["gpus"].items()) or "no GPU"
        answers = ", ".join(
            f"{what}: {ANSWERS[one[key]]}"
            for what, key in (("FP8 hardware", "fp8_hardware"), ("software", "fp8_software"), ("ran right", "fp8_runs"))
        )
        many = f"{len(one['nodes']):,} node{'' if len(one['nodes']) == 1 else 's'}, each {gpus}"
        text = f"{many}: {one['status']} ({answers})"
        lines.append(Line(text, "", (named(one["nodes"]), f"{one['example']} says: {one['headline']}")))
    return Section("Groups", tuple(lines), "nodes with the same GPUs and the same answers")


def _differences(view: View) -> Section:
    lines = []
    for one in view["differences"]:
        unit = f" {one['unit']}" if one["unit"] else ""
        first, *others = one["variants"]
        told = [f"{_value(v['value'])}{unit if v['value'] is not None else ''} on {named(v['nodes'])}" for v in others]
        usual = f"{_value(first['value'])}{unit} on {len(first['nodes']):,}"
        why = (f"why it matters: {one['why']}",) if one["why"] else ()
        lines.append(Line(f"{one['name']}: {usual}; {'; '.join(told)}", one["kind"], why))
    among = {one["among"] for one in view["differences"]}
    note = f"between nodes with {among.pop()}" if len(among) == 1 else "between nodes with the same GPUs"
    return Section("What differs", tuple(lines), note)


def _findings(view: View) -> Section:
    lines = tuple(
        Line(f"{one['id']} {one['name']}  {one['title']}", one["severity"], (f"on {named(one['nodes'])}",))
        for one in view["findings"]
    )
    return Section("Found on nodes", lines, "fp8doctor explain ID tells more")


def _spreads(view: View) -> Section:
    lines = []
    for one in view["spreads"]:
        if one["gpus"] < 8:
            alike = (
                f"{one['spread_percent']:.1f} % from the slowest to the fastest; odd is one that is"
                f" {one['limit_percent']:.0f} % below the median of the others"
            )
        else:
            alike = f"spread {one['spread_percent']:.1f} %; odd below {100 - one['limit_percent']:.1f} % of the median"
        median = f"median {number(one['median'])} {one['unit']}"
        lines.append(Line(f"{one['gpus']:,} {one['gpu']} in {MEASURES[one['measure']]}: {median}, {alike}"))
    return Section(
        "How alike they are", tuple(lines), "of eight and more the spread is 1.4826 x MAD (median absolute deviation)"
    )


def _not_measured(view: View) -> Section:
    lines = [
        Line(f"{node['name']}: {len(node['not_measured'])}, such as {node['not_measured'][0]}")
        for node in view["nodes"]
        if node["not_measured"]
    ]
    return Section("Not measured", tuple(lines), "a longer run measures more: fp8doctor fleet --budget 300")


def _superseded(view: View) -> Section:
    pairs = view["superseded"]
    lines = tuple(Line(f"{early}: the same node as {late}, whose report is later") for early, late in pairs)
    return Section("Counted once", lines)


def _value(value: Any) -> str:
    if value is None:
        return "not said"
    text = number(value) if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


_NUMBERED = re.compile(r"(.*?)(\d+)$")


def named(names: Sequence[str]) -> str:
    """Nodes by name, runs of numbers as a range ("node-[3-7]"); of many the first and how many more."""
    parts = list(_ranges(names))
    shown = ", ".join(parts[:MOST_NAMED])
    left = len(parts) - MOST_NAMED
    return f"{shown} and {left:,} more" if left > 0 else shown


def _ranges(names: Iterable[str]) -> Iterable[str]:
    run: list[tuple[str, str]] = []
    for name in sorted(names, key=_by_number):
        found = _NUMBERED.fullmatch(name)
        if found is None:
            yield from _told(run)
            run = []
            yield name
            continue
        prefix, digits = found[1], found[2]
        follows = run and run[-1][0] == prefix and len(run[-1][1]) <= len(digits) and int(run[-1][1]) + 1 == int(digits)
        if not follows:
            yield from _told(run)
            run = []
        run.append((prefix, digits))
    yield from _told(run)


def _told(run: list[tuple[str, str]]) -> Iterable[str]:
    if len(run) > 2:
        yield f"{run[0][0]}[{run[0][1]}-{run[-1][1]}]"
    else:
        yield from (prefix + digits for prefix, digits in run)


def _by_number(name: str) -> tuple[str, int, str]:
    found = _NUMBERED.fullmatch(name)
    # A number of more digits than any cluster has nodes is no number.
    return (found[1], int(found[2]), name) if found and len(found[2]) < 18 else (name, -1, name)
