"""Ranks of several hosts: sums made host by host or by levels, whatever joins the ranks.

What joins two ranks does not depend on their hosts here, so that every transport runs every stage;
"mixed" is shm in each of two hosts and tcp between them.
"""

import functools
import random
import threading
import time

import numpy as np
import pytest
from group import CALL_S, LISTENS, REAL, call, run_threads
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
    reduced,
    values,
    widen,
)
from test_failures import DIFFERENCES, errors_of

from rdmatrain import _core
from rdmatrain.errors import CommError

BY_HOST = {"way": 2}
GATHER = {"way": 3}
HALVING = {"way": 4}
FLAT = {"way": 1}
# Hosts and ranks of each; what sums are made by; the sizes of the levels of hosts.
GRIDS = [
    pytest.param(2, 2, BY_HOST, (2,), id="2x2"),
    pytest.param(2, 3, BY_HOST, (2,), id="2x3"),
    pytest.param(3, 2, BY_HOST, (3,), id="3x2"),
    pytest.param(4, 1, HALVING, (2, 2), id="4-by-levels"),
    pytest.param(6, 1, HALVING, (3, 2), id="6-by-levels"),
    pytest.param(4, 2, HALVING, (2, 2), id="4x2-by-levels"),
]
# Of four ranks.
FOUR = [
    pytest.param(2, BY_HOST, (2,), id="by_host"),
    pytest.param(4, HALVING, (2, 2), id="halving"),
]
COUNTS = (0, 1, 17, 1000, 70001)
# The others are one stage of all ranks on several hosts, too: see test_failures.py.
STAGED = [what for what in DIFFERENCES if not what.startswith(("gather", "scatter"))]
# One of each kind; the others differ in what is below the stages.
SOME = ("mixed", "shm-arena", "tcp-arena-place", "fake-delay-slot", "fake-delay-place")


ANY_WAY = pytest.mark.parametrize(
    ("hosts", "tuning"),
    [(2, BY_HOST), (2, GATHER), (4, HALVING)],
    ids=["by_host", "gather", "halving"],
)


def in_turns(hosts, per_host):
    return [rank % hosts for rank in range(hosts * per_host)]


def by_host(dtype, op, shares, hosts, sizes=None, factor=1.0):
    """Sums by rank in each host, then over the hosts of each level; wide, and rounded once."""
    with np.errstate(all="ignore"):
        wide = [widen(dtype, share) for share in shares]
        if op == "PREMUL_SUM":
            wide = [share * share.dtype.type(factor) for share in wide]
        parts = {}
        for share, host in zip(wide, hosts, strict=True):
            parts[host] = COMBINE[op](parts[host], share) if host in parts else share
        sums = list(parts.values())
        for size in sizes or [len(sums)]:
            groups = [sums[first : first + size] for first in range(0, len(sums), size)]
            sums = [functools.reduce(COMBINE[op], group) for group in groups]
        (whole,) = sums
        return narrow(dtype, divided(whole, len(shares)) if op == "AVG" else whole)


def levelled(dtype, op, shares, hosts, tuning, sizes, factor=1.0):
    """What an all_reduce gives: of two ranks a host, by_host adds up half types by rank."""
    if sums_at_once(dtype, op, hosts, tuning):
        return reduced(dtype, op, shares, factor=factor)
    return by_host(dtype, op, shares, hosts, sizes, factor)


def sums_at_once(dtype, op, hosts, tuning):
    per_host = len(hosts) // len(set(hosts))
    half = dtype in ("float16", "bfloat16") and op not in ("MIN", "MAX")
    return tuning == BY_HOST and per_host == 2 and half


def order_sensitive(dtype, world, count):
    """Large numbers that cancel around small ones, turned by one place per index."""
    pattern = np.array([1e8, -1e8, 1.0, 3.0, 0.25])
    index = np.arange(count)
    return [(pattern[(rank + index) % 5] * (1 + index % 3)).astype(dtype) for rank in range(world)]


