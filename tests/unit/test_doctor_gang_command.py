# SPDX-License-Identifier: Apache-2.0
"""From a pod's results to a job of ranks, and from how that ends to what is printed."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from doctor_gangs import gang, with_meetings
from fake_survey import SURVEY
from memory_source import MemorySource

from rdmatrain.doctor.command import DoctorOptions, run_doctor
from rdmatrain.doctor.gang import command
from rdmatrain.doctor.gang.command import GangOptions, gang_job, run_gang
from rdmatrain.doctor.gang.model import ANSWER, PLAN, Answer, Gathering, Plan, from_json, to_json
from rdmatrain.doctor.model import Case, Check, Needs, Result, Verdict, failed, skipped
from rdmatrain.errors import SettingError
from rdmatrain.launcher import termination
from rdmatrain.launcher.job import Job
from rdmatrain.launcher.messages import Fault, Finish

ENVIRON = {
    "PET_NNODES": "4",
    "PET_NODE_RANK": "2",
    "PET_NPROC_PER_NODE": "8",
    "PET_MAX_RESTARTS": "3",
    "PET_MASTER_ADDR": "leader.example",
    "PET_MASTER_PORT": "29501",
    "PET_RDZV_ID": "job-7",
    "RDMATRAIN_REQUIRE": "verbs",
    "RDMATRAIN_SECRET": "a secret of the tests, long enough",
}
CASE = Case(MemorySource({}), SURVEY, Needs(transport="verbs"))
MEMLOCK = Check("memlock", "memory", "t", "why", lambda _: skipped(""), exit_code=77)
RESULTS = [Result(MEMLOCK, failed("64 KiB", "ulimit -l"), 0.1)]


def test_the_job_is_that_of_the_pods_with_one_rank_on_each(tmp_path: Path) -> None:
    job = gang_job(CASE, ENVIRON, 30.0, tmp_path)
    assert (job.gang.max_nodes, job.gang.node_rank, job.gang.leader) == (4, 2, "leader.example")
    assert (job.gang.port, job.nproc, job.limits.max_restarts) == (29501, 1, 0)
    assert (job.gang.join_s, job.gang.lost_s) == (
        30.0,
        15.0,
    ) and job.secret == b"a secret of the tests, long enough"
    assert job.program.command()[-3:] == ["-m", "rdmatrain.doctor.gang.rank", str(tmp_path)]
    assert job.settings == {"require": "verbs"} and job.preload == ()


def test_no_pod_of_the_job_takes_the_doctor_for_the_job(tmp_path: Path) -> None:
    assert gang_job(CASE, ENVIRON, 30.0, tmp_path).gang.run_id == "doctor of job-7"


def test_a_pod_without_devices_takes_part_so_that_it_can_be_named(tmp_path: Path) -> None:
    bare = replace(SURVEY, allocation=replace(SURVEY.allocation, nics=(), gpus=()))
    assert gang_job(replace(CASE, found=bare), ENVIRON, 30.0, tmp_path).gang.max_nodes == 4


def test_what_keeps_a_job_from_starting_is_said(tmp_path: Path) -> None:
    without = {name: value for name, value in ENVIRON.items() if "SECRET" not in name}
    with pytest.raises(SettingError, match="4 nodes need a secret"):
        gang_job(CASE, without, 30.0, tmp_path)


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the kubelet looks at."""
    path = tmp_path / "termination-log"
    path.touch()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    write = termination.write
    monkeypatch.setattr(termination, "write", lambda text: write(text, str(path)))
    return path


