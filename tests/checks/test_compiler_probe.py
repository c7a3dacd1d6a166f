"""torch.compile: the probes on compilers, Tritons and caches that are really there or really broken."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks.compiler import CACHE_VARIABLES, CompileCache, CompiledFunction, Compiler, rules
from fp8doctor.checks.compiler.function import compile_cast, gather_compiled
from fp8doctor.checks.compiler.probe import compile_caches, gather
from fp8doctor.checks.gpu import Gpu, Gpus
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.model import Facts, Finding, ProbeRun, Request, RuleResult
from fp8doctor.probing.children import importable_here, run_probe
from fp8doctor.probing.schedule import child_environment
from fp8doctor.specs import Probe
from fp8doctor.store import decode_facts
from tests.broken_packages import BrokenSite

H200 = Gpus(gpus=(Gpu(index=0, name="NVIDIA H200", compute_capability="9.0"),))
TORCH = TorchBuild(installed=True, accelerator="cuda", cuda_available=True)
HEALTHY = Compiler(
    triton_installed=True,
    triton_version="3.6.0",
    c_compiler="/usr/bin/gcc",
    c_compiler_found=True,
    c_compiler_works=True,
    python_include="/usr/include/python3.11",
    python_header_found=True,
    python_header_works=True,
    caches=(CompileCache("inductor", None, "/tmp/torchinductor_me", True, True),),
    switches={},
)


def one(result: RuleResult) -> Finding:
    """The only finding of a rule."""
    found = [v for v in (result if isinstance(result, list) else [result]) if isinstance(v, Finding)]
    assert len(found) == 1
    return found[0]


def probe(
    gather: Callable[..., object],
    environment: Mapping[str, str],
    request: Request | None = None,
    needs: Mapping[str, ProbeRun[Facts]] | None = None,
) -> ProbeRun[Facts]:
    """Run a probe in a child with exactly this environment."""
    spec: Probe = gather.__fp8doctor__  # type: ignore[attr-defined]
    return run_probe(
        spec,
        request or Request(),
        interpreter=sys.executable,
        importable=importable_here({}),
        runs=needs or {},
        environment=dict(environment),
        deadline_s=90.0,
        decode=decode_facts,
        cancel=threading.Event(),
    )


def look(environment: Mapping[str, str], request: Request | None = None) -> Compiler:
    run = probe(gather, environment, request)
    assert run.outcome == "ok", run
    assert isinstance(run.facts, Compiler)
    return run.facts


PATH = {"PATH": "/usr/bin:/bin"}


def test_this_machine_is_seen_as_it_is(home: Path) -> None:
    facts = look({**PATH, "HOME": str(home)})
    assert facts.c_compiler_found is not None
    assert facts.caches is not None
    assert [cache.used_by for cache in facts.caches] == ["inductor", "triton"]
    assert facts.caches[1].path == str(home / ".triton" / "cache")
    assert not (home / ".triton").exists()  # looking creates nothing
    assert facts.switches == {}


def test_a_path_without_compilers(tmp_path: Path) -> None:
    facts = look({"PATH": str(tmp_path)})
    assert facts.c_compiler_found is False
    assert facts.python_header_works is None
    assert one(rules.c_compiler_missing(replace(facts, triton_installed=True), None, H200, TORCH))


def test_a_compiler_that_always_fails(tmp_path: Path) -> None:
    script = tmp_path / "gcc"
    script.write_text("#!/bin/sh\necho 'cc1: error while loading shared libraries: libmpc.so.3' >&2\nexit 1\n")
    script.chmod(0o755)
    facts = look({"PATH": str(tmp_path)})
    assert (facts.c_compiler, facts.c_compiler_found, facts.c_compiler_works) == (str(script), True, False)
    assert "libmpc.so.3" in (facts.c_compiler_error or "")


@pytest.mark.parametrize("cc", ["/opt/nowhere/cc", "", "gcc -m64"])
def test_cc_that_is_no_program(cc: str) -> None:
    """Triton passes CC on as one word, and so an option in it, or an empty text, is no compiler."""
    facts = look({**PATH, "CC": cc})
    assert (facts.c_compiler_found, facts.c_compiler_variable) == (False, "CC")


def test_a_triton_whose_extension_does_not_load(tmp_path: Path) -> None:
    site = BrokenSite(tmp_path)
    site.metadata("triton", "3.6.0")
    site.break_import("triton", "undefined-symbol")
    facts = look({**PATH, "PYTHONPATH": str(tmp_path)})
    assert (facts.triton_installed, facts.triton_version) == (True, "3.6.0")
    assert "undefined symbol" in (facts.triton_import_error or "")


@pytest.mark.parametrize(("strike", "said"), [("segfault", "SIGSEGV"), ("exit", "status 0")])
def test_a_triton_that_ends_the_process_costs_itself_alone(tmp_path: Path, strike: Any, said: str) -> None:
    site = BrokenSite(tmp_path)
    site.metadata("triton", "3.6.0")
    site.break_import("triton", strike)
    facts = look({**PATH, "PYTHONPATH": str(tmp_path)})
    assert said in (facts.triton_import_error or "")
    assert (facts.c_compiler_found, facts.attempting) == (True, None)
    assert one(rules.triton_missing(facts, None, H200, TORCH))


def test_a_compiler_that_hangs_leaves_time_for_the_rest(tmp_path: Path) -> None:
    script = tmp_path / "gcc"
    script.write_text("#!/bin/sh\nexec /bin/sleep 300\n")
    script.chmod(0o755)
    facts = look({"PATH": str(tmp_path)}, Request(seconds_left=8.0))
    assert facts.c_compiler_error == "no end after 2 s"
    assert facts.caches is not None


def test_a_box_without_a_folder_for_temporary_files_is_seen(tmp_path: Path) -> None:
    """Nothing can be tried there; that the caches cannot be written is what counts."""
    gone = tmp_path / "gone"
    facts = look({**PATH, "TMPDIR": str(gone), "TORCHINDUCTOR_CACHE_DIR": "/proc/nowhere"})
    assert facts.caches is not None
    assert facts.caches[0].writable is False


def test_variables_that_switch_it_off_are_seen() -> None:
    facts = look({**PATH, "TORCH_COMPILE_DISABLE": "1", "UNRELATED": "1"})
    assert facts.switches == {"TORCH_COMPILE_DISABLE": "1"}


def test_a_cache_that_cannot_be_created_is_judged_as_the_user_had_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    own = {**PATH, "TORCHINDUCTOR_CACHE_DIR": str(file / "cache"), "TRITON_CACHE_DIR": str(tmp_path / "triton")}
    environment, replaced = child_environment(list(CACHE_VARIABLES), str(tmp_path / "doctor"), own)
    facts = look(environment, Request(replaced_environment=replaced))
    assert facts.caches is not None
    inductor, triton = facts.caches
    assert (inductor.path, inductor.writable) == (str(file / "cache"), False)
    assert (triton.path, triton.writable) == (str(tmp_path / "triton"), True)
    assert one(rules.compile_cache_not_writable(facts, H200, TORCH)).about == "cache:inductor"


def test_a_variable_that_the_user_had_not_set_leads_to_the_default_place(tmp_path: Path, home: Path) -> None:
    environment, replaced = child_environment(list(CACHE_VARIABLES), str(tmp_path), {**PATH, "HOME": str(home)})
    facts = look(environment, Request(replaced_environment=replaced))
    assert facts.caches is not None
    assert facts.caches[0].variable is None
    assert facts.caches[1].path == str(home / ".triton" / "cache")


@pytest.mark.parametrize(("option", "field"), [("ro", "writable"), ("noexec", "executable")])
def test_a_file_system_that_is_read_only_or_noexec(option: str, field: str) -> None:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    folder = next((m[1] for m in mounts if option in m[3].split(",") and Path(m[1]).is_dir()), None)
    if folder is None:
        pytest.skip(f"nothing is mounted {option} here")
    inductor, _ = compile_caches({"TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache"})
    assert getattr(inductor, field) is False
    assert inductor.problem


def examined(compiler: Compiler) -> dict[str, ProbeRun[Facts]]:
    return {"compiler": ProbeRun("ok", compiler)}


def test_where_nothing_can_be_compiled_torch_is_not_imported(tmp_path: Path) -> None:
    """Without Triton, and on a machine without a GPU's device file even before that."""
    BrokenSite(tmp_path).break_import("torch", "segfault")
    without_triton = replace(HEALTHY, triton_installed=False)
    run = probe(gather_compiled, {**PATH, "PYTHONPATH": str(tmp_path)}, needs=examined(without_triton))
    assert run.outcome == "ok"
    assert isinstance(run.facts, CompiledFunction)
    assert run.facts.not_tried


