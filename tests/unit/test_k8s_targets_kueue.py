# SPDX-License-Identifier: Apache-2.0
"""JobSets: how they end and restart, and what a queue of Kueue has for them."""

from collections import Counter
from dataclasses import replace
from types import ModuleType
from typing import Any

import k8s_schemas
import pytest
import yaml
from k8s_outcomes import job_failure, job_set_action
from k8s_semantics import quantity
from k8s_specs import NETWORKS, NEW, small

from rdmatrain.errors import SettingError
from rdmatrain.k8s.devices import job_devices
from rdmatrain.k8s.parts import Part
from rdmatrain.k8s.spec import DEVICES, DRA, SRIOV, TCP, Spec, Topology
from rdmatrain.k8s.targets import jobset, kueue, lws

RACK = Topology("example.com/rack")
# By the launcher's table, and what the fabric or memory does to a worker: ABRT, BUS, SEGV.
RETRIED = {137, 143, 200, 201, 202, 203, 204, 134, 135, 139}


def job_set(**fields: Any) -> dict[str, Any]:
    (made,) = jobset.render(small(**fields), NEW).objects
    return made


def queued(**fields: Any) -> dict[str, Any]:
    (made,) = kueue.render(small(queue="research", **fields), NEW).objects
    return made


def pods(made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    return found


def of_cluster(spec: Spec) -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in kueue.render_cluster(spec, NEW).objects}


def test_all_but_pods_and_policies() -> None:
    made = job_set()
    job = made["spec"]["replicatedJobs"][0]["template"]["spec"]
    del job["template"], job["podFailurePolicy"], made["spec"]["failurePolicy"]["rules"]
    assert made == {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": "llm",
            "namespace": "train",
            "labels": {
                "app.kubernetes.io/name": "rdmatrain",
                "app.kubernetes.io/instance": "llm",
            },
        },
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "coordinator": {"replicatedJob": "workers", "jobIndex": 0, "podIndex": 0},
            "successPolicy": {"operator": "All", "targetReplicatedJobs": ["workers"]},
            "failurePolicy": {"maxRestarts": 3, "restartStrategy": "BlockingRecreate"},
            "replicatedJobs": [
                {
                    "name": "workers",
                    "replicas": 1,
                    "template": {
                        "spec": {
                            "completionMode": "Indexed",
                            "parallelism": 4,
                            "completions": 4,
                            "backoffLimit": 0,
                            "podReplacementPolicy": "Failed",
                        }
                    },
                }
            ],
        },
    }


