"""What joins each pair of ranks, and why: a function of what both said, so that both agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rdmatrain.comm.rdma import Rail
from rdmatrain.config import Settings
from rdmatrain.errors import BootstrapError

_ORDER = ("shm", "verbs", "tcp")  # of log lines
ASSUMED_GBPS = 100.0  # of a host whose ports do not say how fast they are


@dataclass(frozen=True)
class Offer:
    """What a rank says of its RDMA ports to the others.

    Attributes:
        ports: those that it uses, with the Gbit/s of each; none when it cannot use RDMA.
        link_layer: of these ports.
        why_not: why it cannot use RDMA; empty when it can.
        present: it has RDMA devices, usable or not.

    """

    ports: Mapping[str, float]
    link_layer: str
    why_not: str
    present: bool


@dataclass(frozen=True)
class Member:
    """A rank of the group; no offer when none was asked for."""

    rank: int
    host_id: str
    label: str
    offer: Offer | None = None

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.label})"


@dataclass(frozen=True)
class Pair:
    """How two ranks are joined.

    Attributes:
        transport: ``shm``, ``verbs``, ``tcp``, or ``self`` for a rank and itself.
        why: for people.
        num_rails: over how many ports each, when it is verbs.
        fell_back: one of them has RDMA devices, yet it is tcp.

    """

    transport: str
    why: str
    num_rails: int = 0
    fell_back: bool = False


def needs_offers(settings: Settings, members: Sequence[Member]) -> bool:
    """Tell whether any pair may be joined by verbs, so that it is worth to look for devices."""
    if settings.transport != "auto":
        return settings.transport == "verbs" and len(members) > 1
    hosts = {member.host_id for member in members}
    return settings.require in {"", "verbs"} and len(hosts) > 1


def choose_pair(settings: Settings, one: Member, other: Member) -> Pair:
    """Choose how two ranks are joined: the same, whichever of them asks.

    Inside a host it is shm. Between hosts it is verbs where both have usable ports, else tcp; or
    what is required. A transport that is set is used for every pair.

    Raises:
        BootstrapError: the two cannot be joined as the settings demand; says which rank and why.

    """
    if one.rank == other.rank:
        return Pair("self", "")
    first, second = sorted((one, other), key=lambda member: member.rank)
    same_host = one.host_id == other.host_id
    if settings.transport == "auto" and same_host:
        return Pair("shm", "same host")
    field = "transport" if settings.transport != "auto" else "require"
    wanted = str(getattr(settings, field))
    demand = f"{settings.name_of(field)}={wanted}"
    if wanted == "shm" and not same_host:
        raise BootstrapError(
            f"{demand}, but {first} and {second} share no host or network namespace: leave it out "
            "for what can join them"
        )
    if wanted in {"shm", "tcp"}:
        return Pair(wanted, demand)
    return _by_offers(first, second, demand if wanted else "")


def _by_offers(first: Member, second: Member, demand: str) -> Pair:
    offers = [member.offer for member in (first, second) if member.offer is not None]
    trouble = _trouble(first, second)
    if not trouble:
        return Pair("verbs", demand or "both can use RDMA", min(len(o.ports) for o in offers))
    if demand:
        raise BootstrapError(f"{demand}, but it cannot join {first} and {second}: {trouble}")
    return Pair("tcp", trouble, fell_back=any(offer.present for offer in offers))


def _trouble(first: Member, second: Member) -> str:
    """Say why verbs cannot join the two; empty when it can."""
    reasons = {member.rank: _why_not(member) for member in (first, second)}
    if reasons[first.rank] and reasons[first.rank] == reasons[second.rank]:
        # Without the ranks' numbers: in a log line such pairs are one.
        return f"neither can use RDMA: {reasons[first.rank]}"
    texts = [f"rank {rank} cannot use RDMA: {reason}" for rank, reason in reasons.items() if reason]
    return "; ".join(texts) or _mixed(first, second)


def _why_not(member: Member) -> str:
    return member.offer.why_not if member.offer else "nobody looked for its devices"


def _mixed(first: Member, second: Member) -> str:
    if not first.offer or not second.offer or first.offer.link_layer == second.offer.link_layer:
        return ""
    return (
        f"the ports of rank {first.rank} are {first.offer.link_layer}, those of rank "
        f"{second.rank} {second.offer.link_layer}: choose them with RDMATRAIN_DEVICES"
    )


def host_gbps(members: Sequence[Member]) -> float:
    """Return the Gbit/s of the host that has least, where verbs can join all ranks; else 0.

    Args:
        members: all of the group, with what they offered, so that all ranks get the same.

    """
    first, *others = members
    if any(_trouble(first, other) for other in others):
        return 0.0
    hosts: dict[str, dict[str, float]] = {}
    for member in members:
        if member.offer:
            hosts.setdefault(member.host_id, {}).update(member.offer.ports)
    return min(sum(ports.values()) for ports in hosts.values()) or ASSUMED_GBPS


def describe(pairs: Sequence[Pair], rank: int, rails: Sequence[Rail]) -> str:
    """Return the line that says how a rank is to be joined to its peers.

    Args:
        pairs: by rank of the peer.
        rank: whose line it is.
        rails: its ports.

    """
    alike: dict[Pair, list[int]] = {}
    for peer, pair in enumerate(pairs):
        if pair.transport != "self":
            alike.setdefault(pair, []).append(peer)
    parts = []
    for pair, peers in sorted(alike.items(), key=lambda each: _ORDER.index(each[0].transport)):
        notes = [*(str(rail) for rail in rails[: pair.num_rails]), pair.why]
        parts.append(f"{pair.transport} to {_ranks(peers)} ({'; '.join(notes)})")
    return f"rank {rank} of {len(pairs)}: {'; '.join(parts) or 'no peers'}"


def _ranks(ranks: Sequence[int]) -> str:
    """List ranks, runs of three and more as "4 to 9"."""
    texts = []
    start = 0
    for i in range(1, len(ranks) + 1):
        if i < len(ranks) and ranks[i] == ranks[i - 1] + 1:
            continue
        run = ranks[start:i]
        texts += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else [str(rank) for rank in run]
        start = i
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(texts)}"
