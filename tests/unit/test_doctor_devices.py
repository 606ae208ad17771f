# SPDX-License-Identifier: Apache-2.0
"""Checks of devices: what they say of pods in which one thing is wrong, and of one that is well."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from doctor_pods import HEALTHY, asked, bare, first, healthy, pod, verbs
from memory_source import environ
from pod_scenarios import NAMES, load

from rdmatrain.discovery.complaints import MEANING
from rdmatrain.doctor.checks import devices, ports
from rdmatrain.doctor.model import Case, Check, Needs, Verdict

IDS = ("gpu-granted", "libibverbs", "rdma-namespace", "vf-count", "device-missing", "uverbs-nodes",
       "device-opens", "device-granted", "pf-and-vf", "rdma-cm")  # fmt: skip
VERBS = Needs(transport="verbs")
GPU = "GPU-0a5b0a8e-0000-0000-0000-000000000000"
VFS = "PCIDEVICE_NVIDIA_COM_RDMA_VF"


def environment(**changes: str) -> dict[str, str]:
    """Files of the healthy pod's environment, with changes."""
    text = environ({**load(HEALTHY)["environment"], **changes})
    return {"/proc/self/environ": text, "/proc/1/environ": text}


def no_gpus() -> Case:
    """A pod on a host with GPUs, that asked for none."""
    text = environ({"PATH": "/bin"})
    files: dict[str, Any] = {f"/proc/{pid}/environ": text for pid in ("self", "1")}
    return healthy({**files, "/dev/nvidia0": None, "/dev/nvidia1": None}, {"nvml": None})


@cache
def known(name: str) -> Case:
    """A pod as it is, once for all tests."""
    return pod(name)


# Who answers for a complaint of discovery, and a pod of which it is made.
ANSWERS = {
    "fabrics-differ": ("link-layer", lambda: healthy({LAYER: "InfiniBand\n"})),
    "gpu-missing": ("gpu-granted", lambda: known("gpus_granted_and_none_here")),
    "gpu-more-than-granted": ("gpu-granted", lambda: known("gpus_of_a_privileged_pod")),
    "gpus-hidden": ("gpu-granted", no_gpus),
    "gpus-unclear": (
        "gpu-granted",
        lambda: healthy({"/dev/nvidia1": None, "/proc/driver": None}, {"nvml": None}),
    ),
    "grants-differ": ("device-granted", lambda: known("status_attached_what_was_not_allocated")),
    "listed-twice": ("device-granted", lambda: known("listed_twice")),
    "lists-differ": ("device-granted", lambda: healthy(environment(**{VFS: "0000:0c:00.2"}))),
    "metadata-late": ("vf-count", lambda: known("dra_metadata_late")),
    "metadata-torn": ("vf-count", lambda: known("dra_metadata_torn")),
    "mounts-empty": (
        "gpu-granted",
        lambda: healthy(environment(NVIDIA_VISIBLE_DEVICES="/var/run/nvidia-container-devices")),
    ),
    "netdev-differs": ("device-granted", lambda: known("kubevirt_7444_vfs_crossed")),
    "network-status-late": ("vf-count", lambda: known("multus_1113_status_empty_at_start")),
    "nic-foreign": ("device-granted", lambda: known("nccl_925_foreign_hcas")),
    "nic-missing": ("device-missing", lambda: known("rdma_shared_118_taken_away")),
    "nic-not-opened": ("device-opens", lambda: known("granted_and_refused")),
    "nic-not-rdma": ("rdma-namespace", lambda: known("rdma_shared_84_exclusive_without_rdma_cni")),
    "nic-port-down": ("port-state", lambda: known("granted_port_is_down")),
    "nic-unclaimed": ("device-granted", lambda: known("one_more_than_granted")),
    "nic-without-gid": ("gid-usable", lambda: known("granted_without_gid")),
    "nic-without-node": ("uverbs-nodes", lambda: known("granted_without_node")),
    "no-nic": ("device-missing", lambda: known("toolkit_395_void")),
    "node-forbidden": ("uverbs-nodes", lambda: known("node_that_the_cgroup_forbids")),
    "pf-and-vf": ("pf-and-vf", lambda: known("nccl_1422_pf_and_vf")),
    "pf-named": ("pf-and-vf", lambda: known("pf_named_in_place_of_its_vf")),
    "rdma-cm-missing": ("rdma-cm", lambda: known("rdma_cm_missing_beside_the_nodes")),
    "rdma-name-differs": ("device-granted", lambda: known("nccl_tests_327_other_numbers")),
    "rdma-not-told": ("rdma-namespace", lambda: known("dranet_177_device_not_returned")),
    "roce-v1-only": ("gid-version", lambda: known("roce_v1_only")),
    "unreadable": ("device-granted", lambda: healthy(environment(PCIDEVICE_X_COM_Y="mlx5_0"))),
    "vanished": ("device-missing", lambda: healthy({"/sys/class/infiniband/mlx5_9": []})),
    "verbs-unavailable": ("libibverbs", lambda: healthy(probes={"verbs": verbs(error="no lib")})),
    "vf-without-network": ("vf-count", lambda: known("sriov_dp_258_fewer_networks_than_vfs")),
}
LAYER = "/sys/class/infiniband/mlx5_3/ports/1/link_layer"
# Variables, the job's nodes, CPUs, nearness and the driver are other families'; the last line is of
# files of topologies, which no pod has.
OTHERS = """
    cpus-far elastic-nodes env-differs env-lost-by-shell identity-conflict maybe-jobset
    misleading-rank nic-shared no-subdomain not-a-number not-in-a-step not-in-hosts nvml-failed
    pairing-far pci-hidden rank-out-of-range stale-hosts variable-device variable-gid
    variable-interface variable-prefix variable-rdma-off
    file-contradiction several-machines
"""


