# SPDX-License-Identifier: Apache-2.0
"""What pods see, one file each in tests/fixtures/pods, and what discovery must make of it.

``nics``, ``gpus`` and ``netdevs`` are arguments of ``fake_machine.Builder``. In addition, a NIC has

* ``ip`` and ``gid``: its interface has that address, and its table the four entries that a driver
  makes for one, of which the last, RoCE v2 over IPv4, has that index (3 unless told otherwise);
* ``ib``: its link is InfiniBand;
* ``opens``: why libibverbs cannot open it; without it, it can if its node is there;
* ``works``: indexes of the GIDs that work; without it, all do.

A GPU that NVML does not show has ``shown: false``. ``init`` and ``parent`` are the environments of
process 1 and of the parent. A file may be JSON. ``probe: false`` leaves out what takes a call,
``rdma_cm: false`` the node of the connection manager.
"""

import errno
import json
import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from fake_machine import Builder
from fake_rdma import V1, V2, write_port
from memory_source import Link, MemorySource

from rdmatrain.discovery.allocation import reconcile
from rdmatrain.discovery.machine import read_machine
from rdmatrain.discovery.model import Complaint
from rdmatrain.discovery.pod import read_pod
from rdmatrain.discovery.pod_model import Allocation
from rdmatrain.discovery.source import Source, natural

Contents = dict[str, str | list[str] | Link | int]

FOLDER = Path(__file__).parents[1] / "fixtures" / "pods"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
# Hundreds of small files are written for a pod.
QUICK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
NOT_OPENED = "ibv_open_device {}: No such file or directory"
NOT_HERE = "ibv_create_ah: Invalid argument"


@dataclass(frozen=True)
class Answer:
    """What discovery says."""

    allocation: Allocation
    complaints: tuple[Complaint, ...]

    @property
    def devices(self) -> tuple[frozenset[str], frozenset[str]]:
        """GPUs and NICs, by what does not change when something is renamed."""
        return (
            frozenset(each.gpu.uuid or each.gpu.pci for each in self.allocation.gpus),
            frozenset(each.nic.auxiliary or each.nic.pci for each in self.allocation.nics),
        )

    @property
    def ids(self) -> list[str]:
        return sorted(complaint.id for complaint in self.complaints)


class Files(MemorySource):
    """A machine in a dictionary that does not change, read quickly."""

    @cached_property
    def _folders_of(self) -> dict[str, list[str]]:
        folders: dict[str, dict[str, None]] = {}
        for path, content in self.files.items():
            if isinstance(content, list):
                folders.setdefault(path, {}).update(dict.fromkeys(content))
            place = path
            while place != "/":
                folder, name = posixpath.split(place)
                folders.setdefault(folder, {})[name] = None
                place = folder
        return {folder: list(names) for folder, names in folders.items()}

    def _listed(self, folder: str) -> list[str] | None:
        return self._folders_of.get(folder)


@dataclass(frozen=True)
class Seen:
    """What a pod sees, and what discovery makes of it."""

    files: Contents
    probes: dict[str, Any]
    answer: Answer

    def but(self, files: Contents, **changed: Any) -> Answer:
        """What discovery makes of other files and probes."""
        return answer(Files(files, {**self.probes, **changed}))


@cache
def seen(name: str) -> Seen:
    """Return what the pod of a scenario sees."""
    scenario = load(name)
    with TemporaryDirectory(dir=QUICK) as folder:
        write(scenario, Path(folder))
        files = memorize(Path(folder))
    asked = probes(scenario)
    return Seen(files, asked, answer(Files(files, asked)))


def load(name: str) -> dict[str, Any]:
    """Read a scenario."""
    scenario: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))
    return scenario


def answer(source: Source) -> Answer:
    """Discover what a pod got."""
    machine, pod = read_machine(source), read_pod(source)
    allocation = reconcile(machine, pod, source.probe("verbs"))
    said = [*machine.complaints, *pod.complaints, *allocation.complaints]
    return Answer(allocation, tuple(said))


def write(scenario: Mapping[str, Any], root: Path) -> Source:
    """Write what a pod sees below a folder."""
    build = Builder(root)
    build.netdev("lo", addresses=("127.0.0.1/8",))
    for pci, function in scenario.get("functions", {}).items():
        build.function(pci, **function)
    for name, netdev in scenario.get("netdevs", {"eth0": {"addresses": ["10.244.1.5/24"]}}).items():
        build.netdev(name, **{**netdev, "addresses": tuple(netdev.get("addresses", ()))})
    for name, nic in scenario.get("nics", {}).items():
        _nic(build, name, nic)
    if (root / "dev/infiniband").is_dir() and scenario.get("rdma_cm", True):
        build.file("/dev/infiniband/rdma_cm")
    for gpu in scenario.get("gpus", []):
        build.gpu(**{key: gpu[key] for key in gpu if key not in {"shown", "mig"}})
    own = {"PATH": "/usr/bin", **scenario.get("environment", {})}
    build.environ("self", own).environ(1, {**own, **scenario.get("init", {})})
    build.file("/proc/self/status", f"Name:\tpython\nPPid:\t{7 if 'parent' in scenario else 1}\n")
    if "parent" in scenario:
        build.environ(7, scenario["parent"])
    annotations = scenario.get("annotations", {})
    if annotations:
        lines = (f"{key}={json.dumps(_text(value))}" for key, value in annotations.items())
        build.file("/etc/podinfo/annotations", "".join(f"{line}\n" for line in lines))
    for path, content in scenario.get("files", {}).items():
        build.file(path, _text(content))
    for path, target in scenario.get("links", {}).items():
        build.link(path, target)
    return build.source(probes(scenario))


