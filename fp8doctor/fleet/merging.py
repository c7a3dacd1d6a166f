"""What do the reports of many nodes say together?"""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import fp8doctor
from fp8doctor.fleet.alike import differences, findings, gpus_of, gpus_text, group
from fp8doctor.fleet.digest import Digest, NoNodeError, read_file
from fp8doctor.fleet.exhibits import exhibits, of_examples
from fp8doctor.fleet.odd import find_odd
from fp8doctor.fleet.record import FleetReport, Missing, OddGpu, TraitDifference
from fp8doctor.judging.report import Tool
from fp8doctor.registry import Registry

# Reading in several processes pays from about this many files on; each takes some milliseconds.
FEW_FILES = 64
FILES_AT_ONCE = 32
# Differences of a node that are named beside its odd GPU.
MOST_REASONS = 3


def read_files(paths: Sequence[Path], registry: Registry) -> tuple[list[Digest], list[Missing]]:
    """The digests of all files that hold a node's report, and of the others why not."""
    digests: list[Digest] = []
    missing: list[Missing] = []
    for found in _read_all(paths, registry):
        (digests if isinstance(found, Digest) else missing).append(found)  # type: ignore[arg-type]
    return digests, missing


def _read_all(paths: Sequence[Path], registry: Registry) -> Iterator[Digest | Missing]:
    workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
    if len(paths) < FEW_FILES or workers < 2:
        yield from (_read(path, registry) for path in paths)
        return
    with ProcessPoolExecutor(workers, initializer=_begin, initargs=()) as pool:
        yield from pool.map(_read_here, paths, chunksize=FILES_AT_ONCE)


_registry: list[Registry] = []


def _begin() -> None:
    from fp8doctor.registry import load

    _registry.append(load())


def _read_here(path: Path) -> Digest | Missing:
    return _read(path, _registry[0])


def _read(path: Path, registry: Registry) -> Digest | Missing:
    try:
        return read_file(path, registry)
    except NoNodeError as error:
        return Missing(path.name, str(error))
    except Exception as error:  # a stranger's file must not cost the others
        return Missing(path.name, f"it could not be read ({type(error).__name__})")


def merge(digests: Iterable[Digest], missing: Sequence[Missing], created: str, began_s: float) -> FleetReport:
    """One report of all nodes.

    Args:
        digests: what the nodes' reports say; of two of one node the later counts.
        missing: what did not answer.
        created: ISO 8601.
        began_s: `time.monotonic()` when this began.
    """
    kept, superseded = _one_a_node(digests)
    nodes = tuple(digest.node for digest in kept)
    spreads, odd = find_odd(nodes)
    found = differences(kept)
    odd = tuple(_with_reasons(one, found) for one in odd)
    groups = group(nodes)
    report = FleetReport(
        tool=Tool(fp8doctor.__version__),
        created=created,
        headline="",
        nodes=nodes,
        groups=groups,
        differences=found,
        spreads=spreads,
        odd=odd,
        findings=findings(nodes),
        missing=tuple(missing),
        superseded=tuple(superseded),
        exhibits=(*exhibits(nodes, spreads, odd), *of_examples(groups, kept)),
        elapsed_s=round(time.monotonic() - began_s, 1),
    )
    return dataclasses.replace(report, headline=headline(report))


def _one_a_node(digests: Iterable[Digest]) -> tuple[list[Digest], list[tuple[str, str]]]:
    """Of several reports of one node the latest: the same GPUs by their fingerprints, or the same name."""
    kept: dict[object, Digest] = {}
    superseded: list[tuple[str, str]] = []
    for digest in digests:
        prints = tuple(sorted(gpu.fingerprint for gpu in digest.node.gpus if gpu.fingerprint))
        key: object = prints if prints and len(prints) == len(digest.node.gpus) else digest.node.name
        if key in kept and not prints and not digest.says_who:  # files of one name in several folders
            number = next(n for n in itertools.count(2) if f"{digest.node.name}#{n}" not in kept)
            key = f"{digest.node.name}#{number}"
            digest = dataclasses.replace(digest, node=dataclasses.replace(digest.node, name=key))
        before = kept.get(key)
        if before is not None:
            late, early = (digest, before) if digest.node.created >= before.node.created else (before, digest)
            superseded.append((early.node.name, late.node.name))
            kept[key] = late
        else:
            kept[key] = digest
    return list(kept.values()), superseded


def _with_reasons(one: OddGpu, found: Sequence[TraitDifference]) -> OddGpu:
    """What this node has that most of its kind have not: it may be why."""
    differs = [
        f"{difference.name}: {variant.value}, elsewhere {difference.variants[0].value}"
        for difference in found
        if _may_concern(difference, one)
        for variant in difference.variants[1:]
        if one.node in variant.nodes and variant.value is not None
    ]
    return dataclasses.replace(one, differs=tuple(differs[:MOST_REASONS]))


def _may_concern(difference: TraitDifference, one: OddGpu) -> bool:
    """Whether it is known to change times, and is not about another GPU of the node."""
    _, of_gpu, index = difference.name.rpartition(" of GPU ")
    return difference.why is not None and (not of_gpu or index == str(one.index))


def headline(report: FleetReport) -> str:
    """The answer in a few sentences: how many answered, what FP8 does there, which GPUs are odd, what differs."""
    gpus = sum(len(node.gpus) for node in report.nodes)
    said = [f"{_many(len(report.nodes), 'node')} ({_many(gpus, 'GPU')}) answered"]
    if report.missing:
        said[0] += f", {len(report.missing):,} did not"
    ready = sum(len(one.nodes) for one in report.groups if one.status == "ready")
    said.append(_fp8(report, ready))
    said.append(_odd(report))
    if report.differences:
        said.append(f"{_many(len(report.differences), 'difference')} between nodes with the same GPUs")
    return ". ".join(one for one in said if one) + "."


def _fp8(report: FleetReport, ready: int) -> str:
    count = len(report.nodes)
    if not count:
        return ""
    if ready == count:
        return "FP8 pays there" if count == 1 else f"FP8 pays on all {count:,} nodes"
    by_status = {
        "broken": "FP8 does not run on {}",
        "unavailable": "no FP8 compute on {}",
        "slow": "FP8 gains nothing on {}",
        "unknown": "whether FP8 pays is not known on {}",
    }
    counts = {status: sum(len(one.nodes) for one in report.groups if one.status == status) for status in by_status}
    parts = [f"FP8 pays on {ready}"] if ready else []
    parts += [words.format(counts[status]) for status, words in by_status.items() if counts[status]]
    said = "; ".join(parts)
    return said[:1].upper() + said[1:]


def _odd(report: FleetReport) -> str:
    if not report.odd:
        measured = sum(spread.gpus for spread in report.spreads if spread.measure != "copy")
        return f"None of {_many(measured, 'measured GPU')} is slower than its kind" if measured > 1 else ""
    first = report.odd[0]
    worst = f"{first.node} GPU {first.index}, {first.slower_percent:.1f} % slower than the median of its kind"
    gpus = {(one.node, one.index) for one in report.odd}
    return f"The odd one is {worst}" if len(gpus) == 1 else f"{len(gpus)} GPUs are odd ones, the slowest {worst}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


__all__ = ["gpus_of", "gpus_text", "headline", "merge", "read_files"]
