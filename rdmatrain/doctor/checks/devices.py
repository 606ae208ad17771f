"""Devices: whether the NICs and GPUs that this pod was given are here, and are its own."""

import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from rdmatrain.discovery.claims.device_nodes import NODES
from rdmatrain.discovery.machine import NAMESPACES
from rdmatrain.discovery.model import Complaint, Nic
from rdmatrain.discovery.verdicts import NOT_LISTED
from rdmatrain.doctor.checks.gpus import gpus_wrong, of_gpus
from rdmatrain.doctor.checks.rdma_case import (
    PODINFO,
    choice,
    complaints,
    graded,
    granted_names,
    listed,
    opened,
    refused,
    resource_of,
    unneeded,
    used,
)
from rdmatrain.doctor.define import check
from rdmatrain.doctor.facts import restart, said
from rdmatrain.doctor.job import expects_rdma, has_node, is_kubernetes, nic_claims, nodes_of, pod_of
from rdmatrain.doctor.model import Case, Finding, failed, gravest, passed, skipped, warned

GROUP = "devices"

_NETWORKS = 'metadata: {{annotations: {{k8s.v1.cni.cncf.io/networks: "{}"}}}}'


@check(
    "gpu-granted",
    GROUP,
    title="the GPUs that were granted are shown, and no others",
    known="NVIDIA/nvidia-container-toolkit#48: a reload of systemd takes GPUs from containers",
)
def gpu_granted(case: Case) -> Finding:
    """Each rank needs its GPU; one that other pods have too runs out of memory."""
    found = gpus_wrong(case)
    if found:
        return gravest(found, "")
    gpus = case.found.allocation.gpus
    names = [each.gpu.uuid or each.gpu.pci or each.gpu.name for each in gpus]
    if not names:
        return skipped("there is no GPU here, and none was granted")
    return passed(f"{len(names)} of {len(case.found.machine.gpus)} GPUs: {listed(names)}")


@check(
    "libibverbs",
    GROUP,
    title="libibverbs can be loaded and has a provider for each NIC",
    known="NVIDIA/nvidia-container-toolkit#1877, dstackai/dstack#2712: images without it use TCP",
    after="core-library rdma-core",
)
def libibverbs(case: Case) -> Finding:
    """All RDMA goes through libibverbs and its provider for the NIC's driver.

    An image without them runs the job over TCP.
    """
    nothing = unneeded(case)
    probe = case.probe("verbs")
    if nothing or probe is None:
        return nothing or skipped("libibverbs was not asked")
    install = "apt-get install -y libibverbs1 ibverbs-providers (dnf: rdma-core), in the image"
    if probe.get("error"):
        return graded(case, str(probe["error"]), install)
    unlisted = [
        f"libibverbs does not list {each.nic.name}, though {NODES}/{each.nic.uverbs} is here"
        for each in refused(case, "nic-not-opened")
        if NOT_LISTED in each.why and has_node(case, each.nic)
    ]
    if unlisted:
        return graded(case, "; ".join(unlisted), install)
    shown = listed(opened(case) or {})
    return _seen(f"libibverbs lists {shown}", shown)


@check(
    "rdma-namespace",
    GROUP,
    title="RDMA devices came into this pod's namespace with their interfaces",
    known="Mellanox/k8s-rdma-shared-dev-plugin#84, kubernetes-sigs/dranet#177",
)
def rdma_namespace(case: Case) -> Finding:
    """Where RDMA namespaces are exclusive, a VF's interface can come without its RDMA device.

    That is so if its network lacks the rdma plugin, or if the device was not back on the host.
    """
    nothing = unneeded(case)
    if nothing:
        return nothing
    plugin = 'plugins: [..., {"type": "rdma"}], in the NetworkAttachmentDefinition of its network'
    untold = complaints(case, "rdma-not-told")
    lost = [*complaints(case, "nic-not-rdma"), *(untold if _broken(case) else ())]
    if lost:
        back = f"{restart(case)}: the device is back on the host when the next one starts"
        return gravest((failed(said(each), back if untold else plugin) for each in lost), "")
    mode = case.found.allocation.namespaces
    return _seen(f"RDMA namespaces are {mode} ({_mode_source(case)})", mode)


