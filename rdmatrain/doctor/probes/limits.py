"""Probes of limits: what the RDMA devices can have at most, and what this user has already."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from rdmatrain.discovery.deadline import in_time
from rdmatrain.doctor.model import Needs

LIMIT_S = 0.9
# Of linux/proc_ns.h: the namespace in which the processes of all others are seen too.
_FIRST = "pid:[4026531836]"
_USER = re.compile(r"^Uid:\s*([0-9]+)", re.MULTILINE)
_THREADS = re.compile(r"^Threads:\s*([0-9]+)", re.MULTILINE)


def probes(needs: Needs) -> Mapping[str, Callable[[], Any]]:
    """Return them, by name: ``device_limits``, ``threads``."""
    del needs
    return {"device_limits": ask_devices, "threads": ask_threads}


def ask_devices() -> dict[str, Any]:
    """Ask all RDMA devices that can be opened.

    Returns:
        ``error``, and ``devices``: each as ``rdma_limits`` of ``rdmatrain._core`` has it.

    """
    try:
        return {"error": "", "devices": import_module("rdmatrain._core").rdma_limits()}
    except Exception as error:
        return {"error": str(error), "devices": []}


def ask_threads(root: Path = Path("/proc")) -> dict[str, Any]:
    """Count the threads of this user, as ``ulimit -u`` does.

    Args:
        root: where procfs is.

    Returns:
        ``threads``; ``hidden``: why there may be more, empty if all are seen.

    """
    found: list[int] = []
    late = in_time(LIMIT_S, lambda: found.extend(_threads(root, os.getuid())))
    hidden = "those of other containers are not seen"
    with suppress(OSError):
        hidden = "" if (root / "self/ns/pid").readlink() == Path(_FIRST) else hidden
    return {"threads": sum(found), "hidden": late or hidden}


def _threads(root: Path, user: int) -> Iterator[int]:
    for process in root.glob("[0-9]*"):
        with suppress(OSError):
            status = (process / "status").read_text("utf-8", "replace")
            owner, threads = _USER.search(status), _THREADS.search(status)
            if owner and threads and int(owner[1]) == user:
                yield int(threads[1])
