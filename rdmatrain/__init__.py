"""Distributed PyTorch training over RDMA on Kubernetes.

Importing this package imports no torch. torch finds the backend by itself when it is imported, by
the entry point ``torch.backends``. Where that is switched off (TORCH_DEVICE_BACKEND_AUTOLOAD=0),
import rdmatrain after torch, or call :func:`register`.
"""

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdmatrain.config import device_backend_autoload

if TYPE_CHECKING:
    from rdmatrain._c10d import Options

__version__ = "0.1.0"
__all__ = [
    "Options",
    "__version__",
    "arena_stats",
    "dump_flight_recorder",
    "empty",
    "get_stats",
    "init_from_mpi",
    "install_allocator",
    "monitored_barrier",
    "register",
    "transports",
]


def register() -> None:
    """Register the backend with torch. Only needed where torch's autoload is switched off."""
    from rdmatrain.autoload import register as register_backend  # noqa: PLC0415

    register_backend()


def init_from_mpi(comm: Any, backend: str = "rdmatrain", **kwargs: Any) -> None:
    """Form torch's default process group over the ranks of an MPI communicator.

    No launcher, variable or endpoint is needed: rank 0 serves the store on a free port of one
    address, loopback where all ranks are on one host, and MPI tells the others. Collective over
    the communicator, which is not used any more when it returns. ``mpirun -n 2 python -m mpi4py
    train.py`` ends all ranks when one fails.

    Args:
        comm: an intracommunicator of mpi4py; its ranks become the group's.
        backend: as in ``torch.distributed.init_process_group``.
        kwargs: likewise, such as ``timeout`` and ``device_id``.

    Raises:
        ImportError: mpi4py is not installed.
        TypeError: comm is no intracommunicator.
        BootstrapError: something failed, here or on another rank; all ranks raise it.

    """
    from rdmatrain.comm.mpi import init_from_mpi as init  # noqa: PLC0415

    init(comm, backend, **kwargs)


def transports(group: object = None) -> list[str]:
    """Which transport joins this rank to each rank of the group.

    Args:
        group: a process group over rdmatrain; None for the default one.

    Returns:
        One name for each rank of the group: ``"shm"``, ``"verbs"``, ``"tcp"``, or ``"self"`` for
        this rank.

    Raises:
        ValueError: the group has no rdmatrain backend for CPU tensors.

    """
    from rdmatrain.comm.backend import transports_of  # noqa: PLC0415

    return transports_of(group)


def get_stats(group: object = None) -> dict[str, Any]:
    """How this rank is joined to the others of the group, why, and what went over it.

    Args:
        group: a process group over rdmatrain; None for the default one.

    Returns:
        ``rank`` and ``world``; ``peers``, a dictionary for each other rank: its ``rank``,
        ``transport``, ``why``, ``fell_back`` (it is tcp, though one of the two has RDMA devices),
        ``rails`` (the RDMA ports used, in words, with the GID that the two ranks use and the MTU
        of the way between them), ``device`` and ``gid_index`` of the first of them (else None),
        and counters; ``totals`` of the counters.
        These are bytes of data, without headers: ``sent_bytes``, ``received_bytes``, and
        ``staged_bytes``, the part of both that the CPU copied between a tensor and memory of the
        transport. They move while collectives run.
        In groups of more than 16 ranks two of them join when they first need each other: until
        then the GID is the one that is tried first, and the MTU this rank's.

    Raises:
        ValueError: the group has no rdmatrain backend for CPU tensors.
        RuntimeError: the group was destroyed.

    """
    from rdmatrain.comm.backend import stats_of  # noqa: PLC0415

    return stats_of(group)


