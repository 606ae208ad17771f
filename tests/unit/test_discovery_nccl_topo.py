# SPDX-License-Identifier: Apache-2.0
"""A generated topology file is read by NCCL's rules, and says what was measured."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nccl_xml import Reader, parents

from rdmatrain.discovery.importers import read_file
from rdmatrain.discovery.model import Distance, Gpu, Machine, Nic, Node, Port
from rdmatrain.discovery.nccl_topo import merges_vfs, topology_xml
from rdmatrain.discovery.pairing import pair
from rdmatrain.discovery.pod_model import Pair

COLLECTED = Path(__file__).parents[3] / "shared/fixtures/nccl_topo"

# Two of the eight rails of an HGX H100 as sysfs nests them: root port, upper and lower ports of a
# switch, device. The VFs have a device number of their own.
ROOTS = (("0000:07", "08", "0000:0f:00.0", "0000:0c:01.2"),
         ("0000:80", "82", "0000:89:00.0", "0000:86:00.3"))  # fmt: skip


def hgx() -> Machine:
    gpus, nics = [], []
    for number, (root, upper, gpu, vf) in enumerate(ROOTS):
        switch = (f"pci{root}", f"{root}:01.0", f"0000:{upper}:00.0")
        below = [f"0000:{int(upper, 16) + 1:02x}:0{n}.0" for n in (0, 1)]
        gpus.append(Gpu(number, f"GPU{number}", gpu, (*switch, below[0], gpu), number, "nvidia"))
        port = Port(f"mlx5_{18 + number}", 1, "ACTIVE", "Ethernet")
        pf = f"{vf[:-4]}00.0"
        path = (*switch, below[1], vf)
        nics.append(Nic(port.device, vf, path, number, ports=(port,), pf=pf, is_vf=True))
    nodes = (Node(0, tuple(range(56))), Node(1, tuple(range(56, 112))))
    return Machine("a test", gpus=tuple(gpus), nics=tuple(nics), nodes=nodes)


def read(machine: Machine, *pairs: Pair, merge_vfs: bool = True) -> dict[str, str]:
    text = topology_xml(machine, machine.gpus, machine.nics, pairs, merge_vfs)
    ElementTree.fromstring(text)  # Well-formed for other readers too.
    return parents(Reader(text).read())


def test_virtual_functions_below_the_switch_of_their_gpu() -> None:
    machine = hgx()
    assert topology_xml(machine, machine.gpus, machine.nics) == (
        '<system version="1">\n'
        '  <cpu numaid="0" affinity="00000000,00000000,00ffffff,ffffffff">\n'
        '    <pci busid="0000:08:00.0" class="0x060400">\n'
        '      <pci busid="0000:0c:00.0" class="0x020000"/>\n'
        '      <pci busid="0000:0f:00.0" class="0x030200"/>\n'
        "    </pci>\n"
        "  </cpu>\n"
        '  <cpu numaid="1" affinity="0000ffff,ffffffff,ff000000,00000000">\n'
        '    <pci busid="0000:82:00.0" class="0x060400">\n'
        '      <pci busid="0000:86:00.0" class="0x020000"/>\n'
        '      <pci busid="0000:89:00.0" class="0x030200"/>\n'
        "    </pci>\n"
        "  </cpu>\n"
        "</system>\n"
    )
    assert read(machine, merge_vfs=False)["0000:0c:01.0"] == "0000:08:00.0"


def test_a_virtual_function_without_a_path_is_where_its_card_is() -> None:
    machine = hgx()
    pf = replace(machine.nics[0], name="mlx5_0", pci="0000:0c:00.0", pf="", is_vf=False,
                 path=(*machine.nics[0].path[:-1], "0000:0c:00.0"))  # fmt: skip
    vf = replace(machine.nics[0], path=())
    machine = replace(machine, nics=(pf, vf))
    text = topology_xml(machine, machine.gpus, [vf])
    assert parents(Reader(text).read())["0000:0c:00.0"] == "0000:08:00.0"


def test_switches_below_switches() -> None:
    path = ("pci0000:00", "0000:00:01.0", "0000:01:00.0", "0000:02:00.0", "0000:03:00.0",
            "0000:04:00.0")  # fmt: skip
    gpu = Gpu(0, "GPU0", "0000:05:00.0", (*path, "0000:05:00.0"), 0)
    nic = Nic("mlx5_0", "0000:06:00.0", (*path[:-2], "0000:06:00.0"), 0)
    found = read(Machine("a test", gpus=(gpu,), nics=(nic,)))
    # The ports of the inner switch are 03 (upper) and 04 (lower), of the outer one 01 and 02.
    assert (
        found
        == {
            "0000:01:00.0": "0",
            "0000:03:00.0": "0000:01:00.0",
            "0000:05:00.0": "0000:03:00.0",
            "0000:06:00.0": "0000:01:00.0",
        }
        or found["0000:06:00.0"] == "0000:02:00.0"
    )


def ndv4() -> Machine:
    """An ND96asr_v4 as its guest sees it: a root for each device, and NUMA nodes."""

    def at(pci: str) -> tuple[str, ...]:
        return (f"pci{pci[:7]}", pci)

    numa = {"1": 1, "2": 1, "3": 0, "4": 0, "b": 3, "c": 3, "d": 2, "e": 2}
    gpus = tuple(
        Gpu(n, f"GPU{n}", f"000{d}:00:00.0", at(f"000{d}:00:00.0"), node, "nvidia", model="A100")
        for n, (d, node) in enumerate(numa.items())
    )
    nodes = dict(enumerate((1, 1, 0, 0, 3, 3, 2, 2), 1))
    nics = []
    for n, node in nodes.items():
        pci, port = f"010{n}:00:00.0", Port(f"mlx5_ib{n - 1}", 1, "ACTIVE", "InfiniBand")
        nics.append(Nic(port.device, pci, at(pci), node, ports=(port,), gbps=200))
    return Machine("a test", gpus=gpus, nics=tuple(nics), virtual=True)


def test_pairs_of_a_virtual_machine_get_bridges_of_their_own() -> None:
    machine = ndv4()
    pairs, _ = pair(machine, machine.gpus, machine.nics)
    found = read(machine, *pairs)
    for each in pairs:
        bridge = found[each.gpu.pci]
        assert bridge.startswith("ffff:ff:")
        assert found[each.nic.pci] == bridge
        assert found[bridge] == str(each.gpu.numa)
    text = topology_xml(machine, machine.gpus, machine.nics, pairs)
    assert '<pci busid="0101:00:00.0" class="0x020700"/>' in text
    assert text.count('class="0x060400" link_speed="32.0 GT/s PCIe" link_width="16"') == 8
    # Without pairs nothing is made up.
    assert not any(name.startswith("ffff") for name in read(machine))


def test_gpus_that_share_a_nic_share_its_bridge() -> None:
    machine = ndv4()
    gpus, nic = machine.gpus[:3], machine.nics[0]
    machine = replace(machine, gpus=gpus, nics=(nic,))
    pairs = [Pair(gpu, nic, (), Distance.PIX, "a table") for gpu in gpus[:2]]
    pairs.append(Pair(gpus[2], nic, (), Distance.SYS, "nothing else is left"))
    found = read(machine, *pairs)
    assert found[gpus[0].pci] == found[gpus[1].pci] == found[nic.pci] == "ffff:ff:01.0"
    assert found[gpus[2].pci] == str(gpus[2].numa)


def test_what_is_measured_goes_before_what_pairs_say() -> None:
    machine = hgx()
    crossed = [
        Pair(machine.gpus[n], machine.nics[1 - n], (), Distance.PIX, "wrong") for n in (0, 1)
    ]
    assert read(machine, *crossed) == read(machine)
    # A NIC of which nothing is known joins its GPU.
    bare = replace(machine.nics[0], path=(), pf="")
    machine = replace(machine, nics=(bare,))
    found = read(machine, Pair(machine.gpus[1], bare, (), Distance.PIX, "a table"))
    assert found["0000:0c:00.0"] == "0000:82:00.0"


def test_amd_has_the_second_version_of_the_format() -> None:
    gpu = Gpu(0, "GPU0", "0000:0c:00.0", vendor="amd")
    text = topology_xml(Machine("a test"), [gpu], [])
    assert text.startswith('<system version="2">')
    assert 'class="0x038000"' in text


def test_a_device_without_a_known_place_is_at_no_node() -> None:
    nics = (Nic("rxe0"), Nic("mlx5_0", "0000:0c:00.0"), Nic("mlx5_1", 'junk"'))
    assert read(Machine("a test", nics=nics)) == {"0000:0c:00.0": "-1"}
    assert read(Machine("a test")) == {}


def test_efa_keeps_its_address_and_an_affinity_that_is_too_long_is_left_out() -> None:
    nic = Nic("rdmap16s27", "0000:10:1b.0", ("pci0000:10", "0000:10:1b.0"), 0, efa=True)
    cpus = Node(0, (0, 2000))
    text = topology_xml(Machine("a test", nics=(nic,), nodes=(cpus,)), [], [nic])
    assert parents(Reader(text).read()) == {"0000:10:1b.0": "0"}
    assert "affinity" not in text


def test_more_than_nccl_has_room_for_is_left_out() -> None:
    gpus = tuple(Gpu(n, f"GPU{n}", f"0000:{n:02x}:00.0", numa=n // 40) for n in range(42))
    found = read(Machine("a test", gpus=gpus))
    assert list(found.values()) == ["0"] * 32 + ["1"] * 2


def test_nodes_are_in_the_order_of_their_numbers() -> None:
    gpus = [Gpu(n, f"GPU{n}", f"0000:{n:02x}:00.0", numa=numa) for n, numa in enumerate((10, 9))]
    text = topology_xml(Machine("a test"), gpus, [])
    assert list(parents(Reader(text).read()).values()) == ["9", "10"]


def test_a_card_whose_address_is_a_bridges_is_left_to_nccl() -> None:
    machine = hgx()
    vf = replace(machine.nics[0], pci="0000:08:01.2", pf="")
    assert read(replace(machine, nics=(vf,))) == read(replace(machine, nics=()))


def test_efa_shares_a_bus_without_being_merged() -> None:
    nics = [Nic(f"rdmap16s{n}", f"0000:10:{n:02x}.0", efa=True) for n in (27, 28)]
    assert merges_vfs(nics, {})


@pytest.mark.parametrize(
    ("nics", "merged"),
    [
        ([("0000:0c:00.2", "0000:0c:00.0"), ("0000:0c:08.1", "0000:0c:00.0")], True),
        # Two ports of one card.
        ([("0000:0c:00.2", "0000:0c:00.0"), ("0000:0c:01.2", "0000:0c:00.1")], True),
        ([("0000:0c:00.0", ""), ("0000:0c:00.1", "")], True),
        ([("0000:0c:00.0", ""), ("0000:0c:00.2", "0000:0c:00.0")], True),
        ([("0000:0c:00.0", ""), ("0000:2c:00.0", "")], True),
        # A hypervisor's only bus.
        ([("0000:00:05.0", ""), ("0000:00:06.0", "")], False),
    ],
)
def test_cards_that_share_a_bus_are_not_merged(nics: list[tuple[str, str]], merged: bool) -> None:
    found = [Nic(f"mlx5_{n}", pci, pf=pf) for n, (pci, pf) in enumerate(nics)]
    assert merges_vfs(found, {}) == merged
    assert merges_vfs(found, {"NCCL_IB_MERGE_VFS": "0"}) is False
    assert merges_vfs(found, {"NCCL_IB_MERGE_VFS": "1"}) is True


@pytest.mark.skipif(not COLLECTED.is_dir(), reason="the collected fixtures are not here")
@pytest.mark.parametrize(
    "name",
    [
        "azure_ndv4-topo.xml",
        "oci_BM.GPU.H100.8_container_vf-topo.xml",
        "rccl_topo_8p_942.xml",
        "rccl_topo_8p_950.xml",
        "rccl_topo_8p_90a.xml",
        "rccl_topo_8p_rome_4nics.xml",
    ],
)
def test_a_vendors_file_comes_out_as_it_went_in(name: str) -> None:
    text = (COLLECTED / name).read_text()
    machine = read_file(text, name)
    pairs, _ = pair(machine, machine.gpus, machine.nics)
    written = topology_xml(machine, machine.gpus, machine.nics, pairs)
    mine = parents(Reader(written).read())
    theirs = {}
    for above in ElementTree.fromstring(text).iter():
        place = above.get("busid") or above.get("numaid", "")
        theirs |= {each.attrib["busid"]: place for each in above.findall("pci")}
    assert mine == {address: theirs[address] for address in mine}
    addresses = {gpu.pci for gpu in machine.gpus} | {nic.pci for nic in machine.nics if nic.pci}
    assert addresses <= set(mine)
    # What is read back is paired as before.
    again = read_file(written, "generated")
    after, _ = pair(again, again.gpus, again.nics)
    assert {p.gpu.pci: p.nic.pci for p in after} == {p.gpu.pci: p.nic.pci for p in pairs}


def test_what_is_read_back_is_paired_as_before() -> None:
    for machine in (hgx(), ndv4()):
        pairs, _ = pair(machine, machine.gpus, machine.nics)
        again = read_file(topology_xml(machine, machine.gpus, machine.nics, pairs), "generated")
        assert not again.complaints
        after, _ = pair(again, again.gpus, again.nics)
        assert {each.gpu.pci: each.nic.pci for each in after} == {
            each.gpu.pci: f"{each.nic.pci[:-4]}00.0" for each in pairs
        }
        assert {each.distance for each in after} <= {Distance.PIX, Distance.PXB}


ADDRESSES = st.builds(
    "{:04x}:{:02x}:{:02x}.{}".format,
    st.sampled_from([0, 1, 0xFFFF]), st.integers(0, 3), st.integers(0, 3), st.integers(0, 1),
)  # fmt: skip
ADDRESS = ADDRESSES | st.sampled_from(["", '"', "<&>", "00000001:00:00.0", "10000:00:00.0", "é"])
PATH = st.lists(ADDRESS | st.just("pci0000:00"), max_size=8).map(tuple)
NUMA = st.none() | st.integers(-1, 6)
VENDOR = st.sampled_from(["", "nvidia", "amd"])
GPUS = st.builds(Gpu, st.just(0), st.just("GPU0"), ADDRESS, PATH, NUMA, VENDOR)
NICS = st.builds(Nic, st.just("mlx5_0"), ADDRESS, PATH, NUMA, pf=ADDRESS, efa=st.booleans())
CPUS = st.lists(st.sampled_from([0, 1, 31, 32, 895, 896, 70000]), max_size=3).map(tuple)
NODES = st.lists(st.builds(Node, st.integers(-1, 6), CPUS), max_size=4)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(GPUS, max_size=5),
    st.lists(NICS, max_size=5),
    NODES,
    st.booleans(),
    st.booleans(),
    st.data(),
)
def test_a_file_is_right_for_any_machine(
    gpus: list[Gpu],
    nics: list[Nic],
    nodes: list[Node],
    collapsed: bool,
    merge: bool,
    data: st.DataObject,
) -> None:
    machine = Machine(
        "any", gpus=tuple(gpus), nics=tuple(nics), nodes=tuple(nodes), collapsed=collapsed
    )
    pairs = [
        Pair(gpu, data.draw(st.sampled_from(nics)), (), data.draw(st.sampled_from(Distance)), "")
        for gpu in (gpus if nics else [])
    ]
    text = topology_xml(machine, gpus, nics, pairs, merge)
    ElementTree.fromstring(text)
    Reader(text).read()
    # The order in which devices come does not matter where paths do not contradict each other.
    assert text == topology_xml(machine, gpus, nics, pairs, merge)
