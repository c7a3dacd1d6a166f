"""What the pages show works: each snippet is run, in a folder like a clone with the files that pages speak of."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import pytest

from fp8doctor import api
from fp8doctor.cli.group import cli
from fp8doctor.plugins import plug_in
from fp8doctor.registry import Registry
from tests.command import HAS_GPU, Run, called
from tests.docs.fields import fields
from tests.docs.snippets import PAGES, ROOT, Command, Snippet, commands_of, missing, snippets, snippets_of

ALL = list(snippets())
REFERENCE = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
# Installing, the whole suite, what writes generated files, and a fragment of a user's own program.
MOST_NOT_RUN = 10
RUN = [snippet for snippet in ALL if snippet.not_run is None and snippet.file is None]
COMMANDS = [command for snippet in RUN if snippet.language == "console" for command in commands_of(snippet)]
# A command that several pages show is run once, and must have printed what each of them shows.
SHOWN: dict[tuple[str, str], list[Command]] = {}
for _command in COMMANDS:
    _page = _command.snippet.page if any(one.file for one in ALL if one.page == _command.snippet.page) else ""
    SHOWN.setdefault((_page, _command.text), []).append(_command)
SCRIPTS = [snippet for snippet in RUN if snippet.language in ("python", "sh")]
DATA = [snippet for snippet in ALL if snippet.language in ("json", "yaml", "toml")]


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone has, and files as a user has them: each is of a real box, trace or issue."""
    folder = tmp_path_factory.mktemp("material")
    for name in ("tests", "examples", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    boxes = ROOT / "tests" / "boxes"
    for name, box in (("box", "h200-everything"), ("before", "h200-torch-only"), ("after", "h200-everything")):
        shutil.copy(boxes / f"{box}.json", folder / f"{name}.json")
    issue = json.loads((ROOT / "examples" / "bot" / "event.json").read_text(encoding="utf-8"))["issue"]
    (folder / "issue.md").write_text(issue["body"], encoding="utf-8")
    shutil.copy(ROOT / "tests" / "serving_logs" / "vllm.txt", folder / "vllm.log")
    shutil.copy(ROOT / "tests" / "traces" / "eager-fp8.json.gz", folder / "trace.json.gz")
    (folder / "report.json").write_text(api.diagnose(boxes / "h200-everything.json").to_json(), encoding="utf-8")
    (folder / "finished").mkdir()
    bench = api.diagnose(boxes / "h200-bench-flux.json")
    (folder / "finished" / "report.json").write_text(bench.to_json(), encoding="utf-8")
    return folder


@pytest.fixture
def folder(material: Path, tmp_path: Path) -> Path:
    """A folder of one's own with that material in it."""
    for one in material.iterdir():
        if one.is_symlink():
            (tmp_path / one.name).symlink_to(one.readlink())
        else:
            (shutil.copytree if one.is_dir() else shutil.copy)(one, tmp_path / one.name)
    return tmp_path


def write_files(page: str, folder: Path) -> list[Snippet]:
    """The snippets of the page that are files, each where the page says."""
    files = [snippet for snippet in ALL if snippet.page == page and snippet.file]
    for snippet in files:
        place = folder / str(snippet.file)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(snippet.text, encoding="utf-8")
    return files


ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "COLUMNS": "80",
    "PYTHONIOENCODING": "utf-8",
    "PYTEST_ADDOPTS": "",
    "OMP_NUM_THREADS": "1",
}


def typed(folder: Path, line: str) -> Run:
    """What a terminal shows of the line; a call of the command and nothing else is made in this process."""
    if not re.fullmatch(r"fp8doctor( [\w./:,=-]+)+", line):
        return run(folder, "bash", "-c", line)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ended = called(*line.split()[1:], **ENVIRONMENT)
    return Run(line, ended.returncode, ended.stderr + ended.stdout)


def run(folder: Path, *command: str) -> Run:
    return subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        timeout=100,
        env={**os.environ, **ENVIRONMENT},
    )


@pytest.mark.parametrize("commands", SHOWN.values(), ids=[commands[0].place for commands in SHOWN.values()])
def test_a_command_ends_and_prints_as_the_page_shows(commands: list[Command], folder: Path) -> None:
    first = commands[0].snippet
    if first.without_gpu and HAS_GPU:
        pytest.skip("says what a machine without a GPU is told")
    if "jq " in first.text and not shutil.which("jq"):
        pytest.skip("needs jq")
    if ".html" in commands[0].text:
        pytest.importorskip("jinja2")
        pytest.importorskip("vl_convert")
    for one in write_files(first.page, folder):
        if "import torch" in one.text and Path(str(one.file)).stem in commands[0].text:
            pytest.importorskip("torch")
    ended = typed(folder, commands[0].text)
    assert ended.returncode == first.status, ended.stdout
    printed = [line.rstrip() for line in ended.stdout.splitlines()]
    for command in commands:
        assert missing(command.shown, printed) is None, f"{command.place}: not printed, or not shown"


