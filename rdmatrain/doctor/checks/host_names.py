"""Names by which pods find each other, and where they lead."""

from collections.abc import Mapping
from typing import Any

from rdmatrain.doctor.checks.reading import is_loopback, own_address, texts
from rdmatrain.doctor.meeting import Meeting, variables_of
from rdmatrain.doctor.model import Case, Finding, failed, passed, warned


def judge_own_name(case: Case, name: str, own: Mapping[str, Any]) -> Finding:
    """Judge the name of a pod that others on other hosts must reach."""
    found = texts(own, "addresses")
    if not found:
        return _judge_lonely_name(case, f"{name}: {own.get('problem')}")
    what = f"{name} is {', '.join(found)}"
    if all(map(is_loopback, found)):
        return _judge_lonely_name(case, what)
    if not set(found) & set(texts(own, "own")):
        fix = f"echo '{own_address(case)} {name}' >> /etc/hosts"
        return failed(f"{what}, no address of this pod ({own_address(case)})", fix)
    return passed(what)


def judge_loopback_leader(place: Meeting, what: str) -> Finding:
    """Judge loopback as the way to node 0, which only someone's own choice can make right."""
    fix = "--master-addr with a name or address of node 0 that other pods resolve alike"
    if place.by_hand and (place.leader == "localhost" or is_loopback(place.leader)):
        return warned(f"{what}: right if all are on this host", fix)
    return failed(what, fix)


def _judge_lonely_name(case: Case, what: str) -> Finding:
    """Judge a name by which no other pod finds this one, which Gloo need not use."""
    given = variables_of(case.found.pod).get("GLOO_SOCKET_IFNAME", "")
    if given:
        return passed(f"{what}, but GLOO_SOCKET_IFNAME={given} has an address that counts")
    interface = case.found.interface
    name = interface.name if interface and interface.name else "eth0"
    return warned(
        f"{what}: no other pod reaches this one by it", f"export GLOO_SOCKET_IFNAME={name}"
    )
