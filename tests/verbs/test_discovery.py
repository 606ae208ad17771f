# SPDX-License-Identifier: Apache-2.0
"""What discovery finds on a live machine is what pyverbs, which shares no code with it, finds."""

import ipaddress

import pytest
from ranks import ADDRESS, NETDEV, wait_for_device

from rdmatrain.discovery.machine import read_machine
from rdmatrain.discovery.probes import live
from rdmatrain.discovery.source import Tree

NETDEV_MTU = 9000


@pytest.fixture(scope="module")
def source(device):
    wait_for_device()
    return Tree(probes=live())


@pytest.fixture(scope="module")
def machine(source):
    return read_machine(source)


@pytest.fixture(scope="module")
def verbs(source, device):
    """What the probe says of the device's port."""
    probe = source.probe("verbs")
    assert probe["error"] == ""
    (port,) = [port for port in probe["ports"] if port["device"] == device]
    return port


def test_the_device_is_found_with_its_netdev(machine, device):
    (nic,) = [nic for nic in machine.nics if nic.name == device]
    assert (nic.netdevs, nic.unfit, nic.efa) == ((NETDEV,), "", False)
    assert nic.uverbs.startswith("uverbs")
    (netdev,) = [netdev for netdev in machine.netdevs if netdev.name == NETDEV]
    assert (netdev.mtu, netdev.state) == (NETDEV_MTU, "up")
    assert ADDRESS in netdev.addresses
    assert machine.complaints == ()


def test_pyverbs_agrees_on_the_ports(machine, verbs, context, device):
    enums = pytest.importorskip("pyverbs.enums")
    (nic,) = [nic for nic in machine.nics if nic.name == device]
    assert len(nic.ports) == context.query_device().phys_port_cnt == 1
    port, theirs = nic.ports[0], context.query_port(1)
    assert theirs.state == enums.IBV_PORT_ACTIVE
    assert (port.number, port.state, verbs["state"]) == (1, "ACTIVE", "ACTIVE")
    assert theirs.link_layer == enums.IBV_LINK_LAYER_ETHERNET
    assert port.link_layer == "Ethernet"
    assert verbs["active_mtu"] == 128 << theirs.active_mtu  # 1 is 256 bytes
    assert verbs["active_mtu"] < NETDEV_MTU
    assert verbs["speed_gbps"] == port.gbps == nic.gbps > 0


def test_pyverbs_agrees_on_the_table_of_gids(machine, verbs, context, device):
    (nic,) = [nic for nic in machine.nics if nic.name == device]
    theirs = {}
    for index in range(context.query_port(1).gid_tbl_len):
        packed = bytes.fromhex(str(context.query_gid(1, index)).replace(":", ""))
        if any(packed):
            address = ipaddress.IPv6Address(packed)
            theirs[index] = str(address.ipv4_mapped or address)
    assert {gid.index: gid.address for gid in nic.ports[0].gids} == theirs
    assert {gid.kind for gid in nic.ports[0].gids} == {"RoCE v2"}
    assert {gid.netdev for gid in nic.ports[0].gids} == {NETDEV}
    assert ADDRESS in theirs.values()
    assert verbs["gids"] == {str(index): "" for index in theirs}
