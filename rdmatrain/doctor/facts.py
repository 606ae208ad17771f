"""What several families of checks ask a case for."""

import re
from collections.abc import Mapping

from rdmatrain.discovery.claims.variables import OWN
from rdmatrain.discovery.model import Complaint
from rdmatrain.discovery.quota import cpu_quota
from rdmatrain.doctor.job import is_container, is_kubernetes, pod_of
from rdmatrain.doctor.model import Case

NCCL_FILE = "/etc/nccl.conf"


def complaints(case: Case, *ids: str) -> list[Complaint]:
    """Return what discovery complains of by these ids."""
    return [each for each in case.found.complaints if each.id in ids]


def said(complaint: Complaint) -> str:
    """Write a complaint as evidence."""
    return f"{complaint.source}: {complaint.text}"


def own_variables(case: Case) -> Mapping[str, str]:
    """Return the variables that ranks inherit; an empty one counts as none."""
    given = case.found.pod.variables if case.found.pod else ()
    return {each.name: each.value for each in given if each.source == OWN and each.value.strip()}


def nccl_file(case: Case) -> Mapping[str, str]:
    """Return what ``/etc/nccl.conf`` says, where images and admins leave things behind.

    NCCL takes from it what no variable says.
    """
    lines = (line.strip() for line in (case.source.text(NCCL_FILE) or "").splitlines())
    pairs = (line.partition("=") for line in lines if not line.startswith("#"))
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def restart(case: Case) -> str:
    """Return how this pod, container or job is replaced by one that is given devices anew."""
    if not is_kubernetes(case):
        return "docker restart $HOSTNAME" if is_container(case) else "rdmatrain run, started again"
    names = (each.value for each in pod_of(case).variables if each.name == "HOSTNAME")
    name = next(names, "")
    return f"kubectl delete pod {name if re.fullmatch('[a-z0-9.-]+', name) else '$HOSTNAME'}"


def paid_cpus(case: Case) -> float:
    """Return how many CPUs may be kept busy: allowed ones that the cgroup pays for; 0: unknown."""
    allowed = len(case.found.machine.cpus)
    return min(allowed, cpu_quota(case.source) or allowed)
