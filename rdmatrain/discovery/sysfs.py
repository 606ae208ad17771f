"""Attributes of sysfs and procfs as text and numbers, and the PCI functions behind devices."""

import posixpath
import re
from dataclasses import dataclass

from rdmatrain.discovery.pci import bus_order, parse_pci
from rdmatrain.discovery.source import Source

FUNCTIONS = "/sys/bus/pci/devices"

_NUMBER = re.compile(r"-?[0-9]{1,18}")
_ROOT = re.compile(r"pci[0-9a-f]{4,8}:[0-9a-f]{2}")
_ID = re.compile(r"0x([0-9a-f]{1,8})")


@dataclass(frozen=True)
class Function:
    """A PCI function.

    Attributes:
        pci: its address.
        folder: its attributes, without links.
        path: the bridges from the root to it and itself last; empty where that is not shown.
        numa: node, or None.
        ids: vendor and device, ``15b3:101e``; empty where they cannot be read.
        driver: ``mlx5_core``; empty where none is bound, or shown.

    """

    pci: str
    folder: str
    path: tuple[str, ...]
    numa: int | None
    ids: str
    driver: str


def attribute(source: Source, path: str) -> str:
    """Return the text of an attribute; empty where there is none, or where reading it fails."""
    text = source.text(path) or ""
    return text.strip() if text.isascii() else ""


def number(source: Source, path: str) -> int | None:
    """Return the number that an attribute holds; None where it cannot be read as one."""
    text = attribute(source, path)
    return int(text) if _NUMBER.fullmatch(text) else None


def folder_of(source: Source, path: str) -> str:
    """Return where a path leads, without links; the path itself where they go round in a circle."""
    try:
        return source.real(path)
    except OSError:
        return path


def function_of(source: Source, device: str) -> Function | None:
    """Return the function that a device is, or is part of; None for one that has none.

    Args:
        source: where to read.
        device: its folder, or the ``device`` link in a folder of ``/sys/class``.

    """
    parts = folder_of(source, device).split("/")
    while parts and not _is_address(parts[-1]):
        parts.pop()
    return function_at(source, parts[-1], "/".join(parts)) if parts else None


def function_at(source: Source, pci: str, folder: str = "") -> Function:
    """Return the function with an address, which need not be in the bus's folder.

    Args:
        source: where to read.
        pci: its address, as sysfs writes it.
        folder: what is known of where its attributes are.

    """
    folder = folder_of(source, folder or f"{FUNCTIONS}/{pci}")
    node = number(source, f"{folder}/numa_node")
    ids = (attribute(source, f"{folder}/{name}") for name in ("vendor", "device"))
    vendor, device = (_ID.fullmatch(text) for text in ids)
    return Function(
        pci=pci,
        folder=folder,
        path=_bridges(folder),
        numa=node if node is not None and node >= 0 else None,
        ids=f"{int(vendor[1], 16):04x}:{int(device[1], 16):04x}" if vendor and device else "",
        driver=posixpath.basename(source.link(f"{folder}/driver") or ""),
    )


def class_of(source: Source, pci: str) -> int:
    """Return class and subclass of a function, ``0x0302`` for a 3D controller; 0 if unknown."""
    match = _ID.fullmatch(attribute(source, f"{FUNCTIONS}/{pci}/class"))
    return int(match[1], 16) >> 8 if match else 0


def addresses(source: Source, vendor: str = "") -> list[str]:
    """Return the addresses of all functions that sysfs shows, or of those of a vendor, ``10de``."""
    found = [pci for pci in source.names(FUNCTIONS) if _is_address(pci)]
    if vendor:
        shown = f"0x{vendor}"
        found = [pci for pci in found if attribute(source, f"{FUNCTIONS}/{pci}/vendor") == shown]
    return sorted(found, key=bus_order)


def _is_address(name: str) -> bool:
    return bool(name) and parse_pci(name) == name


def _bridges(folder: str) -> tuple[str, ...]:
    # A host bridge may sit behind another function, as VMD's: all are kept, in order.
    kept = [part for part in folder.split("/") if _ROOT.fullmatch(part) or _is_address(part)]
    return tuple(kept) if kept and _ROOT.fullmatch(kept[0]) else ()
