# SPDX-License-Identifier: Apache-2.0
"""Manifests that are known to be bad, each with the ids of the checks that must say so."""

import re
from pathlib import Path

from rdmatrain.doctor.manifest.nodes import documents
from rdmatrain.doctor.manifest.workloads import Manifest

FIXTURES = Path(__file__).parents[1] / "fixtures" / "manifests"
BAD = sorted((FIXTURES / "bad").glob("*.yaml"))
GOOD = ("job.yaml", "trainjob.yaml")


def manifest(text: str, name: str = "job.yaml") -> Manifest:
    """Return the manifest of a text."""
    return Manifest(list(documents(text, name)))


def to_be_found(text: str) -> list[str]:
    """Return the ids of the header whose patch makes them good: ``# finds: gang-minimum``."""
    return re.findall(r"^# finds: ([a-z-]+)$", text, re.MULTILINE)


def to_be_left(text: str) -> list[str]:
    """Return those of which only people can know what is meant: ``# left: host-network-reason``."""
    return re.findall(r"^# left: ([a-z-]+)$", text, re.MULTILINE)
