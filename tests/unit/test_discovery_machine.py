# SPDX-License-Identifier: Apache-2.0
"""A machine is read whole; what breaks on the way leaves the rest as it is."""

import errno
import os
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import pytest
from fake_machine import Builder
from fake_rdma import V1, V2
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.discovery.complaints import MEANING
from rdmatrain.discovery.machine import read_machine
from rdmatrain.discovery.model import Machine, Node
from rdmatrain.discovery.probes import live
from rdmatrain.discovery.snapshot import Recorder, dump, load
from rdmatrain.discovery.source import Source, Tree

SWITCH = ("pci0000:07", "0000:07:01.0", "0000:08:00.0")
FILES = {
    "/proc/self/status": "Name:\tpython\nCpus_allowed:\tff\nCpus_allowed_list:\t0-1,8-9\n",
    "/proc/cpuinfo": "processor\t: 0\nvmx flags\t: hypervisor\nflags\t\t: fpu vme hypervisor\n",
    "/sys/class/dmi/id/sys_vendor": "Amazon EC2\n",
    "/sys/class/dmi/id/product_name": "p5.48xlarge\n",
}


def write_pod(root: Path) -> Builder:
    """A pod with one GPU and a VF beside it."""
    builder = Builder(root)
    gids = {0: ("fe80::1", V1), 1: ("fe80::1", V2), 3: ("10.0.0.1", V2)}
    builder.nic("mlx5_4", "0000:0c:00.2", SWITCH, pf="0000:0c:00.0", netdev="net1", gids=gids)
    builder.nic("rxe0", netdev="eth0").gpu("0000:0b:00.0", SWITCH, uuid="GPU-1", minor=3, numa=1)
    builder.netdev("eth0", addresses=("10.244.1.7/24", "fd00::7/64"))
    builder.netdev("net1", "0000:0c:00.2", mac="02:00:00:00:00:77", mtu=9000)
    builder.netdev("net1", addresses=("10.0.0.1/16",), mac="02:00:00:00:00:77", mtu=9000)
    builder.numa(0, "0-3,8-11").numa(1, "4-7,12-15").numa(2, "")
    for path, text in FILES.items():
        builder.file(path, text)
    return builder


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return write_pod(tmp_path_factory.mktemp("pod"))


@pytest.mark.parametrize(
    ("text", "expected"), [("Y\n", "shared"), ("N\n", "exclusive"), ("?", ""), (None, "")]
)
def test_the_kernel_says_whose_rdma_devices_are_visible(
    text: str | None, expected: str, tmp_path: Path
) -> None:
    builder = Builder(tmp_path)
    if text is not None:
        builder.file("/sys/module/ib_core/parameters/netns_mode", text)
    assert read_machine(builder.source()).namespaces == expected


def test_all_parts_of_a_machine_are_read(pod: Builder) -> None:
    machine = read_machine(pod.source())
    assert [(gpu.pci, gpu.uuid) for gpu in machine.gpus] == [("0000:0b:00.0", "GPU-1")]
    assert [(nic.name, nic.pci) for nic in machine.nics] == [
        ("mlx5_4", "0000:0c:00.2"),
        ("rxe0", ""),
    ]
    assert [netdev.name for netdev in machine.netdevs] == ["eth0", "net1"]
    assert machine.nodes == (
        Node(0, (0, 1, 2, 3, 8, 9, 10, 11)),
        Node(1, (4, 5, 6, 7, 12, 13, 14, 15)),
        Node(2, ()),  # of memory alone
    )
    assert machine.cpus == (0, 1, 8, 9)
    assert (machine.product, machine.virtual) == ("Amazon EC2 p5.48xlarge", True)
    assert machine.origin == "this machine" and machine.complaints == ()


def test_an_empty_root_is_a_machine_of_which_nothing_is_known(tmp_path: Path) -> None:
    assert read_machine(Tree(tmp_path), "a folder") == Machine(origin="a folder")


def test_a_snapshot_gives_the_machine_that_was_saved(pod: Builder) -> None:
    gpu = {"index": 0, "uuid": "GPU-9", "pci": "0000:0b:00.0", "name": "x", "minor": 3, "mig": []}
    recorder = Recorder(pod.source({"nvml": {"error": "", "gpus": [gpu]}}))
    machine = read_machine(recorder)
    assert [gpu.uuid for gpu in machine.gpus] == ["GPU-9"]
    assert read_machine(load(dump(recorder, redact=False), "a file")) == machine


@pytest.mark.parametrize(
    ("text", "virtual"),
    [
        ("vmx flags\t: hypervisor\nflags\t\t: fpu vme\n", False),
        ("flags\t\t: fpu hypervisor\n", True),
        ("Features\t: fp asimd\n", None),
        ("", None),
    ],
)
def test_a_hypervisor_shows_in_the_flags_of_x86(
    tmp_path: Path, text: str, virtual: bool | None
) -> None:
    builder = Builder(tmp_path).file("/proc/cpuinfo", text)
    assert read_machine(builder.source()).virtual is virtual


