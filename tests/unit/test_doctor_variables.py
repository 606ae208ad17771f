# SPDX-License-Identifier: Apache-2.0
"""Variables that were lost, misspelt, contradict each other, or do not fit the pod."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

import pytest
from doctor_pods import asked, bare, healthy, pod
from doctor_variables import with_complaint, with_variables
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_source import environ

from rdmatrain.discovery import bindings, environment_check, orchestrator, pairing, reasons
from rdmatrain.discovery.complaints import MEANING
from rdmatrain.discovery.orchestrators import adapters, hosts, rules
from rdmatrain.doctor.checks import gpudirect, placement, variables
from rdmatrain.doctor.meeting import meeting
from rdmatrain.doctor.misspelt import edits, is_number, misspelt, wrong_values
from rdmatrain.doctor.model import Check, Finding, Needs
from rdmatrain.doctor.names import NCCL, NUMBERS, WORDS
from rdmatrain.doctor.subject import needs_of
from rdmatrain.launcher.job import Gang, Job, Program

CHECKS = [
    "env-lost-by-shell", "env-differs", "env-misspelt", "env-contradicts", "env-rdma-off",
    "env-gid-index", "env-devices", "env-interface", "identity", "env-omp",
]  # fmt: skip
# Which check answers for what discovery complains of; the others are of devices and ports.
ANSWERED = {
    "cpus-far": "numa-alignment",
    "pairing-far": "numa-alignment",
    "nic-shared": "gpu-nic-sharing",
    "pci-hidden": "pci-visible",
    "nvml-failed": "gpu-driver",
    "env-differs": "env-differs",
    "env-lost-by-shell": "env-lost-by-shell",
    "variable-device": "env-devices",
    "variable-prefix": "env-devices",
    "variable-gid": "env-gid-index",
    "variable-interface": "env-interface",
    "variable-rdma-off": "env-rdma-off",
    "elastic-nodes": "identity",
    "misleading-rank": "identity",
    **dict.fromkeys(variables._IDENTITY, "identity"),
}
NEVER_WRONG = {"elastic-nodes", "misleading-rank"}
OF_OTHERS = {"no-nic", "fabrics-differ", "unreadable"}
SPEAKERS = (
    environment_check, orchestrator, adapters, hosts, rules, bindings, pairing, reasons,
)  # fmt: skip


def ask(name: str, variables: Mapping[str, str] | None = None, **needs: Any) -> Finding:
    return asked(with_variables(dict(variables or {}), Needs(**needs)), name)


def verdict(name: str, variables: Mapping[str, str] | None = None, **needs: Any) -> str:
    return ask(name, variables, **needs).verdict.value


@pytest.mark.parametrize("what", sorted(ANSWERED))
def test_each_complaint_has_a_check(what: str) -> None:
    finding = asked(with_complaint(what), ANSWERED[what])
    expected = {"PASS"} if what in NEVER_WRONG else {"WARN", "FAIL"}
    assert finding.verdict.value in expected
    assert "SOME=1: was seen" in finding.evidence
    assert bool(finding.fix) == (what not in NEVER_WRONG)


def test_no_complaint_of_variables_identity_cpus_or_pairing_is_forgotten() -> None:
    spoken = {
        name
        for module in SPEAKERS
        for name in re.findall(r'"([a-z0-9-]+)"', inspect.getsource(module))
        if name in MEANING
    }
    spoken |= {name for name in MEANING if name.startswith(("env-", "variable-"))}
    assert spoken - OF_OTHERS == set(ANSWERED) - {"nvml-failed"}


@pytest.mark.parametrize("name", CHECKS)
def test_nothing_is_wrong_with_the_healthy_pod(name: str) -> None:
    finding = asked(healthy(), name)
    expected = "SKIP" if name in {"env-devices", "env-interface"} else "PASS"
    assert finding.verdict.value == expected, finding


@pytest.mark.parametrize("name", CHECKS)
def test_on_a_laptop_nothing_fails(name: str) -> None:
    assert asked(bare(), name).verdict.value in {"PASS", "SKIP"}
    unread = bare({"/proc/self/environ": 13})
    assert asked(unread, name).verdict.value == "SKIP"


def test_variables_with_hyphens_that_a_shell_dropped() -> None:
    finding = asked(pod("dash_drops_hyphens"), "env-lost-by-shell")
    assert finding.verdict.value == "WARN"
    assert "PCIDEVICE_NVIDIA_COM_RDMA-VF" in finding.evidence
    assert finding.fix.startswith('command: ["rdmatrain"')
    assert "PCIDEVICE_NVIDIA_COM_RDMA_VF" in asked(healthy(), "env-lost-by-shell").evidence


def test_a_variable_of_the_device_plugin_that_was_set_again() -> None:
    changed = {"PCIDEVICE_NVIDIA_COM_RDMA_VF": "0000:0c:00.2"}
    finding = ask("env-differs", changed)
    assert finding.verdict.value == "WARN"
    assert "'0000:0c:00.2', which counts" in finding.evidence
    assert "PCIDEVICE_NVIDIA_COM_RDMA_VF" in finding.fix


@pytest.mark.parametrize(
    ("start", "evidence"),
    [
        (13, "/proc/1/environ cannot be read: EACCES"),
        (None, "/proc/1/environ cannot be read: ENOENT"),
        (environ({"PATH": "/sbin"}), "/proc/1/environ has no PCIDEVICE_NVIDIA_COM_RDMA_VF"),
    ],
)
def test_variables_are_not_said_to_be_the_same_where_the_first_ones_are_unseen(
    start: str | int | None, evidence: str
) -> None:
    finding = asked(healthy({"/proc/1/environ": start}), "env-differs")
    assert finding.verdict.value == "SKIP"
    assert finding.evidence.startswith(evidence)
    assert asked(bare(), "env-differs").evidence.startswith("no device plugin gave this pod")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("NCCL_IB_HCAS", "NCCL_IB_HCA"),
        ("NCCL_IB_GID_IDX", "NCCL_IB_GID_INDEX"),
        ("NCCL_IB_DISBALE", "NCCL_IB_DISABLE"),
        ("NCCL_SOCKET_IF_NAME", "NCCL_SOCKET_IFNAME"),
        ("NCCL_IFNAME_SOCKET", "NCCL_SOCKET_IFNAME"),
        ("NCCL_DEBUGS", "NCCL_DEBUG"),
        ("nccl_debug", "NCCL_DEBUG"),
        ("NCCL-DEBUG", "NCCL_DEBUG"),
        ("NCLL_IB_HCA", "NCCL_IB_HCA"),
        ("UCX_NET_DEVICE", "UCX_NET_DEVICES"),
        ("RDMA_TRAIN_TRANSPORT", "RDMATRAIN_TRANSPORT"),
        ("RDMTRAIN_TRANSPORT", "RDMATRAIN_TRANSPORT"),
    ],
)
def test_names_that_are_passed_over(name: str, meant: str) -> None:
    finding = ask("env-misspelt", {name: "1"})
    assert finding.verdict.value == "WARN"
    assert finding.evidence.startswith(f"{name} is set, and ")
    assert finding.fix == f"rename {name} to {meant}"


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("RDMATRAIN_TRANSPROT", "rename RDMATRAIN_TRANSPROT to RDMATRAIN_TRANSPORT"),
        ("RDMATRAIN_GRAEC", "rename RDMATRAIN_GRAEC to RDMATRAIN_GRACE"),
        ("RDMATRAIN_XYZZY", "unset RDMATRAIN_XYZZY"),
        ("PET_NNODE", "rename PET_NNODE to PET_NNODES"),
        ("PET_XYZZY", "unset PET_XYZZY"),
    ],
)
def test_names_that_the_launcher_refuses(name: str, fix: str) -> None:
    finding = ask("env-misspelt", {name: "1"})
    assert (finding.verdict.value, finding.fix) == ("FAIL", fix)
    assert finding.evidence.startswith(f"{name} is set")


@pytest.mark.parametrize(
    "name",
    [
        "NCCL_SHIMNET_GUEST_CONFIG_CHECKER_CONFIG_FILE", "NCCL_DYNAMIC_CHUNK_SIZE",
        "NCCL_FASTRAK_USE_SNAP", "NCCL_NET_PLUGIN", "NCCL_IB_MERGE_NICS", "NCCL_VERSION",
        "NCCL_TUNER_CONFIG_PATH", "NCCL_FASTRAK_LLCM_DEVICE_DIRECTORY",
        "NCCL_GPUDIRECTTCPX_SOCKET_IFNAME", "NCCL_NET_GDR_LEVEL", "NCCL_TEST_SERVICE_HOST",
        "UCX_RC_TX_QUEUE_LEN", "UCX_IB_SOMETHING_NEW", "PETALS", "PETSC_DIR", "RDMAV_FORK_SAFE",
        "NET_DEVICES", "NCCL", "HOME", "RDMATRAIN_GRACE", "PET_NNODES",
    ],
)  # fmt: skip
def test_names_that_are_right_or_of_somebody_else(name: str) -> None:
    assert not list(misspelt({name: "1"}))


def test_what_nccl_alone_would_read_and_does_not() -> None:
    (finding,) = misspelt({"NCCL_IB_CONNECT_RETRIES_OF_MINE": "1"})
    assert "NCCL does not know it" in finding.evidence


def test_values_that_are_not_allowed() -> None:
    finding = ask("env-misspelt", {"RDMATRAIN_TRANSPORT": "rdma"})
    assert finding.verdict.value == "FAIL"
    assert "RDMATRAIN_TRANSPORT='rdma' is not allowed" in finding.evidence
    finding = ask("env-misspelt", {"PET_NNODES": "two"})
    assert (finding.verdict.value, "PET_NNODES=two" in finding.evidence) == ("FAIL", True)
    finding = ask("env-misspelt", {"NCCL_IB_DISABLE": "true"})
    assert finding.verdict.value == "WARN"
    assert finding.evidence == "NCCL_IB_DISABLE=true is passed over by NCCL, which takes 0 to 1"
    assert "one of AF_INET" in ask("env-misspelt", {"NCCL_SOCKET_FAMILY": "ipv6"}).evidence
    right = {"NCCL_DEBUG": "info", "NCCL_IB_TIMEOUT": "0x16", "NCCL_P2P_LEVEL": "sys"}
    assert not list(wrong_values(right))
    limits = {"7": True, "0": True, "8": False, "-1": False}
    for value, is_right in limits.items():
        assert (not list(wrong_values({"NCCL_IB_RETRY_CNT": value}))) == is_right


def test_secrets_are_not_shown() -> None:
    secret = "not-for-the-log"
    environ = {"NCCL_PSK": secret, "RDMATRAIN_SECRET": secret, "RDMATRAIN_SECRETS": secret}
    said = [f"{each.evidence} {each.fix}" for each in (*misspelt(environ), *wrong_values(environ))]
    assert said
    assert not any(secret in text for text in said)


def test_known_names() -> None:
    assert {*NUMBERS, *WORDS} <= NCCL
    assert {"NCCL_IB_HCA", "NCCL_SOCKET_IFNAME", "NCCL_NET_GDR_LEVEL"} <= NCCL


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1), (" -1", -1), ("0x10", 16), ("010", 8), ("08", None), ("", None), ("1x", None)],
)
def test_numbers_as_nccl_reads_them(text: str, number: int | None) -> None:
    assert is_number(text) == number


@settings(max_examples=50, deadline=None)
@given(st.text("ABC_", max_size=8), st.text("ABC_", max_size=8))
def test_letters_to_change(left: str, right: str) -> None:
    assert edits(left, right, 2) == edits(right, left, 2)
    assert (edits(left, right, 2) == 0) == (left == right)
    assert edits(f"{left}X", left, 2) == 1
    assert edits(f"XY{left}", f"YX{left}", 2) == 1


@pytest.mark.parametrize(
    ("variables", "expected", "words", "fix"),
    [
        ({"RDMATRAIN_TRANSPORT": "tcp", "RDMATRAIN_REQUIRE": "verbs"}, "FAIL",
         "RDMATRAIN_TRANSPORT=tcp and RDMATRAIN_REQUIRE=verbs", "unset RDMATRAIN_REQUIRE"),
        ({"NCCL_IB_DISABLE": "1", "NCCL_IB_HCA": "=mlx5_2,mlx5_3"}, "FAIL",
         "NCCL_IB_DISABLE=1 keeps NCCL from RDMA, and NCCL_IB_HCA", "unset NCCL_IB_DISABLE"),
        ({"NCCL_NET": "Socket", "NCCL_IB_HCA": "=mlx5_2,mlx5_3"}, "FAIL",
         "NCCL_NET=Socket keeps NCCL", "unset NCCL_NET"),
        ({"NCCL_NET": "IB", "NCCL_IB_DISABLE": "1"}, "FAIL",
         "NCCL finds no network", "unset NCCL_IB_DISABLE"),
        ({"NCCL_IB_GID_INDEX": "3", "NCCL_IB_ADDR_FAMILY": "AF_INET"}, "WARN",
         "overlook NCCL_IB_ADDR_FAMILY", "unset NCCL_IB_GID_INDEX"),
        ({"NCCL_MIN_CTAS": "16", "NCCL_MAX_CTAS": "8"}, "WARN",
         "NCCL_MIN_CTAS=16 is above NCCL_MAX_CTAS=8", "unset NCCL_MIN_CTAS"),
        ({"NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1"}, "WARN",
         "over the network", "unset NCCL_P2P_DISABLE"),
        ({"UCX_TLS": "tcp,sm", "UCX_NET_DEVICES": "mlx5_2:1"}, "WARN",
         "UCX_TLS=tcp,sm has no RDMA", "unset UCX_TLS"),
        ({"RANK": "4", "WORLD_SIZE": "4"}, "FAIL",
         "RANK=4 is not below WORLD_SIZE=4", "unset RANK"),
        ({"LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "2"}, "FAIL",
         "LOCAL_RANK=2 is not below LOCAL_WORLD_SIZE=2", "unset LOCAL_RANK"),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "8"}, "FAIL",
         "LOCAL_WORLD_SIZE=8 is more than WORLD_SIZE=2", "unset WORLD_SIZE"),
        ({"PET_STANDALONE": "1", "PET_NNODES": "2"}, "FAIL",
         "PET_NNODES=2 is of several", "unset PET_STANDALONE"),
        ({"PET_MASTER_ADDR": "a", "MASTER_ADDR": "b"}, "WARN",
         "PET_MASTER_ADDR=a counts, and MASTER_ADDR=b does not", "unset MASTER_ADDR"),
    ],
)  # fmt: skip
def test_contradictions(variables: dict[str, str], expected: str, words: str, fix: str) -> None:
    finding = ask("env-contradicts", variables)
    assert finding.verdict.value == expected, finding
    assert words in finding.evidence
    assert finding.fix.startswith(fix)


@pytest.mark.parametrize(
    "variables",
    [
        {"RDMATRAIN_TRANSPORT": "verbs", "RDMATRAIN_REQUIRE": "verbs"},
        {"RDMATRAIN_TRANSPORT": "rdma", "RDMATRAIN_REQUIRE": "verbs"},
        {"NCCL_IB_DISABLE": "0", "NCCL_IB_HCA": "=mlx5_2"},
        {"NCCL_IB_DISABLE": "1", "NCCL_IB_GID_INDEX": "-1"},
        {"NCCL_IB_GID_INDEX": "-1", "NCCL_IB_ADDR_FAMILY": "AF_INET"},
        {"UCX_TLS": "rc,sm", "UCX_NET_DEVICES": "mlx5_2:1"},
        {"UCX_TLS": "^tcp", "UCX_NET_DEVICES": "mlx5_2:1"},
        {"UCX_TLS": "tcp", "UCX_NET_DEVICES": "eth0"},
        {"PET_MASTER_ADDR": "a", "MASTER_ADDR": "a"},
        {"MASTER_ADDR": "a", "PET_NNODES": "2", "PET_NODE_RANK": "1"},
        {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
        {"NCCL_MIN_CTAS": "8", "NCCL_MAX_CTAS": "8"},
    ],
)
def test_what_agrees(variables: dict[str, str]) -> None:
    finding = ask("env-contradicts", variables)
    assert finding.verdict.value == "PASS", finding


def test_a_number_of_nodes_that_the_orchestrator_does_not_have() -> None:
    two = {"VC_WORKER_HOSTS": "j-worker-0.j,j-worker-1.j", "VC_TASK_INDEX": "0"}
    finding = ask("env-contradicts", {**two, "PET_NNODES": "3"})
    assert finding.verdict.value == "FAIL"
    assert "PET_NNODES=3, and volcano started 2 nodes" in finding.evidence
    assert verdict("env-contradicts", {**two, "PET_NNODES": "1"}) == "WARN"
    assert verdict("env-contradicts", {**two, "PET_NNODES": "1:2"}) == "PASS"


def test_variables_against_what_the_job_needs() -> None:
    finding = ask("env-contradicts", {"RDMATRAIN_TRANSPORT": "tcp"}, transport="verbs")
    assert finding.verdict.value == "FAIL"
    assert finding.evidence == "RDMATRAIN_TRANSPORT=tcp, and the job is to run over verbs"
    assert verdict("env-contradicts", {"RDMATRAIN_TRANSPORT": "tcp"}) == "PASS"


def test_rdma_that_is_turned_off() -> None:
    for name, value in (("NCCL_IB_DISABLE", "1"), ("NCCL_NET", "Socket")):
        finding = ask("env-rdma-off", {name: value})
        assert finding.verdict.value == "FAIL"
        assert "though mlx5_2, mlx5_3 can be used" in finding.evidence
        assert finding.fix == f"unset {name}"
    assert ask("env-rdma-off", {"RDMATRAIN_TRANSPORT": "tcp"}).evidence == (
        "RDMATRAIN_TRANSPORT=tcp, though NICs can be used"
    )
    assert verdict("env-rdma-off", {"RDMATRAIN_TRANSPORT": "tcp"}) == "WARN"
    assert verdict("env-rdma-off", {"NCCL_IB_DISABLE": "0"}) == "PASS"
    assert verdict("env-rdma-off", {"NCCL_IB_DISABLE": "1"}, transport="tcp") == "SKIP"
    off = bare({"/proc/self/environ": environ({"NCCL_IB_DISABLE": "1"})})
    finding = asked(off, "env-rdma-off")
    assert (finding.verdict.value, "no NIC" in finding.evidence) == ("SKIP", True)


def test_rdma_that_a_file_of_the_image_turns_off() -> None:
    files = {"/etc/nccl.conf": "# of the image\nNCCL_DEBUG=WARN\nNCCL_IB_DISABLE=1\n"}
    finding = asked(healthy(files), "env-rdma-off")
    assert finding.verdict.value == "FAIL"
    assert finding.evidence.startswith("/etc/nccl.conf: NCCL_IB_DISABLE=1: NCCL will use sockets")
    assert finding.fix == "sed -i '/^ *NCCL_IB_DISABLE/d' /etc/nccl.conf"
    # A variable wins.
    on = with_variables({"NCCL_IB_DISABLE": "0"}, files=files)
    assert asked(on, "env-rdma-off").verdict.value == "PASS"


def test_a_gid_index_that_is_not_right_for_every_hca() -> None:
    finding = ask("env-gid-index", {"NCCL_IB_GID_INDEX": "1"})
    assert finding.verdict.value == "FAIL"
    assert "mlx5_2:1 has gid 1" in finding.evidence
    assert finding.fix.startswith("unset NCCL_IB_GID_INDEX")
    right = ask("env-gid-index", {"NCCL_IB_GID_INDEX": "3", "RDMATRAIN_GID_INDEX": "3"})
    assert right.verdict.value == "PASS"
    assert "RDMATRAIN_GID_INDEX=3 is right for mlx5_2:1, mlx5_3:1" in right.evidence
    assert asked(pod("nccl_890_gid_index_differs"), "env-gid-index").evidence == (
        "no GID index is pinned"
    )


def test_a_gid_index_that_cannot_fit_comes_with_what_to_say_instead() -> None:
    """The HCAs of nccl#890 have theirs at 3 and at 5."""
    own = {"PCIDEVICE_NVIDIA_COM_RDMA_VF": "0000:0c:00.2,0000:2a:00.2", "NCCL_IB_GID_INDEX": "3"}
    case = pod("nccl_890_gid_index_differs", {"/proc/self/environ": environ(own)})
    finding = asked(case, "env-gid-index")
    assert finding.verdict.value == "FAIL"
    assert "mlx5_19:1" in finding.evidence
    assert "mlx5_18" not in finding.evidence
    assert "use 5" in finding.evidence


