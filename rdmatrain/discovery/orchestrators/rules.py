"""Rules that need more than a key: what follows from lists, names and numbers.

Each returns what is said and who says it, or None where its sources say nothing. A number that
cannot be read is returned as it is, so that whoever asked complains of it.
"""

import re
from collections.abc import Callable

from rdmatrain.discovery.claims.values import shown
from rdmatrain.discovery.model import Evidence
from rdmatrain.discovery.orchestrators.facts import Facts, parse_number
from rdmatrain.discovery.orchestrators.hosts import Roster, mpi_sizes, slurm_tasks

Rule = str | Callable[[Facts, Roster | None], Evidence | None]
Check = Callable[[Facts, Roster | None], None]

INDEX = "JOB_COMPLETION_INDEX"
# Of a Volcano job: it counts within a task.
TASK_INDEX = ("VC_TASK_INDEX", "VK_TASK_INDEX", "volcano.sh/task-index")
INDEX_NOTE = "batch.kubernetes.io/job-completion-index"
JOBSET = "jobset.sigs.k8s.io/"
TRAINING = "training.kubeflow.org/"


def count(_facts: Facts, roster: Roster | None) -> Evidence | None:
    """Return how many hosts are in the list."""
    return Evidence(f"hosts in {roster.source}", str(roster.size)) if roster else None


def place(facts: Facts, roster: Roster | None) -> Evidence | None:
    """Return the place of this host in the list."""
    found = roster.place(facts.names) if roster else None
    if roster is None or found is None:
        return None
    return Evidence(f"place of {roster.hosts[found]} in {roster.source}", str(found))


def first(_facts: Facts, roster: Roster | None) -> Evidence | None:
    """Return the first host of the list."""
    return Evidence(f"first host in {roster.source}", roster.hosts[0]) if roster else None


def slots(facts: Facts, roster: Roster | None) -> Evidence | None:
    """Return how many processes this host may get; or any host, where all may get as many."""
    if roster is None:
        return None
    found = roster.place(facts.names)
    here = set(roster.slots) if found is None else {roster.slots[found]}
    number = here.pop()
    return None if here or number is None else Evidence(f"slots in {roster.source}", str(number))


def total(facts: Facts, _roster: Roster | None, *, keys: tuple[str, ...]) -> Evidence | None:
    """Return the sum of those keys that are there: none of them ever shrinks."""
    said = [evidence for evidence in map(facts.get, keys) if evidence]
    numbers = []
    for evidence in said:
        number = parse_number(evidence.text)
        if number is None:
            return evidence
        numbers.append(number)
    sources = " plus ".join(evidence.source for evidence in said)
    return Evidence(sources, str(sum(numbers))) if said else None


def never_requeued(facts: Facts, _roster: Roster | None) -> Evidence | None:
    """Return 0 for a job of Slurm, which sets SLURM_RESTART_COUNT only after a restart."""
    job = facts.get("SLURM_JOB_ID", "SLURM_JOBID")
    return Evidence(f"{job.source}, without SLURM_RESTART_COUNT", "0") if job else None


def endpoint(facts: Facts, _roster: Roster | None, *, part: int) -> Evidence | None:
    """Return the host, or with part 2 the port, of torchrun's rendezvous."""
    said = facts.get("PET_RDZV_ENDPOINT")
    match = re.fullmatch(r"(.+?)(?::([^:]*))?", said.text) if said else None
    return Evidence(said.source, match[part]) if said and match and match[part] else None


def volcano_task_place(facts: Facts, roster: Roster | None) -> Evidence | None:
    """Return the pod's index within its task, after the hosts of the tasks before it."""
    index, number = facts.get(*TASK_INDEX), facts.number(*TASK_INDEX)
    if roster is None or index is None or number is None:
        return None
    own = facts.text("volcano.sh/task-spec").replace("-", "_").upper()
    if not own and len(roster.tasks) == 1:
        own = roster.tasks[0].name
    names = [task.name for task in roster.tasks]
    if own not in names:
        return None
    before = sum(task.size for task in roster.tasks[: names.index(own)])
    return Evidence(f"{index.source}, in task {own.lower()}", str(before + number))


def pytorch_plugin(facts: Facts, _roster: Roster | None, *, key: str) -> Evidence | None:
    """Return RANK or WORLD_SIZE where Volcano's pytorch plugin sets them: both count pods."""
    return facts.get(key) if facts.get("MASTER_ADDR") and facts.get("WORLD_SIZE") else None


def pods_of_world_size(facts: Facts, _roster: Roster | None) -> Evidence | None:
    """Return a PyTorchJob's WORLD_SIZE over the processes of a pod, by which it was multiplied.

    An elastic job has a range of nodes, and a WORLD_SIZE of those that it asked for.
    """
    world, number = facts.get("WORLD_SIZE"), facts.number("WORLD_SIZE")
    if world is None or number is None or ":" in facts.text("PET_NNODES"):
        return None
    each = facts.number("PET_NPROC_PER_NODE") or 1
    pods = number // each if number % each == 0 else f"{number}/{each}"
    return Evidence(f"{world.source} over PET_NPROC_PER_NODE", str(pods))


def replica_rank(facts: Facts, _roster: Roster | None) -> Evidence | None:
    """Return a PyTorchJob's pod by its labels: the master, if there is one, before the workers."""
    kind, number = facts.get(f"{TRAINING}replica-type"), facts.number(f"{TRAINING}replica-index")
    if kind is None or number is None or facts.get("PET_RDZV_ENDPOINT"):
        return None
    after_master = kind.text.lower() == "worker" and facts.get("MASTER_ADDR") is not None
    return Evidence(f"{kind.source} and replica-index", str(number + after_master))


