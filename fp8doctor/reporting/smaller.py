"""What of a report's JSON goes where there is no room for all of it? Exhibits and samples first, judgements never."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from fp8doctor.judging.report import CONTRACT_FACTS

Document = dict[str, Any]
# A list as long as this, in characters of JSON, holds samples or cases; a shorter one says what is there.
SAMPLES = 3_000
# Without its nulls a document keeps more than a third of its length.
HOPELESS = 3
# A list shorter than this makes no room.
LEAST_LIST = 400


class Fitting(NamedTuple):
    """JSON that fits, the paths of what it lacks, and how far it had to be cut: 0 (whole) to 7."""

    text: str
    left_out: tuple[str, ...] = ()
    cuts: int = 0


# The cuts after which exhibits and samples are gone, and those after which lists and reasons are, but no whole facts.
SAMPLES_GONE, LISTS_GONE = 2, 5


def within_room(document: Document, room: int) -> Fitting | None:
    """The document as JSON of at most `room` characters, with `left_out` naming what it lacks; None if none fits.

    Exhibits go first, since they are made anew from facts; then samples, the longest first; then what probes printed,
    other lists, the reasons of outcomes, whole facts. What other people's scripts rely on goes at last.
    """
    whole = _text(document)
    if len(whole) <= room:
        return Fitting(whole, tuple(document.get("left_out") or ()))
    lost: list[str] = list(document.get("left_out") or ())
    smaller = {**document, "left_out": lost}
    steps = (
        _without_exhibits,
        _without_samples,
        _without_tails,
        _without_lists,
        _without_reasons,
        _without_facts,
        _without_contract,
    )
    for cuts, step in enumerate(steps, 1):
        text = step(smaller, lost, room)
        if len(text) <= room:
            return Fitting(text, tuple(lost), cuts)
    return None


def first_within(room: int, *documents: Document) -> Fitting | None:
    """The first of the documents that fits, as JSON; None if none does. What it lacks is its `left_out`."""
    texts = ((_text(document), tuple(document.get("left_out") or ())) for document in documents)
    return next((Fitting(text, lost) for text, lost in texts if len(text) <= room), None)


def carried(view: Document, room: int) -> Document:
    """What of a report goes into a text of `room` characters, before it is made to fit.

    Without names whose value is null: what is left out was not observed, or not said. Verdict and advice keep theirs:
    they have no other "not said". What could not fit by any means is gone.
    """
    kept = {name: view[name] for name in ("verdict", "use")}
    document = {name: value for name, value in view.items() if name not in kept}
    if len(msgspec.json.encode(document)) > HOPELESS * room:
        lost = document["left_out"] = [*(view.get("left_out") or ())]
        _without_exhibits(document, lost)
        _shorter(document, lost, 0, HOPELESS * room)
    # As a report has them.
    ordered = {**document, **kept}
    return {**{name: compact(ordered[name]) for name in view if name in ordered}, **kept}


def compact(value: Any) -> Any:
    """The same JSON values without the names whose value is null."""
    if isinstance(value, dict):
        return {key: compact(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [compact(item) for item in value]
    return value


def _text(document: Document) -> str:
    return msgspec.json.encode(document).decode()


def _without_exhibits(document: Document, lost: list[str], room: int = 0) -> str:
    if document["exhibits"]:
        lost.append("exhibits")
    document["exhibits"] = []
    return _text(document)


def _without_samples(document: Document, lost: list[str], room: int) -> str:
    return _shorter(document, lost, room, SAMPLES, kept=CONTRACT_FACTS)


def _without_lists(document: Document, lost: list[str], room: int) -> str:
    return _shorter(document, lost, room, LEAST_LIST, kept=CONTRACT_FACTS)


def _shorter(document: Document, lost: list[str], room: int, least: int, kept: tuple[str, ...] = ()) -> str:
    """Without the longest lists of the facts, wherever they are, as many as must go."""
    facts = document["facts"] = _copied(document["facts"])
    found = sorted(_lists(facts, "facts"), key=lambda one: -one[0])
    length = len(_text(document))
    for size, path, holder, name in found:
        if length <= room or size < least:
            break
        if path.split(".")[1] in kept:
            continue
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
    return _fewer(document, lost, room, CONTRACT_FACTS)


def _without_contract(document: Document, lost: list[str], room: int) -> str:
    return _fewer(document, lost, room, ())


def _fewer(document: Document, lost: list[str], room: int, kept: tuple[str, ...]) -> str:
    """Without whole facts, the longest first, as many as must go."""
    facts: Document = document["facts"]
    text = _text(document)
    for key in sorted(facts, key=lambda key: -len(_text({"": facts[key]}))):
        if len(text) <= room:
            break
        if key in kept:
            continue
        document["facts"] = facts = {name: value for name, value in facts.items() if name != key}
        lost[:] = [path for path in lost if not path.startswith(f"facts.{key}.")]
        lost.append(f"facts.{key}")
        text = _text(document)
    return text


def _without_reasons(document: Document, lost: list[str], room: int) -> str:
    document["outcomes"] = [{"id": one["id"], "outcome": one["outcome"]} for one in document["outcomes"]]
    lost.append("the reasons of outcomes")
    return _text(document)
