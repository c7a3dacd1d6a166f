"""Machines that are short of something, or set up oddly: mostly nothing is wrong for FP8, and the doctor must work."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.conftest import PYENV
from tests.ward.fault import CannotPlantError, Fault, Ground

Plant = Callable[[Ground], None]

FULL = "mount -t tmpfs -o size=64k none {folder} && (cat /dev/zero > {folder}/all) 2>/dev/null"
CACHE = "compile-cache-not-writable"
ONE_CPU = "taskset -cp $(taskset -cp $$ | sed 's/.*: //; s/[-,].*//') $$ >/dev/null"


def faults() -> Iterator[Fault]:
    """The faults of this room."""
    yield from _limits()
    yield from _disks()
    yield from _homes()
    yield from _terminals()
    yield from _descriptors()
    yield from _interpreters()
    yield from _startup()


def _limits() -> Iterator[Fault]:
    yield _fault("half-a-core", "the cgroup allows half a CPU core", _half_a_core, "cpu-quota-low", "CPU limit")
    yield _fault("one-core", "the process may run on one CPU", _shell(ONE_CPU), "cpu-quota-low", "CPU set")
    yield _fault(
        "small-shm", "a container has 64 MiB of shared memory", _small_shm, "shared-memory-small", "--shm-size"
    )
    yield _fault("no-proc", "/proc is empty", _no_proc)
    for files in (16, 32):
        yield _fault(f"{files}-files", f"{files} files may be open", _shell(f"ulimit -n {files}"), cannot=r"ulimit -n")
    for limit, words in (
        ("S -n 16", "16 files may be open until the limit is raised"), ("v 1048576", "1 GiB of address space"),
        ("s 512", "half a MiB of stack"),
    ):  # fmt: skip
        yield _fault(f"ulimit-{limit.replace(' ', '-')}", words, _shell(f"ulimit -{limit}"))
    yield _fault("sigchld-ignored", "the launcher ignores SIGCHLD", _shell("trap '' CHLD"))


def _disks() -> Iterator[Fault]:
    yield _fault(
        "disk-full", "the disk of the home and of temporary files is full",
        _mounted(FULL.format(folder="home"), FULL.format(folder="tmp")), CACHE, "TRITON_CACHE_DIR",
    )  # fmt: skip
    yield _fault(
        "home-read-only", "the home is mounted read-only", _mounted("mount -t tmpfs -o ro none home"), CACHE,
        "TRITON_CACHE_DIR",
    )  # fmt: skip
    yield _fault("folder-gone", "the working directory was removed", _shell("mkdir gone && cd gone && rmdir ../gone"))
    yield _fault("odd-tmp", "the folder for temporary files has an odd name", _odd_tmp)


def _homes() -> Iterator[Fault]:
    yield _fault("home-nowhere", "HOME leads nowhere", _environment(HOME="/proc/nowhere"), CACHE, "TRITON_CACHE_DIR")
    yield _fault("home-is-a-file", "HOME is a file", _environment(HOME="/etc/passwd"), CACHE, "TRITON_CACHE_DIR")
    yield _fault(
        "nobody", "HOME is not set, and the user has no entry in /etc/passwd",
        _mounted("mount --bind /dev/null /etc/passwd", "unset HOME"),
    )  # fmt: skip


def _terminals() -> Iterator[Fault]:
    """Here the report is also shown as text, on standard output."""
    for name, words, variables in (
        ("lang-unset", "no locale is set", {"LANG": None, "LC_ALL": None}),
        ("locale-c", "the locale is C, and Python's UTF-8 mode is off", {"LC_ALL": "C", "PYTHONUTF8": "0",
                                                                         "PYTHONCOERCECLOCALE": "0"}),
        ("locale-unknown", "the locale is not installed", {"LC_ALL": "xx_XX.UTF-8"}),
        ("ascii", "Python writes ASCII alone", {"PYTHONIOENCODING": "ascii"}),
        ("40-columns", "the terminal has 40 columns", {"COLUMNS": "40", "FORCE_COLOR": "1", "TERM": "xterm"}),
        ("1-column", "the terminal has one column", {"COLUMNS": "1", "FORCE_COLOR": "1", "TERM": "xterm"}),
        ("no-columns", "the terminal says that it has none, of a kind that nobody knows",
         {"COLUMNS": "0", "LINES": "many", "TERM": "no-such-one"}),
    ):  # fmt: skip
        yield _fault(name, words, _shown(_environment(**variables)))


def _descriptors() -> Iterator[Fault]:
    yield _fault("stdout-closed", "standard output is closed", _shown(_shell("exec >&-")))
    yield _fault("stderr-closed", "standard error is closed", _shell("exec 2>&-"))
    yield _fault("all-closed", "no standard descriptor is open", _shown(_shell("exec <&- >&- 2>&-")))
    yield _fault(
        "stdout-full", "standard output takes nothing", _shell("exec >/dev/full"), cannot="No space left on device"
    )
    yield _fault("settings-garbage", "the settings of this folder are no TOML", _no_toml, cannot=r"fp8doctor\.toml")


def _interpreters() -> Iterator[Fault]:
    for variables in (
        {"PYTHONPATH": "/nowhere::/etc/passwd"}, {"PYTHONWARNINGS": "error"}, {"CUDA_HOME": "\udcff\udcfe"},
        {"PYTHONSAFEPATH": "1", "PYTHONSTARTUP": "/nowhere", "PYTHONDONTWRITEBYTECODE": "1"},
    ):  # fmt: skip
        said = " ".join(f"{name}={value}" for name, value in variables.items()).encode("ascii", "replace").decode()
        yield _fault(next(iter(variables)).lower(), said, _environment(**variables))
    yield _fault("no-docstrings", "PYTHONOPTIMIZE=2", _environment(PYTHONOPTIMIZE="2"), cannot="PYTHONOPTIMIZE")
    yield _fault("empty-path", "PATH is empty", _shell("PATH="), "c-compiler-missing", "gcc")
    for minor in (10, 13):
        yield _fault(
            f"python-3.{minor}", f"the doctor runs on another Python than the examined one, 3.{minor}",
            _other_python(f"python3.{minor}"),
        )  # fmt: skip


def _startup() -> Iterator[Fault]:
    raises = "raise RuntimeError('set up by somebody')\n"
    prints = "import os, sys\nprint('{\"facts\": 1}')\nos.write(1, b'\\xff\\x00')\nprint('hello', file=sys.stderr)\n"
    yield _fault("sitecustomize-raises", "the sitecustomize of the examined Python raises", _customized(raises))
    yield _fault("sitecustomize-prints", "the sitecustomize of the examined Python prints", _customized(prints))
    yield _fault("pth-raises", "a .pth file of the examined Python raises", _pth(b"import nothing_like_it\n"))
    for name, words, plant in (
        ("sitecustomize-exits", "its sitecustomize ends it", _customized("raise SystemExit(3)\n")),
        ("pth-exits", "a .pth file ends it", _pth(b"import sys; sys.exit(3)\n")),
    ):
        yield _fault(name, f"the examined Python never starts: {words}", plant, cannot="does not start")


def _fault(
    name: str, words: str, plant: Plant, first: str | None = None, fix: str = "", *, cannot: str = ""
) -> Fault:  # fmt: skip
    """A fault of the machine; Triton is there, so that the compile caches count."""

    def planted(ground: Ground) -> None:
        ground.stated_triton()
        plant(ground)

    return Fault(
        name=f"machine-{name}", room="machine", planted=words, first=first, fix=fix, plant=planted,
        seen_by=("machine", "compiler"), quiet_probes=("compiled_function",), cannot=cannot,
    )  # fmt: skip


def _shell(*lines: str) -> Plant:
    return lambda ground: ground.before.extend(lines)


def _mounted(*lines: str) -> Plant:
    def plant(ground: Ground) -> None:
        ground.before.extend(lines)
        ground.mounts = True

    return plant


def _shown(plant: Plant) -> Plant:
    def planted(ground: Ground) -> None:
        ground.no_output = True
        plant(ground)

    return planted


def _environment(**variables: str | None) -> Plant:
    def plant(ground: Ground) -> None:
        for name, value in variables.items():
            if value is None:
                ground.before.append(f"unset {name}")
            else:
                ground.environment[name] = value

    return plant


def _half_a_core(ground: Ground) -> None:
    folder = ground.folder / "cgroup"
    folder.mkdir()
    (folder / "cpu.max").write_text("50000 100000\n")
    (folder / "cpu.stat").write_text("usage_usec 1\nnr_periods 200\nnr_throttled 150\n")
    _mounted(f"mount --bind {folder} /sys/fs/cgroup")(ground)


def _small_shm(ground: Ground) -> None:
    ground.environment["container"] = "docker"
    _mounted("mount -t tmpfs -o size=64m none /dev/shm")(ground)


def _no_proc(ground: Ground) -> None:
    ground.stated_torch()
    _mounted("mount -t tmpfs -o ro none /proc")(ground)


def _odd_tmp(ground: Ground) -> None:
    folder = ground.folder / "t m p ✓ [bold] $HOME"
    folder.mkdir()
    ground.environment["TMPDIR"] = str(folder)


def _no_toml(ground: Ground) -> None:
    (ground.folder / "fp8doctor.toml").write_bytes(b"\xff ignore = [")


def _customized(source: str) -> Plant:
    return lambda ground: _write(ground.site_packages / "sitecustomize.py", source.encode())


def _pth(content: bytes) -> Plant:
    return lambda ground: _write(ground.site_packages / "first.pth", content)


def _write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def _other_python(name: str) -> Plant:
    def plant(ground: Ground) -> None:
        found = sorted(PYENV.glob(f"versions/{name.removeprefix('python')}.*/bin/python"))
        other = str(found[0]) if found else shutil.which(name)
        folder = ground.folder / "other"
        made = other and subprocess.run([other, "-m", "venv", "--without-pip", str(folder)], check=False).returncode
        if made != 0 or sys.version_info[:2] == tuple(map(int, name.removeprefix("python").split("."))):
            raise CannotPlantError(f"there is no {name} that could be examined by another")
        (folder / "lib" / name / "site-packages" / "triton.py").write_text("__version__ = '3.6.0'\n")
        ground.arguments += ["--python", str(folder)]

    return plant
