# SPDX-License-Identifier: Apache-2.0
"""Files of other tools are read as machines; expectations were counted by hand in the fixtures."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.discovery.complaints import MEANING
from rdmatrain.discovery.fitness import NO_RDMA, judge
from rdmatrain.discovery.importers import merge, read_file
from rdmatrain.discovery.model import Distance, Gpu, Machine, Nic, Port
from rdmatrain.discovery.pci import parse_mask
from rdmatrain.discovery.yaml_text import load_documents
from rdmatrain.errors import SettingError

OURS = Path(__file__).parents[1] / "fixtures/discovery"
FILES = sorted(path for path in OURS.iterdir() if path.suffix != ".md")


def read(name: str) -> Machine:
    return read_file((OURS / name).read_text(), name)


def gpu(machine: Machine, index: int) -> Gpu:
    (found,) = (each for each in machine.gpus if each.index == index)
    return found


def nic(machine: Machine, name: str) -> Nic:
    (found,) = (each for each in machine.nics if each.name == name)
    return found


def test_nccl_paths_go_from_the_node_down_to_the_device() -> None:
    machine = read("nccl.xml")
    assert machine.collapsed
    assert [each.name for each in machine.gpus] == ["GPU0", "GPU1"]
    assert gpu(machine, 1).path == ("cpu0", "0000:10:00.0", "0000:12:00.0")
    assert gpu(machine, 0).path == ("cpu1", "ffff:ff:01.0", "0000:22:00.0")
    assert (gpu(machine, 0).numa, gpu(machine, 1).numa) == (1, 0)
    assert (gpu(machine, 0).pci, gpu(machine, 0).vendor) == ("0000:22:00.0", "nvidia")
    assert nic(machine, "mlx5_0").path == (
        "cpu0",
        "0000:10:00.0",
        "0000:14:00.0",
        "0000:15:00.0",
    )
    assert [(node.number, node.cpus) for node in machine.nodes] == [
        (0, tuple(range(8))),
        (1, tuple(range(32, 40))),
    ]
    assert machine.complaints == ()


def test_nccl_ports_of_one_device_are_one_nic_and_devices_of_one_function_are_two() -> None:
    machine = read("nccl.xml")
    assert [each.name for each in machine.nics] == ["mlx5_0", "mlx5_9", "eth0", "0000:24:00.0"]
    ports = nic(machine, "mlx5_0").ports
    assert [(str(port), port.gbps, port.link_layer) for port in ports] == [
        ("mlx5_0/1", 400.0, "InfiniBand"),
        ("mlx5_0/2", 200.0, "InfiniBand"),
    ]
    assert nic(machine, "mlx5_0").gbps == 400.0
    assert nic(machine, "mlx5_0").pci == nic(machine, "mlx5_9").pci == "0000:15:00.0"
    assert nic(machine, "mlx5_0").vendor == "15b3:1021"


def test_nccl_counts_devices_of_one_card_in_the_number_of_a_port() -> None:
    nets = (("mlx5_0", 1), ("mlx5_1", 2), ("mlx5_1", 3), ("eth0", 0))
    text = "".join(f'<net name="{name}" port="{port}" guid="0x7"/>' for name, port in nets)
    pci = f'<pci busid="0000:01:00.0" class="0x020700"><nic>{text}</nic></pci>'
    machine = read_file(f"<system><cpu>{pci}</cpu></system>", "f")
    assert [list(map(str, each.ports)) for each in machine.nics] == [
        ["mlx5_0/1"],
        ["mlx5_1/1", "mlx5_1/2"],
        [],
    ]


def test_fabric_of_aws_is_neither_ethernet_nor_infiniband() -> None:
    nccl = """<system version="1"><cpu><pci busid="0000:01:00.0" class="0x020000" vendor="0x1d0f"
      device="0xefa1"><nic><net name="efa_0" port="1"/></nic></pci></cpu></system>"""
    hwloc = """<topology version="2.0"><object type="PCIDev" pci_busid="0000:01:00.0"
      pci_type="0200 [1d0f:efa1]"><object type="OSDev" name="efa_0" osdev_type="3">
      <info name="Port1State" value="4"/></object></object></topology>"""
    for text in (nccl, hwloc):
        (only,) = read_file(text, "f").nics
        assert (only.name, only.efa) == ("efa_0", True)
        assert [port.link_layer for port in only.ports] == [""]


def test_nccl_nic_without_net_is_known_by_its_address_and_one_without_pci_by_its_node() -> None:
    machine = read("nccl.xml")
    bare, plain = nic(machine, "0000:24:00.0"), nic(machine, "eth0")
    assert (bare.pci, bare.numa, bare.efa, bare.unfit) == ("0000:24:00.0", 1, True, "")
    assert (plain.pci, plain.path, plain.numa) == ("", ("cpu0", "eth0"), 0)
    assert "no RDMA" in plain.unfit


def test_nccl_lists_virtual_interfaces_at_each_node_and_none_is_a_nic() -> None:
    veth = '<nic><net name="veth1" dev="1" speed="10000" port="0" guid="0x1" gdr="0"/></nic>'
    eno = '<nic><net name="eno1" dev="0" speed="1000" port="0" guid="0x0" gdr="0"/></nic>'
    pci = f'<pci busid="0000:18:00.0" class="0x020000">{eno}</pci>'
    nodes = f'<cpu numaid="0">{pci}{veth}</cpu><cpu numaid="1">{veth}</cpu>'
    machine = read_file(f"<system>{nodes}</system>", "f")
    assert [(each.name, bool(each.unfit)) for each in machine.nics] == [
        ("eno1", False),
        ("veth1", True),
    ]
    assert machine.complaints == ()
    rdma = nodes.replace('port="0" guid="0x0"', 'port="1" guid="0xb8599f030007053a"')
    assert [each.unfit for each in read_file(f"<system>{rdma}</system>", "f").nics] == [
        "",
        "has no RDMA, which others here have",
    ]
    alone = read_file(f'<system><cpu numaid="0">{veth}</cpu></system>', "f")
    assert [(each.name, each.unfit) for each in alone.nics] == [("veth1", "")]


def test_nccl_device_of_one_name_at_two_places_is_a_complaint() -> None:
    text = """<system version="1"><cpu numaid="0">
      <pci busid="0000:01:00.0" class="0x020700"><nic><net name="mlx5_0" port="1"/></nic></pci>
      <pci busid="0000:02:00.0" class="0x020700"><nic><net name="mlx5_0" port="2"/></nic></pci>
    </cpu></system>"""
    machine = read_file(text, "f")
    assert [(each.pci, len(each.ports)) for each in machine.nics] == [("0000:01:00.0", 1)]
    assert [(each.id, each.source) for each in machine.complaints] == [
        ("file-contradiction", "f, line 3")
    ]


def unfit(*nics: Nic) -> list[str]:
    return [each.unfit for each in judge(nics)]


def test_few_bonds_are_unfit() -> None:
    bonds = [Nic("mlx5_bond_0"), Nic("mlx5_bond_1")]
    rails = [Nic("mlx5_1"), Nic("mlx5_2")]
    assert unfit(bonds[0], *rails) == ["is a bond, beside NICs that are as fast", "", ""]
    # Each is a rail.
    assert unfit(*bonds, rails[0]) == ["", "", ""]
    assert unfit(bonds[0], rails[0]) == ["is a bond, beside NICs that are as fast", ""]
    assert unfit(replace(bonds[0], gbps=200.0), replace(rails[0], gbps=100.0)) == ["", ""]


def test_few_nics_of_another_fabric_are_unfit() -> None:
    one, two, other = (
        Nic(name, ports=(Port(name, 1, "", layer),))
        for name, layer in (("a", "InfiniBand"), ("b", "InfiniBand"), ("c", "Ethernet"))
    )
    assert unfit(one, two, other) == ["", "", "is of Ethernet, and the fabric is InfiniBand"]
    assert unfit(one, other) == ["", ""]
    # Two ports of 25 Gbit/s beside one of 200 are not the fabric.
    fast = replace(one, gbps=200.0)
    slow = [replace(other, name=name, gbps=25.0) for name in "cd"]
    assert unfit(fast, *slow) == ["", *["is of Ethernet, and the fabric is InfiniBand"] * 2]
    assert unfit(replace(fast, gbps=0.0), *slow) == [
        "is of InfiniBand, and the fabric is Ethernet", "", ""
    ]  # fmt: skip
    # What counts is the port with a link.
    ports = Port("e", 1, "DOWN", "Ethernet"), Port("e", 2, "ACTIVE", "InfiniBand")
    assert unfit(one, two, Nic("e", ports=ports)) == ["", "", ""]
    assert unfit(other, Nic("unknown")) == ["", ""]


def test_ports_that_are_down_are_unfit_only_beside_active_ones() -> None:
    down, up = (Nic(state, ports=(Port("x", 1, state, ""),)) for state in ("DOWN", "ACTIVE"))
    assert unfit(down, up) == ["its port is DOWN", ""]
    assert unfit(down, down) == ["", ""]
    # What is out already sets no measure.
    assert unfit(replace(down, gbps=400.0), replace(up, gbps=100.0)) == ["its port is DOWN", ""]


def test_the_only_nics_of_a_machine_are_fit_even_without_rdma() -> None:
    text = """<system version="1"><cpu numaid="0"><nic>
        <net name="eth0" port="0" guid="0x0" speed="10000" gdr="0"/></nic></cpu></system>"""
    (only,) = read_file(text, "f").nics
    assert only.unfit == ""


def test_of_several_hosts_the_first_is_read() -> None:
    machine = read("nccl_hosts.xml")
    assert [each.pci for each in machine.gpus] == ["0008:06:00.0"]
    # Of a class that is none of networks: its <nic> tells.
    assert [(each.name, each.pci) for each in machine.nics] == [("mlx5_0_dma", "0008:03:00.0")]
    assert [each.id for each in machine.complaints] == ["several-machines"]
    assert "0xa" in machine.complaints[0].text


def test_devices_without_a_function_of_their_own_hang_below_the_bridge() -> None:
    text = """<system version="1"><cpu arch="arm64"><pci busid="0000:01:00.0" class="0x060400">
      <gpu sm="80"/><nic><net name="mlx5_0"/></nic><nic net="mlx5_1"/>
    </pci></cpu></system>"""
    machine = read_file(text, "f")
    assert machine.gpus[0].path[:2] == machine.nics[0].path[:2] == ("cpu0", "0000:01:00.0")
    assert (machine.gpus[0].pci, machine.nics[0].pci) == ("", "")
    assert [each.source for each in machine.complaints] == ["f, line 2"]


def test_what_is_broken_in_a_readable_file_is_a_complaint_with_line_and_value() -> None:
    machine = read("nccl_broken.xml")
    assert [str(each) for each in machine.complaints] == [
        "unreadable: nccl_broken.xml, line 3: busid is 'nonsense', no PCI address",
        "unreadable: nccl_broken.xml, line 4: class of 0000:31:00.0 is missing: GPU or NIC?",
        "unreadable: nccl_broken.xml, line 5: class of 0000:32:00.0 is what: GPU or NIC?",
        "file-contradiction: nccl_broken.xml, line 9: 0000:41:00.0 is also at cpu-1 > 0000:41:00.0",
    ]
    assert [(each.pci, each.numa, each.vendor) for each in machine.gpus] == [
        ("", None, "amd"),
        ("0000:51:00.0", 1, ""),
    ]
    assert [each.numa for each in machine.nics] == [None]
    assert machine.nodes[0].cpus == (0, 1, 2, 3)


def test_comments_may_be_lines_of_hyphens() -> None:
    comment = "<!------------------\n - Copyright\n ------------------->\n"
    text = f"{comment}<system><cpu numaid='0'><!-- <gpu> --><pci busid='x'/></cpu></system>"
    assert [each.source for each in read_file(text, "f").complaints] == ["f, line 4"]
    with pytest.raises(SettingError, match="line 1, column"):
        read_file("<system><!-- </system>", "f")


@pytest.mark.parametrize("number", ["0x030000", "0x030200", "0x0302", "0x038000", "0x120000"])
def test_bare_functions_of_gpu_classes_are_gpus_numbered_by_address(number: str) -> None:
    text = f"""<system version="1"><cpu numaid="0">
      <pci busid="000b:00:00.0" class="{number}"/><pci busid="0002:00:00.0" class="{number}"/>
    </cpu></system>"""
    machine = read_file(text, "f")
    assert [(each.index, each.pci) for each in machine.gpus] == [
        (0, "0002:00:00.0"),
        (1, "000b:00:00.0"),
    ]


def test_hwloc_paths_begin_at_the_root_complex() -> None:
    machine = read("hwloc2.xml")
    assert not machine.collapsed
    assert gpu(machine, 1).path == ("pci0000:00", "0000:00:01.0", "0000:01:00.0")
    assert gpu(machine, 0).path == ("pci0000:80", "0000:81:00.0")
    assert [(each.name, each.numa) for each in machine.gpus] == [("nvml0", 1), ("nvml1", 0)]
    assert gpu(machine, 1).uuid == "GPU-11111111-2222-3333-4444-555555555555"
    assert gpu(machine, 1).model == "GH100 [H100 SXM5 80GB]"
    assert [(node.number, node.cpus) for node in machine.nodes] == [(0, (0, 1)), (1, (2, 3))]
    assert machine.product == "Standard_Example"


def test_hwloc_nics_are_rdma_devices_and_others_are_listed_as_unfit() -> None:
    machine = read("hwloc2.xml")
    assert [(each.name, each.efa, each.unfit) for each in machine.nics] == [
        ("mlx5_0", False, ""),
        ("mlx5_1", False, "its port is DOWN"),
        ("0000:82:01.0", True, ""),
        ("ens5", False, "has no RDMA, which others here have"),
    ]
    (port,) = nic(machine, "mlx5_0").ports
    assert (str(port), port.state, port.link_layer) == ("mlx5_0/1", "ACTIVE", "InfiniBand")
    assert nic(machine, "mlx5_1").ports[0].link_layer == "Ethernet"
    assert nic(machine, "mlx5_1").netdevs == ("ens2",)
    assert [(each.name, each.pci) for each in machine.netdevs] == [
        ("ibp2s0", "0000:02:00.0"),
        ("ens2", "0000:82:00.0"),
        ("ens5", "0000:82:02.0"),
    ]
    assert [each.id for each in machine.complaints] == ["unreadable"]
    assert "'not an address'" in machine.complaints[0].text


def test_hwloc_nic_without_rdma_device_is_fit_only_where_no_other_has_one() -> None:
    bare = '<object type="PCIDev" pci_busid="0000:01:00.0" pci_type="0200 [15b3:101e]"/>'
    other = """<object type="PCIDev" pci_busid="0000:02:00.0" pci_type="0200 [15b3:101d]">
      <object type="OSDev" name="mlx5_0" osdev_type="OpenFabrics"/></object>"""
    for parts, reasons in ((bare, [""]), (bare + other, [NO_RDMA, ""])):
        machine = read_file(f'<topology version="2.0">{parts}</topology>', "f")
        assert [each.unfit for each in machine.nics] == reasons


def test_hwloc_1_has_devices_inside_of_nodes_and_a_nic_without_driver() -> None:
    machine = read("hwloc1.xml")
    assert [(each.path, each.numa) for each in machine.gpus] == [
        (("pci0000:00", "0000:03:00.0"), 1)
    ]
    assert [(each.name, each.numa, each.unfit) for each in machine.nics] == [
        ("0000:03:01.0", 1, "")
    ]


def test_hwloc_3_has_bits_where_others_have_numbers() -> None:
    machine = read("hwloc3.xml")
    assert [(each.name, each.vendor, each.numa) for each in machine.gpus] == [("rsmi0", "amd", 0)]
    assert [(each.name, each.netdevs) for each in machine.nics] == [("bnxt_re0", ("ens1",))]


def test_hwloc_memory_of_a_gpu_is_a_node_that_hides_no_other() -> None:
    text = """<topology version="2.0"><object type="Machine" nodeset="0x7">
      <object type="Package" cpuset="0xf" nodeset="0x5">
        <object type="NUMANode" os_index="0" cpuset="0xf" nodeset="0x1"/>
        <object type="NUMANode" os_index="2" cpuset="0xf" nodeset="0x4" subtype="GPUMemory"/>
        <object type="PCIDev" pci_busid="0009:01:00.0" pci_type="0302 [10de:2941] [0:0] a1"/>
      </object>
      <object type="NUMANode" os_index="1" cpuset="0xf0" nodeset="0x2"/>
      <object type="PCIDev" pci_busid="0019:01:00.0" pci_type="0302 [10de:2941] [0:0] a1"/>
    </object></topology>"""
    assert [each.numa for each in read_file(text, "f").gpus] == [0, None]


def test_matrix_names_nics_by_its_legend_and_states_distances() -> None:
    machine = read("topo_m.txt")
    assert machine.complaints == ()
    assert set(machine.stated) == {
        (0, "mlx5_0", Distance.PIX),
        (0, "mlx5_bond_0", Distance.NODE),
        (0, "mlx5_2", Distance.SYS),
        (1, "mlx5_0", Distance.SYS),
        (1, "mlx5_bond_0", Distance.SYS),
        (1, "mlx5_2", Distance.PXB),
    }
    assert [(each.name, each.numa) for each in machine.gpus] == [("GPU0", 0), ("GPU1", 1)]
    assert [(each.name, each.numa) for each in machine.nics] == [
        ("mlx5_0", 0),
        ("mlx5_bond_0", 0),
        ("mlx5_2", 1),
    ]
    assert [(node.number, node.cpus) for node in machine.nodes] == [
        (0, (0, 1, 2, 3, 8)),
        (1, (4, 5, 6, 7)),
    ]
    assert "bond" in nic(machine, "mlx5_bond_0").unfit


def test_matrix_of_old_drivers_has_names_in_its_columns_and_other_distances() -> None:
    machine = read("topo_m_old.txt")
    assert set(machine.stated) == {
        (0, "mlx5_0", Distance.PHB),
        (0, "mlx5_1", Distance.SYS),
        (1, "mlx5_0", Distance.SYS),
        (1, "mlx5_1", Distance.PIX),
    }


@pytest.mark.parametrize(
    "text",
    [
        "|      | GPU0 | GPU1 | NIC0 |\n|---|---|---|---|\n| GPU1 | NV18 | X | PXB |\n",
        "     GPU0\tGPU1\tNIC0\nGPU1\tNV18\t X \tPXB\n",
        "\t\tGPU0\tGPU1\tNIC0\n\t\tGPU1\tNV18\t X \tPXB\n",
        "GPU0 GPU1 NIC0 CPU Affinity NUMA Affinity GPU NUMA ID\nGPU1 NV18 X PXB 0-7 N/A N/A",
        "     GPU0 GPU1 NIC0 NIC1 NUMA\nGPU1 NV18 X PXBNODE 0\n",
        "GPU0 GPU1 GPU1 NIC0\nGPU1 NV1 X SYS PXB\n",
        "\t\tGPU0\tGPU1\tNIC0\tCPU Affinity\nGPU1\tNV2\t \tX \t\tPXB\t\t0-7\n",
        "\tGPU0\tGPU1\tNIC0\tNIC1\tCPU Affinity\nGPU1\tNV18\t X \tPXBNODE\t0-7\n",
        "# \tGPU0\tGPU1\tNIC0\n# GPU1 SYS\t X \tPXB\n",
        "> GPU0 GPU1 NIC0\n>> GPU1 NV X PXB\n",
        "some words\n[4mGPU0 GPU1 NIC0[0m\nNIC0 PHX PXB X\nNIC0 PHB PXB X\n",
    ],
)
def test_matrix_may_lack_rows_and_be_set_in_any_way(text: str) -> None:
    machine = read_file(text, "f")
    assert len(machine.gpus) == 2
    assert (1, "NIC0", Distance.PXB) in machine.stated


def test_matrix_row_with_a_missing_cell_is_not_read_one_column_off() -> None:
    text = "GPU0 GPU1 NIC0 NIC1\nGPU0 X NV4 PIX SYS\nGPU1 X SYS PIX\n"
    machine = read_file(text, "f")
    assert set(machine.stated) == {(0, "NIC0", Distance.PIX), (0, "NIC1", Distance.SYS)}
    assert {each.source for each in machine.complaints} == {"f, row GPU1"}


def test_matrix_numbers_no_two_gpus_alike() -> None:
    machine = read_file("GPU0 GPU00 NIC0\nGPU0 X SYS PIX\nGPU00 SYS X PIX\n", "f")
    assert [each.name for each in machine.gpus] == ["GPU0"]


def test_matrix_name_of_two_nics_is_a_name_of_neither() -> None:
    text = "GPU0 NIC0 NIC1\nGPU0 X PIX SYS\nNIC Legend:\n NIC0: mlx5_0\n NIC1: mlx5_0\n"
    assert [each.name for each in read_file(text, "f").nics] == ["NIC0", "NIC1"]


def test_matrix_legend_may_have_remarks_and_several_names_in_a_line() -> None:
    text = "# GPU0 NIC0 NIC1 NIC2\n# GPU0 X PIX SYS SYS\n# NIC0: rocep80s0 -> ens1  10.0.0.1/24\n"
    machine = read_file(text + "NIC1: mlx5_1    NIC2: mlx5_2\nNIC1: later\n", "f")
    assert [each.name for each in machine.nics] == ["rocep80s0", "mlx5_1", "mlx5_2"]


@pytest.mark.parametrize(
    ("tail", "numa", "cpus"),
    [
        ("0-3\t1\t\tN/A", 1, (0, 1, 2, 3)),
        ("0-3\tN/A\t\tN/A", None, ()),
        ("0-3\t1", 1, (0, 1, 2, 3)),
        ("\t1\t\tN/A", 1, ()),
        ("0-3\t0,3-9,11-17\t\t2", 0, (0, 1, 2, 3)),
        ("", None, ()),
    ],
)
def test_matrix_affinity_of_a_gpu(tail: str, numa: int | None, cpus: tuple[int, ...]) -> None:
    header = "\tGPU0\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\n"
    machine = read_file(f"{header}GPU0\t X \tPIX\t{tail}\nNIC0\tPIX\t X \t\t\t\t\n", "f")
    assert [each.numa for each in (*machine.gpus, *machine.nics)] == [numa, numa]
    assert [(each.number, each.cpus) for each in machine.nodes] == (
        [(numa, cpus)] if numa is not None else []
    )
    assert machine.complaints == ()


def test_matrix_that_is_not_symmetric_is_a_complaint() -> None:
    machine = read_file("GPU0 NIC0\nGPU0 X PIX\nNIC0 SYS X\n", "f")
    assert machine.stated == ((0, "NIC0", Distance.PIX),)
    (complaint,) = machine.complaints
    assert (complaint.id, complaint.source) == ("file-contradiction", "f, row NIC0, column GPU0")


def test_second_matrix_of_a_text_is_not_mixed_with_the_first() -> None:
    one = "GPU0 NIC0\nGPU0 X PIX\nNIC Legend:\n  NIC0: mlx5_7\n"
    machine = read_file(one + one.replace("PIX", "SYS"), "f")
    assert machine.stated == ((0, "mlx5_7", Distance.PIX),)
    assert [each.id for each in machine.complaints] == ["several-machines"]


def test_slices_keep_unquoted_addresses_and_one_node() -> None:
    machine = read("slices.yaml")
    assert [(each.name, each.pci, each.numa) for each in machine.nics] == [
        ("mlx5_3", "0000:16:00.0", 0),
        ("eth0", "0000:17:00.0", None),
        ("0000-08-00-4", "0000:08:00.4", 1),
    ]
    assert nic(machine, "mlx5_3").path == ("pci0000:10", "0000:16:00.0")
    assert "no RDMA" in nic(machine, "eth0").unfit
    assert nic(machine, "0000-08-00-4").is_vf
    assert nic(machine, "0000-08-00-4").vendor == "15b3:101e"
    assert [each.name for each in machine.netdevs] == ["eth1", "eth0", "veth7"]
    assert machine.netdevs[0].addresses == ("10.0.0.1",)
    assert machine.netdevs[0].mtu == 9000
    assert machine.product == "Standard_Example"
    assert {each.id for each in machine.complaints} == {"several-machines", "unreadable"}
    assert any("'960.0'" in each.text for each in machine.complaints)


def test_slices_of_gpus_have_slices_of_mig_and_no_passthrough_twins() -> None:
    machine = read("slices_gpu.json")
    assert [(each.index, each.uuid, each.mig) for each in machine.gpus] == [
        (0, "GPU-a", ("MIG-a",)),
        (1, "GPU-b", ()),
    ]
    # Of Grace sockets the domain tells the node; of others nothing does.
    assert [(each.numa, each.minor) for each in machine.gpus] == [(1, None), (None, 3)]


def test_slices_of_partitioned_gpus() -> None:
    text = """
