"""Who hangs: a pure rule over what the watchers of all nodes see.

A worker hangs when it does nothing although others wait for it. Whoever uses CPU or moves bytes is
busy, however long the others wait: rank 0 may be saving, evaluating or compiling.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from rdmatrain.launcher.messages import RankState

# Beats come twice a second; a crowded machine may delay a few.
MIN_SILENCE_S = 1.5
MAX_NAMED = 8


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """Who hangs.

    Attributes:
        rank: the guilty one; None when all wait for each other.
        kind: ``stopped``, ``gil``, ``idle`` or ``deadlock``.
        seconds: for how long.
        detail: what was seen, in words, without the rank.
        waiting: the ranks that wait for it.

    """

    rank: int | None
    kind: str
    seconds: float
    detail: str
    waiting: tuple[int, ...] = ()


def judge(states: Sequence[RankState], hang_s: float) -> Suspect | None:
    """Say who hangs, or None.

    Call it at each observation: a hang is then found at most two observations after ``hang_s``.

    Args:
        states: all ranks that live, of all nodes.
        hang_s: how long somebody may do nothing while others wait for it; 0 for ever.

    """
    if hang_s <= 0:
        return None
    states = sorted(states, key=lambda each: each.rank)
    return _stopped(states, hang_s) or _holds_up(states, hang_s) or _deadlock(states, hang_s)


def _stopped(states: Sequence[RankState], hang_s: float) -> Suspect | None:
    found = [each for each in states if each.process == "T" and each.stopped_s >= hang_s]
    if not found:
        return None
    worst = max(found, key=lambda each: (each.stopped_s, -each.rank))
    return Suspect(
        rank=worst.rank,
        kind="stopped",
        seconds=worst.stopped_s,
        detail=f"has been stopped by a signal (SIGSTOP) for {worst.stopped_s:.0f} s",
        waiting=tuple(each.rank for each in states if _waits_for(each, worst, hang_s)),
    )


def _holds_up(states: Sequence[RankState], hang_s: float) -> Suspect | None:
    outside = [each for each in states if each.waiting_s is None or _is_silent(each, hang_s)]
    # Who is outside of a collective may wait for whoever works there, in ways that nobody sees.
    if any(not _does_nothing(each, hang_s) for each in outside):
        return None
    for suspect in sorted(outside, key=lambda each: (-each.idle_s, each.rank)):
        if waiting := _held_up(states, suspect, hang_s):
            return _told(suspect, waiting, hang_s)
    return None


def _held_up(states: Sequence[RankState], suspect: RankState, hang_s: float) -> Sequence[RankState]:
    """Return who waits for it; nobody while one of them does something.

    What it receives, the kernel's books may leave out; what they send it is in them.
    """
    waiting = [each for each in states if _waits_for(each, suspect, hang_s)]
    return waiting if all(_does_nothing(each, hang_s) for each in waiting) else ()


def _told(suspect: RankState, waiting: Sequence[RankState], hang_s: float) -> Suspect:
    ranks = tuple(each.rank for each in waiting)
    where = f" in {waiting[0].waits_in}" if waiting[0].waits_in else ""
    for_it = f"while {_ranks(ranks)} for it{where}"
    if _is_silent(suspect, hang_s):
        kind = "gil"
        seconds = suspect.beat_s or 0.0
        detail = (
            f"has done nothing and let no Python run for {seconds:.0f} s, {for_it}: native code "
            "that does not return and holds the GIL"
        )
    else:
        kind, seconds = "idle", suspect.idle_s
        detail = (
            f"has done nothing for {seconds:.0f} s, {for_it}: a lock, or a call that does not "
            "return"
        )
    return Suspect(rank=suspect.rank, kind=kind, seconds=seconds, detail=detail, waiting=ranks)


def _deadlock(states: Sequence[RankState], hang_s: float) -> Suspect | None:
    """Judge ranks that are all in collectives in which nothing moves.

    All in the same one are left to its own timeout: then it is the fabric that is slow or down.
    """
    if not all(_does_nothing(each, hang_s) and _waits(each, hang_s) for each in states):
        return None
    circle = _circle({each.rank: each for each in states})
    if not circle:
        return None
    seconds = min(each.idle_s for each in states)
    return Suspect(
        rank=None,
        kind="deadlock",
        seconds=seconds,
        detail=(
            f"ranks have waited for each other in different calls for {seconds:.0f} s: "
            f"{_calls(circle)}"
        ),
        waiting=tuple(each.rank for each in circle),
    )


def _calls(states: Sequence[RankState]) -> str:
    ranks_in: dict[str, list[int]] = {}
    for each in states:
        ranks_in.setdefault(each.waits_in, []).append(each.rank)
    told = [f"{_ranks(ranks)} in {text}" for text, ranks in list(ranks_in.items())[:MAX_NAMED]]
    return "; ".join([*told, "..."] if len(ranks_in) > MAX_NAMED else told)


def _circle(by_rank: Mapping[int, RankState]) -> list[RankState]:
    """Return ranks that each miss one of themselves, which is in another call; or none."""
    left = dict(by_rank)
    while True:
        going = [rank for rank, state in left.items() if not _misses_any(state, left)]
        if not going:
            return list(left.values())
        for rank in going:
            del left[rank]


def _misses_any(state: RankState, left: Mapping[int, RankState]) -> bool:
    missed: Collection[int] = state.waits_for or left.keys()
    return any(rank in left and left[rank].waits_in != state.waits_in for rank in missed)


def _is_silent(state: RankState, hang_s: float) -> bool:
    return state.beat_s is not None and state.beat_s >= max(hang_s - 1.0, MIN_SILENCE_S)


def _does_nothing(state: RankState, hang_s: float) -> bool:
    return state.process not in {"T", "t"} and state.idle_s >= hang_s


def _waits(state: RankState, hang_s: float) -> bool:
    """Whether it says so, and its word is fresh."""
    return (
        state.waiting_s is not None
        and state.waiting_s >= hang_s
        and state.process not in {"T", "t"}
        and not _is_silent(state, hang_s)
    )


def _waits_for(state: RankState, other: RankState, hang_s: float) -> bool:
    return (
        state.rank != other.rank
        and _waits(state, hang_s)
        and (not state.waits_for or other.rank in state.waits_for)
    )


def _ranks(ranks: Sequence[int]) -> str:
    """Write ``rank 3 waits`` or ``ranks 1, 2 and 7 more wait``."""
    if len(ranks) == 1:
        return f"rank {ranks[0]} waits"
    named = ", ".join(str(rank) for rank in ranks[:MAX_NAMED])
    more = f" and {len(ranks) - MAX_NAMED} more" if len(ranks) > MAX_NAMED else ""
    return f"ranks {named}{more} wait"
