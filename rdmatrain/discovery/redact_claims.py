"""Metadata of Dynamic Resource Allocation without names of claims, pods, nodes and projects."""

import json
import re
from typing import Any

# <root>/resourceclaims/<claim>/<request>/<driver>-metadata.json; the KEP's text has it shorter.
_PATH = re.compile(r"(?P<root>(?:/[^/]+)*/dra-device-attributes(?:/resourceclaims)?)/(?P<rest>.+)")
# What dra.py reads; of attributes, their names after the slash.
_KEPT = {"apiVersion", "requests", "name", "devices", "driver", "networkData", "podClaimName"}
_KEPT |= {"ips", "addresses", "interfaceName"}
_ATTRIBUTES = {"pciBusID", "pciAddress", "pfPciAddress", "pcieRoot", "numaNode", "rdma", "type"}
_ATTRIBUTES |= {"rdmaDevice", "rdmaDevices", "rdmaCapable", "ifName", "interfaceName", "uuid"}
_ATTRIBUTES |= {"index", "minor"}


def redact_claims(saved: dict[str, Any]) -> None:
    """Rename claims and requests in paths, and keep of each file what is read, in place."""
    names = _Names()
    for at, listed in saved["folders"].items():
        saved["folders"][at] = [
            names.in_path(f"{at}/{each}").rpartition("/")[2] for each in sorted(listed)
        ]
    for section in ("files", "errors", "links", "folders"):
        saved[section] = {names.in_path(at): each for at, each in sorted(saved[section].items())}
    for at, text in saved["files"].items():
        if _PATH.fullmatch(at) and at.endswith(".json"):
            saved["files"][at] = _rewritten(text, names)


class _Names:
    """Placeholders for claims and requests: claim0, claim1..."""

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}

    def of(self, name: str) -> str:
        return self._seen.setdefault(name, f"claim{len(self._seen)}")

    def in_path(self, path: str) -> str:
        match = _PATH.fullmatch(path)
        if not match:
            return path
        parts = match["rest"].split("/")
        for at, part in enumerate(parts[:2]):
            if part != "resourceclaims" and not part.startswith("..") and ".json" not in part:
                parts[at] = self.of(part)
        return "/".join([match["root"], *parts])


def _rewritten(text: str, names: _Names) -> str:
    documents, torn = _stream(text)
    kept = [json.dumps(_kept(each, names)) for each in documents]
    return "\n".join([*kept, "{"] if torn else kept)


def _stream(text: str) -> tuple[list[Any], bool]:
    """Return the values that follow each other, and whether something else follows them."""
    found: list[Any] = []
    rest = text.lstrip()
    while rest:
        try:
            value, end = json.JSONDecoder().raw_decode(rest)
        except (ValueError, RecursionError):
            return found, True
        found.append(value)
        rest = rest[end:].lstrip()
    return found, False


def _kept(value: Any, names: _Names) -> Any:
    if isinstance(value, list):
        return [_kept(each, names) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _kept(each, names) for key, each in value.items() if key in _KEPT}
    # A device has its driver's name for it; that of a request is its user's.
    for key in ("podClaimName", "name" if "devices" in value else ""):
        if kept.get(key) and isinstance(kept[key], str):
            kept[key] = names.of(kept[key])
    return kept | _attributes(value)


def _attributes(device: dict[str, Any]) -> dict[str, Any]:
    """Return attributes that are read; before the slash may be a company, or a project."""
    found = device.get("attributes")
    if not isinstance(found, dict):
        return {}
    kept: dict[str, Any] = {}
    for key in sorted(found):
        domain, _, name = key.rpartition("/")
        if name in _ATTRIBUTES:
            ours = domain.startswith("resource.")
            kept.setdefault(f"{domain}/{name}" if ours else f"driver/{name}", found[key])
    return {"attributes": kept}
