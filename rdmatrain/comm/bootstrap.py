"""Agree on a group through a store, then connect it.

A store may outlive the group: torchrun's is still there when processes destroy their group and form
it anew. So each forming is a turn, with keys of its own. Written, under the group's own prefix:

===================  ==================================================================
``claim/RANK``       a counter: how many times somebody has come as RANK
``claim/RANK/TURN``  which process it was: two that both believe to be RANK are told apart
``TURN/hello/RANK``  who the rank is: world size, host, version, settings, nonce and proof
``TURN/hello/all``   a list of these, which rank 0 writes when all are there and agree
``TURN/offer/RANK``  its RDMA ports, or why it has none; only where verbs may join ranks
``TURN/offer/all``   likewise
``TURN/wire/RANK``   the rank's address for each transport that it listens on
``TURN/wire/all``    likewise
``TURN/fault``       why a rank gave up, so that the others need not wait for it
``TURN/heard``       a counter: how many ranks have given up
===================  ==================================================================

Only rank 0 reads what each rank wrote; the others read its lists. So a group of N asks the store
of the order of N times, not N * N, and a rank as often in a large group as in a small one.
"""

import json
import logging
import os
import secrets
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from time import monotonic, sleep
from typing import Any, Protocol

from rdmatrain import __version__, _core
from rdmatrain.comm import host, rdma
from rdmatrain.comm.facts import facts_of, log_rechoices
from rdmatrain.comm.hello import Hello, compare, new_nonce, proof_of, token_of
from rdmatrain.comm.pairs import Member, Offer, Pair, choose_pair, describe, host_gbps, needs_offers
from rdmatrain.comm.tuning import parse_tuning, tuning_text, whole_table
from rdmatrain.config import Settings, rank_env
from rdmatrain.errors import BootstrapError, CommError

logger = logging.getLogger(__name__)

# torch's store logs each wait that times out, so who waits asks, ever more rarely.
FIRST_POLL_SECONDS = 0.001
LAST_POLL_SECONDS = 0.2
# Who gives up stays for this long, or until all have heard: its end may be the end of the store.
FAREWELL_SECONDS = 2.5
# Of larger groups, pairs on two hosts are connected when they first need each other: few ever do.
EAGER_RANKS = 16
# A waiter polls this long before it sleeps: longer than most collectives of a training step last.
SPIN_NS = 50_000


class Store(Protocol):
    """What is needed of ``torch.distributed.Store``."""

    def set(self, key: str, value: str, /) -> None: ...  # noqa: D102
    def get(self, key: str, /) -> bytes: ...  # noqa: D102
    def add(self, key: str, amount: int, /) -> int: ...  # noqa: D102
    def check(self, keys: list[str], /) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class Place:
    """A rank's place in the group that is to be formed, and how long it may take (seconds)."""

    rank: int
    world: int
    timeout: float
    master_addr: str = ""


class Turn:
    """One forming of the group, as this rank takes part in it: the store's keys that belong to it.

    Args:
        store: the group's store.
        place: whose turn it is.
        number: 1 for the first time that this rank forms the group, and so on.

    Attributes:
        pairs: how this rank is joined to each, once it is decided.
        rails: the RDMA ports that this rank uses for that.
        verbs_gbps: of a host, where verbs joins all of them; else 0.

    """

    def __init__(self, store: Store, place: Place, number: int) -> None:
        self.place = place
        self.deadline = monotonic() + place.timeout
        self.pairs: list[Pair] = []
        self.rails: tuple[rdma.Rail, ...] = ()
        self.verbs_gbps = 0.0
        self._store = store
        self._prefix = f"{number}/"

    def put(self, key: str, value: str) -> None:
        """Publish a value of this rank."""
        with _store_errors(self.place):
            self._store.set(self._prefix + key, value)

    def gather(
        self, topic: str, mine: Any, check: Callable[[Any], None] = lambda _: None
    ) -> list[Any]:
        """Publish this rank's value, and wait for those of all ranks.

        Args:
            topic: the keys' name; each rank's turn has one value for it.
            mine: what json can carry.
            check: called by rank 0 with each value as it comes, by others with rank 0's; may raise.

        """
        self.put(f"{topic}/{self.place.rank}", json.dumps(mine))
        values: list[Any] = []
        if self.place.rank != 0:
            values = json.loads(self._get(f"{topic}/all", topic))
            check(values[0])
            return values
        for rank in range(self.place.world):
            values.append(json.loads(self._get(f"{topic}/{rank}", topic)))
            check(values[-1])
        self.put(f"{topic}/all", json.dumps(values))
        return values

    def _get(self, key: str, topic: str) -> str:
        """Wait until the deadline or until somebody gives up."""
        with _store_errors(self.place):
            for pause in _pauses():
                if self._store.check([self._prefix + key]):
                    return self._store.get(self._prefix + key).decode()
                self.check_fault()
                if monotonic() >= self.deadline:
                    break
                sleep(pause)
            missing = self._first_missing(topic)
        raise BootstrapError(
            f"rank {self.place.rank} of {self.place.world} waited {self.place.timeout:g} s for "
            f"rank {missing} to join the group: is that process running, and has it the same "
            "MASTER_ADDR, MASTER_PORT and WORLD_SIZE?"
        )

    def _first_missing(self, topic: str) -> int:
        """Find the first rank that did not publish, in few questions; 0 if just its list lacks."""
        keys = [f"{self._prefix}{topic}/{rank}" for rank in range(self.place.world)]
        first = bisect_left(
            range(len(keys)), True, key=lambda last: not self._store.check(keys[: last + 1])
        )
        return first % self.place.world

    def check_fault(self) -> None:
        """Raise what another rank gave up for, if one did."""
        with _store_errors(self.place):
            if self._store.check([self._prefix + "fault"]):
                raise BootstrapError(
                    f"rank {self.place.rank} of {self.place.world}: the group cannot form: "
                    f"{self._store.get(self._prefix + 'fault').decode()}"
                )

    def give_up(self, error: Exception) -> None:
        """Tell the others why, and let them hear it."""
        try:
            if not self._store.check([self._prefix + "fault"]):
                text = str(error)
                if not text.startswith(f"rank {self.place.rank} of "):
                    text = f"rank {self.place.rank}: {text}"
                self._store.set(self._prefix + "fault", text)
            heard = self._store.add(self._prefix + "heard", 1)
            end = monotonic() + FAREWELL_SECONDS
            while heard < self.place.world and monotonic() < end:
                sleep(0.02)
                heard = self._store.add(self._prefix + "heard", 0)
        except RuntimeError as gone:  # the store, with the process that served it
            logger.debug("nobody can be told of %r: %s", error, gone)


