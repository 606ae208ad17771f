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


@pytest.mark.parametrize(("part", "expected"), [(0, 1), (0.25, 1.5), (0.5, 2), (0.75, 2.5), (1, 3)])
def test_a_value_is_at_the_middle_of_its_weight(part: float, expected: float) -> None:
    assert percentile([3, 1, 2], part, [1, 1, 2]) == pytest.approx(expected)


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
    weights = [1 / turn.shape[1] for turn in turns for _ in range(turn.shape[1])]
    assert result.rounds == pytest.approx(medians)
    assert result.seconds_p50 == pytest.approx(np.median(medians))
    assert result.seconds_p99 == pytest.approx(percentile(calls, 0.99, weights))
    assert result.seconds_min == calls.min()
    assert result.cv == pytest.approx(np.std(medians, ddof=1) / np.mean(medians))
    assert (result.calls, result.nwrong) == (40 + 25 + 31 + 7, 5)
    assert result.spins == (0, 1 / 8, 2 / 8, 3 / 8)
    assert (result.ranks, result.hosts, result.transport) == (3, 2, "tcp")


def test_a_slow_round_counts_as_the_others_though_it_has_few_calls() -> None:
    taken = Taken()
    for seconds, calls in ((5e-6, 2000), (5e-6, 2000), (4182e-6, 4), (5245e-6, 3), (2094e-6, 9)):
        taken.add([[seconds] * calls], spin=1.0)
    result = taken.result(Entry("gloo"), CASE, ranks=1, hosts=1, transport="")
    assert result.seconds_p50 == 2094e-6
    assert result.seconds_p99 == pytest.approx(5245e-6)


@given(
    st.lists(
        st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=20).map(
            lambda calls: [list(of_rank) for of_rank in zip(*calls, strict=True)]
        ),
        min_size=1,
        max_size=20,
    )
)
def test_p99_is_not_below_p50(turns: list[list[list[float]]]) -> None:
    taken = Taken()
    for turn in turns:
        taken.add(turn, spin=1.0)
    result = taken.result(Entry("gloo"), CASE, ranks=2, hosts=1, transport="")
    assert result.seconds_p99 * (1 + 1e-9) >= result.seconds_p50
