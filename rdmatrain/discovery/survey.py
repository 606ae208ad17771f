"""All that can be found out about a machine and a pod, put together."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from rdmatrain.discovery.allocation import reconcile
from rdmatrain.discovery.bindings import bind
from rdmatrain.discovery.claims.variables import OWN
from rdmatrain.discovery.environment import Environment, variables
from rdmatrain.discovery.environment_check import check
from rdmatrain.discovery.interfaces import Interface, control_interface
from rdmatrain.discovery.machine import read_machine
from rdmatrain.discovery.model import Complaint, Machine
from rdmatrain.discovery.nccl_topo import merges_vfs, topology_xml
from rdmatrain.discovery.orchestrator import Identity, whoami
from rdmatrain.discovery.pairing import pair
from rdmatrain.discovery.pod import read_pod
from rdmatrain.discovery.pod_model import Allocation, Binding, Pair, Pod
from rdmatrain.discovery.source import Source
from rdmatrain.errors import SettingError


@dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes:
        machine: the devices.
        pod: what its environment and files say; None for a file that describes only a machine.
        allocation: what the pod got; nothing without a pod.
        pairs: a NIC for each GPU of the pod; of the machine, without a pod.
        bindings: what each local rank gets; none without a pod.
        environment: the variables of the local ranks; None without a pod.
        identity: who this process is, by its orchestrator; None without a pod.
        interface: that other pods reach this one by; None without a pod.
        complaints: of all of them, in the order of the attributes.

    """

    machine: Machine
    pod: Pod | None = None
    allocation: Allocation = field(default_factory=Allocation)
    pairs: tuple[Pair, ...] = ()
    bindings: tuple[Binding, ...] = ()
    environment: Environment | None = None
    identity: Identity | None = None
    interface: Interface | None = None
    complaints: tuple[Complaint, ...] = ()


def survey(source: Source, origin: str = "this machine") -> Survey:
    """Find out what a pod got, and what its ranks should use.

    Args:
        source: has the facts.
        origin: what people call it: ``this machine``, or a file or folder.

    """
    machine, pod = read_machine(source, origin), read_pod(source)
    identity = whoami(source, pod)
    allocation = reconcile(machine, pod, source.probe("verbs"))
    gpus, nics = [each.gpu for each in allocation.gpus], [each.nic for each in allocation.nics]
    pairs, wrong_pairs = pair(machine, gpus, nics)
    bindings = bind(machine, allocation, pairs, identity.nproc_per_node)
    user = _own_variables(pod)
    interface = control_interface(source, machine, pod)
    return Survey(
        machine=machine,
        pod=pod,
        allocation=allocation,
        pairs=pairs,
        bindings=bindings,
        environment=variables(machine, allocation, bindings, user, interface),
        identity=identity,
        interface=interface,
        complaints=_all(
            machine.complaints,
            pod.complaints,
            allocation.complaints,
            wrong_pairs,
            check(machine, allocation, user),
            identity.complaints,
        ),
    )


def reseat(found: Survey, local_ranks: int) -> Survey:
    """Return what was found with another number of local ranks, as a launcher's option says.

    Args:
        found: of a pod.
        local_ranks: how many processes will run here.

    """
    if found.pod is None or found.interface is None or len(found.bindings) == local_ranks:
        return found
    bindings = bind(found.machine, found.allocation, found.pairs, local_ranks)
    user = _own_variables(found.pod)
    chosen = variables(found.machine, found.allocation, bindings, user, found.interface)
    return replace(found, bindings=bindings, environment=chosen)


def survey_machine(machine: Machine) -> Survey:
    """Pair all GPUs and NICs of a machine that a file describes: nothing is known of a pod."""
    pairs, complaints = pair(machine, machine.gpus, machine.nics)
    return Survey(machine, pairs=pairs, complaints=_all(machine.complaints, complaints))


def nccl_topology(found: Survey) -> str:
    """Write a file for ``NCCL_TOPO_FILE``: of what the pod got, or of all that a machine has.

    Raises:
        SettingError: there is nothing to place.

    """
    if not found.pairs:
        raise SettingError(f"NCCL needs no topology of {found.machine.origin}: it has no pairs")
    if found.pod is None:
        return topology_xml(found.machine, found.machine.gpus, found.machine.nics, found.pairs)
    gpus = [each.gpu for each in found.allocation.gpus]
    nics = [each.nic for each in found.allocation.nics]
    merge = merges_vfs(nics, _own_variables(found.pod))
    return topology_xml(found.machine, gpus, nics, found.pairs, merge)


def _own_variables(pod: Pod) -> dict[str, str]:
    """Return the variables that ranks inherit: those of this process, and no others."""
    return {each.name: each.value for each in pod.variables if each.source == OWN}


def _all(*parts: Iterable[Complaint]) -> tuple[Complaint, ...]:
    return tuple(dict.fromkeys(each for part in parts for each in part))
