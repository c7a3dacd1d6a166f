"""What must not leave the machine: people, hosts, addresses, serial numbers and secrets become placeholders.

Two mentions of one thing get one placeholder, so a reader can still tell two GPUs or two homes apart. Every pattern
starts only where the run of its characters starts and has bounded repetitions, so the time grows with the length alone.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fp8doctor.reporting import secrets

_PLACEHOLDER = re.compile(r"<(home|user|host|[a-z]+(?:-[a-z]+)?)(?:-(\d{1,6}))?>")
# Kinds of which most boxes have one: the first gets no number.
_SINGLE = ("home", "user", "host")
_HOMES = re.compile(r"(?P<root>/(?:home|Users)/|[A-Za-z]:\\{1,2}Users\\{1,2})(?P<user>[^\\/\s\"'`:;,<>|)\]}]{1,64})")
_ROOT_HOME = re.compile(r"(?<![\w.~/>-])/root(?![\w.-])")
# Fields whose whole value is one thing, however it looks.
_WHOLE_FIELDS = {
    "uuid": "gpu-uuid",
    "gpu_uuid": "gpu-uuid",
    "pci_bus_id": "pci",
    "unique_id": "gpu-uuid",
    "serial": "serial",
    "serial_number": "serial",
    "hostname": "host",
    "host_name": "host",
    "username": "user",
    "user_name": "user",
    "mac_address": "mac",
    "ip_address": "ip",
}
# Accounts that many machines have: they name nobody.
_SHARED_ACCOUNTS = frozenset(
    (
        "root",
        "ubuntu",
        "debian",
        "ec2-user",
        "opc",
        "azureuser",
        "runner",
        "jovyan",
        "nobody",
        "user",
        "admin",
        "docker",
    )
)
# Words that a report needs: someone or something called so is replaced only where it is sure that the name is meant.
_ORDINARY_WORDS = """
    root user users admin administrator ubuntu debian fedora centos ec2-user opc azureuser runner docker container
    jovyan nobody guest test tester dev developer build builder ci work worker workspace app apps data home local
    localhost shared scratch public service system default main master node server client host box machine cluster
    login compute gpu gpus cuda nvidia amd rocm intel h100 h200 a100 b200 torch pytorch triton tensor tensors float
    float8 python python3 conda miniconda venv linux windows macos lib lib64 bin etc usr var opt tmp proc dev sys
    site-packages dist-packages cache model models kernel kernels linear attention training train bench benchmark
    run runs time fast slow true false none null error warning info ready broken unknown
