"""What a module of a scheduler says of it."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.parts import Part
from rdmatrain.k8s.spec import Spec

TARGETS = {
    "volcano": "a Job of Volcano",
    "trainjob": "a TrainJob of Kubeflow Trainer v2, and its runtime",
    "pytorchjob": "a PyTorchJob of Kubeflow's training operator",
    "jobset": "a JobSet: a gang only where it names a queue of Kueue",
    "kueue": "a JobSet in a queue of Kueue, with the queue",
    "indexed-job": "an Indexed Job of Kubernetes alone: no gang",
    "podgroup": "an Indexed Job whose pods Kubernetes schedules as a gang (1.35 on)",
    "lws": "a LeaderWorkerSet: a gang only where it names a queue of Kueue",
    "mpijob": "an MPIJob",
    "slurm": "a script for sbatch",
}


def by_queue(spec: Spec) -> bool:
    """Tell whether a job is in a queue, which lets all of its pods start, or none."""
    return bool(spec.queue)


@dataclass(frozen=True)
class Target:
    """A scheduler.

    Attributes:
        name: as ``--for`` has it.
        render: makes the workload and what only this scheduler wants, such as a queue.
            Raises SettingError, one line with field, value and remedy, for a spec that this
            scheduler cannot honour.
        has_service: its controller makes a headless Service, so none is rendered.
        alone: there is no Kubernetes: what it renders is all there is.
        cluster_render: makes what an administrator applies once for this scheduler, such as the
            queue that the spec names; None where it has nothing of that kind.
        has_gang: tells whether pods of a job start together or not at all.
        by_kueue: the queue is one of Kueue, which makes none itself as Volcano does.

    """

    name: str
    render: Callable[[Spec, Cluster], Part]
    has_service: bool = False
    alone: bool = False
    cluster_render: Callable[[Spec, Cluster], Part] | None = None
    has_gang: Callable[[Spec], bool] = lambda _: True
    by_kueue: bool = False


def target(name: str) -> Target:
    """Return the target of that name, of :data:`TARGETS`."""
    found: Target = import_module(f"rdmatrain.k8s.targets.{name.replace('-', '_')}").TARGET
    return found
