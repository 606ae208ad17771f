"""A rank of the verbs transport written from its description, csrc/transport/verbs.h, on pyverbs.

Imported only where pyverbs loads. It plays rank 1 of two, and is free to misbehave.
"""

import socket
import struct
import time

import pyverbs.enums as e
import wire_peer
from pyverbs.addr import GID, AHAttr, GlobalRoute
from pyverbs.cq import CQ
from pyverbs.mr import MR
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, RecvWR, SendWR
from verbs_offer import JOINED, OFFER, OFFER_BYTES, RAIL, SLOTS, pack_offer
from wire_peer import ANSWER_BYTES, DIALLED, HELLO, MAC_BYTES, WELCOME, Claim

HDR = struct.Struct("=BBBBIiIQQQQQ16s")
HEAD = struct.Struct(f"={HDR.size}sIHH")
DATA_OFFSET = 128
COLL, P2P, CREDIT = 0, 1, 2  # lanes, and what an immediate number says
KIND_DATA = 0
EAGER, BYE = 3, 7  # of coll/comm.h
PORT = 1
RECV_DEPTH = 40
WAIT_S = 10.0


def imm(what, slot, coll=0, p2p=0):
    """consumed messages of each lane, modulo 4096"""
    return what << 30 | slot << 24 | (coll & 0xFFF) << 12 | p2p & 0xFFF


def text_of(gid):
    return ":".join(gid[i : i + 2].hex() for i in range(0, 16, 2))


