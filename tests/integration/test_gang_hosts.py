# SPDX-License-Identifier: Apache-2.0
"""Gangs over two hosts, which are network namespaces: interfaces, black holes, wrong clocks."""

import contextlib
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from integration_jobs import PYTHON, environment, free_port

NODE = str(Path(__file__).with_name("workers") / "gang_node.py")


@dataclass
class Hosts:
    """Two hosts with two networks between them: the usual one, and one of secondary NICs."""

    names: tuple[str, str]
    usual = ("10.213.78.1", "10.213.78.2")
    second = ("10.213.79.1", "10.213.79.2")
    running: "list[subprocess.Popen[str]]" = field(default_factory=list)

    def start(self, host: int, **gang: Any) -> "subprocess.Popen[str]":
        gang = {"min_nodes": 2, "max_nodes": 2, "node_rank": None, **gang}
        command = ["ip", "netns", "exec", self.names[host], *PYTHON, NODE, json.dumps(gang)]
        process = subprocess.Popen(
            command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.running.append(process)
        return process

    def cut(self, host: int) -> None:
        """Let nothing leave a host any more; nobody is told."""
        for address in (self.usual[1 - host], self.second[1 - host]):
            ip("-n", self.names[host], "route", "add", "blackhole", f"{address}/32")

    def mend(self) -> None:
        for host in range(2):
            for address in (self.usual[1 - host], self.second[1 - host]):
                with contextlib.suppress(OSError):
                    ip("-n", self.names[host], "route", "del", "blackhole", f"{address}/32")


def ip(*args: str) -> None:
    done = subprocess.run(["ip", *args], capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(args)}: {done.stderr.strip()}")


@pytest.fixture(scope="module")
def namespaces() -> Iterator[Hosts]:
    if os.geteuid() != 0:
        pytest.skip("only root may make network namespaces")
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` (package iproute2) to make network namespaces with")
    tag = uuid.uuid4().hex[:6]
    hosts = Hosts((f"gang0-{tag}", f"gang1-{tag}"))
    with contextlib.ExitStack() as cleanup:
        try:
            for name in hosts.names:
                ip("netns", "add", name)
                cleanup.callback(ip, "netns", "delete", name)  # the cables go with it
                ip("-n", name, "link", "set", "lo", "up")
            for letter, addresses in (("a", hosts.usual), ("b", hosts.second)):
                ends = [f"{letter}{tag}{host}" for host in range(2)]
                left = ["name", ends[0], "netns", hosts.names[0], "type", "veth"]
                ip("link", "add", *left, "peer", "name", ends[1], "netns", hosts.names[1])
                for name, end, address in zip(hosts.names, ends, addresses, strict=True):
                    ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
                    ip("-n", name, "link", "set", end, "up")
        except OSError as error:
            pytest.skip(f"this machine gives no network namespaces: {error}")
        yield hosts


@pytest.fixture
def hosts(namespaces: Hosts) -> Iterator[Hosts]:
    namespaces.running.clear()
    yield namespaces
    for process in namespaces.running:
        process.kill()
        process.communicate(timeout=20)
    namespaces.mend()


def heard(process: "subprocess.Popen[str]", what: str) -> dict[str, Any]:
    """Read what a node says until it says that."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        told = json.loads(line)
        if what in told:
            return dict(told)
    raise AssertionError(f"it never said {what}: {said}")


def test_an_address_of_a_secondary_nic_makes_its_host_the_leader(hosts: Hosts) -> None:
    gang = {"leader": hosts.second[1], "port": free_port(), "done": True}
    nodes = [hosts.start(host, **gang) for host in range(2)]
    rounds = [heard(node, "round")["round"] for node in nodes]
    assert [told["mine"] for told in rounds] == [1, 0]
    assert [seat["address"] for seat in rounds[0]["nodes"]] == [hosts.second[1], hosts.second[0]]
    assert rounds[0]["nodes"] == rounds[1]["nodes"]
    assert [node.wait(timeout=20) for node in nodes] == [0, 0]


def test_a_leader_whose_name_leads_to_a_load_balancer_listens_on_the_way_there(
    hosts: Hosts,
) -> None:
    # The balancer is on host 1, and has nobody to send to yet; the member goes past it.
    gang = {"leader": "10.213.80.9", "port": free_port(), "done": True}
    ip("-n", hosts.names[1], "addr", "add", "10.213.80.9/32", "dev", "lo")
    ip("-n", hosts.names[0], "route", "add", "10.213.80.9/32", "via", hosts.usual[1])
    try:
        leader = hosts.start(0, node_rank=0, **gang)
        member = hosts.start(1, node_rank=1, **{**gang, "leader": hosts.usual[0]})
        rounds = [heard(node, "round")["round"] for node in (leader, member)]
        assert [told["mine"] for told in rounds] == [0, 1]
        assert rounds[0]["nodes"][0]["address"] == hosts.usual[0]
        assert [node.wait(timeout=20) for node in (leader, member)] == [0, 0]
    finally:
        ip("-n", hosts.names[0], "route", "del", "10.213.80.9/32")
        ip("-n", hosts.names[1], "addr", "del", "10.213.80.9/32", "dev", "lo")


def test_two_leaders_on_two_hosts_are_refused_by_name(hosts: Hosts) -> None:
    # Even an elastic gang that may start with one node does not start twice.
    gang = {"leader": hosts.usual[0], "port": free_port(), "node_rank": 0}
    gang |= {"min_nodes": 1, "last_call_s": 6.0}
    second = hosts.start(1, **gang)
    time.sleep(0.5)
    first = hosts.start(0, **gang)
    ends = [heard(node, "finish")["finish"] for node in (first, second)]
    for end in ends:
        assert end["exit_code"] == 78
        assert "has node rank 0 too" in end["fault"]["detail"]
    assert [node.wait(timeout=20) for node in (first, second)] == [78, 78]


@pytest.mark.parametrize("skew_s", [3600.0, -3600.0])
def test_wall_clocks_that_are_an_hour_apart_change_nothing(hosts: Hosts, skew_s: float) -> None:
    gang = {"leader": hosts.usual[0], "port": free_port(), "done": True}
    nodes = [hosts.start(0, **gang), hosts.start(1, skew_s=skew_s, **gang)]
    assert [len(heard(node, "round")["round"]["nodes"]) for node in nodes] == [2, 2]
    assert [node.wait(timeout=20) for node in nodes] == [0, 0]


@pytest.mark.parametrize("cut", [(0, 1), (0,)], ids=["both-ways", "one-way"])
def test_both_sides_of_a_black_hole_end_in_time(hosts: Hosts, cut: tuple[int, ...]) -> None:
    lost_s = 8.0 if len(cut) == 2 else 2.0  # as by default; the other only costs time
    gang = {"leader": hosts.usual[0], "port": free_port(), "lost_s": lost_s}
    nodes = [hosts.start(host, **gang) for host in range(2)]
    for node in nodes:
        heard(node, "round")
    began = time.monotonic()
    for host in cut:
        hosts.cut(host)
    ends = [heard(node, "end") for node in nodes]
    finishes = [heard(node, "finish") for node in nodes]
    took = [round(told["at"] - began, 2) for told in finishes]
    print(f"both sides ended {took} s after the cut")  # noqa: T201
    assert max(took) < lost_s + 2.0
    assert ends[0]["end"]["fault"]["kind"] == "lost-node"
    assert ends[1]["end"]["fault"]["kind"] in {"lost-leader", "lost-node"}
    assert [node.wait(timeout=20) for node in nodes] == [201, 201]
