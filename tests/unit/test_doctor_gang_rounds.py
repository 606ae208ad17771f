# SPDX-License-Identifier: Apache-2.0
"""Rounds of disjoint pairs, in which everybody meets everybody once."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmatrain.doctor.gang.rounds import MAX_ROUNDS, partner, rounds


@given(st.integers(2, MAX_ROUNDS))
def test_everybody_meets_everybody_once_in_disjoint_pairs(world: int) -> None:
    met: Counter[frozenset[int]] = Counter()
    for number in rounds(world):
        partners = {rank: partner(rank, number, world) for rank in range(world)}
        for rank, peer in partners.items():
            if peer is not None:
                assert peer != rank and partners[peer] == rank
                met[frozenset((rank, peer))] += 1
        assert sum(peer is None for peer in partners.values()) == world % 2
    assert len(met) == world * (world - 1) // 2
    assert set(met.values()) == {2}  # once by each


@pytest.mark.parametrize("world", [66, 67, 200, 512])
def test_in_a_large_gang_each_meets_some(world: int) -> None:
    played = rounds(world)
    assert len(set(played)) == len(played) == MAX_ROUNDS
    assert max(played) > world * 0.9
    peers = {partner(5, number, world) for number in played} - {None}
    assert len(peers) >= MAX_ROUNDS - 1


def test_one_alone_meets_nobody() -> None:
    assert rounds(1) == []
