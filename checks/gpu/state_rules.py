"""Is anything holding the GPU back: a power limit, heat, pinned clocks?"""

from __future__ import annotations

from fp8doctor.checks.gpu.clocks import Clocks, ClockSample
from fp8doctor.checks.gpu.facts import Gpu, Gpus
from fp8doctor.checks.gpu.nvml import GONE, in_words
from fp8doctor.checks.gpu.rules import about, each, label, path
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, RuleResult, Severity, Unknown, Verdict, observed
from fp8doctor.registry import rule

# A limit within one percent of the board's own is the same limit, rounded.
POWER_TOLERANCE = 0.01
# Reasons that are a fault of cooling or supply. SwPowerCap is none: a big product on a full-power board reaches it.
BRAKES = {
    "HwSlowdown": "hardware slowdown (clocks at half or less)",
    "HwThermalSlowdown": "hardware thermal slowdown (too hot)",
    "HwPowerBrakeSlowdown": "power brake (supply or chassis)",
    "SwThermalSlowdown": "thermal slowdown by the driver (hot)",
}
# Of the samples under load, so that one hiccup is no finding.
BRAKED_SHARE = 0.05
# Clocks within this of the maximum cost nothing that can be measured.
FULL_CLOCK = 0.97


@rule("GPU003", "power-cap", Severity.WARNING, scope="box")
def power_cap(gpus: Gpus) -> RuleResult:
    """The GPU's power limit is below the board's own.

    What it means: someone, or the system's management, set the enforced power limit under the default one.

    Why it costs time: large products reach the limit, and the clock drops until they fit it. A GB300 held at 500 W
    reached 617 TFLOP/s where boards at their rated 1400 W gave 1600 to 2174.

    What to do: restore the default limit if power and cooling allow it (it needs root), or read all rates against the
    limit. In a cloud, ask the provider.

    Sources: nvidia-ml-py, nvmlDeviceGetEnforcedPowerLimit and nvmlDeviceGetPowerManagementDefaultLimit;
    facebookexperimental/triton#2023.
    """
    return each(gpus, _capped)


def _capped(gpu: Gpu) -> Verdict:
    limit = observed(gpu.power_limit_w, f"the power limit of {label(gpu)}")
    default = observed(gpu.power_limit_default_w, f"the default power limit of {label(gpu)}")
    if limit >= default * (1 - POWER_TOLERANCE):
        return None
    return Finding(
        title=f"{label(gpu)} is held at {limit:.0f} W; its board is made for {default:.0f} W",
        evidence=(
            Evidence(f"enforced power limit {limit:.0f} W", limit, "W", path(gpu, "power_limit_w")),
            Evidence(f"default power limit {default:.0f} W", default, "W", path(gpu, "power_limit_default_w")),
        ),
        actions=(
            Action(
                "Restore the default limit, if power and cooling allow it.",
                f"sudo nvidia-smi -i {gpu.index or 0} -pl {default:.0f}",
                safe=False,
            ),
        ),
        about=about(gpu),
    )


@rule("GPU007", "power-throttle", Severity.WARNING, scope="box")
def braked(gpus: Gpus, clocks: Clocks | None) -> RuleResult:
    """Heat or the power supply brakes the GPU.

    What it means: the GPU itself reports that it lowers its clocks because of heat or because the supply asked for it,
    at the moment of looking or while it was timed. Reaching the power limit under full load is not meant: that is
    normal on a board with its full limit.

    Why it costs time: the slowdowns of the hardware halve the clock or worse, in every format alike, and make times
    depend on what ran before.

    What to do: look at cooling, dust, airflow and power cables; in a data centre, tell who runs the machine.

    Sources: NVIDIA, NVML API, clocks event reasons; NVIDIA, nvidia-smi; flashinfer-ai/flashinfer#2899.
    """
    return each(gpus, lambda gpu: _braked(gpu, clocks))


