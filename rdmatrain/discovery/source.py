"""Where facts are read: the running machine, a tree under another root, or a saved snapshot.

Whoever reads a fact asks a :class:`Source` for it and nothing else, neither the file system nor the
process environment, so that the answers of a snapshot are those of the machine. A file that is
absent, unreadable or vanishes while it is read is an answer too.
"""

import errno
import os
import posixpath
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Nothing that is read here is longer; what is longer is cut.
MAX_BYTES = 1 << 20
# As Linux has it; a chain of links that is longer, or a circle, leads nowhere.
MAX_LINKS = 40


class Source(ABC):
    """Files and probes of one machine. Paths are absolute, as the machine has them."""

    def __init__(self) -> None:
        # Where folders are and links among them lead to, which is asked for every file in them.
        self._folders: dict[str, str] = {}
        self._targets: dict[str, str | None] = {}

    def text(self, path: str) -> str | None:
        """Return a file's text, at most MAX_BYTES of it, or None: :meth:`failure` says why.

        Bytes that are not UTF-8 come as surrogates, as ``os.fsdecode`` gives them.
        """
        try:
            return self._read(self.real(path))
        except OSError:
            return None

    def failure(self, path: str) -> str:
        """Return why a file cannot be read, as ``ENOENT`` or ``EINVAL``; empty if it can."""
        try:
            self._read(self.real(path))
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, "EIO")
        return ""

    def names(self, path: str) -> list[str]:
        """Return what is in a folder, ``mlx5_2`` before ``mlx5_10``; empty if it cannot be read."""
        try:
            return sorted(self._list(self.real(path)), key=natural)
        except OSError:
            return []

    def link(self, path: str) -> str | None:
        """Return what a symbolic link holds; None if it is none."""
        folder, name = posixpath.split(path)
        try:
            return self._readlink(posixpath.join(self.real(folder), name))
        except OSError:
            return None

    def real(self, path: str) -> str:
        """Return the path without symbolic links, which need not lead to anything.

        As in Linux, ``..`` after a link is the parent of what the link leads to.

        Raises:
            OSError: the links go round in a circle.

        """
        folder, _, name = path.rpartition("/")
        if folder not in self._folders:
            self._folders[folder] = self._follow("/", folder)
        return self._follow(self._folders[folder], name)

    @abstractmethod
    def probe(self, name: str) -> Any:
        """Return what a call found out, as JSON has it; None where it was not made.

        ``verbs``: what libibverbs can open, and which GIDs work; ``nvml``: the GPUs that the driver
        shows. :mod:`rdmatrain.discovery.probes` has both.
        """

    @abstractmethod
    def _read(self, real: str) -> str: ...

    @abstractmethod
    def _list(self, real: str) -> list[str]: ...

    @abstractmethod
    def _readlink(self, path: str) -> str: ...

    def _follow(self, here: str, path: str) -> str:
        """Return where a path leads that starts in a folder without links."""
        left, followed = path.split("/")[::-1], 0
        while left:
            name = left.pop()
            if name == "..":
                here = posixpath.dirname(here)
            elif name not in {"", "."}:
                here = posixpath.join(here, name)
                target = self._target(here, is_folder=bool(left))
                if target is not None:
                    followed += 1
                    here = "/" if target.startswith("/") else posixpath.dirname(here)
                    left += target.split("/")[::-1]
            if followed > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        return here

    def _target(self, path: str, is_folder: bool) -> str | None:
        if path not in self._targets:
            try:
                target = self._readlink(path)
            except OSError:
                target = None
            if not is_folder:
                return target
            self._targets[path] = target
        return self._targets[path]


class Tree(Source):
    """Files of the running machine, or of another one whose root is a folder here."""

    def __init__(
        self, root: Path = Path("/"), probes: Mapping[str, Callable[[], Any]] | None = None
    ) -> None:
        """Read below ``root``; ``probes`` are called when they are asked for, once."""
        super().__init__()
        self._root = str(root).rstrip("/")
        self._probes = dict(probes or {})
        self._found: dict[str, Any] = {}

    def probe(self, name: str) -> Any:  # noqa: D102
        if name in self._probes and name not in self._found:
            self._found[name] = self._probes[name]()
        return self._found.get(name)

    # A machine with many NICs has thousands of files, for which Path takes longer than the kernel.
    def _read(self, real: str) -> str:
        with open(self._at(real), "rb") as file:  # noqa: PTH123
            return os.fsdecode(file.read(MAX_BYTES))

    def _list(self, real: str) -> list[str]:
        return os.listdir(self._at(real))  # noqa: PTH208

    def _readlink(self, path: str) -> str:
        return os.readlink(self._at(path))  # noqa: PTH115

    def _at(self, real: str) -> str:
        if "\0" in real:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), real)
        return f"{self._root}{real}"


def natural(name: str) -> list[str | int]:
    """Sort key by which ``mlx5_2`` comes before ``mlx5_10``."""
    # Text and numbers take turns, so that like is compared with like.
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]
