"""Metadata that drivers of Dynamic Resource Allocation put into a container (KEP-5304).

``/var/run/kubernetes.io/dra-device-attributes/resourceclaims/<claim>/<request>/<driver>-metadata.json``
is a stream of objects that say the same in several versions, the newest first. A network driver
writes it once more, and not atomically, when the pod has its network: a look may come too early
(no ``networkData``) or in between. The KEP's own text has other paths, and other names in it.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rdmatrain.discovery.claims.values import (
    Json,
    address,
    mapping,
    shown,
    unreadable,
    word,
    words,
)
from rdmatrain.discovery.complaints import complaint
from rdmatrain.discovery.model import Complaint, Evidence
from rdmatrain.discovery.pci import parse_pci
from rdmatrain.discovery.pod_model import Claim, Trust
from rdmatrain.discovery.source import Source

ROOTS = ("/var/run/kubernetes.io/dra-device-attributes", "/var/run/dra-device-attributes")
# resourceclaims, claim, request and file.
_DEPTH = 4
_VERSION = re.compile(r"metadata\.resource\.(k8s|kubernetes)\.io/v1((alpha|beta)[0-9]+)?")
_GPU_DRIVER = re.compile(r"gpu\..+")
# Of DRANET, which also drives EFA; of the SR-IOV driver, under its organizations; of CNI's driver.
NIC_DRIVER = re.compile(r"dra\.net|sriovnetwork\..+|cni\.dra\.networking\.x-k8s\.io")
# What only NICs have, whatever the name of their driver.
_NIC_ATTRIBUTES = ("rdma", "rdmaDevice", "rdmaCapable", "ifName", "interfaceName")


def dra(source: Source) -> Iterator[Claim | Complaint]:
    """Yield a claim for each GPU and NIC of each file."""
    for root in ROOTS:
        for path in _files(source, root, _DEPTH):
            text = source.text(path)
            if text is not None:
                yield from _read(text, path)


def _files(source: Source, folder: str, depth: int) -> Iterator[str]:
    for name in source.names(folder):
        path = posixpath.join(folder, name)
        if name.endswith(".json"):
            yield path
        elif depth > 1 and not name.startswith(".."):
            yield from _files(source, path, depth - 1)


def _read(text: str, path: str) -> Iterator[Claim | Complaint]:
    reader = Json(path)
    documents = [mapping(each) for each in reader.stream(text)]
    known = [each for each in documents if _VERSION.fullmatch(word(each.get("apiVersion")))]
    if known:
        yield from () if reader.torn else reader.complaints
        yield from _document(known[0], path)
    elif reader.torn or not documents:
        yield complaint("metadata-torn", path, f"is being written, look again: '{shown(text)}'")
    else:
        versions = ", ".join(word(each.get("apiVersion")) for each in documents)
        yield unreadable(path, versions, "is of no version that is known")


def _document(document: Mapping[str, Any], path: str) -> Iterator[Claim | Complaint]:
    folder = posixpath.dirname(path)
    claim = word(document.get("podClaimName")) or posixpath.basename(posixpath.dirname(folder))
    requests = document.get("requests")
    for request in requests if isinstance(requests, list) else [requests]:
        name = word(mapping(request).get("name")) or posixpath.basename(folder)
        devices = mapping(request).get("devices")
        if not isinstance(devices, list):
            yield unreadable(path, request, "has a request without a list of devices")
            continue
        for device in devices:
            yield from _device(mapping(device), f"{claim}/{name}", path)


def _device(device: Mapping[str, Any], network: str, path: str) -> Iterator[Claim | Complaint]:
    driver, name = word(device.get("driver")), word(device.get("name"))
    attributes = _Attributes(device.get("attributes"))
    kind = _kind(driver, attributes, device)
    if not kind:
        return
    told = mapping(device.get("networkData"))
    pci = parse_pci(attributes.text("pciBusID", "pciAddress")) or parse_pci(name)
    ips = words(told.get("ips") or told.get("addresses"))
    says = filter(None, [driver, name, pci, word(told.get("interfaceName"))])
    yield Claim(
        Evidence(path, shown(" ".join(says))),
        Trust.DEVICE_INFO,
        kind,
        pci=pci,
        rdma=words(attributes.values("rdmaDevice", "rdmaDevices")),
        netdev=word(told.get("interfaceName")),
        network=network,
        resource=driver,
        pf=parse_pci(attributes.text("pfPciAddress")),
        root=attributes.text("pcieRoot"),
        numa=attributes.number("numaNode"),
        uuid=attributes.text("uuid"),
        index=attributes.number("index"),
        minor=attributes.number("minor"),
        addresses=tuple(filter(None, map(address, ips))),
    )
    if kind == "nic" and not told:
        text = f"has no networkData of {name} yet: its interface and addresses are not known"
        yield complaint("metadata-late", path, text)


def _kind(driver: str, attributes: "_Attributes", device: Mapping[str, Any]) -> str:
    """Return ``gpu`` or ``nic``; empty for CPUs, memory, channels and what is not known."""
    if _GPU_DRIVER.fullmatch(driver) or attributes.text("type") in {"gpu", "mig"}:
        return "gpu"
    told = "networkData" in device or any(attributes.values(name) for name in _NIC_ATTRIBUTES)
    return "nic" if told or NIC_DRIVER.fullmatch(driver) else ""


class _Attributes:
    """Attributes by their names after the ``/``; before it is a driver, or Kubernetes itself."""

    def __init__(self, attributes: Any) -> None:
        self._values: dict[str, list[Any]] = {}
        # Where both name it, Kubernetes' own come first: resource.kubernetes.io, resource.k8s.io.
        ours = mapping(attributes)
        for key in sorted(ours, key=lambda key: (not key.startswith("resource."), key)):
            self._values.setdefault(key.rpartition("/")[2], _values(ours[key]))

    def values(self, *names: str) -> list[Any]:
        """Return what the first of these has."""
        return next((self._values[name] for name in names if self._values.get(name)), [])

    def text(self, *names: str) -> str:
        """Return the first of them that is a string; empty if there is none."""
        return next(filter(None, map(word, self.values(*names))), "")

    def number(self, name: str) -> int | None:
        """Return its number; None if it has none, or several."""
        found = self.values(name)
        # True is an int too.
        return found[0] if len(found) == 1 and type(found[0]) is int and found[0] >= 0 else None


def _values(attribute: Any) -> list[Any]:
    """Return what ``{"string": "x"}`` or ``{"strings": ["x", "y"]}`` holds."""
    values = list(attribute.values()) if isinstance(attribute, dict) else [attribute]
    return [inner for value in values for inner in (value if isinstance(value, list) else [value])]
