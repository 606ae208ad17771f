"""Probes of memory: what can be locked, registered, written and sealed."""

import ctypes
import fcntl
import mmap
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from rdmatrain.discovery.source import Tree
from rdmatrain.discovery.survey import survey
from rdmatrain.doctor.model import Needs

SHM = "/dev/shm"
# So much is written, to see that it can be: little, as it counts to the cgroup of the job.
SHM_WRITE = 1 << 20
# F_ADD_SEALS and its seals, which fcntl has from Python 3.9 on, but not in every build.
F_ADD_SEALS, SEALS = 1033, 0x1 | 0x2 | 0x4
MLOCK_ONFAULT = 1


def probes(needs: Needs) -> Mapping[str, Callable[[], Any]]:
    """Return them, by name: ``memlock``, ``shm`` and ``memfd``."""
    return {
        "memlock": partial(ask_memlock, needs.register_mib << 20),
        "shm": ask_shm,
        "memfd": ask_memfd,
    }


def ask_memlock(wanted: int) -> dict[str, Any]:
    """Lock memory, and register it with the first RDMA device that can be opened.

    Those that this pod was granted come first: what another's allows says nothing of them.

    Returns:
        ``error``; ``wanted`` in bytes; ``locked`` in bytes, and ``lock_error`` where that is less;
        ``device``, empty where none could be opened, with the reason as ``device_error``;
        ``registered`` in bytes, and ``register_error`` where that is less: empty where only
        time was over.

    """
    locked, lock_error = lock_most(wanted)
    return {
        "error": "",
        "wanted": wanted,
        "locked": locked,
        "lock_error": lock_error,
        **_register_most(wanted),
    }


def lock_most(wanted: int) -> tuple[int, str]:
    """Return how many bytes this process can lock, up to those wanted, and why no more.

    Addresses are locked of which no page is ever touched: the kernel counts them all the same.
    """
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (
            *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
            ctypes.c_long,
        )
        libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        libc.mlock2.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)
    except (AttributeError, OSError) as error:
        return 0, f"mlock2: {error}"
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    start = libc.mmap(None, wanted or mmap.PAGESIZE, 0, private, -1, 0)
    if start in {None, ctypes.c_void_p(-1).value}:
        return 0, f"mmap: {os.strerror(ctypes.get_errno())}"
    try:
        return _lock(lambda at, nbytes: libc.mlock2(start + at, nbytes, MLOCK_ONFAULT), wanted)
    finally:
        libc.munmap(start, wanted or mmap.PAGESIZE)


def ask_shm() -> dict[str, Any]:
    """Write a little into /dev/shm, and take it away again.

    Returns:
        ``error``: why nothing can be written there; ``free`` and ``total`` in bytes.

    """
    facts: dict[str, Any] = {"error": "", "free": 0, "total": 0}
    try:
        found = os.statvfs(SHM)
        facts |= {"free": found.f_bavail * found.f_frsize, "total": found.f_blocks * found.f_frsize}
        with tempfile.TemporaryFile(dir=SHM) as file:
            os.posix_fallocate(file.fileno(), 0, SHM_WRITE)
            file.write(b"\1" * SHM_WRITE)
            file.flush()
    except OSError as error:
        facts["error"] = os.strerror(error.errno) if error.errno else str(error)
    return facts


def ask_memfd() -> dict[str, Any]:
    """Make a sealed file in memory, as the arena and the transport shm have them.

    Returns:
        ``error``: the call that failed, and why.

    """
    step = "memfd_create"
    try:
        descriptor = os.memfd_create("rdmatrain-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            step = "ftruncate of a memfd"
            os.ftruncate(descriptor, mmap.PAGESIZE)
            step = "mmap of a memfd"
            with mmap.mmap(descriptor, mmap.PAGESIZE) as memory:
                memory[0] = 1
            step = "sealing a memfd"
            fcntl.fcntl(descriptor, F_ADD_SEALS, SEALS)
        finally:
            os.close(descriptor)
    except (AttributeError, OSError, ValueError) as error:
        number = getattr(error, "errno", None)
        return {"error": f"{step}: {os.strerror(number) if number else error}"}
    return {"error": ""}


def _lock(lock: Callable[[int, int], int], wanted: int) -> tuple[int, str]:
    """Lock the largest pieces that can be, one behind the other."""
    locked, piece, error = 0, wanted, 0
    while locked < wanted and piece >= mmap.PAGESIZE:
        piece = min(piece, wanted - locked)
        if lock(locked, piece) == 0:
            locked += piece
        else:
            error = ctypes.get_errno()
            piece = piece // 2 // mmap.PAGESIZE * mmap.PAGESIZE
    return locked, "" if locked >= wanted else f"mlock: {os.strerror(error)}"


def _granted_first(devices: list[str]) -> list[str]:
    if len(devices) < 2:
        return devices
    granted = {each.nic.name for each in survey(Tree()).allocation.nics}
    return sorted(devices, key=lambda name: name not in granted)


def _register_most(wanted: int) -> dict[str, Any]:
    facts: dict[str, Any] = {"device": "", "device_error": "", "registered": 0}
    facts["register_error"] = ""
    try:
        core = import_module("rdmatrain._core")
        for device in _granted_first(core.rdma_devices()):
            try:
                registered, why = core.rdma_test_register(device, wanted)
            except Exception as error:
                # Of several the first says it: most are other pods' devices.
                facts["device_error"] = facts["device_error"] or str(error)
                continue
            found = {"device": device, "registered": registered, "register_error": why}
            return {**facts, **found, "device_error": ""}
    except Exception as error:
        facts["device_error"] = str(error)
    return facts
