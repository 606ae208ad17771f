"""Ranks that are processes, in groups over the guest's RDMA device. No torch: it loads slowly.

A rank outlives its group, so that many groups cost few processes.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import rdmatrain

SCRIPT = Path(__file__).with_name("loop_rank.py")
ROOT = Path(rdmatrain.__file__).parents[1]
PORT = Path("/sys/class/infiniband/rxe0/ports/1")
NETDEV = "veth0"
ADDRESS = "10.9.0.1"
CLOSE_S = 2.0
LINE_S = 60.0  # until a rank says its next line: starting Python alone takes seconds
IPV4_GID = b"\0" * 10 + b"\xff\xff" + socket.inet_aton(ADDRESS)


def ipv4_index():
    """Of the GID over IPv4, or None; which index it gets changes with what was there before."""
    for path in (PORT / "gids").iterdir():
        if bytes.fromhex(path.read_text().strip().replace(":", "")) == IPV4_GID:
            return int(path.name)
    return None


def is_ready():
    state = PORT / "state"
    return state.exists() and "ACTIVE" in state.read_text() and ipv4_index() is not None


def wait_for_device(limit_s=20.0):
    """Until its port is up and has its IPv4 address: the kernel takes its time."""
    deadline = time.monotonic() + limit_s
    while not is_ready():
        assert time.monotonic() < deadline, command("rdma", "link") + command("ip", "addr")
        time.sleep(0.05)


def command(*argv):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stdout}{done.stderr}"
    return done.stdout


def resources():
    """What the kernel holds on the device for all processes, by kind; without its own."""
    (device,) = json.loads(command("rdma", "-j", "resource", "show", "rxe0"))
    return {kind: device[kind] for kind in ("pd", "cq", "mr", "qp")}


def listen_arg():
    return f"rails=rxe0/1/{ipv4_index()} addr={ADDRESS}"


class Rank:
    """A running loop_rank.py."""

    def __init__(self, prefix=()):
        self._rest = b""
        self.is_busy = False  # in a group whose end nobody has read
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(SCRIPT)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def write(self, message):
        self.process.stdin.write(
            (message if isinstance(message, str) else json.dumps(message)).encode() + b"\n"
        )
        self.process.stdin.flush()

    def says(self, limit_s):
        """Whether it has said another line, or ended, by then."""
        return b"\n" in self._rest or bool(select.select([self.process.stdout], [], [], limit_s)[0])

    def read(self, limit_s=LINE_S):
        """Its next line."""
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._rest:
            assert self.says(max(0.0, deadline - time.monotonic())), "the rank says nothing"
            more = os.read(self.process.stdout.fileno(), 1 << 16)
            assert more, f"the rank ended with {self.process.wait(10)}"
            self._rest += more
        line, self._rest = self._rest.split(b"\n", 1)
        return json.loads(line)

    def signal(self, which):
        self.process.send_signal(which)

    def is_alive(self):
        return self.process.poll() is None

    def end(self):
        """It has nothing left to do; its exit status."""
        self.process.stdin.close()
        return self.process.wait(20)

    def kill(self):
        """Whatever it does; also what is left to do for one that has ended."""
        self.process.kill()
        self.process.wait(20)
        self.process.stdin.close()
        self.process.stdout.close()


class Ranks:
    """The processes that groups are made of; those that a test killed, or left, are replaced."""

    def __init__(self):
        self.all = []

    def drop(self):
        """Those that can be in no other group."""
        for rank in [rank for rank in self.all if rank.is_busy or not rank.is_alive()]:
            rank.kill()
            self.all.remove(rank)

    def get(self, num):
        self.drop()
        while len(self.all) < num:
            self.all.append(Rank())
        return self.all[:num]

    def end(self):
        """All that live must end in good order."""
        self.drop()
        statuses = [rank.end() for rank in self.all]
        for rank in self.all:
            rank.kill()
        assert set(statuses) <= {0}, statuses


def introduce(ranks, count):
    """Makes a group of the ranks, which then connect, and reduce so many elements without end."""
    wait_for_device()
    common = {"world": len(ranks), "token": os.urandom(16).hex(), "count": count}
    for number, rank in enumerate(ranks):
        rank.is_busy = True
        rank.write({"rank": number, "arg": listen_arg(), **common})
    wires = [rank.read()["wire"] for rank in ranks]
    for rank in ranks:
        rank.write(wires)


def form(ranks, count):
    """As introduce, until all of them reduce."""
    introduce(ranks, count)
    for rank in ranks:
        assert rank.read() == {"running": True}


def read_end(rank):
    """How its group ended for a rank, which then gave back what it had of it, and at once."""
    end, closed = rank.read(), rank.read()
    rank.is_busy = False
    assert closed["leaked_fds"] == 0
    assert closed["closed_s"] < CLOSE_S
    return end


def part(ranks):
    """Ends a group in good order: rank 0 leaves, and the others see that."""
    ranks[0].write("stop")
    for number, rank in enumerate(ranks):
        end = read_end(rank)
        if number > 0:
            assert "rank 0 (process 0) has left the group" in end["errors"][0][1], end


def stop_and_continue(rank, seconds):
    rank.signal(signal.SIGSTOP)
    time.sleep(seconds)
    rank.signal(signal.SIGCONT)
