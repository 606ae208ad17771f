# SPDX-License-Identifier: Apache-2.0
"""What the libraries are told: golden environments by hand, and the user's own always win."""

import pytest
from fake_allocation import NAMES, TEXT, bind, granted, granted_nics, machine, nic, roce, table
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.config import load_settings
from rdmatrain.discovery.environment import Environment, variables
from rdmatrain.discovery.interfaces import Interface
from rdmatrain.discovery.model import Gid, Netdev, Nic
from rdmatrain.discovery.pod_model import Allocation, GrantedNic

ETH0 = Interface("eth0", "the pod's default network, by network-status")


def environment(
    *nics: GrantedNic, user: dict[str, str] | None = None, others: tuple[Nic, ...] = ()
) -> Environment:
    """One rank for each NIC, on a machine with nothing else."""
    allocation = Allocation(nics=nics, others=tuple((each, "of another pod") for each in others))
    bindings = [bind(rank, each) for rank, each in enumerate(nics)]
    return variables(machine(*nics), allocation, bindings, user or {}, ETH0)


def reason(found: Environment, name: str, rank: int = 0) -> str:
    (choice,) = [e for e in (*found.common, *found.ranks[rank]) if e.name == name]
    return choice.reason


# An HGX H100 with one VF for each GPU, named and numbered as OCI's fixture has them.
VFS = tuple(
    roce(f"mlx5_{number}", f"10.224.{rail}.17", f"net{rail + 1}")
    for rail, number in enumerate((18, 26, 28, 30, 32, 20, 22, 24))
)


def test_a_pod_with_a_vf_for_each_of_eight_gpus() -> None:
    dev = tuple(Netdev(f"net{n}", addresses=(f"10.224.{n - 1}.17",)) for n in range(1, 9))
    eth0 = Netdev("eth0", addresses=("10.244.1.7",))
    found = variables(
        machine(*VFS, netdevs=(eth0, *dev)),
        Allocation(nics=VFS, others=((nic("mlx5_0"), "of the host"),)),
        [bind(rank, each) for rank, each in enumerate(VFS)],
        {},
        ETH0,
        "/tmp/topo.xml",
    )
    common = {
        "NCCL_IB_HCA": "=mlx5_18:1,mlx5_26:1,mlx5_28:1,mlx5_30:1,"
        "mlx5_32:1,mlx5_20:1,mlx5_22:1,mlx5_24:1",
        "NCCL_IB_GID_INDEX": "3",
        "NCCL_SOCKET_IFNAME": "=eth0",
        "NCCL_TOPO_FILE": "/tmp/topo.xml",
    }
    for rank, (device, net) in enumerate(
        [("mlx5_18", "net1"), ("mlx5_26", "net2"), ("mlx5_28", "net3"), ("mlx5_30", "net4"),
         ("mlx5_32", "net5"), ("mlx5_20", "net6"), ("mlx5_22", "net7"), ("mlx5_24", "net8")]
    ):  # fmt: skip
        own = {
            "RDMATRAIN_DEVICES": f"={device}:1",
            "RDMATRAIN_GID_INDEX": "3",
            "UCX_NET_DEVICES": f"{device}:1",
            "UCX_IB_GID_INDEX": "3",
            "FI_VERBS_DEVICE_NAME": device,
            "FI_VERBS_IFACE": net,
            "FI_VERBS_GID_IDX": "3",
        }
        assert found.to_set(rank) == common | own
        # What is set is what the backend reads.
        assert load_settings(found.to_set(rank)).device_list.names == ((device, 1),)
    assert {each.by for each in found.common if each.value} == {"rdmatrain"}


def test_infiniband_in_a_vm_needs_no_gid_index() -> None:
    nics = [granted(nic(f"mlx5_ib{n}", layer="InfiniBand")) for n in range(2)]
    found = environment(*nics)
    assert found.to_set(1) == {
        "NCCL_IB_HCA": "=mlx5_ib0:1,mlx5_ib1:1",
        "NCCL_SOCKET_IFNAME": "=eth0",
        "RDMATRAIN_DEVICES": "=mlx5_ib1:1",
        "UCX_NET_DEVICES": "mlx5_ib1:1",
        "FI_VERBS_DEVICE_NAME": "mlx5_ib1",
    }
    assert reason(found, "NCCL_IB_GID_INDEX") == "InfiniBand needs no index"


