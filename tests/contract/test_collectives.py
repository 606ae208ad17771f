"""Every collective gives what NumPy gives, on every rank, over every transport."""

import time
from itertools import product

import numpy as np
import pytest
from group import CALL_S, MATRIX, TRANSPORTS, call, sizes
from oracle import (
    DTYPES,
    FLOATS,
    REDOPS,
    REDUCED,
    assert_same_bits,
    inputs,
    numpy_dtype,
    reduced,
    values,
)

WORLDS = (1, 2, 3, 4, 5)
LARGE = (4 << 20) // 4 + 3  # 4 MiB and three elements of float32
SIZES = sizes(0, 1, 1000, 65537, LARGE)
EACH_WORLD = pytest.mark.parametrize("p", WORLDS)


@pytest.fixture(params=MATRIX)
def transport(request: pytest.FixtureRequest) -> str:
    return request.param


def empty(dtype: str, count: int):
    """An output whose old content is not what anybody expects."""
    return np.full(count, 77, dtype=numpy_dtype(dtype))


@EACH_WORLD
def test_all_reduce_sums_every_element_on_every_rank(group, p):
    def body(comm, rank, n):
        in_place, out = values("float32", rank, n).copy(), empty("float32", n)
        call(comm, "all_reduce", "float32", out=in_place)
        call(comm, "all_reduce", "float32", in_=values("float32", rank, n, 1), out=out)
        return in_place, out

    for n, outcomes in group(p).run_each(body, SIZES):
        want = [reduced("float32", "SUM", inputs("float32", p, n, salt)) for salt in (0, 1)]
        for rank, got in enumerate(outcomes):
            assert_same_bits(got[0], want[0], f"{n} elements, rank {rank}, in place")
            assert_same_bits(got[1], want[1], f"{n} elements, rank {rank}")


@EACH_WORLD
def test_broadcast_copies_the_buffer_of_any_root_to_every_rank(group, p):
    def body(comm, rank, n):
        buffers = []
        for root in range(p):
            buffers.append(values("int32", rank, n, root).copy())
            call(comm, "broadcast", "int32", out=buffers[-1], peer=root)
        return buffers

    for n, outcomes in group(p).run_each(body, SIZES):
        for rank, buffers in enumerate(outcomes):
            for root, got in enumerate(buffers):
                where = f"{n} elements, root {root}, rank {rank}"
                assert_same_bits(got, values("int32", root, n, root), where)


@EACH_WORLD
def test_all_gather_puts_the_shards_in_the_order_of_the_ranks(group, p):
    def body(comm, rank, n):
        out = empty("int32", p * n)
        call(comm, "all_gather", "int32", in_=values("int32", rank, n), out=out)
        return out

    for n, outcomes in group(p).run_each(body, SIZES):
        want = np.concatenate(inputs("int32", p, n))
        for rank, got in enumerate(outcomes):
            assert_same_bits(got, want, f"{n} elements, rank {rank}")


@EACH_WORLD
def test_all_gather_takes_a_shard_that_lies_in_its_output(group, p):
    def body(comm, rank):
        out = empty("int32", p * 1000)
        shard = out[rank * 1000 : (rank + 1) * 1000]
        shard[:] = values("int32", rank, 1000)
        call(comm, "all_gather", "int32", in_=shard, out=out)
        return out

    want = np.concatenate(inputs("int32", p, 1000))
    for rank, got in enumerate(group(p).run(body)):
        assert_same_bits(got, want, f"rank {rank}")


