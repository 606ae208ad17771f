# SPDX-License-Identifier: Apache-2.0
"""Collected files of real machines are read; what is expected was read in the files by eye."""

from pathlib import Path

import pytest

from rdmatrain.discovery.importers import merge, read_file
from rdmatrain.discovery.model import Distance, Machine

# Beside the checkout, where the project's collected fixtures are.
COLLECTED = Path(__file__).parents[3] / "shared/fixtures"
FOLDERS = ("nccl_topo", "hwloc", "topo_m", "k8s/resourceslices")
FILES = sorted(path for folder in FOLDERS for path in (COLLECTED / folder).glob("*"))

pytestmark = pytest.mark.skipif(
    not FILES, reason="the collected fixtures are not beside the checkout"
)


def read(name: str) -> Machine:
    return read_file((COLLECTED / name).read_text(), name)


def fit(machine: Machine) -> list[str]:
    return [nic.name for nic in machine.nics if not nic.unfit]


def sharing(machine: Machine, depth: int) -> list[list[str]]:
    """Return the NICs that have the first ``depth`` entries of each GPU's path in common."""
    return [
        [nic.name for nic in machine.nics if not nic.unfit and nic.path[:depth] == gpu.path[:depth]]
        for gpu in machine.gpus
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_collected_file_is_read_without_a_complaint(path: Path) -> None:
    machine = read_file(path.read_text(), path.name)
    assert machine.gpus or machine.nics
    assert machine.complaints == ()


@pytest.mark.parametrize("cut", range(1, 10))
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_part_of_a_file_is_read_or_refused(path: Path, cut: int) -> None:
    text = path.read_text()
    try:
        read_file(text[: len(text) * cut // 10], path.name)
    except ValueError as error:  # SettingError is one
        assert path.name in str(error)


def test_azure_ndv4() -> None:
    machine = read("nccl_topo/azure_ndv4-topo.xml")
    assert [gpu.pci[:4] for gpu in machine.gpus] == (
        ["0001", "0002", "0003", "0004", "000b", "000c", "000d", "000e"]
    )
    assert [gpu.numa for gpu in machine.gpus] == [1, 1, 0, 0, 3, 3, 2, 2]
    first, second, third, fourth = (
        [f"010{a}:00:00.0", f"010{b}:00:00.0"] for a, b in ((1, 2), (3, 4), (5, 6), (7, 8))
    )
    assert sharing(machine, 2) == ([first, first, second, second, third, third, fourth, fourth])
    assert [len(node.cpus) for node in machine.nodes] == [24] * 4


def test_azure_nc48_has_only_ethernet() -> None:
    machine = read("nccl_topo/azure_nc48v4-topo.xml")
    assert [(gpu.pci, gpu.numa) for gpu in machine.gpus] == [
        ("0001:00:00.0", 0),
        ("0002:00:00.0", 1),
    ]
    assert [(nic.name, nic.numa, nic.gbps, nic.unfit) for nic in machine.nics] == [
        ("eth0", 0, 100.0, "")
    ]


def test_oci_h100_with_virtual_functions() -> None:
    machine = read("nccl_topo/oci_BM.GPU.H100.8_container_vf-topo.xml")
    assert [gpu.pci[5:7] for gpu in machine.gpus] == (
        ["0f", "2d", "44", "5b", "89", "a8", "c0", "d8"]
    )
    assert sharing(machine, 2) == [
        [f"mlx5_{number}", f"mlx5_{number + 1}"] for number in (18, 26, 28, 30, 32, 20, 22, 24)
    ]
    assert {nic.gbps for nic in machine.nics} == {200.0}
    assert {port.link_layer for nic in machine.nics for port in nic.ports} == {"Ethernet"}


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("942", [[f"mlx5_{number}"] for number in range(8)]),
        ("950", [[f"bnxt_re{number}"] for number in range(8)]),
        ("rome_4nics", [[f"mlx5_{number}"] for number in (1, 1, 3, 3, 5, 5, 7, 7)]),
    ],
)
def test_rccl_models_with_switches(name: str, near: list[list[str]]) -> None:
    machine = read(f"nccl_topo/rccl_topo_8p_{name}.xml")
    assert sharing(machine, 2) == near
    assert {gpu.vendor for gpu in machine.gpus} == {"amd"}


def test_rccl_model_of_a_vm_has_devices_at_the_node_and_numbers_of_its_own() -> None:
    machine = read("nccl_topo/rccl_topo_8p_942vm.xml")
    assert [gpu.pci[:4] for gpu in machine.gpus] == [f"00{number}1" for number in range(1, 9)]
    low, high = ([f"mlx5_{number}" for number in part] for part in (range(4), range(4, 8)))
    assert sharing(machine, 1) == [low] * 4 + [high] * 4
    assert {len(gpu.path) for gpu in machine.gpus} == {2}


@pytest.mark.parametrize("name", ["90a", "rome_vm1"])
def test_rccl_models_with_one_interface_without_rdma(name: str) -> None:
    machine = read(f"nccl_topo/rccl_topo_8p_{name}.xml")
    assert len(machine.gpus) == 8
    assert fit(machine) == ["eth0"]


@pytest.mark.parametrize(
    ("name", "gpus", "fabric", "plain", "nodes"),
    [
        ("c5n.18xl", 0, 1, 1, []),
        ("p3dn.24xl", 8, 1, 1, [None] * 8),
        ("p4d.24xl", 8, 4, 4, [0] * 4 + [1] * 4),
        ("p5.48xl", 8, 32, 32, [0] * 4 + [1] * 4),
        ("g5.48xl", 8, 1, 1, [None] * 8),
        ("g6.48xl", 8, 1, 1, [0] * 4 + [1] * 4),
    ],
)
def test_aws_machines(
    name: str, gpus: int, fabric: int, plain: int, nodes: list[int | None]
) -> None:
    machine = read(f"hwloc/aws_{name}.hwloc.xml")
    assert len(machine.gpus) == gpus
    assert [gpu.numa for gpu in machine.gpus] == nodes
    assert [nic.efa for nic in machine.nics].count(True) == len(fit(machine)) == fabric
    assert len(machine.nics) == fabric + plain == len(machine.netdevs) + fabric
    assert [node.number for node in machine.nodes] == [0, 1]


def test_aws_p4d_and_p5_have_their_fabric_below_the_roots_of_their_gpus() -> None:
    assert sharing(read("hwloc/aws_p4d.24xl.hwloc.xml"), 1) == [
        [f"rdmap{bus}s27"] for bus in (16, 16, 32, 32, 144, 144, 160, 160)
    ]
    p5 = read("hwloc/aws_p5.48xl.hwloc.xml")
    # The last port of each switch but one has the GPU, those before it four adapters.
    first = [int(gpu.pci[5:7], 16) - 4 for gpu in p5.gpus]
    assert sharing(p5, 3) == [[f"rdmap{bus + place}s0" for place in range(4)] for bus in first]
    assert p5.gpus[0].path == (
        "pci0000:44",
        "0000:44:00.0",
        "0000:45:00.0",
        "0000:46:01.4",
        "0000:53:00.0",
    )


def test_matrices() -> None:
    h200 = read("topo_m/h200_8gpu_12nic_partial.txt")
    assert (len(h200.gpus), len(h200.nics), len(h200.stated)) == (8, 12, 6 * 12)
    assert [pair[:2] for pair in h200.stated if pair[2] == Distance.PIX] == [
        (0, "NIC0"),
        (1, "NIC1"),
        (2, "NIC2"),
        (3, "NIC5"),
        (4, "NIC6"),
        (5, "NIC7"),
    ]
    gb200 = read("topo_m/oci_BM.GPU.GB200-v3.4.md")
    assert (len(gb200.gpus), len(gb200.nics)) == (4, 8)
    assert [pair[2] for pair in gb200.stated] == [Distance.SYS] * 32


@pytest.mark.parametrize(
    ("prefix", "gpus", "nics"),
    [
        ("aws_eks_examples_gpu-efa", [0] * 4 + [1] * 4, [0, 0, 1, 1]),
        ("azure_aks_examples_gb300", [0, 0, 1, 1], [0, 0, 1, 1]),
        ("oci_oke_examples_BM.GPU.GB200-v3.4", [0, 0, 1, 1], [0] * 4 + [1] * 4),
    ],
)
def test_slices_of_gpus_and_of_nics_are_one_machine(
    prefix: str, gpus: list[int], nics: list[int]
) -> None:
    names = (f"k8s/resourceslices/{prefix}_resourceslice-{kind}.yaml" for kind in ("gpu", "dranet"))
    machine = merge([read(name) for name in names])
    assert [gpu.numa for gpu in machine.gpus] == gpus
    assert [nic.numa for nic in machine.nics if not nic.unfit] == nics


def test_azure_mi300x_lists_virtual_functions() -> None:
    machine = read("k8s/resourceslices/azure_aks_examples_mi300x_resourceslice-dranet.yaml")
    assert fit(machine) == [f"mlx5_{number}" for number in range(8)]
    assert {nic.is_vf for nic in machine.nics} == {True}
    assert machine.product == "Standard_ND96isr_MI300X_v5"
