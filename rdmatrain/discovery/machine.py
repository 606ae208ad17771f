"""What a source shows of a machine: its GPUs, NICs, interfaces, NUMA nodes and CPUs."""

import re

from rdmatrain.discovery.gpus import read_gpus
from rdmatrain.discovery.model import Machine, Node
from rdmatrain.discovery.network import read_netdevs
from rdmatrain.discovery.nics import read_nics
from rdmatrain.discovery.pci import parse_cpus
from rdmatrain.discovery.source import Source
from rdmatrain.discovery.sysfs import attribute

# Of a process, in its status: the CPUs that it may run on.
ALLOWED = "Cpus_allowed_list"
NODES = "/sys/devices/system/node"
DMI = "/sys/class/dmi/id"
# A parameter of ib_core, also while it runs: whether all see all RDMA devices.
NAMESPACES = "/sys/module/ib_core/parameters/netns_mode"
_MODES = {"Y": "shared", "N": "exclusive"}


def read_machine(source: Source, origin: str = "this machine") -> Machine:
    """Read all that there is; what cannot be read is left out, with a complaint if it matters.

    Args:
        source: where to read.
        origin: what people call the source: ``this machine``, or a file or folder.

    """
    gpus, gpu_complaints = read_gpus(source)
    nics, nic_complaints = read_nics(source)
    return Machine(
        origin=origin,
        gpus=tuple(gpus),
        nics=tuple(nics),
        netdevs=tuple(read_netdevs(source, nics)),
        nodes=tuple(_read_nodes(source)),
        cpus=parse_cpus(line_of(source, "/proc/self/status", ALLOWED)),
        product=_read_product(source),
        virtual=_is_virtual(source),
        namespaces=_MODES.get(attribute(source, NAMESPACES), ""),
        complaints=(*gpu_complaints, *nic_complaints),
    )


def _read_nodes(source: Source) -> list[Node]:
    numbers = [
        int(name.removeprefix("node"))
        for name in source.names(NODES)
        if re.fullmatch("node[0-9]{1,5}", name)
    ]
    return [Node(n, parse_cpus(attribute(source, f"{NODES}/node{n}/cpulist"))) for n in numbers]


def _read_product(source: Source) -> str:
    """Return vendor and product as DMI has them: ``Amazon EC2 p5.48xlarge``."""
    said = (attribute(source, f"{DMI}/{name}") for name in ("sys_vendor", "product_name"))
    return " ".join(filter(None, said))


def _is_virtual(source: Source) -> bool | None:
    """Say whether the CPU runs under a hypervisor: x86 tells by a flag, others do not."""
    flags = line_of(source, "/proc/cpuinfo", "flags")
    return "hypervisor" in flags.split() if flags else None


def line_of(source: Source, path: str, key: str) -> str:
    """Return the value of the first line with a key in a file of procfs; empty if there is none."""
    match = re.search(rf"^{key}[\t ]*:(.*)$", source.text(path) or "", re.MULTILINE)
    return match[1].strip() if match else ""
