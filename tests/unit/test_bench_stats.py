# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmatrain.bench.model import Case, Entry
from rdmatrain.bench.stats import Taken, percentile, slowest, variation

CASE = Case("all_reduce", "float32", "SUM", 4096, True)
TIMES = st.floats(1e-9, 1e3)


@given(st.lists(TIMES, min_size=1, max_size=200), st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]))
def test_a_percentile_is_numpys(values: list[float], part: float) -> None:
    assert percentile(values, part) == pytest.approx(np.percentile(values, 100 * part), rel=1e-9)


@given(st.lists(TIMES, min_size=2, max_size=50))
def test_variation_is_that_of_a_sample(values: list[float]) -> None:
    expected = np.std(values, ddof=1) / np.mean(values)
    assert variation(values) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_one_round_has_no_variation() -> None:
    assert variation([0.5]) == 0.0


def test_a_turn_is_that_of_the_slowest_rank_and_not_of_the_slowest_calls() -> None:
    # Each rank waits in other calls: the medians are 2 and 3, that of the largest of each is 9.
    samples = [[2.0, 9.0, 2.0, 2.0, 9.0], [9.0, 3.0, 9.0, 3.0, 3.0]]
    median, calls = slowest(samples)
    assert median == 3.0
    assert calls.samples == (9.0, 9.0, 9.0, 3.0, 9.0)


def test_a_result_sums_up_its_rounds_as_numpy_does() -> None:
    rng = np.random.default_rng(7)
    turns = [rng.lognormal(-10, 1, size=(3, calls)) for calls in (40, 25, 31, 7)]
    taken = Taken(nwrong=5)
    for number, turn in enumerate(turns):
        taken.add(turn.tolist(), spin=number / 8)
    result = taken.result(Entry("gloo"), CASE, ranks=3, hosts=2, transport="tcp")

    medians = [np.median(turn, axis=1).max() for turn in turns]
    calls = np.concatenate([turn.max(axis=0) for turn in turns])
    assert result.rounds == pytest.approx(medians)
    assert result.seconds_p50 == pytest.approx(np.median(medians))
    assert result.seconds_p99 == pytest.approx(np.percentile(calls, 99))
    assert result.seconds_min == calls.min()
    assert result.cv == pytest.approx(np.std(medians, ddof=1) / np.mean(medians))
    assert (result.calls, result.nwrong) == (40 + 25 + 31 + 7, 5)
    assert result.spins == (0, 1 / 8, 2 / 8, 3 / 8)
    assert (result.ranks, result.hosts, result.transport) == (3, 2, "tcp")
