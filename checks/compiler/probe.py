"""Looking for what torch.compile needs, the way Triton and Inductor look for it."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import which

from fp8doctor.checks.compiler.facts import CompileCache, Compiler
from fp8doctor.checks.compiler.switches import SWITCHES
from fp8doctor.model import Request
from fp8doctor.plain import from_plain
from fp8doctor.registry import probe

# A C file of three lines takes 0.1 s; a compiler that needs this long is stuck (on a licence server, say).
COMPILE_TIMEOUT_S = 15.0
# It may be called three times, and Triton is imported first: no part of that may take all of the time.
STEPS = 4
# The distributions that install the module `triton`.
TRITON_DISTRIBUTIONS = ("triton", "pytorch-triton", "pytorch-triton-rocm", "triton-rocm", "triton-windows")

_PLAIN = '#include <stdio.h>\nint fp8doctor(void) { return printf(""); }\n'
_WITH_PYTHON = "#include <Python.h>\nlong fp8doctor(void) { return PY_VERSION_HEX; }\n"


@dataclass(frozen=True)
class _Found:
    """The C compiler that Triton would call."""

    command: str
    variable: str | None
    path: str | None


# The step that may crash or hang, as `attempting` names it.
IMPORTING = "import triton"


@probe(runs_in="target", timeout_s=60)
def gather(request: Request) -> Iterator[Compiler]:
    """Trying the C compiler, Python's headers and Triton."""
    seen = from_plain(Compiler, request.so_far) if request.so_far else looked_for(request)
    if seen.attempting == IMPORTING:
        error = f"the process ended: {request.so_far_ended}"
        seen = replace(seen, triton_installed=True, triton_import_error=error, attempting=None)
    elif seen.triton_installed is None:
        yield replace(seen, attempting=IMPORTING)
        triton_version, triton_error = _triton(seen.triton_version)
        seen = replace(
            seen,
            triton_installed=triton_version is not None or triton_error is None,
            triton_version=triton_version,
            triton_import_error=triton_error,
        )
    yield seen
    if seen.c_compiler is not None and seen.c_compiler_found:
        yield from _tried(seen, min(COMPILE_TIMEOUT_S, request.seconds_left / STEPS))


def looked_for(request: Request) -> Compiler:
    """What is where, without calling or importing any of it."""
    found = _c_compiler(os.environ)
    include = python_include()
    return Compiler(
        triton_version=_recorded_version(),
        c_compiler=found.path or found.command if found else None,
        c_compiler_found=found is not None and found.path is not None,
        c_compiler_variable=found.variable if found else None,
        python_include=include,
        python_header_found=Path(include, "Python.h").is_file(),
        caches=compile_caches({**os.environ, **_as_the_user_had_them(request)}),
        switches={s.variable: os.environ[s.variable] for s in SWITCHES if s.variable in os.environ},
    )


def _tried(seen: Compiler, limit_s: float) -> Iterator[Compiler]:
    """Call the C compiler that was found, at most `limit_s` each time."""
    command = str(seen.c_compiler)
    try:
        plain = _compile(command, _PLAIN, [], limit_s)
        seen = replace(seen, c_compiler_works=plain == "", c_compiler_error=plain or None)
        yield seen
        if plain != "":  # without a working compiler nothing can be said of the headers
            return
        with_python = _compile(command, _WITH_PYTHON, [str(seen.python_include)], limit_s)
        seen = replace(seen, python_header_works=with_python == "", python_header_error=with_python or None)
    except OSError as error:
        sys.stderr.write(f"no folder to try the C compiler in: {error}\n")
    yield replace(seen, c_compiler_version=_first_line_of_version(command))


def _as_the_user_had_them(request: Request) -> dict[str, str]:
    # An empty text stands for "not set": what the doctor put there must not be taken for the user's.
    return {name: value or "" for name, value in request.replaced_environment.items()}


def _recorded_version() -> str | None:
    """The version that pip's records name."""
    for name in TRITON_DISTRIBUTIONS:
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    return None


def _triton(found: str | None) -> tuple[str | None, str | None]:
    """Triton's version, if it is installed, and why it cannot be imported."""
    try:
        import triton
    except BaseException as error:  # a broken extension may raise anything
        if found is None and isinstance(error, ModuleNotFoundError) and error.name == "triton":
            return None, "not installed"
        return found, f"{type(error).__name__}: {error}"[:1000]
    return found or getattr(triton, "__version__", "unknown"), None