def test_no_complaint_is_forgotten() -> None:
    assert set(ANSWERS) | set(OTHERS.split()) == set(MEANING)
    assert not set(ANSWERS) & set(OTHERS.split())


@pytest.mark.parametrize("name", ANSWERS)
def test_a_complaint_is_told(name: str) -> None:
    check, make = ANSWERS[name]
    case = make()
    told = [each.text for each in case.found.complaints if each.id == name]
    finding = asked(case, check)
    assert told
    assert finding.verdict in {Verdict.WARN, Verdict.FAIL}, finding
    assert any(text in finding.evidence or finding.evidence in text for text in told)
    assert finding.fix


@pytest.mark.parametrize("name", IDS)
def test_a_healthy_pod_passes(name: str) -> None:
    assert asked(known(HEALTHY), name).verdict is Verdict.PASS


def test_all_checks_are_tested() -> None:
    assert {each.id for each in vars(devices).values() if isinstance(each, Check)} == set(IDS)


@pytest.mark.parametrize("name", IDS)
def test_a_laptop_has_nothing_to_look_at(name: str) -> None:
    assert asked(known("laptop_without_anything"), name).verdict is Verdict.SKIP


def test_a_job_over_tcp_needs_no_nic() -> None:
    case = pod("granted_and_refused", needs=Needs(transport="tcp"))
    for name in (each for each in IDS if each != "gpu-granted"):
        assert asked(case, name).evidence == "the job is to use tcp"
        assert asked(case, name).verdict is Verdict.SKIP


# What is wrong, which check finds it first, and a part of its evidence and of its fix.
CAUSES = {
    "a_variable_of_another_host": ("device-missing", "0000:9c:00.2", "kubectl delete"),
    "dranet_177_device_not_returned": (
        "rdma-namespace",
        "interface net1 is here",
        "kubectl delete",
    ),
    "granted_and_refused": ("device-opens", "Operation not permitted", "nvidia.com/rdma_vf"),
    "granted_port_is_down": ("port-state", "mlx5_19/1 is DOWN", "vf N state auto"),
    "granted_without_gid": ("gid-usable", "mlx5_18/1 has no GID", "k8s.v1.cni.cncf.io/networks"),
    "granted_without_node": ("uverbs-nodes", "/dev/infiniband/uverbs1", '"2"'),
    "gpus_chosen_that_are_not_here": ("gpu-granted", "names 5", "CUDA_VISIBLE_DEVICES=0,1"),
    "gpus_granted_and_none_here": ("gpu-granted", "the driver shows no GPU", "runtimeClassName"),
    "libibverbs_missing": ("libibverbs", "libibverbs.so.1: cannot open", "apt-get install"),
    "rdma_shared_118_taken_away": ("device-missing", "0000:2a:00.2", "kubectl delete"),
    "rdma_shared_192_rdma_cm_missing": ("uverbs-nodes", "uverbs0 is missing", "docker run --dev"),
    "rdma_shared_84_exclusive_without_rdma_cni": ("rdma-namespace", "net1 is here", '"rdma"'),
    "rdma_shared_without_network": ("gid-usable", "mlx5_2/1 has no GID", "networks"),
    "sriov_dp_258_fewer_networks_than_vfs": ("vf-count", "2 VFs were allocated", "rail0, rail0"),
}


