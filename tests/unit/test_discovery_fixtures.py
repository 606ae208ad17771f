# SPDX-License-Identifier: Apache-2.0
"""On files of real machines pairs are those of the vendor, and no even division is better."""

from collections import Counter
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest

from rdmatrain.discovery.distance import distance
from rdmatrain.discovery.importers import merge, read_file
from rdmatrain.discovery.model import Machine, Nic
from rdmatrain.discovery.pairing import pair
from rdmatrain.discovery.pod_model import Pair

SHARED = Path(__file__).parents[3] / "shared/fixtures"
pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the collected fixtures are not beside the checkout"
)
KINDS = ("nccl_topo/*.xml", "hwloc/*.xml", "topo_m/*", "k8s/resourceslices/*.yaml")
FILES = sorted(str(path.relative_to(SHARED)) for kind in KINDS for path in SHARED.glob(kind))
SLICES = {
    "GB200": ("oci_oke_examples_BM.GPU.GB200-v3.4_resourceslice-gpu.yaml",
              "oci_oke_examples_BM.GPU.GB200-v3.4_resourceslice-dranet.yaml"),
    "GB300": ("azure_aks_examples_gb300_resourceslice-gpu.yaml",
              "azure_aks_examples_gb300_resourceslice-dranet.yaml"),
    "EFA": ("aws_eks_examples_gpu-efa_resourceslice-gpu.yaml",
            "aws_eks_examples_gpu-efa_resourceslice-dranet.yaml"),
}  # fmt: skip


def read(name: str) -> Machine:
    if name in SLICES:
        paths = [SHARED / "k8s/resourceslices" / each for each in SLICES[name]]
        return merge([read_file(path.read_text(), path.name) for path in paths])
    path = SHARED / name
    return read_file(path.read_text(), path.name)


def solve(machine: Machine) -> tuple[Pair, ...]:
    return pair(machine, machine.gpus, machine.nics)[0]


def buses(name: str) -> dict[str, str]:
    return {each.gpu.pci[:7]: each.nic.pci[:7] for each in solve(read(name))}


# By hand: what is below one bridge of the file; of two GPUs and two NICs, both orders are right.
NDV4 = [("0001", "0002", "0101", "0102"), ("0003", "0004", "0103", "0104"),
        ("000b", "000c", "0105", "0106"), ("000d", "000e", "0107", "0108")]  # fmt: skip
OCI = dict(zip(
    [f"0000:{bus}" for bus in ("0f", "2d", "44", "5b", "89", "a8", "c0", "d8")],
    [f"0000:{bus}" for bus in ("0c", "2a", "41", "58", "86", "a5", "bd", "d5")],
    strict=True,
))  # fmt: skip
P4D = {"0000:10": "0000:10", "0000:20": "0000:20", "0000:90": "0000:90", "0000:a0": "0000:a0"}
RCCL = {
    "942": {"0000:0c": "0000:07", "0000:15": "0000:10", "0000:1e": "0000:19", "0000:69": "0000:64",
            "0000:9f": "0000:9a", "0000:af": "0000:aa", "0000:bf": "0000:ba", "0000:df": "0000:da"},
    "950": {"0000:08": "0000:03", "0000:18": "0000:13", "0000:68": "0000:63", "0000:78": "0000:73",
            "0000:88": "0000:83", "0000:98": "0000:93", "0000:e8": "0000:e3", "0000:f9": "0000:f3"},
    "rome_4nics": {
        "0000:4a": "0000:45", "0000:50": "0000:45", "0000:0a": "0000:13", "0000:0f": "0000:13",
        "0000:cb": "0000:c6", "0000:d1": "0000:c6", "0000:8a": "0000:85", "0000:90": "0000:85"},
    # All below one CPU are as near, and the numbering of the slots shows the pairs.
    "942vm": {f"00{slot}1:00": f"00{slot}0:00" for slot in range(1, 9)},
}  # fmt: skip


def test_ndv4() -> None:
    pairs = buses("nccl_topo/azure_ndv4-topo.xml")
    assert len(pairs) == 8
    for one, other, *nics in NDV4:
        assert sorted([pairs[f"{one}:00"], pairs[f"{other}:00"]]) == [f"{nic}:00" for nic in nics]


def test_nc48v4_has_one_nic_for_both() -> None:
    pairs = solve(read("nccl_topo/azure_nc48v4-topo.xml"))
    assert [(each.gpu.pci, each.nic.name, each.distance.name) for each in pairs] == [
        ("0001:00:00.0", "eth0", "PHB"), ("0002:00:00.0", "eth0", "SYS"),
    ]  # fmt: skip


