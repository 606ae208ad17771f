# SPDX-License-Identifier: Apache-2.0
"""Changes of manifests: as JSON patches, made, and written as YAML that says the same."""

import copy
import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.doctor.manifest.define import addition, advice, patch
from rdmatrain.doctor.manifest.nodes import Node, as_json, documents
from rdmatrain.k8s.patch import added, apply, operations, root_of, to_yaml

POD = """\
kind: Pod
metadata: {name: train, annotations: }
spec:
  hostNetwork: true
  containers:
  - name: a
    command: [run, "1"]
    env:
    - {name: ONE, value: "1"}
    - {name: TWO, value: "2"}
    - {name: ONE, value: "3"}
    volumeMounts:
    - {name: shm, mountPath: /dev/shm}
  - {name: b}
  volumes:
  - {name: shm, emptyDir: {sizeLimit: 1Gi}}
"""


def one(text: str) -> Node:
    return next(documents(text, "job.yaml"))


def applied(document: Any, steps: list[dict[str, Any]]) -> Any:
    """Apply a JSON patch as RFC 6902 has it: an oracle of its own."""
    document = copy.deepcopy(document)
    for step in steps:
        keys = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
        owner = document
        for key in keys[:-1]:
            owner = owner[int(key)] if isinstance(owner, list) else owner[key]
        last = keys[-1]
        if isinstance(owner, dict):
            if step["op"] in {"remove", "replace"}:
                assert last in owner
            if step["op"] == "remove":
                del owner[last]
            else:
                owner[last] = step["value"]
        elif step["op"] == "remove":
            del owner[int(last)]
        elif last == "-":
            assert step["op"] == "add"
            owner.append(step["value"])
        else:
            assert step["op"] == "replace"
            owner[int(last)] = step["value"]
    return document


# Where, the change, the steps of its JSON patch.
CHANGES: list[tuple[tuple[str | int, ...], str, list[dict[str, Any]]]] = [
    (("spec",), "{hostNetwork: null}", [{"op": "remove", "path": "/spec/hostNetwork"}]),
    (("spec",), "{hostPID: null}", []),
    (("spec", "hostNetwork"), "false", [
        {"op": "replace", "path": "/spec/hostNetwork", "value": False}]),
    (("spec", "hostNetwork"), "true", []),
    (("spec", "a/b", "c~d"), "7", [
        {"op": "add", "path": "/spec/a~1b", "value": {"c~d": 7}}]),
    (("metadata",), "{annotations: {k: v}}", [
        {"op": "replace", "path": "/metadata/annotations", "value": {"k": "v"}}]),
    (("metadata", "annotations", "k"), '"0000:16:00.0"', [
        {"op": "add", "path": "/metadata/annotations", "value": {"k": "0000:16:00.0"}}]),
    (("spec", "containers", 0), "{command: [other]}", [
        {"op": "replace", "path": "/spec/containers/0/command", "value": ["other"]}]),
    (("spec", "containers", 0), "{env: [{name: ONE, $patch: delete}, {name: NEW, value: x}]}", [
        {"op": "add", "path": "/spec/containers/0/env/-", "value": {"name": "NEW", "value": "x"}},
        {"op": "remove", "path": "/spec/containers/0/env/2"},
        {"op": "remove", "path": "/spec/containers/0/env/0"}]),
    (("spec", "containers", 0), '{env: [{name: TWO, value: "5"}]}', [
        {"op": "replace", "path": "/spec/containers/0/env/1/value", "value": "5"}]),
    (("spec", "containers", 1), "{env: [{name: ONE, $patch: delete}]}", []),
    (("spec", "containers", 1), "{env: [{name: N, value: on}]}", [
        {"op": "add", "path": "/spec/containers/1/env", "value": [{"name": "N", "value": True}]}]),
    (("spec",), "{containers: [{name: b, image: i}]}", [
        {"op": "add", "path": "/spec/containers/1/image", "value": "i"}]),
    # A volume is of one kind: the old one goes.
    (("spec",), "{volumes: [{name: shm, hostPath: {path: /x}}]}", [
        {"op": "replace", "path": "/spec/volumes/0",
         "value": {"name": "shm", "hostPath": {"path": "/x"}}}]),
    (("spec",), "{volumes: [{name: shm, $patch: delete}]}", [
        {"op": "remove", "path": "/spec/volumes/0"}]),
    (("spec", "containers", 0), "{volumeMounts: [{mountPath: /dev/shm, $patch: delete}]}", [
        {"op": "remove", "path": "/spec/containers/0/volumeMounts/0"}]),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "change", "steps"), CHANGES)
