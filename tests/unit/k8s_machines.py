# SPDX-License-Identifier: Apache-2.0
"""A node, and what kubelet, device plugins, Multus and DRA drivers of it give to a pod.

The node has as many pairs of a GPU and a NIC as are asked for, each below a PCIe root of its own;
where a claim asks for more of one than of the other, these share the roots.
What is returned is a scenario of ``pod_scenarios``. Only what the pod asks for counts.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from k8s_allocator import Device, allocate, choices
from k8s_pods import Object, Pod

MULTUS = "k8s.v1.cni.cncf.io/networks"
STATUS = "k8s.v1.cni.cncf.io/network-status"
_DRIVER = "sriovnetwork.k8snetworkplumbingwg.io"
_PCIE, _NUMA = "resource.kubernetes.io/pcieRoot", "resource.kubernetes.io/numaNode"


def root_of(number: int) -> tuple[str, ...]:
    """The PCIe root and the switch of a pair."""
    bus = 0x10 * (number + 1)
    return f"pci0000:{bus:02x}", f"0000:{bus:02x}:01.0", f"0000:{bus + 1:02x}:00.0"


def gpu(number: int, root: int | None = None) -> dict[str, Any]:
    root = number if root is None else root
    bus = 0x10 * (number + 1) + 4
    return {
        "pci": f"0000:{bus:02x}:00.0",
        "uuid": f"GPU-{number}a5b0a8e-0000-0000-0000-000000000000",
        "minor": number,
        "numa": root % 2,
        "under": [*root_of(root), f"0000:{bus - 2:02x}:02.0"],
    }


def vf_pci(number: int) -> str:
    return f"0000:{0x10 * (number + 1) + 3:02x}:00.2"


def _vf(number: int, interface: str, root: int | None = None) -> dict[str, Any]:
    root = number if root is None else root
    bus = 0x10 * (number + 1) + 1
    return {
        "pci": vf_pci(number),
        "ids": "15b3:101e",
        "netdev": interface,
        "ip": f"10.{number + 1}.0.7/24",
        "numa": root % 2,
        "uverbs": f"uverbs{number}",
        "under": [*root_of(root), f"0000:{bus:02x}:01.0"],
    }


def networks_of(annotations: Mapping[str, str], namespace: str) -> list[dict[str, str]]:
    """The networks that Multus attaches, in order, each with its interface."""
    text = annotations.get(MULTUS, "").strip()
    entries = json.loads(text) if text.startswith("[") else _short_form(text)
    return [
        {
            "name": f"{each.get('namespace', namespace)}/{each['name']}",
            "interface": each.get("interface") or f"net{number}",
        }
        for number, each in enumerate(entries, 1)
    ]


def _short_form(text: str) -> list[dict[str, str]]:
    found = []
    for each in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(
            r"(?:(?P<namespace>[^/]+)/)?(?P<name>[^@]+)(?:@(?P<interface>.+))?", each
        )
        assert match, each
        found.append({key: value for key, value in match.groupdict().items() if value})
    return found


def limits_of(container: Object) -> Mapping[str, Any]:
    found: Mapping[str, Any] = container.get("resources", {}).get("limits", {})
    return found


def node(pod: Pod, objects: Iterable[Object], resource: str, gpus: str) -> dict[str, Any]:
    """What the container that trains sees: devices, and what they say in variables and notes.

    Args:
        pod: of the controller.
        objects: all that were rendered; claims are among them.
        resource: what the node's device plugin calls its NICs; ``rdma/…`` are shared.
        gpus: what the node's device plugin calls its GPUs.

    """
    asked = limits_of(pod.container())
    seen: dict[str, Any] = {"environment": {}, "status": [_eth0()], "nics": {}, "gpus": []}
    seen["netdevs"] = {"eth0": {"addresses": ["10.244.1.5/24"]}}
    _give_gpus(seen, [gpu(number) for number in range(int(asked.get(gpus, 0)))])
    networks = networks_of(pod.annotations, pod.namespace)
    if not pod.spec.get("hostNetwork"):
        count = int(asked.get(resource, 0))
        give = _give_shared if resource.startswith("rdma/") else _give_vfs
        give(seen, resource, count, networks)
    if pod.spec.get("resourceClaims"):
        _give_claims(seen, pod, list(objects))
    return seen


def _eth0() -> Object:
    return {
        "name": "k8s-pod-network",
        "interface": "eth0",
        "ips": ["10.244.1.5"],
        "default": True,
        "dns": {},
    }


def _give_gpus(seen: dict[str, Any], gpus: list[dict[str, Any]]) -> None:
    seen["gpus"] = gpus
    if gpus:
        # kubelet hands them out in any order.
        ids = [each["uuid"] for each in reversed(seen["gpus"])]
        seen["environment"]["NVIDIA_VISIBLE_DEVICES"] = ",".join(ids)


def _give_vfs(
    seen: dict[str, Any], resource: str, count: int, networks: list[dict[str, str]]
) -> None:
    """As the SR-IOV device plugin and CNI do, in the exclusive mode of RDMA."""
    if not count:
        assert not networks, "Multus finds no device for a network, and the pod does not start"
        # The host's own is seen, as nobody moved it into a namespace, but has no node.
        seen["nics"] = {"mlx5_0": {"pci": "0000:f3:00.0", "node": False}}
        return
    # Multus takes the next device of the resource for each network: another number fails the pod,
    # or leaves a device without an address.
    assert len(networks) == count, f"{len(networks)} networks for {count} devices"
    key = f"PCIDEVICE_{resource.replace('/', '_').replace('.', '_').upper()}"
    order = [*range(count)][::-1]
    about = {
        vf_pci(each): {
            "generic": {"deviceID": vf_pci(each)},
            "rdma": {"uverbs": f"/dev/infiniband/uverbs{each}", "rdma_dev": f"mlx5_{each + 2}"},
        }
        for each in order
    }
    seen["environment"] |= {key: ",".join(map(vf_pci, order)), f"{key}_INFO": json.dumps(about)}
    for number, network in zip(order, networks, strict=True):
        name = f"mlx5_{number + 2}"
        seen["nics"][name] = _vf(number, network["interface"])
        pci = {"pci-address": vf_pci(number), "rdma-device": name}
        info = {"type": "pci", "version": "1.1.0", "pci": pci}
        seen["status"].append(_attached(network, number, info))


def _attached(network: dict[str, str], number: int, info: Object | None = None) -> Object:
    return {
        **network,
        "ips": [f"10.{number + 1}.0.7"],
        **({"device-info": info} if info else {}),
    }


def _give_shared(
    seen: dict[str, Any], _resource: str, count: int, networks: list[dict[str, str]]
) -> None:
    """As the plugin of shared devices does: nodes of all its NICs, and a macvlan on the first."""
    assert count == len(networks) == 1
    interface = networks[0]["interface"]
    seen["netdevs"][interface] = {"addresses": ["10.1.0.7/24"]}
    seen["nics"] = {
        "mlx5_0": {"pci": "0000:13:00.0", "gids": {6: ["10.1.0.7", "RoCE v2", interface]}},
        "mlx5_1": {"pci": "0000:23:00.0"},
    }
    seen["status"].append(_attached(networks[0], 0))


def _give_claims(seen: dict[str, Any], pod: Pod, objects: list[Object]) -> None:
    """As a scheduler and the drivers do for the claims that the container may use."""
    used = {each["name"] for each in pod.container()["resources"].get("claims", [])}
    for claim in pod.spec["resourceClaims"]:
        name = claim["resourceClaimTemplateName"]
        template = next(
            each
            for each in objects
            if each["kind"] == "ResourceClaimTemplate" and each["metadata"]["name"] == name
        )
        assert claim["name"] in used
        assert template["metadata"].get("namespace", "default") == pod.namespace
        devices = template["spec"]["spec"]["devices"]
        given = allocate(devices, free(devices))
        assert given, "no node satisfies the claim"
        results = {f"{name}/{sub}" if sub else name: each for name, (sub, each) in given.items()}
        gpus = sorted(_place(each) for each in results.values() if "sriov" not in each.kind)
        _give_gpus(seen, [gpu(number, root) for number, root in gpus])
        if seen["gpus"]:
            seen["environment"]["NVIDIA_VISIBLE_DEVICES"] = "void"
        nics = {name: _place(each) for name, each in results.items() if "sriov" in each.kind}
        _give_claimed_nics(seen, nics, devices.get("config", []))


# How near a node has the NIC of a pair to its GPU: the PCIe roots of both, by the pair's number.
# Odd roots are of another NUMA node than even ones.
NEARNESS: Mapping[str, tuple[Callable[[int], int], Callable[[int], int]]] = {
    "pcie": (lambda pair: pair, lambda pair: pair),
    "numa": (lambda pair: pair, lambda pair: pair + 4),
    "any": (lambda pair: 2 * pair, lambda pair: 2 * pair + 1),
}


def free(devices: Object, nearness: str = "pcie") -> list[Device]:
    """The devices of a node that has as many as a claim asks for, spread over its PCIe roots.

    NICs are in another order than they are asked for, so that only constraints pair them.
    """
    kinds = [choices(request)[0].kind for request in devices["requests"]]
    counts = Counter(kinds)
    roots = min(counts.values())
    return [
        Device(str(number), kind, {_PCIE: root, _NUMA: root % 2})
        for kind, count in counts.items()
        for number, root in reversed(
            [
                (each, NEARNESS[nearness]["sriov" in kind](each * roots // count))
                for each in range(count)
            ]
        )
    ]


def _place(device: Device) -> tuple[int, int]:
    """Its number, and the PCIe root that it is below."""
    return int(device.name), device.attributes[_PCIE]


def _give_claimed_nics(
    seen: dict[str, Any], given: Mapping[str, tuple[int, int]], config: list[Object]
) -> None:
    """As dra-driver-sriov does, which knows a configuration by the name in the allocation alone.

    For ``firstAvailable`` that is the request's and the choice's, ``nic-0/pcie``.
    """
    env = {}
    for result, (number, root) in given.items():
        told = next(
            each["opaque"]["parameters"]
            for each in config
            if result in each["requests"] and each["opaque"]["driver"] == _DRIVER
        )
        device, name = vf_pci(number).replace(":", "_").replace(".", "_"), f"mlx5_{number + 2}"
        env[f"SRIOVNETWORK_VF_DEVICE_{device}"] = vf_pci(number)
        env[f"SRIOVNETWORK_{device}_RDMA_UVERB"] = f"/dev/infiniband/uverbs{number}"
        env[f"SRIOVNETWORK_{device}_RDMA_DEVICE"] = name
        seen["nics"][name] = _vf(number, told["ifName"], root)
    if env:
        every = [value for key, value in env.items() if "_VF_DEVICE_" in key]
        env["SRIOVNETWORK_PCI_ADDRESSES"] = ",".join(every)
    seen["environment"] |= env
