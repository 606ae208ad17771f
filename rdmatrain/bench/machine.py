"""Where a run was measured: machine, versions, commit, and the NIC. Nothing here imports torch."""

import logging
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import rdmatrain
from rdmatrain import _core
from rdmatrain.bench.model import Context, Nic
from rdmatrain.comm.rdma import find_rails
from rdmatrain.config import Settings, load_settings
from rdmatrain.discovery.machine import line_of
from rdmatrain.discovery.ports import DEVICES
from rdmatrain.discovery.probes import Verbs
from rdmatrain.discovery.quota import memory_limit
from rdmatrain.discovery.source import Source, Tree
from rdmatrain.discovery.sysfs import attribute
from rdmatrain.errors import BootstrapError

logger = logging.getLogger(__name__)

# git reads all files of a checkout for -dirty.
GIT_SECONDS = 10.0


def context_of(
    command: str,
    pinned: bool,
    versions: dict[str, str],
    nic: Nic | None,
    source: Source | None = None,
) -> Context:
    """Return where and of what a run is measured that starts now.

    Args:
        command: the command line.
        pinned: ranks are bound to one CPU each.
        versions: of the contestants' libraries, by name; rdmatrain, python and torch are added.
        nic: the port that was used, if any.
        source: where the machine is read; None for this one.

    """
    source = source or Tree()
    return Context(
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        # An argument need not be text; what is written is.
        command=command.encode("utf-8", "backslashreplace").decode(),
        commit=commit_of(Path(rdmatrain.__file__).resolve().parent),
        machine=line_of(source, "/proc/cpuinfo", "model name") or platform.machine(),
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=_memory_bytes(source),
        kernel=platform.release(),
        host=platform.node(),
        versions=_own_versions() | versions,
        nic=nic,
        pinned=pinned,
    )


def nic_in_use(
    settings: Settings | None = None, verbs: Verbs = _core, source: Source | None = None
) -> Nic | None:
    """Return the port that verbs would use first with the settings of the environment.

    Args:
        settings: these instead.
        verbs: opens devices and tests GIDs.
        source: where sysfs is read; None for this machine.

    Returns:
        None if there is none, or none that can be used.

    Raises:
        SettingError: a variable is wrong.

    """
    source = source or Tree()
    try:
        rails = find_rails(settings or load_settings(), verbs, source).rails
    except BootstrapError as error:
        logger.debug("no NIC: %s", error)  # the ranks that need it say so
        return None
    if not rails:
        return None
    rail = rails[0]
    return Nic(
        device=rail.port.device,
        port=rail.port.number,
        link_layer=rail.port.link_layer,
        rate_gbps=rail.gbps,
        firmware=attribute(source, f"{DEVICES}/{rail.port.device}/fw_ver"),
        mtu=rail.mtu,
        gid_index=rail.gid.index,
        gid=rail.gid.address,
    )


def commit_of(package: Path) -> str:
    """Return the commit of the checkout whose package this is; empty if it is of none.

    A package that is installed into a folder of another project's checkout is not of that one.

    Args:
        package: its folder.

    """
    top = _git(package, "rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != package.parent:
        return ""
    return _git(package, "describe", "--always", "--dirty")


def _git(folder: Path, *words: str) -> str:
    # A hook of git sets variables that point at its own repository.
    environ = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            env=environ | {"GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError) as error:
        logger.debug("no commit: %s", error)
        return ""
    return done.stdout.strip()


def _memory_bytes(source: Source) -> int:
    """Return what the machine has, or what the cgroups of this process allow if it is less."""
    kib = line_of(source, "/proc/meminfo", "MemTotal").partition(" ")[0]
    total = int(kib) * 1024 if kib.isdecimal() else 0
    limit = memory_limit(source)
    return min(total or limit, limit) if limit else total


def _own_versions() -> dict[str, str]:
    versions = {"rdmatrain": rdmatrain.__version__, "python": platform.python_version()}
    try:
        versions["torch"] = metadata.version("torch")
    except metadata.PackageNotFoundError:
        logger.debug("torch is not installed")
    return versions
