"""Does the machine hold the GPU back?"""

from __future__ import annotations

from fp8doctor.checks.gpu import Gpus
from fp8doctor.checks.libraries import Libraries
from fp8doctor.checks.machine.environment import HARMS, Harm
from fp8doctor.checks.machine.facts import Machine
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, RuleResult, Severity, observed
from fp8doctor.registry import rule

# One core for the thread that launches kernels, one for all else: torch's thread for the backward pass, workers that
# load data or compile, the driver. Below that the launching thread has to wait for its turn.
LEAST_CORES = 2.0
# What Docker gives a container that asks for nothing (docker run, --shm-size).
DEFAULT_SHM_MIB = 64.0


def _no_gpu(gpus: Gpus | None) -> NotApplicable | None:
    return NotApplicable("no GPU is visible") if gpus is not None and gpus.gpus == () else None


@rule("SYS001", "env-var-wrong", Severity.WARNING, scope="box")
def env_var_wrong(machine: Machine, gpus: Gpus | None, libraries: Libraries | None) -> RuleResult:
    """An environment variable slows the GPU or switches a fast path off.

    What it means: a variable is set to a value that is meant for debugging, or that takes a fast path away. Programs
    inherit it from the shell, the container image or the launcher.

    Why it costs time: each finding says what its variable does.

    What to do: unset it where it is set, unless it is meant. Setting it in Python after CUDA was initialised changes
    nothing.

    Sources: CUDA programming guide (environment variables; concurrent execution between host and device); PyTorch
    documentation (CUDA environment variables); NCCL user guide; docs/envvars.rst of Transformer Engine.
    """
    if no_gpu := _no_gpu(gpus):
        return no_gpu
    environment = observed(machine.environment, "the environment")
    return [
        Finding(
            f"{harm.variable}={harm.value} is set",
            (
                Evidence(
                    f"{harm.variable}={harm.value}: {harm.effect} ({harm.source})",
                    fact=f"machine.environment.{harm.variable}",
                ),
            ),
            (Action("Unset it.", f"unset {harm.variable}"),),
            about=f"variable:{harm.variable}",
            severity=harm.severity,
        )
        for harm in HARMS
        if environment.get(harm.variable) == harm.value and _matters(harm, gpus, libraries)
    ] or None


def _matters(harm: Harm, gpus: Gpus | None, libraries: Libraries | None) -> bool:
    enough = harm.gpus == 1 or (gpus is not None and len(gpus.gpus or ()) >= harm.gpus)
    read = harm.read_by is None or (libraries is not None and libraries.version(harm.read_by) is not None)
    return enough and read


@rule("SYS002", "cpu-quota-low", Severity.WARNING, scope="box", explains=("cpu-launch-bound",))
def cpu_quota_low(machine: Machine, gpus: Gpus | None) -> RuleResult:
    """The container or the scheduler gives this process less than two CPU cores.

    What it means: the cgroup's CPU quota, or the set of CPUs that the process may run on, leaves fewer than two
    cores. A process that has used its quota is stopped until the next period, 100 ms long by default.

    Why it costs time: kernels are launched from the CPU. FP8 launches more of them than BF16 for the same layer, and
    while the launching thread is stopped the GPU runs dry.

    What to do: give the container more CPU (docker run --cpus, or the CPU limit of the Kubernetes pod). CUDA graphs
    make launching cheaper where that is not possible.

    Sources: Linux kernel documentation, CFS bandwidth control (scheduler/sched-bwc) and cgroup v2 (cpu.max).
    """
    if no_gpu := _no_gpu(gpus):
        return no_gpu
    cores = observed(machine.usable_cores, "the number of CPU cores")
    if cores >= LEAST_CORES:
        return None
    counted = f"{cores:g} CPU core{'' if cores == 1 else 's'}"
    limits = f"quota {machine.cpu_quota_cores or 'none'}, CPUs it may run on: {machine.affinity_cpus}"
    evidence = [Evidence(f"{counted} ({limits})", cores, "cores", "machine.usable_cores")]
    if machine.cpu_throttled_share:
        text = f"stopped in {machine.cpu_throttled_share:.0%} of the scheduling periods so far"
        evidence.append(Evidence(text, machine.cpu_throttled_share, None, "machine.cpu_throttled_share"))
    return Finding(
        f"Only {counted} may be used to feed the GPU",
        tuple(evidence),
        (Action("Raise the CPU limit of the container, or the CPU set of the process"),),
    )


@rule("SYS003", "shared-memory-small", Severity.INFO, scope="box")
def shared_memory_small(machine: Machine) -> RuleResult:
    """The container's shared memory has Docker's default size.

    What it means: /dev/shm holds 64 MiB or less. torch passes batches from its data loading processes through it, and
    so do several GPUs' processes among themselves.

    Why it costs time: a training run dies with a bus error, or is run with num_workers=0, and then the GPU waits for
    data.

    What to do: start the container with a larger one, or with the host's.

    Sources: PyTorch's README (Docker image, on --ipc=host and --shm-size); docker run reference (--shm-size).
    """
    if observed(machine.container, "whether this is a container") == "none":
        return NotApplicable("this is no container")
    total = observed(machine.shm_total_mib, "the size of /dev/shm")
    if total > DEFAULT_SHM_MIB:
        return None
    return Finding(
        f"/dev/shm holds only {total:g} MiB",
        (Evidence(f"/dev/shm: {total:g} MiB", total, "MiB", "machine.shm_total_mib"),),
        (Action("Start the container with --shm-size=8g, or with --ipc=host"),),
    )
