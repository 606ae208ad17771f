"""What each worker of this node is given for the whole job: what it inherits, and its CPUs.

All of it is a function of the survey, the job and the files of this machine; the environment of a
round is built on it by :mod:`rdmatrain.launcher.worker_env`.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rdmatrain.discovery.complaints import counted
from rdmatrain.discovery.machine import ALLOWED, line_of
from rdmatrain.discovery.pci import parse_cpus
from rdmatrain.discovery.quota import cpu_quota
from rdmatrain.discovery.source import Source
from rdmatrain.discovery.survey import Survey, reseat
from rdmatrain.launcher.job import Job
from rdmatrain.launcher.numa import Bound, numa_binding

OMP = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class Place:
    """A worker's.

    Attributes:
        base: what it inherits, with what discovery found for it.
        cpus: to bind it to; empty leaves them as they are.

    """

    base: Mapping[str, str]
    cpus: tuple[int, ...]


def places(
    job: Job, survey: Survey | None, environ: Mapping[str, str], source: Source
) -> tuple[tuple[Place, ...], tuple[str, ...]]:
    """Give each worker of this launcher its place.

    Args:
        job: what is started.
        survey: what was found here; None: nothing was looked for.
        environ: what the launcher inherited.
        source: this machine.

    Returns:
        The places of the launcher's workers, and lines for the user about what was decided.

    """
    bound = _bind(job, survey, source)
    threads, lines = omp_threads(
        job.num_local, _num_cpus(job, survey, source), cpu_quota(source), environ
    )
    seated = reseat(survey, job.num_local) if survey else None
    found = []
    for place, (cpus, _) in enumerate(bound):
        base = {**environ, **discovered(seated, job.first_local + place, environ)}
        if threads:
            base[OMP] = str(min(threads, len(cpus) or threads))
        found.append(Place(base, cpus))
    return tuple(found), (*lines, *_why_unbound(job, bound))


def omp_threads(
    workers: int, num_cpus: int, quota: float | None, environ: Mapping[str, str]
) -> tuple[int, list[str]]:
    """Return the threads to give to each worker, 0 to leave it to OpenMP, and a line that says so.

    Args:
        workers: that share the CPUs.
        num_cpus: that they may run on.
        quota: how many of them the cgroup pays for; None for all.
        environ: the user's own value in it wins.

    """
    paid = min(num_cpus, quota or num_cpus)
    # A lone worker may have all CPUs, which OpenMP takes by itself.
    if environ.get(OMP) or (workers == 1 and paid == num_cpus):
        return 0, []
    threads = max(1, int(paid / workers))
    why = f"{num_cpus} CPUs" if paid == num_cpus else f"{paid:g} CPUs that the cgroup pays for"
    to = f"each of {workers} workers" if workers > 1 else "the worker"
    return threads, [f"{OMP} is unset: set to {threads} for {to}, of {why}"]


def discovered(
    survey: Survey | None, local_rank: int, environ: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables that discovery chose for a worker; the user's own are not among them.

    Args:
        survey: what was found here, for the workers of this host.
        local_rank: of the worker, on this host.
        environ: what the launcher inherited.

    """
    if survey is None or survey.environment is None:
        return {}
    chosen = survey.environment.to_set(local_rank)
    return {name: value for name, value in chosen.items() if not environ.get(name)}


def _bind(job: Job, survey: Survey | None, source: Source) -> tuple[Bound, ...]:
    """Choose the CPUs of this launcher's workers, of those of all workers of this host."""
    if survey is None:
        why = "nothing is known of this machine" if job.numa_binding else ""
        return (Bound((), why),) * job.nproc
    workers = job.num_local
    all_bound: tuple[Bound, ...] = (Bound(()),) * workers
    if job.numa_binding:
        all_bound = numa_binding(job.numa_binding, survey, workers, source)
    elif job.bind_cpus and not _has_one_place(survey) and not _is_bound(job, source):
        bindings = reseat(survey, workers).bindings
        all_bound = tuple(Bound(each.cpus) for each in bindings) or all_bound
    return all_bound[job.first_local : job.first_local + job.nproc]


def _num_cpus(job: Job, survey: Survey | None, source: Source) -> int:
    """Return how many CPUs the workers of this host may run on, as far as this launcher sees."""
    allowed = len(survey.machine.cpus) if survey else 0
    num_cpus = allowed or len(os.sched_getaffinity(0))
    launchers = job.num_local // job.nproc
    return num_cpus * launchers if _is_bound(job, source) else num_cpus


def _is_bound(job: Job, source: Source) -> bool:
    """Tell whether mpirun or srun has given this launcher CPUs of its own: fewer than it has."""
    if job.num_local == job.nproc:
        return False
    parent = line_of(source, "/proc/self/status", "PPid")
    theirs = parse_cpus(line_of(source, f"/proc/{parent}/status", ALLOWED)) if parent else ()
    return set(parse_cpus(line_of(source, "/proc/self/status", ALLOWED))) < set(theirs)


def _has_one_place(survey: Survey) -> bool:
    """Tell whether all CPUs are equally near to everything, where binding only takes CPUs away."""
    devices = survey.allocation.gpus or survey.allocation.nics
    return not devices and len(survey.machine.nodes) <= 1


def _why_unbound(job: Job, bound: Sequence[Bound]) -> list[str]:
    """Return a line for each reason for which what was asked for could not be done."""
    ranks: dict[str, list[str]] = {}
    for local_rank, each in enumerate(bound, job.first_local):
        if each.reason:
            ranks.setdefault(each.reason, []).append(str(local_rank))
    return [
        f"--numa-binding {job.numa_binding}: the CPUs of {counted(len(of), 'local rank')} "
        f"({', '.join(of)}) are left as they are: {reason}"
        for reason, of in ranks.items()
    ]