def test_gid_indexes_that_differ_are_given_by_rank_and_not_to_nccl() -> None:
    # NCCL begins with entry 0, and no later one of the same family and version goes before it.
    gids = (Gid(0, "172.16.0.9", "RoCE v2", "eth1"), Gid(5, "10.1.0.7", "RoCE v2", "net1"))
    found = environment(granted(nic("mlx5_0", *gids), gids[-1]), roce("mlx5_1", "10.1.0.8", "net2"))
    assert found.to_set(0)["RDMATRAIN_GID_INDEX"] == "5"
    assert found.to_set(1)["RDMATRAIN_GID_INDEX"] == "3"
    assert {name for name in found.to_set(0) if name.startswith("NCCL_IB")} == {"NCCL_IB_HCA"}
    why = reason(found, "NCCL_IB_GID_INDEX")
    assert "mlx5_0:1 has gid 5" in why
    assert "mlx5_1:1 has gid 3" in why
    assert "nor would NCCL find them" in why


def test_nccl_is_steered_by_family_where_that_is_enough() -> None:
    found = environment(
        roce("mlx5_0", "10.1.0.7", "net1", 3), roce("mlx5_1", "10.2.0.8", "net2", 5)
    )
    steered = {name: value for name, value in found.to_set(0).items() if "_IB_" in name}
    assert steered == {
        "NCCL_IB_HCA": "=mlx5_0:1,mlx5_1:1",
        "NCCL_IB_ROCE_VERSION_NUM": "2",
        "NCCL_IB_ADDR_FAMILY": "AF_INET",
        "UCX_IB_GID_INDEX": "3",
    }


def test_nccl_is_steered_by_network_where_a_foreign_address_comes_first() -> None:
    gids = (*table("172.16.0.9", "eth1", 3), Gid(4, "10.1.0.7", "RoCE v1", "net1"),
            Gid(5, "10.1.0.7", "RoCE v2", "net1"))  # fmt: skip
    one = granted(nic("mlx5_0", *gids), gids[-1])
    found = environment(one, roce("mlx5_1", "10.1.0.8", "net2", 3)).to_set(0)
    assert found["NCCL_IB_ADDR_RANGE"] == "10.1.0.0/28"
    assert "NCCL_IB_GID_INDEX" not in found


def test_ipv6_is_named_since_nccl_looks_for_ipv4() -> None:
    nics = [
        granted(nic(f"mlx5_{n}", gid, Gid(0, "fe80::1", "RoCE v1")), gid)
        for n, gid in enumerate([Gid(2, "fd00::1", "RoCE v2"), Gid(4, "fd00::2", "RoCE v2")])
    ]
    assert environment(*nics).to_set(0)["NCCL_IB_ADDR_FAMILY"] == "AF_INET6"


def test_efa_has_its_own_provider_and_no_lists_of_verbs() -> None:
    nics = [granted(nic(f"rdmap{n}s0", layer="EFA", efa=True, vendor="1d0f:efa2"), port=1)
            for n in (79, 80)]  # fmt: skip
    allocation = Allocation(nics=tuple(nics))
    found = variables(machine(*nics), allocation, [bind(0, *nics)], {}, ETH0, "/tmp/topo.xml")
    assert found.to_set(0) == {"NCCL_SOCKET_IFNAME": "=eth0", "FI_PROVIDER": "efa"}
    assert "plugin" in reason(found, "NCCL_TOPO_FILE")


def test_other_nics_without_verbs_are_not_taken_for_efa() -> None:
    assert environment(granted(nic("cxi0", layer="EFA", efa=True))).to_set(0) == {
        "NCCL_SOCKET_IFNAME": "=eth0"
    }


def test_a_rank_without_gpu_on_soft_roce() -> None:
    rxe = roce("rxe0", "192.168.7.2", "eth1", 5)
    found = variables(
        machine(rxe, netdevs=(Netdev("eth1", addresses=("192.168.7.2",)),)),
        Allocation(nics=(rxe,)),
        [bind(0, rxe)],
        {},
        Interface("", "no default route"),
    )
    assert found.to_set(0) == {
        "NCCL_IB_HCA": "=rxe0:1",
        "NCCL_IB_GID_INDEX": "5",
        "RDMATRAIN_DEVICES": "=rxe0:1",
        "RDMATRAIN_GID_INDEX": "5",
        "UCX_NET_DEVICES": "rxe0:1",
        "UCX_IB_GID_INDEX": "5",
        "FI_VERBS_DEVICE_NAME": "rxe0",
        "FI_VERBS_IFACE": "eth1",
        "FI_VERBS_GID_IDX": "5",
    }


