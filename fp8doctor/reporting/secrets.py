"""Which texts are secrets or identify a machine by their form alone? One table of patterns, each with its triggers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

Name = Callable[[str, str], str]

_HEX4 = r"[0-9a-fA-F]{4}"
_UUID = rf"[0-9a-fA-F]{{8}}-{_HEX4}-{_HEX4}-{_HEX4}-[0-9a-fA-F]{{12}}"
# "GPU-<uuid>", "MIG-<uuid>", the older "MIG-GPU-<uuid>/1/0", and the abbreviated form that CUDA_VISIBLE_DEVICES takes.
GPU_UUID = re.compile(rf"(?<![A-Za-z0-9])(?:MIG-)?(?:GPU|MIG)-(?P<bare>{_UUID}|[0-9a-f]{{8,32}}(?![0-9A-Za-z-]))")
# Names of settings whose value is a secret. "tokens" counts words of a language model, and is none.
SECRET_NAME = re.compile(
    r"(?:^|[_.-])(?:token|password|passwd|passphrase|secret|credentials?|api_?key|access_?key|secret_?key|private_?key"
    r"|auth)$",
    re.IGNORECASE,
)
_ASSIGNED = r"[\"']?\s{0,3}[=:]\s{0,3}[\"']?"
# Keys of version control and of builds: long hexadecimal there is no secret.
_HASH_NAMES = re.compile(
    r"(?:commit|git|sha\d*|hash|digest|revision|rev|version|build|checksum|md5)\w{0,20}$", re.IGNORECASE
)
_NO_VALUE = re.compile(r"(?:none|null|true|false|unset|yes|no|\*+|[\d.,]+)$", re.IGNORECASE)
# Words that announce an address; "from" and "to" announce versions just as often.
_ADDRESS_WORDS_TEXT = """
    host hosts hostname addr address ip ipv4 inet server peer endpoint node nameserver gateway master rank0 rank
    on connect connecting connected connection master_addr bind tcp http https url remote local client
