"""send and recv: tags, order, directions, sizes, alone and beside collectives."""

import time

import numpy as np
import pytest
from group import CALL_S, call, sizes
from oracle import DTYPES, assert_same_bits, inputs, numpy_dtype, reduced, values

LARGE = (4 << 20) // 4 + 3
SIZES = sizes(0, 1, 1000, 65537, LARGE)


def empty(dtype: str, count: int):
    return np.full(count, 77, dtype=numpy_dtype(dtype))


def send(comm, dtype, data, peer, tag=0, **kwargs):
    kwargs = {"timeout": CALL_S, **kwargs}
    return comm.post("send", dtype, in_=data, peer=peer, tag=tag, **kwargs)


def recv(comm, dtype, data, peer, tag=0, **kwargs):
    kwargs = {"timeout": CALL_S, **kwargs}
    return comm.post("recv", dtype, out=data, peer=peer, tag=tag, **kwargs)


def wait_all(works):
    for work in works:
        work.wait()


@pytest.mark.parametrize("p", [2, 3, 5])
def test_a_ring_of_sends_moves_every_element(group, p):
    def body(comm, rank, n):
        right, left = (rank + 1) % p, (rank - 1) % p
        got = empty("int32", n)
        work = recv(comm, "int32", got, left)
        send(comm, "int32", values("int32", rank, n), right).wait()
        work.wait()
        return got

    for n, outcomes in group(p).run_each(body, SIZES):
        for rank, got in enumerate(outcomes):
            where = f"{n} elements, rank {rank}"
            assert_same_bits(got, values("int32", (rank - 1) % p, n), where)


def test_every_dtype_is_sent(group):
    def body(comm, rank):
        got = {dtype: empty(dtype, 1000) for dtype in DTYPES}
        for dtype in DTYPES:
            if rank == 0:
                send(comm, dtype, values(dtype, 0, 1000), 1).wait()
            else:
                recv(comm, dtype, got[dtype], 0).wait()
        return got

    for dtype, got in group(2).run(body)[1].items():
        assert_same_bits(got, values(dtype, 0, 1000), f"{dtype}, rank 1")


@pytest.mark.parametrize("n", [0, 1, 65537])
@pytest.mark.parametrize("sender_is_late", [False, True])
def test_it_does_not_matter_who_comes_first(group, n, sender_is_late):
    def body(comm, rank):
        got = empty("int32", n)
        time.sleep(0.1 if (rank == 0) == sender_is_late else 0)
        if rank == 0:
            send(comm, "int32", values("int32", 0, n), 1).wait()
        else:
            recv(comm, "int32", got, 0).wait()
        return got

    assert_same_bits(group(2).run(body)[1], values("int32", 0, n), "rank 1")


@pytest.mark.parametrize("n", [1, 1000, 65537])
def test_tags_may_be_received_in_any_order(group, n):
    order = [3, 0, 4, 1, 2, -7]

    def body(comm, rank):
        if rank == 0:
            wait_all([send(comm, "int32", values("int32", 0, n, tag + 9), 1, tag) for tag in order])
            return None
        got = {tag: empty("int32", n) for tag in sorted(order)}
        wait_all([recv(comm, "int32", data, 0, tag) for tag, data in got.items()])
        return got

    for tag, data in group(2).run(body)[1].items():
        assert_same_bits(data, values("int32", 0, n, tag + 9), f"tag {tag}")


def test_a_later_tag_is_received_while_an_earlier_one_is_not_wanted_yet(group):
    def body(comm, rank):
        if rank == 0:
            works = [send(comm, "int32", values("int32", 0, 65537, tag), 1, tag) for tag in (1, 2)]
            wait_all(works)
            return None
        got = [empty("int32", 65537) for _ in range(2)]
        recv(comm, "int32", got[1], 0, 2).wait()
        recv(comm, "int32", got[0], 0, 1).wait()
        return got

    for tag, data in enumerate(group(2).run(body)[1], start=1):
        assert_same_bits(data, values("int32", 0, 65537, tag), f"tag {tag}")