@pytest.mark.gpu
def test_a_crash_while_compiling_costs_one_cast_at_a_time(tmp_path: Path) -> None:
    BrokenSite(tmp_path).break_import("torch", "segfault")
    run = probe(gather_compiled, {**PATH, "PYTHONPATH": str(tmp_path)}, needs=examined(HEALTHY))
    assert run.outcome == "ok"
    assert isinstance(run.facts, CompiledFunction)
    assert [cast.outcome for cast in run.facts.casts or ()] == ["crashed", "crashed"]
    assert run.facts.works is False


@pytest.mark.torch
def test_a_compiled_cast_agrees_with_the_eager_one() -> None:
    """On the CPU, and without Inductor, whose C++ takes half a minute: tracing and comparison are the same."""
    cast = compile_cast("float8_e4m3fn", "cpu", backend="aot_eager")
    assert (cast.outcome, cast.graphs, cast.graph_breaks, cast.differing_values) == ("ok", 1, 0, 0)
    # One e4m3 operand, random normal: 3 mantissa bits give a relative error of 0.027.
    assert cast.relative_error == pytest.approx(0.0267, abs=0.0005)


@pytest.mark.torch
def test_what_ran_eagerly_is_not_called_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    assert compile_cast("float8_e5m2", "cpu").outcome == "eager"


@pytest.mark.torch
def test_a_failed_compilation_is_told_even_where_errors_are_suppressed() -> None:
    import torch

    # Not by monkeypatch: it gives the option back by deleting it, which hides it from all later tests.
    with torch._dynamo.config.patch(suppress_errors=True):
        cast = compile_cast("float8_e4m3fn", "cpu", backend="no-such-backend")
    assert cast.outcome == "error"
    assert "no-such-backend" in (cast.error or "")


@pytest.mark.gpu
def test_compiling_on_a_real_gpu() -> None:
    import os

    run = probe(gather_compiled, os.environ, needs=examined(HEALTHY))
    assert run.outcome == "ok", run
    assert isinstance(run.facts, CompiledFunction)
    assert run.facts.works
