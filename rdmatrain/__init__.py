"""Distributed PyTorch training over RDMA on Kubernetes.

Importing this package imports no torch. torch finds the backend by itself when it is imported, by
the entry point ``torch.backends``. Where that is switched off (TORCH_DEVICE_BACKEND_AUTOLOAD=0),
import rdmatrain after torch, or call :func:`register`.
"""

import sys
from typing import Any

from rdmatrain.config import device_backend_autoload

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "arena_stats",
    "empty",
    "install_allocator",
    "register",
    "transports",
]


def register() -> None:
    """Register the backend with torch. Only needed where torch's autoload is switched off."""
    from rdmatrain.autoload import register as register_backend  # noqa: PLC0415

    register_backend()


def transports(group: object = None) -> list[str]:
    """Which transport joins this rank to each rank of the group.

    Args:
        group: a process group over rdmatrain; None for the default one.

    Returns:
        One name for each rank of the group: ``"shm"``, ``"tcp"``, or ``"self"`` for this rank.

    Raises:
        ValueError: the group has no rdmatrain backend for CPU tensors.

    """
    from rdmatrain.comm.backend import transports_of  # noqa: PLC0415

    return transports_of(group)


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


# Where nothing calls the entry point, whoever imports rdmatrain for its backend must get it.
if "torch" in sys.modules and not device_backend_autoload():
    register()
