"""A rank of verbs that proves itself, and then does not agree as it should."""

import contextlib
import os
import threading

import numpy as np
import pytest
import wire_peer
from group import LISTENS, call, on_fake, run_threads
from verbs_offer import (
    CANNOT,
    INFINIBAND,
    JOINED,
    MAX_GIDS,
    OFFER,
    OFFER_BYTES,
    RAIL,
    pack_offer,
)
from wire_peer import ANSWER_BYTES, DIALLED, HELLO, MAC_BYTES, WELCOME, Claim

from rdmatrain import _core
from rdmatrain.errors import CommError, CommTimeoutError

SOON_S = 3.0
SHORT_S = 0.6
((_, LISTEN),) = LISTENS["verbs-fake"]
UNKNOWN = "not understood by this version"


# name: (fields of rank 1's offer, bytes of it that are said, the verdict), status, part of the text
MISTAKES = {
    "no rails": (({"num_rails": 0}, OFFER_BYTES, b""), "PROTOCOL", UNKNOWN),
    "other slots": (({"slots": 9}, OFFER_BYTES, b""), "PROTOCOL", UNKNOWN),
    "no GIDs": (({"num_gids": 0}, OFFER_BYTES, b""), "PROTOCOL", UNKNOWN),
    "too many GIDs": (({"num_gids": MAX_GIDS + 1}, OFFER_BYTES, b""), "PROTOCOL", UNKNOWN),
    "InfiniBand": (
        ({"link_layer": INFINIBAND}, OFFER_BYTES, b""),
        "PEER_REFUSED",
        "RoCE on one side and InfiniBand on the other",
    ),
    "wrong verdict": (({}, OFFER_BYTES, b"\x09"), "PROTOCOL", "its verdict is not understood"),
    "a rail too many": (({}, OFFER_BYTES, b"\xa3"), "PROTOCOL", "its verdict is not understood"),
    "cannot join": (({}, OFFER_BYTES, bytes([CANNOT])), "PEER_REFUSED", "its own error says why"),
    "leaves in an offer": (({}, 50, None), "PEER_LOST", "closed the connection"),
    "leaves without a verdict": (
        ({}, OFFER_BYTES, None),
        "PEER_LOST",
        "",
    ),  # at its end, or a reset
}


class Stranger:
    """Rank 1 as a socket; rank 0 is real, and listens."""

    def __init__(self, lazy, timeout=None, listen=LISTEN):
        self.token = os.urandom(16)
        self.comm = _core.Comm(0, 2, self.token, lazy=lazy, timeout=timeout)
        self.lazy = lazy
        self.wire = self.comm.listen("verbs", listen)
        # Nobody answers there: it is the stranger who dials, however soon rank 0 would.
        self.listener, at = wire_peer.listen()
        self.peers = [("verbs", self.wire, "ours"), ("verbs", at + bytes(1), "host h")]
        self.ended = threading.Event()

    def close(self):
        self.comm.close()
        self.listener.close()

    def run(self, timeout):
        """Rank 0's part: an all_reduce."""
        try:
            self.comm.connect(self.peers, 5.0 if self.lazy else timeout)
            call(self.comm, "all_reduce", out=np.zeros(8, np.uint8), timeout=timeout)
        finally:
            self.ended.set()

    def prove(self):
        """The handshake: whoever does not know the token yet learns the rest from an answer."""
        with wire_peer.dial(self.wire) as sock:
            sock.sendall(Claim(1, 2, bytes(16), 0).hello())
            told = HELLO.unpack(wire_peer.hear(sock, ANSWER_BYTES)[: HELLO.size])
        claim = Claim(1, 2, self.token, told[4], told[5])
        sock = wire_peer.dial(self.wire)
        sock.sendall(claim.hello())
        answer = wire_peer.hear(sock, ANSWER_BYTES)[: HELLO.size]
        sock.sendall(claim.code(DIALLED, claim.hello(), answer))
        assert wire_peer.hear(sock, MAC_BYTES) == claim.code(WELCOME, claim.hello(), answer)
        return sock

    def meet(self, **changes):
        """The socket, and an offer with these fields of rank 0's own GID and queue pair."""
        sock = self.prove()
        gids, qpn = self.hear_offer(sock)
        return sock, pack_offer(gids, 4096, **({"qpn": qpn} | changes))

    def hear_offer(self, sock):
        """The GIDs and the queue pair of rank 0."""
        gids, num_gids, qpn, *_ = RAIL.unpack_from(wire_peer.hear(sock, OFFER_BYTES), OFFER.size)
        return gids[: 16 * num_gids], qpn


