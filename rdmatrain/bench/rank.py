"""One rank of ``torch.distributed``: ``python -m rdmatrain.bench.rank BACKEND``.

Has a launcher's variables, and those of orders.py.
"""

import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from rdmatrain.bench import orders
from rdmatrain.bench.model import Case
from rdmatrain.config import rank_env

CPU = "cpu"
GUESS_CALLS = 3


class Rank:
    """Answers the conductor's orders, over the default group."""

    def __init__(self, backend: str) -> None:
        import torch  # noqa: PLC0415 - after pinning: it starts threads

        from rdmatrain.bench import torch_ops  # noqa: PLC0415

        self._ops = torch_ops
        self._backend = backend
        self._env = rank_env()
        self._kind = os.environ.get(orders.DEVICE_VARIABLE, CPU)
        device = torch.device(CPU)
        self._synchronize: Callable[[], object] = lambda: None
        if self._kind != CPU:
            module = getattr(torch, self._kind)
            device = torch.device(self._kind, (self._env.local_rank or 0) % module.device_count())
            module.set_device(device)  # what synchronize waits for
            self._synchronize = module.synchronize
        torch.set_num_threads(1)
        self._dist = torch.distributed
        self._form_group()
        self._place = torch_ops.Place(self._dist.get_rank(), self._dist.get_world_size(), device)
        self._made: Any = None

    def _form_group(self) -> None:
        backend = self._backend
        if self._kind != CPU and backend == "rdmatrain":  # NCCL has no tensors of the CPU
            backend = f"{CPU}:{backend},{self._kind}:{backend}"
        self._dist.init_process_group(backend)

    def hello(self) -> orders.Answer:
        """Return who this is, and what joins it to the others."""
        import torch  # noqa: PLC0415

        return {
            "rank": self._place.rank,
            "ranks": self._place.ranks,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "transport": self._transport(),
            "device": self._kind,
            "versions": {"torch": torch.__version__},
        }

    def _transport(self) -> str:
        if self._backend != "rdmatrain":
            return ""  # they do not say
        import rdmatrain  # noqa: PLC0415

        return "+".join(sorted(set(rdmatrain.transports()) - {"self"}))

    def prepare(self, order: orders.Order) -> orders.Answer:
        """Make a case, and run it a few times; check the first if asked."""
        self._made = None
        names = ("op", "dtype", "redop", "nbytes", "in_place", "root")
        case = Case(**{name: order[name] for name in names})
        made = self._made = self._ops.make(case, self._place)
        made.call()
        self._synchronize()
        nwrong = self._ops.num_wrong(made, case) if order["check"] else None
        for tensor in made.written:
            tensor.zero_()
        self._dist.barrier()
        began = time.perf_counter()
        for _ in range(GUESS_CALLS):
            made.call()
        self._synchronize()
        return {"nwrong": nwrong, "guess_s": (time.perf_counter() - began) / GUESS_CALLS}

    def time(self, order: orders.Order) -> orders.Answer:
        """Make so many calls; seconds of each."""
        call, synchronize, clock = self._made.call, self._synchronize, time.perf_counter
        self._dist.barrier()
        for _ in range(order["warmup"]):
            call()
        synchronize()
        self._dist.barrier()
        seconds = []
        for _ in range(order["calls"]):
            began = clock()
            call()
            synchronize()
            seconds.append(clock() - began)
        return {"seconds": [each * self._made.part for each in seconds]}

    def drop(self, _order: orders.Order) -> orders.Answer:
        """Free the tensors."""
        self._made = None
        return {}

    def end(self) -> None:
        """Leave the group."""
        self._dist.destroy_process_group()


def main(kind: type[Rank] = Rank) -> int:
    """Serve until the conductor says end."""
    orders.pin_if_asked(rank_env().local_rank or 0)
    rank = kind(sys.argv[1])
    handlers = {"prepare": rank.prepare, "time": rank.time, "drop": rank.drop}
    orders.serve(rank.hello(), handlers)
    rank.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
