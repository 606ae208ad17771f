# SPDX-License-Identifier: Apache-2.0
"""The assignment is the best one, beside all that there are."""

from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.discovery.assignment import assign, deal, out_of_order

Costs = list[list[int]]


def even(chosen: tuple[int, ...], columns: int) -> bool:
    loads = Counter(chosen)
    counts = [loads[column] for column in range(columns)]
    return max(counts) - min(counts) <= 1


def all_even(rows: int, columns: int) -> list[tuple[int, ...]]:
    return [each for each in product(range(columns), repeat=rows) if even(each, columns)]


def total(costs: Costs, chosen: tuple[int, ...]) -> int:
    return sum(row[column] for row, column in zip(costs, chosen, strict=True))


def worst(costs: Costs, chosen: tuple[int, ...]) -> int:
    return max(row[column] for row, column in zip(costs, chosen, strict=True))


@st.composite
def matrices(draw: st.DrawFn, count: int) -> list[Costs]:
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    size = st.lists(
        st.lists(st.integers(0, 6), min_size=columns, max_size=columns),
        min_size=rows,
        max_size=rows,
    )
    return [draw(size) for _ in range(count)]


@settings(deadline=None, max_examples=200)
@given(matrices(3))
def test_any_costs_are_minimised_one_after_another(costs: list[Costs]) -> None:
    levels, first, second = costs
    chosen = tuple(assign(levels, first, second))
    choices = all_even(len(levels), len(levels[0]))
    assert chosen in choices

    def key(each: tuple[int, ...]) -> tuple[int, ...]:
        return worst(levels, each), *(total(cost, each) for cost in costs)

    assert key(chosen) == min(map(key, choices))


@st.composite
def trees(draw: st.DrawFn) -> Costs:
    """Levels of a tree: what two leaves share from the root on makes them nearer."""
    place = st.tuples(*[st.integers(0, 1)] * 3)
    rows, columns = (
        draw(st.lists(place, min_size=1, max_size=6)),
        draw(st.lists(place, min_size=1, max_size=5)),
    )

    def level(one: tuple[int, ...], other: tuple[int, ...]) -> int:
        return next((3 - i for i in range(3) if one[i] != other[i]), 0)

    return [[level(row, column) for column in columns] for row in rows]


@settings(deadline=None, max_examples=200)
@given(trees())
def test_in_a_tree_the_least_total_and_the_least_worst_are_one(levels: Costs) -> None:
    rows, columns = len(levels), len(levels[0])
    chosen = tuple(assign(levels))
    choices = all_even(rows, columns)
    assert worst(levels, chosen) == min(worst(levels, each) for each in choices)
    if rows <= columns or rows % columns == 0:
        assert total(levels, chosen) == min(total(levels, each) for each in choices)
        # Whatever farther costs more, the same assignments are the best.
        steep = [[10**level for level in row] for row in levels]
        assert total(steep, chosen) == min(total(steep, each) for each in choices)


def test_where_a_rest_makes_them_differ_nobody_is_further_than_need_be() -> None:
    # Of four columns two take a second row. Taken by the first two columns, no row is at 4; taken
    # by the first and the third, the total is less.
    levels = [[0, 3, 4, 4]] * 4 + [[4, 4, 0, 3]] * 2
    assert min(total(levels, each) for each in all_even(6, 4)) == 3 + 4
    chosen = tuple(assign(levels))
    assert (worst(levels, chosen), total(levels, chosen)) == (3, 9)


def test_greedy_would_take_what_another_needs() -> None:
    assert assign([[0, 1], [0, 4]]) == [1, 0]


def test_a_long_chain_of_swaps_is_found() -> None:
    count = 12
    levels = [[0 if column in {row, row - 1} else 4 for column in range(count)]
              for row in range(count)]  # fmt: skip
    # The last row may only have the column before it, so all others move up by one.
    levels[0], levels[-1] = [0] + [4] * (count - 1), [4] * (count - 2) + [4, 0]
    assert assign(levels) == list(range(count))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (8, 3), (8, 4), (3, 8), (7, 1)])
def test_loads_are_even_even_where_that_is_dear(rows: int, columns: int) -> None:
    costs = [[0] + [9] * (columns - 1)] * rows
    loads = Counter(assign(costs))
    counts = [loads[column] for column in range(columns)]
    assert max(counts) - min(counts) <= 1
    assert sum(counts) == rows


def test_without_rows_there_is_nothing_to_assign() -> None:
    assert assign([]) == []
    assert assign([], []) == []


@settings(deadline=None, max_examples=200)
@given(trees(), st.lists(st.integers(0, 3), max_size=3))
def test_rows_that_are_alike_keep_their_order(levels: Costs, again: list[int]) -> None:
    levels += [levels[row % len(levels)] for row in again]
    chosen = assign(levels, out_of_order(levels))
    for row, other in ((a, b) for b in range(len(levels)) for a in range(b)):
        if levels[row] == levels[other]:
            assert chosen[row] <= chosen[other]


@pytest.mark.parametrize("rows", range(1, 9))
@pytest.mark.parametrize("columns", range(1, 9))
def test_rows_are_spread_over_columns_that_are_all_alike(rows: int, columns: int) -> None:
    levels = [[3] * columns] * rows
    expected = [row * columns // rows for row in range(rows)]
    assert assign(levels, out_of_order(levels)) == expected


def test_what_is_left_is_dealt_in_rounds_and_never_too_far() -> None:
    # The first two rows are beside the first five columns, the last row beside the last two.
    levels = [[0] * 5 + [4] * 2] * 2 + [[4] * 5 + [0] * 2]
    assert deal(levels, [0, 2, 5], [0, 0, 0]) == [[1, 4], [3], [6]]
    assert deal(levels, [0, 2, 5], [0, -1, 3]) == [[1, 3, 4], [], [6]]
    assert deal([[4, 4, 5]], [0], [4]) == [[1]]
    assert deal([], [], []) == []


def test_what_only_one_row_may_have_is_not_dealt_to_another_first() -> None:
    # Both may have the second column, and only the first row the third: each gets one.
    assert deal([[0, 0, 0, 4], [4, 0, 4, 0]], [0, 3], [0, 0]) == [[2], [1]]
