"""Measure how often ``rdmatrain bench compare`` finds a build that is 10 % slower, and errs.

In each turn this build is started twice, and one whose ranks are busy 10 % longer once, for a short
sweep each. As many turns as ``compare --builds`` has by default are drawn from these, again and
again, and compared: this build with itself, and with the slower one. Fails where the slower one is
found too seldom, or where the same is called slower too often.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import append_records, where
from sweeps import sweep

from rdmatrain.bench.compare import compare
from rdmatrain.bench.starts import GOOD_STARTS

SIZES = [8 << shift for shift in range(0, 19, 3)]  # as rdmatrain.bench.builds.SWEEP has them
ROUNDS = 3
FACTOR = 1.10
FOUND, ALARMS = 0.95, 0.01
Turn = tuple[list[dict[str, Any]], ...]  # this build, itself again, and the slower one


def main() -> int:
    """Measure, draw, compare, print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=2 * GOOD_STARTS, help="that are measured")
    parser.add_argument("--draws", type=int, default=1000, help="comparisons of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="append records to this file")
    args = parser.parse_args()
    if args.turns < GOOD_STARTS:
        parser.error(f"--turns is at least {GOOD_STARTS}")
    turns = []
    for number in range(args.turns):
        turns.append(measured(number))
        print(f"# {number + 1} of {args.turns} turns", flush=True)
    rng = np.random.default_rng(args.seed)
    print(
        f"# {GOOD_STARTS} of {args.turns} starts of each build, {args.draws} times; spread between"
    )
    print(f"# neighbours {spread(turns):.3f}")
    rows = [
        ("same", count(drawn(turns, (0, 1), args.draws, rng)), ALARMS),
        ("slower", count(drawn(turns, (0, 2), args.draws, rng)), FOUND),
    ]
    held = [show(*row) for row in rows]
    if args.json:
        records = [{"build": build, "found": n, "of": of} for build, (n, of), _ in rows]
        about = {"turns": args.turns, "starts": GOOD_STARTS, "spread": spread(turns)}
        append_records(args.json, [record | about | where() for record in records])
    return int(not all(held))


def measured(number: int) -> Turn:
    """Make a turn; who is first changes."""
    kinds = [1.0, 1.0, FACTOR]
    order = [(number + step) % len(kinds) for step in range(len(kinds))]
    found = {kind: sweep(SIZES, ROUNDS, slower=kinds[kind]) for kind in order}
    return tuple(
        [record | {"time": f"{number:06d}"} for record in found[kind]] for kind in range(len(kinds))
    )


def drawn(
    turns: Sequence[Turn], builds: tuple[int, int], times: int, rng: np.random.Generator
) -> Iterator[Any]:
    """Yield the results of two builds in some of the turns; which one is first is drawn too."""
    for _ in range(times):
        picked = [turns[each] for each in sorted(rng.permutation(len(turns))[:GOOD_STARTS])]
        a, b = ([record for turn in picked for record in turn[build]] for build in builds)
        yield (b, a) if builds == (0, 1) and rng.random() < 0.5 else (a, b)


def spread(turns: Sequence[Turn]) -> float:
    """Return the standard deviation of what two starts of a build in one turn differ by."""
    levels = np.log(
        [[[min(record["rounds"]) for record in turn[build]] for turn in turns] for build in (0, 1)]
    )
    return float(np.std(np.median(levels[1] - levels[0], axis=1), ddof=1))


def count(pairs: Iterator[Any], judge: Callable[..., Any] = compare) -> tuple[int, int]:
    """Return how many pairs are called slower, and of how many."""
    verdicts = [judge(a, b).verdict for a, b in pairs]
    return verdicts.count("slower"), len(verdicts)


def show(build: str, found: tuple[int, int], limit: float) -> bool:
    """Print a row; tell whether the claim holds."""
    low, high = bounds(*found)
    part = found[0] / found[1]
    ok = part <= limit if build == "same" else part >= limit
    claim = f"at {'most' if build == 'same' else 'least'} {limit:.0%}"
    print(
        f"{build:>6} build: called slower {found[0]:5d} of {found[1]:5d}, "
        f"{part:6.1%} ({low:.1%}..{high:.1%}), {claim}: {'ok' if ok else 'MISSED'}"
    )
    return ok


def bounds(found: int, of: int) -> tuple[float, float]:
    """Return Wilson's interval of a probability, with 95 % confidence."""
    z = 1.96
    middle, reach = found + z * z / 2, z * math.sqrt(found * (of - found) / of + z * z / 4)
    return max(0.0, (middle - reach) / (of + z * z)), min(1.0, (middle + reach) / (of + z * z))


if __name__ == "__main__":
    sys.exit(main())
