# SPDX-License-Identifier: Apache-2.0
"""A user's own values are held against what the pod was given."""

import pytest
from fake_allocation import NAMES, TEXT, granted, granted_nics, nic, roce
from hypothesis import given, settings

from rdmatrain.discovery.complaints import MEANING
from rdmatrain.discovery.environment_check import check
from rdmatrain.discovery.model import Gid, Machine, Netdev, Nic
from rdmatrain.discovery.pod_model import Allocation, GrantedNic

OWN = (roce("mlx5_1", "10.0.0.1", "net1", 3), roce("mlx5_2", "10.0.0.2", "net2", 5))
FOREIGN = (nic("mlx5_0"), nic("mlx5_10"))
NETDEVS = (
    Netdev("lo", addresses=("127.0.0.1",)),
    Netdev("eth0", addresses=("10.244.1.7",)),
    Netdev("net1", addresses=("10.0.0.1",)),
    Netdev("rdma0"),
)


def complaints(
    name: str,
    value: str,
    own: tuple[GrantedNic, ...] = OWN,
    foreign: tuple[Nic, ...] = FOREIGN,
    **more: str,
) -> list[tuple[str, str]]:
    allocation = Allocation(nics=own, others=tuple((each, "of another pod") for each in foreign))
    machine = Machine("a test", nics=(*(e.nic for e in own), *foreign), netdevs=NETDEVS)
    found = check(machine, allocation, {name: value, **more})
    assert {each.id for each in found} <= set(MEANING)
    assert all(each.source == f"{name}={value}" for each in found)
    return [(each.id, each.text) for each in found]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NCCL_IB_HCA", "=mlx5_1:1,mlx5_2:1"),
        ("NCCL_IB_HCA", "=mlx5_1"),
        ("NCCL_IB_HCA", "^=mlx5_0,mlx5_10"),
        ("NCCL_IB_HCA", "mlx5_2"),
        ("NCCL_IB_HCA", ""),
        ("NCCL_IB_GID_INDEX", "-1"),
        ("NCCL_IB_GID_INDEX", "auto"),
        ("RDMATRAIN_GID_INDEX", ""),
        ("NCCL_IB_DISABLE", "0"),
        ("NCCL_SOCKET_IFNAME", "=eth0"),
        ("NCCL_SOCKET_IFNAME", "eth,net"),
        ("NCCL_SOCKET_IFNAME", "^lo,docker"),
        ("UCX_NET_DEVICES", "mlx5_1:1,mlx5_2:1"),
        ("UCX_NET_DEVICES", "mlx5_[12]:1,eth0"),
        ("UCX_IB_GID_INDEX", "auto"),
        ("RDMATRAIN_DEVICES", "mlx5_1:1,mlx5_2"),
        ("RDMATRAIN_DEVICES", "^mlx5_0,mlx5_10"),
        ("PATH", "mlx5_0"),
    ],
)
def test_values_that_fit_are_not_complained_about(name: str, value: str) -> None:
    assert complaints(name, value) == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("NCCL_IB_HCA", "=mlx5_0", ["not for this pod: mlx5_0 (of another pod)", "none of this"]),
        ("NCCL_IB_HCA", "mlx5", ["not for this pod: mlx5_0 (of another pod), mlx5_10 (of"]),
        ("NCCL_IB_HCA", "^mlx5_1", ["not for this pod: mlx5_0 (of another pod)"]),
        ("NCCL_IB_HCA", "=mlx5_1,mlx5_7", ["no mlx5_7 here: the devices are mlx5_0, mlx5_1, mlx"]),
        ("NCCL_IB_HCA", "=mlx5_1:2,mlx5_2", ["no mlx5_1:2 here"]),
        ("NCCL_IB_HCA", "=mlx5_1, mlx5_2", ["no ' mlx5_2' here"]),
        ("NCCL_IB_HCA", "=mlx5", ["no mlx5 here", "takes none of this pod's NICs"]),
        ("UCX_NET_DEVICES", "mlx5_1:1,mlx5_7:1", ["no mlx5_7:1 here"]),
        # UCX needs the port.
        ("UCX_NET_DEVICES", "mlx5_1,mlx5_2:1", ["no mlx5_1 here"]),
        ("UCX_NET_DEVICES", "all", ["not for this pod: mlx5_0 (of another pod), mlx5_10"]),
        ("UCX_NET_DEVICES", "^mlx5_1:1", ["not for this pod"]),
        ("RDMATRAIN_DEVICES", "mlx5_1,mlx5_0", ["not for this pod: mlx5_0 (of"]),
        ("RDMATRAIN_DEVICES", "mlx5_1,mlx5 2", ["no 'mlx5 2' here", "none of this pod's"]),
    ],
)
def test_devices_that_are_missing_or_foreign(name: str, value: str, words: list[str]) -> None:
    found = complaints(name, value)
    assert [each for each, _ in found] == ["variable-device"] * len(words)
    for (_, text), word in zip(found, words, strict=True):
        assert word in text


