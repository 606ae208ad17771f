"""Annotations of Multus: the networks that were asked for, and those that were attached.

``k8s.v1.cni.cncf.io/network-status`` is the only place that joins a network, its interface, its PCI
address and its RDMA device (network plumbing working group, device-info 1.0 and 1.1). Multus writes
it when the pod's containers may already run, so a look that comes too early finds less.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from rdmatrain.discovery.claims import Finding
from rdmatrain.discovery.claims.downward import NETWORK_STATUS, NETWORKS
from rdmatrain.discovery.claims.values import (
    Json,
    address,
    mapping,
    origin,
    shown,
    unreadable,
    word,
    words,
)
from rdmatrain.discovery.complaints import complaint
from rdmatrain.discovery.model import Complaint, Evidence
from rdmatrain.discovery.pci import parse_pci
from rdmatrain.discovery.pod_model import Claim, Request, Trust, Variable

# The older name of the annotation, and the variables that people put either into.
STATUS_NAMES = (NETWORK_STATUS, "k8s.v1.cni.cncf.io/networks-status")
STATUS_VARIABLE = re.compile(r"(\w+_)?NETWORKS?_STATUS", re.IGNORECASE | re.ASCII)

# name, namespace/name, and either with @interface.
_SHORTHAND = re.compile(r"(?:(?P<space>[^/@\s]+)/)?(?P<name>[^/@\s]+)(?:@(?P<netdev>[^/@\s]+))?")


def network_status(
    annotations: Sequence[Variable], variables: Sequence[Variable]
) -> Iterator[Finding]:
    """Yield requests, a claim for each attached network, and whether networks are missing."""
    requests = [
        finding for each in annotations if each.name == NETWORKS for finding in _requests(each)
    ]
    yield from requests
    statuses = _statuses(annotations, variables)
    for status in statuses:
        yield from _attached(status)
    yield from _late(statuses, sum(isinstance(each, Request) for each in requests))


def _statuses(
    annotations: Sequence[Variable], variables: Sequence[Variable]
) -> tuple[Variable, ...]:
    every = [
        *(each for name in STATUS_NAMES for each in annotations if each.name == name),
        *(each for each in variables if _is_status(each)),
    ]
    # The same text under several names says no more.
    different: dict[str, Variable] = {}
    for each in every:
        different.setdefault(each.value.strip(), each)
    return tuple(different.values())


def _is_status(variable: Variable) -> bool:
    # Others may mean something else by such a name.
    looks = variable.value.lstrip()[:1] in {"", "["}
    return looks and STATUS_VARIABLE.fullmatch(variable.name) is not None


def _attached(status: Variable) -> Iterator[Finding]:
    if not status.value.strip():
        return
    reader = Json(origin(status))
    entries = reader.items(status.value)
    yield from reader.complaints
    for entry in entries:
        yield from _network(entry, origin(status))


def _network(entry: Any, source: str) -> Iterator[Finding]:
    network = word(mapping(entry).get("name"))
    if not network:
        yield unreadable(source, entry, "is no network")
        return
    info = mapping(entry.get("device-info"))
    # type is pci, vdpa, vhost-user or memif, and the key of the rest.
    device = mapping(info.get(word(info.get("type"))) or info.get("pci"))
    stated = word(device.get("pci-address"))
    pci = parse_pci(stated)
    if stated and not pci:
        yield unreadable(source, stated, f"has a pci-address for {network} that is none")
    netdev, rdma = word(entry.get("interface")), words(device.get("rdma-device"))
    yield Claim(
        Evidence(source, shown(" ".join(filter(None, [network, netdev, pci, ",".join(rdma)])))),
        Trust.DEVICE_INFO,
        "nic",
        # The default network is there with or without RDMA; with a device it was asked for.
        granted=bool(info) or not entry.get("default"),
        pci=pci,
        rdma=rdma,
        netdev=netdev,
        network=network,
        pf=parse_pci(word(device.get("pf-pci-address"))),
        addresses=tuple(filter(None, map(address, words(entry.get("ips"))))),
    )


def _requests(annotation: Variable) -> Iterator[Request | Complaint]:
    source = origin(annotation)
    if annotation.value.lstrip()[:1] in ("[", "{"):
        reader = Json(source)
        elements = reader.items(annotation.value)
        yield from reader.complaints
        for element in elements:
            each = mapping(element)
            space, name = word(each.get("namespace")), word(each.get("name"))
            yield (
                _request(source, space, name, word(each.get("interface")))
                if name
                else (unreadable(source, element, "is no network"))
            )
        return
    for part in filter(None, map(str.strip, annotation.value.split(","))):
        match = _SHORTHAND.fullmatch(part)
        yield (
            _request(source, *map(word, match.group("space", "name", "netdev")))
            if match
            else (unreadable(source, part, "is no network"))
        )


def _request(source: str, space: str, name: str, netdev: str) -> Request:
    network = f"{space}/{name}" if space else name
    text = f"{network}@{netdev}" if netdev else network
    return Request(Evidence(source, text), network, netdev)


def _late(statuses: Sequence[Variable], requested: int) -> Iterator[Complaint]:
    # Nobody asks for the default network.
    attached = max(
        (
            sum(not mapping(entry).get("default") for entry in Json("").items(status.value))
            for status in statuses
        ),
        default=0,
    )
    told = any(status.value.strip() for status in statuses)
    if attached < requested or (statuses and not told):
        yield complaint(
            "network-status-late",
            origin(statuses[0]) if statuses else NETWORK_STATUS,
            f"tells of {attached} networks, and {requested or 'some'} were asked for: Multus may "
            "not have written it yet. A variable stays so; a downward API volume is refreshed "
            "within 90 s: look again",
        )
