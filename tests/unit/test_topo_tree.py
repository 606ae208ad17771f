# SPDX-License-Identifier: Apache-2.0
"""Devices are gathered below the bridges that they share, and below no others."""

from collections.abc import Iterable

from fake_survey import LEFT, RIGHT, SURVEY, gpu, nic
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.discovery.model import Machine, Node
from rdmatrain.topo.tree import Branch, grow


def outline(branches: Iterable[Branch], indent: str = "") -> list[str]:
    lines = []
    for branch in branches:
        lines.append(f"{indent}{branch.label}")
        lines += [f"{indent}  {device.name}" for device in branch.devices]
        lines += outline(branch.branches, indent + "  ")
    return lines


def test_a_bridge_is_shown_where_it_joins_devices() -> None:
    assert outline(grow(SURVEY.machine)) == [
        "NUMA 0  CPUs 0-3",
        f"  root complex {LEFT}",
        "    switch 0000:08:00.0",
        "      GPU0",
        "      bridge 0000:09:02.0",
        "        mlx5_0",
        "        mlx5_2",
        "NUMA 1  CPUs 4-7",
        f"  root complex {RIGHT}",
        "    GPU1",
        "    mlx5_3",
    ]


def test_devices_of_unknown_places_are_shown_where_something_is_known() -> None:
    machine = Machine(
        "x",
        gpus=(gpu(0), gpu(1, numa=3)),
        nics=(nic("a", "0000:01:00.0", LEFT), nic("b", "0000:02:00.0", LEFT, numa=0)),
        nodes=(Node(0, ()), Node(1, (1,))),
    )
    assert outline(grow(machine)) == [
        "NUMA 0  CPUs none",
        f"  root complex {LEFT}",
        "    b",
        "NUMA 1  CPUs 1",
        "NUMA 3",
        "  GPU1",
        "NUMA node unknown",
        "  GPU0",
        f"  root complex {LEFT}",
        "    a",
    ]


def test_what_joins_devices_in_files_of_nccl_is_a_switch() -> None:
    nics = tuple(nic(name, "0000:0c:00.0", "cpu0", "0000:0b:00.0") for name in ("a", "b"))
    switch = ["  root complex cpu0", "    switch 0000:0b:00.0", "      a", "      b"]
    assert outline(grow(Machine("x", nics=nics, collapsed=True)))[1:] == switch


def test_natural_order_of_bridges() -> None:
    bridges = [f"pci{number}" for number in (10, 9, 100)]
    nics = tuple(nic(name, "", name, numa=0) for name in bridges)
    roots = [line.split()[-1] for line in outline(grow(Machine("x", nics=nics))) if "root" in line]
    assert roots == ["pci9", "pci10", "pci100"]


PATHS = st.lists(st.lists(st.sampled_from("abc"), max_size=6), max_size=8)


@given(PATHS, st.booleans())
@settings(deadline=None, max_examples=200)
def test_each_device_is_shown_once_whatever_its_path(paths: list[list[str]], flag: bool) -> None:
    nics = tuple(nic(f"n{place}", f"p{place}", *path) for place, path in enumerate(paths))
    lines = outline(grow(Machine("x", nics=nics, collapsed=flag)))
    shown = [line.strip() for line in lines if line.strip().startswith("n")]
    assert sorted(shown) == sorted(each.name for each in nics)
