# SPDX-License-Identifier: Apache-2.0
"""From the recorder's ring to counts: whatever is read when, each operation is counted once."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.comm.trace import Record
from rdmatrain.metrics.operations import Operations
from rdmatrain.metrics.tally import Tally

START = 1_000_000_000


def record(number: int, coll: str = "all_reduce", over: int = 0, status: str = "OK") -> Record:
    return Record(
        number, 1, coll, "float32", "SUM", 0, 0, (8,), 8, 8, False, number, START, START,
        START + over if over else 0, 0, status if over else None,
    )  # fmt: skip


def counted(tally: Tally) -> dict[str, float]:
    name = "rdmatrain_collectives_total"
    return {labels[0]: value for (metric, labels), value in tally.values.items() if metric == name}


def test_what_runs_is_counted_when_it_is_over() -> None:
    operations = Operations(Tally(), lambda record: "tcp")
    assert operations.count([record(1, over=2_000_000), record(2)]) == 2
    assert operations.count([record(1, over=2_000_000), record(2)]) == 0
    assert operations.tally.values["rdmatrain_collectives_total", ("all_reduce", "tcp")] == 1
    assert operations.count([record(1, over=2_000_000), record(2, over=5_000_000)]) == 0
    assert operations.tally.values["rdmatrain_collectives_total", ("all_reduce", "tcp")] == 2
    assert operations.tally.values["rdmatrain_rank_wait_seconds_total", ()] == 0.007
    counts, seconds = operations.tally.histograms[
        "rdmatrain_collective_duration_seconds", ("all_reduce",)
    ]
    assert (sum(counts), round(seconds, 6)) == (2, 0.007)
    assert operations.last_progress_ns == START + 5_000_000


def test_what_failed_is_no_progress() -> None:
    operations = Operations(Tally(), lambda record: "tcp")
    operations.count([record(1, over=5, status="PEER_LOST")])
    assert operations.tally.values == {
        ("rdmatrain_collective_errors_total", ("all_reduce", "PEER_LOST")): 1,
        ("rdmatrain_collectives_missed_total", ()): 0,  # so that the first one is a growth
    }
    assert operations.last_progress_ns == 0


def test_a_message_is_no_waiting_in_collectives() -> None:
    operations = Operations(Tally(), lambda record: "shm")
    operations.count([record(1, "send", over=5)])
    assert counted(operations.tally) == {"send": 1}
    assert ("rdmatrain_rank_wait_seconds_total", ()) not in operations.tally.values


STEPS = st.lists(
    st.tuples(
        st.integers(0, 12),  # posted
        st.lists(st.integers(0, 11), max_size=8),  # which of those that run end
        st.lists(st.integers(0, 7), max_size=2),  # slots that are being written while it is read
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_each_operation_is_counted_once_or_missed(
    steps: list[tuple[int, list[int], list[int]]],
) -> None:
    """A ring of 8, that is read at any time, some of its slots unreadable at that time."""
    colls = ("all_reduce", "barrier", "send")
    ring: dict[int, Record] = {}
    running: list[int] = []
    ended: Counter[str] = Counter()
    last = 0
    operations = Operations(Tally(), lambda record: "shm")
    for posted, ends, hidden in [*steps, (0, [0] * 200, []), (0, [], [])]:
        for _ in range(posted):
            last += 1
            running.append(last)
            ring[last] = record(last, colls[last % 3])
            ring.pop(last - 8, None)
        for place in ends:
            if place < len(running):
                number = running.pop(place)
                ended[colls[number % 3]] += 1
                if number in ring:
                    ring[number] = record(number, colls[number % 3], over=5)
        operations.count([each for n, each in sorted(ring.items()) if n % 8 not in hidden])
    missed = operations.tally.values["rdmatrain_collectives_missed_total", ()]
    found = counted(operations.tally)
    assert all(found.get(coll, 0) <= ended[coll] for coll in colls)
    assert sum(found.values()) + missed == last == sum(ended.values())
    if last <= 8 and not any(hidden for _, _, hidden in steps):
        assert missed == 0