def test_a_prefix_that_takes_longer_names_too() -> None:
    ((first, text), (second, _)) = complaints("NCCL_IB_HCA", "mlx5_1")
    assert (first, second) == ("variable-prefix", "variable-device")
    assert "takes mlx5_10 too" in text
    assert "=mlx5_1" in text


def test_a_list_that_is_all_wrong_says_what_the_pod_has() -> None:
    own = (roce("mlx5_18", "10.0.0.1", "net1"),)
    (_, (_, text)) = complaints("NCCL_IB_HCA", "=mlx5_4", own, ())
    assert text.endswith("they are mlx5_18")


def test_a_gid_index_that_is_not_right_for_each() -> None:
    ((name, text),) = complaints("NCCL_IB_GID_INDEX", "3")
    assert name == "variable-gid"
    assert text.startswith("mlx5_2:1 has no such entry")
    assert "use 5, gid 5 RoCE v2 10.0.0.2 on net2" in text
    assert "mlx5_1" not in text
    # Only what NCCL will use counts.
    allocation = Allocation(nics=OWN)
    user = {"NCCL_IB_HCA": "=mlx5_1", "NCCL_IB_GID_INDEX": "3"}
    assert not check(Machine("", nics=tuple(e.nic for e in OWN)), allocation, user)


@pytest.mark.parametrize(("index", "word"), [("2", "not RoCE v2"), ("1", "no router forwards")])
def test_a_gid_of_the_wrong_kind(index: str, word: str) -> None:
    ((name, text),) = complaints("RDMATRAIN_GID_INDEX", index, OWN[:1])
    assert (name, word in text) == ("variable-gid", True)
    ((name, text),) = complaints("UCX_IB_GID_INDEX", index, OWN[:1])
    assert (name, word in text) == ("variable-gid", True)


def test_a_link_local_gid_is_right_where_it_is_what_was_proven() -> None:
    gid = Gid(1, "fe80::1", "RoCE v2", "net1")
    assert complaints("NCCL_IB_GID_INDEX", "1", (granted(nic("rxe0", gid), gid),)) == []


def test_infiniband_has_no_wrong_index() -> None:
    own = (granted(nic("mlx5_0", layer="InfiniBand")),)
    assert complaints("NCCL_IB_GID_INDEX", "3", own, ()) == []


def test_rdma_that_is_turned_off() -> None:
    ((name, text),) = complaints("NCCL_IB_DISABLE", "1")
    assert (name, "mlx5_1, mlx5_2" in text) == ("variable-rdma-off", True)
    assert complaints("NCCL_IB_DISABLE", "1", ()) == []
    assert [name for name, _ in complaints("NCCL_NET", "Socket")] == ["variable-rdma-off"]
    assert complaints("NCCL_NET", "IB") == []


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("=eth1", "no interface eth1 here: there are eth0, lo, net1, rdma0"),
        ("bond", "no interface bond here"),
        ("eth0,=net1", "no interface =net1 here"),
        ("=rdma0", "takes no interface with an IP address; it takes rdma0"),
        ("^eth,net,lo", "it takes rdma0"),
        ("^eth,net,lo,rdma", "it takes none"),
    ],
)
def test_an_interface_that_is_missing_or_has_no_address(value: str, word: str) -> None:
    ((name, text),) = complaints("NCCL_SOCKET_IFNAME", value)
    assert name == "variable-interface"
    assert word in text


@settings(deadline=None, max_examples=150)
@given(TEXT, granted_nics(), granted_nics())
def test_no_value_is_too_strange(value: str, one: GrantedNic, two: GrantedNic) -> None:
    allocation = Allocation(nics=(one,), others=((two.nic, "foreign"),))
    machine = Machine("a test", nics=(one.nic, two.nic), netdevs=NETDEVS)
    found = check(machine, allocation, dict.fromkeys(NAMES, value))
    for each in found:
        # It can be printed, whatever bytes the variable had.
        assert f"{each}".isprintable()
