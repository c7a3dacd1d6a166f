"""What facts does a public issue state? One record of a case, without its cause, as a document of facts.

The text takes the same door as a paste, and values are read by the readers' own helpers. What names several GPUs or a
range of versions is no fact of one box, and is left out.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any

import fp8doctor
from fp8doctor import api
from fp8doctor.judging.report import SCHEMA_VERSION
from fp8doctor.model import Messages
from fp8doctor.pasted import Reading
from fp8doctor.plain import to_plain
from fp8doctor.reading import environment, written
from fp8doctor.reading.merging import merge
from fp8doctor.reading.messages import known_lines
from fp8doctor.reading.saying import Found, Record, driver_version, normalised, say_torch, torch_version, version
from fp8doctor.reading.text import clean
from fp8doctor.store import FACTS_SCHEMA

# What is read of a case; its cause, its fix and what revealed it are none of it.
STATED = ("gpu", "cc", "env", "mode", "shapes", "symptom", "title")
DISTRIBUTIONS = {"te": "transformer-engine", "transformer_engine": "transformer-engine"}
# Keys of `env` that are no package.
_NO_PACKAGES = (
    "torch",
    "cuda",
    "rocm",
    "driver",
    "python",
    "os",
    "env",
    "container",
    "gcc",
    "release",
    "cudnn",
    "nccl",
)
_CAPABILITY = re.compile(r"(?<![\d.])\d{1,2}\.\d(?![\d.])|gfx[0-9a-f]{3,4}|(?<=sm_)\d{2,3}|(?<=sm)\d{2,3}")
_SM = re.compile(r"\bsm_?(\d{2,3})\b")
_SEVERAL = re.compile(r"[/,;&<>\u2264\u2265]|\+(?: |$)|\b(?:and|or|vs|others?|versus)\b")
_COUNTED = re.compile(r"(\d{1,2}) GPUs?$")
_REMARK = re.compile(r" ?\([^)]*\)")
# The versions of a list, in which a case was seen with each; a range or a comparison is none.
_LISTED = re.compile(r" ?[,/] ?")
_VARIABLE = re.compile(r"\b([A-Z][A-Z0-9_]{3,60})=([\w.:-]{1,60})")


def facts_of(case: Mapping[str, Any]) -> dict[str, Any]:
    """The document of facts that a case states, to be diagnosed."""
    stated = {key: case[key] for key in STATED if key in case}
    env = stated.get("env")
    env = {str(key).lower(): _text(value) for key, value in env.items()} if isinstance(env, Mapping) else {}
    pasted = clean("\n".join(_text(stated.get(key)) for key in ("title", "symptom", "mode")))
    records, seen = environment.read(pasted)
    registry = api.knowledge()
    box = _fields(_text(stated.get("gpu")), stated.get("cc"), env)
    merge(box, Found("text", 0, records))
    facts: dict[str, Any] = {key: record for key, record in box.records.items() if record}
    for key, reader in registry.readers.items():
        if (said := reader.function(pasted)) is not None:
            facts[key] = to_plain(said)
    facts[Reading.key] = to_plain(seen)
    facts[Messages.key] = to_plain(Messages(tuple(known_lines(registry.error_texts, pasted.lines, "the text"))))
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    head = {"schema": FACTS_SCHEMA, "schema_version": SCHEMA_VERSION, "created": now, "source": "text"}
    return {**head, "tool": {"version": fp8doctor.__version__}, "probes": {}, "facts": facts}


def _text(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _fields(gpu: str, cc: object, env: Mapping[str, str]) -> Found:
    found = Found("case", 0)
    found.say("gpus", gpus=_gpus(gpu, cc))
    _system(found, gpu, env)
    _build(found, env)
    driver = driver_version(env.get("driver", "").partition(" ")[0])
    found.say("driver", version=driver, installed=True if driver else None)
    packages = {
        normalised(DISTRIBUTIONS.get(key, key)): number
        for key, value in env.items()
        if key not in _NO_PACKAGES and (number := _one(value))
    }
    found.say("libraries", installed=packages or None, cudnn_version=_cudnn(env.get("cudnn", "")))
    variables = {name: value for text in env.values() for name, value in _VARIABLE.findall(text)}
    found.say("machine", environment=variables or None)
    return found


def _gpus(gpu: str, cc: object) -> list[Record] | None:
    """The GPUs, if one kind is named; its capability counts where one alone is stated."""
    stated = {_dotted(one) for one in _CAPABILITY.findall(_text(cc)) or _SM.findall(gpu)}
    if len(stated) > 1 or re.search(r"[<>\u2264\u2265]|\+$", gpu):
        return None
    name = "" if _SEVERAL.search(_REMARK.sub("", gpu)) else _REMARK.sub("", gpu).strip()
    named = written.read([f"GPU: {name}"]) if name else None
    records: list[Record] = (named.get("gpus", "gpus") if named else None) or []
    capability = next(iter(stated), None)
    if not records and capability:
        counted = _COUNTED.match(name)
        vendor = "amd" if capability.startswith("gfx") else "nvidia"
        records = [{"index": index, "vendor": vendor} for index in range(int(counted[1]) if counted else 1)]
    for record in records:
        record.update({"compute_capability": capability} if capability else {})
    return records or None


def _dotted(capability: str) -> str:
    """ "12.0" of "120", as sm_120 has it."""
    return f"{capability[:-1]}.{capability[-1]}" if capability.isdigit() else capability


def _system(found: Found, gpu: str, env: Mapping[str, str]) -> None:
    told = f"{gpu} {env.get('os', '')}"
    if "WSL" in told:
        found.say("machine", wsl=True)
    elif "Windows" in told:
        found.say("machine", os="Windows")


def _build(found: Found, env: Mapping[str, str]) -> None:
    torch = torch_version(_last(env.get("torch", "")))
    say_torch(found, torch)
    if (cuda := _one(env.get("cuda", ""))) and not found.get("torch_build", "cuda"):
        found.say("torch_build", cuda=".".join(cuda.split(".")[:2]), accelerator="cuda")
    if rocm := _one(env.get("rocm", "")):
        found.say("torch_build", hip=rocm, accelerator="hip")
    found.say("torch_build", python=_one(env.get("python", "")))


def _last(text: str) -> str:
    """The last of the versions that are listed, "" of a range or a comparison; "2.9+" is from 2.9 on."""
    text = text.strip()
    if re.search(r"[<>\u2264\u2265]|\bvs\b|\d ?-{1,2} ?\d|\u2013", text):
        return ""
    last = _LISTED.split(text)[-1]
    return last.removesuffix("+")


def _one(text: str) -> str | None:
    return version(_last(text))


def _cudnn(text: str) -> str | None:
    """cuDNN's version; torch.backends.cudnn.version() writes 9.1.0 as 90100, and 8.9.7 as 8907."""
    if number := re.fullmatch(r"(\d{1,2})(\d\d)(\d\d)", text.strip()):
        return ".".join(str(int(part)) for part in number.groups())
    if number := re.fullmatch(r"(8)(\d)(\d\d)", text.strip()):
        return ".".join(str(int(part)) for part in number.groups())
    return _one(text) if "+" not in text else None
