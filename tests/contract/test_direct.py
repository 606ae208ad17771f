"""Buffers in the arena: in place from a size on, with the same bits as in messages."""

import numpy as np
import pytest
from group import CALL_S, LEAD_BYTES, arena_call, bytes_at, call, in_arena, span_of
from oracle import assert_same_bits, inputs, numpy_dtype, reduced, values

from rdmatrain import _core

ARENAS = ("shm-arena", "shm-arena-some", "fake-delay-arena")
DIRECT = _core.default_tuning(2)["direct"]
NEVER = 1 << 62
TUNINGS = (
    {"direct": 0},
    {"direct": NEVER},
    {"one_shot": 0},
    {"direct": 0, "one_shot": 0},
    {"block": 64},
    {"chunk": 64},
    {"scatter": 0},
    {"scatter": 0, "direct": NEVER},
    {"direct": 0, "one_shot": 0, "scatter": 0, "block": 64, "chunk": 64},
)
each_arena = pytest.mark.parametrize("arena", ARENAS)


class Recorder:
    """Stands for a communicator: notes where the buffers of a call lie, and fills the output."""

    def __init__(self) -> None:
        self.starts: dict[str, int | None] = {}

    def post(self, coll, dtype, op, *, in_=None, out=None, timeout=None):
        for name, buffer in (("in_", in_), ("out", out)):
            span = span_of(buffer)
            self.starts[name] = _core.arena_offset(span[0], span[1] - span[0])
        out[-1] = 99
        return self

    def wait(self) -> None:
        pass


def test_the_helper_moves_arrays_into_the_arena_as_they_lie_to_each_other():
    _core.arena_open()
    out = values("int32", 0, 30).copy()
    recorder = Recorder()
    arena_call(recorder, "all_gather", "int32", "SUM", {"in_": out[10:20], "out": out})
    assert recorder.starts["out"] % 4096 == LEAD_BYTES
    assert recorder.starts["in_"] == recorder.starts["out"] + 40
    assert out.view(np.uint8)[-1] == 99
    assert_same_bits(out[:29], values("int32", 0, 29), "what was not written")
    arena_call(recorder, "all_reduce", "int32", "SUM", {"in_": values("int32", 0, 30), "out": out})
    assert None not in recorder.starts.values()
    assert abs(recorder.starts["in_"] - recorder.starts["out"]) >= 4096


def results_of_all(comm, rank, p, dtype, n):
    """Every collective once, n elements to a shard."""
    got = {}
    whole = values(dtype, rank, p * n)
    got["all_reduce"] = np.empty(n, numpy_dtype(dtype))
    call(comm, "all_reduce", dtype, "AVG", in_=values(dtype, rank, n, 1), out=got["all_reduce"])
    got["in place"] = values(dtype, rank, n, 2).copy()
    call(comm, "all_reduce", dtype, out=got["in place"])
    got["reduce_scatter"] = np.empty(n, numpy_dtype(dtype))
    call(comm, "reduce_scatter", dtype, in_=whole, out=got["reduce_scatter"])
    got["all_gather"] = np.full(p * n, 77, numpy_dtype(dtype))
    call(comm, "all_gather", dtype, in_=values(dtype, rank, n, 3), out=got["all_gather"])
    own = np.full(p * n, 77, numpy_dtype(dtype))
    own[rank * n : (rank + 1) * n] = values(dtype, rank, n, 3)
    call(comm, "all_gather", dtype, in_=own[rank * n : (rank + 1) * n], out=own)
    got["own shard"] = own
    for root in range(p):
        got[f"root {root}"] = values(dtype, rank, n, 4 + root).copy()
        call(comm, "broadcast", dtype, out=got[f"root {root}"], peer=root)
    return got


def wanted(rank, p, dtype, n):
    gathered = np.concatenate(inputs(dtype, p, n, 3))
    summed = reduced(dtype, "SUM", inputs(dtype, p, p * n))
    return {
        "all_reduce": reduced(dtype, "AVG", inputs(dtype, p, n, 1)),
        "in place": reduced(dtype, "SUM", inputs(dtype, p, n, 2)),
        "reduce_scatter": summed[rank * n : (rank + 1) * n],
        "all_gather": gathered,
        "own shard": gathered,
        **{f"root {root}": values(dtype, root, n, 4 + root) for root in range(p)},
    }


