# SPDX-License-Identifier: Apache-2.0
"""Two channels over a pair of sockets: what is said arrives, and an end is told once."""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from channel_pairs import SECRET, Heard, Two, in_between, run_for, run_until, tcp_pair, two_in
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.launcher import channel as channel_module
from rdmatrain.launcher.channel import CONTROL, STORE, Channel
from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.proof import MAX_PAYLOAD

HELLO_BYTES = 43


def open_descriptors() -> set[str]:
    """Return what this process has open, by what it is."""
    return {path.name for path in Path("/proc/self/fd").iterdir() if path.exists()}


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def two(loop: Loop) -> Iterator[Two]:
    with two_in(loop) as made:
        made.open()
        yield made


def test_both_open_and_messages_arrive_in_order(two: Two) -> None:
    for i in range(100):
        two.dialer.send(CONTROL, b"%d" % i)
        two.listener.send(STORE, b"%d" % -i)
    run_until(two.loop, lambda: len(two.by_dialer.messages) == len(two.by_listener.messages) == 100)
    assert two.by_listener.messages == [(CONTROL, b"%d" % i) for i in range(100)]
    assert two.by_dialer.messages == [(STORE, b"%d" % -i) for i in range(100)]


def test_what_is_said_before_the_proof_waits_for_it(loop: Loop) -> None:
    with two_in(loop) as two:
        two.dialer.send(CONTROL, b"early")
        two.listener.send(CONTROL, b"as early")
        assert two.dialer.num_pending_bytes == HELLO_BYTES + len(b"early")
        assert two.listener.num_pending_bytes == len(b"as early")
        run_until(loop, lambda: bool(two.by_dialer.messages and two.by_listener.messages))
        assert two.by_listener.messages == [(CONTROL, b"early")]
        assert two.by_dialer.messages == [(CONTROL, b"as early")]
        assert two.dialer.num_pending_bytes == two.listener.num_pending_bytes == 0


def test_another_secret_is_refused_at_once_with_a_reason_on_both_sides(loop: Loop) -> None:
    begin = time.monotonic()
    with two_in(loop, secrets=(SECRET, SECRET + b"x")) as two:
        two.end()
    assert time.monotonic() - begin < 1
    reason = "the other side has another secret, or is another program"
    assert two.by_dialer == Heard(closed=[reason])
    assert two.by_listener == Heard(closed=[reason])


def test_another_job_is_named_to_both_sides_after_the_proof(loop: Loop) -> None:
    with two_in(loop, contexts=("job 1", "job 2")) as two:
        two.end()
    assert "is of job job 2, this side of job 1" in two.by_dialer.closed[0]
    assert "is of job job 1, this side of job 2" in two.by_listener.closed[0]
    assert two.by_dialer.opened == two.by_listener.opened == 0


def test_a_farewell_comes_after_all_that_was_said(two: Two) -> None:
    data = os.urandom(MAX_PAYLOAD)
    for _ in range(4):
        two.listener.send(STORE, data)
    two.listener.close("the job is over")
    pending = two.listener.num_pending_bytes
    two.listener.send(CONTROL, b"too late")
    assert two.listener.num_pending_bytes == pending
    two.end()
    assert two.by_dialer.messages == [(STORE, data)] * 4
    assert two.by_dialer.closed == ["the other side closed: the job is over"]
    assert two.by_listener.closed == ["the job is over"]


def test_the_largest_frame_arrives_and_a_larger_one_is_not_sent(two: Two) -> None:
    data = os.urandom(MAX_PAYLOAD)
    two.dialer.send(STORE, data)
    two.dialer.send(STORE, b"")
    run_until(two.loop, lambda: len(two.by_listener.messages) == 2)
    assert two.by_listener.messages == [(STORE, data), (STORE, b"")]
    with pytest.raises(ValueError, match="cannot be sent"):
        two.dialer.send(STORE, data + b"x")


@pytest.mark.parametrize("kind", [-1, 0, 255, 256])
def test_kinds_of_the_channel_itself_are_not_sent(two: Two, kind: int) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        two.dialer.send(kind, b"")


@pytest.mark.parametrize("secret", [b"", b"x" * 15])
def test_a_channel_without_a_secret_is_a_mistake(loop: Loop, secret: bytes) -> None:
    one, other = socket.socketpair()
    with one, other, pytest.raises(ValueError, match="needs a secret"):
        Channel(loop, one, secret, dialed=True, context="", handler=Heard())


