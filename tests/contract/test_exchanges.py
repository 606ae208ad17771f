"""Reduce, gather, scatter, all_to_all, shards of any size, and recvs from any rank."""

import numpy as np
import pytest
from group import CALL_S, call, sizes
from oracle import DTYPES, assert_same_bits, inputs, numpy_dtype, reduced, values

from rdmatrain import _core
from rdmatrain.errors import CommError, CommTimeoutError

WORLDS = (1, 2, 3, 5)
SIZES = sizes(0, 1, 1000, 200_003)
EACH_WORLD = pytest.mark.parametrize("p", WORLDS)


def empty(dtype: str, count: int):
    """An output whose old content is not what anybody expects."""
    return np.full(count, 77).astype(numpy_dtype(dtype))


def uneven(sender: int, receiver: int) -> int:
    """Elements from one rank to another: some none, some in several chunks."""
    return (sender * 7 + receiver * 3) % 4 * (1 + 40_000 * ((sender + receiver) % 2))


@EACH_WORLD
def test_reduce_gives_the_root_the_sum_and_leaves_the_others_inputs(group, p):
    def body(comm, rank, n):
        results = []
        for root in range(p):
            mine = values("float32", rank, n, root).copy()
            out = empty("float32", n) if rank == root else None
            call(comm, "reduce", "float32", in_=mine, out=out, peer=root)
            in_place = values("float32", rank, n, root).copy()
            buffers = {"out": in_place} if rank == root else {"in_": in_place}
            call(comm, "reduce", "float32", peer=root, **buffers)
            results.append((mine, out, in_place))
        return results

    def check(n, rank, root, mine, out, in_place):
        given = values("float32", rank, n, root)
        want = reduced("float32", "SUM", inputs("float32", p, n, root))
        where = f"{n} elements, root {root}, rank {rank}"
        assert_same_bits(mine, given, f"input, {where}")
        assert_same_bits(in_place, want if rank == root else given, f"in place, {where}")
        if rank == root:
            assert_same_bits(out, want, where)

    for n, outcomes in group(p).run_each(body, SIZES):
        for rank, results in enumerate(outcomes):
            for root, arrays in enumerate(results):
                check(n, rank, root, *arrays)


@EACH_WORLD
def test_gather_brings_the_shards_to_the_root_in_the_order_of_the_ranks(group, p):
    def body(comm, rank, n):
        outs = []
        for root in range(p):
            outs.append(empty("int32", p * n) if rank == root else None)
            call(
                comm, "gather", "int32", in_=values("int32", rank, n, root), out=outs[-1], peer=root
            )
        return outs

    for n, outcomes in group(p).run_each(body, SIZES):
        for rank, outs in enumerate(outcomes):
            want = np.concatenate(inputs("int32", p, n, rank))
            assert_same_bits(outs[rank], want, f"{n} elements, root {rank}")


@EACH_WORLD
def test_scatter_gives_each_rank_its_shard_of_the_roots_input(group, p):
    def body(comm, rank, n):
        outs = []
        for root in range(p):
            given = values("int32", root, p * n, root) if rank == root else None
            outs.append(empty("int32", n))
            call(comm, "scatter", "int32", in_=given, out=outs[-1], peer=root)
        return outs

    for n, outcomes in group(p).run_each(body, SIZES):
        for rank, outs in enumerate(outcomes):
            for root, got in enumerate(outs):
                want = values("int32", root, p * n, root)[rank * n : (rank + 1) * n]
                assert_same_bits(got, want, f"{n} elements, root {root}, rank {rank}")


@EACH_WORLD
def test_all_to_all_transposes_the_shards(group, p):
    def body(comm, rank, n):
        out = empty("int32", p * n)
        call(comm, "all_to_all", "int32", in_=values("int32", rank, p * n), out=out)
        return out

    for n, outcomes in group(p).run_each(body, SIZES):
        for rank, got in enumerate(outcomes):
            shards = [values("int32", r, p * n)[rank * n : (rank + 1) * n] for r in range(p)]
            assert_same_bits(got, np.concatenate(shards), f"{n} elements, rank {rank}")


@EACH_WORLD
def test_all_to_all_takes_any_split(group, p):
    def body(comm, rank):
        sends = [uneven(rank, to) for to in range(p)]
        takes = [uneven(sender, rank) for sender in range(p)]
        out = empty("float64", sum(takes))
        call(
            comm,
            "all_to_all",
            "float64",
            in_=values("float64", rank, sum(sends)),
            out=out,
            in_counts=sends,
            out_counts=takes,
        )
        return out

    for rank, got in enumerate(group(p).run(body)):
        pieces = []
        for sender in range(p):
            first = sum(uneven(sender, to) for to in range(rank))
            whole = values("float64", sender, sum(uneven(sender, to) for to in range(p)))
            pieces.append(whole[first : first + uneven(sender, rank)])
        assert_same_bits(got, np.concatenate(pieces), f"rank {rank}")


