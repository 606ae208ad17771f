"""Kubernetes ResourceSlices: what DRA drivers publish of a node's GPUs and NICs.

Attributes are those of dranet, of the DRA drivers for NVIDIA's and AMD's GPUs and for SR-IOV, and
the standard ones, ``resource.kubernetes.io/...``, which go before the others.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rdmatrain.discovery import fitness
from rdmatrain.discovery.claims.dra import NIC_DRIVER
from rdmatrain.discovery.complaints import complaint
from rdmatrain.discovery.importers import devices
from rdmatrain.discovery.model import Complaint, Gpu, Machine, Netdev, Nic
from rdmatrain.discovery.pci import parse_pci
from rdmatrain.errors import SettingError

KIND = "ResourceSlices"
_STANDARD = "resource.kubernetes.io/"
_LISTS = {"List", "ResourceSliceList"}
# An AMD GPU in a partitioned mode is several, all at the address of the whole.
_GPU_TYPES = {"gpu", "amdgpu", "amdgpu-partition"}
_GPU_NAME = re.compile(r"gpu-(\d{1,4})", re.ASCII)
# What only network devices have.
_NIC_ATTRIBUTES = {"ifname", "interfacename", "linktype", "mac", "pfname", "rdma", "rdmadevice"}
# A Grace socket numbers its PCI domains from 0, 16... (dranet's inventories of OKE and AKS).
_GRACE = re.compile(r"\bG[BH][23]00\b")


@dataclass(frozen=True)
class _Device:
    """A device of a slice.

    Attributes:
        name: as the slice calls it: ``pci-0000-10-1b-0``.
        driver: of the slice.
        attributes: values as text, by the lower-case part of their names behind the ``/``.

    """

    name: str
    driver: str
    attributes: Mapping[str, str]

    def get(self, *names: str) -> str:
        """Return the first of these attributes that it has; else an empty string."""
        return next((value for name in names if (value := self.attributes.get(name))), "")

    def is_false(self, *names: str) -> bool:
        """Return whether the first of these attributes that it has says no."""
        return self.get(*names).lower() == "false"


def are_slices(documents: Sequence[Any]) -> bool:
    """Return whether there is a ResourceSlice in one of the documents."""
    return any(True for _ in _slices(documents))


def read(documents: Sequence[Any], name: str) -> Machine:
    """Return the machine whose slices these are.

    Args:
        documents: as :func:`rdmatrain.discovery.yaml_text.load_documents` has them.
        name: what to call the file in complaints.

    """
    slices = list(_slices(documents))
    nodes = list(dict.fromkeys(_node(each) for each in slices))
    # Of all nodes of a cluster, some have no GPU.
    node = next((_node(each) for each in slices if _is_of_gpus(each)), nodes[0])
    reader = _Reader(name)
    if len(nodes) > 1:
        reader.complain("several-machines", "nodes", f"{len(nodes)}; {node} is shown")
    for each in slices:
        if _node(each) == node:
            for device in _devices(each):
                reader.read(device)
    machine = Machine(
        origin=f"{name}, {KIND} of {node or 'a node without a name'}",
        gpus=devices.numbered(reader.gpus),
        nics=tuple(reader.nics),
        netdevs=tuple(reader.netdevs),
        product=reader.product,
        complaints=tuple(reader.complaints),
    )
    return merge([machine])


def merge(machines: Sequence[Machine]) -> Machine:
    """Return one machine of several: GPUs and NICs often come in separate files.

    Args:
        machines: at least one, each from the slices of one node.

    Raises:
        SettingError: one is from a file of another kind, which describes a machine of its own.

    """
    strangers = _strangers(machines)

    def every(part: str) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(each for machine in machines for each in getattr(machine, part)))

    # Two drivers, or two files, may list the same device.
    nics = list({nic.name: nic for nic in reversed(every("nics"))}.values())[::-1]
    gpus = list({(gpu.pci, gpu.name): gpu for gpu in reversed(every("gpus"))}.values())[::-1]
    return replace(
        machines[0],
        origin=" and ".join(machine.origin for machine in machines),
        gpus=_with_numa(devices.numbered([(gpu.index, gpu) for gpu in gpus]), nics),
        nics=fitness.judge(nics),
        netdevs=every("netdevs"),
        product=next((machine.product for machine in machines if machine.product), ""),
        complaints=(*every("complaints"), *strangers),
    )


def _strangers(machines: Sequence[Machine]) -> list[Complaint]:
    for machine in machines:
        if KIND not in machine.origin:
            raise SettingError(
                f"only {KIND} of a node can be put together, and one is {machine.origin}"
            )
    nodes = list(dict.fromkeys(machine.origin.rpartition(" of ")[2] for machine in machines))
    text = f"{' and '.join(nodes)} are put together, as if they were one"
    return [complaint("several-machines", "the files", text)] if nodes[1:] else []


def _with_numa(gpus: Sequence[Gpu], nics: Sequence[Nic]) -> tuple[Gpu, ...]:
    """Give GPUs the NUMA node of the NICs below the same root: their driver seldom tells it."""
    roots: dict[str, set[int | None]] = {}
    for nic in nics:
        roots.setdefault(nic.path[0] if nic.path else "", set()).add(nic.numa)

    def numa(gpu: Gpu) -> int | None:
        near = roots.get(gpu.path[0], set()) if gpu.path else set()
        return gpu.numa if gpu.numa is not None or len(near) != 1 else next(iter(near))

    return tuple(replace(gpu, numa=numa(gpu)) for gpu in gpus)


class _Reader:
    """Collects GPUs, NICs and interfaces from devices."""

    def __init__(self, name: str) -> None:
        self.gpus: list[tuple[int | None, Gpu]] = []
        self.nics: list[Nic] = []
        self.netdevs: list[Netdev] = []
        self.complaints: list[Complaint] = []
        self.product = ""
        self._name = name

    def complain(self, what: str, part: str, text: str) -> None:
        self.complaints.append(complaint(what, f"{self._name}, {part}", text))

    def read(self, device: _Device) -> None:
        """Take a device for what it is; processors, memory and channels are left out."""
        kind = device.get("type").lower()
        self.product = self.product or device.get("vmsize", "instancetype", "shape")
        if kind == "mig":
            self._mig(device)
        elif kind in _GPU_TYPES or (kind != "vfio" and device.driver.startswith("gpu.")):
            self._gpu(device)
        elif _NIC_ATTRIBUTES & set(device.attributes) or NIC_DRIVER.fullmatch(device.driver):
            self._nic(device)

    def _gpu(self, device: _Device) -> None:
        pci = self._pci(device)
        model = device.get("productname", "product", "model")
        numa = devices.integer(device.get("numanode"))
        if numa is None and pci and _GRACE.search(model):
            numa = int(pci.partition(":")[0], 16) >> 4
        match = _GPU_NAME.fullmatch(device.name)
        gpu = Gpu(
            0,
            device.name,
            pci=pci,
            path=_path(device, pci),
            numa=numa,
            vendor=next((each for each in ("nvidia", "amd") if each in device.driver), ""),
            uuid=device.get("uuid"),
            minor=devices.integer(device.get("minor")),
            model=model,
        )
        number = devices.integer(device.get("index") or (match[1] if match else ""))
        self.gpus.append((number, gpu))

    def _mig(self, device: _Device) -> None:
        parent = device.get("parentuuid")
        if not parent:
            self.complain("unreadable", device.name, "is a slice of MIG without a parentUUID")
        elif all(gpu.uuid != parent for _, gpu in self.gpus):
            # Only the slices of a GPU may be on offer.
            attributes = {**device.attributes, "uuid": parent}
            self._gpu(replace(device, name=f"{device.name} and others", attributes=attributes))
        for place, (number, gpu) in enumerate(self.gpus):
            if parent and gpu.uuid == parent:
                slices = (*gpu.mig, device.get("uuid") or device.name)
                self.gpus[place] = number, replace(gpu, mig=slices)

    def _nic(self, device: _Device) -> None:
        pci = self._pci(device)
        netdev = device.get("ifname", "interfacename")
        if netdev:
            self.netdevs.append(_netdev(device, netdev, pci))
        name = device.get("rdmadevice", "rdmadevname")
        if not pci and not name:
            return  # a virtual interface
        product = device.get("pcidevice")
        vendor = devices.device_id(device.get("vendor"), device.get("deviceid"))
        nic = Nic(
            name or netdev or device.name,
            pci=pci,
            path=_path(device, pci),
            numa=devices.integer(device.get("numanode")),
            netdevs=(netdev,) if netdev else (),
            is_vf=_is_vf(device),
            vendor=vendor,
            efa=devices.is_efa(vendor, name) or "Elastic Fabric Adapter" in product,
            unfit=fitness.NO_RDMA if device.is_false("rdma", "rdmacapable") else "",
        )
        self.nics.append(nic)

    def _pci(self, device: _Device) -> str:
        text = device.get("pcibusid", "pciaddress", "pciebusid", "pciaddr", "parentpciaddr")
        pci = parse_pci(text)
        if text and not pci:
            self.complain("unreadable", device.name, f"{text!r} is no PCI address")
        return pci


def _netdev(device: _Device, name: str, pci: str) -> Netdev:
    addresses = (each.strip() for each in device.get("ipv4", "ipv6").split(","))
    return Netdev(
        name,
        pci,
        mac=device.get("mac"),
        mtu=devices.integer(device.get("mtu")) or 0,
        state=device.get("state"),
        addresses=tuple(each.partition("/")[0] for each in addresses if each),
    )


def _is_vf(device: _Device) -> bool | None:
    known = {"true": True, "false": False}.get(device.get("issriovvf").lower())
    by_name = "vfid" in device.attributes or "Virtual Function" in device.get("pcidevice")
    return True if by_name else known


def _path(device: _Device, pci: str) -> tuple[str, ...]:
    root = device.get("pcieroot")
    return (root, pci) if root and pci else ()


def _slices(documents: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """Yield what slices specify, also those in lists."""
    for document in documents:
        if isinstance(document, list):
            objects = document
        elif _text(_mapping(document).get("kind")) in _LISTS:
            items = document.get("items")
            objects = items if isinstance(items, list) else []
        else:
            objects = [document]
        for each in objects:
            if _mapping(each).get("kind") == "ResourceSlice":
                yield _mapping(each.get("spec"))


def _node(spec: Mapping[str, Any]) -> str:
    return _text(spec.get("nodeName")) or _text(_mapping(spec.get("pool")).get("name"))


def _is_of_gpus(spec: Mapping[str, Any]) -> bool:
    return _driver(spec).startswith("gpu.")


def _driver(spec: Mapping[str, Any]) -> str:
    return _text(spec.get("driver") or spec.get("driverName"))


def _devices(spec: Mapping[str, Any]) -> Iterator[_Device]:
    listed = spec.get("devices")
    for device in listed if isinstance(listed, list) else []:
        # Up to v1beta1 attributes are one level deeper.
        basic = _mapping(_mapping(device).get("basic")) or _mapping(device)
        attributes: dict[str, str] = {}
        for name, value in _mapping(basic.get("attributes")).items():
            key = _text(name).rpartition("/")[2].lower()
            if _text(name).startswith(_STANDARD) or key not in attributes:
                attributes[key] = _value(value)
        yield _Device(_text(_mapping(device).get("name")), _driver(spec), attributes)


def _value(value: Any) -> str:
    """Return an attribute's value, ``{"string": "0000:10:1b.0"}`` or ``{"ints": ["0"]}``."""
    inner = next(iter(value.values()), "") if isinstance(value, dict) else value
    return ",".join(map(_text, inner)) if isinstance(inner, list) else _text(inner)


def _text(value: Any) -> str:
    return str(value).strip() if isinstance(value, str | bool) else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
