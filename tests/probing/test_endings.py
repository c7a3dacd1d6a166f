"""Every way a child can end is told apart, and costs nothing but its own facts."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from fp8doctor.model import ProbeRun
from fp8doctor.plain import to_plain
from fp8doctor.probing import children, process
from fp8doctor.probing.schedule import child_environment

Run = Callable[..., ProbeRun[Any]]


def seen(ended: ProbeRun[Any]) -> Any:
    assert ended.facts is not None
    return ended.facts


def facts(ended: ProbeRun[Any]) -> Any:
    """The facts, without what was not observed."""
    return ended.facts and {name: value for name, value in to_plain(ended.facts).items() if value is not None}


def test_a_probe_that_returns_is_ok_and_its_facts_come_back_as_they_were(run: Run) -> None:
    ended = run("returns")
    assert (ended.outcome, ended.detail, ended.stderr_tail, ended.failed) == ("ok", None, None, False)
    assert facts(ended) == {"number": 1.5, "words": ["a", "b"]}
    assert isinstance(seen(ended).words, tuple)
    assert ended.elapsed_ms is not None
    assert ended.elapsed_ms > 0


@pytest.mark.parametrize(
    ("fault", "outcome", "detail"),
    [
        ("raises", "exception", "ValueError: the driver said no"),
        ("exits", "exception", "SystemExit: 5"),
        ("exits_at_once", "exit", "ended with status 0 before it reported"),
        ("raises_something_unprintable", "exception", "Silent"),
        ("raises_what_is_no_utf8", "exception", "OSError: /mnt/?/libcudnn.so"),
        ("aborts", "signal", "SIGABRT"),
        ("segfaults", "signal", "SIGSEGV"),
        ("is_killed", "signal", "SIGKILL"),
        ("closes_its_output", "exception", "ValueError: said into nothing"),
        ("gives_something_else", "exception", "TypeError: the probe gave a dict where it promised Trouble"),
        ("gives_nothing", "exception", "TypeError: the probe gave a NoneType where it promised Trouble"),
        ("gives_what_is_no_json", "exception", "TypeError: Object of type object is not JSON serializable"),
    ],
)
def test_each_end_has_its_name(run: Run, fault: str, outcome: str, detail: str) -> None:
    ended = run(fault)
    assert (ended.outcome, ended.detail, ended.facts) == (outcome, detail, None)
    assert ended.failed


def test_the_last_lines_that_it_printed_are_kept(run: Run) -> None:
    assert (run("segfaults").stderr_tail or "").startswith("about to read address 8")
    traceback = run("raises").stderr_tail or ""
    assert traceback.startswith("Traceback")
    assert traceback.endswith("ValueError: the driver said no")


@pytest.mark.parametrize("fault", ["hangs", "hangs_ignoring_signals"])
def test_a_probe_that_hangs_is_ended_at_its_deadline(run: Run, fault: str) -> None:
    started = time.monotonic()
    ended = run(fault, deadline_s=1)
    assert (ended.outcome, ended.detail) == ("timeout", "no end after 1 s")
    assert time.monotonic() - started < 20


def test_grandchildren_that_hold_the_pipes_are_ended_too(run: Run) -> None:
    started = time.monotonic()
    ended = run("leaves_grandchildren_behind")
    assert ended.outcome == "ok"
    assert time.monotonic() - started < 20
    assert is_gone(int(seen(ended).number))


def test_grandchildren_in_a_group_of_their_own_are_ended_with_a_child_that_hangs(run: Run) -> None:
    ended = run("leaves_one_in_a_group_of_its_own", deadline_s=4)
    assert ended.outcome == "timeout"
    found = re.search(r"pid (\d+)", ended.stderr_tail or "")
    assert found
    assert is_gone(int(found[1]))


def test_a_daemon_that_nobody_can_find_holds_nothing_up(run: Run) -> None:
    started, threads = time.monotonic(), threading.active_count()
    ended = run("leaves_one_that_nobody_can_find")
    assert ended.outcome == "ok"
    assert time.monotonic() - started < 30
    os.kill(int(seen(ended).number), signal.SIGKILL)
    while threading.active_count() > threads:  # who listens to it ends with it
        assert time.monotonic() - started < 60
        time.sleep(0.1)


def test_what_a_probe_prints_is_kept_to_its_end_and_within_bounds(run: Run) -> None:
    before = psutil.Process().memory_info().rss
    ended = run("prints_a_hundred_megabytes")
    assert ended.outcome == "ok"
    assert (ended.stderr_tail or "").endswith("x\nthe last line")
    assert len(ended.stderr_tail or "") <= process.OUTPUT_TAIL_BYTES
    assert psutil.Process().memory_info().rss - before < 30 << 20


def test_what_is_no_text_is_made_readable(run: Run) -> None:
    ended = run("prints_what_is_no_text")
    assert ended.outcome == "ok"
    (ended.stderr_tail or "").encode()


def test_a_probe_has_nothing_to_read(run: Run) -> None:
    assert facts(run("reads_its_input")) == {"words": [""]}


@pytest.mark.parametrize("fault", ["garbage", "no object", "empty object", "deep"])
def test_what_is_no_record_is_garbage(run: Run, fault: str) -> None:
    ended = run(fault)
    assert ended.outcome == "garbage"
    assert (ended.detail or "").startswith("a record that is no JSON object")
    assert len(ended.detail or "") < 500


def test_a_message_that_a_later_version_may_send_is_passed_over(run: Run) -> None:
    assert run("unknown message").outcome == "ok"


@pytest.mark.parametrize(
    ("fault", "detail"),
    [
        ("nan", "trouble.number is not a finite number"),
        ("1e999", "trouble.number is not a finite number"),
        ("unknown field", "unknown fields: trouble.nummer"),
        ("no text", "trouble.words.0 is no text"),
        ("gives_the_wrong_type", "trouble: Expected `float | null`, got `str` - at `$.number`"),
        ("facts of another kind", "trouble: Expected `object`, got `int`"),
    ],
)
def test_facts_that_break_their_own_form_are_garbage(run: Run, fault: str, detail: str) -> None:
    ended = run(fault)
    assert (ended.outcome, ended.detail, ended.facts) == ("garbage", detail, None)


def test_a_record_without_end_is_cut_and_the_one_before_it_counts(run: Run) -> None:
    ended = run("writes_a_record_too_long")
    assert (ended.outcome, ended.detail) == ("garbage", f"a record longer than {process.MAX_RECORD_BYTES} bytes")
    assert facts(ended) == {"number": 7.0}


def test_a_figure_that_is_not_finite_was_not_observed(run: Run) -> None:
    ended = run("gives_infinity")
    assert ended.outcome == "ok"
    assert seen(ended).number is None
    assert seen(ended).table == {"a": None, "b": 2.0}


def test_a_name_that_is_no_utf8_is_shown_with_a_question_mark(run: Run) -> None:
    assert facts(run("gives_what_is_no_utf8")) == {"words": ["/mnt/?", "ü"]}


def test_an_interpreter_that_cannot_be_started_is_said(run: Run, tmp_path: Path) -> None:
    ended = run("returns", interpreter=str(tmp_path / "python"))
    assert ended.outcome == "exit"
    assert "could not be started" in (ended.detail or "")


def when_reached(tmp_path: Path, then: Callable[[], None]) -> dict[str, str]:
    """Call `then` when the child has reached its point; the environment that tells the child how to say so."""
    mark = tmp_path / "reached"

    def wait() -> None:
        until = time.monotonic() + 30
        while not mark.exists() and time.monotonic() < until:
            time.sleep(0.02)
        then()

    threading.Thread(target=wait, daemon=True).start()
    return {**child_environment([], None)[0], "REACHED": str(mark)}


def test_cancelling_ends_the_child_and_keeps_what_it_said(run: Run, tmp_path: Path) -> None:
    cancel = threading.Event()
    environment = when_reached(tmp_path, cancel.set)
    ended = run("a hang", key="growth", deadline_s=60, cancel=cancel, environment=environment)
    assert (ended.outcome, ended.detail) == ("skipped", "interrupted")
    assert seen(ended).steps == ("a done",)
    assert (ended.elapsed_ms or 0) < 40_000


def test_no_descriptor_and_no_thread_is_left_over(run: Run) -> None:
    run("returns")
    descriptors, threads = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    for fault in ("returns", "aborts", "exits_at_once", "garbage", "writes_a_record_too_long"):
        run(fault)
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors
    assert threading.active_count() <= threads


# --- growing records


def test_a_growing_record_counts_as_far_as_it_came(run: Run) -> None:
    ended = run("a b hang hang hang hang", key="growth", deadline_s=5)
    assert ended.outcome == "timeout"
    assert seen(ended).steps[:2] == ("a done", "b done")
    assert seen(ended).attempting == "hang"


def test_after_a_crash_a_fresh_child_goes_on_from_the_record(run: Run) -> None:
    ended = run("a crash b raise c", key="growth")
    assert ended.outcome == "ok"
    assert seen(ended).steps == ("a done", "crash failed", "b done", "raise failed", "c done")
    assert seen(ended).children == 3
    assert seen(ended).ended == ("SIGABRT", "ValueError: step failed")
    assert ended.detail == "went on in a fresh child after: SIGABRT; ValueError: step failed"


def test_a_fresh_child_that_has_no_time_left_is_told_with_all_the_time_there_was(run: Run) -> None:
    ended = run("a crash hang", key="growth", deadline_s=6)
    assert ended.outcome == "timeout"
    assert ended.detail == "no end after 6 s in all; a fresh child had gone on after: SIGABRT"


def test_a_step_that_hangs_is_named_and_a_fresh_child_goes_on_after_it(run: Run) -> None:
    ended = run("a hang b", key="growth", deadline_s=14)
    assert ended.outcome == "ok"
    assert seen(ended).steps == ("a done", "hang failed", "b done")
    assert seen(ended).ended[0].startswith("no answer after ")


def test_a_crash_without_progress_ends_it(run: Run) -> None:
    ended = run("a unannounced b", key="growth")
    assert (ended.outcome, ended.detail) == ("signal", "SIGABRT")
    assert seen(ended).children == 1
    assert seen(ended).steps == ()


def test_it_is_not_begun_anew_without_end(run: Run) -> None:
    ended = run(" ".join(["crash"] * (children.MAX_RESTARTS + 2)), key="growth")
    assert ended.outcome == "signal"
    assert seen(ended).children == children.MAX_RESTARTS + 1


def test_a_hang_is_not_tried_again(run: Run) -> None:
    ended = run("hang a", key="growth", deadline_s=14)
    assert (ended.outcome, seen(ended).children) == ("ok", 2)
    assert seen(ended).steps == ("hang failed", "a done")


def test_a_fresh_child_is_told_the_time_that_is_left_and_not_the_whole(run: Run) -> None:
    ended = run("wait a", key="growth", seconds_left=50.0)
    assert ended.outcome == "ok"
    assert seen(ended).children == 2
    assert seen(ended).seconds_left < 49


def test_a_generator_that_yields_nothing_or_something_else_is_no_observation(run: Run) -> None:
    silent, odd = run("silent", key="growth"), run("odd", key="growth")
    assert (silent.outcome, silent.detail) == ("exception", "TypeError: the probe yielded no Growth")
    assert (odd.outcome, odd.detail) == ("exception", "TypeError: the probe gave a str where it promised Growth")


# --- watchers


def stopped_after(seconds: float, run: Run, workload: str) -> ProbeRun[Any]:
    stop = threading.Event()
    timer = threading.Timer(seconds, stop.set)
    timer.start()
    ended = run(workload, key="samples", stop=stop)
    timer.cancel()
    return ended


def test_a_watcher_is_stopped_and_its_last_whole_record_counts(run: Run, tmp_path: Path) -> None:
    stop = threading.Event()
    ended = run("steady", key="samples", stop=stop, environment=when_reached(tmp_path, stop.set))
    assert (ended.outcome, ended.detail) == ("ok", None)
    assert seen(ended).count >= 6


def test_a_watcher_that_saw_nothing_is_not_ok(run: Run) -> None:
    ended = stopped_after(0.5, run, "slow")
    assert (ended.outcome, ended.facts) == ("skipped", None)
    assert ended.detail == "nothing was timed long enough to be watched"


def test_a_watcher_that_crashes_is_a_crash(run: Run) -> None:
    ended = stopped_after(20.0, run, "crash")
    assert ended.outcome == "signal"
    assert seen(ended).count == 1


def is_gone(pid: int) -> bool:
    for _ in range(100):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False