def _braked(gpu: Gpu, clocks: Clocks | None) -> Verdict:
    busy = _under_load(gpu, clocks)
    now = gpu.clock_event_reasons
    if not busy:
        observed(now, f"the clock event reasons of {label(gpu)}")
    evidence = [
        Evidence(f"set now: {words}", name, fact=path(gpu, "clock_event_reasons"))
        for name, words in BRAKES.items()
        if name in (now or ())
    ]
    for name, words in BRAKES.items():
        share = _share(busy, name)
        if share >= BRAKED_SHARE:
            text = f"set in {share:.0%} of the samples under load: {words}"
            evidence.append(Evidence(text, round(share, 3), fact="clocks.samples"))
    if not evidence:
        return None
    if gpu.temperature_c is not None:
        text = f"{gpu.temperature_c:.0f} °C at the moment of looking"
        evidence.append(Evidence(text, gpu.temperature_c, "°C", path(gpu, "temperature_c")))
    return Finding(
        title=f"{label(gpu)} is slowed down by heat or by its power supply",
        evidence=tuple(evidence),
        actions=(
            Action("Look at cooling and supply; NVIDIA's tool shows each reason.", "nvidia-smi -q -d PERFORMANCE"),
        ),
        about=about(gpu),
    )


@rule("GPU008", "clocks-pinned", Severity.WARNING, scope="box")
def clocks_pinned(gpus: Gpus, clocks: Clocks | None) -> RuleResult:
    """The GPU's applications clock is set below its default.

    What it means: the driver says that the applications clock, not load or power, holds the clock where it is, and that
    clock is lower than the one the board comes with. Benchmarks do this on purpose. Boards whose default itself is
    below the highest clock report the same reason; that is no setting of anyone, and no finding.

    Why it costs time: products run at the set clock even where power and heat would allow a higher one.

    What to do: if nobody wants the setting, undo it (it needs root). Where the driver does not tell the default, look
    at what is set.

    Sources: NVIDIA, NVML API, nvmlClocksEventReasonApplicationsClocksSetting, nvmlDeviceGetApplicationsClock and
    nvmlDeviceGetDefaultApplicationsClock; nvidia-smi, options -ac, -rac.
    """
    return each(gpus, lambda gpu: _pinned(gpu, clocks))


