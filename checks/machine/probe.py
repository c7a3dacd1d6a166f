"""Looking at CPU, memory, container and environment, without root."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

from fp8doctor.checks.machine.facts import Machine
from fp8doctor.model import Request
from fp8doctor.registry import probe
from fp8doctor.variables import kept

MIB = 1 << 20
CGROUPS = Path("/sys/fs/cgroup")
# cgroup v1 says "no limit" with the largest multiple of a page below 2^63.
NO_LIMIT_BYTES = 1 << 60


@probe(runs_in="tool", timeout_s=20)
def gather(request: Request) -> Machine:
    """Looking at CPU, memory and environment."""
    import psutil

    memory = psutil.virtual_memory()
    cpuinfo = _read("/proc/cpuinfo")
    membership = _read("/proc/self/cgroup")
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    quota = cpu_quota_cores(CGROUPS, membership)
    shm_total, shm_free = _shared_memory()
    return Machine(
        os=_os_name(),
        kernel=platform.release(),
        architecture=platform.machine(),
        python=platform.python_version(),
        cpu=_field(cpuinfo, "model name"),
        logical_cpus=os.cpu_count(),
        affinity_cpus=affinity,
        cpu_quota_cores=quota,
        usable_cores=min((float(c) for c in (quota, affinity) if c is not None), default=None),
        cpu_throttled_share=throttled_share(CGROUPS, membership),
        load_average_1min=round(os.getloadavg()[0], 2),
        memory_total_mib=round(memory.total / MIB, 1),
        memory_available_mib=round(memory.available / MIB, 1),
        memory_limit_mib=memory_limit_mib(CGROUPS, membership),
        shm_total_mib=shm_total,
        shm_free_mib=shm_free,
        container=_container(),
        # systemd looks for "Microsoft" and "WSL" there (detect_container in its src/basic/virt.c).
        wsl=any(word in platform.release() for word in ("microsoft", "Microsoft", "WSL")),
        virtual_machine="hypervisor" in (_field(cpuinfo, "flags") or "").split() if cpuinfo else None,
        mps_daemon=_mps_runs(),
        environment=kept(os.environ),
    )


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _field(cpuinfo: str, name: str) -> str | None:
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def _cgroup_folders(root: Path, membership: str, controller: str) -> Iterator[tuple[int, Path]]:
    """The folders whose limits hold for this process, each with the cgroup version, from its own up to the root.

    Args:
        root: where cgroups are mounted.
        membership: the text of /proc/self/cgroup.
        controller: "cpu" or "memory".
    """
    for line in membership.splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        unified = hierarchy == "0" and not controllers
        if not unified and controller not in controllers.split(","):
            continue
        mounts = (root,) if unified else (root / controllers, root / controller)
        base = next((mount for mount in mounts if mount.is_dir()), None)
        if base is None:
            continue
        # In a container the path may be the host's, of which only the root is mounted here.
        for folder in (base / path.lstrip("/"), *(base / path.lstrip("/")).parents):
            if folder == base or base in folder.parents:
                yield (2 if unified else 1), folder


def cpu_quota_cores(root: Path, membership: str) -> float | None:
    """The smallest CPU quota that holds for this process, in cores; None if there is none."""
    quotas = []
    for version, folder in _cgroup_folders(root, membership, "cpu"):
        if version == 2:
            words = _read(folder / "cpu.max").split()
        else:
            words = [*_read(folder / "cpu.cfs_quota_us").split(), *_read(folder / "cpu.cfs_period_us").split()]
        if len(words) == 2 and words[0].isdigit() and int(words[1]) > 0:  # "max" and -1 are no quota
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def throttled_share(root: Path, membership: str) -> float | None:
    """The share of scheduling periods in which a quota stopped this process's cgroup; None without a quota."""
    shares = []
    for _, folder in _cgroup_folders(root, membership, "cpu"):
        stat = dict(line.split(maxsplit=1) for line in _read(folder / "cpu.stat").splitlines() if " " in line)
        periods = int(stat.get("nr_periods", "0"))
        if periods > 0:
            shares.append(int(stat.get("nr_throttled", "0")) / periods)
    return round(max(shares), 4) if shares else None


def memory_limit_mib(root: Path, membership: str) -> float | None:
    """The smallest memory limit that holds for this process; None if there is none."""
    limits = []
    for version, folder in _cgroup_folders(root, membership, "memory"):
        text = _read(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes")).strip()
        if text.isdigit() and int(text) < NO_LIMIT_BYTES:
            limits.append(int(text))
    return round(min(limits) / MIB, 1) if limits else None


def _shared_memory() -> tuple[float | None, float | None]:
    try:
        stat = os.statvfs("/dev/shm")
    except OSError:
        return None, None
    return round(stat.f_frsize * stat.f_blocks / MIB, 1), round(stat.f_frsize * stat.f_bavail / MIB, 1)


def _container() -> str:
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    if "APPTAINER_NAME" in os.environ or "SINGULARITY_NAME" in os.environ:
        return "apptainer"
    if Path("/run/.containerenv").exists():
        return "podman"
    if Path("/.dockerenv").exists():
        return "docker"
    # systemd's container interface: a manager puts its name there.
    return os.environ.get("container") or "none"  # noqa: SIM112


def _mps_runs() -> bool:
    import psutil

    return any((process.info["name"] or "").startswith("nvidia-cuda-mps") for process in psutil.process_iter(["name"]))
