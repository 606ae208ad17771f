# SPDX-License-Identifier: Apache-2.0
"""What the doctor says of names, addresses, the leader's port and the clock."""

import errno
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from doctor_pods import HEALTHY, asked, bare, first, healthy
from memory_source import environ
from pod_scenarios import seen

from rdmatrain.discovery.deadline import LATE
from rdmatrain.doctor.meeting import Meeting, meeting
from rdmatrain.doctor.model import Case, Finding, Needs
from rdmatrain.doctor.probes import network

OWN, PEER = "10.244.1.5", "10.244.2.6"
RESOLV = "search ml.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\n"
HOSTS = f"127.0.0.1 localhost\n{OWN} llm-0.llm.ml.svc.cluster.local llm-0\n"
TASK_3_OF_4 = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
PORTS = "/proc/sys/net/ipv4/ip_local_port_range"
RESERVED = "/proc/sys/net/ipv4/ip_local_reserved_ports"
NOT_FOUND = "the name does not resolve: Name or service not known"


def variables(rank: int = 0, **more: str) -> dict[str, str]:
    """Of a pod of two, as Kubeflow's Trainer sets them."""
    return {
        "PET_NNODES": "2",
        "PET_NODE_RANK": str(rank),
        "PET_MASTER_ADDR": "llm-0.llm",
        "PET_MASTER_PORT": "29500",
        "KUBERNETES_SERVICE_HOST": "10.96.0.1",
        **more,
    }


def gang_pod(
    given: Mapping[str, str] | None = None,
    files: Mapping[str, Any] | None = None,
    probes: Mapping[str, Any] | None = None,
) -> Case:
    """The healthy pod, as node 0 of two."""
    own = str(seen(HEALTHY).files["/proc/self/environ"])
    own += environ(variables() if given is None else given)
    texts = {"/proc/self/environ": own, "/etc/resolv.conf": RESOLV, "/etc/hosts": HOSTS}
    return healthy(
        {**texts, PORTS: "32768\t60999\n", **(files or {})}, {**answers(), **(probes or {})}
    )


def answers() -> dict[str, Any]:
    """What the probes say where nothing is wrong."""
    return {
        "names": names([OWN]),
        "leader": leader(listen={"address": OWN, "problem": "", "holder": ""}),
        "loopback": {"error": ""},
        "clock": {"error": "", "synchronized": True, "max_error_s": 0.02},
    }


def names(addresses: list[str], own: tuple[str, ...] = (OWN, "127.0.0.1", "127.0.1.1")) -> Any:
    return {
        "hostname": "llm-0",
        "own_name": {
            "addresses": addresses,
            "own": [each for each in addresses if each in own],
            "problem": "" if addresses else NOT_FOUND,
        },
        "localhost": {"addresses": ["127.0.0.1"], "own": ["127.0.0.1"], "problem": ""},
    }


def leader(addresses: tuple[str, ...] = (OWN,), own: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "name": "llm-0.llm",
        "port": 29500,
        "addresses": list(addresses),
        "own": list(addresses) if own else [],
        "problem": "" if addresses else NOT_FOUND,
        "late": False,
        **more,
    }


def lost(**more: Any) -> dict[str, Any]:
    """A leader whose name does not resolve."""
    above = {"service": "llm", "service_addresses": [], "servers": {"10.96.0.10": ""}}
    return leader((), **{**above, **more})


def said(finding: Finding) -> tuple[str, str]:
    return finding.verdict.value, finding.evidence


ALL = (
    "loopback",
    "addresses",
    "network-mtu",
    "hostname",
    "dns-leader",
    "rendezvous-port",
    "port-range",
    "clock",
)


@pytest.mark.parametrize("name", ALL)
def test_a_healthy_node_of_two_passes(name: str) -> None:
    finding = asked(gang_pod(), name)
    assert said(finding)[0] == "PASS", finding
    assert finding.fix == ""


@pytest.mark.parametrize("name", ALL)
def test_a_machine_with_nothing_neither_fails_nor_warns(name: str) -> None:
    assert said(asked(bare(), name))[0] == "SKIP"


