"""The checks of a gang: pure functions of what its pods said and measured."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from statistics import median

from rdmatrain.doctor.gang.define import GangCheck, gang_check
from rdmatrain.doctor.gang.model import Gathering, Meeting, Pod
from rdmatrain.doctor.model import Finding, failed, passed, skipped, warned
from rdmatrain.launcher.exit_codes import (
    BAD_CONFIG,
    FABRIC_FAULT,
    GANG_TIMEOUT,
    NO_DEVICES,
)
from rdmatrain.launcher.membership import disagreement

MAX_NAMED = 4
SLOW_PING, SLOW_GBPS = 5.0, 0.5
CLOCK_S = 1.0
# What each rank has loaded must be the same; of the rest it is better.
MUST_MATCH = ("rdmatrain", "torch", "python")
UNSEEN = "not measured"


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
        ranks = _listed([f"rank {rank}" for rank in absent])
        return failed(
            f"{len(came)} of {seen.world} pods said who they are within {seen.timeout_s:g} s: "
            f"{ranks} did not",
            "kubectl get pods -o wide, and kubectl logs of those that run",
        )
    done = {row.rank for row in seen.rows}
    hung = [seen.name(pod.rank) for pod in seen.pods if pod.rank not in done]
    if hung:
        return failed(
            f"{_listed(hung)} came, and did not finish measuring within {seen.timeout_s:g} s",
            f"kubectl exec into {_host(hung[0])}: what its processes wait for (py-spy dump, "
            "cat /proc/PID/stack)",
        )
    return passed(f"{seen.world} of {seen.world} pods: {_listed([pod.host for pod in seen.pods])}")


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
        seen, lambda pod: {"the link layer": _set_of(r.link_layer for r in pod.rails)}
    )
    if mixed:
        return failed(mixed, "export RDMATRAIN_DEVICES=... on those: ports of the others' layer")
    return passed(f"all RDMA ports are {_set_of(r.link_layer for p in seen.pods for r in p.rails)}")


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
    active = _differences(seen, lambda pod: {"the active MTU": _set_of(r.mtu for r in pod.rails)})
    if active:
        return failed(
            active, "ip link set dev NETDEV mtu 4200 on those nodes (and the switch ports)"
        )
    ways = _ways_by_mtu(seen)
    if len(ways) > 1:
        rarest = min(ways, key=lambda size: (len(ways[size]), size))
        others = _set_of(ways.keys() - {rarest})
        return warned(
            f"the way is of MTU {rarest} for {_listed(ways[rarest])}, elsewhere of {others}",
            "ip link set dev NETDEV mtu N, one N on all nodes",
        )
    ports = _set_of(rail.mtu for pod in seen.pods for rail in pod.rails)
    told = [f"active MTU {ports} on all RDMA ports"] if ports else []
    told += [f"all ways between hosts are of MTU {size}" for size in ways]
    return passed("; ".join(told)) if told else skipped("no RDMA ports, and one host")


def _ways_by_mtu(seen: Gathering) -> dict[int, list[str]]:
    """Return the ways between hosts by their path MTU, where it was asked for."""
    ways: dict[int, list[str]] = {}
    for rank, each in _apart(seen, seen.meetings()):
        if each.path_mtu:
            ways.setdefault(each.path_mtu, []).append(_way(seen, rank, each))
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
        texts = _listed(wrong)
        return warned(f"{texts} {seen.name(0)}", "chronyc makestep on that node, and let it run")
    if len(known) < seen.world - 1:
        return skipped(f"{len(known)} of {seen.world - 1} clocks were compared with rank 0's")
    return passed(f"at most {max(known) * 1e3:.3g} ms from {seen.name(0)}")


@gang_check(
    "gang-transport",
    title="RDMA joins the hosts, where the job wants it",
    known="vllm-project/vllm#42075: without /dev/infiniband, TCP is used silently",
    after="gang-forms gang-versions gang-link-layer",
    exit_code=NO_DEVICES,
)
def transport(seen: Gathering) -> Finding:
    """Over TCP the job runs, ten times slower, and nothing says so."""
    error = _group_error(seen)
    if error:
        return failed(
            f"the group does not form: {error}",
            "rdmatrain doctor on those pods: its first FAIL is why",
        )
    apart = _apart(seen, seen.meetings())
    if _transports(apart):
        return _judge_transports(seen, apart)
    here = _set_of(_transports(seen.meetings()))
    return skipped(UNSEEN if apart or not here else f"all pods share a host: {here} joins them")


def _transports(meetings: Sequence[tuple[int, Meeting]]) -> Counter[str]:
    return Counter(each.transport for _, each in meetings if each.transport)


def _judge_transports(seen: Gathering, apart: Sequence[tuple[int, Meeting]]) -> Finding:
    kinds = _transports(apart)
    fallen = [(rank, each) for rank, each in apart if _fell_back(seen, rank, each)]
    if fallen:
        return _tcp_finding(seen, fallen)
    if kinds == {"tcp": kinds["tcp"]} and not any(pod.wants for pod in seen.pods):
        return skipped("TCP joins the hosts: no pod has an RDMA device")
    told = ", ".join(f"{name} joins {number // 2 or 1} pairs" for name, number in kinds.items())
    return passed(told)


def _fell_back(seen: Gathering, rank: int, each: Meeting) -> bool:
    wants = next((pod.wants for pod in seen.pods if pod.rank == rank), "")
    return each.transport == "tcp" and wants != "tcp" and (each.fell_back or wants == "verbs")


def _tcp_finding(seen: Gathering, fallen: Sequence[tuple[int, Meeting]]) -> Finding:
    """Name the pods that all of these pairs have in common, or else the pairs."""
    reasons = list(dict.fromkeys(each.why for _, each in fallen))
    lacking = [pod for pod in seen.pods if not pod.rails and pod.no_rails]
    who = _culprit(seen, fallen) or _pairs_of(seen, fallen)
    if len(lacking) == 1:
        who = str(lacking[0])
        reasons = [lacking[0].no_rails]
    fix = f"rdmatrain doctor on {_host(who) if lacking else 'those pods'}: its first FAIL is why"
    return failed(f"TCP, not RDMA, joins {who} to other hosts: {_listed(reasons)}", fix)


@gang_check(
    "gang-ping",
    title="each pair of pods reaches each other, none much slower than the others",
    known="NVIDIA/nccl#1664: status=12 vendor err 129, without a word on which path",
    after="gang-forms gang-versions gang-link-layer",
    exit_code=FABRIC_FAULT,
)
def ping(seen: Gathering) -> Finding:
    """One path that drops packets or takes a detour stops or slows down each step of all ranks."""
    broken = [(rank, each) for rank, each in seen.meetings() if each.error]
    if broken:
        return _broken_finding(seen, broken)
    timed = [(rank, each) for rank, each in seen.meetings() if each.ping_us is not None]
    return _judge_pings(seen, timed) if timed else skipped(UNSEEN)


def _broken_finding(seen: Gathering, broken: Sequence[tuple[int, Meeting]]) -> Finding:
    """Name the pod that all of these pairs have in common, or else the pairs."""
    errors = _listed(list(dict.fromkeys(each.error for _, each in broken)), 2)
    who = _culprit(seen, broken)
    if who:
        fix = f"see the ports and the way of {_host(who)}"
        return failed(f"every pair with {who} fails: {errors}", fix)
    return failed(f"{_pairs_of(seen, broken)} fails: {errors}", "see the way between those")


def _judge_pings(seen: Gathering, timed: Sequence[tuple[int, Meeting]]) -> Finding:
    slow = [
        f"{_way(seen, rank, each)} {each.ping_us:.3g} us"
        for rank, each in _apart(seen, timed)
        if (each.ping_us or 0.0) > SLOW_PING * _usual(seen, each, "ping_us")
    ]
    usual = median(each.ping_us for _, each in timed if each.ping_us is not None)
    if slow:
        return warned(
            f"{_listed(slow)}: more than {SLOW_PING:g} times the median of {usual:.3g} us",
            "see what else uses those nodes and the switches between them",
        )
    pairs, of = len(_pairs(timed)), len(_pairs(seen.meetings()))
    told = f"{pairs} pairs" if pairs == of else f"{pairs} pairs (no time for {of - pairs} more)"
    return passed(f"{told}, median {usual:.3g} us, {_by_kind(each for _, each in timed)}")


@gang_check(
    "gang-checksum",
    title="what one pod sends is what the other gets",
    known="NVIDIA/nccl#1950: wrong results of an all_reduce without an error",
    after="gang-forms gang-versions gang-link-layer",
    exit_code=FABRIC_FAULT,
)
def checksum(seen: Gathering) -> Finding:
    """Wrong data ends no job: it trains on, to a model that is worth nothing."""
    wrong = [
        f"{seen.name(rank)} got {each.num_wrong} of {each.num_checked} bytes wrong from "
        f"{seen.name(each.peer)}"
        for rank, each in seen.meetings()
        if each.num_wrong
    ]
    wrong += [
        f"{seen.name(row.rank)} gathered wrong bytes of {seen.name(rank)}"
        for row in seen.rows
        for rank in row.wrong_ranks
    ]
    if wrong:
        return failed(
            _listed(wrong), "take the node that is in all of these out of use: kubectl cordon NODE"
        )
    compared = sum(each.num_checked for _, each in seen.meetings())
    compared += sum(row.gathered for row in seen.rows) * seen.world
    if not compared:
        return skipped("no bytes were compared")
    return passed(f"{compared / 1e6:.3g} MB compared, none wrong")


@gang_check(
    "gang-bandwidth",
    title="no pod sends or receives at less than half of the usual rate",
    known="intelligent-machine-learning/dlrover#678: all_reduce hides which rank is slow",
    after="gang-forms gang-versions gang-link-layer",
    exit_code=FABRIC_FAULT,
)
def bandwidth(seen: Gathering) -> Finding:
    """All ranks wait for the slowest one: one cable at half speed makes the whole job as slow."""
    timed = [(rank, each) for rank, each in seen.meetings() if each.gbps is not None]
    if not timed:
        return skipped(UNSEEN)
    rates = [each.gbps for _, each in timed if each.gbps is not None]
    odd = _odd_rates(seen, timed)
    if odd:
        return warned(
            f"{_listed(odd)}: less than half of what is usual ({median(rates):.3g} Gbit/s)",
            "see that NIC's rate, width, error counters and PCIe slot: rdmatrain topo there",
        )
    return passed(
        f"{len(rates)} directions, {min(rates):.3g} to {max(rates):.3g} Gbit/s, "
        f"{_by_kind(each for _, each in timed)}"
    )


def _odd_rates(seen: Gathering, timed: Sequence[tuple[int, Meeting]]) -> list[str]:
    """Name pods whose row or column of the matrix is slow; of two pods neither is the odd one.

    Only ways between hosts count: those inside one say how busy its CPUs are.
    """
    if len(seen.pods) < 3:
        return []
    parts = [
        (rank, each.peer, (each.gbps or 0.0) / max(_usual(seen, each, "gbps"), 1e-12))
        for rank, each in _apart(seen, timed)
    ]
    ways: dict[tuple[int, str], list[float]] = {}
    for rank, peer, part in parts:
        ways.setdefault((rank, "sends"), []).append(part)
        ways.setdefault((peer, "receives"), []).append(part)
    usual = {way: median(each) for way, each in ways.items()}
    return [
        f"{pod} {does} at {100 * usual[pod.rank, does]:.0f} % of the median"
        for pod, does in product(seen.pods, ("sends", "receives"))
        if usual.get((pod.rank, does), 1.0) < SLOW_GBPS
    ]


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


def _set_of(values: Iterable[object]) -> str:
    return ", ".join(sorted({str(value) for value in values}))


def _listed(texts: Sequence[str], most: int = MAX_NAMED) -> str:
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def _host(name: str) -> str:
    """Return the host of what :class:`Pod` is called in texts."""
    return name.partition(" ")[0]


def _way(seen: Gathering, rank: int, each: Meeting) -> str:
    return f"{seen.name(rank)} to {seen.name(each.peer)}"


def _apart(seen: Gathering, meetings: Sequence[tuple[int, Meeting]]) -> list[tuple[int, Meeting]]:
    """Return the meetings of pods that cannot share memory."""
    return [
        (rank, each) for rank, each in meetings if seen.host_of(rank) != seen.host_of(each.peer)
    ]


def _group_error(seen: Gathering) -> str:
    """Return why the group did not form: the cause, which all were told, is what most say.

    Where a pair fails, it is the cause, and gang-ping says so.
    """
    if any(each.error for _, each in seen.meetings()):
        return ""
    errors = Counter(row.group_error for row in seen.rows if row.group_error)
    return errors.most_common(1)[0][0] if errors else ""


def _culprit(seen: Gathering, meetings: Sequence[tuple[int, Meeting]]) -> str:
    """Name the one pod that is in all of these, and in no others; empty if there is none."""
    if seen.world < 3:
        return ""
    common = frozenset.intersection(*_pairs(meetings))
    return seen.name(next(iter(common))) if len(common) == 1 else ""


def _pairs(meetings: Sequence[tuple[int, Meeting]]) -> set[frozenset[int]]:
    return {frozenset((rank, each.peer)) for rank, each in meetings}


def _pairs_of(seen: Gathering, meetings: Sequence[tuple[int, Meeting]]) -> str:
    pairs = dict.fromkeys(tuple(sorted((rank, each.peer))) for rank, each in meetings)
    return _listed([f"{seen.name(one)} and {seen.name(other)}" for one, other in pairs])


def _usual(seen: Gathering, like: Meeting, what: str) -> float:
    """Return the median of what was measured over that transport between hosts."""
    values = [
        getattr(each, what)
        for _, each in _apart(seen, seen.meetings())
        if each.transport == like.transport and getattr(each, what) is not None
    ]
    return float(median(values))


def _by_kind(meetings: Iterable[Meeting]) -> str:
    return " and ".join(sorted({f"over {each.transport}" for each in meetings}))
