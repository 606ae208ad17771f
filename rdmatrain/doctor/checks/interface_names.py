"""Interfaces and addresses that variables name."""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping

from rdmatrain.discovery.claims.values import shown
from rdmatrain.doctor.facts import complaints, said
from rdmatrain.doctor.model import Case, Finding, failed, warned

# What the two libraries for CPU tensors take: whole names of interfaces, with commas.
WHOLE_NAMES = ("GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME")


def interfaces_wrong(case: Case, environ: Mapping[str, str]) -> list[Finding]:
    """Judge what variables name and no interface here is or has."""
    for_nccl = failed if case.found.allocation.gpus else warned
    found = [
        for_nccl(said(each), f"unset {each.source.partition('=')[0]}")
        for each in complaints(case, "variable-interface")
    ]
    names = [dev.name for dev in case.found.machine.netdevs]
    for name in WHOLE_NAMES:
        found += _missing(name, environ, names)
    return found + _foreign_address(case, environ)


def _missing(name: str, environ: Mapping[str, str], names: Iterable[str]) -> Iterator[Finding]:
    here = set(names)
    wanted = [item.strip() for item in environ.get(name, "").split(",") if item.strip()]
    for item in (item for item in wanted if item not in here):
        text = f"{name}={shown(environ[name])}: there is no interface {shown(item)} here"
        text += f": there are {', '.join(sorted(here))}"
        yield (failed if name.startswith("GLOO") else warned)(text, f"unset {name}")


def _foreign_address(case: Case, environ: Mapping[str, str]) -> list[Finding]:
    """Find an address to listen on that no interface has; a name is for the network's checks."""
    value = environ.get("RDMATRAIN_ADDR", "").strip()
    here = {address for dev in case.found.machine.netdevs for address in dev.addresses}
    try:
        wanted = str(ipaddress.ip_address(value))
    except ValueError:
        return []
    if wanted in here or not here or ipaddress.ip_address(value).is_loopback:
        return []
    text = f"RDMATRAIN_ADDR={wanted} is no address of this pod: they are {', '.join(sorted(here))}"
    return [failed(text, "unset RDMATRAIN_ADDR")]
