# SPDX-License-Identifier: Apache-2.0
"""A machine in a dictionary, for tests that need no folder on disk."""

import errno
import os
import posixpath
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rdmatrain.discovery.source import Source


class Link(NamedTuple):
    """A symbolic link."""

    target: str


class MemorySource(Source):
    """Files by absolute path; the folders above them are there too.

    A value is the text of a file, the names in a folder (for an empty one, say), a :class:`Link`,
    or the errno that reading it fails with. A probe is its answer, or what is called for it.
    """

    def __init__(
        self,
        files: Mapping[str, str | list[str] | Link | int],
        probes: Mapping[str, Any | Callable[[], Any]] | None = None,
    ) -> None:
        super().__init__()
        self.files = dict(files)
        self._probes = dict(probes or {})

    def probe(self, name: str) -> Any:
        answer = self._probes.get(name)
        return answer() if callable(answer) else answer

    def _read(self, real: str) -> str:
        content = self.files.get(real)
        if isinstance(content, str):
            return content
        if isinstance(content, int):
            raise _failed(content, real)
        raise _failed(errno.EISDIR if self._listed(real) is not None else errno.ENOENT, real)

    def _list(self, real: str) -> list[str]:
        names = self._listed(real)
        if names is None:
            content = self.files.get(real, errno.ENOENT)
            raise _failed(content if isinstance(content, int) else errno.ENOTDIR, real)
        return names

    def _readlink(self, path: str) -> str:
        content = self.files.get(path)
        if isinstance(content, Link):
            return content.target
        known = content is not None or self._listed(path) is not None
        raise _failed(errno.EINVAL if known else errno.ENOENT, path)

    def _listed(self, folder: str) -> list[str] | None:
        """Return the names in a folder, or None where there is no such folder."""
        given = self.files.get(folder)
        start = posixpath.join(folder, "")
        below = {path[len(start) :].split("/")[0] for path in self.files if path.startswith(start)}
        if not below and not isinstance(given, list):
            return None
        return list(below.union(given if isinstance(given, list) else ()))


def environ(variables: Mapping[str, str]) -> str:
    """Write variables as ``/proc/N/environ`` has them."""
    return "".join(f"{name}={value}\0" for name, value in variables.items())


def _failed(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