def outcome(code: int, *, disrupted: bool = False) -> str:
    """What the whole JobSet does when one pod ends so."""
    spec = job_set()["spec"]
    policy = spec["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]
    reason, message = job_failure(policy, code, disrupted=disrupted)
    return job_set_action(spec["failurePolicy"], reason, message)


def test_codes_that_may_be_retried_count_as_restarts_and_others_end_it() -> None:
    outcomes = {code: outcome(code) for code in range(1, 256)}
    assert {code for code, done in outcomes.items() if done == "RestartJobSet"} == RETRIED
    assert {done for code, done in outcomes.items() if code not in RETRIED} == {"FailJobSet"}


@pytest.mark.parametrize("code", [0, 1, 78, 137, 143])
def test_a_pod_that_the_cluster_ends_costs_no_restart(code: int) -> None:
    assert outcome(code, disrupted=True) == "RestartJobSetAndIgnoreMaxRestarts"


def test_pods_are_told_how_many_they_are() -> None:
    pod = pods(job_set(nodes=16))["spec"]
    assert pod["restartPolicy"] == "Never"
    for container in (*pod["initContainers"], *pod["containers"]):
        assert {"name": "PET_NNODES", "value": "16"} in container["env"]


def test_a_jobset_alone_is_for_kueue_where_a_queue_is_named() -> None:
    made = job_set(queue="research")
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert "suspend" not in made["spec"]  # or it would never start where there is no Kueue


def test_without_kueue_a_label_draws_pods_together() -> None:
    affinity = pods(job_set(topology=RACK))["spec"]["affinity"]["podAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "example.com/rack"


@pytest.mark.parametrize(("required", "word"), [(True, "required"), (False, "preferred")])
def test_kueue_places_all_pods_below_one_value(required: bool, word: str) -> None:
    made = queued(topology=Topology("example.com/rack", required))
    found = {
        key: value for key, value in pods(made)["metadata"]["annotations"].items() if "kueue" in key
    }
    assert found == {f"kueue.x-k8s.io/podset-{word}-topology": "example.com/rack"}
    assert "podAffinity" not in pods(made)["spec"]["affinity"]


def test_kueue_starts_it() -> None:
    made = queued()
    assert made["spec"]["suspend"] is True
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert not any("kueue" in key for key in pods(made)["metadata"]["annotations"])


def test_kueue_needs_a_queue() -> None:
    with pytest.raises(SettingError, match=r"^queue: .* name a LocalQueue$"):
        kueue.render(small(), NEW)
    assert kueue.render_cluster(small(), NEW) == Part()


@pytest.mark.parametrize("devices", DEVICES)
def test_quota_covers_all_that_pods_request(devices: str) -> None:
    spec = small(devices, queue="research", nodes=16)
    (group,) = of_cluster(spec)["ClusterQueue"]["spec"]["resourceGroups"]
    (flavor,) = group["flavors"]
    quota = {each["name"]: each["nominalQuota"] for each in flavor["resources"]}
    assert list(quota) == group["coveredResources"]
    pod = pods(kueue.render(spec, NEW).objects[0])["spec"]
    for container in (*pod["initContainers"], *pod["containers"]):
        for name, each in container["resources"]["requests"].items():
            assert quantity(quota[name]) == 16 * quantity(each)


def test_quota_of_a_job_with_vfs() -> None:
    (group,) = of_cluster(small(queue="research"))["ClusterQueue"]["spec"]["resourceGroups"]
    assert {each["name"]: each["nominalQuota"] for each in group["flavors"][0]["resources"]} == {
        "cpu": 64,
        "memory": "256Gi",
        "nvidia.com/gpu": 8,
        "nvidia.com/rdma-vf": 8,
    }


def test_quota_of_devices_of_dra_is_by_their_class() -> None:
    (group,) = of_cluster(small(DRA, queue="research"))["ClusterQueue"]["spec"]["resourceGroups"]
    assert group["coveredResources"] == [
        "cpu",
        "memory",
        "gpu.nvidia.com",
        "sriovnetwork.k8snetworkplumbingwg.io",
    ]


def test_kueue_is_told_what_a_claims_devices_are() -> None:
    """A DeviceClass that its Configuration does not map makes a job inadmissible."""
    spec = small(DRA, queue="research")
    part = kueue.render_cluster(spec, NEW)
    ((name, text),) = part.texts
    assert name == "kueue.configuration"
    mappings = yaml.safe_load(text)["resources"]["deviceClassMappings"]
    logical = {name: each["name"] for each in mappings for name in each["deviceClassNames"]}
    (made,) = job_devices(spec, NEW).objects
    # As Kueue counts them: a request is a device of its class, for each pod.
    asked: Counter[str] = Counter()
    for each in made["spec"]["spec"]["devices"]["requests"]:
        asked[logical[each["exactly"]["deviceClassName"]]] += spec.nodes
    (group,) = of_cluster(spec)["ClusterQueue"]["spec"]["resourceGroups"]
    quota = {each["name"]: each["nominalQuota"] for each in group["flavors"][0]["resources"]}
    assert asked.items() <= quota.items()
    assert sum(asked.values()) == spec.nodes * (spec.gpus + spec.network.vfs)
    urgent = [each.why for each in kueue.render(spec, NEW).notes if each.urgent]
    assert any("kueue.configuration" in each for each in urgent)
    assert kueue.render_cluster(small(queue="research"), NEW).texts == ()


@pytest.mark.parametrize("target", [kueue, jobset, lws])
def test_a_claim_that_kueue_cannot_count_is_refused(target: ModuleType) -> None:
    prefer = replace(NETWORKS[DRA], aligned="prefer")
    with pytest.raises(SettingError, match=r"network\.aligned is prefer in the queue research"):
        target.render(small(DRA, queue="research", network=prefer), NEW)
    # There is nothing to choose where there are no GPUs.
    assert target.render(small(DRA, queue="research", network=prefer, gpus=0), NEW).objects
    if target is not kueue:
        assert target.render(small(DRA, network=prefer), NEW).objects


@pytest.mark.parametrize("required", [True, False])
def test_a_claim_is_not_placed_by_kueue(required: bool) -> None:
    """Its count of free devices below a label's value knows none that a claim gives (KEP-2941)."""
    spec = small(DRA, queue="research", topology=Topology("example.com/rack", required))
    said = r"^topology\.label is example\.com/rack with network\.devices dra: .* --for jobset"
    with pytest.raises(SettingError, match=said):
        kueue.render(spec, NEW)
    (made,) = jobset.render(spec, NEW).objects
    assert "podAffinity" in pods(made)["spec"]["affinity"]


def test_the_queue_stands_on_its_flavor_and_topology() -> None:
    made = of_cluster(small(queue="research", topology=RACK))
    assert list(made) == ["Topology", "ResourceFlavor", "ClusterQueue", "LocalQueue"]
    assert {each["apiVersion"] for each in made.values()} == {"kueue.x-k8s.io/v1beta2"}
    assert {each["metadata"]["name"] for each in made.values()} == {"research"}
    assert made["LocalQueue"]["metadata"]["namespace"] == "train"
    assert made["LocalQueue"]["spec"] == {"clusterQueue": "research"}
    assert made["ClusterQueue"]["spec"]["resourceGroups"][0]["flavors"][0]["name"] == "research"
    assert made["ResourceFlavor"]["spec"]["topologyName"] == "research"
    levels = [{"nodeLabel": "example.com/rack"}, {"nodeLabel": "kubernetes.io/hostname"}]
    assert made["Topology"]["spec"]["levels"] == levels


def test_hosts_are_a_level_only_once() -> None:
    made = of_cluster(small(queue="research", topology=Topology("kubernetes.io/hostname")))
    assert made["Topology"]["spec"]["levels"] == [{"nodeLabel": "kubernetes.io/hostname"}]


def test_without_a_topology_a_flavor_names_none() -> None:
    made = of_cluster(small(queue="research"))
    assert list(made) == ["ResourceFlavor", "ClusterQueue", "LocalQueue"]
    assert "topologyName" not in made["ResourceFlavor"]["spec"]


OF_AMD = replace(NETWORKS[DRA], gpu_class="gpu.amd.com")
WITH_FUNCTIONS = "feature.node.kubernetes.io/network-sriov.capable"


@pytest.mark.parametrize(
    ("spec", "label", "field"),
    [
        (small(SRIOV), "nvidia.com/gpu.present", "gpu_resource"),
        (small(SRIOV, gpus=0), WITH_FUNCTIONS, "network.devices"),
        (small(TCP, gpus=0), "kubernetes.io/os", "network.devices"),
        (small(DRA), "nvidia.com/gpu.present", "network.gpu_class"),
        (
            small(SRIOV, gpu_resource="amd.com/gpu"),
            "feature.node.kubernetes.io/amd-gpu",
            "gpu_resource",
        ),
        (small(network=OF_AMD), "feature.node.kubernetes.io/amd-gpu", "network.gpu_class"),
        # Nobody knows what nodes with these are labelled with, and the note does not say so.
        (small(SRIOV, gpu_resource="example.com/gpu"), WITH_FUNCTIONS, "network.devices"),
        (small(TCP, gpu_resource="example.com/gpu"), "kubernetes.io/os", "network.devices"),
    ],
    ids=range(8),
)
def test_a_flavor_knows_its_nodes(spec: Spec, label: str, field: str) -> None:
    spec = replace(spec, queue="research")
    flavor = of_cluster(spec)["ResourceFlavor"]["spec"]
    assert list(flavor["nodeLabels"]) == [label]
    pod = pods(kueue.render(spec, NEW).objects[0])["spec"]
    assert flavor.get("tolerations") == pod.get("tolerations")
    assert ("tolerations" in flavor) == bool(spec.gpus)
    notes = [each for each in kueue.render_cluster(spec, NEW).notes if label in each.became]
    assert [each.field for each in notes] == [field]


def test_a_name_may_be_as_long_as_its_last_pods_allows() -> None:
    longest = "a" * (63 - len("-workers-0-15-xxxxx"))
    assert job_set(name=longest, nodes=16)["metadata"]["name"] == longest
    with pytest.raises(SettingError, match=r"^name: a+ .* shorten it by 1$"):
        job_set(name=longest + "a", nodes=16)


def test_a_coordinator_whose_name_no_label_holds_is_left_out() -> None:
    """The controller writes ``<job>-workers-0-0.<job>`` into a label of each pod."""
    assert len(f"{'a' * 25}-workers-0-0.{'a' * 25}") == 63
    assert "coordinator" in job_set(name="a" * 25)["spec"]
    assert "coordinator" not in job_set(name="a" * 26)["spec"]


def specs() -> list[Spec]:
    soft = Topology("example.com/rack", required=False)
    return [
        small(queue="research"),
        small(queue="research", topology=RACK),
        small(queue="research", topology=soft, priority="training", max_restarts=0),
        small(DRA, queue="research"),
        small(TCP, queue="research", nodes=1, gpus=0, name="a" * 45),
    ]


@k8s_schemas.needs_crds
@pytest.mark.parametrize("spec", specs(), ids=range(len(specs())))
def test_objects_are_what_jobset_and_kueue_take(spec: Spec) -> None:
    parts = [kueue.render(spec, NEW), kueue.render_cluster(spec, NEW), jobset.render(spec, NEW)]
    for each in (thing for part in parts for thing in part.objects):
        assert k8s_schemas.errors(each) == []
