"""Which launcher started a process, and which rank it is, is read from the variables that launchers set."""

from __future__ import annotations

import pytest

from fp8doctor.fleet.launched import NoLaunchError, expand, launched, nodes_of_job

# What torchrun of torch 2.13 set for a rank of `--nnodes 2 --nproc-per-node 2`.
TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "gpu01",
    "MASTER_PORT": "29400",
    "TORCHELASTIC_RUN_ID": "one",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
# What srun of Slurm 22.05 set for a task of `srun -N 2 --ntasks-per-node 2`.
SRUN = {
    "SLURM_JOB_ID": "1207",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[01-02]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURMD_NODENAME": "gpu02",
}


def test_a_process_that_nobody_launched_is_no_rank() -> None:
    assert launched({"HOME": "/root", "RANK": "", "WORLD_SIZE": ""}) is None


def test_torchruns_agent_holds_the_store_for_all_ranks() -> None:
    one = launched({**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0"})
    assert one is not None
    assert (one.launcher, one.rank, one.world, one.local_world) == ("torchrun", 0, 4, 2)
    assert (one.address, one.port, one.holds_store) == ("gpu01", 29400, False)


def test_without_an_agent_rank_0_holds_it() -> None:
    plain = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "gpu01", "MASTER_PORT": "29500"}
    one = launched(plain)
    assert one is not None
    assert one.holds_store
    assert launched({**plain, "TORCHELASTIC_USE_AGENT_STORE": "False"}) == one


def test_under_slurm_the_first_host_of_the_list_holds_it_at_a_port_of_the_job() -> None:
    one = launched(SRUN)
    other = launched({**SRUN, "SLURM_JOB_ID": "1208"})
    assert one is not None
    assert other is not None
    assert (one.launcher, one.rank, one.world, one.local_rank, one.name) == ("srun", 2, 4, 0, "gpu02")
    assert (one.address, one.hosts) == ("gpu01", ("gpu01", "gpu02"))
    assert one.port != other.port


def test_torchrun_inside_srun_is_torchruns_launch() -> None:
    one = launched({**SRUN, **TORCHRUN})
    assert one is not None
    assert one.launcher == "torchrun"


def test_a_batch_script_of_slurm_is_one_node_of_several() -> None:
    batch = {"SLURM_JOB_ID": "1207", "SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_NUM_NODES": "2"}
    assert launched(batch) is None
    assert nodes_of_job(batch) == 2
    assert nodes_of_job(SRUN) == 1


def test_mpirun_does_not_say_where_rank_0_is() -> None:
    ranks = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
    with pytest.raises(NoLaunchError, match="MASTER_ADDR"):
        launched(ranks)
    one = launched({**ranks, "MASTER_ADDR": "gpu01"})
    assert one is not None
    assert (one.launcher, one.rank, one.address) == ("mpirun", 1, "gpu01")


def test_a_pod_of_an_indexed_job_has_its_number_as_rank() -> None:
    pod = {"JOB_COMPLETION_INDEX": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "fleet-0.fleet", "MASTER_PORT": "29500"}
    one = launched({**pod, "FP8DOCTOR_FLEET_NODE": "gpu07"})
    assert one is not None
    assert (one.rank, one.world, one.local_rank, one.name) == (1, 4, 0, "gpu07")


def test_the_port_can_be_chosen() -> None:
    one = launched({**SRUN, "FP8DOCTOR_FLEET_PORT": "4711"})
    assert one is not None
    assert one.port == 4711


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"RANK": "4"}, "RANK='4'"),
        ({"RANK": "-1"}, "RANK='-1'"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE='many'"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT"),
    ],
)
def test_variables_that_cannot_be_are_refused_by_their_name(changed: dict[str, str], said: str) -> None:
    with pytest.raises(NoLaunchError, match=said):
        launched({**TORCHRUN, **changed})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("gpu7", ("gpu7",)),
        ("gpu[01-03,7],login", ("gpu01", "gpu02", "gpu03", "gpu7", "login")),
        ("rack[1-2]n[8-9]-ib", ("rack1n8-ib", "rack1n9-ib", "rack2n8-ib", "rack2n9-ib")),
    ],
)
def test_a_host_list_of_slurm_is_expanded(text: str, names: tuple[str, ...]) -> None:
    assert expand(text) == names


@pytest.mark.parametrize("text", ["", "[", "gpu[1-", "gpu[a-b]", "gpu[1-99999999]", "n[0-999]x[0-999]"])
def test_what_is_no_host_list_is_refused(text: str) -> None:
    with pytest.raises(NoLaunchError):
        expand(text)
