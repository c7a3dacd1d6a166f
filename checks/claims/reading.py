"""Which sentences say that something does not work on an architecture, or what was expected of it?

A sentence counts if it names the thing, denies it, and names an architecture (itself, its line, or the first line,
which is an issue's title). Questions, conditions and wishes do not count. Every repetition in a pattern is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from fp8doctor.checks.claims.facts import Claims, Figure, Limit, Said
from fp8doctor.checks.claims.topics import CUDNN_NEEDED, DENIABLE, DENIAL, ONLY_WITH, TOPICS
from fp8doctor.checks.gpu.names import capability_by_name
from fp8doctor.pasted import Pasted
from fp8doctor.registry import reader

# Longer lines are logs and code, and more than so many lines no issue's prose.
LONGEST_LINE, MOST_LINES, LONGEST_TEXT, MOST = 600, 1_000, 200, 12

# In the order in which they count where a sentence names several.
_THINGS = (
    (
        "layout",
        re.compile(
            r"\btn[- ]only\b|\bonly (?:the )?tn\b|\b(?:tn|nn|nt|tt)(?:/(?:tn|nn|nt|tt)){0,3} (?:operand )?layouts?\b"
        ),
    ),
    ("flash-attention-3", re.compile(r"\bfa-?3\b|flash[-_ ]?attention[- ]?3\b|\bflash_attn_3\b")),
    ("rowwise", re.compile(r"\brow-?wise\b")),
    ("block-scaling", re.compile(r"block(?:wise)?[- ]?scaling\b")),
    ("mxfp8", re.compile(r"\bmxfp8")),
    ("nvfp4", re.compile(r"\bnvfp4")),
    (
        "kernel",
        re.compile(
            r"deep_?gemm|flashmla|\bcutlass|\bblock(?:-?wise)?[- ]fp8\b|\bfp8[- ]block|\bgrouped[-_ ](?:gemm|mm)\b"
            r"|\bmoe (?:kernel|gemm)"
        ),
    ),
)
_DENIED = re.compile(
    r"\bnot (?:\w{1,12} ){0,2}?(?:supported|available|implemented|usable|working|for)\b"
    r"|\bunsupported\b"
    r"|\bemulated\b"
    r"|\bno (?:native )?support\b|\b(?:does|do)(?:n't| not) (?:\w{1,12} )?(?:support|work|run|exist)\b"
    r"|\bcublas_status_not_supported\b|\badd(?:s|ed|ing)? (?:\w{1,12} ){0,3}?support\b"
    r"|^\W{0,4}(?:\[.{1,40}\] ?)?enable\b"
)
# Of these "fails" is said where an architecture lacks them; what has them is told by `has_natively`.
_FAILS = re.compile(r"\bfails? (?:on|for)\b")
_FAILING = ("rowwise", "flash-attention-3", "kernel", "block-scaling", "mxfp8")
_ONLY = re.compile(
    r"\bonly (?:\w{1,12} )?(?:supports?|supported|for|on|runs|works|available|exists)\b|\bonly (?:the )?tn\b"
    r"|\b(?:hopper|blackwell|sm_?\d{2,3}a?)[- ]only\b|\b(?:requires?|needs?)\b"
)
_FALLS_BACK = re.compile(r"\bmarlin fallback\b|\bf(?:alls?|ell|alling) back to (?:marlin|bf16|fp16|16)")
_ARCHITECTURE = re.compile(
    r"\bsm_?(\d{2,3})[af]?\b|\b(hopper|blackwell|ada|ampere)\b|\b(gfx[0-9a-f]{3,4})\b|\b(1\d\d)\+ arch"
    r"|\bcompute capability (?:>=? ?)?(\d{1,2}\.\d)\b"
)
# Products by which people mean an architecture: "on 5090", "on B200".
_PRODUCT = re.compile(r"\b((?:rtx )?[345]0[5-9]0)\b|\b(a100|h100|h200|h20|b200|b300|gb200|gb300|gb10|l40s?|l4)\b")
# A sentence with one of these states nothing.
_OPEN = re.compile(r"\b(?:if|unless|whether|would|should|could|might|until|assuming|hope|wish)\b")
_SENTENCE = re.compile(r"[^;.!?]{1,600}(?:\.\d[^;.!?]{0,600}){0,20}[;.!?]?")

_EXPECTED = re.compile(r"\bexpect|\bpeak\b|\btheoretical\b|\bdata ?sheet\b|\badvertised\b")
_FORMAT = re.compile(r"\b(bf16|fp16|fp8)\b")
_RATE = re.compile(r"\b(\d{3,4}(?:\.\d)?)(?= ?(?:tflop|tf\b|[(,;.]|$|bf16|fp8|in\b))")
_CAP = re.compile(r"\b(\d{3,4}) ?w (?:power )?cap\b|\bcap(?:ped)? (?:at|to|of) (\d{3,4}) ?w\b")
_WATTS = re.compile(r"\b(\d{3,4}) ?w\b")
_CLOCK = re.compile(r"\bclocks?\b[^.;]{0,30}?\b(\d{3,4})(?: ?mhz)? ?(?:->|\u2192|to) ?~?(\d{3,4}) ?mhz")


@reader
def read(pasted: Pasted) -> Claims | None:
    """What the sentences of this text say; None if none says anything of this kind."""
    lines = [line.lower() for line in pasted.lines[:MOST_LINES] if line and len(line) <= LONGEST_LINE]
    text = "\n".join(lines)
    figures = tuple(_figures(lines))
    cap, beside = _power(lines) or (None, None)
    clock = next(_clocks(lines), None) if "throttl" in text else None
    said = Claims(
        limits=tuple(_limits(lines))[:MOST] or None,
        figures=figures[:MOST] or None,
        power_cap_w=cap,
        power_beside_w=beside,
        clock_before_mhz=clock[0] if clock else None,
        clock_after_mhz=clock[1] if clock else None,
        cudnn_needed=_cudnn(lines),
        said=tuple(_said(lines)) or None,
    )
    return said if said != Claims() else None


def _stated(lines: Sequence[str]) -> Iterator[str]:
    """The sentences that state something."""
    for line in lines:
        for sentence in _SENTENCE.findall(line):
            if not sentence.endswith("?") and not _OPEN.search(sentence):
                yield sentence


def _said(lines: Sequence[str]) -> Iterator[Said]:
    """The first sentence on each topic."""
    told = {topic for topic, context in ONLY_WITH.items() if not any(map(context.search, lines))}
    for sentence in _stated(lines):
        for topic, pattern in TOPICS:
            if topic not in told and pattern.search(sentence):
                if topic in DENIABLE and DENIAL.search(sentence):
                    continue
                told.add(topic)
                yield Said(topic, sentence.strip(" ;")[:LONGEST_TEXT])


def _cudnn(lines: Sequence[str]) -> str | None:
    """The newest cuDNN that is required."""
    found = [one for line in lines if "cudnn" in line for one in CUDNN_NEEDED.findall(line)]
    versions = [first or second for first, second in found]
    return max(versions, key=lambda one: [int(part) for part in one.split(".")]) if versions else None


def _limits(lines: Sequence[str]) -> Iterator[Limit]:
    title = lines[0] if lines and not lines[0].endswith("?") else ""
    for line in lines:
        if not any(pattern.search(line) for pattern in (_DENIED, _ONLY, _FALLS_BACK, _FAILS)):
            continue
        for sentence in _stated([line]):
            if (limit := _limit(sentence, line, title)) is not None:
                yield limit


def _limit(sentence: str, line: str, title: str) -> Limit | None:
    only, denied, falls = (pattern.search(sentence) for pattern in (_ONLY, _DENIED, _FALLS_BACK))
    thing = _thing(sentence) or (_thing(title) if falls else None)
    denied = denied or (_FAILS.search(sentence) if thing in _FAILING else None)
    falls = falls if thing in ("nvfp4", "mxfp8") else None
    if thing is None or not (only or denied or falls):
        return None
    text = sentence.strip(" ;")[:LONGEST_TEXT]
    if only and not denied and thing != "layout":
        alone = _architectures(sentence[only.start() :])
        return Limit(thing, (), alone, text) if alone else None
    lacking = _architectures(sentence) or _architectures(line) or _architectures(title)
    return Limit(thing, lacking, (), text) if lacking else None


def _thing(sentence: str) -> str | None:
    return next((name for name, pattern in _THINGS if pattern.search(sentence)), None)


def _architectures(text: str) -> tuple[str, ...]:
    """The architectures that are named: "sm_120", "hopper", "gfx942"."""
    names = []
    for one in _ARCHITECTURE.finditer(text):
        digits = one[1] or one[4] or (one[5] or "").replace(".", "")
        names.append(f"sm_{digits}" if digits else one[2] or one[3])
    for one in _PRODUCT.finditer(text):
        product = f"RTX {one[1][-4:]}" if one[1] else one[2].upper()
        names.append(f"sm_{(capability_by_name(product) or '').replace('.', '')}")
    return tuple(dict.fromkeys(names))[:MOST]


def _figures(lines: Sequence[str]) -> Iterator[Figure]:
    for sentence in _stated(lines):
        formats = {"fp8" if name == "fp8" else "bf16" for name in _FORMAT.findall(sentence)}
        if len(formats) == 1 and _EXPECTED.search(sentence):
            for number in _RATE.findall(sentence):
                yield Figure(float(number), next(iter(formats)), sentence.strip(" ;")[:LONGEST_TEXT])


def _power(lines: Sequence[str]) -> tuple[float, float | None] | None:
    """A cap, and the largest power that its line names beside it."""
    for line in lines:
        if found := _CAP.search(line):
            cap = float(found[1] or found[2])
            beside = max(map(float, _WATTS.findall(line)))
            return cap, beside if beside > cap else None
    return None


def _clocks(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    for line in lines:
        if found := _CLOCK.search(line):
            yield int(found[1]), int(found[2])
