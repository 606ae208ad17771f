"""Which of how many tasks this process is, where mpirun, srun or torchrun started it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rdmatrain.discovery.orchestrator import Identity
from rdmatrain.discovery.orchestrators.hosts import slurm_tasks

# Each pod's own: a process that something else started in it is not what they are about.
POD_STARTERS = ("pytorchjob", "trainer")
_SLURM = ("srun", "slinky")
# They start processes, not pods or nodes.
STARTERS = ("torchrun", "mpirun", *_SLURM)
# Rank, number of tasks, rank on this host, number on this host.
_VARIABLES = {
    "torchrun": (("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),),
    "mpirun": (
        (
            "OMPI_COMM_WORLD_RANK",
            "OMPI_COMM_WORLD_SIZE",
            "OMPI_COMM_WORLD_LOCAL_RANK",
            "OMPI_COMM_WORLD_LOCAL_SIZE",
        ),
        ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ),
}


@dataclass(frozen=True)
class Task:
    """One task of several.

    Attributes:
        rank: its number among all.
        size: how many there are.
        local_rank: its number on this host.
        local_size: how many there are on this host.
        by: who started them.
        source: where ``rank`` stands.

    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    by: str
    source: str


def task_of(identity: Identity, environ: Mapping[str, str]) -> Task | None:
    """Return which task this process is; None if nobody starts tasks, or they are not numbered.

    Args:
        identity: who started this process.
        environ: its variables.

    """
    by = identity.orchestrator
    names = _VARIABLES.get(by, ())
    found = [([_number(environ, name) for name in group], group[0]) for group in names]
    if by in _SLURM:
        found = [(_slurm_numbers(identity, environ), "SLURM_PROCID")]
    for (rank, size, local_rank, local_size), source in found:
        if None in {rank, size, local_rank, local_size}:
            continue
        if rank < size and local_rank < local_size <= size:  # type: ignore[operator]
            return Task(rank, size, local_rank, local_size, by, source)  # type: ignore[arg-type]
    return None


def are_nodes(task: Task | None, identity: Identity) -> bool:
    """Tell whether each task is a node of the gang: there are not as many hosts as tasks."""
    return task is not None and task.size > 1 and task.size != identity.nnodes


def have_one_worker(task: Task, identity: Identity) -> bool:
    """Tell whether a task is a worker, unless options say otherwise; else it is a host's only one.

    Where nothing tells how many hosts there are, this host stands for all.
    """
    return task.local_size > 1 or identity.nnodes is not None


def _slurm_numbers(identity: Identity, environ: Mapping[str, str]) -> list[int | None]:
    """Return the numbers of a task of srun; a batch script is none."""
    if not (environ.get("SLURM_STEP_ID") or environ.get("SLURM_STEPID")):
        return [None] * 4
    on_hosts = slurm_tasks(environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    counted = _number(environ, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    size = sum(on_hosts) or counted
    here = identity.nproc_per_node
    return [_number(environ, "SLURM_PROCID"), size, _number(environ, "SLURM_LOCALID"), here]


def _number(environ: Mapping[str, str], *names: str) -> int | None:
    text = next((environ[name].strip() for name in names if environ.get(name, "").strip()), "")
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else None
