# SPDX-License-Identifier: Apache-2.0
"""Whose fault it was, where those that say so are not the guilty."""

import signal

import pytest

from rdmatrain.launcher.blame import headline, of_worker
from rdmatrain.launcher.messages import Fault, Node, Report
from rdmatrain.launcher.peer import Peer
from rdmatrain.launcher.running import Running

LEFT = "DistBackendError: rdmatrain: rank 3 (host b, pid 1) has left the group"
ALONE = "BootstrapError: rank 0 of 4 waited 6 s for rank 2 to join the group: is it running"


class Wire:
    peer = "10.0.0.1:1"

    def send(self, kind: int, payload: bytes) -> None:
        pass


@pytest.fixture
def peers() -> list[Peer]:
    return [Peer(Wire(), 0.0, key, host) for key, host in enumerate("ab")]  # type: ignore[arg-type]


@pytest.fixture
def running(peers: list[Peer]) -> Running:
    """A round of ranks 0 and 1 on host a, 2 and 3 on host b."""
    its = Running(1)
    nodes = {
        key: Node(node_rank=key, host=peer.host, address="", nproc=2, first_rank=2 * key)
        for key, peer in enumerate(peers)
    }
    its.begin(nodes, dict(enumerate(peers)))
    return its


def victim(error: str = LEFT) -> Fault:
    return of_worker(0, "a", 10, 1, error)


def test_who_ended_with_0_too_early_is_to_blame(running: Running, peers: list[Peer]) -> None:
    running.add_fault(victim(), 0.0)
    peers[1].keep(Report(round=1, ended=(3,)))
    cause = running.cause
    assert (cause.kind, cause.host, cause.rank, cause.exit_code) == ("early", "b", 3, 1)
    assert headline(cause).startswith("rank 3 on host b: ended with exit code 0 while rank 0 need")
    assert LEFT in cause.detail and "; all ranks must" in headline(cause)


def test_a_node_that_is_done_has_ended_all_its_ranks(running: Running, peers: list[Peer]) -> None:
    running.add_fault(victim(), 0.0)
    peers[1].keep(Report(round=1, done=True))
    peers[1].keep(Report(round=1))
    assert running.cause.rank == 2


def test_a_rank_that_never_came_is_to_blame(running: Running, peers: list[Peer]) -> None:
    running.add_fault(victim(ALONE), 0.0)
    assert (running.cause.kind, running.cause.rank, running.cause.host) == ("absent", 2, "b")
    peers[1].keep(Report(round=1, ended=(2, 3)))
    assert (running.cause.kind, running.cause.rank) == ("early", 2)


@pytest.mark.parametrize(
    "error", [ALONE.replace("of 4", "of 2"), ALONE.replace("rank 2", "rank 9")]
)
def test_ranks_of_other_groups_are_not_taken_for_the_jobs(running: Running, error: str) -> None:
    running.add_fault(victim(error), 0.0)
    assert running.cause.rank == 0


def test_nobody_is_blamed_for_ending_well(running: Running, peers: list[Peer]) -> None:
    peers[1].keep(Report(round=1, ended=(3,)))
    cause = of_worker(1, "a", 11, 1, "KeyError: 'x'")
    running.add_fault(victim(), 0.0)
    running.add_fault(cause, 0.1)
    assert running.cause == cause


def test_what_a_rank_has_raised_counts_before_it_ends(running: Running, peers: list[Peer]) -> None:
    running.add_fault(victim(), 0.0)
    raised = of_worker(2, "b", 12, 1, "ValueError: loss is nan")
    peers[1].keep(Report(round=1, ended=(3,), raised=raised))
    assert running.cause == raised
    peers[1].keep(Report(round=1, raised=of_worker(2, "b", 12, 1, LEFT)))
    assert running.cause.rank == 0


def test_reports_of_others_ranks_do_not_count(running: Running, peers: list[Peer]) -> None:
    running.add_fault(victim(), 0.0)
    peers[1].keep(Report(round=1, ended=(1, 7)))
    assert running.cause.rank == 0


def test_who_has_a_fault_of_its_own_did_not_end_well(running: Running) -> None:
    running.add_fault(victim(ALONE), 0.0)
    running.add_fault(of_worker(2, "b", 12, -signal.SIGABRT, LEFT), 0.1)
    assert running.cause.rank == 0
