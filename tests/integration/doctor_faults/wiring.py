# SPDX-License-Identifier: Apache-2.0
"""GPUs, NICs and CPUs of a saved pod that are far from each other, or whose way is closed."""

from doctor_pods import HEALTHY, Link, seen

from doctor_faults.fault import Fault, saved
from doctor_faults.sandbox import IN_GPU_POD, live

PCI = "/sys/bus/pci/devices"
GPU = "0000:0f:00.0"
BRIDGES = ("0000:08:00.0", "0000:09:01.0", "0000:09:02.0")
STATUS = str(seen(HEALTHY).files["/proc/self/status"])
# Its kernel modules are closed, so that they have no dmabuf.
OLD_DRIVER = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13 16:14:05 UTC 2021\n"
)


def _with_acs() -> str:
    """Configuration space of a bridge with ACS on: extended capability 13, at its usual place."""
    space = bytearray(4096)
    space[0:4] = bytes.fromhex("b5101197")
    space[0x06] = 0x10
    space[0x0E] = 1
    space[0x34] = 0x40
    space[0x40:0x44] = bytes.fromhex("10006200")
    space[0x100:0x104] = bytes.fromhex("0d000100")
    space[0x104:0x108] = bytes.fromhex("1f001d00")
    return space.decode("utf-8", "surrogateescape")


FAULTS: list[Fault] = [
    saved(
        "a GPU in a slot of four lanes",
        "pcie-link",
        {
            f"{PCI}/{GPU}/current_link_width": "4\n",
            f"{PCI}/{GPU}/max_link_width": "16\n",
            f"{PCI}/{GPU}/current_link_speed": "32.0 GT/s PCIe\n",
            f"{PCI}/{GPU}/max_link_speed": "32.0 GT/s PCIe\n",
        },
    ),
    saved(
        "bridges send what GPU and NIC say to each other to the root",
        "acs",
        {f"{PCI}/{each}/config": _with_acs() for each in BRIDGES},
    ),
    saved(
        "an IOMMU translates what devices read",
        "iommu",
        {
            "/proc/cmdline": "BOOT_IMAGE=/vmlinuz root=/dev/sda1 intel_iommu=on\n",
            "/sys/class/iommu": ["dmar0"],
            "/sys/kernel/iommu_groups/12/type": "DMA-FQ\n",
            f"{PCI}/{GPU}/iommu_group": Link("/sys/kernel/iommu_groups/12"),
        },
    ),
    saved(
        "neither nvidia_peermem nor dmabuf",
        "peer-memory",
        {
            "/proc/driver/nvidia/version": OLD_DRIVER,
            "/proc/sys/kernel/osrelease": "5.15.0-150-generic\n",
            "/proc/modules": "nvidia 35270656 2 - Live 0x0\nmlx5_core 1 0 - Live 0x0\n",
        },
    ),
    saved(
        "a kernel that is older than dmabuf",
        "kernel",
        {"/proc/sys/kernel/osrelease": "5.4.0-150-generic\n"},
    ),
    saved(
        "CPUs of one NUMA node, GPUs of two",
        "numa-alignment",
        {"/proc/self/status": STATUS.replace("0-15", "0-7")},
    ),
    live("one CPU for two ranks", "cpus-per-rank", IN_GPU_POD, shell="taskset -cp 0 $$ >&2"),
]
