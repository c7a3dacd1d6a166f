"""Is a GPU visible, does it have FP8, and what is there to know of its tensor cores?"""

from __future__ import annotations

import re
from collections.abc import Callable

from fp8doctor.checks.gpu.facts import FIRST_FP8, Gpu, Gpus, capability
from fp8doctor.checks.gpu.names import capability_of
from fp8doctor.checks.gpu.peaks import peak_of
from fp8doctor.checks.torch_build.facts import TorchBuild
from fp8doctor.model import (
    Action,
    ErrorText,
    Evidence,
    Finding,
    NotApplicable,
    RuleResult,
    Severity,
    Unknown,
    Verdict,
    observed,
    per_item,
)
from fp8doctor.registry import rule

# AMD's matrix cores: FP8 in CDNA 3 and 4 and in RDNA 4; none in the families before them. The same four names stand in
# PyTorch's test of what `_scaled_mm` runs on.
AMD_FP8 = ("gfx942", "gfx950", "gfx1200", "gfx1201")
AMD_WITHOUT_FP8 = re.compile(r"gfx(9(0\w|1\w)|10\d\w|11\d\w)$")
# The one Intel GPU with a sourced answer: FP8 GEMMs end at 99 % of its BF16 peak (ai-dynamo/aiconfigurator#1418).
INTEL_WITHOUT_FP8 = re.compile(r"\bB60\b")

# GeForce boards, also as people shorten their names: no other product ends in 50 to 90 behind "RTX 40" or "RTX 50".
GEFORCE = re.compile(r"GeForce|\bRTX [45]0[5-9]0\b")

DEMO = Action("Without a GPU, a recorded box shows what a report looks like.", "fp8doctor demo")
_INSTALL = Action(
    "Install NVIDIA's driver for this system (https://www.nvidia.com/drivers) and restart it.", safe=False
)
_ASK = Action("See what NVIDIA's own tool says.", "nvidia-smi")
_CONTAINER = Action(
    "Give the container its GPUs: NVIDIA's container toolkit on the host, and --gpus all.",
    "docker run --rm --gpus all IMAGE nvidia-smi",
)

# Why no GPU is visible (`Gpus.why_none`): the rest of the title, and what to do.
WHY_NONE: dict[str, tuple[str, Action]] = {
    "no-gpu": ("this machine has none on its PCI bus", Action("Run fp8doctor on the machine that has the GPU.")),
    "no-driver": ("no NVIDIA driver is loaded", _INSTALL),
    "no-driver-library": ("the driver is loaded, and its library libnvidia-ml.so.1 is not found here", _CONTAINER),
    "no-device-files": ("the driver is loaded, and no /dev/nvidia* device is visible here", _CONTAINER),
    "driver-mismatch": (
        "the driver's library and its kernel module are of different versions",
        Action(
            "Restart the machine, so that the kernel module of the installed driver is loaded.", "sudo reboot", False
        ),
    ),
    "no-permission": (
        "this user may not use the GPU",
        Action("Ask for access to the device files.", "ls -l /dev/nvidia*"),
    ),
    "hidden-by-variable": (
        "NVIDIA_VISIBLE_DEVICES gives this container none",
        Action("Start the container with its GPUs.", "docker run --rm --gpus all -e NVIDIA_VISIBLE_DEVICES=all IMAGE"),
    ),
    "wsl": (
        "WSL gets its driver from Windows, and it does not answer here",
        Action(
            "Install NVIDIA's driver in Windows (none inside WSL), update WSL and restart it.", "wsl --update", False
        ),
    ),
    # Of a text: what was asked was torch and nvidia-smi, neither the bus nor the device files.
    "not-reachable": (
        "neither torch nor nvidia-smi found one where the report was written",
        Action(
            "See whether the driver answers there; a container needs --gpus all, a cluster's login node has no GPU.",
            "nvidia-smi",
        ),
    ),
    "amd-not-shown": (
        "there is an AMD GPU, which only a ROCm build of torch shows",
        Action("Install torch for ROCm, and look at HIP_VISIBLE_DEVICES and ROCR_VISIBLE_DEVICES."),
    ),
}