@pytest.mark.parametrize("n", [1, 5000])
def test_sends_of_one_tag_arrive_in_the_order_of_sending(group, n):
    count = 40

    def body(comm, rank):
        if rank == 0:
            wait_all([send(comm, "int32", values("int32", 0, n, i), 1, 5) for i in range(count)])
            return []
        got = [empty("int32", n) for _ in range(count)]
        wait_all([recv(comm, "int32", data, 0, 5) for data in got])
        return got

    for i, data in enumerate(group(2).run(body)[1]):
        assert_same_bits(data, values("int32", 0, n, i), f"message {i}")


@pytest.mark.parametrize("n", [0, 1000, 300000])
def test_both_directions_at_once_do_not_lock_up(group, n):
    def body(comm, rank):
        other, got = 1 - rank, [empty("int32", n) for _ in range(6)]
        works = [send(comm, "int32", values("int32", rank, n, i), other, i) for i in range(6)]
        works += [recv(comm, "int32", data, other, i) for i, data in enumerate(got)]
        wait_all(works)
        return got

    for rank, got in enumerate(group(2).run(body)):
        for i, data in enumerate(got):
            assert_same_bits(data, values("int32", 1 - rank, n, i), f"rank {rank}, message {i}")


@pytest.mark.parametrize("p", [3, 5])
def test_all_ranks_exchange_with_all_others(group, p):
    def body(comm, rank):
        others = [other for other in range(p) if other != rank]
        got = {other: empty("float32", 3000 + other) for other in others}
        works = [recv(comm, "float32", data, other, 1) for other, data in got.items()]
        mine = values("float32", rank, 3000 + rank)
        works += [send(comm, "float32", mine, other, 1) for other in others]
        wait_all(works)
        return got

    for rank, got in enumerate(group(p).run(body)):
        for other, data in got.items():
            want = values("float32", other, 3000 + other)
            assert_same_bits(data, want, f"rank {other} to rank {rank}")


@pytest.mark.parametrize("n", [1000, 100000])
def test_sends_and_collectives_in_flight_do_not_disturb_each_other(group, n):
    p = 3

    def body(comm, rank):
        sums = [values("float32", rank, n, i).copy() for i in range(4)]
        got = [empty("int32", n) for _ in range(4)]
        works = []
        for i in range(4):
            works.append(recv(comm, "int32", got[i], (rank - 1) % p, i))
            works.append(comm.post("all_reduce", "float32", out=sums[i], timeout=CALL_S))
            works.append(send(comm, "int32", values("int32", rank, n, i), (rank + 1) % p, i))
        wait_all(works[::-1])
        return sums, got

    want = [reduced("float32", "SUM", inputs("float32", p, n, i)) for i in range(4)]
    for rank, (sums, got) in enumerate(group(p).run(body)):
        for i in range(4):
            assert_same_bits(sums[i], want[i], f"all_reduce {i}, rank {rank}")
            sent = values("int32", (rank - 1) % p, n, i)
            assert_same_bits(got[i], sent, f"message {i}, rank {rank}")


@pytest.mark.parametrize("size_known_late", [False, True])
def test_a_send_may_wait_for_its_recv_across_collectives(group, size_known_late):
    def body(comm, rank):
        got = empty("int32", 1000)
        work = send(comm, "int32", values("int32", 0, 1000), 1) if rank == 0 else None
        for _ in range(3):
            call(comm, "barrier")
        if rank == 1:
            time.sleep(0.05 if size_known_late else 0)
            recv(comm, "int32", got, 0).wait()
        if work is not None:
            work.wait()
        return got

    assert_same_bits(group(2).run(body)[1], values("int32", 0, 1000), "rank 1")


