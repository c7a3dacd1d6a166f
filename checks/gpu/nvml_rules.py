"""Can NVIDIA's management library be used at all?"""

from __future__ import annotations

import re
import shlex
from dataclasses import replace

from fp8doctor.checks.driver import MISMATCH, Driver
from fp8doctor.checks.gpu.facts import Gpu, Gpus
from fp8doctor.checks.gpu.nvml import CRASHED, LIBRARY_BROKEN, NO_ANSWER, NOT_INSTALLED, in_words
from fp8doctor.checks.gpu.rules import about, path
from fp8doctor.model import (
    Action,
    ErrorText,
    Evidence,
    Finding,
    NotApplicable,
    ProbeRun,
    RuleResult,
    Severity,
    observed,
)
from fp8doctor.registry import rule

# NVML's errors that other rules speak of: DRV002, and GPU002 with what else was seen of driver and bus.
_SAID_ELSEWHERE = (MISMATCH, "LIBRARY_NOT_FOUND", "DRIVER_NOT_LOADED", "NO_PERMISSION")
_NVIDIA_SMI = Action("See what NVIDIA's own tool says.", "nvidia-smi")
_XID = Action("Look for Xid messages in the kernel log.", "sudo dmesg | grep -i xid")
_REINSTALL = Action("Reinstall the driver and restart the machine (on the host, if this is a container).", safe=False)
# By NVML's error: the title, and what to do.
UNUSABLE: dict[str, tuple[str, tuple[Action, ...]]] = {
    NO_ANSWER: (
        "NVIDIA's management library does not come back: the driver hangs",
        (
            Action("See whether NVIDIA's own tool ends, and after how long.", "time timeout 120 nvidia-smi"),
            _XID,
            Action("If it ends, only late, keep the GPUs awake.", "sudo nvidia-smi -pm 1", safe=False),
            Action("If it does not, restart the machine.", "sudo reboot", safe=False),
        ),
    ),
    CRASHED: ("NVIDIA's management library crashes", (_NVIDIA_SMI, _REINSTALL)),
    LIBRARY_BROKEN: (
        "NVIDIA's management library is there and cannot be loaded",
        (
            Action(
                "Look at that file, and remove it if the driver did not bring it: an image that was built with"
                " NVIDIA's runtime keeps empty files of the driver's libraries."
            ),
            _REINSTALL,
        ),
    ),
    NOT_INSTALLED: (
        "fp8doctor cannot use its own nvidia-ml-py, so that no GPU was asked",
        (
            Action("See which module is found by that name.", 'python -c "import pynvml; print(pynvml.__file__)"'),
            Action(
                "Take it out of PYTHONPATH if it is another one, or install it where fp8doctor is installed.",
                "python -m pip install --force-reinstall nvidia-ml-py",
            ),
        ),
    ),
    "UNKNOWN": (
        'NVML says no more than "unknown error"',
        (
            Action(
                "If this is a container that had its GPUs before, start it anew: `systemctl daemon-reload` on the host"
                " takes them away."
            ),
            _NVIDIA_SMI,
        ),
    ),
}


@rule(
    "GPU012", "nvml-unusable", Severity.ERROR, scope="box", explains=("no-gpu-visible", "gpu-lost", "cuda-init-failed")
)
def nvml_unusable(driver: ProbeRun[Driver], gpus: Gpus | None) -> RuleResult:
    """NVIDIA's management library cannot be used.

    What it means: the library is there, and opening it hangs, crashes, fails with an error that names no cause, or is
    refused by the loader. A driver that hangs holds nvidia-smi and CUDA as well. A container on a host whose systemd
    manages its cgroups loses its GPUs at a `systemctl daemon-reload`, and NVML then knows only an unknown error. A
    library file that is empty or no library is a leftover, often of an image that was built with NVIDIA's runtime.

    Why it costs time: where it is the driver that hangs or crashes, programs do likewise; in any case nothing can be
    said of clocks, limits and neighbours of the GPUs.

    What to do: run nvidia-smi; what it does, the driver does. Opening takes long where the GPUs must be woken first:
    persistence mode keeps them awake. Start a container anew that has lost its GPUs. Delete library files that the
    driver did not bring.

    Sources: nvidia-ml-py (error codes); NVIDIA, Driver Persistence; NVIDIA/nvidia-docker#1730 (daemon-reload);
    NVIDIA/libnvidia-container#140 (empty library files).
    """
    seen = observed(driver.facts, "the driver")
    shown = (gpus.gpus if gpus else None) or ()
    crashes = [_crash(gpu) for gpu in shown if (gpu.failure or "").startswith(CRASHED)]
    if crashes:
        return [*crashes]
    error = seen.nvml_error
    if error is None and driver.outcome == "timeout":
        error = f"{NO_ANSWER}: {driver.detail or 'the driver was still being asked when the time was over'}"
    if error is None and len(shown) > 1 and all((gpu.failure or "").startswith(NO_ANSWER) for gpu in shown):
        error = shown[0].failure
    if error is None:
        observed(seen.installed, "whether NVML answers")
        return None
    if error.startswith(_SAID_ELSEWHERE):
        return NotApplicable(f"NVML says why: {error}")
    name = error.partition(": ")[0]
    # An unknown name stays: words may be a secret that only the name before them gives away.
    title, actions = UNUSABLE.get(name, (f"NVML cannot be opened: {error}", (_NVIDIA_SMI, _XID)))
    if name == NOT_INSTALLED and driver.interpreter:  # fp8doctor's own, which need not be the examined one
        python = shlex.quote(driver.interpreter)
        actions = tuple(replace(a, command=re.sub(r"^python\b", lambda _: python, a.command or "")) for a in actions)
    return Finding(
        title=title,
        evidence=(Evidence(in_words(error), error, fact="driver.nvml_error"),),
        actions=actions,
        severity=Severity.WARNING if name == NOT_INSTALLED else None,
    )


def _crash(gpu: Gpu) -> Finding:
    return Finding(
        title=f"NVIDIA's management library crashes when it is asked about GPU {gpu.index}",
        evidence=(Evidence(in_words(gpu.failure or CRASHED), gpu.failure, fact=path(gpu, "failure")),),
        actions=UNUSABLE[CRASHED][1],
        severity=Severity.WARNING,
        about=about(gpu),
    )


ERROR_TEXTS = (
    ErrorText(
        r"Failed to initialize NVML: Unknown Error",
        rule="GPU012",
        fix="If this is a container that had its GPUs before, start it anew.",
        title='NVML says no more than "unknown error"',
    ),
)