@EACH_WORLD
def test_reduce_scatter_gives_each_rank_the_sum_of_its_shard(group, p):
    def body(comm, rank, n):
        out, given = empty("float32", n), values("float32", rank, p * n)
        call(comm, "reduce_scatter", "float32", in_=given, out=out)
        return out

    for n, outcomes in group(p).run_each(body, sizes(0, 1, 1000, 65537, LARGE // p)):
        want = reduced("float32", "SUM", inputs("float32", p, p * n))
        for rank, got in enumerate(outcomes):
            mine = slice(rank * n, (rank + 1) * n)
            assert_same_bits(got, want[mine], f"{n} elements, rank {rank}")


@EACH_WORLD
def test_no_rank_leaves_a_barrier_before_all_have_come(group, p):
    arrived = [0] * p

    def body(comm, rank):
        seen = []
        for turn in range(1, 4):
            time.sleep(0.01 * ((rank + turn) % p))
            arrived[rank] = turn
            call(comm, "barrier")
            seen.append(min(arrived) >= turn)
        return seen

    assert all(all(seen) for seen in group(p).run(body))


@pytest.mark.parametrize("p", [2, 3])
@pytest.mark.parametrize("n", [1000, 20011])
def test_all_reduce_and_reduce_scatter_know_every_dtype_and_reduction(group, p, n):
    known = tuple(product(REDUCED, REDOPS))

    def body(comm, rank):
        got = {}
        for dtype, op in known:
            whole, shard = values(dtype, rank, p * n).copy(), empty(dtype, n)
            call(comm, "reduce_scatter", dtype, op, in_=whole, out=shard)
            call(comm, "all_reduce", dtype, op, out=whole)
            got[dtype, op] = (whole, shard)
        return got

    want = {(dtype, op): reduced(dtype, op, inputs(dtype, p, p * n)) for dtype, op in known}
    for rank, got in enumerate(group(p).run(body)):
        for (dtype, op), (whole, shard) in got.items():
            assert_same_bits(whole, want[dtype, op], f"all_reduce {op} of {dtype}, rank {rank}")
            mine = want[dtype, op][rank * n : (rank + 1) * n]
            assert_same_bits(shard, mine, f"reduce_scatter {op} of {dtype}, rank {rank}")


def test_broadcast_and_all_gather_move_every_dtype(group):
    def body(comm, rank):
        got = {}
        for dtype in DTYPES:
            copied, gathered = values(dtype, rank, 1000).copy(), empty(dtype, 3000)
            call(comm, "broadcast", dtype, out=copied, peer=1)
            call(comm, "all_gather", dtype, in_=values(dtype, rank, 1000), out=gathered)
            got[dtype] = copied, gathered
        return got

    for rank, got in enumerate(group(3).run(body)):
        for dtype, (copied, gathered) in got.items():
            assert_same_bits(copied, values(dtype, 1, 1000), f"broadcast of {dtype}, rank {rank}")
            want = np.concatenate(inputs(dtype, 3, 1000))
            assert_same_bits(gathered, want, f"all_gather of {dtype}, rank {rank}")


@pytest.mark.parametrize("p", [2, 5])
def test_collectives_posted_back_to_back_run_in_their_order(group, p):
    sizes = [1, 1000, 0, 40000, 17, 65537, 3] * 3

    def body(comm, rank):
        buffers = [values("float32", rank, n, i).copy() for i, n in enumerate(sizes)]
        works = []
        for i, buffer in enumerate(buffers):
            works.append(comm.post("all_reduce", "float32", out=buffer, timeout=CALL_S))
            if i % 3 == 0:
                works.append(comm.post("barrier", timeout=CALL_S))
        for work in reversed(works):
            work.wait()
        return buffers

    for rank, buffers in enumerate(group(p).run(body)):
        for i, got in enumerate(buffers):
            want = reduced("float32", "SUM", inputs("float32", p, sizes[i], i))
            assert_same_bits(got, want, f"all_reduce {i}, rank {rank}")


def test_a_work_is_finished_in_the_background_when_nobody_waits(group):
    def body(comm, rank):
        data = values("float32", rank, 65537).copy()
        work = comm.post("all_reduce", "float32", out=data, timeout=CALL_S, background=True)
        deadline = time.monotonic() + CALL_S
        while not work.done() and time.monotonic() < deadline:
            time.sleep(0.001)
        return data if work.done() else None

    want = reduced("float32", "SUM", inputs("float32", 3, 65537))
    for rank, got in enumerate(group(3).run(body)):
        assert_same_bits(got, want, f"rank {rank}")


def all_results(group, dtype: str, count: int) -> bytes:
    """What three ranks hold after one of each kind of reduction."""

    def body(comm, rank):
        whole, shard = values(dtype, rank, 3 * count).copy(), empty(dtype, count)
        call(comm, "reduce_scatter", dtype, "AVG", in_=whole, out=shard)
        call(comm, "all_reduce", dtype, "SUM", out=whole)
        return whole.tobytes() + shard.tobytes()

    return b"".join(group.run(body))


@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_are_the_same_on_every_transport_and_chunk_size(connect, dtype):
    settings = [(name, chunk) for name in TRANSPORTS for chunk in (0, 64, 4096)]
    seen = {
        setting: all_results(connect(setting[0], 3, chunk_bytes=setting[1]), dtype, 997)
        for setting in settings
    }
    assert {setting for setting in settings if seen[setting] != seen[settings[0]]} == set()


@pytest.mark.parametrize("chunk_bytes", [64, 4096])
def test_a_large_all_reduce_is_right_in_small_chunks(group, chunk_bytes):
    n = 4099 if chunk_bytes == 64 else 65537

    def body(comm, rank):
        data = values("float32", rank, n).copy()
        call(comm, "all_reduce", "float32", out=data)
        return data

    want = reduced("float32", "SUM", inputs("float32", 3, n))
    for rank, got in enumerate(group(3, chunk_bytes=chunk_bytes).run(body)):
        assert_same_bits(got, want, f"rank {rank}")