@pytest.mark.parametrize("name", CAUSES)
def test_the_first_failure_is_the_cause(name: str) -> None:
    check, evidence, fix = CAUSES[name]
    case = known(name)
    finding = asked(case, check)
    assert finding.verdict is Verdict.FAIL
    assert evidence in finding.evidence
    assert fix in finding.fix
    assert first(case) == check


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(CAUSES))[::9])
def test_other_pods_do_not_fail_for_their_devices(name: str) -> None:
    checks = [*vars(devices).values(), *vars(ports).values()]
    assert first(known(name)) not in {each.id for each in checks if isinstance(each, Check)}


def test_a_node_without_provider_is_the_library() -> None:
    """Without a provider libibverbs does not list a device, though its node is here."""
    answer = verbs()
    del answer["ports"][1]
    case = healthy(probes={"verbs": answer})
    finding = asked(case, "libibverbs")
    assert finding.verdict is Verdict.FAIL
    assert "does not list mlx5_3, though /dev/infiniband/uverbs1 is here" in finding.evidence
    assert "ibverbs-providers" in finding.fix
    assert asked(case, "device-opens").evidence == "libibverbs opens mlx5_2"


def test_a_library_that_was_not_asked_is_not_known_to_work() -> None:
    case = healthy(probes={"verbs": None})
    for name in ("libibverbs", "device-opens"):
        assert asked(case, name).verdict is Verdict.SKIP


def test_a_missing_node_is_not_a_device_that_cannot_be_opened() -> None:
    refused = {"device": "mlx5_2", "port": 0, "error": "ibv_open_device: No such file", "gids": {}}
    case = healthy({"/dev/infiniband/uverbs0": None}, {"verbs": verbs(refused)})
    assert asked(case, "uverbs-nodes").verdict is Verdict.FAIL
    assert "/dev/infiniband/uverbs0" in asked(case, "uverbs-nodes").evidence
    assert asked(case, "device-opens").verdict is not Verdict.FAIL
    assert first(case) == "uverbs-nodes"


def test_a_node_whose_mode_forbids_it() -> None:
    refused = {"device": "mlx5_2", "port": 0, "error": "ibv_open_device: Permission denied"}
    finding = asked(healthy(probes={"verbs": verbs(refused)}), "device-opens")
    assert finding.verdict is Verdict.FAIL
    assert "ibv_open_device: Permission denied" in finding.evidence
    assert finding.fix.startswith("chmod 0666 /dev/infiniband/uverbs0")


def test_without_any_node_nothing_passes() -> None:
    case = healthy({"/dev/infiniband": None}, {"verbs": None})
    assert asked(case, "uverbs-nodes").verdict is Verdict.SKIP
    assert asked(case, "rdma-cm").verdict is Verdict.SKIP


def test_nics_of_the_host_are_no_failure_of_a_pod_that_got_none() -> None:
    """In shared mode sysfs shows them to every pod."""
    closed = {"error": "ibv_open_device: No such file", "port": 0, "gids": {}}
    files = {"/dev/infiniband": None, "/etc/podinfo": None, "/sys/class/net/net1": None,
             "/sys/class/net/net2": None, "/sys/devices/pci0000:07/0000:07:01.0/0000:08:00.0/"
             "0000:09:01.0/0000:0c:00.2/net": None, "/sys/devices/pci0000:27/0000:27:01.0/"
             "0000:28:00.0/0000:29:01.0/0000:2a:00.2/net": None,
             "/proc/net/fib_trie": None, "/proc/net/route": None}  # fmt: skip
    files |= {f"/proc/{pid}/environ": environ({"PATH": "/bin"}) for pid in ("self", "1")}
    answer = {"verbs": verbs(closed, closed)}
    assert first(healthy(files, answer)) == ""
    assert first(healthy(files, answer, VERBS)) == "uverbs-nodes"


def test_whoever_wants_verbs_needs_a_device() -> None:
    case = bare(needs=VERBS)
    finding = asked(case, "device-missing")
    assert finding.verdict is Verdict.FAIL
    assert finding.evidence == "there is no RDMA device in /sys/class/infiniband"
    assert "rdma link add rxe0 type rxe netdev eth0" in finding.fix
    assert first(case) == "device-missing"
    files = {f"/proc/{pid}/environ": environ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
             for pid in ("self", "1")}  # fmt: skip
    finding = asked(bare(files, needs=VERBS), "device-missing")
    assert finding.fix == 'resources: {limits: {nvidia.com/rdma-vf: "1"}}'