@pytest.mark.parametrize("name", sorted({*ALL} - {"network-mtu", "port-range", "loopback"}))
def test_garbage_of_probes_is_no_pass(name: str) -> None:
    case = gang_pod(
        files={PORTS: "many"},
        probes={"names": {"own_name": 7}, "leader": {"name": "llm-0.llm"}, "clock": {"error": "?"}},
    )
    finding = asked(case, name)
    assert "broken" not in finding.evidence
    assert name == "addresses" or said(finding)[0] != "PASS"


def test_loopback_that_does_not_work_fails() -> None:
    finding = asked(gang_pod(probes={"loopback": {"error": "Network is unreachable"}}), "loopback")
    assert said(finding) == ("FAIL", "127.0.0.1: Network is unreachable")


def test_localhost_that_leads_elsewhere_warns() -> None:
    wrong = {**names([OWN]), "localhost": {"addresses": [PEER], "problem": ""}}
    finding = asked(gang_pod(probes={"names": wrong}), "loopback")
    assert said(finding) == ("WARN", f"localhost: leads to {PEER}")


def test_the_address_is_that_of_the_default_network() -> None:
    finding = asked(gang_pod(), "addresses")
    assert finding.evidence.startswith(f"eth0 has {OWN} (the pod's default network")


def test_a_pod_that_no_interface_leads_out_of_fails() -> None:
    gone = {"/sys/class/net/eth0": None, "/proc/net/route": "", "/etc/podinfo/annotations": ""}
    finding = asked(gang_pod(files=gone), "addresses")
    assert finding.verdict.value == "FAIL"
    assert "no interface leads to other pods" in finding.evidence


def test_a_host_without_a_default_route_warns_and_is_told_its_addresses() -> None:
    by_hand = variables()
    del by_hand["KUBERNETES_SERVICE_HOST"]
    gone = {"/proc/net/route": "", "/etc/podinfo/annotations": ""}
    files = {**gone, "/proc/self/environ": environ(by_hand)}
    finding = asked(healthy(files, answers()), "addresses")
    assert finding.verdict.value == "WARN", finding
    assert finding.fix.startswith("rdmatrain run --local-addr 10.")


def test_an_interface_that_is_down_fails() -> None:
    finding = asked(gang_pod(files={"/sys/class/net/eth0/operstate": "down\n"}), "addresses")
    assert finding.verdict.value == "FAIL"
    assert "eth0" in finding.evidence
    assert finding.evidence.endswith("is down")
    assert finding.fix == "ip link set eth0 up"


@pytest.mark.parametrize("name", ["RDMATRAIN_ADDR", "PET_LOCAL_ADDR"])
def test_a_variable_with_the_address_of_another_pod_fails(name: str) -> None:
    finding = asked(gang_pod(variables(**{name: PEER})), "addresses")
    assert said(finding) == ("FAIL", f"{name}={PEER} is no address of this pod ({OWN})")
    assert finding.fix == f"unset {name}"
    assert asked(gang_pod(variables(**{name: "10.1.0.7"})), "addresses").verdict.value == "PASS"


def test_a_second_interface_in_the_subnet_of_the_first_warns() -> None:
    # 10.244.1.0/24 on both.
    row = "{}\t0001F40A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0"
    table = "\n".join(["Iface\tDestination", row.format("eth0"), row.format("net1")])
    case = gang_pod(files={"/proc/net/route": table})
    finding = asked(case, "addresses")
    assert said(finding)[0] == "WARN"
    assert "eth0 and net1 are in one subnet" in finding.evidence


def test_an_mtu_below_that_of_ipv6_warns() -> None:
    finding = asked(gang_pod(files={"/sys/class/net/eth0/mtu": "576\n"}), "network-mtu")
    assert said(finding) == ("WARN", "eth0 has MTU 576, less than 1280")
    assert asked(gang_pod(), "network-mtu").evidence == "eth0 has MTU 1500"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.1.1"])
def test_an_own_name_on_loopback_warns(address: str) -> None:
    finding = asked(gang_pod(probes={"names": names([address])}), "hostname")
    assert said(finding) == (
        "WARN",
        f"llm-0 is {address}: no other pod reaches this one by it",
    )
    assert finding.fix == "export GLOO_SOCKET_IFNAME=eth0"
    told = gang_pod(variables(GLOO_SOCKET_IFNAME="eth0"), probes={"names": names([address])})
    assert asked(told, "hostname").verdict.value == "PASS"


