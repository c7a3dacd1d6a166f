"""Which sentences say what is wrong, in the words that people use for it? All are matched in lower case.

A pattern names the thing and what is wrong with it; a name alone is no statement. Every repetition is bounded.
"""

from __future__ import annotations

import re

TOPICS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("mxfp8-attention", re.compile(r"\bmxfp8 attention\b")),
    # FP8 has a lower share of its own, higher peak.
    (
        "lower-mfu",
        re.compile(
            r"\bfp8\b.{0,80}\bmfu\b.{0,40}\b(?:lower|drop\w{0,4}|decreas\w{1,4}|worse|less|reduced|only|low)\b"
            r"|\b(?:lower|worse|less|reduced|low) mfu\b.{0,60}\bfp8\b"
            r"|\bmfu\b.{0,60}\b(?:lower|drop\w{0,4}|decreas\w{1,4}|worse|less|reduced)\b.{0,60}\bfp8\b"
        ),
    ),
    # The wrong copy is loaded.
    (
        "cudnn-elsewhere",
        re.compile(
            r"\b(?:picks?|loads?|finds?|takes|uses)\b.{0,40}\bcudnn\b.{0,60}"
            r"\b(?:not (?:by|from)|instead of|rather than)\b"
            r"|\bcudnn\b.{0,60}\b(?:wrong (?:path|copy|version|library)|two (?:places|copies|versions))\b"
            r"|\b(?:two|several|multiple|mixed) (?:copies|versions) of cudnn\b"
        ),
    ),
    # FP8 of one generation of AMD GPUs met on another; such a GPU has FP8, so that "no FP8" on it means this.
    (
        "fnuz",
        re.compile(
            r"\bfnuz\b|\be[45]m[23]fnuz\b|\b(?:unsupported conversion|cannot convert).{0,40}f(?:loat)?8_?e[45]m[23]fn\b"
            r"|\bgfx9(?:42|50)\b.{0,20}(?:doesn't|does not|no) support\w{0,3} (?:for )?fp8"
            r"|\bfp8\b.{0,40}(?:not supported|unsupported|disabled) on gfx9(?:42|50)\b"
            r"|\be[45]m[23]fn\b.{0,40}(?:not supported|unsupported)"
        ),
    ),
    ("fp8-slow", re.compile(r"\b(?:fp8|scaled_mm|float8)\b.{0,80}\b(?:slow|slower|slowly)\b")),
    (
        "throttled",
        re.compile(
            r"\b(?:power|thermal(?:ly)?)[- ]throttl(?:ed|es|ing)\b|\bthrottl\w{1,4} (?:by|due to) (?:power|heat)"
        ),
    ),
    (
        "gpu-shared",
        re.compile(
            r"\b(?:two|2|several|multiple|other|another|parallel|concurrent)\b.{0,40}"
            r"\b(?:on|share|sharing|uses?) the same gpu\b"
            r"|\bgpu is shared\b|\bon (?:a )?mig (?:devices?|slices?|instances?)\b"
        ),
    ),
    (
        "variable-too-late",
        re.compile(
            r"\bset(?:ting)?\b.{0,40}\bvariables?\b.{0,60}\b(?:no effect|ignored|too late)\b"
            r"|\bcuda_device_max_connections\b.{0,60}"
            r"\b(?:no effect|ignored|too late|wrong|must not|hurts|not set|unset)\b"
        ),
    ),
)
# These say something only in a text that also speaks of what they would be about.
ONLY_WITH = {
    "mxfp8-attention": re.compile(r"cudnn"),
    "fp8-slow": re.compile(r"\b(?:amd|rocm|hip\w{0,8}|mi[23]\d\dx?|gfx[0-9a-f]{3,4})\b"),
}
# A sentence that denies is no statement of these.
DENIABLE = ("throttled", "gpu-shared", "fp8-slow")
DENIAL = re.compile(r"\b(?:no|not|never|without|isn't|wasn't|aren't|n't)\b")
_RELEASE = r"cudnn (?:version )?(?:>=? ?)?(\d{1,2}\.\d{1,2}(?:\.\d{1,2})?)\b"
CUDNN_NEEDED = re.compile(
    rf"\b(?:requires?|needs?|gated?\b.{{0,60}}\bon) {_RELEASE}"
    r"|\bcudnn (?:version )?(?:below|older than|before|< ?)(?: ?)(\d{1,2}\.\d{1,2}(?:\.\d{1,2})?)\b"
)
