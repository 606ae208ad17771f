# SPDX-License-Identifier: Apache-2.0
"""The template of a pod: every value that a job depends on, for every kind of device."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from k8s_specs import DRA, SHARED, SRIOV, TCP, full, small

from rdmatrain import cli, doctor
from rdmatrain.discovery.claims.downward import FOLDERS
from rdmatrain.errors import SettingError
from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.container import quantity
from rdmatrain.k8s.pod import Wants, pod_template
from rdmatrain.k8s.scheduling import near
from rdmatrain.k8s.spec import (
    DEVICES,
    GIB,
    INFINIBAND,
    MIB,
    Checkpoint,
    JobSecret,
    Monitoring,
    Network,
    Spec,
    Topology,
)
from rdmatrain.launcher.options import choose

MULTUS = "k8s.v1.cni.cncf.io/networks"
OWNER = "Job/llm spec.template"


def template(spec: Spec, **wants: Any) -> dict[str, Any]:
    return pod_template(spec, Cluster(), Wants(OWNER, **wants)).object


def boxes(spec: Spec, **wants: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The container that trains, and the one before it."""
    pod = template(spec, **wants)["spec"]
    assert len(pod["containers"]) == len(pod["initContainers"]) == 1
    return pod["containers"][0], pod["initContainers"][0]


def env(box: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in box["env"]}


@pytest.mark.parametrize(
    ("devices", "extended"),
    [
        (SRIOV, {"nvidia.com/gpu": 2, "nvidia.com/rdma-vf": 2}),
        (SHARED, {"nvidia.com/gpu": 2, "rdma/hca_shared_a": 1}),
        (TCP, {"nvidia.com/gpu": 2}),
        (DRA, {}),
    ],
)
def test_a_container_may_use_what_it_requests(devices: str, extended: dict[str, int]) -> None:
    wanted = {"cpu": 16, "memory": "64Gi", **extended}
    for box in boxes(small(devices)):
        assert box["resources"]["requests"] == wanted
        assert box["resources"]["limits"] == wanted
        claims = box["resources"].get("claims", [])
        pod = template(small(devices))["spec"]
        assert claims == [{"name": each["name"]} for each in pod.get("resourceClaims", [])]
        assert bool(claims) == (devices == DRA)


@pytest.mark.parametrize("devices", DEVICES)
def test_notes_of_devices_are_of_fields_that_are_there(devices: str) -> None:
    made = pod_template(small(devices), Cluster(), Wants(OWNER))
    needs = made.object["spec"]["containers"][0]["resources"]
    said = [re.search(r"\.resources\.limits\[(.+?)\]: (.+)", each.became) for each in made.notes]
    for match in filter(None, said):
        assert match[2] == str(needs["limits"].get(match[1], 0))
    claimed = {each.field for each in made.notes if ".resources.claims: " in each.became}
    assert claimed == ({"gpus", "network.vfs"} if devices == DRA else set())
    (of_vfs,) = [each for each in made.notes if each.field == "network.vfs"]
    assert ("Multus" in of_vfs.why) == (devices in {SRIOV, SHARED})


def test_devices_without_networks_are_not_explained_by_them() -> None:
    network = Network(vfs=8, networks=(), link=INFINIBAND, resource="rdma/ib")
    notes = pod_template(small(network=network), Cluster(), Wants(OWNER)).notes
    (of_vfs,) = [each for each in notes if each.field == "network.vfs"]
    assert "No network is attached" in of_vfs.why


@pytest.mark.parametrize(("vfs", "networks"), [(1, ("a",)), (8, ("a",)), (3, ("a", "b", "c"))])
def test_as_many_networks_as_devices_in_their_order(vfs: int, networks: tuple[str, ...]) -> None:
    made = template(small(network=Network(vfs=vfs, networks=networks)))
    attached = json.loads(made["metadata"]["annotations"][MULTUS])
    names = [each["name"] for each in attached]
    assert names == (list(networks) * vfs if len(networks) == 1 else list(networks))
    assert made["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/rdma-vf"] == vfs


@pytest.mark.parametrize("devices", [TCP, DRA])
def test_no_network_is_attached_without_a_device_plugin(devices: str) -> None:
    assert MULTUS not in template(small(devices))["metadata"]["annotations"]


def test_options_go_before_the_script_and_its_own() -> None:
    spec = small(command=("/opt/bin/rdmatrain", "run", "--tee", "3", "-m", "train", "run"))
    trainer, first = boxes(spec, run_options=("--nnodes", "4"))
    assert trainer["command"] == [
        "/opt/bin/rdmatrain", "run", "--nnodes", "4", "--nproc-per-node", "2",
        "--max-restarts", "3", "--metrics-port", "9400", "--tee", "3", "-m", "train", "run",
    ]  # fmt: skip
    assert first["command"][:2] == ["/opt/bin/rdmatrain", "doctor"]
    assert "args" not in trainer


