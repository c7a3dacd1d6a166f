"""What counts as a change of the box, and what does not."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fp8doctor import api
from fp8doctor.checks.gpu.facts import Gpus
from fp8doctor.differing import difference
from fp8doctor.differing.gathering import gather
from fp8doctor.model import Trait
from fp8doctor.plain import to_plain
from fp8doctor.registry import traits
from tests.difference_cases import NAMES, Document, both, changed, document, fact, recorded


def names(difference: Any) -> list[str]:
    return [change.name for change in difference.changes]


@pytest.mark.parametrize("name", NAMES)
def test_a_box_and_itself_have_no_difference(name: str) -> None:
    found = api.diff(recorded(name), recorded(name))
    assert [found.changes, found.conditions, found.not_known, found.explanations] == [(), (), (), ()]
    assert found.times.shifts == ()
    assert found.times.alike == found.times.compared
    assert {one.what for one in found.finding_changes} <= {"stayed"}
    assert found.headline.startswith("No difference")


def test_what_a_moment_brings_is_no_change() -> None:
    """Temperatures, free memory, load, process numbers, identities and how long probes took differ in any two runs."""

    def moment(facts: Document) -> None:
        gpu = facts["gpus"]["gpus"][0]
        gpu |= {"uuid": "GPU-1", "pci_bus_id": "1", "temperature_c": 71.0, "power_w": 400.0, "memory_used_mib": 3000.0}
        gpu |= {"sm_clock_mhz": 345, "utilization_percent": 99, "clock_event_reasons": ["GpuIdle"]}
        facts["machine"] |= {"load_average_1min": 14.0, "memory_available_mib": 5.0, "shm_free_mib": 1.0}
        facts["torch_build"]["import_s"] = 99.0
        facts["linear"] |= {"took_s": 1.0, "warm_up_s": 9.0}
        facts["linear"]["cases"].reverse()

    found = api.diff(recorded(), changed(moment))
    assert [found.changes, found.conditions, found.not_known] == [(), (), ()]
    assert found.times.shifts == ()


@pytest.mark.parametrize(
    ("path", "value", "kind", "name", "after"),
    [
        ("torch_build.version", "2.12.0+cu130", "software", "torch", "2.12.0+cu130"),
        ("torch_build.cuda", "12.8", "software", "CUDA of torch", "12.8"),
        ("driver.version", "590.10", "software", "driver", "590.10"),
        ("libraries.installed.torchao", "0.18.0", "software", "torchao", "0.18.0"),
        ("libraries.installed.fbgemm-gpu", "1.5.0", "software", "fbgemm-gpu", "1.5.0"),
        ("libraries.cudnn_version", "9.10.2", "software", "cuDNN that torch loads", "9.10.2"),
        ("gpus.gpus.0.power_limit_w", 450.0, "setting", "power limit", 450.0),
        ("gpus.gpus.0.mig_enabled", True, "hardware", "MIG", True),
        ("gpus.gpus.0.application_clock_mhz", 1200, "setting", "SM clock that is set", 1200),
        ("machine.environment.CUDA_LAUNCH_BLOCKING", "1", "setting", "CUDA_LAUNCH_BLOCKING", "1"),
        ("compiler.switches.TORCH_COMPILE_DISABLE", "1", "setting", "TORCH_COMPILE_DISABLE", "1"),
        ("machine.usable_cores", 2.0, "setting", "usable cores", 2.0),
        ("attention.default_backend", "math", "software", "attention that torch picks", "math"),
    ],
)
def test_what_lasts_is_a_change_when_it_differs(path: str, value: Any, kind: str, name: str, after: Any) -> None:
    found = api.diff(recorded(), changed(fact(path, value)))
    assert [(one.kind, one.name, one.after) for one in found.changes] == [(kind, name, after)]


def test_a_variable_that_was_unset_and_a_package_that_went_are_told_so() -> None:
    def went(facts: Document) -> None:
        del facts["machine"]["environment"]["CUDA_HOME"]
        del facts["libraries"]["installed"]["peft"]

    after = {change.name: change.after for change in api.diff(recorded(), changed(went)).changes}
    assert after == {"CUDA_HOME": "not set", "peft": "not installed"}


def test_what_one_report_alone_tells_is_no_change() -> None:
    silent = both(fact("gpus.gpus.0.power_limit_w", None), fact("driver.version", None), fact("machine.cpu", None))
    found = api.diff(recorded(), changed(silent))
    assert found.changes == ()
    assert {(one.name, one.not_in) for one in found.not_known} == {
        ("power limit", "after"),
        ("driver", "after"),
        ("CPU", "after"),
    }


def test_a_package_is_gone_only_where_the_list_is_whole() -> None:
    def partial(facts: Document) -> None:
        facts["libraries"] |= {"installed": {"torch": "2.11.0"}, "absent": [], "complete": False}

    found = api.diff(recorded(), changed(partial))
    assert found.changes == ()
    assert "torchao" in {one.name for one in found.not_known}


@pytest.mark.parametrize("key", sorted(document()["facts"]))
def test_a_recording_without_some_facts_is_compared_by_the_others(key: str) -> None:
    """As every older recording is: it has no facts of subjects that are younger."""
    for pair in ((recorded(), changed(fact(key, None))), (changed(fact(key, None)), recorded())):
        found = api.diff(*pair)
        assert found.changes == ()
        assert found.times.shifts == ()
        assert {one.what for one in found.finding_changes} <= {"stayed", "not-told"}


@pytest.mark.parametrize("name", NAMES)
def test_traits_speak_of_facts_that_are_there(name: str) -> None:
    report, registry = recorded(name), api.knowledge()
    for trait, _ in gather(report, registry).traits.values():
        assert trait.value is None or isinstance(trait.value, (str, int, float, bool)), trait
        assert trait.fact, trait
        assert trait.fact.partition(".")[0] in registry.facts_types, trait
        assert trait.tolerance == 0 or isinstance(trait.value, (int, float)) or trait.value is None, trait


def test_a_difference_can_be_written_down() -> None:
    found = api.diff(recorded(), recorded("no-gpu"))
    assert to_plain(found)["gpus"] == "different"


def test_a_subject_that_fails_costs_itself_alone() -> None:
    @traits
    def failing(gpus: Gpus) -> list[Trait]:
        """What a plug-in may do."""
        raise ValueError("a plug-in's own fault")

    registry = copy.copy(api.knowledge())
    registry.makers = [getattr(failing, "__fp8doctor__"), *registry.makers]  # noqa: B009
    found = difference(recorded(), changed(fact("driver.version", "590.10")), registry)
    assert names(found) == ["driver"]


def test_many_threads_get_the_same_answer() -> None:
    """Two boxes in turn: what one thread looked at last is not what another compares."""
    pairs = [(recorded(), recorded("h200-torch-only")), (recorded("h200-torch-only"), recorded())] * 4
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda pair: api.diff(*pair), pairs))
    assert found[::2] == [found[0]] * 4
    assert found[1::2] == [found[1]] * 4
