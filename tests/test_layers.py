"""The house rules that a reader of one file cannot see: who imports whom, and how long a file may be."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 400

# The examined libraries: imported inside functions that run in a child, never while a module loads.
EXAMINED = {"torch", "torchao", "transformer_engine", "flash_attn", "triton", "numpy", "diffusers", "vllm", "xformers"}
VOCABULARY = {"fp8doctor.model", "fp8doctor.plain", "fp8doctor.specs", "fp8doctor.traced", "fp8doctor.pasted"}
VOCABULARY |= {"fp8doctor.variables", "fp8doctor.observed", "fp8doctor.raised", "fp8doctor.reliance"}
SUBJECTS = VOCABULARY | {"fp8doctor.checks", "fp8doctor.registry", "fp8doctor.measuring", "fp8doctor.observing"}
ANYTHING: set[str] = {"fp8doctor"}

# Which rooms of the house a room may import while it loads (of fp8doctor; a room includes what is below it), and
# which distributions beside the standard library.
LAYERS: dict[str, tuple[set[str], set[str]]] = {
    # These run inside the examined environment, where nothing else can be counted on.
    "fp8doctor.model": (set(), set()),
    "fp8doctor.plain": (set(), set()),
    "fp8doctor.specs": ({"fp8doctor.model"}, set()),
    "fp8doctor.traced": ({"fp8doctor.model"}, set()),
    "fp8doctor.pasted": ({"fp8doctor.model"}, set()),
    "fp8doctor.observed": ({"fp8doctor.model"}, set()),
    "fp8doctor.reliance": ({"fp8doctor.model"}, set()),
    "fp8doctor.variables": (set(), set()),
    "fp8doctor.raised": (set(), set()),
    "fp8doctor.registry": (VOCABULARY, set()),
    "fp8doctor.measuring": (VOCABULARY | {"fp8doctor.measuring"}, set()),
    "fp8doctor.probing.child": (set(), set()),
    "fp8doctor.checks": (SUBJECTS, set()),
    # The tool's own side.
    "fp8doctor.plugins": (VOCABULARY | {"fp8doctor.registry"}, set()),
    "fp8doctor.probing": (VOCABULARY | {"fp8doctor.registry", "fp8doctor.probing"}, {"psutil"}),
    "fp8doctor.judging": (VOCABULARY | {"fp8doctor.registry", "fp8doctor.judging"}, set()),
    "fp8doctor.reporting": (
        {"fp8doctor.reporting", "fp8doctor.judging.report", "fp8doctor.model"},
        {"rich", "click", "msgspec"},
    ),
    "fp8doctor.reading": (
        VOCABULARY | {"fp8doctor.reading"},
        {"msgspec"},
    ),
    # In the user's own process, which has torch; it is imported late all the same, so that the rest needs none.
    "fp8doctor.observing": (
        VOCABULARY | {"fp8doctor.measuring", "fp8doctor.observing"},
        set(),
    ),
    "fp8doctor.fleet": (
        VOCABULARY | {"fp8doctor.registry", "fp8doctor.measuring", "fp8doctor.judging", "fp8doctor.fleet"},
        {"msgspec"},
    ),
    "fp8doctor.differing": (
        VOCABULARY | {"fp8doctor.registry", "fp8doctor.measuring", "fp8doctor.judging", "fp8doctor.differing"},
        set(),
    ),
    "fp8doctor.store": (VOCABULARY | {"fp8doctor.registry", "fp8doctor.judging.report"}, {"msgspec"}),
    # Writes what is shipped in schema/; no command needs it.
    "fp8doctor.schema_source": (
        VOCABULARY
        | {"fp8doctor.registry", "fp8doctor.judging.report", "fp8doctor.differing.record", "fp8doctor.store"}
        | {"fp8doctor.fleet.record"},
        {"msgspec"},
    ),
    # The doors: the only rooms that see all others.
    "fp8doctor": (ANYTHING, set()),
    "fp8doctor.__main__": (ANYTHING, set()),
    "fp8doctor.api": (ANYTHING, set()),
    "fp8doctor.your_model": (ANYTHING, set()),
    "fp8doctor.cli": (ANYTHING, {"click", "rich"}),
    # Recorded boxes: data.
    "fp8doctor.boxes": (set(), set()),
}
DOORS = {room for room, (seen, _) in LAYERS.items() if seen is ANYTHING}


def modules() -> dict[str, Path]:
    """Every module that is installed, by its name."""
    found = {}
    for folder, package in (
        (ROOT / "fp8doctor", "fp8doctor"),
        (ROOT / "checks", "fp8doctor.checks"),
        (ROOT / "tests" / "boxes", "fp8doctor.boxes"),
    ):
        for file in sorted(folder.rglob("*.py")):
            inner = file.relative_to(folder)
            if package == "fp8doctor" and inner.parts[0] == "checks":
                continue  # the link
            parts = [package, *inner.with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()
EVERY_MODULE = pytest.mark.parametrize("name", MODULES)


def layer(name: str) -> str:
    """The entry of LAYERS that speaks for the module: the longest that is the module or a package around it."""
    around = [entry for entry in LAYERS if name == entry or (entry != "fp8doctor" and name.startswith(f"{entry}."))]
    return max(around, key=len)


def imported(file: Path, name: str, *, deep: bool) -> Iterator[str]:
    """What the module imports, absolutely named: while it loads, or (deep) at any time. Not for type checkers alone."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    pending: list[ast.AST] = [ast.parse(file.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            # `from fp8doctor import store` imports a module, `from fp8doctor.model import Facts` a name of one.
            yield from (full if (full := f"{base}.{alias.name}") in MODULES else base for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending += node.orelse
        elif deep or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            pending += ast.iter_child_nodes(node)


def is_in(name: str, rooms: set[str]) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


@EVERY_MODULE
def test_a_module_imports_only_what_its_room_may_see(name: str) -> None:
    rooms, distributions = LAYERS[layer(name)]
    for other in imported(MODULES[name], name, deep=False):
        top = other.partition(".")[0]
        if top == "fp8doctor":
            assert other == "fp8doctor" or is_in(other, rooms), f"{name} imports {other}"
        else:
            assert top in sys.stdlib_module_names | distributions, f"{name} imports {other}"


@EVERY_MODULE
def test_no_module_imports_an_examined_library_while_it_loads(name: str) -> None:
    assert not EXAMINED & {other.partition(".")[0] for other in imported(MODULES[name], name, deep=False)}


@EVERY_MODULE
def test_only_the_doors_see_files_and_reporting_and_judging_sees_no_subject(name: str) -> None:
    """Inside functions too: an import that is late is an import all the same."""
    seen = {other for other in imported(MODULES[name], name, deep=True) if other.startswith("fp8doctor.")}
    room = layer(name)
    if room in DOORS:
        return
    for other in seen:
        if is_in(other, {"fp8doctor.store"}):
            assert room in ("fp8doctor.store", "fp8doctor.schema_source"), f"{name} imports {other}"
        if is_in(other, {"fp8doctor.reporting"}):
            assert room == "fp8doctor.reporting", f"{name} imports {other}"
        if is_in(other, {"fp8doctor.checks"}):
            # The registry and the children name the package of all subjects; nobody but a subject names one of them.
            general = room in ("fp8doctor.registry", "fp8doctor.probing") and other == "fp8doctor.checks"
            assert room == "fp8doctor.checks" or general, f"{name} imports {other}"


@EVERY_MODULE
def test_subjects_are_imported_by_the_name_under_which_they_are_installed(name: str) -> None:
    names = {other.partition(".")[0] for other in imported(MODULES[name], name, deep=True)}
    assert not names & {"checks", "tests"}, "the same file would be loaded, and registered, twice"


@EVERY_MODULE
def test_a_module_says_in_its_first_line_what_it_is_for(name: str) -> None:
    text = ast.get_docstring(ast.parse(MODULES[name].read_text()))
    assert text
    assert text.strip()


def sources() -> list[Path]:
    folders = [ROOT / "fp8doctor", ROOT / "checks", ROOT / "tests", ROOT / "benchmarks"]
    return sorted({file.resolve().relative_to(ROOT) for folder in folders for file in folder.rglob("*.py")})


def test_no_file_is_longer_than_a_person_reads() -> None:
    lengths = {str(file): len((ROOT / file).read_text().splitlines()) for file in sources()}
    assert {file: lines for file, lines in lengths.items() if lines > MAX_LINES} == {}


def test_no_file_is_a_drawer_for_odds_and_ends() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [file for file in sources() if file.stem in drawers or drawers & set(file.parts)] == []


def test_the_pages_that_a_newcomer_looks_for_are_there() -> None:
    for page in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"):
        assert (ROOT / page).stat().st_size > 100
