"""Reading what probes and files say, which may be anything."""

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rdmatrain.doctor.model import Case

# Not even of bytes is there more; nor is infinity less than it, or what is no number.
MAX_NUMBER = 1e30


def own_address(case: Case) -> str:
    """Return the address that peers reach this pod by, for evidence and fixes."""
    interface, netdevs = case.found.interface, case.found.machine.netdevs
    found = next((dev for dev in netdevs if interface and dev.name == interface.name), None)
    return next(filter(can_be_reached, found.addresses if found else ()), "address unknown")


def can_be_reached(text: str) -> bool:
    """Tell whether other hosts can reach an address: it is not loopback or link-local."""
    if not is_address(text):
        return False
    address = ipaddress.ip_address(text.partition("%")[0])
    return not (address.is_loopback or address.is_link_local or address.is_unspecified)


def is_loopback(text: str) -> bool:
    """Tell whether an address leads to this host alone; what is no address does not."""
    return is_address(text) and ipaddress.ip_address(text.partition("%")[0]).is_loopback


def is_address(text: str) -> bool:
    """Tell whether a text is an IP address, with or without a zone."""
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def first_numbers(text: str) -> tuple[int, int]:
    """Return the first two numbers in a text; 0 for those that are not there."""
    words: Iterable[str] = re.findall(r"[0-9]{1,9}", text)
    low, high, *_ = (*map(int, words), 0, 0)
    return low, high


def section(facts: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    """Return a section of what a probe said; an empty one if it is none."""
    found = (facts or {}).get(name)
    return found if isinstance(found, Mapping) else {}


def texts(facts: Mapping[str, Any], name: str) -> Sequence[str]:
    """Return a list of texts; what is none is left out."""
    found = facts.get(name)
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def number(facts: Mapping[str, Any], name: str) -> float:
    """Return a number; 0 if it is none, or none that can be."""
    found = facts.get(name)
    return float(found) if isinstance(found, int | float) and abs(found) < MAX_NUMBER else 0.0
