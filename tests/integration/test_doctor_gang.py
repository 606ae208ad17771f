# SPDX-License-Identifier: Apache-2.0
"""``rdmatrain doctor --gang`` on several pods: here processes, and hosts that are namespaces."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from integration_hosts import PORT, SECRET, TwoHosts, ip, two_hosts
from integration_jobs import (
    PYTHON,
    Ended,
    finish,
    free_port,
    nothing_left_behind,
    processes_with,
    start,
)

DOCTOR = [*PYTHON, "-m", "rdmatrain.cli", "doctor", "--gang", "--json"]
RANK = b"rdmatrain.doctor.gang.rank"


def pods(
    nnodes: int,
    ranks: Sequence[int],
    env: Mapping[str, str],
    *options: str,
    own: Mapping[int, Mapping[str, str]] | None = None,
) -> "list[subprocess.Popen[str]]":
    """Start the doctor of each pod, all on this host."""
    common = {
        "PET_NNODES": str(nnodes),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(free_port()),
        "RDMATRAIN_SECRET": SECRET,
    }
    return [
        start(
            [*DOCTOR, *options],
            {**common, **env, "PET_NODE_RANK": str(rank), **(own or {}).get(rank, {})},
        )
        for rank in ranks
    ]


def told(ended: Ended) -> dict[str, Any]:
    """The JSON that a doctor printed; what its launcher says goes before and after it."""
    text = ended.out
    found: dict[str, Any] = json.JSONDecoder().raw_decode(text[text.index("{") :])[0]
    return found


def said(ended: Ended) -> dict[str, dict[str, Any]]:
    return {each["id"]: each for each in told(ended)["checks"]}


def test_four_pods_are_measured_in_pairs() -> None:
    with nothing_left_behind() as env:
        ended = finish(pods(4, range(4), env), 60)
    assert [each.code for each in ended] == [told(ended[0])["exit_code"]] * 4, ended
    checks = said(ended[0])
    for name in ("forms", "versions", "clock", "ping", "checksum", "bandwidth"):
        assert checks[f"gang-{name}"]["verdict"] == "PASS", checks[f"gang-{name}"]
    gang = told(ended[0])["gang"]
    assert gang["ranks"] == len(gang["hosts"]) == 4
    for matrix in (gang["ping_us"], gang["gbps"]):
        for rank, row in enumerate(matrix):
            assert [value is None for value in row] == [peer == rank for peer in range(4)]
            assert all(value > 0 for value in row if value is not None)
    for rank in (1, 2, 3):
        assert told(ended[rank])["rank"] == rank and told(ended[rank])["checks"] == []


def test_a_pod_that_does_not_come_is_named_by_those_that_did() -> None:
    with nothing_left_behind() as env:
        ended = finish(pods(3, (0, 2), env, "--gang-timeout", "6"), 60)
    for each in ended:
        assert each.code == 200, each.out
        forms = said(each)["gang-forms"]
        assert forms["verdict"] == "FAIL" and "node rank 1 of 3" in forms["evidence"]
        assert said(each)["gang-ping"]["verdict"] == "SKIP"


def test_a_pod_with_another_torch_is_named(tmp_path: Path) -> None:
    info = tmp_path / "torch-9.9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.9.9\n")
    other = {1: {"PYTHONPATH": str(tmp_path)}}
    with nothing_left_behind() as env:
        ended = finish(pods(3, range(3), env, own=other), 60)
    for each in ended:
        assert each.code == 78, each.out
        versions = said(each)["gang-versions"]
        assert versions["verdict"] == "FAIL" and "9.9.9" in versions["evidence"]


def test_a_rank_that_hangs_is_named_in_time() -> None:
    with nothing_left_behind() as env:
        started = pods(3, range(3), env, "--gang-timeout", "12")
        try:
            stop_rank(1, next(f"{name}={value}" for name, value in env.items()))
            ended = finish(started, 60)
        finally:
            for each in started:
                each.kill()
    assert [each.code for each in ended] == [200] * 3, ended
    # By its launcher, which sees that it is stopped, or by rank 0, which waits for it.
    assert "rank 1" in said(ended[0])["gang-forms"]["evidence"]


def stop_rank(rank: int, marker: str) -> None:
    """Stop a rank's process as soon as there is one."""
    end = time.monotonic() + 40
    while time.monotonic() < end:
        for pid in processes_with(marker):
            folder = Path(f"/proc/{pid}")
            try:
                is_rank = RANK in (folder / "cmdline").read_bytes()
                if is_rank and f"\0RANK={rank}\0".encode() in (folder / "environ").read_bytes():
                    os.kill(pid, signal.SIGSTOP)
                    return
            except OSError:
                continue
        time.sleep(0.01)
    pytest.fail(f"there was no process of rank {rank}")


# Two hosts


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    with two_hosts() as two:
        yield two


def on_hosts(hosts: TwoHosts, env: Mapping[str, str], *options: str) -> list[Ended]:
    common = {
        "PET_NNODES": "2",
        "PET_MASTER_ADDR": hosts.addresses[0],
        "PET_MASTER_PORT": str(PORT + 7),
        "RDMATRAIN_SECRET": SECRET,
    }
    started = [
        start(
            hosts.command(host, [*DOCTOR, *options]),
            {**common, **env, "PET_NODE_RANK": str(host)},
        )
        for host in range(2)
    ]
    return finish(started, 60)


def test_hosts_without_rdma_meet_over_tcp_which_is_no_fail(hosts: TwoHosts) -> None:
    with nothing_left_behind() as env:
        ended = on_hosts(hosts, env)
    checks = said(ended[0])
    assert checks["gang-transport"]["verdict"] == "SKIP", checks["gang-transport"]
    assert "over tcp" in checks["gang-ping"]["evidence"]
    assert checks["gang-mtu"]["evidence"] == "all ways between hosts are of MTU 1500"
    assert told(ended[0])["gang"]["transport"] == [[None, "tcp"], ["tcp", None]]


def test_hosts_that_must_use_rdma_and_cannot_fail_with_the_reason(hosts: TwoHosts) -> None:
    with nothing_left_behind() as env:
        ended = on_hosts(hosts, {**env, "RDMATRAIN_REQUIRE": "verbs"})
    transport = said(ended[0])["gang-transport"]
    assert transport["verdict"] == "FAIL" and "RDMATRAIN_REQUIRE=verbs" in transport["evidence"]
    assert [each.code for each in ended] == [told(ended[0])["exit_code"]] * 2
    assert ended[0].code != 0


def test_a_host_whose_mtu_is_another_is_named(hosts: TwoHosts) -> None:
    ip("-n", hosts.names[1], "link", "set", hosts.cables[1], "mtu", "1400")
    try:
        with nothing_left_behind() as env:
            ended = on_hosts(hosts, env)
    finally:
        ip("-n", hosts.names[1], "link", "set", hosts.cables[1], "mtu", "1500")
    mtu = said(ended[0])["gang-mtu"]
    assert mtu["verdict"] == "WARN", mtu
    assert "MTU 1400" in mtu["evidence"] and "1500" in mtu["evidence"]
