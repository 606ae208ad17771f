# SPDX-License-Identifier: Apache-2.0
"""torch's own clients and groups over a door, a tunnel and a room."""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist
from integration_jobs import Ended, finish, nothing_left_behind, start, write_worker
from store_nodes import TwoNodes, two_nodes

PER_NODE = 2
ALL_REDUCE = """
dist.init_process_group(os.environ["BACKEND"])
x = torch.full((1000,), RANK + 1.0)
dist.all_reduce(x)
everybody = [None] * WORLD
dist.all_gather_object(everybody, RANK)
halves = [dist.new_group(ranks) for ranks in ([0, 1], [2, 3])]
y = torch.ones(3)
dist.all_reduce(y, group=halves[RANK // 2])
note(sum=x[0].item(), everybody=everybody, half=y[0].item())
dist.destroy_process_group()
"""


@pytest.fixture
def nodes() -> Iterator[TwoNodes]:
    with two_nodes() as found:
        yield found


def client(port: int, timeout_s: float = 20) -> dist.TCPStore:
    return dist.TCPStore("127.0.0.1", port, timeout=timedelta(seconds=timeout_s))


def run_ranks(nodes: TwoNodes, worker: str, env: dict[str, str]) -> list[Ended]:
    world = 2 * PER_NODE
    return finish(
        [
            start(
                [sys.executable, worker],
                env
                | {
                    "RANK": str(rank),
                    "WORLD_SIZE": str(world),
                    "LOCAL_RANK": str(rank % PER_NODE),
                    "LOCAL_WORLD_SIZE": str(PER_NODE),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(nodes.room.port if rank < PER_NODE else nodes.door.port),
                    "TORCHELASTIC_USE_AGENT_STORE": "True",
                },
            )
            for rank in range(world)
        ]
    )


@pytest.mark.parametrize("backend", ["gloo", "rdmatrain"])
def test_a_group_of_two_nodes_forms_through_door_and_room(
    nodes: TwoNodes, tmp_path: Path, backend: str
) -> None:
    worker = write_worker(tmp_path, ALL_REDUCE)
    with nothing_left_behind() as env:
        secret = {"RDMATRAIN_SECRET": "sixteen bytes or more"}
        ended = run_ranks(nodes, worker, env | secret | {"BACKEND": backend})
    for result in ended:
        assert result.code == 0, result.out
        assert result.of(0) == {"sum": 10.0, "everybody": [0, 1, 2, 3], "half": 2.0}
    assert nodes.leader.notes == nodes.member.notes == []


def test_values_of_megabytes_pass_in_both_directions(nodes: TwoNodes) -> None:
    near, far = client(nodes.room.port), client(nodes.door.port)
    value = os.urandom(7 << 20)
    near.set("down", value)
    far.set("up", value[::-1])
    assert far.get("down") == value
    assert near.get("up") == value[::-1]


def test_prefixes_counters_and_queues_work(nodes: TwoNodes) -> None:
    near, far = client(nodes.room.port), client(nodes.door.port)
    for attempt in range(2):
        one, two = (dist.PrefixStore(f"attempt_{attempt}", store) for store in (near, far))
        assert two.add("n", 2) == 2
        assert one.add("n", 3) == 5
        two.queue_push("q", "item")
        assert one.queue_pop("q") == b"item"


def test_a_wait_through_the_door_ends_when_the_key_comes_or_the_time_is_up(
    nodes: TwoNodes,
) -> None:
    near, far = client(nodes.room.port), client(nodes.door.port)
    began = time.monotonic()
    with pytest.raises(dist.DistStoreError, match="timeout"):
        far.wait(["never"], timedelta(seconds=0.3))
    assert 0.25 < time.monotonic() - began < 3
    timer = threading.Timer(1.5, near.set, ("late", "yes"))
    timer.start()
    far.wait(["late"], timedelta(seconds=20))
    timer.join()
    assert far.get("late") == b"yes"