def label(gpu: Gpu) -> str:
    """The GPU as a person calls it."""
    return gpu.name or f"GPU {gpu.index}"


def about(gpu: Gpu) -> str:
    """The GPU as a finding's subject."""
    return f"gpu:{gpu.index if gpu.index is not None else 0}"


def path(gpu: Gpu, field: str) -> str:
    """Where a field of this GPU stands among the facts."""
    return f"gpus.gpus[{gpu.index or 0}].{field}"


def each(gpus: Gpus, judge: Callable[[Gpu], Verdict]) -> RuleResult:
    """Judge every visible GPU by itself."""
    shown = observed(gpus.gpus, "which GPUs are there")
    return per_item(shown, judge) if shown else NotApplicable("no GPU is visible")


_CPU_BUILD = Action(
    "This torch is a CPU build and shows no GPU anywhere: if the machine has one, install a CUDA build."
)
_ASK_NVIDIA = "nvidia-smi --query-gpu=name,compute_cap --format=csv"
_ASK_TORCH = "torch.cuda.get_device_capability()"


@rule("GPU001", "no-fp8-hardware", Severity.ERROR, scope="box", settles="hardware")
def no_fp8_hardware(gpus: Gpus) -> RuleResult:
    """The GPU has no FP8 tensor cores.

    What it means: FP8 matrix units begin with compute capability 8.9 (Ada: RTX 40, L4, L40S) and are in all that
    follow (Hopper, Blackwell), and in AMD's gfx942, gfx950, gfx1200 and gfx1201. Older GPUs, the A100 among them, can
    store numbers in FP8 and cannot multiply them.

    Why it costs time: FP8 weights are turned back into BF16 or FP16 before each product, so the product costs what it
    always did and the conversion comes on top. Only memory is saved.

    What to do: compute in BF16 (FP16 where there is no BF16). To go below 16 bits, these tensor cores have INT8, from
    7.5 on. Where FP8 is only a storage format, keep its casts out of Triton: it refuses float8_e4m3fn below 8.9, and
    float8_e5m2 compiles.

    Sources: NVIDIA, CUDA GPU Compute Capability; TransformerEngine, quantization.py; PyTorch, ScaledBlas.cpp; ROCm,
    Data types and precision support; vllm-project/vllm#41014, kijai/ComfyUI-WanVideoWrapper#724.
    """
    if gpus.gpus == ():
        return Unknown("no GPU is visible")
    shown = observed(gpus.gpus, "which GPUs are there")
    having = sum(has_fp8(gpu) is True for gpu in shown)
    return each(
        gpus,
        lambda gpu: _fp8(gpu, f"{having} of {len(shown)} GPUs {'have' if having > 1 else 'has'}" if having else None),
    )


def _fp8(gpu: Gpu, having: str | None) -> Verdict:
    has = has_fp8(gpu)
    if has is None:
        known = capability_of(gpu)
        asking = f"; `{_ASK_NVIDIA if gpu.vendor == 'nvidia' else _ASK_TORCH}` tells it" if known is None else ""
        return Unknown(f"whether {label(gpu)} has FP8 is not known (compute capability {known or 'unknown'}{asking})")
    if has:
        return None
    known = capability_of(gpu)
    how = "" if gpu.compute_capability else ", by its name"
    begins = "8.9" if capability(known) else "gfx942, gfx950, gfx1200 and gfx1201"
    text = (
        f"compute capability {known}{how}; FP8 begins with {begins}" if known else "FP8 GEMMs run at BF16's rate on it"
    )
    return Finding(
        title=f"{having} FP8 tensor cores; {label(gpu)} has none"
        if having
        else f"{label(gpu)} has no FP8 tensor cores",
        # Where others have them it is news of one GPU, and no answer for the box.
        severity=Severity.WARNING if having else None,
        evidence=(Evidence(text, known, fact=path(gpu, "compute_capability")),),
        actions=_instead(capability(known)),
        about=about(gpu),
    )


