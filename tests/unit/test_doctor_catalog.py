# SPDX-License-Identifier: Apache-2.0
"""All checks: what each must have, and that each has tests which make it fail and pass."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from rdmatrain.doctor.catalog import by_id, checks
from rdmatrain.doctor.document import listing, listing_json, listing_of_page, page
from rdmatrain.doctor.gang.checks import CHECKS
from rdmatrain.doctor.model import Check
from rdmatrain.launcher import exit_codes

HERE = Path(__file__).parent
ALL = checks()
EVERY = (*ALL, *(each.check for each in CHECKS))  # those of a gang as well
EACH = pytest.mark.parametrize("check", ALL, ids=[each.id for each in ALL])
# These tests are of no check.
OF_NONE = {"report", "command", "catalog", "examine", "around", "heatmap"}
# How tests say what a check is to find.
SAID = {
    "PASS": {"PASS", "passes", "passed"},
    "not PASS": {"FAIL", "WARN", "fails", "failed", "warns", "warned"},
}


@EACH
def test_a_check_says_what_it_checks_and_why(check: Check) -> None:
    assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", check.id)
    assert check.group and check.group == check.group.strip().lower()
    assert check.title and not check.title.endswith(".")
    assert check.why.endswith(".") and len(check.why.split()) >= 5, check.why
    assert check.why != check.title
    assert not check.known or re.search(r"#\d+|CVE-|https?://", check.known), check.known
    assert re.fullmatch(r"\d+\.\d+\.\d+", check.since)


@EACH
def test_a_check_ends_a_job_with_a_code_of_the_launchers_table(check: Check) -> None:
    assert check.exit_code in exit_codes.MEANING
    # A code of its own: neither success, nor what a worker or a signal gives.
    assert check.exit_code not in {0, 1, 137, exit_codes.PREEMPTED}


@EACH
def test_what_a_check_follows_from_comes_before_it(check: Check) -> None:
    before = [each.id for each in ALL[: ALL.index(check)]]
    assert [each for each in check.after if each not in before] == []


def test_ids_are_unique_and_groups_stand_together() -> None:
    ids = [each.id for each in ALL]
    assert len(set(ids)) == len(ids)
    groups = [each.group for each in ALL]
    changes = [group for place, group in enumerate(groups) if groups[place - 1 : place] != [group]]
    assert len(changes) == len(set(groups))


# -- documents --


def test_the_page_has_all_of_every_check() -> None:
    text = page(ALL)
    for check in ALL:
        assert f"### `{check.id}`: " in text
        assert f"Exit code {check.exit_code}, since {check.since}." in text


def test_the_list_of_the_page_is_that_of_the_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = Check("odd-one", "other_group", "/a/*_b_* | [c] <d> is `so`", "Why.", ALL[0].judge)
    file = tmp_path / "CHECKS.md"
    file.write_text(page([*ALL, odd]))
    monkeypatch.setattr("rdmatrain.doctor.document.PAGE", file)
    assert listing_of_page() == listing([*ALL, odd])


def test_programs_get_the_same() -> None:
    assert all(f'"id": "{name}"' in listing_json(ALL) for name in by_id())


# -- tests of checks --


@cache
def words_of_tests() -> list[tuple[set[str], set[str]]]:
    """Return names of identifiers and texts of each test, with the tables that it refers to."""
    found = []
    for file in sorted(HERE.glob("test_doctor_*.py")):
        if file.stem.removeprefix("test_doctor_") not in OF_NONE:
            found += in_module(ast.parse(file.read_text("utf-8")))
    return found


def in_module(module: ast.Module) -> Iterator[tuple[set[str], set[str]]]:
    """Yield them; a test has what stands in the tables and functions that it names as well."""
    used = {}
    for each in module.body:
        if isinstance(each, ast.Assign):
            used |= {to.id: words(each) for to in each.targets if isinstance(to, ast.Name)}
        elif isinstance(each, ast.FunctionDef) and not each.name.startswith("test_"):
            used[each.name] = words(each)
    for each in module.body:
        if isinstance(each, ast.FunctionDef) and each.name.startswith("test_"):
            names, texts = words(each)
            for more in names & used.keys():
                names, texts = names | used[more][0], texts | used[more][1]
            yield names, texts


def words(node: ast.AST) -> tuple[set[str], set[str]]:
    """Return names of identifiers, and texts."""
    names, texts = set(), set()
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            texts.add(each.value)
        names |= set(identifiers(each))
    return names, texts


def identifiers(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.FunctionDef):
        yield node.name


@pytest.mark.parametrize("check", EVERY, ids=[each.id for each in EVERY])
@pytest.mark.parametrize("verdict", SAID)
def test_a_check_has_a_test_that_makes_it_say_so(check: Check, verdict: str) -> None:
    name = check.id.replace("-", "_")
    for names, texts in words_of_tests():
        meant = check.id in texts or name in names
        if meant and (names | texts) & SAID[verdict]:
            return
    pytest.fail(f"no test in tests/unit/test_doctor_*.py has {check.id} say {verdict}")