def test_the_next_round_has_an_empty_store_and_no_old_clients(nodes: TwoNodes) -> None:
    near, far = client(nodes.room.port), client(nodes.door.port)
    far.set("old", "1")
    old_port = nodes.room.port
    nodes.next_round()
    for old in (near, far):
        with pytest.raises(dist.DistError):
            old.get("old")
    assert nodes.room.port != old_port
    for store in (client(nodes.door.port), client(nodes.room.port)):
        assert not store.check(["old"])


def test_a_store_that_is_killed_is_missed_at_once(nodes: TwoNodes) -> None:
    far = client(nodes.door.port)
    os.kill(nodes.room.pid, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(dist.DistError):
        far.get("x")
    assert time.monotonic() - began < 2
    while not nodes.leader.notes and time.monotonic() - began < 5:
        time.sleep(0.01)
    assert nodes.leader.notes == ["the job's store has ended"]
    assert not nodes.room.alive
    with socket.create_connection(("127.0.0.1", nodes.door.port), timeout=5) as late:
        late.settimeout(5)
        assert late.recv(1) == b""


# A client without torch, as a user: it sets "planted", and asks for "hidden"; torch begins keys so.
CLIENT = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
answer = b""
with socket.socket() as sock:
    sock.settimeout(20)
    try:
        sock.connect(("127.0.0.1", int(sys.argv[1])))
        sock.sendall(bytes.fromhex(sys.argv[3]))
        answer = sock.recv(100)
    except ConnectionError:
        pass
print(answer.hex())
"""
VALIDATE, SET, GET = b"\0", b"\1", b"\3"
STRANGER = 54321


def text(value: bytes) -> bytes:
    return struct.pack("=Q", len(value)) + value


def can_be(user: int) -> bool:
    """Whether this process can become that user: one that its user namespace has."""
    rows = [map(int, row.split()) for row in Path("/proc/self/uid_map").read_text().splitlines()]
    return os.geteuid() == 0 and any(first <= user < first + n for first, _, n in rows)


def ask_as(user: int, port: int) -> bytes:
    """What the store answers; nothing when the connection is closed."""
    said = VALIDATE + struct.pack("=I", 0x3C85F7CE)
    said += SET + text(b"/planted") + text(b"x") + GET + text(b"/hidden")
    command = [sys.executable, "-c", CLIENT, str(port), str(user), said.hex()]
    return bytes.fromhex(subprocess.check_output(command, text=True, timeout=60))


@pytest.mark.skipif(not can_be(STRANGER), reason="only root can be a user that there is")
@pytest.mark.parametrize("at", ["room", "door"])
def test_another_user_neither_reads_nor_writes(capfd: pytest.CaptureFixture[str], at: str) -> None:
    with two_nodes() as nodes:  # here, so that the store's stderr is captured
        port = nodes.room.port if at == "room" else nodes.door.port
        own = client(nodes.room.port)
        own.set("hidden", "value")
        for _ in range(2):
            assert ask_as(STRANGER, port) == b""
        assert not own.check(["planted"])
        # The same bytes of this user's are understood.
        assert ask_as(0, port) == text(b"value")
        assert own.check(["planted"])
        said = capfd.readouterr().err if at == "room" else "\n".join(nodes.member.notes)
        assert said.count(f"user {STRANGER} was kept out of the job's store") == 1


def test_the_store_dies_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    code = """if True:
        import os, signal
        from rdmatrain.launcher.loop import Loop
        from rdmatrain.launcher.store import StoreServer
        loop = Loop()
        server = StoreServer(loop, print)
        loop.run(lambda: server.ready)
        print(server.pid, server.port, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with nothing_left_behind() as env:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | env,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid, port = map(int, done.stdout.split())
    assert pid > 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_signals_of_the_terminal_leave_the_store_alone(nodes: TwoNodes) -> None:
    near = client(nodes.room.port)  # it is up, so it has said what it ignores
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        os.kill(nodes.room.pid, number)
    near.set("saved", "yes")
    assert near.get("saved") == b"yes"
