"""Ping and bandwidth of pairs of ranks, each over a connection of its own."""

import json
import os
import socket
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from statistics import median
from time import monotonic

from rdmatrain import _core
from rdmatrain.comm import host, pairs, rdma
from rdmatrain.comm.bootstrap import Place, Store
from rdmatrain.config import Settings
from rdmatrain.doctor.gang.model import Meeting, Peer
from rdmatrain.doctor.gang.rounds import partner, rounds
from rdmatrain.doctor.gang.wait import first_of
from rdmatrain.errors import BootstrapError, RdmatrainError

PING_BYTES, PINGS = 8, 100
BLOCK, GUESS_CALLS, MAX_CALLS = 1 << 20, 3, 4000
TIMED_S, LEAST_TIMED_S = 0.05, 0.002  # of writes, in a direction
TIMED_PART = 0.25  # of the time that there is: connecting takes more
CALL_S = 5.0
TOKEN_BYTES = 16
PATIENCE = 3  # meetings that fail, without one that does not
_IP_MTU, _IPV6_MTU = 14, 24  # of Linux, which Python does not name


class _OutOfTimeError(RdmatrainError):
    """The deadline of all came, which is nobody's fault: it is not measured."""


@dataclass(frozen=True)
class Seen:
    """What one end saw of a connection; the ends time their own pings and writes alone."""

    ping_us: float | None = None
    gbps: float | None = None
    num_checked: int = 0
    num_wrong: int = 0


