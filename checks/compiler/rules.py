"""What stops torch.compile here, or makes it useless?"""

from __future__ import annotations

import re

from fp8doctor.checks.compiler.facts import CompileCache, CompiledCast, CompiledFunction, Compiler
from fp8doctor.checks.compiler.probe import IMPORTING
from fp8doctor.checks.compiler.switches import acting
from fp8doctor.checks.gpu import Gpus
from fp8doctor.checks.libraries import Libraries
from fp8doctor.checks.torch_build import TorchBuild
from fp8doctor.model import (
    Action,
    Evidence,
    Finding,
    NotApplicable,
    ProbeRun,
    RuleResult,
    Severity,
    Unknown,
    Verdict,
    observed,
    per_item,
)
from fp8doctor.registry import rule


def _not_here(gpus: Gpus | None, torch_build: TorchBuild | None) -> NotApplicable | Unknown | None:
    """Without a GPU, or a torch that uses it, no FP8 kernel is compiled anyway; if neither was seen, nobody knows."""
    if gpus is not None and gpus.gpus == ():
        return NotApplicable("no GPU is visible")
    if torch_build is not None and torch_build.installed is False:
        return NotApplicable("there is no torch")
    if torch_build is not None and torch_build.accelerator == "cpu":
        return NotApplicable("this torch is built without GPU support")
    if (gpus is None or gpus.gpus is None) and (torch_build is None or torch_build.accelerator is None):
        return Unknown("neither the GPUs nor what torch was built for were observed")
    return None


def _proved(compiled: CompiledFunction | None) -> Severity:
    """Whether the compiled function failed too, or was not tried: then it is known from Triton's source only."""
    return Severity.ERROR if compiled is not None and compiled.works is False else Severity.WARNING


@rule(
    "CMP001",
    "triton-missing",
    Severity.ERROR,
    scope="box",
    explains=("compile-fails", "not-compiled"),
)
def triton_missing(
    compiler: Compiler | None, libraries: Libraries | None, gpus: Gpus | None, torch_build: TorchBuild | None
) -> RuleResult:
    """Triton is missing or cannot be imported.

    What it means: torch.compile generates its GPU kernels in Triton's language. The package is not installed in the
    examined environment, or its import fails.

    Why it costs time: without torch.compile the steps round an FP8 matrix product (find the largest value, scale,
    round) run as separate kernels, each of which reads and writes the whole tensor. Eager FP8 is then often slower
    than BF16.

    What to do: install the version that torch names in its own requirements; Linux wheels of torch for CUDA bring it
    along, so a missing one usually means that torch was installed with --no-deps or that Triton was removed.

    Sources: torch/_inductor/exc.py (`TritonMissing`) and the requirements of the torch wheels; pytorch/pytorch#125093,
    pytorch/pytorch#143406.
    """
    if not_here := _not_here(gpus, torch_build):
        return not_here
    show = Action(
        "See which Triton this torch asks for, and install that version",
        "python -c \"from importlib.metadata import requires; print([r for r in requires('torch') if 'triton' in r])\"",
    )
    if compiler is None:
        if libraries is not None and any(name in (libraries.installed or {}) for name in ("triton", "pytorch-triton")):
            return None
        if libraries is not None and "triton" in (libraries.absent or ()):
            seen = Evidence("triton is not among the installed packages", fact="libraries.absent")
            return Finding("Triton is not installed", (seen,), (show,))
        return Unknown("whether Triton is there was not observed")
    if compiler.attempting == IMPORTING:
        seen = Evidence("import triton did not end in the time that it had", fact="compiler.attempting")
        return Finding("Triton does not come back from its import", (seen,), (show,))
    if observed(compiler.triton_installed, "whether Triton is installed") is False:
        seen = Evidence("no distribution of triton in the examined environment", fact="compiler.triton_installed")
        return Finding("Triton is not installed", (seen,), (show,))
    error = compiler.triton_import_error
    if error is not None:
        seen = Evidence(f"import triton: {error}", compiler.triton_version, fact="compiler.triton_import_error")
        return Finding("Triton is installed and cannot be imported", (seen,), (show,))
    return None


