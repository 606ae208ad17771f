"""Ports: whether those of the NICs in use have a link, a GID and an MTU that carry the job."""

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence

from rdmatrain.discovery.gid_index import port_of
from rdmatrain.discovery.model import Gid, Netdev, Nic, Port
from rdmatrain.discovery.pod_model import GrantedNic
from rdmatrain.discovery.ports import INFINIBAND, preference
from rdmatrain.discovery.sysfs import attribute
from rdmatrain.discovery.verdicts import NOT_TESTED
from rdmatrain.doctor.checks.counters import judge_errors, see_link
from rdmatrain.doctor.checks.mtu import active_mtu, judge_mtu, netdev_of
from rdmatrain.doctor.checks.partitions import PARTITIONS, judge_pkey
from rdmatrain.doctor.checks.rdma_case import (
    complaints,
    facts_of,
    folder,
    graded,
    listed,
    refused,
    unneeded,
    used,
    used_ports,
)
from rdmatrain.doctor.define import check
from rdmatrain.doctor.facts import said
from rdmatrain.doctor.job import is_kubernetes, nic_claims
from rdmatrain.doctor.model import Case, Finding, failed, gravest, passed, skipped, warned

GROUP = "ports"
FABRIC_FAULT = 202

NO_PORT = "no NIC that is used has a port that is known"
LINK_LOCAL = 3  # of preference()


@check(
    "port-state",
    GROUP,
    title="the port of each NIC has a link",
    known="ROCm/rccl#1423: a port that goes up and down",
    after="libibverbs device-missing uverbs-nodes device-opens",
    exit_code=FABRIC_FAULT,
)
def port_state(case: Case) -> Finding:
    """Nothing gets through a port without a link: its NIC is left out, or the job waits for it."""
    nothing = unneeded(case)
    if nothing:
        return nothing
    down = refused(case, "nic-port-down")
    if down:
        found = (
            graded(case, f"{each.evidence}{_physical(case, each.nic)}", _up(case, each.nic))
            for each in down
        )
        return gravest(found, "")
    states = [
        (port, str(facts_of(case, port).get("state") or port.state)) for _, port in used_ports(case)
    ]
    known = [f"{port} is {state}" for port, state in states if state]
    return passed(listed(known)) if known else skipped(NO_PORT)


@check(
    "link-layer",
    GROUP,
    title="the NICs of all ranks are of one fabric",
    known="NVIDIA/nccl#302: InfiniBand HCAs beside one of Ethernet",
    exit_code=78,
)
def link_layer(case: Case) -> Finding:
    """InfiniBand and Ethernet do not reach each other: such ranks are joined by TCP."""
    nothing = unneeded(case)
    if nothing:
        return nothing
    layers: dict[str, list[str]] = {}
    for _, port in used_ports(case):
        layers.setdefault(port.link_layer, []).append(str(port))
    layers.pop("", None)
    most = max(layers.values(), key=len, default=[])
    names = ",".join(dict.fromkeys(port.partition("/")[0] for port in most))
    pinned = f"export NCCL_IB_HCA=={names} RDMATRAIN_DEVICES={names}"
    mixed = complaints(case, "fabrics-differ")
    shown = "; ".join(f"{layer}: {listed(ports)}" for layer, ports in sorted(layers.items()))
    if mixed:
        return gravest((failed(f"{said(each)} ({shown})", pinned) for each in mixed), "")
    # Of ranks without GPUs there is no pair, which the complaint is of.
    if len(layers) > 1:
        return failed(shown, pinned)
    return passed(shown) if layers else skipped(NO_PORT)


