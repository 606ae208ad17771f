# SPDX-License-Identifier: Apache-2.0
"""Faults that a pod can have, each with its cause: the id of the check that is to name it.

What this machine can do is made for real: limits, namespaces, cgroups, file systems, ports. What
it has no devices for is a saved pod with one thing changed.
"""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from doctor_faults.fault import Fault

# Pods and machines of the unit tests.
sys.path.append(str(Path(__file__).parents[2] / "unit"))

MODULES = (
    "allocations",
    "gang",
    "network",
    "orchestrated",
    "ports",
    "processes",
    "processes_pod",
    "shared_memory",
    "software",
    "storage",
    "variables",
    "wiring",
)


def corpus() -> "list[Fault]":
    """Return all of them, in order."""
    made: list[Fault] = []
    for name in MODULES:
        made += importlib.import_module(f"doctor_faults.{name}").FAULTS
    return made