"""
_ADDRESS_WORDS = frozenset(_ADDRESS_WORDS_TEXT.split())
_PORT_OR_SIZE = re.compile(r"\]?:\d{2,5}(?![\d.])|/(?:[89]|[12]\d|3[0-2])(?![\d./])")
_GLOBAL_OR_LOCAL_IPV6 = re.compile(r"(?:[23][0-9a-f]{3}|fe[89ab][0-9a-f]|f[cd][0-9a-f]{2}):", re.IGNORECASE)
# Addresses that are the same on every machine.
_UNTELLING = ("127.", "0.0.0.0", "255.255.255.", "8.8.8.8", "1.1.1.1")


@dataclass(frozen=True)
class Form:
    """One form of secret: its kind, its pattern, and texts of which one must occur for the pattern to be tried."""

    kind: str
    pattern: str
    triggers: tuple[str, ...]
    # Decides with the text before the match in view; None: every match counts.
    accept: Callable[[re.Match[str]], bool] | None = None
    # How often a trigger must occur.
    least: int = 1
    flags: int = 0

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        """The pattern, compiled when a trigger first occurs."""
        return re.compile(self.pattern, self.flags)


def _is_password(match: re.Match[str]) -> bool:
    return not _NO_VALUE.match(match["thing"])


def _is_token(match: re.Match[str]) -> bool:
    thing = match["thing"]
    return not _NO_VALUE.match(thing) and any(c.isdigit() for c in thing) and any(c.isalpha() for c in thing)


def _is_mixed(match: re.Match[str]) -> bool:
    """Letters of both cases and digits, as base64 and keys have; or hexadecimal that is no hash."""
    thing = match["thing"]
    if _HASH_NAMES.search(match["name"]):
        return False
    return bool(re.fullmatch(r"[0-9a-fA-F]+", thing)) or (
        thing != thing.lower() and thing != thing.upper() and any(c.isdigit() for c in thing) and thing.count("/") < 3
    )


def _is_ipv4(match: re.Match[str]) -> bool:
    """An address, and not one of the four-part versions (cuDNN 9.19.0.56, cuBLAS 12.8.4.1) that look the same.

    Private ranges that no version has, and first parts that no version reaches, are addresses by themselves; the rest
    needs a port, a network size or a word that announces one.
    """
    thing = match["thing"]
    parts = [int(part) for part in thing.split(".")]
    if max(parts) > 255 or thing.startswith(_UNTELLING):
        return False
    start, end = match.span()
    after = match.string[end : end + 7]
    if after[:1] in (":", "]", "/") and _PORT_OR_SIZE.match(after):
        return True
    before = match.string[max(0, start - 24) : start]
    if before.endswith(("==", ">=", "<=", "~=", "!=", "-", "_", "+", "v", "V")):
        return False
    words = before.lower().replace("://", " ").rstrip(" =:\"'[(").split()
    last = re.split(r"[=@:]", words[-1])[-1] if words else ""
    if last in ("version", "versions"):
        return False
    announced = before.endswith(("://", "@")) or last in _ADDRESS_WORDS or words[-2:-1] == ["connect"]
    return parts[0] >= 64 or announced


def _is_ipv6(match: re.Match[str]) -> bool:
    """An address that identifies: not "::1", and not the C++ scopes ("c10::") that look like one."""
    thing = match["thing"]
    if thing.count(":") < 2 or not _GLOBAL_OR_LOCAL_IPV6.match(thing):
        return False
    import ipaddress  # here, because few texts come this far

    try:
        ipaddress.IPv6Address(thing)
    except ValueError:
        return False
    return True


def _form(
    kind: str,
    pattern: str,
    *triggers: str,
    accept: Callable[[re.Match[str]], bool] | None = None,
    flags: int = 0,
    least: int = 1,
) -> Form:
    return Form(kind, pattern, triggers, accept, least, flags)


_B = r"(?<![A-Za-z0-9])"  # where a word begins; an underscore may stand before
_PREFIXED = "|".join(
    (
        r"hf_[A-Za-z0-9]{16,64}",
        r"gh[pousr]_[A-Za-z0-9]{16,255}",
        r"github_pat_[A-Za-z0-9_]{20,255}",
        r"glpat-[\w-]{16,64}",
        r"sk-[A-Za-z0-9_-]{20,200}",
        r"(?:AKIA|ASIA)[0-9A-Z]{16}",
        r"xox[abeoprs]-[\w-]{10,250}",
        r"AIza[\w-]{35}",
        r"nvapi-[\w-]{20,128}",
        r"npm_[A-Za-z0-9]{36}",
        r"pypi-[\w-]{32,255}",
        r"dckr_pat_[\w-]{20,64}",
        r"eyJ[\w-]{8,2000}\.eyJ[\w-]{4,4000}(?:\.[\w-]{0,2000})?",
    )
)
FORMS = (
    _form(
        "token",
        r"(?P<thing>-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[\sA-Za-z0-9+/=\\]{0,20000}"
        r"(?:-----END [A-Z ]{0,40}PRIVATE KEY-----)?)",
        "PRIVATE KEY",
    ),
    _form("token", r"://(?!git@)(?P<thing>[^/\s@\"'<>]{1,256})(?=@)", "://"),
    _form(
        "token",
        rf"{_B}(?P<thing>{_PREFIXED})(?![A-Za-z0-9])",
        *("hf_", "gh", "glpat-", "sk-", "AKIA", "ASIA", "xox", "AIza", "nvapi-", "npm_", "pypi-", "dckr_", "eyJ"),
        accept=lambda match: any(c.isdigit() for c in match["thing"]),
    ),
    _form(
        "token",
        r"\b(?:Bearer|Basic)\s{1,3}(?P<thing>[A-Za-z0-9._~+/=-]{8,4000})",
        "earer",
        "asic",
        "EARER",
        flags=re.I,
        accept=_is_token,
    ),
    _form(
        "token",
        r"(?<=[?&])(?:[\w-]{0,40}?(?:token|key|sig|signature|credential|secret|auth|code))="
        r"(?P<thing>[^&\s\"'<>]{4,4000})",
        "?",
        flags=re.I,
    ),
    _form(
        "token",
        rf"(?:password|passwd|passphrase){_ASSIGNED}(?P<thing>[^\s\"'&,;<>]{{1,256}})",
        "pass",
        "PASS",
        "Pass",
        accept=_is_password,
        flags=re.I,
    ),
    _form(
        "token",
        rf"(?:token|secret|credentials?|api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key|auth){_ASSIGNED}"
        r"(?P<thing>[A-Za-z0-9_\-.+/=~%]{8,1024})(?![(\[])",
        *("oken", "OKEN", "ecret", "ECRET", "redential", "REDENTIAL", "ey", "EY", "uth", "UTH"),
        accept=_is_token,
        flags=re.I,
    ),
    _form(
        "token",
        r"(?<![\w.-])(?P<name>[A-Za-z_][\w.-]{0,63})=[\"']?"
        r"(?P<thing>[0-9a-fA-F]{32,512}|[A-Za-z0-9+/]{40,1024}={0,2})(?![\w+/=.-])",
        "=",
        accept=_is_mixed,
    ),
    _form("gpu-uuid", f"(?P<thing>{GPU_UUID.pattern})", "GPU-", "MIG-"),
    _form("uuid", rf"(?<![\w-])(?P<thing>{_UUID})(?![\w-])", "-", least=4),
    _form(
        "email",
        r"(?<![\w.+@-])(?P<thing>[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24})(?![\w-])",
        "@",
        accept=lambda match: not match["thing"].startswith("git@"),
    ),
    _form("pci", r"(?<![\w:.-])(?P<thing>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7])(?![\w.])", ":"),
    _form(
        "pci",
        r"(?:\b(?:PCI|BDF)\b[^\w\n]{1,3}|\bbus[ _-]?id\W{1,3})(?P<thing>[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])(?![\w.])",
        ":",
        flags=re.I,
    ),
    _form("mac", r"(?<![\w:-])(?P<thing>(?:[0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2})(?![\w:-])", ":", "-", least=5),
    _form("ip", r"(?<![\w:.])(?P<thing>[0-9a-fA-F:]{6,39})(?![\w:])", ":", accept=_is_ipv6, least=2),
    _form("ip", r"(?<![\w.])(?P<thing>\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3})(?![\w]|\.\d)", ".", accept=_is_ipv4, least=3),
    _form(
        "host", r"(?<![\w.-])(?P<thing>ip-\d{1,3}-\d{1,3}-\d{1,3}-\d{1,3}(?:\.[a-z0-9-]{1,63}){0,6})(?![\w-])", "ip-"
    ),
    _form(
        "serial",
        r"\bserial(?:[ _-]?(?:number|no))?\W{1,4}(?P<thing>(?=[A-Z]{0,8}\d)[A-Z0-9]{6,32})\b",
        "erial",
        "ERIAL",
        flags=re.I,
    ),
)


def steps(name: Name) -> list[Callable[[str], str]]:
    """One function a form, which replaces its things in a text by what `name(kind, thing)` gives."""
    return [_step(form, name) for form in FORMS]


def _step(form: Form, name: Name) -> Callable[[str], str]:
    def replace(match: re.Match[str]) -> str:
        if form.accept is not None and not form.accept(match):
            return match[0]
        start, end = match.span("thing")
        return f"{match[0][: start - match.start()]}{name(form.kind, match['thing'])}{match[0][end - match.start() :]}"

    triggers, least = form.triggers, form.least

    def step(text: str) -> str:
        for trigger in triggers:
            if trigger in text and (least == 1 or text.count(trigger) >= least):
                return form.compiled.sub(replace, text)
        return text

    return step


def same(kind: str, thing: str) -> str:
    """The form in which two spellings of one thing are equal."""
    thing = thing.strip()
    if kind == "gpu-uuid":
        bare = re.search(rf"{_UUID}|[0-9a-f]{{8,32}}$", thing)
        return (bare[0] if bare else thing).lower()
    if kind == "pci":
        return thing.lower().lstrip("0:") or thing
    if kind in ("uuid", "mac", "ip", "email", "host"):
        return thing.lower().replace("-", ":") if kind == "mac" else thing.lower()
    if kind == "home":
        return thing.rstrip("/\\").replace("\\\\", "\\")
    return thing
