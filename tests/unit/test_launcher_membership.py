# SPDX-License-Identifier: Apache-2.0
import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmatrain.launcher.facts import MUST_AGREE
from rdmatrain.launcher.job import Gang
from rdmatrain.launcher.membership import Membership, Seat, disagreement
from rdmatrain.launcher.messages import Join

# As they are compared.
PACKAGES = [name for name in MUST_AGREE if "packages" in name]


def company(most: int, fewest: int | None = None, last_call_s: float = 30.0) -> Membership:
    gang = Gang(
        min_nodes=most if fewest is None else fewest, max_nodes=most, last_call_s=last_call_s
    )
    return Membership(gang, 100.0)


def add(
    members: Membership,
    host: str,
    rank: int | None = None,
    *,
    at_s: float = 100.0,
    leads: bool = False,
    nproc: int = 1,
    address: str = "",
) -> Seat:
    join = Join(host=host, address=address or host, node_rank=rank, nproc=nproc, incarnation=host)
    return members.add(join, at_s, leads=leads)


def hosts(members: Membership) -> list[str]:
    return [node.host for node in members.seats().values()]


@pytest.mark.parametrize(
    "name", ["the code", "the code that it imports", "the code of a.py", *PACKAGES]
)
def test_code_may_differ_once_a_round_has_begun(name: str) -> None:
    members = company(2)
    for host in "ab":
        join = Join(host=host, nproc=1, agree={name: host, "torch's version": host})
        members.add(join, 100.0)
    assert name in members.disagreement() and members.let_pass() == ""
    members.seats()
    assert name not in members.disagreement() and "torch" in members.disagreement()
    assert name in members.let_pass() and "torch" not in members.let_pass()


def test_given_ranks_are_kept_and_the_others_fill_the_gaps() -> None:
    members = company(5)
    for host, rank in (("pod-10", None), ("pod-9", None), ("x", 3), ("y", 0), ("pod-2", None)):
        add(members, host, rank)
    assert hosts(members) == ["y", "pod-2", "pod-9", "x", "pod-10"]


def test_without_ranks_the_leader_is_first_and_the_order_of_arrival_is_the_last_word() -> None:
    for order in itertools.permutations(range(4)):
        members = company(4)
        nodes = [("b", "2"), ("a", "9"), ("a", "1"), ("z", "1")]
        for index in order:
            add(members, *nodes[index][:1], address=nodes[index][1], leads=index == 3)
        places = [(node.host, node.address) for node in members.seats().values()]
        assert places == [("z", "1"), ("a", "1"), ("a", "9"), ("b", "2")]
    members = company(2)
    first, second = add(members, "same"), add(members, "same")
    assert list(members.seats()) == [first.key, second.key]


def test_ranks_count_the_workers_of_the_nodes_before() -> None:
    members = company(3)
    for rank, nproc in ((2, 1), (0, 8), (1, 3)):
        add(members, f"pod-{rank}", rank, nproc=nproc)
    assert [node.ranks for node in members.seats().values()] == [
        range(8), range(8, 11), range(11, 12),
    ]  # fmt: skip


def test_a_gang_of_a_fixed_size_is_complete_when_all_are_there() -> None:
    members = company(2)
    add(members, "a", 0)
    assert not members.is_complete(1e9)
    add(members, "b", 1)
    assert members.is_complete(100.0)


def test_an_elastic_gang_waits_for_a_last_call_after_the_last_who_came() -> None:
    members = company(4, fewest=2)
    add(members, "a", 0, at_s=100.0)
    add(members, "b", 1, at_s=120.0)
    assert not members.is_complete(149.9)
    assert members.is_complete(150.0)
    add(members, "c", 2, at_s=149.0)
    assert not members.is_complete(150.0)
    assert members.is_complete(179.0)


def test_a_restart_waits_for_nobody_if_all_of_the_last_round_are_there() -> None:
    members = company(4, fewest=2)
    keys = [add(members, host, rank).key for rank, host in enumerate("abc")]
    members.seats()
    members.form_again(500.0)
    assert members.is_complete(500.0)
    members.remove(keys[2])
    assert not members.is_complete(529.9)
    assert members.is_complete(530.0)


def test_two_with_one_rank_quarrel_once_the_older_is_heard() -> None:
    members = company(2)
    older = add(members, "old", 0, at_s=100.0)
    newer = add(members, "new", 0, at_s=105.0)
    members.heard(older.key, 104.9)
    assert members.quarrel() is None  # the older may be dead with its host
    assert not members.is_complete(1e9)
    members.heard(newer.key, 106.0)
    assert members.quarrel() is None
    members.heard(older.key, 106.0)
    assert members.quarrel() == (older, newer)
    members.remove(older.key)
    assert members.quarrel() is None


def test_one_too_many_is_refused_once_all_others_are_heard() -> None:
    members = company(2)
    first, second = add(members, "a", at_s=100.0), add(members, "b", at_s=101.0)
    third = add(members, "c", at_s=110.0)
    members.heard(first.key, 111.0)
    assert members.surplus() == ()
    members.heard(second.key, 111.0)
    assert members.surplus() == (third,)
    members.remove(first.key)
    assert members.surplus() == ()


