# SPDX-License-Identifier: Apache-2.0
"""The interface that other pods reach this one by."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_source import MemorySource

from rdmatrain.discovery.interfaces import control_interface
from rdmatrain.discovery.model import Machine, Netdev, Nic
from rdmatrain.discovery.pod_model import Pod

ETH0 = Netdev("eth0", addresses=("10.244.1.7",))
NET1 = Netdev("net1", addresses=("10.0.0.1",))
LO = Netdev("lo", addresses=("127.0.0.1",))
BARE = Netdev("rdma0")

HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"


def route(name: str, metric: int = 0, flags: str = "0003", to: str = "00000000") -> str:
    return f"{name}\t{to}\t010200C0\t{flags}\t0\t0\t{metric}\t{to}\t0\t0\t0\n"


def route6(name: str, metric: str = "00000400", flags: str = "00000003", length: str = "00") -> str:
    zero = "0" * 32
    return f"{zero} {length} {zero} 00 {zero} {metric} 00000001 00000000 {flags} {name:>8}\n"


def found(
    *netdevs: Netdev, routes: str = "", routes6: str = "", status: str = ""
) -> tuple[str, str]:
    files = {"/proc/net/route": HEAD + routes, "/proc/net/ipv6_route": routes6}
    pod = Pod(annotations=(("k8s.v1.cni.cncf.io/network-status", status),) if status else ())
    interface = control_interface(MemorySource(files), Machine("", netdevs=netdevs), pod)
    return interface.name, interface.reason


def status(*entries: tuple[str, bool, str]) -> str:
    return json.dumps(
        [{"name": n, "interface": n, "ips": [ip], "default": d, "dns": {}} for n, d, ip in entries]
    )


def test_the_default_route_tells() -> None:
    name, why = found(LO, ETH0, NET1, routes=route("net1", to="0000000A") + route("eth0"))
    assert (name, why) == ("eth0", "it has the default route of IPv4")


def test_the_lowest_metric_wins() -> None:
    routes = route("net1", metric=100) + route("eth0", metric=20) + route("net1", metric=1000)
    assert found(ETH0, NET1, routes=routes)[0] == "eth0"


@pytest.mark.parametrize("flags", ["0000", "0201"])
def test_a_route_that_is_down_or_rejects_does_not_count(flags: str) -> None:
    assert found(ETH0, NET1, routes=route("net1", flags=flags) + route("eth0", 5))[0] == "eth0"


def test_a_pod_with_ipv6_only() -> None:
    routes = (
        route6("lo", "ffffffff", "00200200")
        + route6("net1", "00000001", length="40")
        + route6("eth0")
    )
    assert found(ETH0, NET1, routes6=routes) == ("eth0", "it has the default route of IPv6")


def test_the_default_network_goes_before_the_default_route() -> None:
    text = status(("net1", False, "10.0.0.1"), ("eth0", True, "10.244.1.7"))
    name, why = found(ETH0, NET1, routes=route("net1"), status=text)
    assert name == "eth0"
    assert "network-status" in why


def test_a_default_network_without_a_name_is_found_by_its_address() -> None:
    text = json.dumps([{"name": "cbr0", "ips": ["10.244.1.7"], "default": True, "dns": {}}])
    assert found(NET1, ETH0, routes=route("net1"), status=text)[0] == "eth0"


def test_an_interface_without_address_or_that_is_not_here_is_passed_over() -> None:
    text = status(("eth9", True, "10.244.1.7"))
    name, why = found(ETH0, BARE, routes=route("rdma0") + route("eth0", 9), status=text)
    assert name == "eth0"
    assert "not eth9, which is not here" in why
    assert "not rdma0, which has no IP address" in why


def test_the_only_one_with_an_address_is_the_last_resort() -> None:
    assert found(LO, ETH0, BARE) == ("eth0", "the only one with an address")
    name, why = found(LO, ETH0, NET1)
    assert name == ""
    assert why


def test_an_interface_of_an_rdma_device_is_the_very_last() -> None:
    nics = (Nic("mlx5_18", netdevs=("net1",)),)

    def only(*netdevs: Netdev) -> str:
        machine = Machine("", nics=nics, netdevs=netdevs)
        return control_interface(MemorySource({}), machine, Pod()).name

    assert only(LO, NET1, ETH0) == "eth0"
    assert only(LO, NET1) == "net1"
    assert only(LO, NET1, ETH0, Netdev("eth1", addresses=("10.9.0.1",))) == ""


def test_where_no_address_is_known_the_route_is_believed() -> None:
    assert found(Netdev("eth0"), BARE, routes=route("eth0"))[0] == "eth0"
    assert found(routes=route("eth0"))[0] == "eth0"


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "7", '[{"default": true}]', '[{"default": true, "interface": 7}]', "[" * 9999],
)
def test_an_annotation_that_cannot_be_read_is_passed_over(text: str) -> None:
    assert found(ETH0, routes=route("eth0"), status=text)[0] == "eth0"


@settings(deadline=None, max_examples=100)
@given(st.text(), st.text(), st.text())
def test_no_content_is_too_strange(routes: str, routes6: str, text: str) -> None:
    assert found(LO, ETH0, routes=routes, routes6=routes6, status=text)[0] == "eth0"
