"""``SRIOVNETWORK_*``, the variables of the DRA driver for SR-IOV.

For a device of the driver, ``0000-08-00-1``, it sets ``SRIOVNETWORK_VF_DEVICE_0000_08_00_1`` to the
PCI address and ``SRIOVNETWORK_0000_08_00_1_RDMA_DEVICE`` and ``..._RDMA_UVERB`` to what it found of
RDMA; for a pod ``SRIOVNETWORK_PCI_ADDRESSES`` to all addresses.
"""

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rdmatrain.discovery.claims import Finding
from rdmatrain.discovery.claims.values import origin, shown, unreadable, word, words
from rdmatrain.discovery.complaints import complaint
from rdmatrain.discovery.model import Evidence
from rdmatrain.discovery.pci import parse_pci
from rdmatrain.discovery.pod_model import Claim, Trust, Variable

DRIVER = "sriovnetwork.k8snetworkplumbingwg.io"
# One for all devices of the pod, so that it tells only of a single one.
NETWORK = "SRIOVNETWORK_NET_ATTACH_DEF_NAME"
ADDRESSES = "SRIOVNETWORK_PCI_ADDRESSES"

_UNSET = Variable("", "", "")
_DEVICE = re.compile(r"SRIOVNETWORK_(?:VF_DEVICE_(?P<vf>\w+)|(?P<rdma>\w+)_RDMA_(?:UVERB|DEVICE))")


def sriovnetwork(variables: Sequence[Variable]) -> Iterator[Finding]:
    """Yield a claim for each device, and for what else the list of all addresses has."""
    ours = {each.name: each for each in variables if each.name.startswith("SRIOVNETWORK_")}
    devices = _devices(ours)
    network = word(ours[NETWORK].value) if NETWORK in ours and len(devices) == 1 else ""
    findings = [finding for each in devices for finding in _claims(ours, each, network)]
    yield from findings
    if ADDRESSES in ours:
        known = {finding.pci for finding in findings if isinstance(finding, Claim)}
        yield from _listed(ours[ADDRESSES], known - {""})


def _devices(names: Iterable[str]) -> list[str]:
    matches = filter(None, map(_DEVICE.fullmatch, names))
    return list(dict.fromkeys(match["vf"] or match["rdma"] for match in matches))


def _claims(ours: Mapping[str, Variable], device: str, network: str) -> Iterator[Finding]:
    names = [f"SRIOVNETWORK_VF_DEVICE_{device}"]
    names += [f"SRIOVNETWORK_{device}_RDMA_{what}" for what in ("UVERB", "DEVICE")]
    source = origin(next(ours[name] for name in names if name in ours))
    address, uverbs, rdma = (word(ours.get(name, _UNSET).value) for name in names)
    address = address or device.replace("_", "-")
    pci = parse_pci(address)
    if not pci:
        yield unreadable(source, address, "is no PCI address")
    if pci or uverbs or rdma:
        said = filter(None, [address, uverbs, rdma])
        yield Claim(
            Evidence(source, shown(", ".join(said))),
            Trust.VARIABLE,
            "nic",
            pci=pci,
            rdma=words(rdma),
            network=network,
            resource=DRIVER,
            uverbs=posixpath.basename(uverbs),
        )


def _listed(variable: Variable, known: set[str]) -> Iterator[Finding]:
    listed = set()
    for text in words(variable.value):
        pci = parse_pci(text)
        listed.add(pci)
        if not pci:
            yield unreadable(origin(variable), text, "is no PCI address")
        elif pci not in known:
            evidence = Evidence(origin(variable), pci)
            yield Claim(evidence, Trust.VARIABLE, "nic", pci=pci, resource=DRIVER)
    if known - listed:
        missing = ", ".join(sorted(known - listed))
        yield complaint("lists-differ", origin(variable), f"lacks {missing}, of other variables")