@pytest.mark.parametrize("n", [0, 1, 1000])
def test_a_finished_recv_finishes_its_send_although_the_receiver_leaves_at_once(group, n):
    def body(comm, rank):
        if rank == 0:
            work = send(comm, "int32", values("int32", 0, n), 1)
            time.sleep(0.3)  # whatever the receiver does, it does before this rank looks
            work.wait()
        else:
            recv(comm, "int32", empty("int32", n), 0).wait()
            comm.close()

    group(2).run(body)


@pytest.mark.parametrize("n", [0, 1, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_a_rank_that_is_done_keeps_nothing_back_that_others_wait_for(connect, seed, n):
    pair = connect("fake", 2, scripts=[f"delay=7,seed={seed}"] * 2)

    def body(comm, rank):
        if rank == 0:
            send(comm, "int32", values("int32", 0, n), 1, timeout=3).wait()
        else:
            recv(comm, "int32", empty("int32", n), 0, timeout=3).wait()  # and is idle then

    pair.run(body)


@pytest.mark.parametrize("seed", range(4))
def test_a_sum_in_place_waits_for_its_source_although_a_later_send_overtakes_it(connect, seed):
    pair = connect("fake", 2, scripts=[f"delay=7,seed={seed}"] * 2)

    def body(comm, rank):
        for i in range(20):
            data, got = values("int32", rank, 100, i).copy(), empty("int32", 1)
            works = [comm.post("all_reduce", "int32", out=data, timeout=CALL_S)]
            works.append(send(comm, "int32", values("int32", rank, 1, i), 1 - rank))
            works.append(recv(comm, "int32", got, 1 - rank))
            wait_all(works)
            assert_same_bits(data, reduced("int32", "SUM", inputs("int32", 2, 100, i)), f"sum {i}")

    pair.run(body)


# -- small data comes along with the announcement --


def test_all_ranks_may_send_small_data_before_they_receive(group):
    def body(comm, rank):
        peers = [peer for peer in range(3) if peer != rank]
        for n in (0, 1, 1024):
            for peer in peers:
                call(comm, "send", "float64", in_=values("float64", rank, n, peer), peer=peer)
            for peer in peers:
                got = np.full(n, 77.0)
                call(comm, "recv", "float64", out=got, peer=peer)
                assert_same_bits(got, values("float64", peer, n, rank), f"{n} from {peer}")

    group(3).run(body)


def receive(comm, tag):
    got = np.zeros(1000)
    call(comm, "recv", "float64", out=got, peer=0, tag=tag)
    return got


def test_small_data_that_nobody_wants_yet_has_a_bound_and_loses_nothing(group):
    """256 KiB come along: 31 messages of 8000 bytes. The others wait for their recv."""

    def send(comm, salt, tag):
        data = values("float64", 0, 1000, salt)
        return comm.post("send", "float64", in_=data, peer=1, tag=tag, timeout=CALL_S)

    def body(comm, rank):
        if rank == 0:
            works = [send(comm, salt, tag=0) for salt in range(80)]
            call(comm, "barrier")  # none is taken before this
            done = sum(work.done() for work in works)
            call(comm, "barrier")
            for work in works:
                work.wait()
            for salt in range(200):  # room that was given back is used again
                send(comm, salt, tag=1).wait()
            return done
        call(comm, "barrier")
        call(comm, "barrier")
        for tag, num in ((0, 80), (1, 200)):
            for salt in range(num):
                assert_same_bits(receive(comm, tag), values("float64", 0, 1000, salt), f"{salt}")
        return None

    assert group(2).run(body)[0] <= 31


def test_small_data_of_a_rank_that_has_left_can_still_be_received(group):
    def body(comm, rank):
        if rank == 0:
            call(comm, "send", "int32", in_=values("int32", 0, 100), peer=1)
            comm.close()
            return
        time.sleep(0.3)
        got = np.zeros(100, np.int32)
        call(comm, "recv", "int32", out=got, peer=0)
        assert_same_bits(got, values("int32", 0, 100), "after it left")

    group(2).run(body)
