# SPDX-License-Identifier: Apache-2.0
"""What was found, on a screen and as JSON: the cause first, with what to do."""

import json
import os
import pty
import re
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmatrain.doctor.model import Check, Finding, Result, Verdict, failed, passed, skipped, warned
from rdmatrain.doctor.report import (
    SHOWN,
    About,
    Style,
    as_json,
    as_lines,
    as_text,
    document,
    exit_code,
    explanation,
    verdict_of,
)

SCHEMA = json.loads(files("rdmatrain.doctor").joinpath("schemas/doctor.schema.json").read_text())
VALID = jsonschema.Draft202012Validator(SCHEMA)
FIX = "kubectl patch a-very-long-name-of-something " + "x" * 120


def result(name: str, finding: Finding, group: str = "memory", code: int = 77) -> Result:
    made = Check(name, group, f"{name} is so", "It matters.", lambda _: finding, exit_code=code)
    return Result(made, finding, 0.25)


SICK = [
    result("python", passed("3.11")),
    result("mtu", warned("mlx5_2/1: active_mtu 1024", "ip link set net1 mtu 9000"), "ports"),
    result("memlock", failed("64 KiB can be locked, 2 GiB are needed", FIX)),
    result("shm", failed("/dev/shm has 1 MiB", "mount it"), code=69),
    result("acs", skipped("config space is cut at 64 bytes"), "gpudirect"),
]
WELL = [result("python", passed("3.11")), result("acs", skipped("unseen"))]


# -- the screen --


def test_the_cause_comes_first_with_what_was_seen_and_what_to_do() -> None:
    lines = as_text(SICK).splitlines()
    assert lines[0].startswith("FAIL: ") and lines[0].endswith("memlock")
    assert lines[1] == "FAIL memlock: 64 KiB can be locked, 2 GiB are needed"
    assert lines[2] == f"  fix: {FIX}"


def test_other_fails_come_before_warnings_whatever_was_asked_first() -> None:
    text = as_text(SICK)
    assert text.index("FAIL shm") < text.index("WARN mtu")
    assert "  fix: ip link set net1 mtu 9000" in text.splitlines()


def test_what_is_well_and_what_was_not_seen_are_numbers() -> None:
    text = as_text(SICK, about=About(subject="this machine", seconds=0.5))
    assert re.search("^memory: 2 FAIL, 1 PASS +ports: 1 WARN +gpudirect: 1 SKIP$", text, re.M)
    assert "5 checks of this machine in 0.5 s: 2 FAIL, 1 WARN, 1 PASS, 1 SKIP" in text
    assert "config space" not in text


def test_where_nothing_is_wrong_it_says_only_what_could_be_seen() -> None:
    lines = as_text(WELL).splitlines()
    assert lines[0] == "PASS: nothing is wrong that could be seen"
    blind = [*WELL, result("mtu", skipped("x"), "ports"), result("cq", skipped("x"), "devices")]
    told = "PASS: nothing is wrong that could be seen; there is nothing to see of ports, devices"
    assert as_text(blind).splitlines()[0] == told
    assert "fix:" not in as_text(WELL)
    assert as_text([result("a", skipped("x"))]).startswith("SKIP: nothing could be seen")


def test_verbose_has_every_check_with_what_it_saw() -> None:
    text = as_text(SICK, Style(verbose=True))
    for each in SICK:
        assert re.search(
            rf"^  {each.verdict.value} {each.check.id} +{re.escape(each.finding.evidence)}$",
            text,
            re.MULTILINE,
        )


def test_of_many_things_that_are_wrong_the_rest_is_named() -> None:
    many = [result(f"c{n}", failed("broken", "mend it"), f"group{n % 10}") for n in range(30)]
    text = as_text(many)
    assert text.count("mend it") == 1 + SHOWN
    assert "FAIL c29" in text.replace("\n    ", " ")
    assert len(text.splitlines()) <= 24
    assert as_text(many, Style(verbose=True)).count("mend it") == 30


def test_a_fix_is_never_cut_into_lines_and_the_rest_is() -> None:
    long = [result("a", failed("word " * 60, FIX + "\nsecond line"))]
    lines = as_text(long, Style(width=60)).splitlines()
    assert f"  fix: {FIX}" in lines
    assert "       second line" in lines
    assert max(len(line) for line in lines if "fix" not in line) <= 60


def test_colours_only_where_they_are_wanted() -> None:
    assert "\x1b[" not in as_text(SICK)
    painted = as_text(SICK, Style(color=True))
    assert painted.startswith("\x1b[1;31mFAIL\x1b[0m: ")
    assert re.sub("\x1b\\[[0-9;]*m", "", painted) == as_text(SICK)


