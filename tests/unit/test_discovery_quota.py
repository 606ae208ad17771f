# SPDX-License-Identifier: Apache-2.0
"""CPU quotas and memory limits of cgroups, in the trees that containers and hosts have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_source import MemorySource

from rdmatrain.discovery.quota import GROUPS, MOUNTS, cpu_quota, memory_limit

V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
TOP = "/sys/fs/cgroup"
TOP1 = "/sys/fs/cgroup/cpu,cpuacct"


def quota(groups: str, mounts: str, **files: str) -> float | None:
    """Ask a machine; ``files`` are given with ``__`` for ``/``, below ``/sys/fs/cgroup``."""
    return cpu_quota(MemorySource({GROUPS: groups, MOUNTS: mounts, **files}))


def v2(group: str, limits: dict[str, str]) -> float | None:
    files = {f"{TOP}{folder}/cpu.max": text for folder, text in limits.items()}
    return quota(f"0::{group}\n", V2, **files)


def v1(group: str, limits: dict[str, tuple[str, str]], mounts: str = V1) -> float | None:
    files = {}
    for folder, (most, period) in limits.items():
        files[f"{TOP1}{folder}/cpu.cfs_quota_us"] = most + "\n"
        files[f"{TOP1}{folder}/cpu.cfs_period_us"] = period + "\n"
    return quota(f"7:cpuset:/x\n4:cpu,cpuacct:{group}\n1:name=systemd:/\n", mounts, **files)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("200000 100000\n", 2.0),
        ("150000 100000\n", 1.5),
        ("50000 100000\n", 0.5),
        ("max 100000\n", None),
        ("80000\n", 0.8),  # the kernel writes both; the default period is 100 ms
        ("", None),
        ("max", None),
        ("0 100000", None),
        ("100000 0", None),
        ("-1 100000", None),
        ("1e9 100000", None),
        ("²00000 100000", None),
    ],
)
def test_what_cpu_max_says(text: str, expected: float | None) -> None:
    assert v2("/", {"": text}) == expected


def test_the_smallest_of_all_levels_counts() -> None:
    limits = {
        "/kubepods.slice/pod1/own": "800000 100000",
        "/kubepods.slice/pod1": "300000 100000",
        "/kubepods.slice": "max 100000",
        "/kubepods.slice/pod2": "100000 100000",
    }
    assert v2("/kubepods.slice/pod1/own", limits) == 3.0


@pytest.mark.parametrize(
    ("most", "period", "expected"),
    [("-1", "100000", None), ("250000", "100000", 2.5), ("5000", "10000", 0.5)],
)
def test_version_1_has_a_file_for_each_number(
    most: str, period: str, expected: float | None
) -> None:
    assert v1("/docker/1234", {"/docker/1234": (most, period), "": ("-1", "100000")}) == expected


def test_a_container_without_a_namespace_of_its_own_finds_its_group() -> None:
    # Docker mounts the container's own group and shows the host's path to it.
    mounts = V1.replace("0:29 / ", "0:29 /docker/1234 ")
    assert v1("/docker/1234", {"": ("400000", "100000")}, mounts) == 4.0
    limits = {"": ("400000", "100000"), "/sub": ("100000", "100000")}
    assert v1("/docker/1234/sub", limits, mounts) == 1.0
    # Another group whose name begins alike is not below it.
    assert v1("/docker/12345/sub", limits, mounts) == 4.0


def test_a_group_outside_of_the_namespace_has_the_limits_of_what_is_mounted() -> None:
    assert v2("/../../other", {"": "200000 100000", "/other": "100000 100000"}) == 2.0


def test_a_host_with_both_versions() -> None:
    mounts = V1 + V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified ")
    files = {
        f"{TOP1}/job/cpu.cfs_quota_us": "300000",
        f"{TOP1}/job/cpu.cfs_period_us": "100000",
        f"{TOP}/unified/job/cpu.max": "200000 100000",
    }
    assert quota("4:cpu,cpuacct:/job\n0::/\n", mounts, **files) == 3.0
    assert quota("4:cpu,cpuacct:/\n0::/job\n", mounts, **files) == 2.0


def test_a_mount_with_a_space_and_a_group_with_a_colon() -> None:
    mounts = V2.replace("/sys/fs/cgroup", "/a\\040b")
    assert quota("0::/x:y\n", mounts, **{"/a b/x:y/cpu.max": "100000 50000"}) == 2.0


@pytest.mark.parametrize(
    ("groups", "mounts"),
    [("", ""), ("0::/\n", ""), ("", V2), ("garbage\n0:\n:::\n", V2), ("0::/\n", "a - b\n - \n\n")],
)
def test_where_nothing_is_known_there_is_no_limit(groups: str, mounts: str) -> None:
    assert quota(groups, mounts, **{f"{TOP}/nothing": "1"}) is None


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=20))
def test_garbage_is_no_limit_and_no_error(groups: str, mounts: str, text: str) -> None:
    found = quota(f"0::/\n{groups}", V2 + mounts, **{f"{TOP}/cpu.max": text})
    assert found is None or found > 0


@given(st.integers(1, 10**9), st.integers(1, 10**6), st.integers(1, 10**9))
def test_a_limit_is_never_more_than_that_of_any_level(own: int, period: int, above: int) -> None:
    found = v2("/a/b", {"/a/b": f"{own} {period}", "/a": f"{above} {period}"})
    assert found == min(own, above) / period


MEMORY_V1 = "35 30 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def test_the_smallest_memory_limit_of_all_levels_counts() -> None:
    files = {
        GROUPS: "0::/pods/pod1/own\n",
        MOUNTS: V2,
        f"{TOP}/pods/pod1/own/memory.max": "max\n",
        f"{TOP}/pods/pod1/memory.max": "2147483648\n",
        f"{TOP}/pods/memory.max": "8589934592\n",
        f"{TOP}/pods/pod2/memory.max": "1048576\n",
    }
    assert memory_limit(MemorySource(files)) == 2 << 30


def test_memory_limits_of_version_1_are_in_the_hierarchy_of_memory() -> None:
    files = {
        GROUPS: "4:memory:/job\n3:cpu,cpuacct:/other\n",
        MOUNTS: V1 + MEMORY_V1,
        f"{TOP}/memory/job/memory.limit_in_bytes": "1073741824\n",
        f"{TOP}/memory/memory.limit_in_bytes": "9223372036854771712\n",
        f"{TOP}/memory/other/memory.limit_in_bytes": "4096\n",
        f"{TOP1}/other/memory.limit_in_bytes": "4096\n",
    }
    assert memory_limit(MemorySource(files)) == 1 << 30


@pytest.mark.parametrize("text", ["max", "", "-1", "0", "1e9", "99999999999999999999"])
def test_what_is_no_number_of_bytes_is_no_memory_limit(text: str) -> None:
    files = {GROUPS: "0::/\n", MOUNTS: V2, f"{TOP}/memory.max": text}
    assert memory_limit(MemorySource(files)) is None
