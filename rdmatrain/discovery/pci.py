"""PCI addresses and CPU lists, in every way that drivers, tools and people write them."""

import re

_ADDRESS = re.compile(
    r"(?:(?P<domain>[0-9a-f]{1,8}):)?(?P<bus>[0-9a-f]{1,2}):(?P<slot>[0-9a-f]{1,2})"
    r"\.(?P<function>[0-7])",
    re.IGNORECASE | re.ASCII,
)
_WORD = re.compile(r"(?:0x)?[0-9a-f]{1,8}|", re.IGNORECASE | re.ASCII)
_RANGE = re.compile(r"(\d{1,7})(?:-(\d{1,7}))?", re.ASCII)
MAX_CPUS = 1 << 16
# Display controllers and processing accelerators: NVIDIA has 0300 and 0302, AMD also 0380 and 1200.
SCREEN_CLASS = 0x0300
GPU_CLASSES = frozenset({SCREEN_CLASS, 0x0302, 0x0380, 0x1200})


def parse_pci(text: str) -> str:
    """Return an address as sysfs names it, ``0000:0c:00.2``; empty for what is none.

    NVML pads the domain to eight digits, ``lspci`` leaves it out, DRA puts ``-`` for ``:`` and
    ``.``: all are read. Domains above ``ffff``, which Hyper-V makes, keep their digits.
    """
    text = text.strip()
    dashed = re.fullmatch(r"(?:pci-)?([0-9a-fA-F]{4,8})-(\w\w)-(\w\w)-([0-7])", text, re.ASCII)
    if dashed:
        text = "{}:{}:{}.{}".format(*dashed.groups())
    match = _ADDRESS.fullmatch(text)
    if not match:
        return ""
    domain, bus, slot = (int(match[part] or "0", 16) for part in ("domain", "bus", "slot"))
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{match['function']}" if slot < 32 else ""


def bus_order(pci: str) -> tuple[int, ...]:
    """Sort key: the order of the bus, by which CUDA counts too; what has no address is last."""
    return tuple(int(part, 16) for part in re.split("[:.]", pci)) if pci else (1 << 32,)


def parse_cpus(text: str) -> tuple[int, ...]:
    """Read a list as in ``0-3,8``; empty where any part of it cannot be read."""
    cpus: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < MAX_CPUS:
            return ()
        cpus.update(range(first, last + 1))
    return tuple(sorted(cpus))


def parse_mask(text: str) -> tuple[int, ...]:
    """Read a mask of 32-bit words as NCCL and hwloc write it: ``0x000000ff,,0xffffffff``.

    Empty where any part of it cannot be read.
    """
    words = text.strip().split(",")
    if len(words) > MAX_CPUS // 32 or not all(_WORD.fullmatch(word) for word in words):
        return ()
    bits = "".join(f"{int(word or '0', 16):032b}" for word in words)
    return tuple(cpu for cpu, bit in enumerate(reversed(bits)) if bit == "1")


def format_cpus(cpus: tuple[int, ...]) -> str:
    """Write ascending CPU numbers as a list, ``0-3,8``."""
    runs: list[list[int]] = []
    for cpu in cpus:
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
