"""Which launcher started this process, and which rank is it?"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

# Where rank 0 holds the store if no launcher does: below the ports that Linux gives to clients (32768 and above).
FIRST_PORT = 20_000
PORTS = 12_000
PORT_VARIABLE = "FP8DOCTOR_FLEET_PORT"
NAME_VARIABLE = "FP8DOCTOR_FLEET_NODE"
MOST_RANKS = 1 << 20
# A host list may name millions in a few signs.
MOST_HOSTS = 20_000


class NoLaunchError(ValueError):
    """What a launcher's variables say cannot be; the text says why in one line."""


@dataclass(frozen=True)
class Launched:
    """One rank of a launch."""

    launcher: str
    rank: int
    world: int
    # Among the ranks of its node, of which there are `local_world` (None: not known, or not the same everywhere).
    local_rank: int
    local_world: int | None
    # The node's name.
    name: str
    # Where the store is, whether this rank holds it, and what sets this run apart from others in the same store.
    address: str
    port: int
    holds_store: bool
    run: str
    # The nodes that were asked for, where the launcher names them.
    hosts: tuple[str, ...] = ()


def launched(environment: Mapping[str, str]) -> Launched | None:
    """Which rank of which launch this process is, by the variables that launchers set; None if nobody launched it.

    Raises:
        NoLaunchError: if they contradict one another.
    """
    if _is_set(environment, "WORLD_SIZE") and (
        _is_set(environment, "RANK") or _is_set(environment, "JOB_COMPLETION_INDEX")
    ):
        return _by_torch(environment)
    if _is_set(environment, "SLURM_STEP_ID") and _is_set(environment, "SLURM_PROCID"):
        return _by_slurm(environment)
    if _is_set(environment, "OMPI_COMM_WORLD_SIZE") and _is_set(environment, "OMPI_COMM_WORLD_RANK"):
        return _by_open_mpi(environment)
    return None


def node_name(environment: Mapping[str, str]) -> str:
    """What this node is called in the report."""
    return environment.get(NAME_VARIABLE) or environment.get("SLURMD_NODENAME") or socket.gethostname()


def nodes_of_job(environment: Mapping[str, str]) -> int:
    """How many nodes a batch script of Slurm has, which runs on the first of them alone; 1 anywhere else."""
    if _is_set(environment, "SLURM_STEP_ID"):
        return 1
    count = environment.get("SLURM_JOB_NUM_NODES", "1")
    return int(count) if re.fullmatch(r"[0-9]{1,7}", count) else 1


def _by_torch(environment: Mapping[str, str]) -> Launched:
    """https://docs.pytorch.org/docs/stable/elastic/run.html, and env:// of torch.distributed, which others set too.

    An Indexed Job of Kubernetes numbers its pods in JOB_COMPLETION_INDEX.
    """
    elastic = _is_set(environment, "TORCHELASTIC_RUN_ID")
    rank_from = "RANK" if _is_set(environment, "RANK") else "JOB_COMPLETION_INDEX"
    world = _number(environment, "WORLD_SIZE", 1, MOST_RANKS)
    rank = _number(environment, rank_from, 0, world - 1)
    run = f"{environment.get('TORCHELASTIC_RUN_ID', '')}/{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    alone = world == 1
    return Launched(
        launcher="torchrun" if elastic else rank_from,
        rank=rank,
        world=world,
        local_rank=_number(environment, "LOCAL_RANK", 0, world - 1, 0),
        local_world=_number(environment, "LOCAL_WORLD_SIZE", 1, world, 1),
        name=node_name(environment),
        address=_text(environment, "MASTER_ADDR", "localhost" if alone else None),
        port=_port(environment, None if not alone else FIRST_PORT),
        # With this, torch's agent holds a store there for all its ranks (torch/distributed/rendezvous.py).
        holds_store=rank == 0 and environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        run=run,
    )


