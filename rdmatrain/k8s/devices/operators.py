"""What operators of GPUs and NICs are told: their policy, and the values of their charts."""

from rdmatrain.k8s.devices import dra_driver, multus, shared
from rdmatrain.k8s.devices.dra import SRIOV_DRIVER
from rdmatrain.k8s.devices.fabric import (
    MELLANOX,
    as_json,
    physical_functions,
    prefix_and_name,
)
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Object, Part
from rdmatrain.k8s.spec import DRA, INFINIBAND, SHARED, SRIOV, TCP, Network, Spec

# Images of all components, of the release that is tested against.
IMAGES = {"repository": "nvcr.io/nvidia/mellanox", "version": "network-operator-v26.4.1"}
# How many containers may share a NIC; it bounds nothing but that.
SHARERS = 63


def nic_cluster_policy(spec: Spec) -> Part:
    """Return the policy of the Network Operator, of which a cluster has one."""
    kinds = {SRIOV: _of_functions, SHARED: _of_shared, DRA: _of_claims}
    components = kinds[spec.network.devices](spec.network)
    if not components:
        return Part()
    made: Object = {
        "apiVersion": "mellanox.com/v1alpha1",
        "kind": "NicClusterPolicy",
        "metadata": {"name": "nic-cluster-policy"},
        "spec": {"global": dict(IMAGES), **components},
    }
    notes = Notes("NicClusterPolicy/nic-cluster-policy")
    why = "A cluster has one such object: merge it with yours, if there is one."
    notes.add("network.devices", "spec", sorted(components), why)
    for plugin in ("sriovDevicePlugin", "rdmaSharedDevicePlugin"):
        if plugin in components:
            why = "What the plugin hands out, and as what."
            config = components[plugin]["config"]
            path = f"spec.{plugin}.config"
            notes.add("network.resource", path, config, why)
            why = "It offers devices of this link layer alone."
            notes.add("network.link", f"{path} linkTypes", _link_type(spec.network), why)
            why = "It offers these ports alone; all that there are, where none is named."
            notes.add("network.pfs", path, list(spec.network.pfs) or "all", why)
    return Part((made,), notes.all())


def _secondary(*plugins: str) -> Object:
    images = {"cniPlugins": "plugins", "multus": "multus-cni", "ipoib": "ipoib-cni"}
    network = {each: {"image": images[each]} for each in plugins}
    return {
        "secondaryNetwork": network,
        "nvIpam": {"image": "nvidia-k8s-ipam", "enableWebhook": False},
    }


def _of_functions(network: Network) -> Object:
    """Return networks alone, as the SR-IOV operator brings the plugin; else the plugin.

    Without networks nothing is to be made on the nodes: a virtual machine has functions already.
    """
    if network.networks:
        return _secondary("cniPlugins", "multus")
    names, addresses = physical_functions(network)
    selectors: Object = {
        "vendors": [MELLANOX],
        "linkTypes": [_link_type(network)],
        "isRdma": True,
    }
    if names:
        selectors["pfNames"] = names
    if addresses:
        selectors["pciAddresses"] = addresses
    plugin = {
        "image": "sriov-network-device-plugin",
        "config": _config("resourceList", {**_resource(network), "selectors": selectors}),
    }
    return {"sriovDevicePlugin": plugin}


def _of_shared(network: Network) -> Object:
    selectors: Object = {"vendors": [MELLANOX], "linkTypes": [_link_type(network)]}
    names = shared.interface_names(network)
    if names:
        selectors["ifNames"] = names
    offered = {**_resource(network), "rdmaHcaMax": SHARERS, "selectors": selectors}
    made: Object = {
        "rdmaSharedDevicePlugin": {
            "image": "k8s-rdma-shared-dev-plugin",
            "config": _config("configList", offered),
        }
    }
    if multus.attached(network, 1):
        ipoib = ["ipoib"] if network.link == INFINIBAND else []
        made |= _secondary("cniPlugins", "multus", *ipoib)
    return made


def _of_claims(network: Network) -> Object:
    """Return what addresses NICs: the driver calls the plugins itself, and Multus has no part."""
    return _secondary("cniPlugins") if network.device_class == SRIOV_DRIVER else {}


def _resource(network: Network) -> Object:
    prefix, name = prefix_and_name(network)
    return {"resourcePrefix": prefix, "resourceName": name}


def _link_type(network: Network) -> str:
    return "infiniband" if network.link == INFINIBAND else "ether"


def _config(field: str, offered: Object) -> str:
    return as_json({field: [offered]})


def values(spec: Spec) -> dict[str, Object]:
    """Return the values of the charts that bring the operators, by the name of the chart."""
    found: dict[str, Object] = {}
    network = spec.network
    if network.devices != TCP:
        found["network-operator"] = _network_operator(network)
    if spec.has_nvidia_gpus:
        found["gpu-operator"] = _gpu_operator(network)
    if network.devices == DRA:
        if spec.has_nvidia_gpus:
            found["dra-driver-nvidia-gpu"] = {"resources": {"gpus": {"enabled": True}}}
        if network.device_class == SRIOV_DRIVER:
            found[dra_driver.NAMESPACE] = {"kubeletPlugin": {"configurationMode": "STANDALONE"}}
    return found


def _network_operator(network: Network) -> Object:
    made: Object = {
        "nfd": {"enabled": True, "deployNodeFeatureRules": True},
        "sriovNetworkOperator": {"enabled": network.devices == SRIOV and bool(network.networks)},
    }
    if made["sriovNetworkOperator"]["enabled"]:
        # Its webhook refuses a dash in the name of a resource, which all else takes.
        operator = {
            "resourcePrefix": prefix_and_name(network)[0],
            "admissionControllers": {"enabled": False},
        }
        made["sriov-network-operator"] = {
            "operator": operator,
            "sriovOperatorConfig": {"deploy": True},
        }
    return made


def _gpu_operator(network: Network) -> Object:
    return {
        # The Network Operator's chart brings it, where there is one.
        "nfd": {"enabled": network.devices == TCP},
        "cdi": {"enabled": True},
        # GPUs that a claim gives are not to be handed out by the plugin, too.
        "devicePlugin": {"enabled": network.devices != DRA},
        # Open modules export GPU memory as dma-buf: NICs reach it without nvidia-peermem.
        "driver": {"kernelModuleType": "open"},
    }
