"""all_gather and reduce_scatter of ranks on several hosts: a block goes to each host once.

What joins two ranks does not depend on their hosts here, as in test_hosts.py.
"""

import functools
import threading

import numpy as np
import pytest
from group import CALL_S, call
from oracle import (
    COMBINE,
    INTS,
    REDOPS,
    REDUCED,
    assert_same_bits,
    divided,
    from_floats,
    inputs,
    narrow,
    numpy_dtype,
    reduced,
    values,
    widen,
)
from test_failures import errors_of
from test_hosts import (
    BY_HOST,
    FLAT,
    GRIDS,
    SOME,
    by_host,
    in_turns,
    levelled,
    order_sensitive,
)

from rdmatrain.errors import CommError

LEVELS = pytest.mark.parametrize(("hosts", "per_host", "tuning", "sizes"), GRIDS)
# Of these, the ones of four ranks.
FOUR = pytest.mark.parametrize(
    ("hosts", "per_host", "tuning"),
    [
        pytest.param(*grid.values[:3], id=grid.id)
        for grid in GRIDS
        if grid.values[0] * grid.values[1] == 4
    ],
)
COUNTS = (1, 0, 17, 1000, 20001)


def summed(dtype, op, shares, hosts, tuning, sizes, factor=1.0):
    """What blocks add up to: as an all_reduce does, but one rank a host those far apart first."""
    if len(hosts) > len(set(hosts)):
        return levelled(dtype, op, shares, hosts, tuning, sizes, factor)
    with np.errstate(all="ignore"):
        sums = [widen(dtype, share) for share in shares]
        if op == "PREMUL_SUM":
            sums = [share * share.dtype.type(factor) for share in sums]
        for size in sizes:
            apart = len(sums) // size
            sums = [functools.reduce(COMBINE[op], sums[i::apart]) for i in range(apart)]
        (whole,) = sums
        return narrow(dtype, divided(whole, len(shares)) if op == "AVG" else whole)


def reduce_scatter(group, dtype, op, shares, *, in_place=False, **kwargs):
    world = len(shares)
    count = len(shares[0]) // world

    def body(comm, rank):
        whole = shares[rank].copy()
        out = np.zeros(count, numpy_dtype(dtype))
        if in_place:
            out = whole[rank * count : (rank + 1) * count]
        call(comm, "reduce_scatter", dtype, op, in_=whole, out=out, **kwargs)
        if not in_place:
            assert_same_bits(whole, shares[rank], "what is reduced")
        return out

    return group.run(body)


@pytest.mark.parametrize("transport", SOME)
@LEVELS
def test_every_dtype_and_reduction(connect, transport, hosts, per_host, tuning, sizes):
    where = in_turns(hosts, per_host)
    world = len(where)
    group = connect(transport, world, hosts=where, tuning=tuning)
    cells = [(dtype, op) for dtype in REDUCED for op in REDOPS]
    cells += [(dtype, op) for dtype in INTS for op in ("BAND", "BOR", "BXOR")]
    cells += [(dtype, "PREMUL_SUM") for dtype in ("float16", "bfloat16", "float32", "float64")]
    for i, (dtype, op) in enumerate(cells):
        count = COUNTS[i % 4]
        shares = inputs(dtype, world, world * count, salt=i)
        factor = 0.3 if op == "PREMUL_SUM" else 0.0
        want = summed(dtype, op, shares, where, tuning, sizes, factor)
        each = reduce_scatter(group, dtype, op, shares, factor=factor)
        for rank, got in enumerate(each):
            block = want[rank * count : (rank + 1) * count]
            assert_same_bits(got, block, f"{dtype} {op} of {count}, rank {rank}")


@pytest.mark.parametrize("transport", SOME)
@LEVELS
@pytest.mark.parametrize("chunk_bytes", [0, 64])
def test_sums_are_by_rank_in_each_host_and_then_over_the_hosts(
    connect, transport, hosts, per_host, tuning, sizes, chunk_bytes
):
    where = in_turns(hosts, per_host)
    world = len(where)
    tuning = {**tuning, "direct": 0} if chunk_bytes else tuning
    group = connect(transport, world, hosts=where, tuning=tuning, chunk_bytes=chunk_bytes)
    for count in COUNTS if not chunk_bytes else COUNTS[:-1]:
        shares = order_sensitive("float32", world, world * count)
        want = summed("float32", "SUM", shares, where, tuning, sizes)
        if count > 17:
            assert np.any(want != reduced("float32", "SUM", shares)), "the data cannot tell"
        for in_place in (True, False):
            each = reduce_scatter(group, "float32", "SUM", shares, in_place=in_place)
            for rank, got in enumerate(each):
                block = want[rank * count : (rank + 1) * count]
                assert_same_bits(got, block, f"{count}, in place {in_place}, rank {rank}")


