# SPDX-License-Identifier: Apache-2.0
"""A deliberately slowed build is caught by ``rdmatrain bench compare``, in real sweeps."""

import sys
from pathlib import Path

import pytest

from rdmatrain.bench.compare import CROWDED_WARNING, MIN_ROUNDS, compare

FOLDER = str(Path(__file__).parents[2] / "benchmarks")
SIZES = (8, 512, 4096, 32768, 262144)
# Ranks that made calls take twice as long, or longer, would wait for each other ever longer.
FACTOR = 1.8
# From one start to the next the level of a VM may move by a third: `compare --builds` deals with
# that, and benchmarks/compare_power.py shows how far.
STARTS = 4
ROUNDS, CALLS, BUDGET_S = 6, 30, 15.0


@pytest.fixture(scope="module")
def sweep():
    sys.path.insert(0, FOLDER)
    try:
        from sweeps import sweep  # noqa: PLC0415 - a script's neighbour

        return sweep
    finally:
        sys.path.remove(FOLDER)


@pytest.mark.timeout(300)
def test_a_build_that_is_nearly_twice_as_slow_is_caught(sweep):
    for _ in range(STARTS):
        fast, slow = (
            sweep(SIZES, ROUNDS, slower=factor, calls=CALLS, budget_s=BUDGET_S)
            for factor in (1.0, FACTOR)
        )
        if min(len(record["rounds"]) for run in (fast, slow) for record in run) < MIN_ROUNDS:
            pytest.skip(
                f"this machine is so crowded that {BUDGET_S} s hold less than {MIN_ROUNDS} rounds"
            )
        assert compare(fast, fast).exit_code == 0
        found = compare(fast, slow)
        if found.verdict == "slower":
            return
    if CROWDED_WARNING in found.warnings:
        pytest.skip(f"{CROWDED_WARNING}: {found.judged[0].change}")
    pytest.fail(f"not found in {STARTS} starts: {found.judged}")