@dataclass
class Tournament:
    """Meetings of this rank with the others.

    Args:
        store: the ranks' own part of it.
        place: of this rank.
        settings: the job's.
        pairs: how the bootstrap joins this rank to each.
        rails: the RDMA ports of this pod: each meets the one in the same place of the other pod.
        peers: all ranks.
        deadline: by :func:`time.monotonic`.
        patience_s: how long to wait for one that may be busy with another.

    """

    store: Store
    place: Place
    settings: Settings
    pairs: list[pairs.Pair]
    rails: tuple[rdma.Rail, ...]
    peers: Sequence[Peer]
    deadline: float
    patience_s: float
    _timed_s: float = field(default=TIMED_S, init=False)
    _failures: int = field(default=0, init=False)
    _successes: int = field(default=0, init=False)

    def play(self) -> tuple[Meeting, ...]:
        """Meet each other rank, round by round."""
        found = []
        played = rounds(self.place.world)
        directions = 2 * len(played) * max(len(self.rails), 1)
        share_s = TIMED_PART * (self.deadline - monotonic()) / max(directions, 1)
        self._timed_s = max(LEAST_TIMED_S, min(TIMED_S, share_s))
        for number in played:
            peer = partner(self.place.rank, number, self.place.world)
            if peer is not None:
                found.append(self._meet(peer))
        return tuple(found)

    def _meet(self, peer: int) -> Meeting:
        pair = self.pairs[peer]
        meeting = Meeting(
            peer=peer,
            transport=pair.transport,
            why=pair.why,
            fell_back=pair.fell_back,
            path_mtu=0 if pair.transport == "shm" else path_mtu(self.peers[peer].address),
        )
        if self._failures >= PATIENCE and not self._successes:
            return replace(meeting, error="left out: this rank's first meetings all failed")
        try:
            seen = [self._over(peer, rail) for rail in range(self._num_rails(peer))]
        except _OutOfTimeError:
            return meeting
        except (RdmatrainError, MemoryError, ValueError) as error:
            self._fail(peer, str(error))
            return replace(meeting, error=str(error))
        self._successes += 1
        return _slowest(meeting, seen)

    def _num_rails(self, peer: int) -> int:
        """Return how many connections there are to try, one after the other."""
        if self.pairs[peer].transport != "verbs":
            return 1
        return max(1, min(len(self.rails), self.peers[peer].num_rails))

    def _fail(self, peer: int, error: str) -> None:
        """Say so to the other side, which may see nothing wrong, and to all if it is too often."""
        self.store.set(f"{self._path(peer)}/failed/{self.place.rank}", error)
        # Who has left is to blame for that, whoever meets it.
        self._failures += not self.store.check([f"left/{peer}"])
        if self._failures == PATIENCE and not self._successes:
            leave(self.store, self.place.rank)

    @property
    def _call_s(self) -> float:
        """Longest time for one call: more where there is more, as on emulated machines."""
        return max(CALL_S, self.patience_s / 2)

    def _path(self, peer: int) -> str:
        return "pair/{}-{}".format(*sorted((self.place.rank, peer)))

    def _over(self, peer: int, rail: int) -> Seen:
        """Measure both directions over one rail; for other transports there is one."""
        seen = []
        for direction in (0, 1):
            side = direction if self.place.rank < peer else 1 - direction
            seen.append(
                self._connection(f"{self._path(peer)}/{rail}/{direction}", side, peer, rail)
            )
        timed = seen[0] if self.place.rank < peer else seen[1]  # as side 0
        return replace(
            timed,
            num_checked=sum(each.num_checked for each in seen),
            num_wrong=sum(each.num_wrong for each in seen),
        )

    def _connection(self, path: str, side: int, peer: int, rail: int) -> Seen:
        where = f" over {self.rails[rail].port}" if self.pairs[peer].transport == "verbs" else ""
        try:
            with closing(self._join(path, side, peer, rail)) as pair:
                return self._measure(pair, path, side, peer)
        except _OutOfTimeError:
            raise
        except (RdmatrainError, MemoryError, ValueError) as error:
            raise BootstrapError(f"{error}{where}") from error

    def _join(self, path: str, side: int, peer: int, rail: int) -> _core.Pair:
        """Open this side and meet the other; side 0 makes the token."""
        said = self._hear(f"{path}/0", peer) if side else {"token": os.urandom(TOKEN_BYTES).hex()}
        transport = self.pairs[peer].transport
        argument = self._argument(transport, rail)
        opened = _core.Pair(transport, argument, side, bytes.fromhex(said["token"]))
        try:
            mine = {"token": said["token"], "address": opened.address().hex()}
            self.store.set(f"{path}/{side}", json.dumps(mine))
            address = (said if side else self._hear(f"{path}/1", peer))["address"]
            opened.connect(bytes.fromhex(address), self._call_s)
        except BaseException:
            opened.close()
            raise
        return opened

    def _argument(self, transport: str, rail: int) -> str | None:
        """Return what the transport is opened with."""
        if transport == "shm":
            return None
        one_host = all(pair.transport in {"shm", "self"} for pair in self.pairs)
        one_host = one_host or not self.place.master_addr
        address = host.listen_address(self.settings.addr, self.place.master_addr, one_host=one_host)
        if transport == "verbs":
            return rdma.listen_argument([self.rails[rail]], address, self.settings)
        return address

    def _hear(self, key: str, peer: int) -> dict[str, str]:
        """Return what the other side says, unless it has failed or left."""
        faults = (f"{self._path(peer)}/failed/{peer}", f"left/{peer}")
        patience_end = monotonic() + self.patience_s
        until = min(self.deadline, patience_end)
        found = first_of(self.store, [key, *faults], until)
        if found == key:
            said: dict[str, str] = json.loads(self.store.get(key))
            return said
        if found == faults[0]:
            raise BootstrapError(f"rank {peer}: {self.store.get(found).decode()}")
        if not found and until < patience_end:
            raise _OutOfTimeError("there was no time for more")
        why = "does no longer take part" if found else "did not come in time"
        raise BootstrapError(f"rank {peer} {why}")

    def _measure(self, pair: _core.Pair, path: str, side: int, peer: int) -> Seen:
        """Ping, and write from side 0 to side 1; a block that comes is compared."""
        pair.reserve(PING_BYTES)
        _, num_wrong = pair.pingpong(1, self._call_s, True)
        pings, _ = pair.pingpong(PINGS, self._call_s)
        pair.reserve(BLOCK)
        _, more = pair.write(1, self._call_s, True)
        guess_s = pair.write(GUESS_CALLS, self._call_s)[0][0] / GUESS_CALLS
        if side:
            calls = int(self._hear(f"{path}/calls", peer)["calls"])
        else:
            calls = max(1, min(MAX_CALLS, int(self._timed_s / max(guess_s, 1e-9))))
            self.store.set(f"{path}/calls", json.dumps({"calls": str(calls)}))
        (seconds,), _ = pair.write(calls, self._call_s)
        if side:
            return Seen(num_checked=PING_BYTES + BLOCK, num_wrong=num_wrong + more)
        gbps = 8e-9 * BLOCK * calls / seconds if seconds else None
        return Seen(median(pings) * 1e6, gbps, PING_BYTES, num_wrong)


def leave(store: Store, rank: int) -> None:
    """Say that a rank meets nobody any more."""
    store.set(f"left/{rank}", "")


def path_mtu(address: str) -> int:
    """Return the MTU of the way to an address, as far as the kernel knows; 0 if it does not."""
    family, option = (
        (socket.AF_INET6, (socket.IPPROTO_IPV6, _IPV6_MTU))
        if ":" in address
        else (socket.AF_INET, (socket.IPPROTO_IP, _IP_MTU))
    )
    if not address:
        return 0
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # sends nothing
            return probe.getsockopt(*option)
    except OSError:
        return 0


def _slowest(meeting: Meeting, seen: list[Seen]) -> Meeting:
    """Put rails together: the slowest counts, as ranks wait for it."""
    pings = [each.ping_us for each in seen if each.ping_us is not None]
    rates = [each.gbps for each in seen if each.gbps is not None]
    return replace(
        meeting,
        ping_us=max(pings, default=None),
        gbps=min(rates, default=None),
        num_checked=sum(each.num_checked for each in seen),
        num_wrong=sum(each.num_wrong for each in seen),
    )
