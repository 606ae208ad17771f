"""Taking part in a gang: what an agent calls."""

import hashlib
import secrets
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rdmatrain.errors import SettingError
from rdmatrain.launcher.channel import Channel
from rdmatrain.launcher.contracts import GangHandler, Note, Parts, Wire, WireHandler
from rdmatrain.launcher.facts import facts_of
from rdmatrain.launcher.job import Gang, Job
from rdmatrain.launcher.listener import Listener
from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.member import Member, Seeker
from rdmatrain.launcher.seeker import Network, NetworkSeeker, NoSeeker
from rdmatrain.launcher.tunnel import StoreDoor, StoreRoom
from rdmatrain.secret import generate, guessable_key

if TYPE_CHECKING:
    import ssl

    from rdmatrain.discovery.survey import Survey

MAX_RUN_ID = 200


def join(
    loop: Loop,
    job: Job,
    secret: bytes,
    handler: GangHandler,
    survey: "Survey | None" = None,
    parts: Parts | None = None,
) -> Member:
    """Take part in the gang of a job. Returns at once; the rest comes from the loop.

    Args:
        loop: calls back.
        job: this node's part.
        secret: the job's; empty for a job of one node, or one that is ``insecure``.
        handler: is told what to do.
        survey: what discovery found, for what must be alike on all nodes.
        parts: others than the usual ones.

    Raises:
        SettingError: several nodes have no secret, or TLS has no certificates.

    """
    gang = job.gang
    hello = replace(facts_of(job, survey), incarnation=secrets.token_hex(8))
    seeker: Seeker = NoSeeker()
    if not gang.alone:
        seeker = NetworkSeeker(loop, gang, _network(loop, job, secret, handler.on_note))
    member = Member(loop, job, handler, seeker, parts or _parts(gang))
    member.join(hello)
    return member


def context_of(gang: Gang) -> str:
    """Return what a channel's two ends must have in common: the job's name, and its epoch."""
    name = gang.run_id
    if len(name.encode(errors="replace")) > MAX_RUN_ID:
        name = hashlib.sha256(name.encode(errors="replace")).hexdigest()
    return f"{name or 'without a name'}, epoch {gang.epoch}"


def _network(loop: Loop, job: Job, secret: bytes, note: Note) -> Network:
    if not secret and not job.insecure:
        raise SettingError(
            "a job of several nodes needs a secret: set RDMATRAIN_SECRET_FILE or "
            "RDMATRAIN_SECRET on all of them, or give --insecure"
        )
    key, context = secret or guessable_key(job.gang.run_id), context_of(job.gang)
    of_dialer, of_listener = (_tls(job.tls, note, dialed=dialed) for dialed in (True, False))

    def dial(sock: socket.socket, handler: WireHandler) -> None:
        Channel(loop, sock, key, dialed=True, context=context, handler=handler, tls=of_dialer())

    def listen(sock: socket.socket, handler: WireHandler) -> Callable[[], None]:
        return Listener(
            loop,
            sock,
            key,
            context=context,
            handler_for=lambda _: handler,
            note=note,
            tls=of_listener,
        ).close

    return Network(dial, listen)


def _tls(folder: str, note: Note, *, dialed: bool) -> "Callable[[], ssl.SSLContext | None]":
    """Return what gives each new connection its TLS."""
    if not folder:
        return lambda: None
    from rdmatrain.launcher.tls import TlsFiles  # noqa: PLC0415 - few jobs need ssl

    return TlsFiles(Path(folder), note, dialed=dialed).context


def pair(loop: Loop, leader: WireHandler, member: WireHandler) -> tuple[Wire, Wire]:
    """Return both ends of the channel between a leader and the member of its own process."""
    make = partial(Channel, loop, secret=generate(), context="this node")
    first, second = socket.socketpair()
    return (
        make(sock=first, dialed=False, handler=leader),
        make(sock=second, dialed=True, handler=member),
    )


def _parts(gang: Gang) -> Parts:
    port = gang.port if gang.alone else 0  # else it is the leader's own
    return Parts(lambda loop, note: StoreRoom(loop, port, note), StoreDoor, pair)
