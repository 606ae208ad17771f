"""The guest is what the other tests here take it for."""

import re
import resource
import socket
import subprocess
import time
from pathlib import Path

import pytest

ADDRESS = "10.9.0.1"
SIZE = 8
ITERATIONS = 1000


def ipv4_index(device: str) -> int:
    """The index of the GID that is RoCE v2 over IPv4; index 0 is a link-local address."""
    port = Path("/sys/class/infiniband") / device / "ports" / "1"
    for path in sorted((port / "gids").iterdir(), key=lambda path: int(path.name)):
        packed = bytes.fromhex(path.read_text().strip().replace(":", ""))
        if packed[:12] == bytes(10) + b"\xff\xff":
            assert (port / "gid_attrs" / "types" / path.name).read_text().strip() == "RoCE v2"
            return int(path.name)
    raise AssertionError(f"{device} has no IPv4 GID")


def test_pyverbs_sees_an_active_port_with_an_mtu_of_4096(context):
    enums = pytest.importorskip("pyverbs.enums")
    port = context.query_port(1)
    assert port.state == enums.IBV_PORT_ACTIVE
    assert port.active_mtu == enums.IBV_MTU_4096
    assert port.link_layer == enums.IBV_LINK_LAYER_ETHERNET


def test_pyverbs_and_sysfs_agree_on_the_ipv4_gid(context, device):
    gid = context.query_gid(1, ipv4_index(device))
    packed = bytes.fromhex(str(gid).replace(":", ""))
    assert socket.inet_ntoa(packed[12:]) == ADDRESS


def test_memory_can_be_locked_without_limit():
    assert resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY


def test_ib_write_lat_measures_the_device(device):
    command = ["ib_write_lat", "-d", device, "-x", str(ipv4_index(device)), "-s", str(SIZE)]
    command += ["-n", str(ITERATIONS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        try:
            time.sleep(2)  # it says nothing when it listens
            done = subprocess.run(
                [*command, ADDRESS], capture_output=True, text=True, timeout=60, check=False
            )
            server.wait(20)
        finally:
            server.kill()
    assert done.returncode == 0, done.stdout + done.stderr
    row = re.search(rf"^ {SIZE} +{ITERATIONS} +(.+)$", done.stdout, re.MULTILINE)
    assert row is not None, done.stdout
    least, most, typical = map(float, row[1].split()[:3])
    assert 0 < least <= typical <= most
