# SPDX-License-Identifier: Apache-2.0
"""Who hangs: a table of situations, simulated clocks, and what must never be said."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.launcher.messages import RankState
from rdmatrain.launcher.watch.hang import judge

HANG_S = 8.0


def busy(rank: int, **more: object) -> RankState:
    return replace(RankState(rank=rank, beat_s=0.3), **more)


def waiting(rank: int, seconds: float = 9.0, **more: object) -> RankState:
    state = busy(rank, process="S", waiting_s=seconds, idle_s=seconds, waits_in="all_reduce #7")
    return replace(state, **more)


def idle(rank: int, seconds: float = 9.0, **more: object) -> RankState:
    return replace(busy(rank, process="S", idle_s=seconds), **more)


SILENT = {"beat_s": 9.0}
STOPPED = {"process": "T", "stopped_s": 8.2, "idle_s": 8.9, "beat_s": 8.8}

TABLE = {
    "nobody does anything wrong": ([busy(0), busy(1)], None),
    "all wait for a moment": ([waiting(0, 1.0), waiting(1, 1.0)], None),
    "one works, the others wait for it": ([busy(0), waiting(1, 500.0), waiting(2, 500.0)], None),
    "its GIL is held, but it works": ([busy(0, beat_s=60.0), waiting(1, 60.0)], None),
    "nobody waits for an idle one": ([busy(0), idle(1, 500.0)], None),
    "all are idle, nobody waits": ([idle(0), idle(1)], None),
    "stopped": ([busy(0), idle(1, **STOPPED)], (1, "stopped", ())),
    "stopped, others wait": ([waiting(0), idle(1, **STOPPED)], (1, "stopped", (0,))),
    "stopped in a collective": ([waiting(0), waiting(1, **STOPPED)], (1, "stopped", (0,))),
    "stopped just now": ([waiting(0), idle(1, **STOPPED | {"stopped_s": 7.0})], None),
    "held by a debugger": ([waiting(0), idle(1, **STOPPED | {"process": "t"})], None),
    "holds the GIL": ([waiting(0), idle(1, **SILENT)], (1, "gil", (0,))),
    "holds the GIL, and its last word was that it waits": (
        [waiting(0), waiting(1, **SILENT)],
        (1, "gil", (0,)),
    ),
    "its word that it waits is old": ([waiting(0, **SILENT), idle(1)], None),
    "its beats are late": ([waiting(0), idle(1, beat_s=6.5)], (1, "idle", (0,))),
    "a lock": ([waiting(0), idle(1), waiting(2)], (1, "idle", (0, 2))),
    "a lock, seen by the kernel alone": ([waiting(0), idle(1, beat_s=None)], (1, "idle", (0,))),
    "it may receive what another sends it": ([waiting(0, idle_s=0.0), idle(1), waiting(2)], None),
    "others are sent something": (
        [waiting(0, waits_for=(2,), idle_s=0.0), idle(1), waiting(2, waits_for=(1,))],
        (1, "idle", (2,)),
    ),
    "has waited for less": ([waiting(0, 7.9), idle(1)], None),
    "was idle for less": ([waiting(0), idle(1, 7.9)], None),
    "others are waited for": ([waiting(0, waits_for=(2,)), idle(1), waiting(2, 3.0)], None),
    "known to be missed": ([waiting(0, waits_for=(1, 2)), idle(1)], (1, "idle", (0,))),
    # Rank 1 may wait for rank 2 in a store or a file, which nobody sees.
    "someone else outside works": ([waiting(0), idle(1), busy(2)], None),
    "a rank in a debugger may be waited for": ([waiting(0), idle(1), idle(2, process="t")], None),
    "the longest idle": ([waiting(0), idle(1, 9.0), idle(2, 10.0)], (2, "idle", (0,))),
    "one collective, a slow fabric": ([waiting(0), waiting(1)], None),
    "one transfer, a slow fabric": (
        [waiting(0, waits_in="0 to 1", waits_for=(1,)), waiting(1, waits_in="0 to 1")],
        None,
    ),
    "different collectives": (
        [waiting(0, waits_in="x", waits_for=(1,)), waiting(1, waits_in="y", waits_for=(0,))],
        (None, "deadlock", (0, 1)),
    ),
    "different collectives, of different ranks": (
        [waiting(0, waits_in="x", waits_for=(1,)), waiting(1, waits_in="x", waits_for=(0,)),
         waiting(2, waits_in="y", waits_for=(3,)), waiting(3, waits_in="y", waits_for=(2,))],
        None,
    ),
    "different collectives, one moves": (
        [waiting(0, waits_in="x", waits_for=(1,)), waiting(1, waits_in="y", idle_s=0.0)],
        None,
    ),
    "a circle of three": (
        [waiting(0, waits_in="0 to 1", waits_for=(1,)),
         waiting(1, waits_in="1 to 2", waits_for=(2,)),
         waiting(2, waits_in="2 to 0", waits_for=(0,)), waiting(3, waits_in="x", waits_for=(2,))],
        (None, "deadlock", (0, 1, 2, 3)),
    ),
    "no circle: the last transfer is slow": (
        [waiting(0, waits_in="0 to 1", waits_for=(1,)),
         waiting(1, waits_in="1 to 2", waits_for=(2,)),
         waiting(2, waits_in="1 to 2", waits_for=(1,))],
        None,
    ),
    "nothing at all": ([], None),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_the_table(name: str) -> None:
    states, expected = TABLE[name]
    suspect = judge(states, HANG_S)
    found = suspect and (suspect.rank, suspect.kind, suspect.waiting)
    assert found == expected
    assert judge(states, 0.0) is None
    assert judge(list(reversed(states)), HANG_S) == suspect


def test_the_words() -> None:
    stopped = judge([busy(0), idle(1, **STOPPED)], HANG_S)
    assert stopped and stopped.detail == "has been stopped by a signal (SIGSTOP) for 8 s"
    held = judge([waiting(0), idle(1, **SILENT)], HANG_S)
    assert held and held.detail == (
        "has done nothing and let no Python run for 9 s, while rank 0 waits for it in all_reduce "
        "#7: native code that does not return and holds the GIL"
    )
    locked = judge([*(waiting(rank) for rank in range(10)), idle(10)], HANG_S)
    assert locked and locked.detail == (
        "has done nothing for 9 s, while ranks 0, 1, 2, 3, 4, 5, 6, 7 and 2 more wait for it in "
        "all_reduce #7: a lock, or a call that does not return"
    )
    states, _ = TABLE["different collectives"]
    crossed = judge(states, HANG_S)
    assert crossed and crossed.detail == (
        "ranks have waited for each other in different calls for 9 s: rank 0 waits in x; "
        "rank 1 waits in y"
    )


SECONDS = st.floats(0.0, 40.0)
STATES = st.builds(
    RankState,
    rank=st.just(0),
    process=st.sampled_from("RSDTt"),
    stopped_s=SECONDS,
    beat_s=st.none() | SECONDS,
    idle_s=SECONDS,
    waiting_s=st.none() | SECONDS,
    waits_for=st.lists(st.integers(0, 4), max_size=3).map(tuple),
    waits_in=st.sampled_from(["", "x", "y"]),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(STATES, max_size=5), st.floats(1.0, 20.0))
def test_whoever_used_a_cpu_is_innocent_unless_it_is_stopped(
    drawn: list[RankState], hang_s: float
) -> None:
    states = [replace(state, rank=rank) for rank, state in enumerate(drawn)]
    suspect = judge(states, hang_s)
    if suspect is None:
        return
    guilty = [state for state in states if state.rank in {suspect.rank, None}]
    if suspect.kind == "deadlock":
        guilty = [state for state in states if state.rank in suspect.waiting]
        assert guilty
        assert all(state.waiting_s is not None for state in states)
    if suspect.kind == "stopped":
        assert all(state.process == "T" and state.stopped_s >= hang_s for state in guilty)
    else:
        assert all(state.idle_s >= hang_s and state.process not in "Tt" for state in guilty)
        assert suspect.waiting
    assert suspect.rank not in suspect.waiting


@pytest.mark.parametrize("kind", ["stopped", "gil", "idle"])
@pytest.mark.parametrize("phase", [0.0, 0.3, 0.999])
def test_within_ten_seconds_by_the_slowest_clocks(kind: str, phase: float) -> None:
    """At 0 a rank hangs and the other waits; beats are 0.5 s late, observations 1.01 s apart."""
    steps = [phase + 1.01 * n for n in range(12)]
    for now in steps:
        since_seen = now - steps[0]  # what began at 0 was seen at the first step after it
        hung = idle(1, since_seen, beat_s=now % 0.5)
        if kind == "stopped":
            hung = replace(hung, process="T", stopped_s=since_seen)
        if kind != "idle":
            hung = replace(hung, beat_s=now)
        # The beat that tells of the wait comes half a second later.
        waiter = waiting(0, now) if now >= 0.5 else busy(0)
        if suspect := judge([waiter, hung], HANG_S):
            assert (suspect.rank, suspect.kind) == (1, kind)
            assert now <= 9.2
            return
    pytest.fail("not found")


def test_a_crowded_machine_is_no_hang() -> None:
    """Beats come up to 6 s late, and all ranks get a little CPU now and then."""
    for tenths in range(3000):
        now = tenths / 10
        late = [
            busy(rank, process="R", beat_s=(now + rank) % 6.5, idle_s=now % 5) for rank in (0, 1)
        ]
        assert judge(late, HANG_S) is None
        waits = replace(waiting(2, now), beat_s=(now * 3) % 6.5)
        assert judge([*late, waits], HANG_S) is None
