# SPDX-License-Identifier: Apache-2.0
"""Doors, rooms and what they say to each other; a server of this test stands for the store."""

import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.launcher import tunnel
from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.tunnel import StoreDoor, StoreRoom

OPEN, DATA, END, RESET, CREDIT = range(5)


def frame(kind: int, number: int, data: bytes = b"") -> bytes:
    """A frame as the module's documentation has it, made without the module."""
    return struct.pack("!BI", kind, number) + data


class FakeServer:
    """In place of the native server: a listening socket that the test accepts from."""

    def __init__(self, loop: Loop, lost: Callable[[str], None], port: int = 0) -> None:
        self.alive = self.ready = True
        self.pid = 0
        self.listener = socket.create_server(("127.0.0.1", port), backlog=2000)
        self.listener.settimeout(5)
        self.port = self.listener.getsockname()[1]

    def renew(self) -> None:
        self.close()
        self.__init__(None, None)  # type: ignore[misc,arg-type]

    def close(self) -> None:
        self.listener.close()


class Pair:
    """A door and a room; frames cross when the test's loop runs, or wait if held."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.notes: list[str] = []
        self.to_room: list[bytes] = []
        self.to_door: list[bytes] = []
        self.held = False
        self.sockets: list[socket.socket] = []
        self.room = StoreRoom(self.loop, note=self.notes.append)
        self.room.attach("a", self.to_door.append, lambda: sum(map(len, self.to_door)))
        self.door = StoreDoor(
            self.loop,
            self.to_room.append,
            lambda: sum(map(len, self.to_room)),
            note=self.notes.append,
        )

    @property
    def server(self) -> FakeServer:
        return self.room._server  # type: ignore[return-value]

    def connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.door.port), timeout=5)
        self.sockets.append(sock)
        return sock

    def accept(self) -> socket.socket:
        sock, _ = self.server.listener.accept()
        sock.settimeout(5)
        self.sockets.append(sock)
        return sock

    def join(self) -> tuple[socket.socket, socket.socket]:
        """A worker's socket and the store's, of one stream."""
        near = self.connect()
        self.settle()
        return near, self.accept()

    def settle(self, quiet_s: float = 0.03) -> None:
        """Run until nothing has happened for a while."""
        quiet = time.monotonic() + quiet_s
        ends: list[bool] = []
        while time.monotonic() < quiet:
            ends.clear()
            self.loop.later(0.002, lambda: ends.append(True))
            self.loop.run(lambda: bool(ends))
            if not self.held and (self.to_room or self.to_door):
                quiet = time.monotonic() + quiet_s
                self.cross()

    def cross(self) -> None:
        for frames, take in (
            (self.to_room, lambda data: self.room.receive("a", data)),
            (self.to_door, self.door.receive),
        ):
            sent, frames[:] = frames[:], []
            for data in sent:
                take(data)

    def close(self) -> None:
        self.door.close()
        self.room.close()
        for sock in self.sockets:
            sock.close()
        self.loop.close()


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.setattr(tunnel, "StoreServer", FakeServer)
    made = Pair()
    yield made
    made.close()


def pour(pair: Pair, sock: socket.socket, most: int) -> int:
    """Send until the tunnel takes no more for a while; returns how much it took."""
    sock.setblocking(False)
    total, idle = 0, 0
    while total < most and idle < 3:
        try:
            total += sock.send(bytes(min(1 << 16, most - total)))
            idle = 0
        except BlockingIOError:
            idle += 1
        pair.settle(0.01)
    return total


def drain(pair: Pair, sock: socket.socket, size: int) -> bytes:
    """Read so many bytes while the tunnel works."""
    sock.setblocking(False)
    data = b""
    end = time.monotonic() + 10
    while len(data) < size and time.monotonic() < end:
        try:
            data += sock.recv(1 << 20)
        except BlockingIOError:
            pair.settle(0.005)
    return data


def is_closed(sock: socket.socket) -> bool:
    sock.settimeout(5)
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def is_closed_after(pair: Pair, sock: socket.socket) -> bool:
    pair.settle()
    return is_closed(sock)


def test_bytes_pass_both_ways_and_each_half_closes_by_itself(pair: Pair) -> None:
    near, far = pair.join()
    near.sendall(b"question")
    near.shutdown(socket.SHUT_WR)
    pair.settle()
    assert far.recv(100) == b"question"
    assert far.recv(1) == b""
    far.sendall(b"answer")
    pair.settle()
    assert near.recv(100) == b"answer"
    far.close()
    pair.settle()
    assert near.recv(1) == b""
    assert not pair.notes


def test_a_worker_that_dies_is_gone_for_the_store_too(pair: Pair) -> None:
    near, far = pair.join()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    near.close()
    pair.settle()
    assert is_closed(far)


def test_a_connection_that_the_store_drops_ends_at_the_worker(pair: Pair) -> None:
    near, far = pair.join()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    pair.settle()
    assert is_closed(near)


def test_a_store_that_is_not_there_ends_the_connection(pair: Pair) -> None:
    pair.server.listener.close()
    near = pair.connect()
    pair.settle()
    assert is_closed(near)


def test_a_thousand_connections_keep_their_bytes_apart(pair: Pair) -> None:
    many = [pair.connect() for _ in range(1000)]
    for number, sock in enumerate(many):
        sock.sendall(struct.pack("!I", number) * 50)
    pair.settle()
    for _ in many:
        far = pair.accept()
        data = drain(pair, far, 200)
        far.sendall(data[::-1])
    pair.settle()
    for number, sock in enumerate(many):
        assert sock.recv(1000) == (struct.pack("!I", number) * 50)[::-1]
    assert not pair.notes


def test_a_reader_that_stalls_stops_its_own_stream_only(pair: Pair) -> None:
    stalled, stalled_far = pair.join()
    far_took = pour(pair, stalled_far, 64 << 20)
    assert far_took < 32 << 20, "somebody keeps what nobody reads"
    near, far = pair.join()
    far.sendall(b"x" * 1000)
    pair.settle()
    assert near.recv(2000) == b"x" * 1000
    assert drain(pair, stalled, far_took) == bytes(far_took)


def test_a_channel_with_enough_to_send_takes_nothing_from_workers(pair: Pair) -> None:
    streams = [pair.join() for _ in range(16)]
    pair.held = True
    for near, _ in streams:
        pour(pair, near, 1 << 20)
    pending = sum(map(len, pair.to_room))
    assert 1 << 20 < pending < (1 << 20) + (128 << 10)
    pair.held = False
    for near, far in streams:
        near.setblocking(True)
        near.shutdown(socket.SHUT_WR)
        assert len(drain(pair, far, 1 << 18)) >= 1 << 18


def test_large_values_arrive_whole(pair: Pair) -> None:
    near, far = pair.join()
    value = bytes(range(256)) * (12 << 10)  # 3 MiB
    sent = 0
    near.setblocking(False)
    got = b""
    while len(got) < len(value):
        if sent < len(value):
            sent += near.send(value[sent : sent + (1 << 16)])
        got += drain(pair, far, 1)
    assert got == value


def test_reset_ends_all_streams_at_both_ends_and_new_ones_work(pair: Pair) -> None:
    old = [pair.join() for _ in range(3)]
    pair.door.reset()
    pair.settle()
    for near, far in old:
        assert is_closed(near)
        assert is_closed(far)
    near, far = pair.join()
    near.sendall(b"new")
    pair.settle()
    assert far.recv(10) == b"new"
    port = pair.room.port
    pair.room.reset()
    pair.settle()
    assert is_closed(near)
    assert pair.room.port != port
    near, far = pair.join()
    assert not pair.notes


def test_detach_ends_the_streams_of_that_node_only(pair: Pair) -> None:
    near, far = pair.join()
    pair.room.attach("b", lambda _: None, lambda: 0)
    pair.room.receive("b", frame(OPEN, 1))
    other = pair.accept()
    pair.room.detach("b")
    pair.room.detach("b")
    pair.room.receive("b", frame(OPEN, 2))
    assert is_closed(other)
    near.sendall(b"on")
    pair.settle()
    assert far.recv(10) == b"on"


def test_frames_of_streams_that_were_closed_meanwhile_are_no_fault(pair: Pair) -> None:
    near, far = pair.join()
    pair.held = True
    far.sendall(b"late")
    pair.settle()
    near.close()
    pair.door.reset()
    pair.held = False
    pair.settle()
    assert not pair.notes


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (b"", "0 bytes"),
        (b"\x01\x00", "2 bytes"),
        (frame(5, 1), "kind 5"),
        (frame(255, 1, b"x"), "kind 255"),
        (frame(OPEN, 1), "cannot be opened"),
        (frame(OPEN, 0), "cannot be opened"),
        (frame(OPEN, 2, b"x"), "kind 0"),
        (frame(DATA, 1), "0 bytes"),
        (frame(DATA, 2, b"x"), "never opened"),
        (frame(DATA, 0, b"x"), "never opened"),
        (frame(END, 9), "never opened"),
        (frame(DATA, 1, bytes((256 << 10) + 1)), "room for"),
        (frame(CREDIT, 1, b"\0\0\0\1"), "credit of 1"),
        (frame(CREDIT, 1, b"\0"), "credit of 0"),
        (frame(RESET, 0, b"x"), "kind 3"),
    ],
)
def test_a_frame_that_makes_no_sense_ends_that_nodes_streams_only(
    pair: Pair, bad: bytes, word: str
) -> None:
    near, far = pair.join()
    pair.room.attach("b", lambda _: None, lambda: 0)
    pair.room.receive("b", frame(OPEN, 1))
    other = pair.accept()
    pair.room.receive("a", bad)
    assert len(pair.notes) == 1
    assert "node a" in pair.notes[0]
    assert word in pair.notes[0]
    pair.settle()
    assert is_closed(near)
    assert is_closed(far)
    other.setblocking(False)
    with pytest.raises(BlockingIOError):
        other.recv(1)


def test_the_leader_cannot_open_streams_at_a_door(pair: Pair) -> None:
    pair.door.receive(frame(OPEN, 1))
    assert len(pair.notes) == 1
    assert "leader" in pair.notes[0]


def test_a_door_has_room_for_so_many_and_the_others_leave_it_in_peace(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel, "MAX_STREAMS", 2)
    near, far = pair.join()
    pair.join()
    for _ in range(2):
        assert is_closed_after(pair, pair.connect())
    assert pair.notes == ["this node has 2 connections to the job's store: no more fit"]
    near.sendall(b"on")
    pair.settle()
    assert far.recv(10) == b"on"
    near.close()
    far.close()
    pair.settle()
    assert pair.join()


def test_a_room_that_is_full_ends_the_new_stream_alone(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel, "MAX_STREAMS", 2)
    sent: list[bytes] = []
    pair.room.attach("b", sent.append, lambda: 0)
    for number in (1, 2, 3):
        pair.room.receive("b", frame(OPEN, number))
    assert sent == [frame(RESET, 3)]
    assert not pair.notes
    first = pair.accept()
    first.setblocking(False)
    with pytest.raises(BlockingIOError):
        first.recv(1)


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        (54321, f"user 54321 was kept out of the job's store, which is for user {os.geteuid()}"),
        (OSError(errno.ENOENT, "No such file"), "the kernel does not tell whose process"),
        (OSError(errno.ENOTCONN, "it has left"), None),
    ],
)
def test_a_door_is_for_processes_of_this_user(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, answer: object, note: str | None
) -> None:
    def tell(sock: socket.socket) -> object:
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(tunnel._core, "peer_user", tell)
    for _ in range(2):
        assert is_closed_after(pair, pair.connect())
    assert [each[: len(note or "")] for each in pair.notes] == ([note] if note else [])
    monkeypatch.undo()
    assert not pair.to_room, "nothing of them reaches the leader"


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.builds(
                frame,
                st.integers(0, 5),
                st.sampled_from([0, 1, 2, 3, 2**32 - 1]),
                st.binary(max_size=8),
            ),
        ),
        max_size=12,
    )
)
def test_no_frames_raise_or_leave_a_descriptor(frames: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tunnel, "StoreServer", FakeServer)
        pair = Pair()
        try:
            for data in frames:
                pair.room.receive("a", data)
                pair.door.receive(data)
            pair.settle(0.002)
        finally:
            pair.close()
        assert not pair.room._links


def test_a_door_without_descriptors_waits_for_one(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Empty:
        def __init__(self, listener: socket.socket) -> None:
            self.calls = 0
            self._listener = listener

        def accept(self) -> None:
            self.calls += 1
            raise OSError(24, "Too many open files")

        def fileno(self) -> int:
            return self._listener.fileno()

        def close(self) -> None:
            self._listener.close()

    listener = pair.door._listener
    empty = Empty(listener)
    monkeypatch.setattr(pair.door, "_listener", empty)
    pair.connect()
    pair.settle(0.08)
    assert empty.calls == 1, "it spins"
    assert len(pair.notes) == 1
    assert "Too many open files" in pair.notes[0]
    monkeypatch.setattr(pair.door, "_listener", listener)
    pair.settle(0.15)
    pair.accept()
