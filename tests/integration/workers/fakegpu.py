"""The device "fakegpu" of ``fakegpu.cpp``, made known to torch; its library is FAKEGPU_LIBRARY."""

import ctypes
import os
import types
from collections.abc import Iterator
from contextlib import contextmanager

import torch

KERNEL, DOWN, UP, ACROSS = range(4)  # kinds of work; copies: to the host, from it, on the device

_path = os.environ["FAKEGPU_LIBRARY"]
torch.ops.load_library(_path)
_library = ctypes.CDLL(_path)
_library.fakegpu_num_finished.restype = ctypes.c_int64
_library.fakegpu_num_violations.restype = ctypes.c_int64

torch.utils.rename_privateuse1_backend("fakegpu")
_module = types.ModuleType("fakegpu")
_module.is_available = lambda: True
_module.is_initialized = lambda: True
_module.device_count = lambda: 1
_module.current_device = lambda: 0
_module._is_in_bad_fork = lambda: False
_module.manual_seed_all = lambda seed: None
torch._register_device_module("fakegpu", _module)


def allow(kind: int, count: int) -> None:
    """From now on so many operations of the kind run, -1 for any number; the others are held."""
    _library.fakegpu_allow(kind, ctypes.c_int64(count))


@contextmanager
def held(kind: int) -> Iterator[None]:
    """Hold back all work of the kind."""
    allow(kind, 0)
    try:
        yield
    finally:
        allow(kind, -1)


def num_finished(kind: int) -> int:
    return int(_library.fakegpu_num_finished(kind))


def num_violations() -> int:
    """How often memory was freed while a stream used it that was not recorded on it."""
    return int(_library.fakegpu_num_violations())


def synchronize() -> None:
    """Wait until all streams have run what is queued."""
    _library.fakegpu_synchronize()
