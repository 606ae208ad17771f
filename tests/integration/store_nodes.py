# SPDX-License-Identifier: Apache-2.0
"""Two "nodes" for tests of the job's store: a room and a door, each with a loop in a thread.

What joins them is a pair of sockets with lengths before the frames, in place of the gang's channel.
"""

import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.tunnel import StoreDoor, StoreRoom

LENGTH = struct.Struct("!I")


class Node:
    """A loop in a thread, and a way to have something done in it."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.notes: list[str] = []
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake, self._woken = socket.socketpair()
        self._done = False
        self.loop.watch(self._woken.fileno(), self._take_calls)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.loop.run(lambda: self._done)

    def do(self, call: Callable[[], Any]) -> Any:
        """Call in the loop's thread; returns or raises what the call does."""
        answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

        def answer() -> None:
            try:
                answers.put((call(), None))
            except BaseException as error:
                answers.put((None, error))

        self._calls.put(answer)
        self._wake.send(b"x")
        value, error = answers.get(timeout=20)
        if error is not None:
            raise error
        return value

    def _take_calls(self) -> None:
        for _ in self._woken.recv(64):
            self._calls.get()()

    def stop(self) -> None:
        self.do(lambda: setattr(self, "_done", True))
        self._thread.join(10)
        assert not self._thread.is_alive()
        self.loop.close()
        self._wake.close()
        self._woken.close()


class Wire:
    """One end of the pair; all but the constructor in the loop's thread."""

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        self.receive: Callable[[bytes], None] = lambda _: None
        self._loop = loop
        self._sock = sock
        self._out = bytearray()
        self._in = bytearray()
        sock.setblocking(False)
        self._watch()

    def num_pending(self) -> int:
        return len(self._out)

    def send(self, frame: bytes) -> None:
        self._out += LENGTH.pack(len(frame)) + frame
        self._watch()

    def _watch(self) -> None:
        self._loop.watch(self._sock.fileno(), self._read, self._write if self._out else None)

    def _write(self) -> None:
        del self._out[: self._sock.send(self._out)]
        self._watch()

    def _read(self) -> None:
        data = self._sock.recv(1 << 16)
        assert data, "the other end is not to close first"
        self._in += data
        while len(self._in) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._in)[0]
            if len(self._in) < end:
                break
            frame = bytes(self._in[LENGTH.size : end])
            del self._in[:end]
            self.receive(frame)


class TwoNodes:
    """A leader with a room, and a member with a door."""

    def __init__(self) -> None:
        self.leader, self.member = Node(), Node()
        self._ends = socket.socketpair()
        self.room: StoreRoom = self.leader.do(self._make_room)
        self.door: StoreDoor = self.member.do(self._make_door)

    def _make_room(self) -> StoreRoom:
        room = StoreRoom(self.leader.loop, note=self.leader.notes.append)
        wire = Wire(self.leader.loop, self._ends[0])
        wire.receive = lambda frame: room.receive("member", frame)
        room.attach("member", wire.send, wire.num_pending)
        return room

    def _make_door(self) -> StoreDoor:
        wire = Wire(self.member.loop, self._ends[1])
        door = StoreDoor(
            self.member.loop, wire.send, wire.num_pending, note=self.member.notes.append
        )
        wire.receive = door.receive
        return door

    def next_round(self) -> None:
        """Do what the launchers do when no worker is left."""
        self.member.do(self.door.reset)
        self.leader.do(self.room.reset)

    def close(self) -> None:
        self.member.do(self.door.close)
        self.leader.do(self.room.close)
        self.member.stop()
        self.leader.stop()
        for end in self._ends:
            end.close()


@contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    nodes = TwoNodes()
    try:
        yield nodes
    finally:
        nodes.close()
