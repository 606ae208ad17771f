"""What ``--explain`` and ``--dry-run`` print: what is in force, and what each rank would get."""

import socket
from collections.abc import Iterator, Mapping, Sequence

from rdmatrain.discovery.complaints import counted
from rdmatrain.discovery.model import Gpu
from rdmatrain.discovery.pod_model import Binding
from rdmatrain.discovery.source import Source
from rdmatrain.discovery.survey import Survey, reseat
from rdmatrain.launcher.job import Job
from rdmatrain.launcher.messages import Node, Round
from rdmatrain.launcher.places import places
from rdmatrain.launcher.resolve import Resolved
from rdmatrain.launcher.worker_env import worker_environment


def explain_text(resolved: Resolved) -> str:
    """Return a line for each value in force, with who says so, and one for each message."""
    rows = [(each.name, each.value or "-", each.source) for each in resolved.values]
    names, width = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = [f"{name:{names}}  {value:{min(width, 40)}}  {source}" for name, value, source in rows]
    return "\n".join([*lines, *(f"! {message}" for message in resolved.job.messages)])


def dry_run_text(
    job: Job, survey: Survey | None, environ: Mapping[str, str], source: Source
) -> str:
    """Return what each rank of this node would get: devices, CPUs and variables.

    Args:
        job: what would be started.
        survey: what discovery found; None for nothing.
        environ: what workers inherit; only what is added to it is shown.
        source: this machine.

    Raises:
        SettingError: ``--virtual-local-rank`` has no GPU for a worker.

    """
    found, notes = places(job, survey, environ, source)
    bindings = reseat(survey, job.num_local).bindings if survey else ()
    round_ = _likely_round(job)
    lines = [_headline(job, round_)]
    for local_rank, place in enumerate(found):
        rank = round_.node.first_rank + local_rank
        local = job.first_local + local_rank
        bound = f"CPUs {_ranges(place.cpus)}" if place.cpus else "CPUs as they are"
        devices = _devices(bindings[local] if local < len(bindings) else None)
        lines.append(f"rank {rank} (local rank {local}): {devices}; {bound}")
        full = worker_environment(job, round_, local_rank, place.base, {})
        lines += _added(full, environ)
    lines.append(
        "MASTER_ADDR, MASTER_PORT and what else is of one round are set when it starts; nothing "
        "was started"
    )
    return "\n".join([*lines, *(f"! {message}" for message in (*job.messages, *notes))])


def _likely_round(job: Job) -> Round:
    """Return the first round, if all nodes come and have as many workers as this one."""
    mine = job.gang.node_rank or 0
    nodes = tuple(
        Node(
            node_rank=rank,
            host=socket.gethostname() if rank == mine else "",
            address="",
            nproc=job.nproc,
            first_rank=rank * job.nproc,
        )
        for rank in range(job.gang.max_nodes)
    )
    return Round(number=1, restart=0, nodes=nodes, mine=mine)


def _headline(job: Job, round_: Round) -> str:
    gang = job.gang
    which = f"node {round_.mine} of {gang.max_nodes}"
    if gang.node_rank is None:
        which = f"a node of {gang.max_nodes}, shown as node 0: numbers are dealt out"
    where = "" if gang.alone else f", node 0 at {gang.leader} port {gang.port}"
    return (
        f"{which} on {round_.node.host}: {counted(job.nproc, 'worker')} of {round_.world_size}"
        f"{where}"
    )


def _devices(binding: Binding | None) -> str:
    if binding is None:
        return "no GPU; no NIC"
    gpu = _gpu(binding.gpu) if binding.gpu else "no GPU"
    nics = [
        f"{nic.name}/{port}" + (f" gid {gid}" if gid is not None else "")
        for nic, port, gid in zip(binding.nics, binding.ports, binding.gid_indexes, strict=True)
    ]
    return f"{gpu}; NIC {', '.join(nics)}" if nics else f"{gpu}; no NIC"


def _gpu(gpu: Gpu) -> str:
    return f"{gpu.name} {gpu.pci}" if gpu.pci else gpu.name


def _added(full: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(full):
        if environ.get(name) != full[name]:
            yield f"    {name}={full[name]}"


def _ranges(numbers: Sequence[int]) -> str:
    """Write CPUs as the kernel does: ``0-3,8``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
