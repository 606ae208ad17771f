"""How a group forms, and how it does not: strangers, other groups, other sizes, nobody."""

import os
import socket
import struct
import time

import numpy as np
import pytest
from group import CONNECT_S, LISTENS, LOOPBACK, call, results, run_threads
from oracle import assert_same_bits, inputs, reduced, values

from rdmatrain import _core
from rdmatrain.errors import CommError, CommTimeoutError

TOKEN = b"a token of group"
OTHER_TOKEN = b"and another one!"
SOON_S = 5.0


@pytest.fixture
def connect_each(real_transport):
    """Connects ranks that were set up each in its own way; gives how it ended, and closes them."""

    def run(settings, timeout=CONNECT_S):
        (listen,) = LISTENS[real_transport]
        comms = [_core.Comm(rank, **setting) for rank, setting in enumerate(settings)]
        wires = [comm.listen(*listen) for comm in comms]
        wires += wires[-1:] * 8  # ranks that only a wrong world size knows

        def body(rank, world):
            peers = [(listen[0], wires[other], f"thread {other}") for other in range(world)]
            comms[rank].connect(peers, timeout)

        bodies = [lambda r=r, s=s: body(r, s["world"]) for r, s in enumerate(settings)]
        outcomes = run_threads(bodies)
        for comm in comms:
            comm.close()
        return outcomes

    return run


def open_junk(wires, junk):
    """Strangers who connect to tcp listeners, say something and stay."""
    strangers = []
    for wire in wires:
        port = struct.unpack(">H", wire[2:4])[0]
        strangers.append(socket.create_connection((LOOPBACK, port), timeout=5))
        strangers[-1].sendall(junk)
    return strangers


def test_a_rank_of_another_group_is_refused_and_named(connect_each):
    settings = [{"world": 2, "token": TOKEN}, {"world": 2, "token": OTHER_TOKEN}]
    outcomes = connect_each(settings, timeout=1.0)
    for rank, outcome in enumerate(outcomes):
        assert isinstance(outcome.error, CommError), outcome
        assert f"rank {1 - rank}" in str(outcome.error)
        assert outcome.seconds < SOON_S


@pytest.mark.parametrize("worlds", [(3, 2), (2, 3)])
def test_world_sizes_that_differ_are_named_on_both_ranks(connect_each, worlds):
    outcomes = connect_each([{"world": world, "token": TOKEN} for world in worlds], timeout=2.0)
    for outcome in outcomes:
        assert isinstance(outcome.error, CommError), outcome
        assert f"rank 0 has world size {worlds[0]}" in str(outcome.error) or (
            f"rank 1 has world size {worlds[1]}" in str(outcome.error)
        )
        assert outcome.error.status == "PEER_REFUSED"


def test_chunk_sizes_that_differ_are_named_on_both_ranks(connect_each):
    sizes = (4096, 8192)
    settings = [{"world": 2, "token": TOKEN, "tuning": {"chunk": size}} for size in sizes]
    for outcome in connect_each(settings):
        assert isinstance(outcome.error, CommError), outcome
        assert "4096" in str(outcome.error)
        assert "8192" in str(outcome.error)


def test_a_rank_that_does_not_come_is_named_by_the_timeout(connect, transport):
    if "-lazy" in transport:
        pytest.skip("lazy ranks connect later: see test_lazy.py")
    group = connect(transport, 3, connected=False)

    def body(comm, rank):
        if rank != 1:
            comm.connect(group.peers(rank), 0.5)

    outcomes = group.outcomes(body)
    for rank in (0, 2):
        assert isinstance(outcomes[rank].error, CommTimeoutError), outcomes[rank]
        assert outcomes[rank].error.status == "CONNECT_TIMEOUT"
        assert outcomes[rank].seconds < SOON_S
        assert "rank 1" in str(outcomes[rank].error)


def test_a_rank_whose_listener_is_gone_is_named(real_transport, connect):
    group = connect(real_transport, 2, connected=False)
    peers = group.peers(1)
    group.comms[0].close()
    with pytest.raises(CommError, match="connecting to rank 0") as caught:
        group.comms[1].connect(peers, 2.0)
    assert caught.value.status == "PEER_REFUSED"


@pytest.mark.parametrize(
    "junk",
    [b"", b"x", b"GET / HTTP/1.1\r\n\r\n", os.urandom(64), b"\0" * 100_000],
    ids=["silent", "byte", "http", "random", "long"],
)
def test_strangers_who_call_before_the_ranks_do_not_disturb(connect, junk):
    group = connect("tcp", 3, connected=False)
    strangers = open_junk([group.peers(rank)[rank][1] for rank in range(3)], junk)

    def body(comm, rank):
        comm.connect(group.peers(rank), CONNECT_S)
        data = values("float32", rank, 1000).copy()
        call(comm, "all_reduce", "float32", out=data)
        return data

    want = reduced("float32", "SUM", inputs("float32", 3, 1000))
    for rank, got in enumerate(group.run(body)):
        assert_same_bits(got, want, f"rank {rank}")
    for stranger in strangers:
        stranger.close()


@pytest.mark.parametrize("transport", ["tcp", "tcp-lazy"])
def test_strangers_who_call_a_running_group_do_not_disturb(connect, transport):
    group = connect(transport, 2)
    strangers = open_junk([group.peers(rank)[rank][1] for rank in range(2)], os.urandom(500))

    def body(comm, rank):
        for i in range(20):
            data = values("float32", rank, 1000, i).copy()
            call(comm, "all_reduce", "float32", out=data)
            assert_same_bits(data, reduced("float32", "SUM", inputs("float32", 2, 1000, i)), f"{i}")

    group.run(body)
    for stranger in strangers:
        stranger.close()


def test_ranks_may_connect_at_very_different_times(group):
    ranks = group(3, connected=False)

    def body(comm, rank):
        time.sleep(0.3 * (2 - rank))
        comm.connect(ranks.peers(rank), CONNECT_S)
        call(comm, "barrier")
        return [comm.transport(peer) for peer in range(3)]

    for rank, names in enumerate(ranks.run(body)):
        assert names[rank] == "self"
        assert set(names) <= {"self", "shm", "tcp", "verbs", "fake"}


def test_two_groups_of_one_process_do_not_mix(group):
    groups = [group(2), group(2)]

    def body(which, rank):
        data = np.full(1000, 10.0 * which + rank, np.float32)
        for _ in range(10):
            call(groups[which].comms[rank], "all_reduce", "float32", "MAX", out=data)
        return data

    bodies = [lambda w=w, r=r: body(w, r) for w in range(2) for r in range(2)]
    for index, data in enumerate(results(run_threads(bodies))):
        assert np.all(data == 10.0 * (index // 2) + 1)
