"""What is a fault, and what must be said of it?"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import venv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests import stub_nvml
from tests.broken_packages import BrokenSite

Room = Literal["packages", "torch", "compiler", "gpu", "machine"]

# The recorded box in which a fault is judged where it does not bring a box of its own: an H200 with nothing wrong.
HEALTHY = "h200"
# What a person may have lying in the environment; none of it may stand in anything that the doctor prints.
SECRETS = {
    "HF_TOKEN": "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",
    "AWS_SECRET_ACCESS_KEY": "wardWARD/wardWARD+wardWARDwardWARDwardWA",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
}


class CannotPlantError(Exception):
    """This machine lacks what a fault is built with."""


@dataclass(frozen=True)
class Fault:
    """One broken box.

    Attributes:
        name: what it is called, unique in the ward.
        room: which part of the box is broken.
        planted: what is broken, for the table.
        first: the name of the finding that must come first; None where nothing may be said, because nothing is
            wrong for FP8.
        fix: a regular expression that an action of that finding must match; "" where `first` is None.
        plant: makes a healthy ground sick.
        seen_by: the probes that may see it. All others must end as on the healthy ground.
        bed: the recorded box whose other facts these are judged with, None to judge what the command itself said.
        quiet_probes: probes of the bed left out, as their facts are about another GPU than the planted one.
        needs_torch: whether the real torch is examined.
        budget_s: the budget that the command is given.
        cannot: a regular expression of the one line that is said where no report can be had; "" where one must be.
    """

    name: str
    room: Room
    planted: str
    first: str | None
    fix: str
    plant: Callable[[Ground], None]
    seen_by: tuple[str, ...]
    bed: str | None = HEALTHY
    quiet_probes: tuple[str, ...] = ()
    needs_torch: bool = False
    budget_s: int = 15
    cannot: str = ""

    def __str__(self) -> str:
        return self.name


@dataclass
class Ground:
    """A box of its own for one fault: a virtual environment to examine, a home, a temporary folder, an environment."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    # Further options of the command.
    arguments: list[str] = field(default_factory=list)
    # Lines of shell that run before the command, in the process that becomes it: limits, mounts, closed descriptors.
    before: list[str] = field(default_factory=list)
    # Whether those lines mount something: the command then has a mount namespace of its own.
    mounts: bool = False
    # Whether standard output cannot be written to, so that the report is read from the file of -o.
    no_output: bool = False

    def __post_init__(self) -> None:
        for name in ("home", "tmp"):
            (self.folder / name).mkdir(parents=True)
        venv.create(self.folder / "examined", symlinks=True, with_pip=False)
        keep = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
        self.environment = {
            **{name: os.environ[name] for name in keep if name in os.environ},
            **SECRETS,
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            **self.environment,
        }
        self.site = BrokenSite(self.site_packages)

    @property
    def python(self) -> str:
        """The interpreter that is examined."""
        return str(self.folder / "examined" / "bin" / "python")

    @property
    def site_packages(self) -> Path:
        """Where the examined interpreter's packages lie."""
        names = {"base": str(self.folder / "examined"), "platbase": str(self.folder / "examined")}
        return Path(sysconfig.get_path("purelib", "posix_prefix", names))

    def real_torch(self) -> None:
        """Let the examined interpreter import what the tests' own one can: the CPU build of torch."""
        (self.site_packages / "own.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def stated_torch(self, version: str = "2.11.0+cu130", cuda: str | None = "13.0", source: str = "") -> None:
        """Put a module named torch there that states a version, and has neither operators nor a GPU."""
        self.site.metadata("torch", version)
        self.site.module("torch", STATED_TORCH.format(version=version, cuda=cuda) + source)
        for part in ("nn", "nn.functional", "utils", "backends.cudnn"):
            self.site.module(f"torch.{part}")

    def stated_triton(self, version: str = "3.6.0") -> None:
        """Put a module named triton there that states a version."""
        self.site.metadata("triton", version)
        self.site.module("triton", f"__version__ = {version!r}\n")

    def played_gpu(self, **otherwise: object) -> None:
        """Let NVML show an idle H200, or what is changed of it: {"cc": "12.0"}; None is not supported."""
        folder = self.folder / "nvml"
        folder.mkdir()
        script = {**stub_nvml.H200, **otherwise}
        stub_nvml.build(folder)
        others = self.environment.get("LD_LIBRARY_PATH")
        self.environment["LD_LIBRARY_PATH"] = f"{folder}{os.pathsep}{others}" if others else str(folder)
        played = (f"{key}={value}" for key, value in script.items() if value is not None)
        self.environment["STUB_NVML"] = ";".join(played)

    def first_in_path(self, folder: Path) -> None:
        """Put a folder before all others in PATH."""
        self.environment["PATH"] = f"{folder}{os.pathsep}{self.environment['PATH']}"


STATED_TORCH = """
from types import SimpleNamespace

__version__ = "{version}"
version = SimpleNamespace(cuda="{cuda}" if "{cuda}" != "None" else None, hip=None, xpu=None, git_version="0" * 40)
cuda = SimpleNamespace(
    is_available=lambda: False, device_count=lambda: 0, get_arch_list=lambda: [], is_initialized=lambda: False
)
ops = SimpleNamespace(loaded_libraries=set())
bfloat16 = float32 = float16 = float8_e4m3fn = float8_e5m2 = None
"""


def has_compiler() -> bool:
    """Whether a C compiler is here, with which most faults are built."""
    return shutil.which(os.environ.get("CC", "cc")) is not None


def has_real_torch() -> bool:
    """Whether the tests' own Python has torch."""
    import importlib.util

    return importlib.util.find_spec("torch") is not None


def may_mount() -> bool:
    """Whether this user may have a mount namespace of his own (root in a container that allows it)."""
    import subprocess

    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
