# SPDX-License-Identifier: Apache-2.0
"""Whoever is between two channels, or pretends to be one, is found out."""

import contextlib
import hmac
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from channel_pairs import SECRET, Between, Heard, Two, in_between, run_for, run_until, two_in

from rdmatrain.launcher import channel as channel_module
from rdmatrain.launcher.channel import CONTROL, Channel
from rdmatrain.launcher.loop import Loop

HELLO_BYTES, PROOF_BYTES, FRAME_BYTES = 43, 32, 5 + 16
JOB = "job 1"
FIRST_FRAME = HELLO_BYTES + PROOF_BYTES + FRAME_BYTES + len(JOB)
PAYLOADS = (b"one", b"two")
SAID_BYTES = FIRST_FRAME + sum(FRAME_BYTES + len(said) for said in (*PAYLOADS, b"bye"))
STRANGER = "the other side is another program"
OTHER_SECRET = "the other side has another secret, or is another program"
CHANGED = "what came is not what was sent: somebody or something between changed it"
GONE = "the connection ended without a farewell: the other side is gone"


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


class Farewell(Heard):
    """Closes as soon as all that was queued may be sent."""

    def on_open(self, channel: Channel) -> None:
        super().on_open(channel)
        channel.close("bye")


def speak(two: Two, speaker: int, between: Between) -> Heard:
    """Let one side say all it has, and farewell; return what the other one heard."""
    channel = (two.dialer, two.listener)[speaker]
    channel.handler = Farewell()
    for payload in PAYLOADS:
        channel.send(CONTROL, payload)
    heard = (two.by_listener, two.by_dialer)[speaker]
    said = [-1]

    def cut_when_quiet() -> None:
        # A changed length may make both wait for each other.
        said.append(sum(map(len, between.said)))
        if said[-1] == said[-2]:
            between.end()
        else:
            two.loop.later(0.03, cut_when_quiet)

    two.loop.later(0.03, cut_when_quiet)
    run_until(two.loop, lambda: bool(heard.closed))
    return heard


def mac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, "sha256").digest()


class Stranger:
    """The other end of a channel, written after the README and sharing nothing with the channel.

    Args:
        loop: runs the channel while the stranger waits.
        dials: it dials and the channel listens, or the other way round.

    """

    def __init__(self, loop: Loop, *, dials: bool = True, secret: bytes = SECRET) -> None:
        self.loop, self.dials = loop, dials
        self.sock, other = socket.socketpair()
        self.sock.setblocking(False)
        self.heard = Heard()
        self.channel = Channel(
            loop, other, SECRET, dialed=not dials, context=JOB, handler=self.heard
        )
        self.mine, self.theirs = (b"D", b"L") if dials else (b"L", b"D")
        self.key = mac(secret, b"rdmatrain channel")
        self.number = {self.mine: 0, self.theirs: 0}

    def receive(self, num_bytes: int) -> bytes:
        data = bytearray()

        def take() -> bool:
            with contextlib.suppress(BlockingIOError):
                data.extend(self.sock.recv(num_bytes - len(data)))
            return len(data) == num_bytes

        self.loop.later(0, lambda: None)
        while not take():
            run_for(self.loop, 0.001)
        return bytes(data)

    def hello(self) -> bytes:
        return b"rdmatrain\x01" + self.mine + b"n" * 32

    def prove(self) -> None:
        if self.dials:
            self.sock.send(self.hello())
            hellos = self.hello() + self.receive(HELLO_BYTES)
        else:
            theirs = self.receive(HELLO_BYTES)
            self.sock.send(self.hello())
            hellos = theirs + self.hello()
        self.root = mac(self.key, hellos)
        if not self.dials:
            assert self.receive(PROOF_BYTES) == self.proof(self.theirs)
        self.sock.send(self.proof(self.mine))
        if self.dials:
            assert self.receive(PROOF_BYTES) == self.proof(self.theirs)

    def proof(self, role: bytes) -> bytes:
        return mac(self.root, b"rdmatrain proof " + role)

    def frame(self, kind: int, payload: bytes, role: bytes = b"") -> bytes:
        role = role or self.mine
        header = struct.pack("!IB", len(payload), kind)
        number = self.number[role].to_bytes(8, "big")
        self.number[role] += 1
        key = mac(self.root, b"rdmatrain frames " + role)
        return header + payload + mac(key, number + header + payload)[:16]

    def open(self) -> "Stranger":
        self.prove()
        self.sock.send(self.frame(0, JOB.encode()))
        assert self.receive(FRAME_BYTES + len(JOB)) == self.frame(0, JOB.encode(), self.theirs)
        run_until(self.loop, lambda: self.heard.opened == 1)
        return self

    def send(self, data: bytes) -> None:
        self.sock.send(data)
        run_for(self.loop, 0.01)

    def end(self) -> None:
        self.sock.close()
        self.channel.abort("the test is over")

    def refusal(self) -> str:
        run_until(self.loop, lambda: bool(self.heard.closed), 2)
        assert len(self.heard.closed) == 1
        return self.heard.closed[0]


