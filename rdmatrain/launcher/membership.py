"""Who takes part in a gang, and as what: rules without a clock, a network or a process.

All times are seconds of one monotonic clock, the caller's.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rdmatrain.launcher.job import Gang
from rdmatrain.launcher.messages import Join, Node

UNKNOWN = "unknown"
# The odd ones among many nodes are named up to this number.
MAX_NAMED = 4
MAX_SHOWN = 120
# So many differences are told: of an older copy of the code, every file may differ.
MAX_DIFFERENCES = 5
# Facts of a node are of when its launcher began. By the first words of their names, those that
# somebody may change while the job runs: who comes later has the new ones, as will all when their
# next workers start, at least where the files are shared.
MAY_CHANGE = ("the code", "the installed packages")


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A node that wants to take part.

    Attributes:
        key: 0, 1, ... in order of arrival; never used again.
        join: what it said.
        arrived_s: when it said so.
        leads: it is the leader's own node.

    """

    key: int
    join: Join
    arrived_s: float
    leads: bool = False

    def __str__(self) -> str:
        address = self.join.address
        where = f" ({address})" if address not in {"", self.join.host} else ""
        return f"{self.join.host}{where}"


class Membership:
    """The nodes that are there, and whether they are enough.

    The older of two nodes with one rank has it. Whether it is still there, its next word tells:
    only a launcher that died with its host leaves a seat behind, and says nothing more.
    """

    def __init__(self, gang: Gang, now: float) -> None:
        self.gang = gang
        self._seats: dict[int, Seat] = {}
        self._heard_s: dict[int, float] = {}
        self._num_arrived = 0
        self._last: frozenset[int] = frozenset()
        self._since_s = now

    def __len__(self) -> int:
        return len(self._seats)

    def form_again(self, now: float) -> None:
        """Begin to form the next round; if all of the last one are there, for nobody else."""
        self._since_s = now

    def why_not(self, join: Join) -> str:
        """Say why a node cannot take part, whoever else does; nothing if it can."""
        rank, most = join.node_rank, self.gang.max_nodes
        if rank is not None and not 0 <= rank < most:
            return f"its node rank is {rank}, of {most} nodes: give it 0 to {most - 1}"
        return "" if join.nproc >= 1 else "it has no workers: give it at least 1"

    def add(self, join: Join, now: float, *, leads: bool = False) -> Seat:
        """Let a node in; ``leads``: it is the leader's own."""
        seat = Seat(key=self._num_arrived, join=join, arrived_s=now, leads=leads)
        self._num_arrived += 1
        self._seats[seat.key] = seat
        self._heard_s[seat.key] = now
        return seat

    def remove(self, key: int) -> None:
        """Forget a node."""
        self._seats.pop(key, None)
        self._heard_s.pop(key, None)

    def heard(self, key: int, now: float) -> None:
        """Note that a node has said something."""
        if key in self._seats:
            self._heard_s[key] = now

    def of_incarnation(self, incarnation: str) -> Seat | None:
        """Return the seat that a launcher has, if it has one."""
        found = (seat for seat in self._seats.values() if seat.join.incarnation == incarnation)
        return next(found, None) if incarnation else None

    def quarrel(self) -> tuple[Seat, Seat] | None:
        """Return two nodes that are both there with one rank, the older first."""
        for older, newer in self._rivals():
            if self._heard_s[older.key] > newer.arrived_s:
                return older, newer
        return None

    def surplus(self) -> tuple[Seat, ...]:
        """Return the nodes that are more than the gang takes, if all of it are still there."""
        seats = list(self._seats.values())
        taken, rest = seats[: self.gang.max_nodes], seats[self.gang.max_nodes :]
        oldest = min((self._heard_s[seat.key] for seat in taken), default=0.0)
        return tuple(seat for seat in rest if oldest > seat.arrived_s)

    def is_complete(self, now: float) -> bool:
        """Tell whether a round may start: all are there, or enough and no more came for a while."""
        number = len(self._seats)
        if number > self.gang.max_nodes or number < self.gang.min_nodes or self._rivals():
            return False
        if number == self.gang.max_nodes or (self._last and self._last <= self._seats.keys()):
            return True
        latest = max(seat.arrived_s for seat in self._seats.values())
        return now >= max(latest, self._since_s) + self.gang.last_call_s

    def seats(self) -> dict[int, Node]:
        """Return the places in a new round by key, in order of node rank; remembers who has one.

        A node keeps the order that its given rank says. The others take the ranks between, the
        leader's node first, then by host, address and arrival.
        """
        self._last = frozenset(self._seats)
        given = {s.join.node_rank: s for s in self._seats.values() if s.join.node_rank is not None}
        rest = sorted(
            (seat for seat in self._seats.values() if seat.join.node_rank is None), key=_order
        )
        free = (rank for rank in range(self.gang.max_nodes) if rank not in given)
        numbered = {**given, **dict(zip(free, rest, strict=False))}
        places: dict[int, Node] = {}
        first = 0
        for number, (_, seat) in enumerate(sorted(numbered.items())):
            join = seat.join
            places[seat.key] = Node(
                node_rank=number,
                host=join.host,
                address=join.address,
                nproc=join.nproc,
                first_rank=first,
            )
            first += join.nproc
        return places

    def missing(self) -> str:
        """Say who is not there yet, in words."""
        rivals = [newer for _, newer in self._rivals()]
        seats = [seat for seat in self._seats.values() if seat not in rivals]
        most = self.gang.max_nodes
        here = ", ".join(sorted(str(seat) for seat in seats)[:MAX_NAMED])
        more = f" and {len(seats) - MAX_NAMED} more" if len(seats) > MAX_NAMED else ""
        range_ = f"{most}" if most == self.gang.min_nodes else f"{self.gang.min_nodes} to {most}"
        ranks = [seat.join.node_rank for seat in seats]
        return f"{_absent(ranks, most)} of {range_}; {len(seats)} there: {here}{more}"

    def disagreement(self) -> str:
        """Say what the nodes do not agree on, and whose it is; nothing if they agree.

        Once a round has begun, under this leader or another, what may change is let pass.
        """
        return self._differences(may_change=False)

    def let_pass(self) -> str:
        """Say what they differ in that is no disagreement, as a round has begun."""
        return self._differences(may_change=True)

    def _differences(self, *, may_change: bool) -> str:
        seats = self._seats.values()
        begun = bool(self._last) or any(seat.join.last_round for seat in seats)
        return disagreement(
            [
                (
                    str(seat),
                    {
                        name: value
                        for name, value in seat.join.agree.items()
                        if (begun and name.startswith(MAY_CHANGE)) == may_change
                    },
                )
                for seat in seats
            ]
        )

    def _rivals(self) -> list[tuple[Seat, Seat]]:
        holders: dict[int, Seat] = {}
        rivals = []
        for seat in self._seats.values():
            if seat.join.node_rank is not None:
                older = holders.setdefault(seat.join.node_rank, seat)
                if older is not seat:
                    rivals.append((older, seat))
        return rivals