def has_fp8(gpu: Gpu) -> bool | None:
    """Whether the chip can multiply FP8, None if that is not known."""
    known = capability_of(gpu)
    if (found := capability(known)) is not None:
        return found >= FIRST_FP8
    if known in AMD_FP8:
        return True
    if (known and AMD_WITHOUT_FP8.match(known)) or INTEL_WITHOUT_FP8.search(gpu.name or ""):
        return False
    return None


def _instead(found: tuple[int, int] | None) -> tuple[Action, ...]:
    compute = "BF16" if found is None or found >= (8, 0) else "FP16" if found >= (7, 0) else "FP32"
    actions = [Action(f"Compute in {compute} on it; FP8 can only save memory there.")]
    if found is not None and found >= (7, 5):
        actions.append(
            Action(
                "For fewer bits in the product, try INT8, which these tensor cores have, and time it against BF16.",
                "torchao.quantization.quantize_(model, torchao.quantization.Int8DynamicActivationInt8WeightConfig())",
            )
        )
    # Triton, which torch.compile writes in, begins with 7.0 (torch/_inductor/exc.py).
    if found is not None and found >= (7, 0):
        actions.append(
            Action("If FP8 storage must go through torch.compile, store float8_e5m2: e4m3 does not compile here.")
        )
    return tuple(actions)


@rule(
    "GPU002",
    "no-gpu-visible",
    Severity.ERROR,
    scope="box",
    # Until a GPU is visible these are moot, so they stand under it.
    explains=("cpu-only-torch", "driver-too-old", "triton-missing"),
)
def no_gpu_visible(gpus: Gpus, torch_build: TorchBuild | None = None) -> Finding | None:
    """No GPU is visible.

    What it means: neither NVIDIA's management library nor torch shows a GPU, so nothing can be said of FP8 here. The
    evidence says what was seen of driver, device files and PCI bus, and the title names the reason where they settle
    it.

    Why it costs time: without a visible GPU programs stop, or go on with the CPU.

    What to do: run `nvidia-smi`. If it fails too, install NVIDIA's driver, or restart after an update that left the
    kernel module and the library at two versions. In a container, start it with its GPUs (`docker run --gpus all`);
    NVIDIA_VISIBLE_DEVICES must not be empty, void or none. In WSL, install the driver in Windows, and none inside. If
    it shows GPUs, look at CUDA_VISIBLE_DEVICES. For an AMD GPU, install torch for ROCm. The finding names the one that
    fits where the evidence settles it.

    Sources: nvidia-ml-py (error codes); NVIDIA Container Toolkit (NVIDIA_VISIBLE_DEVICES: void, none); the PCI code and
    ID assignment (class 03, vendor 10de); NVIDIA, CUDA on WSL user guide.
    """
    if observed(gpus.gpus, "which GPUs are there"):
        return None
    why, action = WHY_NONE.get(gpus.why_none or "", ("", None))
    # What torch does not find is no news where it has no CUDA; that comes before what containers may hide.
    cpu = gpus.why_none == "not-reachable" and torch_build is not None and torch_build.accelerator == "cpu"
    detail = gpus.why_none_detail or "NVML and torch show none"
    return Finding(
        title=f"No GPU is visible: {why}" if why else "No GPU is visible",
        evidence=(Evidence(detail, gpus.why_none, fact="gpus.why_none_detail"),),
        actions=tuple(step for step in (_CPU_BUILD if cpu else None, action or _ASK, DEMO) if step),
    )


