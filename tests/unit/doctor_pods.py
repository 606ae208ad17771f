# SPDX-License-Identifier: Apache-2.0
"""Pods for the doctor's checks: one in which nothing is wrong, and what differs in a test."""

from collections.abc import Iterable, Mapping
from typing import Any

from doctor_fixes import is_fix
from memory_source import Link, environ
from pod_scenarios import Contents, Files, seen

from rdmatrain.discovery.source import Source
from rdmatrain.discovery.survey import survey
from rdmatrain.doctor.catalog import by_id
from rdmatrain.doctor.examine import examine
from rdmatrain.doctor.model import Case, Finding, Needs

# In tests/fixtures/pods: two GPUs, and a VF near each: mlx5_2 with net1, mlx5_3 with net2.
HEALTHY = "healthy_two_vfs"
Changes = Mapping[str, str | list[str] | Link | int | None]


def healthy(
    files: Changes | None = None,
    probes: Mapping[str, Any] | None = None,
    needs: Needs | None = None,
) -> Case:
    """A pod that discovery has no complaint of, but for what is changed.

    ``files`` has other contents by path, which may lead through links; None takes a file away, or
    a folder with all in it. ``probes`` has other answers by name; None is one that was not made.
    """
    return pod(HEALTHY, files, probes, needs)


def pod(
    name: str,
    files: Changes | None = None,
    probes: Mapping[str, Any] | None = None,
    needs: Needs | None = None,
) -> Case:
    """A pod of tests/fixtures/pods, by its name, but for what is changed."""
    base = seen(name)
    source = Files(_changed(base.files, files or {}), {**base.probes, **(probes or {})})
    return case_of(source, needs)


def bare(
    files: Changes | None = None,
    probes: Mapping[str, Any] | None = None,
    needs: Needs | None = None,
) -> Case:
    """A machine with nothing but these files: a laptop, without any device."""
    own: Contents = {"/proc/self/environ": environ({"PATH": "/usr/bin"})}
    return case_of(Files(_changed(own, files or {}), probes), needs)


def case_of(source: Source, needs: Needs | None = None) -> Case:
    return Case(source, survey(source), needs or Needs())


def verbs(*changes: Mapping[str, Any], error: str = "") -> dict[str, Any]:
    """The answer of libibverbs in the healthy pod; ``changes`` are of its ports, in turn."""
    ports = [dict(each) for each in seen(HEALTHY).probes["verbs"]["ports"]]
    for port, change in zip(ports, changes, strict=False):
        port.update(change)
    return {"error": error, "ports": [] if error else ports}


def asked(case: Case, name: str) -> Finding:
    """What one check finds, those before it not being asked."""
    (result,) = examine(case, [by_id()[name]])
    assert not result.finding.fix or is_fix(result.finding.fix), result.finding.fix
    return result.finding


def first(case: Case, verdicts: Iterable[str] = ("FAIL",)) -> str:
    """The id of the first check that says so; empty if none does."""
    results = examine(case, by_id().values())
    return next((each.check.id for each in results if each.finding.verdict.value in verdicts), "")


def _changed(files: Contents, changes: Changes) -> Contents:
    left = dict(files)
    places = Files(left)
    for path, content in changes.items():
        place = places.real(path)
        if content is not None:
            left[place] = content
            continue
        left.pop(path, None)
        for below in [each for each in left if each == place or each.startswith(f"{place}/")]:
            del left[below]
    return left
