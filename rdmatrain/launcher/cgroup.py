"""A cgroup of the job's own, where that is allowed: the kernel then ends all of it in one step.

It lies below the launcher's own cgroup and limits nothing. Most pods mount cgroups read-only, and
users have none of their own: then there is none, and nothing is said, since the launcher does not
depend on it.
"""

import contextlib
import os
import time
from pathlib import Path

_EMPTY_S = 1.0
_WAIT_S = 0.005


class Cgroup:
    """A cgroup that exists; see :func:`create`.

    Args:
        path: its folder.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._procs_fd = os.open(path / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)

    def join(self) -> None:
        """Move this process here; for a child between fork and exec. Never raises."""
        with contextlib.suppress(OSError):
            os.write(self._procs_fd, b"0")

    def kill(self) -> None:
        """Kill all processes in it and below it. Never raises."""
        with contextlib.suppress(OSError):
            (self.path / "cgroup.kill").write_bytes(b"1")

    def remove(self) -> None:
        """Remove it once it is empty, which is waited for up to a second. Never raises."""
        deadline = time.monotonic() + _EMPTY_S
        while self.path.exists():
            for folder, _, _ in os.walk(self.path, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
            if time.monotonic() > deadline:
                return
            time.sleep(_WAIT_S)


def create(name: str) -> Cgroup | None:
    """Make a cgroup below this process's own; None where that is not allowed or of no use.

    Args:
        name: of its folder.

    """
    try:
        own = _own_folder()
        if own is None:
            return None
        path = own / name
        path.mkdir()
        if (path / "cgroup.kill").exists():  # Linux 5.14
            return Cgroup(path)
        path.rmdir()
    except OSError:
        pass
    return None


def _own_folder() -> Path | None:
    """Return the folder of this process's cgroup of version 2, if it can be seen."""
    cgroups = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    own = next((line[3:] for line in cgroups if line.startswith("0::")), None)
    if own is None:
        return None
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        mount, _, kind = line.partition(" - ")
        root, point = mount.split()[3:5]
        if kind.startswith("cgroup2 ") and Path(own).is_relative_to(root):
            folder = Path(point) / Path(own).relative_to(root)
            # Another namespace's view may have a folder of that name which is not ours.
            if str(os.getpid()) in (folder / "cgroup.procs").read_text(encoding="ascii").split():
                return folder
    return None
