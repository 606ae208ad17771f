"""Facts that take a call, by name, as JSON has them; each module here makes some of them.

A probe never raises: what it could not find out, it says in ``error``. Modules have
``probes(needs)``, which returns what to call by name, and are not imported for a saved machine.
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from rdmatrain.discovery import probes as discovery
from rdmatrain.discovery.deadline import Together
from rdmatrain.doctor.model import Needs

# What these read was read to come so far.
SURE = ("about", "software")
# These may meet a driver, a name server or a disk that does not answer.
UNSURE = ("memory", "limits", "network", "storage")
# Longest wait for all of those; of it, for the GIDs of all ports.
LIMIT_S, GIDS_S = 1.3, 0.6
# A device is opened once at a time, and what is locked counts to one limit; first what everybody
# asks for. Of the others, the port of node 0 is not to be taken by a socket on any port.
TURNS = (("verbs", "memlock", "device_limits"), ("loopback", "leader"))


def live(needs: Needs) -> Mapping[str, Callable[[], Any]]:
    """Return the probes of this machine, those of discovery too, by name.

    Those that may hang are all started by the first question to one of them.
    """
    found: dict[str, Callable[[], Any]] = {}
    for name in SURE:
        found.update(_of_module(name, needs))
    unsure = dict(discovery.calls(GIDS_S))
    for name in UNSURE:
        unsure.update(_of_module(name, needs))
    together = Together(unsure, TURNS, LIMIT_S)
    return found | {name: partial(_answer, together, name) for name in unsure}


def _of_module(name: str, needs: Needs) -> Mapping[str, Callable[[], Any]]:
    made: Mapping[str, Callable[[], Any]]
    made = import_module(f"rdmatrain.doctor.probes.{name}").probes(needs)
    return made


def _answer(together: Together, name: str) -> Any:
    answer = together.answer(name)
    return discovery.shaped(name, answer) if "unanswered" in answer else answer
