"""Writes down what the built-in workloads call, traced from their true classes; needs torch and diffusers.

python -m tests.refresh_workloads
"""

from __future__ import annotations

import json

from fp8doctor.checks.workload.catalogue import BUILT_IN
from fp8doctor.checks.workload.trace import trace
from fp8doctor.measuring.workloads import TRACED
from fp8doctor.plain import to_plain


def traced(name: str) -> str:
    """The file of a built-in workload."""
    return json.dumps(to_plain(trace(BUILT_IN[name])), indent=1) + "\n"


if __name__ == "__main__":
    TRACED.mkdir(exist_ok=True)
    for name in BUILT_IN:
        (TRACED / f"{name}.json").write_text(traced(name), encoding="utf-8")
        print(f"wrote {name}")