def test_workers_are_said_or_one_for_each_gpu_or_one() -> None:
    for gpus, workers, said in [(2, 0, "2"), (2, 4, "4"), (0, 0, "1"), (0, 6, "6")]:
        command = boxes(small(gpus=gpus, workers=workers))[0]["command"]
        assert command[command.index("--nproc-per-node") + 1] == said


def test_without_metrics_no_port() -> None:
    trainer, first = boxes(small(monitoring=Monitoring(port=0)))
    assert "--metrics-port" not in trainer["command"]
    assert "ports" not in trainer
    served = boxes(small(monitoring=Monitoring(port=9999)))[0]
    assert served["ports"] == [{"name": "metrics", "containerPort": 9999, "protocol": "TCP"}]
    assert "ports" not in first


def test_a_command_that_is_not_the_launchers_is_refused() -> None:
    with pytest.raises(
        SettingError, match=r"^command: 'python train\.py'.*\[rdmatrain, run"
    ) as said:
        template(small(command=("python", "train.py")))
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("devices", DEVICES)
def test_the_preflight_has_what_the_trainer_has(devices: str) -> None:
    trainer, first = boxes(full(devices))
    for key in ("image", "env", "resources", "securityContext", "volumeMounts"):
        assert first[key] == trainer[key], key
    asked = dict(zip(first["command"][2::2], first["command"][3::2], strict=True))
    assert asked["--transport"] == ("tcp" if devices == TCP else "verbs")
    assert asked["--ranks"] == "4"
    assert asked["--checkpoint-dir"] == "/checkpoints"


def test_the_doctor_knows_the_questions_that_are_left_out() -> None:
    """What is about peers would fail for being early: their pods may not be there yet."""

    command = boxes(small())[1]["command"]
    skipped = [command[at + 1] for at, word in enumerate(command) if word == "--skip"]
    assert set(skipped) == {"dns-leader", "rendezvous-port", "clock"}
    listed = (Path(doctor.__file__).parent / "CHECKS.md").read_text("utf-8")
    assert all(f"### `{each}`" in listed for each in skipped)


@pytest.mark.parametrize("devices", DEVICES)
def test_rdmatrain_takes_both_command_lines(devices: str) -> None:
    """Read by the commands themselves: options there are, values allowed, the script found."""
    trainer, first = boxes(full(devices), run_options=("--nnodes", "4"))
    given = read_line(trainer["command"])
    assert given["module"]
    assert given["script"] == "train"
    taken = {"nnodes": "4", "nproc_per_node": "4", "max_restarts": "3", "metrics_port": "9401"}
    assert {name: given[name] for name in taken} == taken
    choose({name: given[name] for name in taken}, {})
    asked = read_line(first["command"])
    assert asked["ranks"] == 4
    assert asked["checkpoint_dir"] == "/checkpoints"
    assert asked["skip"] == ("dns-leader", "rendezvous-port", "clock")


def read_line(command: list[str]) -> dict[str, Any]:
    """What the command of a line makes of its options; refuses what it does not know."""
    assert command[0] == "rdmatrain"
    parsed = cli.cli.commands[command[1]].make_context(command[1], command[2:])
    return dict(parsed.params)


def test_without_preflight_nobody_asks() -> None:
    assert "initContainers" not in template(small(preflight=False))["spec"]


def test_nobody_is_root_and_nothing_may_become_more() -> None:
    spec = small(user=4711)
    assert template(spec)["spec"]["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 4711,
        "runAsGroup": 4711,
        "fsGroup": 4711,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for box in boxes(spec):
        assert box["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": ["IPC_LOCK"]},
            "readOnlyRootFilesystem": True,
        }
    strict = boxes(small(ipc_lock=False))[0]["securityContext"]
    assert strict["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize(
    ("ipc_lock", "said"), [(True, "Inert for uid 4711: raise LimitMEMLOCK"), (False, "Nothing is")]
)
def test_what_ipc_lock_is_good_for_is_said(ipc_lock: bool, said: str) -> None:
    made = pod_template(small(user=4711, ipc_lock=ipc_lock), Cluster(), Wants(OWNER))
    (why,) = [each.why for each in made.notes if each.field == "ipc_lock"]
    assert why.startswith(said)
    assert "LimitMEMLOCK" in why