def all_reduce(group, dtype, op, shares, *, in_place=True, **kwargs):
    def body(comm, rank):
        out = shares[rank].copy() if in_place else np.zeros_like(shares[rank])
        source = {} if in_place else {"in_": shares[rank]}
        call(comm, "all_reduce", dtype, op, out=out, **source, **kwargs)
        return out

    return group.run(body)


@pytest.mark.parametrize("transport", SOME)
@pytest.mark.parametrize(("hosts", "per_host", "tuning", "sizes"), GRIDS)
def test_every_dtype_and_reduction_by_host(connect, transport, hosts, per_host, tuning, sizes):
    where = in_turns(hosts, per_host)
    group = connect(transport, len(where), hosts=where, tuning=tuning)
    cells = [(dtype, op) for dtype in REDUCED for op in REDOPS]
    cells += [(dtype, op) for dtype in INTS for op in ("BAND", "BOR", "BXOR")]
    for i, (dtype, op) in enumerate(cells):
        shares = inputs(dtype, len(where), COUNTS[i % 4], salt=i)
        want = levelled(dtype, op, shares, where, tuning, sizes)
        for rank, got in enumerate(all_reduce(group, dtype, op, shares, in_place=i % 2 == 0)):
            assert_same_bits(got, want, f"{dtype} {op} of {len(want)}, rank {rank}")


@pytest.mark.parametrize("transport", SOME)
@pytest.mark.parametrize(("hosts", "per_host", "tuning", "sizes"), GRIDS)
@pytest.mark.parametrize("chunk_bytes", [0, 64])
def test_sums_are_by_rank_in_each_host_and_then_over_the_hosts(
    connect, transport, hosts, per_host, tuning, sizes, chunk_bytes
):
    where = in_turns(hosts, per_host)
    world = len(where)
    tuning = {**tuning, "direct": 0} if chunk_bytes else tuning
    group = connect(transport, world, hosts=where, tuning=tuning, chunk_bytes=chunk_bytes)
    for count in COUNTS if not chunk_bytes else COUNTS[:-1]:
        shares = order_sensitive("float32", world, count)
        want = by_host("float32", "SUM", shares, where, sizes)
        if count > 17:
            assert np.any(want != reduced("float32", "SUM", shares)), "the data cannot tell"
        for in_place in (True, False):
            got = all_reduce(group, "float32", "SUM", shares, in_place=in_place)
            for rank in range(world):
                assert_same_bits(got[rank], want, f"{count}, in place {in_place}, rank {rank}")


@pytest.mark.parametrize("transport", SOME)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int32"])
@pytest.mark.parametrize(("hosts", "per_host", "tuning", "sizes"), GRIDS)
def test_a_factor_is_multiplied_once_and_an_average_divided_once(
    connect, transport, dtype, hosts, per_host, tuning, sizes
):
    where = in_turns(hosts, per_host)
    group = connect(transport, len(where), hosts=where, tuning=tuning)
    shares = inputs(dtype, len(where), 20000)
    for op in ("PREMUL_SUM", "AVG") if dtype != "int32" else ("AVG",):
        want = levelled(dtype, op, shares, where, tuning, sizes, factor=0.3)
        for rank, got in enumerate(all_reduce(group, dtype, op, shares, factor=0.3)):
            assert_same_bits(got, want, f"{op}, rank {rank}")