@pytest.fixture(params=[True, False], ids=["dials", "listens"])
def stranger(request: pytest.FixtureRequest, loop: Loop) -> Iterator[Stranger]:
    made = Stranger(loop, dials=request.param)
    yield made
    made.end()


def test_the_protocol_is_what_the_readme_says(stranger: Stranger) -> None:
    stranger.open()
    stranger.send(stranger.frame(CONTROL, b"one") + stranger.frame(2, b"two"))
    assert stranger.heard.messages == [(CONTROL, b"one"), (2, b"two")]
    stranger.channel.send(3, b"three")
    assert stranger.receive(FRAME_BYTES + 5) == stranger.frame(3, b"three", stranger.theirs)
    stranger.send(stranger.frame(255, b"bye"))
    assert stranger.heard.closed == ["the other side closed: bye"]


class TestBetween:
    @pytest.mark.parametrize("speaker", [0, 1], ids=["dialer", "listener"])
    def test_who_changes_nothing_is_not_found_out(self, loop: Loop, speaker: int) -> None:
        with in_between(loop) as (socks, between), two_in(loop, socks=socks) as two:
            heard = speak(two, speaker, between)
        assert heard.closed == ["the other side closed: bye"]
        assert heard.messages == [(CONTROL, payload) for payload in PAYLOADS]
        assert len(between.said[speaker]) == SAID_BYTES, "the next test flips each of these bits"

    @pytest.mark.parametrize("speaker", [0, 1], ids=["dialer", "listener"])
    def test_each_changed_bit_is_found_out(self, loop: Loop, speaker: int) -> None:
        for bit in range(8 * SAID_BYTES):
            flips = []

            def flip(
                direction: int, place: int, data: bytes, bit: int = bit, flips: list[int] = flips
            ) -> bytes:
                index = bit // 8 - place
                if direction != speaker or not 0 <= index < len(data):
                    return data
                flips.append(bit)
                changed = bytearray(data)
                changed[index] ^= 1 << bit % 8
                return bytes(changed)

            with in_between(loop) as (socks, between), two_in(loop, socks=socks) as two:
                between.edit = flip
                heard = speak(two, speaker, between)
            assert flips == [bit]
            assert (
                heard.messages
                == [(CONTROL, payload) for payload in PAYLOADS][: len(heard.messages)]
            )
            assert not heard.closed[0].startswith("the other side closed"), bit

    @pytest.mark.parametrize("speaker", [0, 1], ids=["dialer", "listener"])
    def test_a_line_that_is_cut_anywhere_is_no_farewell(self, loop: Loop, speaker: int) -> None:
        for length in range(SAID_BYTES):
            with in_between(loop) as (socks, between), two_in(loop, socks=socks) as two:

                def cut(
                    direction: int,
                    place: int,
                    data: bytes,
                    length: int = length,
                    between: Between = between,
                ) -> bytes:
                    if direction != speaker or place + len(data) <= length:
                        return data
                    loop.later(0, between.end)
                    return data[: max(0, length - place)]

                between.edit = cut
                heard = speak(two, speaker, between)
            assert len(heard.messages) < 3
            if length < FIRST_FRAME:
                assert heard.opened == 0
                assert "the other side" in heard.closed[0]
            else:
                assert heard.closed == [GONE]

    def test_nothing_is_told_before_the_proof_and_the_secret_never(self, loop: Loop) -> None:
        with in_between(loop) as (socks, between), two_in(loop, socks=socks) as two:
            two.open()
        for said in between.said:
            assert SECRET not in said
            assert JOB.encode() not in said[: HELLO_BYTES + PROOF_BYTES]
        with (
            in_between(loop) as (socks, between),
            two_in(loop, socks=socks, secrets=(SECRET, SECRET[::-1])) as two,
        ):
            two.end()
        assert [len(said) for said in between.said] == [HELLO_BYTES + PROOF_BYTES, HELLO_BYTES]


