"""Closing, dropping and repeating: nothing hangs, nothing is left."""

import gc
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from group import CALL_S, Group, call, results, run_threads
from oracle import assert_same_bits, inputs, reduced, values

from rdmatrain import _core
from rdmatrain.errors import CommError

SOON_S = 5.0


# Who runs the tests may have threads of its own.
WITHOUT_RANKS = threading.active_count()


def in_use():
    """Descriptors and threads of this process, and what is in /dev/shm."""
    gc.collect()
    with os.scandir("/proc/self/fd") as entries:  # a snapshot: it counts its own descriptor
        descriptors = len(list(entries))
    shm = sorted(path.name for path in Path("/dev/shm").iterdir())
    return descriptors, len(list(Path("/proc/self/task").iterdir())), shm


def settled():
    """In use, once threads that have just ended are gone."""
    for _ in range(100):
        if threading.active_count() <= WITHOUT_RANKS:
            break
        time.sleep(0.01)
    return in_use()


def use(group):
    def body(comm, rank):
        data = values("float32", rank, 5000).copy()
        call(comm, "all_reduce", "float32", out=data)
        other = {"peer": 1 - rank} if rank < 2 else None
        if other is not None:
            work = comm.post("recv", "float32", out=np.zeros(9, "f4"), timeout=CALL_S, **other)
            call(comm, "send", "float32", in_=np.ones(9, "f4"), **other)
            work.wait()

    group.run(body)


def test_nothing_is_left_of_groups_that_were_used_and_closed(transport):
    before = None
    for turn in range(6):
        group = Group(transport, 3)
        use(group)
        group.close()
        if turn == 1:
            before = settled()
    assert settled() == before


@pytest.mark.parametrize("how", ["dropped", "failed", "unconnected", "listening"])
def test_nothing_is_left_of_groups_that_ended_otherwise(transport, how):
    def cycle():
        group = Group(transport, 3, connected=how not in ("unconnected", "listening"))
        if how == "failed":
            fail = {"timeout": CALL_S}
            group.outcomes(
                lambda comm, rank: call(comm, "broadcast", out=bytearray(5 + rank), **fail)
            )
        if how == "unconnected":
            group.outcomes(lambda comm, rank: rank < 2 and comm.connect(group.peers(rank), 0.05))
        if how != "dropped":
            group.close()

    for _ in range(2):
        cycle()
    before = settled()
    for _ in range(3):
        cycle()
    assert settled() == before


def test_memory_does_not_grow_with_the_number_of_works(group):
    def resident_pages():
        return int(Path("/proc/self/statm").read_text("ascii").split()[1])

    def body(comm, rank):
        data = np.zeros(10, np.float32)
        for _ in range(2000):
            call(comm, "all_reduce", "float32", out=data)

    ranks = group(2)
    ranks.run(body)
    before = resident_pages()
    ranks.run(body)
    assert resident_pages() - before < 256  # 1 MiB; 4000 works of 800 bytes would be 3 MiB


def test_a_communicator_may_be_closed_twice_and_by_several_threads(group):
    ranks = group(2)
    bodies = [comm.close for comm in ranks.comms * 3]
    results(run_threads(bodies))
    ranks.close()


def test_closing_fails_the_works_that_are_pending_in_other_threads(group):
    ranks = group(2)
    comm = ranks.comms[0]

    def wait():
        call(comm, "all_reduce", "float32", out=np.zeros(100, "f4"))

    def receive():
        call(comm, "recv", "float32", out=np.zeros(100, "f4"), peer=1)

    def close():
        time.sleep(0.2)
        comm.close()

    outcomes = run_threads([wait, receive, receive, close])
    assert outcomes[3].error is None
    for outcome in outcomes[:3]:
        assert isinstance(outcome.error, CommError), outcome
        assert outcome.error.status == "CLOSED"
        assert "closed" in str(outcome.error)
        assert outcome.seconds < SOON_S


def test_a_work_outlives_its_communicator(group):
    ranks = group(2)
    work = ranks.comms[0].post("barrier", timeout=CALL_S)
    ranks.close()
    assert work.done()
    with pytest.raises(CommError) as caught:
        work.wait()
    assert caught.value.status == "CLOSED"
    del ranks


def test_closing_while_another_thread_connects_ends_both(transport):
    if "-lazy" in transport:
        pytest.skip("lazy ranks connect later: see test_lazy.py")
    group = Group(transport, 2, connected=False)
    comm, peers = group.comms[1], group.peers(1)

    def close():
        time.sleep(0.2)
        comm.close()

    outcomes = run_threads([lambda: comm.connect(peers, 1.0), close])
    assert isinstance(outcomes[0].error, CommError)
    assert outcomes[1].error is None
    assert outcomes[1].seconds < SOON_S
    group.close()


def test_works_that_are_dropped_without_waiting_are_still_done(group):
    def body(comm, rank):
        data = [values("float32", rank, n, n).copy() for n in (10, 65537, 1000)]
        for buffer in data:
            comm.post("all_reduce", "float32", out=buffer, timeout=CALL_S)
        call(comm, "barrier")
        return data

    for rank, data in enumerate(group(3).run(body)):
        for got, n in zip(data, (10, 65537, 1000), strict=True):
            want = reduced("float32", "SUM", inputs("float32", 3, n, n))
            assert_same_bits(got, want, f"{n} elements, rank {rank}")


def test_a_buffer_is_held_until_its_work_is_over(group):
    def body(comm, rank):
        held = bytearray(values("float32", rank, 1000).tobytes())
        work = comm.post("all_reduce", "float32", out=held, timeout=CALL_S)
        with pytest.raises(BufferError):
            held.extend(b"more")
        work.wait()
        del work
        held.extend(b"more")
        return bytes(held[:-4])

    want = reduced("float32", "SUM", inputs("float32", 2, 1000)).tobytes()
    assert group(2).run(body) == [want, want]


def test_many_threads_may_post_and_wait_on_one_communicator(group):
    ranks = group(2)

    def body(rank, tag):
        comm, got = ranks.comms[rank], np.zeros(3000, np.int32)
        for turn in range(10):
            work = comm.post("recv", "int32", out=got, peer=1 - rank, tag=tag, timeout=CALL_S)
            mine = values("int32", rank, 3000, tag * 100 + turn)
            call(comm, "send", "int32", in_=mine, peer=1 - rank, tag=tag)
            work.wait()
            assert_same_bits(got, values("int32", 1 - rank, 3000, tag * 100 + turn), f"{turn}")

    results(run_threads([lambda r=r, t=t: body(r, t) for r in range(2) for t in range(4)]))


def test_a_rank_of_a_world_of_one_works_alone():
    comm = _core.Comm(0, 1, bytes(16))
    comm.connect([("shm", b"", "me")], 1)
    data = values("float32", 0, 1000).copy()
    for coll in ("all_reduce", "broadcast"):
        call(comm, coll, "float32", out=data)
    out = np.zeros(1000, np.float32)
    for coll in ("all_gather", "reduce_scatter"):
        call(comm, coll, "float32", in_=data, out=out)
        assert_same_bits(out, data, coll)
    comm.close()