# Two inputs of two bytes are no more than their sum in four: all add up at once, by rank.
@pytest.mark.parametrize(("per_host", "at_once"), [(2, True), (3, False)])
def test_half_types_of_two_ranks_a_host_are_added_by_rank(connect, per_host, at_once):
    where = in_turns(2, per_host)
    world = len(where)
    group = connect("mixed", world, hosts=where, tuning=BY_HOST)
    numbers = order_sensitive("float64", world, world * 1000)
    shares = [from_floats("bfloat16", each) for each in numbers]
    by_rank = reduced("bfloat16", "SUM", shares)
    hosts_first = by_host("bfloat16", "SUM", shares, where)
    assert np.any(by_rank != hosts_first), "the data cannot tell"
    got = np.concatenate(reduce_scatter(group, "bfloat16", "SUM", shares))
    assert_same_bits(got, by_rank if at_once else hosts_first, "sums")


@pytest.mark.parametrize("transport", SOME)
@LEVELS
@pytest.mark.parametrize("chunk_bytes", [0, 64])
def test_an_all_gather_gives_every_block_its_place(
    connect, transport, hosts, per_host, tuning, sizes, chunk_bytes
):
    del sizes
    where = in_turns(hosts, per_host)
    world = len(where)
    group = connect(transport, world, hosts=where, tuning=tuning, chunk_bytes=chunk_bytes)
    for turn, count in enumerate(COUNTS if not chunk_bytes else COUNTS[:-1]):
        dtype = ("int32", "bfloat16", "int8")[turn % 3]

        def body(comm, rank, count=count, dtype=dtype):
            whole = np.zeros(world * count, numpy_dtype(dtype))
            call(comm, "all_gather", dtype, in_=values(dtype, rank, count), out=whole)
            inside = np.zeros(world * count, numpy_dtype(dtype))
            mine = inside[rank * count : (rank + 1) * count]
            mine[:] = values(dtype, rank, count)
            call(comm, "all_gather", dtype, in_=mine, out=inside)
            return whole, inside

        want = np.concatenate([values(dtype, rank, count) for rank in range(world)])
        for rank, got in enumerate(group.run(body)):
            for how, each in zip(("apart", "in place"), got, strict=True):
                assert_same_bits(each, want, f"{count} of {dtype} on rank {rank}, {how}")


@LEVELS
def test_blocks_that_differ_in_size_are_one_stage(connect, hosts, per_host, tuning, sizes):
    del sizes
    where = in_turns(hosts, per_host)
    world = len(where)
    group = connect("mixed", world, hosts=where, tuning=tuning)
    counts = [100 + 7 * rank for rank in range(world)]
    ends = np.cumsum(counts)
    shares = order_sensitive("float32", world, sum(counts))

    def body(comm, rank):
        mine = slice(ends[rank] - counts[rank], ends[rank])
        sums = np.zeros(counts[rank], np.float32)
        call(comm, "reduce_scatter", "float32", in_=shares[rank], out=sums, in_counts=counts)
        whole = np.zeros(sum(counts), np.float32)
        call(comm, "all_gather", "float32", in_=shares[0][mine], out=whole, out_counts=counts)
        return sums, whole

    want = reduced("float32", "SUM", shares)
    for rank, (sums, whole) in enumerate(group.run(body)):
        assert_same_bits(sums, want[ends[rank] - counts[rank] : ends[rank]], f"rank {rank}")
        assert_same_bits(whole, shares[0], f"rank {rank}")


def rank_that_names_sizes(comm, rank, counts):
    shares = np.ones(sum(counts), np.float32)
    out = np.zeros(counts[rank], np.float32)
    call(comm, "reduce_scatter", "float32", in_=shares, out=out, in_counts=counts)
    return out[0]


def test_equal_sizes_that_are_named_are_the_same_call(connect):
    group = connect("mixed", 4, hosts=[0, 1, 0, 1], tuning=BY_HOST)

    def body(comm, rank):
        if rank % 2:
            return rank_that_names_sizes(comm, rank, [9, 9, 9, 9])
        out = np.zeros(9, np.float32)
        call(comm, "reduce_scatter", "float32", in_=np.ones(36, np.float32), out=out)
        return out[0]

    assert group.run(body) == [4, 4, 4, 4]


# Of the ranks 0 and 3, each takes the sizes of all the others from them: only the two can tell.
@pytest.mark.parametrize("hosts", [[0, 0, 1, 1], [0, 1, 0, 1]])
@pytest.mark.parametrize("odd_one", [0, 3])
def test_a_rank_that_thinks_that_sizes_differ_is_in_another_call(connect, hosts, odd_one):
    group = connect("mixed", 4, hosts=hosts, tuning=BY_HOST)
    sizes = [9, 9, 9, 9]
    sizes[3 - odd_one] = 10

    def body(comm, rank):
        return rank_that_names_sizes(comm, rank, sizes if rank == odd_one else [9] * 4)

    for error in errors_of(group.outcomes(body), range(4)):
        assert "reduce_scatter(" in str(error), error


def blocks_of(coll, dtype="float32", op="SUM", count=10):
    one, four = np.ones(count, numpy_dtype(dtype)), np.ones(4 * count, numpy_dtype(dtype))
    given, taken = (one, four) if coll == "all_gather" else (four, one)
    return coll, dtype, op, {"in_": given, "out": taken}


