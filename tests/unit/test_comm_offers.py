"""What ranks offer each other: each host has the devices that a test gives it.

A communicator that only takes notes stands in for C where a rank is told to use devices.
"""

from collections.abc import Callable
from typing import Any

import pytest
import test_comm_bootstrap
from test_comm_bootstrap import MemoryStore, Rank, places, sum_of

from rdmatrain import _core
from rdmatrain.comm import bootstrap, host, rdma
from rdmatrain.comm.rdma import Rail, Search
from rdmatrain.config import RankEnv, Settings
from rdmatrain.discovery.model import Gid, Port
from rdmatrain.errors import BootstrapError

form = test_comm_bootstrap.form

NOTHING = Search((), "there is no RDMA device", present=False)
DOWN = Search((), "mlx5_0/1: the port is DOWN", present=True)


def usable(*devices: str, gbps: float = 100.0) -> Search:
    gids = (Gid(3, "10.0.0.1", "RoCE v2"),)
    rails = (Rail(Port(d, 1, "ACTIVE", "Ethernet", ()), gids, 4096, gbps) for d in devices)
    return Search(tuple(rails), "", present=True)


class NotingComm:
    """Takes down what it listens on and whom it is connected to."""

    def __init__(self, rank: int, world: int, token: bytes, **options: Any) -> None:
        self.tuning: dict[str, int] = options["tuning"]
        self.listens: dict[str, str | None] = {}
        self.peers: list[tuple[str, bytes]] = []
        self.name = f"{rank}"

    def listen(self, transport: str, arg: str | None = None) -> bytes:
        self.listens[transport] = arg
        return f"{transport} of {self.name}".encode()

    def connect(self, peers: list[tuple[str, bytes, str]], timeout: float) -> None:
        self.peers = [(transport, wire) for transport, wire, _ in peers]

    def number(self) -> int:
        return 0

    def stats(self) -> list[dict[str, Any]]:
        return [{"rails": []} for _ in self.peers]


GIDS = (Gid(1, "10.0.0.1", "RoCE v2"), Gid(3, "fd00::1", "RoCE v2"))


def on_fakes(monkeypatch: pytest.MonkeyPatch, script: str = "") -> Callable[..., Search]:
    """Have verbs use the fake of csrc/ibv; returns what makes a search that found these of it."""
    real = rdma.listen_argument
    monkeypatch.setattr(rdma, "listen_argument", lambda *given: f"{real(*given)} fake={script}")

    def found(*devices: str, gbps: float = 100.0) -> Search:
        ports = (Port(device, 1, "ACTIVE", "Ethernet", GIDS) for device in devices)
        return Search(tuple(Rail(port, GIDS, 4096, gbps) for port in ports), "", present=True)

    return found


@pytest.fixture
def have(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Search]], list[str]]:
    """Give hosts their devices; returns a list of the hosts that looked for theirs."""
    monkeypatch.setattr(host, "rank_env", lambda: RankEnv(None, None, None, None))

    def give(devices: dict[str, Search]) -> list[str]:
        looked: list[str] = []

        def find(_settings: Settings) -> Search:
            looked.append(host.host_id())
            return devices[host.host_id()]

        monkeypatch.setattr(rdma, "find_rails", find)
        return looked

    return give


Have = Callable[[dict[str, Search]], list[str]]


def test_hosts_with_rdma_listen_on_their_ports_and_are_joined_by_verbs(
    form: Callable[..., list[Rank]], have: Have, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_core, "Comm", NotingComm)
    have({"left": usable("a0", "a1", "a2"), "right": usable("b0"), "plain": NOTHING})
    settings = Settings(addr="127.0.0.1", traffic_class="106")
    hosts = ["left", "left", "right", "plain"]
    ranks = [Rank(p, settings, h) for p, h in zip(places(4), hosts, strict=True)]
    form(MemoryStore(), *ranks)
    assert [r.error for r in ranks] == [None] * 4
    assert [r.comm.listens for r in ranks] == [
        {
            "shm": None,
            "tcp": "127.0.0.1",
            "verbs": "rails=a0/1/3+a2/1/3 addr=127.0.0.1 tc=106",
        },
        {"shm": None, "tcp": "127.0.0.1", "verbs": "rails=a1/1/3 addr=127.0.0.1 tc=106"},
        {"tcp": "127.0.0.1", "verbs": "rails=b0/1/3 addr=127.0.0.1 tc=106"},
        {"tcp": "127.0.0.1"},
    ]
    expected = [
        ["self", "shm", "verbs", "tcp"],
        ["shm", "self", "verbs", "tcp"],
        ["verbs", "verbs", "self", "tcp"],
        ["tcp", "tcp", "tcp", "self"],
    ]
    for me, rank in enumerate(ranks):
        assert [transport for transport, _ in rank.comm.peers] == expected[me]
        for peer, (transport, wire) in enumerate(rank.comm.peers):
            assert wire == (b"" if peer == me else f"{transport} of {peer}".encode())


