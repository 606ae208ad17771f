"""What an administrator tells dra-driver-sriov: whose functions it offers, and their networks."""

from rdmatrain.k8s.devices.dra import SRIOV_DRIVER
from rdmatrain.k8s.devices.fabric import (
    MELLANOX,
    Attachment,
    as_json,
    attachments,
    interfaces,
    object_name,
    physical_functions,
)
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Object, Part, together
from rdmatrain.k8s.spec import INFINIBAND, Network, Spec

# Where its chart is installed, and the only place where it reads policies.
NAMESPACE = "dra-driver-sriov"


def parts(spec: Spec) -> Part:
    """Return the policy and the networks; nothing for another driver, whose objects are its own."""
    if spec.network.device_class != SRIOV_DRIVER:
        return Part()
    networks = [_network(spec.network, each) for each in attachments(spec, spec.network.vfs)]
    return together([_policy(spec.network), *networks])


def _policy(network: Network) -> Part:
    name = object_name(network)
    chosen: Object = {
        "vendors": [MELLANOX],
        "linkType": "ib" if network.link == INFINIBAND else "eth",
    }
    names, addresses = interfaces(network), physical_functions(network)[1]
    if names:
        chosen["pfNames"] = names
    if addresses:
        chosen["pfPciAddresses"] = addresses
    made: Object = {
        "apiVersion": f"{SRIOV_DRIVER}/v1alpha1",
        "kind": "SriovResourcePolicy",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"configs": [{"resourceFilters": [chosen]}]},
    }
    notes = Notes(f"SriovResourcePolicy/{name}")
    path = "spec.configs[].resourceFilters"
    why = "Without a policy the driver offers nothing; the functions themselves must be there."
    notes.add("network.pfs", path, [chosen], why)
    return Part((made,), notes.all())


def _network(network: Network, attachment: Attachment) -> Part:
    config: Object = {"cniVersion": "1.0.0", "name": attachment.name, "ipam": attachment.ipam}
    if network.link == INFINIBAND:
        config |= {"type": "ib-sriov", "link_state": "enable"}
    else:
        config |= {"type": "sriov", "spoofchk": "off", "trust": "on"}
    made: Object = {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": attachment.name, "namespace": attachment.namespace},
        "spec": {"config": as_json(config)},
    }
    notes = Notes(f"NetworkAttachmentDefinition/{attachment.name}")
    # The driver writes the device's address into a plugin, and none into a list of them.
    why = "One plugin: this driver chains no other to it, so RDMA devices stay in shared mode."
    notes.add("network.networks", "spec.config", made["spec"]["config"], why)
    infiniband = network.link == INFINIBAND
    why = "Which plugin attaches the device; the driver's chart installs it."
    if infiniband:
        why = "The driver's chart installs sriov alone: install ib-sriov-cni on the nodes."
    notes.add("network.link", "spec.config.type", config["type"], why, urgent=infiniband)
    if not infiniband and network.vfs > 1:
        why = (
            "The driver chains no plugin that keeps several NICs of one fabric from answering for "
            "each other's addresses: set net.ipv4.conf.all.arp_ignore=1 and arp_announce=2 on the "
            "nodes, from which pods' namespaces inherit them."
        )
        notes.add("network.vfs", "spec.config", "no tuning, no sbr", why, urgent=True)
    if network.mtu or not infiniband:
        why = "The plugin sets no MTU: set it on the physical functions"
        why += "." if infiniband else ", as Ethernet's 1500 bytes make packets of RoCE 1024."
        notes.add("network.mtu", "spec.config.mtu", "none", why, urgent=not infiniband)
    notes.add("network.subnet", "spec.config.ipam", as_json(attachment.ipam), attachment.why_pool)
    return Part((made, attachment.pool), notes.all())
