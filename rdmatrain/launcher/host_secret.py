"""The secret of jobs whose nodes are all tasks on this host: made once, and this user's alone.

A task of mpirun can tell the others nothing before they have met, but all of them see the same
folder. The secret stays there: what guards a job from other users need not differ between jobs,
which their names tell apart.
"""

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from rdmatrain.errors import SettingError
from rdmatrain.secret import MAX_BYTES, MIN_BYTES, generate

_NAME = "secret-of-this-host"


def host_secret(environ: Mapping[str, str]) -> tuple[bytes, Path]:
    """Return the secret and its file, which is made if it is not there.

    Args:
        environ: says where a user's own files are.

    Raises:
        SettingError: it cannot be made, or others could have made or read it.

    """
    base = environ.get("XDG_RUNTIME_DIR") or environ.get("TMPDIR") or "/tmp"
    folder = Path(base) / f"rdmatrain-{os.geteuid()}"
    path = folder / _NAME
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        _require_own(folder, folder.lstat())
        if not path.exists():
            _make(path)
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            _require_own(path, os.fstat(file.fileno()))
            secret = file.read(MAX_BYTES)
    except OSError as error:
        raise SettingError(
            f"no secret for the tasks of this host: {path}: {error.strerror}; set "
            "RDMATRAIN_SECRET_FILE, or TMPDIR to a folder that can be written"
        ) from error
    if len(secret) < MIN_BYTES:
        raise SettingError(f"{path} holds no secret: remove it, and the next job makes one")
    return secret, path


def _make(path: Path) -> None:
    """Put a secret there, unless another task is quicker: nobody ever sees a part of one."""
    draft = path.with_name(f"{_NAME}.{os.urandom(8).hex()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(generate())
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


def _require_own(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise SettingError(
            f"{path} is not this user's alone: remove it, or set RDMATRAIN_SECRET_FILE"
        )