@pytest.mark.parametrize(("hosts", "tuning", "sizes"), FOUR)
def test_half_types_are_rounded_once_over_all_hosts(connect, hosts, tuning, sizes):
    where = in_turns(hosts, 4 // hosts)
    group = connect("mixed", 4, hosts=where, tuning=tuning)
    tiny = 2.0**-9 * (1 + np.arange(4000) % 4)  # below, at and above half a last place of 1
    reals = [np.ones(4000), tiny, tiny, tiny]
    shares = [(real.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16) for real in reals]
    want = levelled("bfloat16", "SUM", shares, where, tuning, sizes)
    each = [reduced("bfloat16", "SUM", [shares[host], shares[host + 2]]) for host in range(2)]
    assert np.any(reduced("bfloat16", "SUM", each) != want), "the data cannot tell"
    for got in all_reduce(group, "bfloat16", "SUM", shares):
        assert_same_bits(got, want, "bfloat16")


# Two inputs of two bytes are no more than their sum in four.
@pytest.mark.parametrize("transport", SOME)
@pytest.mark.parametrize(("per_host", "at_once"), [(2, True), (3, False)])
def test_half_types_of_two_ranks_a_host_are_added_by_rank(connect, transport, per_host, at_once):
    where = in_turns(2, per_host)
    group = connect(transport, len(where), hosts=where, tuning=BY_HOST)
    for count in COUNTS:
        numbers = order_sensitive("float64", len(where), count)
        shares = [from_floats("bfloat16", each) for each in numbers]
        by_rank = reduced("bfloat16", "SUM", shares)
        hosts_first = by_host("bfloat16", "SUM", shares, where)
        if count > 17:
            assert np.any(by_rank != hosts_first), "the data cannot tell"
        for in_place in (True, False):
            each = all_reduce(group, "bfloat16", "SUM", shares, in_place=in_place)
            for rank, got in enumerate(each):
                want = by_rank if at_once else hosts_first
                assert_same_bits(got, want, f"{count}, in place {in_place}, rank {rank}")


@pytest.mark.parametrize(("hosts", "tuning", "sizes"), FOUR)
def test_float8_bool_and_complex_by_host(connect, hosts, tuning, sizes):
    where = in_turns(hosts, 4 // hosts)
    group = connect("mixed", 4, hosts=where, tuning=tuning)
    codes = np.array([0x00, 0x38, 0x40, 0x44, 0x48, 0x4A, 0x4C, 0x4E, 0x50], np.uint8)  # 0 to 8
    numbers = [(np.arange(999) + rank) % 3 for rank in range(4)]
    for got in all_reduce(group, "float8_e4m3fn", "SUM", [codes[n] for n in numbers]):
        assert_same_bits(got, codes[sum(numbers)], "float8_e4m3fn")
    truths = [n == 0 for n in numbers]
    for got in all_reduce(group, "bool", "BXOR", truths):
        assert_same_bits(got, truths[0] ^ truths[1] ^ truths[2] ^ truths[3], "bool")
    pairs = inputs("float16", 4, 2000)
    want = levelled("float16", "AVG", pairs, where, tuning, sizes).view(np.uint32)
    halves = [pair.view(np.uint32) for pair in pairs]
    for got in all_reduce(group, "complex32", "AVG", halves):
        assert_same_bits(got, want, "complex32")
    shares = [(share.astype(np.complex64)) for share in inputs("complex64", 4, 1000)]
    real = [share.view(np.float32) for share in shares]
    for got in all_reduce(group, "complex64", "SUM", shares):
        want = by_host("float32", "SUM", real, where, sizes).view(np.complex64)
        assert_same_bits(got, want, "complex64")


@pytest.mark.parametrize("transport", SOME)
@pytest.mark.parametrize("world", [3, 4, 5, 7])
def test_a_gather_gives_the_bits_of_a_flat_all_reduce(connect, transport, world):
    group = connect(transport, world, tuning=GATHER)
    for count in (1, 17, 1000, 20000):
        for dtype in ("float32", "float64"):
            shares = order_sensitive(dtype, world, count)
            want = reduced(dtype, "SUM", shares)
            for in_place in (True, False):
                got = all_reduce(group, dtype, "SUM", shares, in_place=in_place)
                for rank in range(world):
                    assert_same_bits(got[rank], want, f"{dtype}, {count}, rank {rank}")
    shares = inputs("bfloat16", world, 1000)
    for op, factor in (("AVG", 0.0), ("PREMUL_SUM", 0.3)):
        for got in all_reduce(group, "bfloat16", op, shares, factor=factor):
            assert_same_bits(got, reduced("bfloat16", op, shares, factor=factor), op)


@pytest.mark.parametrize("transport", SOME)
@pytest.mark.parametrize(("hosts", "per_host", "tuning", "sizes"), GRIDS)
def test_a_broadcast_by_levels_reaches_all_from_any_root(
    connect, transport, hosts, per_host, tuning, sizes
):
    where = in_turns(hosts, per_host)
    group = connect(transport, len(where), hosts=where, tuning=tuning)
    for turn, count in enumerate(COUNTS):
        root, dtype = turn % len(where), ("int32", "bfloat16", "int8")[turn % 3]

        def body(comm, rank, count=count, root=root, dtype=dtype):
            out = values(dtype, rank, count).copy()
            call(comm, "broadcast", dtype, out=out, peer=root)
            return out

        for rank, got in enumerate(group.run(body)):
            assert_same_bits(got, values(dtype, root, count), f"{count} of {dtype} to {rank}")


def test_the_root_of_a_broadcast_by_hosts_sends_it_once(connect):
    where = [rank // 2 for rank in range(10)]
    group = connect("tcp", 10, hosts=where, tuning=BY_HOST)
    data = values("int32", 3, 250_000)

    def body(comm, rank):
        before = sent(comm)
        call(comm, "broadcast", "int32", out=values("int32", rank, 250_000).copy(), peer=3)
        return sent(comm) - before

    def sent(comm):
        return sum(stats["sent_bytes"] for stats in comm.stats())

    # Half to its host's other rank, four of five cuts of a half to its rail, its own cut to each of
    # the four there, and the half that it then has whole to its host's other rank.
    each = group.run(body)
    assert each[3] == pytest.approx(
        data.nbytes * (1 / 2 + 4 / 10 + 1 / 2 * 4 / 5 + 1 / 2), rel=0.01
    )
    assert max(each) == each[3]


@pytest.mark.parametrize("transport", SOME)
@pytest.mark.parametrize("world", [3, 4, 5, 7])
def test_an_all_gather_in_stages_gives_every_shard_its_place(connect, transport, world):
    group = connect(transport, world, tuning=GATHER)
    for count in (0, 1, 17, 1000, 20000, 70001):  # the last one is in one stage: it is too large

        def body(comm, rank, count=count):
            whole = np.zeros(world * count, np.int32)
            call(comm, "all_gather", "int32", in_=values("int32", rank, count), out=whole)
            inside = np.zeros(world * count, np.int32)
            mine = inside[rank * count : (rank + 1) * count]
            mine[:] = values("int32", rank, count)
            call(comm, "all_gather", "int32", in_=mine, out=inside)
            return whole, inside

        want = np.concatenate([values("int32", rank, count) for rank in range(world)])
        for rank, got in enumerate(group.run(body)):
            for how, each in zip(("apart", "in place"), got, strict=True):
                assert_same_bits(each, want, f"{count} on rank {rank}, {how}")


@pytest.mark.parametrize("odd_one", [0, 3])
def test_ranks_that_differ_in_an_all_gather_in_stages_get_both_calls(connect, odd_one):
    group = connect("mixed", 4, tuning=GATHER)

    def body(comm, rank):
        count = 12 if rank == odd_one else 10
        whole = np.zeros(4 * count, np.float32)
        call(comm, "all_gather", "float32", in_=np.ones(count, np.float32), out=whole)

    for error in errors_of(group.outcomes(body), range(4)):
        assert "10 elements" in str(error) and "12 elements" in str(error), error
        assert "taken" not in str(error)


# Ranks of the one are in log2 N stages, those of the other in levels: none looks at the other.
def test_ranks_that_go_through_other_stages_find_that_their_calls_differ(connect):
    costs = {"net_latency": 0, "net_message": 1000, "net_bandwidth": 10**9}
    group = connect("tcp", 8, hosts=range(8), tuning=costs)
    mine, whole = np.ones(10, np.float32), np.zeros((8, 80), np.float32)

    def body(comm, rank):
        if rank < 4:
            call(comm, "all_gather", "float32", in_=mine, out=whole[rank])
        else:
            call(comm, "broadcast", "float32", out=whole[rank], peer=0)

    for error in errors_of(group.outcomes(body), range(8)):
        assert "all_gather(" in str(error) and "broadcast(" in str(error), error


# What costs least is flat for the one call, and for the other by levels, or in log2 N stages.
@pytest.mark.parametrize(
    ("dtype", "count", "odd_dtype", "odd_count", "said"),
    [
        ("uint8", 38, "uint8", 3318, ("38 elem", "3318 elem")),
        ("uint8", 200, "float64", 200, ("uint8", "float64")),
    ],
)
def test_calls_that_take_different_ways_are_found_to_differ(
    connect, dtype, count, odd_dtype, odd_count, said
):
    costs = {
        "net_bandwidth": 49000,
        "net_latency": 602,
        "net_message": 219,
        "host_latency": 1500,
        "host_message": 200,
        "one_shot": 1024,
    }
    where = in_turns(3, 4)
    group = connect("mixed", 12, hosts=where, tuning=costs, chunk_bytes=256)

    def body(comm, rank):
        mine = (odd_dtype, odd_count) if rank == 1 else (dtype, count)
        call(comm, "all_reduce", mine[0], out=np.ones(mine[1], mine[0]))

    for error in errors_of(group.outcomes(body), range(12)):
        assert all(text in str(error) for text in said), error


@pytest.mark.parametrize("count", [0, 4])
def test_an_all_gather_of_equal_shards_is_the_same_call_with_their_sizes(connect, count):
    group = connect("tcp", 6, tuning=GATHER)

    def body(comm, rank):
        out = np.zeros(6 * count, np.int32)
        sizes = {"out_counts": [count] * 6} if rank == 2 else {}
        call(comm, "all_gather", "int32", in_=values("int32", rank, count), out=out, **sizes)
        return out

    want = np.concatenate([values("int32", rank, count) for rank in range(6)])
    for got in group.run(body):
        assert_same_bits(got, want, "all_gather")


@ANY_WAY
@pytest.mark.parametrize("per_host", [2, 3])
def test_nobody_leaves_a_barrier_before_everybody_has_come(connect, hosts, tuning, per_host):
    world = hosts * per_host
    group = connect("mixed", world, hosts=in_turns(hosts, per_host), tuning=tuning)
    for late in range(world):
        come = threading.Event()

        def body(comm, rank, late=late, come=come):
            if rank == late:
                time.sleep(0.05)
                come.set()
            call(comm, "barrier")
            return come.is_set()

        assert group.run(body) == [True] * world


@pytest.mark.parametrize("hosts", [[0, 0, 1, 1, 1], [0, 1, 2, 3, 4], [0, 1, 2, 3, 3], None])
@pytest.mark.parametrize("tuning", [BY_HOST, HALVING], ids=["by_host", "halving"])
def test_groups_without_a_grid_of_hosts_reduce_in_the_order_of_the_ranks(connect, hosts, tuning):
    group = connect("tcp", 5, hosts=hosts, tuning=tuning)
    shares = order_sensitive("float32", 5, 30000)
    for got in all_reduce(group, "float32", "SUM", shares):
        assert_same_bits(got, reduced("float32", "SUM", shares), f"{hosts}")


def test_flat_gives_bits_that_do_not_depend_on_the_hosts(connect):
    shares = order_sensitive("float32", 4, 70001)
    for got in all_reduce(
        connect("mixed", 4, hosts=[0, 1, 0, 1], tuning=FLAT), "float32", "SUM", shares
    ):
        assert_same_bits(got, reduced("float32", "SUM", shares), "flat")
    for got in all_reduce(connect("mixed", 4, hosts=[0, 1, 0, 1]), "float32", "SUM", shares):
        assert_same_bits(got, by_host("float32", "SUM", shares, [0, 1, 0, 1]), "what costs least")


@pytest.mark.parametrize("what", STAGED)
@pytest.mark.parametrize("odd_one", [0, 3])
@ANY_WAY
def test_ranks_of_several_hosts_that_differ_all_get_both_calls(
    connect, hosts, tuning, what, odd_one
):
    usual, other, usual_text, other_text = DIFFERENCES[what]

    def body(comm, rank):
        coll, dtype, op, kwargs = other if rank == odd_one else usual
        call(comm, coll, dtype, op, **kwargs)

    group = connect("mixed", 4, hosts=in_turns(hosts, 4 // hosts), tuning=tuning)
    for error in errors_of(group.outcomes(body), range(4)):
        assert usual_text in str(error) and other_text in str(error), error


@ANY_WAY
@pytest.mark.parametrize("gone", [0, 3])
def test_a_rank_that_leaves_is_named_on_every_host(connect, hosts, tuning, gone):
    group = connect("mixed", 4, hosts=in_turns(hosts, 4 // hosts), tuning=tuning)

    def body(comm, rank):
        if rank == gone:
            time.sleep(0.2)
            comm.close()
        else:
            call(comm, "all_reduce", "float32", out=np.ones(5000, np.float32))

    for error in errors_of(group.outcomes(body), set(range(4)) - {gone}):
        assert f"rank {gone}" in str(error)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("round_", range(8))
@pytest.mark.parametrize(("hosts", "tuning", "sizes"), FOUR)
def test_a_rank_that_closes_in_any_stage_ends_all_the_others(
    connect, dtype, round_, hosts, tuning, sizes
):
    group = connect("mixed", 4, hosts=in_turns(hosts, 4 // hosts), tuning=tuning)
    gone = round_ % 4
    rng = random.Random(round_)

    def body(comm, rank):
        data = np.zeros(300000, np.uint16 if dtype == "bfloat16" else np.float32)
        if rank == gone:
            threading.Timer(0.02 + rng.random() * 0.05, comm.close).start()
        while True:
            call(comm, "all_reduce", dtype, out=data)

    outcomes = group.outcomes(body)
    for rank, outcome in enumerate(outcomes):
        assert isinstance(outcome.error, CommError), f"rank {rank}: {outcome}"
        assert outcome.seconds < CALL_S
        if rank != gone:
            assert f"rank {gone}" in str(outcome.error), outcome


def test_a_timeout_says_that_there_were_stages(connect):
    group = connect("mixed", 4, hosts=in_turns(2, 2), tuning=BY_HOST)

    def body(comm, rank):
        if rank != 3:
            call(comm, "all_reduce", "float32", out=np.ones(5000, np.float32), timeout=0.5)

    errors = errors_of(group.outcomes(body), range(3))
    assert any("stage" in str(error) for error in errors), errors


@pytest.mark.parametrize("transport", REAL)
def test_ranks_that_count_other_hosts_refuse_each_other(transport):
    places = ([0, 0, 1, 1], [5, 9, 5, 9])
    comms = [_core.Comm(rank, 4, bytes(16), hosts=places[rank % 2]) for rank in range(2)]
    wires = [comm.listen(*LISTENS[transport][0]) for comm in comms]
    peers = [(transport, wires[rank % 2], f"thread {rank}") for rank in range(4)]
    outcomes = run_threads([lambda c=comm: c.connect(peers, 0.5) for comm in comms])
    assert all("list of hosts" in str(outcome.error) for outcome in outcomes), outcomes
    for comm in comms:
        comm.close()


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize(("hosts", "tuning", "sizes"), FOUR)
def test_a_host_sends_little_more_than_its_share(connect, dtype, hosts, tuning, sizes):
    where = [rank * hosts // 4 for rank in range(4)]
    group = connect("tcp", 4, hosts=where, tuning=tuning)
    shares = inputs(dtype, 4, 1_000_003)

    def sent(comm, rank):
        return sum(
            stats["sent_bytes"]
            for other, stats in enumerate(comm.stats())
            if where[other] != where[rank]
        )

    before = group.run(sent)
    all_reduce(group, dtype, "SUM", shares)
    after = group.run(sent)
    optimum = 2 * shares[0].nbytes * (hosts - 1) / hosts
    for host in range(hosts):
        used = sum(after[r] - before[r] for r in range(4) if where[r] == host)
        assert 0.99 * optimum <= used <= 1.1 * optimum, (host, used, optimum)