@check(
    "vf-count",
    GROUP,
    title="each VF that was asked for has a network",
    known="k8snetworkplumbingwg/sriov-network-device-plugin#258: more VFs than networks",
)
def vf_count(case: Case) -> Finding:
    """VFs without a network stay on the host: their interfaces, addresses and GIDs too."""
    if not case.wants_rdma:
        return skipped(f"the job is to use {case.needs.transport}")
    vfs, requests = _vfs(case), pod_of(case).requests
    names = [each.network for each in requests]
    fewer = complaints(case, "vf-without-network")
    if fewer:
        verdict = failed if _broken(case) else warned
        fix = _ask_networks(names, len(vfs))
        return gravest((verdict(said(each), fix) for each in fewer), "")
    late = complaints(case, "network-status-late", "metadata-late", "metadata-torn")
    if late:
        return gravest((warned(said(each), PODINFO) for each in late), "")
    if not vfs or not requests:
        return skipped(
            f"{len(vfs)} VFs of a device plugin and {len(requests)} networks are told of"
        )
    return passed(f"{len(vfs)} VFs, and {len(requests)} networks asked for: {listed(names)}")


@check(
    "device-missing",
    GROUP,
    title="all NICs that were granted are here",
    known="Mellanox/k8s-rdma-shared-dev-plugin#118: interfaces are taken from a running pod",
    after="rdma-namespace vf-count",
)
def device_missing(case: Case) -> Finding:
    """Ranks whose NIC is missing share another one, or train over TCP."""
    if not case.wants_rdma:
        return skipped(f"the job is to use {case.needs.transport}")
    missing = complaints(case, "nic-missing")
    if missing:
        fix = f"{restart(case)}; if it is so again, take the variable out of image and manifest"
        return gravest((failed(said(each), fix) for each in missing), "")
    gone = complaints(case, "vanished")
    if gone:
        return gravest((warned(said(each), restart(case)) for each in gone), "")
    verbs = case.needs.transport == "verbs"
    if verbs and not case.found.machine.nics:
        return failed("there is no RDMA device in /sys/class/infiniband", _no_device(case))
    none = complaints(case, "no-nic")
    if none:
        return _without_nic(case, said(none[0]))
    names = granted_names(case)
    return _seen(f"here is what was granted: {listed(names)}", names)


@check(
    "uverbs-nodes",
    GROUP,
    title="each NIC has its device node here, which may be opened",
    known="vllm-project/vllm#42075: without /dev/infiniband NCCL uses TCP and does not say so",
    after="rdma-namespace",
)
def uverbs_nodes(case: Case) -> Finding:
    """Libraries open a NIC through its /dev/infiniband/uverbsN, which a device plugin adds."""
    nothing = unneeded(case)
    if nothing:
        return nothing
    found = _nodes_missing(case)
    # Of a device that nobody uses, it does no harm.
    forbidden = failed if not used(case) and expects_rdma(case) else warned
    found += [forbidden(said(each), _limits(case)) for each in complaints(case, "node-forbidden")]
    if found:
        return gravest(found, "")
    nodes = [f"{NODES}/{each.nic.uverbs}" for each in used(case) if has_node(case, each.nic)]
    return _seen(listed(nodes), len(nodes) == len(used(case)) > 0)


@check(
    "device-opens",
    GROUP,
    title="libibverbs opens each NIC",
    known="NVIDIA/nccl#451: NCCL takes TCP instead; NVIDIA/nccl#2428: the job hangs",
    after="libibverbs uverbs-nodes",
    exit_code=77,
)
def device_opens(case: Case) -> Finding:
    """Nodes that are here may still be refused: by their mode, or by the cgroup of devices."""
    nothing = unneeded(case)
    if nothing:
        return nothing
    refusals = [
        graded(case, each.evidence, _allow(case, each.nic, each.why))
        for each in refused(case, "nic-not-opened")
        if has_node(case, each.nic) and NOT_LISTED not in each.why
    ]
    if refusals:
        return gravest(refusals, "")
    devices = opened(case) or {}
    works = [each.nic.name for each in used(case) if _opens(devices.get(each.nic.name, []))]
    return _seen(f"libibverbs opens {listed(works)}", works)