@check("port-rate", GROUP, title="no port is slower than it can be, or than its siblings")
def port_rate(case: Case) -> Finding:
    """Ranks wait for the slowest link: a cable with a bad lane slows all of them."""
    nothing = unneeded(case)
    if nothing:
        return nothing
    ports = [port_of(each) for each in _used_or_granted(case) if each.port]
    rates = [(port, attribute(case.source, f"{folder(port)}/rate")) for port in ports if port.gbps]
    found = _slow_ports(rates)
    if found:
        return gravest(found, "")
    return gravest((passed(f"{port} has {rate}") for port, rate in rates), NO_PORT)


@check(
    "gid-usable",
    GROUP,
    title="each port has a GID that works in this network namespace",
    known="NVIDIA/nccl#551, NVIDIA/nccl#1573: GIDs of other namespaces, which read as zero",
    after="libibverbs device-missing uverbs-nodes device-opens port-state",
    exit_code=FABRIC_FAULT,
)
def gid_usable(case: Case) -> Finding:
    """RoCE sends from a GID, which is an address of an interface; without one nothing is sent.

    It is tested by making an address handle, as each connection of the job does.
    """
    nothing = unneeded(case)
    if nothing:
        return nothing
    without = refused(case, "nic-without-gid")
    if without:
        found = (graded(case, each.evidence, _address(case, each.nic)) for each in without)
        return gravest(found, "")
    return gravest((_tested(case, each) for each in used(case)), NO_PORT)


@check(
    "gid-routable",
    GROUP,
    title="the GID of each port is no link-local address",
    known="NVIDIA/nccl#769, uccl-project/uccl#803: retry exceeded from a link-local GID",
    after="gid-usable",
    exit_code=FABRIC_FAULT,
)
def gid_routable(case: Case) -> Finding:
    """Link-local addresses end at the first router: pods of other racks cannot be reached."""

    def judge(each: GrantedNic, gid: Gid) -> Finding:
        text = f"{port_of(each)}: {gid}"
        if preference(gid) < LINK_LOCAL:
            return passed(text)
        return warned(f"{text} is the best that it has", _address(case, each.nic))

    return _of_gids(case, judge)


@check(
    "gid-version",
    GROUP,
    title="each port has a GID of RoCE v2",
    known="NVIDIA/nccl#426: error 12 until a GID of RoCE v2 was chosen",
    after="gid-usable",
    exit_code=FABRIC_FAULT,
)
def gid_version(case: Case) -> Finding:
    """Packets of RoCE v1 have no IP header, so that no router forwards them."""
    nothing = unneeded(case)
    if nothing:
        return nothing
    old = complaints(case, "roce-v1-only")
    if old:
        return gravest((warned(said(each), _with_v2(case, each.source)) for each in old), "")

    def judge(each: GrantedNic, gid: Gid) -> Finding:
        if not gid.kind:
            return skipped(f"{port_of(each)}: the type of gid {gid.index} cannot be read")
        return passed(f"{port_of(each)}: {gid}")

    return _of_gids(case, judge)


@check(
    "gid-address",
    GROUP,
    title="the GID of each port is an address of an interface of this pod",
    known="NVIDIA/nccl#2157: GIDs change their place when a port comes back",
    after="gid-usable gid-routable",
    exit_code=FABRIC_FAULT,
)
def gid_address(case: Case) -> Finding:
    """Peers find the way back by the address: one that no interface has gets no answer."""
    netdevs = case.found.machine.netdevs

    def judge(each: GrantedNic, gid: Gid) -> Finding:
        text = f"{port_of(each)}: gid {gid.index} {gid.address}"
        owners = [netdev.name for netdev in netdevs if _has(netdev, gid.address)]
        if owners:
            return passed(f"{text} is of {listed(owners)}")
        home = netdev_of(case, each, gid)
        if home is None or not _comparable(home, gid.address):
            return skipped(f"{text}: no addresses of its interface are known")
        told = f"{text} is of no interface: {home.name} has {listed(home.addresses)}"
        return warned(told, f"ip addr add {gid.address}/24 dev {home.name}, or start the pod anew")

    return _of_gids(case, judge)


