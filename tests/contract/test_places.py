"""Data that goes straight into the receiver's array: what was copied on the way, and failures."""

import time

import numpy as np
import pytest
from group import CALL_S, call, in_arena
from oracle import assert_same_bits, inputs, reduced, values

from rdmatrain import _core
from rdmatrain.errors import CommError

NEVER = 1 << 62
N = 50_003  # elements of 4 bytes in a shard: several chunks, the last one short
MEMORIES = {"arena": in_arena, "heap": np.copy}
COUNTERS = ("sent_bytes", "received_bytes", "staged_bytes")


def counts(comm, rank):
    """The counters of all peers together; what the own entry says is not among them."""
    stats = comm.stats()
    assert [stats[rank][name] for name in COUNTERS] == [0, 0, 0]
    assert stats[rank]["transport"] == "self"
    return {name: sum(peer[name] for peer in stats) for name in COUNTERS}


def operations(p):
    """By name: what a rank does with (comm, rank, home), which gives (got, want)."""
    totals = np.concatenate(inputs("int32", p, N))

    def all_reduce(comm, rank, home):
        data = home(values("float32", rank, p * N))
        call(comm, "all_reduce", "float32", out=data)
        return data, reduced("float32", "SUM", inputs("float32", p, p * N))

    def all_gather(comm, rank, home):
        out = home(np.zeros(p * N, np.int32))
        call(comm, "all_gather", "int32", in_=home(values("int32", rank, N)), out=out)
        return out, totals

    def broadcast(comm, rank, home):
        data = home(values("int32", rank, N))
        call(comm, "broadcast", "int32", out=data, peer=1)
        return data, values("int32", 1, N)

    def all_to_all(comm, rank, home):
        out = home(np.zeros(p * N, np.int32))
        call(comm, "all_to_all", "int32", in_=home(values("int32", rank, p * N)), out=out)
        parts = inputs("int32", p, p * N)
        return out, np.concatenate([part[rank * N : (rank + 1) * N] for part in parts])

    def scatter(comm, rank, home):
        given = home(values("int32", 0, p * N)) if rank == 0 else None
        out = home(np.zeros(N, np.int32))
        call(comm, "scatter", "int32", in_=given, out=out)
        return out, values("int32", 0, p * N)[rank * N : (rank + 1) * N]

    def gather(comm, rank, home):
        out = home(np.zeros(p * N, np.int32)) if rank == 1 else None
        call(comm, "gather", "int32", in_=home(values("int32", rank, N)), out=out, peer=1)
        return (out, totals) if rank == 1 else (np.zeros(0), np.zeros(0))

    def send_recv(comm, rank, home):
        out, left = home(np.zeros(N, np.int32)), (rank - 1) % p
        work = comm.post("recv", "int32", out=out, peer=left, timeout=CALL_S)
        call(comm, "send", "int32", in_=home(values("int32", rank, N)), peer=(rank + 1) % p)
        work.wait()
        return out, values("int32", left, N)

    bodies = (all_reduce, all_gather, broadcast, all_to_all, scatter, gather, send_recv)
    return {body.__name__: body for body in bodies}


def moved(p, name):
    """Bytes of data that all ranks send together, by the table in plan.h."""
    whole = {"all_reduce": 2 * (p - 1) * p, "send_recv": p}
    shards = {"all_gather": p * (p - 1), "all_to_all": p * (p - 1)}
    return {**whole, **shards}.get(name, p - 1) * N * 4


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("name", operations(2))
@pytest.mark.parametrize("p", [2, 3])
@pytest.mark.parametrize("place", [0, NEVER], ids=["placed", "slots"])
def test_nothing_is_staged_over_tcp_where_data_is_placed(connect, memory, name, p, place):
    tuning = {"place": place, "chunk": 65536, "one_shot": 0}
    group = connect("tcp-arena-place", p, tuning=tuning)

    def body(comm, rank):
        got, want = operations(p)[name](comm, rank, MEMORIES[memory])
        call(comm, "barrier")  # every rank has sent, and taken, its last byte
        assert_same_bits(got, want, f"{name}, rank {rank}")
        return counts(comm, rank)

    ranks = group.run(body)
    total = {key: sum(rank[key] for rank in ranks) for key in COUNTERS}
    assert total["sent_bytes"] == total["received_bytes"] == moved(p, name)
    # An all_reduce reads what arrives for reduction where it lies, placed or not.
    through_slots = moved(p, name) // (2 if name == "all_reduce" else 1)
    assert total["staged_bytes"] == (0 if place == 0 else through_slots)


