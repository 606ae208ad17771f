"""An independent peer on pyverbs: a rank takes what it does right, and survives the rest."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import wire_peer
from ranks import ipv4_index, listen_arg, resources, wait_for_device
from verbs_offer import CANNOT, JOINED, OFFER_BYTES, SLOTS

from rdmatrain import _core
from rdmatrain.errors import CommError

e = pytest.importorskip(
    "pyverbs.enums", reason="pyverbs is Debian's and loads in its Python's version alone"
)
from pyverbs.device import Context  # noqa: E402
from pyverbs.pd import PD  # noqa: E402
from verbs_peer import (  # noqa: E402
    BYE,
    COLL,
    CREDIT,
    EAGER,
    HDR,
    P2P,
    Peer,
    imm,
)

BOUND_S = 3.0
CONNECT_S = 5.0
LABEL = "rank 1 (the peer)"
U8 = _core.DTYPES.index("uint8")
SEND = _core.COLLS.index("send")
TAG = -77

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def opened(device):
    """The device, opened by pyverbs, and a protection domain."""
    wait_for_device()
    with Context(name=device) as context, PD(context) as pd:
        yield context, pd


class Pair:
    """Rank 0 is ours, rank 1 is the peer."""

    def __init__(self, context, pd, token=None):
        self.token = os.urandom(16) if token is None else token
        self.comm = _core.Comm(0, 2, self.token)
        self.wire = self.comm.listen("verbs", listen_arg())
        index = ipv4_index()
        gid = bytes.fromhex(str(context.query_gid(1, index)).replace(":", ""))
        self.peer = Peer(context, pd, index, gid, self.token, self.wire)
        self.threads = ThreadPoolExecutor()

    def connect(self):
        """In a thread, as the peer has to do its part."""
        no_arena = self.wire[:-1] + bytes(1)  # the last byte of an address
        peers = [("verbs", self.wire, "ours"), ("verbs", no_arena, "the peer")]
        return self.threads.submit(self.comm.connect, peers, CONNECT_S)

    def join(self):
        connecting = self.connect()
        self.peer.join()
        connecting.result(CONNECT_S)

    def recv(self, num):
        self.buffer = bytearray(num)
        return self.comm.post("recv", "uint8", out=self.buffer, peer=1, tag=TAG, timeout=20)

    def close(self):
        self.comm.close()
        self.peer.close()
        self.threads.shutdown()


@pytest.fixture
def pair(opened):
    before = resources()
    made = Pair(*opened)
    yield made
    made.close()
    assert resources() == before


@pytest.fixture
def joined(pair):
    pair.join()
    return pair


@pytest.fixture(scope="module")
def bystanders(device):
    """Two other ranks in this process, on the same device; all_reduce() shows that they work."""
    secret = os.urandom(16)
    comms = [_core.Comm(rank, 2, secret) for rank in range(2)]
    wires = [comm.listen("verbs", listen_arg()) for comm in comms]
    peers = [("verbs", wire, f"bystander {rank}") for rank, wire in enumerate(wires)]
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda comm: comm.connect(peers, CONNECT_S), comms))

    def all_reduce():
        buffers = [bytearray([rank + 1, 7 * rank, 50]) for rank in range(2)]
        works = [
            comm.post("all_reduce", "uint8", out=buffer, timeout=10)
            for comm, buffer in zip(comms, buffers, strict=True)
        ]
        for work in works:
            work.wait()
        assert buffers == [bytearray([3, 7, 100])] * 2

    yield all_reduce
    for comm in comms:
        comm.close()


def eager(data, **changes):
    """The header of a send of bytes that come along."""
    fields = {"kind": EAGER, "coll": SEND, "dtype": U8, "op": 0, "peer": 0, "tag": TAG, "index": 0}
    fields |= {"seq": 1, "count": len(data), "id": 0, "out_at": 0, "factor": 0}
    fields |= changes
    return HDR.pack(*fields.values(), bytes(16))


def expect_error(work, status, text, started):
    with pytest.raises(CommError) as caught:
        work.wait(10)
    assert time.monotonic() - started < BOUND_S
    assert caught.value.status == status, caught.value
    assert LABEL in str(caught.value)
    assert "rxe0/1: " in str(caught.value)
    assert text in str(caught.value)


# -- what is right --


def test_a_message_that_it_writes_is_received(joined):
    for number in range(3 * SLOTS):  # slots and credits go round
        data = bytes((number * 31 + i * 7) % 256 for i in range(1000))
        work = joined.recv(len(data))
        assert joined.peer.send(P2P, number, eager(data, seq=number + 1), data) == e.IBV_WC_SUCCESS
        work.wait(10)
        assert joined.buffer == data


def test_a_message_is_found_where_the_description_says(joined):
    for number in range(SLOTS):
        data = bytes((number * 13 + i * 5) % 256 for i in range(777))
        joined.comm.post("send", "uint8", in_=data, peer=1, tag=TAG, timeout=10).wait()
        hdr, got, said = joined.peer.receive(P2P, number)
        assert got == data
        assert hdr[0] == EAGER
        assert hdr[5] == TAG
        assert hdr[8] == len(data)
        assert said == imm(P2P, number)


def test_its_farewell_is_understood(joined):
    work = joined.recv(10)
    assert joined.peer.send(P2P, 0, eager(b"", kind=BYE, seq=0), b"") == e.IBV_WC_SUCCESS
    joined.peer.sock.close()
    with pytest.raises(CommError, match=r"rank 1 \(the peer\) has left the group"):
        work.wait(10)


# -- where it may not write, and what it may not do --


def outside(pair):
    """The first byte behind what rank 0 has registered for its connection: in and out."""
    return pair.peer.inbox + 2 * pair.peer.inbox_bytes


REFUSED = {
    "bad rkey": lambda pair: pair.peer.request(
        e.IBV_WR_RDMA_WRITE, b"x" * 8, pair.peer.inbox, rkey=pair.peer.rkey ^ 0x5A00
    ),
    "out of bounds": lambda pair: pair.peer.request(
        e.IBV_WR_RDMA_WRITE, b"x" * 8, outside(pair) - 4
    ),
    "before the start": lambda pair: pair.peer.request(
        e.IBV_WR_RDMA_WRITE, b"x" * 8, pair.peer.inbox - 4
    ),
    "read": lambda pair: pair.peer.request(e.IBV_WR_RDMA_READ, b"x" * 8, pair.peer.inbox),
    "atomic": lambda pair: atomic(pair),
}


def atomic(pair):
    wr = pair.peer.request(e.IBV_WR_ATOMIC_FETCH_AND_ADD, b"x" * 8, pair.peer.inbox)
    wr.set_wr_atomic(pair.peer.rkey, pair.peer.inbox, 1, 0)
    return wr


@pytest.mark.parametrize("attack", REFUSED.values(), ids=REFUSED)
def test_memory_is_protected(joined, bystanders, attack):
    work = joined.recv(10)
    started = time.monotonic()
    status = joined.peer.post(attack(joined)).status
    assert status in (e.IBV_WC_REM_ACCESS_ERR, e.IBV_WC_REM_INV_REQ_ERR)
    with pytest.raises(CommError) as caught:
        work.wait(10)
    assert time.monotonic() - started < BOUND_S
    assert LABEL in str(caught.value)
    bystanders()


# -- what breaks the protocol --

IMMEDIATES = {
    "credit for coll": (imm(CREDIT, 0, coll=1), "it says to have consumed more than was sent"),
    "credit for p2p": (imm(CREDIT, 0, p2p=2047), "it says to have consumed more than was sent"),
    "slot ahead of its turn, twice": (imm(P2P, 3), "it wrote to a slot that is not free"),
    "no slot": (imm(COLL, SLOTS), "it wrote to a slot that is not free"),
    "the last slot number": (imm(COLL, 63), "it wrote to a slot that is not free"),
    "no lane": (imm(3, 0), "it wrote to a slot that is not free"),
}


@pytest.mark.parametrize(("number", "text"), IMMEDIATES.values(), ids=IMMEDIATES)
def test_an_immediate_number_that_cannot_be(joined, bystanders, number, text):
    work = joined.recv(10)
    started = time.monotonic()
    for _ in range(2):
        joined.peer.say(number)
    expect_error(work, "PROTOCOL", text, started)
    bystanders()


MESSAGES = {
    "longer than a chunk": (lambda pair: pair.peer.chunk + 1, 0),
    "no kind": (lambda _: 10, 9),
    "keys that are none": (lambda _: 10, 2),
}


@pytest.mark.parametrize(("length", "kind"), MESSAGES.values(), ids=MESSAGES)
def test_a_message_that_is_not_understood(joined, length, kind):
    work = joined.recv(10)
    started = time.monotonic()
    joined.peer.send(P2P, 0, eager(bytes(10)), bytes(10), said=(length(joined), kind))
    expect_error(work, "PROTOCOL", "its message is not understood", started)


def test_its_queue_pair_breaks(joined):
    """Nothing tells rank 0 but its own NIC: the socket of the handshake stays open."""
    work = joined.recv(10)
    started = time.monotonic()
    joined.peer.break_qp()
    expect_error(work, "PEER_LOST", "transport retry counter exceeded", started)


# -- offers and verdicts --


def offer_and(text_of, verdict=b""):
    def act(peer):
        peer.sock.sendall(text_of(peer) + verdict)

    return act


def close_after(text_of):
    def act(peer):
        peer.sock.sendall(text_of(peer))
        peer.sock.close()

    return act


UNKNOWN = "what it offers is not understood by this version"
OFFERS = {
    "zeros": (offer_and(lambda _: bytes(OFFER_BYTES)), "PROTOCOL", UNKNOWN),
    "ones": (offer_and(lambda _: b"\xff" * OFFER_BYTES), "PROTOCOL", UNKNOWN),
    "no rails": (offer_and(lambda p: p.offer(num_rails=0)), "PROTOCOL", UNKNOWN),
    "too many rails": (offer_and(lambda p: p.offer(num_rails=5)), "PROTOCOL", UNKNOWN),
    "rails of zeros": (offer_and(lambda p: p.offer(num_rails=2)), "PROTOCOL", UNKNOWN),
    "other slots": (offer_and(lambda p: p.offer(slots=1 << 31)), "PROTOCOL", UNKNOWN),
    "wide QPN": (offer_and(lambda p: p.offer(qpn=1 << 24)), "PROTOCOL", UNKNOWN),
    "no GIDs": (offer_and(lambda p: p.offer(num_gids=0)), "PROTOCOL", UNKNOWN),
    "too many GIDs": (offer_and(lambda p: p.offer(num_gids=9)), "PROTOCOL", UNKNOWN),
    "no such MTU": (offer_and(lambda p: p.offer(mtu=6)), "PROTOCOL", UNKNOWN),
    "InfiniBand": (
        offer_and(lambda p: p.offer(link_layer=e.IBV_LINK_LAYER_INFINIBAND)),
        "PEER_REFUSED",
        "RoCE on one side and InfiniBand on the other",
    ),
    "truncated": (close_after(lambda p: p.offer()[:-1]), "PEER_LOST", ""),
    "nothing": (close_after(lambda _: b""), "PEER_LOST", ""),
    "silence": (lambda _: None, "CONNECT_TIMEOUT", ""),
    "a half, then silence": (offer_and(lambda p: p.offer()[:70]), "CONNECT_TIMEOUT", ""),
    "oversized": (
        offer_and(lambda p: p.offer(), b"\x90" * 4096),
        "PROTOCOL",
        "its verdict is not understood by this version",
    ),
    "verdict 0": (offer_and(lambda p: p.offer(), b"\0"), "PROTOCOL", "its verdict is not"),
    "refused": (
        offer_and(lambda p: p.offer(), bytes([CANNOT])),
        "PEER_REFUSED",
        "it cannot move a queue pair to this rank's",
    ),
    "no verdict": (close_after(lambda p: p.offer()), "PEER_LOST", ""),
}


@pytest.mark.parametrize(("act", "status", "text"), OFFERS.values(), ids=OFFERS)
def test_an_offer_or_verdict_that_cannot_be(pair, bystanders, act, status, text):
    started = time.monotonic()
    connecting = pair.connect()
    pair.peer.dial()
    pair.peer.allocate()
    act(pair.peer)
    with pytest.raises(CommError) as caught:
        connecting.result(3 * CONNECT_S)
    assert time.monotonic() - started < CONNECT_S + 2
    assert caught.value.status == status, caught.value
    assert "joining rank 1: " in str(caught.value)
    assert text in str(caught.value)
    bystanders()


def test_an_offer_that_is_replayed_leads_to_nobody(opened, pair, bystanders):
    """Its queue pair is gone: the handshake may be genuine, the rest shows at the first probe."""
    first = Pair(*opened)
    first.join()
    recorded = first.peer.offer()
    first.close()
    connecting = pair.connect()
    pair.peer.dial()
    pair.peer.allocate()
    pair.peer.sock.sendall(recorded + bytes([JOINED]))
    connecting.result(CONNECT_S)
    started = time.monotonic()
    expect_error(pair.recv(10), "PEER_LOST", "transport retry counter exceeded", started)
    bystanders()


def test_a_recorded_call_is_not_let_in_again(opened, pair, bystanders):
    """Its code answers another nonce: who replays it is told nothing, and waited past."""
    first = Pair(*opened, token=pair.token)
    first.join()
    first.close()
    connecting = pair.connect()
    with wire_peer.dial(pair.wire) as sock:
        sock.sendall(first.peer.said)
        wire_peer.hear(sock, wire_peer.ANSWER_BYTES)
        assert wire_peer.is_over(sock)
    pair.peer.join()
    connecting.result(CONNECT_S)
    bystanders()
