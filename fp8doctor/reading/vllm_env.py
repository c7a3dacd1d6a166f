"""What does vLLM's collect_env add to torch's: its own version, the topology, the environment variables?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fp8doctor.reading.saying import Found, stated, version
from fp8doctor.variables import kept

KEYS = frozenset(
    ("rocm version", "neuron sdk version", "vllm version", "vllm build flags", "cuda archs", "gpu topology")
)
_MARKS = ("vllm version", "vllm build flags", "neuron sdk version")
_VARIABLE = re.compile(r" {0,8}([A-Za-z_][A-Za-z0-9_]{1,80})=(.{0,2000})$")
# What the report lists by its prefix, so that one that is missing there is not set (vllm/collect_env.py).
_VISIBILITY = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
_OTHER_VISIBILITY = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def read(found: Found, values: Mapping[str, str], lines: Sequence[str]) -> None:
    """Take up what vLLM adds, if it wrote the report."""
    if not any(key in values for key in _MARKS):
        return
    found.format = "vllm-collect-env"
    # "0.6.0@<commit>", "0.9.1.dev132+g118ff9211 (git sha: ...)", "N/A (dev)".
    said = version((stated(values.get("vllm version")) or "").partition("@")[0])
    packages = found.get("libraries", "installed") or {}
    if said:
        found.say("libraries", installed={**packages, "vllm": said}, complete=False)
    variables = dict(_variables(lines))
    if variables:
        # Of a variable that stands there twice the last counts, as in a shell.
        found.say("machine", environment=kept(variables))
        seen = {name: variables[name] for name in (*_VISIBILITY, *_OTHER_VISIBILITY) if name in variables}
        found.say("gpus", visibility=seen)
        if "gpus" in found.records and "source" not in found.records["gpus"]:
            found.say("gpus", source="the variables in collect_env")


def _variables(lines: Sequence[str]) -> list[tuple[str, str]]:
    """The lines KEY=value behind the last key of the report; lscpu on Windows prints such lines before."""
    start = next(
        (place for place, line in enumerate(lines) if "vLLM Build Flags" in line or "CUDA Archs" in line), None
    )
    if start is None:
        return []
    found = [match for line in lines[start:] if "=" in line and (match := _VARIABLE.match(line))]
    return [(match[1], match[2].strip()) for match in found if match[1].isupper() or "_" in match[1]]
