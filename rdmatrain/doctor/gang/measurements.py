"""The checks of a gang that judge what was measured between its pods, and how the group formed."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product
from statistics import median

from rdmatrain.doctor.gang.define import gang_check
from rdmatrain.doctor.gang.model import Gathering, Meeting
from rdmatrain.doctor.gang.words import between_hosts, host_in, listed, set_of, way_of
from rdmatrain.doctor.model import Finding, failed, passed, skipped, warned
from rdmatrain.launcher.exit_codes import FABRIC_FAULT, NO_DEVICES

SLOW_PING, SLOW_GBPS = 5.0, 0.5
UNSEEN = "not measured"


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
    apart = between_hosts(seen, seen.meetings())
    if _transports(apart):
        return _judge_transports(seen, apart)
    here = set_of(_transports(seen.meetings()))
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
    fix = f"rdmatrain doctor on {host_in(who) if lacking else 'those pods'}: its first FAIL is why"
    return failed(f"TCP, not RDMA, joins {who} to other hosts: {listed(reasons)}", fix)


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
    errors = listed(list(dict.fromkeys(each.error for _, each in broken)), 2)
    who = _culprit(seen, broken)
    if who:
        fix = f"see the ports and the way of {host_in(who)}"
        return failed(f"every pair with {who} fails: {errors}", fix)
    return failed(f"{_pairs_of(seen, broken)} fails: {errors}", "see the way between those")


def _judge_pings(seen: Gathering, timed: Sequence[tuple[int, Meeting]]) -> Finding:
    slow = [
        f"{way_of(seen, rank, each)} {each.ping_us:.3g} us"
        for rank, each in between_hosts(seen, timed)
        if (each.ping_us or 0.0) > SLOW_PING * _usual(seen, each, "ping_us")
    ]
    usual = median(each.ping_us for _, each in timed if each.ping_us is not None)
    if slow:
        return warned(
            f"{listed(slow)}: more than {SLOW_PING:g} times the median of {usual:.3g} us",
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
            listed(wrong), "take the node that is in all of these out of use: kubectl cordon NODE"
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
            f"{listed(odd)}: less than half of what is usual ({median(rates):.3g} Gbit/s)",
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
        for rank, each in between_hosts(seen, timed)
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
    return listed([f"{seen.name(one)} and {seen.name(other)}" for one, other in pairs])


def _usual(seen: Gathering, like: Meeting, what: str) -> float:
    """Return the median of what was measured over that transport between hosts."""
    values = [
        getattr(each, what)
        for _, each in between_hosts(seen, seen.meetings())
        if each.transport == like.transport and getattr(each, what) is not None
    ]
    return float(median(values))


def _by_kind(meetings: Iterable[Meeting]) -> str:
    return " and ".join(sorted({f"over {each.transport}" for each in meetings}))
