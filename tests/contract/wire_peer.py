"""The handshake of csrc/transport/handshake.h once more, written from its description."""

import array
import os
import socket
import struct
from dataclasses import dataclass, field

MAGIC = 0x4E49415254414D44
VERSION = 7
HELLO = struct.Struct("<QIIIIII16s")
MAC_BYTES = 16
ANSWER_BYTES = HELLO.size + MAC_BYTES
CALLED, DIALLED, WELCOME = 1, 2, 3
MASK = (1 << 64) - 1
PATIENCE_S = 10.0


def _rounds(v: list[int], times: int) -> None:
    def turn(x: int, bits: int) -> int:
        return (x << bits | x >> (64 - bits)) & MASK

    for _ in range(times):
        v[0] = (v[0] + v[1]) & MASK
        v[1] = turn(v[1], 13) ^ v[0]
        v[0] = turn(v[0], 32)
        v[2] = (v[2] + v[3]) & MASK
        v[3] = turn(v[3], 16) ^ v[2]
        v[0] = (v[0] + v[3]) & MASK
        v[3] = turn(v[3], 21) ^ v[0]
        v[2] = (v[2] + v[1]) & MASK
        v[1] = turn(v[1], 17) ^ v[2]
        v[2] = turn(v[2], 32)


def siphash(key: bytes, text: bytes) -> bytes:
    """SipHash-2-4 with 128 bits, from the paper."""
    k = struct.unpack("<QQ", key)
    start = b"somepseudorandomlygeneratedbytes"
    v = [int.from_bytes(start[i : i + 8], "big") ^ k[i // 8 % 2] for i in range(0, 32, 8)]
    v[1] ^= 0xEE
    padded = text + bytes(7 - len(text) % 8) + bytes([len(text) % 256])
    for (word,) in struct.iter_unpack("<Q", padded):
        v[3] ^= word
        _rounds(v, 2)
        v[0] ^= word
    halves = []
    for index, flip in ((2, 0xEE), (1, 0xDD)):
        v[index] ^= flip
        _rounds(v, 4)
        halves.append(v[0] ^ v[1] ^ v[2] ^ v[3])
    return struct.pack("<QQ", *halves)


@dataclass
class Claim:
    """What a caller says of itself."""

    rank: int
    world: int
    token: bytes
    chunk: int
    tuning: int = 0
    magic: int = MAGIC
    version: int = VERSION
    nonce: bytes = field(default_factory=lambda: os.urandom(16))

    def hello(self) -> bytes:
        return HELLO.pack(
            self.magic, self.version, self.rank, self.world, self.chunk, self.tuning, 0, self.nonce
        )

    def code(self, role: int, dialler: bytes, called: bytes) -> bytes:
        return siphash(self.token, bytes([role]) + dialler + called)


def dial(wire: bytes) -> socket.socket:
    """Connects to what listen() returned: an abstract unix name, or an IPv4 address."""
    if wire[0] == 0:
        sock = socket.socket(socket.AF_UNIX)
        address: object = wire
    else:
        sock = socket.socket(socket.AF_INET)
        address = (socket.inet_ntoa(wire[4:8]), struct.unpack(">H", wire[2:4])[0])
    sock.settimeout(PATIENCE_S)
    sock.connect(address)
    return sock


def hear(sock: socket.socket, num: int) -> bytes:
    """So many bytes, or fewer at the end of the connection."""
    text = b""
    while len(text) < num:
        try:
            more = sock.recv(num - len(text))
        except ConnectionError:
            more = b""
        if not more:
            break
        text += more
    return text


def is_over(sock: socket.socket) -> bool:
    """Whether the other side closes without another word."""
    return hear(sock, 1) == b""


def hear_fds(sock: socket.socket, num: int) -> tuple[bytes, list[int]]:
    """So many bytes with the descriptors that come along."""
    room = socket.CMSG_SPACE(8 * array.array("i").itemsize)
    text, controls, _, _ = sock.recvmsg(num, room)
    fds = array.array("i")
    for _, _, data in controls:
        fds.frombytes(data)
    return text, list(fds)


def listen() -> tuple[socket.socket, bytes]:
    """A listener that a rank may be told to be a peer's, and its address as listen() tells it."""
    sock = socket.create_server(("127.0.0.1", 0))
    sock.settimeout(PATIENCE_S)
    port = sock.getsockname()[1]
    wire = struct.pack("=H", socket.AF_INET) + struct.pack(">H", port)
    return sock, wire + socket.inet_aton("127.0.0.1") + bytes(8)
