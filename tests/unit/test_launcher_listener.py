# SPDX-License-Identifier: Apache-2.0
"""Members get in, strangers do not, and cost little."""

import contextlib
import errno
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from channel_pairs import SECRET, Heard, run_for, run_until

from rdmatrain.errors import SettingError
from rdmatrain.launcher import channel as channel_module
from rdmatrain.launcher import listener as listener_module
from rdmatrain.launcher.channel import CONTROL, Channel
from rdmatrain.launcher.listener import BindError, Listener, bind
from rdmatrain.launcher.loop import Loop

LOOPBACK = "127.0.0.1"
TOO_MANY = "too many connections wait to prove the secret"


class Place:
    """A listener, and who comes to it."""

    def __init__(self, **how: Any) -> None:
        self.loop = Loop()
        self.heard: list[Heard] = []
        self.notes: list[str] = []
        self.cleanup = contextlib.ExitStack()
        self.listener = Listener(
            self.loop,
            bind(LOOPBACK, 0),
            SECRET,
            context="job 1",
            handler_for=self.handler_for,
            note=self.notes.append,
            **how,
        )
        self.where = self.listener.sock.getsockname()
        self.cleanup.callback(self.listener.close)

    def handler_for(self, channel: Channel) -> Heard:
        assert channel.is_open
        self.cleanup.callback(channel.abort, "the test is over")
        self.heard.append(Heard())
        return self.heard[-1]

    def knock(self, source: str = LOOPBACK) -> socket.socket:
        sock = socket.socket()
        self.cleanup.callback(sock.close)
        sock.bind((source, 0))
        sock.connect(self.where)
        sock.setblocking(False)
        return sock

    def member(self, source: str = LOOPBACK, secret: bytes = SECRET) -> tuple[Channel, Heard]:
        heard = Heard()
        channel = Channel(
            self.loop, self.knock(source), secret, dialed=True, context="job 1", handler=heard
        )
        self.cleanup.callback(channel.abort, "the test is over")
        return channel, heard

    def exchange(self, channel: Channel, heard: Heard) -> None:
        """See that a member gets in, and that both sides hear each other."""
        before = len(self.heard)
        run_until(self.loop, lambda: channel.is_open and len(self.heard) > before)
        channel.send(CONTROL, b"I am in")
        run_until(self.loop, lambda: bool(self.heard[-1].messages))
        assert self.heard[-1].messages == [(CONTROL, b"I am in")]
        assert heard.closed == []

    def refused(self, num: int) -> None:
        run_until(self.loop, lambda: self.listener.num_refused == num)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    made = Place(**getattr(request, "param", {}))
    with made.cleanup:
        yield made
    made.loop.close()


few = pytest.mark.parametrize("place", [{"max_waiting": 8}], indirect=True)


