"""What of a manifest is tried again when it failed, and how many pods are started at all."""

from collections.abc import Iterator
from dataclasses import replace

from rdmatrain.discovery.claims.values import shown
from rdmatrain.doctor.manifest.containers import Container
from rdmatrain.doctor.manifest.define import fail, fine, patch, static_question, unseen, warn
from rdmatrain.doctor.manifest.job_policies import Judged, of_job
from rdmatrain.doctor.manifest.nodes import Node
from rdmatrain.doctor.manifest.volcano_policies import of_volcano
from rdmatrain.doctor.manifest.workloads import RUNTIMES, TRAIN_JOB, Manifest, Pod
from rdmatrain.doctor.model import Finding, Needs
from rdmatrain.launcher.exit_codes import GANG_TIMEOUT, NO_JOB
from rdmatrain.launcher.exit_policies import PYTORCHJOB_POLICY

_WITHOUT_CODES = {
    "MPIJob": "an MPIJob knows no exit codes: backoffLimit is for what would fail again, too",
    "LeaderWorkerSet": "a LeaderWorkerSet knows no exit codes: it tries all again, for ever",
}


@static_question(
    "gang-parallel",
    "all pods of a Job run at the same time",
    nothing="no Job whose pods meet says how many there are",
    exit_code=GANG_TIMEOUT,
)
def gang_parallel(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Pods that are to come once others ended never come: those wait for them."""
    for pod in manifest.training:
        job = pod.template.parent or pod.document
        number = job.get("completions").number
        if number is not None and _meets(pod):
            yield _at_once(job, number)


def _meets(pod: Pod) -> bool:
    """Tell whether the pods of a Job are to find each other."""
    trains = any(each.launches and not each.alone for each in pod.trainers)
    return trains and pod.kind in {"Job", "JobSet"} and not pod.volcano


def _at_once(job: Node, number: int) -> Finding:
    place = job.get("parallelism")
    parallel = place.number if place.there else 1
    if parallel is None or parallel < number:
        text = f"{number} pods, of which {parallel} run at the same time"
        return fail(job, text, patch(job, f"{{parallelism: {number}}}"))
    return fine(job, f"all {number} pods at the same time")


@static_question(
    "exit-codes",
    "what would fail again ends the job, and other faults do not",
    nothing="no container starts rdmatrain run",
    exit_code=NO_JOB,
)
def exit_codes(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Codes of the launcher below 128 say that the same job fails again, those from 200 on not."""
    for pod in manifest.training:
        ours = [each for each in pod.trainers if each.runs_rdmatrain]
        if ours:
            yield _of_workload(pod, ours[0])


def _of_workload(pod: Pod, box: Container) -> Finding:
    if pod.volcano:
        return of_volcano(pod)
    job_set = _job_set(pod)
    if job_set is not None or pod.kind in {"Job", "CronJob"}:
        job, container = pod.template.parent or pod.document, box.node.get("name").text
        found = of_job(Judged(job, job_set, container))
        # A runtime may be that of other jobs, too: only people change it.
        shared = pod.kind in {TRAIN_JOB, *RUNTIMES}
        return replace(found, fix=str(found.fix)) if shared else found
    if pod.kind == "PyTorchJob":
        return _of_replica_type(pod.template.parent or pod.document)
    return unseen(pod.template, _WITHOUT_CODES.get(pod.kind, f"the {pod.kind} decides"))


def _job_set(pod: Pod) -> Node | None:
    """Return the spec of the JobSet that a pod is of, its own or that of a runtime."""
    node = pod.template.parent
    while node is not None and not node.get("replicatedJobs").there:
        node = node.parent
    return node


def _of_replica_type(owner: Node) -> Finding:
    """Judge pods of a PyTorchJob, whose policy ExitCode draws the launcher's own line."""
    place = owner.get("restartPolicy")
    if place.text == PYTORCHJOB_POLICY:
        return fine(place, "permanent errors end the job")
    if place.text == "Never":
        return fine(place, "nothing is tried again")
    if not place.there:
        return unseen(owner, "no restartPolicy: the PyTorchJob's own default counts")
    text = f"restartPolicy {shown(place.text, 20)} tries all again, whatever the exit code"
    return warn(place, text, patch(owner, f"{{restartPolicy: {PYTORCHJOB_POLICY}}}"))