class TestFrames:
    def test_a_frame_that_comes_twice(self, stranger: Stranger) -> None:
        stranger.open()
        frame = stranger.frame(CONTROL, b"pay")
        stranger.send(frame + frame)
        assert stranger.heard.messages == [(CONTROL, b"pay")]
        assert stranger.refusal() == CHANGED

    def test_a_frame_that_is_left_out(self, stranger: Stranger) -> None:
        stranger.open()
        stranger.frame(CONTROL, b"one")
        stranger.send(stranger.frame(CONTROL, b"two"))
        assert stranger.heard.messages == []
        assert stranger.refusal() == CHANGED

    def test_frames_in_another_order(self, stranger: Stranger) -> None:
        stranger.open()
        one, two = stranger.frame(CONTROL, b"one"), stranger.frame(CONTROL, b"two")
        stranger.send(two + one)
        assert stranger.heard.messages == []
        assert stranger.refusal() == CHANGED

    def test_a_frame_of_its_own(self, stranger: Stranger) -> None:
        stranger.open()
        stranger.channel.send(CONTROL, b"mirror")
        stranger.send(stranger.receive(FRAME_BYTES + 6))
        assert stranger.heard.messages == []
        assert stranger.refusal() == CHANGED

    def test_a_frame_of_another_connection(self, loop: Loop, stranger: Stranger) -> None:
        other = Stranger(loop, dials=stranger.dials).open()
        stranger.open()
        stranger.send(other.frame(CONTROL, b"for another"))
        other.end()
        assert stranger.heard.messages == []
        assert stranger.refusal() == CHANGED

    def test_another_kind(self, stranger: Stranger) -> None:
        stranger.open()
        frame = bytearray(stranger.frame(CONTROL, b"one"))
        frame[4] = 2
        stranger.send(bytes(frame))
        assert stranger.refusal() == CHANGED

    def test_the_context_again(self, stranger: Stranger) -> None:
        stranger.open()
        stranger.send(stranger.frame(0, b"job 2"))
        assert stranger.refusal() == CHANGED

    @pytest.mark.parametrize("length", [(1 << 20) + 1, 1 << 31, (1 << 32) - 1])
    def test_a_length_over_the_limit_before_the_rest_comes(
        self, stranger: Stranger, length: int
    ) -> None:
        stranger.open()
        stranger.send(struct.pack("!IB", length, CONTROL))
        assert stranger.heard.closed == [CHANGED]

    def test_half_a_frame(self, stranger: Stranger) -> None:
        stranger.open()
        stranger.send(stranger.frame(CONTROL, b"one")[:-1])
        stranger.sock.close()
        assert stranger.refusal() == GONE
        assert stranger.heard.messages == []