def test_this_machine_is_read() -> None:
    machine = read_machine(Tree(probes=live()))
    assert machine.origin == "this machine"
    assert set(machine.cpus) == os.sched_getaffinity(0)
    net = Path("/sys/class/net")
    names = {path.name for path in net.iterdir() if path.is_dir()} if net.is_dir() else set()
    assert {netdev.name for netdev in machine.netdevs} == names


# What breaks


class Broken(Tree):
    """A tree in which some paths fail, as those of sysfs that vanish or cannot be read."""

    def __init__(self, root: Path, fails: Any) -> None:
        super().__init__(root)
        self._fails = fails

    def _check(self, path: str) -> None:
        code = self._fails(path)
        if code:
            raise OSError(code, os.strerror(code), path)

    def _read(self, real: str) -> str:
        self._check(real)
        return super()._read(real)

    def _list(self, real: str) -> list[str]:
        self._check(real)
        return super()._list(real)

    def _readlink(self, path: str) -> str:
        self._check(path)
        return super()._readlink(path)


def facts(thing: Any) -> set[tuple[str, Any]]:
    return {(name, value) for name, value in asdict(thing).items() if isinstance(value, str | int)}


DERIVED = {"unfit", "index", "name", "board"}  # right for what is left, not for the whole


CODES = [errno.EINVAL, errno.ENOENT, errno.EIO, errno.ENODEV]


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 1 << 32), st.sampled_from([0.02, 0.1, 0.4]))
def test_what_fails_is_left_out_and_nothing_becomes_wrong(
    pod: Builder, seed: int, share: float
) -> None:
    random = Random(seed)
    verdicts: dict[str, int] = {}

    def fails(path: str) -> int:
        return verdicts.setdefault(path, random.choice(CODES) if random.random() < share else 0)

    whole, machine = read_machine(pod.source()), read_machine(Broken(pod.root, fails))
    for known, seen in [
        (whole.nics, machine.nics), (whole.gpus, machine.gpus), (whole.netdevs, machine.netdevs)
    ]:  # fmt: skip
        right = {fact for thing in known for fact in facts(thing)}
        for thing in seen:
            said = {(name, value) for name, value in facts(thing) if value and name not in DERIVED}
            assert said <= right
    addresses = {(n.name, address) for n in whole.netdevs for address in n.addresses}
    assert {(n.name, address) for n in machine.netdevs for address in n.addresses} <= addresses
    assert set(machine.cpus) <= set(whole.cpus)
    assert {each.id for each in machine.complaints} <= set(MEANING)


class Garbage(Source):
    """A machine in which all that is read was made up."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random

    def probe(self, name: str) -> Any:
        some: list[Any] = [None, 7, "x", [], {}, {"gpus": None}, {"error": 3, "gpus": [{}, 1]}]
        some += [{"gpus": [{"pci": 3, "uuid": None, "minor": "2", "mig": 7, "name": []}]}]
        return self._random.choice(some)

    def _read(self, real: str) -> str:
        texts = ["", "\n", "-1", "0x", "0x15b3", "9" * 40, "\x00\udcff", "0-4294967295", "١٢"]
        texts += [
            "400 Gb/sec",
            "1e9 Gb/sec",
            "0000:0000:0000:0000:0000:ffff:0a00:0001",
            "GPU UUID:",
        ]
        texts += [
            "|-- 999.1.1.1\n   /32 host LOCAL\n",
            "eth0\t00000000\t00000000\t0\t0\t0\t0\tFF00FF00\t0",
        ]
        texts += ["Device Minor: 9999999999", "Device Minor: ²", "f" * 32 + " 02 40 20 80 eth0"]
        return self._random.choice(texts)

    def _list(self, real: str) -> list[str]:
        names = ["0000:0c:00.0", "0000:0c:00.2", "1", "0", "²", "007", "mlx5_0", "uverbs0", "x"]
        names += ["nvidia0", "nvidia99999", "node0", "node²", "eth0", "\udcff", "renderD128"]
        return self._random.sample(names, self._random.randrange(6))

    def _readlink(self, path: str) -> str:
        links = ["../../0000:0c:00.0", ".", "..", "/", "x", "../pci0000:00/0000:0c:00.2/\udcff"]
        if self._random.random() < 0.7:
            raise OSError(errno.EINVAL, "no link", path)
        return self._random.choice(links)


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 1 << 32))
def test_garbage_is_never_an_exception(seed: int) -> None:
    machine = read_machine(Garbage(Random(seed)))
    assert {each.id for each in machine.complaints} <= set(MEANING)
