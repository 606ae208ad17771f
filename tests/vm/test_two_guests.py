"""Two guests are two hosts: own kernels, own RDMA devices, and one can lose its power."""

import re
import time

import pytest
from vm_guest import GuestLostError

# Two boots, emulated, perhaps beside other work.
pytestmark = pytest.mark.timeout(900)

# -u 21 waits 8.6 s for each answer: an emulated host that gets no CPU for a while is not dead.
WRITE_BW = ["ib_write_bw", "-b", "-d", "rxe0", "-x", "1", "-u", "21", "-s", "1048576"]
MIB_PER_S = re.compile(r"^ 1048576 +\d+ +([0-9.]+) +([0-9.]+)", re.MULTILINE)


def test_rdma_works_between_them_until_one_is_gone(hosts):
    left, right = hosts
    for guest in hosts:
        assert re.search(r"active_mtu:\s+4096", guest.check(["ibv_devinfo", "-d", "rxe0"]))
    boots = [guest.check(["cat", "/proc/sys/kernel/random/boot_id"]) for guest in hosts]
    assert boots[0] != boots[1]

    server = left.start([*WRITE_BW, "-n", "10"])
    wait_for_listener(left)
    client = right.run([*WRITE_BW, "-n", "10", "10.9.0.1"], timeout_s=200)
    assert client.status == 0, client.output
    assert server.wait(60).status == 0, server.output
    assert re.search(r"Mtu\s+: 4096", client.output), client.output
    row = MIB_PER_S.search(client.output)
    assert row is not None, client.output
    assert float(row[2]) > 0

    endless = left.start([*WRITE_BW, "-D", "120"])
    wait_for_listener(left)
    victim = right.start([*WRITE_BW, "-D", "120", "10.9.0.1"])
    wait_for_traffic(left)
    start = time.monotonic()
    assert not victim.over, victim.output
    right.power_cut()
    with pytest.raises(GuestLostError, match="guest right died"):
        victim.wait(20)
    assert time.monotonic() - start < 10
    # Nobody tells the survivor: its link stays up, as at a switch.
    assert left.check(["cat", "/sys/class/net/eth0/carrier"]).strip() == "1"
    assert "ACTIVE" in left.check(["cat", "/sys/class/infiniband/rxe0/ports/1/state"])
    endless.signal()
    assert endless.wait(20).status == -9


def wait_for_listener(guest):
    """Wait until perftest's server, which says nothing of it, listens on its port."""
    for _ in range(60):
        if guest.check(["ss", "-Hltn", "sport = :18515"]):
            return
        time.sleep(0.5)
    raise AssertionError("ib_write_bw does not listen after 30 s")


def wait_for_traffic(guest):
    """Wait until a MiB has come in since now."""
    path = "/sys/class/net/eth0/statistics/rx_bytes"
    first = int(guest.check(["cat", path]))
    for _ in range(60):
        if int(guest.check(["cat", path])) - first > 1 << 20:
            return
        time.sleep(0.5)
    raise AssertionError("no traffic after 30 s")
