"""Runs many checks in one job: importing torch costs more than most of them.

Each check gets a group of its own, so that one which breaks its group does not harm the next.
"""

import faulthandler
import json
import os
import traceback
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.utils.data import Dataset

JOB_S = 85  # less than the test waits: a hang ends with the stack of each thread
CHECK_S = 20

CHECKS: list[Callable[[dist.ProcessGroup], None]] = []


class SpoiledRows(Dataset):
    """Rows of a tensor, each spoilt in the tensor after it was read."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> torch.Tensor:
        row = self.rows[i].clone()
        self.rows[i] = -1
        return row


def check(function: Callable[[dist.ProcessGroup], None]) -> Callable[[dist.ProcessGroup], None]:
    CHECKS.append(function)
    return function


def note(**facts: object) -> None:
    os.write(1, b"\n@" + json.dumps(facts).encode() + b"\n")


def values(
    rank: int, count: int, dtype: torch.dtype = torch.float32, shift: int = 0
) -> torch.Tensor:
    """Small whole numbers that depend on rank and index; they and their sums are exact."""
    return ((torch.arange(count) * 3 + rank * 7 + shift) % 11).to(dtype)


def expect_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def raised_by(call: Callable[..., object], *args: object, **kwargs: object) -> Exception:
    try:
        call(*args, **kwargs)
    except Exception as error:
        return error
    raise AssertionError(f"{call} raised nothing")


def main(timeout_s: float = CHECK_S, backend: str = "rdmatrain") -> None:
    faulthandler.dump_traceback_later(JOB_S, exit=True)
    dist.init_process_group(backend, timeout=timedelta(seconds=60))
    between = dist.new_group(backend="gloo")
    for function in CHECKS:
        group = dist.new_group(timeout=timedelta(seconds=timeout_s))
        try:
            function(group)
            result = "ok"
        except BaseException:
            result = traceback.format_exc()
        note(**{function.__name__: result})
        dist.destroy_process_group(group)
        dist.barrier(between)
    dist.destroy_process_group()
