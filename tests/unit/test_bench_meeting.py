# SPDX-License-Identifier: Apache-2.0
"""Ranks without torch that tell each other what they must know."""

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from rdmatrain.bench import agents, meeting
from rdmatrain.bench.meeting import Meeting
from rdmatrain.errors import BootstrapError

HERE, TOKEN = "127.0.0.1", "the token of a job"


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        return probe.getsockname()[1]


def together(port: int, ranks: int, body) -> list:
    """What each rank's body returns, which has its number and its meeting."""

    def one(rank: int):
        met = Meeting(rank, ranks, HERE, port, TOKEN)
        try:
            return body(rank, met)
        finally:
            met.close()

    with ThreadPoolExecutor(ranks) as pool:
        return [each.result(60) for each in [pool.submit(one, rank) for rank in range(ranks)]]


def test_what_each_says_goes_to_all_in_the_order_of_ranks(port):
    def body(rank, met):
        return met.all_gather({"rank": rank}), met.all_gather(rank * rank)

    every = together(port, 4, body)
    assert every == [([{"rank": rank} for rank in range(4)], [0, 1, 4, 9])] * 4


def test_one_rank_meets_itself(port):
    assert together(port, 1, lambda rank, met: met.all_gather("alone")) == [["alone"]]


@pytest.mark.parametrize(
    "said",
    [
        {"rank": 1, "token": "another"},
        {"rank": 7, "token": TOKEN},
        {"rank": 0, "token": TOKEN},
        {"rank": [1], "token": TOKEN},
        ["rank", 1],
        None,
    ],
)
def test_a_stranger_is_no_rank(port, said):
    at_the_door = threading.Event()

    def join(rank):
        with closing(Meeting(rank, 2, HERE, port, TOKEN)) as met:
            return met.all_gather(rank)

    def stranger():
        while True:
            try:
                sock = socket.create_connection((HERE, port), 10)
                break
            except ConnectionRefusedError:
                pass
        with sock:
            sock.sendall(json.dumps(said).encode() + b"\n")
            at_the_door.set()
            assert sock.recv(1) == b""

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(join, 0)
        other = pool.submit(stranger)
        assert at_the_door.wait(30)
        second = pool.submit(join, 1)
        assert first.result(60) == second.result(60) == [0, 1]
        other.result(60)


def test_strangers_who_say_nothing_keep_nobody_waiting(port, monkeypatch):
    monkeypatch.setattr(agents, "HEAR_S", 60.0)

    def join(rank):
        with closing(Meeting(rank, 2, HERE, port, TOKEN)) as met:
            return met.all_gather(rank)

    with ThreadPoolExecutor(2) as pool, ExitStack() as strangers:
        first = pool.submit(join, 0)
        for said in (b"", b"", b"half of a li"):
            while True:
                try:
                    stranger = socket.create_connection((HERE, port), 10)
                    break
                except ConnectionRefusedError:
                    pass
            strangers.enter_context(stranger).sendall(said)
        second = pool.submit(join, 1)
        assert first.result(30) == second.result(30) == [0, 1]


def test_no_call_outlasts_the_meeting(monkeypatch):
    limits = []

    def refuse(_, timeout):
        limits.append(timeout)
        raise ConnectionRefusedError

    monkeypatch.setattr(meeting, "MEET_S", 0.2)
    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(BootstrapError):
        Meeting(1, 2, HERE, 1, TOKEN)
    assert limits == sorted(limits, reverse=True)
    assert limits[-1] < 0.2


def test_a_rank_that_hears_nothing_is_named(port, monkeypatch):
    def broken(_):
        raise BrokenPipeError

    def body(rank, met):
        if rank == 0:
            monkeypatch.setattr(met._lines[1], "say", broken)
            with pytest.raises(BootstrapError, match="rank 1 hears nothing"):
                met.all_gather(rank)
        else:
            with pytest.raises(BootstrapError, match="rank 0 has ended"):
                met.all_gather(rank)

    together(port, 2, body)


def test_who_is_missing_is_named(port, monkeypatch):
    monkeypatch.setattr(meeting, "MEET_S", 0.2)
    with pytest.raises(BootstrapError, match=f"rank 1, 2 has not come to {HERE}:{port} within"):
        Meeting(0, 3, HERE, port, TOKEN)


def test_a_rank_zero_that_is_not_there_is_named(port, monkeypatch):
    monkeypatch.setattr(meeting, "MEET_S", 0.2)
    with pytest.raises(BootstrapError, match=f"rank 0, at {HERE}:{port}: .*refused"):
        Meeting(1, 2, HERE, port, TOKEN)


def test_a_rank_that_ends_is_named(port):
    def body(rank, met):
        if rank == 1:
            return ""
        with pytest.raises(BootstrapError) as failed:
            met.all_gather(rank)
        return str(failed.value)

    first, _, third = together(port, 3, body)
    assert first == "rank 1 has ended"
    assert "rank 0" in third
