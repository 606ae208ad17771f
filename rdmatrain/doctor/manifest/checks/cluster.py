"""Objects of the cluster that a manifest may have besides: networks, policies, claims."""

import json
import re
from collections.abc import Iterator
from math import gcd
from typing import Any

from rdmatrain.discovery.claims.values import shown
from rdmatrain.doctor.manifest.define import advice, fail, fine, patch, question, warn
from rdmatrain.doctor.manifest.networks import Networks
from rdmatrain.doctor.manifest.nodes import Node, as_json
from rdmatrain.doctor.manifest.workloads import Manifest
from rdmatrain.doctor.model import Finding, Needs

# From here on a netdev carries RoCE packets of 4096 bytes.
MTU, DEFAULT_MTU = 4200, 1500
# GPUs or NICs that hosts have below one PCIe root, at most.
MOST_OF_A_ROOT = 2
# Devices that the API lets a claim have.
MOST_OF_A_CLAIM = 32
_PAIRS = "a request for each device, and a constraint for each pair"
_GPU_CLASS = re.compile(r"gpu|mig|accelerator", re.IGNORECASE)
_NIC_CLASS = re.compile(r"dra\.?net|sriov|rdma|nic|roce|infiniband", re.IGNORECASE)


def policies(manifest: Manifest) -> list[Node]:
    """Return the policies of the SR-IOV operator for devices that a pod asks for.

    Where there is no pod, somebody else's ask for them: all policies count.
    """
    asked = {
        name.rpartition("/")[2]
        for pod in manifest.training
        for box in pod.containers
        for name in box.vfs
    }
    found = manifest.of_kind("SriovNetworkNodePolicy")
    return [
        each.get("spec")
        for each in found
        if not manifest.pods or each.get("spec", "resourceName").text in asked
    ]


