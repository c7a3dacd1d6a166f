"""Packages that are really broken, built in a test, and a probe run on them as the doctor would run it.

    site = BrokenSite(tmp_path)
    site.metadata("flash-attn", "2.8.3")
    site.module("flash_attn", "import flash_attn_2_cuda\n__version__ = '2.8.3'\n")
    site.extension("flash_attn_2_cuda", "undefined-symbol")
    run = site.probe(flash_attention.gather)

Nothing here needs Python.h: each fault strikes while the dynamic loader maps the library, before Python looks into it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from fp8doctor.model import Facts, ProbeRun, Request
from fp8doctor.probing.children import importable_here, run_probe
from fp8doctor.specs import Probe
from fp8doctor.store import decode_facts

Fault = Literal["undefined-symbol", "segfault", "abort", "hang", "exit", "garbage", "system-exit", "loads"]

# A name that the C++ ABI of another torch would have (c10::Error's constructor with the old std::string).
MISSING_SYMBOL = "_ZN3c105ErrorC2ENS_14SourceLocationESs"

_STRIKE = "__attribute__((constructor)) static void strike(void) { %s }\n"
_C_FAULTS: Mapping[str, str] = {
    # A reference in data is resolved when the library is loaded, lazy binding or not.
    "undefined-symbol": f"extern int {MISSING_SYMBOL}; int *needed = &{MISSING_SYMBOL};\n",
    "segfault": "#include <signal.h>\n" + _STRIKE % "raise(SIGSEGV);",
    "abort": "#include <stdlib.h>\n" + _STRIKE % "abort();",
    "hang": "#include <unistd.h>\n" + _STRIKE % "for (;;) sleep(1);",
    "exit": "#include <unistd.h>\n" + _STRIKE % "_exit(0);",
    # For libraries that are opened and not imported (torch.ops.load_library).
    "loads": "int harmless;\n",
}
# Faults of Python code. Garbage goes to the descriptors themselves, is no UTF-8, and the import goes on after it.
_PYTHON_FAULTS: Mapping[str, str] = {
    "garbage": "import os\nfor _fd in (1, 2):\n    os.write(_fd, b'\\xff\\x00{\"facts\": 1}\\n' * 2000)\n",
    "system-exit": "raise SystemExit('this package ends the interpreter')\n",
}


class BrokenSite:
    """A folder of packages that stands first in the examined interpreter's PYTHONPATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def metadata(self, distribution: str, version: str, *, requires: tuple[str, ...] = ()) -> None:
        """Make `importlib.metadata` find `distribution`, as pip would have installed it from a wheel."""
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        lines = ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}"]
        lines += [f"Requires-Dist: {name}" for name in requires]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        (info / "WHEEL").write_text("Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        (info / "RECORD").write_text("".join(f"{info.name}/{name},,\n" for name in ("METADATA", "WHEEL", "RECORD")))

    def module(self, dotted: str, source: str = "", *, fault: Fault | None = None) -> Path:
        """Write the module `dotted`, a package if others are put under it; a fault of Python strikes before `source`.

        Parents that are missing are written empty. A module that is written twice is the second text.
        """
        source = _PYTHON_FAULTS.get(fault or "", "") + source
        folder = self.folder.joinpath(*dotted.split("."))
        for parent in (*reversed(folder.relative_to(self.folder).parents), folder.relative_to(self.folder)):
            package = self.folder / parent
            package.mkdir(parents=True, exist_ok=True)
            if package != self.folder and not (package / "__init__.py").exists():
                (package / "__init__.py").write_text("")
        (folder / "__init__.py").write_text(source)
        return folder

    def extension(self, dotted: str, fault: Fault) -> Path:
        """Build the extension module `dotted`, whose import meets `fault`."""
        folder, _, name = dotted.rpartition(".")
        suffix = str(sysconfig.get_config_var("EXT_SUFFIX"))
        return self.library(str(Path(*folder.split(".")) / (name + suffix)) if folder else name + suffix, fault)

    def library(self, path: str, fault: Fault) -> Path:
        """Build the shared library `path` (inside the site), whose loading meets `fault`."""
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            pytest.skip("there is no C compiler to build a broken extension with")
        built = self.folder / path
        built.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(built)],
            input=_C_FAULTS[fault],
            text=True,
            check=True,
            capture_output=True,
            timeout=60,
        )
        return built

    def break_import(self, dotted: str, fault: Fault, source: str = "") -> None:
        """Make importing the package `dotted` meet `fault`, of C or of Python; `source` is what follows if it can."""
        if fault in _PYTHON_FAULTS:
            self.module(dotted, source, fault=fault)
        else:
            self.module(dotted, f"from {dotted}._native import *\n" + source)
            self.extension(f"{dotted}._native", fault)

    def probe(
        self,
        gather: Callable[..., Any],
        *,
        mode: Literal["quick", "default", "thorough"] = "default",
        deadline_s: float = 60.0,
        needs: Mapping[str, ProbeRun[Facts]] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Any:
        """Run the probe `gather` in a child that sees this site; return its ProbeRun (Any: tests know the facts)."""
        spec: Probe = gather.__fp8doctor__  # type: ignore[attr-defined]
        return run_probe(
            spec,
            Request(mode=mode, seconds_left=deadline_s),
            interpreter=sys.executable,
            importable=importable_here({}),
            runs=needs or {},
            environment={**os.environ, "PYTHONPATH": str(self.folder), **(environment or {})},
            deadline_s=deadline_s,
            decode=decode_facts,
            cancel=threading.Event(),
        )
