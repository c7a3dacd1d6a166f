"""Does a test fail when an important rule is broken the way a careless change would break it?

    python -m benchmarks.mutations [ID ...]

Each rule is broken in a copy of what is committed: it never fires, a guard of it is gone, a comparison is turned round
or moved by its bound, a threshold is doubled or halved, a severity is lowered. Then the tests of its subject run in
that copy; one that fails kills the mutation. Exit status 1 if any survives.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
COPIED = ("fp8doctor", "checks", "tests", "pyproject.toml")
AT_ONCE = 2


@dataclass(frozen=True)
class Target:
    """A rule, where its decision stands ("file:function,function" or "file:CONSTANT"), and its tests."""

    rule: str
    where: str
    tests: str


TARGETS = (
    Target(
        "GPU001 no-fp8-hardware", "gpu/rules.py:no_fp8_hardware,_fp8,has_fp8 gpu/facts.py:FIRST_FP8", "gpu gpu_limits"
    ),
    Target("GPU003 power-cap", "gpu/state_rules.py:power_cap,_capped", "gpu_state gpu_limits"),
    Target(
        "GPU004 gpu-shared-or-mig",
        "gpu/sharing_rules.py:shared_or_mig,_shared,_held,_working,_came",
        "gpu_state gpu_limits gpu_sharing",
    ),
    Target("DRV001 driver-too-old", "driver.py:too_old,_is_new_enough", "driver"),
    Target("TOR003 cpu-only-torch", "torch_build/rules.py:cpu_only", "torch_build torch_build_limits stated"),
    Target(
        "TOR005 arch-not-in-torch",
        "torch_build/rules.py:no_code_for_gpu,_judge_code,code_covers",
        "torch_build torch_build_limits stated",
    ),
    Target(
        "TOR010 silent-wrong-result",
        "torch_build/product_rules.py:wrong_result torch_build/numerics.py:TOLERANCE",
        "torch_build torch_build_limits torch_build_numerics",
    ),
    Target(
        "FA001 abi-mismatch-flash-attn",
        "flash_attention/rules.py:built_for_another_torch,_abi flash_attention/faults.py:fault",
        "flash_attention extensions",
    ),
    Target(
        "TE001 abi-mismatch-te",
        "transformer_engine/import_rules.py:abi_mismatch,_import_finding,import_failure",
        "imports_that_end transformer_engine extensions",
    ),
    Target(
        "TE005 te-import-fails",
        "transformer_engine/import_rules.py:import_fails",
        "imports_that_end transformer_engine",
    ),
    Target(
        "AO002 torchao-torch-mismatch",
        "torchao/rules.py:kernels_end_the_process,import_failure,_absent",
        "imports_that_end torchao",
    ),
    Target("CMP003 c-compiler-missing", "compiler/rules.py:c_compiler_missing,_not_here,_proved", "compiler"),
    Target(
        "CMP006 compile-switched-off",
        "compiler/rules.py:compile_switched_off compiler/switches.py:acting",
        "compiler",
    ),
    Target("LIN001 small-shapes", "linear/lessons.py:small_shapes", "linear_rules linear_advice"),
    Target("LIN009 fp8-gemm-slow", "linear/box_rules.py:fp8_gemm_slow", "linear_rules linear_boxes"),
    Target(
        "LIN010 fp8-silently-not-applied", "linear/box_rules.py:no_fp8_kernel,_claims_fp8", "linear_rules linear_boxes"
    ),
    Target("SRV001 weight-only-dequant", "serving/rules.py:weight_only,_has_fp8,_not_said", "serving"),
    Target("STP004 cpu-launch-bound", "step/host_rules.py:launch_bound", "step_rules step_situations step_recorded"),
)

# Holds the severity of all of them.
EVERY_RULES = "severity"
# Changes without any effect: code of the very architecture has been told before.
WITHOUT_EFFECT = (
    "`built <= device` becomes `built < device`",
    "`built[1] <= device[1]` becomes `built[1] < device[1]`",
)

LOWERED = {"ERROR": "WARNING", "WARNING": "INFO"}
# The other bound, or the other way round; what decides on words alone (`in` a text) is turned round, too.
TURNED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}


@dataclass(frozen=True)
class Mutation:
    """One careless change: what it is in words, the file, and the file's text with it."""

    what: str
    file: str
    text: str


@dataclass(frozen=True)
class Edit:
    """One attribute of one node of a tree, and what it becomes."""

    what: str
    node: ast.AST
    field: str
    value: Any

    def applied(self, tree: ast.Module) -> str:
        """The text of the tree with this edit; the tree stays as it was."""
        before = getattr(self.node, self.field)
        setattr(self.node, self.field, self.value)
        text = ast.unparse(tree)
        setattr(self.node, self.field, before)
        return text


def mutations(target: Target, root: Path) -> list[Mutation]:
    """Every mutation of a rule, in the order of its functions and lines."""
    found: dict[tuple[str, str], Mutation] = {}  # a constant that two of its functions read is changed once
    for place in target.where.split():
        file, _, names = place.partition(":")
        path = f"checks/{file}"
        tree = ast.parse((root / path).read_text())
        for name in names.split(","):
            edits = list(edits_of(tree, name))
            if not edits:
                raise SystemExit(f"{path} has no {name} that could be broken")
            for edit in edits:
                text = edit.applied(tree)
                if edit.what not in WITHOUT_EFFECT:
                    found.setdefault((path, text), Mutation(edit.what, path, text))
    return list(found.values())