"""
_ORDINARY = frozenset(_ORDINARY_WORDS.split())
# Folders in which people have one of their own name.
_OF_PEOPLE = r"/(?:scratch|data|work|users|u|lustre|gpfs|export|nfs|fsx|storage|projects?|run/user|(?:var/)?tmp)/"
MOST_PASSES = 6
# The names of fields and packages.
_IDENTIFIER = re.compile(r"[a-z][a-z0-9_-]{0,31}")
# Shorter names are replaced only where it is sure that a name is meant.
_LEAST_FREE_LETTERS = 4


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


def redact(document: dict[str, Any], identity: Identity | None = None) -> dict[str, Any]:
    """The document with everything replaced that tells who or where; redacting twice changes nothing more.

    Args:
        document: JSON values; names of objects are looked at too.
        identity: whose names are replaced beside those that show by their form; None for this process's.
    """
    redactor = _Redactor(identity or Identity.of_this_process())
    redactor.learn(document)
    return redactor.redact(document)  # type: ignore[no-any-return]


@dataclass
class _Redactor:
    identity: Identity
    # kind -> the thing as it is compared -> its placeholder
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)
    vocabulary: set[str] = field(default_factory=set)
    steps: list[Callable[[str], str]] = field(default_factory=list)
    done: dict[str, str] = field(default_factory=dict)

    # --- what is in the document -----------------------------------------------------------------------------------

    def learn(self, document: dict[str, Any]) -> None:
        """Look for names that the document itself gives away, and for the words that must stay."""
        users: dict[str, None] = dict.fromkeys(self.identity.users)
        for text in _strings(document, self.vocabulary):
            if "<" in text:
                for kind, number in _PLACEHOLDER.findall(text):
                    self.taken[kind] = max(self.taken.get(kind, 0), int(number or 1))
            if "Users" in text or "/home/" in text:
                users.update(dict.fromkeys(match["user"] for match in _HOMES.finditer(text)))
            for match in secrets.GPU_UUID.finditer(text) if "GPU-" in text or "MIG-" in text else ():
                self.name("gpu-uuid", match["bare"])
        self.vocabulary |= _prose_words(document)
        self.steps = [self._homes, *secrets.steps(self.name), *self._names(list(users))]

    def name(self, kind: str, thing: str) -> str:
        """The placeholder of a thing: the one that it has, or the next."""
        known = self.names.setdefault(kind, {})
        key = secrets.same(kind, thing)
        if key not in known:
            number = self.taken[kind] = self.taken.get(kind, 0) + 1
            known[key] = f"<{kind}>" if kind in _SINGLE and number == 1 else f"<{kind}-{number}>"
        return known[key]

    # --- what is replaced ------------------------------------------------------------------------------------------

    def redact(self, value: Any, field_name: str = "") -> Any:
        if isinstance(value, str):
            return self._field(field_name, value)
        if isinstance(value, list):
            return [self.redact(item, field_name) for item in value]
        if isinstance(value, dict):
            result: dict[str, Any] = {}
            for key, item in value.items():
                new = self.text(key)
                while new in result:
                    new += "'"
                result[new] = self.redact(item, key)
            return result
        return value

    def _field(self, field_name: str, value: str) -> str:
        kind = _WHOLE_FIELDS.get(field_name.lower()) if field_name else None
        if field_name and kind is None and secrets.SECRET_NAME.search(field_name):
            kind = "token"
        if kind is None or not value.strip() or _PLACEHOLDER.fullmatch(value):
            return self.text(value)
        return self.name(kind, value)

    def text(self, text: str) -> str:
        known = self.done.get(text)
        if known is None:
            before, known = "", text
            # Again where something was replaced: a placeholder is a boundary that was none before.
            for _ in range(MOST_PASSES):
                if known == before:
                    break
                before = known
                for step in self.steps:
                    known = step(known)
            self.done[text] = known
        return known

    def _homes(self, text: str) -> str:
        if "/" not in text and "\\" not in text:
            return text
        for home in self.identity.homes:
            if _is_telling(home) and home in text:
                text = re.sub(rf"{re.escape(home)}(?![\w-])", lambda match: self.name("home", match[0]), text)
        if "/home/" in text or "Users" in text:
            text = _HOMES.sub(lambda match: self.name("home", match[0]), text)
        return _ROOT_HOME.sub(lambda match: self.name("home", match[0]), text) if "/root" in text else text

    def _names(self, users: list[str]) -> list[Callable[[str], str]]:
        """Steps for the names of users and hosts: anywhere if the name is distinct, else only where one is meant."""
        steps: list[Callable[[str], str]] = []
        named = [("user", name, name) for name in users]
        for host in self.identity.hosts:
            named += [("host", host, host)] + ([("host", host.split(".")[0], host)] if "." in host else [])
        for kind, name, thing in dict.fromkeys(named):
            if name.lower() not in _SHARED_ACCOUNTS | {"localhost"} and not _PLACEHOLDER.search(name):
                steps.append(self._name_step(kind, name, thing))
        return steps

    def _name_step(self, kind: str, name: str, thing: str) -> Callable[[str], str]:
        word = re.escape(name)
        domain = r"(?:\.[A-Za-z0-9-]{1,63}){0,8}" if kind == "host" else ""
        if len(name) >= _LEAST_FREE_LETTERS and name.lower() not in self.vocabulary | _ORDINARY:
            pattern = rf"(?P<before>(?<![A-Za-z0-9])){word}{domain if '.' not in name else ''}(?![A-Za-z0-9])"
        elif kind == "user":
            pattern = (
                rf"(?P<before>{_OF_PEOPLE}|\b(?:user|USER|LOGNAME)=){word}(?![\w.-])|(?<![\w.@/-]){word}(?=@[A-Za-z<])"
            )
        else:
            pattern = rf"(?P<before>[\w>]@|\b(?:host|hostname|HOSTNAME)=){word}(?![\w-])"
        compiled = re.compile(pattern)

        def step(text: str) -> str:
            if name not in text:
                return text
            return compiled.sub(lambda match: (match["before"] or "") + self.name(kind, thing), text)

        return step


def _is_telling(home: str) -> bool:
    """Whether a home folder says whose it is; many containers have none of their own."""
    return len(home) > 1 and home.startswith("/") and home.strip("/") not in _ORDINARY | {"nonexistent"}


def _strings(value: Any, vocabulary: set[str]) -> list[str]:
    """All strings in `value`; the words of object names go into the vocabulary."""
    found: list[str] = []
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, list):
            waiting += reversed(item)
        elif isinstance(item, dict):
            found += item
            vocabulary.update(word for key in item if _IDENTIFIER.fullmatch(key) for word in _words(key))
            waiting += reversed(list(item.values()))
    return found


def _prose_words(document: dict[str, Any]) -> set[str]:
    """The words that the doctor's own sentences use; one in a path or an address may be a name and does not count."""
    sentences = [str((document.get("verdict") or {}).get("headline", ""))]
    sentences += [str(part.get("label", "")) for part in document.get("use") or ()]
    for finding in document.get("findings") or ():
        sentences += [str(finding.get("name", "")), str(finding.get("title", ""))]
        sentences += [str(action.get("text", "")) for action in finding.get("actions") or ()]
    plain = (word for text in sentences for word in text.split() if not re.search(r"[/\\@=]", word))
    return {piece for word in plain for piece in _words(word)}


def _words(text: str) -> list[str]:
    return [*re.findall(r"[a-z0-9]+", text.lower()), text.lower()]
