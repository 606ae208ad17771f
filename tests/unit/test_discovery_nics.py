# SPDX-License-Identifier: Apache-2.0
"""Where an RDMA device is and what it is part of: as sysfs says, or inferred where that is sure."""

import shutil
from pathlib import Path

import pytest
from fake_machine import Builder
from fake_rdma import V2

from rdmatrain.discovery.model import Gid, Nic, Port
from rdmatrain.discovery.nics import read_nics

# Beside the checkout, where the project's collected fixtures are.
H100 = Path(__file__).parents[3] / "shared/fixtures/sysfs_infiniband_h100_gpud"
SWITCH = ("pci0000:07", "0000:07:01.0", "0000:08:00.0")


def nics_of(builder: Builder) -> dict[str, Nic]:
    nics, complaints = read_nics(builder.source())
    assert complaints == []
    return {nic.name: nic for nic in nics}


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path)


def hidden(builder: Builder, pci: str, *names: str) -> None:
    """Take files away from a function's folder."""
    for name in names:
        (builder.root / "sys/bus/pci/devices" / pci / name).unlink()


def test_all_of_a_virtual_function_is_read(builder: Builder) -> None:
    place = {"pci": "0000:0c:00.2", "under": SWITCH, "numa": 1, "pf": "0000:0c:00.0"}
    gids = {3: ("10.0.0.1", V2)}
    builder.nic("mlx5_4", **place, netdev="net1", gids=gids, uverbs="uverbs11", rate="100 Gb/sec")
    gid = Gid(3, "10.0.0.1", "RoCE v2", "net1")
    assert nics_of(builder)["mlx5_4"] == Nic(
        name="mlx5_4",
        pci="0000:0c:00.2",
        path=("pci0000:07", "0000:07:01.0", "0000:08:00.0", "0000:0c:00.2"),
        numa=1,
        netdevs=("net1",),
        ports=(Port("mlx5_4", 1, "ACTIVE", "Ethernet", (gid,), 100.0),),
        pf="0000:0c:00.0",
        is_vf=True,
        uverbs="uverbs11",
        gbps=100.0,
        vendor="15b3:101e",
        board="MT_0000000838 28.39.1002",
    )


def test_a_physical_function_has_none_above_it(builder: Builder) -> None:
    builder.nic("mlx5_0", "0000:0c:00.0", SWITCH)
    assert (nics_of(builder)["mlx5_0"].is_vf, nics_of(builder)["mlx5_0"].pf) == (False, "")
    assert nics_of(builder)["mlx5_0"].numa is None  # -1 in sysfs


def test_devices_are_in_the_order_that_people_count_in(builder: Builder) -> None:
    for number in (10, 2, 0):
        builder.nic(f"mlx5_{number}", f"0000:{number + 1:02x}:00.0")
    assert list(nics_of(builder)) == ["mlx5_0", "mlx5_2", "mlx5_10"]
    uverbs = {name: nic.uverbs for name, nic in nics_of(builder).items()}
    assert uverbs == {"mlx5_10": "uverbs0", "mlx5_2": "uverbs1", "mlx5_0": "uverbs2"}


# Physical functions that are hidden


def test_the_physical_function_is_computed_where_the_link_to_it_is_hidden(builder: Builder) -> None:
    for bus, first in (("0c", 1), ("2a", 2)):
        for port in range(first):  # with two ports, bus alone does not tell
            builder.function(f"0000:{bus}:00.{port}", SWITCH, ids="15b3:1021")
        home = builder.root / "sys/bus/pci/devices" / f"0000:{bus}:00.{first - 1}"
        builder.files(
            f"/{home.resolve().relative_to(builder.root)}",
            **{"sriov_numvfs": 8, "sriov_offset": 9 - first, "sriov_stride": 2},
        )
    names = {"a": "0c:01.0", "b": "0c:02.6", "c": "2a:01.0", "d": "2a:01.2", "e": "2a:01.1"}
    # Function 0 and offset 8 make slot 1, function 0; function 1 and offset 7 likewise.
    for name, pci in names.items():
        builder.nic(name, f"0000:{pci}", SWITCH, ids="15b3:101e")
    found = {name: (nic.is_vf, nic.pf) for name, nic in nics_of(builder).items()}
    assert found == {
        "a": (True, "0000:0c:00.0"),
        "b": (True, "0000:0c:00.0"),
        "c": (True, "0000:2a:00.1"),
        "d": (True, "0000:2a:00.1"),
        "e": (True, ""),  # between two of the stride
    }


