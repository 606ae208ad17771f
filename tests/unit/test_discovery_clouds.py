# SPDX-License-Identifier: Apache-2.0
"""Tables of clouds are recognised by addresses, and say what their vendors' files say."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from discovery_machines import alone, gb200, gpu_at, hgx_h100, ndv4, nic_at

from rdmatrain.discovery.clouds import CLOUDS, recognise
from rdmatrain.discovery.model import Gpu, Machine, Nic
from rdmatrain.discovery.pci import parse_pci

SHARED = Path(__file__).parents[3] / "shared/fixtures"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the collected fixtures are not beside the checkout"
)


def recognised(machine: Machine) -> str:
    cloud = recognise(machine)
    return cloud.name if cloud else ""


def with_gpus(*addresses: str, model: str = "") -> Machine:
    return Machine("here", tuple(gpu_at(i, alone(pci), model=model)
                                 for i, pci in enumerate(addresses)))  # fmt: skip


def test_machines_are_recognised_by_the_addresses_of_their_gpus() -> None:
    assert recognised(ndv4()) == "Azure ND A100 v4"
    assert recognised(gb200()) == "GB200 and GB300"
    assert recognised(hgx_h100()) == ""
    assert recognised(with_gpus("000a:00:00.0", "000c:00:00.0")) == "Azure ND H100 v5"
    assert recognised(with_gpus("0000:0f:00.0", "0000:2d:00.0")) == "OCI BM.GPU.H100.8"
    assert recognised(Machine("here")) == ""
    assert recognised(Machine("here", (Gpu(0, "GPU0"),))) == ""


def test_addresses_that_two_have_are_told_apart_by_the_model_or_not_at_all() -> None:
    both = "0001:00:00.0", "000b:00:00.0"
    assert recognised(with_gpus(*both)) == ""
    assert recognised(with_gpus(*both, model="NVIDIA A100-SXM4-80GB")) == "Azure ND A100 v4"
    assert recognised(with_gpus(*both, model="NVIDIA H100 80GB HBM3")) == "Azure ND H100 v5"
    assert recognised(with_gpus(*both, model="Tesla V100-SXM2-32GB")) == ""


def test_gpus_of_another_vendor_are_of_another_machine() -> None:
    machine = with_gpus("000a:00:00.0", "000c:00:00.0")
    amd = tuple(replace(gpu, vendor="amd") for gpu in machine.gpus)
    assert recognised(replace(machine, gpus=amd)) == ""


def test_one_gpu_more_makes_it_another_machine() -> None:
    assert recognised(with_gpus("000a:00:00.0", "0042:00:00.0")) == ""


def test_a_virtual_function_is_known_by_its_bus_or_its_physical_function() -> None:
    cloud = next(cloud for cloud in CLOUDS if cloud.name == "OCI BM.GPU.H100.8")
    gpu = gpu_at(0, alone("0000:0f:00.0"))
    assert cloud.together(gpu, Nic("mlx5_18", "0000:0c:00.2"))
    assert cloud.together(gpu, Nic("mlx5_18", "0000:0d:00.2", pf="0000:0c:00.0"))
    assert not cloud.together(gpu, Nic("mlx5_26", "0000:2a:00.2"))
    assert not cloud.together(gpu, Nic("rxe0"))
    assert not cloud.together(replace(gpu, pci=""), nic_at("mlx5_18", alone("0000:0c:00.2")))


@pytest.mark.parametrize("cloud", CLOUDS, ids=lambda cloud: cloud.name)
def test_no_device_is_in_two_groups(cloud: object) -> None:
    groups = cloud.groups  # type: ignore[attr-defined]
    starts = [start for group in groups for side in group for start in side]
    assert all(group[0] and group[1] for group in groups)
    for start in starts:
        assert re.fullmatch(r"[0-9a-f]{4}:([0-9a-f]{2})?", start)
        assert [other for other in starts if other.startswith(start)] == [start]


@needs_shared
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("nccl_topo/azure_ndv4-topo.xml", "Azure ND A100 v4"),
        ("nccl_topo/oci_BM.GPU.H100.8_container_vf-topo.xml", "OCI BM.GPU.H100.8"),
    ],
)
def test_tables_say_what_the_vendors_topology_says(file: str, name: str) -> None:
    # Groups of the file: what is between two lines of its outermost bridges.
    cloud = next(each for each in CLOUDS if each.name == name)
    groups: list[tuple[set[str], set[str]]] = []
    for line in (SHARED / file).read_text().splitlines():
        match = re.search(r'^( +)<pci busid="([^"]+)" class="0x(\w\w)', line)
        if match and len(match[1]) == 4:
            groups.append((set(), set()))
        elif match and match[3] != "06":
            groups[-1][0 if match[3] == "03" else 1].add(match[2][:7])
    assert sorted(map(sorted, (gpus for gpus, _ in groups))) == (
        sorted(map(sorted, (gpus for gpus, _ in cloud.groups)))
    )
    assert {tuple(sorted(gpus)): sorted(nics) for gpus, nics in groups} == {
        tuple(sorted(gpus)): sorted(nics) for gpus, nics in cloud.groups
    }


@needs_shared
def test_the_nics_of_ocis_tables_are_those_of_its_node_policies() -> None:
    text = (SHARED / "oci/sriov-network-node-policy.yaml").read_text()
    for name in ("BM.GPU.B4.8", "BM.GPU.H100.8", "BM.GPU.B300.8"):
        policy = next(part for part in text.split("\n---") if f'"{name}"' in part)
        addresses = [parse_pci(each) for each in re.findall(r"- (0000:\S+)", policy)]
        cloud = next(each for each in CLOUDS if each.name == f"OCI {name}")
        nics = {start for _, nics in cloud.groups for start in nics}
        assert {address[:7] for address in addresses} == nics, name


@needs_shared
def test_gb200_and_gb300_are_as_their_resource_slices_say() -> None:
    cloud = next(each for each in CLOUDS if each.name == "GB200 and GB300")
    slices = [path for path in sorted(SHARED.glob("k8s/resourceslices/*dranet.yaml"))
              if "gb" in path.name.lower().split("_examples_")[1]]  # fmt: skip
    assert len(slices) == 2
    for path in slices:
        found = re.findall(
            r'numaNode:\s+int: (\d)\s+dra.net/pciAddress:\s+string: "([^"]+)"', path.read_text()
        )
        assert len(found) in (4, 8)
        for numa, pci in found:
            gpu = Gpu(0, "GPU0", ("0008:06:00.0", "0018:06:00.0")[int(numa)])
            assert cloud.together(gpu, Nic("nic", pci)), (path.name, pci)
