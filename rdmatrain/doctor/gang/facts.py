"""What a rank knows of its pod: versions, and the RDMA ports that the job would use."""

import os
import platform
import re
from importlib import metadata
from pathlib import Path

from rdmatrain import __version__
from rdmatrain.comm import host, rdma
from rdmatrain.config import Settings
from rdmatrain.doctor.gang.model import Plan, Pod, RailFact
from rdmatrain.errors import BootstrapError
from rdmatrain.launcher.facts import host_name

MAPS = Path("/proc/self/maps")
# libibverbs.so.1.14.50.0 is of rdma-core 50.
_LIBRARY = re.compile(r"libibverbs\.so\.1\.\d+\.(\d+)\.")


def find_rails(settings: Settings) -> rdma.Search:
    """Return the RDMA ports that the job would use; a device that is named and missing is a reason.

    Args:
        settings: the job's.

    """
    try:
        return rdma.find_rails(settings)
    except BootstrapError as error:
        return rdma.Search((), str(error), present=True)


def pod_of(rank: int, plan: Plan, settings: Settings, found: rdma.Search) -> Pod:
    """Return what a rank says of its pod.

    Args:
        rank: whose pod it is.
        plan: of its doctor.
        settings: the job's.
        found: its RDMA ports.

    """
    wants = settings.transport if settings.transport != "auto" else settings.require
    rails = (
        RailFact(port=str(rail.port), link_layer=rail.port.link_layer, mtu=rail.mtu, gbps=rail.gbps)
        for rail in found.rails
    )
    return Pod(
        rank=rank,
        host=host_name(),
        host_id=host.host_id(),
        address=settings.addr,
        versions=versions(),
        gpus=plan.gpus,
        rails=tuple(rails),
        no_rails=found.why_not,
        has_rdma=found.present,
        wants=wants,
        findings=plan.findings,
    )


def versions() -> dict[str, str]:
    """Return versions of what the job is made of; what is not there has none."""
    found = {
        "rdmatrain": __version__,
        "torch": _version("torch"),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "kernel": platform.release(),
        "rdma-core": rdma_core(_maps()),
    }
    return {name: value for name, value in found.items() if value}


def rdma_core(maps: str) -> str:
    """Return the version of rdma-core by what is mapped; empty if libibverbs is not loaded.

    Args:
        maps: the text of ``/proc/self/maps``.

    """
    for path in dict.fromkeys(line.split()[-1] for line in maps.splitlines() if "ibverbs" in line):
        if match := _LIBRARY.search(os.path.realpath(path)):
            return match[1]
    return ""


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _maps() -> str:
    try:
        return MAPS.read_text("utf-8", errors="replace")
    except OSError:
        return ""
