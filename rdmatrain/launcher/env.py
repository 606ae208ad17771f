"""The environment of a worker, as torchrun sets it."""

import uuid
from collections.abc import Mapping

from rdmatrain.launcher.endpoint import Endpoint
from rdmatrain.launcher.spec import LaunchSpec

# Set by an outer torchrun: the first would make rank 0 wait for a store that nobody serves.
_NOT_INHERITED = ("TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_ERROR_FILE")


def worker_environment(
    spec: LaunchSpec, endpoint: Endpoint, run_id: str, local_rank: int, base: Mapping[str, str]
) -> dict[str, str]:
    """Return the whole environment of this node's worker ``local_rank``.

    Options win over what is inherited, see :func:`overridden`. The arena is torch's allocator in
    the workers unless ``RDMATRAIN_ARENA`` says otherwise. The store is served by rank 0 itself, so
    ``TORCHELASTIC_USE_AGENT_STORE`` is never set.

    Args:
        spec: what is started.
        endpoint: where the job's store listens.
        run_id: one text for all workers of the job.
        local_rank: the worker's number on this node.
        base: what the worker inherits.

    """
    rank = str(spec.rank(local_rank))
    world_size = str(spec.world_size)
    own = {
        "RANK": rank,
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": world_size,
        "LOCAL_WORLD_SIZE": str(spec.nproc_per_node),
        "GROUP_RANK": str(spec.node_rank),
        "GROUP_WORLD_SIZE": str(spec.nnodes),
        "ROLE_RANK": rank,
        "ROLE_WORLD_SIZE": world_size,
        "ROLE_NAME": "default",
        "MASTER_ADDR": endpoint.host,
        "MASTER_PORT": str(endpoint.port),
        "TORCHELASTIC_RUN_ID": run_id,
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "PYTHONUNBUFFERED": "1",
    }
    inherited = {name: value for name, value in base.items() if name not in _NOT_INHERITED}
    if not inherited.get("RDMATRAIN_ARENA"):
        own["RDMATRAIN_ARENA"] = "on"
    return inherited | own | _variables(spec)


def overridden(spec: LaunchSpec, base: Mapping[str, str]) -> list[str]:
    """Return a line for each inherited variable that an option replaces by another value.

    Args:
        spec: what is started.
        base: what the workers inherit.

    """
    return [
        f"--{field} {value} replaces {name}={base[name]}"
        for (field, value), name in zip(spec.settings.items(), _variables(spec), strict=True)
        if base.get(name, value) not in {"", value}
    ]


def _variables(spec: LaunchSpec) -> dict[str, str]:
    return {f"RDMATRAIN_{name.upper()}": value for name, value in spec.settings.items()}


def new_run_id(spec: LaunchSpec) -> str:
    """Return a fresh id for a job of one node; several nodes share torchrun's constant "none"."""
    return str(uuid.uuid4()) if spec.nnodes == 1 else "none"


def default_omp_threads(spec: LaunchSpec, base: Mapping[str, str], num_cpus: int) -> int | None:
    """Return the threads to give each worker, or None when the user or a lone worker decides.

    Args:
        spec: what is started.
        base: what the workers inherit.
        num_cpus: CPUs that this process may use.

    """
    if spec.nproc_per_node == 1 or base.get("OMP_NUM_THREADS"):
        return None
    return max(1, num_cpus // spec.nproc_per_node)
