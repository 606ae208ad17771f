"""Secondary networks of a pod, as Multus reads them from its annotations."""

import json

from rdmatrain.errors import SettingError
from rdmatrain.k8s.spec import ETHERNET, Network

ANNOTATION = "k8s.v1.cni.cncf.io/networks"


def attached(network: Network, count: int) -> tuple[str, ...]:
    """Return the name of the network of each of ``count`` interfaces; of none, for InfiniBand.

    Raises:
        SettingError: there are not as many names as interfaces, or none where one is needed.

    """
    names = network.networks
    if not count or network.host_network:
        return ()  # The host's network has no interfaces of its own.
    if not names:
        # InfiniBand addresses a port by its LID; RoCE needs an interface with an address.
        if network.link == ETHERNET:
            raise SettingError(
                "network.networks is empty, and RoCE needs an address on each device: name the "
                "NetworkAttachmentDefinition of their network"
            )
        return ()
    if len(names) == 1:
        return names * count
    if len(names) != count:
        raise SettingError(
            f"network.networks has {len(names)} names, and a pod {count} "
            f"{'device' if count == 1 else 'devices'}: give one name for all of them, or {count}"
        )
    return names


def annotations(network: Network, count: int) -> dict[str, str]:
    """Return the annotation that attaches ``count`` interfaces, net1 and on.

    Multus takes one allocated device for each entry, so there are as many as the container asks
    for: one less leaves a VF without an address, and one more fails the pod.

    Raises:
        SettingError: as :func:`attached`.

    """
    entries = [
        {**split(name), "interface": f"net{number}"}
        for number, name in enumerate(attached(network, count), 1)
    ]
    return {ANNOTATION: json.dumps(entries, separators=(",", ":"))} if entries else {}


def split(name: str) -> dict[str, str]:
    """Return ``name``, and ``namespace`` where there is one as in ``namespace/name``."""
    namespace, _, plain = name.rpartition("/")
    return {"name": plain, "namespace": namespace} if namespace else {"name": plain}
