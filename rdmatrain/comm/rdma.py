"""Which RDMA ports this rank uses, and with which GIDs: chosen by test, with reasons in words.

A GID that looks right may belong to another network namespace, so each candidate is proven by an
address handle. The order is RoCE v2 over IPv4, over global IPv6, over unique-local IPv6, and
link-local last; RoCE v1, which no router forwards, only where the user asks for it. A port of
InfiniBand has its LID, and its first GID.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rdmatrain import _core
from rdmatrain.config import Settings
from rdmatrain.discovery.model import Gid, Port
from rdmatrain.discovery.ports import (
    DEVICES,
    INFINIBAND,
    ROCE_V1,
    ROCE_V2,
    preference,
    read_ports,
)
from rdmatrain.discovery.probes import GidTester, Verbs
from rdmatrain.discovery.source import Source, Tree
from rdmatrain.errors import BootstrapError, CommError

logger = logging.getLogger(__name__)

# As transport/verbs.h has it: ports of a rank, and entries to try for each.
MAX_RAILS = 4
MAX_GIDS = 8
# Of a reason, which travels to all ranks: a GID table may have hundreds of entries.
MAX_REASON = 1000


@dataclass(frozen=True)
class Rail:
    """A port that this rank may send through, and how.

    Attributes:
        port: which one.
        gids: entries of its GID table that address it, the best first; the others are for when
            the way from there to a peer cannot be found.
        mtu: its active MTU in bytes, or less where the user limits it.
        gbps: its speed in Gbit/s.

    """

    port: Port
    gids: tuple[Gid, ...]
    mtu: int
    gbps: float

    @property
    def gid(self) -> Gid:
        """The one that is tried first."""
        return self.gids[0]

    def __str__(self) -> str:
        return rail_text(str(self.port), self.gid, self.mtu)


def rail_text(port: str, gid: Gid, mtu: int) -> str:
    """Return the words for a port and the way it is used."""
    return f"{port} gid {gid.index} {gid.kind} {gid.address} MTU {mtu}"


@dataclass(frozen=True)
class Search:
    """What was found.

    Attributes:
        rails: usable ports, by name; all of one link layer.
        why_not: why there are none; empty when there are.
        present: there are RDMA devices, usable or not.

    """

    rails: tuple[Rail, ...]
    why_not: str
    present: bool


def find_rails(settings: Settings, verbs: Verbs = _core, source: Source | None = None) -> Search:
    """Find the usable ports of this machine.

    Args:
        settings: which devices and GIDs the user wants.
        verbs: opens devices and tests GIDs.
        source: where sysfs is read; None for this machine.

    Raises:
        BootstrapError: what the user named is not here, or cannot be used.

    """
    ports = read_ports(source or Tree())
    _require_named(settings, ports)
    if not ports:
        return Search((), f"there is no RDMA device in {DEVICES}", present=False)
    try:
        opened = {(each["device"], int(each["port"])): each for each in verbs.rdma_ports()}
    except CommError as error:
        if settings.device_list.demands:
            raise BootstrapError(f"{_demand(settings)} cannot be used: {error}") from error
        return Search((), str(error), present=True)
    rails, rejected = _try_ports(settings, ports, opened, _Tester(settings, verbs))
    if not settings.device_list.demands:
        rails = _of_one_link_layer(rails, rejected)
    for line in rejected:
        logger.debug("not used: %s", line)
    why_not = "" if rails else _shortened("; ".join(rejected))
    return Search(tuple(rails), why_not, present=True)


def rails_of(
    rails: Sequence[Rail], local_rank: int, local_ranks: int, own: bool = False
) -> tuple[Rail, ...]:
    """Deal the ports out to the ranks of this host: at least one to each, at most MAX_RAILS.

    Args:
        rails: those of the host; those of this rank if they are its ``own``.
        local_rank: 0 for the first rank of the host.
        local_ranks: how many there are.
        own: somebody has dealt already.

    """
    if own:
        return tuple(rails[:MAX_RAILS])
    if len(rails) <= local_rank:
        return (rails[local_rank % len(rails)],) if rails else ()
    return tuple(rails[local_rank::local_ranks][:MAX_RAILS])


def limited(rails: Sequence[Rail], settings: Settings) -> tuple[Rail, ...]:
    """Return the ports with no larger MTU than the user wants."""
    if not settings.mtu:
        return tuple(rails)
    return tuple(replace(rail, mtu=min(rail.mtu, int(settings.mtu))) for rail in rails)


def listen_argument(rails: Sequence[Rail], address: str, settings: Settings) -> str:
    """Return what the verbs transport is opened with.

    Args:
        rails: at least one.
        address: numeric address that its handshake listens on.
        settings: how packets are marked.

    """
    parts = {
        "rails": "+".join(
            f"{rail.port}/{','.join(str(gid.index) for gid in rail.gids)}" for rail in rails
        ),
        "addr": address,
        "tc": settings.traffic_class,
        "sl": settings.service_level,
        "pkey": settings.pkey,
        "mtu": settings.mtu,
        "retry": settings.retry_ms,
    }
    return " ".join(f"{key}={value}" for key, value in parts.items() if value)


class _Tester:
    """Says why a GID cannot be used: because of its type, or because a test says so."""

    def __init__(self, settings: Settings, verbs: Verbs) -> None:
        self.forced = int(settings.gid_index) if settings.gid_index else None
        self._gids = GidTester(verbs)

    def why_not(self, port: Port, gid: Gid) -> str:
        """Return the reason, or an empty string when the GID works here."""
        if gid.index != self.forced:
            if gid.kind == ROCE_V1:
                return "RoCE v1 is used only where RDMATRAIN_GID_INDEX asks for it"
            if gid.kind not in {ROCE_V2, INFINIBAND}:
                return "its type cannot be read: of another network namespace"
        return self._gids.why_not(port, gid)


def _demand(settings: Settings) -> str:
    return f"{settings.name_of('devices')}={settings.devices}"


def _require_named(settings: Settings, ports: Sequence[Port]) -> None:
    if not settings.device_list.demands:
        return
    for device, number in settings.device_list.names:
        if not any(port.device == device and number in {None, port.number} for port in ports):
            here = ", ".join(map(str, ports)) or "none"
            missing = device if number is None else f"port {number} of {device}"
            raise BootstrapError(
                f"{_demand(settings)}, but there is no {missing} here: the ports are {here}"
            )


def _try_ports(
    settings: Settings,
    ports: Sequence[Port],
    opened: Mapping[tuple[str, int], dict[str, Any]],
    tester: _Tester,
) -> tuple[list[Rail], list[str]]:
    """Return the usable ports, and why each other one is not."""
    rails: list[Rail] = []
    rejected: list[str] = []
    for port in ports:
        # A device that cannot be opened is listed once, without its ports.
        facts = opened.get((port.device, port.number)) or opened.get((port.device, 0))
        outcome = _try_port(settings, port, facts, tester)
        if isinstance(outcome, Rail):
            rails.append(outcome)
        else:
            rejected.append(f"{port}: {outcome}")
    return rails, rejected


def _try_port(
    settings: Settings, port: Port, facts: dict[str, Any] | None, tester: _Tester
) -> Rail | str:
    """Return the port as a rail, or why it cannot be one; raise that where the user named it.

    Args:
        settings: what the user wants.
        port: as sysfs shows it.
        facts: what libibverbs says of it, if it knows it.
        tester: tests its GIDs.

    """
    if not settings.device_list.allows(port.device, port.number):
        return f"excluded by {_demand(settings)}"
    if facts is None:
        reason = "libibverbs does not list it: is its /dev/infiniband/uverbsN in this container?"
    elif facts["error"]:
        reason = str(facts["error"])
    elif facts["state"] != "ACTIVE":
        reason = f"the port is {facts['state']}"
    else:
        gids, reason = _choose_gids(settings, port, tester)
        if gids:
            return Rail(port, gids, int(facts["active_mtu"]), float(facts["speed_gbps"]))
    if settings.device_list.demands:
        raise BootstrapError(f"{_demand(settings)}, but {port} cannot be used: {reason}")
    return reason


def _choose_gids(settings: Settings, port: Port, tester: _Tester) -> tuple[tuple[Gid, ...], str]:
    """Return the entries that work, the best first; or none, and why."""
    if tester.forced is not None:
        return (_forced_gid(settings, port, tester),), ""
    if port.link_layer == INFINIBAND:
        candidates = port.gids[:1] or (Gid(0, "::", INFINIBAND),)
    else:
        candidates = tuple(sorted(port.gids, key=lambda gid: (preference(gid), gid.index)))
    working, reasons = [], []
    for gid in candidates:
        why_not = tester.why_not(port, gid)
        if why_not:
            reasons.append(f"{gid}: {why_not}")
        else:
            working.append(gid)
        if len(working) == MAX_GIDS:
            break
    return tuple(working), "no usable GID: " + ("; ".join(reasons) or "the table is empty")


def _forced_gid(settings: Settings, port: Port, tester: _Tester) -> Gid:
    """Return the entry that the user chose.

    Raises:
        BootstrapError: it does not work; shows the table.

    """
    chosen = next((gid for gid in port.gids if gid.index == tester.forced), None)
    if chosen is not None and not tester.why_not(port, chosen):
        return chosen
    table = "; ".join(f"{gid}: {tester.why_not(port, gid) or 'usable'}" for gid in port.gids)
    missing = "" if chosen else " has no such entry or it is zero, and"
    raise BootstrapError(
        f"{settings.name_of('gid_index')}={settings.gid_index}, which{missing} does not work on "
        f"{port}: {_shortened(table) or 'its GID table is empty'}"
    )


def _of_one_link_layer(rails: list[Rail], rejected: list[str]) -> list[Rail]:
    """Keep the ports of the link layer with most speed in all: the two cannot reach each other."""
    speed: Counter[str] = Counter()
    for rail in rails:
        speed[rail.port.link_layer] += round(rail.gbps)
    if len(speed) < 2:
        return rails
    kept = max(sorted(speed), key=lambda name: speed[name])
    for rail in rails:
        if rail.port.link_layer != kept:
            rejected.append(f"{rail.port}: its link layer is not {kept}, as most ports' is")
    return [rail for rail in rails if rail.port.link_layer == kept]


def _shortened(reason: str) -> str:
    return reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 4] + " ..."
