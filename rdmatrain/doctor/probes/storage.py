"""Probes of storage: what a save does to a folder, on a small scale, and what is left of it."""

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from time import perf_counter, time
from typing import Any

from rdmatrain.config import inherited_environment, load_settings, recorder_folder
from rdmatrain.discovery.deadline import LATE, in_time
from rdmatrain.doctor.model import Needs
from rdmatrain.doctor.probes.network import meeting_here
from rdmatrain.errors import SettingError
from rdmatrain.launcher.options import choose
from rdmatrain.launcher.runtime import Runtime

LIMIT_S = 0.9
PREFIX = ".rdmatrain-doctor-"
CHUNK, NUM_CHUNKS = b"\xa5" * (1 << 20), 4
# What is reserved there is taken from the pod's memory, and the kernel kills for it.
IN_MEMORY = {"tmpfs", "ramfs"}
Facts = dict[str, Any]


def probes(needs: Needs) -> Mapping[str, Callable[[], Any]]:
    """Return them, by name: ``checkpoint``, ``tmp``, ``logs``."""
    return {
        "checkpoint": lambda: ask_checkpoint(needs.checkpoint_dir, _to_reserve(needs)),
        "tmp": lambda: ask_tmp(inherited_environment()),
        "logs": lambda: ask_logs(inherited_environment()),
    }


def ask_checkpoint(folder: str, reserve_mib: int = 0) -> Facts:
    """Return what a save would meet in a folder: it is tried, and nothing is left of it.

    Args:
        folder: which.
        reserve_mib: how much is to be reserved for a moment, without writing it.

    Returns:
        ``path``; ``parent``, where the first folder would be made that is missing; ``uid``, ``gid``
        and for the folder ``owner``, ``group`` and ``mode``; ``free``, ``total``, ``free_inodes``
        and ``inodes``; ``ahead_s``: how far the time that a file got is ahead of this host's; and
        for each step its errno's name, empty if it went well: ``stat``,
        ``mkdir``, ``write``, ``fsync``, ``fsync_folder``, ``rename_file``, ``rename_folder``,
        ``reserve``. A step that is not there was not reached. ``late`` is the one that did not end
        in time. ``reserve_mib`` as asked for.

    """
    if not folder:
        return {"path": ""}
    facts: Facts = {"path": folder, "uid": os.geteuid(), "gid": os.getegid()}
    facts["reserve_mib"] = reserve_mib
    save = _Save(Path(folder), facts)
    why = in_time(LIMIT_S, save.run)
    if not why:
        return facts
    # The thread may still write to it.
    return {**facts, "late": save.step} if why.startswith(LATE) else {**facts, "error": why}


def ask_tmp(environ: Mapping[str, str]) -> Facts:
    """Return where the launcher and Python's tempfile put their files, or why nowhere."""
    facts: Facts = {"launcher": "", "launcher_error": "", "tempfile": "", "tempfile_error": ""}

    def look() -> None:
        try:
            runtime = Runtime(environ)
            facts["launcher"] = str(runtime.folder.parent)
            runtime.close()
        except SettingError as error:
            facts["launcher_error"] = str(error)
        try:
            with tempfile.TemporaryFile() as file:
                file.write(b"x")
                facts["tempfile"] = tempfile.gettempdir()
        except OSError as error:
            facts["tempfile_error"] = error.strerror or str(error)

    why = in_time(LIMIT_S, look)
    return {"error": why} if why else facts


def ask_logs(environ: Mapping[str, str]) -> Facts:
    """Return whether files of the workers' output and the recorder's traces can be made.

    Returns:
        ``log_dir`` and ``recorder_dir``: each with ``path``, ``source``, and the errno's name of
        making a folder in it; empty if that went well. One that nobody asks for has no path.

    """
    try:
        settings, options = load_settings(environ), choose({}, environ)
    except SettingError as error:
        return {"error": str(error)}
    log, recorder = options["log_dir"], settings.recorder_size > 0
    wanted = {
        "log_dir": (str(log.value or ""), log.source),
        "recorder_dir": (
            recorder_folder(settings, environ) if recorder else "",
            settings.name_of("recorder_dir") if settings.recorder_dir else "default",
        ),
    }
    facts: Facts = {
        name: {"path": path, "source": source} for name, (path, source) in wanted.items()
    }

    def look() -> None:
        for each in facts.values():
            if each["path"] not in {"", os.devnull}:
                each["mkdir"] = _can_make(Path(each["path"]))

    why = in_time(LIMIT_S, look)
    return {"error": why} if why else facts