def check_all(group, p, dtype, n):
    got = group.run(lambda comm, rank: results_of_all(comm, rank, p, dtype, n))
    for rank in range(p):
        for name, want in wanted(rank, p, dtype, n).items():
            assert_same_bits(got[rank][name], want, f"{name}, rank {rank}")


@each_arena
@pytest.mark.parametrize("p", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_sides_of_the_switch_give_what_numpy_gives(connect, arena, p, dtype):
    group = connect(arena, p)
    switch = DIRECT // numpy_dtype(dtype).itemsize
    for n in (switch - 1, switch, switch + 1, 5 * switch + 3):
        check_all(group, p, dtype, n)


@each_arena
@pytest.mark.parametrize("tuning", TUNINGS, ids=lambda t: "-".join(f"{k}{v}" for k, v in t.items()))
def test_no_switch_point_changes_a_bit(connect, arena, tuning):
    group = connect(arena, 3, tuning=tuning)
    for n in (1, 97, 6007):
        check_all(group, 3, "float32", n)


@each_arena
@pytest.mark.parametrize("p", [2, 3])
def test_a_page_of_a_large_broadcast_comes_from_whoever_stores_it(connect, arena, p):
    n = (1 << 20) // 4 + 5  # the root stores its part, the receivers fetch theirs

    def body(comm, rank):
        buffers = [values("int32", rank, n, root).copy() for root in range(p)]
        for root, buffer in enumerate(buffers):
            call(comm, "broadcast", "int32", out=buffer, peer=root)
        return buffers

    for rank, buffers in enumerate(connect(arena, p).run(body)):
        for root, got in enumerate(buffers):
            assert_same_bits(got, values("int32", root, n, root), f"root {root}, rank {rank}")


@pytest.mark.parametrize("arena", ["shm-arena", "fake-delay-arena"])
@pytest.mark.parametrize("p", [2, 4])
def test_collectives_in_flight_at_once_on_views_of_one_block(connect, arena, p):
    n = 3 * DIRECT // 4 + 1

    def body(comm, rank):
        both = in_arena(values("float32", rank, 2 * n), lead=1 + 2 * rank)
        first, second = both[:n], both[n:]  # their border is within a cache line
        for turn in range(5):
            works = [
                comm.post("all_reduce", "float32", out=part, timeout=CALL_S)
                for part in ((first, second) if turn % 2 == 0 else (second, first))
            ]
            for work in reversed(works):
                work.wait()
            if turn < 4:
                both[:] = values("float32", rank, 2 * n, turn + 1)
        return both.copy()

    want = reduced("float32", "SUM", inputs("float32", p, 2 * n, 4))
    for rank, got in enumerate(connect(arena, p).run(body)):
        assert_same_bits(got, want, f"rank {rank}")


def test_one_buffer_may_be_the_input_of_several_collectives_at_once(connect):
    n = DIRECT

    def body(comm, rank):
        given = in_arena(values("int32", rank, n))
        outs = [in_arena(np.zeros(n, np.int32), lead) for lead in (3, 5)]
        gathered = np.zeros(3 * n, np.int32)
        works = [
            comm.post("all_reduce", "int32", in_=given, out=out, timeout=CALL_S) for out in outs
        ]
        works.append(comm.post("all_gather", "int32", in_=given, out=gathered, timeout=CALL_S))
        for work in works:
            work.wait()
        return [*outs, gathered, given]

    total = reduced("int32", "SUM", inputs("int32", 3, n))
    for rank, got in enumerate(connect("shm-arena", 3).run(body)):
        want = [total, total, np.concatenate(inputs("int32", 3, n)), values("int32", rank, n)]
        for i, (g, w) in enumerate(zip(got, want, strict=True)):
            assert_same_bits(g, w, f"buffer {i}, rank {rank}")


def test_what_lies_around_a_buffer_is_not_touched(connect):
    n = DIRECT // 4 + 7

    def body(comm, rank):
        block = in_arena(np.full(3 * n, rank + 1, np.float32), lead=3)
        call(comm, "all_reduce", "float32", out=block[n : 2 * n])
        start, end = span_of(block)
        around = bytes_at((start, end)).view(np.float32)
        return around[:n].copy(), around[2 * n :].copy()

    for rank, (before, behind) in enumerate(connect("shm", 4).run(body)):
        assert (before == rank + 1).all()
        assert (behind == rank + 1).all()
