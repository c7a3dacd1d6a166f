"""Is somebody else on the GPU, and does that touch what is measured here?"""

from __future__ import annotations

import re

from fp8doctor.checks.gpu.clocks import Clocks
from fp8doctor.checks.gpu.facts import Gpu, Gpus
from fp8doctor.checks.gpu.neighbours import Neighbour
from fp8doctor.checks.gpu.rules import about, each, label, path
from fp8doctor.model import Action, Evidence, Finding, RuleResult, Severity, Verdict, observed
from fp8doctor.registry import rule

# What another process must hold to count: a CUDA context alone takes a few hundred MiB, MPS servers and desktops less.
PROCESS_MIB = 128.0
# Memory of processes that cannot be seen from here (they live in other containers) may be the doctor's own probes',
# which run meanwhile: a context and small tensors each. What they cannot hold together is someone else's.
UNSEEN_MIB_BESIDE_PROBES = 8192.0
UNSEEN_MIB = 2048.0
# While the doctor does nothing, a GPU that works half of the time works for someone else.
BUSY_PERCENT = 50
# Less than this of the SMs' time is a monitor or a program that waits.
WORKING_PERCENT = 5
# One that was seen once may have been ending while it was looked at.
LEAST_LOOKS = 2
# A program of torch that multiplied 8,192 x 8,192 in BF16 held 874 MiB of an H200, 384 of them for the matrices
# (benchmarks/RESULTS.md): with less than this no layer is multiplied.
LEAST_FREE_MIB = 1024.0
# Boards whose memory the operating system manages (it keeps pages after a process has ended, says NVML's page on
# nvmlDeviceGetMemoryInfo_v2): there, used memory is nobody's in particular.
SYSTEM_MANAGED = re.compile(r"\bG[HB]\d+\b")
SEE_WHO = "nvidia-smi"
SEE_WHO_HOLDS = "nvidia-smi --query-compute-apps=pid,name,used_memory --format=csv"


@rule(
    "GPU004",
    "gpu-shared-or-mig",
    Severity.WARNING,
    scope="box",
    explains=("times-put-aside", "gpu-slower-than-its-kind", "gpus-slow-one-another"),
)
def shared_or_mig(gpus: Gpus, clocks: Clocks | None) -> RuleResult:
    """The GPU is shared, or only a slice of it is used.

    What it means: another process holds memory or keeps the GPU busy, came while the GPU was timed, clients share it
    through MPS, or MIG cuts it into slices. Processes in other containers may be hidden; their memory is not. The
    memory of graphics processes (a desktop, a browser) is not counted where the driver lists them. Memory that is held
    while nothing was seen to work is only told.

    Why it costs time: programs on one GPU take turns, unless MPS joins them. A program gets a part of the time, so its
    steps take longer; it also gets a part of the power, so the clock is lower. A single short kernel fits into one turn
    and may show nothing of that: beside another program that multiplied all the time, nine in ten of 179 median times
    of single layers on an H200 were 0.95 to 1.08 times those of a quiet GPU, and the worst was 3.7 times; large grouped
    products took up to 2.6 times. A slice has a part of the SMs and of the bandwidth, so the full board's figures do
    not hold for it.

    What to do: time again when the GPU is alone; times that were taken while another program computed are left out of
    everything that is said here. On a slice, compare with the slice's share; utilisation
    reads 0 on MIG.

    Sources: nvidia-ml-py, nvmlDeviceGetComputeRunningProcesses, nvmlDeviceGetProcessUtilization,
    nvmlDeviceGetGraphicsRunningProcesses, nvmlDeviceGetMigMode; Syllo/nvtop#256; pytorch/pytorch#14531 (two processes:
    each takes twice as long); benchmarks/RESULTS.md.
    """
    return each(gpus, lambda gpu: _shared(gpu, gpus.doctor_idle, clocks))


def _shared(gpu: Gpu, doctor_idle: bool | None, clocks: Clocks | None) -> Verdict:
    if gpu.mig_enabled or re.search(r" MIG\b", gpu.name or ""):  # torch and nvidia-smi name slices so
        size = f"; torch sees {gpu.sm_count} SMs of it" if gpu.sm_count else ""
        return Finding(
            title=f"MIG is on: programs get a slice of the {label(gpu)}",
            evidence=(Evidence(f"MIG mode is on{size}", True, fact=path(gpu, "mig_enabled")),),
            actions=(Action("Compare with the slice's share of the board, and list the slices.", "nvidia-smi -L"),),
            about=about(gpu),
        )
    held = _held(gpu, doctor_idle)
    came = _came(gpu, clocks)
    working = _busy(gpu, doctor_idle) + tuple(text for text, works in came if works)
    if not held and not working and not came:
        if gpu.processes is None:
            observed(gpu.memory_used_mib, f"who else uses {label(gpu)}")
        return None
    if not working:
        return Finding(
            title=f"Others hold memory of {label(gpu)}",
            evidence=held + tuple(text for text, _ in came),
            actions=(Action("See who holds it, if the memory is wanted.", SEE_WHO),),
            about=about(gpu),
            severity=Severity.INFO,
        )
    return Finding(
        title=f"{label(gpu)} is not alone: someone else computed on it while it was looked at",
        evidence=held + working,
        actions=(Action("See who uses it, and measure when it is alone.", SEE_WHO),),
        about=about(gpu),
    )