@rule("CMP003", "c-compiler-missing", Severity.ERROR, scope="box", explains=("compile-fails", "not-compiled"))
def c_compiler_missing(
    compiler: Compiler, compiled: CompiledFunction | None, gpus: Gpus | None, torch_build: TorchBuild | None
) -> RuleResult:
    """There is no C compiler that works, and Triton needs one.

    What it means: when Triton starts, it builds a small C module that loads kernels and asks the driver for the
    device's properties. It calls the compiler named by CC (as one word, options in it are not understood), else gcc,
    else clang. None was found, or the one found does not build a file of three lines.

    Why it costs time: without torch.compile the steps round an FP8 matrix product run as separate kernels, and eager
    FP8 is often slower than BF16. Libraries that launch Triton kernels fail altogether.

    What to do: install gcc with the C library's headers, or set CC to one that works. Slim container images leave it
    out.

    Sources: triton/runtime/build.py and triton/backends/nvidia/driver.py in 3.2, 3.6, 3.7 and 3.9.
    """
    if not_here := _not_here(gpus, torch_build):
        return not_here
    if compiled is not None and compiled.works:
        return None  # it compiled from empty caches, whatever stands in for the compiler
    if compiler.triton_installed is False:
        return NotApplicable("there is no Triton that would call it")
    named = f"CC={compiler.c_compiler}" if compiler.c_compiler_variable else compiler.c_compiler
    install = Action("Install a C compiler", "sudo apt-get install -y gcc libc6-dev", safe=False)
    unset = (Action("Unset CC, or set it to one compiler's path", "unset CC"),) if compiler.c_compiler_variable else ()
    if not observed(compiler.c_compiler_found, "the C compiler"):
        what = (
            f"{named} is no program that can be run"
            if compiler.c_compiler_variable
            else "neither gcc nor clang on PATH"
        )
        return Finding(
            "There is no C compiler, which Triton needs",
            (Evidence(what, fact="compiler.c_compiler_found"),),
            (*unset, install),
            severity=_proved(compiled),
        )
    if not observed(compiler.c_compiler_works, "whether the C compiler works"):
        said = f"{named} on a file of three lines: {compiler.c_compiler_error}"
        return Finding(
            "The C compiler that Triton would call does not work",
            (Evidence(said, compiler.c_compiler_version, fact="compiler.c_compiler_works"),),
            (*unset, Action("Reinstall it", "sudo apt-get install --reinstall -y gcc libc6-dev", safe=False)),
            severity=_proved(compiled),
        )
    return None


@rule("CMP004", "python-headers-missing", Severity.ERROR, scope="box", explains=("compile-fails", "not-compiled"))
def python_headers_missing(
    compiler: Compiler, compiled: CompiledFunction | None, gpus: Gpus | None, torch_build: TorchBuild | None
) -> RuleResult:
    """Python's C headers are missing, and Triton needs them.

    What it means: the C module that Triton builds when it starts is a Python extension: it includes Python.h, which
    distributions keep in a package of its own. It was looked for where the examined Python says it is.

    Why it costs time: torch.compile fails, and without it the steps round an FP8 matrix product run as separate
    kernels; eager FP8 is often slower than BF16.

    What to do: install the headers of exactly this Python version. Pythons from uv, pyenv and conda bring them.

    Sources: triton/backends/nvidia/driver.c and triton/runtime/build.py; pytorch/pytorch#129351, pytorch/pytorch#97146.
    """
    if not_here := _not_here(gpus, torch_build):
        return not_here
    if compiled is not None and compiled.works:
        return None
    if compiler.triton_installed is False:
        return NotApplicable("there is no Triton that would include them")
    found = re.search(r"python(3\.\d+)", compiler.python_include or "")
    package = f"python{found[1]}-dev" if found else "python3-dev"
    install = Action("Install Python's headers", f"sudo apt-get install -y {package}", safe=False)
    if not observed(compiler.python_header_found, "whether Python.h is there"):
        seen = Evidence(f"no Python.h in {compiler.python_include}", fact="compiler.python_header_found")
        return Finding("Python.h is missing, which Triton needs", (seen,), (install,), severity=_proved(compiled))
    if compiler.python_header_works is None:
        return Unknown("the C compiler does not get as far as Python.h")
    if compiler.python_header_works is False:
        seen = Evidence(f"including it fails: {compiler.python_header_error}", fact="compiler.python_header_works")
        return Finding("Python.h is there and cannot be used", (seen,), (install,), severity=_proved(compiled))
    return None