@pytest.mark.parametrize(
    ("variables", "expected", "words"),
    [
        ({"NCCL_IB_HCA": "=mlx5_0,mlx5_1"}, "FAIL", "takes none of this pod's NICs"),
        ({"NCCL_IB_HCA": "=mlx5_2,mlx5_9"}, "WARN", "there is no mlx5_9 here"),
        ({"RDMATRAIN_DEVICES": "mlx5_2,mlx5_9"}, "FAIL", "there is no mlx5_9 here"),
        ({"UCX_NET_DEVICES": "mlx5_9:1"}, "FAIL", "there is no mlx5_9:1 here"),
        ({"NCCL_IB_HCA": "=mlx5_2,mlx5_3"}, "PASS", "NCCL_IB_HCA==mlx5_2,mlx5_3"),
        ({}, "SKIP", "no variable"),
    ],
)
def test_devices_that_are_named(variables: dict[str, str], expected: str, words: str) -> None:
    finding = ask("env-devices", variables)
    assert finding.verdict.value == expected, finding
    assert words in finding.evidence
    if expected == "FAIL" and "NCCL_IB_HCA" in variables:
        assert finding.fix == "export NCCL_IB_HCA==mlx5_2:1,mlx5_3:1"


def test_devices_of_another_pod_that_are_named() -> None:
    own = {"PCIDEVICE_NVIDIA_COM_RDMA-VF": "0000:0c:00.2", "NCCL_IB_HCA": "mlx5"}
    finding = asked(pod("dash_drops_hyphens", {"/proc/self/environ": environ(own)}), "env-devices")
    assert finding.verdict.value == "FAIL"
    assert "takes what is not for this pod: mlx5_0" in finding.evidence