def monitored_barrier(
    group: object = None, timeout: timedelta | None = None, wait_all_ranks: bool = False
) -> None:
    """Wait for all ranks of the group, or say which of them did not come.

    ``torch.distributed.monitored_barrier``, which torch keeps for Gloo by name, for groups over
    rdmatrain. It goes through the group's store, so a failure does no harm to the group.

    Args:
        group: a process group; None for the default one. A rank that is not in it returns.
        timeout: how long rank 0 waits; None for the group's timeout. The others wait for rank 0,
            no longer than the group's timeout.
        wait_all_ranks: name all ranks that did not come, not the first one only.

    Raises:
        RuntimeError: ranks did not come. It names them on rank 0; the others say what rank 0 said.
        ValueError: there is no default group.

    """
    from rdmatrain.comm.backend import monitored_barrier as wait  # noqa: PLC0415

    wait(group, timeout, wait_all_ranks)


def install_allocator() -> None:
    """Make the arena, which the ranks of this host can reach, torch's allocator for CPU memory.

    What torch allocates from here on in storages of 64 KiB and more is in it, while it has room;
    what comes from elsewhere, as from NumPy, a file, pickle or shared memory, is not, and works
    all the same. Once is enough, and under ``rdmatrain run`` or with ``RDMATRAIN_ARENA=on`` it has
    been done. A forked child has torch's own allocator until it calls this or :func:`empty`, or
    forms a group. It sees the parent's tensors privately, but what the parent writes to them in
    place later it sees as well: a checkpoint written by a fork needs ``RDMATRAIN_ARENA=off``.

    Raises:
        SettingError: ``RDMATRAIN_ARENA=off``.
        ImportError: rdmatrain was built for another torch.
        RuntimeError: there is no address space, or torch's allocator cannot be replaced.

    """
    from rdmatrain.comm.memory import install_allocator as install  # noqa: PLC0415

    install()


def empty(*size: Any, dtype: Any = None, requires_grad: bool = False) -> Any:
    """Return a tensor in the arena, of undefined contents and whatever size, like ``torch.empty``.

    It stays in the arena when it is resized. Works without :func:`install_allocator`.

    Args:
        size: integers, or one sequence of them.
        dtype: a ``torch.dtype``; torch's default if None.
        requires_grad: as in ``torch.empty``.

    Raises:
        SettingError: ``RDMATRAIN_ARENA=off``.
        TypeError: a size is no integer, or dtype is none.
        RuntimeError: there is no address space, or no room (``torch.OutOfMemoryError``).

    """
    from rdmatrain.comm.memory import empty as arena_empty  # noqa: PLC0415

    return arena_empty(size, dtype, requires_grad)


def arena_stats() -> dict[str, int]:
    """Return sizes in bytes and counts of this process's arena; all 0 when it has none.

    ``reserved_bytes`` (address space), ``extent_bytes`` (of that, set aside for blocks),
    ``in_use_bytes``, ``peak_in_use_bytes``, ``cached_bytes`` (free, but still memory of this
    process), ``num_blocks``, ``num_refused`` (allocations that found no room).
    """
    from rdmatrain import _core  # noqa: PLC0415

    return _core.arena_stats()


def dump_flight_recorder(path: "str | os.PathLike[str] | None" = None) -> Path:
    """Write what this process posted last, for torch's analyser: ``torchfrtrace FOLDER``.

    The analyser wants the files of all ranks in one folder, named ``rank_`` and the global rank.
    Any thread, at any time; nothing waits for it.

    Args:
        path: the file to write; None for ``rank_N`` in ``RDMATRAIN_RECORDER_DIR``.

    Returns:
        The file, which holds a pickled dictionary. It is whole or not there.

    Raises:
        RuntimeError: this process has formed no group over rdmatrain.
        OSError: the file cannot be written.

    """
    from rdmatrain.comm.recorder import dump  # noqa: PLC0415

    return dump(path)


def __getattr__(name: str) -> Any:
    """``Options``, what ``pg_options`` takes: a class over one of torch's, so it loads torch."""
    if name != "Options":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rdmatrain.comm.backend import load_extension  # noqa: PLC0415

    return load_extension().Options


# Where nothing calls the entry point, whoever imports rdmatrain for its backend must get it.
if "torch" in sys.modules and not device_backend_autoload():
    register()