def test_the_secret_is_not_shown(two: Two) -> None:
    assert repr(SECRET) not in repr(two.dialer)
    assert SECRET not in vars(two.dialer).values()


class TestPause:
    def test_nothing_is_handed_out_and_all_comes_afterwards(self, two: Two) -> None:
        data = os.urandom(MAX_PAYLOAD)
        two.listener.pause()
        for _ in range(8):
            two.dialer.send(STORE, data)
        run_for(two.loop, 0.1)
        assert two.by_listener.messages == []
        assert two.dialer.num_pending_bytes > 4 * MAX_PAYLOAD
        assert two.listener.idle_s == 0
        two.listener.resume()
        run_until(two.loop, lambda: len(two.by_listener.messages) == 8)
        assert two.by_listener.messages == [(STORE, data)] * 8
        assert two.dialer.num_pending_bytes == 0

    def test_frames_that_have_come_already_wait_too(self, two: Two) -> None:
        class OneAtATime(Heard):
            def on_message(self, channel: Channel, kind: int, payload: bytes) -> None:
                super().on_message(channel, kind, payload)
                channel.pause()

        two.listener.handler = heard = OneAtATime(opened=1)
        for i in range(3):
            two.dialer.send(CONTROL, b"%d" % i)
        for i in range(3):
            run_for(two.loop, 0.02)
            assert heard.messages == [(CONTROL, b"%d" % n) for n in range(i + 1)]
            two.listener.resume()

    def test_a_paused_channel_uses_no_cpu_when_the_other_side_is_gone(self, two: Two) -> None:
        two.listener.pause()
        two.dialer.abort("gone")
        begin = time.process_time()
        run_for(two.loop, 0.2)
        assert time.process_time() - begin < 0.1
        assert two.by_listener.closed == []
        two.listener.resume()
        run_until(two.loop, lambda: bool(two.by_listener.closed))

    def test_a_handshake_goes_on(self, loop: Loop) -> None:
        with two_in(loop) as two:
            two.listener.pause()
            two.dialer.send(CONTROL, b"x")
            two.open()
            run_for(loop, 0.02)
            assert two.by_listener.messages == []


