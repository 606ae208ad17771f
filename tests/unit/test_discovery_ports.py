# SPDX-License-Identifier: Apache-2.0
"""RDMA ports are read from sysfs as they are, with holes and files that cannot be read."""

import shutil
from pathlib import Path

import pytest
from fake_rdma import V1, V2, full, write_or_fail, write_port

from rdmatrain.discovery.model import Gid, Port
from rdmatrain.discovery.ports import DEVICES, preference, read_ports
from rdmatrain.discovery.source import Tree

# Beside the checkout, where the project's collected fixtures are.
H100 = Path(__file__).parents[3] / "shared/fixtures/sysfs_infiniband_h100_gpud"


def ports_of(root: Path) -> list[Port]:
    return read_ports(Tree(root))


def test_without_any_driver_there_are_no_ports(tmp_path: Path) -> None:
    assert ports_of(tmp_path) == []
    (tmp_path / "sys/class/infiniband").mkdir(parents=True)
    assert ports_of(tmp_path) == []


def test_a_port_of_roce_has_its_gids_with_types_and_netdevs(tmp_path: Path) -> None:
    write_port(tmp_path, "rxe0/1", {0: ("fe80::1", V1, "eth0"), 1: ("10.0.0.1", V2, "eth0")})
    (port,) = ports_of(tmp_path)
    assert (port.device, port.number, port.state, port.link_layer) == (
        "rxe0",
        1,
        "ACTIVE",
        "Ethernet",
    )
    assert port.gids == (
        Gid(0, "fe80::1", "RoCE v1", "eth0"),
        Gid(1, "10.0.0.1", "RoCE v2", "eth0"),
    )


def test_zero_entries_are_left_out_and_indexes_are_kept(tmp_path: Path) -> None:
    write_port(tmp_path, "mlx5_0/1", {12: ("10.0.0.1", V2), 3: ("2001:db8::1", V2)}, table=40)
    (port,) = ports_of(tmp_path)
    assert [(gid.index, gid.address) for gid in port.gids] == [(3, "2001:db8::1"), (12, "10.0.0.1")]


def test_entries_that_cannot_be_read_do_no_harm(tmp_path: Path) -> None:
    write_port(tmp_path, "mlx5_0/1", {0: ("10.0.0.1", V2, "eth0"), 1: ("10.0.0.2", ""),
                                      2: ("10.0.0.3", V2)})  # fmt: skip
    table = tmp_path / "sys/class/infiniband/mlx5_0/ports/1/gids"
    write_or_fail(table / "0", "")
    with pytest.raises(OSError, match="directory"):
        (table / "0").read_text()
    (table / "3").write_text("not a gid\n")
    (table / "4").write_bytes(b"\xff\xfe\n")
    (table / "5 is not a place").write_text(full("10.0.0.4"))
    (port,) = ports_of(tmp_path)
    assert port.gids == (Gid(1, "10.0.0.2", "", ""), Gid(2, "10.0.0.3", "RoCE v2", ""))


def test_a_table_without_attributes_has_entries_of_unknown_type(tmp_path: Path) -> None:
    port = tmp_path / "sys/class/infiniband/mlx4_0/ports/1"
    (port / "gids").mkdir(parents=True)
    (port / "gids/0").write_text(full("10.0.0.1"))
    (found,) = ports_of(tmp_path)
    assert found.gids == (Gid(0, "10.0.0.1", "", ""),)
    assert (found.state, found.link_layer, found.gbps) == ("", "", 0.0)


@pytest.mark.parametrize(
    ("rate", "gbps"),
    [
        ("100 Gb/sec (4X EDR)", 100.0),
        ("2.5 Gb/sec (1X SDR)", 2.5),
        ("400 Gb/sec (4X NDR)", 400.0),
        ("", 0.0),
        ("fast", 0.0),
        ("-1 Gb/sec", 0.0),
        ("100 GB/sec", 0.0),
    ],
)
def test_the_speed_of_a_port_is_its_rate(tmp_path: Path, rate: str, gbps: float) -> None:
    write_port(tmp_path, "mlx5_0/1")
    (tmp_path / "sys/class/infiniband/mlx5_0/ports/1/rate").write_text(f"{rate}\n")
    assert [port.gbps for port in ports_of(tmp_path)] == [gbps]


def test_devices_and_ports_are_in_the_order_that_people_count_in(tmp_path: Path) -> None:
    names = ["mlx5_0/1", "mlx5_0/2", "mlx5_2/1", "mlx5_10/1", "mlx5_bond_0/1", "rxe0/1"]
    for name in reversed(names):
        write_port(tmp_path, name)
    assert [str(port) for port in ports_of(tmp_path)] == names


def test_addresses_that_reach_further_are_preferred() -> None:
    addresses = ["10.1.2.3", "2001:db8::1", "fd00::1", "fe80::1"]
    assert sorted(addresses[::-1], key=lambda a: preference(Gid(0, a, "RoCE v2"))) == addresses
    assert preference(Gid(0, "169.254.7.7", "RoCE v2")) == preference(Gid(0, "fe80::1", "RoCE v2"))


@pytest.mark.skipif(not H100.is_dir(), reason="the collected fixtures are not beside the checkout")
def test_the_ports_of_a_real_machine_are_read(tmp_path: Path) -> None:
    (saved,) = H100.iterdir()
    shutil.copytree(saved, tmp_path / DEVICES.lstrip("/"))
    ports = ports_of(tmp_path)
    names = [*(f"mlx5_{i}/1" for i in (0, 1, 4, 5, 6, 7, 8, 9)), "mlx5_bond_0/1"]
    assert [str(port) for port in ports] == names
    assert {port.state for port in ports} == {"ACTIVE"}
    layers = [port.link_layer for port in ports]
    assert layers == ["InfiniBand"] * 8 + ["Ethernet"]
    assert [port.gbps for port in ports] == [400.0] * 8 + [200.0]


@pytest.mark.skipif(not Path(DEVICES).is_dir(), reason="no RDMA driver is loaded")
def test_the_ports_of_this_machine_are_read() -> None:
    found = {port.device for port in ports_of(Path("/"))}
    assert found == {entry.name for entry in Path(DEVICES).iterdir()}
