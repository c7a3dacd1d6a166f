"""All that is built in, seen together: what one subject names of another is there."""

from __future__ import annotations

import re

import pytest

from fp8doctor.registry import Registry, load


@pytest.fixture(scope="module")
def knowledge() -> Registry:
    return load(plugins=[])


def test_every_need_is_gathered_or_read(knowledge: Registry) -> None:
    known = set(knowledge.facts_types)
    all_needs = [
        *(probe.needs for probe in knowledge.probes.values()),
        *(rule.needs for rule in knowledge.rules.values()),
        *(maker.needs for maker in knowledge.makers),
    ]
    assert {need.key for needs in all_needs for need in needs.values()} <= known


def test_no_probes_wait_for_one_another_and_none_waits_for_what_is_timed_later(knowledge: Registry) -> None:
    waiting = dict(knowledge.probes)
    while ready := [key for key, p in waiting.items() if not {n.key for n in p.needs.values()} & waiting.keys()]:
        for key in ready:
            del waiting[key]
    assert list(waiting) == []
    timed = {key for key, p in knowledge.probes.items() if p.times_gpu or p.watches}
    early = [p for key, p in knowledge.probes.items() if key not in timed]
    assert [p.key for p in early if {n.key for n in p.needs.values()} & timed] == []


def test_every_message_settles_a_rule_that_is_there(knowledge: Registry) -> None:
    assert [text for text in knowledge.error_texts if text.rule not in knowledge.rules] == []


def test_every_name_that_a_rule_explains_is_a_rules(knowledge: Registry) -> None:
    names = {rule.name for rule in knowledge.rules.values()}
    assert {(r.id, name) for r in knowledge.rules.values() for name in r.explains if name not in names} == set()


def test_every_question_of_the_verdict_is_settled_by_some_rule(knowledge: Registry) -> None:
    assert {rule.settles for rule in knowledge.rules.values()} >= {"hardware", "software", "runs"}


def test_every_page_has_its_four_sections(knowledge: Registry) -> None:
    for rule in knowledge.rules.values():
        places = [rule.page.find(f"\n{name}: ") for name in ("What it means", "Why it costs time", "What to do")]
        places.append(rule.page.find("\nSources:"))
        assert -1 not in places, f"{rule.id} lacks a section"
        assert places == sorted(places), f"{rule.id} has its sections in another order"


def test_every_built_in_pattern_compiles(knowledge: Registry) -> None:
    for pattern in [text.pattern for text in knowledge.error_texts] + [kernel.pattern for kernel in knowledge.kernels]:
        re.compile(pattern)
