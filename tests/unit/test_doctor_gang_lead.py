# SPDX-License-Identifier: Apache-2.0
"""What a rank does when others do not come, hang, or have had their say."""

import json
from pathlib import Path

import pytest
from doctor_gangs import DictStore, pod

from rdmatrain.comm import bootstrap
from rdmatrain.doctor.gang import rank as program
from rdmatrain.doctor.gang.judge import gang_results
from rdmatrain.doctor.gang.model import ANSWER, Answer, Gathering, Peer, Plan, from_json, to_json
from rdmatrain.doctor.gang.rank import Rank
from rdmatrain.doctor.model import Result, Verdict
from rdmatrain.errors import BootstrapError


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> DictStore:
    """The job's store, of which this process is one of two ranks."""
    made = DictStore()
    monkeypatch.setattr(program, "StoreClient", lambda *_: made)
    monkeypatch.setattr(program, "SLACK_S", 0.05)
    monkeypatch.setattr(bootstrap, "FAREWELL_SECONDS", 0.0)
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    return made


def run(rank: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Answer]:
    monkeypatch.setenv("RANK", str(rank))
    code = Rank(Plan(timeout_s=0.4), folder).run()
    return code, from_json(Answer, (folder / ANSWER).read_text("utf-8"))


def forms(seen: Gathering | None) -> str:
    assert seen is not None
    result = gang_results(seen)[0]
    assert (result.check.id, result.finding.verdict) == ("gang-forms", Verdict.FAIL)
    return result.finding.evidence


def test_rank_0_names_who_did_not_come_and_ends_the_job(
    store: DictStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, answer = run(0, tmp_path, monkeypatch)
    assert code == answer.exit_code == 200 and answer.verdict == "FAIL"
    assert "1 of 2 pods" in forms(answer.gathering) and "rank 1 did not" in forms(answer.gathering)
    assert json.loads(store.get("doctor/verdict")) == [200, "FAIL"]


def test_rank_0_names_who_came_and_hangs_and_ends_the_job(
    store: DictStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set("doctor/pod/1", to_json(pod(1, host="hanging")))
    code, answer = run(0, tmp_path, monkeypatch)
    assert code == answer.exit_code == 200
    assert forms(answer.gathering).startswith("hanging (rank 1) came, and did not finish")


def test_rank_0_does_not_ask_what_its_doctor_is_not_to_ask(
    store: DictStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, ...]] = []

    def judge(seen: Gathering, unasked: tuple[str, ...]) -> list[Result]:
        told.append(unasked)
        return gang_results(seen, unasked)

    monkeypatch.setattr("rdmatrain.doctor.gang.judge.judge", judge)
    monkeypatch.setenv("RANK", "0")
    Rank(Plan(timeout_s=0.4, unasked=("gang-mtu",)), tmp_path).run()
    assert told == [("gang-mtu",)]


def test_the_others_end_well_with_what_rank_0_says(
    store: DictStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set("doctor/peers", json.dumps([to_json(Peer(rank=1, host="leader"))]))
    store.set("doctor/verdict", json.dumps([202, "FAIL"]))
    code, answer = run(1, tmp_path, monkeypatch)
    assert code == 0
    assert answer == Answer(rank=1, exit_code=202, verdict="FAIL", leader="leader")
    assert store.check(["doctor/row/1", "doctor/heard/1"])


def test_the_others_do_not_wait_for_ever_for_rank_0(
    store: DictStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BootstrapError, match="rank 0 does not say who is there"):
        run(1, tmp_path, monkeypatch)
    store.set("doctor/peers", json.dumps([to_json(Peer(rank=0, host="leader"))]))
    with pytest.raises(BootstrapError, match="rank 0, on leader, does not say what it found"):
        run(1, tmp_path, monkeypatch)
