"""What torch.compile needs, broken: Triton, the C compiler, Python's headers, the caches, and switches left on."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.broken_packages import Fault as Strike
from tests.ward.fault import Fault, Ground

Plant = Callable[[Ground], None]

# Shell: make the folder a file system of its own, of this size, and fill it.
FULL = "mkdir -p {folder} && mount -t tmpfs -o size=64k none {folder} && (cat /dev/zero > {folder}/all) 2>/dev/null"
OUT_OF_FILES = "mkdir -p {folder} && mount -t tmpfs -o nr_inodes=2 none {folder} && touch {folder}/one"
READ_ONLY = "mkdir -p {folder} && mount -t tmpfs -o ro none {folder}"
NO_EXEC = "mkdir -p {folder} && mount -t tmpfs -o noexec none {folder}"

# A compiler that has none of the C library's headers.
NO_C_LIBRARY = """
for one; do
    case $one in *.c) echo "$one:1:10: fatal error: stdio.h: No such file or directory" >&2; exit 1;; esac
done
echo 'gcc 13'
"""


def faults() -> Iterator[Fault]:
    """The faults of this room."""
    yield from _triton()
    yield from _c_compilers()
    yield from _headers()
    yield from _caches()
    yield from _switches()


def _triton() -> Iterator[Fault]:
    yield _fault("triton-missing", "Triton is not installed", "triton-missing", "requires", lambda ground: None)
    strikes: tuple[tuple[Strike, str], ...] = (
        ("undefined-symbol", "its library lacks a symbol"),
        ("segfault", "its import is a segmentation fault"),
        ("exit", "its import ends the process with status 0"),
        ("hang", "its import never ends"),
    )
    for kind, words in strikes:
        yield _fault(
            f"triton-{kind}", f"Triton: {words}", "triton-missing", "requires", _broken_triton(kind),
            budget_s=8 if kind == "hang" else 15,
        )  # fmt: skip


def _c_compilers() -> Iterator[Fault]:
    yield _fault(
        "cc-missing", "PATH has no C compiler", "c-compiler-missing", "apt-get install",
        lambda ground: ground.before.append("PATH=/nowhere"),
    )  # fmt: skip
    yield _fault(
        "cc-nowhere", "CC names a file that is not there", "c-compiler-missing", "unset CC",
        _environment(CC="/opt/compiler/bin/gcc"),
    )  # fmt: skip
    yield _fault(
        "cc-with-options", "CC names a compiler with an option, which Triton takes for its name",
        "c-compiler-missing", "unset CC", _environment(CC="gcc -m64"),
    )  # fmt: skip
    yield _fault(
        "cc-fails", "the C compiler always fails", "c-compiler-missing", "reinstall",
        _gcc("echo 'cc1: error: cannot execute: No such file or directory' >&2; exit 1"),
    )  # fmt: skip
    yield _fault(
        "cc-no-c-library", "the C compiler has no headers of the C library", "c-compiler-missing", "libc6-dev",
        _gcc(NO_C_LIBRARY),
    )  # fmt: skip
    yield _fault(
        "cc-does-nothing", "the C compiler writes nothing and says success", "c-compiler-missing", "reinstall",
        _gcc("exit 0"),
    )  # fmt: skip
    yield _fault(
        "cc-hangs", "the C compiler waits for a licence, for ever", "c-compiler-missing", "reinstall",
        _gcc("exec sleep 300"), budget_s=8,
    )  # fmt: skip
    yield _fault(
        "cc-not-executable", "the C compiler may not be run", "c-compiler-missing", "unset CC", _not_executable
    )


def _headers() -> Iterator[Fault]:
    yield _fault(
        "headers-missing", "Python.h is not there", "python-headers-missing", r"python3\.\d+-dev",
        _mounted("mount -t tmpfs none {folder}", sysconfig.get_path("include")),
    )  # fmt: skip
    half = "mount -t tmpfs none {folder} && echo '#include \"pyconfig.h\"' > {folder}/Python.h"
    yield _fault(
        "headers-half", "Python.h includes a file that is not there", "python-headers-missing", r"python3\.\d+-dev",
        _mounted(half, sysconfig.get_path("include")),
    )  # fmt: skip


def _caches() -> Iterator[Fault]:
    ways = (
        ("full", "is full", FULL),
        ("out-of-files", "can hold no more files", OUT_OF_FILES),
        ("read-only", "is mounted read-only", READ_ONLY),
        ("noexec", "is mounted noexec", NO_EXEC),
    )
    for name, words, how in ways:
        yield _fault(
            f"cache-{name}", f"the folder of TORCHINDUCTOR_CACHE_DIR {words}", "compile-cache-not-writable",
            "TORCHINDUCTOR_CACHE_DIR", _cache(how, "TORCHINDUCTOR_CACHE_DIR"),
        )  # fmt: skip
    yield _fault(
        "triton-cache-read-only", "the folder of TRITON_CACHE_DIR is mounted read-only", "compile-cache-not-writable",
        "TRITON_CACHE_DIR", _cache(READ_ONLY, "TRITON_CACHE_DIR"),
    )  # fmt: skip
    yield _fault(
        "cache-is-a-file", "TORCHINDUCTOR_CACHE_DIR names a file", "compile-cache-not-writable",
        "TORCHINDUCTOR_CACHE_DIR", _environment(TORCHINDUCTOR_CACHE_DIR="/etc/passwd"),
    )  # fmt: skip
    yield _fault(
        "cache-below-a-file", "TORCHINDUCTOR_CACHE_DIR is to lie in a file", "compile-cache-not-writable",
        "TORCHINDUCTOR_CACHE_DIR", _environment(TORCHINDUCTOR_CACHE_DIR="/etc/passwd/cache"),
    )  # fmt: skip
    yield _fault(
        "tmp-read-only", "the folder for temporary files, and with it the default cache, is mounted read-only",
        "compile-cache-not-writable", "TORCHINDUCTOR_CACHE_DIR", _read_only_tmp,
    )  # fmt: skip


def _switches() -> Iterator[Fault]:
    acts = (
        ("TORCH_COMPILE_DISABLE", "1", "compile-switched-off"),
        ("TORCHDYNAMO_DISABLE", "1", "compile-switched-off"),
        ("TORCHDYNAMO_SUPPRESS_ERRORS", "0", "compile-errors-hidden"),
        ("TRITON_INTERPRET", "1", "compiled-kernels-slowed"),
        ("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1", "compile-caches-off"),
    )
    for variable, value, first in acts:
        yield _fault(
            f"{variable}={value}", f"{variable}={value}", first, f"unset {variable}", _environment(**{variable: value})
        )
    yield _fault("TORCH_COMPILE_DISABLE=0", "TORCH_COMPILE_DISABLE=0, which does nothing", None, "",
                 _environment(TORCH_COMPILE_DISABLE="0"))  # fmt: skip


def _fault(name: str, words: str, first: str | None, fix: str, plant: Plant, budget_s: int = 15) -> Fault:
    """A fault that the H200's own compilation did not meet: that one is left out of the bed."""

    def planted(ground: Ground) -> None:
        if not name.startswith("triton-") or "cache" in name:
            ground.stated_triton()
        plant(ground)

    return Fault(
        name=f"compiler-{name}", room="compiler", planted=words, first=first, fix=fix, plant=planted,
        seen_by=("compiler",), quiet_probes=("compiled_function",), budget_s=budget_s,
    )  # fmt: skip


