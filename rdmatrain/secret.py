"""The job's secret: where it comes from, and the keys that are made of it.

It never goes on a command line, into a log or over the network.
"""

import hashlib
import hmac
import logging
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from rdmatrain.config import SECRET, SECRET_FILE
from rdmatrain.errors import SettingError

MIN_BYTES = 16
MAX_BYTES = 4096
HOW_TO_MAKE = "make one with: head -c 32 /dev/urandom | base64"

logger = logging.getLogger(__name__)


def load_secret(environ: Mapping[str, str]) -> bytes:
    """Return the secret that ``RDMATRAIN_SECRET_FILE`` or ``RDMATRAIN_SECRET`` gives, else ``b""``.

    The file may be a mounted Kubernetes Secret. Line ends at the end do not count; an empty
    variable counts as unset.

    Raises:
        SettingError: the file cannot be read, the secret is too short or too long, or both
            variables are set and differ. Never says what the secret is.

    """
    path, text = environ.get(SECRET_FILE, ""), environ.get(SECRET, "")
    of_file = _checked(_read(Path(path)), f"{SECRET_FILE}={path}") if path else b""
    of_text = _checked(os.fsencode(text), SECRET) if text else b""
    if path and text and not hmac.compare_digest(of_file, of_text):
        raise SettingError(f"{SECRET_FILE} and {SECRET} are both set and differ: leave out one")
    return of_file or of_text


def generate() -> bytes:
    """Return a new secret: 32 random bytes, in hexadecimal, so that a file of it is text."""
    return secrets.token_hex(32).encode()


def derive(secret: bytes, purpose: str) -> bytes:
    """Return the key for one purpose: 32 bytes that tell nothing of the secret or another key."""
    return hmac.digest(secret, f"rdmatrain {purpose}".encode(), "sha256")


def guessable_key(run_id: str) -> bytes:
    """Return a key that everybody has who knows the job's name, for a gang without a secret.

    It tells jobs apart, so that two on one port are not mixed up. It protects nothing: a job's
    name is no secret.
    """
    return hashlib.sha256(f"rdmatrain run {run_id}".encode(errors="replace")).digest()


def _checked(data: bytes, name: str) -> bytes:
    secret = data.rstrip(b"\r\n")
    if len(secret) < MIN_BYTES:
        raise SettingError(
            f"{name}: the secret has {len(secret)} bytes, and needs at least {MIN_BYTES}: "
            f"{HOW_TO_MAKE}"
        )
    if len(secret) > MAX_BYTES:
        raise SettingError(f"{name}: the secret has more than {MAX_BYTES} bytes: {HOW_TO_MAKE}")
    return secret


def _read(path: Path) -> bytes:
    try:
        # Whoever names a pipe by mistake shall not wait for it.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            data = file.read(MAX_BYTES + 3) if stat.S_ISREG(status.st_mode) else None
    except OSError as error:
        raise SettingError(
            f"{SECRET_FILE}={path} cannot be read ({error.strerror}): "
            "is the Secret mounted, and may this user read it?"
        ) from error
    if data is None:
        raise SettingError(f"{SECRET_FILE}={path} is no regular file: name one")
    _warn_if_open(path, status)
    return data


def _warn_if_open(path: Path, status: os.stat_result) -> None:
    """Warn of a file that its owner could close. Kubernetes mounts links, to files with 0644."""
    if status.st_mode & stat.S_IROTH and status.st_uid == os.geteuid() and not path.is_symlink():
        logger.warning("%s=%s can be read by everybody: chmod 600 %s", SECRET_FILE, path, path)