class _Save:
    """The steps of a save, in the order in which a checkpoint takes them."""

    def __init__(self, folder: Path, facts: Facts) -> None:
        self._folder, self._facts = folder, facts
        self.step = "stat"

    def run(self) -> None:
        """Take them, as far as that is possible, and remove all that was made."""
        if not self._take("stat", self._stat):
            return
        here = Path(self._facts.get("parent") or self._folder)
        self._space(here)
        made: list[Path] = []
        if self._take("mkdir", lambda: made.append(_make(here))):
            try:
                self._save(made[0])
            finally:
                shutil.rmtree(made[0], ignore_errors=True)

    def _take(self, step: str, call: Callable[[], object]) -> bool:
        """Take a step, and note how it went."""
        self.step = step
        try:
            call()
        except OSError as error:
            self._facts[step] = name_of(error)
            return False
        self._facts[step] = ""
        return True

    def _stat(self) -> None:
        place = first_that_is(self._folder)
        if place != self._folder:
            self._facts["parent"] = str(place)
        found = place.stat()
        self._facts |= {
            "owner": found.st_uid,
            "group": found.st_gid,
            "mode": found.st_mode & 0o7777,
        }
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))

    def _space(self, here: Path) -> None:
        with suppress(OSError):
            found = os.statvfs(here)
            self._facts |= {
                "free": found.f_bavail * found.f_frsize,
                "total": found.f_blocks * found.f_frsize,
                "free_inodes": found.f_favail,
                "inodes": found.f_files,
            }

    def _save(self, own: Path) -> None:
        with suppress(OSError), (own / "new").open("xb", buffering=0) as file:
            if self._take("write", lambda: _write(file)):
                start = perf_counter()
                self._take("fsync", lambda: os.fsync(file.fileno()))
                self._facts["fsync_s"] = round(perf_counter() - start, 6)
                # A file server stamps files by its own clock.
                self._facts["ahead_s"] = round(os.fstat(file.fileno()).st_mtime - time(), 3)
        if self._facts.get("write") == "":
            self._take("fsync_folder", lambda: _sync(own))
            self._take("rename_file", lambda: _rename_over(own / "new", own / "old"))
            self._take("rename_folder", lambda: _rename_folder(own / "folder", own / "renamed"))
            size = self._facts["reserve_mib"] << 20
            # Others must not lack space for this, not even for a moment.
            if 0 < 2 * size <= self._facts.get("free", 0) and _kind(own) not in IN_MEMORY:
                self._take("reserve", lambda: _reserve(own / "reserved", size))


def first_that_is(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that is there."""
    place = folder.absolute()
    for each in (place, *place.parents):
        if os.path.lexists(each):
            return folder if each == place else each
    return Path("/")


def name_of(error: OSError) -> str:
    """Return an errno's name, ``ENOSPC``."""
    return errno.errorcode.get(error.errno or 0, "EIO")


def _make(here: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=PREFIX, dir=here))


def _write(file: FileIO) -> None:
    for _ in range(NUM_CHUNKS):
        if file.write(CHUNK) != len(CHUNK):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _rename_over(new: Path, old: Path) -> None:
    old.write_bytes(b"old")
    new.rename(old)
    if old.stat().st_size != NUM_CHUNKS * len(CHUNK) or new.exists():
        raise OSError(errno.EIO, "the old file is still there", str(old))


def _rename_folder(folder: Path, name: Path) -> None:
    folder.mkdir()
    (folder / "file").write_bytes(b"x")
    folder.rename(name)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _to_reserve(needs: Needs) -> int:
    """Return how much: all nodes at once would take more than the checkpoint does."""
    return needs.checkpoint_mib if meeting_here(needs).node_rank in {0, None} else 0


def _kind(folder: Path) -> str:
    """Return the type of a folder's file system; empty if it is not known."""
    with suppress(OSError):
        device = folder.stat().st_dev
        place = f"{os.major(device)}:{os.minor(device)}"
        for line in Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines():
            left, _, right = line.partition(" - ")
            if left.split()[2:3] == [place] and right:
                return right.split()[0]
    return ""


def _reserve(file: Path, nbytes: int) -> None:
    """Let the file system set space aside, by the system call: the C library's would write it."""
    with file.open("xb") as opened:
        # So that nothing stays, even if this process is killed.
        file.unlink()
        fallocate = ctypes.CDLL(None, use_errno=True).fallocate
        start, length = ctypes.c_int64(0), ctypes.c_int64(nbytes)
        if fallocate(opened.fileno(), 0, start, length):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(file))


def _can_make(folder: Path) -> str:
    """Return why nothing can be made in a folder, which need not be there yet."""
    try:
        _make(first_that_is(folder)).rmdir()
    except OSError as error:
        return name_of(error)
    return ""
