# SPDX-License-Identifier: Apache-2.0
"""The client of the job's store, against torch's own server, which is a program without Python."""

import threading
from collections.abc import Iterator

import pytest
from doctor_gangs import on_threads

from rdmatrain.doctor.gang.store import Part, StoreClient
from rdmatrain.errors import BootstrapError
from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.store import LOOPBACK, StoreServer


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    loop = Loop()
    server = StoreServer(loop, lambda reason: None)
    loop.run(lambda: server.ready)
    yield server.port
    server.close()
    loop.close()


@pytest.fixture
def client(port: int) -> Iterator[StoreClient]:
    made = StoreClient(LOOPBACK, port, 5.0)
    yield made
    made.close()


def test_what_is_set_is_what_is_got(client: StoreClient) -> None:
    for value in ("", "x", "ü" * 70000):
        client.set("key", value)
        assert client.get("key").decode() == value


def test_keys_are_there_when_all_of_them_are(client: StoreClient) -> None:
    client.set("one", "")
    assert client.check(["one"])
    assert not client.check(["one", "two"])
    client.set("two", "")
    assert client.check(["one", "two"])


def test_a_counter_counts_and_is_text_as_torchs_is(client: StoreClient) -> None:
    assert [client.add("count", 1), client.add("count", 41), client.add("count", 0)] == [1, 42, 42]
    assert client.get("count") == b"42"


def test_get_waits_for_another_client(client: StoreClient, port: int) -> None:
    other = StoreClient(LOOPBACK, port, 5.0)
    started = threading.Event()

    def later() -> None:
        started.wait(5)
        other.set("late", "came")

    def ask() -> bytes:
        started.set()
        return client.get("late")

    assert on_threads([later, ask])[1] == b"came"
    other.close()


def test_a_wait_has_an_end(port: int) -> None:
    hasty = StoreClient(LOOPBACK, port, 0.05)
    with pytest.raises(BootstrapError, match=r"was not told never in 0.05 s"):
        hasty.get("never")
    hasty.close()


def test_parts_have_keys_of_their_own(client: StoreClient) -> None:
    one, other = Part(client, "one/"), Part(Part(client, "oth"), "er/")
    one.set("key", "1")
    other.set("key", "2")
    assert (one.get("key"), other.get("key"), client.get("other/key")) == (b"1", b"2", b"2")
    assert one.add("n", 2) == 2 and not other.check(["n"]) and one.check(["n", "key"])


def test_a_store_that_is_not_there_is_named() -> None:
    with pytest.raises(BootstrapError, match=r"the job's store at 127.0.0.1:1 is gone"):
        StoreClient(LOOPBACK, 1, 1.0)


def test_a_store_that_ends_is_said_to_be_gone() -> None:
    loop = Loop()
    server = StoreServer(loop, lambda reason: None)
    loop.run(lambda: server.ready)
    client = StoreClient(LOOPBACK, server.port, 5.0)
    server.close()
    loop.close()
    with pytest.raises(BootstrapError, match=r"the job's store at .* is gone"):
        for _ in range(3):
            client.check(["x"])
    client.close()
