"""What all kinds of devices share: names, addresses and the NICs that a policy selects."""

import json
import re
from dataclasses import dataclass
from ipaddress import IPv4Network

from rdmatrain.errors import SettingError
from rdmatrain.k8s.devices import multus
from rdmatrain.k8s.parts import Object
from rdmatrain.k8s.spec import Network, Spec

# Where the Network Operator's chart is installed, whose daemons read policies only there.
OPERATOR_NAMESPACE = "nvidia-network-operator"
MELLANOX = "15b3"
# Node Feature Discovery sets it on nodes that have such a NIC.
NODES = {f"feature.node.kubernetes.io/pci-{MELLANOX}.present": "true"}
_RESOURCE = re.compile(r"[A-Za-z0-9_-]+")
_PCI = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


@dataclass(frozen=True)
class Attachment:
    """A network that interfaces of pods are attached to.

    Attributes:
        name: of its NetworkAttachmentDefinition, and of what makes that.
        namespace: of the NetworkAttachmentDefinition.
        interfaces: of one pod.
        subnet: whose addresses they get.

    """

    name: str
    namespace: str
    interfaces: int
    subnet: IPv4Network

    @property
    def ipam(self) -> Object:
        """How the CNI plugin gets an address: of the pool of this network's name."""
        return {"type": "nv-ipam", "poolName": self.name}

    @property
    def why_pool(self) -> str:
        """What a person has to know of it."""
        return (
            f"Addresses are of the IPPool {self.name}, which has {self.subnet} of the subnet: "
            f"{self.block} for each node with such NICs, whether it has pods of this job or not."
        )

    @property
    def block(self) -> int:
        """Addresses of a node."""
        # Room for four pods of a node, as ended ones keep theirs until they are gone.
        return max(8, 4 * self.interfaces)

    @property
    def pool(self) -> Object:
        """The pool of addresses."""
        return {
            "apiVersion": "nv-ipam.nvidia.com/v1alpha1",
            "kind": "IPPool",
            "metadata": {"name": self.name, "namespace": OPERATOR_NAMESPACE},
            "spec": {
                "subnet": str(self.subnet),
                "perNodeBlockSize": self.block,
                "gateway": str(self.subnet[1]),
                "nodeSelector": {"nodeSelectorTerms": [{"matchExpressions": _with_nics()}]},
            },
        }


def _with_nics() -> list[Object]:
    """Return how a selector of nodes' fields and labels, and not a map of labels, says NODES."""
    return [{"key": key, "operator": "In", "values": [value]} for key, value in NODES.items()]


def attachments(spec: Spec, count: int) -> tuple[Attachment, ...]:
    """Return the different networks of a pod's ``count`` interfaces, each with its own subnet.

    Raises:
        SettingError: names do not fit the interfaces, two networks differ in namespace alone, or
            the subnet is too small.

    """
    names = multus.attached(spec.network, count)
    different = tuple(dict.fromkeys(names))
    whole, halvings = IPv4Network(spec.network.subnet), max(0, len(different) - 1).bit_length()
    subnets = whole.subnets(min(halvings, whole.max_prefixlen - whole.prefixlen))
    found: dict[str, Attachment] = {}
    for name, subnet in zip(different, subnets, strict=False):
        parts = multus.split(name)
        if parts["name"] in found:
            raise SettingError(
                f"network.networks has {name} and another of this name: the operator knows "
                "networks by name, whatever their namespace, rename one"
            )
        found[parts["name"]] = each = Attachment(
            parts["name"], parts.get("namespace", spec.namespace), names.count(name), subnet
        )
        _refuse_small(spec, each, halvings)
    return tuple(found.values())


def _refuse_small(spec: Spec, attachment: Attachment, halvings: int) -> None:
    """Refuse a subnet whose part for a network has no block of addresses for each node.

    Each node with such NICs takes one; only those that the job needs are known here.

    Raises:
        SettingError: with the length that these need.

    """
    # Neither the first address nor the last is given to anybody.
    needed = spec.nodes * attachment.block + 2
    if needed > attachment.subnet.num_addresses:
        length = attachment.subnet.max_prefixlen - (needed - 1).bit_length() - halvings
        raise SettingError(
            f"network.subnet is {spec.network.subnet}, and network {attachment.name} takes "
            f"{attachment.block} addresses on each node with such NICs, of which this job has "
            f"{spec.nodes}: give a /{length}, a larger one where there are more, or fewer nodes"
        )


def prefix_and_name(network: Network) -> tuple[str, str]:
    """Return the two parts of the resource's name, as operators want them said apart.

    Raises:
        SettingError: no device plugin announces such a name.

    """
    prefix, _, name = network.resource.rpartition("/")
    if not prefix or not _RESOURCE.fullmatch(name):
        raise SettingError(
            f"network.resource is {network.resource}: device plugins announce PREFIX/NAME, the "
            "name of letters, digits, - and _, such as nvidia.com/rdma-vf"
        )
    return prefix, name


def object_name(network: Network) -> str:
    """Return a name for objects, made of the resource's, which may hold other characters."""
    name = prefix_and_name(network)[1].lower()
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def physical_functions(network: Network) -> tuple[list[str], list[str]]:
    """Return the names of interfaces and the PCI addresses among ``network.pfs``."""
    addresses = [each for each in network.pfs if _PCI.fullmatch(each)]
    return [each for each in network.pfs if each not in addresses], addresses


def interfaces(network: Network) -> list[str]:
    """Return the names of the interfaces without ranges of virtual functions, ``eth0#0-3``."""
    names = [each.partition("#")[0] for each in physical_functions(network)[0]]
    return list(dict.fromkeys(names))


def as_json(value: object) -> str:
    """Return JSON, for fields that hold it as text."""
    return json.dumps(value, separators=(",", ":"))
