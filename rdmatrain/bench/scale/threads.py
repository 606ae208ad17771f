"""Ranks that are threads of one process: cheap, so that there can be hundreds of them."""

import ctypes
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from rdmatrain.errors import RdmatrainError

LIMIT_S = 120.0
NAMESPACES = Path("/run/netns")
_CLONE_NEWNET = 0x40000000

T = TypeVar("T")


class RanksError(RdmatrainError):
    """A rank failed, or did not end in time."""


class Done(NamedTuple, Generic[T]):
    """What all ranks did.

    Attributes:
        seconds: until the last one was done.
        cpu_s: that the process used meanwhile.
        given: what each of them returned.

    """

    seconds: float
    cpu_s: float
    given: list[T]


def at_once(world: int, body: Callable[[int], T], limit_s: float = LIMIT_S) -> Done[T]:
    """Run a body for each rank, in threads that are named "host RANK" and start together.

    Raises:
        RanksError: one failed, or needs more than ``limit_s``; its thread may be left.

    """
    given: dict[int, T] = {}
    errors: dict[int, Exception] = {}
    ready = threading.Barrier(world + 1)

    def run(rank: int) -> None:
        ready.wait()
        try:
            given[rank] = body(rank)
        except Exception as error:
            errors[rank] = error

    threads = [
        threading.Thread(target=run, args=(rank,), name=f"host {rank}", daemon=True)
        for rank in range(world)
    ]
    for thread in threads:
        thread.start()
    ready.wait()
    began, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.join(max(0.0, began + limit_s - time.perf_counter()))
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    for rank, error in sorted(errors.items()):
        raise RanksError(f"rank {rank} of {world} failed: {error}") from error
    if len(given) < world:
        missing = min(set(range(world)) - set(given))
        raise RanksError(f"rank {missing} of {world} did not end in {limit_s:g} s")
    return Done(seconds, cpu, [given[rank] for rank in range(world)])


def enter(namespace: str) -> None:
    """Let this thread make its sockets in a network namespace of ``ip netns``."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (NAMESPACES / namespace).open("rb") as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"setns {namespace}: {os.strerror(number)}")
