"""What ends or disturbs ranks that reduce over an RDMA device, as each of them tells it.

VM_FAULT_RUNS is how often each fault happens, by default once. What each rank said, and after how
long, is appended to out/vm/faults.jsonl.
"""

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ranks import (
    ADDRESS,
    NETDEV,
    ROOT,
    Rank,
    Ranks,
    command,
    form,
    introduce,
    listen_arg,
    part,
    read_end,
    resources,
    stop_and_continue,
    wait_for_device,
)

from rdmatrain import _core

RUNS = int(os.environ.get("VM_FAULT_RUNS", "1"))
LOG = ROOT / "out" / "vm" / "faults.jsonl"
BOUND_S = 3.0
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
SMALL, LARGE = 10, 262144  # elements of 4 bytes

pytestmark = pytest.mark.timeout(120 + 30 * RUNS)


@pytest.fixture(scope="module")
def pool(device):
    ranks = Ranks()
    yield ranks
    ranks.end()


@pytest.fixture(autouse=True)
def device_works_afterwards(pool):
    """Nothing may be left on the device of those that were there before."""
    before = resources()
    yield
    pool.drop()
    wait_for_device()
    assert resources() == before


def record(fault, **fields):
    line = json.dumps({"fault": fault, **fields})
    sys.stdout.write(line + "\n")
    with LOG.open("a") as file:
        file.write(line + "\n")


def expect_end(fault, ranks, started, words):
    """Each of these ranks, by number, ends all it had pending in time, and says why."""
    for number, rank in ranks.items():
        end = read_end(rank)
        seconds = end["at"] - started
        record(fault, rank=number, seconds=round(seconds, 3), error=end["errors"][-1])
        assert end["errors"]
        assert seconds < BOUND_S
        for status, text in end["errors"]:
            assert status in ("PEER_LOST", "IO_ERROR", "REMOTE_ERROR"), text
            assert f"rank {number} was in all_reduce" in text or status == "REMOTE_ERROR"
            assert "(process " in text
            assert "rxe0/1: " in text
            assert any(word in text for word in words), text


@pytest.mark.parametrize(("world", "count"), [(2, SMALL), (2, LARGE), (3, LARGE)])
def test_a_killed_rank(pool, world, count):
    for _ in range(RUNS):
        ranks = pool.get(world)
        form(ranks, count)
        time.sleep(0.2)
        started = time.monotonic()
        ranks[-1].signal(signal.SIGKILL)
        ranks[-1].process.wait(20)
        survivors = dict(enumerate(ranks[:-1]))
        # The kernel may take the queue pair first: that the own one broke then comes before why.
        words = ["its process is gone", "retry counter"]
        expect_end("kill -9", survivors, started, words)


@contextlib.contextmanager
def link_down():
    """Without a process for it, so that it is clear when."""
    with socket.socket() as sock:
        asked = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sH14x", NETDEV.encode(), 0))
        flags = struct.unpack("16sH14x", asked)[1] & ~IFF_UP
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", NETDEV.encode(), flags))
    try:
        yield
    finally:
        command("ip", "link", "set", NETDEV, "up")


@pytest.mark.parametrize("count", [SMALL, LARGE])
def test_a_link_that_goes_down(pool, count):
    for _ in range(RUNS):
        ranks = pool.get(2)
        form(ranks, count)
        started = time.monotonic()
        with link_down():
            expect_end("ip link set down", dict(enumerate(ranks)), started, ["the port is down"])


@contextlib.contextmanager
def device_deleted():
    """Since when it can be opened no more. The command waits until nobody has it open."""
    (uverbs,) = Path("/sys/class/infiniband_verbs").glob("uverbs*")
    process = subprocess.Popen(["rdma", "link", "delete", "rxe0"])
    try:
        while uverbs.exists():
            time.sleep(0.01)
        yield time.monotonic()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait(20)
        command("rdma", "link", "add", "rxe0", "type", "rxe", "netdev", NETDEV)
        wait_for_device()


@pytest.mark.parametrize("count", [SMALL, LARGE])
def test_a_device_that_is_deleted(pool, count):
    for _ in range(RUNS):
        ranks = pool.get(2)
        form(ranks, count)
        with device_deleted() as started:
            expect_end(
                "rdma link delete", dict(enumerate(ranks)), started, ["the device was removed"]
            )


@pytest.mark.parametrize("count", [SMALL, LARGE])
def test_an_address_that_is_removed(pool, count):
    """The kernel keeps a removed GID for who uses it, but finds no route from its address."""
    for _ in range(RUNS):
        ranks = pool.get(2)
        form(ranks, count)
        command("ip", "addr", "del", f"{ADDRESS}/24", "dev", NETDEV)
        started = time.monotonic()
        try:
            words = ["is gone", "error", "exceeded"]
            expect_end("ip addr del", dict(enumerate(ranks)), started, words)
        finally:
            command("ip", "addr", "add", f"{ADDRESS}/24", "dev", NETDEV)


def test_a_stopped_rank_is_waited_for(pool):
    ranks = pool.get(2)
    form(ranks, LARGE)
    stop_and_continue(ranks[1], 5.0)
    assert not ranks[0].says(2.0), ranks[0].read()
    part(ranks)


def test_little_memory_may_be_locked(pool):
    """Root is exempt from the limit, as long as it has CAP_IPC_LOCK."""
    for _ in range(RUNS):
        poor = Rank(["prlimit", "--memlock=65536", "setpriv", "--bounding-set=-ipc_lock"])
        ranks = [poor, *pool.get(1)]
        try:
            introduce(ranks, SMALL)
            errors = [read_end(rank)["errors"][0] for rank in ranks]
            for number in range(2):
                record("memlock of 64 KiB", rank=number, error=errors[number])
            assert errors[0][0] == "MemoryError"
            assert "with rxe0: the limit of locked memory is 64 KiB" in errors[0][1]
            assert "ulimit -l unlimited" in errors[0][1]
            assert "rank 0" in errors[1][1]
            assert poor.end() == 0
        finally:
            poor.kill()


def test_more_ranks_than_fit_into_a_completion_queue(device):
    (limit,) = re.findall(r"max_cqe:\s+(\d+)", command("ibv_devinfo", "-v", "-d", device))
    comm = _core.Comm(0, 1 + int(limit) // 100, bytes(16))
    with pytest.raises(MemoryError) as caught:
        comm.listen("verbs", listen_arg())
    comm.close()
    numbers = re.search(r"queue of (\d+) entries, RDMA device rxe0 has (\d+)", str(caught.value))
    assert numbers is not None, caught.value
    assert int(numbers[1]) > int(numbers[2]) == int(limit)
