"""Why the name of node 0 has no address, and what to change."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from rdmatrain.doctor.checks.reading import is_loopback, texts
from rdmatrain.doctor.meeting import Meeting
from rdmatrain.doctor.model import Case, Finding, failed, warned

_Explain = tuple[str, str]
# Of the system's resolver, for a name that exists.
_EMPTY = "No address associated"


def unresolved(case: Case, place: Meeting, facts: Mapping[str, Any]) -> Finding:
    """Say why the leader's name has no address, and what to change.

    Args:
        case: to look at.
        place: where the nodes meet.
        facts: of the probe ``leader``.

    """
    what = f"{place.leader} ({place.source}): {facts.get('problem')}"
    late = bool(facts.get("late"))
    for judge in _NO_ANSWER if late else (*_NO_ANSWER, *_NO_NAME):
        cause = judge(case, place, facts)
        if cause:
            return failed(f"{what}; {cause[0]}", cause[1])
    if late:
        return warned(what, f"getent hosts {place.leader}")
    service = str(facts.get("service") or place.leader)
    if _is_there(facts):
        return warned(
            f"{what}; {service} is there: node 0 has not started yet, or is not ready",
            f"{_service(service)}publishNotReadyAddresses: true}}",
        )
    if place.by_hand:
        return failed(what, f"--master-addr with an address of node 0, not {place.leader}")
    return failed(
        f"{what}; no Service has the name {service}",
        f"{_service(service)}clusterIP: None, publishNotReadyAddresses: true}}",
    )


def _is_there(facts: Mapping[str, Any]) -> bool:
    """Tell whether the Service exists: without a pod that is ready, its name has no address."""
    problems = [str(facts.get("service_problem")), str(facts.get("problem"))]
    return bool(texts(facts, "service_addresses")) or any(_EMPTY in each for each in problems)


def _service(name: str) -> str:
    return f"kind: Service, metadata: {{name: {name.partition('.')[0]}}}, spec: {{"


def _no_servers(case: Case, _: Meeting, __: Mapping[str, Any]) -> _Explain | None:
    text = case.source.text("/etc/resolv.conf")
    if text is None or re.search(r"^\s*nameserver\s", text, re.MULTILINE):
        return None
    return "/etc/resolv.conf names no server", "spec: {dnsPolicy: ClusterFirst}"


def _dead_servers(_: Case, __: Meeting, facts: Mapping[str, Any]) -> _Explain | None:
    servers = facts.get("servers")
    if not isinstance(servers, Mapping) or not servers or not all(servers.values()):
        return None
    shown = ", ".join(f"{server}: {why}" for server, why in servers.items())
    return (
        f"no name server of /etc/resolv.conf answers ({shown})",
        "kubectl -n kube-system get pods -l k8s-app=kube-dns; NetworkPolicy: egress to port 53",
    )


def _no_search(case: Case, place: Meeting, _: Mapping[str, Any]) -> _Explain | None:
    """Look for a pod whose names are looked up as its node's are, as with hostNetwork."""
    text = case.source.text("/etc/resolv.conf")
    if place.by_hand or text is None or "svc." in text or place.leader.count(".") > 2:
        return None
    return (
        "/etc/resolv.conf searches no svc.cluster.local",
        "spec: {dnsPolicy: ClusterFirstWithHostNet}",
    )


def _no_subdomain(case: Case, place: Meeting, _: Mapping[str, Any]) -> _Explain | None:
    """Look for the pod's full name in /etc/hosts, where kubelet writes it if it has a domain."""
    names = case.probe("names")
    own, service = str((names or {}).get("hostname", "")), place.leader.partition(".")[2]
    mine = _line_of_hosts(case, own)
    if place.by_hand or not service or not mine:
        return None
    if any(word.startswith(f"{own}.") for word in mine) or is_loopback(mine[0]):
        return None
    return (
        f"/etc/hosts: {' '.join(mine)}, without a domain: the pods have no subdomain",
        f"spec: {{subdomain: {service.partition('.')[0]}}}, in the pods' template",
    )


def _line_of_hosts(case: Case, name: str) -> list[str]:
    """Return the words of the first line of /etc/hosts that has a name; none if no line has it."""
    lines = [line.split() for line in (case.source.text("/etc/hosts") or "").splitlines()]
    return next((words for words in lines if name and name in words[1:]), [])


_Judge = Callable[[Case, Meeting, Mapping[str, Any]], _Explain | None]
_NO_ANSWER: tuple[_Judge, ...] = (_no_servers, _dead_servers)
_NO_NAME: tuple[_Judge, ...] = (_no_search, _no_subdomain)