def test_an_own_name_with_the_address_of_another_pod_fails() -> None:
    finding = asked(gang_pod(probes={"names": names([PEER])}), "hostname")
    assert said(finding) == ("FAIL", f"llm-0 is {PEER}, no address of this pod ({OWN})")


def test_an_own_name_without_an_address_warns() -> None:
    finding = asked(gang_pod(probes={"names": names([])}), "hostname")
    assert said(finding) == ("WARN", f"llm-0: {NOT_FOUND}: no other pod reaches this one by it")


@pytest.mark.parametrize("address", ["127.0.1.1", PEER])
def test_an_own_name_does_not_matter_to_a_job_of_one_node(address: str) -> None:
    finding = asked(healthy(probes={"names": names([address])}), "hostname")
    assert said(finding) == ("PASS", f"llm-0 is {address}")


def test_a_leader_that_resolves_passes() -> None:
    finding = asked(gang_pod(), "dns-leader")
    assert finding.evidence.startswith("llm-0.llm (")
    assert finding.evidence.endswith(f"is {OWN}")


def test_the_needs_say_who_leads() -> None:
    facts = {**leader((PEER,), own=False), "name": "boss", "port": 1234}
    case = healthy(probes={"leader": facts}, needs=Needs(leader="boss:1234"))
    assert asked(case, "dns-leader").evidence == f"boss (given) is {PEER}"


@pytest.mark.parametrize(
    ("given", "needs", "alone"),
    [
        ({}, Needs(nodes=64, leader="a:1"), False),
        ({"PET_NNODES": "2", "PET_MASTER_ADDR": "a"}, Needs(nodes=1), True),
        ({"PET_NNODES": "1"}, Needs(nodes=2, leader="a:1"), False),
        (TASK_3_OF_4, Needs(nodes=2, leader="a:1"), False),
    ],
    ids=["plain", "one of two", "two of one", "mpirun"],
)
def test_the_needs_say_how_many_nodes_meet(
    given: dict[str, str], needs: Needs, alone: bool
) -> None:
    found = bare({"/proc/self/environ": environ(given)}).found
    place = meeting(found.pod, found.identity, needs)
    assert (place.problem, place.alone, place.leader) == ("", alone, "" if alone else "a")


def test_an_answer_for_another_name_is_none() -> None:
    case = gang_pod(variables(PET_MASTER_ADDR="llm-9.llm"))
    assert said(asked(case, "dns-leader")) == ("SKIP", "nobody has asked for llm-9.llm")