@rule("CMP005", "compile-cache-not-writable", Severity.ERROR, scope="box", explains=("not-compiled",))
def compile_cache_not_writable(compiler: Compiler, gpus: Gpus | None, torch_build: TorchBuild | None) -> RuleResult:
    """Compiled kernels cannot be kept, or cannot be loaded from where they are kept.

    What it means: Inductor and Triton write what they compile to a folder and load it from there. The folder, or the
    one in which it would be created, is read-only, full, no folder, not this user's, or on a file system mounted
    noexec. The doctor's own compilations go to a folder of its own, so they may well succeed.

    Why it costs time: torch.compile fails when it wants to write, or when it loads the module that it has built.

    What to do: point TORCHINDUCTOR_CACHE_DIR and TRITON_CACHE_DIR at a folder on a local disk that this user may write.

    Sources: torch/_inductor/runtime/cache_dir_utils.py; torch/_inductor/codecache.py (its message on noexec);
    triton/runtime/cache.py.
    """

    def judge(cache: CompileCache) -> Verdict:
        if observed(cache.writable, f"the cache folder {cache.path}") and cache.executable is not False:
            return None
        # Without TRITON_CACHE_DIR, torch.compile keeps its kernels below Inductor's folder and never sees this one.
        for_torch = cache.used_by == "inductor" or cache.variable == "TRITON_CACHE_DIR"
        variable = "TORCHINDUCTOR_CACHE_DIR" if cache.used_by == "inductor" else "TRITON_CACHE_DIR"
        why = cache.problem or "it cannot be used"
        named = f"{cache.variable}={cache.path}" if cache.variable else cache.path
        # Triton's default lies in the home, Inductor's among the temporary files: the other one may do.
        place = "$HOME/.cache" if variable == cache.variable or cache.used_by == "inductor" else "${TMPDIR:-/tmp}"
        return Finding(
            f"The {cache.used_by} cache cannot be used",
            (Evidence(f"{named}: {why}", fact="compiler.caches"),),
            (Action("Use a folder of your own", f'export {variable}="{place}/fp8-{cache.used_by}"'),),
            about=f"cache:{cache.used_by}",
            severity=Severity.ERROR if for_torch else Severity.WARNING,
        )

    return _not_here(gpus, torch_build) or per_item(observed(compiler.caches, "the compile caches"), judge)


def _switched(compiler: Compiler, kind: str, title: str) -> list[Verdict]:
    return [
        Finding(
            title.format(variable=switch.variable),
            (Evidence(f"{switch.variable}={value}: {switch.effect}", fact=f"compiler.switches.{switch.variable}"),),
            (Action("Unset it", f"unset {switch.variable}"),),
            about=f"variable:{switch.variable}",
        )
        for switch, value in acting(observed(compiler.switches, "the variables of torch.compile"), kind)
    ]