@rule("GPU005", "geforce-half-rate-fp32-accum", Severity.INFO, scope="usage")
def geforce_half_rate(gpus: Gpus) -> RuleResult:
    """GeForce tensor cores add up in FP32 at half rate.

    What it means: on GeForce boards a product with FP32 accumulation runs at half the rate of the same chip in a
    workstation board, in BF16 and in FP8 alike. FP8 keeps its factor of two over BF16; only the comparison with
    an advertised figure, which is for FP16 accumulation, comes out at half.

    Why it costs time: deep-learning libraries accumulate in FP32, for accuracy, and so meet the lower rate.

    What to do: compare with the dense FP32-accumulate rate of the board. Where a model tolerates it, FP16 accumulation
    gives FP16 products the full rate; check the output.

    Sources: NVIDIA, Ada GPU architecture whitepaper v2.02, appendix A; NVIDIA, RTX Blackwell GPU architecture
    whitepaper, appendix A; triton-lang/triton#10851 (RTX 4060: 31.0 against 53.1 TFLOP/s).
    """
    return each(gpus, _half_rate)


def _half_rate(gpu: Gpu) -> Verdict:
    if not GEFORCE.search(observed(gpu.name, "the GPU's name")):
        return NotApplicable("no GeForce board")
    if not has_fp8(gpu):
        return NotApplicable("no FP8 tensor cores")
    evidence = [Evidence(f"{gpu.name} is a GeForce board", gpu.name, fact=path(gpu, "name"))]
    peak = peak_of(gpu)
    if peak is not None and peak.bf16_tflops and peak.fp8_tflops:
        bf16, fp8 = peak.flop_per_clock_per_sm()
        per_sm = f" ({bf16:.0f} and {fp8:.0f} FLOP per clock and SM)" if bf16 and fp8 else ""
        computed = ", computed" if peak.computed else ""
        text = f"dense peak with FP32 accumulation: BF16 {peak.bf16_tflops:g}, FP8 {peak.fp8_tflops:g} TFLOP/s"
        evidence.append(Evidence(f"{text}{per_sm}{computed}; {peak.source}", peak.fp8_tflops, "TFLOP/s"))
    return Finding(
        title="BF16 and FP8 both run at half the chip's rate, because they accumulate in FP32 on a GeForce",
        evidence=tuple(evidence),
        actions=(
            Action("Compare with the dense FP32-accumulate peak; FP8 still has twice BF16's rate."),
            Action(
                "For FP16 models that tolerate it, accumulate in FP16, and check the output.",
                "torch.backends.cuda.matmul.allow_fp16_accumulation = True",
            ),
        ),
        about=about(gpu),
    )


@rule("GPU006", "no-fast-fp16", Severity.WARNING, scope="box")
def no_fast_fp16(gpus: Gpus) -> RuleResult:
    """The GPU is slow in FP16 as well.

    What it means: Pascal boards of compute capability 6.1 (GTX 10, P40, P4) execute FP16 arithmetic at a small
    fraction of their FP32 rate, and have no tensor cores.

    Why it costs time: a model in FP16 runs slower there than the same model in FP32.

    What to do: compute in FP32 and use FP16 or FP8 for storage only. INT8 dot products are fast on these boards.

    Sources: NVIDIA developer forum, FP16 support on GTX 1060 and 1080; comfyanonymous/ComfyUI#4363;
    Haoming02/sd-webui-forge-classic#1466 (INT8 on a GTX 1070).
    """
    return each(gpus, _slow_fp16)


def _slow_fp16(gpu: Gpu) -> Verdict:
    known = observed(capability_of(gpu), f"the compute capability of {label(gpu)}")
    if capability(known) != (6, 1):
        return None
    return Finding(
        title=f"{label(gpu)} is slow in FP16, too: compute in FP32",
        evidence=(Evidence(f"compute capability {known}", known, fact=path(gpu, "compute_capability")),),
        actions=(Action("Compute in FP32 (ComfyUI: --force-fp32); INT8 through torch._int_mm is worth timing."),),
        about=about(gpu),
    )