def test_an_only_sibling_is_the_physical_function(builder: Builder) -> None:
    builder.nic("mlx5_4", "0000:0c:00.2", SWITCH, pf="0000:0c:00.0")
    hidden(builder, "0000:0c:00.2", "physfn")
    hidden(builder, "0000:0c:00.0", "sriov_totalvfs", "sriov_numvfs")
    builder.function("0000:0c:00.7", SWITCH, ids="10de:1021")  # of another vendor
    builder.function("0001:0c:00.0", ids="15b3:1021")  # of another domain
    assert nics_of(builder)["mlx5_4"].pf == "0000:0c:00.0"


def test_a_function_of_which_nothing_is_known_is_no_physical_one(builder: Builder) -> None:
    builder.nic("mlx5_4", "0000:0c:00.2", SWITCH, ids="15b3:101e")
    # It vanishes while the bus is read.
    builder.files("/sys/bus/pci/devices/0000:0c:00.3", vendor="0x15b3")
    assert (nics_of(builder)["mlx5_4"].is_vf, nics_of(builder)["mlx5_4"].pf) == (True, "")


def test_of_two_siblings_none_is_taken(builder: Builder) -> None:
    builder.nic("mlx5_4", "0000:0c:00.2", SWITCH, pf="0000:0c:00.0")
    builder.function("0000:0c:00.1", SWITCH, ids="15b3:1021")
    hidden(builder, "0000:0c:00.2", "physfn")
    assert (nics_of(builder)["mlx5_4"].is_vf, nics_of(builder)["mlx5_4"].pf) == (True, "")


@pytest.mark.parametrize(
    ("ids", "is_vf"),
    [
        ("15b3:101e", True),
        ("15b3:1018", True),
        ("15b3:1004", True),
        ("15b3:1021", False),
        ("8086:1889", True),
        ("8086:1592", None),
        ("8086:159b with SR-IOV", False),
        ("1d0f:efa1", None),
    ],
)
def test_without_a_link_the_device_id_or_sriov_tells(
    builder: Builder, ids: str, is_vf: bool | None
) -> None:
    ids, _, sriov = ids.partition(" ")
    builder.nic("nic0", "0000:00:05.0", ids=ids)
    if sriov:
        builder.files("/sys/devices/pci0000:00/0000:00:05.0", sriov_totalvfs=64)
    assert nics_of(builder)["nic0"].is_vf is is_vf
    assert nics_of(builder)["nic0"].vendor == ids


# Devices of other kinds


def test_two_devices_share_a_function_and_one_is_for_management(builder: Builder) -> None:
    builder.nic("mlx5_0", "0000:0c:00.0", SWITCH).nic("smi1", "0000:0c:00.0", SWITCH, uverbs="")
    builder.nic("odd", "0000:0c:00.0", SWITCH, uverbs="")
    builder.nic("mlx5_1", "0000:2a:00.0", SWITCH, uverbs="")  # verbs are not in this container
    found = nics_of(builder)
    assert [nic.pci for nic in found.values()].count("0000:0c:00.0") == 3
    assert found["mlx5_0"].unfit == found["mlx5_1"].unfit == ""
    assert "for management" in found["smi1"].unfit and "for management" in found["odd"].unfit


