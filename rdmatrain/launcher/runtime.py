"""The launcher's private folder: the secret's file, watch pages, error files.

A folder holds a file that its launcher locks as long as it lives. The kernel drops the lock with
the launcher, however that ends, so the next launcher knows what is left of a dead one. Unlike a
process id, a lock means the same in all containers that share a folder, and after a restart.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from rdmatrain import config
from rdmatrain.errors import SettingError

_LOCK = "lock"
_PROBE = bytes(1 << 12)
_TRIES = 3
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Runtime:
    """A new folder that only this user can look into; left-overs of dead launchers are removed.

    It is made below the first of ``XDG_RUNTIME_DIR``, ``TMPDIR``, ``/tmp`` and ``/dev/shm`` that
    can be written; the last often can where the root is read-only.

    Args:
        environ: read this instead of the process environment.

    Attributes:
        folder: its absolute path.

    Raises:
        SettingError: none can be written; names each, and why.

    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = config.inherited_environment() if environ is None else environ
        # An emptyDir is everybody's, but only the pod's own containers can reach it.
        in_pod = bool(environ.get("KUBERNETES_SERVICE_HOST"))
        reasons = []
        for base in _bases(environ):
            try:
                with _opened(base) as base_fd:
                    if not in_pod:
                        _refuse_everybodys(base_fd)
                    self._lock_fd = _make(base_fd, name := _new_name())
                    _remove_dead(base_fd)
            except OSError as error:
                reasons.append(f"{base}: {error.strerror}")
            else:
                self.folder = base / name
                return
        raise SettingError(
            f"no folder for the launcher's own files ({'; '.join(reasons)}): "
            "set XDG_RUNTIME_DIR or TMPDIR to one that can be written"
        )

    def write_secret(self, secret: bytes) -> Path:
        """Write the job's secret to a file that only this user can read; returns its path.

        Raises:
            OSError: it cannot be written.

        """
        path = self.folder / "secret"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            os.fchmod(file.fileno(), 0o600)  # whatever the umask is
            file.write(secret)
        return path

    def close(self) -> None:
        """Remove the folder and all in it. Idempotent."""
        if self._lock_fd >= 0:
            remove(self.folder)
            os.close(self._lock_fd)
            self._lock_fd = -1


def remove(folder: Path) -> None:
    """Remove a folder and all in it as far as that is possible; follows no links, never raises."""
    with contextlib.suppress(OSError), _opened(folder.parent) as parent_fd:
        _remove(parent_fd, folder.name)


def _bases(environ: Mapping[str, str]) -> list[Path]:
    named = (environ.get("XDG_RUNTIME_DIR", ""), environ.get("TMPDIR", ""), "/tmp", "/dev/shm")
    # A relative name would mean something else to whoever changes its folder.
    return list(dict.fromkeys(Path(text) for text in named if text.startswith("/")))


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    fd = os.open(folder, _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _prefix() -> str:
    return f"rdmatrain-{os.geteuid()}-"


def _new_name() -> str:
    return _prefix() + os.urandom(8).hex()


def _refuse_everybodys(base_fd: int) -> None:
    mode = os.fstat(base_fd).st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise PermissionError(0, "everybody may replace what is in it")


def _make(base_fd: int, name: str) -> int:
    """Make a folder and lock it; returns the lock's descriptor."""
    for _ in range(_TRIES):
        os.mkdir(name, 0o700, dir_fd=base_fd)
        try:
            os.chmod(name, 0o700, dir_fd=base_fd)  # whatever the umask is
            if (lock_fd := _lock(base_fd, name)) is not None:
                os.write(lock_fd, _PROBE)  # a disk that is full still takes folders
                return lock_fd
        except OSError:
            _remove(base_fd, name)
            raise
    raise BlockingIOError(0, "others remove what is made there")


def _lock(base_fd: int, name: str) -> int | None:
    """Lock a folder; returns the descriptor, or None if another has locked it or removes it."""
    folder_fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=base_fd)
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(_LOCK, flags, 0o600, dir_fd=folder_fd)
    finally:
        os.close(folder_fd)
    with contextlib.ExitStack() as otherwise:
        otherwise.callback(os.close, fd)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:
                otherwise.pop_all()
                return fd
    return None


def _remove_dead(base_fd: int) -> None:
    """Remove the folders of this user's launchers that do not live any more."""
    with os.scandir(base_fd) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(_prefix())]
    for name in names:
        with contextlib.suppress(OSError):
            if os.stat(name, dir_fd=base_fd, follow_symlinks=False).st_uid != os.geteuid():
                continue
            if (lock_fd := _lock(base_fd, name)) is not None:
                _remove(base_fd, name)
                os.close(lock_fd)


def _remove(base_fd: int, name: str) -> None:
    for _, folders, files, fd in os.fwalk(name, topdown=False, dir_fd=base_fd):
        for file in files:
            os.unlink(file, dir_fd=fd)
        for folder in folders:
            try:
                os.rmdir(folder, dir_fd=fd)
            except NotADirectoryError:  # a link to one
                os.unlink(folder, dir_fd=fd)
    os.rmdir(name, dir_fd=base_fd)
