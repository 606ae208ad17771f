# SPDX-License-Identifier: Apache-2.0
"""What a scheduler makes of the claims of DRA, and which claims are refused."""

import random
from typing import Any

import pytest
from k8s_allocator import Device, allocate
from k8s_device_jobs import NEW, OLD, claim, job

from rdmatrain.errors import SettingError
from rdmatrain.k8s.devices import job_devices
from rdmatrain.k8s.spec import DRA, Network
from rdmatrain.k8s.validation import problems

ROOT, NUMA = "resource.kubernetes.io/pcieRoot", "resource.kubernetes.io/numaNode"
GPU, NIC = "gpu.nvidia.com", "sriovnetwork.k8snetworkplumbingwg.io"


def machine(gpus: list[str], nics: list[str], seed: int = 1) -> list[Device]:
    """A node: PCIe roots of its GPUs and NICs; a root's first digit is its NUMA node."""
    devices = [
        Device(f"{kind}@{root}", driver, {ROOT: root, NUMA: int(root[0])})
        for kind, driver, roots in (("gpu", GPU, gpus), ("nic", NIC, nics))
        for root in roots
    ]
    random.Random(seed).shuffle(devices)
    return devices


EIGHT = ["00", "01", "02", "03", "10", "11", "12", "13"]


def place(found: dict[str, tuple[str, Device]], name: str) -> Any:
    return found[name][1].attributes[ROOT]


@pytest.mark.parametrize("seed", range(5))
def test_each_gpu_gets_the_nic_under_its_root(seed: int) -> None:
    found = allocate(claim(Network(DRA, 8)), machine(EIGHT, EIGHT, seed))
    assert found
    assert len(found) == 16
    for number in range(8):
        assert place(found, f"gpu-{number}") == place(found, f"nic-{number}")


def test_each_gpu_gets_both_nics_of_its_root() -> None:
    found = allocate(claim(Network(DRA, 16)), machine(EIGHT, EIGHT * 2))
    assert found
    for number in range(16):
        assert place(found, f"nic-{number}") == place(found, f"gpu-{number // 2}")


def test_gpus_that_share_a_nic_are_all_under_its_root() -> None:
    roots = ["00", "01", "10", "11"]
    found = allocate(claim(Network(DRA, 4)), machine(roots * 2, roots))
    assert found
    for number in range(8):
        assert place(found, f"gpu-{number}") == place(found, f"nic-{number // 2}")


def test_a_node_without_a_nic_under_a_gpus_root_is_not_taken() -> None:
    free = machine(["00", "01"], ["00", "02"])
    assert allocate(claim(Network(DRA, 2), 2), free) is None
    found = allocate(claim(Network(DRA, 2, aligned="numa"), 2), free)
    assert found
    assert {place(found, f"nic-{number}") for number in range(2)} == {"00", "02"}
    apart = machine(["00", "01"], ["00", "10"])
    assert allocate(claim(Network(DRA, 2, aligned="numa"), 2), apart) is None


def test_a_preference_takes_the_nearest_that_there_is() -> None:
    asked = claim(Network(DRA, 2, aligned="prefer"), 2)

    def levels(*nics: str) -> list[str]:
        found = allocate(asked, machine(["00", "01"], list(nics)))
        assert found
        for number in range(2):
            # The driver looks for the name that is in the allocation, the choice's with it.
            given = f"nic-{number}/{found[f'nic-{number}'][0]}"
            (told,) = [each for each in asked["config"] if given in each["requests"]]
            assert told["opaque"]["parameters"]["ifName"] == f"net{number + 1}"
        return sorted(found[f"nic-{number}"][0] for number in range(2))

    assert levels("00", "01") == ["pcie", "pcie"]
    assert levels("00", "02") == ["numa", "pcie"]
    assert levels("02", "03") == ["numa", "numa"]
    assert levels("02", "10") == ["any", "numa"]
    assert levels("10", "11") == ["any", "any"]


def test_a_preference_leaves_gpus_of_one_nic_where_they_are() -> None:
    """GPUs that share a NIC are not forced under one root, as a demand would."""
    free = machine(["00", "01", "10", "11"], ["00", "10"])
    found = allocate(claim(Network(DRA, 2, aligned="prefer"), 4), free)
    assert found
    assert [found[f"nic-{number}"][0] for number in range(2)] == ["pcie", "pcie"]
    uneven = allocate(claim(Network(DRA, 3, aligned="prefer"), 2), machine(["00", "01"], EIGHT))
    assert uneven
    assert problems(job(Network(DRA, 3, aligned="prefer"), 2)) == []


def test_an_older_cluster_prefers_without_a_name_for_numa_nodes() -> None:
    free = [Device(each.name, each.kind, {ROOT: each.attributes[ROOT]})
            for each in machine(["00"], ["01"])]  # fmt: skip
    asked = claim(Network(DRA, 1, aligned="prefer"), 1, OLD)
    found = allocate(asked, free)
    assert found
    assert found["nic-0"][0] == "any"
    # A constraint on what no driver publishes would leave the GPU without a node for good.
    assert allocate(claim(Network(DRA, 1, aligned="prefer"), 1, NEW), free) is None
    with pytest.raises(SettingError, match=r"network\.aligned is numa"):
        claim(Network(DRA, 1, aligned="numa"), 1, OLD)


@pytest.mark.parametrize(("gpus", "vfs"), [(0, 4), (8, 8), (16, 16), (8, 24), (1, 31)])
@pytest.mark.parametrize("aligned", ["pcie", "numa", "prefer"])
def test_a_claim_keeps_within_the_limits_of_the_api(gpus: int, vfs: int, aligned: str) -> None:
    asked = claim(Network(DRA, vfs, aligned=aligned), gpus)
    for name in ("requests", "constraints", "config"):
        assert len(asked.get(name, [])) <= 32
    names = [each["name"] for each in asked["requests"]]
    assert sorted(names) == sorted(
        [f"gpu-{number}" for number in range(gpus)] + [f"nic-{number}" for number in range(vfs)]
    )
    for each in asked.get("constraints", []):
        assert {name.partition("/")[0] for name in each["requests"]} <= set(names)


@pytest.mark.parametrize(
    ("network", "gpus", "said"),
    [
        (Network(DRA, 25), 8, "at most 32 devices"),
        (Network(DRA, 6), 8, "cannot pair"),
        (Network(DRA, 8, networks=()), 8, "network.networks is empty"),
        (Network(DRA, 8, host_network=True), 8, "network.host-network"),
    ],
)
def test_a_claim_that_cannot_be_is_refused_in_a_line(
    network: Network, gpus: int, said: str
) -> None:
    with pytest.raises(SettingError) as error:
        job_devices(job(network, gpus), NEW)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    # Whoever reads the spec is told at once.
    assert problems(job(network, gpus))
