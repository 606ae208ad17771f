# SPDX-License-Identifier: Apache-2.0
"""Two NICs: each rank uses both, a message over the one and the next over the other."""

import time
from pathlib import Path

import group
import numpy as np
import pytest
from ranks import command, wait_for_device

from rdmatrain.comm import rdma
from rdmatrain.config import Settings
from rdmatrain.errors import CommError

SECOND, NETDEV, ADDRESS = "rxe1", "veth2", "10.9.1.1/24"
INFINIBAND = Path("/sys/class/infiniband")
BOUND_S = 3.0
COUNT = 200_000  # of float32: a few chunks for each rail


@pytest.fixture
def pair():
    """Two ranks over both NICs, made by calling it; a NIC stays as long as somebody has it open."""
    made = []

    def make():
        made.append(group.Group("verbs-rails-arena", 2))
        return made[0]

    yield make
    for comm in (comm for each in made for comm in each.comms):
        comm.close()


@pytest.fixture
def rails(device, monkeypatch):
    """What ranks listen on: both NICs, the second of which is there for the test."""
    wait_for_device()
    command("ip", "link", "add", NETDEV, "mtu", "9000", "type", "veth", "peer", "name", "veth3")
    command("ip", "link", "set", "veth3", "mtu", "9000", "up")
    command("ip", "addr", "add", ADDRESS, "dev", NETDEV)
    command("ip", "link", "set", NETDEV, "up")
    command("rdma", "link", "add", SECOND, "type", "rxe", "netdev", NETDEV)
    try:
        argument = listen_argument(f"{device},{SECOND}")
        monkeypatch.setitem(group.LISTENS, "verbs-rails-arena", [("verbs", argument)])
        yield device, SECOND
    finally:
        command("rdma", "link", "delete", SECOND)
        command("ip", "link", "delete", NETDEV)


def listen_argument(devices, limit_s=20.0):
    """Once both ports are up and have their IPv4 address: the kernel takes its time."""
    settings = Settings(devices=devices)
    deadline = time.monotonic() + limit_s
    while True:
        found = rdma.find_rails(settings)
        kinds = [rail.gids[0].kind for rail in found.rails]
        if len(found.rails) == 2 and len(set(kinds)) == 1:
            return rdma.listen_argument(found.rails, group.LOOPBACK, settings)
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def sent_packets(device):
    return int((INFINIBAND / device / "ports/1/hw_counters/sent_pkts").read_text())


def test_both_carry_their_half(rails, pair):
    before = [sent_packets(device) for device in rails]
    data = [np.arange(COUNT, dtype=np.float32) * (rank + 1) for rank in range(2)]

    def body(comm, rank):
        out = np.empty(COUNT, np.float32)
        group.call(comm, "all_reduce", "float32", in_=data[rank], out=out)
        return out, comm.stats()[1 - rank]["staged_bytes"]

    for out, staged in pair().run(body):
        assert np.array_equal(out, data[0] + data[1])
        assert staged == 0
    first, second = (sent_packets(device) - was for device, was in zip(rails, before, strict=True))
    assert min(first, second) > 0.3 * (first + second), (first, second)


def test_the_loss_of_one_is_named(rails, pair):
    def body(comm, rank):
        values = np.ones(COUNT, np.float32)
        out = np.empty_like(values)
        group.call(comm, "all_reduce", "float32", in_=values, out=out)
        if rank == 0:
            command("ip", "link", "set", NETDEV, "down")
        began = time.monotonic()
        with pytest.raises(CommError) as lost:
            while time.monotonic() - began < 2 * BOUND_S:
                group.call(comm, "all_reduce", "float32", in_=values, out=out)
        return time.monotonic() - began, str(lost.value)

    told = pair().run(body)
    assert max(seconds for seconds, _ in told) < BOUND_S
    # Who fails first ends the connection, which the other one may see before its own port.
    assert any(f"{SECOND}/1" in text and "the port is down" in text for _, text in told), told
