"""The report as one HTML page: static, whole without a network, readable by eye, keyboard and screen reader."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from importlib.resources import files
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fp8doctor.reporting import charts, exhibits, summary
from fp8doctor.reporting.smaller import carried, within_room
from fp8doctor.reporting.text import clean, cut, factor, one_line

if TYPE_CHECKING:
    from jinja2 import Environment

View = dict[str, Any]
# The JSON that the page carries for `fp8doctor read`, in characters: with charts and tables it stays under 1 MB.
LONGEST_JSON = 300_000
LONGEST_TEXT = 4_000
# A table with more rows is cut, and says so; the JSON has them all.
MOST_ROWS = 600
SIGNS = {"error": "✗", "warning": "!", "info": "•"}
ANSWERS = {True: ("✓", "yes"), False: ("✗", "no"), None: ("?", "not known")}
NEEDS = {"vl_convert": "vl-convert-python", "jinja2": "jinja2"}


class MissingChartsError(Exception):
    """What draws the HTML report is not installed; the text says what to install."""


def check() -> None:
    """See whether HTML can be written, before anything that takes a minute.

    Raises:
        MissingChartsError: if a library is missing.
    """
    missing = [package for module, package in NEEDS.items() if find_spec(module) is None]
    if missing:
        lacking = " and ".join(missing)
        raise MissingChartsError(f"HTML needs {lacking} (the extra html): pip install {' '.join(missing)}")


def render(view: View) -> str:
    """The report as one HTML file of less than 1 MB, without scripts and without anything from elsewhere.

    Args:
        view: the report's document with its captions (`fp8doctor.api.view`).

    Raises:
        MissingChartsError: if a library is missing.
    """
    check()
    leading = summary.leading_bars(view)
    drawn = {id(one): drawn_of(one) for one in view["exhibits"] if one["rows"]}
    others = summary.others_to_look_at(view)
    return environment().get_template("report.html.jinja").render(
        view=view,
        style=style(),
        verdict=view["verdict"],
        headline=summary.headline(view),
        answers=_answers(view),
        advice=summary.advice(view),
        code=summary.to_do(summary.advice(view)),
        leading=[drawn[id(one)] for one in leading],
        charts=[drawn[id(one)] for one in others if one["kind"] != "table"],
        tables=[drawn[id(one)] for one in others if one["kind"] == "table"],
        scopes=_scopes(view),
        counts=summary.counts(view),
        all_well=summary.all_well(view),
        box_was_examined=summary.box_was_examined(view),
        python=summary.examined_python(view),
        untold=summary.untold(view),
        was_cut=summary.was_cut(view),
        failed=summary.failed_probes(view),
        left_out=[] if summary.is_foreign(view) else summary.not_examined(view),
        silenced=summary.silenced(view),
        lost=summary.lost(view),
        unsettled=summary.unsettled(view),
        by_outcome=summary.by_outcome(view),
        methods=_methods(view),
        dated=summary.dated(view),
        json=_json(view),
    )  # fmt: skip


def drawn_of(exhibit: dict[str, Any]) -> dict[str, Any]:
    """What the template's `picture` shows of an exhibit: its chart, and its figures as a table."""
    names, rows = exhibits.columns(exhibit)
    return {
        "id": re.sub("[^a-z0-9-]+", "-", one_line(exhibit["id"]).lower()),
        "title": exhibits.caption(exhibit),
        "svg": _svg(exhibit),
        "names": names,
        "rows": rows[:MOST_ROWS],
        "left": max(0, len(rows) - MOST_ROWS),
    }


def _svg(exhibit: dict[str, Any]) -> Any:
    """The chart; nothing where its kind is not drawn, or the charting library could not: the table stays."""
    import vl_convert
    from markupsafe import Markup

    wanted = charts.spec(exhibit)
    if wanted is None:
        return None
    try:
        # No address is allowed: the data is in the specification, and nothing is fetched.
        svg = vl_convert.vegalite_to_svg(json.dumps(wanted), allowed_base_urls=[])
    except ValueError:
        return None
    # One picture with one name: the table below it says what the library's roles of single marks cannot.
    svg = re.sub(r' (?:role="graphics-[a-z]+"|aria-roledescription="[^"]*"|aria-hidden="true")', "", svg)
    label = f'<svg role="img" aria-label="{_attribute(exhibits.caption(exhibit))}" '
    return Markup(svg.replace("<svg ", label, 1))


def _attribute(text: str) -> str:
    from markupsafe import escape

    return str(escape(text))


def _answers(view: View) -> list[tuple[str, str, str, str]]:
    """The three questions: (question, sign, answer, class)."""
    asked = (
        ("This GPU has FP8 tensor cores", "fp8_hardware"),
        ("This software can use them", "fp8_software"),
        ("An FP8 product ran here and was right", "fp8_runs"),
    )
    return [(words, *ANSWERS[view["verdict"][key]], ANSWERS[view["verdict"][key]][1][:2]) for words, key in asked]


def _scopes(view: View) -> list[dict[str, Any]]:
    shown = summary.fold(view["findings"])
    titles = {"box": "On this box", "usage": "In use"}
    return [
        {"id": scope, "title": title, "findings": [_finding(one) for one in shown if one.finding["scope"] == scope]}
        for scope, title in titles.items()
    ]


def _finding(one: summary.Shown) -> dict[str, Any]:
    finding = one.finding
    return {
        **finding,
        "sign": SIGNS[finding["severity"]],
        "about": ", ".join(one.about),
        "gives": summary.gain(finding),
        "deeds": [(summary.deed(action), action["command"]) for action in finding["actions"]],
        "symptoms": [f"{symptom['id']} {symptom['name']}" for symptom in one.symptoms],
    }


def _methods(view: View) -> list[tuple[str, str]]:
    """How what was timed was timed, as each record of times says it."""
    found: dict[str, list[str]] = {}
    for key, record in view["facts"].items():
        method = record.get("method") if isinstance(record, dict) else None
        if isinstance(method, dict):
            said = ", ".join(f"{name} {value}" for name, value in method.items() if value is not None)
            found.setdefault(said, []).append(key)
    return [(", ".join(keys), said) for said, keys in found.items()]


def _json(view: View) -> Any:
    """The report as JSON that no browser runs and nothing in it can end."""
    from markupsafe import Markup

    found = within_room(carried(view, LONGEST_JSON), LONGEST_JSON)
    return Markup(re.sub("[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", found.text)) if found else None


@lru_cache(maxsize=1)
def style() -> Any:
    """The pages' style sheet."""
    from markupsafe import Markup

    return Markup((files("fp8doctor.reporting") / "report.css").read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Where the templates are, each expression of which is escaped and bounded."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("fp8doctor", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {"factor": factor, "one_line": one_line}
    return made


def _shown(value: Any) -> Any:
    """What every expression of the page goes through: no control characters, nothing without end."""
    from markupsafe import Markup

    if isinstance(value, str) and not isinstance(value, Markup):
        return cut(clean(value[: 4 * LONGEST_TEXT]), LONGEST_TEXT)
    return "" if value is None else value
