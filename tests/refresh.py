"""Rewrites what is generated: the schema, the golden reports of the recorded boxes, the pages of the rules.

python -m tests.refresh            # writes; look at the diff
python -m tests.refresh --check    # writes nothing, exits 1 if something is stale
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

import fp8doctor
from fp8doctor import api, schema_source
from fp8doctor.judging.report import Report
from fp8doctor.reporting import difference, html, rule_page, terminal

ROOT = Path(__file__).parents[1]
BOXES = ROOT / "tests" / "boxes"
GOLDEN = ROOT / "tests" / "golden"
PAGES = ROOT / "docs" / "rules"
# What a golden report leaves out: it stands in the box itself, changes with every release, or is asked for by nobody.
NOT_GOLDEN = ("facts", "probes", "tool", "captions", "silenced")
GOLDEN_COLUMNS = 100
# Recorded boxes whose difference is recorded too.
COMPARED = (("h200", "h200-torch-only"), ("h200-torch-only", "h200-flash-attn-4"))


def generated() -> dict[Path, str]:
    """Every generated file with the text that it should have."""
    knowledge = api.knowledge()
    schemas = ROOT / "fp8doctor" / "schema"
    files = {
        schemas / "report-1.0.json": schema_source.schema_text(knowledge),
        schemas / "difference-1.0.json": schema_source.difference_schema_text(),
        schemas / "fleet-1.0.json": schema_source.fleet_schema_text(),
    }
    files[PAGES / "README.md"] = rule_page.index(knowledge)
    for rule in knowledge.rules.values():
        page = rule_page.page(rule, knowledge)
        files[PAGES / f"{rule.id}.md"] = rule_page.markdown(page, knowledge.rules)
    for box in sorted(BOXES.glob("*.json")):
        report = api.diagnose(box, source="demo")
        document = {name: value for name, value in api.view(report).items() if name not in NOT_GOLDEN}
        files[GOLDEN / box.name] = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        files[GOLDEN / f"{box.stem}.txt"] = golden_text(report)
        files[GOLDEN / f"{box.stem}.md"] = golden_markdown(report)
        if can_draw():
            files[GOLDEN / f"{box.stem}.html"] = golden_html(report)
    for before, after in COMPARED:
        files[GOLDEN / f"{before}-to-{after}.txt"] = golden_difference(before, after)
    return files


def golden_text(report: Report) -> str:
    """The report as a terminal of 100 columns shows it, without colours and version."""
    console, stream = _console()
    terminal.render(api.view(report), console)
    return stream.getvalue().replace(f"fp8doctor {fp8doctor.__version__}", "fp8doctor", 1)


def golden_markdown(report: Report) -> str:
    """The Markdown without version and JSON: the facts stand in the box, the judgement beside it."""
    text = report.to_markdown().replace(f"fp8doctor {fp8doctor.__version__}", "fp8doctor", 1)
    return re.sub(r"^(`{3,}json\n).*?(\n`{3,})$", r"\1...\2", text, count=1, flags=re.MULTILINE | re.DOTALL)


def golden_html(report: Report) -> str:
    """The page without what others drew (the charts) and what stands elsewhere (style, figures of tables, JSON)."""
    text = report.to_html().replace(f"fp8doctor {fp8doctor.__version__}", "fp8doctor")
    for element in ("style", "svg", "tbody", 'script type="application/json"'):
        text = re.sub(rf"(<{element}[^>]*?>)(?:.*?)(</{element.split()[0]}>)", r"\1...\2", text, flags=re.DOTALL)
    # A picture's size follows the fonts that the charting library brings.
    return re.sub(r' (?:width|height|viewBox)="[\d. ]+"', "", text)


def can_draw() -> bool:
    """Whether the extra `html` is here; the pages are neither made nor looked at without it."""
    try:
        html.check()
    except html.MissingChartsError:
        return False
    return True


def golden_difference(before: str, after: str) -> str:
    """The difference of two recorded boxes, shown in the same way."""
    console, stream = _console()
    reports = [api.diagnose(BOXES / f"{name}.json", source="demo") for name in (before, after)]
    difference.render(api.difference_view(api.diff(*reports, names=(before, after))), console)
    return stream.getvalue().replace(f"diff {fp8doctor.__version__}", "diff", 1)


def _console() -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    console = Console(file=stream, width=GOLDEN_COLUMNS, highlight=False, emoji=False, markup=False, color_system=None)
    return console, stream


def stale() -> Iterator[tuple[Path, str | None]]:
    """The generated files that differ from what they should be, with the right text; None: should not be there."""
    wanted = generated()
    for path, text in wanted.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            yield path, text
    for folder in (GOLDEN, PAGES):
        for path in folder.glob("*") if folder.exists() else ():
            if path not in wanted and (path.suffix != ".html" or can_draw()):
                yield path, None


def main() -> int:
    """Refresh, or with --check only say what is stale."""
    check = "--check" in sys.argv[1:]
    found = list(stale())
    for path, text in found:
        print(("stale: " if check else "wrote: " if text is not None else "removed: ") + str(path.relative_to(ROOT)))
        if check:
            continue
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 1 if check and found else 0


if __name__ == "__main__":
    sys.exit(main())
