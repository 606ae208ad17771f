# SPDX-License-Identifier: Apache-2.0
"""How checks are asked: causes first, and nothing breaks the doctor."""

from collections.abc import Callable

from memory_source import MemorySource

from rdmatrain.discovery.survey import survey
from rdmatrain.doctor.examine import examine
from rdmatrain.doctor.model import Case, Check, Finding, Result, Verdict, failed, passed, skipped

NOTHING = MemorySource({})
CASE = Case(NOTHING, survey(NOTHING))
BAD = failed("it is off", "turn it on")


def check(name: str, finding: Finding | Callable[[Case], Finding], *after: str) -> Check:
    judge = (lambda _: finding) if isinstance(finding, Finding) else finding
    return Check(name, "group", f"{name} is so", "why", judge, after=after)


def asked(*checks: Check) -> dict[str, Result]:
    return {each.check.id: each for each in examine(CASE, checks)}


def test_what_follows_from_a_fail_is_not_asked_and_names_it() -> None:
    found = asked(check("a", BAD), check("b", BAD, "a"))
    assert found["b"].finding == skipped("not asked: see a")


def test_what_follows_from_what_was_not_asked_names_the_first_cause() -> None:
    found = asked(check("a", BAD), check("b", BAD, "a"), check("c", BAD, "b"))
    assert found["c"].finding == skipped("not asked: see a")


def test_what_is_only_worth_a_warning_or_cannot_be_seen_causes_nothing() -> None:
    warned = Finding(Verdict.WARN, "slow", "hurry")
    for harmless in (warned, skipped("unseen"), passed("well")):
        assert asked(check("a", harmless), check("b", BAD, "a"))["b"].finding == BAD


def test_causes_that_are_not_asked_at_all_cause_nothing() -> None:
    assert asked(check("b", BAD, "a"))["b"].finding == BAD


def test_a_check_that_breaks_is_one_that_could_not_see() -> None:
    def judge(_: Case) -> Finding:
        raise KeyError("free")

    found = asked(check("a", judge), check("b", BAD, "a"))
    assert found["a"].verdict is Verdict.SKIP
    assert "KeyError: 'free'" in found["a"].finding.evidence
    assert found["b"].finding == BAD


def test_of_the_checks_that_need_a_probe_which_hangs_the_first_warns() -> None:
    late = {"error": "no answer within 1.3 s", "unanswered": True}
    source = MemorySource({}, {"verbs": late, "shm": late})
    case = Case(source, survey(NOTHING))

    def judge(name: str) -> Callable[[Case], Finding]:
        return lambda case: passed(str(case.probe(name)))

    made = [check(each, judge(each.partition("-")[0])) for each in ("verbs-a", "verbs-b", "shm-c")]
    first, second, other = examine(case, made)
    assert first.verdict is other.verdict is Verdict.WARN
    assert first.finding.evidence == "verbs: no answer within 1.3 s"
    assert first.finding.fix
    assert second.finding == skipped("not asked: see verbs-a")


def test_where_no_thread_could_be_started_the_limits_are_to_be_looked_at() -> None:
    none = {"error": "RuntimeError: can't start new thread", "unanswered": True}
    case = Case(MemorySource({}, {"shm": none}), survey(NOTHING))
    (found,) = examine(case, [check("shm", lambda case: passed(str(case.probe("shm"))))])
    assert "ulimit -u" in found.finding.fix


def test_every_result_says_how_long_it_took() -> None:
    assert all(each.seconds >= 0 for each in asked(check("a", BAD), check("b", BAD, "a")).values())
