"""Ranks that are connected when they first need each other, and what that changes."""

import contextlib
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import wire_peer
from group import DEVICE, LISTENS, LOOPBACK, TRANSPORTS, call, on_fake, run_threads
from oracle import assert_same_bits, inputs, reduced, values

from rdmatrain import _core
from rdmatrain.errors import CommError, CommTimeoutError

SOON_S = 3.0
COUNT = 100


@pytest.fixture(params=[name for name in TRANSPORTS if name.endswith("-lazy")])
def lazy(request):
    return request.param


def num_sockets():
    """Of this process, and so two for each pair of ranks that is connected."""
    links = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sum(link.startswith("socket:") for link in links)


def check_sockets(expected):
    """A call that was turned away is closed soon, not at once."""
    deadline = time.monotonic() + SOON_S
    while num_sockets() != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    assert num_sockets() == expected


def exchange(comm, rank, sender, receiver, tag=0):
    """One message from one rank to another, which is checked; the others do nothing."""
    if rank == sender:
        call(comm, "send", "int32", in_=values("int32", sender, COUNT, tag), peer=receiver, tag=tag)
    if rank == receiver:
        got = np.zeros(COUNT, np.int32)
        call(comm, "recv", "int32", out=got, peer=sender, tag=tag)
        assert_same_bits(got, values("int32", sender, COUNT, tag), f"from {sender}")


def test_only_ranks_that_exchange_something_are_connected(connect, lazy):
    group = connect(lazy, 8)
    before = num_sockets()
    group.run(lambda comm, rank: exchange(comm, rank, 2, 5))
    check_sockets(before + 2)
    group.run(lambda comm, rank: exchange(comm, rank, 5, 2))
    check_sockets(before + 2)
    group.run(lambda comm, rank: exchange(comm, rank, 7, 0))
    check_sockets(before + 4)


@pytest.mark.parametrize("coll", ["all_reduce", "all_gather"])
def test_what_is_small_connects_log_n_ranks_to_each(connect, lazy, coll):
    log = 3 if DEVICE else 5
    world = 1 << log
    group = connect(lazy, world, tuning={"way": 3}, hosts=list(range(world)))
    before = num_sockets()
    reduces = coll == "all_reduce"
    shares = inputs("float32", world, COUNT)

    def body(comm, rank):
        out = shares[rank].copy() if reduces else np.zeros(world * COUNT, np.float32)
        call(comm, coll, "float32", out=out, **({} if reduces else {"in_": shares[rank]}))
        return out

    want = reduced("float32", "SUM", shares) if reduces else np.concatenate(shares)
    for rank, got in enumerate(group.run(body)):
        assert_same_bits(got, want, f"rank {rank}")
    # To 1, 2, 4 and so on further on, and from there; the last of these are the same.
    check_sockets(before + world * (2 * log - 1))


