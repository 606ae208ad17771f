# SPDX-License-Identifier: Apache-2.0
"""Each GPU gets the NIC that the machine was built for it, and the reason says why."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import pytest
from discovery_machines import (
    alone,
    dgx_a100,
    eight_gpus_four_nics,
    four_gpus_eight_nics,
    gb200,
    gpu_at,
    hgx_h100,
    hgx_h100_pairs,
    ndv4,
    nic_at,
    switch,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.discovery.distance import distance
from rdmatrain.discovery.model import Complaint, Distance, Gpu, Machine, Nic, Node, Port
from rdmatrain.discovery.pairing import pair
from rdmatrain.discovery.pod_model import Pair

PIX, PXB, PHB, NODE, SYS = Distance


def solve(machine: Machine) -> tuple[tuple[Pair, ...], tuple[Complaint, ...]]:
    return pair(machine, machine.gpus, machine.nics)


def names(pairs: Sequence[Pair]) -> dict[int, str]:
    return {each.gpu.index: each.nic.name for each in pairs}


def ids(complaints: Sequence[Complaint]) -> list[str]:
    return [each.id for each in complaints]


def test_hgx_h100_every_gpu_has_the_nic_below_its_switch() -> None:
    pairs, complaints = solve(hgx_h100())
    assert names(pairs) == hgx_h100_pairs()
    assert {each.distance for each in pairs} == {PIX}
    # The four other NICs are nobody's: they are further away than each GPU's own.
    assert [each.more for each in pairs] == [()] * 8
    assert pairs[0].reason == "PIX: both below the PCIe switch 0000:11:00.0"
    assert complaints == ()


def test_dgx_a100_the_nearest_of_two_at_a_switch() -> None:
    pairs, complaints = solve(dgx_a100())
    assert names(pairs) == {i: f"mlx5_{i}" for i in range(8)}
    assert {each.distance for each in pairs} == {PIX}
    assert complaints == ()


def test_gpus_whose_cpus_are_not_allowed_are_complained_of() -> None:
    """The CPU manager takes one NUMA node first, where the topology manager does not align."""
    nodes = (Node(0, (0, 1, 4, 5)), Node(1, (2, 3, 6, 7)), Node(2, ()))
    machine = replace(hgx_h100(), nodes=nodes, cpus=(0, 1, 4))
    pairs, complaints = solve(machine)
    assert (ids(complaints), len(pairs)) == (["cpus-far"], 8)
    assert "0-1,4" in complaints[0].text and "GPU4" in complaints[0].text
    assert ids(pair(machine, machine.gpus, ())[1]) == ["no-nic", "cpus-far"]
    for fine in ((0, 1, 2), ()):
        assert solve(replace(machine, cpus=fine))[1] == ()
    assert pair(machine, machine.gpus[:4], machine.nics)[1] == ()
    without = tuple(replace(gpu, numa=2) for gpu in machine.gpus)  # memory, without CPUs
    assert solve(replace(machine, gpus=without))[1] == ()


def test_gpus_on_two_fabrics_are_complained_of() -> None:
    machine = hgx_h100()
    ports = [(Port("x", 1, "ACTIVE", layer),) for layer in ("Ethernet", "InfiniBand")]
    nics = [replace(nic, ports=ports[place % 2]) for place, nic in enumerate(machine.nics)]
    (complaint,) = pair(machine, machine.gpus, nics)[1]
    assert complaint.id == "fabrics-differ" and "on Ethernet and on InfiniBand" in complaint.text
    one = [replace(nic, ports=ports[0]) for nic in machine.nics]
    assert pair(machine, machine.gpus, one)[1] == ()


def test_ndv4_is_told_by_the_table() -> None:
    machine = ndv4()
    pairs, complaints = solve(machine)
    assert names(pairs) == {i: f"mlx5_{i}" for i in range(8)}
    assert {each.distance for each in pairs} == {PIX}
    assert "by the table of Azure ND A100 v4" in pairs[0].reason
    assert ids(complaints) == ["pci-hidden"]
    assert "this virtual machine" in complaints[0].text


def test_a_virtual_machine_that_shows_all_alike_says_so() -> None:
    """QEMU puts each device at a root port of its own: all are PHB, wherever they are."""
    root = "pci0000:00"
    gpus = tuple(gpu_at(i, (root, f"0000:00:02.{i}", f"0000:0{i + 1}:00.0")) for i in range(2))
    nics = tuple(
        nic_at(f"mlx5_{i}", (root, f"0000:00:03.{i}", f"0000:0{i + 5}:00.0")) for i in range(2)
    )
    machine = Machine("a test", gpus, nics, virtual=True)
    assert ids(solve(machine)[1]) == ["pci-hidden"]
    assert ids(solve(replace(machine, virtual=False))[1]) == []
    # Of one NIC nothing else could be chosen.
    assert ids(pair(machine, gpus[:1], nics[:1])[1]) == []
    near = replace(nics[0], path=(*gpus[0].path[:-1], nics[0].pci))
    assert ids(solve(replace(machine, nics=(near, nics[1])))[1]) == []


def test_ndv4_without_half_its_nics_shares_within_the_groups_of_the_table() -> None:
    machine = ndv4()
    # The order alone would give GPU4 and GPU5, which are 000b and 000c, another one.
    some = [machine.nics[place] for place in (0, 2, 5, 7)]
    pairs, complaints = pair(machine, machine.gpus, some)
    assert names(pairs) == dict(enumerate(["mlx5_0"] * 2 + ["mlx5_2"] * 2
                                          + ["mlx5_5"] * 2 + ["mlx5_7"] * 2))  # fmt: skip
    two = [machine.gpus[4], machine.gpus[7]]
    pairs, _ = pair(machine, two, [machine.nics[6], machine.nics[5]])
    assert names(pairs) == {4: "mlx5_5", 7: "mlx5_6"}
    assert ids(complaints) == ["nic-shared", "pci-hidden"]


def test_gb200_is_told_by_numa_nodes_that_gpus_do_not_say() -> None:
    pairs, _ = solve(gb200())
    assert names(pairs) == {0: "rdma0", 1: "rdma2", 2: "rdma4", 3: "rdma6"}
    assert [[nic.name for nic in each.more] for each in pairs] == [
        ["rdma1"], ["rdma3"], ["rdma5"], ["rdma7"],
    ]  # fmt: skip
    assert {each.distance for each in pairs} == {NODE}
    # The other way round order alone would cross NUMA nodes.
    turned = replace(gb200(), gpus=tuple(replace(gpu, index=3 - gpu.index)
                                         for gpu in gb200().gpus))  # fmt: skip
    pairs, _ = solve(turned)
    assert {each.gpu.pci[:4]: each.nic.pci[:4] for each in pairs} == {
        "0008": "0002", "0009": "0000", "0018": "0012", "0019": "0010",
    }  # fmt: skip


@pytest.mark.parametrize("level", [NODE, PHB])
def test_a_table_decides_between_nics_that_a_source_states_as_equally_far(
    level: Distance,
) -> None:
    turned = tuple(replace(gpu, index=7 - gpu.index) for gpu in ndv4().gpus)
    stated = tuple((gpu.index, nic.name, level) for gpu in turned for nic in ndv4().nics)
    machine = replace(ndv4(), gpus=turned, stated=stated)
    pairs, complaints = solve(machine)
    group = {"0001": {"0101", "0102"}, "0003": {"0103", "0104"}, "000b": {"0105", "0106"}}
    for each in pairs:
        if each.gpu.pci[:4] in group:
            assert each.nic.pci[:4] in group[each.gpu.pci[:4]]
    # What is stated stays.
    assert {each.distance for each in pairs} == {level}
    assert "a virtual machine says so, together by the table of Azure" in pairs[0].reason
    assert complaints == ()


def test_of_nics_across_several_switches_the_one_over_fewer_bridges_is_nearer() -> None:
    top = ("pci0000:10", "0000:10:01.0", "0000:11:00.0")
    low = (*top, "0000:12:00.0", "0000:13:00.0")
    gpu = gpu_at(0, (*low, "0000:14:00.0", "0000:15:00.0"))
    lowest = (*low, "0000:14:01.0", "0000:16:00.0", "0000:17:00.0", "0000:18:00.0")
    nics = (
        nic_at("mlx5_0", (*lowest, "0000:19:00.0", "0000:1a:00.0", "0000:1b:00.0")),
        nic_at("mlx5_1", (*top, "0000:12:01.0", "0000:1c:00.0")),
    )
    (only,), _ = pair(Machine("here", (gpu,), nics), [gpu], nics)
    assert (only.nic.name, only.distance) == ("mlx5_1", PXB)
    assert distance(gpu, nics[0], Machine("here"))[0] is PXB


def test_eight_gpus_share_four_nics() -> None:
    pairs, complaints = solve(eight_gpus_four_nics())
    assert names(pairs) == {i: f"mlx5_{3 - i // 2}" for i in range(8)}
    assert pairs[0].reason.endswith("shared with GPU1: 4 NICs for 8")
    assert ids(complaints) == ["nic-shared"]


def test_four_gpus_are_spread_over_eight_nics() -> None:
    pairs, complaints = solve(four_gpus_eight_nics())
    assert names(pairs) == {0: "mlx5_0", 1: "mlx5_2", 2: "mlx5_4", 3: "mlx5_6"}
    assert [each.more[0].name for each in pairs] == ["mlx5_1", "mlx5_3", "mlx5_5", "mlx5_7"]
    assert pairs[0].reason == "NODE: both at NUMA node 0; dealt in order among 8 that are as near"
    assert complaints == ()


def test_sixteen_virtual_functions_are_two_for_each_of_eight_gpus() -> None:
    machine = hgx_h100()
    vfs = [replace(nic, name=f"{nic.name}_vf{number}", pci=f"{nic.pci[:-1]}{number}",
                   path=(*nic.path[:-1], f"{nic.pci[:-1]}{number}"))
           for nic in machine.nics for number in (2, 3)]  # fmt: skip
    pairs, _ = pair(machine, machine.gpus, vfs)
    own = hgx_h100_pairs()
    assert names(pairs) == {i: f"{name}_vf2" for i, name in own.items()}
    assert {each.gpu.index: [nic.name for nic in each.more] for each in pairs} == {
        i: [f"{name}_vf3"] for i, name in own.items()
    }


def test_the_optimum_is_taken_and_not_the_nearest_first() -> None:
    # Both GPUs are near the first NIC; only GPU0 has another one in its node.
    gpu_path, nic_path, other = switch("0000:10", "0000:11:00.0", "0000:13:00.0", "0000:14:00.0",
                                       "0000:15:00.0")  # fmt: skip
    gpus = (gpu_at(0, gpu_path, 0), gpu_at(1, other, None))
    nics = (nic_at("mlx5_0", nic_path, 0), nic_at("mlx5_1", alone("0001:00:00.0"), 0))
    pairs, complaints = pair(Machine("here", gpus, nics), gpus, nics)
    assert names(pairs) == {0: "mlx5_1", 1: "mlx5_0"}
    assert pairs[0].reason == (
        "NODE: both at NUMA node 0; the nearest that is left: mlx5_0 is taken by GPU1"
    )
    assert ids(complaints) == ["pairing-far"]
    assert complaints[0].text.startswith("the NIC of GPU0 is NODE (both at NUMA node 0)")


def test_unfit_and_slow_nics_are_left_out_and_the_reason_names_them() -> None:
    machine = hgx_h100()
    own = hgx_h100_pairs()
    bond = next(nic for nic in machine.nics if nic.name == own[0])
    rest = [nic for nic in machine.nics if nic is not bond]
    slow = [replace(nic, gbps=100.0) if nic.name not in own.values() else nic for nic in rest]
    pairs, complaints = pair(machine, machine.gpus[:2], [replace(bond, unfit="is a bond"), *slow])
    # The seven others of full speed are left, none of which is near GPU0.
    assert pairs[0].nic.name in set(own.values()) - {own[0], own[1]}
    assert pairs[0].nic.numa == 0
    assert "nearer mlx5_0 is a bond and was left out" in pairs[0].reason
    assert ids(complaints) == ["pairing-far"]


def test_slow_nics_count_if_most_of_the_bandwidth_is_theirs() -> None:
    machine = four_gpus_eight_nics()
    one_fast = [replace(nic, gbps=100.0 if i else 400.0) for i, nic in enumerate(machine.nics)]
    pairs, _ = pair(machine, machine.gpus, one_fast)
    assert len(set(names(pairs).values())) == 4
    # A NIC whose speed is not known is no slow one.
    unknown = [replace(nic, gbps=0.0 if i else 400.0) for i, nic in enumerate(machine.nics)]
    pairs, _ = pair(machine, machine.gpus, unknown)
    assert len(set(names(pairs).values())) == 4


def test_if_all_are_unfit_one_of_them_is_better_than_none() -> None:
    machine = hgx_h100()
    bonds = [replace(nic, unfit="is a bond") for nic in machine.nics]
    assert names(pair(machine, machine.gpus, bonds)[0]) == hgx_h100_pairs()


def test_without_nics_or_gpus_there_are_no_pairs() -> None:
    machine = hgx_h100()
    pairs, complaints = pair(machine, machine.gpus, ())
    assert (pairs, ids(complaints)) == ((), ["no-nic"])
    assert pair(machine, (), machine.nics) == ((), ())


def test_one_nic_serves_all_and_the_reason_names_the_others() -> None:
    machine = hgx_h100()
    pairs, complaints = pair(machine, machine.gpus[:3], machine.nics[:1])
    assert names(pairs) == dict.fromkeys(range(3), machine.nics[0].name)
    assert "shared with GPU1 and GPU2: 1 NIC for 3" in pairs[0].reason
    assert ids(complaints) == ["nic-shared", "pairing-far"]
    assert complaints[1].text.startswith("the NIC of GPU1 and GPU2 is NODE")
    assert "there are too few near it" in complaints[1].text


def test_many_that_share_a_nic_are_counted() -> None:
    machine = hgx_h100()
    pairs, _ = pair(machine, machine.gpus, machine.nics[:1])
    assert "shared with GPU1, GPU2, GPU3 and 4 others: 1 NIC for 8" in pairs[0].reason


def test_a_gpu_that_has_only_a_far_nic_is_not_given_more_of_them() -> None:
    machine = hgx_h100()
    own = hgx_h100_pairs()
    left = [nic for nic in machine.nics if nic.name != own[7]]
    pairs, complaints = pair(machine, machine.gpus, left)
    assert [each.more for each in pairs] == [()] * 8
    assert pairs[7].distance is NODE
    (far,) = complaints
    assert far.text.startswith("the NIC of GPU7 is NODE")
    assert "one was not granted near it" in far.text


def test_stated_distances_pair_what_has_no_path() -> None:
    # As nvidia-smi's matrix has it, some rows of which are missing.
    gpus = tuple(Gpu(i, f"GPU{i}") for i in range(8))
    nics = tuple(Nic(f"NIC{i}") for i in range(12))
    own = {0: 0, 1: 1, 2: 2, 3: 5, 4: 6, 5: 7}
    stated = tuple((i, nic.name, PIX if nic.name == f"NIC{own[i]}" else NODE)
                   for i in own for nic in nics)  # fmt: skip
    machine = Machine("topo.txt", gpus, nics, stated=stated)
    pairs, complaints = solve(machine)
    assert {i: names(pairs)[i] for i in own} == {i: f"NIC{nic}" for i, nic in own.items()}
    assert pairs[0].reason == "PIX: topo.txt says so"
    assert [each.text.partition(" is ")[0] for each in complaints] == ["the NIC of GPU6 and GPU7"]


# What follows holds for all machines.

MACHINES = [hgx_h100, dgx_a100, ndv4, gb200, eight_gpus_four_nics, four_gpus_eight_nics]


def right(machine: Machine) -> dict[str, str]:
    return {each.gpu.pci: each.nic.pci for each in solve(machine)[0]}


@pytest.mark.parametrize("build", MACHINES)
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_order_names_and_duplicates_change_nothing(build: object, data: st.DataObject) -> None:
    machine = build()  # type: ignore[operator]
    expected = right(machine)
    renamed = data.draw(st.permutations([nic.name for nic in machine.nics]))
    nics = [replace(nic, name=name) for nic, name in zip(machine.nics, renamed, strict=True)]
    nics += data.draw(st.lists(st.sampled_from(nics), max_size=3))
    gpus = [*machine.gpus, *data.draw(st.lists(st.sampled_from(machine.gpus), max_size=3))]
    nics, gpus = data.draw(st.permutations(nics)), data.draw(st.permutations(gpus))
    pairs, _ = pair(replace(machine, nics=tuple(nics), gpus=tuple(gpus)), gpus, nics)
    assert {each.gpu.pci: each.nic.pci for each in pairs} == expected
    assert [each.gpu.index for each in pairs] == sorted({gpu.index for gpu in gpus})


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_missing_facts_never_make_a_wrong_pair_silently(data: st.DataObject) -> None:
    machine = data.draw(st.sampled_from([hgx_h100(), dgx_a100(), eight_gpus_four_nics()]))
    expected = right(machine)
    hide = st.sampled_from([{}, {"path": ()}, {"path": (), "numa": None}, {"numa": None}])
    gpus = tuple(replace(gpu, **data.draw(hide)) for gpu in machine.gpus)
    nics = tuple(replace(nic, **data.draw(hide)) for nic in machine.nics)
    pairs, complaints = solve(replace(machine, gpus=gpus, nics=nics))
    for each in pairs:
        if expected[each.gpu.pci] != each.nic.pci:
            told = [one for one in complaints
                    if one.id == "pci-hidden" or one.source == each.gpu.name]  # fmt: skip
            assert told, (each, complaints)


@st.composite
def random_machines(draw: st.DrawFn) -> Machine:
    """Small trees: two nodes, two roots each, two switches each, one more switch below."""
    bits = st.tuples(*[st.integers(0, 1)] * 4)
    gpus, nics = (draw(st.lists(bits, min_size=1, max_size=5)) for _ in range(2))

    def path(place: tuple[int, ...], pci: str) -> tuple[str, ...]:
        node, root, top, below = place
        name = f"{node}{root}"
        upper = (f"pci{name}", f"{name}:{top}", f"{name}:{top}.up")
        if below:
            upper = (*upper, f"{name}:{top}.down", f"{name}:{top}.below")
        return (*upper, f"{upper[-1]}.{pci}", pci)

    return Machine(
        "random",
        tuple(gpu_at(i, path(place, f"0000:{i:02x}:00.0"), place[0])
              for i, place in enumerate(gpus)),
        tuple(nic_at(f"mlx5_{i}", path(place, f"0000:{i + 99:02x}:00.0"), place[0])
              for i, place in enumerate(nics)),
    )  # fmt: skip


def even_choices(gpus: int, nics: int) -> set[tuple[int, ...]]:
    """Every even division: each NIC as many times as it can be forced to, and a rest."""
    share, rest = divmod(gpus, nics)
    found = set()
    for extra in permutations(range(nics), rest):
        found |= set(permutations([*range(nics)] * share + [*extra]))
    return found


@settings(deadline=None, max_examples=60)
@given(random_machines())
def test_pairs_are_the_best_of_all_even_divisions(machine: Machine) -> None:
    pairs, _ = solve(machine)
    levels = [[distance(gpu, nic, machine)[0] for nic in machine.nics] for gpu in machine.gpus]
    gpus, nics = len(machine.gpus), len(machine.nics)
    choices = even_choices(gpus, nics)
    got = [each.distance for each in pairs]
    totals = [[levels[row][column] for row, column in enumerate(choice)] for choice in choices]
    assert max(got) == min(map(max, totals))
    if gpus <= nics or gpus % nics == 0:
        assert sum(got) == min(map(sum, totals))
    loads = Counter(each.nic.name for each in pairs)
    assert max(loads.values()) - min(loads[nic.name] for nic in machine.nics) <= 1
    for each in pairs:
        others = [distance(each.gpu, nic, machine)[0] for nic in each.more]
        assert all(level <= each.distance for level in others)
        assert each.distance.name in each.reason
    given_out = [nic.name for each in pairs for nic in each.more]
    assert len(given_out) == len(set(given_out))
    assert not set(given_out) & set(loads)
