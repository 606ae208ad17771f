# SPDX-License-Identifier: Apache-2.0
"""Whatever a snapshot has in it, it is surveyed and shown, and redacting it changes no answer."""

import json
import random
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st
from survey_answer import answer

from rdmatrain.discovery.snapshot import Recorder, dump, load
from rdmatrain.discovery.survey import survey
from rdmatrain.topo.command import as_json
from rdmatrain.topo.document import topology_document
from rdmatrain.topo.svg import topology_svg
from rdmatrain.topo.text import topology_text

SNAPSHOT = Path(__file__).parents[1] / "fixtures/discovery/pod.snapshot.json"
JUNK = [
    "",
    "\0",
    "x" * 300,
    "-1",
    "9" * 30,
    "\udcff",
    "[",
    "{}",
    "null",
    "a=b",
    "0-99999999",
    "../..",
]
JUNK += ["0000:13:00.0", "mlx5_9", "1\n2", "\u0663", "\x1b[2J", "0x", "fe80::", "a\u202eb"]
VALUES: list[Any] = [None, [], {}, -1, 1e308, True, [1], {"a": 1}, [[None]], 10**30, *JUNK]


def damaged(chance: random.Random) -> dict[str, Any]:
    """A snapshot in which some things are not what they should be."""
    saved: dict[str, Any] = json.loads(SNAPSHOT.read_text())
    for _ in range(chance.randint(1, 6)):
        section = chance.choice(["files", "files", "links", "folders", "errors", "probes"])
        path = chance.choice(list(saved["files" if section == "errors" else section]))
        if section == "errors":
            saved["errors"][path] = chance.choice(["EINVAL", "EACCES", "EIO", "what"])
        elif section == "probes":
            inside, key = chance.choice(list(places(saved["probes"])))
            inside[key] = deepcopy(chance.choice(VALUES))
        elif chance.random() < 0.2:
            del saved[section][path]
        elif section == "folders":
            saved["folders"][path].append(chance.choice(JUNK))
        else:
            text, at = saved[section][path], chance.randint(0, len(saved[section][path]))
            saved[section][path] = text[:at] + chance.choice(JUNK) + text[at + 1 :]
    return saved


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in JSON, as what holds it and its key there."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], list | dict):
            yield from places(value[key])


@given(st.integers(0, 1 << 32))
@settings(deadline=None, max_examples=100)
def test_a_damaged_snapshot_is_surveyed_shown_and_redacted(seed: int) -> None:
    recorder = Recorder(load(json.dumps(damaged(random.Random(seed))), "x"))
    found = survey(recorder)
    assert all(line.isprintable() for line in topology_text(found).split("\n"))
    assert json.loads(as_json(topology_document(found)))["schema"]
    assert ElementTree.fromstring(topology_svg(found)).tag
    assert survey(load(dump(recorder, redact=False), "x")) == found
    redacted = answer(survey(load(dump(recorder, redact=True), "x")))
    # What was unreadable may be among what is left out.
    assert redacted | {"complaints": None} == answer(found) | {"complaints": None}