class TestEnd:
    def test_a_reason_can_be_left_out(self, two: Two) -> None:
        two.dialer.close()
        two.end()
        assert two.by_dialer.closed == ["closed"]
        assert two.by_listener.closed == ["the other side closed"]

    def test_a_reason_is_cut_and_can_be_printed(self, two: Two) -> None:
        two.dialer.close("\x1b[2J" + "ü" * 600)
        two.end()
        assert two.by_listener.closed == [f"the other side closed: ?[2J{'ü' * 254}"]

    def test_it_comes_once_whoever_closes_how_often(self, two: Two) -> None:
        two.dialer.close("one")
        two.dialer.close("two")
        two.listener.close("three")
        two.end()
        two.dialer.abort("four")
        two.listener.close("five")
        run_for(two.loop, 0.05)
        assert two.by_dialer.closed == ["one"]
        assert two.by_listener.closed == ["three"]

    def test_a_side_that_is_killed_says_no_farewell(self, two: Two) -> None:
        two.dialer.send(CONTROL, b"last")
        run_until(two.loop, lambda: bool(two.by_listener.messages))
        two.dialer.abort("killed")
        two.end()
        assert two.by_listener.closed == [
            "the connection ended without a farewell: the other side is gone"
        ]

    def test_a_reset_is_a_reason(self, loop: Loop) -> None:
        with two_in(loop, socks=tcp_pair()) as two:
            two.open()
            linger = struct.pack("ii", 1, 0)
            two.dialer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            two.dialer.abort("reset")
            two.end()
            assert two.by_listener.closed == ["the connection failed: Connection reset by peer"]

    def test_a_reset_before_the_proof_is_another_program(self, loop: Loop) -> None:
        ours, theirs = tcp_pair()
        heard = Heard()
        Channel(loop, ours, SECRET, dialed=True, context="", handler=heard)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        run_until(loop, lambda: bool(heard.closed))
        assert heard.closed[0].startswith("the other side did not say who it is")

    def test_who_is_paused_closes_as_fast(self, two: Two) -> None:
        two.dialer.pause()
        two.listener.send(CONTROL, b"not read any more")
        begin = time.monotonic()
        two.dialer.close("bye")
        two.end()
        assert time.monotonic() - begin < channel_module.LINGER_S / 2

    def test_the_deadline_is_for_the_handshake_alone(
        self, loop: Loop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(channel_module, "HANDSHAKE_S", 0.2)
        with two_in(loop) as two:
            two.open()
            run_for(loop, 0.3)
            assert two.dialer.is_open
            assert two.listener.is_open

    def test_nobody_at_the_port_is_a_reason(self, loop: Loop) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            place = server.getsockname()
        sock, heard = socket.socket(), Heard()
        sock.setblocking(False)
        sock.connect_ex(place)
        channel = Channel(loop, sock, SECRET, dialed=True, context="", handler=heard)
        run_until(loop, lambda: bool(heard.closed))
        assert heard.closed == ["the connection failed: Connection refused"]
        assert channel.peer == ""

    def test_who_does_not_read_does_not_keep_the_other_side(
        self, two: Two, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(channel_module, "LINGER_S", 0.1)
        two.listener.pause()
        for _ in range(8):
            two.dialer.send(STORE, bytes(MAX_PAYLOAD))
        begin = time.monotonic()
        two.dialer.close("no patience")
        run_until(two.loop, lambda: bool(two.by_dialer.closed))
        assert 0.1 <= time.monotonic() - begin < 0.5

    def test_a_handler_may_close_in_every_call(self, loop: Loop) -> None:
        class Closes(Heard):
            def on_open(self, channel: Channel) -> None:
                super().on_open(channel)
                channel.close("as soon as it is open")

            def on_close(self, channel: Channel, reason: str) -> None:
                super().on_close(channel, reason)
                channel.close("again")
                channel.send(CONTROL, b"")

        with two_in(loop) as two:
            two.dialer.handler = two.by_dialer = Closes()
            two.listener.send(CONTROL, b"in vain")
            two.end()
            assert two.by_dialer.messages == []
            assert two.by_listener.closed == ["the other side closed: as soon as it is open"]

    @pytest.mark.parametrize("how", ["close", "abort"])
    def test_nothing_is_handed_out_after_it(self, two: Two, how: str) -> None:
        class Closes(Heard):
            def on_message(self, channel: Channel, kind: int, payload: bytes) -> None:
                super().on_message(channel, kind, payload)
                getattr(channel, how)("one was enough")

        two.listener.handler = two.by_listener = Closes(opened=1)
        for _ in range(3):
            two.dialer.send(CONTROL, b"x")
        two.end()
        assert two.by_listener.messages == [(CONTROL, b"x")]
        assert two.by_listener.closed == ["one was enough"]

    def test_it_gives_back_its_descriptor_and_its_place_in_the_loop(self, loop: Loop) -> None:
        before = open_descriptors()
        with two_in(loop) as two:
            two.open()
            two.dialer.close()
            two.end()
        assert open_descriptors() == before
        assert not loop._selector.get_map()


def test_idle_seconds_count_from_the_last_bytes(two: Two) -> None:
    run_for(two.loop, 0.2)
    assert 0.2 <= two.listener.idle_s < 1
    two.dialer.send(CONTROL, b"x")
    run_until(two.loop, lambda: bool(two.by_listener.messages))
    assert two.listener.idle_s < 0.1


def test_a_tcp_connection_is_named_and_does_not_wait_for_more(loop: Loop) -> None:
    with two_in(loop, socks=tcp_pair()) as two:
        two.open()
        name = f"127.0.0.1:{two.dialer.sock.getsockname()[1]}"
        assert two.listener.peer == name
        for channel in (two.dialer, two.listener):
            assert channel.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not channel.sock.get_inheritable()
        two.listener.abort("it is over")
        assert two.listener.peer == name


@given(data=st.data(), sizes=st.lists(st.integers(0, 300), max_size=8))
@settings(deadline=None, max_examples=50)
def test_how_the_stream_is_cut_does_not_matter(data: st.DataObject, sizes: list[int]) -> None:
    loop = Loop()
    sent = [bytes([i]) * size for i, size in enumerate(sizes)]
    with contextlib.closing(loop), in_between(loop) as (socks, between):
        between.cut = lambda: data.draw(st.sampled_from((1, 2, 5, 42, 43, 100, 4096)))
        with two_in(loop, socks=socks) as two:
            for payload in sent:
                two.dialer.send(CONTROL, payload)
                two.listener.send(STORE, payload)
            two.open()
            two.dialer.close("all said")
            two.end()
            assert two.by_listener.messages == [(CONTROL, payload) for payload in sent]
            assert two.by_listener.closed == ["the other side closed: all said"]
