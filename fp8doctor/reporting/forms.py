"""What is one form of secret: how does it look, when is it looked for, and which of its spellings mean one thing?"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

# Gives the placeholder of a thing of this kind.
Name = Callable[[str, str], str]
Accept = Callable[[re.Match[str]], bool]

HEX4 = r"[0-9a-fA-F]{4}"
UUID = rf"[0-9a-fA-F]{{8}}-{HEX4}-{HEX4}-{HEX4}-[0-9a-fA-F]{{12}}"
# Those that end names of hosts and of nothing else.
DOMAINS = ("com", "org", "net", "edu", "gov", "mil")
# Those that end other names, too: inside of a site, and at home in other countries.
LOCAL_DOMAINS = ("internal", "local", "lan", "corp", "intranet", "cluster", "cloud", "io", "ai", "dev")
COUNTRIES = ("de", "ch", "fr", "uk", "eu", "jp", "cn", "kr", "ca", "au", "nl", "se", "it", "es", "at", "pl", "fi")
PLACEHOLDER = re.compile(r"<(home|user|host|[a-z]+(?:-[a-z]+)?)(?:-(\d{1,6}))?>")
# What follows "@" where Python multiplies matrices: a dotted name, a call or an index; "-Systems.com" goes on a host.
_RIGHT_OPERAND = re.compile(r"@([A-Za-z_]\w{0,63}(?:\.\w{1,64}){0,8})(?![\w-]|\.\w|-[\w-]{1,63}\.)(?=([(\[]?))")
_ATTRIBUTE = re.compile(r"(?:T|mT|H|mH|t|transpose|weights?|bias|grad)")
_LEFT_OPERAND = re.compile(r"(?:(?:=|\breturn|\()\s{0,2}|\bself\.)[\w.]{1,64}$")
_VARIABLE = re.compile(r"[A-Za-z_]\d{0,2}")
_ABBREVIATED = re.compile(rf"{UUID}|[0-9a-f]{{8,32}}$")


@dataclass(frozen=True)
class Form:
    """One form of secret.

    Its pattern starts only where the run of its characters starts, and has bounded repetitions: so the time grows with
    the length alone. The group `thing` of a match is replaced.
    """

    kind: str
    pattern: str
    # In small letters; one of them must occur for the pattern to be tried.
    triggers: tuple[str, ...]
    # Decides with the text around the match in view; None: every match counts.
    accept: Accept | None = None
    # How often a trigger must occur.
    least: int = 1
    flags: int = 0
    # Whether the thing is looked for everywhere once it is known.
    learn: bool = True

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        """The pattern, compiled when a trigger first occurs."""
        return re.compile(self.pattern, self.flags)

    def concerns(self, lowered: str) -> bool:
        """Whether a text, given in small letters, may hold it: the cheap question before the pattern."""
        return any(trigger in lowered and lowered.count(trigger) >= self.least for trigger in self.triggers)

    def replaced(self, text: str, name: Name) -> str:
        """The text with what `name` gives in the place of each thing."""

        def replace(match: re.Match[str]) -> str:
            if self.accept is not None and not self.accept(match):
                return match[0]
            (start, end), (first, last) = match.span(), match.span("thing")
            placeholder = name(self.kind, match["thing"])
            return f"{match.string[start:first]}{placeholder}{match.string[last:end]}"

        return self.compiled.sub(replace, text)


class Haystack:
    """Many texts, in which few hold what is looked for."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self._lowered = [text.lower() for text in texts]
        # Most texts of a report are numbers: what has letters is not looked for in those.
        self._all = _Joined(self._lowered, range(len(texts)))
        self._lettered = _Joined(self._lowered, [i for i, low in enumerate(self._lowered) if low.islower()])
        self._known: dict[str, list[int]] = {}

    def holding(self, trigger: str) -> list[str]:
        """The texts in which the trigger occurs, in their order."""
        return [self.texts[index] for index in self._where(trigger)]

    def concerned(self, form: Form) -> list[str]:
        """The texts in which a trigger of the form occurs often enough, in their order."""
        places = {index for trigger in form.triggers for index in self._where(trigger)}
        enough = sorted(places) if form.least == 1 else [i for i in sorted(places) if form.concerns(self._lowered[i])]
        return [self.texts[index] for index in enough]

    def _where(self, trigger: str) -> list[int]:
        if trigger not in self._known:
            self._known[trigger] = (self._lettered if trigger.islower() else self._all).where(trigger)
        return self._known[trigger]


class _Joined:
    """Some of the texts in one, so that a search for what none holds costs one call."""

    def __init__(self, texts: list[str], chosen: Sequence[int]) -> None:
        self.chosen = chosen
        self.text = "\n".join([texts[index] for index in chosen])
        # Where each begins, and one place behind the last.
        self.starts = [0, *accumulate([len(texts[index]) + 1 for index in chosen])]

    def where(self, trigger: str) -> list[int]:
        """The numbers of the texts that hold the trigger."""
        found: list[int] = []
        place = self.text.find(trigger)
        while place >= 0:
            index = bisect_right(self.starts, place) - 1
            found.append(self.chosen[index])
            place = self.text.find(trigger, self.starts[index + 1])
        return found


def form(
    kind: str,
    pattern: str,
    *triggers: str,
    accept: Accept | None = None,
    flags: int = 0,
    least: int = 1,
    learn: bool = True,
) -> Form:
    """One row of a table of forms."""
    return Form(kind, pattern, triggers, accept, least, flags, learn)


def multiplies_matrices(text: str, at: int) -> bool:
    """Whether the "@" at this place is Python's operator, and no part of an address."""
    right = _RIGHT_OPERAND.match(text, at)
    if right is None:
        return False
    first, _, _ = right[1].partition(".")
    _, dot, last = right[1].rpartition(".")
    if first == "self" or (dot and _ATTRIBUTE.fullmatch(last)):
        return True
    if right[2]:  # "@acme.com(work)" is an address
        return not dot or last.lower() not in (*DOMAINS, *LOCAL_DOMAINS, *COUNTRIES)
    left = _LEFT_OPERAND.search(text[max(0, at - 72) : at])
    return left is not None and (left[0].startswith("self.") or bool(dot and _VARIABLE.fullmatch(last)))


def same(kind: str, thing: str) -> str:
    """The form in which two spellings of one thing are equal."""
    thing = thing.strip()
    if kind == "gpu-uuid":
        bare = _ABBREVIATED.search(thing)
        return (bare[0] if bare else thing).lower()
    if kind == "pci":
        return thing.lower().lstrip("0:") or thing
    if kind in ("uuid", "mac", "ip", "email", "host", "user"):
        return thing.lower().replace("-", ":") if kind == "mac" else thing.lower()
    if kind == "home":
        return re.sub(r"\\+", r"\\", thing.rstrip("/\\"))
    return thing
