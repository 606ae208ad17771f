"""The checks of a gang, pure functions all: here those of what is alike on all pods."""

from collections.abc import Callable, Mapping

from rdmatrain.doctor.gang.define import GangCheck, gang_check
from rdmatrain.doctor.gang.measurements import bandwidth, checksum, ping, transport
from rdmatrain.doctor.gang.model import Gathering, Pod
from rdmatrain.doctor.gang.words import between_hosts, host_in, listed, set_of, way_of
from rdmatrain.doctor.model import Finding, failed, passed, skipped, warned
from rdmatrain.launcher.exit_codes import BAD_CONFIG, GANG_TIMEOUT
from rdmatrain.launcher.membership import disagreement

CLOCK_S = 1.0
# What each rank has loaded must be the same; of the rest it is better.
MUST_MATCH = ("rdmatrain", "torch", "python")


@gang_check(
    "gang-forms",
    title="every pod of the job comes, and answers in time",
    known="kubeflow/trainer#165: jobs wait for ever with a part of their pods",
    exit_code=GANG_TIMEOUT,
    alone=True,
)
def forms(seen: Gathering) -> Finding:
    """All pods of a job start together: one that is missing or hangs stops all of them."""
    came = {pod.rank for pod in seen.pods}
    absent = [rank for rank in range(seen.world) if rank not in came]
    if absent:
        ranks = listed([f"rank {rank}" for rank in absent])
        return failed(
            f"{len(came)} of {seen.world} pods said who they are within {seen.timeout_s:g} s: "
            f"{ranks} did not",
            "kubectl get pods -o wide, and kubectl logs of those that run",
        )
    done = {row.rank for row in seen.rows}
    hung = [seen.name(pod.rank) for pod in seen.pods if pod.rank not in done]
    if hung:
        return failed(
            f"{listed(hung)} came, and did not finish measuring within {seen.timeout_s:g} s",
            f"kubectl exec into {host_in(hung[0])}: what its processes wait for (py-spy dump, "
            "cat /proc/PID/stack)",
        )
    return passed(f"{seen.world} of {seen.world} pods: {listed([pod.host for pod in seen.pods])}")


@gang_check(
    "gang-versions",
    title="all pods have the same versions",
    known="pytorch#187727: a wheel built for another torch does not load",
    after="gang-forms",
    exit_code=BAD_CONFIG,
)
def versions(seen: Gathering) -> Finding:
    """Ranks of different versions refuse each other at best, and compute other things at worst."""
    must = _differences(seen, lambda pod: {k: pod.versions.get(k, "") for k in MUST_MATCH})
    if must:
        return failed(must, "give all pods the same image, by digest: image: NAME@sha256:...")
    should = _differences(seen, lambda pod: pod.versions)
    if should:
        return warned(should, "bring the nodes to one kernel and rdma-core, or select such nodes")
    told = ", ".join(f"{name} {value}" for name, value in seen.pods[0].versions.items())
    return passed(f"{seen.world} pods have {told}")


@gang_check(
    "gang-devices",
    title="all pods have the same number of GPUs and RDMA ports, of the same rates",
    after="gang-forms",
    exit_code=BAD_CONFIG,
)
def devices(seen: Gathering) -> Finding:
    """Jobs have as many ranks on each node, and all wait for the one with the slowest NIC."""
    if not any(pod.gpus or pod.rails or pod.has_rdma for pod in seen.pods):
        return skipped("no pod has a GPU or an RDMA device")
    numbers = _differences(seen, _device_numbers)
    if numbers:
        return failed(numbers, "give all pods the same resources: requests and limits of one kind")
    rates = _differences(seen, _device_rates)
    if rates:
        return warned(rates, "select nodes of one kind: nodeSelector, or a pool of its own")
    pod = seen.pods[0]
    ports = ", ".join(f"{rail.gbps:g} Gbit/s" for rail in pod.rails) or "none"
    return passed(f"{seen.world} pods have {len(pod.gpus)} GPUs and usable RDMA ports: {ports}")


def _device_numbers(pod: Pod) -> dict[str, str]:
    return {
        "the number of GPUs": str(len(pod.gpus)),
        "the number of usable RDMA ports": str(len(pod.rails)),
    }