@pytest.mark.parametrize(
    ("variables", "expected", "words"),
    [
        ({"NCCL_SOCKET_IFNAME": "bond0"}, "FAIL", "there is no interface bond0 here"),
        ({"GLOO_SOCKET_IFNAME": "eth1"}, "FAIL", "there is no interface eth1 here: there are eth0"),
        ({"GLOO_SOCKET_IFNAME": "eth"}, "FAIL", "there is no interface eth here"),
        ({"TP_SOCKET_IFNAME": "eth1"}, "WARN", "there is no interface eth1 here"),
        ({"RDMATRAIN_ADDR": "10.9.9.9"}, "FAIL", "RDMATRAIN_ADDR=10.9.9.9 is no address of this"),
        ({"RDMATRAIN_ADDR": "10.1.0.7"}, "PASS", "RDMATRAIN_ADDR=10.1.0.7"),
        ({"RDMATRAIN_ADDR": "trainer-0"}, "PASS", "RDMATRAIN_ADDR=trainer-0"),
        ({"NCCL_SOCKET_IFNAME": "eth", "GLOO_SOCKET_IFNAME": "eth0"}, "PASS", "GLOO_SOCKET_IFNAME"),
    ],
)
def test_interfaces_that_are_named(variables: dict[str, str], expected: str, words: str) -> None:
    finding = ask("env-interface", variables)
    assert finding.verdict.value == expected, finding
    assert words in finding.evidence


