# SPDX-License-Identifier: Apache-2.0
"""``--numa-binding``: the CPUs that torch's own module chooses on the same machine."""

import io
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_source import MemorySource

from rdmatrain.discovery.interfaces import Interface
from rdmatrain.discovery.model import Gpu, Machine, Node
from rdmatrain.discovery.pci import format_cpus
from rdmatrain.discovery.pod_model import Allocation, GrantedGpu, Pod
from rdmatrain.discovery.source import Source
from rdmatrain.discovery.survey import Survey, reseat
from rdmatrain.launcher.numa import MODES, numa_binding


class Host(NamedTuple):
    """A machine: ``threads[node]`` are the CPUs of its cores, and so on."""

    nodes: list[list[tuple[int, ...]]]  # of each node, of each core: its CPUs
    nodes_of_socket: int
    cores_of_cache: int
    gpus: list[int]  # the node of each GPU
    allowed: frozenset[int]

    def files(self) -> dict[str, str]:
        files = {"/sys/devices/system/node/possible": f"0-{len(self.nodes) - 1}\n"}
        for number, cores in enumerate(self.nodes):
            files[f"/sys/devices/system/node/node{number}/cpulist"] = self.listed(cores)
            for place, core in enumerate(cores):
                first = place - place % self.cores_of_cache
                sharers = cores[first : first + self.cores_of_cache]
                for cpu in core:
                    folder = f"/sys/devices/system/cpu/cpu{cpu}"
                    files[f"{folder}/topology/thread_siblings_list"] = self.listed([core])
                    socket = number // self.nodes_of_socket
                    files[f"{folder}/topology/physical_package_id"] = f"{socket}\n"
                    # Level 4 is no data: it must not count.
                    for index, kind, level, own in (
                        (0, "Data", 1, [core]),
                        (1, "Instruction", 4, cores),
                        (2, "Unified", 3, sharers),
                        (3, "Unified", 2, [core]),
                    ):
                        cache = f"{folder}/cache/index{index}"
                        files[f"{cache}/type"] = kind + "\n"
                        files[f"{cache}/level"] = f"{level}\n"
                        files[f"{cache}/shared_cpu_list"] = self.listed(own)
                    files[f"{folder}/cache/uevent"] = ""
        for index, node in enumerate(self.gpus):
            files[f"/sys/bus/pci/devices/0000:{index:02x}:00.0/numa_node"] = f"{node}\n"
        return files

    @staticmethod
    def listed(cores: list[tuple[int, ...]]) -> str:
        return format_cpus(tuple(sorted(cpu for core in cores for cpu in core))) + "\n"

    def survey(self) -> Survey:
        gpus = [Gpu(i, f"GPU{i}", numa=node) for i, node in enumerate(self.gpus)]
        found = Survey(
            Machine(
                "a test",
                tuple(gpus),
                nodes=tuple(
                    Node(number, tuple(sorted(cpu for core in cores for cpu in core)))
                    for number, cores in enumerate(self.nodes)
                ),
                cpus=tuple(sorted(self.allowed)),
            ),
            Pod(),
            Allocation(tuple(GrantedGpu(gpu, ()) for gpu in gpus)),
            interface=Interface("", ""),
        )
        return reseat(found, max(1, len(gpus)))


def numbered(cores_of_node: list[int], threads: int) -> list[list[tuple[int, ...]]]:
    """Number CPUs as Linux does: the first threads of all cores, then the second ones."""
    num_cores, nodes, core = sum(cores_of_node), [], 0
    for count in cores_of_node:
        cores = range(core, core + count)
        nodes.append([tuple(c + t * num_cores for t in range(threads)) for c in cores])
        core += count
    return nodes


@st.composite
def hosts(draw: st.DrawFn) -> Host:
    cores = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    nodes = numbered(cores, draw(st.sampled_from([1, 2])))
    cpus = sorted(cpu for node in nodes for core in node for cpu in core)
    gone = draw(st.sets(st.sampled_from(cpus), max_size=len(cpus) - 1))
    gpus = draw(st.lists(st.integers(0, len(nodes) - 1), min_size=1, max_size=8))
    return Host(
        nodes, draw(st.integers(1, 2)), draw(st.integers(1, 4)), gpus, frozenset({*cpus} - gone)
    )


