"""Whether one file of results is slower than another: cases in pairs, their changes, a verdict.

The verdict is on rdmatrain, and on all contestants where one of the files has no rdmatrain. Each is
judged at three levels: as a whole, which finds what slows all alike; each operation; and each case,
which finds larger ones at a single size. Slower is what is slower than the threshold allows, so
surely that of all comparisons of one build with itself at most 1 - confidence say so anywhere: half
of that is for the first level, a quarter for each of the others (Bonferroni), shared within a level
by Holm's rule (A simple sequentially rejective multiple test procedure, 1979).

Files of many runs that were made in turns, as by ``builds.py``, are compared start by start
(``starts.py``); others by their rounds, with the machine's pace taken off (``change.py``).
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np

from rdmatrain.bench import starts
from rdmatrain.bench.change import Change, Changes, Pair, estimate, pace_of
from rdmatrain.errors import SettingError

MIN_ROUNDS, GOOD_ROUNDS = 5, 10
SUBJECT = "rdmatrain"
CROWDED = 1.35  # times the fastest round that a usual one may take, for cases to be judged
SMALL = 1.10  # changes up to this are called none, if larger ones are ruled out
SHARES = {"contestant": 0.5, "op": 0.25, "case": 0.25}  # of what may go wrong, for each level
ALIKE = ("machine", "cpus", "kernel", "host", "pinned")
LIBRARIES = ("python", "torch")
CROWDED_WARNING = (
    f"other programs ran: a usual round took more than {CROWDED} times as long as the fastest, "
    "so that single cases are not judged"
)
NOT_IN_TURNS = [
    "the runs of the two files were not made in turns, so their rounds are compared; --builds "
    "makes them in turns"
]
Record = Mapping[str, Any]


@dataclass(frozen=True, order=True)
class Key:
    """What must be equal for two results to be of the same case; see ``model.Case``."""

    backend: str
    asked: str
    ranks: int
    op: str
    dtype: str
    redop: str
    root: int
    in_place: bool
    nbytes: int

    @property
    def entry(self) -> str:
        """Name of the contestant, as rdmatrain/tcp."""
        return self.backend if self.asked in ("", "auto") else f"{self.backend}/{self.asked}"

    def __str__(self) -> str:
        """As in texts: rdmatrain all_reduce of 4096 bytes of float32 SUM, 2 ranks."""
        place = "in place" if self.in_place else "out of place"
        what = f"{self.nbytes} bytes of {self.dtype} {self.redop}".rstrip()
        return f"{self.entry} {self.op} of {what} {place}, {self.ranks} ranks"


@dataclass(frozen=True)
class Measured:
    """All that one file has of a case; several runs of it are put together.

    Attributes:
        transports: that joined the ranks.
        rounds: median seconds a call of each round.
        spins: pace of the machine beside each; empty: not known of all.
        starts: seconds of the fastest round of each run.
        times: when each run was begun.

    """

    transports: frozenset[str]
    rounds: tuple[float, ...]
    spins: tuple[float, ...]
    starts: tuple[float, ...]
    times: tuple[str, ...]

    @property
    def p50(self) -> float:
        """Median seconds a call."""
        return statistics.median(self.rounds)


@dataclass(frozen=True)
class Judged:
    """A case, an operation, or a contestant, and what is said of it.

    Attributes:
        level: "contestant", "op" or "case".
        key: of the case; of a group, of its first case.
        num_cases: that it has.
        change: from run a to run b.
        verdict: "slower", "faster", "same" (changes of more than 10 % are ruled out), "unsure";
            "crowded": a case that is not judged, as other programs took its CPUs.

    """

    level: str
    key: Key
    num_cases: int
    change: Change
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """What is to be said of two files.

    Attributes:
        verdict: "slower" if anything that is judged is; else "faster" if a contestant or an
            operation is; else "same" if all contestants are; else "unsure".
        changed_transports: for cases whose ranks were joined in another way.
        warnings: what else was not alike.
        only_a: cases that run b lacks.
        only_b: cases that run a lacks.
        starts: of each build that were compared; 0: rounds of fewer runs were.
        pace: change of the machine; None: not known, or starts were compared.
        judged: by level.
        measured: of each case, in run a and in run b.

    """

    verdict: str
    changed_transports: list[str]
    warnings: list[str]
    only_a: list[Key]
    only_b: list[Key]
    starts: int
    pace: Change | None
    judged: list[Judged]
    measured: dict[Key, tuple[Measured, Measured]]

    @property
    def exit_code(self) -> int:
        """1 if b is slower, or came by another transport; else 0."""
        return int(self.verdict == "slower" or bool(self.changed_transports))


def compare(
    a: Sequence[Record], b: Sequence[Record], threshold: float = 0.02, confidence: float = 0.99
) -> Comparison:
    """Compare the results of two files.

    Args:
        a: records of the file that is the measure.
        b: records of the other.
        threshold: part of the time that is allowed to be more.
        confidence: at which nothing is called slower that is not.

    Raises:
        SettingError: they have no case in common, or too few rounds.

    """
    all_a, all_b = _measured(a), _measured(b)
    both = {key: (all_a[key], all_b[key]) for key in sorted(set(all_a) & set(all_b))}
    if not both:
        raise SettingError(
            f"the files have no case in common: one has {next(iter(all_a))}, "
            f"the other {next(iter(all_b))}"
        )
    estimates, no_pace = _estimates(a, b, both)
    kept = estimates.both
    subjects = [key for key in kept if key.backend == SUBJECT] or list(kept)
    judged = _judge(_levels(subjects, estimates), threshold, 1 - confidence)
    crowded = [CROWDED_WARNING] if any(each.verdict == "crowded" for each in judged) else []
    return Comparison(
        verdict=_overall(judged),
        changed_transports=_changed_transports(both),
        warnings=_unlike(a, b) + no_pace + crowded + _dropped(both, kept),
        only_a=sorted(set(all_a) - set(all_b)),
        only_b=sorted(set(all_b) - set(all_a)),
        starts=estimates.starts,
        pace=estimates.pace,
        judged=judged,
        measured=kept,
    )


def _measured(records: Iterable[Record]) -> dict[Key, Measured]:
    names = [each.name for each in fields(Key)]
    found: dict[Key, Measured] = {}
    for record in sorted(records, key=lambda record: str(record["time"])):
        key = Key(**{name: record[name] for name in names})
        rounds, spins = tuple(record["rounds"]), tuple(record.get("spins", ()))
        when = (str(record["time"]),)
        new = Measured(frozenset({record["transport"]}), rounds, spins, (min(rounds),), when)
        found[key] = _joined(found[key], new) if key in found else new
    return found


def _joined(first: Measured, then: Measured) -> Measured:
    spins = first.spins + then.spins if first.spins and then.spins else ()
    return Measured(
        first.transports | then.transports,
        first.rounds + then.rounds,
        spins,
        first.starts + then.starts,
        first.times + then.times,
    )


Both = dict[Key, tuple[Measured, Measured]]


def _with_rounds(both: Both) -> Both:
    """Leave out cases that were cut short: it is the fewest rounds that count."""
    num = {key: min(len(each.rounds) for each in pair) for key, pair in both.items()}
    most = max(num.values())
    if most < MIN_ROUNDS:
        raise SettingError(
            f"there are {most} rounds of each case: that is too few to tell a change from noise; "
            f"measure both with --rounds {GOOD_ROUNDS}, at least {MIN_ROUNDS}"
        )
    enough = max(MIN_ROUNDS, most // 2)
    return {key: pair for key, pair in both.items() if num[key] >= enough}


class _Starts:
    """Changes of groups of cases that both files have, by runs in turns."""

    pace = None

    def __init__(self, both: Both) -> None:
        self.both = both
        self.starts = min(len(each.starts) for pair in both.values() for each in pair)

    def of(self, keys: Sequence[Key]) -> Changes:
        num = self.starts
        a, b = (np.log([self.both[key][of].starts[:num] for key in keys]) for of in (0, 1))
        return starts.estimate(a, b)


class _Estimates:
    """Changes of groups of cases that both files have, each relative to the machine's pace."""

    starts = 0

    def __init__(self, both: Both, with_pace: bool) -> None:
        self.both = both
        self._rounds = min(len(each.rounds) for pair in both.values() for each in pair)
        spins = [(pair[0].spins, pair[1].spins) for pair in both.values()]
        self._pace = pace_of(self._pair(spins) if with_pace else None)
        self.pace = self._pace.change if with_pace else None

    def of(self, keys: Sequence[Key]) -> Changes:
        pairs = [(self.both[key][0].rounds, self.both[key][1].rounds) for key in keys]
        return estimate(self._pair(pairs), self._pace)

    def _pair(self, cases: Sequence[tuple[tuple[float, ...], tuple[float, ...]]]) -> Pair:
        """Put cases together; of those with more rounds than others, some all over the run."""

        def some(seconds: tuple[float, ...]) -> list[float]:
            return [seconds[index * len(seconds) // self._rounds] for index in range(self._rounds)]

        a, b = ([some(pair[run]) for pair in cases] for run in (0, 1))
        return Pair(np.log(np.array(a)), np.log(np.array(b)))


def _estimates(
    a: Sequence[Record], b: Sequence[Record], both: Both
) -> tuple[_Starts | _Estimates, list[str]]:
    """Return the changes, and why the machine's pace is not taken off them, if so."""
    least = {key: min(len(each.starts) for each in pair) for key, pair in both.items()}
    often = {key: both[key] for key, num in least.items() if num >= starts.MIN_STARTS}
    if often and all(_in_turns(*pair) for pair in often.values()):
        return _Starts(often), []
    kept = _with_rounds(both)
    no_pace = _no_pace(a, b, kept)
    return _Estimates(kept, with_pace=not no_pace), (NOT_IN_TURNS if often else []) + no_pace


def _in_turns(a: Measured, b: Measured) -> bool:
    """Tell whether the n-th runs of both were made beside each other, before both of the next."""
    turns = zip(a.times, b.times, strict=False)
    return all(max(turn) <= min(after) for turn, after in pairwise(turns))


def _no_pace(a: Sequence[Record], b: Sequence[Record], both: Both) -> list[str]:
    """Say why the machine's pace cannot be compared."""
    if not all(len(each.spins) == len(each.rounds) for pair in both.values() for each in pair):
        return ["the machine's pace was not measured: only great changes are sure"]
    first, then = _facts(a), _facts(b)
    if any(first[name] != then[name] for name in ("machine", "python")):
        return ["so the machine's pace cannot be compared: only great changes are sure"]
    return []


def _levels(subjects: Sequence[Key], estimates: _Starts | _Estimates) -> list[Judged]:
    """Return all that is to be judged: contestants, operations if there are several, cases."""
    by_entry, by_op = _grouped(subjects, 3), _grouped(subjects, 4)
    of_ops = [(keys, estimates.of(keys)) for keys in by_op]
    several = len(by_op) > len(by_entry)
    of_entries = [(keys, estimates.of(keys)) for keys in by_entry] if several else of_ops
    found = [Judged("contestant", keys[0], len(keys), each.group, "") for keys, each in of_entries]
    if several:
        found += [Judged("op", keys[0], len(keys), each.group, "") for keys, each in of_ops]
    for keys, changes in of_ops:
        pairs = zip(keys, changes.cases, strict=True)
        verdict = "crowded" if changes.crowd > math.log(CROWDED) else ""
        found += [Judged("case", key, 1, change, verdict) for key, change in pairs]
    return found


def _grouped(keys: Sequence[Key], num_fields: int) -> list[list[Key]]:
    """Group keys by their first fields: three are the contestant's, the fourth is the operation."""
    groups: dict[tuple[object, ...], list[Key]] = {}
    for key in keys:
        groups.setdefault(astuple(key)[:num_fields], []).append(key)
    return list(groups.values())


def _judge(found: Sequence[Judged], threshold: float, may_err: float) -> list[Judged]:
    """Give each its verdict; see the module for how what may err is shared."""
    judged = [each for each in found if each.verdict]
    for level, share in SHARES.items():
        members = [each for each in found if each.level == level and not each.verdict]
        verdicts = _verdicts([each.change for each in members], threshold, share * may_err)
        for each, verdict in zip(members, verdicts, strict=True):
            judged.append(replace(each, verdict=verdict or _same(each.change, may_err)))
    return sorted(judged, key=lambda each: list(SHARES).index(each.level))


def _verdicts(changes: Sequence[Change], threshold: float, may_err: float) -> list[str]:
    """Return slower, faster or nothing, of which any is wrong with that probability at most."""
    slower = _holm([each.p_slower(1 + threshold) for each in changes], may_err)
    faster = _holm([each.p_faster(1 / (1 + threshold)) for each in changes], may_err)
    return [
        "slower" if is_slower else "faster" if is_faster else ""
        for is_slower, is_faster in zip(slower, faster, strict=True)
    ]


def _same(change: Change, may_err: float) -> str:
    low, high = change.interval(1 - may_err)
    return "same" if low > 1 / SMALL and high < SMALL else "unsure"


def _holm(p_values: Sequence[float], may_err: float) -> list[bool]:
    """Say which hypotheses fall, if any may fall wrongly with that probability."""
    fallen = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] > may_err / (len(p_values) - rank):
            break
        fallen[index] = True
    return fallen


def _overall(judged: Sequence[Judged]) -> str:
    if any(each.verdict == "slower" for each in judged):
        return "slower"
    if any(each.verdict == "faster" for each in judged if each.level != "case"):
        return "faster"
    whole = {each.verdict for each in judged if each.level == "contestant"}
    return "same" if whole == {"same"} else "unsure"


def _changed_transports(both: Both) -> list[str]:
    """Name the contestants whose ranks were joined in another way, each once."""
    found: dict[str, int] = {}
    for key, (first, then) in both.items():
        if first.transports != then.transports and "" not in first.transports | then.transports:
            ways = [" and ".join(sorted(each.transports)) for each in (first, then)]
            text = f"{key.entry} went over {ways[0]} in the first file, over {ways[1]} in the other"
            found[text] = found.get(text, 0) + 1
    return [f"{text}: {num} cases" for text, num in found.items()]


def _unlike(a: Sequence[Record], b: Sequence[Record]) -> list[str]:
    """Say what of machine and software differs."""
    first, then = _facts(a), _facts(b)
    return [
        f"{name} differs: {', '.join(sorted(first[name]))}; {', '.join(sorted(then[name]))}"
        for name in first
        if first[name] != then[name]
    ]


def _facts(records: Sequence[Record]) -> dict[str, set[str]]:
    facts = {name: {str(record[name]) for record in records} for name in ALIKE}
    for name in LIBRARIES:
        facts[name] = {record["versions"].get(name, "none") for record in records}
    facts["device"] = {record.get("device", "cpu") for record in records}
    facts["NIC"] = {(record["nic"] or {"device": "none"})["device"] for record in records}
    return facts


def _dropped(both: Both, kept: Both) -> list[str]:
    return [f"{key} has too few rounds, and is left out" for key in both if key not in kept]
