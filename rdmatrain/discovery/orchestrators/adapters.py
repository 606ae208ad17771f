"""How each orchestrator is recognised, and where it says who a pod is: a table.

An adapter is recognised by its markers and has, for each field of an identity, a list of rules, of
which the first that gives something counts. A rule is a key of ``facts.py`` or a function of
``rules.py``. What they rely on is in the sources of the controllers (Volcano 1.15, Kubeflow Trainer
2.3 and training-operator 1.9, JobSet 0.12, LeaderWorkerSet 0.10, mpi-operator 0.8, Slinky 1.2), of
Open MPI 4, PRRTE and Hydra, and in Slurm's manual pages.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from rdmatrain.discovery.orchestrators.facts import Facts
from rdmatrain.discovery.orchestrators.hosts import (
    Roster,
    hostfile_roster,
    mpi_roster,
    slurm_roster,
    volcano_roster,
)
from rdmatrain.discovery.orchestrators.rules import (
    INDEX,
    INDEX_NOTE,
    JOBSET,
    TASK_INDEX,
    TRAINING,
    Check,
    Rule,
    batch_script,
    count,
    endpoint,
    first,
    indexed_leader,
    jobset_leader,
    jobset_rank,
    never_requeued,
    not_listed,
    of_jobset,
    only_host,
    place,
    pods_of_world_size,
    pytorch_plugin,
    rank_of_pod,
    replica_rank,
    slots,
    slurm_tasks_here,
    total,
    volcano_task_place,
    worker_index,
)

Rules = Mapping[str, tuple[Rule, ...]]


@dataclass(frozen=True)
class Adapter:
    """How one orchestrator is recognised and read.

    Attributes:
        name: as ``rdmatrain whoami`` shows it.
        markers: it is recognised where all of one of these groups are there, see
            :meth:`~rdmatrain.discovery.orchestrators.facts.Facts.find`.
        rules: for each field of an identity, where it stands, the best first.
        agree: for some fields, what must say the same if it says anything.
        unknown: for some fields, why they are not known and what to do.
        indices: number a pod in a part of the job: from 1 on, there are others.
        roster: reads the list of its hosts.
        checks: complain of what is wrong in its own way.
        of_process: it starts processes, so only this process's own variables count.

    """

    name: str
    markers: tuple[tuple[str, ...], ...]
    rules: Rules
    agree: Rules = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    indices: tuple[str, ...] = ()
    roster: Callable[[Facts], Roster | None] = lambda _facts: None
    checks: tuple[Check, ...] = ()
    of_process: bool = False


_SLURM: Rules = {
    "nnodes": ("SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES", count),
    "node_rank": ("SLURM_NODEID", place),
    "nproc_per_node": (slurm_tasks_here, "SLURM_NTASKS_PER_NODE"),
    "leader": (first, "MASTER_ADDR"),
    "leader_port": ("MASTER_PORT",),
    "epoch": ("SLURM_RESTART_COUNT", never_requeued),
}
_SLURM_UNKNOWN = {
    "nnodes": "no task of Slurm, or no list of nodes: start it with srun",
    "node_rank": "no task of Slurm: start it with srun",
    "nproc_per_node": "no task of Slurm, or no list of tasks: start it with srun",
    "leader": "no task of Slurm, or no list of nodes: start it with srun",
    "leader_port": "Slurm gives no port: export MASTER_PORT, the same on every node",
    "epoch": "no job of Slurm",
}
_RESTARTS = partial(total, keys=(f"{JOBSET}restart-attempt", f"{JOBSET}in-place-restart-attempt"))
_MOUNT = "mount the pod's annotations (downward API) at /etc/podinfo"

_RESERVED = (
    "PET_NNODES",
    "PET_NODE_RANK",
    "PET_NPROC_PER_NODE",
    "PET_MASTER_ADDR",
    "PET_MASTER_PORT",
)
# What a person may have set by hand, for torchrun, where the orchestrator says nothing.
BY_HAND: Rules = {
    "nnodes": ("PET_NNODES",),
    "node_rank": ("PET_NODE_RANK",),
    "nproc_per_node": ("PET_NPROC_PER_NODE",),
    "leader": ("PET_MASTER_ADDR", "MASTER_ADDR"),
    "leader_port": ("PET_MASTER_PORT", "MASTER_PORT"),
}

# Where several are recognised the first counts: see orchestrator.py for the order.
ADAPTERS = (
    Adapter(
        name="torchrun",
        markers=(("TORCHELASTIC_RUN_ID",),),
        rules={
            "nnodes": ("GROUP_WORLD_SIZE",),
            "node_rank": ("GROUP_RANK",),
            "nproc_per_node": ("LOCAL_WORLD_SIZE",),
            "leader": ("MASTER_ADDR",),
            "leader_port": ("MASTER_PORT",),
            "epoch": ("TORCHELASTIC_RESTART_COUNT",),
        },
        of_process=True,
    ),
    Adapter(
        name="mpirun",
        markers=(("OMPI_COMM_WORLD_RANK",), ("MPI_LOCALRANKID", "MPI_LOCALNRANKS")),
        rules={
            # OMPI_COMM_WORLD_NODE_RANK is no index of nodes: it counts processes of a node.
            # SLURM_NODEID is of mpirun's daemons, and leaves out the node of mpirun itself.
            "nnodes": ("OMPI_MCA_orte_num_nodes", count, partial(only_host, text="1")),
            "node_rank": (place, partial(only_host, text="0"), worker_index),
            "nproc_per_node": ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"),
            "leader": (first, partial(only_host, text="localhost"), "MASTER_ADDR"),
            "leader_port": ("MASTER_PORT",),
        },
        unknown={
            "nnodes": "mpirun does not tell, and no list of hosts fits the ranks: give it a "
            "hostfile that every host can read, of the hosts it uses and no others",
            "node_rank": "this host is in no list of hosts that fits the ranks",
            "leader": "no list of hosts fits the ranks: set MASTER_ADDR (mpirun -x MASTER_ADDR)",
            "leader_port": "mpirun gives no port: set MASTER_PORT (mpirun -x MASTER_PORT)",
            "epoch": "mpirun does not count its restarts",
        },
        roster=mpi_roster,
        checks=(not_listed,),
        of_process=True,
    ),
    Adapter(
        name="slinky",
        markers=(("*slinky.slurm.net/*",), ("SLINKY_TOPOLOGY=*",)),
        rules=_SLURM,
        agree={"node_rank": (place,), "nnodes": (count,)},
        unknown=_SLURM_UNKNOWN,
        roster=slurm_roster,
        checks=(batch_script, not_listed),
    ),
    Adapter(
        name="srun",
        markers=(("SLURM_JOB_ID",), ("SLURM_JOBID",)),
        rules=_SLURM,
        agree={"node_rank": (place,), "nnodes": (count,)},
        unknown=_SLURM_UNKNOWN,
        roster=slurm_roster,
        checks=(batch_script, not_listed),
        of_process=True,
    ),
    Adapter(
        name="pytorchjob",
        markers=(
            (f"{TRAINING}operator-name=pytorchjob-controller",),
            ("PET_NNODES", "MASTER_ADDR=*-master-0"),
            ("PET_NNODES", "PET_RDZV_ENDPOINT=*-worker-0:*"),
        ),
        rules={
            "nnodes": ("PET_NNODES", pods_of_world_size),
            "node_rank": ("PET_NODE_RANK", replica_rank, "RANK"),
            "leader": (partial(endpoint, part=1),),
            "leader_port": (partial(endpoint, part=2),),
        },
        agree={"nnodes": (pods_of_world_size,), "node_rank": ("RANK", replica_rank)},
        unknown={
            "node_rank": "a PyTorchJob gives it only with a Master; an elastic job's rendezvous "
            f"deals it out; else {_MOUNT}",
            "leader": "a PyTorchJob gives it only with a Master or an elasticPolicy",
            "nnodes": "PET_NNODES, which a PyTorchJob sets, is not here",
            "epoch": "a PyTorchJob does not count its restarts",
        },
        checks=(rank_of_pod,),
    ),
    Adapter(
        name="trainer",
        markers=(
            ("PET_NNODES", "PET_NODE_RANK", "PET_MASTER_ADDR", f"{JOBSET}jobset-name"),
            ("PET_NNODES", "PET_MASTER_ADDR=*-node-0-0.*"),
            # All that it reserves, in an indexed Job: the name of its replicated job may differ.
            (*_RESERVED, INDEX),
            ("KUBEFLOW_TRAINER_SERVER_URL",),
        ),
        rules={
            "node_rank": ("PET_NODE_RANK", INDEX, INDEX_NOTE),
            "epoch": (_RESTARTS,),
        },
        agree={"node_rank": (INDEX, INDEX_NOTE)},
        unknown={"epoch": f"{JOBSET}restart-attempt has it: {_MOUNT}"},
        checks=(rank_of_pod,),
    ),
    Adapter(
        name="jobset",
        markers=((f"{JOBSET}jobset-name",),),
        rules={
            "node_rank": (jobset_rank,),
            "leader": (f"{JOBSET}coordinator", jobset_leader),
            "epoch": (_RESTARTS,),
        },
        unknown={
            "nnodes": "a JobSet tells how many jobs it has, not how many pods: set PET_NNODES to "
            "the number of all pods",
            "node_rank": "a JobSet of several jobs does not tell how many pods each has: set "
            "PET_NNODES to the number of all pods",
            "leader": "set spec.coordinator of the JobSet",
        },
        indices=(f"{JOBSET}job-global-index", INDEX, INDEX_NOTE),
        checks=(rank_of_pod,),
    ),
    Adapter(
        name="mpijob",
        markers=(("K_MPI_JOB_ROLE",), (f"{TRAINING}operator-name=mpi-operator",)),
        rules={
            "nnodes": (count,),
            "node_rank": (place, f"{TRAINING}replica-index"),
            "nproc_per_node": (slots, "OMPI_MCA_orte_set_default_slots", "I_MPI_PERHOST"),
            "leader": (first,),
        },
        agree={"node_rank": (f"{TRAINING}replica-index",)},
        unknown={
            "nnodes": "only the launcher has the list of hosts: ask in what mpirun starts",
            "node_rank": "the launcher is no node, unless runLauncherAsWorker; a worker's index "
            f"is a label: {_MOUNT}, with its labels",
            "leader": "only the launcher has the list of hosts: ask in what mpirun starts",
            "epoch": "an MPIJob does not count its restarts",
        },
        roster=hostfile_roster,
    ),
    Adapter(
        name="lws",
        markers=(("LWS_WORKER_INDEX",), ("leaderworkerset.sigs.k8s.io/worker-index",)),
        rules={
            "nnodes": ("LWS_GROUP_SIZE", "leaderworkerset.sigs.k8s.io/size"),
            "node_rank": ("LWS_WORKER_INDEX", "leaderworkerset.sigs.k8s.io/worker-index"),
            "leader": ("LWS_LEADER_ADDRESS",),
        },
        agree={
            "nnodes": ("leaderworkerset.sigs.k8s.io/size",),
            "node_rank": ("leaderworkerset.sigs.k8s.io/worker-index",),
        },
        unknown={"epoch": "a LeaderWorkerSet does not count its restarts"},
        checks=(rank_of_pod,),
    ),
    Adapter(
        name="volcano",
        markers=(
            ("VC_*_HOSTS",),
            ("VC_TASK_INDEX",),
            ("volcano.sh/job-name",),
        ),
        rules={
            "nnodes": (count, partial(pytorch_plugin, key="WORLD_SIZE")),
            "node_rank": (place, volcano_task_place, partial(pytorch_plugin, key="RANK")),
            "leader": (first,),
            "epoch": (
                partial(total, keys=("volcano.sh/job-version", "volcano.sh/job-retry-count")),
            ),
        },
        agree={
            "nnodes": (partial(pytorch_plugin, key="WORLD_SIZE"),),
            "node_rank": (volcano_task_place, partial(pytorch_plugin, key="RANK")),
        },
        unknown={
            "nnodes": "no list of hosts: give the Volcano job the svc plugin",
            "node_rank": "VC_TASK_INDEX counts within a task, and this host is in no list: give "
            f"the Volcano job the svc plugin; {_MOUNT}",
            "leader": "no list of hosts: give the Volcano job the svc plugin",
            "epoch": f"volcano.sh/job-version and job-retry-count have it: {_MOUNT}",
        },
        indices=TASK_INDEX,
        roster=volcano_roster,
        checks=(not_listed, rank_of_pod),
    ),
    Adapter(
        name="indexed-job",
        markers=((INDEX,),),
        rules={"node_rank": (INDEX,), "leader": (indexed_leader,)},
        agree={"node_rank": (INDEX_NOTE,)},
        checks=(of_jobset, rank_of_pod),
        unknown={
            "nnodes": "a Job does not tell its pods: set PET_NNODES to its completions",
            "leader": "pod 0 has a name for others where spec.subdomain names a headless Service",
            "epoch": "a Job does not count the restarts of its pods together",
        },
    ),
    Adapter(name="plain", markers=((),), rules={}, checks=(rank_of_pod,)),
)