def test_a_nic_of_this_namespace_is_wanted_though_nobody_grants_it() -> None:
    """As on a host, or in a container with its network, whose module is not loaded."""
    refused = {"error": "ibv_open_device: No such file", "port": 0, "gids": {}}
    files: dict[str, Any] = dict.fromkeys(("/dev/infiniband", "/sys/class/infiniband_verbs"))
    files |= {f"/proc/{pid}/environ": environ({"PATH": "/bin"}) for pid in ("self", "1")}
    case = healthy({**files, "/etc/podinfo": None}, {"verbs": verbs(refused, refused)})
    finding = asked(case, "uverbs-nodes")
    assert finding.verdict is Verdict.FAIL
    assert finding.evidence == (
        "mlx5_2: /dev/infiniband/uverbsN is missing; mlx5_3: /dev/infiniband/uverbsN is missing"
    )
    assert finding.fix == "modprobe ib_uverbs, on the host"


def test_the_pod_to_replace_is_named() -> None:
    missing = environment(**{VFS: "0000:0c:00.2,0000:2a:00.2,0000:9c:00.2", "HOSTNAME": "job-3"})
    assert asked(healthy(missing), "device-missing").fix.startswith("kubectl delete pod job-3;")
    missing = environment(**{VFS: "0000:9c:00.2", "HOSTNAME": "a b;c"})
    assert asked(healthy(missing), "device-missing").fix.startswith("kubectl delete pod $HOSTNAME;")


def test_a_stale_variable_of_gpus_is_no_failure() -> None:
    finding = asked(known("gpus_of_another_host_in_the_variable"), "gpu-granted")
    assert finding.verdict is Verdict.WARN
    assert finding.fix == "unset NVIDIA_VISIBLE_DEVICES, in image and manifest"


def test_one_of_two_granted_gpus_is_missing() -> None:
    answer = {"error": "", "gpus": [{"uuid": GPU, "pci": "0000:0f:00.0", "index": 0, "minor": 0}]}
    finding = asked(healthy(probes={"nvml": answer}), "gpu-granted")
    assert finding.verdict is Verdict.FAIL
    assert "grants GPU-1a5b0a8e" in finding.evidence


def test_a_gpu_that_is_chosen_twice_leaves_none() -> None:
    finding = asked(healthy(environment(CUDA_VISIBLE_DEVICES="0,0")), "gpu-granted")
    assert finding.verdict is Verdict.FAIL
    assert "CUDA_VISIBLE_DEVICES in environment: lists 0 twice" in finding.evidence
    assert finding.fix == "export CUDA_VISIBLE_DEVICES=0,1, each once"


def test_more_vfs_than_networks_that_all_work_are_a_risk_only() -> None:
    line = 'k8s.v1.cni.cncf.io/networks="rail0"\n'
    text = str(healthy().source.text("/etc/podinfo/annotations"))
    rest = "".join(each for each in text.splitlines(keepends=True) if "networks=" not in each)
    finding = asked(healthy({"/etc/podinfo/annotations": line + rest}), "vf-count")
    assert finding.verdict is Verdict.WARN
    assert "asks for 1 network, but 2 VFs were allocated" in finding.evidence


def test_vfs_that_nobody_tells_of_are_not_counted() -> None:
    finding = asked(known("injector_20_unforeseen_resource_names"), "vf-count")
    assert finding.verdict is Verdict.SKIP
    assert finding.evidence.startswith("2 VFs of a device plugin and 0 networks")


def test_whoever_names_only_own_nics_need_not_care_for_others() -> None:
    env = environ({**load("nccl_925_foreign_hcas")["environment"], "NCCL_IB_HCA": "=mlx5_18:1"})
    case = pod("nccl_925_foreign_hcas", {"/proc/self/environ": env})
    assert asked(case, "device-granted").verdict is Verdict.PASS
    fix = asked(known("nccl_925_foreign_hcas"), "device-granted").fix
    assert fix == "export NCCL_IB_HCA='=mlx5_18:1', as rdmatrain run does"


def test_a_single_node_needs_no_nic() -> None:
    case = known("toolkit_395_void")
    assert case.found.identity is not None
    alone = replace(case.found, identity=replace(case.found.identity, nnodes=1))
    finding = asked(replace(case, found=alone), "device-missing")
    assert finding.verdict is Verdict.SKIP
    assert finding.evidence.endswith("the job has one node, and needs none")
    assert asked(replace(case, needs=VERBS), "device-missing").verdict is Verdict.FAIL


@pytest.mark.parametrize("garbage", [7, [], {"ports": 3}, {"ports": [4, {"device": []}]}])
def test_garbage_breaks_no_check(garbage: Any) -> None:
    case = healthy(probes={"verbs": garbage, "nvml": garbage})
    for name in IDS:
        assert "broken" not in asked(case, name).evidence