def test_variables_are_texts_and_say_what_the_spec_says() -> None:
    spec = full(grace_s=90, join_timeout_s=1200)
    for box in boxes(spec):
        assert all(isinstance(value, str) for value in env(box).values())
        assert env(box) == {
            "HOME": "/tmp",
            "RDMATRAIN_GRACE": "90",
            "RDMATRAIN_JOIN_TIMEOUT": "1200",
            "RDMATRAIN_REQUIRE": "verbs",
            "RDMATRAIN_SECRET_FILE": "/etc/rdmatrain/secret",
            "NCCL_DEBUG": "INFO",
            "PORT": "0x10",
            "SWITCH": "on",
        }
    assert "RDMATRAIN_REQUIRE" not in env(boxes(small(TCP))[0])


def test_the_users_home_counts_and_the_targets_variables_win() -> None:
    spec = small(env={"HOME": "/home/me", "EPOCH": "0"})
    reference = {"fieldRef": {"fieldPath": "metadata.labels['epoch']"}}
    trainer, first = boxes(spec, env=({"name": "EPOCH", "valueFrom": reference},))
    assert env(trainer)["HOME"] == "/home/me"
    for box in (trainer, first):
        entries = [each for each in box["env"] if each["name"] == "EPOCH"]
        assert entries == [{"name": "EPOCH", "valueFrom": reference}]


@pytest.mark.parametrize("grace_s", [30, 120, 7200])
def test_the_pod_has_longer_than_its_launcher(grace_s: int) -> None:
    made = template(small(grace_s=grace_s))["spec"]
    assert made["terminationGracePeriodSeconds"] == grace_s + 30
    assert env(made["containers"][0])["RDMATRAIN_GRACE"] == str(grace_s)


def volumes(spec: Spec) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in template(spec)["spec"]["volumes"]}


def places(spec: Spec) -> dict[str, str]:
    return {each["mountPath"]: each["name"] for each in boxes(spec)[0]["volumeMounts"]}


