"""What must not leave the machine: people, hosts, addresses, serial numbers and secrets become placeholders.

Two mentions of one thing get one placeholder, so a reader can still tell two GPUs or two homes apart. Each distinct
text is looked at once, and only where a cheap question says that it may hold something.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fp8doctor.reporting import secrets
from fp8doctor.reporting.forms import PLACEHOLDER, Form, Haystack, form, same
from fp8doctor.reporting.identities import (
    ADDRESSES,
    DEVICES,
    HOMES,
    HOSTS,
    ORDINARY,
    SHARED_ACCOUNTS,
    USERS,
    is_somebody,
)
from fp8doctor.reporting.text import clean

# Kinds of which most boxes have one: the first gets no number.
_SINGLE = ("home", "user", "host")
# Fields whose whole value is one thing, however it looks; of variables of the environment, too.
_WHOLE_FIELDS = {
    "uuid": "gpu-uuid",
    "gpu_uuid": "gpu-uuid",
    "pci_bus_id": "pci",
    "unique_id": "gpu-uuid",
    "serial": "serial",
    "serial_number": "serial",
    "hostname": "host",
    "host_name": "host",
    "master_addr": "host",
    "slurmd_nodename": "host",
    "username": "user",
    "user_name": "user",
    "user": "user",
    "logname": "user",
    "sudo_user": "user",
    "mac_address": "mac",
    "ip_address": "ip",
    "machine_id": "machine",
}
# Folders in which people have one of their own name.
_OF_PEOPLE = r"/(?:scratch|data|work|users|u|lustre|gpfs|export|nfs|fsx|storage|projects?|run/user|(?:var/)?tmp)/"
MOST_PASSES = 6
# The names of fields and packages.
_IDENTIFIER = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_BETWEEN = re.compile(r"[\s.]+|\\n")
_WORD = re.compile(r"[a-z0-9]+")
# Shorter names are replaced only where it is sure that a name is meant.
_LEAST_FREE_LETTERS = 4
_LEAST_FREE_THING = 7
_LEAST_PIECE = 16
# A report that names more than this was made to keep us busy.
MOST_KNOWN = 100
_NO_TEXT = frozenset((int, float, bool, type(None)))
_FORMS = (*HOMES, *secrets.FORMS, *DEVICES, *ADDRESSES, *USERS, *HOSTS)


@dataclass(frozen=True)
class Identity:
    """Whose process this is."""

    homes: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    @classmethod
    def of_this_process(cls) -> Identity:
        """What this process can tell of itself, without a look at the network."""
        users = [os.environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER")]
        homes = [os.environ.get("HOME", "")]
        try:
            import pwd

            account = pwd.getpwuid(os.getuid())
            users.append(account.pw_name)
            homes.append(account.pw_dir)
        except (ImportError, KeyError):
            homes.append(str(Path("~").expanduser()))
        hosts = [os.environ.get("HOSTNAME", ""), socket.gethostname()]
        return cls(*(tuple(dict.fromkeys(filter(None, names))) for names in (homes, users, hosts)))


NOBODY = Identity()


def redact(document: dict[str, Any], identity: Identity | None = None) -> dict[str, Any]:
    """The document with everything replaced that tells who or where; redacting twice changes nothing more.

    Args:
        document: JSON values; names of objects are looked at too.
        identity: whose names are replaced beside those that show by their form; None for this process's.
    """
    return _Redactor(document, identity or Identity.of_this_process()).redact(document)  # type: ignore[no-any-return]


# "12.3" and "1,024.5 [1,020.1, 1,030.4]", as tables hold them by the thousand: nobody's, and no part of anything.
_FIGURES = re.compile(r"[\d,]{1,12}\.\d{1,6}|[\d,]{1,12}(?:\.\d{1,6})? \[[\d,.]{1,14}, [\d,.]{1,14}\]")


@dataclass
class _Redactor:
    document: dict[str, Any]
    identity: Identity
    # kind -> the thing as it is compared -> its placeholder
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)
    # Hosts that are known by one label: their full names are other spellings.
    hosts: set[str] = field(default_factory=set)
    # What the fields hold whose whole value is one thing, by their names.
    fields: dict[str, str] = field(default_factory=dict)
    # The forms that may occur here, in the order in which they are replaced.
    forms: list[Form] = field(default_factory=list)
    # Texts that may hold something, and what they become (None: not yet known). All others hold nothing.
    suspects: dict[str, str | None] = field(default_factory=dict)

    # --- what is in the document -----------------------------------------------------------------------------------

    def __post_init__(self) -> None:
        """Find the texts that may hold something, and the names that the document itself gives away."""
        contents = _Contents()
        contents.add(self.document)
        self.fields = contents.fields
        texts = [*contents.names, *(text for text in contents.texts if not _FIGURES.fullmatch(text))]
        # Invisible characters can hide something.
        self.suspects = {text: None for text in texts if not text.isprintable()}
        haystack = Haystack([*texts, *map(clean, self.suspects)])
        for text in haystack.holding("<"):
            for kind, number in PLACEHOLDER.findall(text):
                self.taken[kind] = max(self.taken.get(kind, 0), int(number or 1))
        # The kind of a thing and how it is spelled.
        known = dict.fromkeys(("user", name) for name in self.identity.users)
        known |= dict.fromkeys(("host", name) for host in self.identity.hosts for name in (host, host.split(".")[0]))
        known |= contents.whole
        own = [_home_form(home) for home in self.identity.homes if _is_telling(home)]
        for one in (*own, *_FORMS):
            known |= dict.fromkeys(_learned(one, self._look_for(one, haystack)))
        self.hosts = {name.lower() for kind, name in known if kind == "host" and "." not in name}
        vocabulary = _vocabulary(self.document, contents.names)
        for kind, thing in list(known)[:MOST_KNOWN]:
            if thing.lower() in SHARED_ACCOUNTS | {"localhost"} or PLACEHOLDER.search(thing):
                continue
            if kind in ("user", "host"):
                self._look_for(_name_form(kind, thing, vocabulary), haystack)
            elif len(thing) >= _LEAST_FREE_THING and not _is_word(thing, vocabulary):
                self._look_for(form(kind, rf"(?P<thing>{re.escape(thing)})", thing.lower()), haystack)

    def _look_for(self, one: Form, haystack: Haystack) -> list[str]:
        """The texts that hold something of this form; it is replaced wherever it may come to light."""
        concerned = haystack.concerned(one)
        if concerned:
            self.forms.append(one)
        found = [text for text in concerned if one.compiled.search(text)]
        self.suspects.update(dict.fromkeys(found))
        return found

    def name(self, kind: str, thing: str) -> str:
        """The placeholder of a thing: the one that it has, or the next."""
        known = self.names.setdefault(kind, {})
        key = same(kind, thing)
        if kind == "host" and (label := key.split(".")[0]) in self.hosts:
            key = label
        if key not in known:
            number = self.taken[kind] = self.taken.get(kind, 0) + 1
            known[key] = f"<{kind}>" if kind in _SINGLE and number == 1 else f"<{kind}-{number}>"
        return known[key]

    # --- what is replaced ------------------------------------------------------------------------------------------

    def redact(self, value: Any, field_name: str = "") -> Any:
        """The value with everything replaced; an object or a list in which nothing is replaced is the same one."""
        if isinstance(value, dict):
            return self._object(value)
        if isinstance(value, str):
            return self._field(field_name, value) if value in self.suspects or field_name in self.fields else value
        result = value
        for place, item in enumerate(value if isinstance(value, list) else ()):
            if type(item) not in _NO_TEXT and (new := self.redact(item, field_name)) is not item:
                result = value.copy() if result is value else result
                result[place] = new
        return result

    def _object(self, value: dict[str, Any]) -> dict[str, Any]:
        result = value
        suspects, fields = self.suspects, self.fields
        for name, item in value.items():
            if type(item) is str and item not in suspects and name not in fields:
                continue  # most texts
            if type(item) not in _NO_TEXT and (new := self.redact(item, name)) is not item:
                result = value.copy() if result is value else result
                result[name] = new
        return result if suspects.keys().isdisjoint(value) else self._renamed(result)

    def _renamed(self, value: dict[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, item in value.items():
            new = self.text(name)
            while new in result:
                new += "'"
            result[new] = item
        return result

    def _field(self, field_name: str, value: str) -> str:
        kind = self.fields.get(field_name)
        if kind is None or not value.strip() or PLACEHOLDER.fullmatch(value):
            return self.text(value) if value in self.suspects else value
        if kind in ("user", "host") and (not is_somebody(value) or PLACEHOLDER.search(value)):
            return self.text(value)
        return self.name(kind, value)

    def text(self, text: str) -> str:
        """The text with everything replaced."""
        if text not in self.suspects:
            return text
        known = self.suspects[text]
        if known is None:
            known = self._replaced(text)
            # What is shown is cleaned, and so is what invisible characters would hide until then.
            if (shown := clean(known)) != known and (bare := self._replaced(shown)) != shown:
                known = bare
            self.suspects[text] = known
        return known

    def _replaced(self, text: str) -> str:
        # Again where something was replaced: a placeholder is a boundary that was none before.
        for _ in range(MOST_PASSES):
            before, lowered = text, text.lower()
            for one in self.forms:
                if one.concerns(lowered):
                    text = one.replaced(text, self.name)
            if text == before:
                break
        return text


def _kind_of_field(name: str) -> str | None:
    """What a field of this name holds, if its whole value is one thing."""
    kind = _WHOLE_FIELDS.get(name.lower())
    return "token" if kind is None and secrets.names_a_secret(name) else kind


def _is_word(thing: str, vocabulary: set[str]) -> bool:
    """Whether the report needs this word; it may quote a thing that no word looks like."""
    unlike = any(c.isdigit() for c in thing) and not thing.isalnum()
    return thing.lower() in ORDINARY or (not unlike and len(thing) < 16 and thing.lower() in vocabulary)


def _home_form(home: str) -> Form:
    return form("home", rf"(?P<thing>{re.escape(home)})(?![\w-])", home.lower())


def _name_form(kind: str, name: str, vocabulary: set[str]) -> Form:
    word = re.escape(name)
    if len(name) >= _LEAST_FREE_LETTERS and not _is_word(name, vocabulary):
        domain = r"(?:\.[A-Za-z0-9-]{1,63}){0,8}" if kind == "host" and "." not in name else ""
        pattern = rf"(?<![A-Za-z0-9])(?P<thing>{word}{domain})(?![A-Za-z0-9])"
    elif kind == "user":
        meant = rf"{_OF_PEOPLE}|\b(?:user|USER|LOGNAME)=|(?<![\w.@/-])(?={word}@[A-Za-z<])"
        pattern = rf"(?:{meant})(?P<thing>{word})(?![\w.-])"
    else:
        pattern = rf"(?:(?<=[\w>]@)|\b(?:host|hostname|HOSTNAME)=)(?P<thing>{word})(?![\w-])"
    return form(kind, pattern, name.lower())


def _learned(one: Form, texts: list[str]) -> Iterator[tuple[str, str]]:
    """What is looked for everywhere once it was found: there, less may stand around it that tells what it is."""
    has_user = "user" in one.compiled.groupindex
    for text in texts if one.learn else ():
        for match in one.compiled.finditer(text):
            if one.accept is not None and not one.accept(match):
                continue
            if has_user and is_somebody(match["user"]):
                yield "user", match["user"]
            elif one.kind in ("user", "host"):
                yield from ((one.kind, name) for name in _spellings(one.kind, match["thing"]))
            elif one.kind != "home":
                # In parts, too: a key may stand elsewhere with its lines ended otherwise, or cut off.
                pieces = [piece for piece in _BETWEEN.split(match["thing"]) if len(piece) >= _LEAST_PIECE]
                whole = [] if re.search(r"\s", match["thing"]) else [match["thing"]]
                yield from ((one.kind, piece) for piece in (*whole, *pieces))


def _spellings(kind: str, name: str) -> list[str]:
    """A user or a host as it stands, and the first label of a host that is called as machines are."""
    label = name.split(".")[0]
    return [name, label] if kind == "host" and re.search(r"\d|-", label) else [name]


def _is_telling(home: str) -> bool:
    """Whether a home folder says whose it is; many containers have none of their own."""
    return len(home) > 1 and home.startswith("/") and home.strip("/") not in ORDINARY | {"nonexistent"}


@dataclass
class _Contents:
    """What is in a document, each once, in its order."""

    # The names of objects, and what their fields hold whose whole value is one thing.
    names: dict[str, None] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    texts: dict[str, None] = field(default_factory=dict)
    # Things by the names of their fields: kind and spelling.
    whole: dict[tuple[str, str], None] = field(default_factory=dict)

    def add(self, value: Any, name: str = "") -> None:
        """Add what is in a value, which stands in the field of this name."""
        if isinstance(value, dict):
            if not value.keys() <= self.names.keys():
                self.names.update(dict.fromkeys(value))
                self.fields.update((key, kind) for key in value if (kind := _kind_of_field(key)))
            for key, item in value.items():
                if type(item) is str and key not in self.fields:  # of most texts: no call for each
                    self.texts[item] = None
                elif type(item) not in _NO_TEXT:
                    self.add(item, key)
        elif isinstance(value, str):
            self.texts[value] = None
            if name in self.fields and self.fields[name] not in ("user", "host"):
                self.whole[self.fields[name], value] = None
        elif isinstance(value, list):
            for item in value:
                if type(item) not in _NO_TEXT:
                    self.add(item, name)


def _vocabulary(document: dict[str, Any], names: Iterable[str]) -> set[str]:
    """The words that must stay: of names of fields and packages, and of the doctor's own sentences.

    One in a path or an address may be a name and does not count.
    """
    sentences = [str((document.get("verdict") or {}).get("headline", ""))]
    sentences += [str(part.get("label", "")) for part in document.get("use") or ()]
    for finding in document.get("findings") or ():
        sentences += [str(finding.get("name", "")), str(finding.get("title", ""))]
        sentences += [str(action.get("text", "")) for action in finding.get("actions") or ()]
    plain = (word for text in sentences for word in text.split() if not re.search(r"[/\\@=]", word))
    words = [word.lower() for word in (*filter(_IDENTIFIER.fullmatch, names), *plain)]
    return {piece for word in words for piece in (*_WORD.findall(word), word)}