def test_a_rank_that_is_out_of_range() -> None:
    where = {"PET_NNODES": "2", "PET_MASTER_ADDR": "trainer-0"}
    finding = ask("identity", {**where, "PET_NODE_RANK": "2"})
    assert finding.verdict.value == "FAIL"
    assert "node_rank 2 of 2 nodes" in finding.evidence
    finding = ask("identity", {**where, "PET_NODE_RANK": "1"})
    assert (finding.verdict.value, finding.evidence) == ("PASS", "plain: node 1 of 2")


def test_a_position_that_the_launcher_would_not_find() -> None:
    """What is missing, an option of the launcher may still say."""
    finding = ask("identity", {"PET_NNODES": "2", "PET_NODE_RANK": "1"})
    assert finding.verdict.value == "WARN"
    assert "not where node 0 is" in finding.evidence
    assert (
        verdict("identity", {"PET_NNODES": "2", "PET_NODE_RANK": "1"}, leader="a:29500") == "PASS"
    )
    indexed = {"JOB_COMPLETION_INDEX": "1", "HOSTNAME": "trainer-1"}
    known = {**indexed, "PET_MASTER_ADDR": "trainer-0"}
    for each in (indexed, known):  # --nnodes may say it
        finding = ask("identity", each)
        assert finding.verdict.value == "WARN"
        assert "there are other nodes" in finding.evidence
    assert ask("identity").evidence == "plain: one node, as nobody says of how many"


