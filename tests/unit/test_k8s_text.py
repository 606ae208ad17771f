# SPDX-License-Identifier: Apache-2.0
"""Objects as YAML: every reader takes it for what it was."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.doctor.manifest import nodes
from rdmatrain.k8s.text import document, stream

WORDS = [
    "0000:16:00.0", "0000:0c:00.2", "on", "Off", "YES", "no", "y", "N", "true", "null", "~", "",
    "1e3", "1E-3", "08", "0o17", "0x1F", "0b101", "1_000", "1:30", "190:20:30", "12:30:45.5",
    "2026-11-29", "2026-11-29 10:00:00", "2001-12-14t21:59:43.10-05:00", ".5", "5.", "-1", "+1",
    ".inf", "-.Inf", ".NaN", "nan", "=", "<<", "!x", "&a", "*a", "- a", "a: b", "a #b", "#a", "@a",
    "`a", "%a", "{a}", "[a]", "'a'", '"a"', "|", ">", "?", ": a", "a:", " a", "a ", "\ta", "a\tb",
    "a\nb", "a\nb\n", "\na", " a\n b", "a\n\n", "a \nb", "\n", "ä", "\U0001f600", "\x00", "\x85",
    "\u2028", "\ufeff", "64Gi", "nvidia.com/gpu", "10.0.0.1", "$(HOME)", "a, b", "---",
    "...", "1 2",
]  # fmt: skip
TEXTS = st.one_of(st.sampled_from(WORDS), st.text(max_size=30))
VALUES = st.recursive(
    st.one_of(TEXTS, st.integers(-(1 << 63), 1 << 63), st.booleans(), st.none()),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(TEXTS, each, max_size=4),
    max_leaves=12,
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=4), max_size=3))
def test_a_stream_is_read_as_what_was_written(objects):
    assert list(yaml.load_all(stream(objects), Loader=yaml.CSafeLoader)) == objects


@pytest.mark.parametrize("word", WORDS)
def test_a_text_is_no_number_boolean_or_null_to_either_yaml(word):
    (found,) = nodes.documents(document({"a": [word]}), "test")
    (node,) = found.get("a").items()
    assert (node.kind, node.text) == (nodes.TEXT, word)


def test_what_yaml_1_1_alone_misreads_is_quoted():
    assert document({"a": "0000:16:00.0", "b": "y", "c": "1e3", "d": "08"}) == (
        'a: "0000:16:00.0"\nb: "y"\nc: "1e3"\nd: "08"\n'
    )


def test_numbers_and_booleans_stay_plain_and_common_texts_unquoted():
    thing = {"a": 8, "b": True, "c": None, "d": "64Gi", "e": "nvidia.com/gpu", "f": "$(X)"}
    assert document(thing) == "a: 8\nb: true\nc: null\nd: 64Gi\ne: nvidia.com/gpu\nf: $(X)\n"


def test_keys_stand_in_the_order_of_kubernetes_and_others_in_theirs():
    thing = {
        "spec": {"z": 1, "a": 2},
        "metadata": {"labels": {}, "namespace": "x", "name": "llm"},
        "kind": "Job",
        "status": {},
        "apiVersion": "batch/v1",
    }
    assert document(thing) == (
        "apiVersion: batch/v1\nkind: Job\nmetadata:\n  name: llm\n  namespace: x\n  labels: {}\n"
        "spec:\n  z: 1\n  a: 2\nstatus: {}\n"
    )


def test_lists_are_indented_as_kubectl_has_them():
    assert document({"a": [{"b": 1, "c": [2]}]}) == "a:\n- b: 1\n  c:\n  - 2\n"


def test_lines_are_a_block_and_long_ones_stay_whole():
    text = "x" * 300 + " y"
    assert document({"a": "one\ntwo\n"}) == "a: |\n  one\n  two\n"
    assert document({"a": text}) == f"a: {text}\n"


def test_an_object_that_is_there_twice_is_written_twice():
    same = {"x": "y"}
    assert "&" not in stream([{"a": same, "b": same}])
    assert stream([{"a": 1}, {"b": 2}]) == "---\na: 1\n---\nb: 2\n"
