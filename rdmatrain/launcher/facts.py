"""What the nodes of a gang must have in common, and where each of them finds it."""

import hashlib
import platform
import re
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from rdmatrain import __version__
from rdmatrain.config import Settings, load_settings
from rdmatrain.errors import SettingError
from rdmatrain.launcher.job import Job
from rdmatrain.launcher.membership import UNKNOWN
from rdmatrain.launcher.messages import Join

if TYPE_CHECKING:
    from rdmatrain.discovery.survey import Survey

MAX_CODE_BYTES = 16 << 20
# Settings that decide how ranks talk; the others are each node's own affair.
_SHARED = (
    "transport", "require", "tuning", "traffic_class", "service_level", "pkey", "mtu",
)  # fmt: skip
# Says which image this is: a pod is not told its image's id.
_RELEASE = Path("/etc/os-release")


def host_name() -> str:
    """Return what this host is called in messages and reports: of plain letters, never empty."""
    return re.sub(r"[^0-9A-Za-z_.-]", "-", socket.gethostname()) or "localhost"


def facts_of(job: Job, survey: "Survey | None") -> Join:
    """Return what a node says of itself when it joins.

    Name and epoch of the job are not among it: a channel opens only between two of one job.
    Neither is the number of workers, which may differ.

    Args:
        job: its own.
        survey: what discovery found; None if it did not look.

    """
    return Join(
        host=host_name(),
        address=job.gang.local_addr,
        nproc=job.nproc,
        node_rank=job.gang.node_rank,
        agree={name: find(job, survey) or UNKNOWN for name, find in MUST_AGREE.items()},
    )


def _nodes(job: Job, _: "Survey | None") -> str:
    fewest, most = job.gang.min_nodes, job.gang.max_nodes
    return str(most) if fewest == most else f"{fewest} to {most}"


def _torch(_: Job, __: "Survey | None") -> str:
    try:
        return metadata.version("torch")  # to import it takes a second
    except metadata.PackageNotFoundError:
        return ""


def _rdmatrain(_: Job, __: "Survey | None") -> str:
    return __version__


def _python(_: Job, __: "Survey | None") -> str:
    return ".".join(platform.python_version_tuple()[:2])


def _image(_: Job, __: "Survey | None") -> str:
    release = _read(_RELEASE)
    return _digest(release + platform.machine().encode()) if release else ""


def _transport(job: Job, _: "Survey | None") -> str:
    try:
        settings = asdict(load_settings(given=job.settings))
    except SettingError:
        return ""  # the workers will say what is wrong
    usual = {field.name: field.default for field in fields(Settings)}
    changed = [f"{name}={settings[name]}" for name in _SHARED if settings[name] != usual[name]]
    return " ".join(changed) or "as by default"


def _gpus(_: Job, survey: "Survey | None") -> str:
    return str(len(survey.allocation.gpus)) if survey else ""


def _nics(_: Job, survey: "Survey | None") -> str:
    return str(len(survey.allocation.nics)) if survey else ""


def _mtu(_: Job, survey: "Survey | None") -> str:
    """Return the MTU of the network interfaces of the RDMA NICs: the active one follows from it."""
    if survey is None:
        return ""
    names = {name for each in survey.allocation.nics for name in each.nic.netdevs}
    found = {dev.mtu for dev in survey.machine.netdevs if dev.name in names and dev.mtu}
    return ", ".join(str(mtu) for mtu in sorted(found))


def _code(job: Job, _: "Survey | None") -> str:
    path = _code_path(job)
    code = _read(path) if path else b""
    return f"{path.name} {_digest(code)}" if path and code else ""


def _code_path(job: Job) -> Path | None:
    """Return the file that each worker starts with: of a program, nothing tells which it is."""
    program = job.program
    if program.no_python:
        return None
    if not program.module:
        return Path(program.script)
    parts = program.script.split(".")
    for folder in ("", *sys.path):
        base = Path(folder).joinpath(*parts)
        for path in (base.with_suffix(".py"), base / "__main__.py"):
            if path.is_file():
                return path
    return None


def _read(path: Path) -> bytes:
    """Return a file's bytes; none if it cannot be read, is none, or is too large to be code."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_CODE_BYTES:
            return b""
        return path.read_bytes()
    except OSError:
        return b""


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()[:12]}"


# What is compared, by the words that texts use; each finds its value, or nothing.
MUST_AGREE: Mapping[str, "Callable[[Job, Survey | None], str]"] = {
    "the number of nodes": _nodes,
    "torch's version": _torch,
    "rdmatrain's version": _rdmatrain,
    "Python's version": _python,
    "the image (its /etc/os-release)": _image,
    "the transport": _transport,
    "the number of GPUs": _gpus,
    "the number of RDMA NICs": _nics,
    "the MTU of RDMA NICs": _mtu,
    "the code": _code,
}
