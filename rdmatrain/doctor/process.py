"""What procfs says of a process: its limits, capabilities and user."""

import re
from dataclasses import dataclass

from rdmatrain.discovery.source import Source
from rdmatrain.doctor.job import size

UNLIMITED = -1
CAP_IPC_LOCK = 14
LIMITS = "/proc/self/limits"
STATUS = "/proc/self/status"

_LINE = re.compile(r"^(Max [a-z ]+?) {2,}(\S+) +(\S+)(?: |$)", re.MULTILINE)


@dataclass(frozen=True)
class Limit:
    """A soft and a hard limit; :data:`UNLIMITED` for none."""

    soft: int
    hard: int

    def allows(self, wanted: int, hard: bool = False) -> bool:
        """Tell whether as much is within the soft, or within the hard limit."""
        most = self.hard if hard else self.soft
        return most == UNLIMITED or most >= wanted


@dataclass(frozen=True)
class Capability:
    """Whether a process has a capability, and could get it.

    Attributes:
        effective: the kernel honours it.
        bounding: an executable with file capabilities, or root, would get it.
        initial: this is the first user namespace: in others it does not count for locked memory.

    """

    effective: bool
    bounding: bool
    initial: bool

    @property
    def counts(self) -> bool:
        """The limit of locked memory does not apply."""
        return self.effective and self.initial


def limit(source: Source, name: str) -> Limit | None:
    """Return a limit, as of ``Max locked memory``; None where it is not shown."""
    for found in _LINE.finditer(source.text(LIMITS) or ""):
        soft, hard = (_number(text) for text in found.groups()[1:])
        if found[1] == name and soft is not None and hard is not None:
            return Limit(soft, hard)
    return None


def capability(source: Source, number: int) -> Capability | None:
    """Return what is known of a capability; None where it is not shown."""
    sets = [_status(source, name) for name in ("CapEff", "CapBnd")]
    effective, bounding = (
        bool(int(text, 16) >> number & 1) if re.fullmatch("[0-9a-f]{1,16}", text) else None
        for text in sets
    )
    if effective is None:
        return None
    # "0 0 4294967295": all users are themselves.
    users = (source.text("/proc/self/uid_map") or "").split()
    return Capability(effective, bool(bounding), users in ([], ["0", "0", "4294967295"]))


def user(source: Source) -> int | None:
    """Return the effective user id; None where it is not shown."""
    ids = _status(source, "Uid").split()
    return int(ids[1]) if len(ids) > 1 and re.fullmatch("[0-9]{1,10}", ids[1]) else None


def shown(most: int) -> str:
    """Write a limit of bytes for people."""
    return "unlimited" if most == UNLIMITED else size(most)


def _status(source: Source, name: str) -> str:
    found = re.search(rf"^{name}:\s*(.*)$", source.text(STATUS) or "", re.MULTILINE)
    return found[1].strip() if found else ""


def _number(text: str) -> int | None:
    if text == "unlimited":
        return UNLIMITED
    return int(text) if re.fullmatch("[0-9]{1,20}", text) else None
