# SPDX-License-Identifier: Apache-2.0
"""NCCL's grammar of lists and its choice of a GID, by the examples of its user guide and source."""

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.discovery.model import Gid, Port
from rdmatrain.discovery.nccl import NameList, automatic_gid, common_network

DEVICES = ["mlx5_0", "mlx5_1", "mlx5_10", "mlx5_11", "bnxt_0"]


# The first column is from the user guide, or close to it.
@pytest.mark.parametrize(
    ("value", "taken"),
    [
        ("mlx5", "mlx5_0 mlx5_1 mlx5_10 mlx5_11"),
        ("=mlx5_1", "mlx5_1"),
        ("mlx5_1", "mlx5_1 mlx5_10 mlx5_11"),
        ("=mlx5_0,mlx5_10", "mlx5_0 mlx5_10"),
        ("^mlx5_1", "mlx5_0 bnxt_0"),
        ("^=mlx5_1", "mlx5_0 mlx5_10 mlx5_11 bnxt_0"),
        ("^=mlx5_1,mlx5_0", "mlx5_10 mlx5_11 bnxt_0"),
        # The sign is for the list: a second one is part of a name.
        ("=mlx5_0,=mlx5_1", "mlx5_0"),
        ("==mlx5_0", "mlx5_0"),
        ("=mlx5", ""),
        ("", "mlx5_0 mlx5_1 mlx5_10 mlx5_11 bnxt_0"),
        (",,", "mlx5_0 mlx5_1 mlx5_10 mlx5_11 bnxt_0"),
        ("^", ""),
        # A space belongs to the name.
        ("=mlx5_0, mlx5_1", "mlx5_0"),
    ],
)
def test_a_list_takes_what_nccl_takes(value: str, taken: str) -> None:
    wanted = NameList.parse(value)
    assert [name for name in DEVICES if wanted.allows(name, 1)] == taken.split()


@pytest.mark.parametrize(
    ("value", "ports"),
    [
        ("mlx5_0:1", [1]),
        ("=mlx5_0:2", [2]),
        ("=mlx5_0:1,mlx5_0:2", [1, 2]),
        ("^=mlx5_0:1", [2]),
        ("mlx5_0:", []),
        ("mlx5_0:x", []),
        ("mlx5_0:2x:1", [2]),
        # How NCCL itself writes "any".
        ("mlx5_0:-1", [1, 2]),
        (":1,mlx5_0", [1, 2]),
    ],
)
def test_a_port_narrows_an_entry(value: str, ports: list[int]) -> None:
    wanted = NameList.parse(value)
    assert [port for port in (1, 2) if wanted.allows("mlx5_0", port)] == ports
    # Where a port is not known, it is not asked for.
    assert wanted.allows("mlx5_0") or value.startswith("^")


V1, V2 = "RoCE v1", "RoCE v2"
USUAL = {0: ("fe80::1", V1), 1: ("fe80::1", V2), 2: ("10.0.0.1", V1), 3: ("10.0.0.1", V2)}


@pytest.mark.parametrize(
    ("table", "family", "network", "version", "index"),
    [
        (USUAL, 4, None, 2, 3),
        (USUAL, 4, None, 1, 2),
        (USUAL, 4, "10.0.0.0/24", 2, 3),
        (USUAL, 4, "192.168.0.0/16", 2, 0),
        (USUAL, 6, None, 2, 0),
        # Of two that are right, the first one stays.
        (USUAL | {4: ("10.9.0.1", V1), 5: ("10.9.0.1", V2)}, 4, None, 2, 3),
        (USUAL | {4: ("10.9.0.1", V1), 5: ("10.9.0.1", V2)}, 4, "10.9.0.0/16", 2, 5),
        # Entry 0 is not held against the network.
        ({0: ("172.16.0.1", V2), 1: ("10.0.0.1", V2)}, 4, "10.0.0.0/8", 2, 0),
        ({0: ("172.16.0.1", V1), 1: ("10.0.0.1", V2)}, 4, "10.0.0.0/8", 2, 1),
        # A shared namespace: the entries of others are zero.
        ({22: ("10.0.0.1", V1), 23: ("10.0.0.1", V2)}, 4, None, 2, 23),
        ({0: ("fe80::1", V1), 4: ("fd00::1", V2)}, 6, None, 2, 4),
        ({0: ("fe80::1", V1), 3: ("10.0.0.1", "")}, 4, None, 2, 3),
        ({}, 4, None, 2, 0),
    ],
)
def test_the_gid_that_nccl_takes(
    table: dict[int, tuple[str, str]],
    family: int,
    network: str | None,
    version: int,
    index: int,
) -> None:
    gids = tuple(Gid(at, address, kind) for at, (address, kind) in table.items())
    port = Port("mlx5_0", 1, "ACTIVE", "Ethernet", gids)
    wanted = ipaddress.ip_network(network) if network else None
    assert automatic_gid(port, family, wanted, version) == index


@settings(deadline=None, max_examples=100)
@given(st.lists(st.ip_addresses(v=4), min_size=1) | st.lists(st.ip_addresses(v=6), min_size=1))
def test_a_common_network_has_all_addresses_and_a_smaller_one_has_not(
    addresses: list[ipaddress.IPv4Address] | list[ipaddress.IPv6Address],
) -> None:
    found = common_network(list(addresses))
    whole = ipaddress.ip_network(f"{addresses[0]}/0", strict=False)
    network = found or whole
    assert all(address in network for address in addresses)
    if network.prefixlen < network.max_prefixlen:
        assert not any(all(address in half for address in addresses) for half in network.subnets())