@pytest.mark.parametrize(
    ("variables", "needs", "expected", "words"),
    [
        ({}, {"nodes": 64, "leader": "a:29500"}, "PASS", "plain: node ? of 64"),
        ({}, {"nodes": 1}, "PASS", "plain: one node"),
        ({}, {"nodes": 64}, "WARN", "64 nodes (--nnodes), but not where node 0 is"),
        ({"PET_NODE_RANK": "2"}, {"nodes": 2, "leader": "a:29500"}, "FAIL", "does not fit 2 nodes"),
        ({"PET_NODE_RANK": "1"}, {"nodes": 2, "leader": "a:29500"}, "PASS", "node 1 of 2"),
        ({"PET_NNODES": "2:4"}, {"nodes": 4, "leader": "a:29500"}, "PASS", "plain: node ? of 4"),
    ],
)
def test_the_nodes_that_the_job_needs_are_those_that_count(
    variables: dict[str, str], needs: dict[str, Any], expected: str, words: str
) -> None:
    finding = ask("identity", variables, **needs)
    assert finding.verdict.value == expected, finding
    assert words in finding.evidence


@pytest.mark.parametrize(
    ("rank", "nnodes", "says"), [(1, (2, 2), "node 1 of 2"), (None, (2, 4), "node ? of ")]
)
def test_the_place_of_a_job_that_was_resolved_is_not_doubted(
    rank: int | None, nnodes: tuple[int, int], says: str
) -> None:
    """The command line goes before the orchestrator, here of four nodes."""
    pod = {"LWS_LEADER_ADDRESS": "b", "LWS_GROUP_SIZE": "4", "LWS_WORKER_INDEX": "3"}
    gang = Gang(min_nodes=nnodes[0], max_nodes=nnodes[1], node_rank=rank, leader="a", port=1234)
    needs = needs_of(Job(program=Program(script="t.py"), gang=gang), pod)
    case = with_variables(pod, needs)
    finding = asked(case, "identity")
    assert finding.verdict.value == "PASS", finding
    assert says in finding.evidence
    place = meeting(case.found.pod, case.found.identity, needs)
    assert (place.problem, place.node_rank, place.leader, place.port) == ("", rank, "a", 1234)