def _pinned(gpu: Gpu, clocks: Clocks | None) -> Verdict:
    name = "ApplicationsClocksSetting"
    busy = _under_load(gpu, clocks)
    rates = sorted(s.sm_clock_mhz for s in busy if s.sm_clock_mhz is not None)
    top = gpu.sm_clock_max_mhz
    is_set, default = gpu.application_clock_mhz, gpu.application_clock_default_mhz
    lowered = bool(is_set and default and is_set < default)
    # An idle GPU says that it idles, and nothing of the clock that it would be held at.
    if (
        not busy
        and not lowered
        and name not in observed(gpu.clock_event_reasons, f"the clock event reasons of {label(gpu)}")
    ):
        return None
    if busy and _share(busy, name) < 0.5:
        return None
    clock = rates[len(rates) // 2] if rates else gpu.sm_clock_mhz
    if rates and top and rates[len(rates) // 2] >= FULL_CLOCK * top:
        return None
    if is_set and default and not lowered:
        return None
    where = "under load" if busy else "at rest"
    evidence = []
    if busy or name in (gpu.clock_event_reasons or ()):
        fact = "clocks.samples" if busy else path(gpu, "clock_event_reasons")
        evidence.append(Evidence(f"{name} is set {where}", name, fact=fact))
    if clock is not None and top is not None:
        evidence.append(Evidence(f"SM clock {clock} MHz {where}, at most {top} MHz", clock, "MHz"))
    if not is_set or not default:
        return Finding(
            title=f"{label(gpu)}: an applications clock limits the SM clock",
            evidence=tuple(evidence),
            actions=(Action("See whether it is set below its default.", "nvidia-smi -q -d CLOCK"),),
            about=about(gpu),
            severity=Severity.INFO,
        )
    text = f"applications clock {is_set} MHz, by default {default} MHz"
    evidence.append(Evidence(text, is_set, "MHz", path(gpu, "application_clock_mhz")))
    return Finding(
        title=f"The applications clock of {label(gpu)} is set to {is_set} MHz; its default is {default} MHz",
        evidence=tuple(evidence),
        actions=(
            Action(
                "Undo the setting, if nobody wants it.",
                f"sudo nvidia-smi -i {gpu.index or 0} -rac",
                safe=False,
            ),
        ),
        about=about(gpu),
        # At rest nothing was seen to be slower for it.
        severity=None if busy else Severity.INFO,
    )


@rule("GPU010", "gpu-lost", Severity.ERROR, scope="box")
def lost(gpus: Gpus) -> RuleResult:
    """A GPU no longer answers.

    What it means: the driver lists a GPU that it cannot reach ("GPU is lost", "GPU requires restart"), or a call about
    it does not return: it fell off the bus, lacks power, or a fault left it in a state that only a reset ends.

    Why it costs time: programs that meet it fail or hang, even if they wanted another GPU.

    What to do: look for Xid messages in the kernel log, then restart the machine; if it comes back, have the board and
    its cables checked.

    Sources: nvidia-ml-py, NVML_ERROR_GPU_IS_LOST, _RESET_REQUIRED, _IRQ_ISSUE, _INSUFFICIENT_POWER; NVIDIA, XID errors.
    """
    if "nvml" not in (gpus.source or ""):
        return NotApplicable("no GPU was asked through NVML")
    return each(gpus, _lost)


def _lost(gpu: Gpu) -> Verdict:
    if gpu.failure is None:
        return None
    if not gpu.failure.startswith(GONE):
        return Unknown(f"{label(gpu)} could not be asked: {gpu.failure}")
    return Finding(
        title=f"GPU {gpu.index}{f' ({gpu.name})' if gpu.name else ''} does not answer",
        evidence=(Evidence(in_words(gpu.failure), gpu.failure, fact=path(gpu, "failure")),),
        actions=(
            Action("Look for Xid messages in the kernel log.", "sudo dmesg | grep -i xid"),
            Action("Restart the machine.", "sudo reboot", safe=False),
        ),
        about=about(gpu),
    )


@rule(
    "GPU011",
    "compute-mode-restricted",
    Severity.ERROR,
    scope="box",
    explains=("cuda-init-failed", "no-fp8-gemm-in-torch", "fp8-gemm-fails"),
)
def compute_mode(gpus: Gpus) -> RuleResult:
    """The GPU's compute mode lets one process compute on it, or none.

    What it means: an administrator (or a batch system) has set a compute mode other than the default one. "Prohibited"
    lets no program compute on the GPU; "exclusive process" lets one, and refuses every other while it runs.

    Why it costs time: a program that is refused ends with "CUDA-capable device(s) is/are busy or unavailable". Under
    "exclusive process" that meets the second rank on one GPU, a notebook that was left open, and probes of this doctor,
    which run side by side.

    What to do: set the default mode if nobody wants the other one (it needs root), or end the process that has the GPU.

    Sources: NVIDIA, NVML API, nvmlComputeMode_t; NVIDIA, CUDA Runtime API, cudaErrorDevicesUnavailable;
    pytorch/pytorch#100691.
    """
    shown = gpus.gpus or ()
    open_to_all = any(gpu.compute_mode == "default" for gpu in shown)
    return each(gpus, lambda gpu: _restricted(gpu, bool(gpus.doctor_idle), open_to_all))


def _restricted(gpu: Gpu, doctor_idle: bool, others_are_open: bool) -> Verdict:
    mode = observed(gpu.compute_mode, f"the compute mode of {label(gpu)}")
    if mode == "default":
        return None
    # A process that cannot be seen may be one of the doctor's own.
    taken = [p for p in gpu.processes or () if p.pid is not None or doctor_idle]
    evidence = [Evidence(f"compute mode: {mode}", mode, fact=path(gpu, "compute_mode"))]
    if mode == "prohibited":
        title, severity = f"{label(gpu)} may not be computed on: its compute mode is prohibited", Severity.ERROR
    elif taken and not gpu.mps_active:
        evidence.append(Evidence(f"{len(taken)} other process has it", len(taken), fact=path(gpu, "processes")))
        title, severity = f"{label(gpu)} takes one process at a time, and another one has it", Severity.ERROR
    else:
        title, severity = f"{label(gpu)} takes one process at a time", Severity.INFO
    return Finding(
        title=title,
        evidence=tuple(evidence),
        actions=(
            Action(
                "Set the default mode, if nobody wants this one.",
                f"sudo nvidia-smi -i {gpu.index or 0} -c DEFAULT",
                safe=False,
            ),
        ),
        about=about(gpu),
        severity=Severity.WARNING if severity is Severity.ERROR and others_are_open else severity,
    )


def _under_load(gpu: Gpu, clocks: Clocks | None) -> list[ClockSample]:
    """The samples taken of this GPU while it worked."""
    if clocks is None or clocks.gpu_index != gpu.index:
        return []
    return [s for s in clocks.samples or () if s.event_reasons is not None and "GpuIdle" not in s.event_reasons]


def _share(samples: list[ClockSample], reason: str) -> float:
    return sum(reason in (s.event_reasons or ()) for s in samples) / len(samples) if samples else 0.0