def test_oci_h100_has_both_devices_of_each_function() -> None:
    name = "nccl_topo/oci_BM.GPU.H100.8_container_vf-topo.xml"
    assert buses(name) == OCI
    firsts = [18, 26, 28, 30, 32, 20, 22, 24]
    assert [(each.nic.name, [nic.name for nic in each.more]) for each in solve(read(name))] == [
        (f"mlx5_{first}", [f"mlx5_{first + 1}"]) for first in firsts
    ]


@pytest.mark.parametrize("model", RCCL)
def test_rccl(model: str) -> None:
    assert buses(f"nccl_topo/rccl_topo_8p_{model}.xml") == RCCL[model]


@pytest.mark.parametrize("name", ["hwloc/aws_p4d.24xl.hwloc.xml", "EFA"])
def test_p4d_two_gpus_share_the_nic_of_their_root(name: str) -> None:
    pairs = solve(read(name))
    assert len(pairs) == 8
    assert buses(name) == P4D
    assert all(each.nic.pci.endswith(":1b.0") for each in pairs)
    assert {each.distance.name for each in pairs} == {"PHB"}


def test_p5_four_nics_for_each_gpu() -> None:
    pairs = solve(read("hwloc/aws_p5.48xl.hwloc.xml"))
    # The file has a GPU every 17 buses, and its four NICs right below it.
    assert [each.gpu.pci for each in pairs] == [f"0000:{0x53 + 17 * i:02x}:00.0" for i in range(8)]
    for each in pairs:
        bus = int(each.gpu.pci[5:7], 16)
        nics = [nic.pci for nic in (each.nic, *each.more)]
        assert nics == [f"0000:{bus - 4 + i:02x}:00.0" for i in range(4)]
    assert {each.distance.name for each in pairs} == {"PIX"}


def test_gb200_is_paired_by_numa_node() -> None:
    # As the comments of the slices say: domains of GPUs and NICs of one node.
    node = {"0008": 0, "0009": 0, "0018": 1, "0019": 1, "0000": 0, "0002": 0, "0010": 1, "0012": 1}
    pairs = solve(read("GB200"))
    assert len(pairs) == 4
    for each in pairs:
        nics = [each.nic, *each.more]
        assert len(nics) == 2
        assert {node[nic.pci[:4]] for nic in nics} == {node[each.gpu.pci[:4]]}
    # Its matrix says SYS for all; two NICs in a row are of one GPU all the same.
    pairs = solve(read("topo_m/oci_BM.GPU.GB200-v3.4.md"))
    assert [(each.nic.name, each.distance.name) for each in pairs] == [
        (f"NIC{2 * i}", "SYS") for i in range(4)
    ]


def test_gb300_is_paired_by_numa_node() -> None:
    assert buses("GB300") == {"0008:06": "0101:00", "0009:06": "0102:00",
                              "0018:06": "0103:00", "0019:06": "0104:00"}  # fmt: skip


def test_h200_rows_that_the_matrix_has() -> None:
    pairs = solve(read("topo_m/h200_8gpu_12nic_partial.txt"))
    assert [each.nic.name for each in pairs[:6]] == ["NIC0", "NIC1", "NIC2", "NIC5", "NIC6", "NIC7"]


def least(levels: list[list[int]]) -> int:
    """Return the least total of all even divisions: column by column, over sets of rows."""
    rows, columns = len(levels), len(levels[0])
    loads = {rows // columns, -(-rows // columns)}

    @cache
    def best(column: int, rest: frozenset[int]) -> int:
        if column == columns:
            return 0 if not rest else 1000
        return min(
            (
                sum(levels[row][column] for row in taken) + best(column + 1, rest - set(taken))
                for load in loads
                for taken in combinations(sorted(rest), load)
            ),
            default=1000,
        )

    return best(0, frozenset(range(rows)))


@pytest.mark.parametrize("name", [*FILES, *SLICES])
def test_no_even_division_is_better(name: str) -> None:
    machine = read(name)
    pairs = solve(machine)
    fit = [nic for nic in machine.nics if not nic.unfit] or list(machine.nics)
    if not pairs:
        assert not machine.gpus or not machine.nics
        return
    assert [each.gpu for each in pairs] == sorted(machine.gpus, key=lambda gpu: gpu.index)

    def level(each: Pair, nic: Nic) -> int:
        return distance(each.gpu, nic, machine)[0]

    levels = [[level(each, nic) for nic in fit] for each in pairs]
    got = [level(each, each.nic) for each in pairs]
    assert sum(got) == least(levels)
    # What no even division can have nearer: with all that is further forbidden there is none.
    forbidden = [[100 * (each >= max(got)) for each in row] for row in levels]
    assert least(forbidden) >= 100
    loads = Counter(each.nic for each in pairs)
    assert max(loads.values()) - min(loads[nic] for nic in fit) <= 1
