"""Which nodes are the same, and in what do those with the same GPUs differ?"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from fp8doctor.fleet.digest import Digest, TraitName
from fp8doctor.fleet.record import FoundOn, Group, Node, TraitDifference, Value, Variant
from fp8doctor.model import Severity

# Of a trait with more values than this, each node has its own: it is told by their number.
MOST_VARIANTS = 20
_STATUS = {"broken": 0, "unknown": 1, "slow": 2, "ready": 3, "unavailable": 4}


def gpus_of(node: Node) -> dict[str, int]:
    """The names of a node's GPUs with their numbers."""
    return dict(sorted(Counter(gpu.name or "unknown GPU" for gpu in node.gpus).items()))


def gpus_text(gpus: dict[str, int]) -> str:
    """ "8 x NVIDIA H200"; "no GPU" of nothing."""
    return ", ".join(f"{number} x {name}" for name, number in gpus.items()) or "no GPU"


def group(nodes: Sequence[Node]) -> tuple[Group, ...]:
    """Nodes with the same GPUs and the same answers, the largest group first."""
    found: dict[tuple[object, ...], list[Node]] = defaultdict(list)
    for node in nodes:
        answers = (node.status, node.fp8_hardware, node.fp8_software, node.fp8_runs)
        found[gpus_text(gpus_of(node)), answers].append(node)
    ordered = sorted(found.values(), key=lambda alike: (-len(alike), _STATUS[alike[0].status]))
    return tuple(
        Group(
            nodes=tuple(node.name for node in alike),
            gpus=gpus_of(alike[0]),
            status=alike[0].status,
            fp8_hardware=alike[0].fp8_hardware,
            fp8_software=alike[0].fp8_software,
            fp8_runs=alike[0].fp8_runs,
            headline=alike[0].headline,
            example=alike[0].name,
        )
        for alike in ordered
    )


def differences(digests: Sequence[Digest]) -> tuple[TraitDifference, ...]:
    """What is not the same on all nodes with the same GPUs; what few nodes have differently first.

    Nodes with unlike GPUs are not compared: their drivers, packages and settings have their own reasons to differ.
    """
    alike: dict[str, list[Digest]] = defaultdict(list)
    for digest in digests:
        alike[gpus_text(gpus_of(digest.node))].append(digest)
    found = [one for among, of in alike.items() if len(of) > 1 for one in _among(among, of)]
    return tuple(sorted(found, key=_weight))


def _weight(one: TraitDifference) -> tuple[bool, int, str, str]:
    """Known to change times before the rest; then what fewest nodes have."""
    others = sum(len(variant.nodes) for variant in one.variants[1:])
    return (one.why is None, others, one.kind, one.name)


def _among(among: str, digests: Sequence[Digest]) -> Iterable[TraitDifference]:
    names = dict.fromkeys(name for digest in digests for name in digest.traits)
    for name in names:
        by_value: dict[Value | None, list[str]] = defaultdict(list)
        for digest in digests:
            by_value[_value(digest, name)].append(digest.node.name)
        if len(by_value) > 1 and (variants := _variants(name, by_value)):
            yield TraitDifference(name.kind, name.name, name.unit, among, variants, name.why)


def _value(digest: Digest, name: TraitName) -> Value | None:
    """What this node has there; of what its listings do not name, the word for its absence."""
    value = digest.traits.get(name)
    return digest.absent.get(name.kind) if value is None and name.kind in digest.absent else value


def _variants(name: TraitName, by_value: dict[Value | None, list[str]]) -> tuple[Variant, ...] | None:
    """The values with their nodes, that of most nodes first; None if they are alike, or only unknown on some nodes."""
    ordered = sorted(by_value.items(), key=lambda item: (item[0] is None, -len(item[1]), str(item[0])))
    kept: list[tuple[Value | None, list[str]]] = []
    for value, nodes in ordered:
        like = next((item for item in kept if _are_alike(name, item[0], value)), None)
        if like is None:
            kept.append((value, list(nodes)))
        else:
            like[1].extend(nodes)
    if len([value for value, _ in kept if value is not None]) < 2:
        return None
    return tuple(Variant(value, tuple(nodes)) for value, nodes in kept)


def _are_alike(name: TraitName, one: Value | None, other: Value | None) -> bool:
    if isinstance(one, (int, float)) and isinstance(other, (int, float)) and not isinstance(one, bool):
        apart = abs(one - other)
        return apart <= name.points or apart <= name.tolerance * max(abs(one), abs(other))
    return one == other


def findings(nodes: Sequence[Node]) -> tuple[FoundOn, ...]:
    """What the nodes' own reports found, each with the nodes that have it; the gravest, and then the widest, first."""
    found: dict[tuple[str, str, Severity], list[str]] = defaultdict(list)
    titles: dict[tuple[str, str, Severity], str] = {}
    for node in nodes:
        for key, title in {(one.id, one.name, one.severity): one.title for one in node.findings}.items():
            found[key].append(node.name)
            titles.setdefault(key, title)
    ordered = sorted(found.items(), key=lambda item: (item[0][2].rank, -len(item[1]), item[0][0]))
    return tuple(FoundOn(*key, titles[key], tuple(names)) for key, names in ordered)
