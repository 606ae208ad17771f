# SPDX-License-Identifier: Apache-2.0
"""Indexed Jobs, alone and as a gang of Kubernetes itself."""

from dataclasses import replace
from typing import Any

import pytest
from doctor_manifests import ask
from k8s_specs import NEW, OLD, SHARED, full, rendered, small

from rdmatrain.doctor.model import Verdict
from rdmatrain.errors import SettingError
from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.parts import Object
from rdmatrain.k8s.spec import Spec, Topology
from rdmatrain.k8s.text import stream
from rdmatrain.launcher.exit_policies import job_failure_policy

BOTH = ["indexed-job", "podgroup"]


def one(target: str, spec: Spec, kind: str = "Job") -> Object:
    objects = rendered(target, spec, with_cluster=False).objects
    found = [each for each in objects if each["kind"] == kind]
    assert len(found) == 1
    return found[0]


def command(job: Object) -> list[str]:
    words: list[str] = job["spec"]["template"]["spec"]["containers"][0]["command"]
    return words


@pytest.mark.parametrize("target", BOTH)
@pytest.mark.parametrize("nodes", [1, 2, 128])
def test_the_job_has_all_pods_at_a_time(target: str, nodes: int) -> None:
    job = one(target, small(nodes=nodes, max_restarts=5))
    spec = {key: value for key, value in job["spec"].items() if key != "template"}
    assert (job["apiVersion"], job["metadata"]["name"]) == ("batch/v1", "llm")
    assert spec == {
        "completionMode": "Indexed",
        "completions": nodes,
        "parallelism": nodes,
        # Each pod of a broken gang ends and counts for its own index: five times, then no more.
        "backoffLimitPerIndex": 5,
        "maxFailedIndexes": 0,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": job_failure_policy(),
    }
    words = command(job)
    assert words[words.index("--nnodes") + 1] == str(nodes)
    assert words.index("--nnodes") < words.index("-m")
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    service = one(target, small(nodes=nodes), "Service")
    assert pod["subdomain"] == service["metadata"]["name"] == "llm"
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()


def test_a_gang_starts_whole_and_is_preempted_whole() -> None:
    spec = small(nodes=16, priority="training", topology=Topology("example.com/rack"))
    group, job = one("podgroup", spec, "PodGroup"), one("podgroup", spec)
    assert group["apiVersion"] == "scheduling.k8s.io/v1beta1"
    assert group["metadata"]["namespace"] == job["metadata"]["namespace"] == "train"
    assert group["spec"] == {
        "schedulingPolicy": {"gang": {"minCount": 16}},
        "disruptionMode": {"all": {}},
        "priorityClassName": "training",
        "schedulingConstraints": {"topology": [{"key": "example.com/rack"}]},
    }
    pod = job["spec"]["template"]["spec"]
    assert pod["schedulingGroup"] == {"podGroupName": group["metadata"]["name"]}
    assert pod["priorityClassName"] == "training"
    assert "podAffinity" not in pod["affinity"]


def test_what_a_cluster_must_have_for_a_gang_is_said() -> None:
    """All of it is off by default in 1.37: the pods would be scheduled one by one, silently."""

    def urgent(spec: Spec) -> str:
        notes = rendered("podgroup", spec, with_cluster=False).notes
        (why,) = [each.why for each in notes if each.urgent and "GenericWork" in each.why]
        return why

    why = urgent(small())
    assert "--runtime-config=scheduling.k8s.io/v1beta1=true" in why
    assert "GenericWorkload" in why
    assert "TopologyAware" not in why
    assert "TopologyAwareWorkloadScheduling" in urgent(small(topology=Topology("example.com/rack")))
    preferred = Topology("example.com/rack", required=False)
    assert "TopologyAware" not in urgent(small(topology=preferred))


@pytest.mark.parametrize("required", [True, False])
def test_each_version_has_its_words_for_a_gang(required: bool) -> None:
    """Names changed in 1.36 and again in 1.37: what one takes, the next refuses."""
    spec = small(priority="training", topology=Topology("example.com/rack", required=required))

    def both(minor: int) -> tuple[Object, Object, str]:
        part = rendered("podgroup", spec, Cluster(kubernetes=(1, minor)), with_cluster=False)
        group, job = part.objects[-2:]
        (why,) = [each.why for each in part.notes if each.urgent and "GenericWork" in each.why]
        return group, job["spec"]["template"]["spec"], why

    group, pod, why = both(35)
    assert (group["apiVersion"], group["kind"]) == ("scheduling.k8s.io/v1alpha1", "Workload")
    assert group["spec"] == {
        "podGroups": [{"name": "workers", "policy": {"gang": {"minCount": 4}}}]
    }
    assert pod["workloadRef"] == {"name": "llm", "podGroup": "workers"}
    assert "schedulingGroup" not in pod
    # It knows no topology, so that the pods have it.
    assert "podAffinity" in pod["affinity"]
    assert "GangScheduling" in why
    assert "WorkloadAwarePreemption" not in why
    group, pod, why = both(36)
    assert (group["apiVersion"], group["kind"]) == ("scheduling.k8s.io/v1alpha2", "PodGroup")
    assert group["spec"]["disruptionMode"] == "PodGroup"
    assert ("schedulingConstraints" in group["spec"]) == required
    assert ("podAffinity" in pod["affinity"]) != required
    assert pod["schedulingGroup"] == {"podGroupName": "llm"}
    assert "GangScheduling and WorkloadAwarePreemption" in why
    assert ("TopologyAwareWorkloadScheduling" in why) == required
    group, pod, why = both(37)
    assert (group["apiVersion"], group["kind"]) == ("scheduling.k8s.io/v1beta1", "PodGroup")
    assert group["spec"]["disruptionMode"] == {"all": {}}
    assert "GangScheduling" not in why


