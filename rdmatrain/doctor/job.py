"""What a case says of the job: how many ranks it has, whether it should use RDMA, where it runs."""

from rdmatrain.discovery.claims.device_nodes import NODES
from rdmatrain.discovery.model import Nic
from rdmatrain.discovery.nic_claims import grants
from rdmatrain.discovery.pod_model import Claim, Pod
from rdmatrain.doctor.model import Case

MIB = 1 << 20
GIB = 1 << 30
_UNITS = ((GIB, "GiB"), (MIB, "MiB"), (1 << 10, "KiB"))


def ranks_of(case: Case) -> int:
    """Return the number of processes of this pod, 1 where nothing is known."""
    found = case.found
    said = found.identity.nproc_per_node if found.identity else None
    return case.needs.ranks or len(found.bindings) or said or 1


def nodes_of(case: Case) -> int:
    """Return the number of nodes of the job; 0 where nobody says it."""
    identity = case.found.identity
    return case.needs.nodes or (identity.nnodes if identity else None) or 0


def world(case: Case) -> int:
    """Return the number of processes of the job, as far as it is known."""
    return ranks_of(case) * (nodes_of(case) or 1)


def counted(num: int) -> str:
    """Write how many ranks: ``1 rank``, ``8 ranks``."""
    return f"{num} rank" if num == 1 else f"{num} ranks"


def devices(case: Case) -> tuple[str, ...]:
    """Return the names of this pod's RDMA devices."""
    return tuple(each.nic.name for each in case.found.allocation.nics)


def pod_of(case: Case) -> Pod:
    """Return what its environment and files say."""
    return case.found.pod or Pod()


def nic_claims(case: Case) -> list[Claim]:
    """Return the claims that grant a NIC."""
    return [each for each in pod_of(case).claims if each.kind == "nic" and grants(each)]


def expects_rdma(case: Case) -> bool:
    """Tell whether this job should run over RDMA: somebody says so, or gave it a NIC or its node.

    NICs that are only visible are no reason: where RDMA namespaces are shared, every pod sees those
    of its host.
    """
    if not case.wants_rdma:
        return False
    told = case.needs.transport == "verbs" or bool(nic_claims(case) or devices(case))
    nics = case.found.machine.nics
    return told or _is_gang(case) or any(has_node(case, x) or _at_home(case, x) for x in nics)


def has_node(case: Case, nic: Nic) -> bool:
    """Tell whether the device node of a NIC is in this container."""
    return bool(nic.uverbs) and nic.uverbs in case.source.names(NODES)


def is_kubernetes(case: Case) -> bool:
    """Tell whether a manifest made this container."""
    names = {each.name for each in pod_of(case).variables}
    return "KUBERNETES_SERVICE_HOST" in names or bool(pod_of(case).annotations or nic_claims(case))


def is_container(case: Case) -> bool:
    """Tell whether Docker or Podman started this container, without Kubernetes."""
    return any(case.source.text(path) is not None for path in ("/.dockerenv", "/run/.containerenv"))


def size(nbytes: int) -> str:
    """Write a number of bytes for people: ``64 KiB``, ``1.5 GiB``."""
    for unit, name in _UNITS:
        if nbytes >= unit:
            return f"{nbytes / unit:.1f}".removesuffix(".0") + f" {name}"
    return f"{nbytes} B"


def number(value: object) -> int:
    """Return a fact that should be a number, and 0 for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _is_gang(case: Case) -> bool:
    """Tell whether GPUs of several nodes train together, and there are NICs."""
    return nodes_of(case) > 1 and bool(case.found.allocation.gpus and case.found.machine.nics)


def _at_home(case: Case, nic: Nic) -> bool:
    """Tell whether a NIC belongs to an interface of this network namespace."""
    if nic.netdevs:
        return True
    here = {each.name: each.addresses for each in case.found.machine.netdevs}
    gids = (gid for port in nic.ports for gid in port.gids)
    return any(gid.address in here.get(gid.netdev, ()) for gid in gids)
