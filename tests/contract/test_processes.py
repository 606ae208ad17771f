"""Ranks that are processes, and what the others notice when one is killed."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from group import LISTENS

import rdmatrain

ROOT = str(Path(rdmatrain.__file__).parents[1])
SCRIPT = str(Path(__file__).with_name("rank_process.py"))
LINE_S = 30.0


class RankProcess:
    """A running rank_process.py."""

    def __init__(self, **settings):
        self.process = subprocess.Popen(
            [sys.executable, SCRIPT],
            env=os.environ | {"PYTHONPATH": ROOT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.write(settings)

    def write(self, message):
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def read(self):
        """Its next line."""
        ready, _, _ = select.select([self.process.stdout], [], [], LINE_S)
        assert ready, "the rank says nothing"
        return json.loads(self.process.stdout.readline())

    def stop(self):
        self.process.kill()
        self.process.wait(10)
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def start_ranks(real_transport):
    """Ranks as processes, which reduce in a loop."""
    ranks = []

    def start(world, count, pause_s=0.0):
        ((transport, arg),) = LISTENS[real_transport]
        common = {"world": world, "token": os.urandom(16).hex(), "count": count}
        common |= {"transport": transport, "arg": arg, "pause_s": pause_s}
        ranks.extend(RankProcess(rank=rank, **common) for rank in range(world))
        wires = [rank.read()["wire"] for rank in ranks]
        for rank in ranks:
            rank.write(wires)
        for rank in ranks:
            assert rank.read() == {"running": True}
        return ranks

    yield start
    for rank in ranks:
        rank.stop()


@pytest.mark.parametrize("count", [10, 300000])
@pytest.mark.parametrize("world", [2, 3])
def test_a_killed_rank_is_named_by_the_survivors_within_a_second(start_ranks, world, count):
    ranks = start_ranks(world, count)
    time.sleep(0.2)
    killed_at = time.monotonic()
    ranks[-1].process.send_signal(signal.SIGKILL)
    for number, rank in enumerate(ranks[:-1]):
        end = rank.read()
        seconds = end["at"] - killed_at
        sys.stdout.write(f"rank {number} noticed after {seconds:.3f} s: {end['text']}\n")
        assert end["status"] in ("PEER_LOST", "REMOTE_ERROR")
        assert f"rank {world - 1} (process {world - 1}) died" in end["text"]
        assert seconds < 3.0  # a second, and room for a slow machine
        assert rank.process.wait(10) == 0


def test_a_rank_that_dies_between_collectives_is_noticed_at_the_next_one(start_ranks):
    ranks = start_ranks(2, 10, pause_s=0.5)
    ranks[0].process.send_signal(signal.SIGKILL)
    end = ranks[1].read()
    assert end["status"] == "PEER_LOST"
    assert "rank 0 (process 0) died" in end["text"]


def test_a_stopped_rank_delays_the_others_and_harms_nobody(start_ranks):
    ranks = start_ranks(2, 10)
    ranks[1].process.send_signal(signal.SIGSTOP)
    ready, _, _ = select.select([ranks[0].process.stdout], [], [], 1.0)
    ranks[1].process.send_signal(signal.SIGCONT)
    assert not ready, "the other one gave up"
    time.sleep(0.3)
    assert [rank.process.poll() for rank in ranks] == [None, None]
