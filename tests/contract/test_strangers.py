"""Who is let in: attacks on the handshake by callers, through raw sockets."""

import contextlib
import os
import socket
import struct
import threading
import time

import numpy as np
import pytest
import wire_peer
from group import CONNECT_S, LISTENS, call, run_threads
from oracle import assert_same_bits, inputs, reduced, values
from wire_peer import ANSWER_BYTES, CALLED, DIALLED, HELLO, MAC_BYTES, WELCOME, Claim

from rdmatrain import _core
from rdmatrain.errors import CommError

TOKEN = b"a token of group"
NUM_SLOW = 20
AT_ONCE_S = 1.5  # less than one silent caller may take: they are not served one after the other


class Victims:
    """Ranks 0 and 1 of three listen; rank 2 is late, so that strangers are ahead of it."""

    world = 3

    def __init__(self, transport):
        (self.listen,) = LISTENS[transport]
        self.comms = [_core.Comm(rank, self.world, TOKEN) for rank in range(self.world)]
        self.wires = [comm.listen(*self.listen) for comm in self.comms]

    def connect(self, rank, timeout=CONNECT_S):
        peers = [(self.listen[0], wire, f"thread {other}") for other, wire in enumerate(self.wires)]
        self.comms[rank].connect(peers, timeout)

    def reduce(self, rank):
        data = values("float32", rank, 1000).copy()
        call(self.comms[rank], "all_reduce", "float32", out=data)
        want = reduced("float32", "SUM", inputs("float32", self.world, 1000))
        assert_same_bits(data, want, f"rank {rank}")

    def close(self):
        for comm in self.comms:
            comm.close()


@pytest.fixture
def victims(real_transport):
    made = Victims(real_transport)
    yield made
    made.close()


def claim_of(victims, rank, **changes):
    """What a real rank would say; the digest of the tuning is learnt from an answer."""
    with wire_peer.dial(victims.wires[0]) as sock:
        sock.sendall(Claim(rank, 3, bytes(16), 0).hello())
        hello = HELLO.unpack(wire_peer.hear(sock, ANSWER_BYTES)[: HELLO.size])
    settings = {"rank": rank, "world": 3, "token": TOKEN, "chunk": hello[4], "tuning": hello[5]}
    return Claim(**(settings | changes))


def prove(sock, claim, role=DIALLED):
    """Says hello, takes the answer and sends the code; gives the answer, and what was sent."""
    sock.sendall(claim.hello())
    answer = wire_peer.hear(sock, ANSWER_BYTES)
    code = claim.code(role, claim.hello(), answer[: HELLO.size])
    sock.sendall(code)
    return answer, claim.hello() + code


def form_around(victims, attack):
    """Ranks 0 and 1 connect, the attack runs, rank 2 comes, all reduce; what the attack gave."""
    done = threading.Event()

    def late():
        assert done.wait(CONNECT_S)
        began = time.monotonic()
        victims.connect(2)
        assert time.monotonic() - began < AT_ONCE_S
        victims.reduce(2)

    def attacker():
        try:
            return attack()
        finally:
            done.set()

    def early(rank):
        victims.connect(rank)
        victims.reduce(rank)

    outcomes = run_threads([lambda: early(0), lambda: early(1), late, attacker])
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    return outcomes[3].value


def test_a_peer_written_from_the_description_is_let_in(victims):
    def attack():
        with wire_peer.dial(victims.wires[0]) as sock:
            claim = claim_of(victims, 1)
            answer, _ = prove(sock, claim)
            hello = answer[: HELLO.size]
            assert answer[HELLO.size :] == claim.code(CALLED, claim.hello(), hello)
            return wire_peer.hear(sock, MAC_BYTES) == claim.code(WELCOME, claim.hello(), hello)

    outcomes = run_threads([lambda: victims.connect(0, 2.0), attack])
    assert outcomes[1].value is True
    assert "rank 2" in str(outcomes[0].error) or "rank 1 passed" in str(outcomes[0].error)


def test_many_who_say_nothing_or_little_hold_up_nobody(victims):
    socks = [wire_peer.dial(victims.wires[rank]) for rank in (0, 1) for _ in range(NUM_SLOW)]

    def attack():
        hello = claim_of(victims, 2).hello()
        for byte in hello[:10]:
            for sock in socks[::2]:
                sock.sendall(bytes([byte]))
            time.sleep(0.02)

    form_around(victims, attack)
    for sock in socks:
        sock.close()


def test_more_callers_than_there_is_room_for_are_waited_past(real_transport):
    victims = Victims(real_transport)
    socks = [wire_peer.dial(victims.wires[0]) for _ in range(200)]
    form_around(victims, lambda: None)
    for sock in socks:
        sock.close()
    victims.close()


