"""Virtual functions that a device plugin hands out: what the SR-IOV operator is told."""

from rdmatrain.k8s.devices.fabric import (
    MELLANOX,
    NODES,
    OPERATOR_NAMESPACE,
    Attachment,
    as_json,
    attachments,
    object_name,
    physical_functions,
    prefix_and_name,
)
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Object, Part, together
from rdmatrain.k8s.spec import INFINIBAND, Network, Spec

API = "sriovnetwork.openshift.io/v1"
# Ports of one host in one subnet: each answers for its own address only, by its own route.
ARP = {
    "net.ipv4.conf.all.arp_announce": "2",
    "net.ipv4.conf.all.arp_filter": "1",
    "net.ipv4.conf.all.arp_ignore": "1",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.all.accept_local": "1",
}


def parts(spec: Spec) -> Part:
    """Return the node policy, the pool's RDMA mode, and networks with their addresses."""
    networks = attachments(spec, spec.network.vfs)
    made = [_policy(spec.network), _pool_config(spec.network)]
    made += [_network(spec.network, each) for each in networks]
    return together(made)


def _object(kind: str, name: str, spec: Object) -> Object:
    return {
        "apiVersion": API,
        "kind": kind,
        "metadata": {"name": name, "namespace": OPERATOR_NAMESPACE},
        "spec": spec,
    }


def _policy(network: Network) -> Part:
    name = object_name(network)
    notes = Notes(f"SriovNetworkNodePolicy/{name}")
    if not network.pfs:
        why = (
            "Without network.pfs neither the node policy nor its nodes' RDMA mode are rendered: "
            "they would be of every NIC, the node's own among them. Whoever makes the functions "
            "sets rdmaMode: exclusive."
        )
        notes.add("network.pfs", "spec", "not rendered", why, urgent=True)
        return Part((), notes.all())
    names, addresses = physical_functions(network)
    selector: Object = {"vendor": MELLANOX}
    if names:
        selector["pfNames"] = names
    if addresses:
        selector["rootDevices"] = addresses
    spec: Object = {
        "deviceType": "netdevice",
        "isRdma": True,
        "linkType": "ib" if network.link == INFINIBAND else "eth",
        "nicSelector": selector,
        "nodeSelector": dict(NODES),
        # Rounded up: what one pod wants of a node is spread over its ports.
        "numVfs": -(-network.vfs // len(network.pfs)) or 1,
        "priority": 90,
        "resourceName": prefix_and_name(network)[1],
        "excludeTopology": False,
    }
    if network.mtu:
        spec["mtu"] = network.mtu
    _note_policy(spec, notes)
    return Part((_object("SriovNetworkNodePolicy", name, spec),), notes.all())


def _note_policy(spec: Object, notes: Notes) -> None:
    why = "The NICs whose functions pods get; a PCI address stays when an interface is renamed."
    notes.add("network.pfs", "spec.nicSelector", spec["nicSelector"], why)
    why = "On each NIC, so that a node has as many as a pod requests."
    notes.add("network.vfs", "spec.numVfs", spec["numVfs"], why)
    why = "Without its prefix, which is the operator's own setting, resourcePrefix."
    notes.add("network.resource", "spec.resourceName", spec["resourceName"], why)
    notes.add("network.link", "spec.linkType", spec["linkType"], "The link layer of the fabric.")
    if "mtu" in spec:
        notes.add("network.mtu", "spec.mtu", spec["mtu"], "A VF cannot have more than its PF.")
    why = "The kernel's driver stays, and the plugin adds the device files of RDMA."
    notes.add("", "spec.isRdma", True, why)
    why = "The Topology Manager needs the NUMA node to align NICs with GPUs and CPUs."
    notes.add("", "spec.excludeTopology", False, why)


def _pool_config(network: Network) -> Part:
    name = object_name(network)
    notes = Notes(f"SriovNetworkPoolConfig/{name}")
    if not network.pfs:
        why = "Who makes the node policy knows which nodes have the functions."
        notes.add("network.devices", "spec.rdmaMode", "not rendered", why)
        return Part((), notes.all())
    why = "A pod sees its own RDMA devices alone; in shared mode it sees, and picks, all of them."
    notes.add("network.devices", "spec.rdmaMode", "exclusive", why)
    spec = {
        "maxUnavailable": 1,
        "nodeSelector": {"matchLabels": dict(NODES)},
        "rdmaMode": "exclusive",
    }
    return Part((_object("SriovNetworkPoolConfig", name, spec),), notes.all())


def _network(network: Network, attachment: Attachment) -> Part:
    infiniband = network.link == INFINIBAND
    kind = "SriovIBNetwork" if infiniband else "SriovNetwork"
    spec: Object = {
        "resourceName": prefix_and_name(network)[1],
        "networkNamespace": attachment.namespace,
        "ipam": as_json(attachment.ipam),
        "linkState": "enable" if infiniband else "auto",
        # The field takes the plugins with commas between them, and no brackets around.
        "metaPlugins": ",".join(as_json(each) for each in _plugins(network)),
    }
    if not infiniband:
        spec |= {"spoofChk": "off", "trust": "on"}
    notes = Notes(f"{kind}/{attachment.name}")
    why = "The operator makes a NetworkAttachmentDefinition of this name there."
    notes.add("network.networks", "spec.networkNamespace", attachment.namespace, why)
    why = "The plugin rdma moves the VF's RDMA device into the pod with its interface."
    notes.add("network.link", "spec.metaPlugins", spec["metaPlugins"], why)
    if network.mtu and not infiniband:
        why = "The plugin tuning sets it on the pod's interface."
        notes.add("network.mtu", "spec.metaPlugins mtu", network.mtu, why)
    notes.add("network.subnet", "spec.ipam", spec["ipam"], attachment.why_pool)
    return Part((_object(kind, attachment.name, spec), attachment.pool), notes.all())


def _plugins(network: Network) -> list[Object]:
    if network.link == INFINIBAND:
        return [{"type": "rdma"}]
    tuning: Object = {"type": "tuning", "sysctl": dict(ARP)}
    if network.mtu:
        tuning["mtu"] = network.mtu
    return [tuning, {"type": "rdma"}, {"type": "sbr"}]
