"""Flood a gang's listener with strangers, while members come, go and exchange messages.

Three processes: the listener, the members and the flood. One member exchanges numbered messages
all the time; another one joins every ``JOIN_S``, from the same address as a part of the flood. Each
kind of stranger has its turn. What is looked at: no message is lost, every member gets in, memory
and descriptors of the listener stay bounded.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import append_records, where

from rdmatrain.launcher.channel import CONTROL, Channel
from rdmatrain.launcher.listener import Listener, bind
from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.proof import prove

SECRET = b"the secret of the flooded job"
JOB = "flooded job"
LOOPBACK = "127.0.0.1"
NUM_HOSTS = 8  # that the flood comes from, the members' one among them
NUM_HELD = 1500  # connections that slow strangers keep open
EXCHANGE_S = 0.002
JOIN_S = 0.05
TURN_S = 0.5  # at least, for each kind of stranger
PATIENCE_S = 10.0
MAX_GROWTH_MIB = 16.0
MAX_OTHER_DESCRIPTORS = 32


def main() -> int:
    """Run the flood; 0 if everything held."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=100_000, help="of strangers")
    parser.add_argument("--json", type=Path, help="append records to this file")
    parser.add_argument("--role", choices=("listener", "members"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role == "listener":
        return run_listener()
    if args.role == "members":
        return run_members(args.port)
    return run_flood(args.connections, args.json)


def run_flood(num_connections: int, json_file: Path | None) -> int:
    """Start the others, flood, print what they saw."""
    with child("listener") as listener:
        port = ask(listener)["port"]
        with child("members", "--port", str(port)) as members:
            ask(members)
            flood = Flood(port)
            records = []
            for kind, strangers in flood.kinds().items():
                start, num, seconds = time.perf_counter(), 0, 0.0
                while num < num_connections / len(flood.kinds()) or seconds < TURN_S:
                    strangers()
                    num += 1
                    seconds = time.perf_counter() - start
                flood.let_go()
                saw = ask(listener, "?") | ask(members, "?")
                records.append({"kind": kind, "connections": num, "seconds": seconds} | saw)
                print_record(records[-1], header=len(records) == 1)
    if json_file:
        append_records(json_file, [record | where() for record in records])
    faults = verdict(records)
    print("\n".join(faults) or "PASS: nothing lost, everybody in, memory and descriptors bounded")
    return bool(faults)


def print_record(record: dict[str, Any], *, header: bool) -> None:
    """Print a line of the table; times in milliseconds, memory in MiB."""
    columns = {
        "strangers": f"{record['kind']:>14}",
        "number": f"{record['connections']:>7}",
        "1/s": f"{record['connections'] / record['seconds']:>6.0f}",
        "refused": f"{record['refused']:>7}",
        "RSS": f"{record['rss_mib']:>6.1f}",
        "fds": f"{record['descriptors']:>4}",
        "messages": f"{record['messages']:>8}",
        "lost": f"{record['lost']:>4}",
        "median ms": f"{record['median_ms']:>9.2f}",
        "max ms": f"{record['max_ms']:>7.1f}",
        "joined": f"{record['joined']:>6}",
        "retries": f"{record['retries']:>7}",
        "slowest join ms": f"{record['join_ms']:>15.1f}",
    }
    if header:
        print("  ".join(name.rjust(len(text)) for name, text in columns.items()))
    print("  ".join(columns.values()), flush=True)


def verdict(records: list[dict[str, Any]]) -> list[str]:
    """Return what did not hold."""
    growth = records[-1]["rss_mib"] - records[0]["first_rss_mib"]
    most = max(record["descriptors"] for record in records)
    allowed = records[0]["max_waiting"] + MAX_OTHER_DESCRIPTORS
    checks = {
        f"messages were lost: {[record['lost'] for record in records]}": any(
            record["lost"] for record in records
        ),
        "a member did not get in": not all(record["joined"] for record in records),
        f"memory grew by {growth:.1f} MiB": growth > MAX_GROWTH_MIB,
        f"{most} descriptors, over {allowed}": most > allowed,
    }
    return [f"FAIL: {text}" for text, failed in checks.items() if failed]


class Flood:
    """All kinds of strangers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._chance = random.Random(8)
        self._number = 0
        self._held: deque[socket.socket] = deque()
        self._recorded = b""
        with self._connect() as sock:
            for data in shake_hands(sock):
                self._recorded += data

    def kinds(self) -> dict[str, Callable[[], None]]:
        """Return them by name."""
        return {
            "random bytes": lambda: self._say(self._chance.randbytes(self._chance.randrange(200))),
            "half a hello": lambda: self._say(self._recorded[: self._chance.randrange(1, 75)]),
            "wrong secret": lambda: self._say(self._recorded[:43] + self._chance.randbytes(32)),
            "replayed": lambda: self._say(self._recorded),
            "slow": self._hold,
            "reset": self._reset,
            "too long frame": self._too_long,
        }

    def let_go(self) -> None:
        """Close what slow strangers hold."""
        while self._held:
            self._held.popleft().close()

    def _connect(self) -> socket.socket:
        self._number += 1
        sock = socket.socket()
        try:
            sock.settimeout(PATIENCE_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Else the ports of one address would not do.
            sock.bind((f"127.0.0.{1 + self._number % NUM_HOSTS}", 0))
            sock.connect((LOOPBACK, self._port))
        except OSError:
            sock.close()
            raise
        return sock

    def _say(self, data: bytes) -> None:
        with self._connect() as sock, contextlib.suppress(OSError):
            sock.sendall(data)
            if self._number % 2:  # the other half does not wait for an answer
                sock.shutdown(socket.SHUT_WR)
                sock.recv(256)

    def _hold(self) -> None:
        sock = self._connect()
        with contextlib.suppress(OSError):
            sock.send(self._recorded[:1])
        self._held.append(sock)
        if len(self._held) > NUM_HELD:
            self._held.popleft().close()

    def _reset(self) -> None:
        with self._connect() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _too_long(self) -> None:
        with self._connect() as sock, contextlib.suppress(OSError):
            for _ in shake_hands(sock):
                pass
            sock.sendall(struct.pack("!IB", 0xFFFFFFFF, CONTROL))
            sock.recv(256)


def shake_hands(sock: socket.socket) -> Iterator[bytes]:
    """Prove the secret over a socket that blocks; gives what was sent."""
    steps = prove(SECRET, JOB, dialed=True)
    step = next(steps)
    while True:
        sock.sendall(step.send)
        yield step.send
        data = b""
        while len(data) < step.need:
            more = sock.recv(step.need - len(data))
            if not more:
                return
            data += more
        try:
            step = steps.send(data)
        except StopIteration:
            return


class Echo:
    """The handler of the listener's channels: says what it hears."""

    def on_open(self, channel: Channel) -> None:
        """Do nothing yet."""

    def on_message(self, channel: Channel, kind: int, payload: bytes) -> None:
        """Say it back."""
        channel.send(kind, payload)

    def on_close(self, channel: Channel, reason: str) -> None:
        """Let it go."""


def run_listener() -> int:
    """Listen, and tell what it costs when asked."""
    loop = Loop()
    listener = Listener(
        loop, bind(LOOPBACK, 0), SECRET, context=JOB, handler_for=lambda _channel: Echo()
    )
    most = [0]
    first_rss_mib = rss_mib()

    def look() -> None:
        most[0] = max(most[0], len(list(Path("/proc/self/fd").iterdir())))
        loop.later(0.05, look)

    def costs() -> dict[str, Any]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "rss_mib": rss_mib(),
            "first_rss_mib": first_rss_mib,
            "descriptors": most[0],
            "refused": listener.num_refused,
            "max_waiting": listener.max_waiting,
            "listener_cpu_s": usage.ru_utime + usage.ru_stime,
        }

    look()
    answer(loop, {"port": listener.sock.getsockname()[1]}, costs)
    listener.close()
    return 0


class Members:
    """One that exchanges messages, and those that come and go."""

    def __init__(self, loop: Loop, port: int) -> None:
        self._loop, self._port = loop, port
        self._number = self._asked = self._lost = self._joined = self._retries = 0
        self._times: list[float] = []
        self._join_times: list[float] = []
        self._sent = time.perf_counter()
        self._channel = self._dial(self)
        self._next_number()
        loop.later(JOIN_S, self._join)

    def on_open(self, channel: Channel) -> None:
        """Do nothing yet."""

    def on_message(self, channel: Channel, kind: int, payload: bytes) -> None:
        """Check the answer, and soon ask again."""
        self._lost += payload != self._number.to_bytes(64, "big")
        self._times.append(time.perf_counter() - self._sent)
        self._loop.later(EXCHANGE_S, self._next_number)

    def on_close(self, channel: Channel, reason: str) -> None:
        """Count what will not come any more."""
        print(f"the member was dropped: {reason}", file=sys.stderr)
        self._lost += 1

    def saw(self) -> dict[str, Any]:
        """Return what there was since it was asked last."""
        times, joins = self._times or [0.0], self._join_times or [0.0]
        result = {
            "messages": len(self._times),
            "lost": self._lost,
            "median_ms": 1000 * statistics.median(times),
            "max_ms": 1000 * max(*times, time.perf_counter() - self._sent),
            "joined": len(self._join_times),
            "retries": self._retries,
            "join_ms": 1000 * max(joins),
        }
        self._times, self._join_times, self._lost, self._retries = [], [], 0, 0
        return result

    def joined(self, seconds: float) -> None:
        """Take note of one that has come and gone; soon comes another."""
        self._join_times.append(seconds)
        self._loop.later(JOIN_S, self._join)

    def retry(self, start: float) -> None:
        """Let a member that was turned away try again."""
        self._retries += 1
        self._loop.later(0.01, lambda: self._join(start))

    def _next_number(self) -> None:
        self._number += 1
        self._sent = time.perf_counter()
        self._channel.send(CONTROL, self._number.to_bytes(64, "big"))

    def _join(self, start: float = 0.0) -> None:
        self._dial(Visitor(self, start or time.perf_counter()))

    def _dial(self, handler: Any) -> Channel:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex((LOOPBACK, self._port))
        return Channel(self._loop, sock, SECRET, dialed=True, context=JOB, handler=handler)


class Visitor:
    """A member that joins, hears itself, and leaves."""

    def __init__(self, members: Members, start: float) -> None:
        self._members, self._start = members, start

    def on_open(self, channel: Channel) -> None:
        """Say something."""
        channel.send(CONTROL, b"here")

    def on_message(self, channel: Channel, kind: int, payload: bytes) -> None:
        """Leave when it has come back."""
        self._members.joined(time.perf_counter() - self._start)
        self._start = 0.0
        channel.close("seen enough")

    def on_close(self, channel: Channel, reason: str) -> None:
        """Come again, if it did not get in."""
        if self._start:
            self._members.retry(self._start)


def run_members(port: int) -> int:
    """Exchange messages, and tell how that goes when asked."""
    loop = Loop()
    members = Members(loop, port)
    answer(loop, {}, members.saw)
    return 0


def answer(loop: Loop, first: dict[str, Any], saw: Callable[[], dict[str, Any]]) -> None:
    """Run the loop; answer each byte on stdin with a line of JSON, until there are no more."""
    over: list[bool] = []

    def asked() -> None:
        if os.read(0, 1):
            print(json.dumps(saw()), flush=True)
        else:
            over.append(True)

    loop.watch(0, asked)
    print(json.dumps(first), flush=True)
    loop.run(lambda: bool(over))


@contextlib.contextmanager
def child(role: str, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run this script in another role; it ends with its stdin."""
    command = [sys.executable, __file__, "--role", role, *args]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            assert process.stdin
            process.stdin.close()
            process.wait(PATIENCE_S)


def ask(process: subprocess.Popen[bytes], question: str = "") -> dict[str, Any]:
    """Return a child's next answer."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(question.encode())
    process.stdin.flush()
    return dict(json.loads(process.stdout.readline()))


def rss_mib() -> float:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize() / (1 << 20)


if __name__ == "__main__":
    sys.exit(main())