@check(
    "device-granted",
    GROUP,
    title="the NICs in view belong to this pod, and all sources agree on that",
    known="NVIDIA/nccl#925: NCCL takes HCAs of other pods; Mellanox/network-operator#738",
)
def device_granted(case: Case) -> Finding:
    """Libraries take each NIC that they see, and fail on those of the host and of other pods.

    Sources that contradict each other point to a variable that is stale or of another pod.
    """
    nothing = unneeded(case)
    if nothing:
        return nothing
    tell, mine = _only_own(case)
    others = complaints(case, "nic-foreign", "nic-unclaimed")
    found = [] if mine else [warned(said(each), tell) for each in others]
    found += [warned(said(each), _believe(case, each)) for each in _contradictions(case)]
    if found:
        return gravest(found, "")
    evidence = [f"{each.nic.name} by {each.evidence[0].source}" for each in _told(case)]
    return _seen(f"granted: {listed(evidence)}", evidence)


@check(
    "pf-and-vf",
    GROUP,
    title="no NIC is in view both as a physical function and as its VF",
    known="NVIDIA/nccl#1422: with a PF and its VF in view the run fails",
)
def pf_and_vf(case: Case) -> Finding:
    """Libraries take a physical function and its VF for two NICs; only one of them is set up."""
    nothing = unneeded(case)
    if nothing:
        return nothing
    tell, _ = _only_own(case)
    both = complaints(case, "pf-and-vf", "pf-named")
    if both:
        return gravest((warned(said(each), tell) for each in both), "")
    return _seen(f"used: {listed(each.nic.name for each in used(case))}", used(case))


@check(
    "rdma-cm",
    GROUP,
    title="the node of the RDMA connection manager is here",
    known="Mellanox/k8s-rdma-shared-dev-plugin#192, linux-rdma/rdma-core#1060",
)
def rdma_cm(case: Case) -> Finding:
    """UCX, libfabric and `ib_write_bw -R` find no device without it; rdmatrain and NCCL do."""
    nothing = unneeded(case)
    if nothing:
        return nothing
    missing = complaints(case, "rdma-cm-missing")
    if missing:
        return gravest(
            (warned(said(each), "modprobe rdma_ucm, on the host") for each in missing), ""
        )
    here = "rdma_cm" in case.source.names(NODES)
    return _seen(f"{NODES}/rdma_cm", here) if here else skipped(f"{NODES} has no node of a NIC")


def _seen(evidence: str, what: Any) -> Finding:
    """Return a PASS if there is something that was seen."""
    return passed(evidence) if what else skipped("nothing tells")


def _broken(case: Case) -> bool:
    """Tell whether a NIC that was granted cannot be used."""
    ids = ("nic-missing", "nic-without-gid", "nic-without-node", "nic-not-opened", "nic-not-rdma")
    granted = {each.evidence.source for each in nic_claims(case)}
    return any(each.source in granted for each in complaints(case, *ids))


def _mode_source(case: Case) -> str:
    return NAMESPACES if case.found.machine.namespaces else "by what is in view"


def _vfs(case: Case) -> set[str]:
    """Return the devices that a plugin gave."""
    told = (each for each in nic_claims(case) if each.evidence.source.startswith("PCIDEVICE_"))
    return {each.pci or each.auxiliary for each in told}


def _ask_networks(names: list[str], num_vfs: int) -> str:
    """Return how a pod asks for a network for each VF: the last one serves those without."""
    last = [names[-1]] * (num_vfs - len(names)) if names else []
    return _NETWORKS.format(", ".join([*names, *last]))


def _without_nic(case: Case, evidence: str) -> Finding:
    """Judge a pod with GPUs and without a NIC for them."""
    if case.found.machine.nics:
        return skipped("NICs are in view, and none of them can be used: see the checks below")
    if nodes_of(case) == 1:
        return skipped(f"{evidence}: the job has one node, and needs none")
    return warned(evidence, _no_device(case))


