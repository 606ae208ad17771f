# SPDX-License-Identifier: Apache-2.0
"""Ranks get what is near them: GPU, NIC with port and GID, and CPUs that nobody else has."""

from dataclasses import replace

from discovery_machines import (
    eight_gpus_four_nics,
    hgx_h100,
    hgx_h100_pairs,
    nic_at,
    only_cpus,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.discovery.bindings import bind
from rdmatrain.discovery.model import Gid, Machine, Nic, Node
from rdmatrain.discovery.pairing import pair
from rdmatrain.discovery.pod_model import Allocation, Binding, GrantedGpu, GrantedNic
from rdmatrain.discovery.source import natural


def granted(machine: Machine, *, gpus: int | None = None) -> Allocation:
    """Grant everything; the GID of ``mlx5_N`` is at N + 3 of port 1."""

    def gid(nic: Nic) -> Gid:
        return Gid(int(str(natural(nic.name)[-2])) + 3, "10.0.0.1", "RoCE v2")

    return Allocation(
        tuple(GrantedGpu(gpu, ()) for gpu in machine.gpus[:gpus]),
        tuple(GrantedNic(nic, 1, gid(nic), "", ()) for nic in machine.nics),
    )


def solve(machine: Machine, ranks: int | None = None) -> tuple[Binding, ...]:
    pairs, _ = pair(machine, machine.gpus, machine.nics)
    return bind(machine, granted(machine), pairs, ranks)


NODES = (Node(0, (*range(8), *range(16, 24))), Node(1, (*range(8, 16), *range(24, 32))))


def test_each_gpu_is_a_ranks_with_the_gid_of_its_own_nic() -> None:
    bindings = solve(replace(hgx_h100(), nodes=NODES))
    own = hgx_h100_pairs()
    assert [each.local_rank for each in bindings] == list(range(8))
    assert [each.gpu.index for each in bindings if each.gpu] == list(range(8))
    assert [[nic.name for nic in each.nics] for each in bindings] == [[own[i]] for i in range(8)]
    assert [each.ports for each in bindings] == [(1,)] * 8
    # Another index for each NIC: never one for all.
    assert [each.gid_indexes for each in bindings] == [((i * 5) % 12 + 3,) for i in range(8)]
    assert [each.numa for each in bindings] == [0] * 4 + [1] * 4
    assert bindings[0].reason.startswith("PIX: both below the PCIe switch 0000:11:00.0; ")


def test_cpus_of_a_node_are_divided_by_cores() -> None:
    bindings = solve(replace(hgx_h100(), nodes=NODES, cpus=tuple(range(32))))
    assert [each.cpus for each in bindings] == [
        (0, 1, 16, 17), (2, 3, 18, 19), (4, 5, 20, 21), (6, 7, 22, 23),
        (8, 9, 24, 25), (10, 11, 26, 27), (12, 13, 28, 29), (14, 15, 30, 31),
    ]  # fmt: skip
    assert bindings[0].reason.endswith("4 of 16 CPUs of NUMA node 0, for 4 local ranks")


def test_only_cpus_that_are_allowed_are_given() -> None:
    machine = replace(hgx_h100(), nodes=NODES, cpus=(2, 3, 18))
    bindings = solve(machine)
    # Three for four ranks: two of them share one. None of the other node.
    assert [each.cpus for each in bindings] == [(2,), (2,), (18,), (3,)] + [()] * 4
    assert "none of NUMA node 1 is allowed here" in bindings[7].reason


def test_fewer_ranks_than_gpus_take_the_first_ones() -> None:
    bindings = solve(replace(hgx_h100(), nodes=NODES), 2)
    assert [each.gpu.index for each in bindings if each.gpu] == [0, 1]
    assert [len(each.cpus) for each in bindings] == [8, 8]


def test_more_ranks_than_gpus_share_them_and_are_told_so() -> None:
    bindings = solve(hgx_h100(), 10)
    assert [each.gpu.index for each in bindings if each.gpu] == [*range(8), 0, 1]
    assert "GPU1 is shared: 10 local ranks and 8 GPUs" in bindings[9].reason
    assert bindings[9].nics == bindings[1].nics


def test_ranks_count_gpus_as_a_process_does() -> None:
    """CUDA_VISIBLE_DEVICES=3,1 makes GPU 3 the first one."""
    machine = hgx_h100()
    pairs, _ = pair(machine, machine.gpus, machine.nics)
    allocation = granted(machine)
    turned = replace(allocation, gpus=(allocation.gpus[3], allocation.gpus[1]))
    bindings = bind(machine, turned, pairs[::-1], None)
    own = hgx_h100_pairs()
    assert [each.gpu.index for each in bindings if each.gpu] == [3, 1]
    assert [[nic.name for nic in each.nics] for each in bindings] == [[own[3]], [own[1]]]


def test_a_gpu_without_numa_node_has_that_of_its_nic_or_none() -> None:
    machine = eight_gpus_four_nics()
    gpus = tuple(replace(gpu, numa=None) for gpu in machine.gpus)
    assert [each.numa for each in solve(replace(machine, gpus=gpus))] == [0] * 4 + [1] * 4
    nics = tuple(replace(nic, numa=None) for nic in machine.nics)
    bindings = solve(replace(machine, gpus=gpus, nics=nics, nodes=NODES))
    assert [(each.numa, each.cpus) for each in bindings] == [(None, ())] * 8
    assert "no one NUMA node is its own" in bindings[0].reason


def test_gpus_without_nics_still_have_cpus() -> None:
    machine = replace(hgx_h100(), nics=(), nodes=NODES)
    bindings = bind(machine, granted(machine), (), None)
    assert [each.nics for each in bindings] == [()] * 8
    assert [len(each.cpus) for each in bindings] == [4] * 8
    assert "there is no NIC for its GPU" in bindings[0].reason


def test_what_is_not_known_of_a_port_is_said_so() -> None:
    machine = hgx_h100()
    pairs, _ = pair(machine, machine.gpus, machine.nics)
    allocation = granted(machine)
    bare = [replace(each, port=0, gid=None) for each in allocation.nics]
    first = bind(machine, replace(allocation, nics=tuple(bare)), pairs, 1)[0]
    assert (first.ports, first.gid_indexes) == ((0,), (None,))
    first = bind(machine, replace(allocation, nics=()), pairs, 1)[0]
    assert (first.ports, first.gid_indexes) == ((0,), (None,))


def test_without_gpus_ranks_are_at_the_nodes_of_their_nics() -> None:
    bindings = solve(only_cpus())
    assert [(each.gpu, each.numa) for each in bindings] == [(None, 0), (None, 1)]
    assert [[nic.name for nic in each.nics] for each in bindings] == [["mlx5_1"], ["mlx5_0"]]
    assert [each.gid_indexes for each in bindings] == [(4,), (3,)]
    assert [each.cpus for each in bindings] == [NODES[0].cpus, NODES[1].cpus]


def test_without_gpus_more_ranks_are_spread_over_the_nodes() -> None:
    bindings = solve(only_cpus(), 4)
    assert [each.numa for each in bindings] == [0, 0, 1, 1]
    assert [each.nics[0].name for each in bindings] == ["mlx5_1"] * 2 + ["mlx5_0"] * 2
    assert [each.cpus for each in bindings] == [
        (0, 1, 2, 3, 16, 17, 18, 19), (4, 5, 6, 7, 20, 21, 22, 23),
        (8, 9, 10, 11, 24, 25, 26, 27), (12, 13, 14, 15, 28, 29, 30, 31),
    ]  # fmt: skip


def test_one_rank_alone_keeps_all_cpus_and_all_nics() -> None:
    (only,) = solve(only_cpus(), 1)
    assert (only.numa, only.cpus) == (None, ())
    assert {nic.name for nic in only.nics} == {"mlx5_0", "mlx5_1"}


def test_a_node_that_may_not_be_used_has_no_rank() -> None:
    bindings = solve(replace(only_cpus(), cpus=(9, 25, 10, 26)))
    assert [each.numa for each in bindings] == [1, 1]
    assert [each.cpus for each in bindings] == [(9, 25), (10, 26)]


def test_with_nothing_at_all_there_is_one_rank() -> None:
    (only,) = bind(Machine("here"), Allocation(), (), None)
    assert (only.gpu, only.nics, only.numa, only.cpus) == (None, (), None, ())
    assert "neither GPU nor NIC" in only.reason


def test_gpus_of_the_machine_that_were_not_granted_do_no_harm() -> None:
    machine = replace(hgx_h100(), nodes=NODES)
    stated = tuple((i, machine.nics[0].name, 0) for i in range(8))
    bindings = bind(replace(machine, stated=stated), granted(machine, gpus=0), (), 4)  # type: ignore[arg-type]
    assert [each.numa for each in bindings] == [0, 0, 1, 1]
    assert all(each.nics[0].numa == each.numa for each in bindings)


@settings(deadline=None, max_examples=100)
@given(
    ranks=st.integers(1, 20),
    allowed=st.sets(st.integers(0, 31), min_size=1),
    gpus=st.booleans(),
    data=st.data(),
)
def test_cpus_are_divided_evenly_and_without_overlap(
    ranks: int, allowed: set[int], gpus: bool, data: st.DataObject
) -> None:
    base = hgx_h100() if gpus else only_cpus()
    nics = tuple(data.draw(st.permutations([*base.nics, nic_at("mlx5_12", ("x", "0000:01:00.0"))])))
    machine = replace(base, nodes=NODES, cpus=tuple(sorted(allowed)))
    shuffled = replace(machine, nics=nics, nodes=NODES[::-1])
    bindings = solve(replace(machine, nics=tuple(sorted(nics, key=lambda nic: nic.name))), ranks)
    assert solve(shuffled, ranks) == bindings
    assert len(bindings) == ranks
    for node in NODES:
        here = [each for each in bindings if each.numa == node.number]
        there = allowed & set(node.cpus)
        sizes = [len(each.cpus) for each in here]
        assert set().union(*(each.cpus for each in here)) <= there
        if here and len(there) >= len(here):
            assert sum(sizes) == len(there)
            assert max(sizes) - min(sizes) <= 1
