"""Both ranks of a pair choose alike, and every refusal names ranks and reason."""

import itertools

import pytest

from rdmatrain.comm.pairs import (
    ASSUMED_GBPS,
    Member,
    Offer,
    Pair,
    choose_pair,
    describe,
    host_gbps,
    needs_offers,
)
from rdmatrain.comm.rdma import Rail
from rdmatrain.config import REQUIRABLE, TRANSPORTS, Settings, load_settings
from rdmatrain.discovery.model import Gid, Port
from rdmatrain.errors import BootstrapError


def offer(*gbps: float, link_layer: str = "Ethernet", first: int = 0) -> Offer:
    """Offer mlx5_FIRST/1 and the ports after it, with such rates."""
    ports = {f"mlx5_{number}/1": rate for number, rate in enumerate(gbps, first)}
    return Offer(ports, link_layer, "", present=True)


USABLE = offer(100.0, 100.0)
OFFERS = {
    "usable": USABLE,
    "one port": offer(100.0),
    "infiniband": offer(200.0, 200.0, link_layer="InfiniBand"),
    "down": Offer({}, "", "mlx5_0/1: the port is DOWN", present=True),
    "nothing": Offer({}, "", "there is no RDMA device", present=False),
}


def member(rank: int, host: str, offer: Offer | None = USABLE) -> Member:
    return Member(rank, host, f"host {host}, pid {100 + rank}", offer)


def rail(device: str) -> Rail:
    port = Port(device, 1, "ACTIVE", "Ethernet", ())
    return Rail(port, (Gid(1, "10.0.0.1", "RoCE v2"),), 4096, 100.0)


def all_settings() -> list[Settings]:
    asked = itertools.product(TRANSPORTS, ("", *REQUIRABLE))
    return [Settings(transport=t, require=r) for t, r in asked if t == "auto" or r in {"", t}]


def outcome(settings: Settings, one: Member, other: Member) -> Pair | str:
    try:
        return choose_pair(settings, one, other)
    except BootstrapError as error:
        return str(error)


@pytest.mark.parametrize("settings", all_settings(), ids=lambda s: f"{s.transport}-{s.require}")
def test_both_ranks_of_a_pair_choose_alike(settings: Settings) -> None:
    for (one, mine), (two, theirs), host in itertools.product(OFFERS.items(), OFFERS.items(), "ab"):
        left, right = member(0, "a", mine), member(1, host, theirs)
        result = outcome(settings, left, right)
        assert result == outcome(settings, right, left), (one, two, host)
        if isinstance(result, str):
            assert "rank 0 (host a, pid 100)" in result
            assert f"rank 1 (host {host}, pid 101)" in result
            continue
        assert result.why
        if settings.transport != "auto":
            assert result.transport == settings.transport
        elif host == "a":
            assert result == Pair("shm", "same host")
        elif settings.require:
            assert result.transport == settings.require
        if result.transport == "verbs":
            assert result.num_rails == min(len(mine.ports), len(theirs.ports)) > 0
            assert mine.link_layer == theirs.link_layer


def test_hosts_with_usable_ports_are_joined_by_verbs() -> None:
    assert choose_pair(Settings(), member(0, "a"), member(1, "b")) == Pair(
        "verbs", "both can use RDMA", 2
    )


@pytest.mark.parametrize(
    ("theirs", "why", "fell_back"),
    [
        ("down", "rank 1 cannot use RDMA: mlx5_0/1: the port is DOWN", True),
        ("nothing", "rank 1 cannot use RDMA: there is no RDMA device", True),
        ("infiniband", "the ports of rank 0 are Ethernet, those of rank 1 InfiniBand", True),
    ],
)
def test_what_keeps_hosts_from_verbs_is_the_reason_for_tcp(
    theirs: str, why: str, fell_back: bool
) -> None:
    pair = choose_pair(Settings(), member(0, "a"), member(1, "b", OFFERS[theirs]))
    assert (pair.transport, pair.fell_back) == ("tcp", fell_back)
    assert pair.why.startswith(why)


def test_without_devices_on_either_side_tcp_is_no_fall_back() -> None:
    none = OFFERS["nothing"]
    pair = choose_pair(Settings(), member(0, "a", none), member(1, "b", none))
    assert pair == Pair("tcp", "neither can use RDMA: there is no RDMA device")


@pytest.mark.parametrize(
    ("settings", "demand"),
    [
        (Settings(transport="verbs"), "RDMATRAIN_TRANSPORT=verbs"),
        (Settings(require="verbs"), "RDMATRAIN_REQUIRE=verbs"),
        (
            load_settings({}, {"require": "verbs"}, "the argument {}"),
            "the argument require=verbs",
        ),
    ],
)
def test_verbs_that_is_demanded_and_cannot_be_had_says_who_and_why(
    settings: Settings, demand: str
) -> None:
    with pytest.raises(BootstrapError) as caught:
        choose_pair(settings, member(0, "a"), member(3, "b", OFFERS["down"]))
    assert str(caught.value) == (
        f"{demand}, but it cannot join rank 0 (host a, pid 100) and rank 3 (host b, pid 103): "
        "rank 3 cannot use RDMA: mlx5_0/1: the port is DOWN"
    )


