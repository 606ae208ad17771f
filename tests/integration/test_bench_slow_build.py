# SPDX-License-Identifier: Apache-2.0
"""A deliberately slowed build is caught by ``rdmatrain bench compare``, in real sweeps."""

import sys
from pathlib import Path

import pytest

from rdmatrain.bench.compare import CROWDED_WARNING, MIN_ROUNDS, compare

FOLDER = str(Path(__file__).parents[2] / "benchmarks")
SIZES = (8, 512, 4096, 32768, 262144)
FACTOR = 1.5
ROUNDS, CALLS, BUDGET_S = 6, 30, 15.0


@pytest.fixture(scope="module")
def sweep():
    sys.path.insert(0, FOLDER)
    try:
        from sweeps import sweep  # noqa: PLC0415 - a script's neighbour

        return sweep
    finally:
        sys.path.remove(FOLDER)


def test_a_build_that_is_slower_by_half_is_caught_and_itself_is_not(sweep):
    first, again, slow = (
        sweep(SIZES, ROUNDS, slower=factor, calls=CALLS, budget_s=BUDGET_S)
        for factor in (1.0, 1.0, FACTOR)
    )
    if min(len(record["rounds"]) for run in (first, again, slow) for record in run) < MIN_ROUNDS:
        pytest.skip(
            f"this machine is so crowded that {BUDGET_S} s hold less than {MIN_ROUNDS} rounds"
        )
    assert compare(first, again).exit_code == 0
    found = compare(again, slow)
    if found.verdict != "slower" and CROWDED_WARNING in found.warnings:
        pytest.skip(f"{CROWDED_WARNING}: {found.judged[0].change}")
    assert found.verdict == "slower", found.judged
