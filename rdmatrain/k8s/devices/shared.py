"""Devices that the pods of a node share: the network that each of them has beside its own."""

from rdmatrain.errors import SettingError
from rdmatrain.k8s.devices.fabric import (
    Attachment,
    as_json,
    attachments,
    interfaces,
    physical_functions,
)
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Object, Part, together
from rdmatrain.k8s.spec import INFINIBAND, Network, Spec


def parts(spec: Spec) -> Part:
    """Return the network, if there is one, with its addresses."""
    return together(_network(spec.network, each) for each in attachments(spec, 1))


def interface_names(network: Network) -> list[str]:
    """Return the names of the NICs' interfaces, as the plugin selects by name alone.

    Raises:
        SettingError: there is a PCI address among them.

    """
    addresses = physical_functions(network)[1]
    if addresses:
        raise SettingError(
            f"network.pfs has {addresses[0]}: the plugin of shared devices knows interfaces by "
            "name, give it, such as ens1f0np0"
        )
    return interfaces(network)


def _network(network: Network, attachment: Attachment) -> Part:
    infiniband = network.link == INFINIBAND
    kind = "IPoIBNetwork" if infiniband else "MacvlanNetwork"
    spec: Object = {
        "networkNamespace": attachment.namespace,
        "ipam": as_json(attachment.ipam),
    }
    names = interface_names(network)
    if names:
        spec["master"] = names[0]
    if not infiniband:
        spec |= {"mode": "bridge", "mtu": network.mtu}
    made: Object = {
        "apiVersion": "mellanox.com/v1alpha1",
        "kind": kind,
        "metadata": {"name": attachment.name},
        "spec": spec,
    }
    notes = Notes(f"{kind}/{attachment.name}")
    why = "The operator makes a NetworkAttachmentDefinition of this name there."
    notes.add("network.networks", "spec.networkNamespace", attachment.namespace, why)
    why = "Its GIDs are those that a pod can use: a pod has one interface, whatever NICs it sees."
    unsaid = "none: the interface of the default route"
    notes.add("network.pfs", "spec.master", spec.get("master", unsaid), why)
    if network.mtu:
        mtu = spec.get("mtu", "none")
        why = (
            "Of the pod's interface." if "mtu" in spec else "IPoIB takes the port's: set it there."
        )
        notes.add("network.mtu", "spec.mtu", mtu, why)
    notes.add("network.subnet", "spec.ipam", spec["ipam"], attachment.why_pool)
    return Part((made, attachment.pool), notes.all())
