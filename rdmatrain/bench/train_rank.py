"""One rank of ``rdmatrain bench train``: ``python -m rdmatrain.bench.train_rank SETTINGS``.

All contestants are in one process, each with a model of its own, and their steps alternate, in
another order each time: what a step takes beyond the one beside it is then small against the noise
of the machine. Has a launcher's variables, and those of orders.py.
"""

import gc
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from rdmatrain.bench import orders
from rdmatrain.config import rank_env

SILENT = "silent"  # the contestant that communicates nothing
CHECKED_STEPS = 4  # steps before timing; the loss of the last one is checked


class TrainRank:
    """Answers the conductor's orders.

    Args:
        strategies: ddp, fsdp2.
        backends: of ``torch.distributed``; the first one also keeps the ranks together.
        shape: fields of ``gpt.Shape``.

    """

    def __init__(self, strategies: list[str], backends: list[str], shape: dict[str, int]) -> None:
        import torch  # noqa: PLC0415 - after pinning: it starts threads

        from rdmatrain.bench import gpt, train_steps  # noqa: PLC0415

        torch.set_num_threads(1)
        self._torch, self._train = torch, train_steps
        self._dist = torch.distributed
        self._strategies = strategies
        self._shape = gpt.Shape(**shape)
        first, *others = backends
        self._dist.init_process_group(first)
        self._groups = {first: self._dist.group.WORLD}
        self._groups |= {name: self._dist.new_group(backend=name) for name in others}
        self._trainers: dict[str, Callable[[], Any]] = {}
        self._steps_made = 0

    def hello(self) -> orders.Answer:
        """Return who this is, and what joins it to the others over rdmatrain."""
        import rdmatrain  # noqa: PLC0415 - its transports are known once there is a group

        return {
            "rank": self._dist.get_rank(),
            "ranks": self._dist.get_world_size(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "transport": "+".join(sorted(set(rdmatrain.transports()) - {"self"})),
            "versions": {"torch": self._torch.__version__},
        }

    def prepare(self, _order: orders.Order) -> orders.Answer:
        """Make the contestants, and train a few steps.

        Returns:
            Parameters of the model; the loss of each contestant's last step, by strategy/backend;
            what it must be; and the seconds that a step of all of them takes.

        """
        for strategy in self._strategies:
            for name, group in self._groups.items():
                self._trainers[f"{strategy}/{name}"] = self._train.over(
                    group, strategy, self._shape
                )
            self._trainers[f"{strategy}/{SILENT}"] = self._train.silent(strategy, self._shape)
        losses = {}
        begin = time.perf_counter()
        for name, step in self._trainers.items():
            losses[name] = [step().item() for _ in range(CHECKED_STEPS)][-1]
        guess_s = (time.perf_counter() - begin) / CHECKED_STEPS
        gc.collect()
        gc.freeze()  # what lives until the end is not looked at again within a step
        return {
            "parameters": self._train.num_parameters(self._shape),
            "losses": losses,
            "expected": self._train.expected_loss(self._shape, CHECKED_STEPS),
            "guess_s": guess_s,
        }

    def steps(self, order: orders.Order) -> orders.Answer:
        """Train so many steps of each contestant, in turns; seconds of each, by name."""
        seconds: dict[str, list[float]] = {name: [] for name in self._trainers}
        for _ in range(order["steps"]):
            for name in line_up(list(self._trainers), self._steps_made):
                step = self._trainers[name]
                self._dist.barrier()
                begin = time.perf_counter()
                step()
                seconds[name].append(time.perf_counter() - begin)
            self._steps_made += 1
        return {"seconds": seconds}

    def end(self) -> None:
        """Leave the groups."""
        self._dist.destroy_process_group()


def line_up(names: Sequence[str], number: int) -> list[str]:
    """Return who comes after whom in a step, the same on all ranks.

    In twice as many steps as there are contestants each is at every place, and after every other
    one, equally often (Williams 1949): what the one before left in caches and heaps counts.

    """
    zigzag = [(place + 1) // 2 if place % 2 else -(place // 2) for place in range(len(names))]
    row = [names[(number + offset) % len(names)] for offset in zigzag]
    return row if number // len(names) % 2 == 0 else row[::-1]


def main() -> int:
    """Serve until the conductor says end."""
    orders.pin_if_asked(rank_env().local_rank or 0)
    rank = TrainRank(**json.loads(sys.argv[1]))
    orders.serve(rank.hello(), {"prepare": rank.prepare, "steps": rank.steps})
    rank.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