@EACH_WORLD
def test_shards_of_any_size_are_gathered_scattered_and_reduced(group, p):
    counts = [uneven(r, r + 1) for r in range(p)]
    ends = np.cumsum([0, *counts])
    total = int(ends[-1])
    root = p - 1

    def body(comm, rank):
        mine, is_root = values("float32", rank, counts[rank], 1), rank == root
        everything, at_root = empty("float32", total), empty("float32", total)
        shard, sums = empty("float32", counts[rank]), empty("float32", counts[rank])
        call(comm, "all_gather", "float32", in_=mine, out=everything, out_counts=counts)
        gathered = {"out": at_root, "out_counts": counts} if is_root else {}
        call(comm, "gather", "float32", in_=mine, peer=root, **gathered)
        given = {"in_": values("float32", root, total, 2), "in_counts": counts} if is_root else {}
        call(comm, "scatter", "float32", out=shard, peer=root, **given)
        whole = values("float32", rank, total, 3)
        call(comm, "reduce_scatter", "float32", in_=whole, out=sums, in_counts=counts)
        return everything, at_root, shard, sums

    whole = np.concatenate([values("float32", r, counts[r], 1) for r in range(p)])
    scattered = values("float32", root, total, 2)
    summed = reduced("float32", "SUM", inputs("float32", p, total, 3))
    for rank, (everything, at_root, shard, sums) in enumerate(group(p).run(body)):
        mine = slice(ends[rank], ends[rank + 1])
        assert_same_bits(everything, whole, f"all_gather, rank {rank}")
        assert_same_bits(shard, scattered[mine], f"scatter, rank {rank}")
        assert_same_bits(sums, summed[mine], f"reduce_scatter, rank {rank}")
        if rank == root:
            assert_same_bits(at_root, whole, "gather")


def test_every_dtype_is_gathered_scattered_and_exchanged(group):
    def exchange(comm, rank, dtype):
        swapped, at_root, shard = empty(dtype, 3000), empty(dtype, 3000), empty(dtype, 1000)
        call(comm, "all_to_all", dtype, in_=values(dtype, rank, 3000), out=swapped)
        out = at_root if rank == 1 else None
        call(comm, "gather", dtype, in_=values(dtype, rank, 1000), out=out, peer=1)
        given = values(dtype, 2, 3000) if rank == 2 else None
        call(comm, "scatter", dtype, in_=given, out=shard, peer=2)
        return swapped, at_root, shard

    def body(comm, rank):
        return {dtype: exchange(comm, rank, dtype) for dtype in DTYPES}

    outcomes = group(3).run(body)
    for dtype in DTYPES:
        for rank, outcome in enumerate(outcomes):
            swapped, _, shard = outcome[dtype]
            mine = slice(rank * 1000, (rank + 1) * 1000)
            want = np.concatenate([values(dtype, r, 3000)[mine] for r in range(3)])
            assert_same_bits(swapped, want, f"all_to_all of {dtype}, rank {rank}")
            part = values(dtype, 2, 3000)[mine]
            assert_same_bits(shard, part, f"scatter of {dtype}, rank {rank}")
        whole = np.concatenate(inputs(dtype, 3, 1000))
        assert_same_bits(outcomes[1][dtype][1], whole, f"gather of {dtype}")


# -- calls that differ --


def differing(group, p, calls, **options):
    """What each rank's call raises; calls has one (coll, kwargs) for each rank."""

    def body(comm, rank):
        coll, kwargs = calls[rank]
        try:
            call(comm, coll, "int32", **kwargs)
            call(comm, "barrier")  # whose part was right may be done before it hears of the others'
        except CommError as error:
            return str(error)
        return None

    return group(p, **options).run(body)


def test_another_root_is_an_error_that_names_both(group):
    data = values("int32", 0, 10)
    calls = [
        ("reduce", {"in_": data, "out": data.copy(), "peer": 0}),
        ("reduce", {"in_": data, "out": data.copy(), "peer": 1}),
    ]
    for error in differing(group, 2, calls):
        assert "root 0" in error
        assert "root 1" in error


def test_another_split_is_an_error_that_names_both(group):
    def exchange(sends, takes):
        out = empty("int32", sum(takes))
        counts = {"in_counts": sends, "out_counts": takes}
        return ("all_to_all", {"in_": values("int32", 0, sum(sends)), "out": out, **counts})

    errors = differing(group, 2, [exchange([1, 5], [1, 2]), exchange([2, 3], [4, 3])])
    for error in errors:
        assert "5 elements given" in error
        assert "4 taken" in error


def test_shards_that_differ_from_what_is_taken_are_an_error_on_both_sides(group):
    counts = ([4, 5], [4, 6])

    def body(comm, rank):
        mine, out = values("int32", rank, counts[rank][rank]), empty("int32", sum(counts[rank]))
        with pytest.raises(CommError) as caught:
            call(comm, "all_gather", "int32", in_=mine, out=out, out_counts=counts[rank])
        return str(caught.value)

    for error in group(2).run(body):
        assert "4 elements given, 5 taken" in error
        assert "6 elements given, 4 taken" in error


