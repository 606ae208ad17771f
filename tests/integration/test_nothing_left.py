# SPDX-License-Identifier: Apache-2.0
"""However a job dies, nothing is left: benchmarks/nothing_left.py in small."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import nothing_left

del sys.path[0]

TIMES = 2


@pytest.mark.parametrize("name", nothing_left.WAYS)
def test_nothing_is_left_of_a_job(name: str) -> None:
    way, all_runs = nothing_left.WAYS[name]
    for _ in range(TIMES):
        assert nothing_left.die(way, all_runs=all_runs, with_torch=False) == []
