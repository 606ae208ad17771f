"""Disagreement, loss and delay: an error on every rank that says who and what, and never a hang."""

import time

import numpy as np
import pytest
from group import CALL_S, call
from oracle import assert_same_bits, inputs, reduced, values

from rdmatrain.errors import CommError, CommTimeoutError

SOON_S = 5.0  # for an error to reach every rank, on a slow machine
PATIENCE_S = 8.0  # of operations that must be failed by something else than their deadline
FLOAT4, FLOAT5 = np.ones(4, np.float32), np.ones(5, np.float32)
WAITING = np.ones(5000, np.float32)  # a send of more than 8 KiB waits for its recv


def zeros(count, dtype=np.float32):
    return np.zeros(count, dtype)


def all_reduce(dtype="float32", op="SUM", count=1000):
    return ("all_reduce", dtype, op, {"out": np.ones(count, dtype)})


def broadcast(root, count=1000):
    return ("broadcast", "float32", "SUM", {"out": np.ones(count, np.float32), "peer": root})


def gather(count):
    parts = {"in_": np.ones(count, np.float32), "out": np.ones(count * 3, np.float32)}
    return ("all_gather", "float32", "SUM", parts)


def scatter(count, op="SUM"):
    parts = {"in_": np.ones(count * 3, np.float32), "out": np.ones(count, np.float32)}
    return ("reduce_scatter", "float32", op, parts)


BARRIER = ("barrier", "uint8", "SUM", {})

# What two ranks call, and what the texts must say of both.
DIFFERENCES = {
    "count": (all_reduce(), all_reduce(count=1001), "1000 elements", "1001 elements"),
    "large count": (
        all_reduce(count=300000),
        all_reduce(count=400000),
        "300000 elements",
        "400000 elements",
    ),
    "small and large": (all_reduce(count=1), all_reduce(count=300000), "1 elem", "300000 elem"),
    "nothing and something": (all_reduce(count=0), all_reduce(count=9), "0 elements", "9 elements"),
    "dtype": (all_reduce("float32"), all_reduce("int32"), "float32", "int32"),
    "reduction": (all_reduce(op="SUM"), all_reduce(op="MAX"), "SUM", "MAX"),
    "root": (broadcast(0), broadcast(1), "root 0", "root 1"),
    "broadcast count": (broadcast(0, 7), broadcast(0, 9), "7 elements", "9 elements"),
    "large broadcast": (broadcast(0, 90000), broadcast(0, 90001), "90000 elem", "90001 elem"),
    "gather count": (gather(10), gather(12), "10 elements", "12 elements"),
    "scatter count": (scatter(10), scatter(12), "10 elements", "12 elements"),
    "scatter reduction": (scatter(10, "MIN"), scatter(10, "AVG"), "MIN", "AVG"),
    "operation": (all_reduce(), broadcast(0), "all_reduce(", "broadcast("),
    "barrier": (BARRIER, all_reduce(), "barrier", "all_reduce("),
}


def errors_of(outcomes, ranks=None):
    """The errors of the ranks, each a CommError that came soon."""
    for rank, outcome in enumerate(outcomes):
        if ranks is not None and rank not in ranks:
            continue
        assert isinstance(outcome.error, CommError), f"rank {rank}: {outcome}"
        assert outcome.seconds < SOON_S, f"rank {rank} took {outcome.seconds:.1f} s"
    return [outcome.error for outcome in outcomes if outcome.error is not None]


@pytest.mark.parametrize("what", DIFFERENCES)
@pytest.mark.parametrize("odd_one", [0, 2])
def test_ranks_that_differ_all_get_an_error_that_names_both_calls(group, what, odd_one):
    usual, other, usual_text, other_text = DIFFERENCES[what]

    def body(comm, rank):
        coll, dtype, op, buffers = other if rank == odd_one else usual
        buffers = {k: v.copy() if k in ("in_", "out") else v for k, v in buffers.items()}
        call(comm, coll, dtype, op, timeout=PATIENCE_S, **buffers)

    for error in errors_of(group(3).outcomes(body)):
        assert error.status in ("MISMATCH", "REMOTE_ERROR")
        assert usual_text in str(error)
        assert other_text in str(error)
        assert f"rank {odd_one} called" in str(error)