kind: ResourceSlice
spec:
  driver: gpu.amd.com
  devices:
  - {name: gpu-0-128, basic: {attributes: {type: {string: amdgpu}, pciAddr: 0002:00:00.0}}}
  - &part
    name: gpu-1-129
    basic: {attributes: {type: {string: amdgpu-partition}, parentPciAddr: 0001:00:00.0}}
  - {<<: *part, name: gpu-2-130, basic: {attributes: {type: amdgpu, pciAddr: 0001:00:00.0}}}
"""
    machine = read_file(text, "f")
    assert [(each.index, each.name, each.pci) for each in machine.gpus] == [
        (0, "gpu-1-129", "0001:00:00.0"),
        (1, "gpu-2-130", "0001:00:00.0"),
        (2, "gpu-0-128", "0002:00:00.0"),
    ]
    assert {each.vendor for each in machine.gpus} == {"amd"}


def test_slices_of_mig_whose_gpu_is_not_on_offer_are_on_one_gpu() -> None:
    devices = [
        {
            "name": f"gpu-0-mig-{number}",
            "attributes": {
                "type": {"string": "mig"},
                "uuid": {"string": f"MIG-{number}"},
                "parentUUID": {"string": "GPU-a"},
                "pcieBusID": {"string": "0000:07:00.0"},
            },
        }
        for number in range(2)
    ]
    spec = {"driver": "gpu.nvidia.com", "devices": devices}
    (only,) = read_file(json.dumps({"kind": "ResourceSlice", "spec": spec}), "f").gpus
    assert (only.uuid, only.pci, only.mig) == ("GPU-a", "0000:07:00.0", ("MIG-0", "MIG-1"))


def test_slice_of_mig_without_its_gpu_is_a_complaint() -> None:
    text = """