CAUSES: dict[str, tuple[dict[str, Any], dict[str, str], int, str, str, str]] = {
    "no server": (
        lost(),
        {"/etc/resolv.conf": "search svc.cluster.local\n"},
        0,
        "FAIL",
        "/etc/resolv.conf names no server",
        "dnsPolicy: ClusterFirst}",
    ),
    "dead server": (
        lost(servers={"10.96.0.10": "no answer"}, late=True),
        {},
        0,
        "FAIL",
        "no name server of /etc/resolv.conf answers (10.96.0.10: no answer)",
        "k8s-app=kube-dns",
    ),
    "names of the node": (
        lost(),
        {"/etc/resolv.conf": "nameserver 8.8.8.8\n"},
        1,
        "FAIL",
        "searches no svc.cluster.local",
        "ClusterFirstWithHostNet",
    ),
    "no subdomain": (
        lost(),
        {"/etc/hosts": f"127.0.0.1 localhost\n{OWN} llm-0\n"},
        1,
        "FAIL",
        f"/etc/hosts: {OWN} llm-0, without a domain",
        "spec: {subdomain: llm}",
    ),
    "no service": (
        lost(service_problem=NOT_FOUND),
        {},
        1,
        "FAIL",
        "no Service has the name llm",
        "metadata: {name: llm}, spec: {clusterIP: None, publishNotReadyAddresses: true}",
    ),
    "nobody is ready": (
        lost(service_problem="the name does not resolve: No address associated with hostname"),
        {},
        0,
        "WARN",
        "llm is there: node 0 has not started yet, or is not ready",
        "metadata: {name: llm}, spec: {publishNotReadyAddresses: true}",
    ),
    "node 0 is not there yet": (
        lost(service_addresses=[PEER]),
        {},
        1,
        "WARN",
        "llm is there: node 0 has not started yet",
        "publishNotReadyAddresses: true",
    ),
    "slow server": (
        lost(late=True, problem="no answer within 0.5 s"),
        {"/etc/hosts": f"127.0.0.1 localhost\n{OWN} llm-0\n"},
        1,
        "WARN",
        "no answer within 0.5 s",
        "getent hosts llm-0.llm",
    ),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_a_leader_without_an_address_is_explained(cause: str) -> None:
    facts, files, rank, verdict, evidence, fix = CAUSES[cause]
    case = gang_pod(variables(rank), files, {"leader": facts})
    finding = asked(case, "dns-leader")
    assert finding.verdict.value == verdict
    assert evidence in finding.evidence
    assert "llm-0.llm" in finding.evidence
    assert fix in finding.fix


@pytest.mark.parametrize(
    ("problem", "verdict"),
    [(NOT_FOUND, "FAIL"), ("the name does not resolve: No address associated", "WARN")],
)
def test_a_leader_may_be_a_service(problem: str, verdict: str) -> None:
    facts = {**lost(service="", problem=problem), "name": "job-master-0"}
    case = gang_pod(variables(1, PET_MASTER_ADDR="job-master-0"), probes={"leader": facts})
    finding = asked(case, "dns-leader")
    assert finding.verdict.value == verdict
    assert "job-master-0 (PET_MASTER_ADDR): the name does not resolve" in finding.evidence
    assert finding.fix.startswith("kind: Service, metadata: {name: job-master-0}")


def test_outside_of_kubernetes_nothing_is_said_of_services() -> None:
    facts = {**lost(service=""), "name": "node-0"}
    given = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "node-0"}
    case = gang_pod(given, probes={"leader": facts})
    finding = asked(case, "dns-leader")
    assert finding.verdict.value == "FAIL"
    assert finding.fix == "--master-addr with an address of node 0, not node-0"
    assert "Service" not in finding.evidence


def test_a_leader_on_loopback_fails_in_a_cluster() -> None:
    finding = asked(gang_pod(probes={"leader": leader(("127.0.1.1",))}), "dns-leader")
    assert finding.verdict.value == "FAIL"
    assert "127.0.1.1, which on each node is the node itself" in finding.evidence


def test_localhost_by_hand_may_be_meant() -> None:
    given = {"PET_NNODES": "2", "PET_NODE_RANK": "0", "PET_MASTER_ADDR": "localhost"}
    facts = {**leader(("127.0.0.1",)), "name": "localhost"}
    finding = asked(gang_pod(given, probes={"leader": facts}), "dns-leader")
    assert finding.verdict.value == "WARN"
    assert "right if all are on this host" in finding.evidence


def test_tasks_of_one_host_may_meet_on_loopback() -> None:
    given = {
        "OMPI_COMM_WORLD_RANK": "0",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_LOCAL_RANK": "0",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        "PMIX_RANK": "0",
        "PET_MASTER_ADDR": "localhost",
    }
    facts = {**leader(("127.0.0.1",)), "name": "localhost"}
    finding = asked(gang_pod(given, probes={"leader": facts}), "dns-leader")
    assert said(finding) == ("PASS", "localhost (PET_MASTER_ADDR) is 127.0.0.1")


def test_a_leader_whose_name_leads_elsewhere_is_warned() -> None:
    finding = asked(gang_pod(probes={"leader": leader((PEER,), own=False)}), "dns-leader")
    assert finding.verdict.value == "WARN"
    assert f"is {PEER}, which is not this pod, and this is node 0 ({OWN})" in finding.evidence


def test_a_port_that_is_taken_fails_and_names_the_holder() -> None:
    facts = {
        "problem": "cannot listen on '10.244.1.5', port 29500",
        "holder": "process 7: python t",
    }
    finding = asked(gang_pod(probes={"leader": leader(listen=facts)}), "rendezvous-port")
    assert said(finding) == (
        "FAIL",
        "cannot listen on '10.244.1.5', port 29500 (process 7: python t)",
    )
    assert finding.fix == "kill 7, or --master-port 29501, on all nodes"


