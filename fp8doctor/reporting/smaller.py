"""What of a report's JSON goes where there is no room for all of it? Exhibits and samples first, judgements never."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

Document = dict[str, Any]
# A list shorter than this, in characters of JSON, makes no room.
LEAST_SAMPLES = 400


def within_room(document: Document, room: int) -> str | None:
    """The document as JSON of at most `room` characters, with `left_out` naming what it lacks; None if none fits.

    Exhibits go first, since they are made anew from facts; then lists of facts, the longest first; then the output of
    probes that ended badly; then whole facts, the longest first; then reasons of outcomes.
    """
    whole = _text(document)
    if len(whole) <= room:
        return whole
    lost: list[str] = []
    smaller = {**document, "left_out": lost}
    for step in (_without_exhibits, _without_lists, _without_tails, _without_facts, _without_reasons):
        text = step(smaller, lost, room)
        if len(text) <= room:
            return text
    return None


def _text(document: Document) -> str:
    return msgspec.json.encode(document).decode()


def _without_exhibits(document: Document, lost: list[str], room: int) -> str:
    document["exhibits"] = []
    lost.append("exhibits")
    return _text(document)


def _without_lists(document: Document, lost: list[str], room: int) -> str:
    """The longest lists of the facts, wherever they are, as many as must go."""
    facts = document["facts"] = _copied(document["facts"])
    found = sorted(_lists(facts, "facts"), key=lambda one: -one[0])
    length = len(_text(document))
    for size, path, holder, name in found:
        if length <= room:
            break
        if size < LEAST_SAMPLES:
            break
        del holder[name]
        lost.append(path)
        length -= size - len(path) - 3
    return _text(document)


def _copied(value: Any) -> Any:
    """The same objects anew, so that a name may go; lists and what is in them are shared."""
    return {key: _copied(item) for key, item in value.items()} if isinstance(value, dict) else value


def _lists(value: Document, path: str) -> Iterator[tuple[int, str, Document, str]]:
    """Each list that stands in objects alone: its length as JSON, its path, what holds it and by which name."""
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _lists(item, f"{path}.{key}")
        elif isinstance(item, list):
            yield len(msgspec.json.encode(item)) + len(key) + 4, f"{path}.{key}", value, key


def _without_tails(document: Document, lost: list[str], room: int) -> str:
    document["probes"] = {
        key: {name: value for name, value in run.items() if name != "stderr_tail"}
        for key, run in document["probes"].items()
    }
    lost.append("probes.*.stderr_tail")
    return _text(document)


def _without_facts(document: Document, lost: list[str], room: int) -> str:
    facts: Document = document["facts"]
    text = _text(document)
    for key in sorted(facts, key=lambda key: -len(_text({"": facts[key]}))):
        if len(text) <= room:
            break
        document["facts"] = facts = {name: value for name, value in facts.items() if name != key}
        lost[:] = [path for path in lost if not path.startswith(f"facts.{key}.")]
        lost.append(f"facts.{key}")
        text = _text(document)
    return text


def _without_reasons(document: Document, lost: list[str], room: int) -> str:
    document["outcomes"] = [{"id": one["id"], "outcome": one["outcome"]} for one in document["outcomes"]]
    lost.append("the reasons of outcomes")
    return _text(document)