def test_a_device_whose_name_begins_another_ones_is_not_named_to_libfabric() -> None:
    found = environment(roce("mlx5_1", "10.0.0.1", "net1"), roce("mlx5_10", "10.0.0.2", "net2"))
    assert "FI_VERBS_DEVICE_NAME" not in found.to_set(0)
    assert "mlx5_10" in reason(found, "FI_VERBS_DEVICE_NAME")
    assert found.to_set(1)["FI_VERBS_DEVICE_NAME"] == "mlx5_10"


def test_ports_and_several_nics_of_one_rank() -> None:
    one = granted(nic("mlx5_0", port=2, layer="InfiniBand"), port=2)
    two = granted(nic("mlx5_1", layer="InfiniBand"))
    allocation = Allocation(nics=(one, two))
    found = variables(machine(one, two), allocation, [bind(0, two, one)], {}, ETH0).to_set(0)
    assert found["RDMATRAIN_DEVICES"] == "=mlx5_1:1,mlx5_0:2"
    assert found["NCCL_IB_HCA"] == "=mlx5_0:2,mlx5_1:1"


def test_what_is_unfit_is_used_only_if_there_is_nothing_else() -> None:
    bond = granted(nic("mlx5_bond_0", layer="InfiniBand", unfit="is a bond"))
    good = granted(nic("mlx5_0", layer="InfiniBand"))
    assert environment(good, bond).to_set(0)["NCCL_IB_HCA"] == "=mlx5_0:1"
    assert environment(bond).to_set(0)["NCCL_IB_HCA"] == "=mlx5_bond_0:1"


def test_what_pairing_left_out_is_not_named_to_nccl() -> None:
    fast, slow = (roce(f"mlx5_{n}", f"10.0.0.{n + 1}", f"net{n}", 3 + 2 * n) for n in range(2))
    allocation = Allocation(nics=(fast, slow))
    found = variables(machine(fast, slow), allocation, [bind(0, fast)], {}, ETH0)
    assert found.to_set(0)["NCCL_IB_HCA"] == "=mlx5_0:1"
    assert found.to_set(0)["NCCL_IB_GID_INDEX"] == "3"
    assert "not mlx5_1, of no rank" in reason(found, "NCCL_IB_HCA")
    # Without ranks there is nothing to go by.
    none = variables(machine(fast, slow), allocation, [], {}, ETH0)
    assert none.common[0].value == "=mlx5_0:1,mlx5_1:1"


def test_nics_of_others_are_kept_from_nccl_where_the_pod_has_none() -> None:
    found = environment(others=(nic("mlx5_0"),))
    assert {e.name: e.value for e in found.common if e.value}["NCCL_IB_DISABLE"] == "1"
    found = environment(others=(nic("mlx5_0"),), user={"NCCL_IB_HCA": "mlx5_0"})
    assert not [e for e in found.common if e.name == "NCCL_IB_DISABLE" and e.value]
    assert not [e for e in environment().common if e.name == "NCCL_IB_DISABLE" and e.value]


def test_a_port_that_does_not_work_is_not_named() -> None:
    broken = granted(nic("mlx5_0"), port=0)
    found = environment(broken)
    assert found.to_set(0) == {"NCCL_IB_DISABLE": "1", "NCCL_SOCKET_IFNAME": "=eth0"}


def test_an_unproven_gid_leaves_the_index_to_the_library() -> None:
    found = environment(granted(nic("mlx5_0")), roce("mlx5_1", "10.0.0.1", "net1"))
    assert "NCCL_IB_GID_INDEX" not in found.to_set(0)
    assert "RDMATRAIN_GID_INDEX" not in found.to_set(0)
    assert found.to_set(1)["RDMATRAIN_GID_INDEX"] == "3"


def test_a_users_value_wins_and_the_difference_is_shown() -> None:
    nics = (roce("mlx5_0", "10.0.0.1", "net1"), roce("mlx5_1", "10.0.0.2", "net2"))
    user = {"NCCL_IB_HCA": "mlx5_1", "UCX_NET_DEVICES": "mlx5_0:1", "NCCL_SOCKET_IFNAME": ""}
    found = environment(*nics, user=user)
    hca = found.common[0]
    assert (hca.name, hca.value, hca.mine) == ("NCCL_IB_HCA", "mlx5_1", "=mlx5_0:1,mlx5_1:1")
    assert (hca.given, hca.by) == (True, "user")
    ucx = next(e for e in found.ranks[1] if e.name == "UCX_NET_DEVICES")
    assert (ucx.value, ucx.mine, ucx.by) == ("mlx5_0:1", "mlx5_1:1", "user")
    assert not {"NCCL_IB_HCA", "UCX_NET_DEVICES"} & set(found.to_set(0))
    # An empty value counts as none.
    assert found.to_set(0)["NCCL_SOCKET_IFNAME"] == "=eth0"