@pytest.mark.parametrize(
    ("right", "net"),
    [
        (usable("b0", gbps=200.0), [2500, 400, 24_500]),
        (usable("b0", "b1", gbps=200.0), [2500, 400, 36_750]),  # the left host's three
        (NOTHING, [25_000, 4000, 1200]),
    ],
)
def test_ranks_reckon_with_the_network_that_all_hosts_have(
    form: Callable[..., list[Rank]],
    have: Have,
    monkeypatch: pytest.MonkeyPatch,
    right: Search,
    net: list[int],
) -> None:
    monkeypatch.setattr(_core, "Comm", NotingComm)
    have({"left": usable("a0", "a1", "a2"), "right": right})
    settings = Settings(addr="127.0.0.1", tuning="chunk=1M")
    ranks = [
        Rank(p, settings, h) for p, h in zip(places(3), ["left", "left", "right"], strict=True)
    ]
    form(MemoryStore(), *ranks)
    for rank in ranks:
        assert rank.error is None
        table = rank.comm.tuning
        assert [table[f"net_{name}"] for name in ("latency", "message", "bandwidth")] == net
        assert table["chunk"] == 1 << 20


def test_ranks_whose_ports_differ_in_rate_agree_and_meet(
    form: Callable[..., list[Rank]], have: Have, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The core refuses a peer with another table."""
    found = on_fakes(monkeypatch)
    have({"a": found("fake0"), "b": found("fake1", gbps=400.0)})
    settings = Settings(addr="127.0.0.1")
    ranks = [Rank(p, settings, h) for p, h in zip(places(2), "ab", strict=True)]
    form(MemoryStore(), *ranks)
    assert [r.error for r in ranks] == [None] * 2
    assert sum_of(ranks) == [bytearray([3])] * 2
    for rank in ranks:
        assert rank.comm.transport(1 - rank.place.rank) == "verbs"
        rank.comm.close()


def test_groups_over_fake_devices_have_right_sums(
    form: Callable[..., list[Rank]], have: Have, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = on_fakes(monkeypatch)
    have({"left": found("fake0", "fake1", "fake2"), "right": found("fake3"), "plain": NOTHING})
    settings = Settings(addr="127.0.0.1")
    hosts = ["left", "left", "right", "plain"]
    ranks = [Rank(p, settings, h) for p, h in zip(places(4), hosts, strict=True)]
    form(MemoryStore(), *ranks)
    assert [r.error for r in ranks] == [None] * 4
    joined = [[r.comm.transport(peer) for peer in range(4)] for r in ranks]
    assert joined[0] == ["self", "shm", "verbs", "tcp"]
    assert joined[2] == ["verbs", "verbs", "self", "tcp"]
    assert sum_of(ranks) == [bytearray([15])] * 4
    for rank in ranks:
        rank.comm.close()


@pytest.mark.parametrize("eager_ranks", [16, 1])
def test_a_gid_that_is_replaced_is_logged_by_both_once_they_have_joined(
    form: Callable[..., list[Rank]],
    have: Have,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    eager_ranks: int,
) -> None:
    found = on_fakes(monkeypatch, "rtr=ENODEV@1")
    have({"left": found("fake0"), "right": found("fake1")})
    monkeypatch.setattr(bootstrap, "EAGER_RANKS", eager_ranks)
    settings = Settings(addr="127.0.0.1", arena="off", mtu="1024")
    ranks = [Rank(p, settings, h) for p, h in zip(places(2), ("left", "right"), strict=True)]
    with caplog.at_level("INFO", "rdmatrain"):
        form(MemoryStore(), *ranks)
    assert [rank.error for rank in ranks] == [None, None]
    first = [line for line in caplog.messages if "gid 1 RoCE v2 10.0.0.1 MTU 1024" in line]
    assert len(first) == 2
    replaced = sorted(line[:24] for line in caplog.messages if "not gid 1" in line)
    both = ["rank 0 of 2: to rank 1 v", "rank 1 of 2: to rank 0 v"]
    assert replaced == (both if eager_ranks > 1 else [])
    assert sum_of(ranks) == [bytearray([3])] * 2
    for me, rank in enumerate(ranks):
        assert [each["gid_index"] for each in rank.comm.stats()[1 - me]["rails"]] == [3]
        rank.comm.close()


def test_nobody_looks_for_devices_on_one_host(form: Callable[..., list[Rank]], have: Have) -> None:
    looked = have({})
    for settings in (Settings(), Settings(require="verbs"), Settings(transport="tcp")):
        ranks = form(MemoryStore(), *(Rank(p, settings) for p in places(3)))
        assert [r.error for r in ranks] == [None] * 3
    assert looked == []


@pytest.mark.parametrize(
    ("devices", "level", "said"),
    [
        ({"a": NOTHING, "b": NOTHING}, "INFO", "neither can use RDMA: there is no RDMA device"),
        ({"a": usable("a0"), "b": NOTHING}, "WARNING", "rank 1 cannot use RDMA: there is no RDMA"),
        ({"a": NOTHING, "b": DOWN}, "WARNING", "rank 1 cannot use RDMA: mlx5_0/1: the port is DO"),
    ],
)
def test_tcp_between_hosts_says_why_and_warns_where_there_are_devices(
    form: Callable[..., list[Rank]],
    have: Have,
    caplog: pytest.LogCaptureFixture,
    devices: dict[str, Search],
    level: str,
    said: str,
) -> None:
    have(devices)
    caplog.set_level("INFO", logger="rdmatrain")
    settings = Settings(addr="127.0.0.1")
    ranks = [Rank(p, settings, h) for p, h in zip(places(2), "ab", strict=True)]
    form(MemoryStore(), *ranks)
    assert sum_of(ranks) == [bytearray([3])] * 2
    lines = {r.getMessage(): r.levelname for r in caplog.records if "tcp to rank" in r.getMessage()}
    assert len(lines) == 2
    for text, its_level in lines.items():
        assert said in text and its_level == level


@pytest.mark.parametrize(
    ("settings", "demand"),
    [
        (Settings(transport="verbs"), "RDMATRAIN_TRANSPORT=verbs"),
        (Settings(require="verbs"), "RDMATRAIN_REQUIRE=verbs"),
    ],
)
def test_a_rank_without_rdma_that_is_demanded_is_named_on_all(
    form: Callable[..., list[Rank]], have: Have, settings: Settings, demand: str
) -> None:
    have({"left": usable("a0"), "right": DOWN})
    hosts = ["left", "left", "right"]
    ranks = [Rank(p, settings, h) for p, h in zip(places(3), hosts, strict=True)]
    for rank in form(MemoryStore(), *ranks):
        assert demand in str(rank.error)
        assert "rank 2 cannot use RDMA: mlx5_0/1: the port is DOWN" in str(rank.error)
        assert rank.took_s < 5


def test_requirements_that_disagree_are_both_named(form: Callable[..., list[Rank]]) -> None:
    settings = [Settings(require="tcp"), Settings()]
    ranks = [Rank(p, s) for p, s in zip(places(2), settings, strict=True)]
    for rank in form(MemoryStore(), *ranks):
        assert "disagree about RDMATRAIN_REQUIRE" in str(rank.error)
        assert "has tcp" in str(rank.error) and "has none" in str(rank.error)


def test_a_wrong_choice_of_devices_on_one_rank_ends_all(
    form: Callable[..., list[Rank]], have: Have, monkeypatch: pytest.MonkeyPatch
) -> None:
    have({})

    def find(_settings: Settings) -> Search:
        if host.host_id() == "b":
            raise BootstrapError("RDMATRAIN_DEVICES=x, but there is no x here")
        return usable("a0")

    monkeypatch.setattr(rdma, "find_rails", find)
    for rank in form(
        MemoryStore(), *(Rank(p, Settings(), h) for p, h in zip(places(2), "ab", strict=True))
    ):
        assert "RDMATRAIN_DEVICES=x, but there is no x here" in str(rank.error)