@rule("CMP006", "compile-switched-off", Severity.WARNING, scope="box", explains=("not-compiled",))
def compile_switched_off(
    compiler: Compiler, compiled: CompiledFunction | None, gpus: Gpus | None, torch_build: TorchBuild | None
) -> RuleResult:
    """torch.compile is switched off by the environment.

    What it means: a variable makes torch.compile hand back the function it was given. Programs run on, eagerly, and
    no message says so.

    Why it costs time: the steps round an FP8 matrix product stay separate kernels, and eager FP8 is often slower than
    BF16.

    What to do: unset the variable, here and in what starts the program (unit files, container images, launchers).

    Sources: torch/_dynamo/config.py (`disable`) and torch/_dynamo/eval_frame.py (`_optimize`), torch 2.13.
    """
    if not_here := _not_here(gpus, torch_build):
        return not_here
    if found := _switched(compiler, "off", "torch.compile is switched off by {variable}"):
        return found
    if compiled is not None and compiled.casts and all(cast.outcome == "eager" for cast in compiled.casts):
        seen = Evidence("a function given to torch.compile ran without a graph being compiled", 0, "graphs")
        return Finding("torch.compile compiles nothing here, and no variable explains it", (seen,))
    return None


@rule("CMP007", "compile-fails", Severity.ERROR, scope="box", explains=("not-compiled",))
def compile_fails(run: ProbeRun[CompiledFunction]) -> RuleResult:
    """torch.compile does not get a small FP8 function compiled and right.

    What it means: a function that scales a BF16 tensor, casts it to FP8 and back was compiled on the GPU from empty
    caches. The compilation failed, crashed or did not end, or the result is further from the input than twice the
    error of the same function run eagerly.

    Why it costs time: without torch.compile the steps round an FP8 matrix product run as separate kernels, and eager
    FP8 is often slower than BF16.

    What to do: mend what the error names; where another finding explains it (no compiler, no headers, no Triton),
    start there.

    Sources: measured here.
    """
    if run.failed and not (run.facts and run.facts.casts):
        seen = Evidence(
            f"compiling a small FP8 function ended by {run.outcome}: {run.detail}", fact="compiled_function"
        )
        return Finding("torch.compile does not get through here", (seen,))
    if run.facts is None:
        return Unknown(f"compiled_function was not examined: {run.detail}" if run.detail else "nothing was compiled")
    if run.facts.not_tried:
        return NotApplicable(run.facts.not_tried)
    if run.facts.works is None:
        return Unknown("nothing was compiled")
    if _refused_e4m3_only(run.facts):
        return None  # CMP008 says so
    return [_judge_cast(cast) for cast in run.facts.casts or ()]


def _refused_e4m3_only(compiled: CompiledFunction) -> bool:
    e4m3, e5m2 = compiled.cast("float8_e4m3fn"), compiled.cast("float8_e5m2")
    return bool(e4m3 and e5m2 and e4m3.outcome in ("error", "crashed") and e5m2.outcome == "ok")


def _judge_cast(cast: CompiledCast) -> Verdict:
    if cast.outcome in ("ok", "eager"):
        return None
    if cast.outcome == "wrong":
        seen = Evidence(
            f"the {cast.dtype} round trip is off by {_percent(cast.relative_error)} compiled and by "
            f"{_percent(cast.relative_error_eager)} eagerly",
            cast.relative_error,
            fact="compiled_function.casts",
        )
        title = f"A compiled cast to {cast.dtype} gives wrong numbers"
    else:
        seen = Evidence(f"{cast.dtype}: {cast.error or cast.outcome}", fact="compiled_function.casts")
        title = f"torch.compile fails on a cast to {cast.dtype}"
    return Finding(title, (seen,), about=f"dtype:{cast.dtype}")


def _percent(value: float | None) -> str:
    return "more than can be said" if value is None else f"{100 * value:.2g} %"


