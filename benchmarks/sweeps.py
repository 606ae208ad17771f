"""Sweeps as ``rdmatrain bench`` makes them, of this build and of one that is slower."""

import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdmatrain.bench.conduct import Conductor, Plan
from rdmatrain.bench.contestants import OF_TORCH, Command, TorchRanks
from rdmatrain.bench.machine import context_of
from rdmatrain.bench.model import Case, Entry, record_of
from rdmatrain.bench.orders import PIN_VARIABLE

SLOW_RANK = Path(__file__).with_name("slow_rank.py")
SLOWER = "RDMATRAIN_SLOWER"


@dataclass(frozen=True)
class SlowRanks(TorchRanks):
    """Ranks whose calls take some times as long."""

    factor: float

    def commands(self, ranks: int, socket_path: str) -> list[Command]:
        """Return one process a rank."""
        commands = super().commands(ranks, socket_path)
        extra = {SLOWER: str(self.factor)}
        backend = self.entry.backend
        return [([sys.executable, str(SLOW_RANK), backend], env | extra) for _, env in commands]


def sweep(
    sizes: Sequence[int], rounds: int, slower: float = 1.0, calls: int = 0, budget_s: float = 0.0
) -> list[dict[str, Any]]:
    """Sweep all_reduce over two pinned ranks.

    Args:
        sizes: in bytes.
        rounds: how often.
        slower: how many times as long each call takes; 1: the build as it is.
        calls: of a turn; 0: as by default.
        budget_s: seconds for all rounds; 0: no bound.

    Returns:
        Records, as ``--json`` writes them.

    """
    os.environ[PIN_VARIABLE] = "1"
    entry = Entry("rdmatrain", "auto")
    as_it_is = slower == 1.0
    start = TorchRanks(entry, OF_TORCH) if as_it_is else SlowRanks(entry, OF_TORCH, slower)
    cases = [Case("all_reduce", "float32", "SUM", nbytes, True) for nbytes in sizes]
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="rdmatrain-bench-") as folder:
        running = start.open(2, Path(folder))
        stack.callback(running.close)
        conductor = Conductor(Plan(cases, rounds, 2, calls, budget_s=budget_s), [(entry, running)])
        conductor.run()
        assert not conductor.failures, conductor.failures
        context = context_of("benchmarks/sweeps.py", True, {}, None)
        return [record_of(result, context) for result in conductor.results()]