@pytest.fixture(scope="module")
def torchs() -> Iterator[Any]:
    """Yield torch's module, which takes its files from ``source`` and its CPUs from ``allowed``."""
    binding = pytest.importorskip("torch.numa.binding")
    shim = SimpleNamespace(source=MemorySource({}), allowed=frozenset(), gpus=0)

    def opened(path: str) -> io.StringIO:
        text = shim.source.text(path)
        if text is None:
            raise FileNotFoundError(path)
        return io.StringIO(text)

    properties = SimpleNamespace(pci_domain_id=0, pci_device_id=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(binding, "open", opened, raising=False)
        fake_os = SimpleNamespace(
            listdir=lambda path: shim.source.names(path),
            path=os.path,
            sched_getaffinity=lambda _: set(shim.allowed),
        )
        patch.setattr(binding, "os", fake_os)
        patch.setattr(binding.torch.cuda, "device_count", lambda: shim.gpus)
        patch.setattr(
            binding.torch.cuda,
            "get_device_properties",
            lambda index: SimpleNamespace(pci_bus_id=index, **vars(properties)),
        )

        def choose(mode: str, host: Host, source: Source, local_rank: int) -> tuple[int, ...]:
            shim.source, shim.allowed, shim.gpus = source, host.allowed, len(host.gpus)
            options = binding.NumaOptions(binding.AffinityMode(mode))
            try:
                found = binding._get_logical_cpus_to_bind_to(
                    gpu_index=local_rank, numa_options=options
                )
            except (RuntimeError, ValueError, ZeroDivisionError):
                return ()  # torchrun fails there; ours leaves the CPUs as they are
            return tuple(sorted(found))

        yield choose


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=100)
@given(host=hosts(), data=st.data())
def test_the_cpus_are_those_that_torch_chooses(
    torchs: Any, mode: str, host: Host, data: st.DataObject
) -> None:
    source = MemorySource(host.files())
    nproc = data.draw(st.integers(1, len(host.gpus)))
    found = numa_binding(mode, host.survey(), nproc, source)
    assert len(found) == nproc
    for local_rank, bound in enumerate(found):
        theirs = torchs(mode, host, source, local_rank)
        if mode == "socket" and not theirs and bound.cpus:
            # torch fails where any node of the machine has no CPU that may be used.
            assert any(not host.allowed & {c for k in node for c in k} for node in host.nodes)
            continue
        assert bound.cpus == theirs
        assert bool(bound.cpus) != bool(bound.reason)


HOST = Host(numbered([8, 8], 2), 1, 4, [0, 0, 1, 1], frozenset(range(32)))


@pytest.mark.parametrize(
    ("mode", "cpus"),
    [
        ("node", ["0-7,16-23", "0-7,16-23", "8-15,24-31", "8-15,24-31"]),
        ("socket", ["0-7,16-23", "0-7,16-23", "8-15,24-31", "8-15,24-31"]),
        ("exclusive", ["0-3,16-19", "4-7,20-23", "8-11,24-27", "12-15,28-31"]),
        ("core-complex", ["0-3,16-19", "4-7,20-23", "8-11,24-27", "12-15,28-31"]),
    ],
)
def test_a_machine_of_two_sockets(mode: str, cpus: list[str]) -> None:
    found = numa_binding(mode, HOST.survey(), 4, MemorySource(HOST.files()))
    assert [format_cpus(each.cpus) for each in found] == cpus


def test_more_workers_than_gpus_share_the_cores_of_their_node() -> None:
    host = HOST._replace(gpus=[0, 1])
    found = numa_binding("exclusive", host.survey(), 4, MemorySource(host.files()))
    # Local ranks 0 and 2 have GPU 0.
    expected = ["0-3,16-19", "8-11,24-27", "4-7,20-23", "12-15,28-31"]
    assert [format_cpus(each.cpus) for each in found] == expected


@pytest.mark.parametrize(
    ("mode", "missing", "reason"),
    [
        ("socket", "physical_package_id", "the socket of NUMA node 0 is not known"),
        ("exclusive", "thread_siblings_list", "the cores of NUMA node 0 are not known"),
        ("core-complex", "shared_cpu_list", "the caches of NUMA node 0 are not known"),
    ],
)
def test_what_sysfs_does_not_show_leaves_the_cpus_alone(
    mode: str, missing: str, reason: str
) -> None:
    files = {path: text for path, text in HOST.files().items() if missing not in path}
    assert numa_binding(mode, HOST.survey(), 1, MemorySource(files))[0] == ((), reason)


def test_a_node_without_allowed_cpus_and_a_host_without_devices_are_named() -> None:
    host = HOST._replace(allowed=frozenset(range(8)))
    found = numa_binding("node", host.survey(), 3, MemorySource(host.files()))
    assert found[2] == ((), "none of the CPUs of NUMA node 1 may be used here")
    bare = HOST._replace(gpus=[])
    found = numa_binding("node", bare.survey(), 1, MemorySource(bare.files()))
    assert found[0] == ((), "no device of it says which NUMA node is near")
    # Ranks that fill the nodes evenly have one each, devices or not.
    found = numa_binding("node", bare.survey(), 2, MemorySource(bare.files()))
    assert [format_cpus(each.cpus) for each in found] == ["0-7,16-23", "8-15,24-31"]
    small = HOST._replace(nodes=numbered([1, 1], 1), allowed=frozenset({0, 1}))
    found = numa_binding("exclusive", small.survey(), 1, MemorySource(small.files()))
    assert found[0] == ((), "NUMA node 0 has 1 cores for 2 devices")


def test_the_only_node_is_near_to_a_gpu_that_does_not_say() -> None:
    host = HOST._replace(nodes=numbered([4], 1), gpus=[0], allowed=frozenset({1, 2}))
    survey = host.survey()
    gpu = Gpu(0, "GPU0")
    unsaid = Survey(
        survey.machine, Pod(), Allocation((GrantedGpu(gpu, ()),)), interface=Interface("", "")
    )
    assert numa_binding("node", unsaid, 1, MemorySource(host.files()))[0].cpus == (1, 2)
