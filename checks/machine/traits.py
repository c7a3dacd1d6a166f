"""By which machine and which environment variables are two reports compared?"""

from __future__ import annotations

import re

from fp8doctor.checks.machine.environment import HARMS
from fp8doctor.checks.machine.facts import Machine
from fp8doctor.model import Listing, Trait
from fp8doctor.registry import traits

ABSENT = "not set"
_HOST = "the host asks the GPU for every kernel"
# What the host waits for shows in calls and whole steps, not in the device's own time.
_AT_THE_CALL = ("CUDA_LAUNCH_BLOCKING", "PYTORCH_NO_CUDA_MEMORY_CACHING")
# What variables of one prefix belong to; what CUDA reads concerns everything.
_OWNERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("NVTE_", "Transformer Engine reads it", ("transformer-engine", "te")),
    ("TORCHINDUCTOR_", "torch.compile reads it", ("compile", "compile-whole")),
    ("TORCHDYNAMO_", "torch.compile reads it", ("compile", "compile-whole")),
    ("TORCH_COMPILE_", "torch.compile reads it", ("compile", "compile-whole")),
    ("TRITON_", "Triton reads it", ("compile", "compile-whole")),
    ("CUBLAS", "cuBLAS reads it", ()),
    ("PYTORCH_", "torch's memory allocator reads it", ()),
    ("NVIDIA_TF32", "it changes how FP32 products are computed", ()),
    ("OMP_NUM_THREADS", "it limits the host's threads", ("call",)),
)


@traits
def of_machine(machine: Machine) -> list[Trait | Listing]:
    """The host, what it gives this process, and the variables that are set."""
    return [
        Trait("hardware", "CPU", machine.cpu, None, "machine.cpu", why=_HOST, affects=("call",)),
        Trait("hardware", "CPUs", machine.logical_cpus, None, "machine.logical_cpus"),
        Trait("hardware", "memory of the machine", machine.memory_total_mib, "MiB", "machine.memory_total_mib", 0.02),
        Trait("hardware", "virtual machine", machine.virtual_machine, None, "machine.virtual_machine"),
        Trait("setting", "usable cores", machine.usable_cores, None, "machine.usable_cores", 0.01, _HOST, ("call",),
              "faster"),
        Trait("setting", "memory limit", machine.memory_limit_mib, "MiB", "machine.memory_limit_mib", 0.02),
        Trait("setting", "shared memory", machine.shm_total_mib, "MiB", "machine.shm_total_mib", 0.02),
        Trait("setting", "container", machine.container, None, "machine.container"),
        Trait("setting", "WSL", machine.wsl, None, "machine.wsl", why=_HOST, affects=("call",)),
        Trait("setting", "MPS daemon", machine.mps_daemon, None, "machine.mps_daemon"),
        Trait("software", "operating system", _without_architecture(machine.os), None, "machine.os"),
        Trait("software", "kernel", machine.kernel, None, "machine.kernel"),
        *_variables(machine.environment),
    ]  # fmt: skip


def _without_architecture(os: str | None) -> str | None:
    """ "Ubuntu 24.04.3 LTS" also of "Ubuntu 24.04.3 LTS (x86_64)", as texts have it."""
    return None if os is None else re.sub(r" \(\w+\)$", "", os)


def _variables(environment: dict[str, str] | None) -> list[Listing]:
    if environment is None:
        return []
    return [Listing(tuple(_variable(name, value) for name, value in environment.items()), ABSENT)]


def _variable(name: str, value: str) -> Trait:
    harm = next((h for h in HARMS if h.variable == name), None)
    owner = next(((why, affects) for prefix, why, affects in _OWNERS if name.startswith(prefix)), None)
    why, affects = owner or (None, ())
    if name in _AT_THE_CALL:
        affects = ("call", "step")
    # A variable that was unset does the harm no more: the sentence is about the value that does it.
    said = f"with {harm.value}, {harm.effect}" if harm else why
    return Trait("setting", name, value, None, f"machine.environment.{name}", why=said, affects=affects)
