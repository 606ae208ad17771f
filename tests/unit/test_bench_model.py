# SPDX-License-Identifier: Apache-2.0
"""Bus bandwidth is what one rank's link carries, for every operation and 2 to 1024 ranks.

The oracle knows no formula. Each operation is done by a schedule of messages that no other beats,
and the bytes are counted that pass a rank's link in one direction, on the rank where most do.
Schedules of which that is not plain to see are carried out on values as well.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from bench_results import CONTEXT, GLOO, OPENMPI, OURS, case, result
from numpy.typing import NDArray

from rdmatrain.bench.model import OPS, Entry, record_of

Numbers = NDArray[np.int64]
# A step of a ring: each rank r passes part r + number to the next rank, which adds it or takes it.
Step = tuple[int, bool]


def reduce_scatter(ranks: int) -> list[Step]:
    """After it rank r has the sum of part r + 1."""
    return [(-step, True) for step in range(ranks - 1)]


def all_gather(ranks: int, first: int = 0) -> list[Step]:
    """Before it rank r has part r + first; after it all have all."""
    return [(first - step, False) for step in range(ranks - 1)]


def all_reduce(ranks: int) -> list[Step]:
    return reduce_scatter(ranks) + all_gather(ranks, first=1)


def carried_out(schedule: list[Step], parts: Numbers) -> Numbers:
    """Return the parts of each rank (row) after a schedule."""
    parts, ranks = parts.copy(), np.arange(len(parts))
    following = (ranks + 1) % len(ranks)
    for number, adds in schedule:
        part = (ranks + number) % len(ranks)
        moved = parts[ranks, part]
        parts[following, part] = moved + (parts[following, part] if adds else 0)
    return parts


@pytest.mark.parametrize("ranks", [2, 3, 4, 5, 8, 13, 64, 1024])
def test_the_schedules_of_rings_do_what_the_operations_are(ranks: int) -> None:
    given, each = np.arange(ranks * ranks).reshape(ranks, ranks) ** 2 + 1, np.arange(ranks)
    total = given.sum(axis=0)
    scattered = carried_out(reduce_scatter(ranks), given)
    assert (scattered[each, (each + 1) % ranks] == total[(each + 1) % ranks]).all()
    assert (carried_out(all_reduce(ranks), given) == total).all()
    assert (carried_out(all_gather(ranks), np.diag(total)) == total).all()


def busiest(senders: Numbers, receivers: Numbers, parts: int = 1) -> int:
    """Parts that pass the link that has most, if each message has so many."""
    return parts * int(max(np.bincount(senders).max(), np.bincount(receivers).max()))


def all_to_all(ranks: int) -> int:
    """A step for each distance: a part from each rank to the one so far on, but to itself."""
    return sum(1 for further in range(ranks) if further)


def from_root(ranks: int) -> int:
    """A part from rank 0 to each other one, or the other way."""
    return busiest(np.zeros(ranks - 1, dtype=np.int64), np.arange(1, ranks))


def along_a_line(ranks: int) -> int:
    """All parts from each rank but the last to the next one: the root is at one end."""
    return busiest(np.arange(ranks - 1), np.arange(1, ranks), parts=ranks)


def in_a_circle(ranks: int) -> int:
    """All parts from each rank to the next one."""
    return busiest(np.arange(ranks), np.roll(np.arange(ranks), -1), parts=ranks)


def once(ranks: int) -> int:
    """All parts from rank 0 to rank 1."""
    return busiest(np.array([0]), np.array([1]), parts=ranks)


# Parts of nbytes / ranks that pass the busiest link in one direction.
LOADS: dict[str, Callable[[int], int]] = {
    # In a step of these four each rank sends one part, and gets one.
    "all_reduce": lambda ranks: len(all_reduce(ranks)),
    "reduce_scatter": lambda ranks: len(reduce_scatter(ranks)),
    "all_gather": lambda ranks: len(all_gather(ranks)),
    "all_to_all": all_to_all,
    "broadcast": along_a_line,
    "reduce": along_a_line,
    "gather": from_root,
    "scatter": from_root,
    "sendrecv": in_a_circle,
    "pingpong": once,
    "write": once,
}


@pytest.mark.parametrize("op", sorted(LOADS))
def test_the_factor_is_what_the_busiest_link_carries_of_a_tensor(op: str) -> None:
    counts = range(2, 1025)
    counted = [LOADS[op](ranks) / ranks for ranks in counts]
    assert [OPS[op].factor(ranks) for ranks in counts] == pytest.approx(counted, rel=1e-12)


def test_every_operation_with_data_was_counted() -> None:
    assert set(OPS) - set(LOADS) == {"barrier"}


# As nccl-tests' page on performance has them, with two, four, eight and 64 ranks.
HALF_TO_ONE = (1 / 2, 3 / 4, 7 / 8, 63 / 64)
KNOWN = {
    "all_reduce": (1.0, 1.5, 1.75, 1.96875),
    "reduce_scatter": HALF_TO_ONE,
    "all_gather": HALF_TO_ONE,
    "all_to_all": HALF_TO_ONE,
    "broadcast": (1.0, 1.0, 1.0, 1.0),
    "reduce": (1.0, 1.0, 1.0, 1.0),
}


@pytest.mark.parametrize("op", sorted(KNOWN))
def test_factors_are_those_of_nccl_tests(op: str) -> None:
    assert tuple(OPS[op].factor(ranks) for ranks in (2, 4, 8, 64)) == KNOWN[op]


def test_bandwidths_are_of_the_median_in_gigabytes_of_ten_to_the_nine() -> None:
    # What an eight-GPU host does in nccl-tests: 1 GiB in 4.12 ms are 260 and 456 GB/s.
    got = result(OURS, case("all_reduce", 1 << 30), 4.12e-3, ranks=8)
    assert got.algbw == pytest.approx(260.617, rel=1e-5)
    assert got.busbw == pytest.approx(456.080, rel=1e-5)
    record = record_of(got, CONTEXT)
    assert (record["algbw"], record["busbw"]) == (got.algbw, got.busbw)


def test_a_barrier_has_no_bandwidth() -> None:
    got = result(OURS, case("barrier", 0), 3e-6)
    assert (got.algbw, got.busbw) == (0.0, 0.0)
    assert replace(got, seconds_p50=0.0).busbw == 0.0


def test_names_are_as_people_say_them() -> None:
    names = [str(each) for each in (OURS, GLOO, OPENMPI, Entry("rdmatrain", "auto"))]
    assert names == ["rdmatrain/shm", "gloo", "openmpi", "rdmatrain"]
    assert str(case()) == "all_reduce of 4096 bytes of float32"
    assert str(case("barrier", 0)) == "barrier"