def _broken_triton(kind: Strike) -> Plant:
    def plant(ground: Ground) -> None:
        ground.site.metadata("triton", "3.6.0")
        ground.site.break_import("triton", kind)

    return plant


def _environment(**variables: str) -> Plant:
    return lambda ground: ground.environment.update(variables)


def _gcc(script: str) -> Plant:
    """A program named gcc that stands first in PATH."""

    def plant(ground: Ground) -> None:
        _program(ground.folder / "bin" / "gcc", script).chmod(0o755)
        ground.first_in_path(ground.folder / "bin")

    return plant


def _not_executable(ground: Ground) -> None:
    ground.environment["CC"] = str(_program(ground.folder / "bin" / "gcc", "exit 0"))


def _program(file: Path, script: str) -> Path:
    file.parent.mkdir()
    file.write_text(f"#!/bin/sh\n{script}\n")
    return file


def _mounted(how: str, folder: str) -> Plant:
    def plant(ground: Ground) -> None:
        ground.before.append(how.format(folder=folder))
        ground.mounts = True

    return plant


def _cache(how: str, variable: str) -> Plant:
    def plant(ground: Ground) -> None:
        folder = str(ground.folder / "cache")
        ground.environment[variable] = folder
        _mounted(how, folder)(ground)

    return plant


def _read_only_tmp(ground: Ground) -> None:
    for folder in ("/tmp", "/var/tmp", "/usr/tmp", ground.environment["TMPDIR"]):
        ground.before.append(f"! test -d {folder} || mount --bind -o ro {folder} {folder}")
    ground.mounts = True
