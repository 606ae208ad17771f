"""Where a process is, and which address it listens on."""

import os
import re
import socket
import subprocess
import sys

import pytest

from rdmatrain.comm import host
from rdmatrain.config import RankEnv
from rdmatrain.errors import BootstrapError

LOOPBACK = ("127.0.0.1", "::1")


def test_two_processes_in_one_namespace_have_one_host_id() -> None:
    code = "from rdmatrain.comm import host; print(host.host_id())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == host.host_id()
    assert re.fullmatch("[0-9a-f]{16}", host.host_id())


def test_the_host_id_differs_between_network_namespaces() -> None:
    code = "from rdmatrain.comm import host; print(host.host_id())"
    command = ["unshare", "-n", sys.executable, "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespace can be made here: {error}")
    assert done.stdout.strip() != host.host_id()


def test_the_label_names_host_and_process() -> None:
    assert host.label() == f"host {socket.gethostname()}, pid {os.getpid()}"


def test_cpus_are_those_this_process_may_use() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert host.cpu_mask() == 1 << min(before)
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("masks", "shared"),
    [
        ([0b11, 0b11], False),
        ([0b01, 0b10], False),  # pinned to one each
        ([0b01, 0b01], True),
        ([0b01, 0b10, 0b01, 0b10], True),
        ([0b11], False),
        ([0b1, 0b1, 0b1110], True),  # more CPUs than ranks, and two are pinned to one
        ([0b11, 0b11, 0b1100], False),
    ],
)
def test_ranks_share_cpus_when_they_cannot_have_one_each(masks: list[int], shared: bool) -> None:
    assert host.share_cpus(masks) == shared


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        (RankEnv(5, 1, 8, 4), (1, 4)),  # of the job
        (RankEnv(5, None, 8, None), (1, 2)),  # of the group
        (RankEnv(5, 4, 8, 4), (1, 2)),
    ],
)
def test_a_ranks_place_on_its_host_is_that_in_the_job(
    monkeypatch: pytest.MonkeyPatch, who: RankEnv, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(host, "rank_env", lambda: who)
    assert host.local_place(5, [2, 5]) == expected


def test_a_wanted_address_wins() -> None:
    assert host.listen_address("10.9.8.7", "127.0.0.1", one_host=False) == "10.9.8.7"
    assert host.listen_address("10.9.8.7", "127.0.0.1", one_host=True) == "10.9.8.7"


def test_a_wanted_name_is_resolved() -> None:
    assert host.listen_address("localhost", "", one_host=False) in LOOPBACK


def test_a_wanted_name_that_nobody_knows_names_the_variable() -> None:
    with pytest.raises(BootstrapError, match=r"RDMATRAIN_ADDR=no-such\.invalid cannot be resolved"):
        host.listen_address("no-such.invalid", "", one_host=False)


def test_ranks_on_one_host_use_loopback_whatever_the_master_is() -> None:
    assert host.listen_address("", "no-such.invalid", one_host=True) == "127.0.0.1"
    assert host.listen_address("", "", one_host=True) == "127.0.0.1"


def test_several_hosts_without_any_address_say_what_to_set() -> None:
    with pytest.raises(BootstrapError, match="set RDMATRAIN_ADDR"):
        host.listen_address("", "", one_host=False)


@pytest.mark.parametrize("master", ["127.0.0.1", "localhost", "::1"])
def test_a_loopback_master_is_no_way_to_other_hosts(master: str) -> None:
    with pytest.raises(BootstrapError, match=f"MASTER_ADDR={master}"):
        host.listen_address("", master, one_host=False)


def test_the_way_to_the_master_gives_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def source(target: str, name: str) -> str:
        asked.append((target, name))
        return "10.1.2.3"

    monkeypatch.setattr(host, "_source_address", source)
    assert host.listen_address("", "192.0.2.5", one_host=False) == "10.1.2.3"
    assert asked == [("192.0.2.5", "192.0.2.5")]


def test_a_master_without_a_route_is_named() -> None:
    code = (
        "from rdmatrain.comm import host\n"
        "try: host.listen_address('', '192.0.2.5', one_host=False)\n"
        "except Exception as error: print(error)\n"
    )
    command = ["unshare", "-n", sys.executable, "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespace can be made here: {error}")
    assert "no route to MASTER_ADDR=192.0.2.5" in done.stdout
