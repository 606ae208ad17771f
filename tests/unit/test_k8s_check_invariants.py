# SPDX-License-Identifier: Apache-2.0
"""``k8s check`` asks of anybody's objects what the renderer's invariants demand of its own."""

from functools import cache
from typing import Any

import pytest
from k8s_bad_manifests import manifest
from test_k8s_invariants import CASES, Case, Set

from rdmatrain.doctor.model import Verdict
from rdmatrain.k8s.check import check
from rdmatrain.k8s.text import stream

WRONG = {Verdict.WARN, Verdict.FAIL}
# The API server refuses these by itself: kubectl apply --dry-run=server says so.
REFUSED = {"same name", "name of a port", "long label", "long name", "nameless Secret", "twice",
           "number of a PCI address"}  # fmt: skip
# Others may do so for reasons of their own: who is root, what an image holds, whose pods are meant.
ALLOWED = {
    "shell": "it starts no launcher",
    "root": "Pod Security baseline allows it",
    "capabilities kept": "Pod Security baseline allows it",
    "variable twice": "the last one counts",
    "shm without limit": "the container's limit of memory counts",
    "secret elsewhere": "the image, or an injector, may have the file",
    "no shared device": "a network need not have a device",
    "selects all": "a policy may be that of a namespace",
}


@cache
def wrong(target: str, devices: str) -> dict[str, str]:
    return told(Set(target, devices).objects)


def told(objects: list[dict[str, Any]]) -> dict[str, str]:
    """Return what is said to be wrong, by the id of the check."""
    results = check(manifest(stream(objects)))
    return {each.check.id: each.finding.evidence for each in results if each.verdict in WRONG}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_breaks_an_invariant_is_told(case: Case) -> None:
    made = Set(case.target, case.devices)
    case.change(made)
    before = wrong(case.target, case.devices)
    # Lines move with what is taken away: what is said counts, and not where.
    new = {
        name
        for name, text in told(made.objects).items()
        if name not in before or said(text) != said(before[name])
    }
    assert bool(new) == (case.name not in REFUSED | set(ALLOWED)), new


def said(evidence: str) -> str:
    return evidence.rpartition(": ")[2]
