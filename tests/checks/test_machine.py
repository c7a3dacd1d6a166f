"""The machine: rules on records, cgroup files of real containers, and the probe on this machine."""

from __future__ import annotations

import os
import re
import sys
import threading
from pathlib import Path

import pytest

from fp8doctor.checks.gpu import Gpu, Gpus
from fp8doctor.checks.libraries import Libraries
from fp8doctor.checks.machine import Machine
from fp8doctor.checks.machine.environment import HARMS
from fp8doctor.checks.machine.probe import cpu_quota_cores, gather, memory_limit_mib, throttled_share
from fp8doctor.checks.machine.rules import cpu_quota_low, env_var_wrong, shared_memory_small
from fp8doctor.model import Finding, NotApplicable, Request, RuleResult, Severity, Unknown
from fp8doctor.probing.children import importable_here, run_probe
from fp8doctor.store import decode_facts
from fp8doctor.variables import KEPT, kept

H200 = Gpus(gpus=(Gpu(index=0, compute_capability="9.0"),))
TWO = Gpus(gpus=(Gpu(index=0), Gpu(index=1)))
NO_GPU = Gpus(gpus=())
# A virtual machine with an H200, as it was seen.
HEALTHY = Machine(
    logical_cpus=16, affinity_cpus=16, usable_cores=16.0, container="docker", shm_total_mib=64000.0, environment={}
)


def findings(result: RuleResult) -> list[Finding]:
    return [v for v in (result if isinstance(result, list) else [result]) if isinstance(v, Finding)]


def test_a_healthy_machine_gets_no_finding() -> None:
    assert env_var_wrong(HEALTHY, H200, Libraries(installed={"torch": "2.11.0"})) is None
    assert cpu_quota_low(HEALTHY, H200) is None
    assert shared_memory_small(HEALTHY) is None


@pytest.mark.parametrize("variable", ["CUDA_LAUNCH_BLOCKING", "PYTORCH_NO_CUDA_MEMORY_CACHING", "CUDA_FORCE_PTX_JIT"])
def test_a_variable_for_debugging_is_a_warning(variable: str) -> None:
    (finding,) = findings(env_var_wrong(Machine(environment={variable: "1"}), H200, None))
    assert variable in finding.title
    assert finding.severity is Severity.WARNING
    assert env_var_wrong(Machine(environment={variable: "0"}), H200, None) is None


def test_a_variable_matters_only_to_who_reads_it() -> None:
    te = Libraries(installed={"transformer-engine": "2.20.2"})
    emulating = Machine(environment={"NVTE_UnfusedDPA_Emulate_FP8": "1"})
    assert findings(env_var_wrong(emulating, H200, te))
    assert not findings(env_var_wrong(emulating, H200, Libraries(installed={})))
    no_p2p = Machine(environment={"NCCL_P2P_DISABLE": "1"})
    assert findings(env_var_wrong(no_p2p, TWO, None))
    assert not findings(env_var_wrong(no_p2p, H200, None))


def test_variables_without_a_gpu_or_unseen() -> None:
    blocking = Machine(environment={"CUDA_LAUNCH_BLOCKING": "1"})
    assert isinstance(env_var_wrong(blocking, NO_GPU, None), NotApplicable)
    assert isinstance(env_var_wrong(Machine(), H200, None), Unknown)


def test_every_harmful_variable_is_one_that_is_kept() -> None:
    assert all(re.fullmatch(KEPT, harm.variable) for harm in HARMS)


def test_only_listed_variables_are_kept() -> None:
    environment = {
        "CUDA_HOME": "/usr/local/cuda",
        "HF_TOKEN": "secret",
        "AWS_SECRET_ACCESS_KEY": "x",
        "NVTE_DEBUG": "1",
    }
    assert kept(environment) == {"CUDA_HOME": "/usr/local/cuda", "NVTE_DEBUG": "1"}


def test_cpu_quota_low() -> None:
    starved = Machine(affinity_cpus=16, cpu_quota_cores=0.5, usable_cores=0.5, cpu_throttled_share=0.31)
    (finding,) = findings(cpu_quota_low(starved, H200))
    assert "0.5" in finding.title
    assert "31%" in finding.evidence[1].text
    assert isinstance(cpu_quota_low(starved, NO_GPU), NotApplicable)
    assert isinstance(cpu_quota_low(Machine(), H200), Unknown)


def test_shared_memory_small() -> None:
    assert findings(shared_memory_small(Machine(container="docker", shm_total_mib=64.0)))
    assert isinstance(shared_memory_small(Machine(container="none", shm_total_mib=64.0)), NotApplicable)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_cgroup_v2_takes_the_smallest_limit_above(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "kube/cpu.max": "150000 100000\n",
            "kube/memory.max": "max\n",
            "kube/pod/cpu.max": "max 100000\n",
            "kube/pod/memory.max": "2147483648\n",
            "kube/cpu.stat": "usage_usec 5\nnr_periods 200\nnr_throttled 50\n",
        },
    )
    membership = "0::/kube/pod\n"
    assert cpu_quota_cores(tmp_path, membership) == 1.5
    assert memory_limit_mib(tmp_path, membership) == 2048.0
    assert throttled_share(tmp_path, membership) == 0.25


def test_cgroup_v1_in_a_container_whose_path_is_the_hosts(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
            "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    membership = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n"
    assert cpu_quota_cores(tmp_path, membership) == 4.0
    assert memory_limit_mib(tmp_path, membership) is None


def test_without_a_quota_there_is_none(tmp_path: Path) -> None:
    write(tmp_path, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"})
    assert cpu_quota_cores(tmp_path, "3:cpu:/\n") is None
    assert cpu_quota_cores(tmp_path, "0::/\n") is None
    assert throttled_share(tmp_path, "0::/\n") is None


def test_this_machine() -> None:
    run = run_probe(
        gather.__fp8doctor__,  # type: ignore[attr-defined]
        Request(),
        interpreter=sys.executable,
        importable=importable_here({}),
        runs={},
        environment={**os.environ, "CUDA_LAUNCH_BLOCKING": "1", "MY_TOKEN": "secret"},
        deadline_s=30.0,
        decode=decode_facts,
        cancel=threading.Event(),
    )
    assert run.outcome == "ok", run
    assert isinstance(run.facts, Machine)
    assert run.facts.usable_cores is not None
    assert 0 < run.facts.usable_cores <= (os.cpu_count() or 1)
    assert run.facts.memory_total_mib is not None
    assert (run.facts.environment or {})["CUDA_LAUNCH_BLOCKING"] == "1"
    assert "secret" not in str(run.facts)
