# SPDX-License-Identifier: Apache-2.0
"""Results of a gang: of its pods' own checks, of what was measured, of how the launcher ended."""

from dataclasses import replace

import pytest
from doctor_gangs import gang, pod, rail, with_meetings, with_pods
from hypothesis import given
from hypothesis import strategies as st

from rdmatrain.doctor.gang import judge as judging
from rdmatrain.doctor.gang.checks import CHECKS
from rdmatrain.doctor.gang.judge import document, judge, node_results, of_error, of_finish
from rdmatrain.doctor.gang.model import Gathering, NodeFinding, from_json, to_json
from rdmatrain.doctor.model import Check, Result, Verdict, skipped
from rdmatrain.doctor.report import exit_code
from rdmatrain.launcher.messages import Fault, Finish

GOOD = NodeFinding(id="memlock", verdict="PASS", evidence="locked 512 MiB")
BAD = NodeFinding(id="memlock", verdict="FAIL", evidence="locked 64 KiB", fix="ulimit -l")
MEMLOCK = Check(
    "memlock", "memory", "memory can be locked", "because", lambda _: skipped(""), exit_code=77
)


@pytest.fixture(autouse=True)
def _one_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "by_id", lambda: {"memlock": MEMLOCK})


def by_name(results: list[Result]) -> dict[str, Result]:
    return {each.check.id: each for each in results}


def test_the_odd_pods_fail_is_named_and_is_the_cause() -> None:
    seen = with_pods(gang(), *(pod(rank, findings=(GOOD,)) for rank in (0, 1, 3)))
    results = judge(with_pods(seen, pod(2, findings=(BAD,))))
    assert results[0].check.id == "memlock"
    assert results[0].finding.verdict is Verdict.FAIL
    assert results[0].finding.evidence == "pod-2 (rank 2): locked 64 KiB"
    assert results[0].finding.fix == "ulimit -l"
    assert exit_code(results) == 77


def test_pods_that_say_the_same_say_it_once() -> None:
    results = node_results([pod(rank, findings=(GOOD,)) for rank in range(3)])
    assert [each.finding.evidence for each in results] == ["all 3 pods: locked 512 MiB"]
    assert results[0].finding.verdict is Verdict.PASS


def test_what_another_version_asks_is_left_out() -> None:
    other = NodeFinding(id="of-tomorrow", verdict="FAIL", evidence="x")
    assert node_results([pod(0, findings=(other, GOOD))])[0].check.id == "memlock"


def test_a_check_that_is_not_to_be_asked_says_nothing_and_causes_nothing() -> None:
    ethernet = pod(2, rails=(rail(0), rail(1)))
    mixed = with_pods(gang(), pod(1, rails=(rail(0, link_layer="InfiniBand"),)), ethernet)
    assert by_name(judge(mixed))["gang-mtu"].finding.evidence == "not asked: see gang-link-layer"
    results = by_name(judge(mixed, ("gang-link-layer", "gang-clock")))
    assert results.keys() == {each.check.id for each in CHECKS} - {"gang-link-layer", "gang-clock"}
    assert results["gang-mtu"].finding.verdict is not Verdict.SKIP


def test_a_gang_that_is_not_complete_is_told_to_who_did_not_ask() -> None:
    ids = [each.check.id for each in CHECKS]
    lacking = replace(gang(), pods=gang().pods[:3])
    assert [each.check.id for each in judge(gang(), ids)] == []
    assert [each.check.id for each in judge(lacking, ids)] == ["gang-forms"]
    assert [each.check.id for each in of_error("no secret", "give one", ids)] == ["gang-forms"]
    fault = Fault(kind="refused", host="", detail="the nodes do not fit together", exit_code=78)
    finish = Finish(exit_code=78, fault=fault)
    assert [each.check.id for each in of_finish(finish, ids)] == ["gang-versions"]


def test_pods_that_differ_end_the_launcher_and_are_a_matter_of_versions() -> None:
    detail = "the nodes do not fit together: torch's version differs on pod-2: 2.12"
    fault = Fault(kind="refused", host="", detail=detail, exit_code=78)
    results = by_name(of_finish(Finish(exit_code=78, fault=fault)))
    assert results["gang-versions"].finding.verdict is Verdict.FAIL
    assert "pod-2: 2.12" in results["gang-versions"].finding.evidence
    assert results["gang-forms"].finding.verdict is Verdict.PASS
    assert results["gang-ping"].finding.verdict is Verdict.SKIP
    assert exit_code(list(results.values())) == 78


def test_pods_that_do_not_come_are_named_with_what_to_do() -> None:
    detail = "the gang was not complete within 60 s: missing node rank 2 of 3; 2 there"
    fault = Fault(kind="timeout", host="pod-0", detail=detail, exit_code=200)
    results = of_finish(Finish(exit_code=200, fault=fault))
    assert results[0].check.id == "gang-forms"
    assert results[0].finding.verdict is Verdict.FAIL
    assert "missing node rank 2" in results[0].finding.evidence
    assert "see whether those pods run" in results[0].finding.fix
    assert "publishNotReadyAddresses: true" in results[0].finding.fix
    assert exit_code(results) == 200


def test_a_rank_that_dies_is_named() -> None:
    fault = Fault(kind="killed", host="pod-1", rank=1, pid=7, detail="killed by SIGKILL")
    results = of_finish(Finish(exit_code=137, fault=fault))
    assert results[0].finding.evidence == "rank 1 on host pod-1 (pid 7): killed by SIGKILL"
    assert [each.finding.verdict for each in results[1:]] == [Verdict.SKIP] * 9


def test_an_end_without_a_cause_is_told() -> None:
    assert "exit code 143" in of_finish(Finish(exit_code=143))[0].finding.evidence


def test_what_keeps_a_job_from_starting_keeps_the_gang() -> None:
    results = of_error("2 nodes need a secret", "set it")
    assert results[0].finding.evidence == "2 nodes need a secret" and exit_code(results) == 200


def test_a_check_that_breaks_is_a_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "_ask", judging._ask)
    broken = judging.GangCheck(MEMLOCK, lambda _: 1 // 0)  # type: ignore[arg-type,return-value]
    monkeypatch.setattr(judging, "CHECKS", (broken,))
    (result,) = judging.gang_results(gang())
    assert result.finding.verdict is Verdict.SKIP and "ZeroDivision" in result.finding.evidence


def test_the_document_has_matrices_by_sender_and_receiver() -> None:
    seen = with_meetings(gang(3), lambda rank, peer: (rank, peer) == (2, 0), gbps=123.456)
    seen = with_meetings(seen, lambda rank, peer: (rank, peer) == (0, 1), ping_us=None)
    told = document(seen)
    assert told["hosts"] == ["pod-0", "pod-1", "pod-2"] and told["ranks"] == 3
    assert told["gbps"] == [[None, 380.0, 380.0], [380.0, None, 380.0], [123.5, 380.0, None]]
    assert told["ping_us"][0] == [None, None, 3.0]
    assert told["clock_offset_s"] == [0.0, 0.001, 0.001]
    assert told["seconds"] == 1.5


@given(st.integers(1, 6))
def test_a_gathering_survives_the_way_through_json(world: int) -> None:
    seen = with_pods(gang(world), pod(0, findings=(GOOD, BAD)))
    assert from_json(Gathering, to_json(seen)) == seen
