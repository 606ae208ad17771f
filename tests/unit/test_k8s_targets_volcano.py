# SPDX-License-Identifier: Apache-2.0
"""The Job of Volcano: a gang in a queue, near each other, restarted for what may be retried."""

from dataclasses import replace
from typing import Any

import k8s_schemas
import pytest
from k8s_outcomes import volcano_action, volcano_runs
from k8s_specs import NEW, small

from rdmatrain.errors import SettingError
from rdmatrain.k8s.parts import Part
from rdmatrain.k8s.spec import DRA, Spec, Topology
from rdmatrain.k8s.targets.volcano import TARGET, render, render_cluster

# By the launcher's table, and what the fabric or memory does to a worker: ABRT, BUS, SEGV.
RETRIED = {137, 143, 200, 201, 202, 203, 204, 134, 135, 139}


def job(**fields: Any) -> dict[str, Any]:
    (made,) = render(small(**fields), NEW).objects
    return made


def said(part: Part, field: str) -> list[str]:
    return [note.became for note in part.notes if note.field == field]


def test_all_but_pods_and_policies() -> None:
    made = job(queue="research", priority="training", topology=Topology("example.com/rack", tier=2))
    spec = made["spec"]
    del spec["policies"], spec["tasks"][0]["template"]
    assert made == {
        "apiVersion": "batch.volcano.sh/v1alpha1",
        "kind": "Job",
        "metadata": {
            "name": "llm",
            "namespace": "train",
            "labels": {
                "app.kubernetes.io/name": "rdmatrain",
                "app.kubernetes.io/instance": "llm",
            },
            "annotations": {"volcano.sh/task-topology-anti-affinity": "worker"},
        },
        "spec": {
            "schedulerName": "volcano",
            "minAvailable": 4,
            "queue": "research",
            "priorityClassName": "training",
            "networkTopology": {"mode": "hard", "highestTierAllowed": 2},
            "maxRetry": 4,
            "plugins": {
                "env": [],
                "svc": ["--publish-not-ready-addresses=true", "--disable-network-policy=true"],
            },
            "tasks": [{"name": "worker", "replicas": 4, "minAvailable": 4}],
        },
    }


@pytest.mark.parametrize("nodes", [1, 2, 16])
def test_fewer_pods_than_all_never_start(nodes: int) -> None:
    spec = job(nodes=nodes)["spec"]
    (task,) = spec["tasks"]
    assert (spec["minAvailable"], task["minAvailable"], task["replicas"]) == (nodes,) * 3


def test_without_queue_and_priority_there_is_the_default_queue() -> None:
    spec = job()["spec"]
    assert spec["queue"] == "default"
    assert "priorityClassName" not in spec
    assert "networkTopology" not in spec


def test_codes_that_may_be_retried_restart_the_job_and_others_end_it() -> None:
    policies = job()["spec"]["policies"]
    restarted = {
        code
        for code in range(1, 256)
        if volcano_action(policies, "PodFailed", code) == "RestartJob"
    }
    assert restarted == RETRIED
    assert volcano_action(policies, "PodFailed", 1) == "AbortJob"
    # An initContainer that fails: Volcano sees no code.
    assert volcano_action(policies, "PodFailed") == "AbortJob"
    assert volcano_action(policies, "PodEvicted") == "RestartJob"
    assert volcano_action(policies, "TaskCompleted") == "CompleteJob"
    assert volcano_action(policies, "PodRunning") == "SyncJob"


@pytest.mark.parametrize("restarts", [0, 1, 3])
def test_a_job_is_restarted_as_often_as_the_spec_says(restarts: int) -> None:
    assert volcano_runs(job(max_restarts=restarts)["spec"]["maxRetry"]) == restarts + 1


def test_a_place_that_should_be_near_is_soft() -> None:
    spec = job(topology=Topology("example.com/rack", required=False, tier=1))["spec"]
    assert spec["networkTopology"] == {"mode": "soft", "highestTierAllowed": 1}


