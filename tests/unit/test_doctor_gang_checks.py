# SPDX-License-Identifier: Apache-2.0
"""What is said of made-up gangs: who is odd, and why; nothing of those with nothing wrong."""

from dataclasses import replace

import pytest
from doctor_gangs import (
    GBPS,
    PING_US,
    VERSIONS,
    found,
    gang,
    pod,
    rail,
    verdicts,
    with_meetings,
    with_pods,
    with_row,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.doctor.gang.checks import CHECKS
from rdmatrain.doctor.gang.define import GangCheck
from rdmatrain.doctor.gang.model import Gathering, Row
from rdmatrain.doctor.model import Verdict

FAIL, WARN, PASS, SKIP = Verdict.FAIL, Verdict.WARN, Verdict.PASS, Verdict.SKIP
# In the order of causes.
IDS = (
    "gang-forms", "gang-versions", "gang-devices", "gang-link-layer", "gang-mtu", "gang-clock",
    "gang-ping", "gang-checksum", "gang-transport", "gang-bandwidth",
)  # fmt: skip
TCP = {"transport": "tcp", "why": "rank 2 cannot use RDMA: memlock", "fell_back": True}


@pytest.mark.parametrize("world", [2, 3, 4, 9])
def test_nothing_is_wrong_with_a_gang_with_nothing_wrong(world: int) -> None:
    assert verdicts(gang(world)) == dict.fromkeys(IDS, PASS)


def test_a_pod_alone_has_nothing_to_be_compared_with() -> None:
    alone = replace(gang(1), pods=(pod(0, rails=(), has_rdma=False, gpus=()),))
    assert verdicts(alone).pop("gang-forms") is PASS
    assert set(verdicts(alone).values()) == {PASS, SKIP}
    assert verdicts(alone)["gang-ping"] is SKIP


def test_machines_without_rdma_have_no_fail_and_no_pass_of_it() -> None:
    bare = replace(gang(), pods=tuple(pod(r, rails=(), has_rdma=False, gpus=()) for r in range(4)))
    bare = with_meetings(bare, lambda *_: True, transport="tcp", why="neither has any")
    said = verdicts(bare)
    assert FAIL not in said.values()
    assert [said[f"gang-{name}"] for name in ("devices", "link-layer", "transport")] == [SKIP] * 3


def test_pods_that_share_a_host_are_not_compared_as_if_the_network_was_between() -> None:
    here = replace(gang(), pods=tuple(pod(rank, host_id="one") for rank in range(4)))
    here = with_meetings(here, lambda *_: True, transport="shm", path_mtu=0)
    busy = with_meetings(here, lambda rank, _: rank == 1, gbps=1.0, ping_us=500.0)
    said = verdicts(busy)
    assert WARN not in said.values()
    transport = found("gang-transport", busy)
    assert transport.verdict is SKIP
    assert transport.evidence == "all pods share a host: shm joins them"
    assert found("gang-ping", busy).evidence.endswith("over shm")


# gang-forms


def test_who_did_not_come_is_named() -> None:
    seen = gang()
    finding = found("gang-forms", replace(seen, pods=(seen.pods[0], seen.pods[3]), rows=()))
    assert finding.verdict is FAIL
    assert "2 of 4" in finding.evidence and "rank 1, rank 2 did not" in finding.evidence
    assert "60 s" in finding.evidence


def test_who_came_and_hangs_is_named_and_nothing_else_is_asked() -> None:
    seen = replace(gang(), rows=gang().rows[:2] + gang().rows[3:])
    finding = found("gang-forms", seen)
    assert finding.verdict is FAIL and "pod-2 (rank 2) came" in finding.evidence
    assert "pod-2" in finding.fix
    said = verdicts(seen)
    assert said.pop("gang-forms") is FAIL and set(said.values()) == {SKIP}


# gang-versions


@pytest.mark.parametrize("name", ["rdmatrain", "torch", "python"])
def test_a_pod_of_another_version_fails_by_name(name: str) -> None:
    finding = found("gang-versions", with_pods(gang(), pod(2, versions=VERSIONS | {name: "9.9"})))
    assert finding.verdict is FAIL
    assert f"{name} differs on pod-2 (rank 2): 9.9" in finding.evidence
    assert f"the other 3 have {VERSIONS[name]}" in finding.evidence
    assert "image" in finding.fix


@pytest.mark.parametrize("name", ["kernel", "rdma-core"])
def test_a_node_of_another_kernel_is_a_risk(name: str) -> None:
    finding = found("gang-versions", with_pods(gang(), pod(1, versions=VERSIONS | {name: "4.4"})))
    assert finding.verdict is WARN and f"{name} differs on pod-1 (rank 1): 4.4" in finding.evidence


def test_what_a_pod_does_not_know_is_no_difference() -> None:
    less = {name: value for name, value in VERSIONS.items() if name != "rdma-core"}
    assert found("gang-versions", with_pods(gang(), pod(1, versions=less))).verdict is PASS


# gang-devices, gang-link-layer, gang-mtu


def test_a_pod_with_fewer_devices_fails_by_name() -> None:
    for fields, value in (
        ({"rails": (rail(),)}, "the number of usable RDMA ports differs on pod-3 (rank 3): 1"),
        ({"gpus": ("H100",)}, "the number of GPUs differs on pod-3 (rank 3): 1"),
        ({"rails": ()}, "the number of usable RDMA ports differs on pod-3 (rank 3): 0"),
    ):
        finding = found("gang-devices", with_pods(gang(), pod(3, **fields)))
        assert finding.verdict is FAIL and value in finding.evidence


def test_a_pod_with_a_slower_port_is_a_risk() -> None:
    finding = found("gang-devices", with_pods(gang(), pod(1, rails=(rail(), rail(1, gbps=100.0)))))
    assert finding.verdict is WARN
    assert "pod-1 (rank 1): 100 400" in finding.evidence


def test_a_pod_of_another_link_layer_fails_by_name() -> None:
    rails = (rail(0, link_layer="InfiniBand"), rail(1, link_layer="InfiniBand"))
    finding = found("gang-link-layer", with_pods(gang(), pod(2, rails=rails)))
    assert finding.verdict is FAIL
    assert "pod-2 (rank 2): InfiniBand" in finding.evidence
    assert "the other 3 have Ethernet" in finding.evidence


def test_a_port_of_another_mtu_fails_by_name() -> None:
    finding = found("gang-mtu", with_pods(gang(), pod(2, rails=(rail(0, mtu=1024),) * 2)))
    assert finding.verdict is FAIL
    assert "the active MTU differs on pod-2 (rank 2): 1024" in finding.evidence
    assert "4096" in finding.evidence and "mtu" in finding.fix


def test_a_way_of_another_mtu_is_a_risk() -> None:
    seen = with_meetings(gang(), lambda rank, peer: (rank, peer) == (1, 3), path_mtu=1400)
    finding = found("gang-mtu", seen)
    assert finding.verdict is WARN
    assert "MTU 1400 for pod-1 (rank 1) to pod-3 (rank 3)" in finding.evidence
    assert "elsewhere of 4200" in finding.evidence


# gang-clock


@pytest.mark.parametrize(
    ("offset_s", "rtt_s", "side"),
    [(20.0, 0.01, "20 s behind"), (-1.5, 0.2, "1.5 s ahead of")],
)
def test_a_clock_that_is_wrong_is_named(offset_s: float, rtt_s: float, side: str) -> None:
    finding = found("gang-clock", with_row(gang(), 2, offset_s=offset_s, rtt_s=rtt_s))
    assert finding.verdict is WARN
    assert finding.evidence == f"pod-2 (rank 2) is {side} pod-0 (rank 0)"


def test_a_clock_that_may_be_right_is_not_called_wrong() -> None:
    assert found("gang-clock", with_row(gang(), 2, offset_s=1.4, rtt_s=1.0)).verdict is PASS


def test_a_clock_that_was_not_compared_is_not_called_right() -> None:
    finding = found("gang-clock", with_row(gang(), 2, offset_s=None))
    assert finding.verdict is SKIP and "2 of 3" in finding.evidence


# gang-transport


def test_tcp_where_there_are_rdma_devices_fails_with_the_bootstraps_reason() -> None:
    seen = with_pods(gang(), pod(2, rails=(), no_rails="mlx5_0/1: the port is DOWN"))
    seen = with_meetings(seen, lambda rank, peer: 2 in (rank, peer), **TCP)
    finding = found("gang-transport", seen)
    assert finding.verdict is FAIL
    assert "joins pod-2 (rank 2)" in finding.evidence
    assert "mlx5_0/1: the port is DOWN" in finding.evidence
    assert finding.fix.startswith("rdmatrain doctor on pod-2:")


def test_tcp_fails_where_verbs_is_wanted_and_nobody_has_a_device() -> None:
    seen = replace(
        gang(), pods=tuple(pod(r, rails=(), has_rdma=False, wants="verbs") for r in range(4))
    )
    seen = with_meetings(seen, lambda *_: True, transport="tcp", why="there is no RDMA device")
    finding = found("gang-transport", seen)
    assert finding.verdict is FAIL and "there is no RDMA device" in finding.evidence


def test_tcp_is_right_where_it_was_asked_for() -> None:
    seen = replace(gang(), pods=tuple(pod(rank, wants="tcp") for rank in range(4)))
    seen = with_meetings(seen, lambda *_: True, transport="tcp", why="RDMATRAIN_TRANSPORT=tcp")
    assert found("gang-transport", seen).verdict is PASS
    assert found("gang-transport", seen).evidence == "tcp joins 6 pairs"


def test_a_group_that_does_not_form_fails_with_what_most_ranks_say() -> None:
    seen = gang()
    for rank in range(3):
        seen = with_row(seen, rank, group_error="rank 3 is out of reach")
    seen = with_row(seen, 3, group_error="timed out")
    finding = found("gang-transport", seen)
    assert finding.verdict is FAIL
    assert finding.evidence == "the group does not form: rank 3 is out of reach"


def test_a_group_that_a_broken_pair_stopped_is_no_cause_of_its_own() -> None:
    seen = with_meetings(gang(), lambda rank, peer: {rank, peer} == {0, 3}, error="timed out")
    for rank in range(4):
        seen = with_row(seen, rank, group_error="rank 3 is out of reach")
    said = verdicts(seen)
    assert (said["gang-ping"], said["gang-transport"]) == (FAIL, PASS)


# gang-ping


def test_pairs_that_there_was_no_time_for_are_counted() -> None:
    nothing = {"ping_us": None, "gbps": None, "num_checked": 0}
    seen = with_meetings(gang(), lambda rank, peer: {rank, peer} == {0, 3}, **nothing)
    finding = found("gang-ping", seen)
    assert finding.verdict is PASS
    assert finding.evidence.startswith("5 pairs (no time for 1 more), median 3 us")


def test_a_pod_that_nobody_reaches_is_named_alone() -> None:
    seen = with_meetings(
        gang(), lambda rank, peer: 2 in (rank, peer), error="timed out", ping_us=None, gbps=None
    )
    finding = found("gang-ping", seen)
    assert finding.verdict is FAIL
    assert finding.evidence == "every pair with pod-2 (rank 2) fails: timed out"
    assert "pod-2" in finding.fix


def test_a_pair_that_fails_is_named() -> None:
    seen = with_meetings(gang(), lambda rank, peer: {rank, peer} == {1, 3}, error="retry exceeded")
    finding = found("gang-ping", seen)
    assert finding.verdict is FAIL
    assert finding.evidence == "pod-1 (rank 1) and pod-3 (rank 3) fails: retry exceeded"


def test_a_pair_that_is_slow_is_named() -> None:
    slow = 5.1 * PING_US
    seen = with_meetings(gang(), lambda rank, peer: (rank, peer) == (3, 1), ping_us=slow)
    finding = found("gang-ping", seen)
    assert finding.verdict is WARN
    assert "pod-3 (rank 3) to pod-1 (rank 1) 15.3 us" in finding.evidence
    assert "median of 3 us" in finding.evidence


@settings(max_examples=20)
@given(st.lists(st.floats(1.0, 4.9), min_size=12, max_size=12))
def test_pings_that_differ_less_than_that_are_no_complaint(pings: list[float]) -> None:
    seen = gang()
    for number, ping_us in enumerate(pings):
        rank, peer = divmod(number, 3)
        peer += peer >= rank
        seen = with_meetings(seen, lambda a, b, at=(rank, peer): (a, b) == at, ping_us=ping_us)
    assert found("gang-ping", seen).verdict is PASS


# gang-checksum


def test_wrong_bytes_fail_with_both_ends() -> None:
    seen = with_meetings(gang(), lambda rank, peer: (rank, peer) == (0, 3), num_wrong=7)
    finding = found("gang-checksum", seen)
    assert finding.verdict is FAIL
    assert finding.evidence == "pod-0 (rank 0) got 7 of 1000 bytes wrong from pod-3 (rank 3)"


def test_wrong_blocks_of_the_group_fail_with_whose_they_are() -> None:
    finding = found("gang-checksum", with_row(gang(), 1, wrong_ranks=(3,)))
    assert finding.verdict is FAIL
    assert finding.evidence == "pod-1 (rank 1) gathered wrong bytes of pod-3 (rank 3)"


def test_bytes_that_nobody_compared_are_not_called_right() -> None:
    seen = with_meetings(gang(), lambda *_: True, num_checked=0)
    seen = replace(seen, rows=tuple(replace(each, gathered=0) for each in seen.rows))
    assert found("gang-checksum", seen).verdict is SKIP


# gang-bandwidth


@pytest.mark.parametrize(
    ("does", "where"), [("sends", lambda rank, _: rank == 1), ("receives", lambda _, p: p == 1)]
)
def test_a_pod_whose_row_or_column_is_slow_is_named(does: str, where) -> None:  # type: ignore[no-untyped-def]
    finding = found("gang-bandwidth", with_meetings(gang(), where, gbps=0.4 * GBPS))
    assert finding.verdict is WARN
    assert finding.evidence.startswith(f"pod-1 (rank 1) {does} at 40 % of the median: less")
    assert "pod-2" not in finding.evidence


def test_one_slow_direction_is_not_a_slow_pod() -> None:
    seen = with_meetings(gang(), lambda rank, peer: (rank, peer) == (1, 2), gbps=0.1 * GBPS)
    assert found("gang-bandwidth", seen).verdict is PASS


def test_of_two_pods_neither_is_the_odd_one() -> None:
    seen = with_meetings(gang(2), lambda rank, _: rank == 1, gbps=0.1 * GBPS)
    assert found("gang-bandwidth", seen).verdict is PASS


def test_what_was_not_measured_is_not_called_right() -> None:
    seen = with_meetings(gang(), lambda *_: True, gbps=None, ping_us=None)
    assert found("gang-bandwidth", seen).verdict is SKIP
    assert found("gang-ping", seen).verdict is SKIP


# All


def test_checks_have_ids_reasons_and_causes_that_come_before() -> None:
    before: set[str] = set()
    for each in CHECKS:
        assert isinstance(each, GangCheck)
        assert each.check.id.startswith("gang-") and each.check.why and each.check.title
        assert set(each.check.after) <= before, each.check.id
        before.add(each.check.id)
    assert len(before) == len(CHECKS) == 10


@given(st.data())
def test_no_gathering_breaks_a_check(data: st.DataObject) -> None:
    world = data.draw(st.integers(1, 5))
    seen = gang(world)
    some = st.lists(st.sampled_from(seen.pods), min_size=1, unique_by=lambda each: each.rank)
    pods = data.draw(some)
    rows = data.draw(st.lists(st.sampled_from(seen.rows), unique_by=lambda each: each.rank))
    empty = data.draw(st.lists(st.integers(0, world - 1), unique=True))
    rows = [Row(rank=each.rank) if each.rank in empty else each for each in rows]
    torn = Gathering(world=world, pods=tuple(pods), rows=tuple(rows))
    for each in CHECKS:
        finding = each.judge(torn)
        assert finding.evidence
        assert bool(finding.fix) == (finding.verdict in {FAIL, WARN})