def test_a_soft_device_is_unfit_only_beside_others(builder: Builder) -> None:
    builder.nic("rxe0", netdev="eth0")
    rxe = nics_of(builder)["rxe0"]
    assert (rxe.pci, rxe.path, rxe.netdevs, rxe.is_vf, rxe.unfit) == ("", (), ("eth0",), None, "")
    builder.nic("mlx5_0", "0000:0c:00.0")
    assert nics_of(builder)["rxe0"].unfit.startswith("is software")
    assert nics_of(builder)["mlx5_0"].unfit == ""


def test_a_soft_device_of_an_old_kernel_is_not_the_nic_below_it(builder: Builder) -> None:
    builder.function("0000:0c:00.0", ids="15b3:1021").netdev("eth0", "0000:0c:00.0")
    builder.nic("rxe0", netdev="eth0")
    builder.link("/sys/devices/virtual/infiniband/rxe0/device", "/sys/bus/pci/devices/0000:0c:00.0")
    assert nics_of(builder)["rxe0"].pci == "" and nics_of(builder)["rxe0"].netdevs == ("eth0",)


def test_a_subfunction_is_below_its_function(builder: Builder) -> None:
    home = "/sys/devices/pci0000:07/0000:0c:00.0/mlx5_core.sf.4"
    builder.function("0000:0c:00.0", ("pci0000:07",), ids="15b3:a2d6", numa=1)
    builder.files(f"{home}/infiniband/mlx5_7", fw_ver="24.35.1000")
    builder.files(f"{home}/net/enp12s0f0s4", mtu=9000)
    builder.link(f"{home}/infiniband/mlx5_7/device", home)
    builder.link("/sys/class/infiniband/mlx5_7", f"{home}/infiniband/mlx5_7")
    builder.nic("mlx5_0", "0000:0c:00.0", netdev="enp12s0f0")
    nic = nics_of(builder)["mlx5_7"]
    assert (nic.auxiliary, nic.pci, nic.numa) == ("mlx5_core.sf.4", "0000:0c:00.0", 1)
    assert nic.path == ("pci0000:07", "0000:0c:00.0")
    assert (nic.netdevs, nic.ports, nic.board) == (("enp12s0f0s4",), (), "24.35.1000")
    assert nics_of(builder)["mlx5_0"].auxiliary == ""


def test_an_efa_is_known_by_its_driver_vendor_or_link_layer(builder: Builder) -> None:
    efa = {"ids": "1d0f:efa2", "driver": "efa", "link_layer": "Unspecified"}
    builder.nic("rdmap0s6", "0000:00:06.0", **efa)
    builder.nic("rdmap0s7", "0000:00:07.0", **efa | {"driver": "", "link_layer": "Ethernet"})
    builder.nic("other0", "0000:00:08.0", ids="1234:5678", link_layer="Unspecified")
    builder.nic("mlx5_0", "0000:00:09.0", link_layer="InfiniBand")
    assert {name: nic.efa for name, nic in nics_of(builder).items()} == {
        "rdmap0s6": True, "rdmap0s7": True, "other0": True, "mlx5_0": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("bond", "single", "unfit"), [(200, 400, True), (400, 400, True), (200, 25, False)]
)
def test_a_bond_is_unfit_beside_nics_as_fast(
    builder: Builder, bond: int, single: int, unfit: bool
) -> None:
    builder.nic("mlx5_bond_0", "0000:0c:00.0", rate=f"{bond} Gb/sec (4X HDR)")
    assert nics_of(builder)["mlx5_bond_0"].unfit == ""
    builder.nic("mlx5_2", "0000:2a:00.0", rate=f"{single} Gb/sec (4X HDR)")
    found = nics_of(builder)
    assert found["mlx5_bond_0"].unfit.startswith("is a bond") is unfit
    assert found["mlx5_2"].unfit == ""


def test_a_nic_that_is_down_is_unfit_and_a_slow_one_is_not(builder: Builder) -> None:
    builder.nic("mlx5_0", "0000:0c:00.0").nic("mlx5_1", "0000:0d:00.0", state="1: DOWN")
    builder.nic("mlx5_2", "0000:0e:00.0", rate="25 Gb/sec (1X EDR)")
    found = {name: nic.unfit for name, nic in nics_of(builder).items()}
    assert found == {"mlx5_0": "", "mlx5_1": "its port is DOWN", "mlx5_2": ""}


