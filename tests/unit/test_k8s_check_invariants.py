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
# The check that has to say so: another one may be about something else that the change made.
MEANT = {
    "text-quoted": ["command as text", "number in a command", "number as variable",
                    "number as label"],
    "privileged": ["privileged"],
    "privilege-escalation": ["escalation"],
    "pod-security": ["capability", "host's processes", "host's memory"],
    "cpu-quota": ["burstable", "half a CPU", "no limit", "greedy preflight"],
    "memory-cgroup": ["no amount", "shm is all memory"],
    "references": ["no volume", "unknown claim", "other key", "no template of a claim",
                   "claim nobody mounts", "no Service", "two namespaces", "capitals", "digit",
                   "no PodGroup"],
    "tmp": ["mounted twice"],
    "shm": ["no shm", "shm on disk"],
    "gang-secret": ["no secret"],
    "device-granted": ["host's files"],
    "host-network-reason": ["host's network"],
    "vf-count": ["one network", "one VF"],
    "grace": ["no time"],
    "dns-leader": ["no subdomain", "late names", "late names of a JobSet",
                   "late names of Volcano"],
    "restart-policy": ["restarts in place"],
    "gang-minimum": ["small gang", "no gang", "Volcano's minimum", "Volcano's task"],
    "disruption-budget": ["budget in percent", "small budget"],
    "selectors": ["other labels"],
    "network-policy": ["no peers", "peers on one port", "open"],
    "metrics-reachable": ["no metrics"],
    "queue-covers": ["no quota of VFs"],
    "exit-codes": ["exit code 0", "unsorted codes"],
}  # fmt: skip


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
    meant = {name for name, cases in MEANT.items() if case.name in cases}
    assert bool(meant) == (case.name not in REFUSED | set(ALLOWED))
    assert meant <= new if meant else not new, new


def said(evidence: str) -> str:
    return evidence.rpartition(": ")[2]
