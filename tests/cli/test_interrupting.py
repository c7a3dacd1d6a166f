"""SIGTERM and Ctrl-C end an examination with the report of what was learnt, and leave no process behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.ward.fault import Ground


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_learnt_is_reported(number: signal.Signals, tmp_path: Path) -> None:
    ground = Ground(tmp_path / "ground")
    reached = tmp_path / "reached"
    ground.stated_torch()
    ground.site.module("flash_attn", f"open({str(reached)!r}, 'w').close()\nimport time\ntime.sleep(300)\n")
    command = [sys.executable, "-m", "fp8doctor", "--quick", "--json", "--budget", "120", "--python", ground.python]
    doctor = subprocess.Popen(
        command,
        env=ground.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background of a shell has them ignore Ctrl-C, which is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until = time.monotonic() + 60
    while not reached.exists() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(1.0)
    children = psutil.Process(doctor.pid).children(recursive=True)
    assert children
    doctor.send_signal(number)
    output, errors = doctor.communicate(timeout=30)
    report = json.loads(output)
    assert "interrupted" in errors
    assert report["verdict"]["headline"].startswith("The examination was interrupted.")
    assert report["probes"]["flash_attention"]["outcome"] == "skipped"
    assert report["probes"]["machine"]["outcome"] == "ok"
    assert psutil.wait_procs(children, timeout=5)[1] == []
