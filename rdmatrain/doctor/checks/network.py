"""How the nodes find each other: names, addresses, the leader's port, the clock."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rdmatrain.discovery.interfaces import Interface
from rdmatrain.discovery.model import Netdev
from rdmatrain.discovery.network import read_routes
from rdmatrain.doctor.checks.host_names import judge_loopback_leader, judge_own_name
from rdmatrain.doctor.checks.reading import (
    can_be_reached,
    first_numbers,
    is_address,
    is_loopback,
    number,
    own_address,
    section,
    texts,
)
from rdmatrain.doctor.checks.unresolved import unresolved
from rdmatrain.doctor.define import check
from rdmatrain.doctor.facts import own_variables
from rdmatrain.doctor.meeting import Meeting, meeting, variables_of
from rdmatrain.doctor.model import (
    Case,
    Finding,
    UnansweredError,
    failed,
    gravest,
    passed,
    skipped,
    warned,
)
from rdmatrain.launcher.exit_codes import BAD_CONFIG, GANG_TIMEOUT

GROUP = "network"
NOT_ASKED = "nobody looked"
PORTS, RESERVED = (
    f"/proc/sys/net/ipv4/ip_local_{name}" for name in ("port_range", "reserved_ports")
)
# Fewer do not last for the connections of many ranks, which leave theirs in TIME_WAIT.
MIN_PORTS = 4096
# The smallest that IPv6 allows: below it, something is set wrong.
MIN_MTU = 1280
MAX_OFFSET_S = 1.0
_CLUSTERS = "the clock of the cluster"


@check(
    "loopback",
    GROUP,
    title="127.0.0.1 works, and localhost leads there",
    exit_code=BAD_CONFIG,
)
def loopback(case: Case) -> Finding:
    """Ranks of one pod find the job's store on 127.0.0.1, and their libraries ask for localhost.

    A container without either stops at its first connection.
    """
    facts, names = case.probe("loopback"), case.probe("names")
    if facts is None:
        return skipped(NOT_ASKED)
    if facts.get("error"):
        return failed(f"127.0.0.1: {facts['error']}", "ip link set lo up, in the pod's namespace")
    localhost = section(names, "localhost")
    addresses = texts(localhost, "addresses")
    if not localhost:
        return passed("127.0.0.1 answers; nobody asked for localhost")
    if not any(map(is_loopback, addresses)):
        what = f"leads to {', '.join(addresses)}" if addresses else str(localhost.get("problem"))
        return warned(f"localhost: {what}", "echo '127.0.0.1 localhost' >> /etc/hosts")
    return passed(f"127.0.0.1 answers, localhost is {', '.join(addresses)}")


@check(
    "addresses",
    GROUP,
    title="this pod has an address that peers can reach, and is told no other",
    known="pytorch#64926: stuck in rendezvous with several NICs",
    exit_code=BAD_CONFIG,
)
def addresses(case: Case) -> Finding:
    """Peers reach this pod by one address, of one interface.

    A variable with the address of another pod, or two interfaces in one subnet, lead them astray.
    """
    why_not = _meeting(case).why_not
    netdevs = case.found.machine.netdevs
    if not any(dev.addresses for dev in netdevs):
        return skipped("no address of any interface can be read")
    wrong = list(_foreign_addresses(case))
    if wrong or why_not:
        return gravest(wrong, why_not)
    interface = case.found.interface or Interface("", "nothing is known of a pod")
    chosen = next((dev for dev in netdevs if dev.name == interface.name), Netdev(interface.name))
    twins = _in_one_subnet(case, chosen)
    if twins:
        return warned(
            f"{twins} are in one subnet: answers may leave by the other one",
            '"ipam": {"type": "whereabouts", "range": "10.2.0.0/16"}, a subnet of its own, in the '
            "NetworkAttachmentDefinition of the additional network",
        )
    if not interface.name:
        return _no_interface(case, interface.reason)
    return _judge_interface(chosen, interface.reason)


def _no_interface(case: Case, reason: str) -> Finding:
    """Judge what has no default route: of a host, node 0 may be in the subnet of an interface."""
    evidence = f"no interface leads to other pods: {reason}"
    addresses = [
        each for dev in case.found.machine.netdevs for each in dev.addresses if can_be_reached(each)
    ]
    in_cluster = "KUBERNETES_SERVICE_HOST" in own_variables(case)
    if addresses and not in_cluster:
        fix = f"rdmatrain run --local-addr {addresses[0]}"
        others = (
            f", or {', '.join(addresses[1:])}: that of node 0's subnet" if addresses[1:] else ""
        )
        return warned(evidence, fix + others)
    return failed(evidence, "kubectl describe pod, and the CNI's events in it")


@check(
    "network-mtu",
    GROUP,
    title="the MTU of the interface to other pods is sane",
    after="addresses",
)
def network_mtu(case: Case) -> Finding:
    """Rendezvous and TCP go over this interface.

    With an MTU below that of IPv6, packets are cut up or lost, which looks like a hang.
    """
    interface = case.found.interface
    mtus = {dev.name: dev.mtu for dev in case.found.machine.netdevs}
    name = interface.name if interface else ""
    mtu = mtus.get(name, 0)
    if not mtu:
        return skipped(f"the MTU of {name} cannot be read" if name else "no interface was chosen")
    if mtu < MIN_MTU:
        fix = f"ip link set {name} mtu 1500, or the MTU of the cluster's CNI configuration"
        return warned(f"{name} has MTU {mtu}, less than {MIN_MTU}", fix)
    return passed(f"{name} has MTU {mtu}")


@check(
    "hostname",
    GROUP,
    title="this pod's own name leads to an address of this pod",
    known="pytorch#150532: a host name that only its own host resolves, and torchrun hangs; "
    "aws-do-eks#69: Gloo takes 127.0.0.1 from it and every rank advertises loopback",
    exit_code=BAD_CONFIG,
)
def hostname(case: Case) -> Finding:
    """Gloo, MPI and torchrun take their address from this pod's name.

    Where that is loopback, or another pod's, peers call the wrong host.
    """
    names, place = case.probe("names"), _meeting(case)
    own = section(names, "own_name")
    if names is None or not own:
        return skipped(NOT_ASKED)
    name, found = str(names.get("hostname", "")), texts(own, "addresses")
    why = place.why_not or ("all nodes are on this host" if place.one_host else "")
    if not why:
        return judge_own_name(case, name, own)
    if not found:
        return skipped(f"{name} has no address; {why}")
    return passed(f"{name} is {', '.join(found)}")


@check(
    "dns-leader",
    GROUP,
    title="the name of node 0 resolves, to an address that peers can reach",
    known="pytorch#73682: a DNS failure of the store is fatal; volcano#3753: the Service is made "
    "after the pods; pytorch#73380: rank 0 does not recognise its own name",
    exit_code=GANG_TIMEOUT,
)
def dns_leader(case: Case) -> Finding:
    """All nodes meet at node 0, under one name: until that resolves, no rank starts."""
    place, facts = _meeting(case), case.probe("leader")
    if place.why_not:
        return skipped(place.why_not)
    if facts is None or facts.get("name") != place.leader:
        return skipped(f"nobody has asked for {place.leader}")
    found = texts(facts, "addresses")
    if not found:
        return unresolved(case, place, facts)
    where = f"{place.leader} ({place.source}) is {', '.join(found)}"
    if all(map(is_loopback, found)) and not place.one_host:
        return judge_loopback_leader(place, f"{where}, which on each node is the node itself")
    if place.node_rank == 0 and not texts(facts, "own"):
        return warned(
            f"{where}, which is not this pod, and this is node 0 ({own_address(case)})",
            "kind: Service, spec: {clusterIP: None, publishNotReadyAddresses: true}",
        )
    return passed(where)


@check(
    "rendezvous-port",
    GROUP,
    title="the port where the nodes meet is free on node 0, and can be reached by others",
    known="pytorch#126510: address already in use with torchrun; TorchDR#249: a stale process "
    "holds 29500",
    after="dns-leader",
    exit_code=GANG_TIMEOUT,
)
def rendezvous_port(case: Case) -> Finding:
    """Node 0 listens on one port, and all others connect to it.

    A process that has it already, or a network policy between them, ends the job before it starts.
    """
    place, facts = _meeting(case), case.probe("leader")
    if place.problem:
        return skipped(place.why_not)
    if place.alone and not place.port:
        return skipped("the job has one node, which takes a free port")
    if facts is None or facts.get("port") != place.port or facts.get("name") != place.leader:
        return skipped(f"nobody has tried port {place.port}")
    if isinstance(facts.get("listen"), Mapping):
        return _judge_listener(place, facts["listen"])
    return _judge_dial(place, facts)


@check(
    "port-range",
    GROUP,
    title="there are enough ephemeral ports, and the port of node 0 is none of them",
    known="pytorch#126510: errno 98, address already in use, at random",
)
def port_range(case: Case) -> Finding:
    """Any connection gets a port of this range from the kernel.

    One day it is the one that node 0 wants to listen on, and then the job does not start.
    """
    low, high = first_numbers(case.source.text(PORTS) or "")
    if not 0 < low <= high <= 65535:
        return skipped(f"{PORTS} cannot be read")
    shown = f"ip_local_port_range is {low} to {high}"
    if high - low + 1 < MIN_PORTS:
        return warned(
            f"{shown}, {high - low + 1} ports",
            "securityContext: {sysctls: [{name: net.ipv4.ip_local_port_range, "
            'value: "32768 60999"}]}',
        )
    place = _meeting(case)
    listens = not place.problem and place.node_rank in {0, None} and place.port
    if listens and low <= place.port <= high and place.port not in _reserved(case):
        free = 29500 if not low <= 29500 <= high else low - 1
        return warned(f"{shown}, and port {place.port} of node 0 is in it", f"--master-port {free}")
    return passed(shown)


@check(
    "clock",
    GROUP,
    title="the clock is kept right, and agrees with the cluster's",
)
def clock(case: Case) -> Finding:
    """Clocks that differ make torchrun's rendezvous take a node for dead, and train without it.

    Each node is compared with the API server of its cluster; --gang compares it with node 0.
    rdmatrain compares no clocks, but who reads its logs does, and so do certificates.
    """
    facts, known = case.probe("clock"), dict(_other_clocks(case))
    if facts is None:
        return skipped(NOT_ASKED)
    wrong = [
        _off(whose, seconds) for whose, seconds in known.items() if abs(seconds) > MAX_OFFSET_S
    ]
    why_not = _meeting(case).why_not
    if wrong or why_not:
        return gravest(wrong, why_not)
    return _judge_kernel_clock(
        facts, f"{_CLUSTERS} agrees to a second" if _CLUSTERS in known else ""
    )


def _other_clocks(case: Case) -> Iterator[tuple[str, float]]:
    """Yield whose clock was seen, and how far it is ahead of this one."""
    clocks = {"cluster": _CLUSTERS, "checkpoint": "the clock of the file server of {path}"}
    for name, whose in clocks.items():
        try:
            facts = case.probe(name) or {}
        except UnansweredError:  # which checkpoint-dir tells
            continue
        if isinstance(facts.get("ahead_s"), int | float):
            yield whose.format(path=facts.get("path")), number(facts, "ahead_s")


def _off(whose: str, seconds: float) -> Finding:
    shown = f"{whose} is {abs(seconds):.3f} s {'ahead' if seconds > 0 else 'behind'}"
    return warned(shown, "chronyc makestep, on the node whose clock is wrong")


def _judge_kernel_clock(facts: Mapping[str, Any], agrees: str) -> Finding:
    if facts.get("error") or "synchronized" not in facts:
        return passed(agrees) if agrees else skipped(str(facts.get("error") or NOT_ASKED))
    if not facts["synchronized"]:
        return warned(
            "nothing keeps this node's clock right (adjtimex: STA_UNSYNC)",
            "systemctl enable --now chronyd, on the node",
        )
    error_s = number(facts, "max_error_s")
    if error_s > MAX_OFFSET_S:
        return warned(f"the clock may be {error_s:.1f} s off", "chronyc makestep, on the node")
    others = agrees or "the cluster's was not asked"
    return passed(f"the clock is kept right to {error_s:.3f} s; {others}")


def _meeting(case: Case) -> Meeting:
    return meeting(case.found.pod, case.found.identity, case.needs)


def _judge_interface(chosen: Netdev, reason: str) -> Finding:
    reachable = [each for each in chosen.addresses if can_be_reached(each)]
    shown = ", ".join(chosen.addresses) or "no address"
    if not reachable:
        fix = "ip address; ip route: the interface with the default route needs an address"
        return failed(f"{chosen.name} ({reason}) has {shown}", fix)
    if chosen.state == "down":
        return failed(f"{chosen.name} ({reason}) is down", f"ip link set {chosen.name} up")
    return passed(f"{chosen.name} has {shown} ({reason})")


def _foreign_addresses(case: Case) -> Iterator[Finding]:
    """Find variables that name an address which is not this pod's."""
    own = {address for dev in case.found.machine.netdevs for address in dev.addresses}
    environ = variables_of(case.found.pod)
    for name in ("RDMATRAIN_ADDR", "PET_LOCAL_ADDR"):
        value = environ.get(name, "").strip()
        if is_address(value) and value not in own and not is_loopback(value):
            yield failed(
                f"{name}={value} is no address of this pod ({own_address(case)})", f"unset {name}"
            )