def test_what_was_read_cannot_steer_the_terminal() -> None:
    rude = [result("a", failed("mlx\x1b[2J\x07\u202e", "run \x1b]0;x\x07\rthis"), "memory")]
    for text in (as_text(rude), as_text(rude, Style(verbose=True)), as_lines(rude)):
        assert text.replace("\n", "").isprintable()
        assert r"mlx\x1b[2J" in text


def test_quiet_has_only_what_is_wrong() -> None:
    assert as_lines(WELL) == ""
    assert as_lines(SICK).splitlines() == [
        "FAIL memlock: 64 KiB can be locked, 2 GiB are needed",
        f"  fix: {FIX}",
        "FAIL shm: /dev/shm has 1 MiB",
        "  fix: mount it",
        "WARN mtu: mlx5_2/1: active_mtu 1024",
        "  fix: ip link set net1 mtu 9000",
    ]


@pytest.mark.parametrize(
    ("environ", "color"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
    ids=["terminal", "NO_COLOR", "dumb"],
)
def test_a_terminal_has_colours_unless_the_user_wants_none(
    environ: dict[str, str], color: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb"), os.fdopen(theirs, "w") as stream:
        style = Style.of(stream)
    assert style.color is color


def test_a_file_has_neither_colours_nor_a_width(tmp_path: Any) -> None:
    with (tmp_path / "out").open("w") as stream:
        assert Style.of(stream) == Style()


# -- JSON --


def test_json_has_each_check_with_its_time_and_is_valid() -> None:
    found = json.loads(as_json(SICK, "node", About(host="pod-0", versions={"torch": ""})))
    VALID.validate(found)
    assert (found["verdict"], found["cause"], found["exit_code"]) == ("FAIL", "memlock", 77)
    assert found["counts"] == {"FAIL": 2, "WARN": 1, "PASS": 1, "SKIP": 1}
    assert [each["id"] for each in found["checks"]] == [each.check.id for each in SICK]
    assert found["checks"][1]["seconds"] == 0.25
    assert (found["host"], found["scope"]) == ("pod-0", "node")


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "MAYBE"},
        {"exit_code": 0},
        {"cause": ""},
        {"scope": "universe"},
        {"checks": [{"id": "x", "verdict": "FAIL"}]},
        {"checks": [document(SICK, "node")["checks"][2] | {"fix": ""}]},
        {"checks": [document(SICK, "node")["checks"][2] | {"id": "Not An Id"}]},
        {"counts": {}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_schema_refuses_what_is_no_report(change: dict[str, Any]) -> None:
    assert VALID.is_valid(document(SICK, "node"))
    assert not VALID.is_valid(document(SICK, "node") | change)


@given(
    st.lists(
        st.tuples(st.sampled_from(Verdict), st.text(min_size=1), st.text(min_size=1)), max_size=6
    )
)
def test_any_results_make_a_valid_document_and_a_printable_screen(
    found: list[tuple[Verdict, str, str]],
) -> None:
    results = [
        result(f"c{n}", Finding(verdict, evidence, fix if verdict in {"FAIL", "WARN"} else ""))
        for n, (verdict, evidence, fix) in enumerate(found)
    ]
    VALID.validate(json.loads(as_json(results, "node")))
    for verbose in (False, True):
        text = as_text(results, Style(verbose=verbose))
        assert text.replace("\n", "").isprintable()
        assert text.startswith(verdict_of(results).value)
    assert bool(as_lines(results)) is any(v in {"FAIL", "WARN"} for v, _, _ in found)


def test_the_exit_code_is_that_of_the_first_fail() -> None:
    assert exit_code(SICK) == 77
    assert exit_code(WELL) == 0
    assert exit_code(SICK[:2]) == 0  # a warning is no failure
    assert verdict_of([]) is Verdict.SKIP


# -- explaining --


def test_an_explanation_tells_all_that_is_known_of_a_check() -> None:
    check = Check(
        "mtu", "ports", "the MTU is large", "It\x1b is slow.", lambda _: passed("x"),
        "nccl#1: \x1b[2J", ("port-state",), 202, "0.3.0",
    )  # fmt: skip
    text = explanation(check)
    assert text.startswith("mtu: passes if the MTU is large.")
    for part in ("slow.", "nccl#1", "port-state", "202, the fabric failed", "rdmatrain 0.3.0"):
        assert part in text
    assert text.replace("\n", "").isprintable()