def test_the_group_is_applied_before_the_pods_that_name_it() -> None:
    kinds = [each["kind"] for each in rendered("podgroup", small(), with_cluster=False).objects]
    assert kinds.index("PodGroup") < kinds.index("Job")
    assert "PodGroup" not in [each["kind"] for each in rendered("indexed-job", small()).objects]


def test_what_should_be_near_has_an_affinity() -> None:
    """A PodGroup knows only what must be; a Job alone knows neither."""
    should = small(topology=Topology("example.com/rack", required=False))
    must = small(topology=Topology("example.com/rack"))
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    assert "schedulingConstraints" not in one("podgroup", should, "PodGroup")["spec"]
    for target, spec, key in [
        ("podgroup", should, preferred),
        ("indexed-job", should, preferred),
        ("indexed-job", must, required),
    ]:
        pod = one(target, spec)["spec"]["template"]["spec"]
        assert list(pod["affinity"]["podAffinity"]) == [key]
    alone = one("indexed-job", small())["spec"]["template"]["spec"]
    assert "podAffinity" not in alone["affinity"]


@pytest.mark.parametrize("target", BOTH)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"queue": "research"}, r"^queue: 'research' .*--for volcano or kueue"),
        ({"topology": Topology(tier=2)}, r"^topology\.tier: 2 .*topology\.label"),
        ({"name": "x" * 62}, r"^name: x.*63"),
    ],
)
def test_what_a_job_cannot_do_is_refused(target: str, change: Any, said: str) -> None:
    with pytest.raises(SettingError, match=said) as error:
        rendered(target, small(**change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("target", BOTH)
def test_names_at_the_limit_are_rendered(target: str) -> None:
    """61 characters, a dash and an index of one digit are 63; ten pods need a digit more."""
    assert one(target, small(name="x" * 61, nodes=10))["metadata"]["name"] == "x" * 61
    with pytest.raises(SettingError, match="shorten it by 1"):
        rendered(target, small(name="x" * 61, nodes=11))


def test_an_older_cluster_has_no_gang_of_its_own() -> None:
    with pytest.raises(SettingError, match=r"^kubernetes: 1\.34 .* 1\.35: .*volcano or kueue"):
        rendered("podgroup", small(), OLD)
    assert (
        rendered("indexed-job", small(), OLD).objects
        == rendered("indexed-job", small(), NEW).objects
    )


@pytest.mark.parametrize("target", BOTH)
def test_on_the_hosts_network_the_leader_is_named(target: str) -> None:
    """The host's /etc/hosts has no domain of pods, of which the launcher would make the name."""
    network = replace(small(SHARED).network, host_network=True, host_network_reason="no VFs")
    words = command(one(target, small(network=network)))
    assert words[words.index("--master-addr") + 1] == "llm-0.llm"
    assert "--master-addr" not in command(one(target, small(SHARED)))
    assert "--master-addr" not in command(one(target, small(network=network, nodes=1)))


@pytest.mark.parametrize("target", BOTH)
@pytest.mark.parametrize(
    "question",
    ["identity", "dns-leader", "gang-secret", "restart-policy", "grace", "vf-count", "shm"],
)
def test_the_doctor_finds_nothing(target: str, question: str) -> None:
    text = stream(rendered(target, full()).objects)
    assert ask(question, text).verdict is Verdict.PASS


def test_only_the_group_makes_it_a_gang() -> None:
    for minor in (35, 36, 37):
        text = stream(rendered("podgroup", full(), Cluster(kubernetes=(1, minor))).objects)
        assert ask("gang-minimum", text).verdict is Verdict.PASS
        fewer = text.replace("minCount: 4", "minCount: 3")
        assert ask("gang-minimum", fewer).verdict is Verdict.WARN
    alone = stream(rendered("indexed-job", full()).objects)
    assert ask("gang-minimum", alone).verdict is Verdict.WARN


@pytest.mark.parametrize("target", BOTH)
def test_fields_leave_their_notes(target: str) -> None:
    notes = rendered(target, small(topology=Topology("example.com/rack"))).notes
    said = {each.field: each.became for each in notes}
    assert {"name", "namespace", "nodes", "max_restarts", "queue"} <= set(said)
    assert {"topology.label", "topology.required", "topology.tier"} <= set(said)
    assert any("example.com/rack" in each.became for each in notes)
