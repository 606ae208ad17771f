"""The best assignment of rows to columns, exactly: GPUs to NICs.

Greedy pairing takes NICs away from GPUs that have no other one near. This is the Hungarian method
(Kuhn 1955) by shortest augmenting paths (Jonker and Volgenant 1987), in whole numbers.
"""

from collections.abc import Sequence

Costs = Sequence[Sequence[int]]


def assign(levels: Costs, *finer: Costs) -> list[int]:
    """Return a column for each row: evenly, none too far, and the least in total.

    No column gets a second row before all have one, and so on: numbers of rows differ by one at
    most. Among these, the largest level of any row is as small as can be, then the sum of levels,
    then the sum of each of the finer costs in turn. In a tree the two first agree unless the
    rows outnumber the columns and leave a rest.

    Args:
        levels: of each row with each column; not negative, at least one column.
        finer: of the same shape.

    """
    costs = one_after_another(levels, *finer)
    too_far = 1 + len(levels) * max((max(row) for row in costs), default=0)
    chosen: list[int] = []
    for limit in sorted({level for row in levels for level in row}):
        chosen = _assign_evenly(
            [
                [cost + too_far * (level > limit) for cost, level in zip(*pair, strict=True)]
                for pair in zip(costs, levels, strict=True)
            ]
        )
        if all(row[column] <= limit for row, column in zip(levels, chosen, strict=True)):
            break
    return chosen


def deal(levels: Costs, chosen: Sequence[int], limits: Sequence[int]) -> list[list[int]]:
    """Return the columns that each row gets beside the chosen one, one a row in each round.

    No row gets one that is further than its limit; what nobody may have stays.
    """
    more: list[list[int]] = [[] for _ in chosen]
    left = sorted({column for row in levels for column in range(len(row))} - set(chosen))
    while got := _deal_a_round(levels, limits, left):
        for row, column in got.items():
            more[row].append(column)
            left.remove(column)
    return more


def _deal_a_round(levels: Costs, limits: Sequence[int], left: list[int]) -> dict[int, int]:
    if not left:
        return {}
    far = [
        [2 * (row[column] > limit) for column in left]
        for row, limit in zip(levels, limits, strict=True)
    ]
    # As many columns again stand for none, which is better than one too far.
    rows = len(levels)
    places = assign(
        [row + [1] * rows for row in far], [row + [0] * rows for row in out_of_order(far)]
    )
    return {row: left[place] for row, place in enumerate(places) if place < len(left)}


def out_of_order(keys: Costs) -> list[list[int]]:
    """Return what it costs to leave the order, for :func:`assign` as the last of the finer costs.

    Rows to which the same columns are the nearest, by their keys, are spread evenly over these.
    Costs are squares, and no two such rows aim at quite the same place, so that two rows that cross
    cost more than two that do not.
    """
    nearest = [tuple(column for column, key in enumerate(row) if key == min(row)) for row in keys]
    fine = 2 * len(keys)
    costs = []
    for row, columns in enumerate(nearest):
        before, alike = nearest[:row].count(columns), nearest.count(columns)
        aim = fine * columns[before * len(columns) // alike] + before
        costs.append([(aim - fine * column) ** 2 for column in range(len(keys[row]))])
    return costs


def one_after_another(*costs: Costs) -> Costs:
    """Make one cost of several, such that no sum of a later one outweighs an earlier one."""
    total, *rest = costs
    for finer in rest:
        weight = 1 + len(finer) * max((max(row) for row in finer), default=0)
        total = [
            [high * weight + low for high, low in zip(*pair, strict=True)]
            for pair in zip(total, finer, strict=True)
        ]
    return total


def _assign_evenly(costs: Costs) -> list[int]:
    rows, columns = len(costs), len(costs[0])
    if rows <= columns:
        return _cheapest(costs)
    # A column has as many places as the most loaded one; idle rows take what is left over, and
    # only the last place of a column may be left over.
    share = rows // columns
    taken = 1 + rows * max(max(row) for row in costs)
    wide = [[cost for cost in row for _ in range(share + 1)] for row in costs]
    idle = ([taken] * share + [0]) * columns
    places = _cheapest([*wide, *[idle] * (columns * (share + 1) - rows)])
    return [place // (share + 1) for place in places[:rows]]


def _cheapest(costs: Costs) -> list[int]:
    """Return a column of its own for each row, at the least total cost; rows <= columns."""
    row_price, column_price = [0] * len(costs), [0] * len(costs[0])
    owner: list[int | None] = [None] * len(costs[0])
    column_of = [-1] * len(costs)
    for start in range(len(costs)):
        reached, came_from, column = _nearest_free(start, costs, row_price, column_price, owner)
        far = reached[column]
        row_price[start] += far
        for passed, way in reached.items():
            holder = owner[passed]
            if holder is not None:
                row_price[holder] += far - way
                column_price[passed] -= far - way
        # Turn the way around: each row on it gives its column to the one before.
        while column >= 0:
            row = came_from[column]
            owner[column], column_of[row], column = row, column, column_of[row]
    return column_of


def _nearest_free(
    start: int,
    costs: Costs,
    row_price: list[int],
    column_price: list[int],
    owner: list[int | None],
) -> tuple[dict[int, int], dict[int, int], int]:
    """Find the cheapest way from a row to a column without owner, as Dijkstra does.

    Returns how far the columns on the way are, which row each was reached from, and the column.
    """
    ahead: dict[int, int] = {}
    came_from: dict[int, int] = {}
    reached: dict[int, int] = {}
    row, so_far = start, 0
    while True:
        for column, price in enumerate(column_price):
            if column in reached:
                continue
            way = so_far + costs[row][column] - row_price[row] - price
            if column not in ahead or way < ahead[column]:
                ahead[column], came_from[column] = way, row
        column = min(ahead, key=lambda each: (ahead[each], owner[each] is not None, each))
        so_far = reached[column] = ahead.pop(column)
        holder = owner[column]
        if holder is None:
            return reached, came_from, column
        row = holder