def _held(gpu: Gpu, doctor_idle: bool | None) -> tuple[Evidence, ...]:
    """What others hold, which alone says nothing about times: a program that waits holds its memory, too."""
    evidence = []
    seen = [p for p in gpu.processes or () if p.pid is not None and (p.used_memory_mib or 0) >= PROCESS_MIB]
    if seen:
        held = sum(p.used_memory_mib or 0 for p in seen)
        many = f"{len(seen)} other process{'es hold' if len(seen) > 1 else ' holds'}"
        evidence.append(Evidence(f"{many} {held / 1024:.1f} GiB", held, "MiB", path(gpu, "processes")))
    listed = sum(p.used_memory_mib or 0 for p in gpu.processes or () if p.pid is not None)
    unseen = (gpu.memory_used_mib or 0) - listed - (gpu.graphics_memory_mib or 0)
    least = UNSEEN_MIB if doctor_idle else UNSEEN_MIB_BESIDE_PROBES
    if unseen >= least and not SYSTEM_MANAGED.search(gpu.name or ""):
        text = f"{unseen / 1024:.1f} GiB are held by what is not listed as a process here"
        evidence.append(Evidence(text, unseen, "MiB", path(gpu, "memory_used_mib")))
    return tuple(evidence)


def keeps_busy(gpu: Gpu, doctor_idle: bool | None) -> bool:
    """Whether the GPU worked for someone else while it was looked at, before anything was timed."""
    return any(evidence.fact == path(gpu, "utilization_percent") for evidence in _busy(gpu, doctor_idle))


def _busy(gpu: Gpu, doctor_idle: bool | None) -> tuple[Evidence, ...]:
    return _working(gpu, bool(doctor_idle or _held(gpu, doctor_idle)))


def _working(gpu: Gpu, by_others: bool) -> tuple[Evidence, ...]:
    """Signs that others compute; `by_others` says whether the GPU's work may be put down to them."""
    evidence = []
    busy = gpu.utilization_percent
    if busy is not None and busy >= BUSY_PERCENT and by_others:
        text = f"busy {busy} % of the time while the doctor looked"
        evidence.append(Evidence(text, busy, "%", path(gpu, "utilization_percent")))
    if gpu.mps_active:
        evidence.append(Evidence("other programs compute on it through MPS", True, fact=path(gpu, "mps_active")))
    return tuple(evidence)


def _came(gpu: Gpu, clocks: Clocks | None) -> list[tuple[Evidence, bool]]:
    """The processes that were on this GPU while it was timed, each with whether it may have computed."""
    if clocks is None or clocks.gpu_index is None or clocks.gpu_index != gpu.index:
        return []
    # Who was there before and waited is told by what it holds.
    before = bool(gpu.processes)
    return [
        (_seen_there(one), (one.sm_percent or 0) >= WORKING_PERCENT)
        for one in clocks.neighbours or ()
        if (one.looks or 0) >= LEAST_LOOKS and not (before and (one.sm_percent or 0) < WORKING_PERCENT)
    ]


def _seen_there(one: Neighbour) -> Evidence:
    span = f"from second {one.first_t_s or 0:.0f} to {one.last_t_s or 0:.0f} of this run"
    part = "" if one.sm_percent is None else f", and took up to {one.sm_percent} % of the time of the SMs"
    return Evidence(
        f"while the GPU was timed another process was on it {span}{part}", one.sm_percent, "%", "clocks.neighbours"
    )


@rule(
    "GPU013",
    "gpu-memory-full",
    Severity.ERROR,
    scope="box",
    explains=(
        "cuda-init-failed",
        "torchao-fp8-fails",
        "compile-fails",
        "fp8-gemm-fails",
        "fp8-gemm-crash",
        "attention-backend-fails",
        "flash-attention-fails",
        "grouped-gemm-fails",
        "fp8-training-fails",
        "te-recipe-fails",
        "gpu-shared-or-mig",
    ),
)
def memory_full(gpus: Gpus) -> RuleResult:
    """The GPU's memory is taken: nothing else gets in.

    What it means: what other processes hold leaves less than a program of torch needs for its context and one product.
    Programs that start now end with "out of memory", whatever the size of what they ask for.

    Why it costs time: nothing runs, so nothing could be measured here either. The failures that the report lists beside
    this one are its symptoms.

    What to do: see who holds the memory. A notebook or a serving engine keeps it while it does nothing (vLLM takes a
    fixed part of the GPU at its start), and so does a program that was killed and still hangs in the driver.

    Sources: nvidia-ml-py, nvmlDeviceGetMemoryInfo; what a program of torch held on an H200 (benchmarks/RESULTS.md);
    vLLM's documentation, gpu_memory_utilization.
    """
    return each(gpus, _full)


def _full(gpu: Gpu) -> Verdict:
    total = observed(gpu.memory_total_mib, f"the memory of {label(gpu)}")
    used = observed(gpu.memory_used_mib, f"how much memory of {label(gpu)} is taken")
    held = _held(gpu, None)
    if total - used >= LEAST_FREE_MIB or not held or SYSTEM_MANAGED.search(gpu.name or ""):
        return None  # without others it is a small card, or the doctor's own probes
    return Finding(
        title=f"The memory of {label(gpu)} is taken: {total - used:,.0f} MiB of {total / 1024:.0f} GiB are free",
        evidence=(
            Evidence(
                f"{used / 1024:.1f} GiB were in use when it was looked at", used, "MiB", path(gpu, "memory_used_mib")
            ),
            *held,
        ),
        actions=(Action("See who holds it, and end what is not needed.", SEE_WHO_HOLDS),),
        about=about(gpu),
    )