@pytest.mark.parametrize("snippet", SCRIPTS, ids=lambda snippet: snippet.place)
def test_code_on_a_page_runs_as_it_stands(snippet: Snippet, folder: Path) -> None:
    if snippet.language == "python" and "torch" in snippet.text:
        pytest.importorskip("torch")
    write_files(snippet.page, folder)
    interpreter = [sys.executable, "-c"] if snippet.language == "python" else ["bash", "-e", "-c"]
    ended = run(folder, *interpreter, snippet.text)
    assert ended.returncode == snippet.status, ended.stdout


@pytest.mark.parametrize("snippet", DATA, ids=lambda snippet: snippet.place)
def test_data_on_a_page_is_whole(snippet: Snippet) -> None:
    if snippet.language == "json":
        json.loads(snippet.text)
    elif snippet.language == "yaml":
        pytest.importorskip("yaml").safe_load(snippet.text)
    else:
        # In the standard library from 3.11 on.
        pytest.importorskip("tomllib").loads(snippet.text)


def test_every_block_is_of_a_language_that_is_tested() -> None:
    tested = ("console", "sh", "python", "json", "yaml", "toml")
    assert [snippet.place for snippet in ALL if snippet.language not in tested] == []


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    not_run = [snippet for snippet in ALL if snippet.not_run is not None]
    assert all(snippet.not_run for snippet in not_run)
    assert len(not_run) <= MOST_NOT_RUN, [snippet.place for snippet in not_run]
    for snippet in not_run:
        if snippet.language == "python":
            compile(snippet.text, snippet.place, "exec")


def test_a_line_that_is_not_printed_is_found() -> None:
    printed = ["a", "b", "c", "d"]
    assert missing((), printed) is None
    assert missing(("a", "b", "c", "d"), printed) is None
    assert missing(("a", "...", "c", "d"), printed) is None
    assert missing(("...", "b", "c", "..."), printed) is None
    assert missing(("...", "b", "d"), printed) == "b\nd"
    assert missing(("b", "..."), printed) == "b"
    assert missing(("a", "b"), printed) == "c\nd"


def test_a_remark_is_read_with_its_block_alone() -> None:
    page = "<!-- exit status 1 without a GPU -->\n```console\n$ a\nb\n```\n\n<!-- file: x.py -->\n\n```python\nc\n```\n"
    first, second = snippets_of("page.md", page)
    assert (first.status, first.without_gpu, first.line, commands_of(first)[0].shown) == (1, True, 3, ("b",))
    assert (second.file, second.language) == (None, "python")


def test_the_pages_explain_every_mark_and_every_rules_letters() -> None:
    text = (ROOT / "docs" / "reading-the-report.md").read_text(encoding="utf-8")
    assert all(f"| {mark} |" in text for mark in "✗!•?✓")
    letters = {id.rstrip("0123456789") for id in api.knowledge().rules}
    assert letters == set(re.findall(r"^\| ([A-Z]{2,4}) \|", text, re.MULTILINE))


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in {ROOT / snippet.page for snippet in ALL}:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_public_names_are_those_that_the_reference_describes() -> None:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^ *\.\. auto\w+:: fp8doctor\.(\w+)$", text, re.MULTILINE))
    public = set(importlib.import_module("fp8doctor").__all__) - {"__version__"}
    assert described == public


@pytest.mark.parametrize("part", re.findall(r"^<!-- fields of (\w+) -->$", REFERENCE, re.MULTILINE))
def test_the_reference_names_each_field_with_its_type(part: str) -> None:
    table = REFERENCE.partition(f"<!-- fields of {part} -->\n")[2].partition("\n\n")[0]
    rows = [
        [cell.strip() for cell in line.split(" | ")] for line in table.strip("|").replace("|\n|", "\n").splitlines()
    ]
    assert {row[0].strip("`"): row[1] for row in rows[2:]} == fields(part)
    assert all(len(row) == 3 and row[2] for row in rows)


def test_the_check_that_a_page_builds_is_found_as_a_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files("docs/writing-a-check.md", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry()
    plug_in(registry, [EntryPoint("sage", "sage_doctor", "fp8doctor.checks")])
    assert (list(registry.rules), registry.broken) == (["SAGE001"], {})


def test_commands_in_a_sentence_exist_with_their_options() -> None:
    named = {one for page in PAGES for one in re.findall(r"`fp8doctor ([^`\n]+)`", page.read_text(encoding="utf-8"))}
    assert len(named) > 20
    for words in map(str.split, named):
        command = cli.get_command(click.Context(cli), words[0]) if not words[0].startswith("-") else cli
        assert command is not None, words
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for word in words:
            assert not word.startswith("--") or word in options, words