def test_where_all_are_bonds_none_is_unfit(builder: Builder) -> None:
    for number in range(4):
        builder.nic(f"mlx5_bond_{number}", f"0000:{number:02x}:00.0")
    assert {nic.unfit for nic in nics_of(builder).values()} == {""}


# Paths


def test_a_function_behind_another_host_bridge_keeps_both(builder: Builder) -> None:
    under = ("LNXSYSTM:00", "pci0000:5d", "0000:5d:05.5", "pci10000:00", "10000:00:02.0")
    builder.nic("mlx5_0", "10000:01:00.0", under)
    nic = nics_of(builder)["mlx5_0"]
    assert nic.path == (*under[1:], "10000:01:00.0") and nic.pci == "10000:01:00.0"


def test_a_device_whose_link_leads_nowhere_still_has_its_address(builder: Builder) -> None:
    builder.files("/sys/class/infiniband/mlx5_0", fw_ver="1.2.3")
    builder.link("/sys/class/infiniband/mlx5_0/device", "/sys/devices/pci0000:c0/0000:c3:00.0")
    nic = nics_of(builder)["mlx5_0"]
    assert (nic.pci, nic.path) == ("0000:c3:00.0", ("pci0000:c0", "0000:c3:00.0"))
    assert (nic.vendor, nic.numa, nic.is_vf) == ("", None, None)


def test_a_place_without_a_root_is_no_path(builder: Builder) -> None:
    builder.files("/sys/class/infiniband/mlx5_0", fw_ver="1.2.3", board_id="caf\u00e9")
    builder.link("/sys/class/infiniband/mlx5_0/device", "/sys/class/0000:19:00.0")
    nic = nics_of(builder)["mlx5_0"]
    assert (nic.pci, nic.path, nic.board) == ("0000:19:00.0", (), "1.2.3")


def test_a_device_that_vanishes_is_left_out_with_a_complaint(builder: Builder) -> None:
    builder.nic("mlx5_1", "0000:0c:00.0")
    builder.link("/sys/class/infiniband/mlx5_0", "/sys/devices/gone/infiniband/mlx5_0")
    nics, (complaint,) = read_nics(builder.source())
    assert [nic.name for nic in nics] == ["mlx5_1"]
    assert (complaint.id, complaint.source) == ("vanished", "/sys/class/infiniband/mlx5_0")


@pytest.mark.skipif(not H100.is_dir(), reason="the collected fixtures are not beside the checkout")
def test_the_devices_of_a_real_machine_are_read(builder: Builder) -> None:
    (saved,) = H100.iterdir()
    shutil.copytree(saved, builder.root / "sys/class/infiniband")
    found = nics_of(builder)
    assert list(found) == [*(f"mlx5_{i}" for i in (0, 1, 4, 5, 6, 7, 8, 9)), "mlx5_bond_0"]
    assert found["mlx5_4"].board == "MT_0000000838 28.41.1000"
    assert [nic.gbps for nic in found.values()] == [400.0] * 8 + [200.0]
    # There is no link to a function: nothing is made up, and none is taken for software.
    assert {(nic.pci, nic.is_vf) for nic in found.values()} == {("", None)}
    unfit = [name for name, nic in found.items() if nic.unfit]
    assert unfit == ["mlx5_bond_0"]


def test_iwarp_is_left_to_programs_that_have_the_connection_manager(builder: Builder) -> None:
    builder.nic("irdma0", "0000:31:00.0", ids="8086:1592", driver="ice")
    builder.nic("mlx5_0", "0000:0c:00.0")
    builder.files("/sys/class/infiniband/irdma0", node_type="4: RNIC")
    found = nics_of(builder)
    assert "iWARP" in found["irdma0"].unfit and not found["mlx5_0"].unfit
