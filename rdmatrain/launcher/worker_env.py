"""The environment and arguments of a worker: torchrun's of 2.13, and what rdmatrain adds.

From the weakest to the strongest: what the worker inherits, which has what discovery found for it
(:mod:`rdmatrain.launcher.places`); what torchrun sets; what options say; what the agent adds.
"""

from collections.abc import Mapping
from dataclasses import replace
from string import Template

from rdmatrain.errors import SettingError
from rdmatrain.launcher.job import Job, Program
from rdmatrain.launcher.messages import Round

# Of an outer launcher: its store is not this job's, nor is its error file or leader.
_NOT_INHERITED = ("TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_ERROR_FILE", "RDMATRAIN_LEADER")


def worker_environment(
    job: Job, round: Round, local_rank: int, base: Mapping[str, str], extra: Mapping[str, str]
) -> dict[str, str]:
    """Return the whole environment of this node's worker ``local_rank`` in a round.

    Args:
        job: what is started.
        round: who takes part.
        local_rank: the worker's number among those of this launcher.
        base: what the worker inherits.
        extra: wins over everything: where the store is, and what is made anew for each round.

    Raises:
        SettingError: ``--virtual-local-rank`` has no GPU for the worker.

    """
    inherited = {name: value for name, value in base.items() if name not in _NOT_INHERITED}
    return (
        inherited
        | _torchrun(job, round, local_rank)
        | _kept(inherited)
        | _local_rank(job, job.first_local + local_rank, inherited)
        | _gang(job, round, inherited)
        | _variables(job)
        | dict(extra)
    )


def worker_program(program: Program, local_rank: int) -> Program:
    """Return what one worker runs: ``${local_rank}`` in its arguments is its own, as in torchrun.

    Also as there, ``$$`` becomes ``$``, and any other use of ``$`` stays.

    Args:
        program: what all workers run.
        local_rank: the worker's number on this host.

    """
    args = (Template(arg).safe_substitute(local_rank=local_rank) for arg in program.args)
    return replace(program, args=tuple(args))


def overridden(job: Job, base: Mapping[str, str]) -> list[str]:
    """Return a line for each inherited variable that an option replaces by another value.

    Args:
        job: what is started.
        base: what the workers inherit.

    """
    return [
        f"--{field.replace('_', '-')} {value} replaces {name}={base[name]}"
        for (field, value), name in zip(job.settings.items(), _variables(job), strict=True)
        if base.get(name, value) not in {"", value}
    ]


def _torchrun(job: Job, round: Round, local_rank: int) -> dict[str, str]:
    rank, world_size = str(round.node.first_rank + local_rank), str(round.world_size)
    return {
        "RANK": rank,
        "WORLD_SIZE": world_size,
        "LOCAL_WORLD_SIZE": str(job.num_local),
        "GROUP_RANK": str(round.node.node_rank),
        "GROUP_WORLD_SIZE": str(len(round.nodes)),
        "ROLE_NAME": job.role,
        # All nodes have one role.
        "ROLE_RANK": rank,
        "ROLE_WORLD_SIZE": world_size,
        "TORCHELASTIC_RUN_ID": job.gang.run_id,
        "TORCHELASTIC_RESTART_COUNT": str(round.restart),
        "TORCHELASTIC_MAX_RESTARTS": str(job.limits.max_restarts),
        "TORCHELASTIC_SIGNALS_TO_HANDLE": ",".join(job.limits.signals),
        # The launcher serves the store: rank 0 is a client of it as all others are.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "PYTHONUNBUFFERED": "1",
    }


def _kept(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return what has a value of its own only where the user gave none."""
    return {
        # As torchrun has it: an empty value of the user's stays empty.
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": inherited.get("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
        "RDMATRAIN_ARENA": inherited.get("RDMATRAIN_ARENA") or "on",
    }


def _local_rank(job: Job, local_rank: int, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the worker's number on this host, or its own GPU in place of that."""
    if not job.virtual_local_rank:
        return {"LOCAL_RANK": str(local_rank)}
    name = "CUDA_VISIBLE_DEVICES"
    given = inherited.get(name)
    if given is None:
        return {"LOCAL_RANK": "0", name: str(local_rank)}
    devices = [device.strip() for device in given.split(",")]
    if local_rank >= len(devices):
        raise SettingError(
            f"--virtual-local-rank: {name}={given} has no GPU for local rank {local_rank}: "
            "start fewer workers with --nproc-per-node, or name more GPUs"
        )
    return {"LOCAL_RANK": "0", name: devices[local_rank]}


def _gang(job: Job, round: Round, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return what only a job of several nodes needs.

    ``MASTER_ADDR`` is a door to the store on this node, so that nothing about the way to other
    nodes follows from it.
    """
    if len(round.nodes) == 1:
        return {}
    host, port = job.gang.leader, job.gang.port
    address = inherited.get("RDMATRAIN_ADDR") or round.node.address
    found = {"RDMATRAIN_LEADER": f"[{host}]:{port}" if ":" in host else f"{host}:{port}"}
    return found | ({"RDMATRAIN_ADDR": address} if address else {})


def _variables(job: Job) -> dict[str, str]:
    return {f"RDMATRAIN_{name.upper()}": value for name, value in job.settings.items()}