def is_cut(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_a_member_gets_in_and_has_a_handler_of_its_own(place: Place) -> None:
    first, heard = place.member()
    place.exchange(first, heard)
    second, heard = place.member()
    place.exchange(second, heard)
    assert len(place.heard) == 2
    assert place.heard[0] is not place.heard[1]
    assert place.listener.num_waiting == place.listener.num_refused == 0
    assert place.notes == []


def test_a_member_that_leaves_is_the_handlers_matter(place: Place) -> None:
    channel, heard = place.member()
    place.exchange(channel, heard)
    channel.close("bye")
    run_until(place.loop, lambda: bool(place.heard[0].closed))
    assert place.heard[0].closed == ["the other side closed: bye"]
    assert place.listener.num_refused == 0


def test_another_secret_is_noted_once_and_never_handed_over(place: Place) -> None:
    for number in range(1, 4):
        _, heard = place.member(secret=SECRET + b"x")
        place.refused(number)
        run_until(place.loop, lambda heard=heard: bool(heard.closed))
        assert "another secret" in heard.closed[0]
    assert place.heard == []
    assert len(place.notes) == 1
    assert place.notes[0].startswith("127.0.0.1:")
    assert "was turned away: the other side has another secret" in place.notes[0]


def test_few_are_noted(place: Place) -> None:
    for number in range(1, 41):
        place.member(source=f"127.0.1.{number}", secret=SECRET + b"x")
        place.refused(number)
    assert len(place.notes) == listener_module.MAX_TOLD


class TestFlood:
    @few
    def test_silent_ones_of_the_same_host_do_not_keep_a_member_out(self, place: Place) -> None:
        silent = [place.knock() for _ in range(50)]
        channel, heard = place.member()
        place.exchange(channel, heard)
        assert place.listener.num_waiting <= 8
        assert sum(map(is_cut, silent)) >= 42

    @few
    def test_those_that_wait_longest_go_first(self, place: Place) -> None:
        silent = [place.knock() for _ in range(8)]
        run_until(place.loop, lambda: place.listener.num_waiting == 8)
        later = [place.knock() for _ in range(3)]
        place.refused(3)
        run_for(place.loop, 0.02)
        assert [is_cut(sock) for sock in silent] == [True] * 3 + [False] * 5
        assert not any(map(is_cut, later))

    @few
    def test_a_flood_from_one_host_drops_none_of_another(self, place: Place) -> None:
        waiting = [place.knock(f"127.0.0.{number}") for number in (2, 3, 4)]
        run_until(place.loop, lambda: place.listener.num_waiting == 3)
        for _ in range(100):
            place.knock("127.0.0.9")
        place.refused(95)
        run_for(place.loop, 0.02)
        assert not any(map(is_cut, waiting))
        assert place.listener.num_waiting == 8

    @few
    def test_a_member_is_never_dropped(self, place: Place) -> None:
        channel, heard = place.member()
        place.exchange(channel, heard)
        for _ in range(100):
            place.knock()
        place.refused(92)
        channel.send(CONTROL, b"still in")
        run_until(place.loop, lambda: len(place.heard[0].messages) == 2)
        assert heard.closed == place.heard[0].closed == []

    def test_silence_has_an_end(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(channel_module, "HANDSHAKE_S", 0.2)
        silent = [place.knock() for _ in range(3)]
        begin = time.monotonic()
        place.refused(3)
        assert 0.15 < time.monotonic() - begin < 1
        run_for(place.loop, 0.02)
        assert all(map(is_cut, silent))
        assert place.listener.num_waiting == 0


class TestNoDescriptors:
    @pytest.fixture
    def all_taken(self) -> Iterator[Callable[[], contextlib.ExitStack]]:
        """Return what takes all descriptors that the process may have, until it is closed."""
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.ExitStack() as opened:

            def take() -> contextlib.ExitStack:
                with contextlib.suppress(OSError):
                    while True:
                        opened.callback(os.close, os.dup(0))
                return opened

            resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
            yield take
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    def test_members_get_in_when_there_are_some_again(
        self, place: Place, all_taken: Callable[[], contextlib.ExitStack]
    ) -> None:
        channel, heard = place.member()
        opened = all_taken()
        begin = time.process_time()
        run_for(place.loop, 0.5)
        assert time.process_time() - begin < 0.25, "it asks again and again"
        assert len(place.notes) == 1
        assert "nobody can join at the moment: Too many open files" in place.notes[0]
        assert not channel.is_open
        opened.close()
        place.exchange(channel, heard)

    def test_who_only_waits_makes_room(
        self, place: Place, all_taken: Callable[[], contextlib.ExitStack]
    ) -> None:
        silent = place.knock()
        run_until(place.loop, lambda: place.listener.num_waiting == 1)
        channel, heard = place.member()
        all_taken()
        place.exchange(channel, heard)
        assert is_cut(silent)

    def test_it_can_be_closed_meanwhile(
        self, place: Place, all_taken: Callable[[], contextlib.ExitStack]
    ) -> None:
        place.knock()
        all_taken()
        run_until(place.loop, lambda: bool(place.notes))
        place.listener.close()
        run_for(place.loop, 2 * listener_module.RETRY_S)


class TestClose:
    def test_nobody_is_left(self, place: Place) -> None:
        silent = place.knock()
        channel, heard = place.member()
        place.exchange(channel, heard)
        run_until(place.loop, lambda: place.listener.num_waiting == 1)
        place.listener.close()
        place.listener.close()
        run_for(place.loop, 0.02)
        assert is_cut(silent)
        assert place.listener.num_waiting == 0
        assert place.notes == []
        with pytest.raises(ConnectionRefusedError):
            place.knock()

    def test_members_stay(self, place: Place) -> None:
        channel, heard = place.member()
        place.exchange(channel, heard)
        place.listener.close()
        channel.send(CONTROL, b"after")
        run_until(place.loop, lambda: len(place.heard[0].messages) == 2)


class TestBind:
    @pytest.mark.parametrize("address", [LOOPBACK, "::1"])
    def test_one_address_and_no_other(self, address: str) -> None:
        with bind(address, 0) as sock:
            assert sock.getsockname()[0] == address
            assert not sock.getblocking()
            assert not sock.get_inheritable()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.2", sock.getsockname()[1]))

    @pytest.mark.parametrize("address", ["0.0.0.0", "0", "::", "::0", "::ffff:0.0.0.0"])
    def test_all_addresses_only_when_asked(self, address: str) -> None:
        with pytest.raises(BindError, match=r"every address of this host.*name one address"):
            bind(address, 0)

    @pytest.mark.parametrize("address", ["0.0.0.0", "::"])
    def test_all_addresses_when_asked(self, address: str) -> None:
        with bind(address, 0, anywhere=True) as sock:
            assert sock.getsockname()[0] == address

    @pytest.mark.parametrize("address", ["", "localhost", "pod-0.job", "1.2.3.4.5", "a\0b", "1:2"])
    def test_names_are_no_addresses(self, address: str) -> None:
        with pytest.raises(BindError, match="no IP address"):
            bind(address, 0)

    @pytest.mark.parametrize("port", [-1, 65536])
    def test_a_port_that_is_none(self, port: int) -> None:
        with pytest.raises(BindError, match="from 0 to 65535"):
            bind(LOOPBACK, port)

    def test_an_address_of_another_host(self) -> None:
        with pytest.raises(BindError, match="no address of this host") as caught:
            bind("192.0.2.1", 0)  # RFC 5737: nobody has it
        assert caught.value.errno == errno.EADDRNOTAVAIL
        assert isinstance(caught.value, SettingError)

    def test_a_port_that_is_taken(self) -> None:
        with bind(LOOPBACK, 0) as sock:
            with pytest.raises(BindError, match="another program has that port") as caught:
                bind(LOOPBACK, sock.getsockname()[1])
            assert caught.value.errno == errno.EADDRINUSE

    def test_a_port_of_connections_that_have_ended(self) -> None:
        with bind(LOOPBACK, 0) as sock:
            port = sock.getsockname()[1]
            with socket.create_connection((LOOPBACK, port)) as client:
                sock.accept()[0].close()  # this side waits in TIME_WAIT
                assert client.recv(1) == b""
        bind(LOOPBACK, port).close()

    def test_a_port_that_this_user_may_not_have(self) -> None:
        first = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text("ascii")
        if int(first) == 0:
            pytest.skip("every user may have every port here")
        try:
            bind(LOOPBACK, 1).close()
        except BindError as error:
            assert "from 1024 on" in str(error)
        else:
            pytest.skip("this user may have every port")