@rule("CMP008", "triton-fp8-cast-unsupported", Severity.WARNING, scope="box", explains=("not-compiled",))
def triton_fp8_cast_unsupported(compiled: CompiledFunction) -> RuleResult:
    """Compiled code cannot cast to e4m3 here, while e5m2 works.

    What it means: Triton refuses the type that it calls fp8e4nv on NVIDIA GPUs below compute capability 8.9. Casting
    eagerly still works there, and so does e5m2.

    Why it costs time: models that keep weights in e4m3 fail under torch.compile, or run without it.

    What to do: on such a GPU FP8 is a way to store weights: use e5m2, or cast outside the compiled part. On a GPU of
    8.9 or above the error text tells more; a newer Triton may be needed.

    Sources: triton/backends/nvidia/compiler.py (`supported_fp8_dtypes`), triton/language/core.py (the message);
    kijai/ComfyUI-WanVideoWrapper#252, woct0rdho/triton-windows#169.
    """
    if compiled.not_tried:
        return NotApplicable(compiled.not_tried)
    e4m3 = compiled.cast("float8_e4m3fn")
    if observed(e4m3, "a compiled cast to e4m3").outcome == "eager":
        return Unknown("nothing was compiled")
    if not _refused_e4m3_only(compiled):
        return None
    seen = Evidence(f"float8_e4m3fn: {e4m3.error if e4m3 else None}", fact="compiled_function.casts")
    return Finding(
        "Compiled code cannot cast to e4m3 on this GPU, though it can to e5m2",
        (seen, Evidence("float8_e5m2 compiled and right", fact="compiled_function.casts")),
        (Action("Use torch.float8_e5m2 in compiled code, or cast outside of it"),),
    )


@rule("CMP009", "compile-errors-hidden", Severity.INFO, scope="box")
def compile_errors_hidden(compiler: Compiler, gpus: Gpus | None, torch_build: TorchBuild | None) -> RuleResult:
    """Failures of torch.compile are hidden by the environment.

    What it means: TORCHDYNAMO_SUPPRESS_ERRORS is set. Any value but the empty one counts, 0 and false too.

    Why it costs time: what cannot be compiled runs eagerly, and the only sign is the time it takes.

    What to do: unset it while looking for lost speed.

    Sources: torch/_dynamo/config.py, `suppress_errors`, torch 2.13.
    """
    return (
        _not_here(gpus, torch_build)
        or _switched(compiler, "hides-errors", "{variable} hides failed compilations")
        or None
    )


@rule("CMP010", "compiled-kernels-slowed", Severity.WARNING, scope="box")
def compiled_kernels_slowed(compiler: Compiler, gpus: Gpus | None, torch_build: TorchBuild | None) -> RuleResult:
    """A debugging variable makes compiled kernels slow.

    What it means: a variable meant for debugging interprets kernels, compiles them without optimisation, or checks
    their inputs at every call.

    Why it costs time: compiled FP8 is chosen for its fused kernels; these are the ones that become slow.

    What to do: unset the variable outside debugging.

    Sources: triton/knobs.py and triton/backends/nvidia/compiler.py (3.6, 3.9);
    torch/_inductor/codegen/wrapper.py (2.13).
    """
    return (
        _not_here(gpus, torch_build) or _switched(compiler, "slow-kernels", "{variable} slows compiled kernels") or None
    )


@rule("CMP011", "compile-caches-off", Severity.INFO, scope="box")
def compile_caches_off(compiler: Compiler, gpus: Gpus | None, torch_build: TorchBuild | None) -> RuleResult:
    """A variable makes every start compile anew, or one kernel at a time.

    What it means: the caches of torch.compile or Triton are off, or its worker processes are.

    Why it costs time: the first step of each process takes as long as on the first day. Once compiled, nothing is
    slower.

    What to do: unset the variable if start-up time matters.

    Sources: torch/compiler/config.py, torch/_inductor/config.py (2.13), triton/knobs.py (3.9).
    """
    return (
        _not_here(gpus, torch_build) or _switched(compiler, "slow-compile", "{variable} makes compiling slow") or None
    )
