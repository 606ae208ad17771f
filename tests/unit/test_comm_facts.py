"""Programs are told what queue pairs use; the log says where that is not the first choice."""

import json
import logging
from ipaddress import IPv6Address
from itertools import count
from typing import Any

import pytest

from rdmatrain.comm.facts import facts_of, log_rechoice, peers_of
from rdmatrain.comm.pairs import Pair
from rdmatrain.comm.rdma import Rail
from rdmatrain.discovery.model import Gid, Port

NUMBERS = count(1000)
PAIRS = [Pair("self", ""), Pair("shm", "same host"), Pair("verbs", "both can use RDMA", 2)]
COUNTERS = {"sent_bytes": 7, "received_bytes": 8, "staged_bytes": 9}
IPV4, IPV6 = "::ffff:10.0.0.1", "2001:db8::1"
FIRST = [
    "mlx5_0/1 gid 1 RoCE v2 10.0.0.1 MTU 4096",
    "mlx5_2/1 gid 1 RoCE v2 10.0.0.1 MTU 4096",
]


def rail(device: str) -> Rail:
    gids = (Gid(1, "10.0.0.1", "RoCE v2", "eth1"), Gid(3, "fd00::1", "RoCE v2", "eth1"))
    return Rail(Port(device, 1, "ACTIVE", "Ethernet", ()), gids, 4096, 100.0)


def told(number: int | None = None) -> dict[str, Any]:
    """Of a rank with three ports, as it is kept."""
    number = next(NUMBERS) if number is None else number
    rails = [rail(device) for device in ("mlx5_0", "mlx5_2", "mlx5_4")]
    facts: dict[str, Any] = json.loads(json.dumps(facts_of(PAIRS, rails, number)))
    return facts


def way(index: int, address: str, mtu: int = 4096) -> dict[str, Any]:
    gid = IPv6Address(address).packed
    return {"gid_index": index, "mtu": mtu, "gid": gid, "peer_gid": gid[:-1] + b"\x02"}


def far(*rails: dict[str, Any]) -> dict[str, Any]:
    """What is told of rank 2, which has joined over these rails."""
    near, peer = peers_of(told(), lambda rank: COUNTERS | {"rails": rails if rank == 2 else ()})
    assert (near["rank"], peer["rank"]) == (1, 2)
    return peer


def test_a_pair_without_rdma_has_no_port() -> None:
    near, _ = peers_of(told(), lambda _: COUNTERS | {"rails": []})
    assert near == COUNTERS | {
        "rank": 1,
        "transport": "shm",
        "why": "same host",
        "fell_back": False,
        "device": None,
        "gid_index": None,
        "rails": [],
    }


def test_before_two_have_joined_it_is_what_they_try_first() -> None:
    peer = far()
    assert (peer["device"], peer["gid_index"], peer["rails"]) == ("mlx5_0/1", 1, FIRST)
    assert peer["sent_bytes"] == 7


def test_after_that_it_is_what_they_use() -> None:
    peer = far(way(3, IPV6, 1024), way(1, IPV4, 2048))
    assert (peer["device"], peer["gid_index"]) == ("mlx5_0/1", 3)
    assert peer["rails"] == [
        "mlx5_0/1 gid 3 RoCE v2 2001:db8::1 MTU 1024",
        "mlx5_2/1 gid 1 RoCE v2 10.0.0.1 MTU 2048",
    ]


def test_another_gid_than_the_first_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    number = next(NUMBERS)
    with caplog.at_level(logging.INFO, "rdmatrain"):
        for _ in range(3):
            log_rechoice(told(number), 1, [])
            log_rechoice(told(number), 2, [])
            log_rechoice(told(number), 2, [way(1, IPV4, 512), way(3, IPV6)])
        log_rechoice(told(), 2, [way(1, IPV4)])
    assert caplog.messages == [
        "rank 0 of 3: to rank 2 verbs goes over mlx5_2/1 gid 3 2001:db8::1 to its 2001:db8::2, "
        "not gid 1 10.0.0.1: the two use the first pair of GIDs that works from both"
    ]


def test_who_asks_for_the_facts_has_it_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Of ranks that join when they first need each other."""
    with caplog.at_level(logging.INFO, "rdmatrain"):
        far(way(3, IPV6), way(3, IPV6))
    (line,) = caplog.messages
    assert line.count("not gid 1 10.0.0.1") == 2
