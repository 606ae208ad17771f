"""How many CPUs a process may keep busy, and how much memory it may have: what its cgroups pay for.

A container often sees all CPUs of its host and is paid for a few: the scheduler then stops all of
its threads for the rest of each period, so a thread for each visible CPU is the slowest choice.
"""

import posixpath
import re
from collections.abc import Iterator
from typing import NamedTuple

from rdmatrain.discovery.pci import parse_cpus
from rdmatrain.discovery.source import Source
from rdmatrain.discovery.sysfs import attribute

GROUPS = "/proc/self/cgroup"
MOUNTS = "/proc/self/mountinfo"

_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


class _Mount(NamedTuple):
    """A hierarchy of cgroups: where it is, and which of its folders that is."""

    folder: str
    root: str
    second: bool  # of version 2


def cpu_quota(source: Source) -> float | None:
    """Return the CPUs that the cgroups of this process pay for, which may be 1.5; None for all.

    The smallest of all levels that can be seen counts, in both versions of cgroups, as some hosts
    have both. A container sees nothing above its own.

    Args:
        source: the running machine, or one that was saved.

    """
    limits = []
    for mount, group in _hierarchies(source, "cpu"):
        read = _second if mount.second else _first
        limits += [read(source, folder) for folder in _levels(mount, group)]
    return min((each for each in limits if each), default=None)


def memory_limit(source: Source) -> int | None:
    """Return the bytes that the cgroups of this process may have; None for all.

    As with CPUs, the smallest of all levels counts. Version 1 writes 2^63 for none, in more digits
    than count as a number here.

    Args:
        source: the running machine, or one that was saved.

    """
    limits = []
    for mount, group in _hierarchies(source, "memory"):
        name = "memory.max" if mount.second else "memory.limit_in_bytes"
        texts = (attribute(source, f"{folder}/{name}") for folder in _levels(mount, group))
        limits += [int(text) for text in texts if _NUMBER.fullmatch(text)]
    return min((each for each in limits if each), default=None)


def folders(source: Source, controller: str) -> Iterator[tuple[str, bool]]:
    """Yield where a controller's files may be: of the groups of this process and of those above.

    Args:
        source: the running machine, or one that was saved.
        controller: ``pids``, ``rdma``...

    Yields:
        A folder, and whether its files are those of version 2.

    """
    for mount, group in _hierarchies(source, controller):
        yield from ((folder, mount.second) for folder in _levels(mount, group))


def cpuset(source: Source) -> tuple[int, ...]:
    """Return the CPUs that the nearest cgroup of this process has; empty where none says it.

    What this process may run on can be less: whoever started it may have bound it.

    Args:
        source: the running machine, or one that was saved.

    """
    for mount, group in _hierarchies(source, "cpuset"):
        name = "cpuset.cpus.effective" if mount.second else "cpuset.effective_cpus"
        for folder in _levels(mount, group):
            cpus = parse_cpus(attribute(source, f"{folder}/{name}"))
            if cpus:
                return cpus
    return ()


def _hierarchies(source: Source, controller: str) -> Iterator[tuple[_Mount, str]]:
    """Yield each hierarchy that may have a controller, and this process's group in it."""
    mounts = _mounts(source)
    for line in (source.text(GROUPS) or "").splitlines():
        # "4:cpu,cpuacct:/path", or "0::/path" of version 2; a path may hold colons.
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not group.startswith("/"):
            continue
        for mount, names in mounts:
            in_both = controller in names and controller in controllers.split(",")
            if (not controllers) if mount.second else in_both:
                yield mount, group


def _mounts(source: Source) -> list[tuple[_Mount, set[str]]]:
    """Return the mounted hierarchies, with the controllers of those of version 1."""
    found = []
    for line in (source.text(MOUNTS) or "").splitlines():
        # "31 23 0:28 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu"
        before, _, after = line.partition(" - ")
        place, kind = before.split(" "), after.split(" ")
        if len(place) < 5 or len(kind) < 3 or kind[0] not in {"cgroup", "cgroup2"}:
            continue
        mount = _Mount(_unescape(place[4]), _unescape(place[3]), kind[0] == "cgroup2")
        found.append((mount, set(kind[2].split(","))))
    return found


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _levels(mount: _Mount, group: str) -> Iterator[str]:
    """Yield the folders of a group and of all above it, as far as they are mounted."""
    root = mount.root.rstrip("/")
    below = group.removeprefix(root) if f"{group}/".startswith(f"{root}/") else ""
    # ``/../..`` is a group outside of this namespace: what is mounted is all there is to see.
    parts = [] if ".." in below.split("/") else [part for part in below.split("/") if part]
    for length in range(len(parts), -1, -1):
        yield posixpath.join(mount.folder, *parts[:length])


def _second(source: Source, folder: str) -> float | None:
    quota, _, period = attribute(source, f"{folder}/cpu.max").partition(" ")
    return _cpus(quota, period or "100000")


def _first(source: Source, folder: str) -> float | None:
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    quota, period = (attribute(source, f"{folder}/{name}") for name in names)
    return _cpus(quota, period)


def _cpus(quota: str, period: str) -> float | None:
    """Return how much of each period may be used; None for ``max``, -1 and what is no number."""
    if not (_NUMBER.fullmatch(quota) and _NUMBER.fullmatch(period)) or int(period) == 0:
        return None
    return int(quota) / int(period)
