"""What was seen of the machine round the GPU."""

from __future__ import annotations

from dataclasses import dataclass

from fp8doctor.model import Facts


@dataclass(frozen=True)
class Machine(Facts, key="machine"):
    """CPU, memory, container and the environment variables that concern GPUs."""

    os: str | None = None
    kernel: str | None = None
    architecture: str | None = None
    # Of the Python that runs fp8doctor itself.
    python: str | None = None
    cpu: str | None = None
    logical_cpus: int | None = None
    # CPUs that this process may be scheduled on.
    affinity_cpus: int | None = None
    # The cgroup's CPU quota, in cores; None where there is none.
    cpu_quota_cores: float | None = None
    # The smaller of quota and affinity.
    usable_cores: float | None = None
    # Of the scheduling periods in which the cgroup ran, the share in which it was stopped for having used its quota.
    cpu_throttled_share: float | None = None
    load_average_1min: float | None = None
    memory_total_mib: float | None = None
    memory_available_mib: float | None = None
    # The cgroup's limit; None where there is none.
    memory_limit_mib: float | None = None
    shm_total_mib: float | None = None
    shm_free_mib: float | None = None
    # "docker", "podman", "kubernetes", "apptainer", another name that it gives itself, or "none"
    container: str | None = None
    wsl: bool | None = None
    # The CPU says that a hypervisor is below it.
    virtual_machine: bool | None = None
    mps_daemon: bool | None = None
    # The variables of `fp8doctor.variables.KEPT` that are set, with their values.
    environment: dict[str, str] | None = None