def probes(scenario: Mapping[str, Any]) -> dict[str, Any]:
    """Return what libibverbs and NVML say."""
    if not scenario.get("probe", True):
        return {}
    ports = [
        _opened(name, nic)
        for name, nic in sorted(scenario.get("nics", {}).items(), key=lambda each: natural(each[0]))
    ]
    shown = [gpu for gpu in scenario.get("gpus", []) if gpu.get("shown", True)]
    nvml = [
        {"index": index, "name": "NVIDIA H100 80GB HBM3", "mig": gpu.get("mig", [])}
        | {key: gpu.get(key) for key in ("uuid", "pci", "minor")}
        for index, gpu in enumerate(shown)
    ]
    error = "" if shown else "NVML: Driver Not Loaded"
    return {
        "verbs": scenario.get("verbs", {"error": "", "ports": ports}),
        "nvml": {"error": error, "gpus": nvml},
    }


def memorize(root: Path) -> Contents:
    """Return all files below a folder, as MemorySource takes them."""
    found: Contents = {}
    for folder, folders, names in os.walk(root):
        for path in (Path(folder) / name for name in [*folders, *names]):
            place = f"/{path.relative_to(root)}"
            if path.is_symlink():
                target = str(path.readlink())
                # Of an attribute that cannot be read.
                found[place] = errno.EINVAL if target == "/proc/self/mem" else Link(target)
            elif path.is_file():
                found[place] = path.read_text("utf-8")
    return found


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content)


def _nic(build: Builder, name: str, nic: Mapping[str, Any]) -> None:
    arguments = {
        key: nic[key] for key in nic if key not in {"ip", "gid", "ib", "aux", "opens", "works"}
    }
    netdev = nic.get("netdev", "")
    arguments["gids"] = _table(nic)
    arguments["under"] = tuple(nic.get("under", ["pci0000:00"]))
    if nic.get("ib"):
        arguments["link_layer"] = "InfiniBand"
    if "aux" in nic:
        _subfunction(build, name, nic, arguments["gids"])
    else:
        build.nic(name, **arguments)
    if netdev and "ip" in nic:
        # As RoCE needs it to have an MTU of 4096, which these ports have.
        build.netdev(netdev, nic.get("pci", ""), mtu=9000, addresses=(nic["ip"],))


def _subfunction(build: Builder, name: str, nic: Mapping[str, Any], gids: dict[int, Any]) -> None:
    """Write a device of the auxiliary bus, below its parent's function."""
    build.function(nic["pci"], ids="15b3:1021")
    parent = f"/sys/devices/pci0000:00/{nic['pci']}/{nic['aux']}"
    build.link(f"{parent}/infiniband/{name}/device", parent)
    build.files(f"{parent}/net/{nic['netdev']}", mtu=9000, operstate="up")
    build.link(f"{parent}/net/{nic['netdev']}/device", parent)
    build.link(f"/sys/class/net/{nic['netdev']}", f"{parent}/net/{nic['netdev']}")
    build.link(f"/sys/class/infiniband/{name}", f"{parent}/infiniband/{name}")
    entries = {index: (*entry, nic["netdev"]) for index, entry in gids.items()}
    write_port(build.root, f"{name}/1", entries)
    build.files("/sys/class/infiniband_verbs/uverbs9", ibdev=name).file("/dev/infiniband/uverbs9")


def _table(nic: Mapping[str, Any]) -> dict[int, Any]:
    table = {index: tuple(entry) for index, entry in nic.get("gids", {}).items()}
    if "ip" in nic and not nic.get("ib"):
        last = nic.get("gid", 3)
        local, ip = f"fe80::{last:x}", nic["ip"].partition("/")[0]
        entries = [(local, V1), (local, V2), (ip, V1), (ip, V2)]
        table |= {last - 3 + place: entry for place, entry in enumerate(entries)}
    return table


def _opened(name: str, nic: Mapping[str, Any]) -> dict[str, Any]:
    reason = nic.get("opens", "" if nic.get("node", True) else NOT_OPENED.format(name))
    if reason:
        return {"device": name, "port": 0, "error": reason, "state": "", "gids": {}}
    state = nic.get("state", "4: ACTIVE").partition(": ")[2]
    table = _table(nic)
    works = nic.get("works", list(table))
    gids = {str(index): "" if index in works else NOT_HERE for index in sorted(table)}
    return {
        "device": name,
        "port": 1,
        "error": "",
        "state": state,
        "active_mtu": 4096,
        "speed_gbps": 400.0,
        "gids": gids if state == "ACTIVE" else {},
    }
