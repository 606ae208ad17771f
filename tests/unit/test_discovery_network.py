# SPDX-License-Identifier: Apache-2.0
"""Interfaces have the addresses that procfs lists without them; what is unclear is left out."""

from ipaddress import IPv4Network
from pathlib import Path

import pytest
from fake_machine import Builder
from fake_rdma import V2
from memory_source import MemorySource

from rdmatrain.discovery.model import Netdev, Nic
from rdmatrain.discovery.network import Route, read_netdevs, read_routes
from rdmatrain.discovery.nics import read_nics

# As a pod on Calico has it: its address is alone, and the gateway is no neighbour of it.
CALICO_ROUTES = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	0101FEA9	0003	0	0	0	00000000	0	0	0
eth0	0101FEA9	00000000	0005	0	0	0	FFFFFFFF	0	0	0
*	0004F40A	00000000	0001	0	0	0	00FFFFFF	0	0	0
net1	0000000A	00000000	0001	0	0	0	0000FFFF	0	0	0
"""
CALICO_TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 4
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.0.0.0/8 2 0 2
        |-- 10.0.3.9
           /32 link UNICAST
           /32 host LOCAL
        |-- 10.244.4.7
           /32 host LOCAL
        |-- 10.0.255.255
           /32 link BROADCAST
     +-- 127.0.0.0/8 2 0 2
        +-- 127.0.0.0/31 1 0 0
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
     |-- 169.254.1.1
        /32 link UNICAST
"""


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path)


def addresses(builder: Builder) -> dict[str, tuple[str, ...]]:
    source = builder.source()
    nics, _ = read_nics(source)
    return {netdev.name: netdev.addresses for netdev in read_netdevs(source, nics)}


def test_all_of_an_interface_is_read(builder: Builder) -> None:
    builder.function("0000:0c:00.2", ids="15b3:101e")
    builder.netdev("net1", "0000:0c:00.2", mac="7a:bb:87:d9:b4:94", mtu=9000,
                   addresses=("10.0.3.9/16", "2001:db8::9/64"))  # fmt: skip
    builder.netdev("lo", mac="00:00:00:00:00:00", state="unknown")
    builder.file("/sys/class/net/bonding_masters", "bond0\n")
    assert read_netdevs(builder.source(), []) == [
        Netdev("lo", "", "", 1500, "unknown", ()),
        Netdev(
            name="net1",
            pci="0000:0c:00.2",
            mac="7a:bb:87:d9:b4:94",
            mtu=9000,
            state="up",
            addresses=("10.0.3.9", "2001:db8::9"),
        ),
    ]


def test_the_smallest_network_around_an_address_has_it(builder: Builder) -> None:
    builder.netdev("eth0", addresses=("10.244.1.7/24",)).netdev("net1", addresses=("10.0.3.9/8",))
    assert addresses(builder) == {"eth0": ("10.244.1.7",), "net1": ("10.0.3.9",)}


def test_a_network_behind_a_gateway_is_not_around_an_address(builder: Builder) -> None:
    builder.netdev("net1").netdev("eth0", addresses=("10.0.3.9/8",))
    routes = builder.root / "proc/net/route"
    far = "net1\t0003000A\t0100010A\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    routes.write_text(routes.read_text() + far)
    assert addresses(builder) == {"eth0": ("10.0.3.9",), "net1": ()}


def test_an_address_alone_is_of_the_default_route(builder: Builder) -> None:
    for name in ("eth0", "net1", "lo"):
        builder.netdev(name)
    builder.file("/proc/net/route", CALICO_ROUTES).file("/proc/net/fib_trie", CALICO_TRIE)
    assert addresses(builder) == {
        "eth0": ("10.244.4.7",),
        "lo": ("127.0.0.1",),
        "net1": ("10.0.3.9",),
    }


def test_two_interfaces_in_one_network_are_told_apart_by_their_gids_alone(
    builder: Builder,
) -> None:
    builder.netdev("eth0", addresses=("192.168.0.7/24",))
    builder.nic("mlx5_1", "0000:0c:00.2", netdev="net1", gids={3: ("10.0.0.1", V2)})
    builder.nic("mlx5_2", "0000:2a:00.2", netdev="net2")
    builder.netdev("net1", addresses=("10.0.0.1/16",)).netdev("net2", addresses=("10.0.0.2/16",))
    assert addresses(builder) == {"eth0": ("192.168.0.7",), "net1": ("10.0.0.1",), "net2": ()}


def test_a_gid_of_another_namespace_tells_nothing(builder: Builder) -> None:
    """Its interface may have the name of one here."""
    builder.nic("mlx5_1", "0000:0c:00.2", gids={3: ("192.168.0.7", V2, "net1")})
    builder.netdev("net1").netdev("eth0", addresses=("192.168.0.7/24",))
    assert addresses(builder) == {"eth0": ("192.168.0.7",), "net1": ()}


def test_an_interface_whose_routes_cannot_be_read_has_none(builder: Builder) -> None:
    builder.netdev("eth0", addresses=("10.244.1.7/24", "fd00::7/64"))
    builder.file("/proc/net/route", "garbage\neth0\tx\ty\n").file("/proc/net/if_inet6", "fd00 eth0")
    assert addresses(builder) == {"eth0": ()}


def test_a_soft_device_names_its_interface(builder: Builder) -> None:
    builder.netdev("a").netdev("b")
    builder.nic("rxe0", netdev="b", gids={1: ("10.9.0.1", V2)})
    builder.netdev("a", addresses=("10.9.0.2/24",)).netdev("b", addresses=("10.9.0.1/24",))
    nics, _ = read_nics(builder.source())
    assert [nic.netdevs for nic in nics] == [("b",)] and isinstance(nics[0], Nic)
    assert addresses(builder) == {"a": (), "b": ("10.9.0.1",)}


def test_routes_are_read_and_other_lines_are_left_out() -> None:
    lines = [
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT",
        "eth0\t00000000\t0101F40A\t0003\t0\t0\t100\t00000000\t0\t0\t0   ",
        "net1\t0009000A\t00000000\t0001\t0\t0\t0\tFF00FF00\t0\t0\t0",
        "net1\t0000090A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0",
        "net2\t0000090A\t00000000\t0001\t0\t0\tx\t0000FFFF\t0\t0\t0",
        "net3\t0000090A\t00000000\t0001",
    ]
    assert read_routes(MemorySource({"/proc/net/route": "\n".join(lines)})) == [
        Route(IPv4Network("0.0.0.0/0"), "eth0", connected=False, metric=100, flags=3),
        Route(IPv4Network("10.9.0.0/16"), "net1", connected=True, metric=0, flags=1),
    ]