def _device_rates(pod: Pod) -> dict[str, str]:
    rates = sorted(f"{rail.gbps:g}" for rail in pod.rails)
    return {
        "the rate of RDMA ports (Gbit/s)": " ".join(rates),
        "the model of GPUs": ", ".join(sorted(set(pod.gpus))),
    }


@gang_check(
    "gang-link-layer",
    title="the RDMA ports of all pods are of one link layer",
    after="gang-forms",
    exit_code=BAD_CONFIG,
    alone=True,
)
def link_layer(seen: Gathering) -> Finding:
    """Ports of InfiniBand and of Ethernet (RoCE) cannot reach each other."""
    if not any(pod.rails for pod in seen.pods):
        return skipped("no pod has a usable RDMA port")
    mixed = _differences(
        seen, lambda pod: {"the link layer": set_of(r.link_layer for r in pod.rails)}
    )
    if mixed:
        return failed(mixed, "export RDMATRAIN_DEVICES=... on those: ports of the others' layer")
    return passed(f"all RDMA ports are {set_of(r.link_layer for p in seen.pods for r in p.rails)}")


@gang_check(
    "gang-mtu",
    title="the MTU is the same everywhere",
    known="kvcache-ai/Mooncake#3868: peers with MTU 4096 and 1024 fail, and perftest passes",
    after="gang-forms gang-link-layer",
    exit_code=BAD_CONFIG,
    alone=True,
)
def mtu(seen: Gathering) -> Finding:
    """Packets that the other end finds too large are dropped without a word, till RDMA gives up."""
    active = _differences(seen, lambda pod: {"the active MTU": set_of(r.mtu for r in pod.rails)})
    if active:
        return failed(
            active, "ip link set dev NETDEV mtu 4200 on those nodes (and the switch ports)"
        )
    ways = _ways_by_mtu(seen)
    if len(ways) > 1:
        rarest = min(ways, key=lambda size: (len(ways[size]), size))
        others = set_of(ways.keys() - {rarest})
        return warned(
            f"the way is of MTU {rarest} for {listed(ways[rarest])}, elsewhere of {others}",
            "ip link set dev NETDEV mtu N, one N on all nodes",
        )
    ports = set_of(rail.mtu for pod in seen.pods for rail in pod.rails)
    told = [f"active MTU {ports} on all RDMA ports"] if ports else []
    told += [f"all ways between hosts are of MTU {size}" for size in ways]
    return passed("; ".join(told)) if told else skipped("no RDMA ports, and one host")


def _ways_by_mtu(seen: Gathering) -> dict[int, list[str]]:
    """Return the ways between hosts by their path MTU, where it was asked for."""
    ways: dict[int, list[str]] = {}
    for rank, each in between_hosts(seen, seen.meetings()):
        if each.path_mtu:
            ways.setdefault(each.path_mtu, []).append(way_of(seen, rank, each))
    return ways


@gang_check(
    "gang-clock",
    title="the clocks of all pods agree within a second",
    after="gang-forms",
    exit_code=BAD_CONFIG,
)
def clock(seen: Gathering) -> Finding:
    """Clocks that differ put logs out of order, and make certificates invalid.

    torchrun's own rendezvous takes a pod whose clock is 15 s behind for dead.
    """
    wrong, known = [], []
    for row in seen.rows:
        if row.offset_s is None:
            continue
        known.append(abs(row.offset_s))
        if abs(row.offset_s) - row.rtt_s / 2 > CLOCK_S:
            # It is later at rank 0 by the offset.
            side = "behind" if row.offset_s > 0 else "ahead of"
            wrong.append(f"{seen.name(row.rank)} is {abs(row.offset_s):.3g} s {side}")
    if wrong:
        texts = listed(wrong)
        return warned(f"{texts} {seen.name(0)}", "chronyc makestep on that node, and let it run")
    if len(known) < seen.world - 1:
        return skipped(f"{len(known)} of {seen.world - 1} clocks were compared with rank 0's")
    return passed(f"at most {max(known) * 1e3:.3g} ms from {seen.name(0)}")


CHECKS: tuple[GangCheck, ...] = (
    forms,
    versions,
    devices,
    link_layer,
    mtu,
    clock,
    ping,
    checksum,
    transport,
    bandwidth,
)


def _differences(seen: Gathering, facts: Callable[[Pod], Mapping[str, str]]) -> str:
    """Say who is odd, as the launcher does; what a pod does not know agrees with all."""
    return disagreement([(str(pod), facts(pod)) for pod in seen.pods])