class Peer:
    """Rank 1, from its call to rank 0 to the end of its queue pair."""

    def __init__(self, context, pd, gid_index, gid, token, wire):
        self.context, self.pd = context, pd
        self.gid_index, self.gid, self.token, self.wire = gid_index, gid, token, wire
        self.psn = 7
        self.sock = None
        self.cq = CQ(context, 200)
        cap = QPCap(max_send_wr=32, max_recv_wr=RECV_DEPTH, max_send_sge=1, max_recv_sge=1)
        self.qp = QP(pd, QPInitAttr(qp_type=e.IBV_QPT_RC, scq=self.cq, rcq=self.cq, cap=cap))

    # -- the handshake --

    def dial(self):
        """All of the handshake; what is said on the socket next is the transport's."""
        with wire_peer.dial(self.wire) as sock:
            sock.sendall(Claim(1, 2, bytes(16), 0).hello())
            told = HELLO.unpack(wire_peer.hear(sock, ANSWER_BYTES)[: HELLO.size])
        self.chunk = told[4]
        claim = Claim(1, 2, self.token, self.chunk, told[5])
        self.sock = wire_peer.dial(self.wire)
        self.sock.sendall(claim.hello())
        answer = wire_peer.hear(self.sock, ANSWER_BYTES)[: HELLO.size]
        code = claim.code(DIALLED, claim.hello(), answer)
        self.said = claim.hello() + code
        self.sock.sendall(code)
        welcome = wire_peer.hear(self.sock, MAC_BYTES)
        assert welcome == claim.code(WELCOME, claim.hello(), answer)

    def allocate(self):
        """The inbox, and room for a message to be sent behind it."""
        self.slot_bytes = -(-(DATA_OFFSET + self.chunk) // 64) * 64
        self.inbox_bytes = 2 * SLOTS * self.slot_bytes
        access = e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE
        self.mr = MR(self.pd, self.inbox_bytes + self.slot_bytes, access)

    def offer(self, **changes):
        mine = {"qpn": self.qp.qp_num, "psn": self.psn, "rkey": self.mr.rkey, "inbox": self.mr.buf}
        return pack_offer(self.gid, **(mine | changes))

    def hear_offer(self):
        text = wire_peer.hear(self.sock, OFFER_BYTES)
        _, slots, self.inbox = OFFER.unpack_from(text)
        assert slots == SLOTS
        gids, num, self.qpn, self.their_psn, self.rkey, _, mtu, _ = RAIL.unpack_from(
            text, OFFER.size
        )
        assert num == 1
        self.their_gid = gids[:16]
        self.mtu = min(mtu, e.IBV_MTU_1024)

    def move_qp(self):
        """To RTS, towards what rank 0 has offered."""
        attr = QPAttr(port_num=PORT)
        attr.qp_access_flags = e.IBV_ACCESS_REMOTE_WRITE
        self.qp.to_init(attr)
        here = SGE(self.mr.buf, 1, self.mr.lkey)
        for _ in range(RECV_DEPTH):
            self.qp.post_recv(RecvWR(num_sge=1, sg=[here]))
        route = GlobalRoute(dgid=GID(text_of(self.their_gid)), sgid_index=self.gid_index)
        attr.ah_attr = AHAttr(port_num=PORT, is_global=1, gr=route, dlid=0)
        attr.path_mtu, attr.dest_qp_num, attr.rq_psn = self.mtu, self.qpn, self.their_psn
        attr.max_dest_rd_atomic = attr.max_rd_atomic = 1
        attr.min_rnr_timer, attr.timeout, attr.retry_cnt, attr.rnr_retry = 12, 14, 7, 7
        attr.sq_psn = self.psn
        self.qp.to_rts(attr)

    def join(self):
        self.dial()
        self.allocate()
        self.sock.sendall(self.offer())
        self.hear_offer()
        self.move_qp()
        self.sock.sendall(bytes([JOINED]))
        assert wire_peer.hear(self.sock, 1) == bytes([JOINED])

    # -- messages --

    def slot(self, lane, number):
        """Where the message of that number lies, from the start of an inbox."""
        return (lane * SLOTS + number % SLOTS) * self.slot_bytes

    def post(self, wr):
        self.qp.post_send(wr)
        return self.completion()

    def completion(self):
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            num, completions = self.cq.poll()
            if num > 0:
                return completions[0]
            time.sleep(0.001)
        raise AssertionError("nothing completes")

    def source(self, data):
        """An SGE of data, which must be sent before the next call."""
        self.mr.write(data, len(data), self.inbox_bytes)
        return SGE(self.mr.buf + self.inbox_bytes, len(data), self.mr.lkey)

    def request(self, opcode, data, at, rkey=None, number=0):
        """A signaled request at this address of rank 0."""
        wr = SendWR(
            opcode=opcode,
            num_sge=1,
            sg=[self.source(data)],
            imm_data=socket.htonl(number),
            send_flags=e.IBV_SEND_SIGNALED,
        )
        wr.set_wr_rdma(self.rkey if rkey is None else rkey, at)
        return wr

    def send(self, lane, number, hdr, data, said=None):
        """A message to its slot; the status of its completion. said: its length and kind."""
        length, kind = (len(data), KIND_DATA) if said is None else said
        head = HEAD.pack(hdr, length, kind, 0)
        at = self.inbox + self.slot(lane, number) + DATA_OFFSET - HEAD.size
        number = imm(lane, number % SLOTS)
        wr = self.request(e.IBV_WR_RDMA_WRITE_WITH_IMM, head + data, at, number=number)
        return self.post(wr).status

    def say(self, number):
        """Only an immediate number."""
        at = self.inbox
        return self.post(self.request(e.IBV_WR_RDMA_WRITE_WITH_IMM, b"", at, number=number)).status

    def receive(self, lane, number):
        """The message of that number, the next one to come: header and data; and its immediate."""
        arrival = self.completion()
        assert arrival.status == e.IBV_WC_SUCCESS
        assert arrival.opcode == e.IBV_WC_RECV_RDMA_WITH_IMM
        slot = self.slot(lane, number)
        hdr, length, kind, _ = HEAD.unpack(self.mr.read(HEAD.size, slot + DATA_OFFSET - HEAD.size))
        assert kind == KIND_DATA
        return (
            HDR.unpack(hdr),
            self.mr.read(length, slot + DATA_OFFSET),
            socket.ntohl(arrival.imm_data),
        )

    # -- ends --

    def break_qp(self):
        self.qp.modify(QPAttr(qp_state=e.IBV_QPS_ERR), e.IBV_QP_STATE)

    def close(self):
        self.qp.close()
        self.cq.close()
        if hasattr(self, "mr"):
            self.mr.close()
        if self.sock is not None:
            self.sock.close()
