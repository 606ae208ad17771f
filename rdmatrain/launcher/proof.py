"""How the two ends of a connection prove that they have the secret, and seal what they say.

Bytes in, bytes out: nothing here reads or writes. The README has the protocol on one screen.
"""

import hmac
import secrets
import struct
from collections.abc import Generator
from typing import NamedTuple

from rdmatrain.secret import MIN_BYTES, derive

MAGIC = b"rdmatrain"
VERSION = 1
DIALER, LISTENER = b"D", b"L"
TLS_RECORD = b"\x16\x03"
HEAD = struct.Struct("!9sBc")  # magic, version, role
NONCE_BYTES = 32
PROOF_BYTES = 32
HEADER = struct.Struct("!IB")  # length of the payload, kind
TAG_BYTES = 16
MAX_PAYLOAD = 1 << 20
MAX_CONTEXT = 512  # bytes: of the job's name and epoch, and of a farewell
# Kinds that the channel keeps for itself.
CONTEXT, FAREWELL = 0, 255

STRANGER = "the other side is another program"
TLS_ALONE = "the other side has TLS, and this side has not: set it up on all nodes"
NO_HELLO = (
    "the other side did not say who it is: it is another program, is too busy, or has TLS and "
    "this side has not"
)
OTHER_SECRET = "the other side has another secret, or is another program"
OTHER_JOB = "the other side did not say of which job it is"
CHANGED = "what came is not what was sent: somebody or something between changed it"


class RefusedError(Exception):
    """The connection must end; the text says why.

    Attributes:
        heard: what is queued still goes out, for the other side to come to the same conclusion.

    """

    def __init__(self, reason: str, *, heard: bool = False) -> None:
        super().__init__(reason)
        self.heard = heard


class Seal:
    """One direction of a connection: its key, and the number of the next frame."""

    def __init__(self, key: bytes) -> None:
        self._mac = hmac.new(key, digestmod="sha256")
        self._number = 0

    def close(self, kind: int, payload: bytes) -> bytes:
        """Return the next frame to send."""
        header = HEADER.pack(len(payload), kind)
        return b"".join((header, payload, self._tag(header, payload)))

    def open(self, header: bytes, body: bytes) -> bytes:
        """Return the payload of the next frame that came: ``body`` is all after its header.

        Raises:
            RefusedError: the other side has not sent this frame at this place.

        """
        payload, tag = body[:-TAG_BYTES], body[-TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(header, payload)):
            raise RefusedError(CHANGED)
        return payload

    def _tag(self, header: bytes, payload: bytes) -> bytes:
        mac = self._mac.copy()
        mac.update(self._number.to_bytes(8, "big") + header)
        mac.update(payload)
        self._number += 1
        return mac.digest()[:TAG_BYTES]


class Session(NamedTuple):
    """What both ends have once each has proved the secret."""

    mine: Seal
    theirs: Seal


class Step(NamedTuple):
    """What a handshake wants next.

    Attributes:
        send: bytes for the other side.
        need: how many bytes of it to wait for.
        cut: why, if the connection ends instead.

    """

    send: bytes
    need: int
    cut: str


Steps = Generator[Step, bytes, Session]


def prove(secret: bytes, context: str, *, dialed: bool) -> Steps:
    """Return the handshake of one end; it ends with the session.

    The dialer proves first: who only knocks gets nothing to guess the secret by. What the job is
    called is told after both proofs, and must be equal.

    Args:
        secret: the job's.
        context: name of the job and its epoch, at most :data:`MAX_CONTEXT` bytes.
        dialed: this end made the connection.

    Raises:
        RefusedError: the other side has no such secret, is of another job or another version.
        ValueError: the secret is too short, or the context too long.

    """
    if len(secret) < MIN_BYTES or len(context.encode(errors="replace")) > MAX_CONTEXT:
        raise ValueError(
            f"a channel needs a secret of at least {MIN_BYTES} bytes, and a context of at most "
            f"{MAX_CONTEXT}"
        )
    return _prove(derive(secret, "channel"), context.encode(errors="replace"), dialed)


def _prove(key: bytes, context: bytes, dialed: bool) -> Steps:
    me, other = (DIALER, LISTENER) if dialed else (LISTENER, DIALER)
    mine = HEAD.pack(MAGIC, VERSION, me) + secrets.token_bytes(NONCE_BYTES)
    theirs = yield from _meet(mine if dialed else b"", other)
    hellos = mine + theirs if dialed else theirs + mine
    root = hmac.digest(key, hellos, "sha256")
    proof = derive(root, f"proof {me.decode()}")
    answer = yield Step(proof if dialed else mine, PROOF_BYTES, OTHER_SECRET)
    if not hmac.compare_digest(answer, derive(root, f"proof {other.decode()}")):
        raise RefusedError(OTHER_SECRET)
    session = Session(*(Seal(derive(root, f"frames {role.decode()}")) for role in (me, other)))
    yield from _agree(session, b"" if dialed else proof, context)
    return session


def _meet(send: bytes, role: bytes) -> Generator[Step, bytes, bytes]:
    """Return the other side's hello."""
    head = yield Step(send, HEAD.size, NO_HELLO)
    magic, version, their_role = HEAD.unpack(head)
    if magic != MAGIC:
        raise RefusedError(TLS_ALONE if head.startswith(TLS_RECORD) else STRANGER)
    if version != VERSION:
        raise RefusedError(
            f"the other side speaks version {version} of the launcher's protocol, this side "
            f"{VERSION}: give all nodes the same image"
        )
    if their_role != role:
        raise RefusedError("the other side plays the same part: a node has reached itself")
    nonce = yield Step(b"", NONCE_BYTES, NO_HELLO)
    return head + nonce


def _agree(session: Session, send: bytes, mine: bytes) -> Generator[Step, bytes, None]:
    """Tell the other side of which job this is, and hear the same of it."""
    header = yield Step(send + session.mine.close(CONTEXT, mine), HEADER.size, OTHER_JOB)
    length, kind = HEADER.unpack(header)
    if length > MAX_CONTEXT or kind != CONTEXT:
        raise RefusedError(CHANGED)
    body = yield Step(b"", length + TAG_BYTES, OTHER_JOB)
    theirs = session.theirs.open(header, body)
    if theirs != mine:
        raise RefusedError(
            f"the other side is of job {printable(theirs)}, this side of {printable(mine)}: "
            "two jobs have one secret and one address",
            heard=True,
        )


def printable(text: bytes) -> str:
    """Return what another program said as text that a terminal can be given."""
    return "".join(
        letter if letter.isprintable() else "?" for letter in text.decode(errors="replace")
    )
