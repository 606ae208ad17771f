"""Device nodes: all that the shared RDMA device plugin gives a container, and CDI gives it of GPUs.

A node that is there was not always given: privileged containers, and those that mount the host's
``/dev/infiniband``, have the nodes of all devices. So these claims weigh least.
"""

import posixpath
import re
from collections.abc import Iterator

from rdmatrain.discovery.claims.values import shown
from rdmatrain.discovery.complaints import complaint
from rdmatrain.discovery.model import Complaint, Evidence
from rdmatrain.discovery.pci import parse_pci
from rdmatrain.discovery.pod_model import Claim, Trust
from rdmatrain.discovery.source import Source

NODES = "/dev/infiniband"
# The devices cgroup of version 1; version 2 shows its rules to nobody.
RULES = "/sys/fs/cgroup/devices/devices.list"

_AMD = "0x1002"


def device_nodes(source: Source) -> Iterator[Claim | Complaint]:
    """Yield a claim for each node of an RDMA device or GPU."""
    nodes = source.names(NODES)
    devices = [name for name in nodes if re.fullmatch("uverbs[0-9]+", name, re.ASCII)]
    rules = source.text(RULES)
    for name in devices:
        yield from _uverbs(source, name, rules)
    # EFA has no connection manager.
    need = [name for name in devices if _driver(source, name) != "efa"]
    if need and "rdma_cm" not in nodes:
        yield complaint(
            "rdma-cm-missing",
            f"{NODES}/rdma_cm",
            f"is missing beside {shown(', '.join(need))}: librdmacm finds no device. The module "
            "rdma_ucm may not be loaded on the host",
        )
    yield from _nvidia(source)
    yield from _amd(source)


def _uverbs(source: Source, name: str, rules: str | None) -> Iterator[Claim | Complaint]:
    path = posixpath.join(NODES, name)
    number = (source.text(f"/sys/class/infiniband_verbs/{name}/dev") or "").strip()
    allowed = rules is None or not number or any(_allows(rule, number) for rule in _lines(rules))
    evidence = Evidence(path, "is there" if allowed else f"is there, but not in {RULES}")
    yield Claim(evidence, Trust.NAME, "nic", granted=allowed, uverbs=name)
    if not allowed:
        text = f"is {shown(number)}, which {RULES} does not allow: opening it fails"
        yield complaint("node-forbidden", path, text)


def _lines(rules: str) -> list[list[str]]:
    return [line.split() for line in rules.splitlines()]


def _allows(rule: list[str], number: str) -> bool:
    """Whether a rule, ``c 231:* rwm``, lets a character device be opened to read and write."""
    if len(rule) != 3 or rule[0] not in {"a", "c"} or not {"r", "w"} <= set(rule[2]):
        return False
    pairs = zip(rule[1].split(":"), number.split(":"), strict=False)
    return all(allowed in {"*", is_} for allowed, is_ in pairs)


def _driver(source: Source, name: str) -> str:
    link = source.link(f"/sys/class/infiniband_verbs/{name}/device/driver")
    return posixpath.basename(link or "")


def _nvidia(source: Source) -> Iterator[Claim]:
    for name in source.names("/dev"):
        match = re.fullmatch("nvidia([0-9]{1,4})", name, re.ASCII)
        if match:
            evidence = Evidence(f"/dev/{name}", "is there")
            yield Claim(evidence, Trust.NAME, "gpu", minor=int(match[1]))


def _amd(source: Source) -> Iterator[Claim]:
    # Without it, a GPU shows pictures.
    if "kfd" not in source.names("/dev"):
        return
    nodes = [name for name in source.names("/dev/dri") if name.startswith("renderD")]
    for name in nodes:
        device = f"/sys/class/drm/{name}/device"
        pci = parse_pci(posixpath.basename(source.link(device) or ""))
        vendor = (source.text(f"{device}/vendor") or "").strip()
        if pci and vendor == _AMD:
            yield Claim(Evidence(f"/dev/dri/{name}", "is there"), Trust.NAME, "gpu", pci=pci)
