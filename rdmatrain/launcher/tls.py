"""TLS below a channel, for who wants that nobody can read along. ``ssl`` is imported only here."""

import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rdmatrain.errors import SettingError
from rdmatrain.launcher.proof import RefusedError

# As cert-manager and Kubernetes call the parts of a Secret of this kind.
CERTIFICATE, KEY, AUTHORITY = "tls.crt", "tls.key", "ca.crt"
_READ_BYTES = 64 << 10


def load_tls(folder: Path, *, dialed: bool) -> ssl.SSLContext:
    """Return TLS 1.3 with certificates of both sides, each signed by the authority.

    Names in certificates are not compared: pods have no lasting ones. That the other side is of
    this job is what the secret proves.

    Args:
        folder: has ``tls.crt``, ``tls.key`` and ``ca.crt``.
        dialed: for the end that makes connections.

    Raises:
        SettingError: a file is missing or is not what it should be.

    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if dialed else ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    for name in (CERTIFICATE, KEY, AUTHORITY):
        if not (folder / name).is_file():
            raise SettingError(f"TLS needs the file {folder / name}: is the Secret mounted?")
    try:
        context.load_cert_chain(folder / CERTIFICATE, folder / KEY, password=_no_password)
        context.load_verify_locations(folder / AUTHORITY)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise SettingError(
            f"the certificates in {folder} cannot be used ({_why(error)}): {CERTIFICATE} and "
            f"{KEY} must be a pair without a password, and {AUTHORITY} certificates"
        ) from error
    return context


class TlsFiles:
    """The certificates of a folder, as they are: those of a Secret change while a job runs.

    Args:
        folder: has ``tls.crt``, ``tls.key`` and ``ca.crt``.
        note: takes a line for the user.
        dialed: for the end that makes connections.

    Raises:
        SettingError: a file is missing or is not what it should be.

    """

    def __init__(self, folder: Path, note: Callable[[str], None], *, dialed: bool) -> None:
        self._folder, self._note, self._dialed = folder, note, dialed
        self._seen = self._look()
        self._context = load_tls(folder, dialed=dialed)

    def context(self) -> ssl.SSLContext:
        """Return what a new connection has: the files as they are, or when they were last whole."""
        if (now := self._look()) != self._seen:
            self._seen = now
            try:
                self._context = load_tls(self._folder, dialed=self._dialed)
            except SettingError as error:
                self._note(f"{error}; those before are used until they change again")
        return self._context

    def _look(self) -> list[tuple[int, ...]]:
        """Return what changes when a file is written, or another takes its place."""
        found: list[tuple[int, ...]] = []
        for name in (CERTIFICATE, KEY, AUTHORITY):
            with suppress(OSError):
                stat = (self._folder / name).stat()
                found.append((stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return found


class TlsVeil:
    """One end of a TLS connection, in memory."""

    def __init__(self, context: ssl.SSLContext, *, dialed: bool) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=not dialed)
        self._plain = bytearray()  # waits for the end of TLS's own handshake
        self._ready = self._failed = False

    def cover(self, plain: bytes) -> bytes:
        """Return what is to be sent for this, and whatever else is to be sent now."""
        self._plain += plain
        if not self._failed:
            self._step()
        return self._outgoing.read()

    def uncover(self, data: bytes) -> bytes:
        """Return what the other side said with this.

        Raises:
            RefusedError: it is no TLS, or the certificate is not accepted.

        """
        self._incoming.write(data)
        result = bytearray()
        try:
            self._step()
            while self._ready and (more := self._tls.read(_READ_BYTES)):
                result += more
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._failed = True
            raise RefusedError(f"TLS failed: {_why(error)}", heard=True) from error
        return bytes(result)

    def _step(self) -> None:
        if not self._ready:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                return
            self._ready = True
        if self._plain:
            self._tls.write(self._plain)
            self._plain.clear()


def _no_password() -> str:
    raise ValueError("the key has a password")  # else OpenSSL would ask for it, and wait


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    return (reason or str(error)).lower().replace("_", " ")
