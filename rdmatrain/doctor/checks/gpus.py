"""GPUs that were granted and are not here, or are here and were not granted."""

from rdmatrain.discovery.gpus import DRIVER
from rdmatrain.discovery.model import Complaint
from rdmatrain.discovery.pod_model import Claim, Trust
from rdmatrain.doctor.checks.rdma_case import complaints
from rdmatrain.doctor.facts import restart, said
from rdmatrain.doctor.job import pod_of
from rdmatrain.doctor.model import Case, Finding, failed, warned

_VISIBLE = "_VISIBLE_DEVICES"


def of_gpus(each: Complaint) -> bool:
    """Tell whether a complaint is of GPUs."""
    return _VISIBLE in each.source or each.source.startswith(DRIVER)


def gpus_wrong(case: Case) -> list[Finding]:
    """Judge each complaint about the GPUs that are shown."""
    found = [_gpu_missing(case, each) for each in complaints(case, "gpu-missing")]
    twice = failed if case.found.machine.gpus and not case.found.allocation.gpus else warned
    found += [
        twice(said(each), f"export {each.source.partition(' ')[0]}=0,1, each once")
        for each in complaints(case, "listed-twice", "unreadable")
        if of_gpus(each)
    ]
    gpus = 'resources: {limits: {nvidia.com/gpu: "N"}}, or docker run --gpus all'
    own = (
        "securityContext: {privileged: false}, and GPUs as resources: {limits: {nvidia.com/gpu: N}}"
    )
    ids = ("gpu-more-than-granted", "gpus-hidden", "gpus-unclear", "mounts-empty")
    found += [
        warned(said(each), own if each.id == "gpu-more-than-granted" else gpus)
        for each in complaints(case, *ids)
    ]
    return found


def _gpu_missing(case: Case, each: Complaint) -> Finding:
    """Grade a GPU that is not shown: a variable that fits nothing here is only stale."""
    user = each.source.startswith(("CUDA_", "HIP_", "ROCR_"))
    shown, claimed = len(case.found.machine.gpus), len(_gpu_claims(case))
    fix = f"export {each.source.partition(' ')[0]}={','.join(map(str, range(shown)))}"
    if user:
        return failed(said(each), fix if shown else 'resources: {limits: {nvidia.com/gpu: "N"}}')
    if shown and shown >= claimed:
        return warned(said(each), f"unset {each.source.partition(' ')[0]}, in image and manifest")
    runtime = f"spec: {{runtimeClassName: nvidia}}; after a reload of systemd: {restart(case)}"
    return failed(said(each), runtime)


def _gpu_claims(case: Case) -> set[tuple[object, ...]]:
    def key(claim: Claim) -> tuple[object, ...]:
        return (claim.uuid, claim.pci, claim.minor, claim.index)

    claims = (each for each in pod_of(case).claims if each.kind == "gpu" and each.granted)
    return {key(each) for each in claims if each.weight > Trust.NAME}
