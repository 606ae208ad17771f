"""Measure how often ``rdmatrain bench compare`` finds a build that is 10 % slower, and errs.

In each turn this build is started twice, and one whose ranks are busy 10 % longer once, for a short
sweep each. From these, as many turns as ``compare --builds`` has by default are drawn again and
again, with replacement, and compared: this build with itself, where a coin decides in each turn
which of the two starts stands for which build, and with the slower one. Fails where the slower one
is found too seldom, or where the same is called slower too often. What the limited number of turns
leaves open is told as an interval: the middle 95 % of what sets of turns give that are drawn in
that way too (bootstrap: Efron and Tibshirani 1993, chapters 6 and 13). Each is the share of 1000
comparisons, whose own chance, 0.3 percentage points at 1 %, widens it a little. A comparison takes
7 ms, so that the intervals take ten minutes.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import append_records, where
from sweeps import sweep

from rdmatrain.bench.compare import compare
from rdmatrain.bench.starts import GOOD_STARTS

SIZES = [8 << shift for shift in range(0, 19, 3)]  # as SWEEP of rdmatrain bench compare has them
ROUNDS = 3
FACTOR = 1.10
FOUND, ALARMS = 0.95, 0.01
SETS, OF_SET = 40, 1000  # of turns, for the interval; comparisons of each
Record = dict[str, Any]
Turn = tuple[list[Record], ...]  # this build, itself again, and the slower one
Pair = tuple[list[Record], list[Record]]
Draw = Callable[[Turn, np.random.Generator], Pair]


def main() -> int:
    """Measure, draw, compare, print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=2 * GOOD_STARTS, help="that are measured")
    parser.add_argument("--draws", type=int, default=2000, help="comparisons of each kind")
    parser.add_argument("--save", type=Path, help="write the turns to this new file")
    parser.add_argument("--load", type=Path, help="read them from this one, and measure nothing")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="append records to this file")
    args = parser.parse_args()
    if args.turns < GOOD_STARTS:
        parser.error(f"--turns is at least {GOOD_STARTS}")
    if args.draws < 1:
        parser.error("--draws is at least 1")
    if args.save and args.save.exists():
        parser.error(f"--save {args.save}: there is such a file: give a new one")
    place, turns = load(args.load) if args.load else measure(args.turns, args.save)
    if not place or len(turns) < GOOD_STARTS:
        parser.error(
            f"--load {args.load}: give a file of --save, with {GOOD_STARTS} turns or more after "
            "the line that says where they were measured"
        )
    held, records = judged(turns, args.draws, np.random.default_rng(args.seed))
    if args.json:
        append_records(args.json, [record | place for record in records])
    return int(not held)


def judged(
    turns: Sequence[Turn], draws: int, rng: np.random.Generator
) -> tuple[bool, list[Record]]:
    """Draw, compare and print; return whether all claims hold, and a record of each."""
    about = {"turns": len(turns), "starts": GOOD_STARTS, "draws": draws, "spread": spread(turns)}
    print(f"# {GOOD_STARTS} starts of each build out of {len(turns)} turns, {draws} times;")
    print(f"# spread between neighbours {about['spread']:.3f}")
    held, records = [], []
    for build, draw, limit in (("same", same, ALARMS), ("slower", slower, FOUND)):
        part = share(turns, draw, draws, rng)
        low, high = interval(turns, draw, rng)
        held.append(show(build, part, (low, high), limit))
        records.append({"build": build, "called_slower": part, "low": low, "high": high} | about)
    return all(held), records


def measure(number: int, save: Path | None) -> tuple[Record, list[Turn]]:
    """Make so many turns; a file has where, and those that were made, whatever happens."""
    place, turns = where(), []
    if save:
        append_records(save, [place])
    for each in range(number):
        turns.append(measured(each))
        print(f"# {each + 1} of {number} turns", flush=True)
        if save:
            with save.open("a", encoding="utf-8") as file:
                print(json.dumps(turns[-1]), file=file)
    return place, turns


def load(path: Path) -> tuple[Record, list[Turn]]:
    """Read a file: where turns were measured, empty if it does not say so, and the turns."""
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    place = lines.pop(0) if lines and isinstance(lines[0], dict) else {}
    return place, [tuple(line) for line in lines]


def measured(number: int) -> Turn:
    """Make a turn; who is first changes."""
    kinds = [1.0, 1.0, FACTOR]
    order = [(number + step) % len(kinds) for step in range(len(kinds))]
    found = {kind: sweep(SIZES, ROUNDS, slower=kinds[kind]) for kind in order}
    return tuple(found[kind] for kind in range(len(kinds)))


def same(turn: Turn, rng: np.random.Generator) -> Pair:
    """Return both starts of this build; a coin decides which is called the other build."""
    return (turn[0], turn[1]) if rng.random() < 0.5 else (turn[1], turn[0])


def slower(turn: Turn, _: np.random.Generator) -> Pair:
    """Return a start of this build, and that of the slower one."""
    return turn[0], turn[2]


def drawn(turns: Sequence[Turn], draw: Draw, rng: np.random.Generator) -> Pair:
    """Return the results of two builds that were started in turns drawn from these."""
    builds: Pair = ([], [])
    for number, picked in enumerate(rng.integers(len(turns), size=GOOD_STARTS)):
        for all_of_it, records in zip(builds, draw(turns[picked], rng), strict=True):
            all_of_it.extend(record | {"time": f"{number:06d}"} for record in records)
    return builds


def share(
    turns: Sequence[Turn],
    draw: Draw,
    times: int,
    rng: np.random.Generator,
    judge: Callable[..., Any] = compare,
) -> float:
    """Return which part of so many comparisons says slower."""
    verdicts = (judge(*drawn(turns, draw, rng)).verdict for _ in range(times))
    return sum(verdict == "slower" for verdict in verdicts) / times


def interval(turns: Sequence[Turn], draw: Draw, rng: np.random.Generator) -> tuple[float, float]:
    """Return the middle 95 % of that part, over sets of as many turns that might have been."""
    picked = rng.integers(len(turns), size=(SETS, len(turns)))
    parts = [share([turns[each] for each in row], draw, OF_SET, rng) for row in picked]
    low, high = np.quantile(parts, [0.025, 0.975])
    return float(low), float(high)


def spread(turns: Sequence[Turn]) -> float:
    """Return the standard deviation of what two starts of a build in one turn differ by."""
    levels = np.log(
        [[[min(record["rounds"]) for record in turn[build]] for turn in turns] for build in (0, 1)]
    )
    return float(np.std(np.median(levels[1] - levels[0], axis=1), ddof=1))


def show(build: str, part: float, reach: tuple[float, float], limit: float) -> bool:
    """Print a row; tell whether the claim holds."""
    ok = part <= limit if build == "same" else part >= limit
    claim = f"at {'most' if build == 'same' else 'least'} {limit:.0%}"
    print(
        f"{build:>6} build: called slower {part:6.2%} ({reach[0]:.1%}..{reach[1]:.1%}), "
        f"{claim}: {'ok' if ok else 'MISSED'}"
    )
    return ok


if __name__ == "__main__":
    sys.exit(main())
