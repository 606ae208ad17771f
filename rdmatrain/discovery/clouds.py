"""Which devices sit together on machines that do not show it, from what their vendors publish.

A virtual machine may put every device at a root of its own, and on some hosts GPUs and NICs are at
roots of their own by design. A machine is recognised by the addresses of its GPUs, which its
vendor's file lists, and by their model where two vendors use the same addresses.
"""

from dataclasses import dataclass

from rdmatrain.discovery.model import Distance, Gpu, Machine, Nic


@dataclass(frozen=True)
class Cloud:
    """A kind of machine, and which of its devices sit together.

    Attributes:
        name: what its vendor calls it.
        source: where the table is from.
        models: words of which the name of its GPUs has one.
        near: how far apart devices of one group are.
        groups: for each group, how the PCI addresses of its GPUs and of its NICs begin. Virtual
            functions are on the bus of their physical one.

    """

    name: str
    source: str
    models: tuple[str, ...]
    near: Distance
    groups: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]

    def together(self, gpu: Gpu, nic: Nic) -> bool:
        """Tell whether both are of one group."""
        return any(
            gpu.pci.startswith(gpus) and (nic.pci.startswith(nics) or nic.pf.startswith(nics))
            for gpus, nics in self.groups
        )

    def has(self, gpu: Gpu) -> bool:
        """Tell whether a GPU may be one of this machine's."""
        if gpu.vendor == "amd":  # which may have no model; the tables are of NVIDIA's
            return False
        known = any(gpu.pci.startswith(gpus) for gpus, _ in self.groups)
        return known and (not gpu.model or any(word in gpu.model for word in self.models))


def recognise(machine: Machine) -> Cloud | None:
    """Return the only table that all GPUs with a PCI address fit in; None if no or several do."""
    gpus = [gpu for gpu in machine.gpus if gpu.pci]
    fitting = [cloud for cloud in CLOUDS if gpus and all(cloud.has(gpu) for gpu in gpus)]
    return fitting[0] if len(fitting) == 1 else None


def _groups(*lines: str) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    """Read ``GPU GPU - NIC NIC``: domain and bus, or a domain alone."""
    sides = (line.split(" - ") for line in lines)
    return tuple((tuple(gpus.split()), tuple(nics.split())) for gpus, nics in sides)


CLOUDS = (
    Cloud(
        "Azure ND A100 v4",
        "azhpc-images, ndv4-topo.xml",
        ("A100",),
        Distance.PIX,
        _groups(
            "0001:00 0002:00 - 0101:00 0102:00",
            "0003:00 0004:00 - 0103:00 0104:00",
            "000b:00 000c:00 - 0105:00 0106:00",
            "000d:00 000e:00 - 0107:00 0108:00",
        ),
    ),
    Cloud(
        "Azure ND H100 v5",
        "azhpc-images, ndv5-topo.xml",
        ("H100", "H200"),
        Distance.PIX,
        _groups(
            "0001:00 - 0101:00",
            "0002:00 - 0102:00",
            "0003:00 - 0103:00",
            "0008:00 - 0104:00",
            "0009:00 - 0105:00",
            "000a:00 - 0106:00",
            "000b:00 - 0107:00",
            "000c:00 - 0108:00",
        ),
    ),
    Cloud(
        "OCI BM.GPU.B4.8",
        "oci-hpc, topo-flattened-b4.xml",
        ("A100",),
        Distance.PIX,
        _groups(
            "0000:0f 0000:15 - 0000:0c 0000:16",
            "0000:50 0000:53 - 0000:47 0000:4b",
            "0000:8c 0000:91 - 0000:89 0000:93",
            "0000:d6 0000:da - 0000:c3 0000:d1",
        ),
    ),
    Cloud(
        "OCI BM.GPU.H100.8",
        "oci-hpc, H100-topology.xml",
        ("H100",),
        Distance.PXB,
        _groups(
            "0000:0f - 0000:0c",
            "0000:2d - 0000:2a",
            "0000:44 - 0000:41",
            "0000:5b - 0000:58",
            "0000:89 - 0000:86",
            "0000:a8 - 0000:a5",
            "0000:c0 - 0000:bd",
            "0000:d8 - 0000:d5",
        ),
    ),
    Cloud(
        "OCI BM.GPU.B300.8",
        "oci-hpc, B300MP.xml",
        ("B300",),
        Distance.PXB,
        _groups(
            "0000:14 - 0000:11",
            "0000:32 - 0000:2f",
            "0000:49 - 0000:46",
            "0000:60 - 0000:5d",
            "0000:8e - 0000:8b",
            "0000:ad - 0000:aa",
            "0000:c5 - 0000:c2",
            "0000:dd - 0000:da",
        ),
    ),
    # The GPUs of a Grace host are at roots of their own; its two CPUs are its NUMA nodes.
    Cloud(
        "GB200 and GB300",
        "DRANET's resource slices of OCI BM.GPU.GB200-v3.4 and of Azure ND GB300",
        ("GB200", "GB300"),
        Distance.NODE,
        _groups(
            "0008: 0009: - 0000:03 0002:03 0101:00 0102:00",
            "0018: 0019: - 0010:03 0012:03 0103:00 0104:00",
        ),
    ),
)
