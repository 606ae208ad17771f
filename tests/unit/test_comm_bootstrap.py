"""Groups form through a store: here a dictionary, and the ranks are threads of one process."""

import gc
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from rdmatrain import _core
from rdmatrain.comm import bootstrap, host
from rdmatrain.comm.bootstrap import Place, connect, forming
from rdmatrain.comm.hello import Hello, compare, proof_of
from rdmatrain.comm.tuning import tuning_text
from rdmatrain.config import Settings
from rdmatrain.errors import BootstrapError, SettingError

DEFAULTS = Settings()


class MemoryStore:
    """What bootstrap needs of torch's store."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self._changed = threading.Condition()
        self.gone = False
        self.gets: Counter[str] = Counter()

    def _look(self) -> None:
        if self.gone:
            raise RuntimeError("recvValue failed\nand a stack")

    def set(self, key: str, value: str) -> None:
        with self._changed:
            self._look()
            self.data[key] = value.encode()
            self._changed.notify_all()

    def get(self, key: str) -> bytes:
        with self._changed:
            self._look()
            assert self._changed.wait_for(lambda: key in self.data, timeout=10)
            self.gets[key] += 1
            return self.data[key]

    def add(self, key: str, amount: int) -> int:
        with self._changed:
            self._look()
            self.data[key] = str(int(self.data.get(key, b"0")) + amount).encode()
            return int(self.data[key])

    def check(self, keys: list[str]) -> bool:
        with self._changed:
            self._look()
            return all(key in self.data for key in keys)


@dataclass
class Rank:
    """One thread that forms the group, and how that ended."""

    place: Place
    settings: Settings = DEFAULTS
    host_id: str = "one host"
    secret: bytes = b""
    comm: _core.Comm | None = None
    error: Exception | None = None
    took_s: float = 0.0

    def form(self, store: MemoryStore) -> None:
        began = time.monotonic()
        try:
            with forming(store, self.place) as turn:
                self.comm = connect(turn, self.settings, self.secret)
        except Exception as error:
            self.error = error
        self.took_s = time.monotonic() - began


@pytest.fixture
def form(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Rank]]:
    """Let the ranks form their group at once, each on the host that it says."""
    mine = threading.local()
    monkeypatch.setattr(host, "host_id", lambda: mine.host_id)
    monkeypatch.setattr(bootstrap, "_process_name", lambda pid: mine.process)
    monkeypatch.setattr(bootstrap, "FAREWELL_SECONDS", 0.5)

    def run(rank: Rank, store: MemoryStore, process: str) -> None:
        mine.host_id, mine.process = rank.host_id, process
        rank.form(store)

    def start(store: MemoryStore, *ranks: Rank, processes: list[str] | None = None) -> list[Rank]:
        names = processes or [f"process {i}" for i in range(len(ranks))]
        threads = [
            threading.Thread(target=run, args=(rank, store, name))
            for rank, name in zip(ranks, names, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        return list(ranks)

    return start


def places(world: int, timeout: float = 10.0) -> list[Place]:
    return [Place(rank, world, timeout, "127.0.0.1") for rank in range(world)]


def sum_of(ranks: list[Rank]) -> list[bytearray]:
    """All-reduce one byte per rank, so that each must be joined to each."""
    buffers = [bytearray([2**i]) for i in range(len(ranks))]
    works = [
        rank.comm.post("all_reduce", "uint8", "SUM", out=buffer)
        for rank, buffer in zip(ranks, buffers, strict=True)
    ]
    waiters = [threading.Thread(target=work.wait, args=(10,)) for work in works]
    for waiter in waiters:
        waiter.start()
    for waiter in waiters:
        waiter.join()
    return buffers


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_ranks_of_one_host_are_joined_over_shm(form: Callable[..., list[Rank]], world: int) -> None:
    ranks = form(MemoryStore(), *map(Rank, places(world)))
    for me, rank in enumerate(ranks):
        assert rank.error is None
        joined = [rank.comm.transport(peer) for peer in range(world)]
        assert joined == ["self" if peer == me else "shm" for peer in range(world)]
    assert sum_of(ranks) == [bytearray([2**world - 1])] * world


def test_ranks_of_several_hosts_mix_shm_and_tcp(form: Callable[..., list[Rank]]) -> None:
    settings = Settings(addr="127.0.0.1")
    hosts = ["left", "left", "right"]
    ranks = [Rank(p, settings, h) for p, h in zip(places(3), hosts, strict=True)]
    form(MemoryStore(), *ranks)
    assert [r.error for r in ranks] == [None] * 3
    joined = [[r.comm.transport(peer) for peer in range(3)] for r in ranks]
    assert joined == [["self", "shm", "tcp"], ["shm", "self", "tcp"], ["tcp", "tcp", "self"]]
    assert sum_of(ranks) == [bytearray([7])] * 3


def test_tcp_can_be_required_within_a_host(form: Callable[..., list[Rank]]) -> None:
    ranks = form(MemoryStore(), *(Rank(p, Settings(transport="tcp")) for p in places(2)))
    assert [r.comm.transport(1 - i) for i, r in enumerate(ranks)] == ["tcp", "tcp"]


def num_sockets() -> int:
    paths = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sum(str(path.readlink()).startswith("socket:") for path in paths)


def check_sockets(expected: int) -> None:
    """One that lost a race may be closed a little later."""
    deadline = time.monotonic() + 2
    while num_sockets() != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    assert num_sockets() == expected


@pytest.mark.parametrize(("eager_ranks", "pairs"), [(3, 3), (2, 0)])
def test_ranks_of_large_groups_are_joined_when_they_first_meet(
    form: Callable[..., list[Rank]],
    monkeypatch: pytest.MonkeyPatch,
    eager_ranks: int,
    pairs: int,
) -> None:
    monkeypatch.setattr(bootstrap, "EAGER_RANKS", eager_ranks)
    gc.collect()
    listening = num_sockets() + 3
    ranks = form(MemoryStore(), *(Rank(p, Settings(transport="tcp")) for p in places(3)))
    check_sockets(listening + 2 * pairs)
    assert sum_of(ranks) == [bytearray([7])] * 3
    check_sockets(listening + 6)


def test_a_group_can_be_formed_again_in_the_same_store(form: Callable[..., list[Rank]]) -> None:
    store = MemoryStore()
    for _ in range(3):
        ranks = form(store, *map(Rank, places(2)))
        assert [r.error for r in ranks] == [None, None]
        assert sum_of(ranks) == [bytearray([3])] * 2
        for rank in ranks:
            rank.comm.close()


def test_a_group_that_failed_can_be_tried_again(form: Callable[..., list[Rank]]) -> None:
    store = MemoryStore()
    bad = [Rank(p, Settings(transport=t)) for p, t in zip(places(2), ["tcp", "shm"], strict=True)]
    assert all(isinstance(rank.error, BootstrapError) for rank in form(store, *bad))
    good = form(store, *map(Rank, places(2)))
    assert [r.error for r in good] == [None, None]


def test_two_processes_of_one_rank_stop_everybody(form: Callable[..., list[Rank]]) -> None:
    all_places = [*places(3)[:2], places(3)[1]]
    ranks = form(MemoryStore(), *map(Rank, all_places))
    for rank in ranks:
        assert "two processes are rank 1 of this group" in str(rank.error)
        assert rank.took_s < 5


@pytest.mark.parametrize("world", [2, 4])
def test_world_sizes_that_disagree_are_both_named(
    form: Callable[..., list[Rank]], world: int
) -> None:
    all_places = places(world)
    all_places[-1] = Place(world - 1, world + 1, 10.0)
    for rank in form(MemoryStore(), *map(Rank, all_places)):
        text = str(rank.error)
        assert "world size" in text
        assert f"has {world}" in text and f"has {world + 1}" in text
        assert f"rank {world - 1}" in text


def test_transports_that_disagree_are_both_named(form: Callable[..., list[Rank]]) -> None:
    settings = [Settings(transport="tcp"), Settings()]
    ranks = [Rank(p, s) for p, s in zip(places(2), settings, strict=True)]
    for rank in form(MemoryStore(), *ranks):
        assert "RDMATRAIN_TRANSPORT" in str(rank.error)
        assert "has tcp" in str(rank.error) and "has auto" in str(rank.error)


SECRETS = [b"one secret of 16 bytes", b"and another of 16 bytes"]


def test_a_group_with_a_secret_forms_and_its_token_is_not_in_the_store(
    form: Callable[..., list[Rank]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = []
    real = _core.Comm

    def comm(rank: int, world: int, token: bytes, **kwargs: object) -> _core.Comm:
        tokens.append(token)
        return real(rank, world, token, **kwargs)

    monkeypatch.setattr(_core, "Comm", comm)
    store = MemoryStore()
    settings = Settings(transport="tcp")
    ranks = form(store, *(Rank(p, settings, secret=SECRETS[0]) for p in places(3)))
    assert [rank.error for rank in ranks] == [None] * 3
    assert sum_of(ranks) == [bytearray([7])] * 3
    assert len(tokens) == 3
    assert len(set(tokens)) == 1
    assert len(tokens[0]) == 16
    for value in store.data.values():
        assert tokens[0].hex().encode() not in value
        assert SECRETS[0] not in value


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_a_rank_with_another_secret_is_named_and_nobody_hangs(
    form: Callable[..., list[Rank]], odd: int
) -> None:
    ranks = [Rank(p, secret=SECRETS[p.rank == odd]) for p in places(3)]
    for rank in form(MemoryStore(), *ranks):
        assert "have different secrets" in str(rank.error)
        assert f"rank {odd} (" in str(rank.error)
        assert "RDMATRAIN_SECRET_FILE" in str(rank.error)
        assert not any(secret.decode() in str(rank.error) for secret in SECRETS)
        assert rank.took_s < 5


@pytest.mark.parametrize("odd", [0, 1])
def test_a_rank_without_the_secret_is_named(form: Callable[..., list[Rank]], odd: int) -> None:
    ranks = [Rank(p, secret=b"" if p.rank == odd else SECRETS[0]) for p in places(2)]
    for rank in form(MemoryStore(), *ranks):
        assert f"rank {1 - odd} (" in str(rank.error).partition(" has the job's secret and ")[0]
        assert f"rank {odd} (" in str(rank.error).partition(" has the job's secret and ")[2]
        assert rank.took_s < 5


def test_a_hello_cannot_be_said_again_by_another_rank() -> None:
    hello = Hello(0, 2, "v", "h", "l", "auto", "", "1", "00" * 16)
    mine = asdict(replace(hello, proof=proof_of(SECRETS[0], 0, hello.nonce)))
    theirs = mine | {"rank": 1}
    compare(mine, mine, DEFAULTS, SECRETS[0])
    with pytest.raises(BootstrapError, match="different secrets"):
        compare(mine, theirs, DEFAULTS, SECRETS[0])


def test_versions_that_disagree_are_both_named(
    form: Callable[..., list[Rank]],
) -> None:
    store = MemoryStore()
    store.set("1/hello/1", '{"rank":1,"world":2,"version":"0.0.7","host_id":"x","label":"old",'
              '"transport":"auto","says":"more"}')  # fmt: skip
    (rank,) = form(store, Rank(places(2)[0]))
    assert "rdmatrain version" in str(rank.error)
    assert "has 0.0.7" in str(rank.error) and f"has {bootstrap.__version__}" in str(rank.error)


def test_shm_between_hosts_is_refused_on_both(form: Callable[..., list[Rank]]) -> None:
    settings = Settings(transport="shm")
    ranks = [Rank(p, settings, h) for p, h in zip(places(2), ["a", "b"], strict=True)]
    for rank in form(MemoryStore(), *ranks):
        assert "RDMATRAIN_TRANSPORT=shm" in str(rank.error)
        assert "rank 0" in str(rank.error) and "rank 1" in str(rank.error)


def test_a_rank_that_does_not_come_is_named_in_time(form: Callable[..., list[Rank]]) -> None:
    ranks = form(MemoryStore(), *map(Rank, places(3, timeout=0.5)[:2]))
    for rank in ranks:
        assert "waited 0.5 s for rank 2" in str(rank.error)
        assert 0.4 < rank.took_s < 4


@pytest.mark.parametrize("missing", [[0], [1, 4], [4], [0, 1, 2, 3]])
def test_the_first_of_many_missing_ranks_is_named(
    form: Callable[..., list[Rank]], missing: list[int]
) -> None:
    there = [place for place in places(5, timeout=0.5) if place.rank not in missing]
    for rank in form(MemoryStore(), *map(Rank, there)):
        assert f"waited 0.5 s for rank {missing[0]} to join" in str(rank.error)


def test_a_rank_that_stops_before_it_listens_is_named(form: Callable[..., list[Rank]]) -> None:
    store = MemoryStore()
    hello = Hello(1, 2, bootstrap.__version__, "one host", "silent", "auto", tuning_text({}), "1")
    store.set("1/hello/1", json.dumps(asdict(hello)))
    (rank,) = form(store, Rank(places(2, timeout=0.5)[0]))
    assert "waited 0.5 s for rank 1" in str(rank.error)


def test_a_rank_beyond_a_group_that_formed_is_refused(form: Callable[..., list[Rank]]) -> None:
    store = MemoryStore()
    assert [rank.error for rank in form(store, *map(Rank, places(2)))] == [None, None]
    (late,) = form(store, Rank(Place(2, 3, 2.0)))
    assert "world size" in str(late.error)
    assert "has 3" in str(late.error) and "has 2" in str(late.error)


def test_a_large_group_does_not_read_the_store_from_each_to_each(
    form: Callable[..., list[Rank]],
) -> None:
    world = 12
    store = MemoryStore()
    ranks = form(store, *map(Rank, places(world)))
    assert [rank.error for rank in ranks] == [None] * world
    lists = [count for key, count in store.gets.items() if key.endswith("/all")]
    assert lists == [world - 1] * 2
    assert store.gets.total() == 2 * world + sum(lists)


def test_a_failure_on_one_rank_reaches_the_others_at_once(
    form: Callable[..., list[Rank]],
) -> None:
    ranks = [Rank(p, Settings(transport="tcp", addr=a)) for p, a in zip(
        places(3, timeout=20), ["", "no-such.invalid", ""], strict=True)]  # fmt: skip
    form(MemoryStore(), *ranks)
    for rank in ranks:
        assert "rank 1" in str(rank.error)
        assert "RDMATRAIN_ADDR=no-such.invalid" in str(rank.error)
        assert rank.took_s < 5


def test_an_error_before_the_ranks_meet_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    monkeypatch.setattr(bootstrap, "FAREWELL_SECONDS", 0.1)
    with pytest.raises(SettingError), forming(store, places(2)[0]):
        raise SettingError("RDMATRAIN_TRANSPORT='x' is not allowed")
    assert store.get("1/fault") == b"rank 0: RDMATRAIN_TRANSPORT='x' is not allowed"


def test_a_store_that_is_gone_is_said_in_plain_words(form: Callable[..., list[Rank]]) -> None:
    store = MemoryStore()
    threading.Timer(0.3, lambda: setattr(store, "gone", True)).start()
    (rank,) = form(store, Rank(places(2)[1]))
    assert isinstance(rank.error, BootstrapError)
    assert "the store that the group forms through is gone" in str(rank.error)
    assert "stack" not in str(rank.error)


def test_a_process_keeps_its_name_and_a_forked_one_has_another() -> None:
    assert bootstrap._process_name(10) == bootstrap._process_name(10)
    assert bootstrap._process_name(10) != bootstrap._process_name(11)