@check(
    "mtu",
    GROUP,
    title="the MTU of each port is 4096, and the interface carries it",
    known="kvcache-ai/Mooncake#3868, tensorflow/tensorflow#9667: 1500 of Ethernet are 1024 of RoCE",
    after="port-state",
    exit_code=FABRIC_FAULT,
)
def mtu(case: Case) -> Finding:
    """RoCE's MTU is the power of two below the interface's: 1500 makes it 1024, 4200 makes it 4096.

    Small packets cost bandwidth, and peers of different MTUs fail in libraries that do not agree
    on one.
    """
    nothing = unneeded(case)
    if nothing:
        return nothing
    known = {port: value for _, port in used_ports(case) if (value := active_mtu(case, port))}
    findings = [judge_mtu(case, each, known.get(port, 0)) for each, port in used_ports(case)]
    result = gravest(findings, NO_PORT)
    if len(set(known.values())) > 1 and not result.fix:
        shown = listed(f"{port} has {value}" for port, value in known.items())
        return warned(
            f"active_mtu differs: {shown}", f"sed -i 's/^Default=0x7fff/&, mtu=5/' {PARTITIONS}"
        )
    return result


@check(
    "pkey",
    GROUP,
    title="each port has the partition key that its queue pairs use",
    known="NVIDIA/nccl#1323, NVIDIA/nvshmem#82: a key that is not at index 0",
    after="port-state",
    exit_code=FABRIC_FAULT,
)
def pkey(case: Case) -> Finding:
    """InfiniBand drops packets of other partitions, and those between two limited members."""
    nothing = unneeded(case)
    if nothing:
        return nothing
    ports = [port for _, port in used_ports(case) if port.link_layer == INFINIBAND]
    text = "" if case.found.pod is None else _variable(case, "RDMATRAIN_PKEY")
    index = int(text) if re.fullmatch("[0-9]{1,5}", text) else 0
    return gravest((judge_pkey(case, port, index) for port in ports), "only InfiniBand has keys")


@check(
    "port-errors",
    GROUP,
    title="the counters of each port tell of no lost packets and no flapping link",
    known="NVIDIA/nccl#905: a flapping link; bytedance/byteps#179: RDMA slower than TCP",
)
def port_errors(case: Case) -> Finding:
    """Lost packets are sent again with all that followed: RoCE gets slower than TCP by that."""
    nothing = unneeded(case)
    if nothing:
        return nothing
    return gravest((judge_errors(case, port) for _, port in used_ports(case)), NO_PORT)


def _used_or_granted(case: Case) -> list[GrantedNic]:
    """Return the NICs that ranks use, and those that they do not use though they were granted.

    One that is much slower is left out by the pairing, and is no less the pod's own.
    """
    own = {each.nic.name for each in used(case)}
    granted = {each.evidence for each in nic_claims(case)}
    return [
        each
        for each in case.found.allocation.nics
        if each.nic.name in own or granted.intersection(each.evidence)
    ]


def _slow_ports(rates: Sequence[tuple[Port, str]]) -> list[Finding]:
    """Judge the ports that are slower than their siblings, or than their cable can be."""
    best = max((port.gbps for port, _ in rates), default=0.0)
    found = [
        warned(f"{port} has {rate}; its siblings have {best:g} Gb/sec", see_link(port.device))
        for port, rate in rates
        if port.gbps < best
    ]
    found += [
        warned(
            f"{port} has {rate}: a lane or the speed of its cable is lost", see_link(port.device)
        )
        for port, rate in rates
        if port.link_layer == INFINIBAND and re.search(r"\(1X |SDR\)", rate)
    ]
    return found


def _physical(case: Case, nic: Nic) -> str:
    """Return what tells a cable from a setting: the physical state, and that of the interface."""
    facts = []
    for port in nic.ports:
        state = attribute(case.source, f"{folder(port)}/phys_state").partition(":")[2].strip()
        facts += [f"{port} is physically {state}"] if state else []
    down = [f"{each.name} is {each.state}" for each in _netdevs(case, nic) if each.state == "down"]
    return "".join(f"; {fact}" for fact in [*facts, *down])