def test_a_rank_that_the_command_line_overrides_fails_no_job() -> None:
    pod = {"PET_NNODES": "2", "PET_NODE_RANK": "2", "PET_MASTER_ADDR": "a"}
    needs = {"nodes": 2, "leader": "a:29500", "nnodes": "2:2", "node_rank": 1}
    assert verdict("identity", pod) == "FAIL"
    assert verdict("identity", pod, **needs) == "WARN"


def test_only_what_nobody_says_is_missing() -> None:
    finding = ask("identity", {"PET_NODE_RANK": "1"}, nodes=2)
    assert finding.fix == "rdmatrain run --master-addr HOST", finding


@pytest.mark.parametrize(
    ("value", "expected", "words"),
    [
        ("8", "PASS", "OMP_NUM_THREADS=8 for 2 ranks and 16 CPUs"),
        ("9", "WARN", "OMP_NUM_THREADS=9 for 2 ranks and 16 CPUs"),
        ("8,4", "PASS", "OMP_NUM_THREADS=8"),
        ("all", "WARN", "OMP_NUM_THREADS=all is no number of threads"),
        ("0", "WARN", "is no number"),
    ],
)
def test_threads_of_openmp(value: str, expected: str, words: str) -> None:
    finding = ask("env-omp", {"OMP_NUM_THREADS": value})
    assert finding.verdict.value == expected
    assert words in finding.evidence
    assert finding.fix == ("export OMP_NUM_THREADS=8" if expected == "WARN" else "")