@pytest.fixture(params=[False, True], ids=["at once", "when needed"])
def stranger(request):
    made = Stranger(request.param)
    yield made
    made.close()


def outcome_of(stranger, part, timeout=10.0):
    """How rank 0 ends beside that part of rank 1's."""
    ours, theirs = run_threads([lambda: stranger.run(timeout), part])
    assert theirs.error is None, theirs.error
    assert isinstance(ours.error, CommError), ours.error
    return ours


@pytest.mark.parametrize("name", MISTAKES)
def test_what_it_does_wrong_is_named_at_once(stranger, name):
    (changes, num_bytes, verdict), status, text = MISTAKES[name]

    def part():
        sock, offer = stranger.meet(**changes)
        with sock:
            sock.sendall(offer[:num_bytes] + (verdict or b""))
            if verdict is not None:
                assert stranger.ended.wait(SOON_S)

    ours = outcome_of(stranger, part)
    assert ours.error.status == status, ours.error
    assert text in str(ours.error)
    assert "rank 1" in str(ours.error)
    assert ours.seconds < SOON_S


@pytest.mark.parametrize("num_bytes", [0, OFFER_BYTES - 1, OFFER_BYTES])
def test_one_who_says_no_more_is_waited_for_no_longer_than_asked(stranger, num_bytes):
    def part():
        sock, offer = stranger.meet()
        with sock:
            sock.sendall(offer[:num_bytes])
            assert stranger.ended.wait(SOON_S)

    ours = outcome_of(stranger, part, SHORT_S)
    assert isinstance(ours.error, CommTimeoutError)
    assert "rank 1" in str(ours.error)
    assert ours.seconds < 2 * SHORT_S


def test_an_offer_may_come_in_pieces(stranger):
    def part():
        sock, offer = stranger.meet()
        with sock:
            for byte in offer:
                sock.sendall(bytes([byte]))
            assert wire_peer.hear(sock, 1) == bytes([JOINED])
            sock.sendall(bytes([CANNOT]))
            assert stranger.ended.wait(SOON_S)

    assert "its own error says why" in str(outcome_of(stranger, part).error)


def test_one_who_always_refuses_is_asked_of_each_pair_once(stranger):
    rounds = []

    def part():
        sock = stranger.prove()
        sock.settimeout(SHORT_S)
        with sock, contextlib.suppress(TimeoutError):  # rank 0 says no more
            gid, qpn = stranger.hear_offer(sock)
            sock.sendall(pack_offer(gid * MAX_GIDS, 4096, qpn=qpn) + bytes([CANNOT]) * 100)
            while verdict := wire_peer.hear(sock, 1):
                rounds.append(verdict)

    ours = outcome_of(stranger, part)
    assert ours.error.status == "PEER_REFUSED", ours.error
    assert "its own error says why" in str(ours.error)
    assert ours.seconds < SOON_S
    assert rounds == [bytes([JOINED])] * MAX_GIDS


def test_one_who_takes_back_that_a_rail_has_joined_breaks_the_protocol():
    stranger = Stranger(lazy=False, listen=on_fake("fake0/1/1+fake1/1/1,3"))

    def part():
        with stranger.prove() as sock:
            sock.sendall(wire_peer.hear(sock, OFFER_BYTES))  # rank 0's own will do
            assert wire_peer.hear(sock, 1) == b"\xa3"
            sock.sendall(b"\xa1")  # the first rail has joined, the second goes on
            assert wire_peer.hear(sock, 1) == b"\xa3"
            sock.sendall(b"\xa2")
            assert stranger.ended.wait(SOON_S)

    ours = outcome_of(stranger, part)
    stranger.close()
    assert ours.error.status == "PROTOCOL", ours.error
    assert "its verdict is not understood" in str(ours.error)


def test_who_is_needed_joins_in_the_timeout_of_the_group():
    """The call itself has none."""
    stranger = Stranger(lazy=True, timeout=SHORT_S)

    def part():
        sock, _ = stranger.meet()
        with sock:
            assert stranger.ended.wait(SOON_S)

    stranger.comm.connect(stranger.peers, 5.0)

    def needs():
        try:
            call(stranger.comm, "all_reduce", out=np.zeros(8, np.uint8), timeout=None)
        finally:
            stranger.ended.set()

    ours, theirs = run_threads([needs, part])
    assert theirs.error is None, theirs.error
    assert isinstance(ours.error, CommTimeoutError), ours.error
    assert "no answer before the deadline" in str(ours.error)
    assert SHORT_S / 2 < ours.seconds < 2 * SHORT_S
    stranger.close()
