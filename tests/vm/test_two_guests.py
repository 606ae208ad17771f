"""Two guests are two hosts: own kernels, own RDMA devices, and at last one loses its power."""

import json
import re
import time

import pytest
from vm_guest import GuestLostError

# Two boots, emulated, perhaps beside other work.
pytestmark = [pytest.mark.timeout(900), pytest.mark.thorough]

# -u 21 waits 8.6 s for each answer: an emulated host that gets no CPU for a while is not dead.
WRITE_BW = ["ib_write_bw", "-b", "-d", "rxe0", "-x", "1", "-u", "21", "-s", "1048576"]
MIB_PER_S = re.compile(r"^ 1048576 +\d+ +([0-9.]+) +([0-9.]+)", re.MULTILINE)
PYTHON = ".venv/bin/python"
BOUND_S = 3.0


def test_rdma_works_between_them(hosts):
    left, right = hosts
    for guest in hosts:
        assert re.search(r"active_mtu:\s+4096", guest.check(["ibv_devinfo", "-d", "rxe0"]))
    boots = [guest.check(["cat", "/proc/sys/kernel/random/boot_id"]) for guest in hosts]
    assert boots[0] != boots[1]

    server = left.start([*WRITE_BW, "-n", "10"])
    wait_for_listener(left)
    client = right.run([*WRITE_BW, "-n", "10", "10.9.0.1"], timeout_s=200)
    served = server.wait(60)
    assert (client.status, served.status) == (0, 0), client.output + served.output
    assert re.search(r"Mtu\s+: 4096", client.output), client.output
    row = MIB_PER_S.search(client.output)
    assert row is not None, client.output
    assert float(row[2]) > 0


def test_an_all_reduce_by_hosts_is_right_and_sends_little_more_than_it_must(hosts):
    running = [
        guest.start([PYTHON, "tests/vm/host_ranks.py", str(i), f"10.9.0.{i + 1}", "10.9.0.1"])
        for i, guest in enumerate(hosts)
    ]
    for one in [command.wait(400) for command in running]:
        assert one.status == 0, one.output
        facts = json.loads(one.output.splitlines()[-1])
        print(facts)
        assert facts["cells"] > 60
        assert facts["staged_bytes"] == 0
        # Each host must send a share of its sums, and then one of the result: n (H-1)/H twice.
        assert facts["optimum_bytes"] <= facts["sent_bytes"] <= 1.1 * facts["optimum_bytes"]


def test_a_rank_is_told_within_seconds_that_its_peer_has_lost_power(hosts):
    left, right = hosts
    survivor, victim = (
        guest.start([PYTHON, "tests/vm/lone_rank.py", str(i), f"10.9.0.{i + 1}", "10.9.0.1"])
        for i, guest in enumerate(hosts)
    )
    wait_until_running(survivor)
    wait_until_running(victim)
    right.power_cut()
    with pytest.raises(GuestLostError, match="guest right died"):
        victim.wait(20)
    end = survivor.wait(60)
    assert end.status == 0, end.output
    facts = json.loads(end.output.splitlines()[-1])
    print(facts)
    assert facts["status"] == "PEER_LOST"
    assert "rank 1 (guest 1)" in facts["text"]
    assert "transport retry counter exceeded" in facts["text"]
    assert facts["after_s"] < BOUND_S
    # Nobody has told the survivor: its link stays up, as at a switch.
    assert left.check(["cat", "/sys/class/net/eth0/carrier"]).strip() == "1"
    assert "ACTIVE" in left.check(["cat", "/sys/class/infiniband/rxe0/ports/1/state"])


def wait_for_listener(guest):
    """Wait until perftest's server, which says nothing of it, listens on its port."""
    for _ in range(60):
        if guest.check(["ss", "-Hltn", "sport = :18515"]):
            return
        time.sleep(0.5)
    raise AssertionError("ib_write_bw does not listen after 30 s")


def wait_until_running(command):
    for _ in range(240):
        if "running" in command.output:
            return
        assert not command.over, command.output
        time.sleep(0.5)
    raise AssertionError(f"not running after 120 s: {command.output}")
