"""``PCIDEVICE_*`` and ``PCIDEVICE_*_INFO``, the variables of the SR-IOV network device plugin.

The first lists what was allocated of one resource, in no order that means anything; the second, in
newer versions, is an object of JSON that says more of each: ``{"0000:0c:00.2": {"rdma": {"uverbs":
"/dev/infiniband/uverbs18", "rdma_dev": "mlx5_18"}}}``. A name of an RDMA device is the host's, and
the last of several; the RDMA CNI may have renamed it. A subfunction has the name that the auxiliary
bus gives it, ``mlx5_core.sf.4``.
"""

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rdmatrain.discovery.claims.values import Json, mapping, origin, shown, unreadable, word, words
from rdmatrain.discovery.claims.variables import PLUGIN
from rdmatrain.discovery.complaints import complaint
from rdmatrain.discovery.model import Complaint, Evidence
from rdmatrain.discovery.pci import parse_pci
from rdmatrain.discovery.pod_model import Claim, Trust, Variable

_INFO = "_INFO"
# The plugin writes capitals and "_" for the dots and the slash of intel.com/sriov.
_RESOURCE = re.compile(r"(?P<domain>[\w-]+?_(?:COM|ORG|IO|NET|DEV))_(?P<name>.+)", re.ASCII)
_AUXILIARY = re.compile(r"[A-Za-z0-9_]+\.[A-Za-z0-9_]+\.[0-9]+", re.ASCII)


def pcidevice(variables: Sequence[Variable]) -> Iterator[Claim | Complaint]:
    """Yield a claim for each device of each variable."""
    lists: dict[str, list[Claim]] = {}
    infos: dict[str, list[Claim]] = {}
    for variable in variables:
        if not variable.name.startswith(PLUGIN):
            continue
        name = variable.name.removesuffix(_INFO)
        # A resource may itself be called ..._INFO: what the value looks like decides.
        if name != variable.name and "{" in variable.value:
            findings, kept = _read_info(variable, name), infos
        else:
            name, findings, kept = variable.name, _read_list(variable), lists
        claims = kept.setdefault(name, [])
        for finding in findings:
            if isinstance(finding, Claim):
                claims.append(finding)
            yield finding
    yield from _differing(lists, infos)
    yield from _overlapping(lists)


def resource(name: str) -> str:
    """Return the name of the resource of a variable, ``nvidia.com/rdma-vf``, as far as it shows."""
    text = name.removeprefix(PLUGIN)
    match = _RESOURCE.fullmatch(text)
    if not match:
        return text.lower()
    return f"{match['domain'].replace('_', '.')}/{match['name']}".lower()


def _read_list(variable: Variable) -> Iterator[Claim | Complaint]:
    devices = Counter(filter(None, map(str.strip, variable.value.split(","))))
    yield from _claims(variable, variable.name, dict.fromkeys(devices))
    twice = ", ".join(device for device in devices if devices[device] > 1)
    if twice:
        yield complaint("listed-twice", origin(variable), f"lists {shown(twice)} twice")


def _read_info(variable: Variable, name: str) -> Iterator[Claim | Complaint]:
    source = origin(variable)
    reader = Json(source)
    devices = reader.value(variable.value)
    yield from reader.complaints
    if devices is not None and not isinstance(devices, dict):
        yield unreadable(source, devices, "is no object of JSON")
    yield from _claims(variable, name, mapping(devices))
    # Not there at all, it is another kind of device.
    untold = [key for key, value in mapping(devices).items() if mapping(value).get("rdma") == {}]
    if untold:
        yield complaint(
            "rdma-not-told",
            source,
            f"has no RDMA device for {shown(', '.join(untold))}: where RDMA namespaces are "
            "exclusive it was not yet back on the host, and its device nodes are missing here",
        )


def _claims(
    variable: Variable, name: str, devices: Mapping[str, Any]
) -> Iterator[Claim | Complaint]:
    for device, details in devices.items():
        pci = parse_pci(device)
        if not pci and not _AUXILIARY.fullmatch(device):
            yield unreadable(origin(variable), device, "is no PCI address")
            continue
        rdma = mapping(mapping(details).get("rdma"))
        told = [f"{key} {word(value)}" for key, value in sorted(rdma.items()) if word(value)]
        yield Claim(
            Evidence(origin(variable), shown(", ".join([device, *told]))),
            Trust.VARIABLE,
            "nic",
            pci=pci,
            rdma=words(rdma.get("rdma_dev")),
            resource=resource(name),
            uverbs=posixpath.basename(word(rdma.get("uverbs"))),
            auxiliary="" if pci else device,
        )


def _differing(
    lists: Mapping[str, Sequence[Claim]], infos: Mapping[str, Sequence[Claim]]
) -> Iterator[Complaint]:
    for name in sorted(infos):
        listed, told = (
            {claim.pci or claim.auxiliary for claim in claims.get(name, ())}
            for claims in (lists, infos)
        )
        if listed != told:
            yield complaint(
                "lists-differ",
                shown(name),
                f"lists {_names(listed)}, but {shown(name)}{_INFO} tells of {_names(told)}",
            )


def _overlapping(lists: Mapping[str, Sequence[Claim]]) -> Iterator[Complaint]:
    owners: dict[str, str] = {}
    for name in sorted(lists):
        for device in sorted({claim.pci or claim.auxiliary for claim in lists[name]}):
            if device in owners:
                text = f"lists {device}, which {shown(owners[device])} lists too"
                yield complaint("listed-twice", shown(name), text)
            owners.setdefault(device, name)


def _names(devices: set[str]) -> str:
    return shown(", ".join(sorted(devices))) or "none"