def test_a_label_without_a_tier_draws_pods_together() -> None:
    spec = job(topology=Topology("example.com/rack"))["spec"]
    assert "networkTopology" not in spec
    affinity = spec["tasks"][0]["template"]["spec"]["affinity"]["podAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "example.com/rack"
    labels = spec["tasks"][0]["template"]["metadata"]["labels"]
    assert term["labelSelector"]["matchLabels"].items() <= labels.items()


def test_a_tier_draws_nobody_together_besides() -> None:
    spec = job(topology=Topology("example.com/rack", tier=2))["spec"]
    assert "podAffinity" not in spec["tasks"][0]["template"]["spec"]["affinity"]


def test_pods_keep_volcanos_scheduler_and_are_never_restarted_in_place() -> None:
    pod = job()["spec"]["tasks"][0]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert "schedulerName" not in pod  # the job's controller writes the job's


def test_a_name_may_be_as_long_as_its_last_pods_allows() -> None:
    longest = "a" * (63 - len("-worker-15"))
    assert job(name=longest, nodes=16)["metadata"]["name"] == longest
    with pytest.raises(SettingError, match=r"^name: a+ .*aa-worker-15,.* shorten it by 1$"):
        job(name=longest + "a", nodes=16)


def test_a_name_that_is_no_name_of_a_service_is_refused() -> None:
    with pytest.raises(SettingError, match=r"^name: 7b .* begin it with a letter$"):
        job(name="7b")


def test_the_queue_has_room_for_the_job() -> None:
    (queue,) = render_cluster(small(queue="research"), NEW).objects
    assert queue == {
        "apiVersion": "scheduling.volcano.sh/v1beta1",
        "kind": "Queue",
        "metadata": {"name": "research"},
        "spec": {
            "weight": 1,
            "reclaimable": True,
            "capability": {
                "cpu": 64,
                "memory": "256Gi",
                "nvidia.com/gpu": 8,
                "nvidia.com/rdma-vf": 8,
            },
        },
    }


def test_the_queue_counts_devices_of_dra_by_their_class() -> None:
    (queue,) = render_cluster(small(DRA, queue="research"), NEW).objects
    assert queue["spec"]["capability"] == {
        "cpu": 64,
        "memory": "256Gi",
        "deviceclass/gpu.nvidia.com": 8,
        "deviceclass/sriovnetwork.k8snetworkplumbingwg.io": 8,
    }


@pytest.mark.parametrize("queue", ["", "default"])
def test_no_queue_is_made_that_volcano_makes(queue: str) -> None:
    assert render_cluster(small(queue=queue), NEW) == Part()


def test_volcano_makes_the_service() -> None:
    assert TARGET.has_service
    assert TARGET.cluster_render is render_cluster


def test_notes_say_what_fields_became() -> None:
    near = Topology("example.com/rack", tier=2)
    part = render(small(queue="research", topology=near), NEW)
    assert said(part, "queue") == ["Job/llm spec.queue: research"]
    assert "Job/llm spec.minAvailable: 4" in said(part, "nodes")
    assert said(part, "topology.tier") == ["Job/llm spec.networkTopology.highestTierAllowed: 2"]
    assert "Job/llm spec.maxRetry: 4" in said(part, "max_restarts")
    assert all(note.why.endswith(".") for note in part.notes)


def specs() -> list[Spec]:
    rack = "example.com/rack"
    near = [Topology(rack, required, tier) for required in (True, False) for tier in (0, 3)]
    base = small(queue="research", priority="training")
    return [base, *(replace(base, topology=each) for each in near), small(name="a" * 54, nodes=1)]


@k8s_schemas.needs_crds
@pytest.mark.parametrize("spec", specs(), ids=lambda spec: str(spec.topology)[:60])
def test_objects_are_what_volcano_takes(spec: Spec) -> None:
    for each in (*render(spec, NEW).objects, *render_cluster(spec, NEW).objects):
        assert k8s_schemas.errors(each) == []