def test_ranks_that_call_in_another_order_all_get_an_error(group):
    def body(comm, rank):
        works = []
        for turn in range(2):
            count = 10 if (turn == 0) == (rank == 1) else 20
            works.append(comm.post("all_reduce", "float32", out=zeros(count), timeout=PATIENCE_S))
        for work in works:
            work.wait()

    for error in errors_of(group(2).outcomes(body)):
        assert "collective #1" in str(error)
        assert "10 elements" in str(error)
        assert "20 elements" in str(error)


def test_a_difference_after_many_agreements_is_named_by_its_number(group):
    def body(comm, rank):
        for _ in range(6):
            call(comm, "all_reduce", "float32", out=zeros(50))
        call(comm, "all_reduce", "float32", out=zeros(50 + rank), timeout=PATIENCE_S)

    for error in errors_of(group(2).outcomes(body)):
        assert "collective #7" in str(error)
        assert "50 elements" in str(error)
        assert "51 elements" in str(error)


@pytest.mark.parametrize(
    ("given", "wanted", "send_text", "recv_text"),
    [
        (zeros(10), zeros(11), "send(float32, 10 elements", "recv(float32, 11 elements"),
        (zeros(0), zeros(3), "send(float32, 0 elements", "recv(float32, 3 elements"),
        (zeros(3), zeros(0), "send(float32, 3 elements", "recv(float32, 0 elements"),
        (zeros(4), zeros(4, np.int32), "send(float32, 4 elements", "recv(int32, 4 elements"),
        (zeros(90000), zeros(90001), "send(float32, 90000", "recv(float32, 90001"),
    ],
)
@pytest.mark.parametrize("sender_is_late", [False, True])
def test_a_send_and_a_recv_that_differ_fail_on_both_sides(
    group, given, wanted, send_text, recv_text, sender_is_late
):
    def body(comm, rank):
        time.sleep(0.1 if (rank == 0) == sender_is_late else 0)
        limits = {"peer": 1 - rank, "tag": 3, "timeout": PATIENCE_S}
        if rank == 0:
            call(comm, "send", str(given.dtype), in_=given, **limits)
        else:
            call(comm, "recv", str(wanted.dtype), out=wanted.copy(), **limits)
        call(comm, "barrier", timeout=PATIENCE_S)  # small data is sent before it is compared

    for error in errors_of(group(2).outcomes(body)):
        assert error.status in ("MISMATCH", "REMOTE_ERROR")
        assert send_text in str(error)
        assert recv_text in str(error)


def test_an_error_reaches_a_peer_to_whom_many_sends_are_waiting(group):
    """The lane to the peer is full of announcements when the error is to be told."""

    def body(comm, rank):
        if rank == 0:
            works = [
                comm.post("send", "float32", in_=WAITING, peer=1, tag=tag, timeout=PATIENCE_S)
                for tag in range(40)
            ]
            comm.abort("enough")
            works[0].wait()
        time.sleep(0.5)
        call(comm, "recv", "float32", out=zeros(4), peer=0, timeout=PATIENCE_S)

    errors_of(group(2).outcomes(body))


@pytest.mark.parametrize("p", [2, 4])
def test_a_rank_that_closes_is_named_by_those_who_wait_for_it(group, p):
    def body(comm, rank):
        call(comm, "barrier")
        if rank == p - 1:
            time.sleep(0.2)
            comm.close()
            return
        call(comm, "all_reduce", "float32", out=zeros(1000), timeout=PATIENCE_S)

    errors = errors_of(group(p).outcomes(body), range(p - 1))
    assert "PEER_LOST" in [error.status for error in errors]
    for error in errors:
        assert error.status in ("PEER_LOST", "REMOTE_ERROR")
        assert f"rank {p - 1} (thread {p - 1}) has left the group" in str(error)


@pytest.mark.parametrize("direction", ["send", "recv"])
def test_a_rank_that_closes_is_named_by_its_partner(group, direction):
    def body(comm, rank):
        if rank == 1:
            time.sleep(0.2)
            comm.close()
            return
        buffers = {"in_": WAITING} if direction == "send" else {"out": zeros(4)}
        call(comm, direction, "float32", peer=1, timeout=PATIENCE_S, **buffers)

    (error,) = errors_of(group(2).outcomes(body), [0])
    assert error.status == "PEER_LOST"
    assert "rank 1 (thread 1) has left the group" in str(error)
    assert direction in str(error)


