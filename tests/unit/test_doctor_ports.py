# SPDX-License-Identifier: Apache-2.0
"""Checks of ports: the healthy pod with one thing changed, in sysfs or in libibverbs' answer."""

import re
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from doctor_pods import HEALTHY, asked, healthy, pod, verbs
from memory_source import environ
from pod_scenarios import load

from rdmatrain.doctor.checks import ports
from rdmatrain.doctor.checks.mtu import MTUS, carries, fits
from rdmatrain.doctor.model import Case, Check, Finding, Needs, Verdict

PORT2 = "/sys/class/infiniband/mlx5_2/ports/1"
PORT3 = "/sys/class/infiniband/mlx5_3/ports/1"
IDS = ("port-state", "link-layer", "port-rate", "gid-usable", "gid-routable", "gid-version",
       "gid-address", "mtu", "pkey", "port-errors")  # fmt: skip
FULL, LIMITED = "0xffff\n", "0x7fff\n"
# What mlx5 counts, where all is well.
COUNTERS = {
    f"{port}/{name}": f"{value}\n"
    for port in (PORT2, PORT3)
    for name, value in {
        "counters/link_downed": 1,
        "counters/symbol_error": 0,
        "counters/port_rcv_data": 10**12,
        "counters/port_rcv_packets": 10**9,
        "counters/port_xmit_packets": 10**9,
        "hw_counters/out_of_sequence": 12,
        "hw_counters/local_ack_timeout_err": 3,
    }.items()
}


@cache
def well() -> Case:
    return healthy(COUNTERS)


def found(name: str, files: dict[str, Any] | None = None, **port: Any) -> Finding:
    """What a check says of the healthy pod with other files, or another port of mlx5_2."""
    probes = {"verbs": verbs(port)} if port else None
    return asked(healthy(files, probes), name)


def infiniband(files: dict[str, Any] | None = None, **port: Any) -> Case:
    layers = {f"{port}/link_layer": "InfiniBand\n" for port in (PORT2, PORT3)}
    keys = {f"{port}/pkeys/0": FULL for port in (PORT2, PORT3)}
    return healthy({**layers, **keys, **(files or {})}, {"verbs": verbs(port)})


@pytest.mark.parametrize("name", [each for each in IDS if each != "pkey"])
def test_a_healthy_pod_passes(name: str) -> None:
    finding = asked(well(), name)
    assert finding.verdict is Verdict.PASS, finding
    assert "mlx5_2/1" in finding.evidence
    assert "mlx5_3/1" in finding.evidence


def test_all_checks_are_tested() -> None:
    assert {each.id for each in vars(ports).values() if isinstance(each, Check)} == set(IDS)


def test_infiniband_passes() -> None:
    case = infiniband()
    assert asked(case, "pkey").verdict is Verdict.PASS
    assert asked(case, "pkey").evidence.startswith("mlx5_2/1: the key at index 0 is 0xffff")
    assert asked(case, "mtu").evidence.startswith("mlx5_2/1: active_mtu 4096")
    assert asked(case, "link-layer").evidence == "InfiniBand: mlx5_2/1, mlx5_3/1"
    for name in ("gid-usable", "gid-routable", "gid-version", "gid-address"):
        assert asked(case, name).verdict is Verdict.SKIP


def test_a_laptop_has_no_ports() -> None:
    case = pod("laptop_without_anything")
    assert {asked(case, name).verdict for name in IDS} == {Verdict.SKIP}


def test_a_job_over_tcp_needs_no_port() -> None:
    case = pod("granted_port_is_down", needs=Needs(transport="tcp"))
    assert {asked(case, name).verdict for name in IDS} == {Verdict.SKIP}


# -- port-state


def test_a_port_without_a_link() -> None:
    files = {f"{PORT2}/state": "1: DOWN\n", f"{PORT2}/phys_state": "3: Disabled\n",
             "/sys/class/net/net1/operstate": "down\n"}  # fmt: skip
    finding = found("port-state", files, state="DOWN", gids={})
    assert finding.verdict is Verdict.FAIL
    assert "port mlx5_2/1 is DOWN" in finding.evidence
    assert finding.evidence.endswith("mlx5_2/1 is physically Disabled; net1 is down")
    assert finding.fix == "ip link set dev net1 up"


def test_a_port_without_a_subnet_manager() -> None:
    finding = asked(infiniband({f"{PORT2}/state": "2: INIT\n"}, state="INIT"), "port-state")
    assert finding.verdict is Verdict.FAIL
    assert "it waits for the subnet manager" in finding.evidence
    assert finding.fix.startswith("systemctl start opensm")


