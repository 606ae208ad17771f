"""How many workers a node has: as it was told, or as many as the job has devices there."""

import os

from rdmatrain.discovery.orchestrator import Identity
from rdmatrain.discovery.pod_model import Pod
from rdmatrain.discovery.survey import Survey
from rdmatrain.launcher.exit_codes import NO_DEVICES
from rdmatrain.launcher.ledger import DEFAULT, Known
from rdmatrain.launcher.options import Choice
from rdmatrain.launcher.position import Position
from rdmatrain.launcher.refusal import RefusalError
from rdmatrain.launcher.tasks import STARTERS, have_one_worker


def find_nproc(choice: Choice, position: Position, survey: Survey | None) -> Known:
    """Return how many workers this node has.

    Args:
        choice: ``--nproc-per-node``.
        position: where this node is; whether it is one of several tasks of a host.
        survey: devices and CPUs; None if nobody looked.

    Raises:
        RefusalError: there is to be a worker for each device, and there are none.

    """
    if isinstance(choice.value, int):
        return Known(choice.value, choice.source)
    if choice.level:
        return _count(choice, survey)
    if survey is None or survey.identity is None:
        return Known(1, DEFAULT)
    return _unsaid(position, survey, survey.identity)


def _unsaid(position: Position, survey: Survey, identity: Identity) -> Known:
    """Return how many workers a node has where no option says it."""
    if position.task and have_one_worker(position.task, identity):
        return Known(1, f"{position.task.by} started a process for each")
    # Of those that start processes the number of processes is not that of workers.
    if identity.nproc_per_node and identity.orchestrator not in STARTERS:
        words = identity.decided_by["nproc_per_node"]
        return Known(identity.nproc_per_node, f"{identity.orchestrator}: {words}")
    gpus = len(survey.allocation.gpus)
    # On a machine of one's own it is as with torchrun.
    if gpus and (identity.orchestrator != "plain" or _is_kubernetes(survey.pod)):
        return Known(gpus, "GPUs of the allocation")
    return Known(1, DEFAULT)


def _count(choice: Choice, survey: Survey | None) -> Known:
    """Count the devices that each are to have a worker."""
    kind = choice.value
    gpus = len(survey.allocation.gpus) if survey else 0
    cpus = len(survey.machine.cpus) if survey else 0
    if gpus and kind in {"auto", "gpu"}:
        return Known(gpus, f"{choice.source} {kind}: GPUs of the allocation")
    if kind in {"auto", "cpu"}:
        allowed = cpus or len(os.sched_getaffinity(0))
        return Known(allowed, f"{choice.source} {kind}: CPUs that this process may run on")
    why = "this node has no GPU for the job, and rdmatrain topo shows why"
    why = "XPUs are not counted" if kind == "xpu" else why
    raise RefusalError(f"{choice.source} {kind}: {why}; give a number", NO_DEVICES)


def _is_kubernetes(pod: Pod | None) -> bool:
    return any(each.name == "KUBERNETES_SERVICE_HOST" for each in pod.variables) if pod else False