kind: ResourceSlice
spec: {driver: gpu.nvidia.com, devices: [{name: mig-0, attributes: {type: {string: mig}}}]}
"""
    machine = read_file(text, "f")
    assert machine.gpus == ()
    assert [each.source for each in machine.complaints] == ["f, mig-0"]


@pytest.mark.parametrize("names", [("a.b/numaNode", "z.b/numaNode"), ("z.b/numaNode", "a.b/x")])
def test_standard_attributes_of_slices_go_before_those_of_drivers(names: tuple[str, str]) -> None:
    first, last = names
    attributes = {
        first: {"int": 1},
        "resource.kubernetes.io/numaNode": {"int": 0},
        last: {"int": 1},
        "rdma": {"bool": True},
        "pciAddress": {"string": "0000:01:00.0"},
    }
    device = {"name": "a", "attributes": attributes}
    text = json.dumps({"kind": "ResourceSlice", "spec": {"devices": [device]}})
    assert [each.numa for each in read_file(text, "f").nics] == [0]


def test_merged_slices_are_one_machine_and_nics_tell_the_node_of_gpus() -> None:
    machine = merge([read("slices_gpu.json"), read("slices.yaml"), read("slices.yaml")])
    assert [(each.name, each.numa) for each in machine.gpus] == [("gpu-0", 1), ("gpu-1", 0)]
    assert [each.name for each in machine.nics] == ["mlx5_3", "eth0", "0000-08-00-4"]
    assert machine.product == "Standard_Example"


def slices(node: str, driver: str, pci: str) -> str:
    attributes = {"resource.kubernetes.io/pciBusID": {"string": pci}}
    device = {"name": f"{driver}-0", "attributes": attributes}
    spec = {"driver": driver, "nodeName": node, "devices": [device]}
    return json.dumps({"kind": "ResourceSlice", "spec": spec})


def test_of_a_cluster_the_first_node_with_gpus_is_read() -> None:
    parts = [
        slices("a", "dra.net", "0000:01:00.0"),
        slices("b", "dra.net", "0000:02:00.0"),
        slices("b", "gpu.nvidia.com", "0000:03:00.0"),
    ]
    machine = read_file("\n---\n".join(parts), "f")
    assert machine.origin == "f, ResourceSlices of b"
    assert [each.pci for each in (*machine.gpus, *machine.nics)] == ["0000:03:00.0", "0000:02:00.0"]
    assert [each.text for each in machine.complaints] == ["2; b is shown"]


def test_slices_of_two_nodes_in_two_files_are_a_complaint() -> None:
    one, other = (read_file(slices(node, "dra.net", "0000:01:00.0"), node) for node in "ab")
    assert merge([one, one]).complaints == ()
    assert [each.id for each in merge([one, other]).complaints] == ["several-machines"]


def test_machines_of_other_kinds_are_not_merged() -> None:
    with pytest.raises(SettingError, match=r"nccl\.xml"):
        merge([read("slices.yaml"), read("nccl.xml")])


def test_yaml_and_json_keep_what_looks_like_a_number() -> None:
    assert load_documents("a: 0000:16:00.0\n---\nb: [1e3, 0x10, yes, null]") == [
        {"a": "0000:16:00.0"},
        {"b": ["1e3", "0x10", "yes", "null"]},
    ]
    assert load_documents('{"a": 10, "b": [1.50, true, null]}') == [
        {"a": "10", "b": ["1.50", True, None]}
    ]
    assert load_documents("{a: 0000:16:00.0}") == [{"a": "0000:16:00.0"}]


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("00000001,80000000", (31, 32)),
        ("0x00000003,,0x1", (0, 64, 65)),
        ("3f", (0, 1, 2, 3, 4, 5)),
        ("0", ()),
        ("", ()),
        ("0xf...f", ()),
        ("123456789", ()),
        ("1," * 3000, ()),
    ],
)
def test_masks_of_cpus(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_mask(text) == cpus


def test_kind_is_told_by_content_not_by_name() -> None:
    text = (OURS / "hwloc2.xml").read_text()
    assert read_file("\ufeff\n" + text, "topo.yaml").gpus == read("hwloc2.xml").gpus


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("\n\n<system>\n  <cpu>\n</system>", "mismatched tag at line 5, column 3"),
        ("<system version='1'><cpu numaid='0'>", "no element found at line 1, column 37"),
        ("<graphs/>", "NCCL_GRAPH_DUMP_FILE"),
        ("<html/>", "<html>"),
        ("<system><layers/></system>", "<system>"),
        ("kind: Pod\n", "'Pod'"),
        ("kind: [1]\nitems: []", "YAML"),
        ("kind: {a: b}", "YAML"),
        ('[{"kind": {}}, {"kind": []}, 1, null]', "text"),
        ('{"schema": "x/1"}', "'x/1'"),
        ("hello", "text"),
        ("a: [", "YAML"),
        ("[" * 100_000, "YAML"),
        ('{"a":' * 100_000, "YAML"),
        ("<a>" * 1000, "nested"),
        ("\0", "YAML"),
        ("\udcff\udcfe", "YAML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><system>&b;</system>', "entity"),
    ],
    ids=lambda value: ascii(value[:20]),
)
def test_other_files_are_an_error_that_says_what_is_understood(text: str, words: str) -> None:
    with pytest.raises(SettingError) as raised:
        read_file(text, "file.xml")
    assert words in str(raised.value)
    assert str(raised.value).startswith("file.xml")
    assert len(str(raised.value)) < 600


def test_huge_files_are_refused_before_they_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match="more than"):
        read_file("x" * ((64 << 20) + 1), "f")
    monkeypatch.setattr("rdmatrain.discovery.yaml_text.MAX_YAML", 10)
    with pytest.raises(SettingError, match="nor YAML: 15 characters, more than 10"):
        read_file("a: b\n" * 3, "f")


def test_external_entities_are_not_opened() -> None:
    text = f'<!DOCTYPE topology SYSTEM "file://{OURS}/hwloc2.xml"><topology/>'
    assert read_file(text, "f").gpus == ()


MUTATION = st.tuples(
    st.sampled_from(["cut", "drop", "put", "twice"]),
    st.floats(0, 1),
    st.integers(0, 200),
    st.one_of(
        st.text(max_size=8),
        st.sampled_from(["<", '"', "0", "\t", "\n", "|", "0xffffffff", "-1", "[", "GPU0", "NIC1"]),
    ),
)


def mutated(text: str, mutations: list[tuple[str, float, int, str]]) -> str:
    for kind, where, length, other in mutations:
        begin = int(where * len(text))
        part = text[begin : begin + length]
        end = text[begin + length :]
        text = {
            "cut": text[:begin],
            "drop": text[:begin] + end,
            "put": text[:begin] + other + end,
            "twice": text[:begin] + part + part + end,
        }[kind]
    return text


@settings(deadline=None, max_examples=200)
@given(path=st.sampled_from(FILES), mutations=st.lists(MUTATION, max_size=4))
def test_damaged_files_are_machines_with_complaints_or_an_error(
    path: Path, mutations: list[tuple[str, float, int, str]]
) -> None:
    try:
        machine = read_file(mutated(path.read_text(), mutations), path.name)
    except SettingError as error:
        assert str(error).startswith(path.name)
        return
    indexes = [each.index for each in machine.gpus]
    names = [each.name for each in machine.nics]
    assert indexes == sorted(set(indexes))
    assert len(names) == len(set(names))
    assert not names or not all(each.unfit for each in machine.nics)
    assert {index for index, _, _ in machine.stated} <= set(indexes)
    assert {name for _, name, _ in machine.stated} <= set(names)
    assert {each.id for each in machine.complaints} <= MEANING.keys()
    for each in (*machine.gpus, *machine.nics):
        assert not each.pci or not each.path or each.path[-1] == each.pci


@settings(deadline=None, max_examples=200)
@given(text=st.text(max_size=300))
def test_any_text_is_read_or_an_error(text: str) -> None:
    with contextlib.suppress(SettingError):
        read_file(text, "f")
