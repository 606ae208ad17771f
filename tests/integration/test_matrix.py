"""Every collective x dtype x reduction x rank count x layout x way of waiting, against NumPy."""

import pytest
from integration_jobs import WORKERS, Ended, run_alone

REDUCING = ["all_reduce", "reduce", "reduce_scatter", "reduce_scatter_tensor"]
MOVING = [
    "broadcast", "all_gather", "all_gather_into_tensor", "gather", "scatter", "all_to_all",
    "all_to_all_single", "all_to_all_single_of_parts_that_differ", "send_and_recv",
]  # fmt: skip
WORLDS = [1, 2, 3, 4, 5]
# 131 pairs of dtype and reduction have a meaning, in 4 ways each, and 58 are refused; of the former
# torch refuses 3 itself when they are all-reduced.
NUM_CELLS = dict.fromkeys(MOVING, 21 * 4) | dict.fromkeys(REDUCING, 131 * 4 + 58)
NUM_CELLS["all_reduce"] = 128 * 4 + 61


@pytest.fixture(scope="module")
def matrix() -> Ended:
    return run_alone(str(WORKERS / "matrix.py"))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", REDUCING + MOVING)
def test_every_cell_has_the_bits_that_numpy_gives(matrix: Ended, name: str, world: int) -> None:
    if name == "send_and_recv" and world == 1:
        pytest.skip("torch lets no rank send to itself")
    for rank in range(world):
        found = matrix.of(0).get(f"{name}-{world}-{rank}")
        assert found is not None, matrix.out
        assert found["num_failures"] == 0, f"rank {rank}: " + "\n".join(found["first"])
        assert found["num_cells"] == NUM_CELLS[name]


def test_the_ranks_end_well(matrix: Ended) -> None:
    assert matrix.code == 0, matrix.out