def test_an_index_is_right_for_the_devices_that_the_user_chose() -> None:
    nics = (roce("mlx5_0", "10.0.0.1", "net1", 3), roce("mlx5_1", "10.0.0.2", "net2", 5))
    assert environment(*nics, user={"NCCL_IB_HCA": "=mlx5_1"}).to_set(0)["NCCL_IB_GID_INDEX"] == "5"
    both = environment(*nics, user={"RDMATRAIN_DEVICES": "mlx5_0,mlx5_1"}).to_set(0)
    assert "RDMATRAIN_GID_INDEX" not in both
    one = environment(*nics, user={"RDMATRAIN_DEVICES": "mlx5_1"})
    assert {one.to_set(rank)["RDMATRAIN_GID_INDEX"] for rank in (0, 1)} == {"5"}
    ucx = environment(*nics, user={"UCX_NET_DEVICES": "^mlx5_0:*"}).to_set(0)
    assert ucx["UCX_IB_GID_INDEX"] == "5"
    other = environment(*nics, user={"FI_VERBS_DEVICE_NAME": "mlx5_1"}).to_set(0)
    assert "FI_VERBS_GID_IDX" not in other


@pytest.mark.parametrize("name", ["NCCL_IB_ADDR_RANGE", "NCCL_IB_ADDR_FAMILY"])
def test_an_index_of_ours_does_not_override_how_the_user_steers_nccl(name: str) -> None:
    found = environment(roce("mlx5_0", "10.0.0.1", "net1"), user={name: "10.0.0.0/8"})
    assert "NCCL_IB_GID_INDEX" not in found.to_set(0)
    assert name in reason(found, "NCCL_IB_GID_INDEX")


def test_cards_of_a_hypervisor_that_share_a_bus_stay_apart_for_nccl() -> None:
    apart = [granted(nic(f"mlx5_{n}", pci=f"0000:00:0{5 + n}.0")) for n in range(2)]
    found = environment(*apart)
    assert found.to_set(0)["NCCL_IB_MERGE_VFS"] == "0"
    assert "NCCL_IB_MERGE_VFS" not in environment(apart[0]).to_set(0)
    assert "NCCL_IB_MERGE_VFS" not in environment(*apart, user={"NCCL_IB_HCA": "mlx5_1"}).to_set(0)


def test_nccl_is_not_steered_beside_the_users_own_index() -> None:
    nics = (roce("mlx5_0", "10.1.0.7", "net1", 3), roce("mlx5_1", "10.2.0.8", "net2", 5))
    found = environment(*nics, user={"NCCL_IB_GID_INDEX": "3"})
    assert {name for name in found.to_set(0) if name.startswith("NCCL_IB")} == {"NCCL_IB_HCA"}


def test_libfabric_is_told_of_no_interface_without_address() -> None:
    rxe = roce("rxe0", "192.168.7.2", "eth1", 5)
    here = machine(rxe, netdevs=(Netdev("eth1"), Netdev("eth0", addresses=("10.244.1.7",))))
    found = variables(here, Allocation(nics=(rxe,)), [bind(0, rxe)], {}, ETH0)
    assert "FI_VERBS_IFACE" not in found.to_set(0)
    assert "no interface with an IP address" in reason(found, "FI_VERBS_IFACE")


@settings(deadline=None, max_examples=150)
@given(
    st.dictionaries(st.sampled_from(NAMES), TEXT), st.lists(granted_nics(), max_size=4), TEXT, TEXT
)
def test_no_values_and_no_names_are_too_strange(
    user: dict[str, str], nics: list[GrantedNic], interface: str, path: str
) -> None:
    devs = (Netdev("net1", addresses=("10.0.0.1",)), Netdev("eth0"))
    bindings = [bind(rank, each, *nics) for rank, each in enumerate(nics)]
    allocation = Allocation(nics=tuple(nics))
    found = variables(
        machine(*nics, netdevs=devs), allocation, bindings, user, Interface(interface, ""), path
    )
    for choice in (*found.common, *(e for own in found.ranks.values() for e in own)):
        assert choice.value == (user.get(choice.name) or choice.mine)
        assert choice.given == bool(user.get(choice.name))
        assert choice.reason or choice.name in {"NCCL_SOCKET_IFNAME", "NCCL_TOPO_FILE"}
    for rank in found.ranks:
        mine = {name: value for name, value in found.to_set(rank).items() if name not in user}
        load_settings({k: v for k, v in mine.items() if k.startswith("RDMATRAIN_")})