ENDED = Finish(exit_code=0)
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a pod whose rank leaves an answer, or whose launcher ends with a fault."""

    def run(
        answer: Answer | None,
        finish: Finish = ENDED,
        environ: Mapping[str, str] = ENVIRON,
        **options: Any,
    ) -> tuple[int, str]:
        def run_to_end(job: Job) -> Finish:
            folder = Path(job.program.args[0])
            plan = from_json(Plan, (folder / PLAN).read_text("utf-8"))
            assert plan.findings[0].evidence == "64 KiB"
            assert plan.unasked == options.get("unasked", ())
            if answer is not None:
                (folder / ANSWER).write_text(to_json(answer), "utf-8")
            return finish

        monkeypatch.setattr(command, "run_to_end", run_to_end)
        monkeypatch.setattr(command.config, "inherited_environment", lambda: dict(environ))
        lines: list[str] = []
        code = run_gang(CASE, RESULTS, GangOptions(**options), lines.append)
        return code, "\n".join(lines)

    return run


def answer(seen: Gathering | None, rank: int = 0) -> Answer:
    return Answer(rank=rank, exit_code=202, verdict="FAIL", leader="pod-0", gathering=seen)


def test_rank_0_shows_all_with_the_matrices(run: Run) -> None:
    seen = with_meetings(gang(), lambda rank, peer: {rank, peer} == {1, 2}, error="timed out")
    code, text = run(answer(seen), json=True)
    told = json.loads(text)
    assert code == 202 and told["scope"] == "gang" and told["exit_code"] == 202
    checks = {each["id"]: each for each in told["checks"]}
    assert checks["gang-ping"]["verdict"] == "FAIL"
    assert "pod-1 (rank 1) and pod-2 (rank 2)" in checks["gang-ping"]["evidence"]
    assert told["gang"]["hosts"] == ["pod-0", "pod-1", "pod-2", "pod-3"]
    assert len(told["gang"]["gbps"]) == len(told["gang"]["ping_us"]) == 4
    assert "FAIL gang-ping" in run(answer(seen))[1]


def test_a_check_that_is_not_to_be_asked_is_not_shown(run: Run) -> None:
    unasked = ("gang-ping", "gang-bandwidth")
    seen = with_meetings(gang(), lambda rank, peer: {rank, peer} == {1, 2}, error="timed out")
    told = json.loads(run(answer(seen), json=True, unasked=unasked)[1])
    assert not {*unasked} & {each["id"] for each in told["checks"]}
    _, text = run(None, Finish(exit_code=1), unasked=unasked, json=True)
    assert not {*unasked} & {each["id"] for each in json.loads(text)["checks"]}


def test_a_drawing_that_fails_is_told_and_the_exit_code_is_the_gangs(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(*_: object) -> None:
        raise SettingError("no space is left")

    monkeypatch.setattr(command, "draw", draw)
    code, text = run(answer(gang()), plot="x.svg", json=True)
    assert (code, json.loads(text)["scope"]) == (202, "gang")
    assert capsys.readouterr().err == "--plot x.svg was not drawn: no space is left\n"
    assert run(None, Finish(exit_code=1), plot="x.svg")[0] == 200
    assert capsys.readouterr().err == "--plot x.svg was not drawn: nothing was measured\n"
    run(answer(None, rank=3), plot="x.svg")
    assert capsys.readouterr().err == "", "rank 0 draws"


def test_the_others_print_a_line_and_end_the_same(run: Run) -> None:
    code, text = run(answer(None, rank=3))
    assert code == 202 and text == (
        "rank 3: the gang's verdict is FAIL (exit code 202): rank 0, on pod-0, shows why"
    )
    told = json.loads(run(answer(None, rank=3), json=True)[1])
    assert (told["verdict"], told["exit_code"], told["rank"]) == ("FAIL", 202, 3)
    assert told["shown_by"] == "pod-0"


def test_a_gang_that_is_not_complete_shows_what_this_pod_found_too(run: Run) -> None:
    fault = Fault(kind="timeout", host="", detail="missing node rank 3", exit_code=200)
    code, text = run(None, Finish(exit_code=200, fault=fault), json=True)
    told = json.loads(text)
    assert code == 200, "the same on all pods, whatever else is wrong with one"
    checks = {each["id"]: each for each in told["checks"]}
    assert checks["memlock"]["verdict"] == "FAIL" and told["exit_code"] == 200
    assert "missing node rank 3" in checks["gang-forms"]["evidence"]
    assert told["gang"] == {}


def test_a_pod_that_cannot_start_a_job_says_so(run: Run) -> None:
    code, text = run(None, environ={"PET_NNODES": "2"})
    assert code == 200 and "FAIL gang-forms: it is known that there are 2 nodes" in text


def test_every_pod_has_the_gangs_failure_in_its_status(run: Run, log: Path) -> None:
    def told() -> tuple[int, str]:
        found = json.loads(log.read_text())
        log.write_text("")
        return found["exit_code"], found["message"].partition(": ")[2]

    seen = with_meetings(gang(), lambda rank, peer: {rank, peer} == {1, 2}, error="timed out")
    run(answer(seen), quiet=True)
    assert told() == (202, "FAIL gang-ping: pod-1 (rank 1) and pod-2 (rank 2) fails: timed out; "
                           "do this: see the way between those")  # fmt: skip
    run(answer(None, rank=3))
    assert told()[1].startswith("rank 3: the gang's verdict is FAIL (exit code 202): rank 0, on")
    run(None, Finish(exit_code=1))
    assert told() == (200, "FAIL gang-forms: the launcher ended with exit code 1; do this: "
                           "run it again")  # fmt: skip
    run(Answer(rank=3, exit_code=0, verdict="PASS", leader="pod-0"))
    assert log.read_text() == ""


def test_an_answer_that_is_torn_does_not_count(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "from_json", lambda *_: json.loads("{"))
    code, text = run(None, Finish(exit_code=1))
    assert code == 200 and "gang-forms: the launcher ended with exit code 1" in text


def test_checks_of_gangs_are_listed_and_explained() -> None:
    lines: list[str] = []
    assert run_doctor(DoctorOptions(list=True), lines.append) == 0
    assert run_doctor(DoctorOptions(explain="gang-mtu"), lines.append) == 0
    assert "gang-bandwidth" in lines[0]
    assert "kvcache-ai/Mooncake#3868" in lines[1] and "Exit code: 78" in lines[1]


def test_a_pod_alone_cannot_say_what_a_gang_can() -> None:
    finding = next(each for each in command_checks() if each.id == "gang-ping").judge(CASE)
    assert finding.verdict is Verdict.SKIP and "--gang" in finding.evidence


def command_checks() -> list[Check]:
    from rdmatrain.doctor.gang.checks import CHECKS  # noqa: PLC0415

    return [each.check for each in CHECKS]
