"""Looking for what torch.compile needs, the way Triton and Inductor look for it."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import which

from fp8doctor.checks.compiler.facts import CompileCache, Compiler
from fp8doctor.checks.compiler.switches import SWITCHES
from fp8doctor.model import Request
from fp8doctor.registry import probe

# A C file of three lines takes 0.1 s; a compiler that needs this long is stuck (on a licence server, say).
COMPILE_TIMEOUT_S = 15.0
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


@probe(runs_in="target", timeout_s=60)
def gather(request: Request) -> Compiler:
    """Trying the C compiler, Python's headers and Triton."""
    triton_version, triton_error = _triton()
    found = _c_compiler(os.environ)
    include = python_include()
    plain = with_python = None
    if found is not None and found.path is not None:
        plain = _compile(found.command, _PLAIN, [])
        # Without a working compiler nothing can be said of the headers.
        with_python = _compile(found.command, _WITH_PYTHON, [include]) if plain == "" else None
    return Compiler(
        triton_installed=triton_version is not None or triton_error is None,
        triton_version=triton_version,
        triton_import_error=triton_error,
        c_compiler=found.path or found.command if found else None,
        c_compiler_found=found is not None and found.path is not None,
        c_compiler_variable=found.variable if found else None,
        c_compiler_version=_first_line_of_version(found.command) if found and found.path else None,
        c_compiler_works=None if plain is None else plain == "",
        c_compiler_error=plain or None,
        python_include=include,
        python_header_found=Path(include, "Python.h").is_file(),
        python_header_works=None if with_python is None else with_python == "",
        python_header_error=with_python or None,
        caches=compile_caches({**os.environ, **_as_the_user_had_them(request)}),
        switches={s.variable: os.environ[s.variable] for s in SWITCHES if s.variable in os.environ},
    )


def _as_the_user_had_them(request: Request) -> dict[str, str]:
    # An empty text stands for "not set": what the doctor put there must not be taken for the user's.
    return {name: value or "" for name, value in request.replaced_environment.items()}


def _triton() -> tuple[str | None, str | None]:
    """Triton's version, if it is installed, and why it cannot be imported."""
    found = None
    for name in TRITON_DISTRIBUTIONS:
        try:
            found = version(name)
            break
        except PackageNotFoundError:
            continue
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


def _compile(compiler: str, source: str, include: list[str]) -> str:
    """Build a shared library from `source` as Triton does; return what went wrong, "" if nothing did."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="fp8doctor-") as folder:
        file, library = Path(folder, "probe.c"), Path(folder, "probe.so")
        file.write_text(source)
        command = [compiler, str(file), "-O3", "-shared", "-fPIC", "-o", str(library), *(f"-I{i}" for i in include)]
        try:
            run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=COMPILE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return f"no end after {COMPILE_TIMEOUT_S:.0f} s"
        except OSError as error:
            return str(error)
        if run.returncode == 0 and library.exists():
            return ""
        said = (run.stderr or run.stdout).replace(folder, "").strip()
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
            triton or str(Path(home or Path("~").expanduser(), ".triton", "cache")),
        ),
    )


def _default_inductor_cache() -> str:
    import getpass

    try:
        user = getpass.getuser()
    except (KeyError, ModuleNotFoundError, OSError):
        user = f"uid_{os.getuid()}"
    import tempfile

    return str(Path(tempfile.gettempdir(), f"torchinductor_{user}"))


def _cache(used_by: str, variable: str | None, path: str) -> CompileCache:
    """Look at a cache folder without creating it: what matters is the nearest folder above that exists."""
    folder = Path(path).absolute()
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    problem = _why_not_writable(folder)
    executable = None
    try:
        flags = os.statvfs(folder).f_flag
        executable = not flags & os.ST_NOEXEC
    except OSError as error:
        problem = problem or str(error)
    if executable is False:
        problem = problem or f"{folder} is on a file system mounted noexec"
    return CompileCache(
        used_by=used_by,
        variable=variable,
        path=path,
        writable=_why_not_writable(folder) is None,
        executable=executable,
        problem=problem,
    )


def _why_not_writable(folder: Path) -> str | None:
    if not folder.is_dir():
        return f"{folder} is no folder"
    if not os.access(folder, os.W_OK | os.X_OK):
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        return f"{folder} is on a file system mounted read-only" if read_only else f"{folder} may not be written"
    # The blocks that a user who is not root may take.
    if os.statvfs(folder).f_bavail == 0:
        return f"the file system of {folder} is full"
    return None