def _up(case: Case, nic: Nic) -> str:
    """Return what may bring a port up."""
    down = [each.name for each in _netdevs(case, nic) if each.state == "down"]
    ports = {(port.link_layer, port.state) for port in nic.ports}
    if (INFINIBAND, "INIT") in ports:
        return "systemctl start opensm, on the host that manages the subnet"
    if down:
        return f"ip link set dev {down[0]} up"
    if nic.is_vf:
        return "ip link set dev PF vf N state auto, on the host; else see to cable and switch"
    return f"{see_link(nic.name)}, and the port of its switch; until then kubectl cordon NODE"


def _netdevs(case: Case, nic: Nic) -> list[Netdev]:
    return [each for each in case.found.machine.netdevs if each.name in nic.netdevs]


def _address(case: Case, nic: Nic) -> str:
    """Return how the interface of a NIC gets an address that can be routed."""
    here = _netdevs(case, nic)
    if here and is_kubernetes(case):
        ipam = '"ipam": {"type": "whereabouts", "range": "10.1.0.0/16"}'
        return f"{ipam}, in the NetworkAttachmentDefinition of {here[0].name}"
    if here:
        return f"ip addr add 10.1.0.N/16 dev {here[0].name}"
    return 'metadata: {annotations: {k8s.v1.cni.cncf.io/networks: "the network of its VF"}}'


def _with_v2(case: Case, device: str) -> str:
    """Return how a NIC gets GIDs of RoCE v2: the kernel adds them where the firmware can do it.

    cma_roce_mode, which is found with such questions, chooses among those that are there.
    """
    nics = (nic for nic in case.found.machine.nics if nic.name == device)
    function = next((nic.pf or nic.pci for nic in nics), "") or "PCI-ADDRESS"
    return f"devlink dev flash pci/{function} file FIRMWARE, on the host: one that has RoCE v2"


def _tested(case: Case, each: GrantedNic) -> Finding:
    """Say whether the GID of a NIC was seen to work."""
    port = port_of(each)
    if port.link_layer == INFINIBAND or each.nic.efa:
        kind = "EFA" if each.nic.efa else INFINIBAND
        return skipped(f"{port} is of {kind}, which needs no GID of RoCE")
    gids = facts_of(case, port).get("gids")
    known = gids.get(str(each.gid.index)) if isinstance(gids, Mapping) and each.gid else None
    if known == "":
        return passed(f"{port}: {each.gid} works")
    why = known if str(known).startswith(NOT_TESTED) else "libibverbs was not asked"
    return skipped(f"{port}: {each.gid or 'no GID is known'}: {why}")


def _of_gids(case: Case, judge: Callable[[GrantedNic, Gid], Finding]) -> Finding:
    """Judge the GIDs that ranks use."""
    nothing = unneeded(case)
    if nothing:
        return nothing
    nics = [(each, each.gid) for each in used(case)]
    found = [judge(each, gid) for each, gid in nics if gid and gid.kind != INFINIBAND]
    return gravest(found, "no NIC that is used has a GID of RoCE")


def _has(netdev: Netdev, address: str) -> bool:
    return _parse(address) is not None and _parse(address) in map(_parse, netdev.addresses)


def _comparable(netdev: Netdev, address: str) -> bool:
    """Tell whether addresses of that family are known of an interface."""
    wanted = _parse(address)
    known = filter(None, map(_parse, netdev.addresses))
    return wanted is not None and any(each.version == wanted.version for each in known)


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _variable(case: Case, name: str) -> str:
    variables = case.found.pod.variables if case.found.pod else ()
    return next((each.value.strip() for each in variables if each.name == name), "")