def test_a_rank_out_of_range_and_a_node_without_workers_cannot_take_part() -> None:
    members = company(2)
    assert "give it 0 to 1" in members.why_not(Join(host="a", node_rank=2))
    assert "no workers" in members.why_not(Join(host="a", nproc=0))
    assert members.why_not(Join(host="a", node_rank=1)) == ""


def test_who_is_missing_is_said_by_rank_or_by_number() -> None:
    members = company(4)
    assert members.missing() == "4 nodes of 4; 0 there: "
    add(members, "a", 0)
    add(members, "b", 2, address="10.0.0.2")
    assert members.missing() == "node ranks 1, 3 of 4; 2 there: a, b (10.0.0.2)"
    rival = add(members, "d", 2)  # who waits for a seat is none of them
    assert members.missing() == "node ranks 1, 3 of 4; 2 there: a, b (10.0.0.2)"
    members.remove(rival.key)
    add(members, "c")
    assert members.missing() == "1 node of 4; 3 there: a, b (10.0.0.2), c"
    elastic = company(64, fewest=2)
    add(elastic, "a", 0)
    assert elastic.missing() == "node ranks 1, 2, 3, 4, ... of 2 to 64; 1 there: a"


def test_what_differs_is_told_with_the_odd_ones_and_the_majority() -> None:
    facts = [
        ("pod-0", {"torch": "2.13", "mtu": "4096"}),
        ("pod-1", {"torch": "2.13", "mtu": "unknown"}),
        ("pod-2", {"torch": "2.14", "mtu": "4096"}),
    ]
    assert disagreement(facts) == "torch differs on pod-2: 2.14, where the other 2 have 2.13"
    assert disagreement(facts[1:]) == (
        "torch differs, and no side is larger: pod-1: 2.13, pod-2: 2.14"
    )
    assert disagreement(facts[:2]) == disagreement([]) == ""
    many = [(f"pod-{n}", {"x": str(n % 3 == 0)}) for n in range(21)]
    assert disagreement(many) == (
        "x differs on pod-0, pod-12, pod-15, pod-18 and 3 more: True, where the other 14 have False"
    )
    each = [(name, {f"file {n}": name for n in range(7)}) for name in "ab"]
    assert disagreement(each).count("differs") == 5
    assert disagreement(each).endswith("; and 2 more")
    assert disagreement([("a", {"x": "\x1b[2J" + "y" * 999}), ("b", {"x": "z"})]).isprintable()


VALUES = st.sampled_from(["", "unknown", "1", "2", "3"])


@given(st.lists(st.dictionaries(st.sampled_from("pqr"), VALUES), max_size=6))
def test_nodes_disagree_just_if_two_known_values_of_one_fact_differ(
    facts: list[dict[str, str]],
) -> None:
    said = disagreement([(f"pod-{n}", each) for n, each in enumerate(facts)])
    known = {
        name: Counter(e[name] for e in facts if e.get(name, "") in "123" and e.get(name))
        for name in "pqr"
    }
    differ = {name for name, values in known.items() if len(values) > 1}
    assert {part[0] for part in said.split("; ") if part} == differ
    for n, each in enumerate(facts):
        for name in differ:
            values = known[name]
            odd = values[each.get(name, "")] and values[each[name]] < max(values.values())
            if odd:
                part = next(text for text in said.split("; ") if text.startswith(f"{name} "))
                assert f"pod-{n}" in part


NODE = st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 5), st.integers(1, 4))


@given(st.lists(NODE, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_places_have_no_gaps_and_depend_on_no_order_but_that_of_twins(
    nodes: list[tuple[str, int | None, int]], chance: object
) -> None:
    unique = {
        (rank if rank is not None else f"{host}{n}"): (f"{host}{n}", rank, nproc)
        for n, (host, rank, nproc) in enumerate(nodes)
    }
    wanted = list(unique.values())

    def places(order: list[tuple[str, int | None, int]]) -> list[object]:
        members = company(6, fewest=1, last_call_s=0.0)
        for host, rank, nproc in order:
            add(members, host, rank, nproc=nproc)
        assert members.is_complete(100.0)
        return list(members.seats().values())

    found = places(wanted)
    shuffled = list(wanted)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert places(shuffled) == found
    assert [node.node_rank for node in found] == list(range(len(wanted)))  # type: ignore[attr-defined]
    ranks = [rank for node in found for rank in node.ranks]  # type: ignore[attr-defined]
    assert ranks == list(range(sum(nproc for _, _, nproc in wanted)))
    given_ranks = {host: rank for host, rank, _ in wanted if rank is not None}
    kept = [given_ranks[node.host] for node in found if node.host in given_ranks]  # type: ignore[attr-defined]
    assert kept == sorted(kept)
    if len(wanted) == 6:
        assert all(found[rank].host == host for host, rank in given_ranks.items())  # type: ignore[attr-defined]