def jobset_rank(facts: Facts, _roster: Roster | None) -> Evidence | None:
    """Return the completion index, after the pods of the jobs before this one.

    How many pods a job has is nowhere to be seen, but follows from PET_NNODES.
    """
    index, jobs = facts.get(INDEX, INDEX_NOTE), facts.number(f"{JOBSET}global-replicas")
    if jobs == 1 or not jobs:
        return index if jobs else None
    job, pod = facts.number(f"{JOBSET}job-global-index"), facts.number(INDEX, INDEX_NOTE)
    nodes = facts.number("PET_NNODES")
    if job is None or pod is None or not nodes or nodes % jobs:
        return None
    source = f"job-global-index and {INDEX}, with PET_NNODES over {jobs} jobs"
    return Evidence(source, str(job * (nodes // jobs) + pod))


def jobset_leader(facts: Facts, _roster: Roster | None) -> Evidence | None:
    """Return the first pod of the one replicated job: the order of several cannot be seen."""
    name, group = facts.text(f"{JOBSET}jobset-name"), facts.text(f"{JOBSET}replicatedjob-name")
    jobs = facts.text(f"{JOBSET}global-replicas")
    if not name or not group or jobs != facts.text(f"{JOBSET}replicatedjob-replicas"):
        return None
    return _sibling(facts, f"{name}-{group}-0-0", f"{JOBSET}jobset-name and replicatedjob-name")


def indexed_leader(facts: Facts, _roster: Roster | None) -> Evidence | None:
    """Return the pod with index 0: this pod's name, or the job's, with that index."""
    index = facts.text(INDEX)
    own = next((name for name in facts.names if index and name.endswith(f"-{index}")), "")
    if own:
        return _sibling(facts, f"{own.removesuffix(index)}0", f"host name {own}")
    job = facts.get("batch.kubernetes.io/job-name")
    return _sibling(facts, f"{job.text}-0", job.source) if job else None


def _sibling(facts: Facts, host: str, source: str) -> Evidence | None:
    if facts.domain:
        return Evidence(f"{source}, and the domain in /etc/hosts", f"{host}.{facts.domain}")
    facts.complain(
        "no-subdomain",
        "/etc/hosts",
        f"this pod has no domain, so that {host} cannot be found by name: set spec.subdomain to "
        "a headless Service, and leave hostNetwork out",
    )
    return None


def slurm_tasks_here(facts: Facts, _roster: Roster | None) -> Evidence | None:
    """Return how many tasks this node has, of those in ``8(x4),4``."""
    said = facts.get("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
    tasks = slurm_tasks(said.text) if said else ()
    if not tasks:
        return said
    node = facts.number("SLURM_NODEID")
    if said is None or node is None or node >= len(tasks):
        return None
    return Evidence(f"node {node} in {said.source}", str(tasks[node]))


def only_host(facts: Facts, _roster: Roster | None, *, text: str) -> Evidence | None:
    """Return what follows where all ranks of mpirun are on this host."""
    size, local = mpi_sizes(facts)
    return Evidence("all ranks are on this host", text) if size and size == local else None


def worker_index(facts: Facts, _roster: Roster | None) -> Evidence | None:
    """Return the pod's number in its MPIJob, where the ranks are filled in by that order."""
    key = f"{TRAINING}replica-index"
    index, local = facts.number(key), mpi_sizes(facts)[1]
    rank, here = (facts.number(f"OMPI_COMM_WORLD_{name}") for name in ("RANK", "LOCAL_RANK"))
    if index is None or local is None or rank is None or here is None:
        return None
    return facts.get(key) if rank == index * local + here else None


def not_listed(facts: Facts, roster: Roster | None) -> None:
    """Complain where this host has no place in the list of its job's hosts."""
    known = place(facts, roster) or volcano_task_place(facts, roster) or facts.get("SLURM_NODEID")
    if roster and not known:
        names = ", ".join(facts.names) or "no name"
        facts.complain(
            "not-in-hosts", roster.source, f"none of its {roster.size} hosts is this one: {names}"
        )


def batch_script(facts: Facts, roster: Roster | None) -> None:
    """Complain of a job's script that runs on the first of several nodes only."""
    if roster and roster.size > 1 and not facts.text("SLURM_STEP_ID", "SLURM_STEPID"):
        facts.complain(
            "not-in-a-step",
            "SLURM_STEP_ID",
            f"not set: this is the script of a job of {roster.size} nodes, which runs on one of "
            "them; start what belongs on each with srun",
        )


def of_jobset(facts: Facts, _roster: Roster | None) -> None:
    """Complain of an Indexed Job that looks like one of several of a JobSet."""
    group = facts.domain.partition(".")[0]
    for name in facts.names:
        if group and re.fullmatch(rf"{re.escape(group)}-.+-[0-9]+-[0-9]+", name):
            facts.complain(
                "maybe-jobset",
                f"host name {name}",
                f"looks like a pod of JobSet {group}, whose jobs each count from 0: mount the "
                "pod's annotations (downward API) at /etc/podinfo",
            )


def rank_of_pod(facts: Facts, _roster: Roster | None) -> None:
    """Complain of RANK and WORLD_SIZE that a script may take for those of a process."""
    rank, world, processes = map(facts.text, ("RANK", "WORLD_SIZE", "PET_NPROC_PER_NODE"))
    if rank and world and (parse_number(processes) or 1) > 1:
        facts.complain(
            "misleading-rank",
            "RANK and WORLD_SIZE",
            f"{shown(rank)} and {shown(world)} are of this pod, which is to run {processes} "
            "processes: start those with rdmatrain run or torchrun, which give each its own",
        )