def test_a_port_without_a_cable() -> None:
    """Of a host whose other NIC is down as well."""
    files = {f"/sys/class/infiniband/mlx5_{n}/ports/1/state": "1: DOWN\n" for n in (0, 1)}
    finding = asked(pod("host_network_all_nics", files, {"verbs": None}), "port-state")
    assert finding.verdict is Verdict.FAIL
    ports = ("mlx5_0", "mlx5_1", "mlx5_2")
    assert finding.evidence == "; ".join(f"{name}: port {name}/1 is DOWN" for name in ports)
    assert finding.fix.startswith("mlxlink -d mlx5_0 -c, on the host: see to the cable")


def test_a_port_that_is_down_is_no_port_without_gid() -> None:
    case = pod("granted_port_is_down")
    assert asked(case, "gid-usable").verdict is Verdict.PASS


# -- link-layer


def test_two_fabrics() -> None:
    finding = found("link-layer", {f"{PORT3}/link_layer": "InfiniBand\n"})
    assert finding.verdict is Verdict.FAIL
    assert "Ethernet: mlx5_2/1; InfiniBand: mlx5_3/1" in finding.evidence
    assert re.fullmatch(r"export NCCL_IB_HCA==(\w+) RDMATRAIN_DEVICES=\1", finding.fix)


def test_two_fabrics_of_ranks_without_gpus() -> None:
    case = well()
    binding = next(each for each in case.found.bindings if each.nics)
    nics = [each.nic for each in case.found.allocation.nics]
    other = replace(nics[1], ports=(replace(nics[1].ports[0], link_layer="InfiniBand"),))
    granted = case.found.allocation.nics
    allocation = replace(case.found.allocation, nics=(granted[0], replace(granted[1], nic=other)))
    bindings = (replace(binding, nics=(nics[0], other)),)
    mixed = replace(case.found, allocation=allocation, bindings=bindings)
    finding = asked(replace(case, found=mixed), "link-layer")
    assert finding.verdict is Verdict.FAIL
    assert finding.evidence == "Ethernet: mlx5_2/1; InfiniBand: mlx5_3/1"


def test_a_link_layer_that_cannot_be_read() -> None:
    files = {f"{port}/link_layer": None for port in (PORT2, PORT3)}
    assert found("link-layer", files).verdict is Verdict.SKIP


# -- port-rate


def test_a_port_that_is_slower_than_its_sibling() -> None:
    finding = found("port-rate", {f"{PORT3}/rate": "200 Gb/sec (2X NDR)\n"})
    assert finding.verdict is Verdict.WARN
    expected = "mlx5_3/1 has 200 Gb/sec (2X NDR); its siblings have 400 Gb/sec"
    assert finding.evidence == expected
    assert "mlx5_3" in finding.fix


def test_a_port_so_slow_that_ranks_do_without_it() -> None:
    finding = found("port-rate", {f"{PORT3}/rate": "100 Gb/sec (4X EDR)\n"})
    assert finding.verdict is Verdict.WARN
    expected = "mlx5_3/1 has 100 Gb/sec (4X EDR); its siblings have 400 Gb/sec"
    assert finding.evidence == expected


@pytest.mark.parametrize("rate", ["100 Gb/sec (1X NDR)", "10 Gb/sec (4X SDR)"])
def test_a_cable_of_infiniband_with_bad_lanes(rate: str) -> None:
    case = infiniband({f"{port}/rate": f"{rate}\n" for port in (PORT2, PORT3)})
    finding = asked(case, "port-rate")
    assert finding.verdict is Verdict.WARN
    assert f"mlx5_2/1 has {rate}: a lane" in finding.evidence


def test_one_lane_of_ethernet_is_well() -> None:
    files = {f"{port}/rate": "25 Gb/sec (1X EDR)\n" for port in (PORT2, PORT3)}
    assert found("port-rate", files).verdict is Verdict.PASS


def test_a_rate_that_cannot_be_read() -> None:
    files = {f"{port}/rate": None for port in (PORT2, PORT3)}
    assert found("port-rate", files).verdict is Verdict.SKIP


# -- GIDs


def test_no_gid_works() -> None:
    reasons = dict.fromkeys("0123", "ibv_create_ah: Invalid argument")
    finding = found("gid-usable", gids=reasons)
    assert finding.verdict is Verdict.FAIL
    assert "port mlx5_2/1 has no GID that works here" in finding.evidence
    assert finding.fix.endswith("in the NetworkAttachmentDefinition of net1")


def test_a_gid_that_was_not_tested_is_not_known_to_work() -> None:
    assert found("gid-usable", gids={}).verdict is Verdict.PASS  # the other port's was
    case = healthy(probes={"verbs": None})
    finding = asked(case, "gid-usable")
    assert finding.verdict is Verdict.SKIP
    assert "mlx5_2/1: gid 3 RoCE v2 10.1.0.7 on net1: libibverbs was not asked" in finding.evidence