DIFFERENCES = {
    "gather count": (blocks_of("all_gather"), blocks_of("all_gather", count=12), "10 el", "12 el"),
    "scatter count": (
        blocks_of("reduce_scatter"),
        blocks_of("reduce_scatter", count=12),
        "10 el",
        "12 el",
    ),
    "large count": (
        blocks_of("reduce_scatter", count=90000),
        blocks_of("reduce_scatter", count=90001),
        "90000 el",
        "90001 el",
    ),
    "dtype": (
        blocks_of("all_gather"),
        blocks_of("all_gather", dtype="int32"),
        "float32",
        "int32",
    ),
    "reduction": (
        blocks_of("reduce_scatter"),
        blocks_of("reduce_scatter", op="MAX"),
        "SUM",
        "MAX",
    ),
    "operation": (
        blocks_of("all_gather"),
        blocks_of("reduce_scatter"),
        "all_gather(",
        "reduce_scatter(",
    ),
}


@pytest.mark.parametrize("what", DIFFERENCES)
@pytest.mark.parametrize("odd_one", [0, 3])
@FOUR
def test_ranks_that_differ_all_get_both_calls(connect, hosts, per_host, tuning, what, odd_one):
    usual, other, usual_text, other_text = DIFFERENCES[what]

    def body(comm, rank):
        coll, dtype, op, kwargs = other if rank == odd_one else usual
        call(comm, coll, dtype, op, **kwargs)

    group = connect("mixed", 4, hosts=in_turns(hosts, per_host), tuning=tuning)
    for error in errors_of(group.outcomes(body), range(4)):
        assert usual_text in str(error) and other_text in str(error), error


@pytest.mark.parametrize("coll", ["all_gather", "reduce_scatter"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("gone", range(4))
@FOUR
def test_a_rank_that_closes_in_any_stage_ends_all_the_others(
    connect, hosts, per_host, tuning, coll, dtype, gone
):
    group = connect("mixed", 4, hosts=in_turns(hosts, per_host), tuning=tuning)

    def body(comm, rank):
        _, _, op, buffers = blocks_of(coll, dtype, count=70000)
        if rank == gone:
            threading.Timer(0.03, comm.close).start()
        while True:
            call(comm, coll, dtype, op, **buffers)

    for rank, outcome in enumerate(group.outcomes(body)):
        assert isinstance(outcome.error, CommError), f"rank {rank}: {outcome}"
        assert outcome.seconds < CALL_S
        if rank != gone:
            assert f"rank {gone}" in str(outcome.error), outcome


@pytest.mark.parametrize("coll", ["all_gather", "reduce_scatter"])
@LEVELS
def test_a_block_goes_to_each_host_once(connect, coll, hosts, per_host, tuning, sizes):
    del sizes
    where = [rank // per_host for rank in range(hosts * per_host)]
    world = len(where)
    group = connect("tcp", world, hosts=where, tuning=tuning)
    count = 100_003
    given = count if coll == "all_gather" else world * count
    taken = world * count if coll == "all_gather" else count

    def sent(comm, rank):
        return sum(
            stats["sent_bytes"]
            for other, stats in enumerate(comm.stats())
            if where[other] != where[rank]
        )

    def body(comm, rank):
        before = sent(comm, rank)
        out = np.zeros(taken, np.float32)
        call(comm, coll, "float32", in_=np.ones(given, np.float32), out=out)
        return sent(comm, rank) - before

    each = group.run(body)
    optimum = 4 * count * per_host * (hosts - 1)
    for host in range(hosts):
        used = sum(each[host * per_host : (host + 1) * per_host])
        assert 0.99 * optimum <= used <= 1.02 * optimum, (host, used, optimum)


def test_what_is_gathered_between_hosts_is_put_into_the_callers_tensor(connect):
    where = [0, 0, 1, 1]
    group = connect("tcp-arena-place", 4, hosts=where, tuning=BY_HOST)

    def body(comm, rank):
        out = np.zeros(4 * 100_000, np.float32)
        call(comm, "all_gather", "float32", in_=np.ones(100_000, np.float32), out=out)
        return [stats["staged_bytes"] for stats in comm.stats()]

    for rank, each in enumerate(group.run(body)):
        assert sum(each) < 1000, f"rank {rank}: {each}"


def test_flat_gives_sums_that_do_not_depend_on_the_hosts(connect):
    shares = order_sensitive("float32", 4, 4 * 70001)
    where = [0, 1, 0, 1]
    flat = connect("mixed", 4, hosts=where, tuning=FLAT)
    each = reduce_scatter(flat, "float32", "SUM", shares)
    assert_same_bits(np.concatenate(each), reduced("float32", "SUM", shares), "flat")
    cheapest = connect("mixed", 4, hosts=where)
    each = reduce_scatter(cheapest, "float32", "SUM", shares)
    want = summed("float32", "SUM", shares, where, BY_HOST, (2,))
    assert_same_bits(np.concatenate(each), want, "what costs least")
