# SPDX-License-Identifier: Apache-2.0
"""The doctor before and after ``rdmatrain run``."""

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from doctor_pods import bare

from rdmatrain import config
from rdmatrain.cli import cli
from rdmatrain.doctor import around, probes
from rdmatrain.doctor.catalog import by_id
from rdmatrain.doctor.model import Case, Check, Finding, Needs, failed, passed, warned
from rdmatrain.doctor.report import Style
from rdmatrain.launcher import exit_codes, launch
from rdmatrain.launcher.exit_codes import MEANING, OF_PODS
from rdmatrain.launcher.job import Job, Program
from rdmatrain.launcher.refusal import RefusalError

JOB = Job(program=Program(script="t.py"), nproc=3, settings={"require": "verbs"})
NEEDS = Needs(transport="verbs", ranks=3, nodes=1, nnodes="1:1", node_rank=0)
Asked = list[Needs]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    """What each pod that was examined was said to need."""
    needs: Asked = []

    def this_pod(told: Needs) -> Case:
        needs.append(told)
        return bare(needs=told)

    monkeypatch.setattr(around, "this_pod", this_pod)
    monkeypatch.delenv(config.NO_DOCTOR, raising=False)
    return needs


def with_checks(
    monkeypatch: pytest.MonkeyPatch, *found: Finding | Callable[[Case], Finding]
) -> None:
    made = tuple(
        Check(
            f"check-{number}", "group", "t", "w",
            (lambda _, each=each: each) if isinstance(each, Finding) else each, exit_code=77,
        )
        for number, each in enumerate(found)
    )  # fmt: skip
    monkeypatch.setattr(around, "checks", lambda: made)


def test_a_preflight_asks_for_what_the_job_needs(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_checks(monkeypatch, passed("x"))
    told: list[str] = []
    around.preflight(JOB, told.append, Style())
    assert (asked, told) == ([NEEDS], [])


def test_a_preflight_refuses_by_the_first_fail_with_its_code_and_fix(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_checks(monkeypatch, warned("slow", "hurry"), failed("broken\x1b", "mend it"))
    told: list[str] = []
    says = re.escape(r"FAIL check-1: broken\x1b; do this: mend it")
    with pytest.raises(RefusalError, match=says) as refused:
        around.preflight(JOB, told.append, Style())
    assert refused.value.exit_code == 77
    (text,) = told
    assert text.splitlines()[0] == "rdmatrain doctor:"
    assert text.index("check-1") < text.index("check-0")


@pytest.mark.parametrize("code", sorted(MEANING))
def test_the_doctor_is_asked_after_faults_that_may_be_of_the_pod(
    code: int, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_checks(monkeypatch, failed("broken", "mend it"))
    told: list[str] = []
    around.aftermath(code, {}, told.append, Style())
    assert bool(told) is (code in OF_PODS)
    assert {69, 77, 201, 202, 203, 204} <= OF_PODS
    assert not {0, 1, 2, 64, 137, 143} & OF_PODS


@pytest.mark.parametrize(("value", "allowed"), [("", True), ("0", True), ("1", False)])
def test_the_doctor_may_be_switched_off(
    value: str, allowed: bool, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_checks(monkeypatch, failed("broken", "mend it"))
    monkeypatch.setenv(config.NO_DOCTOR, value)
    told: list[str] = []
    around.aftermath(202, {}, told.append, Style())
    assert bool(told) is bool(asked) is allowed


def test_nothing_is_said_after_a_fault_that_was_not_of_the_pod(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_checks(monkeypatch, passed("x"))
    told: list[str] = []
    around.aftermath(202, {}, told.append, Style())
    assert (len(asked), told) == (1, [])


@pytest.mark.parametrize(
    ("given", "transport"),
    [
        ({"transport": "verbs"}, "verbs"),
        ({"transport": None, "require": "tcp"}, "tcp"),
        ({"transport": "pigeon"}, ""),
    ],
)
def test_what_the_job_was_told_to_use_is_what_it_needed(
    given: dict[str, str | None], transport: str, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_checks(monkeypatch, passed("x"))
    around.aftermath(69, given, print, Style())
    assert asked == [Needs(transport=transport)]


def test_what_a_job_that_was_resolved_needed_is_what_the_job_says(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_checks(monkeypatch, passed("x"))
    around.aftermath(69, JOB, print, Style())
    assert asked == [NEEDS]


def test_the_command_lines_master_is_looked_for_after_the_gang_did_not_form(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(launch, "launch", lambda *_: exit_codes.GANG_TIMEOUT)
    monkeypatch.setattr(around, "checks", lambda: (by_id()["dns-leader"],))
    # Machines may be slow, and what is waited for comes.
    monkeypatch.setattr(around, "PATIENCE_S", 60.0)
    monkeypatch.setattr(probes, "LIMIT_S", 60.0)
    monkeypatch.delenv(config.NO_DOCTOR, raising=False)
    script = tmp_path / "t.py"
    script.touch()
    where = "--nnodes 2 --node-rank 1 --nproc-per-node 1 --insecure --master-addr nowhere.invalid"
    done = CliRunner().invoke(cli, ["run", *where.split(), str(script)])
    assert done.exit_code == exit_codes.GANG_TIMEOUT, done.output
    assert "FAIL dns-leader: nowhere.invalid" in done.stderr


def test_a_check_that_hangs_does_not_hold_up_the_end_of_a_job(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()

    def hangs(_: Case) -> Finding:
        let_go.wait(60)
        return passed("at last")

    with_checks(monkeypatch, hangs)
    monkeypatch.setattr(around, "PATIENCE_S", 0.05)
    told: list[str] = []
    around.aftermath(203, {}, told.append, Style())
    let_go.set()
    assert told == ["rdmatrain doctor: no answer within 0.05 s"]


def test_a_doctor_that_fails_itself_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def this_pod(_: Needs) -> Case:
        raise ValueError("bad\x1b")

    monkeypatch.setattr(around, "this_pod", this_pod)
    told: list[str] = []
    around.aftermath(203, {}, told.append, Style())
    assert told == [r"rdmatrain doctor: ValueError: bad\x1b"]


def test_settings_of_the_doctor_are_known() -> None:
    names = {"RDMATRAIN_NO_DOCTOR": "1", "RDMATRAIN_PREFLIGHT": "1"}
    assert config.unknown_settings(names) == []
    (wrong,) = config.unknown_settings({"RDMATRAIN_NODOCTOR": "1"})
    assert wrong.suggestion == "RDMATRAIN_NO_DOCTOR"
