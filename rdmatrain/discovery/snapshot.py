"""Saving what was read of a machine, and reading it again: a bug report that becomes a fixture."""

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any, TypeVar

from rdmatrain import __version__
from rdmatrain.discovery.redact import (
    drop_notes,
    drop_secrets,
    drop_unread,
    drop_variables,
    move_hostfiles,
    rename,
    rename_resources,
)
from rdmatrain.discovery.redact_claims import redact_claims
from rdmatrain.discovery.source import Source
from rdmatrain.errors import SettingError

SCHEMA = "rdmatrain-snapshot/1"
# What no answer depends on, and who reads a bug report wants to know.
BACKGROUND = (
    "/etc/os-release",
    "/proc/driver/nvidia/version",
    "/proc/self/cgroup",
    "/proc/self/limits",
    "/proc/sys/kernel/osrelease",
    "/sys/fs/cgroup/cpu.max",
    "/sys/fs/cgroup/cpuset.cpus.effective",
    "/sys/fs/cgroup/memory.max",
    "/sys/module/mlx5_core/version",
    "/sys/module/nvidia_peermem/version",
)
_T = TypeVar("_T")
_NUMBERS = {name: number for number, name in errno.errorcode.items()}


@dataclass
class Record:
    """What was read, by absolute path without links.

    Attributes:
        files: texts; bytes that are not UTF-8 are surrogates.
        errors: why a file could not be read, as ``EINVAL``. Absent ones are not listed.
        folders: names in a folder.
        links: what a symbolic link holds.
        probes: what each call gave.

    """

    files: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    folders: dict[str, list[str]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    probes: dict[str, Any] = field(default_factory=dict)


class Recorder(Source):
    """Another source, with a memory: what is read twice is remembered as it was the last time."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.record = Record()
        self._source = source

    def read_background(self) -> None:
        """Read what else a bug report should have: limits, versions of drivers and kernel."""
        for path in BACKGROUND:
            self.text(path)

    def probe(self, name: str) -> Any:  # noqa: D102
        self.record.probes[name] = self._source.probe(name)
        return self.record.probes[name]

    def _read(self, real: str) -> str:
        self.record.files.pop(real, None)
        self.record.errors.pop(real, None)
        try:
            text = self._source._read(real)
        except OSError as error:
            if error.errno != errno.ENOENT:
                self.record.errors[real] = errno.errorcode.get(error.errno or 0, "EIO")
            raise
        self.record.files[real] = text
        return text

    def _list(self, real: str) -> list[str]:
        self.record.folders.pop(real, None)
        names = self._source._list(real)
        self.record.folders[real] = sorted(names)
        return names

    def _readlink(self, path: str) -> str:
        self.record.links.pop(path, None)
        target = self._source._readlink(path)
        self.record.links[path] = target
        return target


class Replay(Source):
    """A saved machine: what was not recorded is absent."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record

    def probe(self, name: str) -> Any:  # noqa: D102
        return self.record.probes.get(name)

    def _read(self, real: str) -> str:
        if real in self.record.errors:
            number = _NUMBERS.get(self.record.errors[real], errno.EIO)
            raise OSError(number, os.strerror(number), real)
        return _recorded(self.record.files, real)

    def _list(self, real: str) -> list[str]:
        return list(_recorded(self.record.folders, real))

    def _readlink(self, path: str) -> str:
        return _recorded(self.record.links, path)


def dump(source: Recorder | Replay, redact: bool) -> str:
    """Write what was read as JSON, in ASCII.

    What is obviously secret, by its name or its looks, is never in it.

    Args:
        source: after everything that should be in it was asked for.
        redact: leave out all variables, annotations and labels that discovery does not know, and
            give hosts, jobs and addresses other names.

    """
    saved = asdict(source.record)
    removed = drop_variables(saved["files"], only_known=redact)
    removed += drop_notes(saved["files"]) if redact else []
    removed += drop_secrets(saved["files"])
    if redact:
        move_hostfiles(saved, Replay(source.record).real)
        drop_unread(saved["files"])
        redact_claims(saved)
        rename_resources(saved["files"])
        saved, renamed = rename(saved)
        removed += renamed
    about = {
        "version": __version__,
        "taken": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "redacted": redact,
        "removed": removed,
    }
    text = json.dumps(about | saved, indent=1, sort_keys=True)
    # First, so that what was cut off is still seen to be a snapshot.
    return f'{{\n "schema": {json.dumps(SCHEMA)},{text[1:]}\n'


def load(text: str, name: str) -> Replay:
    """Read what :func:`dump` wrote.

    Args:
        text: the snapshot.
        name: what messages call it: the name of its file.

    Raises:
        SettingError: it is none.

    """
    try:
        saved = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{name} is no JSON: {error}") from error
    if not isinstance(saved, dict) or saved.get("schema") != SCHEMA:
        raise SettingError(f"{name} is no snapshot: its schema should be {SCHEMA!r}")
    return Replay(
        Record(
            files=_texts(saved, "files", name),
            errors=_texts(saved, "errors", name),
            folders=_folders(saved, name),
            links=_texts(saved, "links", name),
            probes=_section(saved, "probes", name),
        )
    )


def _recorded(where: Mapping[str, _T], path: str) -> _T:
    if path not in where:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return where[path]


def _section(saved: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    found = saved.get(section, {})
    if not isinstance(found, dict):
        raise SettingError(f"{name} is damaged: {section!r} should be an object")
    return found


def _texts(saved: dict[str, Any], section: str, name: str) -> dict[str, str]:
    found = _section(saved, section, name)
    for path, text in found.items():
        if not isinstance(text, str):
            raise SettingError(f"{name} is damaged: {section!r} of {path!r} should be a text")
    return found


def _folders(saved: dict[str, Any], name: str) -> dict[str, list[str]]:
    found = _section(saved, "folders", name)
    for path, names in found.items():
        if not (isinstance(names, list) and all(isinstance(each, str) for each in names)):
            raise SettingError(f"{name} is damaged: 'folders' of {path!r} should be names")
    return found