def edits_of(tree: ast.Module, name: str) -> Iterator[Edit]:
    """The edits of a function and of the constants that it reads, or of a constant."""
    function = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name), None)
    if function is None:
        yield from scaled(tree, {name})
        return
    if function.decorator_list:  # the rule itself; its docstring stays
        yield Edit(f"`{name}` never fires", function, "body", [*function.body[:1], ast.Return(ast.Constant(None))])
    for node in deciding(function):
        if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Return):
            yield Edit(f"`{name}` goes on where `{shown(node.test)}`", node, "test", ast.Constant(False))
        elif isinstance(node, ast.Compare):
            yield from turned(node)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "Severity" and node.attr in LOWERED:
            lower = LOWERED[node.attr]
            yield Edit(f"`{name}`: {node.attr.lower()} becomes {lower.lower()}", node, "attr", lower)
    yield from scaled(tree, {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and n.id.isupper()})


def deciding(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function in their order, without those inside of a message."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.JoinedStr):
            yield child
            yield from deciding(child)


def turned(node: ast.Compare) -> Iterator[Edit]:
    """The comparison with each of its signs changed."""
    for i, sign in enumerate(node.ops):
        for other in TURNED[type(sign)]:
            signs = [*node.ops[:i], other(), *node.ops[i + 1 :]]
            after = ast.Compare(node.left, signs, node.comparators)
            yield Edit(f"`{shown(node)}` becomes `{shown(after)}`", node, "ops", signs)


def scaled(tree: ast.Module, names: set[str]) -> Iterator[Edit]:
    """Each number of these constants, doubled and halved."""
    for statement in tree.body:
        if not isinstance(statement, ast.Assign):
            continue
        defined = [n.id for n in ast.walk(statement.targets[0]) if isinstance(n, ast.Name)]
        if names.isdisjoint(defined):
            continue
        for node in numbers(statement.value):
            for word, number in (("doubled", node.value * 2), ("halved", node.value / 2)):
                value = type(node.value)(number)
                yield Edit(f"{', '.join(defined)}: {node.value} {word}", node, "value", value)


def numbers(value: ast.expr) -> list[Any]:
    """The numbers of a constant: itself, the items of a tuple, the values of a table."""
    parts = value.values if isinstance(value, ast.Dict) else value.elts if isinstance(value, ast.Tuple) else [value]
    return [part for part in parts if isinstance(part, ast.Constant) and type(part.value) in (int, float)]


def shown(node: ast.AST) -> str:
    """Code as one short line."""
    text = ast.unparse(node)
    return text if len(text) <= 90 else f"{text[:87]}..."


def git(*arguments: str) -> bytes:
    """What git prints in this repository."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


class Copy:
    """A copy of what is committed, in which rules are broken and tests run."""

    def __init__(self, folder: Path, commit: str) -> None:
        self.folder = folder
        subprocess.run(["tar", "-x", "-C", str(folder)], input=git("archive", commit, *COPIED), check=True)
        # Two mutations of one size within one second would share a cached module that is told by its time.
        self.python("-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "fp8doctor", "checks")
        imported = self.python(
            "-c", "import fp8doctor, fp8doctor.checks.driver as d; print(fp8doctor.__file__, d.__file__)"
        ).stdout
        if imported.split() != [str(folder / "fp8doctor" / name) for name in ("__init__.py", "checks/driver.py")]:
            raise SystemExit(f"not the copy is imported, but {imported}")

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python so that it imports the copy, not what is installed."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def failing(self, tests: str) -> str | None:
        """The first test of these that fails, or None."""
        files = [f"tests/checks/test_{name}.py" for name in (*tests.split(), "severity")]
        run = self.python("-m", "pytest", "-x", "-q", "--tb=no", "-rfE", "--hypothesis-seed=0", *files)
        named = re.search(r"^(?:FAILED|ERROR) (?:tests/checks/)?(\S+)", run.stdout, re.MULTILINE)
        if run.returncode not in (0, 1, 2) or (run.returncode and not named):
            raise SystemExit(f"the tests could not be run: {run.stdout[-2000:]}{run.stderr[-2000:]}")
        return named[1] if named else None

    def killer(self, mutation: Mutation, tests: str) -> str | None:
        """The first test that fails with this mutation, or None."""
        path = self.folder / mutation.file
        before = path.read_text()
        path.write_text(mutation.text)
        try:
            return self.failing(tests)
        finally:
            path.write_text(before)


def tried(target: Target, commit: str) -> list[tuple[str, str | None]]:
    """Each mutation of a rule in words, and what killed it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder).resolve(), commit)
        tests = f"{target.tests} {EVERY_RULES}"
        if (failing := copy.failing(tests)) is not None:
            raise SystemExit(f"{failing} fails without any mutation")
        return [(one.what, copy.killer(one, tests)) for one in mutations(target, copy.folder)]


def main() -> None:
    wanted = [t for t in TARGETS if not sys.argv[1:] or t.rule.split()[0] in sys.argv[1:]]
    if not wanted:
        raise SystemExit(f"known are {', '.join(t.rule for t in TARGETS)}")
    commit = git("rev-parse", "HEAD").decode().strip()  # one state for all, whatever is committed meanwhile
    started, survived, count = time.monotonic(), 0, 0
    print("| rule | mutation | killed by |\n| --- | --- | --- |")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for target, results in zip(wanted, pool.map(tried, wanted, repeat(commit)), strict=True):
            for what, killer in results:
                print(f"| {target.rule} | {what} | {killer or 'SURVIVED'} |", flush=True)
            count += len(results)
            survived += sum(killer is None for _, killer in results)
    took = time.monotonic() - started
    print(f"\n{len(wanted)} rules, {count} mutations, {count - survived} killed, {survived} survived; {took:.0f} s")
    raise SystemExit(1 if survived else 0)


if __name__ == "__main__":
    main()