JUNK = {
    "byte": b"x",
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "random": os.urandom(64),
    "long": b"\0" * 100_000,
    "magic": struct.pack("<Q", wire_peer.MAGIC) * 100,
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_junk_is_dropped_at_once_and_unanswered(victims, junk):
    def attack():
        with wire_peer.dial(victims.wires[0]) as sock:
            with contextlib.suppress(ConnectionError):  # dropped before all of it was sent
                sock.sendall(junk)
            began = time.monotonic()
            text = wire_peer.hear(sock, ANSWER_BYTES)
            assert time.monotonic() - began < 1.0
            return text[HELLO.size :]

    assert form_around(victims, attack) == b""


def test_a_caller_without_the_token_is_dropped(victims):
    def attack():
        with wire_peer.dial(victims.wires[0]) as sock:
            prove(sock, claim_of(victims, 2, token=b"and another one!"))
            return wire_peer.is_over(sock)

    assert form_around(victims, attack)


@pytest.mark.parametrize("role", [0, CALLED, WELCOME])
def test_a_code_for_another_role_is_none(victims, role):
    def attack():
        with wire_peer.dial(victims.wires[0]) as sock:
            prove(sock, claim_of(victims, 2), role)
            return wire_peer.is_over(sock)

    assert form_around(victims, attack)


def test_a_code_sent_back_is_none(victims):
    def attack():
        with wire_peer.dial(victims.wires[0]) as sock:
            sock.sendall(claim_of(victims, 2).hello())
            sock.sendall(wire_peer.hear(sock, ANSWER_BYTES)[HELLO.size :])
            return wire_peer.is_over(sock)

    assert form_around(victims, attack)


def test_what_a_rank_said_before_is_worth_nothing_again(victims):
    """The genuine proof of a rank that is turned away for its number alone is replayed."""

    def attack():
        with wire_peer.dial(victims.wires[0]) as sock:
            first, said = prove(sock, claim_of(victims, 7))
            assert wire_peer.is_over(sock)
        with wire_peer.dial(victims.wires[0]) as sock:
            sock.sendall(said)
            again = wire_peer.hear(sock, ANSWER_BYTES)
            assert again[HELLO.size :] != first[HELLO.size :]
            return wire_peer.is_over(sock)

    assert form_around(victims, attack)


@pytest.mark.parametrize("rank", [0, 3, 2**32 - 1])
def test_a_rank_that_nobody_waits_for_is_turned_away(victims, rank):
    def attack():
        with wire_peer.dial(victims.wires[0]) as sock:
            prove(sock, claim_of(victims, rank))
            return wire_peer.is_over(sock)

    assert form_around(victims, attack)


@pytest.mark.parametrize("num", [1, 20, HELLO.size - 1, HELLO.size, HELLO.size + 5])
def test_a_caller_who_stops_in_the_middle_is_dropped(victims, num):
    def attack():
        with wire_peer.dial(victims.wires[0]) as sock:
            sock.sendall((claim_of(victims, 2).hello() + bytes(100))[:num])
            sock.shutdown(socket.SHUT_WR)
            wire_peer.hear(sock, ANSWER_BYTES if num >= HELLO.size else 0)
            return wire_peer.is_over(sock)

    assert form_around(victims, attack)


def test_another_version_is_told_this_one_and_named_when_time_is_up(victims):
    def attack():
        with wire_peer.dial(victims.wires[0]) as sock:
            sock.sendall(Claim(2, 3, TOKEN, 0, version=9).hello()[:12])
            hello = wire_peer.hear(sock, HELLO.size)
            assert wire_peer.is_over(sock)
            return struct.unpack_from("<QI", hello)

    outcomes = run_threads([lambda: victims.connect(0, 1.0), attack])
    assert outcomes[1].value == (wire_peer.MAGIC, wire_peer.VERSION)
    assert outcomes[0].error.status == "CONNECT_TIMEOUT"
    assert "version 9" in str(outcomes[0].error)
    assert "install the same rdmatrain" in str(outcomes[0].error)


def test_descriptors_of_strangers_are_closed_and_none_are_given():
    victims = Victims("shm")
    reader, writer = os.pipe()

    def attack():
        with wire_peer.dial(victims.wires[0]) as sock:
            claim = claim_of(victims, 2, token=b"and another one!")
            socket.send_fds(sock, [claim.hello()], [writer, writer])
            answer, given = wire_peer.hear_fds(sock, 4096)
            assert (len(answer), given) == (ANSWER_BYTES, [])
            code = claim.code(DIALLED, claim.hello(), answer[: HELLO.size])
            socket.send_fds(sock, [code], [writer, writer])
            assert wire_peer.hear_fds(sock, 4096) == (b"", [])
        os.close(writer)
        return os.read(reader, 1)  # the end, once nobody holds the other side

    assert form_around(victims, attack) == b""
    os.close(reader)
    victims.close()


def test_a_rank_that_fails_while_others_call_lets_them_know(real_transport):
    """Rank 0 finds that rank 1 was set up otherwise; rank 2, which only calls it, need not wait."""
    (listen,) = LISTENS[real_transport]
    chunks = [{}, {"chunk": 4096}, {}]
    comms = [_core.Comm(rank, 3, TOKEN, tuning=chunk) for rank, chunk in enumerate(chunks)]
    wires = [comm.listen(*listen) for comm in comms]
    peers = [(listen[0], wire, "") for wire in wires]

    def body(rank):
        time.sleep(0.5 if rank == 2 else 0)
        comms[rank].connect(peers, 20.0)

    outcomes = run_threads([lambda r=r: body(r) for r in range(3)])
    for outcome in outcomes:
        assert isinstance(outcome.error, CommError)
        assert outcome.seconds < 5
    for comm in comms:
        comm.close()


def test_thirty_two_ranks_connect_and_reduce(connect, real_transport):
    group = connect(real_transport, 32, chunk_bytes=1024)

    def body(comm, rank):
        data = np.full(100, 1.0 + rank, np.float32)
        call(comm, "all_reduce", "float32", out=data)
        return data

    for data in group.run(body):
        assert np.all(data == 32 * 33 / 2)
