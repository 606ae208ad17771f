# SPDX-License-Identifier: Apache-2.0
"""Ranks that are threads of this process, for what all ranks of a group do together."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

from rdmatrain.train.ranks import Ranks


class FakeGroup:
    """Has the slots through which threads tell each other their values."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.slots = [""] * size
        self.barrier = threading.Barrier(size, timeout=10)


class FakeRanks(Ranks):
    def __init__(self, group: FakeGroup, rank: int) -> None:
        self.rank, self.size, self._fake = rank, group.size, group

    def share(self, value: Any) -> list[Any]:
        self._fake.slots[self.rank] = json.dumps(value)
        self._fake.barrier.wait()
        told = [json.loads(slot) for slot in self._fake.slots]
        self._fake.barrier.wait()
        return told

    def any_of(self, *flags: bool) -> list[bool]:
        return [any(told) for told in zip(*self.share(flags), strict=True)]


def on_ranks(size: int, call: Callable[[FakeRanks], Any]) -> list[Any]:
    """Call with each rank at once, to be passed as a group; return what each returned or raised."""
    group = FakeGroup(size)

    def act(rank: int) -> Any:
        threading.current_thread().name = f"rank {rank}"
        try:
            return call(FakeRanks(group, rank))
        except Exception as error:
            return error

    with (
        mock.patch("rdmatrain.train.checkpoint.Ranks", lambda group: group),
        ThreadPoolExecutor(size) as pool,
    ):
        return list(pool.map(act, range(size)))