def staged_by_verbs(name, memory, place):
    """Times that the CPU copies a byte of data, on the mean over all messages of the operation."""
    if memory == "arena" and place == 0:
        return 0
    sender = memory == "heap"  # the NIC reads what lies in the arena
    if name == "all_reduce":  # half of it is read where it arrived, by the reduction
        return sender + 0.5
    return sender + 1


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("name", operations(2))
@pytest.mark.parametrize("p", [2, 3])
@pytest.mark.parametrize("place", [0, NEVER], ids=["placed", "slots"])
def test_nothing_in_the_arena_is_staged_over_verbs(connect, memory, name, p, place):
    _core.arena_open()
    group = connect("verbs-fake", p, tuning={"place": place, "chunk": 65536, "one_shot": 0})

    def body(comm, rank):
        got, want = operations(p)[name](comm, rank, MEMORIES[memory])
        call(comm, "barrier")
        assert_same_bits(got, want, f"{name}, rank {rank}")
        return counts(comm, rank)

    ranks = group.run(body)
    total = {key: sum(rank[key] for rank in ranks) for key in COUNTERS}
    assert total["sent_bytes"] == total["received_bytes"] == moved(p, name)
    assert total["staged_bytes"] == staged_by_verbs(name, memory, place) * moved(p, name)


def test_a_broadcast_in_parts_is_not_staged_either(connect):
    group = connect("tcp-arena-place", 4, tuning={"scatter": 0, "chunk": 4096})

    def body(comm, rank):
        got, want = operations(4)["broadcast"](comm, rank, np.copy)
        call(comm, "barrier")
        assert_same_bits(got, want, f"rank {rank}")
        return counts(comm, rank)

    ranks = group.run(body)
    assert sum(rank["staged_bytes"] for rank in ranks) == 0
    assert sum(rank["received_bytes"] for rank in ranks) == 3 * N * 4
    assert ranks[0]["sent_bytes"] > 0  # of what the root, rank 1, sent in parts


def test_shm_stages_what_goes_through_its_slots(connect):
    def body(comm, rank):
        operations(2)["all_gather"](comm, rank, np.copy)
        return counts(comm, rank)

    for rank in connect("shm", 2).run(body):  # once into a slot, once out of one
        assert rank == {"sent_bytes": N * 4, "received_bytes": N * 4, "staged_bytes": 2 * N * 4}


@pytest.mark.parametrize("place", [65536, 65540])
def test_the_switch_is_at_the_bytes_of_one_stream(connect, place):
    group = connect("tcp", 2, tuning={"place": place})

    def body(comm, rank):
        out = np.zeros(2 * 16384, np.int32)
        call(comm, "all_gather", "int32", in_=values("int32", rank, 16384), out=out)
        assert_same_bits(out, np.concatenate(inputs("int32", 2, 16384)), f"rank {rank}")
        return counts(comm, rank)["staged_bytes"]

    assert group.run(body) == [0 if place == 65536 else 65536] * 2


@pytest.mark.parametrize("transport", ["tcp-arena-place", "fake-delay-place"])
def test_more_recvs_than_there_are_places_at_once(connect, transport):
    num, n = 200, 5000  # of 20 KB: none comes along with its announcement

    def body(comm, rank):
        outs = [np.zeros(n, np.int32) for _ in range(num)]
        recvs = [
            comm.post("recv", "int32", out=out, peer=1 - rank, tag=i, timeout=CALL_S)
            for i, out in enumerate(outs)
        ]
        given = [values("int32", rank, n, i) for i in range(num)]
        sends = [
            comm.post("send", "int32", in_=given[i], peer=1 - rank, tag=i, timeout=CALL_S)
            for i in reversed(range(num))
        ]
        for work in [*recvs, *sends]:
            work.wait()
        for i, out in enumerate(outs):
            assert_same_bits(out, values("int32", 1 - rank, n, i), f"recv {i}, rank {rank}")

    connect(transport, 2).run(body)


def test_what_is_still_put_after_a_failure_reaches_nobody(connect):
    """Rank 0 loses rank 2 or 1, and the other one goes on putting until it hears of it."""
    failed = 0
    for fail in range(1, 25):
        scripts = [
            f"delay=9,seed={fail},place=1" + f",fail={fail}" * (rank == 0) for rank in range(3)
        ]
        group = connect("fake", 3, scripts=scripts, tuning={"place": 0, "chunk": 4096})

        def body(comm, rank):
            out = np.zeros(3 * N, np.int32)
            try:
                call(comm, "all_gather", "int32", in_=values("int32", rank, N), out=out)
            except CommError:
                out[:] = 99
                time.sleep(0.02)
                assert np.all(out == 99), "a peer wrote to what was given back"
                return True
            return False

        failed += sum(group.run(body))
    assert failed > 24, "hardly anything failed"
