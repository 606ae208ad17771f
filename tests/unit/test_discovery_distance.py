# SPDX-License-Identifier: Apache-2.0
"""Distances are those that nvidia-smi names, from paths of every shape."""

from dataclasses import replace

import pytest
from discovery_machines import alone, dgx_a100, gpu_at, hgx_h100, nic_at, switch

from rdmatrain.discovery.distance import bridges_above, distance, explain
from rdmatrain.discovery.model import Distance, Gpu, Machine, Nic

PIX, PXB, PHB, NODE, SYS = Distance
HERE = Machine("here")
COLLAPSED = Machine("a topology file", collapsed=True)
PORT = ("pci0000:10", "0000:10:01.0")
ABOVE = (*PORT, "0000:11:00.0")


@pytest.mark.parametrize(
    ("gpu", "nic", "expected", "words"),
    [
        # One switch: its upper port, and a lower port for each.
        (
            (*ABOVE, "0000:12:00.0", "0000:13:00.0"),
            (*ABOVE, "0000:12:01.0", "0000:14:00.0"),
            (PIX, 2),
            "both below the PCIe switch 0000:11:00.0",
        ),
        # A card with two functions in a slot, without any switch.
        ((*PORT, "0000:11:00.0"), (*PORT, "0000:11:00.1"), (PIX, 0), "PCIe port 0000:10:01.0"),
        # A switch behind the first one.
        (
            (*ABOVE, "0000:12:00.0", "0000:13:00.0", "0000:14:00.0", "0000:15:00.0"),
            (*ABOVE, "0000:12:01.0", "0000:16:00.0"),
            (PXB, 4),
            "0000:11:00.0, over further switches",
        ),
        # Two ports of one root.
        (
            (*PORT, "0000:11:00.0"),
            ("pci0000:10", "0000:10:02.0", "0000:12:00.0"),
            (PHB, 2),
            "both at the root pci0000:10",
        ),
        # Right at the root, as AWS has them.
        (
            ("pci0000:10", "0000:10:1c.0"),
            ("pci0000:10", "0000:10:1b.0"),
            (PHB, 0),
            "both at the root",
        ),
        (
            ("pci0000:10", "0000:10:1c.0"),
            ("pci0000:10", "0000:10:1c.1"),
            (PIX, 0),
            "two functions of one device",
        ),
    ],
)
def test_paths_of_sysfs(
    gpu: tuple[str, ...], nic: tuple[str, ...], expected: tuple[Distance, int], words: str
) -> None:
    pair = gpu_at(0, gpu, 0), nic_at("mlx5_0", nic, 0)
    assert distance(*pair, HERE) == expected
    assert words in explain(*pair, HERE)


def test_where_a_switch_is_one_entry_two_are_two() -> None:
    gpu = gpu_at(0, ("cpu0", "0000:08:00.0", "0000:0f:00.0"))
    beside = nic_at("mlx5_0", ("cpu0", "0000:08:00.0", "0000:0c:00.0"))
    below = nic_at("mlx5_1", ("cpu0", "0000:08:00.0", "0000:0a:00.0", "0000:0c:00.0"))
    assert [distance(gpu, nic, COLLAPSED)[0] for nic in (beside, below)] == [PIX, PXB]
    assert "both below the PCIe switch 0000:08:00.0" in explain(gpu, beside, COLLAPSED)


@pytest.mark.parametrize(
    ("left", "right", "level", "words"),
    [
        (0, 0, NODE, "both at NUMA node 0"),
        (0, 1, SYS, "at NUMA nodes 0 and 1"),
        (None, 1, SYS, "where GPU0 is not known"),
        (None, None, SYS, "where GPU0 and mlx5_0 are not known"),
    ],
)
def test_roots_apart_are_told_by_their_numa_nodes(
    left: int | None, right: int | None, level: Distance, words: str
) -> None:
    gpu = gpu_at(0, alone("0001:00:00.0"), left)
    nic = nic_at("mlx5_0", alone("0101:00:00.0"), right)
    assert distance(gpu, nic, HERE)[0] is level
    assert words in explain(gpu, nic, HERE)
    # Without any path it is the same.
    assert distance(replace(gpu, path=()), replace(nic, path=()), HERE)[0] is level


def test_what_is_stated_goes_before_paths_and_the_worst_of_two_words_counts() -> None:
    gpu_path, nic_path = switch("0000:10", "0000:11:00.0", "0000:13:00.0", "0000:14:00.0")
    gpu, nic = gpu_at(3, gpu_path), nic_at("mlx5_0", nic_path)
    assert distance(gpu, nic, HERE)[0] is PIX
    words = ((3, "mlx5_0", NODE), (3, "mlx5_1", SYS), (2, "mlx5_0", SYS))
    assert distance(gpu, nic, replace(HERE, stated=words))[0] is NODE
    assert distance(gpu, nic, replace(HERE, stated=(*words, (3, "mlx5_0", SYS))))[0] is SYS
    assert "here says so" in explain(gpu, nic, replace(HERE, stated=words))


def test_real_shapes() -> None:
    hgx, dgx = hgx_h100(), dgx_a100()
    own = next(nic for nic in hgx.nics if nic.name == "mlx5_5")
    assert [distance(gpu, own, hgx)[0] for gpu in hgx.gpus] == [NODE, PIX, NODE, NODE] + [SYS] * 4
    assert [distance(gpu, dgx.nics[2], dgx)[0] for gpu in dgx.gpus] == (
        [SYS, SYS, PIX, PXB] + [SYS] * 4
    )


def test_a_virtual_function_is_where_its_physical_one_is() -> None:
    gpu_path, pf_path = switch("0000:10", "0000:11:00.0", "0000:13:00.0", "0000:14:00.0")
    gpu, pf = gpu_at(0, gpu_path), nic_at("mlx5_0", pf_path)
    at_root = Nic("mlx5_9", "0000:10:05.2", ("pci0000:10", "0000:10:05.2"), pf=pf.pci)
    no_path = Nic("mlx5_9", "0000:15:00.2", pf=pf.pci)
    pf_hidden = Nic("mlx5_9", "0000:14:00.2")
    for vf in (at_root, no_path, pf_hidden):
        machine = Machine("here", (gpu,), (pf, vf))
        assert distance(gpu, vf, machine) == (PIX, 2), vf
    # An integrated endpoint without a physical function is at the root, and no more.
    assert distance(gpu, replace(at_root, pf=""), Machine("here", (gpu,), (pf,)))[0] is PHB
    # A path of its own goes before the physical function's.
    moved = Nic("mlx5_9", "0000:21:00.2", ("pci0000:20", "0000:20:01.0", "0000:21:00.2"), pf=pf.pci)
    assert bridges_above(moved, Machine("here", (gpu,), (pf, moved))) == moved.path[:-1]


def test_devices_without_addresses_are_no_functions_of_one_device() -> None:
    assert distance(Gpu(0, "GPU0"), Nic("NIC0"), HERE) == (SYS, 0)
    assert distance(Gpu(0, "GPU0", numa=1), Nic("NIC0", numa=1), HERE) == (NODE, 0)
