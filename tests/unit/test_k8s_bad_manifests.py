# SPDX-License-Identifier: Apache-2.0
"""Known-bad manifests: each fault is found, has a patch, and the patched file passes."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from k8s_bad_manifests import BAD, FIXTURES, GOOD, manifest, to_be_found, to_be_left
from k8s_schemas import errors

from rdmatrain.doctor.manifest.nodes import documents
from rdmatrain.doctor.model import Result, Verdict
from rdmatrain.errors import SettingError
from rdmatrain.k8s.check import all_questions, check, patched, patches
from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.patch import to_yaml
from rdmatrain.k8s.reading import read_file
from rdmatrain.k8s.render import render
from rdmatrain.k8s.rules import rules
from rdmatrain.k8s.spec import Topology
from rdmatrain.k8s.targets.target import TARGETS
from rdmatrain.k8s.text import stream

ROOT = Path(__file__).resolve().parents[2]

WRONG = {Verdict.WARN, Verdict.FAIL}
# The issue asks for that many kinds, each with its patch.
KINDS = 25


def by_id(results: list[Result]) -> dict[str, Result]:
    return {each.check.id: each for each in results}


def failures(results: list[Result]) -> set[str]:
    return {each.check.id for each in results if each.verdict is Verdict.FAIL}


def test_there_are_many_kinds() -> None:
    kinds = {name for path in BAD for name in to_be_found(path.read_text("utf-8"))}
    assert len(kinds) >= KINDS
    known = {each.check.id for each in all_questions()}
    assert kinds <= known
    kinds |= {name for path in BAD for name in to_be_left(path.read_text("utf-8"))}
    assert {each.check.id for each in rules()} <= kinds, "each rule has a manifest that breaks it"


@pytest.mark.parametrize("path", BAD, ids=[each.stem for each in BAD])
def test_is_found_and_the_patched_file_passes(path: Path) -> None:
    text = path.read_text("utf-8")
    looked_at = manifest(text, path.name)
    before = list(check(looked_at))
    named, left = to_be_found(text), to_be_left(text)
    assert named or left, "the header says what is to be found"
    for name in named:
        found = by_id(before)[name]
        assert found.verdict in WRONG, found
        assert found.finding.fix
        assert patches(found), "a program can make the change"
        assert f"{path.name}:" in found.finding.evidence
    for name in left:
        assert by_id(before)[name].verdict in WRONG
        assert by_id(before)[name].finding.fix
        assert patches(by_id(before)[name]) == []

    after = patched(looked_at, before)
    for name in named:
        assert by_id(after.results)[name].verdict not in WRONG, by_id(after.results)[name]
    for name in left:
        assert by_id(after.results)[name].verdict is by_id(before)[name].verdict
    assert failures(after.results) <= set(left), "no other fault is made, and none is left"
    assert after.changes or not named
    # Whatever reads it reads what was judged.
    again = list(check(manifest(after.text)))
    assert [each.verdict for each in again] == [each.verdict for each in after.results]


# What of it was meant no program knows.
PATCHED = [each for each in BAD if each.stem != "misspelt-spec"]


@pytest.mark.parametrize("path", PATCHED, ids=[each.stem for each in PATCHED])
def test_the_patched_objects_are_those_of_the_schemas(path: Path) -> None:
    objects = yaml.safe_load_all(patched(manifest(path.read_text("utf-8"))).text)
    assert [problem for each in objects for problem in errors(each)] == []


@pytest.mark.parametrize("path", BAD, ids=[each.stem for each in BAD])
def test_no_check_is_broken_by_it(path: Path) -> None:
    results = check(manifest(path.read_text("utf-8")))
    assert [each for each in results if "this check is broken" in each.finding.evidence] == []


@pytest.mark.parametrize("name", GOOD)
def test_good_manifests_do_not_fail(name: str) -> None:
    results = list(check(manifest((FIXTURES / name).read_text("utf-8"))))
    assert failures(results) == set()


# What is known of a target and cannot be otherwise: no gang, pods that never end, mpirun's own.
WARNED = {
    "indexed-job": {"gang-minimum"},
    "lws": {"restart-policy"},
    "mpijob": {"restart-policy"},
}
RENDERED = [each for each in TARGETS if each != "slurm"]


@pytest.mark.parametrize("name", RENDERED)
def test_what_is_rendered_keeps_all_rules(name: str) -> None:
    spec = read_file(str(ROOT / "k8s" / "example.yaml"))
    if name in {"indexed-job", "podgroup"}:
        spec = replace(spec, queue="", topology=Topology())
    part = render(spec, name, Cluster(), with_cluster=True)
    results = list(check(manifest(stream(part.objects))))
    assert failures(results) == set()
    warned = {each.check.id for each in results if each.verdict is Verdict.WARN}
    # IPC_LOCK is inert for the uid that the spec gives, and said to be; a Secret is to be made.
    assert warned == {"ipc-lock", "references"} | WARNED.get(name, set())


def test_what_a_patch_does_not_name_stays_as_it_was() -> None:
    """Only the number of the gang is to change, and what else is found."""
    path = FIXTURES / "bad" / "gang-of-one.yaml"
    before = yaml.safe_load(path.read_text("utf-8"))
    job, *added = yaml.safe_load_all(patched(manifest(path.read_text("utf-8"))).text)
    assert (before["spec"].pop("minAvailable"), job["spec"].pop("minAvailable")) == (1, 4)
    pod = job["spec"]["tasks"][0]["template"]["spec"]
    assert pod.pop("automountServiceAccountToken") is False
    policies = job["spec"].pop("policies")
    assert [each for each in before["spec"].pop("policies") if each not in policies] == []
    assert job == before
    assert sorted(each["kind"] for each in added) == ["NetworkPolicy", "PodDisruptionBudget"]


def test_objects_that_a_patch_adds_are_those_that_are_asked_for() -> None:
    text = (FIXTURES / "bad" / "metrics-blocked.yaml").read_text("utf-8")
    _, *added = yaml.safe_load_all(patched(manifest(text)).text)
    made = {each["kind"]: each for each in added}
    selector = {"matchLabels": {"volcano.sh/job-name": "pretrain"}}
    assert made["PodDisruptionBudget"]["spec"] == {
        "minAvailable": 4,
        "selector": selector,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    policy = made["NetworkPolicy"]
    assert policy["metadata"] == {"name": "pretrain", "namespace": "research"}
    assert policy["spec"]["podSelector"] == selector
    peers, prometheus = policy["spec"]["ingress"]
    assert peers == {"from": [{"podSelector": selector}]}
    assert prometheus["ports"] == [{"protocol": "TCP", "port": 9400}]


def _mangled(rng: random.Random) -> str:
    """Return a bad manifest in which some values are something else, or gone."""
    found = list(documents(rng.choice(BAD).read_text("utf-8"), "job.yaml"))
    for _ in range(rng.randint(1, 4)):
        below = [each for root in found for each in root.walk() if each.parent is not None]
        node = rng.choice(below)
        node.children = {}
        node.kind, node.text = rng.choice(ODD)
    return to_yaml(found)


ODD = [("map", ""), ("list", ""), ("null", ""), ("number", "-1"), ("number", "99999999")]
ODD += [("boolean", "true"), ("text", ""), ("text", "a b"), ("text", "-"), ("text", "${X}")]


@pytest.mark.parametrize("seed", range(25))
def test_mangled_manifests_break_neither_check_nor_patch(seed: int) -> None:
    text = _mangled(random.Random(seed))
    try:
        mangled = manifest(text)
    except SettingError:
        return
    results = list(check(mangled))
    assert [each for each in results if "this check is broken" in each.finding.evidence] == []
    assert list(yaml.safe_load_all(patched(mangled, results).text))