def _by_slurm(environment: Mapping[str, str]) -> Launched:
    """https://slurm.schedmd.com/srun.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES."""
    tasks = "SLURM_STEP_NUM_TASKS" if _is_set(environment, "SLURM_STEP_NUM_TASKS") else "SLURM_NTASKS"
    world = _number(environment, tasks, 1, MOST_RANKS, 1)
    rank = _number(environment, "SLURM_PROCID", 0, world - 1)
    job = environment.get("SLURM_JOB_ID", "0")
    step = environment["SLURM_STEP_ID"]
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or "localhost"
    hosts = expand(nodes)
    each = re.fullmatch(r"([0-9]{1,6})(?:\(x[0-9]+\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    number = sum(int(one) for one in (job, step) if one.isascii() and one.isdigit())
    return Launched(
        launcher="srun",
        rank=rank,
        world=world,
        local_rank=_number(environment, "SLURM_LOCALID", 0, world - 1),
        local_world=int(each[1]) if each else None,
        name=node_name(environment),
        address=_text(environment, "MASTER_ADDR", hosts[0]),
        port=_port(environment, FIRST_PORT + number % PORTS),
        holds_store=rank == 0,
        run=f"{job}.{step}",
        hosts=hosts,
    )


def _by_open_mpi(environment: Mapping[str, str]) -> Launched:
    """https://docs.open-mpi.org/en/main/tuning-apps/environment-var.html. It does not say where rank 0 is."""
    world = _number(environment, "OMPI_COMM_WORLD_SIZE", 1, MOST_RANKS)
    rank = _number(environment, "OMPI_COMM_WORLD_RANK", 0, world - 1)
    alone = world == _number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE", 1, world, 1)
    return Launched(
        launcher="mpirun",
        rank=rank,
        world=world,
        local_rank=_number(environment, "OMPI_COMM_WORLD_LOCAL_RANK", 0, world - 1, 0),
        local_world=None,
        name=node_name(environment),
        address=_text(environment, "MASTER_ADDR", "localhost" if alone else None),
        port=_port(environment, FIRST_PORT),
        holds_store=rank == 0,
        run=environment.get("PMIX_NAMESPACE", ""),
    )


def expand(hosts: str) -> tuple[str, ...]:
    """The names in a host list of Slurm: "gpu[01-03,7],login" are five.

    Raises:
        NoLaunchError: if it is none, or names more than any cluster has.
    """
    names: list[str] = []
    one = r"(?:[^,\[\]]|\[[^\[\]]*\])+"
    if not re.fullmatch(rf"{one}(?:,{one})*", hosts):
        raise NoLaunchError(f"{hosts[:80]!r} is no list of hosts")
    for part in re.findall(one, hosts):
        pieces = [_range(one[1:-1]) if one.startswith("[") else [one] for one in re.split(r"(\[[^\]]*\])", part) if one]
        for combination in product(*pieces):
            names.append("".join(combination))
            if len(names) > MOST_HOSTS:
                raise NoLaunchError(f"the host list names more than {MOST_HOSTS:,} nodes")
    return tuple(names)


def _range(text: str) -> list[str]:
    """The numbers of "01-03,7" with their leading zeros."""
    found: list[str] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part.strip())
        if match is None:
            raise NoLaunchError(f"[{text[:80]}] is no range of hosts")
        first, last = match[1], match[2] or match[1]
        if int(last) - int(first) > MOST_HOSTS:
            raise NoLaunchError(f"the host list names more than {MOST_HOSTS:,} nodes")
        found += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return found


def _is_set(environment: Mapping[str, str], name: str) -> bool:
    return bool(environment.get(name, "").strip())


def _number(environment: Mapping[str, str], name: str, least: int, most: int, default: int | None = None) -> int:
    text = environment.get(name, "").strip()
    if not text and default is not None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise NoLaunchError(f"{name}={text[:40]!r}: a number from {least} to {most} was expected")
    return int(text)


def _text(environment: Mapping[str, str], name: str, default: str | None) -> str:
    text = environment.get(name, "").strip() or default
    if text is None:
        raise NoLaunchError(f"{name} is not set: it names the host of rank 0")
    return text


def _port(environment: Mapping[str, str], default: int | None) -> int:
    """The port of the store: the person's, else the launcher's, else the default."""
    for name in (PORT_VARIABLE, "MASTER_PORT"):
        if _is_set(environment, name):
            return _number(environment, name, 1, 65535)
    if default is None:
        raise NoLaunchError("MASTER_PORT is not set: it is a free port on the host of rank 0")
    return default