@pytest.mark.parametrize(
    ("outcome", "hello", "verdict", "evidence"),
    [
        ("", "rdmatrain", "PASS", "llm-0.llm, port 29500 answers"),
        ("", "silent", "PASS", "llm-0.llm, port 29500 answers"),
        ("", "another program", "WARN", "another program than rdmatrain answers"),
        ("ECONNREFUSED", "", "SKIP", f"nobody listens yet ({PEER}: ECONNREFUSED)"),
        ("ETIMEDOUT", "", "WARN", f"no way there, or node 0 is not up yet ({PEER}: ETIMEDOUT)"),
    ],
)
def test_who_does_not_lead_calls(outcome: str, hello: str, verdict: str, evidence: str) -> None:
    facts = leader((PEER,), own=False, dial={PEER: outcome}, hello=hello)
    finding = asked(gang_pod(variables(1), probes={"leader": facts}), "rendezvous-port")
    assert finding.verdict.value == verdict
    assert evidence in finding.evidence


def test_a_port_is_not_asked_for_where_the_name_fails() -> None:
    case = gang_pod(probes={"leader": lost()})
    assert first(case) == "dns-leader"


def test_a_job_of_one_node_takes_a_free_port() -> None:
    assert asked(healthy(), "rendezvous-port").evidence == (
        "the job has one node, which takes a free port"
    )


def test_the_port_of_a_job_of_one_node_can_be_taken() -> None:
    facts = {"name": "", "port": 4242, "listen": {"problem": "port 4242: taken", "holder": ""}}
    case = gang_pod({"PET_MASTER_PORT": "4242"}, probes={"leader": facts})
    assert said(asked(case, "rendezvous-port")) == ("FAIL", "port 4242: taken")


def test_what_the_launcher_would_refuse_is_not_known() -> None:
    case = gang_pod({"PET_NNODES": "2", "PET_NODE_RANK": "0"})
    finding = asked(case, "dns-leader")
    assert finding.verdict.value == "SKIP"
    assert "--master-addr HOST" in finding.evidence


def test_a_narrow_range_of_ports_warns() -> None:
    finding = asked(gang_pod(files={PORTS: "60000 61000\n"}), "port-range")
    assert said(finding) == ("WARN", "ip_local_port_range is 60000 to 61000, 1001 ports")


def test_the_port_of_node_0_should_not_be_ephemeral() -> None:
    wide = {PORTS: "1024\t65535\n"}
    finding = asked(gang_pod(files=wide), "port-range")
    assert said(finding) == (
        "WARN",
        "ip_local_port_range is 1024 to 65535, and port 29500 of node 0 is in it",
    )
    assert finding.fix == "--master-port 1023"
    reserved = gang_pod(files={**wide, RESERVED: "8080,29400-29600\n"})
    assert asked(reserved, "port-range").verdict.value == "PASS"
    assert asked(gang_pod(variables(1), wide), "port-range").verdict.value == "PASS"


def test_a_clock_that_nobody_keeps_right_warns() -> None:
    facts = {"error": "", "synchronized": False, "max_error_s": 16.0}
    finding = asked(gang_pod(probes={"clock": facts}), "clock")
    assert finding.verdict.value == "WARN"
    assert "STA_UNSYNC" in finding.evidence


def test_a_clock_that_may_be_seconds_off_warns() -> None:
    facts = {"error": "", "synchronized": True, "max_error_s": 3.5}
    finding = asked(gang_pod(probes={"clock": facts}), "clock")
    assert said(finding) == ("WARN", "the clock may be 3.5 s off")


def test_a_clock_that_cannot_be_asked_is_skipped() -> None:
    finding = asked(gang_pod(probes={"clock": {"error": "adjtimex: not here"}}), "clock")
    assert said(finding) == ("SKIP", "adjtimex: not here")
    assert said(asked(gang_pod(probes={"clock": {}}), "clock"))[0] == "SKIP"


