# SPDX-License-Identifier: Apache-2.0
"""What each operation must give, beside collectives that NumPy makes of what the ranks hold."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from rdmatrain.bench import torch_ops
from rdmatrain.bench.model import OPS, Case
from rdmatrain.bench.torch_ops import Made, Place

PARTS = 1003
Arrays = list[np.ndarray]
REDUCE = {
    "SUM": lambda xs: np.sum(xs, axis=0),
    "AVG": lambda xs: np.sum(xs, axis=0) / len(xs),
    "PRODUCT": lambda xs: np.prod(xs, axis=0),
    "MIN": lambda xs: np.min(xs, axis=0),
    "MAX": lambda xs: np.max(xs, axis=0),
}
# From what all ranks hold, and the root, to what each of them gets; None: it gets nothing.
COLLECTIVES: dict[str, Callable[[Arrays, Callable, int], list]] = {
    "all_reduce": lambda xs, reduce, root: [reduce(xs)] * len(xs),
    "reduce": lambda xs, reduce, root: [reduce(xs) if r == root else None for r in range(len(xs))],
    "reduce_scatter": lambda xs, reduce, root: np.split(reduce(xs), len(xs)),
    "broadcast": lambda xs, reduce, root: [xs[root]] * len(xs),
    "all_gather": lambda xs, reduce, root: [np.concatenate(xs)] * len(xs),
    "gather": lambda xs, reduce, root: [
        np.concatenate(xs) if r == root else None for r in range(len(xs))
    ],
    "scatter": lambda xs, reduce, root: np.split(xs[root], len(xs)),
    "all_to_all": lambda xs, reduce, root: [
        np.concatenate([np.split(x, len(xs))[r] for x in xs]) for r in range(len(xs))
    ],
    "sendrecv": lambda xs, reduce, root: [xs[r - 1] for r in range(len(xs))],
    "pingpong": lambda xs, reduce, root: [xs[r ^ 1] for r in range(len(xs))],
}


def made_by_all(case: Case, ranks: int) -> list[Made]:
    return [torch_ops.make(case, Place(r, ranks, torch.device("cpu"))) for r in range(ranks)]


def run_by_numpy(case: Case, all_made: list[Made]) -> None:
    """Do what the operation is to do, on the tensors of all ranks."""
    inputs = [made.written[0].double().numpy().copy() for made in all_made]
    results = COLLECTIVES[case.op](inputs, REDUCE.get(case.redop, lambda xs: None), case.root)
    for made, result in zip(all_made, results, strict=True):
        if result is not None:
            made.result.copy_(torch.from_numpy(result))


def cases(ranks: int) -> list[Case]:
    found = []
    for op in OPS.values():
        if op.name in COLLECTIVES and not (op.pairs and ranks % 2):
            redops = ["SUM", "PRODUCT", "MIN", "MAX", "AVG"] if op.reduces else [""]
            places = {"both": (False, True), "in": (True,), "out": (False,)}[op.in_place]
            root = ranks - 1 if op.rooted else -1
            found += [
                Case(op.name, dtype, redop, PARTS * ranks * size, place, root)
                for dtype, size in [("float32", 4), ("bfloat16", 2), ("int8", 1), ("int64", 8)]
                for redop in redops
                for place in places
                if not (redop == "AVG" and "int" in dtype)
            ]
    return found


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_what_numpy_makes_is_right_and_each_flaw_is_counted(ranks: int) -> None:
    for case in cases(ranks):
        all_made = made_by_all(case, ranks)
        run_by_numpy(case, all_made)
        assert [torch_ops.num_wrong(made, case) for made in all_made] == [0] * ranks, case
        for rank, made in enumerate(all_made):
            if len(made.result):
                made.result[[0, len(made.result) // 2, -1]] += 3
                assert torch_ops.num_wrong(made, case) == 3, (case, rank)


@pytest.mark.parametrize("op", COLLECTIVES)
def test_nothing_done_is_wrong(op: str) -> None:
    (case,) = [c for c in cases(2) if (c.op, c.dtype) == (op, "float32")][:1]
    assert sum(torch_ops.num_wrong(made, case) for made in made_by_all(case, 2)) > PARTS // 2


def test_values_depend_on_rank_and_index() -> None:
    case = Case("all_reduce", "float32", "SUM", 4 * PARTS, in_place=True)
    first, second = (made.result for made in made_by_all(case, 2))
    assert (first != second).all()
    assert len(first.unique()) > PARTS // 2


def test_pieces_join(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("all_gather", "int64", "", 8 * 3 * PARTS, in_place=False)
    whole = made_by_all(case, 3)
    monkeypatch.setattr(torch_ops, "_PIECE", 7)
    pieces = made_by_all(case, 3)
    run_by_numpy(case, pieces)
    for one, other in zip(whole, pieces, strict=True):
        assert torch.equal(one.written[0], other.written[0])
        assert torch_ops.num_wrong(other, case) == 0