def test_threads_of_openmp_and_what_the_cgroup_pays_for() -> None:
    quota = {
        "/proc/self/cgroup": "0::/\n",
        "/proc/self/mountinfo": "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "/sys/fs/cgroup/cpu.max": "400000 100000\n",
    }
    finding = asked(with_variables({"OMP_NUM_THREADS": "8"}, files=quota), "env-omp")
    assert (finding.verdict.value, finding.fix) == ("WARN", "export OMP_NUM_THREADS=2")
    assert "2 ranks and 4 CPUs" in finding.evidence
    unset = asked(healthy(quota), "env-omp")
    assert unset.evidence == "OMP_NUM_THREADS is not set: rdmatrain run gives each rank 2"


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.from_regex(r"(NCCL|UCX|PET|RDMATRAIN|OMP)_[A-Z_]{1,12}", fullmatch=True),
                       st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9),
                       max_size=4))  # fmt: skip
def test_any_variables_are_judged(variables: dict[str, str]) -> None:
    case = bare({"/proc/self/environ": environ(variables)})
    for name in CHECKS:
        assert "broken" not in asked(case, name).evidence


def test_all_checks_of_the_families_have_an_id_of_their_own() -> None:
    found = [
        each.id
        for module in (variables, placement, gpudirect)
        for each in vars(module).values()
        if isinstance(each, Check)
    ]
    assert len(found) == len(set(found))
    assert [name for name in found if name in CHECKS] == CHECKS
