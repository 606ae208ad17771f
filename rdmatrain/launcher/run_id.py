"""What the orchestrator calls the job: a name that is the same on all of its nodes, and no others.

A name that another job may have later, as one that is made again under the same name, is followed
by the object's uid where that is known, and by the epoch, which counts restarts.
"""

from collections.abc import Mapping

from rdmatrain.discovery.orchestrator import Identity
from rdmatrain.discovery.survey import Survey
from rdmatrain.launcher.ledger import Known

_JOBSET = "jobset.sigs.k8s.io/"
_LWS = "leaderworkerset.sigs.k8s.io/"
# Variables, labels and annotations that name the job; all that are there count, in this order.
_NAMES = {
    "torchrun": ("TORCHELASTIC_RUN_ID",),
    "mpirun": ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMI_JOBID"),
    "srun": ("SLURM_JOB_ID", "SLURM_STEP_ID"),
    "slinky": ("SLURM_JOB_ID", "SLURM_STEP_ID"),
    "pytorchjob": ("training.kubeflow.org/job-name",),
    "trainer": (f"{_JOBSET}jobset-name", f"{_JOBSET}jobset-uid"),
    "jobset": (f"{_JOBSET}jobset-name", f"{_JOBSET}jobset-uid"),
    "mpijob": ("training.kubeflow.org/job-name",),
    "lws": (f"{_LWS}name", f"{_LWS}group-index"),
    "volcano": ("volcano.sh/job-name",),
    "indexed-job": ("batch.kubernetes.io/job-name", "batch.kubernetes.io/controller-uid"),
}


def find_run_id(
    identity: Identity | None, survey: Survey | None, environ: Mapping[str, str]
) -> Known:
    """Return the job's name and who says it; an empty one if nobody does.

    Args:
        identity: who started this process; None if that does not matter.
        survey: has the annotations and labels of the pod.
        environ: variables of this process.

    """
    if identity is None or survey is None or survey.pod is None:
        return Known("", "")
    notes = dict((*survey.pod.annotations, *survey.pod.labels))
    found = {
        name: (notes if "/" in name else environ).get(name, "").strip()
        for name in _NAMES.get(identity.orchestrator, ())
    }
    there = {name: text for name, text in found.items() if text not in {"", "none"}}
    parts = list(there.values())
    if parts and identity.epoch is not None:
        parts.append(str(identity.epoch))
    return Known("-".join(parts), f"{identity.orchestrator}: {', '.join(there)}")