@contextmanager
def forming(store: Store, place: Place) -> Iterator[Turn]:
    """Take this rank's place in the group; what is raised inside is told to the other ranks.

    Raises:
        BootstrapError: another process has this rank.

    """
    turn = _claim(store, place)
    try:
        yield turn
    except Exception as error:
        turn.give_up(error)
        raise


def connect(turn: Turn, settings: Settings, secret: bytes = b"") -> _core.Comm:
    """Form the group: every rank calls it with its own place.

    Args:
        turn: this rank's.
        settings: this rank's.
        secret: the job's, equal on all ranks; empty if it has none.

    Returns:
        A connected communicator.

    Raises:
        BootstrapError: ranks disagree, or one did not come within the timeout; names it.

    """
    place = turn.place
    try:
        hellos = _exchange_hellos(turn, settings, secret)
        comm = _listen_and_connect(turn, settings, hellos, token_of(secret, hellos[0].nonce))
        turn.check_fault()
    except (CommError, ValueError, MemoryError) as error:
        turn.check_fault()  # a peer that gave up knows more than whoever waited for it
        raise BootstrapError(f"rank {place.rank} of {place.world}: {error}") from error
    return comm


@cache
def _process_name(pid: int) -> str:
    """Name this process for good; a forked child has another pid, and so another name."""
    return f"{pid}-{secrets.token_hex(8)}"


def _claim(store: Store, place: Place) -> Turn:
    me = _process_name(os.getpid())
    with _store_errors(place):
        number = store.add(f"claim/{place.rank}", 1)
        store.set(f"claim/{place.rank}/{number}", me)
        if number == 1:
            return Turn(store, place, number)
        # Blocks while the other one is between its add and its set.
        if store.get(f"claim/{place.rank}/{number - 1}").decode() == me:
            return Turn(store, place, number)
    error = BootstrapError(
        f"two processes are rank {place.rank} of this group: this one is {host.label()}; "
        "check RANK, or --node-rank of each host"
    )
    Turn(store, place, number - 1).give_up(error)
    raise error


def _pauses() -> Iterator[float]:
    pause = FIRST_POLL_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, LAST_POLL_SECONDS)


@contextmanager
def _store_errors(place: Place) -> Iterator[None]:
    """Say what an error of the store means: torch's texts speak of sockets only."""
    try:
        yield
    except BootstrapError:
        raise
    except RuntimeError as error:  # torch's DistStoreError, which has no torch-free name
        cause = str(error).partition("\n")[0]
        raise BootstrapError(
            f"rank {place.rank} of {place.world}: the store that the group forms through is gone, "
            f"so the process that serves it (rank 0, or torchrun) has probably failed: {cause}"
        ) from error


def _exchange_hellos(turn: Turn, settings: Settings, secret: bytes) -> list[Hello]:
    place, nonce = turn.place, new_nonce()
    mine = Hello(
        rank=place.rank,
        world=place.world,
        version=__version__,
        host_id=host.host_id(),
        label=host.label(),
        transport=settings.transport,
        tuning=tuning_text(parse_tuning(settings.tuning)),
        cpus=f"{host.cpu_mask():x}",
        nonce=nonce,
        proof=proof_of(secret, place.rank, nonce),
        require=settings.require,
    )
    # Another version may say other things, so it is compared before they are read.
    hellos = turn.gather(
        "hello", asdict(mine), lambda other: compare(asdict(mine), other, settings, secret)
    )
    return [Hello(**hello) for hello in hellos]