@pytest.mark.parametrize(
    ("ahead_s", "verdict", "evidence"),
    [
        (-20.0, "WARN", "the clock of the cluster is 20.000 s behind"),
        (1.5, "WARN", "the clock of the cluster is 1.500 s ahead"),
        (0.25, "PASS", "the clock of the cluster agrees to a second"),
    ],
)
@pytest.mark.parametrize("kept", [{"synchronized": True}, {"error": "adjtimex: not here"}])
def test_the_clock_of_the_cluster_counts_first(
    kept: dict[str, Any], ahead_s: float, verdict: str, evidence: str
) -> None:
    probes = {"clock": kept, "cluster": {"error": "", "ahead_s": ahead_s}}
    given, found = said(asked(gang_pod(probes=probes), "clock"))
    assert (given, evidence in found) == (verdict, True)


@pytest.mark.parametrize(
    ("ahead_s", "verdict", "evidence"),
    [
        (21.5, "WARN", "the clock of the file server of /ckpt is 21.500 s ahead"),
        (0.004, "PASS", "the clock is kept right to 0.020 s; the cluster's was not asked"),
    ],
)
def test_a_file_server_shows_a_clock_that_is_wrong(
    ahead_s: float, verdict: str, evidence: str
) -> None:
    facts = {"path": "/ckpt", "ahead_s": ahead_s}
    assert said(asked(gang_pod(probes={"checkpoint": facts}), "clock")) == (verdict, evidence)


# The probes, on this machine.


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def place(port: int, rank: int | None, leader: str = "127.0.0.1") -> Meeting:
    return Meeting(leader=leader, port=port, node_rank=rank)


def test_sockets_talk_over_loopback() -> None:
    assert network.ask_loopback() == {"error": ""}


def test_the_kernel_says_whether_the_clock_is_kept_right() -> None:
    facts = network.ask_clock()
    assert facts["error"] or isinstance(facts["synchronized"], bool)
    assert facts["error"] or 0 <= facts["max_error_s"] < 1e4


def test_own_names_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"pod-1": (("127.0.1.1", "192.0.2.1"), ""), "localhost": ((), "no")}
    monkeypatch.setattr("socket.gethostname", lambda: "pod-1")
    monkeypatch.setattr(network, "addresses_of", known.__getitem__)
    assert network.ask_names() == {
        "hostname": "pod-1",
        "own_name": {
            "addresses": ["127.0.1.1", "192.0.2.1"],
            "own": ["127.0.1.1"],
            "problem": "",
            "late": False,
        },
        "localhost": {"addresses": [], "own": [], "problem": "no", "late": False},
    }


def test_a_resolver_that_does_not_answer_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "in_time", lambda seconds, _: f"{LATE} {seconds:g} s")
    monkeypatch.setattr(network, "_ask_servers", lambda: {"192.0.2.53": "no answer"})
    facts = network.ask_leader(place(29500, 1, "llm-0.llm"))
    assert facts["addresses"] == []
    assert facts["late"]
    assert facts["problem"] == "no answer within 0.5 s"
    assert facts["servers"] == {"192.0.2.53": "no answer"}


def test_a_call_that_breaks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> Any:
        raise LookupError("unknown encoding: idna")

    monkeypatch.setattr(network, "addresses_of", broken)
    facts = network.ask_names()["own_name"]
    assert facts["problem"] == "LookupError: unknown encoding: idna"
    assert not facts["late"]


def test_an_unknown_name_is_asked_for_by_its_service(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"llm-0.llm": ((), NOT_FOUND), "llm": ((PEER,), "")}
    monkeypatch.setattr(network, "addresses_of", known.__getitem__)
    monkeypatch.setattr(network, "_ask_servers", dict)
    facts = network.ask_leader(place(29500, 1, "llm-0.llm"))
    assert facts["problem"] == NOT_FOUND
    assert (facts["service"], facts["service_addresses"]) == ("llm", [PEER])
    known["llm"] = ((), "nothing")
    assert network.ask_leader(place(29500, 1, "llm-0.llm"))["service_problem"] == "nothing"


