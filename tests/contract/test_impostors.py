"""What answers at a peer's address is not that peer."""

import threading

import pytest
import wire_peer
from group import run_threads
from wire_peer import CALLED, HELLO, MAC_BYTES, Claim

from rdmatrain import _core
from rdmatrain.errors import CommError

TOKEN = b"a token of group"


def answer_with(claim, version=wire_peer.VERSION, code=None):
    """Who answers like this claim; what it hears after that must be nothing, or only a code."""

    def answer(sock):
        dialler = wire_peer.hear(sock, HELLO.size)
        claim.version = version
        proof = claim.code(CALLED, dialler, claim.hello()) if code is None else code
        sock.sendall(claim.hello() + proof)
        return wire_peer.hear(sock, MAC_BYTES)

    return answer


def mirror(sock):
    hello = wire_peer.hear(sock, HELLO.size)
    sock.sendall(hello + bytes(MAC_BYTES))
    return wire_peer.hear(sock, MAC_BYTES)


def say_junk(sock):
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    wire_peer.hear(sock, HELLO.size)
    return wire_peer.hear(sock, MAC_BYTES)


ANSWERS = {
    "junk": (say_junk, "is no rank of a group"),
    "mirror": (mirror, "belongs to another group"),
    "other token": (answer_with(Claim(0, 2, b"and another one!", 0)), "belongs to another group"),
    "no code": (answer_with(Claim(0, 2, TOKEN, 0), code=bytes(16)), "belongs to another group"),
    "version": (answer_with(Claim(0, 2, TOKEN, 0), version=9), "speaks version 9"),
}


@pytest.fixture
def dial_impostor():
    """Lets rank 1 dial what answers so; gives its error and what the impostor heard."""

    def run(answer, timeout=5.0):
        server, wire = wire_peer.listen()
        comm = _core.Comm(1, 2, TOKEN)
        mine = comm.listen("tcp", "127.0.0.1")

        def serve():
            sock, _ = server.accept()
            sock.settimeout(wire_peer.PATIENCE_S)
            with sock:
                return answer(sock)

        peers = [("tcp", wire, "rank 0"), ("tcp", mine, "rank 1")]
        outcomes = run_threads([lambda: comm.connect(peers, timeout), serve])
        server.close()
        comm.close()
        return outcomes

    return run


@pytest.mark.parametrize(("answer", "text"), ANSWERS.values(), ids=ANSWERS)
def test_an_impostor_is_named_and_told_nothing(dial_impostor, answer, text):
    dialler, impostor = dial_impostor(answer)
    assert isinstance(dialler.error, CommError)
    assert dialler.error.status == "PEER_REFUSED"
    assert "connecting to rank 0" in str(dialler.error)
    assert text in str(dialler.error)
    assert dialler.seconds < 2
    assert impostor.value == b""


def test_another_rank_at_the_address_is_named(dial_impostor):
    dialler, _ = dial_impostor(answer_with(Claim(5, 2, TOKEN, 0)))
    assert "what answers there is rank 5" in str(dialler.error)


def test_a_silent_peer_is_given_up_at_the_deadline(dial_impostor):
    dialler, _ = dial_impostor(lambda sock: wire_peer.hear(sock, 1000), timeout=0.5)
    assert dialler.error.status == "CONNECT_TIMEOUT"
    assert 0.4 < dialler.seconds < 2


def test_who_never_welcomes_is_given_up_after_a_few_calls():
    server, wire = wire_peer.listen()
    comm = _core.Comm(1, 2, TOKEN)
    mine = comm.listen("tcp", "127.0.0.1")
    stop = threading.Event()

    def serve():
        calls = 0
        server.settimeout(0.2)
        while not stop.is_set():
            try:
                server.accept()[0].close()
                calls += 1
            except TimeoutError:
                continue
        return calls

    def connect():
        try:
            comm.connect([("tcp", wire, "rank 0"), ("tcp", mine, "rank 1")], 10.0)
        finally:
            stop.set()

    dialler, impostor = run_threads([connect, serve])
    assert dialler.error.status == "PEER_LOST"
    assert dialler.seconds < 3
    assert 2 <= impostor.value <= 10
    server.close()
    comm.close()
