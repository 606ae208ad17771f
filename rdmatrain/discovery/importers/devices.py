"""What PCI classes and vendors mean, and the numbers of GPUs: the same in all kinds of files."""

import re
from collections.abc import Sequence
from dataclasses import replace

from rdmatrain.discovery.model import Gpu
from rdmatrain.discovery.pci import bus_order

ETHERNET, INFINIBAND = 0x0200, 0x0207
LAYERS = {ETHERNET: "Ethernet", INFINIBAND: "InfiniBand"}
_VENDORS = {0x10DE: "nvidia", 0x1002: "amd"}


def integer(text: str, base: int = 10) -> int | None:
    """Return a number that is not negative; None for what is none."""
    digits = "[0-9]{1,18}" if base == 10 else "(?:0x)?[0-9a-f]{1,16}"
    return int(text, base) if re.fullmatch(digits, text.lower(), re.ASCII) else None


def pci_class(text: str) -> int | None:
    """Return base class and subclass of ``0x030200`` (sysfs, NCCL) or ``0302`` (hwloc)."""
    number = integer(text, 16)
    return number >> 8 if number is not None and number > 0xFFFF else number


def is_network(number: int | None) -> bool:
    """Return whether it is the class of a network controller of any kind."""
    return number is not None and number >> 8 == 0x02


def gpu_vendor(text: str) -> str:
    """Return who makes GPUs under this PCI vendor: ``nvidia``, ``amd`` or empty."""
    return _VENDORS.get(integer(text, 16) or 0, "")


def device_id(vendor: str, device: str) -> str:
    """Return ``15b3:101e`` of two hexadecimal numbers; empty where one is missing."""
    numbers = integer(vendor, 16), integer(device, 16)
    return "" if None in numbers else "{:04x}:{:04x}".format(*numbers)


def is_efa(vendor: str, name: str) -> bool:
    """Return whether it is an Elastic Fabric Adapter.

    By its id, ``1d0f:efa1``, or by the name that rdma-core gives to a device which is neither of
    InfiniBand nor of RoCE: ``rdmap79s0``.
    """
    return vendor.startswith("1d0f:efa") or bool(re.match(r"rdmap\d", name))


def numbered(found: Sequence[tuple[int | None, Gpu]]) -> tuple[Gpu, ...]:
    """Return GPUs by index, with a name for those that have none.

    Args:
        found: each with its number in the source, if it has one. Where some have none, or two the
            same, they are numbered as drivers do it, by PCI address, or else as they come.

    """
    numbers = {number: gpu for number, gpu in found if number is not None}
    if len(numbers) < len(found):
        gpus = [gpu for _, gpu in found]
        if all(gpu.pci for gpu in gpus):
            gpus.sort(key=lambda gpu: bus_order(gpu.pci))
        numbers = dict(enumerate(gpus))
    return tuple(
        replace(gpu, index=number, name=gpu.name or f"GPU{number}")
        for number, gpu in sorted(numbers.items())
    )
