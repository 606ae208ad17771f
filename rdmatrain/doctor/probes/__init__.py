"""Facts that take a call, by name, as JSON has them; each module here makes some of them.

A probe never raises and never takes longer than a second: what it could not find out, it says in
``error``. Modules have ``probes(needs)``, which returns what to call by name, and are not imported
for a saved machine.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from rdmatrain.discovery import probes as discovery
from rdmatrain.doctor.model import Needs

MODULES = ("about", "memory", "limits", "network", "storage", "software")


def live(needs: Needs) -> Mapping[str, Callable[[], Any]]:
    """Return the probes of this machine, those of discovery too, by name."""
    found = dict(discovery.live())
    for name in MODULES:
        found.update(import_module(f"rdmatrain.doctor.probes.{name}").probes(needs))
    return found
