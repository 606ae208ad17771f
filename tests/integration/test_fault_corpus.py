# SPDX-License-Identifier: Apache-2.0
"""The launcher names whose fault it was: the trickiest of benchmarks/fault_corpus.py."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import fault_corpus

del sys.path[0]

NAMES = (
    "missing module, before torch",
    "script with a wrong line",
    "no such program",
    "ValueError",
    "0 too early",
    "culprit takes 1 s to die",
    "victim aborts, culprit takes 1 s to die",
    "victim dies before, by a signal handler",
)
CASES = {case.name: case for case in fault_corpus.CASES}


@pytest.mark.parametrize("name", NAMES)
def test_the_first_line_says_who_what_and_what_to_do(name: str) -> None:
    verdict = fault_corpus.run_case(CASES[name])
    assert not verdict.misses, f"{verdict.misses}: {verdict.line}"