@pytest.mark.parametrize("settings", [Settings(transport="shm"), Settings(require="shm")])
def test_shm_between_hosts_is_refused(settings: Settings) -> None:
    with pytest.raises(BootstrapError, match=r"=shm, but rank 0 .* and rank 1 .* share no host"):
        choose_pair(settings, member(0, "a"), member(1, "b"))


@pytest.mark.parametrize("transport", ["verbs", "tcp"])
def test_a_transport_that_is_set_is_used_inside_a_host_too(transport: str) -> None:
    pair = choose_pair(Settings(transport=transport), member(0, "a"), member(1, "a"))
    assert (pair.transport, pair.why) == (transport, f"RDMATRAIN_TRANSPORT={transport}")


@pytest.mark.parametrize("require", REQUIRABLE)
def test_what_is_required_between_hosts_leaves_ranks_of_a_host_to_shm(require: str) -> None:
    pair = choose_pair(Settings(require=require), member(0, "a"), member(1, "a"))
    assert pair == Pair("shm", "same host")


@pytest.mark.parametrize(
    ("settings", "hosts", "needed"),
    [
        (Settings(), "aa", False),
        (Settings(), "ab", True),
        (Settings(require="verbs"), "ab", True),
        (Settings(require="verbs"), "aa", False),
        (Settings(require="tcp"), "ab", False),
        (Settings(transport="shm"), "ab", False),
        (Settings(transport="tcp"), "ab", False),
        (Settings(transport="verbs"), "aa", True),
        (Settings(transport="verbs"), "a", False),
    ],
)
def test_devices_are_looked_for_only_where_verbs_may_be_used(
    settings: Settings, hosts: str, needed: bool
) -> None:
    members = [member(rank, host, None) for rank, host in enumerate(hosts)]
    assert needs_offers(settings, members) == needed


@pytest.mark.parametrize(
    ("offers", "gbps"),
    [
        ([("a", offer(100.0)), ("b", offer(400.0))], 100.0),
        # Ports that two ranks of a host share carry as much as once.
        ([("a", offer(200.0)), ("a", offer(200.0)), ("b", offer(300.0))], 200.0),
        ([("a", offer(100.0)), ("a", offer(100.0, first=1)), ("b", offer(100.0, 150.0))], 200.0),
        ([("a", offer(0.0)), ("b", offer(25.0))], ASSUMED_GBPS),
        ([("a", offer(400.0)), ("b", OFFERS["down"])], 0.0),
        ([("a", OFFERS["nothing"]), ("b", offer(400.0))], 0.0),
        ([("a", OFFERS["nothing"]), ("b", OFFERS["nothing"])], 0.0),
        ([("a", offer(100.0)), ("a", OFFERS["down"]), ("b", offer(100.0))], 0.0),
        ([("a", offer(100.0)), ("b", OFFERS["infiniband"])], 0.0),
        ([("a", OFFERS["infiniband"]), ("b", OFFERS["infiniband"])], 400.0),
        ([("a", None), ("b", None)], 0.0),
    ],
)
def test_hosts_carry_over_verbs_what_the_slowest_does_where_all_have_it(
    offers: list[tuple[str, Offer | None]], gbps: float
) -> None:
    members = [member(rank, host, each) for rank, (host, each) in enumerate(offers)]
    assert host_gbps(members) == gbps
    joined = {
        choose_pair(Settings(), *pair).transport for pair in itertools.combinations(members, 2)
    }
    assert (gbps > 0) == (joined <= {"shm", "verbs"})


def test_the_log_line_says_what_joins_whom_and_why() -> None:
    verbs = Pair("verbs", "both can use RDMA", 1)
    pairs = [Pair("self", ""), Pair("shm", "same host"), verbs, verbs]
    assert describe(pairs, 0, [rail("rxe0"), rail("rxe1")]) == (
        "rank 0 of 4: shm to rank 1 (same host); "
        "verbs to ranks 2, 3 (rxe0/1 gid 1 RoCE v2 10.0.0.1 MTU 4096; both can use RDMA)"
    )
    assert describe([Pair("self", "")], 0, []) == "rank 0 of 1: no peers"


def test_the_log_line_of_a_large_group_is_short() -> None:
    none = OFFERS["nothing"]
    members = [member(rank, f"h{rank // 4}", none) for rank in range(512)]
    pairs = [choose_pair(Settings(), members[5], other) for other in members]
    assert describe(pairs, 5, []) == (
        "rank 5 of 512: shm to ranks 4, 6, 7 (same host); "
        "tcp to ranks 0 to 3, 8 to 511 (neither can use RDMA: there is no RDMA device)"
    )