def _in_one_subnet(case: Case, chosen: Netdev) -> str:
    """Name interfaces that share a subnet, the chosen one among them.

    Files do not tell which of them has which address, so then the chosen one may seem to have none.
    """
    shared = [sorted(names) for names in _members_of_subnets(case) if len(names) > 1]
    found = [names for names in shared if chosen.name in names or not chosen.addresses]
    return " and ".join(found[0]) if found else ""


def _members_of_subnets(case: Case) -> Iterable[set[str]]:
    members: dict[object, set[str]] = {}
    for route in read_routes(case.source):
        if route.connected and route.network.prefixlen and route.netdev != "lo":
            members.setdefault(route.network, set()).add(route.netdev)
    return members.values()


def _judge_listener(place: Meeting, facts: Mapping[str, Any]) -> Finding:
    problem, has_it = str(facts.get("problem", "")), str(facts.get("holder", ""))
    if problem:
        who = f" ({has_it})" if has_it else ""
        pid = re.match(r"process (\d+):", has_it)
        another = f"--master-port {place.port % 65535 + 1}, on all nodes"
        fix = f"kill {pid[1]}, or {another}" if pid else another
        return failed(f"{problem}{who}", fix)
    where = facts.get("address") or ", ".join(texts(facts, "elsewhere"))
    return passed(f"{where}, port {place.port} is free")