def test_a_rank_that_leaves_after_the_last_collective_disturbs_nobody(group):
    def body(comm, rank):
        data = values("float32", rank, 65537).copy()
        work = comm.post("all_reduce", "float32", out=data, timeout=CALL_S)
        time.sleep(0.1 * rank)
        work.wait()
        comm.close()
        return data

    want = reduced("float32", "SUM", inputs("float32", 3, 65537))
    for rank, got in enumerate(group(3).run(body)):
        assert_same_bits(got, want, f"rank {rank}")


def test_an_abort_reaches_every_rank_and_names_who_left(group):
    def body(comm, rank):
        if rank == 1:
            time.sleep(0.2)
            comm.abort("the loss is not a number")
        call(comm, "all_reduce", "float32", out=zeros(1000), timeout=PATIENCE_S)

    for error in errors_of(group(3).outcomes(body)):
        assert error.status in ("CLOSED", "REMOTE_ERROR", "PEER_LOST")
        assert "rank 1" in str(error)


@pytest.mark.parametrize("count", [100, 65537])
def test_those_who_wait_for_a_missing_rank_time_out_and_name_it(group, count):
    def body(comm, rank):
        if rank != 1:
            call(comm, "all_reduce", "float32", out=zeros(count), timeout=0.5)

    errors = errors_of(group(3).outcomes(body), [0, 2])
    assert "TIMEOUT" in [error.status for error in errors]
    for error in errors:
        assert error.status in ("TIMEOUT", "REMOTE_ERROR")
        assert isinstance(error, CommTimeoutError) == (error.status == "TIMEOUT")
        assert "nothing more came from rank 1" in str(error)


@pytest.mark.parametrize("direction", ["send", "recv"])
def test_a_partner_that_never_calls_is_named_by_the_timeout(group, direction):
    def body(comm, rank):
        if rank == 1:
            return
        buffers = {"in_": WAITING} if direction == "send" else {"out": zeros(4)}
        call(comm, direction, "float32", peer=1, tag=6, timeout=0.3, **buffers)

    (error,) = errors_of(group(2).outcomes(body), [0])
    assert isinstance(error, CommTimeoutError)
    assert error.status == "TIMEOUT"
    assert "rank 1, tag 6" in str(error)


def test_a_wait_that_runs_out_leaves_the_operation_running(group):
    def body(comm, rank):
        data = values("float32", rank, 1000).copy()
        time.sleep(0.6 if rank == 1 else 0)
        work = comm.post("all_reduce", "float32", out=data, timeout=CALL_S)
        if rank == 0:
            with pytest.raises(CommTimeoutError) as caught:
                work.wait(0.1)
            assert caught.value.status == "WAIT_TIMEOUT"
            assert not work.done()
        work.wait()
        return data

    want = reduced("float32", "SUM", inputs("float32", 2, 1000))
    for rank, got in enumerate(group(2).run(body)):
        assert_same_bits(got, want, f"rank {rank}")


def test_a_wait_of_no_time_only_looks(group):
    def body(comm, rank):
        work = comm.post("recv" if rank else "barrier", out=zeros(1) if rank else None, timeout=1)
        with pytest.raises(CommTimeoutError, match="wait ended before"):
            work.wait(0)

    group(2).run(body)


@pytest.mark.parametrize("how", ["mismatch", "timeout", "closed", "abort"])
def test_after_an_error_every_later_call_gets_the_same_one_at_once(group, how):
    def provoke(comm, rank):
        if how == "closed" and rank == 1:
            comm.close()
        elif how == "abort" and rank == 1:
            comm.abort("on purpose")
        elif how != "timeout" or rank == 0:
            count = 5 + rank if how == "mismatch" else 5
            limit = 0.3 if how == "timeout" else PATIENCE_S
            call(comm, "all_reduce", "float32", out=zeros(count), timeout=limit)

    def body(comm, rank):
        if rank != 0:
            provoke(comm, rank)
            return None
        texts = []
        with pytest.raises(CommError) as first:
            provoke(comm, rank)
        for coll, buffers in (("barrier", {}), ("send", {"in_": FLOAT4, "peer": 1})):
            started = time.monotonic()
            with pytest.raises(CommError) as later:
                comm.post(coll, "float32", **buffers)
            assert time.monotonic() - started < 0.5
            texts.append((str(later.value), later.value.status))
        assert set(texts) == {(str(first.value), first.value.status)}
        return True

    assert group(2).outcomes(body)[0].value is True