def test_an_interface_without_address() -> None:
    """Its link-local address is all that the table has."""
    zero = "0000:0000:0000:0000:0000:0000:0000:0000\n"
    files = {f"{PORT2}/gids/{index}": zero for index in (2, 3)}
    finding = found("gid-routable", files)
    assert finding.verdict is Verdict.WARN
    assert "mlx5_2/1: gid 1 RoCE v2 fe80::3 on net1 is the best that it has" in finding.evidence
    assert "net1" in finding.fix


def test_only_roce_v1() -> None:
    finding = asked(pod("roce_v1_only"), "gid-version")
    assert finding.verdict is Verdict.WARN
    assert "gid 1 RoCE v1 10.1.0.7" in finding.evidence
    assert finding.fix.startswith("devlink dev flash pci/0000:0c:00.")


def test_a_gid_of_unknown_version() -> None:
    files = {f"{PORT2}/gid_attrs/types/{index}": None for index in range(4)}
    finding = found("gid-version", files)
    assert finding.verdict is Verdict.PASS  # the other port's
    both = files | {f"{PORT3}/gid_attrs/types/{index}": None for index in range(4)}
    finding = found("gid-version", both)
    assert finding.verdict is Verdict.SKIP
    assert "mlx5_2/1: the type of gid" in finding.evidence


def test_a_gid_of_no_interface() -> None:
    """As after a change of the address, when the driver has not followed."""
    other = "0000:0000:0000:0000:0000:ffff:0a01:0063\n"
    files = {f"{PORT2}/gids/{index}": other for index in (2, 3)}
    finding = found("gid-address", files)
    assert finding.verdict is Verdict.WARN
    assert finding.evidence == "mlx5_2/1: gid 3 10.1.0.99 is of no interface: net1 has 10.1.0.7"
    assert "dev net1" in finding.fix


def test_addresses_that_are_not_known() -> None:
    finding = found("gid-address", {"/proc/net/fib_trie": None})
    assert finding.verdict is Verdict.SKIP
    assert "no addresses of its interface are known" in finding.evidence


# -- mtu


@pytest.mark.parametrize(
    ("netdev", "roce"), [(1500, 1024), (4191, 2048), (4192, 4096), (9000, 4096), (300, 0)]
)
def test_what_roce_makes_of_an_mtu(netdev: int, roce: int) -> None:
    assert fits(netdev) == roce


@pytest.mark.parametrize("size", MTUS)
def test_an_mtu_that_is_proposed_carries_it(size: int) -> None:
    assert fits(carries(size)) >= size


def test_an_mtu_of_1500() -> None:
    finding = found("mtu", {"/sys/class/net/net1/mtu": "1500\n"}, active_mtu=1024)
    assert finding.verdict is Verdict.WARN
    expected = "mlx5_2/1: active_mtu 1024, net1 has mtu 1500: at most 1024 of RoCE"
    assert finding.evidence == expected
    assert '{"type": "tuning", "mtu": 4200}' in finding.fix


def test_what_to_do_outside_of_kubernetes() -> None:
    files = {"/etc/podinfo": None, "/sys/class/net/net1/mtu": "1500\n"}
    files |= {f"/proc/{pid}/environ": environ({"PATH": "/bin"}) for pid in ("self", "1")}
    port = {"active_mtu": 1024, "gids": dict.fromkeys("0123", "ibv_create_ah: Invalid argument")}
    assert found("mtu", files, active_mtu=1024).fix == "ip link set dev net1 mtu 4200"
    assert found("gid-usable", files, **port).fix == "ip addr add 10.1.0.N/16 dev net1"


def test_a_port_that_sends_more_than_its_interface_carries() -> None:
    finding = found("mtu", {"/sys/class/net/net1/mtu": "1500\n"}, active_mtu=4096)
    assert finding.verdict is Verdict.WARN
    expected = "mlx5_2/1: active_mtu 4096, net1 has mtu 1500, which carries 1024"
    assert finding.evidence == expected


def test_a_port_that_did_not_follow_its_interface() -> None:
    finding = found("mtu", active_mtu=1024)
    assert finding.verdict is Verdict.WARN
    assert finding.evidence == "mlx5_2/1: active_mtu 1024, net1 has mtu 9000, which carries 4096"
    assert finding.fix == "ip link set dev net1 down; ip link set dev net1 up"


def test_a_macvlan_has_an_mtu_of_its_own() -> None:
    finding = asked(pod("nccl_551_first_gid_is_12"), "mtu")
    assert finding.verdict is Verdict.PASS


def test_rails_of_infiniband_whose_mtus_differ() -> None:
    finding = asked(infiniband(active_mtu=2048), "mtu")
    assert finding.verdict is Verdict.WARN
    assert finding.evidence == "active_mtu differs: mlx5_2/1 has 2048, mlx5_3/1 has 4096"