def _c_compiler(environment: Mapping[str, str]) -> _Found | None:
    # triton/runtime/build.py, 3.2 to 3.9: $CC as one word even if it is empty or holds options, else gcc, else clang.
    if "CC" in environment:
        command = environment["CC"]
        return _Found(command, "CC", which(command) if command else None)
    for command in ("gcc", "clang"):
        if path := which(command):
            return _Found(path, None, path)
    return None


def python_include() -> str:
    """The folder in which Triton looks for Python.h (triton/runtime/build.py)."""
    scheme = sysconfig.get_default_scheme()
    return sysconfig.get_paths(scheme="posix_prefix" if scheme == "posix_local" else scheme)["include"]


def _compile(compiler: str, source: str, include: list[str], limit_s: float) -> str:
    """Build a shared library from `source` as Triton does; return what went wrong, "" if nothing did."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="fp8doctor-") as folder:
        file, library = Path(folder, "probe.c"), Path(folder, "probe.so")
        file.write_text(source)
        command = [compiler, str(file), "-O3", "-shared", "-fPIC", "-o", str(library), *(f"-I{i}" for i in include)]
        try:
            run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=limit_s)
        except subprocess.TimeoutExpired:
            return f"no end after {limit_s:.0f} s"
        except OSError as error:
            return str(error)
        if run.returncode == 0 and library.exists():
            return ""
        said = (run.stderr or run.stdout).replace(folder, "").strip()
        if os.strerror(errno.ENOSPC) in said:  # not the compiler's fault
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return said[:1000] or f"ended with status {run.returncode} and built nothing"


def _first_line_of_version(compiler: str) -> str | None:
    try:
        run = subprocess.run([compiler, "--version"], capture_output=True, text=True, errors="replace", timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return next(iter(run.stdout.splitlines()), "").strip()[:200] or None


def compile_caches(environment: Mapping[str, str]) -> tuple[CompileCache, ...]:
    """The folders for compiled code that this environment leads to, and whether they can be used.

    Places: torch/_inductor/runtime/cache_dir_utils.py and triton/knobs.py, `cache_knobs`.
    """
    inductor = environment.get("TORCHINDUCTOR_CACHE_DIR") or None
    triton = environment.get("TRITON_CACHE_DIR") or None
    home = environment.get("TRITON_HOME") or None
    return (
        _cache("inductor", "TORCHINDUCTOR_CACHE_DIR" if inductor else None, inductor or _default_inductor_cache()),
        _cache(
            "triton",
            "TRITON_CACHE_DIR" if triton else "TRITON_HOME" if home else None,
            triton or str(Path(home or os.path.expanduser("~"), ".triton", "cache")),  # noqa: PTH111 - raises nothing
        ),
    )


def _default_inductor_cache() -> str:
    import getpass

    try:
        user = getpass.getuser()
    except (KeyError, ModuleNotFoundError, OSError):
        user = f"uid_{os.getuid()}"
    import tempfile

    try:
        folder = tempfile.gettempdir()
    except OSError:  # none can be written to: this is the one that was asked for
        folder = os.environ.get("TMPDIR") or "/tmp"
    return str(Path(folder, f"torchinductor_{user}"))


def _cache(used_by: str, variable: str | None, path: str) -> CompileCache:
    """Look at a cache folder without creating it: what matters is the nearest folder above that exists."""
    executable = None
    problem = None
    try:
        folder = Path(path).absolute()
        while not os.path.lexists(folder) and folder != folder.parent:
            folder = folder.parent
        problem = _why_not_writable(folder)
        writable = problem is None
        flags = os.statvfs(folder).f_flag
        executable = not flags & os.ST_NOEXEC
        if not executable:
            problem = problem or f"{folder} is on a file system mounted noexec"
    except OSError as error:  # the working directory is gone, say
        problem, writable = problem or str(error), False
    return CompileCache(
        used_by=used_by,
        variable=variable,
        path=path,
        writable=writable,
        executable=executable,
        problem=problem,
    )


def _why_not_writable(folder: Path) -> str | None:
    if not folder.is_dir():
        return f"{folder} is no folder"
    if not os.access(folder, os.W_OK | os.X_OK):
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        return f"{folder} is on a file system mounted read-only" if read_only else f"{folder} may not be written"
    # The blocks and the files that a user who is not root may take; some file systems count no files.
    room = os.statvfs(folder)
    if room.f_bavail == 0 or (room.f_files > 0 and room.f_favail == 0):
        return f"the file system of {folder} is full" + (" of files" if room.f_bavail else "")
    return None
