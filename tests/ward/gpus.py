"""Sick GPUs: which card it is, what holds it back, who hides it, and a driver that hangs, crashes or tells nonsense."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.stub_nvml import H200
from tests.ward.fault import Fault, Ground

Plant = Callable[[Ground], None]
Script = Mapping[str, object]

# What is not there on a card that does not support it: None takes the key out of the script.
GEFORCE: Script = dict.fromkeys(("application_clock", "application_clock_default", "mig", "ecc"))
# What GB10 answers with "not supported", as its memory is the system's (kubernetes-sigs/dra-driver-nvidia-gpu#1073,
# XuehaiPan/nvitop#208) and its power is the whole module's.
UNIFIED: Script = dict.fromkeys(
    ("memory", "memory_used", "memory_used_v1", "power_limit", "power_default", "memory_clock", "memory_clock_max")
)
CARDS: dict[str, Script] = {
    "h100": {
        "name": "NVIDIA H100 80GB HBM3", "memory": 81559 << 20, "memory_clock": 2619, "memory_clock_max": 2619,
    },
    "h200": {},
    "b200": {
        "name": "NVIDIA B200", "cc": "10.0", "cores": 18944, "memory": 183359 << 20, "power_limit": 1000000,
        "power_default": 1000000, "sm_clock_max": 1965, "application_clock": 1965, "application_clock_default": 1965,
    },
    "rtx-4090": {
        **GEFORCE, "name": "NVIDIA GeForce RTX 4090", "cc": "8.9", "cores": 16384, "memory": 24564 << 20,
        "power_limit": 450000, "power_default": 450000, "sm_clock_max": 3105, "memory_clock": 405,
        "memory_clock_max": 10501, "pcie_generation": 1, "pcie_generation_max": 4, "graphics": f"1:{300 << 20}",
    },
    "l40": {
        "name": "NVIDIA L40", "cc": "8.9", "cores": 18176, "memory": 46068 << 20, "power_limit": 300000,
        "power_default": 300000, "sm_clock_max": 2490, "application_clock": 2490, "application_clock_default": 2490,
    },
    "gb10": {
        **GEFORCE, **UNIFIED, "name": "NVIDIA GB10", "cc": "12.1", "cores": 6144, "sm_clock": 208, "sm_clock_max": 3003,
        "power": 11170,
    },
    "a100": {
        "name": "NVIDIA A100-SXM4-80GB", "cc": "8.0", "cores": 6912, "memory": 81920 << 20, "power_limit": 400000,
        "power_default": 400000, "sm_clock_max": 1410, "application_clock": 1410, "application_clock_default": 1410,
    },
    # Its applications clock is far below its highest one, as it comes from the factory.
    "t4": {
        "name": "Tesla T4", "cc": "7.5", "cores": 2560, "memory": 15360 << 20, "power_limit": 70000,
        "power_default": 70000, "sm_clock_max": 1590, "application_clock": 585, "application_clock_default": 585,
        "reasons": 2, "mig": None,
    },
}  # fmt: skip
WITHOUT_FP8 = ("a100", "t4")
# Beside these, torch is a CPU build; beside the others there is none.
WITH_CPU_TORCH = ("b200", "rtx-4090", "gb10", "t4")
EIGHT: Script = {
    "count": 8,
    **CARDS["h100"],
    **{f"{i}.uuid": f"GPU-{i}1111111-2222-3333-4444-555555555555" for i in range(8)},
    **{f"{i}.pci": f"00000000:{0x10 + i:02x}:00.0" for i in range(8)},
}
# Of the bed, what is about its own GPU and would contradict a played one of another kind.
OF_THE_BED = (
    "torch_build", "attention", "torchao", "transformer_engine", "compiled_function", "flash_attention", "linear",
    "transformer_engine_times", "attention_times", "training", "grouped_gemm", "clocks", "compiler", "libraries",
)  # fmt: skip
ALL_BITS = 2**32 - 1
NO_TEXT = b"NVIDIA \xff\xfe H200".decode("utf-8", "surrogateescape")


def faults() -> Iterator[Fault]:
    """The faults of this room."""
    yield from _cards()
    yield from _held_back()
    yield from _shared()
    yield from _one_of_eight()
    yield from _lost()
    yield from _driver()
    yield from _library()
    yield from _nonsense()
    yield from _bindings()
    yield from _hidden()


def _cards() -> Iterator[Fault]:
    for name, card in CARDS.items():
        no_fp8, called = name in WITHOUT_FP8, card.get("name", H200["name"])
        if not no_fp8:
            yield _fault(name, f"nothing: an idle {called}", None, "", card, quiet=OF_THE_BED)
        # What cannot be mended comes before what can be installed.
        if name in WITH_CPU_TORCH:
            first, fix = ("no-fp8-hardware", "Compute in FP16") if no_fp8 else ("cpu-only-torch", "--force-reinstall")
            yield _fault(f"{name}-cpu-torch", f"beside {called}, torch is built for the CPU", first, fix, card,
                         lambda ground: ground.stated_torch("2.13.0+cpu", cuda=None), alone=True)  # fmt: skip
        else:
            first, fix = ("no-fp8-hardware", "Compute in BF16") if no_fp8 else ("torch-missing", "install torch")
            yield _fault(f"{name}-no-torch", f"beside {called}, there is no torch", first, fix, card, alone=True)


def _held_back() -> Iterator[Fault]:
    yield _fault("power-cap", "the power limit is 350 of 700 W", "power-cap", r"-pl 700", {"power_limit": 350000})
    for name, words, bits in (
        ("thermal", "the hardware slows down: it is too hot", 0x48),
        ("thermal-by-driver", "the driver slows it down: it is hot", 0x20),
        ("power-brake", "the power supply asked for less", 0x88),
        ("hardware-slowdown", "the hardware slows down, and says no more", 0x08),
    ):
        yield _fault(
            f"slowdown-{name}", words, "power-throttle", r"cooling|PERFORMANCE", {"reasons": bits, "temperature": 93}
        )
    pinned: Script = {"application_clock": 1200}
    for name, words, bits in (("idle", "", 1), ("said", ", and the driver says so", 2)):
        yield _fault(
            f"clocks-pinned-{name}", f"the applications clock is set to 1200 of 1980 MHz{words}", "clocks-pinned",
            r"-rac", {**pinned, "reasons": bits}, quiet=("clocks",),
        )  # fmt: skip


def _shared() -> Iterator[Fault]:
    # In MIG mode utilisation and clocks of the whole card are not told.
    mig: Script = {"mig": 1, "utilization": None, "processes": None, "mps": None}
    yield _fault("mig", "MIG cuts the card into slices", "gpu-shared-or-mig", r"nvidia-smi -L", mig)
    yield _fault("mps", "another program computes through MPS", "gpu-shared-or-mig", "nvidia-smi",
                 {"mps": f"1:{2 << 30}"})  # fmt: skip
    holds: Script = {"processes": f"1:{133 << 30}", "memory_used": 133 << 30}
    yield _fault(
        "held", "another process holds 95 % of the memory, and waits", "gpu-shared-or-mig", "nvidia-smi", holds
    )
    yield _fault("busy", "another process holds memory and computes", "gpu-shared-or-mig", r"alone",
                 {**holds, "utilization": 100})  # fmt: skip
    yield _fault("busy-unseen", "someone in another container holds memory and computes", "gpu-shared-or-mig", r"alone",
                 {"memory_used": 90 << 30, "utilization": 97})  # fmt: skip
    yield _fault("prohibited", "the compute mode lets nobody compute", "compute-mode-restricted", r"-c DEFAULT",
                 {"compute_mode": 2})  # fmt: skip
    yield _fault("exclusive", "the compute mode lets one process compute", "compute-mode-restricted", r"-c DEFAULT",
                 {"compute_mode": 3})  # fmt: skip
    yield _fault("exclusive-taken", "the compute mode lets one process compute, and another is there",
                 "compute-mode-restricted", r"-c DEFAULT", {"compute_mode": 3, **holds})  # fmt: skip


def _one_of_eight() -> Iterator[Fault]:
    def eight(name: str, words: str, first: str, fix: str, script: Script) -> Fault:
        return _fault(f"eight-{name}", f"of eight H100 {words}", first, fix, {**EIGHT, **_third(script)},
                      quiet=OF_THE_BED, budget_s=8 if "blocks" in script else 15)  # fmt: skip

    a100 = {k: v for k, v in CARDS["a100"].items() if v is not None}
    yield eight("one-a100", "one is an A100", "no-fp8-hardware", r"Compute in BF16", a100)
    yield eight("one-capped", "one is held at 400 W", "power-cap", r"-i 3 -pl 700", {"power_limit": 400000})
    yield eight("one-hot", "one is slowed down by heat", "power-throttle", r"cooling", {"reasons": 0x48})
    yield eight("one-lost", "one is off the bus", "gpu-lost", r"Restart|xid", {"lost": 0})
    yield eight(
        "one-lost-meanwhile", "one falls off the bus while it is read", "gpu-lost", r"Restart|xid", {"lost": 20}
    )
    yield eight("one-hangs", "one never answers a question on its use", "gpu-lost", r"Restart|xid",
                {"blocks": "nvmlDeviceGetUtilizationRates"})  # fmt: skip
    yield eight("one-crashes", "one makes NVML crash", "nvml-unusable", r"Reinstall the driver",
                {"crashes": "nvmlDeviceGetCurrPcieLinkGeneration"})  # fmt: skip

    yield _fault("eight-all-hang", "no one of eight H100 answers a question on its use", "nvml-unusable", r"nvidia-smi",
                 {**EIGHT, "blocks": "nvmlDeviceGetUtilizationRates"}, quiet=OF_THE_BED, budget_s=8)  # fmt: skip


def _third(script: Script) -> Script:
    return {f"3.{key}": value for key, value in script.items()}


def _lost() -> Iterator[Fault]:
    yield _fault("lost", "the only GPU is off the bus", "gpu-lost", r"Restart|xid", {"lost": 0}, quiet=OF_THE_BED)
    yield _fault(
        "lost-meanwhile", "the GPU falls off the bus while it is read", "gpu-lost", r"Restart|xid", {"lost": 9}
    )
    optional = {key: None for key in H200 if key not in ("driver", "count", "name", "cc")}
    yield _fault("nothing-supported", "NVML supports no call that it need not", None, "", optional)
    yield _fault("nothing-at-all", "NVML counts a GPU, and says nothing of it", None, "",
                 {key: None for key in H200 if key != "count"})  # fmt: skip


def _driver() -> Iterator[Fault]:
    yield _init("version-mismatch", "the driver's library and kernel module are of two versions", 18,
                "driver-library-mismatch", r"reboot")  # fmt: skip
    yield _init("no-permission", "this user may not open the driver", 4, "no-gpu-visible", r"ls -l /dev/nvidia")
    yield _init("driver-not-loaded", "the library is there, and no driver is loaded", 9, "no-gpu-visible",
                r"driver|machine that has the GPU")  # fmt: skip
    yield _init("unknown-error", "the container has lost its GPUs: NVML knows an unknown error", 999, "nvml-unusable",
                r"container.*anew")  # fmt: skip
    yield _init("init-fails", "opening NVML fails with a rare error", 17, "nvml-unusable", r"nvidia-smi")
    for name, words, script, budget_s in (
        ("init-hangs", "opening NVML never ends", {"blocks": "nvmlInitWithFlags"}, 8),
        ("init-crashes", "opening NVML is a segmentation fault", {"crashes": "nvmlInitWithFlags"}, 15),
    ):
        yield _fault(name, words, "nvml-unusable", r"nvidia-smi", script, quiet=OF_THE_BED, budget_s=budget_s)


def _init(name: str, words: str, code: int, first: str, fix: str) -> Fault:
    return _fault(name, words, first, fix, {"init": code}, quiet=OF_THE_BED)


def _library() -> Iterator[Fault]:
    def not_one(name: str, words: str, content: bytes, first: str, fix: str) -> Fault:
        return _fault(f"library-{name}", words, first, fix, {}, lambda ground: _overwrite(ground, content),
                      quiet=OF_THE_BED)  # fmt: skip

    yield not_one("text", "libnvidia-ml.so.1 is a text", b"version https://git-lfs.github.com/spec/v1\n" * 40,
                  "nvml-unusable", r"remove it if the driver did not bring it")  # fmt: skip
    yield not_one(
        "empty", "libnvidia-ml.so.1 is an empty file", b"", "nvml-unusable", r"remove it if the driver did not bring it"
    )
    yield _fault("library-foreign", "libnvidia-ml.so.1 is of another architecture", "no-gpu-visible", r"driver|machine",
                 {}, _of_another_architecture, quiet=OF_THE_BED)  # fmt: skip
    yield _fault("library-missing", "there is no libnvidia-ml.so.1", "no-gpu-visible", r"driver|machine", {},
                 lambda ground: (ground.folder / "nvml" / "libnvidia-ml.so.1").unlink(), quiet=OF_THE_BED)  # fmt: skip


def _overwrite(ground: Ground, content: bytes) -> None:
    (ground.folder / "nvml" / "libnvidia-ml.so.1").write_bytes(content)


def _of_another_architecture(ground: Ground) -> None:
    library = ground.folder / "nvml" / "libnvidia-ml.so.1"
    content = bytearray(library.read_bytes())
    content[18:20] = (8).to_bytes(2, "little")  # e_machine: MIPS
    library.write_bytes(content)


def _nonsense() -> Iterator[Fault]:
    for name, words, script in (
        ("name", "the GPU's name is no text", {"name": NO_TEXT}),
        ("name-escapes", "the GPU's name holds a terminal's commands", {"name": "NVIDIA H200\x1b[2J\x1b]0;x\x07"}),
        ("count", "NVML counts 2147483648 GPUs and has one", {"count_told": 2**31}),
        ("sensors", "every sensor answers with all bits set", dict.fromkeys(
            ("power", "temperature", "sm_clock", "memory_clock", "utilization", "pcie_generation", "pcie_width",
             "compute_mode", "virtualization", "persistence"), ALL_BITS)),
        ("limits", "limits and sizes are all bits set", dict.fromkeys(
            ("power_default", "sm_clock_max", "memory_clock_max", "application_clock_default", "memory", "memory_used",
             "cores"), -1)),
        ("zeros", "limits, clocks and sizes are zero", dict.fromkeys(
            ("power_limit", "power_default", "sm_clock_max", "application_clock", "memory", "cores"), 0)),
        ("processes", "the processes are none", {"processes": "4294967295:18446744073709551614"}),
    ):  # fmt: skip
        yield _fault(f"garbage-{name}", words, None, "", script)


def _bindings() -> Iterator[Fault]:
    yield _fault("old-binding", "PYTHONPATH brings an nvidia-ml-py that lacks newer calls", None, "", {}, _old_binding)
    yield _fault("other-pynvml", "an old package named pynvml, which does not import, is in the environment", None, "",
                 {}, _old_package)  # fmt: skip
    yield _fault("stray-pynvml", "PYTHONPATH brings a module pynvml that does not import", "nvml-unusable",
                 "PYTHONPATH", {}, lambda ground: _in_python_path(ground, "raise ImportError('for Python 2 only')"),
                 quiet=OF_THE_BED)  # fmt: skip


def _old_package(ground: Ground) -> None:
    ground.site.metadata("pynvml", "8.0.4")
    ground.site.module("pynvml", "raise ImportError('for Python 2 only')")


def _old_binding(ground: Ground) -> None:
    real = Path(sysconfig.get_path("purelib")) / "pynvml.py"
    lacking = (
        "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetMPSComputeRunningProcesses", "nvmlMemory_v2",
        "nvmlDeviceGetNumGpuCores", "nvmlDeviceGetComputeRunningProcesses", "NVML_CLOCK_SM", "NVML_DEVICE_MIG_ENABLE",
    )  # fmt: skip
    _in_python_path(ground, f"exec(open({str(real)!r}).read())\ndel {', '.join(lacking)}\n")


def _in_python_path(ground: Ground, source: str) -> None:
    folder = ground.folder / "own"
    folder.mkdir()
    (folder / "pynvml.py").write_text(source)
    others = ground.environment.get("PYTHONPATH")
    ground.environment["PYTHONPATH"] = f"{folder}:{others}" if others else str(folder)


def _hidden() -> Iterator[Fault]:
    for name, value in (("empty", ""), ("minus-one", "-1"), ("index", "3"), ("uuid", "GPU-99999999-0000")):
        yield _fault(
            f"hidden-{name}", f'CUDA_VISIBLE_DEVICES is "{value}"', "gpu-hidden-by-variable",
            r"unset CUDA_VISIBLE_DEVICES", {}, _set("CUDA_VISIBLE_DEVICES", value), quiet=OF_THE_BED,
        )  # fmt: skip
    yield _fault("void-ignored", "NVIDIA_VISIBLE_DEVICES is void where no container toolkit reads it", None, "", {},
                 _set("NVIDIA_VISIBLE_DEVICES", "void"))  # fmt: skip
    yield _fault("void", "NVIDIA_VISIBLE_DEVICES is void, and the driver shows no GPU", "no-gpu-visible",
                 r"-e NVIDIA_VISIBLE_DEVICES=all", {"count": 0}, _set("NVIDIA_VISIBLE_DEVICES", "void"),
                 quiet=OF_THE_BED)  # fmt: skip


def _set(name: str, value: str) -> Plant:
    return lambda ground: ground.environment.update({name: value})


def _fault(
    name: str,
    words: str,
    first: str | None,
    fix: str,
    script: Script,
    plant: Plant = lambda ground: None,
    *,
    quiet: tuple[str, ...] = (),
    alone: bool = False,
    budget_s: int = 15,
) -> Fault:
    """A fault on a ground where NVML plays an H200, or what `script` changes of it.

    Args:
        name: what it is called.
        words: what is broken.
        first: what must be said first.
        fix: what must be advised.
        script: the GPU that is played.
        plant: what else is broken.
        quiet: the bed's probes that are left out.
        alone: judge what the command says by itself, without a bed.
        budget_s: the budget of the command.
    """

    def planted(ground: Ground) -> None:
        ground.played_gpu(**script)
        plant(ground)

    bed = {"bed": None} if alone else {}
    return Fault(
        f"gpu-{name}", "gpu", words, first, fix, planted, ("gpus", "driver"), quiet_probes=quiet, budget_s=budget_s,
        **bed,  # type: ignore[arg-type]
    )  # fmt: skip
