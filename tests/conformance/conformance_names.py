"""Makes rdmatrain what torch creates when a program asks for gloo or for mpi.

Some tests of torch's suite are kept for a backend by its name. Here a rank replaces torch's own
creation of that backend, and nothing else: the name, and what torch does by name, stay.
"""

import functools
from collections import Counter
from datetime import timedelta
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d

from rdmatrain.comm.backend import create_backend, load_extension


def answer_to(name: str, rank: int, world: int, path: str) -> None:
    """From now on a group of that name in this process is rdmatrain's.

    The path names a file that the ranks share: torch gives MPI no store.
    """
    if name == "gloo":
        _answer_to_gloo()
    elif name == "mpi":
        c10d.ProcessGroupMPI = _Mpi(rank, world, path)


def check_backend(rank: int, world: int, transport: str) -> None:
    """Raise unless the default group runs on rdmatrain, over that transport."""
    backend = c10d._get_default_group()._get_backend(torch.device("cpu"))
    if not isinstance(backend, load_extension().Backend):
        raise AssertionError(f"rank {rank} runs on {backend}, not on rdmatrain")
    joined = {backend.transport(peer) for peer in range(world) if peer != rank}
    if joined != {transport}:
        raise AssertionError(f"rank {rank} is joined by {joined}, not by {transport}")


def _create(
    store: Any, rank: int, size: int, timeout: timedelta, ranks: list[int] | None = None
) -> Any:
    options = c10d._DistributedBackendOptions()
    options.store, options.timeout = store, timeout
    options.group_rank, options.group_size = rank, size
    options.global_ranks_in_group = ranks or []
    return create_backend(options, None)


class _GlooType(type):
    """Of a class that makes rdmatrain's backends and takes them for its own."""

    def __call__(cls, store: Any, rank: int, size: int, timeout: timedelta) -> Any:
        return _create(store, rank, size, timeout)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, load_extension().Backend)


class _Gloo(metaclass=_GlooType):
    pass


def _answer_to_gloo() -> None:
    real, wrap = c10d.ProcessGroupGloo, c10d._create_process_group_wrapper

    @functools.wraps(wrap)
    def wrap_with_real_gloo(*args: Any, **kwargs: Any) -> Any:
        # TORCH_DISTRIBUTED_DEBUG=DETAIL compares calls over a group of its own, which is Gloo's
        # beside every backend.
        with mock.patch.object(c10d, "ProcessGroupGloo", real):
            return wrap(*args, **kwargs)

    # To C++ the group stays a plugin's: what is registered as gloo's, DDP's logger takes for a
    # ProcessGroupGloo, unchecked, and reads its members.
    kind = c10d.ProcessGroup.BackendType
    kind.GLOO = c10d.Backend.backend_type_map["gloo"] = kind.CUSTOM
    c10d.ProcessGroupGloo = _Gloo
    c10d._create_process_group_wrapper = wrap_with_real_gloo


class _Mpi:
    """Stands for the class ProcessGroupMPI: it knows this rank and all others, as MPI does."""

    def __init__(self, rank: int, world: int, path: str) -> None:
        self.rank, self.world = rank, world
        self.store = dist.FileStore(path, world)
        self.created: Counter[tuple[int, ...]] = Counter()

    def create(self, ranks: list[int]) -> Any:
        members = tuple(ranks or range(self.world))
        self.created[members] += 1
        store = c10d.PrefixStore(f"mpi {members} {self.created[members]}", self.store)
        timeout = timedelta(seconds=60)
        return _create(store, members.index(self.rank), len(members), timeout, ranks)
