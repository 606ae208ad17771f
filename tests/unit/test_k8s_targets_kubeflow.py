# SPDX-License-Identifier: Apache-2.0
"""TrainJob with its runtime, and PyTorchJob: shapes, gangs, names; and notes of all targets."""

from typing import Any

import k8s_schemas
import pytest
from k8s_outcomes import job_failure, job_set_action
from k8s_specs import NEW, small

from rdmatrain.errors import SettingError
from rdmatrain.k8s.parts import Part
from rdmatrain.k8s.spec import Spec, Topology
from rdmatrain.k8s.targets import pytorchjob, trainjob
from rdmatrain.k8s.targets.target import target

RACK = Topology("example.com/rack")
TIER = Topology("example.com/rack", tier=2)
MINE = ("volcano", "kueue", "jobset", "trainjob", "pytorchjob")


def train(**fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    runtime, job = trainjob.render(small(**fields), NEW).objects
    return runtime, job


def child(runtime: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]
    return found


def pod_of(runtime: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = child(runtime)["template"]["spec"]["template"]["spec"]
    return found


def torch(**fields: Any) -> dict[str, Any]:
    (made,) = pytorchjob.render(small(**fields), NEW).objects
    return made


def test_a_trainjob_names_its_own_runtime() -> None:
    runtime, job = train(workers=4)
    assert job == {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {
            "name": "llm",
            "namespace": "train",
            "labels": {
                "app.kubernetes.io/name": "rdmatrain",
                "app.kubernetes.io/instance": "llm",
            },
        },
        "spec": {
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org",
                "kind": "TrainingRuntime",
                "name": "llm",
            },
            "trainer": {"numNodes": 4, "numProcPerNode": 4},
        },
    }
    assert runtime["kind"] == "TrainingRuntime"
    assert runtime["metadata"]["name"] == "llm"
    assert runtime["metadata"]["namespace"] == "train"
    assert runtime["metadata"]["labels"]["trainer.kubeflow.org/framework"] == "torch"


def test_a_runtime_has_what_the_trainer_looks_for() -> None:
    runtime, _ = train()
    group = child(runtime)
    assert group["name"] == "node"
    assert group["template"]["metadata"]["labels"] == {
        "trainer.kubeflow.org/trainjob-ancestor-step": "trainer"
    }
    assert [each["name"] for each in pod_of(runtime)["containers"]] == ["node"]
    assert runtime["spec"]["mlPolicy"]["numNodes"] == 4
    # The Trainer writes them, and refuses whoever does.
    names = {each["name"] for each in pod_of(runtime)["containers"][0]["env"]}
    assert not [name for name in names if name.startswith("PET_")]
    assert "parallelism" not in group["template"]["spec"]


def test_the_doctor_is_told_its_place_too() -> None:
    runtime, _ = train()
    target = {"jobName": "node", "containerNames": ["preflight"]}
    assert runtime["spec"]["mlPolicy"]["torch"] == {"envInjection": {"targets": [target]}}
    assert [each["name"] for each in pod_of(runtime)["initContainers"]] == ["preflight"]
    runtime, _ = train(preflight=False)
    assert runtime["spec"]["mlPolicy"]["torch"] == {}


def test_a_runtime_ends_and_restarts_as_a_jobset_does() -> None:
    runtime, _ = train(max_restarts=5)
    spec = runtime["spec"]["template"]["spec"]
    policy = child(runtime)["template"]["spec"]["podFailurePolicy"]
    done = {}
    for code in (1, 64, 143, 201):
        done[code] = job_set_action(spec["failurePolicy"], *job_failure(policy, code))
    assert done == {
        1: "FailJobSet",
        64: "FailJobSet",
        143: "RestartJobSet",
        201: "RestartJobSet",
    }
    assert spec["failurePolicy"]["maxRestarts"] == 5
    assert spec["successPolicy"]["targetReplicatedJobs"] == ["node"]
    assert spec["network"]["publishNotReadyAddresses"] is True


VOLCANO = "volcano"
PLUGINS = "scheduler-plugins-scheduler"


@pytest.mark.parametrize(
    ("queue", "topology", "scheduler", "policy"),
    [
        ("", Topology(), PLUGINS, {"coscheduling": {"scheduleTimeoutSeconds": 600}}),
        ("", RACK, PLUGINS, {"coscheduling": {"scheduleTimeoutSeconds": 600}}),
        ("research", Topology(), VOLCANO, {"volcano": {}}),
        ("research", RACK, VOLCANO, {"volcano": {}}),
        (
            "",
            TIER,
            VOLCANO,
            {"volcano": {"networkTopology": {"mode": "hard", "highestTierAllowed": 2}}},
        ),
    ],
    ids=["nothing", "label", "queue", "queue-label", "tier"],
)
def test_queues_and_tiers_are_volcanos(
    queue: str, topology: Topology, scheduler: str, policy: dict[str, Any]
) -> None:
    runtime, _ = train(queue=queue, topology=topology)
    assert runtime["spec"]["podGroupPolicy"] == policy
    pod = pod_of(runtime)
    assert pod["schedulerName"] == scheduler
    assert ("podAffinity" in pod["affinity"]) == (topology == RACK)
    annotations = runtime["spec"]["template"].get("metadata", {}).get("annotations", {})
    assert annotations == ({"scheduling.volcano.sh/queue-name": queue} if queue else {})
    notes = trainjob.render(small(queue=queue, topology=topology), NEW).notes
    (why,) = [each.why for each in notes if each.became.endswith(f"schedulerName: {scheduler}")]
    assert "--for kueue" in why


def test_a_name_of_a_trainjob_may_be_as_long_as_its_last_pods_allows() -> None:
    longest = "a" * (63 - len("-node-0-15-xxxxx"))
    assert train(name=longest, nodes=16)[1]["metadata"]["name"] == longest
    with pytest.raises(SettingError, match=r"^name: a+ .* shorten it by 2$"):
        train(name=longest + "aa", nodes=16)


def test_all_of_a_pytorchjob_but_its_pods() -> None:
    made = torch(queue="research", priority="training", workers=4)
    for replicas in made["spec"]["pytorchReplicaSpecs"].values():
        del replicas["template"]
    assert made == {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {
            "name": "llm",
            "namespace": "train",
            "labels": {
                "app.kubernetes.io/name": "rdmatrain",
                "app.kubernetes.io/instance": "llm",
            },
        },
        "spec": {
            "nprocPerNode": "4",
            "runPolicy": {
                "cleanPodPolicy": "Running",
                "backoffLimit": 3,
                "schedulingPolicy": {
                    "minAvailable": 4,
                    "scheduleTimeoutSeconds": 600,
                    "queue": "research",
                    "priorityClass": "training",
                },
            },
            "pytorchReplicaSpecs": {
                "Master": {"replicas": 1, "restartPolicy": "ExitCode"},
                "Worker": {"replicas": 3, "restartPolicy": "ExitCode"},
            },
        },
    }


def test_master_and_workers_are_the_same_pods() -> None:
    master, worker = (each["template"] for each in torch()["spec"]["pytorchReplicaSpecs"].values())
    assert master == worker
    # Nor are they one object: YAML would write the second as an alias.
    assert master["spec"] is not worker["spec"]
    assert [each["name"] for each in master["spec"]["containers"]] == ["pytorch"]
    assert "restartPolicy" not in master["spec"]


def test_pods_of_a_pytorchjob_are_in_dns_as_soon_as_they_run() -> None:
    """The operator's Services list pods that are ready, which is then with their containers."""
    for replicas in torch()["spec"]["pytorchReplicaSpecs"].values():
        (container,) = replicas["template"]["spec"]["containers"]
        assert not [name for name in container if name.endswith("Probe")]
    notes = pytorchjob.render(small(), NEW).notes
    (note,) = [each for each in notes if "publishNotReadyAddresses" in each.became]
    assert "no readinessProbe" in note.why


def test_one_node_is_a_master_alone() -> None:
    spec = torch(nodes=1)["spec"]
    assert list(spec["pytorchReplicaSpecs"]) == ["Master"]
    assert spec["runPolicy"]["schedulingPolicy"]["minAvailable"] == 1


def test_a_label_draws_pods_of_a_pytorchjob_together() -> None:
    for replicas in torch(topology=RACK)["spec"]["pytorchReplicaSpecs"].values():
        affinity = replicas["template"]["spec"]["affinity"]["podAffinity"]
        (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["topologyKey"] == "example.com/rack"


@pytest.mark.parametrize(
    ("nodes", "suffix"), [(1, "-master-0"), (2, "-master-0"), (12, "-worker-10")]
)
def test_a_name_of_a_pytorchjob_may_be_as_long_as_its_pods_allow(nodes: int, suffix: str) -> None:
    longest = "a" * (63 - len(suffix))
    assert torch(name=longest, nodes=nodes)["metadata"]["name"] == longest
    with pytest.raises(SettingError, match=r"^name: a+ .* shorten it by 1$"):
        torch(name=longest + "a", nodes=nodes)


def part_of(name: str, spec: Spec) -> Part:
    return target(name).render(spec, NEW)


@pytest.mark.parametrize("topology", [Topology(), RACK, TIER], ids=["none", "label", "tier"])
@pytest.mark.parametrize("name", MINE)
def test_every_field_that_a_target_decides_on_leaves_a_note(name: str, topology: Topology) -> None:
    found = part_of(name, small(queue="research", topology=topology)).notes
    wanted = {"nodes", "queue", "priority", "max_restarts", "workers", "preflight"}
    wanted |= {"topology.label", "topology.required", "topology.tier"}
    assert wanted <= {note.field for note in found}
    assert not [note for note in found if "\n" in note.why or not note.why.endswith(".")]


@pytest.mark.parametrize("name", MINE)
def test_the_same_spec_gives_the_same_objects(name: str) -> None:
    spec = small(queue="research", topology=TIER)
    assert part_of(name, spec) == part_of(name, spec)
    assert target(name).name == name
    assert target(name).has_service


def specs() -> list[Spec]:
    soft = Topology("example.com/rack", required=False, tier=1)
    return [
        small(),
        small(queue="research", topology=RACK, priority="training"),
        small(queue="research", topology=TIER),
        small(topology=soft, nodes=1, preflight=False, max_restarts=0),
        small(name="a" * 46, nodes=9),
    ]


@k8s_schemas.needs_crds
@pytest.mark.parametrize("name", ["trainjob", "pytorchjob"])
@pytest.mark.parametrize("spec", specs(), ids=range(len(specs())))
def test_objects_are_what_kubeflow_takes(name: str, spec: Spec) -> None:
    for each in part_of(name, spec).objects:
        assert k8s_schemas.errors(each) == []