def _no_device(case: Case) -> str:
    """Return how a machine without any RDMA device gets one."""
    if is_kubernetes(case):
        return _limits(case)
    name = case.found.interface.name if case.found.interface else ""
    soft = f"rdma link add rxe0 type rxe netdev {name or 'eth0'}"
    return f"modprobe mlx5_ib; without such a NIC: {soft}"


def _limits(case: Case) -> str:
    """Return how a pod asks for NICs."""
    if not is_kubernetes(case):
        return f"docker run --device={NODES} ..., or on the host: modprobe ib_uverbs"
    number = max(len(granted_names(case)), 1)
    return f'resources: {{limits: {{{resource_of(case)}: "{number}"}}}}'


def _nodes_missing(case: Case) -> list[Finding]:
    """Judge the NICs whose device node is not here."""
    found = [
        graded(case, each.evidence, _node_fix(case, each.nic))
        for each in refused(case, "nic-without-node")
    ]
    without = [each.nic for each in refused(case, "nic-not-opened") if not has_node(case, each.nic)]
    for nic in without:
        node = f"{NODES}/{nic.uverbs or 'uverbsN'}"
        found.append(graded(case, f"{nic.name}: {node} is missing", _node_fix(case, nic)))
    foreign = [] if used(case) or case.source.names(NODES) else complaints(case, "nic-foreign")
    found += [graded(case, f"{NODES} is empty; {said(each)}", _limits(case)) for each in foreign]
    return found


def _node_fix(case: Case, nic: Nic) -> str:
    if not nic.uverbs:
        return "modprobe ib_uverbs, on the host"
    if is_kubernetes(case):
        return _limits(case)
    node = f"{NODES}/{nic.uverbs}"
    return f"docker run --device={node} --device={NODES}/rdma_cm ...; on a host: udevadm trigger"


def _allow(case: Case, nic: Nic, why: str) -> str:
    """Return what lets a process open a node: its mode, or else the cgroup of devices."""
    if os.strerror(errno.EACCES) in why:
        return f"chmod 0666 {NODES}/{nic.uverbs}, on the host, where rdma-core's udev rules do it"
    return _limits(case)


def _opens(ports: Iterable[Any]) -> bool:
    facts = list(ports)
    return bool(facts) and not any(each.get("error") for each in facts)


def _only_own(case: Case) -> tuple[str, bool]:
    """Return how to keep NCCL to the pod's own NICs, and whether the user does."""
    mine, given = choice(case, "NCCL_IB_HCA")
    wrong = complaints(case, "variable-device", "variable-prefix")
    if not mine:
        return _limits(case), False
    return f"export NCCL_IB_HCA='{mine}', as rdmatrain run does", given and not wrong


def _contradictions(case: Case) -> Iterator[Complaint]:
    ids = ("grants-differ", "lists-differ", "listed-twice", "netdev-differs", "rdma-name-differs")
    pod = pod_of(case).complaints
    for each in complaints(case, *ids, "unreadable"):
        if not of_gpus(each) and (each.id != "unreadable" or each in pod):
            yield each


def _believe(case: Case, each: Complaint) -> str:
    """Return what to do about a source that contradicts others."""
    if each.id == "listed-twice":
        return "selectors: {pfNames: [...]} of the device plugin's pools, so that none overlap"
    if each.id == "rdma-name-differs":
        names = ",".join(nic.nic.name for nic in used(case))
        return f"export NCCL_IB_HCA=={names} RDMATRAIN_DEVICES={names}" if names else restart(case)
    return f"{restart(case)}; if it is so again, take the variable out of image and manifest"


def _told(case: Case) -> list[Any]:
    """Return NICs that a source grants, with that source first."""
    sources = {each.evidence for each in nic_claims(case)}
    return [
        replace(each, evidence=tuple(said for said in each.evidence if said in sources))
        for each in used(case)
        if sources & set(each.evidence)
    ]
