"""Broken packages: FlashAttention, Transformer Engine and torchao, each in every way that an installation breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.ward.fault import Fault, Ground

Plant = Callable[[Ground, "Package"], None]


@dataclass(frozen=True)
class Package:
    """One of the examined packages, and what the doctor calls its faults."""

    distribution: str
    version: str
    module: str
    # The module whose import loads the compiled part.
    importing: str
    probe: str
    abi: str
    fails: str
    # What is said where loading the compiled part ends the process.
    ends: str
    # What an action must say where it is broken as a whole.
    fix: str
    # Distributions that are installed with it.
    parts: tuple[str, ...] = ()
    # What an importable copy holds: modules and their source.
    whole: tuple[tuple[str, str], ...] = ()

    def install(self, ground: Ground, source: str = "") -> None:
        """Its metadata and its code; `source` is the module that loads the compiled part."""
        ground.stated_torch()
        for name in (self.distribution, *self.parts):
            ground.site.metadata(name, self.version)
        ground.site.module(self.module, f"__version__ = {self.version!r}\n")
        ground.site.module(self.importing, source)


FLASH = Package(
    "flash-attn", "2.8.3", "flash_attn", "flash_attn", "flash_attention",
    "abi-mismatch-flash-attn", "flash-attention-fails", "flash-attention-fails", "uninstall|--no-build-isolation",
    whole=(("flash_attn", "def flash_attn_func(): ...\n"),),
)  # fmt: skip
TE = Package(
    "transformer-engine", "2.20.2", "transformer_engine", "transformer_engine.pytorch", "transformer_engine",
    "abi-mismatch-te", "te-import-fails", "te-import-fails", r"\[pytorch\]|CUDA_HOME",
    ("transformer-engine-cu13", "transformer-engine-torch"),
)  # fmt: skip
TORCHAO = Package(
    "torchao", "0.17.0", "torchao", "torchao", "torchao",
    "torchao-import-fails", "torchao-import-fails", "torchao-import-fails", "torchao==0.17.0",
    whole=(("torchao.quantization", "quantize_ = None\n"),),
)  # fmt: skip


def _extension(kind: str) -> Plant:
    def plant(ground: Ground, package: Package) -> None:
        package.install(ground)
        ground.site.module(package.importing, f"from {package.importing}._native import *\n")
        ground.site.extension(f"{package.importing}._native", kind)  # type: ignore[arg-type]

    return plant


def _code(source: str) -> Plant:
    return lambda ground, package: package.install(ground, source)


def _namespace(ground: Ground, package: Package) -> None:
    ground.stated_torch()
    (ground.site_packages / package.module / "__pycache__").mkdir(parents=True)


def _metadata_alone(ground: Ground, package: Package) -> None:
    ground.stated_torch()
    for name in (package.distribution, *package.parts):
        ground.site.metadata(name, package.version)


def _code_alone(ground: Ground, package: Package) -> None:
    ground.stated_torch()
    ground.site.module(package.importing, "raise ImportError('half of this package is not here')")


def _two_versions(ground: Ground, package: Package) -> None:
    package.install(ground)
    for module, source in package.whole:
        ground.site.module(module, source)
    ground.site.metadata(package.distribution, "0.1.0")


def _broken_record(ground: Ground, package: Package) -> None:
    package.install(ground, "raise ImportError('the files of two versions lie here')")
    for record in ground.site_packages.glob("*.dist-info/RECORD"):
        record.write_bytes(b"\xff\xfe,,\n../../../../../../etc/passwd,sha256=,\n\x00")


def _version_that_does_not_parse(ground: Ground, package: Package) -> None:
    ground.stated_torch()
    for name in (package.distribution, *package.parts):
        ground.site.metadata(name, "2.x-final(really)")
    ground.site.module(package.importing, "raise ImportError('built from somebody\\'s branch')")


SPAWN = """
import subprocess, sys
for new_session in (False, True):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=new_session)
raise ImportError("its helpers run, and it does not")
"""
PRINT = """
import os
for descriptor in (1, 2):
    os.write(descriptor, b'\\xff\\x00{"facts": 1}\\n' * 6000)
raise ImportError("after all that")
"""
SECRETS_IN_THE_ERROR = """
import os
raise ImportError("cannot reach the mirror with " + " ".join(f"{k}={v}" for k, v in os.environ.items()))
"""
# What is planted, its words for the table, how, and which of the package's names is said: of each package.
WAYS: tuple[tuple[str, str, Plant, str], ...] = (
    ("undefined-symbol", "its extension lacks a symbol of torch", _extension("undefined-symbol"), "abi"),
    ("segfault", "loading its extension is a segmentation fault", _extension("segfault"), "ends"),
    ("abort", "loading its extension aborts", _extension("abort"), "ends"),
    ("hang", "loading its extension never ends", _extension("hang"), "ends"),
    ("silent-exit", "loading its extension ends the process with status 0", _extension("exit"), "ends"),
    ("system-exit", "it raises SystemExit", _code("raise SystemExit('this package ends the interpreter')"), "fails"),
    ("missing-library", "it needs a shared library that is not there",
     _code("import ctypes; ctypes.CDLL('libnvshmem_host.so.3')"), "fails"),
    ("children", "it starts processes that never end, and fails", _code(SPAWN), "fails"),
    ("slow", "importing it takes longer than there is time", _code("import time; time.sleep(30)"), "ends"),
    ("secrets", "its error lists the whole environment", _code(SECRETS_IN_THE_ERROR), "fails"),
    ("prints", "it prints what is no text, and does not import", _code(PRINT), "fails"),
    ("metadata-alone", "its metadata is there and its code is not", _metadata_alone, "fails"),
    ("code-alone", "half of its code is there and no metadata", _code_alone, "fails"),
    ("broken-record", "its RECORD is no text, and it does not import", _broken_record, "fails"),
    ("odd-version", "its version is none, and it does not import", _version_that_does_not_parse, "fails"),
)  # fmt: skip


def faults() -> Iterator[Fault]:
    """The faults of this room."""
    for package in (FLASH, TE, TORCHAO):
        for name, words, plant, said in WAYS:
            yield _fault(package, name, words, plant, getattr(package, said), package.fix)
        yield _fault(
            package, "two-versions", "two versions are recorded in one folder", _two_versions,
            "distribution-twice", "uninstall", also=("libraries",),
        )  # fmt: skip
    yield _fault(
        FLASH, "namespace", "an uninstallation left its empty folder", _namespace, "flash-attn-name-empty", "Delete"
    )
    for package in (TE, TORCHAO):
        yield _fault(
            package, "namespace", "an uninstallation left its empty folder", _namespace,
            "left-over-folder", "Delete", also=("libraries",),
        )  # fmt: skip


def _fault(
    package: Package, name: str, words: str, plant: Plant, first: str, fix: str, also: tuple[str, ...] = ()
) -> Fault:
    return Fault(
        name=f"{package.distribution}-{name}",
        room="packages",
        planted=f"{package.module}: {words}",
        first=first,
        fix=fix,
        plant=lambda ground: plant(ground, package),
        seen_by=(package.probe, *also),
        budget_s=8 if name in ("hang", "slow") else 15,
    )