@question(
    "rdma-namespace",
    "RDMA devices come into the pod's namespace",
    nothing="no SriovNetwork, NetworkAttachmentDefinition or pool of a pod's devices with RDMA",
    known="nccl#925: NCCL picks HCAs of other pods, which it can see",
    exit_code=69,
)
def rdma_namespace(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Only exclusive namespaces hide the NICs of others, and need the CNI plugin rdma."""
    modes = [each.get("spec", "rdmaMode") for each in manifest.of_kind("SriovNetworkPoolConfig")]
    exclusive = any(each.text == "exclusive" for each in modes)
    for policy in policies(manifest):
        if not policy.get("isRdma").true or policy.get("deviceType").text == "vfio-pci":
            yield _without_rdma(policy, asked=bool(manifest.pods))
    for mode in modes:
        if mode.text != "exclusive":
            text = "not exclusive: pods see the NICs of others"
            yield warn(mode, text, advice(mode, "exclusive"))  # for all pods of these nodes
    for place, types in _attached(manifest):
        yield from _plugins(place, types, exclusive)


def _without_rdma(policy: Node, *, asked: bool) -> Finding:
    text = "virtual functions without RDMA: isRdma: true and deviceType: netdevice are needed"
    change = "{isRdma: true, deviceType: netdevice}"
    if asked:
        return fail(policy, text, patch(policy, change))
    return warn(policy, text, advice(policy, change))  # nobody may want RDMA of them


def _plugins(place: Node, types: list[str], exclusive: bool) -> Iterator[Finding]:
    if "rdma" in types:
        yield fine(place, "the plugin rdma moves the RDMA device with its interface")
    elif exclusive:
        text = "no plugin rdma, and namespaces are exclusive: the device stays in the host"
        yield fail(place, text, _add_rdma(place))
    elif "sriov" in types or place.key == "metaPlugins":
        text = "no plugin rdma: with exclusive namespaces the device would stay in the host"
        yield warn(place, text, advice(place, "add {type: rdma}"))  # which fails in shared mode


def _attached(manifest: Manifest) -> Iterator[tuple[Node, list[str]]]:
    """Return the networks that pods attach, with the CNI plugins of each; without pods, all."""
    names = {
        name.rpartition("/")[2] for pod in manifest.training for name in Networks.of(pod).names
    }
    for each in manifest.of_kind("NetworkAttachmentDefinition", "SriovNetwork"):
        if manifest.pods and each.get("metadata", "name").text not in names:
            continue
        config, place = each.get("spec", "config"), each.get("spec", "metaPlugins")
        if each.get("kind").text == "SriovNetwork":
            yield from _types(place, _json(f"[{place.text}]"))
        elif config.there:
            whole = _json(config.text)
            plugins = whole.get("plugins", [whole]) if isinstance(whole, dict) else None
            yield from _types(config, plugins)


def _types(place: Node, plugins: Any) -> Iterator[tuple[Node, list[str]]]:
    if isinstance(plugins, list):
        yield place, [str(each.get("type")) for each in plugins if isinstance(each, dict)]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _add_rdma(place: Node) -> str:
    rdma = {"type": "rdma"}
    if place.key == "metaPlugins":
        others = place.text.strip().rstrip(",")
        text = f"{others}, {json.dumps(rdma)}" if others else json.dumps(rdma)
        return patch(place, json.dumps(text), '\'{"type": "rdma"}, ...\'')
    whole = _json(place.text)
    whole = whole if "plugins" in whole else {"cniVersion": "1.0.0", "plugins": [whole]}
    chain = {**whole, "plugins": [*whole["plugins"], rdma]}
    return patch(place, json.dumps(json.dumps(chain)), "add {type: rdma}")


@question(
    "mtu",
    "interfaces carry RoCE packets of 4096 bytes",
    nothing="no SriovNetworkNodePolicy of a pod's devices",
    known="kvcache-ai/Mooncake#3868: 1500 of Ethernet are 1024 of RoCE",
    exit_code=202,
)
def mtu(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """RoCE's MTU is the power of two below the interface's: 1500 makes it 1024, 4200 makes 4096."""
    for policy in policies(manifest):
        if policy.get("linkType").text.lower() == "ib":
            continue
        place = policy.get("mtu")
        number = place.number if place.there else DEFAULT_MTU
        if number is None or number < MTU:
            said = shown(place.text, 20) if place.there else f"not set, so {DEFAULT_MTU}"
            text = f"mtu is {said}: RoCE packets are smaller than 4096 bytes"
            # Packets that switches do not carry are lost.
            yield warn(policy, text, advice(policy, "{mtu: 4220}"))
        else:
            yield fine(place, f"mtu {number}")


@question(
    "numa-alignment",
    "GPUs and NICs are given out near to each other",
    nothing="no claim or policy of a pod's devices is in the manifest",
    known="sriov-network-operator#736: a VF near to a GPU cannot be asked for",
)
def numa_alignment(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """GPUs and NICs of different NUMA nodes exchange data across the CPUs: half the bandwidth."""
    for policy in policies(manifest):
        place = policy.get("excludeTopology")
        if place.true:
            text = "the kubelet is not told the NUMA node of NICs"
            yield warn(place, text, patch(policy, "{excludeTopology: false}"))
        else:
            yield fine(policy, "the kubelet is told the NUMA node of NICs")
    named = _requests_that_are_named(manifest)
    for each in manifest.of_kind("ResourceClaimTemplate"):
        yield from _claimed(each.get("spec", "spec", "devices"), named)


def _requests_that_are_named(manifest: Manifest) -> set[str]:
    """Return the requests of claims of which containers want one alone."""
    return {
        claim.get("request").text
        for pod in manifest.pods
        for box in pod.everything
        for claim in box.node.get("resources", "claims").items()
    }


def _claimed(devices: Node, named: set[str]) -> Iterator[Finding]:
    requests = devices.get("requests").items()
    gpus, nics = _gpus_and_nics(requests)
    if not gpus or not nics:
        return
    constraints = devices.get("constraints").items()
    joined = [set(each.get("requests").texts()) for each in constraints]
    for each in _crowded(requests, joined):
        count = each.get("exactly", "count").text
        text = f"{count} devices that have to be below one root: no host has so many there"
        split = not named & {*gpus, *nics} and _split(devices, gpus, nics)
        fix = patch(devices, json.dumps(split), _PAIRS) if split else advice(each, _PAIRS)
        yield fail(each, text, fix)
    yield _near(devices, gpus, nics, joined)


def _gpus_and_nics(requests: list[Node]) -> tuple[list[str], list[str]]:
    """Return the names of the requests for each."""
    classes = {
        each.get("name").text: each.get("exactly", "deviceClassName").text for each in requests
    }
    gpus = [name for name, kind in classes.items() if _GPU_CLASS.search(kind)]
    nics = [name for name, kind in classes.items() if _NIC_CLASS.search(kind) and name not in gpus]
    return gpus, nics


def _crowded(requests: list[Node], joined: list[set[str]]) -> list[Node]:
    """Return requests for more devices below one root than there are."""
    return [
        each
        for each in requests
        if _count(each) > MOST_OF_A_ROOT and any(each.get("name").text in names for names in joined)
    ]


def _split(devices: Node, gpus: list[str], nics: list[str]) -> dict[str, Any]:
    """Return a request for each GPU and NIC, and a constraint for those of one root; or nothing."""
    counts = _counts(devices, gpus, nics)
    groups = gcd(*counts.values())
    if (
        sum(counts.values()) > MOST_OF_A_CLAIM
        or max(counts.values(), default=1) > MOST_OF_A_ROOT * groups
    ):
        return {}
    both, joined = devices.get("requests").items(), as_json(devices.get("constraints", 0))
    return {
        "requests": [_single(each, number) for each in both for number in range(_count(each))],
        "constraints": [{**joined, "requests": _group(counts, at, groups)} for at in range(groups)],
    }


def _counts(devices: Node, gpus: list[str], nics: list[str]) -> dict[str, int]:
    """Return how many devices each request is for.

    Empty where they cannot be told apart: several requests of a kind, or more hangs on them.
    """
    both, constraints = devices.get("requests").items(), devices.get("constraints").items()
    if [len(each) for each in (gpus, nics, both, constraints)] != [1, 1, 2, 1] or _has_more(
        devices
    ):
        return {}
    return {each.get("name").text: _count(each) for each in both}


def _count(request: Node) -> int:
    return max(request.get("exactly", "count").number or 1, 1)


def _single(request: Node, number: int) -> dict[str, Any]:
    wanted = {
        key: as_json(each) for key, each in request.get("exactly").entries() if key != "count"
    }
    return {"name": f"{request.get('name').text}-{number}", "exactly": wanted}


def _has_more(devices: Node) -> bool:
    return any(key not in {"requests", "constraints"} for key, _ in devices.entries())


def _group(counts: dict[str, int], place: int, groups: int) -> list[str]:
    """Return the requests that come below one root."""
    return [
        f"{name}-{number}"
        for name, count in counts.items()
        for number in range(place * count // groups, (place + 1) * count // groups)
    ]


def _near(devices: Node, gpus: list[str], nics: list[str], joined: list[set[str]]) -> Finding:
    """Judge whether each GPU has to be near to some NIC."""
    apart = [name for name in gpus if not any(name in each and each & set(nics) for each in joined)]
    if not apart:
        return fine(devices.get("constraints"), "each GPU comes with a NIC near to it")
    name = shown(apart[0], 60)
    added = (
        f"{{requests: [{name}, {shown(nics[0], 60)}], "
        "matchAttribute: resource.kubernetes.io/pcieRoot}"
    )
    others = map(json.dumps, devices.get("constraints").plain_items())
    change = f"{{constraints: [{', '.join([*others, added])}]}}"
    fix = patch(devices, change, f"{{constraints: [{added}]}}")
    return warn(devices, f"GPU {name} may be far from every NIC", fix)
