"""What the nodes of a gang must have in common, and where each of them finds it."""

import os
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
from rdmatrain.launcher.sources import Sources, digest, read, sources_of

if TYPE_CHECKING:
    from rdmatrain.discovery.survey import Survey

# So many of the files that the code imports are compared by name too: the odd one is told.
MAX_NAMED_FILES = 16
# Settings that decide how ranks talk; the others are each node's own affair.
_SHARED = (
    "transport", "require", "tuning", "traffic_class", "service_level", "pkey", "mtu", "retry_ms",
)  # fmt: skip
# Says which image this is: a pod is not told its image's id.
_RELEASE = Path("/etc/os-release")


def host_name() -> str:
    """Return what this host is called in messages and reports: of plain letters, never empty."""
    return re.sub(r"[^0-9A-Za-z_.-]", "-", socket.gethostname()) or "localhost"


def facts_of(job: Job, survey: "Survey | None") -> Join:
    """Return what a node says of itself when it joins.

    Name and epoch of the job are not among it: a channel opens only between two of one job.
    Neither is the number of workers, which may differ. A lone node agrees with itself.

    Args:
        job: its own.
        survey: what discovery found; None if it did not look.

    """
    return Join(
        host=host_name(),
        address=job.gang.local_addr,
        nproc=job.nproc,
        node_rank=job.gang.node_rank,
        agree={} if job.gang.alone else _agree(job, survey),
    )


def _agree(job: Job, survey: "Survey | None") -> Mapping[str, str]:
    agree = {name: find(job, survey) or UNKNOWN for name, find in MUST_AGREE.items()}
    return agree | _code(job)


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
    release = read(_RELEASE)
    return digest(release + platform.machine().encode()) if release else ""


def _packages(_: Job, __: "Survey | None") -> str:
    """Return how many packages are beside torch, and a fingerprint of their names and versions.

    Not those of the system and the user, which may differ from host to host: tools, as a rule.
    """
    try:
        folder = Path(str(metadata.distribution("torch").locate_file("")))
    except metadata.PackageNotFoundError:
        return ""
    # Names with "~" are what an update by pip that was interrupted has left.
    names = {path.name for path in folder.glob("[!~]*.dist-info")}
    return f"{len(names)} {digest(' '.join(sorted(names)).encode())}" if names else ""


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


def _code(job: Job) -> dict[str, str]:
    """Return the fingerprints of the code: of the script, of all it imports, of some by name.

    Where a limit is hit, what the script imports is unknown, which agrees with what others know.
    """
    path, root = _code_path(job)
    code = read(path) if path else b""
    if path is None or not code:
        return {"the code": UNKNOWN, "the code that it imports": UNKNOWN}
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    roots = [root, *map(Path, filter(None, paths))]
    try:
        sources = sources_of(path, roots, job.program.script if job.program.module else "")
    except (OSError, RuntimeError):  # no folder to be in, or a circle of links
        sources = Sources({}, complete=False)
    files = sources.digests
    alike = f"{len(files)} files {digest(' '.join(sorted(files.values())).encode())}"
    return {
        "the code": f"{path.name} {digest(code)}",
        "the code that it imports": alike if sources.complete else UNKNOWN,
        **{f"the code of {name}": files[name] for name in list(files)[:MAX_NAMED_FILES]},
    }


def _code_path(job: Job) -> tuple[Path | None, Path]:
    """Return the file that each worker starts with, and where it looks for modules.

    Of a program of its own, nothing tells which file it is.
    """
    program = job.program
    if program.no_python:
        return None, Path()
    if not program.module:
        path = Path(program.script)
        return path, Path() if program.run_path else path.parent
    parts = program.script.split(".")
    for folder in ("", *sys.path):
        base = Path(folder).joinpath(*parts)
        for path in (base.with_suffix(".py"), base / "__main__.py"):
            if path.is_file():
                return path, Path(folder)
    return None, Path()


# What is compared beside the code, by the words that texts use; each finds its value, or nothing.
MUST_AGREE: Mapping[str, "Callable[[Job, Survey | None], str]"] = {
    "the number of nodes": _nodes,
    "torch's version": _torch,
    "rdmatrain's version": _rdmatrain,
    "Python's version": _python,
    "the image (its /etc/os-release)": _image,
    "the installed packages (compare pip freeze, or give all nodes one image)": _packages,
    "the transport": _transport,
    "the number of GPUs": _gpus,
    "the number of RDMA NICs": _nics,
    "the MTU of RDMA NICs": _mtu,
}
