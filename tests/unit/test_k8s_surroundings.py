# SPDX-License-Identifier: Apache-2.0
"""What a job has beside its workload: values, and who reaches whom."""

import base64
from typing import Any

import pytest
from k8s_specs import full, small

from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.parts import Part
from rdmatrain.k8s.spec import Checkpoint, JobSecret, Monitoring, Spec
from rdmatrain.k8s.surroundings import surroundings
from rdmatrain.secret import MIN_BYTES

LABELS = {"app.kubernetes.io/name": "rdmatrain", "app.kubernetes.io/instance": "llm"}


def around(spec: Spec, *, service: bool = True) -> Part:
    return surroundings(spec, Cluster(), service=service)


def one(part: Part, kind: str) -> dict[str, Any]:
    found = [each for each in part.objects if each["kind"] == kind]
    assert len(found) == 1, [each["kind"] for each in part.objects]
    return found[0]


def kinds(part: Part) -> list[str]:
    return [each["kind"] for each in part.objects]


def test_all_belong_to_the_job_and_its_namespace() -> None:
    part = around(full())
    assert sorted(kinds(part)) == [
        "NetworkPolicy", "PersistentVolumeClaim", "PodDisruptionBudget", "Secret", "Service",
    ]  # fmt: skip
    for each in part.objects:
        assert each["metadata"]["namespace"] == "train"
        assert each["metadata"]["labels"] == LABELS


def test_a_controller_that_makes_a_service_gets_no_second_one() -> None:
    assert "Service" not in kinds(around(small(), service=False))
    service = one(around(small()), "Service")
    assert service["metadata"]["name"] == "llm"
    assert service["spec"] == {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": LABELS,
    }


def test_a_secret_is_made_only_on_demand_and_is_new_each_time() -> None:
    assert "Secret" not in kinds(around(small()))
    values = set()
    for _ in range(3):
        secret = one(around(small(secret=JobSecret(create=True))), "Secret")
        assert secret["metadata"]["name"] == "llm-secret"
        text = secret["stringData"]["secret"]
        assert len(base64.b64decode(text, validate=True)) == 32
        assert len(text) >= MIN_BYTES
        values.add(text)
    assert len(values) == 3


def test_no_note_tells_the_secret() -> None:
    part = around(small(secret=JobSecret(create=True)))
    value = one(part, "Secret")["stringData"]["secret"]
    assert value not in repr(part.notes)


def test_a_named_secret_has_that_name() -> None:
    part = around(small(secret=JobSecret(name="mine", create=True)))
    assert one(part, "Secret")["metadata"]["name"] == "mine"


def test_a_claim_is_made_where_it_has_a_size() -> None:
    assert "PersistentVolumeClaim" not in kinds(around(small(checkpoint=Checkpoint("ckpt"))))
    claim = one(
        around(small(checkpoint=Checkpoint("ckpt", size_bytes=3 << 40))), "PersistentVolumeClaim"
    )
    assert claim["metadata"]["name"] == "ckpt"
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "3072Gi"}},
    }
    fast = one(around(full()), "PersistentVolumeClaim")
    assert fast["spec"]["storageClassName"] == "lustre"


def allowed(policy: dict[str, Any], labels: dict[str, str], namespace: str, port: int) -> bool:
    """Whether a policy lets a pod in, as Kubernetes has it: any rule, any peer of its ``from``."""
    for rule in policy["spec"]["ingress"]:
        ports = [each["port"] for each in rule.get("ports", [])]
        if ports and port not in ports:
            continue
        for peer in rule["from"]:
            wanted = peer.get("podSelector", {}).get("matchLabels", {})
            names = peer.get("namespaceSelector", {}).get("matchLabels", {})
            here = (
                namespace == "train"
                if not names
                else names == {"kubernetes.io/metadata.name": namespace}
            )
            if here and wanted.items() <= labels.items():
                return True
    return False


@pytest.mark.parametrize(
    ("labels", "namespace", "port", "reaches"),
    [
        (LABELS, "train", 29500, True),
        (LABELS, "train", 43210, True),
        (LABELS | {"app.kubernetes.io/instance": "other"}, "train", 29500, False),
        (LABELS, "elsewhere", 29500, False),
        ({"app": "prometheus"}, "watch", 9400, True),
        ({"app": "prometheus"}, "watch", 29500, False),
        ({"app": "prometheus"}, "train", 9400, False),
        ({}, "default", 9400, False),
    ],
)
def test_peers_and_prometheus_get_in_and_no_one_else(
    labels: dict[str, str], namespace: str, port: int, reaches: bool
) -> None:
    spec = small(monitoring=Monitoring(port=9400, namespace="watch"))
    policy = one(around(spec), "NetworkPolicy")
    assert policy["spec"]["podSelector"] == {"matchLabels": LABELS}
    # Egress is not restricted: DNS, data and checkpoints are outside.
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert allowed(policy, labels, namespace, port) == reaches


def test_without_metrics_only_peers_get_in() -> None:
    policy = one(around(small(monitoring=Monitoring(port=0))), "NetworkPolicy")
    assert len(policy["spec"]["ingress"]) == 1
    assert not allowed(policy, {}, "monitoring", 9400)
    assert allowed(policy, LABELS, "train", 9400)


@pytest.mark.parametrize("nodes", [1, 4, 128])
def test_a_drain_waits_for_all_pods_but_not_for_broken_ones(nodes: int) -> None:
    budget = one(around(small(nodes=nodes)), "PodDisruptionBudget")
    assert budget["spec"] == {
        "minAvailable": nodes,
        "selector": {"matchLabels": LABELS},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }


@pytest.mark.parametrize("spec", [small(), full(), small(nodes=1, monitoring=Monitoring(port=0))])
def test_every_field_leaves_a_note(spec: Spec) -> None:
    fields = {each.field for each in around(spec).notes}
    assert fields >= {
        "secret.create", "checkpoint.size_bytes", "checkpoint.storage_class", "namespace", "nodes",
        "monitoring.namespace",
    }  # fmt: skip
    assert all(each.why.strip() and ": " in each.became for each in around(spec).notes)
