# SPDX-License-Identifier: Apache-2.0
"""The machine in a dictionary answers as the same machine on disk does."""

import errno
from pathlib import Path

import pytest
from memory_source import Link, MemorySource, environ

from rdmatrain.discovery.source import Source, Tree

FILES: dict[str, str | list[str] | Link | int] = {
    "/sys/devices/pci0000:00/a/vendor": "0x15b3\n",
    "/sys/devices/pci0000:00/a/numa_node": "0\n",
    "/sys/devices/pci0000:00/empty": [],
    "/sys/class/infiniband/mlx5_10": Link("../../devices/pci0000:00/a"),
    "/sys/class/infiniband/mlx5_2": Link("/sys/devices/pci0000:00/a"),
    "/sys/class/infiniband/gone": Link("nowhere"),
    "/sys/class/infiniband/circle": Link("circle"),
}
PATHS = [
    "/",
    "/sys/class/infiniband",
    "/sys/class/infiniband/mlx5_10",
    "/sys/class/infiniband/mlx5_10/vendor",
    "/sys/class/infiniband/mlx5_2/numa_node",
    "/sys/class/infiniband/gone",
    "/sys/class/infiniband/circle",
    "/sys/class/infiniband/circle/vendor",
    "/sys/devices/pci0000:00/empty",
    "/sys/devices/pci0000:00/absent",
]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    for path, content in FILES.items():
        place = tmp_path / path[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            place.symlink_to(content.target)
        elif isinstance(content, str):
            place.write_text(content)
        else:
            place.mkdir()
    return Tree(tmp_path)


@pytest.mark.parametrize("path", PATHS)
def test_it_answers_as_the_disk_does(tree: Tree, path: str) -> None:
    def answers(source: Source) -> list[object]:
        return [source.text(path), source.failure(path), source.names(path), source.link(path)]

    assert answers(MemorySource(FILES)) == answers(tree)


def test_a_file_can_fail_as_it_is_told_to() -> None:
    source = MemorySource({"/proc/1/environ": errno.EACCES, "/proc/self/environ": "A=1\0"})
    assert source.text("/proc/1/environ") is None
    assert source.failure("/proc/1/environ") == "EACCES"
    assert source.names("/proc") == ["1", "self"]


def test_probes_are_answers_or_called_for_them() -> None:
    source = MemorySource({}, {"verbs": {"ports": []}, "nvml": lambda: {"gpus": []}})
    assert (source.probe("verbs"), source.probe("nvml")) == ({"ports": []}, {"gpus": []})
    assert source.probe("other") is None


def test_an_environment_is_written_as_the_kernel_does() -> None:
    assert environ({"A": "1", "B-C": ""}) == "A=1\0B-C=\0"