def _listen_and_connect(
    turn: Turn, settings: Settings, hellos: Sequence[Hello], token: bytes
) -> _core.Comm:
    place, changes = turn.place, parse_tuning(settings.tuning)
    _choose_pairs(turn, settings, hellos)
    neighbours, hosts = _neighbours(place, hellos), _host_numbers(hellos)
    comm = _core.Comm(
        place.rank,
        place.world,
        token,
        spin_ns=0 if _is_crowded(neighbours) else SPIN_NS,
        tuning=whole_table(place.world, len({*hosts}), turn.verbs_gbps, changes),
        hosts=hosts,
        lazy=place.world > EAGER_RANKS,
        timeout=place.timeout,
    )
    mine_at = _listen(comm, turn, settings, one_host=len(neighbours) == place.world)
    wires = turn.gather("wire", mine_at)
    peers = [
        (pair.transport, bytes.fromhex(wire.get(pair.transport, "")), other.label)
        for other, wire, pair in zip(hellos, wires, turn.pairs, strict=True)
    ]
    comm.connect(peers, max(turn.deadline - monotonic(), 0.0))
    log_rechoices(facts_of(turn.pairs, turn.rails, comm.number()), comm.stats())
    return comm


def _neighbours(place: Place, hellos: Sequence[Hello]) -> list[Hello]:
    """Ranks of this host, with this one."""
    return [other for other in hellos if other.host_id == hellos[place.rank].host_id]


def _choose_pairs(turn: Turn, settings: Settings, hellos: Sequence[Hello]) -> None:
    """Decide how this rank is joined to each, and say so."""
    rank = turn.place.rank
    members = [Member(hello.rank, hello.host_id, hello.label) for hello in hellos]
    if needs_offers(settings, members):
        offers = _exchange_offers(turn, settings, hellos)
        members = [
            replace(member, offer=offer) for member, offer in zip(members, offers, strict=True)
        ]
        turn.verbs_gbps = host_gbps(members)
    turn.pairs = [choose_pair(settings, members[rank], other) for other in members]
    fell_back = any(pair.fell_back for pair in turn.pairs)
    logger.log(
        logging.WARNING if fell_back else logging.INFO,
        "%s",
        describe(turn.pairs, rank, turn.rails),
    )


def _exchange_offers(turn: Turn, settings: Settings, hellos: Sequence[Hello]) -> list[Offer]:
    """Look for this rank's RDMA ports, and learn of the others'."""
    found = rdma.find_rails(settings)
    neighbours = [near.rank for near in _neighbours(turn.place, hellos)]
    place = host.local_place(turn.place.rank, neighbours)
    rails = rdma.rails_of(found.rails, *place, own=settings.device_list.own)
    turn.rails = rdma.limited(rails, settings)
    mine = Offer(
        ports={str(rail.port): rail.gbps for rail in turn.rails},
        link_layer=turn.rails[0].port.link_layer if turn.rails else "",
        why_not=found.why_not,
        present=found.present,
    )
    return [Offer(**offer) for offer in turn.gather("offer", asdict(mine))]


def _host_numbers(hellos: Sequence[Hello]) -> list[int]:
    """Return a number for each rank, the same for all ranks of a host."""
    ids = [hello.host_id for hello in hellos]
    return [ids.index(one) for one in ids]


def _is_crowded(neighbours: Sequence[Hello]) -> bool:
    """Tell whether ranks of this host share CPUs; those of other groups count as well."""
    ranks = rank_env().local_world_size or 0
    masks = [int(near.cpus, 16) for near in neighbours]
    return ranks > (os.cpu_count() or 1) or host.share_cpus(masks)


def _open_arena(settings: Settings) -> None:
    """Open the arena, which peers map when they connect: it may fail where nobody asked for it."""
    if settings.arena == "off":
        return
    try:
        _core.arena_open()
    except MemoryError as error:
        if settings.arena == "on":
            raise MemoryError(f"{error}; RDMATRAIN_ARENA=off does without") from error
        logger.warning("no memory can be shared with other ranks: %s", error)


def _listen(comm: _core.Comm, turn: Turn, settings: Settings, *, one_host: bool) -> dict[str, str]:
    """Listen on whatever joins this rank to any other."""
    place = turn.place
    needed = {pair.transport for pair in turn.pairs}
    wires = {}
    if needed & {"shm", "verbs"}:
        _open_arena(settings)
    if "shm" in needed:
        wires["shm"] = comm.listen("shm").hex()
    for transport in sorted(needed & {"tcp", "verbs"}):
        argument = ""
        try:
            argument = host.listen_address(settings.addr, place.master_addr, one_host=one_host)
            if transport == "verbs":
                argument = rdma.listen_argument(turn.rails, argument, settings)
            wires[transport] = comm.listen(transport, argument).hex()
        except (BootstrapError, CommError) as error:
            where = f"listening on {argument}: " if argument else ""
            raise BootstrapError(f"rank {place.rank} of {place.world}: {where}{error}") from error
    return wires