def _judge_dial(place: Meeting, facts: Mapping[str, Any]) -> Finding:
    outcomes = facts.get("dial")
    if not isinstance(outcomes, Mapping) or not outcomes:
        return skipped(f"nobody has tried port {place.port}")
    shown = ", ".join(f"{address}: {name or 'connected'}" for address, name in outcomes.items())
    where = f"{place.leader}, port {place.port}"
    if "" in outcomes.values():
        if facts.get("hello") == "another program":
            return warned(
                f"{where}: another program than rdmatrain answers there ({shown})",
                f"--master-port {place.port % 65535 + 1}, on all nodes",
            )
        return passed(f"{where} answers")
    if "ECONNREFUSED" in outcomes.values():
        return skipped(f"{where}: node 0 is there, and nobody listens yet ({shown})")
    return warned(
        f"{where}: no way there, or node 0 is not up yet ({shown})",
        "kind: NetworkPolicy, spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}; "
        "or wait for node 0",
    )


def _reserved(case: Case) -> set[int]:
    """Return the ports that the kernel gives to nobody who does not ask for them."""
    found: set[int] = set()
    for part in (case.source.text(RESERVED) or "").strip().split(","):
        low, high = first_numbers(part.replace("-", " "))
        found.update(range(low, (high or low) + 1) if 0 < low <= 65535 >= high else ())
    return found