# What DDP does at its start, and then: shapes of all, the model, gradients; and what FSDP does.
def test_training_in_levels_connects_only_members_of_levels(connect, lazy):
    side = 3 if DEVICE else 4
    world = side * side
    group = connect(lazy, world, hosts=list(range(world)), tuning={"way": 4})
    before = num_sockets()

    def body(comm, rank):
        model, gradient = values("int32", rank, 100_000).copy(), np.full(100_000, rank, np.int32)
        call(comm, "broadcast", "int32", out=model, peer=1)
        call(comm, "all_reduce", "int32", out=gradient)
        call(comm, "barrier")
        whole, shard = np.zeros(world * 1000, np.int32), np.zeros(1000, np.int32)
        call(comm, "all_gather", "int32", in_=values("int32", rank, 1000), out=whole)
        call(comm, "reduce_scatter", "int32", in_=np.full(world * 1000, rank, np.int32), out=shard)
        return model, gradient, whole, shard

    everything = np.concatenate(inputs("int32", world, 1000))
    for rank, (model, gradient, whole, shard) in enumerate(group.run(body)):
        assert_same_bits(model, values("int32", 1, 100_000), f"rank {rank}")
        assert_same_bits(whole, everything, f"rank {rank}")
        assert (gradient == world * (world - 1) // 2).all()
        assert (shard == world * (world - 1) // 2).all()
    check_sockets(before + world * 2 * (side - 1))


@pytest.mark.parametrize(("sender", "receiver"), [(0, 1), (1, 0)])
def test_a_send_is_over_before_its_recv_is_called(connect, lazy, sender, receiver):
    group = connect(lazy, 2)
    sent = threading.Event()

    def body(comm, rank):
        if rank == receiver:
            assert sent.wait(SOON_S)
        exchange(comm, rank, sender, receiver)
        sent.set()

    group.run(body)


def test_two_ranks_who_call_each_other_at_once_have_one_connection(connect, lazy):
    for turn in range(20):
        group = connect(lazy, 4)
        before = num_sockets()

        def body(comm, rank, turn=turn):
            other = rank ^ 1
            got = np.zeros(COUNT, np.int32)
            work = comm.post("recv", "int32", out=got, peer=other, timeout=10.0)
            call(comm, "send", "int32", in_=values("int32", rank, COUNT, turn), peer=other)
            work.wait()
            assert_same_bits(got, values("int32", other, COUNT, turn), f"turn {turn}")

        group.run(body)
        check_sockets(before + 4)
        group.close()


def test_a_rank_that_left_is_not_missed_by_those_who_did_not_need_it(connect, lazy):
    group = connect(lazy, 4)
    gone = threading.Event()

    def body(comm, rank):
        exchange(comm, rank, 3, 2, tag=1)
        if rank == 3:
            comm.close()
            gone.set()
            return
        assert gone.wait(SOON_S)
        for tag in range(5):
            exchange(comm, rank, 0, 1, tag)
            exchange(comm, rank, 1, 2, tag)

    group.run(body)


@pytest.mark.parametrize("what", ["send", "recv", "all_reduce"])
@pytest.mark.parametrize(("me", "gone"), [(0, 1), (1, 0)])
def test_a_rank_that_has_gone_is_named_soon_by_who_needs_it(connect, lazy, what, me, gone):
    group = connect(lazy, 2)
    group.comms[gone].close()
    data = np.zeros(COUNT, np.int32)
    where = {"in_" if what == "send" else "out": data}
    if what != "all_reduce":
        where["peer"] = gone
    began = time.monotonic()
    with pytest.raises(CommError, match=f"rank {gone} .*could not be reached") as caught:
        call(group.comms[me], what, "int32", **where)
    assert time.monotonic() - began < SOON_S
    assert caught.value.status == "PEER_REFUSED"
    assert "refused" in str(caught.value)


@pytest.mark.parametrize(("me", "absent"), [(0, 1), (1, 0)])
def test_a_rank_that_never_answers_ends_in_the_calls_timeout(connect, lazy, me, absent):
    group = connect(lazy, 2, connected=False)  # it listens, but looks at no caller
    group.comms[me].connect(group.peers(me), 5.0)
    with pytest.raises(CommTimeoutError, match=f"rank {absent}|from rank {absent}"):
        call(group.comms[me], "all_reduce", out=np.zeros(8, np.uint8), timeout=0.5)


def test_closing_while_a_peer_is_called_ends_the_work_at_once(connect, lazy):
    group = connect(lazy, 2, connected=False)
    group.comms[1].connect(group.peers(1), 5.0)
    work = group.comms[1].post("recv", out=np.zeros(8, np.uint8), peer=0, timeout=30.0)
    outcomes = run_threads([lambda: work.wait(), lambda: (time.sleep(0.3), group.comms[1].close())])
    assert isinstance(outcomes[0].error, CommError)
    assert outcomes[0].error.status == "CLOSED"
    assert outcomes[1].seconds < SOON_S


@pytest.mark.parametrize("late", [0, 2])
def test_a_rank_that_comes_late_hears_what_failed(connect, lazy, late):
    """The others fail before they have ever met it, and tell it when it comes."""
    group = connect(lazy, 3)
    others = [rank for rank in range(3) if rank != late]
    failed = threading.Barrier(3)

    def body(comm, rank):
        if rank == late:
            failed.wait(10)
            began = time.monotonic()
            with pytest.raises(CommError) as caught:
                call(comm, "recv", "int32", out=np.zeros(COUNT, np.int32), peer=others[0])
            return time.monotonic() - began, str(caught.value)
        other = next(r for r in others if r != rank)
        with pytest.raises(CommError):  # its own timeout, or the other's
            call(comm, "recv", out=np.zeros(8, np.uint8), peer=other, timeout=0.3)
        return failed.wait(10)

    seconds, text = group.run(body)[late]
    assert f"rank {others[0]} reports" in text
    assert "did not finish within its timeout" in text
    assert seconds < SOON_S


def test_ranks_that_were_set_up_otherwise_are_named_when_they_meet():
    chunks = ({}, {"chunk": 4096})
    token = os.urandom(16)
    comms = [_core.Comm(rank, 2, token, tuning=c, lazy=True) for rank, c in enumerate(chunks)]
    peers = [("tcp", comm.listen("tcp", LOOPBACK), "thread") for comm in comms]

    def body(comm):
        comm.connect(peers, 5.0)
        call(comm, "all_reduce", out=np.zeros(8, np.uint8), timeout=5.0)

    outcomes = run_threads([lambda c=comm: body(c) for comm in comms])
    for outcome in outcomes:
        assert isinstance(outcome.error, CommError)
        assert "4096" in str(outcome.error), outcome.error
    for comm in comms:
        comm.close()


def test_strangers_do_not_keep_ranks_from_meeting(connect, lazy):
    group = connect(lazy, 4)
    wires = [group.peers(rank)[rank][1] for rank in range(4)]
    socks = [wire_peer.dial(wire) for wire in wires for _ in range(20)]
    for sock in socks[::2]:
        sock.sendall(os.urandom(100))

    def body(comm, rank):
        data = values("float32", rank, COUNT).copy()
        call(comm, "all_reduce", "float32", out=data)
        return data

    began = time.monotonic()
    want = reduced("float32", "SUM", inputs("float32", 4, COUNT))
    for rank, got in enumerate(group.run(body)):
        assert_same_bits(got, want, f"rank {rank}")
    assert time.monotonic() - began < SOON_S
    for sock in socks:
        sock.close()


def test_a_device_that_died_before_two_ranks_met_is_what_they_hear(connect, monkeypatch):
    """All ranks of a process have the same device: it dies of the first message."""
    listens = [("verbs", on_fake("fake0/1/1", "event=DEVICE_FATAL@1"))]
    monkeypatch.setitem(LISTENS, "verbs-dying-lazy", listens)
    group = connect("verbs-dying-lazy", 4)
    died = threading.Event()

    def body(comm, rank):
        if rank < 2:
            with contextlib.suppress(CommError):
                exchange(comm, rank, 0, 1)
            time.sleep(0.2)
            died.set()
        else:
            assert died.wait(SOON_S)
            exchange(comm, rank, 2, 3)

    for outcome in group.outcomes(body)[2:]:
        assert isinstance(outcome.error, CommError), outcome.error
        assert "catastrophic" in str(outcome.error) or "could not be reached" in str(outcome.error)
        assert outcome.error.status != "NO_MEMORY"


def test_a_rank_meets_as_many_as_its_completion_queue_has_room_for(connect, monkeypatch):
    listens = [("verbs", on_fake("fake0/1/1", "max_cqe=250"))]
    monkeypatch.setitem(LISTENS, "verbs-small-lazy", listens)
    group = connect("verbs-small-lazy", 4)
    full = threading.Barrier(2)  # of ranks 0 and 3, which would call rank 0 at once

    def body(comm, rank):
        for peer in (1, 2):
            exchange(comm, rank, 0, peer)
        if rank in {0, 3}:
            full.wait(SOON_S)
        exchange(comm, rank, 0, 3)

    errors = [outcome.error for outcome in group.outcomes(body)]
    assert errors[1] is errors[2] is None
    assert isinstance(errors[0], MemoryError)
    assert "room for 2 peers" in str(errors[0])
    assert isinstance(errors[3], CommError)
