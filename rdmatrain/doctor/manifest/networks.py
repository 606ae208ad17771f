"""The networks that a pod's annotation attaches: a list of names, or JSON."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from rdmatrain.doctor.manifest.workloads import RESOURCE_NAME, Pod

# All annotations of an object together have no more.
MAX_ANNOTATION = 256 << 10
_SHORT = re.compile(r"(?:([^/@\s]+)/)?([^/@\s]+)(?:@([^/@\s]+))?")


@dataclass(frozen=True)
class Networks:
    """What is to be attached.

    Attributes:
        names: as ``rdma-vf`` or ``ns/rdma-vf``, in order.
        interfaces: names that they get in the pod, in order.
        resources: how many of each resource they need; None where a definition is missing.
        unreadable: the annotation is neither a list of names nor JSON.

    """

    names: tuple[str, ...]
    interfaces: tuple[str, ...]
    resources: Counter[str] | None
    unreadable: bool = False

    @property
    def first(self) -> str:
        """Name of the first one; empty if there is none."""
        return self.names[0] if self.names else ""

    @classmethod
    def of(cls, pod: Pod) -> "Networks":
        """Read a pod's."""
        text = pod.annotation.text.strip()
        if len(text) > MAX_ANNOTATION:
            return cls((), (), None, unreadable=True)
        entries = _json(text) if text.startswith("[") else _names(text)
        if entries is None:
            return cls((), (), None, unreadable=True)
        interfaces = [netdev or f"net{place}" for place, (_, netdev) in enumerate(entries, 1)]
        names = tuple(name for name, _ in entries)
        return cls(names, tuple(interfaces), _resources(pod, names))


def _names(text: str) -> list[tuple[str, str]] | None:
    found = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        match = _SHORT.fullmatch(part)
        if match is None:
            return None
        space = f"{match[1]}/" if match[1] else ""
        found.append((space + match[2], match[3] or ""))
    return found


def _json(text: str) -> list[tuple[str, str]] | None:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entries, list):
        return None
    found = []
    for each in entries:
        entry = _entry(each)
        if entry is None:
            return None
        found.append(entry)
    return found


def _entry(network: Any) -> tuple[str, str] | None:
    if not isinstance(network, dict):
        return None
    values = (network.get(key) for key in ("name", "namespace", "interface"))
    name, space, netdev = (each if isinstance(each, str) else "" for each in values)
    if not name:
        return None
    return f"{space}/{name}" if space else name, netdev


def _resources(pod: Pod, names: tuple[str, ...]) -> Counter[str] | None:
    known = {
        each.get("metadata", "name").text: each.get("metadata", "annotations", RESOURCE_NAME).text
        for each in pod.manifest.of_kind("NetworkAttachmentDefinition")
    }
    short = [name.rpartition("/")[2] for name in names]
    if not names or any(name not in known for name in short):
        return None
    return Counter(known[name] for name in short if known[name])