def test_volumes_are_mounted_where_they_are_looked_for() -> None:
    spec = full()
    found, where = volumes(spec), places(spec)
    assert sorted(where.values()) == sorted(found)
    assert found[where["/dev/shm"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    assert found[where["/tmp"]]["emptyDir"] == {}
    assert found[where["/checkpoints"]]["persistentVolumeClaim"] == {"claimName": "ckpt"}
    podinfo = found[where[FOLDERS[0]]]["downwardAPI"]["items"]
    assert {each["path"]: each["fieldRef"]["fieldPath"] for each in podinfo} == {
        "annotations": "metadata.annotations",
        "labels": "metadata.labels",
    }
    # Root owns the file, the pod's group reads it, nobody else does: 0440.
    secret = found[where["/etc/rdmatrain"]]["secret"]
    assert secret == {"secretName": "llm-secret", "defaultMode": 288}


def test_what_is_not_asked_for_is_not_mounted() -> None:
    alone = small(nodes=1)
    assert set(volumes(alone)) == {"shm", "tmp", "podinfo"}
    assert "RDMATRAIN_SECRET_FILE" not in env(boxes(alone)[0])
    named = small(nodes=1, secret=JobSecret(name="mine"))
    assert volumes(named)["secret"]["secret"]["secretName"] == "mine"


def test_what_the_launcher_says_last_is_kept() -> None:
    for box in boxes(small()):
        assert box["terminationMessagePath"] == "/dev/termination-log"
        assert box["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_the_hosts_network_only_where_it_was_asked_for() -> None:
    spec = template(small())["spec"]
    assert "hostNetwork" not in spec
    assert "dnsPolicy" not in spec
    network = replace(
        small(SHARED).network, host_network=True, host_network_reason="the fabric has no SR-IOV"
    )
    made = pod_template(small(network=network), Cluster(), Wants(OWNER))
    assert made.object["spec"]["hostNetwork"] is True
    assert made.object["spec"]["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert MULTUS not in made.object["metadata"]["annotations"]
    assert "the fabric has no SR-IOV" in [each.why for each in made.notes]


def test_a_target_gets_what_it_wants() -> None:
    made = template(
        small(priority="training"),
        container="node",
        restart_policy="",
        labels={"more": "yes"},
        annotations={"note": "1"},
        pod={"schedulerName": "volcano"},
    )
    assert made["metadata"]["labels"] == {
        "app.kubernetes.io/name": "rdmatrain", "app.kubernetes.io/instance": "llm", "more": "yes",
    }  # fmt: skip
    assert made["metadata"]["annotations"]["note"] == "1"
    spec = made["spec"]
    assert "restartPolicy" not in spec
    assert spec["schedulerName"] == "volcano"
    assert spec["priorityClassName"] == "training"
    assert spec["containers"][0]["name"] == "node"
    assert template(small())["spec"]["restartPolicy"] == "Never"


def test_a_pod_asks_nothing_of_the_cluster() -> None:
    spec = template(small())["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    annotations = template(small())["metadata"]["annotations"]
    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"


@pytest.mark.parametrize("devices", DEVICES)
def test_a_template_is_the_same_each_time_and_shares_nothing(devices: str) -> None:
    first, second = template(full(devices)), template(full(devices))
    assert first == second
    assert "&id" not in yaml.safe_dump(first)  # An alias: two places with one object.


@pytest.mark.parametrize(
    ("size", "text"),
    [(GIB, "1Gi"), (3 * GIB // 2, "1536Mi"), (MIB, "1Mi"), (1536, "1536"), (5 << 10, "5Ki")],
)
def test_quantities_are_exact(size: int, text: str) -> None:
    assert quantity(size) == text


def test_pods_near_each_other_must_or_should_be() -> None:
    assert near(small()) == {}
    term = {
        "labelSelector": {
            "matchLabels": {
                "app.kubernetes.io/name": "rdmatrain",
                "app.kubernetes.io/instance": "llm",
            }
        },
        "topologyKey": "example.com/rack",
    }
    must = near(small(topology=Topology("example.com/rack")))
    assert must == {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    should = near(small(topology=Topology("example.com/rack", required=False)))
    assert should["podAffinity"] == {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 100, "podAffinityTerm": term}
        ]
    }


# Fields of the spec that only a target, the devices or what surrounds a job makes something of.
ELSEWHERE = {
    "namespace", "nodes", "queue", "topology.label", "topology.required", "topology.tier",
    "checkpoint.size_bytes", "checkpoint.storage_class", "secret.create",
    "monitoring.namespace", "monitoring.labels", "network.link", "network.mtu", "network.pfs",
    "network.subnet", "network.device_class", "network.gpu_class", "network.aligned",
}  # fmt: skip


def all_fields() -> set[str]:
    """Names of the spec's fields, with dots."""
    made = small()
    nested = {"network", "topology", "checkpoint", "secret", "monitoring"}
    inner = {f"{name}.{each.name}" for name in nested for each in fields(getattr(made, name))}
    return {each.name for each in fields(made)} - nested | inner


@pytest.mark.parametrize("devices", DEVICES)
def test_every_field_leaves_a_note(devices: str) -> None:
    host = Network(SHARED, 1, host_network=True, host_network_reason="so")
    seen = {
        each.field
        for spec in (full(devices), small(devices, nodes=1, gpus=0), small(network=host))
        for each in pod_template(spec, Cluster(), Wants(OWNER)).notes
    }
    assert all_fields() - ELSEWHERE <= seen
    assert seen - {""} <= all_fields()
    plain = {each.field for each in pod_template(small(devices), Cluster(), Wants(OWNER)).notes}
    assert all_fields() - ELSEWHERE - plain == {"network.host_network_reason"}


def found(value: Any, path: str) -> Any:
    """What is at a path as notes have it: a name or key in brackets, keys with dots between."""
    for dotted, bracketed in re.findall(r"([^.\[\]]+)|\[([^\]]*)\]", path):
        key = dotted or bracketed
        if isinstance(value, list):
            value = next(each for each in value if each["name"] == key)
        else:
            value = value[key]
    return value


@pytest.mark.parametrize("devices", DEVICES)
def test_notes_say_what_is_there(devices: str) -> None:
    """Where a note's path is one of the object, its value is what stands there."""
    made = pod_template(full(devices), Cluster(), Wants(OWNER))
    compared = 0
    for note in made.notes:
        assert note.became.startswith(f"{OWNER}.")
        assert note.why.endswith((".", "it"))
        path, _, said = note.became.removeprefix(f"{OWNER}.").partition(": ")
        try:
            there = found(made.object, path)
        except (KeyError, StopIteration, TypeError):
            continue
        if isinstance(there, list) and not all(isinstance(each, str) for each in there):
            continue  # Of those the note says the names.
        if isinstance(there, dict) and "name" in there:
            there = there.get("value", there.get("containerPort", there.get("mountPath")))
        if path.endswith("resources.limits"):
            assert said in there or said == "none"
            continue
        compared += 1
        text = there if isinstance(there, str) else json.dumps(there, sort_keys=True)
        assert said == text, note.became
    assert compared >= 18


def test_a_claim_is_mounted_at_its_path() -> None:
    spec = small(checkpoint=Checkpoint("shared-fs", path="/mnt/out"))
    assert places(spec)["/mnt/out"] == "checkpoints"
    assert volumes(spec)["checkpoints"]["persistentVolumeClaim"]["claimName"] == "shared-fs"