@rule(
    "GPU009",
    "gpu-hidden-by-variable",
    Severity.ERROR,
    scope="box",
    explains=("no-gpu-visible", "cuda-init-failed"),
)
def hidden_by_variable(gpus: Gpus, torch_build: TorchBuild | None) -> Finding | NotApplicable | None:
    """CUDA_VISIBLE_DEVICES hides every GPU.

    What it means: NVIDIA's management library shows GPUs, and the variable leaves none of them to CUDA. It is read
    from the left, up to the first entry that names no GPU: an empty value and -1 hide all.

    Why it costs time: programs find no GPU and stop, or go on with the CPU.

    What to do: unset the variable, or name a GPU that exists.

    Sources: NVIDIA, CUDA C++ Programming Guide, CUDA environment variables (CUDA_VISIBLE_DEVICES).
    """
    nvidia = [gpu for gpu in observed(gpus.gpus, "which GPUs are there") if gpu.vendor == "nvidia"]
    if not nvidia:
        return NotApplicable("no NVIDIA GPU is there to be hidden")
    value = observed(gpus.visibility, "the variables that hide GPUs").get("CUDA_VISIBLE_DEVICES")
    reached = torch_build is not None and (torch_build.devices or torch_build.cuda_available)
    if value is None or visible_count(value, nvidia) or reached:
        return None
    return Finding(
        title=f'CUDA_VISIBLE_DEVICES="{value}" hides every GPU from CUDA',
        evidence=(
            Evidence(f"NVML shows {len(nvidia)} GPU{'s' * (len(nvidia) > 1)}", len(nvidia), fact="gpus.gpus"),
            Evidence(f'CUDA_VISIBLE_DEVICES is "{value}"', value, fact="gpus.visibility"),
        ),
        actions=(Action("Unset it, or name a GPU that exists.", "unset CUDA_VISIBLE_DEVICES"),),
    )


def visible_count(value: str, gpus: list[Gpu]) -> int:
    """How many GPUs a value of CUDA_VISIBLE_DEVICES shows: entries count up to the first that names none."""
    shown = 0
    for entry in (part.strip().lower() for part in value.split(",")):
        by_index = entry.isdigit() and int(entry) < len(gpus)
        by_uuid = entry.startswith(("gpu-", "mig-")) and (
            entry.startswith("mig-") or any((gpu.uuid or entry).lower().startswith(entry) for gpu in gpus)
        )
        if not (by_index or by_uuid):
            break
        shown += 1
    return shown


ERROR_TEXTS = (
    ErrorText(
        r"\bfp8e4nv (?:data type )?(?:is )?not supported\b",
        rule="GPU001",
        fix="Triton has no e4m3 below compute capability 8.9: compute in BF16, or store float8_e5m2.",
    ),
    ErrorText(
        r"_scaled_mm is only supported on CUDA devices with compute capability >= 9\.0 or 8\.9",
        rule="GPU001",
        fix="This GPU cannot multiply FP8: compute in BF16 and turn the FP8 matmul (fast mode) off.",
    ),
    ErrorText(
        r"Found no NVIDIA driver on your system|couldn't communicate with the NVIDIA driver",
        rule="GPU002",
        fix="Install or start NVIDIA's driver; in a container, start it with --gpus all.",
        command="nvidia-smi",
    ),
    ErrorText(
        r"No CUDA GPUs are available|no CUDA-capable device is detected",
        rule="GPU002",
        fix="Look at CUDA_VISIBLE_DEVICES, and in a container at --gpus all.",
        command="nvidia-smi",
    ),
    ErrorText(
        r"could not select device driver .* with capabilities: \[\[gpu\]\]",
        rule="GPU002",
        fix="Docker knows no GPU runtime: install NVIDIA's container toolkit on the host.",
        # NVIDIA, "Installing the NVIDIA Container Toolkit", Configuring Docker (NVIDIA/cloud-native-docs).
        command="sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker",
    ),
)