def test_an_mtu_that_cannot_be_seen() -> None:
    assert asked(healthy(probes={"verbs": None}), "mtu").verdict is Verdict.SKIP


# -- pkey


def test_a_key_of_no_partition() -> None:
    case = infiniband({f"{PORT2}/pkeys/0": "0x0000\n", f"{PORT2}/pkeys/1": "0x8012\n"})
    finding = asked(case, "pkey")
    assert finding.verdict is Verdict.FAIL
    assert finding.evidence == "mlx5_2/1: the key at index 0 is 0x0000: of no partition"
    assert finding.fix == "export RDMATRAIN_PKEY=1 NCCL_IB_PKEY=1"


def test_a_limited_member() -> None:
    finding = asked(infiniband({f"{PORT2}/pkeys/0": LIMITED}), "pkey")
    assert finding.verdict is Verdict.WARN
    assert "0x7fff: a limited member" in finding.evidence
    assert finding.fix.startswith("echo 'full=0x7fff: 0x0000000000000003=full;' >> /etc/opensm/")


def test_the_key_that_the_job_is_told_to_use() -> None:
    text = environ({**load(HEALTHY)["environment"], "RDMATRAIN_PKEY": "1"})
    keys = {f"{port}/pkeys/1": "0x8012\n" for port in (PORT2, PORT3)}
    case = infiniband({"/proc/self/environ": text, **keys, f"{PORT2}/pkeys/0": "0x0000\n"})
    assert asked(case, "pkey").verdict is Verdict.PASS
    assert "index 1 is 0x8012" in asked(case, "pkey").evidence


def test_roce_has_no_keys() -> None:
    assert asked(well(), "pkey").verdict is Verdict.SKIP
    assert asked(infiniband({f"{PORT2}/pkeys": None, f"{PORT3}/pkeys": None}), "pkey").verdict is (
        Verdict.SKIP
    )


# -- port-errors


@pytest.mark.parametrize(
    ("counter", "value", "normal", "fix"),
    [
        ("counters/link_downed", 11, 10, "mlxlink"),
        ("counters/link_error_recovery", 11, 10, "mlxlink"),
        ("counters/symbol_error", 101, 100, "mlxlink"),
        ("hw_counters/out_of_sequence", 100_001, 100_000, "pfc"),
        ("hw_counters/packet_seq_err", 100_001, 100_000, "pfc"),
        ("hw_counters/local_ack_timeout_err", 10_001, 10_000, "pfc"),
    ],
)
def test_a_counter_beyond_what_is_normal(counter: str, value: int, normal: int, fix: str) -> None:
    finding = found("port-errors", {**COUNTERS, f"{PORT2}/{counter}": f"{value}\n"})
    name = counter.partition("/")[2]
    assert finding.verdict is Verdict.WARN
    assert finding.evidence == f"mlx5_2/1: {name} {value} (normal: up to {normal})"
    assert fix in finding.fix
    at_most = found("port-errors", {**COUNTERS, f"{PORT2}/{counter}": f"{normal}\n"})
    assert at_most.verdict is Verdict.PASS


def test_a_long_life_allows_more() -> None:
    """One symbol in 1e12 bits, one packet in 1e4, one acknowledgement in 1e7."""
    files = {**COUNTERS, f"{PORT2}/counters/port_rcv_data": f"{10**14}\n",
             f"{PORT2}/counters/symbol_error": "3200\n"}  # fmt: skip
    assert found("port-errors", files).verdict is Verdict.PASS
    files[f"{PORT2}/counters/symbol_error"] = "3201\n"
    assert "symbol_error 3201 (normal: up to 3200)" in found("port-errors", files).evidence


def test_counters_that_cannot_be_read() -> None:
    assert found("port-errors").verdict is Verdict.SKIP
    files = {**dict.fromkeys(COUNTERS, "N/A (no PMA)\n")}
    assert found("port-errors", files).verdict is Verdict.SKIP


@pytest.mark.parametrize(
    "garbage",
    [
        [],
        {"ports": 3},
        {"ports": [{"device": "mlx5_2", "port": 1, "gids": 4, "active_mtu": "x", "state": 9}]},
        {"ports": [{"device": "mlx5_2", "port": "1", "gids": {"3": None}, "active_mtu": -1}]},
    ],
)
def test_garbage_breaks_no_check(garbage: Any) -> None:
    names = ("rate", "state", "link_layer", "pkeys/0", "phys_state", "counters/link_downed")
    files = {f"{PORT2}/{name}": "\udcff: 0x (\0" for name in names}
    case = healthy(files, {"verbs": garbage})
    for name in IDS:
        assert "broken" not in asked(case, name).evidence