def _absent(ranks: Sequence[int | None], most: int) -> str:
    if not ranks or None in ranks:
        number = most - len(ranks)
        return f"{number} node{'s' * (number != 1)}"
    absent = [str(rank) for rank in range(most) if rank not in ranks]
    named = ", ".join(absent[:MAX_NAMED]) + (", ..." if len(absent) > MAX_NAMED else "")
    return f"node rank{'s' * (len(absent) != 1)} {named}"


def disagreement(facts: Sequence[tuple[str, Mapping[str, str]]]) -> str:
    """Compare what nodes say of themselves.

    Args:
        facts: name and facts of each node. What is missing or unknown agrees with all.

    Returns:
        For each of the first facts that differ, which nodes are odd, with their value and the
        majority's; nothing if none differs.

    """
    names = dict.fromkeys(name for _, each in facts for name in each)
    found = [text for name in names if (text := _difference(name, facts))]
    more = len(found) - MAX_DIFFERENCES
    return "; ".join(found[:MAX_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")


def _difference(name: str, facts: Sequence[tuple[str, Mapping[str, str]]]) -> str:
    sides: dict[str, list[str]] = {}
    for who, each in facts:
        value = _plain(each.get(name, UNKNOWN))
        if value not in {"", UNKNOWN}:
            sides.setdefault(value, []).append(who)
    if len(sides) < 2:
        return ""
    first, second, *_ = sorted(map(len, sides.values()), reverse=True)
    if first == second:
        told = (f"{_named(who)}: {value}" for value, who in sorted(sides.items()))
        return f"{_plain(name)} differs, and no side is larger: {', '.join(told)}"
    usual = max(sides, key=lambda value: len(sides[value]))
    odd = (f"{_named(who)}: {value}" for value, who in sorted(sides.items()) if value != usual)
    return f"{_plain(name)} differs on {', '.join(odd)}, where the other {first} have {usual}"


def _named(nodes: Sequence[str]) -> str:
    more = f" and {len(nodes) - MAX_NAMED} more" if len(nodes) > MAX_NAMED else ""
    return ", ".join(sorted(nodes)[:MAX_NAMED]) + more


def _order(seat: Seat) -> tuple[object, ...]:
    return (not seat.leads, _natural(seat.join.host), seat.join.host, seat.join.address, seat.key)


def _natural(host: str) -> tuple[tuple[int, str], ...]:
    """Return a key by which pod-2 comes before pod-10."""
    parts = re.findall(r"[0-9]{1,18}|[^0-9]+|[0-9]", host, re.ASCII)
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in parts)


def _plain(text: str) -> str:
    """Return what another node says as something that can be shown."""
    return "".join(char if char.isprintable() else "?" for char in text[:MAX_SHOWN])