def test_a_name_server_that_is_silent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        ask, port = socket.getaddrinfo, server.getsockname()[1]
        monkeypatch.setattr(
            network.socket, "getaddrinfo", lambda host, _, **more: ask(host, port, **more)
        )
        source = SimpleNamespace(text=lambda _: "nameserver 127.0.0.1\nnameserver none\n")
        monkeypatch.setattr(network, "Tree", lambda: source)
        monkeypatch.setattr(network, "SERVERS_S", 0.01)
        found = network._ask_servers()
        assert found["127.0.0.1"] == "no answer"
        assert found["none"]  # which is no address
        assert len(server.recv(512)) == 17  # a whole question


def test_a_name_server_that_answers_is_told() -> None:
    sock, server = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sock, server:
        server.send(b"answer")
        assert network._answer(sock, deadline=0.0) == ""


def test_node_0_can_have_its_port(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    facts = network.ask_leader(place(port, 0))
    assert facts["listen"] == {"address": "127.0.0.1", "problem": "", "holder": ""}
    socket.create_server(("127.0.0.1", port)).close()  # nothing is left behind


@pytest.mark.parametrize("alone", [True, False])
def test_the_holder_of_a_port_is_named(listener: socket.socket, alone: bool) -> None:
    port = listener.getsockname()[1]
    facts = network.ask_leader(
        Meeting(alone=alone, leader="" if alone else "127.0.0.1", port=port, node_rank=0)
    )
    assert f"port {port}: another program has that port" in facts["listen"]["problem"]
    assert facts["listen"]["holder"].startswith(f"process {os.getpid()}: ")


def test_a_holder_that_cannot_be_seen_is_a_user(tmp_path: Path) -> None:
    row = "0: 0100007F:733C 00000000:0000 0A 0:0 00:0 0 1234 0 99 1 x"
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(f"  sl  local_address\n   {row}\n")
    assert network.holder(29500, tmp_path) == "a process of user 1234, not of this container"
    assert network.holder(29501, tmp_path) == ""


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("/usr/bin/python3\0-u\0-m\0train\0--token\0s3cret\0", "/usr/bin/python3 train"),
        ("curl\0-u\0me:s3cret\0", "curl"),
        ("python3\0", "python3"),
        ("", "?"),
    ],
)
def test_a_holder_is_shown_without_its_secrets(tmp_path: Path, command: str, shown: str) -> None:
    (tmp_path / "cmdline").write_text(command)
    assert network._command(tmp_path) == shown
    assert network._command(tmp_path / "gone") == "?"


def test_another_node_calls_the_leader(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    facts = network.ask_leader(place(port, 1))
    assert facts["dial"] == {"127.0.0.1": ""}
    assert facts["hello"] == "silent"
    listener.close()
    assert network.ask_leader(place(port, 1))["dial"] == {"127.0.0.1": "ECONNREFUSED"}


@pytest.mark.parametrize(
    ("said", "hello"),
    [(b"rdmatrain\x01L", "rdmatrain"), (b"SSH-2.0-x", "another program"), (b"", "closed")],
)
def test_who_answers_is_recognised(said: bytes, hello: str) -> None:
    one, other = socket.socketpair()
    with one:
        other.sendall(said)
        other.close()
        assert network._hello(one) == hello


def test_nobody_is_called_where_no_way_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENETUNREACH, "no")

    monkeypatch.setattr(network.socket, "getaddrinfo", refuse)
    assert network._dial(["192.0.2.1"], 1)["dial"] == {"192.0.2.1": "ENETUNREACH"}


def test_a_node_that_knows_of_no_meeting_asks_nobody() -> None:
    assert network.ask_leader(Meeting(problem="why"))["error"] == "why"
    assert "listen" not in network.ask_leader(Meeting(alone=True))


def test_the_probes_find_the_meeting_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "ask_leader", lambda place: {"name": place.leader})
    needs = Needs(leader="192.0.2.1:4242")
    assert network.probes(needs)["leader"]() == {"name": "192.0.2.1"}


def test_a_disk_that_hangs_is_not_the_clocks_matter() -> None:
    late = {"error": "no answer within 1.3 s", "unanswered": True}
    finding = asked(gang_pod(probes={"checkpoint": late}), "clock")
    assert finding.verdict.value == "PASS", finding
