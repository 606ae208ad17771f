# SPDX-License-Identifier: Apache-2.0
"""Where pods of every target may be put, and whose images they may pull."""

from dataclasses import replace
from typing import Any

import pytest
from k8s_controllers import pods_of
from k8s_specs import KUBERNETES, NETWORKS, queued, rendered, small

from rdmatrain.k8s.spec import DRA, Network, Topology


@pytest.mark.parametrize("name", KUBERNETES)
def test_pods_are_on_different_nodes_where_there_is_room(name: str) -> None:
    """And not where there must be: kind has one node."""
    for topology in (Topology(), Topology("example.com/rack")):
        spec = queued(name, small(topology=topology))
        for pod in pods_of(list(rendered(name, spec).objects)):
            apart = pod.spec["affinity"]["podAntiAffinity"]
            assert list(apart) == ["preferredDuringSchedulingIgnoredDuringExecution"]
            (term,) = (each["podAffinityTerm"] for each in apart[next(iter(apart))])
            assert term["topologyKey"] == "kubernetes.io/hostname"
            assert term["labelSelector"]["matchLabels"].items() <= pod.labels.items()
        alone = pods_of(list(rendered(name, queued(name, small(nodes=1))).objects))
        assert "affinity" not in alone[0].spec


def of_class(name: str) -> Network:
    return replace(NETWORKS[DRA], gpu_class=name)


OF_GPUS = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


@pytest.mark.parametrize("name", KUBERNETES)
def test_nodes_with_gpus_may_be_tainted_with_them(name: str) -> None:
    """Only an admission plugin that few clusters have would add it."""
    for spec, wanted in [
        (small(), [OF_GPUS]),
        (small(gpu_resource="amd.com/gpu"), [{**OF_GPUS, "key": "amd.com/gpu"}]),
        (small(gpus=0), None),
        # A claim names no resource: that of its class is the taint's.
        (small(DRA), [OF_GPUS]),
        (small(DRA, gpus=0), None),
        (small(network=of_class("mig.nvidia.com")), [OF_GPUS]),
        (small(network=of_class("gpu.amd.com")), [{**OF_GPUS, "key": "amd.com/gpu"}]),
        (small(network=of_class("mine"), gpu_resource="a.b/c"), [{**OF_GPUS, "key": "a.b/c"}]),
    ]:
        for pod in pods_of(list(rendered(name, queued(name, spec)).objects)):
            assert pod.spec.get("tolerations") == wanted


@pytest.mark.parametrize(
    ("taint", "tolerated"),
    [
        ("spot", {"key": "spot", "operator": "Exists"}),
        ("spot:NoExecute", {"key": "spot", "operator": "Exists", "effect": "NoExecute"}),
        (
            "example.com/for=a.b:NoSchedule",
            {
                "key": "example.com/for",
                "operator": "Equal",
                "value": "a.b",
                "effect": "NoSchedule",
            },
        ),
        ("for=", {"key": "for", "operator": "Equal", "value": ""}),
    ],
)
def test_a_taint_is_tolerated_as_kubectl_writes_it(taint: str, tolerated: dict[str, Any]) -> None:
    spec = small(gpus=0, tolerations=(taint,))
    pod = pods_of(list(rendered("jobset", spec).objects))[0]
    assert pod.spec["tolerations"] == [tolerated]


@pytest.mark.parametrize("name", KUBERNETES)
def test_pods_have_their_nodes_pull_secrets_and_data(name: str) -> None:
    spec = small(
        node_selector={"example.com/pool": "a"},
        pull_secrets=("registry", "other"),
        volumes={"/data": "datasets", "/mnt/more": "datasets"},
    )
    for pod in pods_of(list(rendered(name, queued(name, spec)).objects)):
        assert pod.spec["nodeSelector"] == {"example.com/pool": "a"}
        assert pod.spec["imagePullSecrets"] == [{"name": "registry"}, {"name": "other"}]
        volumes = {each["name"]: each for each in pod.spec["volumes"]}
        for box in (*pod.spec["containers"], *pod.spec["initContainers"]):
            at = {each["mountPath"]: volumes[each["name"]] for each in box["volumeMounts"]}
            for path in spec.volumes:
                assert at[path]["persistentVolumeClaim"] == {"claimName": "datasets"}