def test_another_shape_of_as_many_elements_is_an_error_that_names_both(group):
    shapes = ((2, 6), (3, 4), (2, 6))
    calls = [
        ("all_reduce", {"out": values("int32", r, 12).copy(), "shape": s})
        for r, s in enumerate(shapes)
    ]
    for error in differing(group, 3, calls):
        assert "[2, 6]" in error
        assert "[3, 4]" in error


@pytest.mark.parametrize("coll", ["gather", "scatter"])
def test_a_shard_that_the_root_does_not_expect_is_an_error_on_every_rank(group, coll):
    whole, shard = {"gather": ("out", "in_"), "scatter": ("in_", "out")}[coll]
    counts = {"gather": "out_counts", "scatter": "in_counts"}[coll]

    def of_rank(rank):
        kwargs = {shard: values("int32", rank, 5 if rank == 2 else 4).copy(), "peer": 0}
        if rank == 0:
            kwargs |= {whole: empty("int32", 12), counts: [4, 4, 4]}
        return (coll, kwargs)

    for error in differing(group, 3, [of_rank(rank) for rank in range(3)]):
        assert "5 elements" in error
        assert "4 elements" in error


def test_a_shard_of_its_own_that_differs_is_refused_before_anything_moves(group):
    def body(comm, _rank):
        counts = {"in_counts": [3], "out_counts": [4]}
        with pytest.raises(ValueError, match="12 bytes in, 16 bytes out"):
            call(
                comm, "all_to_all", "int32", in_=empty("int32", 3), out=empty("int32", 4), **counts
            )

    group(1).run(body)


# -- any source --


def test_a_recv_from_any_rank_takes_one_message_of_each_and_says_whose(group):
    def body(comm, rank):
        if rank > 0:
            call(comm, "send", "int32", in_=values("int32", rank, 1000 * rank), peer=0, tag=rank)
            call(comm, "send", "int32", in_=values("int32", rank, 500), peer=0, tag=9)
            return None
        got = {}
        for _ in range(3):
            out = empty("int32", 500)
            work = comm.post("recv", "int32", out=out, peer=_core.ANY_PEER, tag=9, timeout=CALL_S)
            if not got:
                for other in (1, 2, 3):
                    call(
                        comm,
                        "recv",
                        "int32",
                        out=empty("int32", 1000 * other),
                        peer=other,
                        tag=other,
                    )
            work.wait()
            got[work.peer()] = out
        return got

    got = group(4).run(body)[0]
    assert sorted(got) == [1, 2, 3]
    for rank, data in got.items():
        assert_same_bits(data, values("int32", rank, 500), f"from rank {rank}")


def test_recvs_from_any_rank_and_from_one_are_served_in_their_order(group):
    def body(comm, rank):
        if rank == 1:
            call(comm, "recv", "int32", out=empty("int32", 0), peer=0, tag=1)
            for salt in range(4):
                call(comm, "send", "int32", in_=values("int32", 1, 10, salt), peer=0)
            return None
        outs = [empty("int32", 10) for _ in range(4)]
        peers = [_core.ANY_PEER, 1, _core.ANY_PEER, 1]
        works = [
            comm.post("recv", "int32", out=out, peer=peer, timeout=CALL_S)
            for out, peer in zip(outs, peers, strict=True)
        ]
        call(comm, "send", "int32", in_=empty("int32", 0), peer=1, tag=1)
        for work in works:
            work.wait()
        return outs

    for salt, got in enumerate(group(2).run(body)[0]):
        assert_same_bits(got, values("int32", 1, 10, salt), f"message {salt}")


def test_a_recv_from_any_rank_ends_when_the_last_one_has_left(group):
    def body(comm, rank):
        call(comm, "barrier")  # a rank that has never met another does not see it leave
        if rank != 0:
            comm.close()
            return None
        with pytest.raises(
            CommError, match=r"left the group, while rank 0 was in recv.*any rank"
        ) as caught:
            call(comm, "recv", "int32", out=empty("int32", 4), peer=_core.ANY_PEER)
        return caught.value

    error = group(3).run(body)[0]
    assert not isinstance(error, CommTimeoutError)


def test_a_recv_from_any_rank_has_a_deadline(group):
    def body(comm, rank):
        if rank == 0:
            with pytest.raises(CommTimeoutError, match="from any rank"):
                call(comm, "recv", "int32", out=empty("int32", 4), peer=_core.ANY_PEER, timeout=0.3)

    group(2).run(body)


def test_a_group_of_one_refuses_a_recv_from_any_rank(group):
    def body(comm, _rank):
        with pytest.raises(ValueError, match="no other rank"):
            call(comm, "recv", "int32", out=empty("int32", 4), peer=_core.ANY_PEER)

    group(1).run(body)
