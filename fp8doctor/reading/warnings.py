"""What do torch's own warnings say of its build, above a report or in a log?"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fp8doctor.reading.saying import Found, gpu

# torch/cuda/__init__.py, incompatible_device_warn and _check_capability, in the words of several releases.
_HAS = re.compile(
    r"(?:current PyTorch install(?:ation)? )?supports (?:the following )?CUDA capabilities:? "
    r"((?:(?:sm|compute)_\d{2,3}[af]?[ ,.]{0,3}){1,40})"
)
_LACKS = re.compile(r"([A-Z][\w .()\-/]{2,80}?) with CUDA capability sm_(\d{2,3})[af]? is not compatible")


def read(lines: Sequence[str]) -> Found | None:
    """Read the warning that torch has no code for a GPU, None if it is not there."""
    found = Found("torch-warning", 0)
    for place, line in enumerate(lines):
        if "CUDA capabilit" not in line:
            continue
        if match := _HAS.search(line):
            archs = re.findall(r"(?:sm|compute)_\d{2,3}[af]?", match[1])
            if not found.get("torch_build", "arch_list"):
                found.say("torch_build", arch_list=archs)
                found.line = place
        if (match := _LACKS.search(line)) and not found.get("gpus", "gpus"):
            capability = f"{match[2][:-1]}.{match[2][-1]}"
            name = re.sub(r"^.*(?:UserWarning|WARNING): ?", "", match[1]).strip()
            if record := gpu(None, name, compute_capability=capability):
                found.say("gpus", gpus=[record], source="torch's warning")
                found.first_gpu_only = True
    return found if found.records else None