def test_a_change_is_a_json_patch(
    keys: tuple[str | int, ...], change: str, steps: list[dict[str, Any]]
) -> None:
    root = one(POD)
    made = operations(patch(root.get(*keys), change))
    assert [each.document() for each in made] == steps
    apply(root, made)
    wanted = applied(yaml.safe_load(POD), steps)
    assert yaml.safe_load(to_yaml([root])) == wanted
    assert operations(patch(root.get(*keys), change)) == [], "it is so already"


def test_paths_are_right_after_entries_are_gone() -> None:
    root = one(POD)
    last = root.get("spec", "containers", 0, "env", 2)
    apply(root, operations(patch(root.get("spec", "containers", 0, "env", 0), "null")))
    assert last.path == "spec.containers[0].env[1]"
    assert root_of(last) is root


def test_what_only_people_can_do_is_no_operation() -> None:
    root = one(POD)
    fix = advice(root.get("spec"), "{image: NAME:VERSION}")
    assert fix == "spec: {image: NAME:VERSION}"
    assert operations(fix) == []
    assert added(fix) is None


def test_an_object_can_be_added() -> None:
    root = one(POD)
    fix = addition(root, "{kind: Secret, metadata: {name: s}}", "add a Secret")
    assert fix == "add a Secret"
    assert operations(fix) == []
    made = added(fix)
    assert made is not None
    assert as_json(made) == {"kind": "Secret", "metadata": {"name": "s"}}


def test_people_may_read_less_than_is_done() -> None:
    root = one(POD)
    fix = patch(root.get("spec"), "{hostNetwork: null, hostPID: true}", "no hostNetwork")
    assert fix == "spec: no hostNetwork"
    assert len(operations(fix)) == 2


# As it is written, as every reader is to read it.
VALUES = [
    ("0000:16:00.0", "0000:16:00.0"),
    ("12:30", "12:30"),
    ('"1"', "1"),
    ("'yes'", "yes"),
    ("yes", True),
    ("no", False),
    ("~", None),
    ("8", 8),
    ("1.5", 1.5),
    ("64Gi", "64Gi"),
    ('"2024-01-01"', "2024-01-01"),
    ('"y"', "y"),
    ('""', ""),
    ('"null"', "null"),
    ('"#a: b"', "#a: b"),
    ("'= mlx5'", "= mlx5"),
    ("|\n  a\n  b\n", "a\nb\n"),
    ("|-\n  a\n    b\n", "a\n  b"),
    ('"a \\n b\\t\\u00e9\\u2028\\x07"', "a \n b\té\u2028\x07"),
    ("{}", {}),
    ("[]", []),
    ("[[1, {a: []}]]", [[1, {"a": []}]]),
]


@pytest.mark.parametrize(("written", "value"), VALUES)
def test_values_are_not_lost(written: str, value: Any) -> None:
    text = to_yaml([one(f"key: {written}\n")])
    assert yaml.safe_load(text) == {"key": value}
    assert as_json(one(text)) == {"key": value}
    assert to_yaml([one(text)]) == text


def test_numbers_stay_as_they_were_written() -> None:
    text = to_yaml([one("a: 1e3\nb: 0x1F\nc: 010\nd: 1.50\n")])
    assert text == "---\na: 1e3\nb: 0x1F\nc: 010\nd: 1.50\n"


def test_anchors_and_merge_keys_become_what_they_mean() -> None:
    text = "a: &a {x: 1, y: [2]}\nb: {<<: *a, x: 3}\nc: *a\n"
    assert yaml.safe_load(to_yaml([one(text)])) == yaml.safe_load(text)


def test_a_list_becomes_its_items() -> None:
    text = "kind: List\nitems:\n- {kind: A}\n- {kind: B}\n"
    assert list(yaml.safe_load_all(to_yaml(list(documents(text, "f"))))) == [
        {"kind": "A"},
        {"kind": "B"},
    ]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["y", "on", "1", "1.0", "0x1", "1:20", "~", "null", "=", "<<", "-", "? a", "a: b", " a", "a\n"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(TEXTS, JSON, min_size=1, max_size=3))
def test_whatever_json_says_yaml_says_again(value: dict[str, Any]) -> None:
    text = to_yaml(list(documents(json.dumps(value), "f")))
    assert list(yaml.safe_load_all(text)) == [value]
    assert [as_json(each) for each in documents(text, "f")] == [value]


@pytest.mark.parametrize("change", ["{a: [}", "", "{name: , ]}"])
def test_a_change_that_odd_names_broke_does_nothing(change: str) -> None:
    root = one(POD)
    assert operations(patch(root.get("spec"), change)) == []


def test_lists_that_are_not_there_are_made() -> None:
    root = one("kind: A\n")
    apply(root, operations(patch(root.get("spec", "groups", 0), "{a: 1}")))
    assert as_json(root) == {"kind": "A", "spec": {"groups": [{"a": 1}]}}