class TestHandshake:
    @pytest.mark.parametrize(
        "garbage",
        [
            b"GET / HTTP/1.1\r\n",
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"\x80\x9e\x01\x03\x03\x00\x75\x00\x00\x00\x20",
            bytes(11),
            b"rdmatraim\x01D",
        ],
    )
    def test_another_program_is_known_by_its_first_bytes(
        self, stranger: Stranger, garbage: bytes
    ) -> None:
        stranger.send(garbage)
        assert stranger.refusal() == STRANGER

    @pytest.mark.parametrize("version", [0, 2, 255])
    def test_another_version_is_named(self, stranger: Stranger, version: int) -> None:
        stranger.send(b"rdmatrain" + bytes([version]) + stranger.mine + b"n" * 32)
        assert f"speaks version {version}" in stranger.refusal()

    def test_a_mirror(self, loop: Loop) -> None:
        mirror = Stranger(loop, dials=False)
        mirror.send(mirror.receive(HELLO_BYTES))
        assert mirror.refusal() == "the other side plays the same part: a node has reached itself"
        mirror.end()

    def test_a_mirror_that_claims_the_other_part(self, loop: Loop) -> None:
        mirror = Stranger(loop, dials=False)
        hello = bytearray(mirror.receive(HELLO_BYTES))
        hello[10:11] = b"L"
        mirror.send(bytes(hello))
        mirror.send(mirror.receive(PROOF_BYTES))
        assert mirror.refusal() == OTHER_SECRET
        mirror.end()

    @pytest.mark.parametrize("speaker", [0, 1], ids=["dialer", "listener"])
    def test_a_recorded_handshake(self, loop: Loop, speaker: int) -> None:
        with in_between(loop) as (socks, between), two_in(loop, socks=socks) as two:
            speak(two, speaker, between)
        again = Stranger(loop, dials=speaker == 0)
        again.send(bytes(between.said[speaker]))
        assert again.refusal() == OTHER_SECRET
        assert again.heard.opened == 0
        again.end()

    def test_another_secret(self, stranger: Stranger) -> None:
        stranger.send(stranger.hello() + b"p" * PROOF_BYTES)
        assert stranger.refusal() == OTHER_SECRET

    def test_the_proof_alone_does_not_open_it(
        self, stranger: Stranger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(channel_module, "LINGER_S", 0.1)
        stranger.prove()
        stranger.send(stranger.frame(0, b"job 2"))
        assert "is of job job 2, this side of job 1" in stranger.refusal()
        assert stranger.heard.opened == 0

    def test_a_context_that_is_too_long(self, stranger: Stranger) -> None:
        stranger.prove()
        stranger.send(struct.pack("!IB", 513, 0))
        assert stranger.refusal() == CHANGED

    @pytest.mark.parametrize("pause_s", [10.0, 0.02])
    def test_silence_and_slowness_have_an_end(
        self, loop: Loop, monkeypatch: pytest.MonkeyPatch, pause_s: float
    ) -> None:
        monkeypatch.setattr(channel_module, "HANDSHAKE_S", 0.2)
        stranger = Stranger(loop)
        drops = iter(stranger.hello())

        def drip() -> None:
            with contextlib.suppress(OSError):
                stranger.sock.send(bytes([next(drops)]))
            loop.later(pause_s, drip)

        drip()
        begin = time.monotonic()
        assert "did not say who it is" in stranger.refusal()
        assert 0.1 < time.monotonic() - begin < 0.5
        stranger.end()

    def test_little_is_taken_before_the_proof(
        self, stranger: Stranger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taken = []
        monkeypatch.setattr(
            stranger.channel._veil, "uncover", lambda data: taken.append(len(data)) or data
        )
        stranger.send(stranger.hello() + bytes(1 << 16))
        assert stranger.refusal() == OTHER_SECRET
        assert 0 < sum(taken) < 512
