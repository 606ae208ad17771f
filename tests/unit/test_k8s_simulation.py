# SPDX-License-Identifier: Apache-2.0
"""A rendered job, as its system would run it: every launcher finds its place, peers and devices."""

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import k8s_machines
import k8s_specs
import pytest
from k8s_controllers import pods_of, published
from k8s_injection import Seen, inside, machine
from k8s_pods import Object, Pod
from k8s_specs import KUBERNETES, queued, rendered, small

from rdmatrain.discovery.survey import survey
from rdmatrain.k8s.spec import DEVICES, DRA, SHARED, SRIOV, TCP, Network, Spec

# By target: what discovery calls it, and whether it counts restarts of the whole job.
ORCHESTRATORS = {
    "volcano": ("volcano", True),
    "trainjob": ("trainer", True),
    "pytorchjob": ("pytorchjob", False),
    "jobset": ("jobset", True),
    "kueue": ("jobset", True),
    "indexed-job": ("indexed-job", False),
    "podgroup": ("indexed-job", False),
    "lws": ("lws", False),
    "mpijob": ("mpijob", False),
}
RESTARTS = 2
# The operator's RANK counts pods, which is said to whoever reads it; the launcher does not.
KNOWN = {"pytorchjob": {"misleading-rank"}}


def look(
    stack: ExitStack, name: str, spec: Spec, restarts: int = RESTARTS
) -> tuple[list[Object], list[Pod], list[Seen]]:
    """All objects, all pods, and what the first and the last of them see."""
    objects = list(rendered(name, queued(name, spec)).objects)
    pods = pods_of(objects, restarts)
    seen = [
        stack.enter_context(
            inside(
                pods[number],
                objects,
                spec.network.resource,
                spec.gpu_resource,
            )
        )
        for number in (0, len(pods) - 1)
    ]
    return objects, pods, seen


def ids(seen: Seen) -> set[str]:
    return {each.id for each in seen.survey.complaints}


def granted(seen: Seen) -> tuple[set[str], dict[str, str]]:
    """GPUs by UUID, and NICs by name with the network that each is attached to."""
    found = seen.survey.allocation
    nics = {each.nic.name: each.network for each in found.nics}
    return {each.gpu.uuid for each in found.gpus}, nics


INTENDED: dict[str, Any] = {
    # Multus goes through the devices in the order in which kubelet has them, the last first here.
    SRIOV: {"mlx5_3": "train/rail0", "mlx5_2": "train/rail1"},
    SHARED: {"mlx5_0": "train/macvlan0"},
    DRA: {"mlx5_2": None, "mlx5_3": None},
    TCP: {},
}


@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize("name", KUBERNETES)
def test_every_pod_finds_its_place_and_devices(name: str, devices: str) -> None:
    spec = small(devices)
    with ExitStack() as stack:
        objects, pods, both = look(stack, name, spec)
        assert len(pods) == spec.nodes
        check_places(name, spec, both)
        check_names(objects, pods, both)
        for seen in both:
            check_devices(spec, seen)


@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize("name", KUBERNETES)
def test_the_doctor_before_it_finds_the_same_place_and_devices(name: str, devices: str) -> None:
    """In a container of its own, which some operators give variables of theirs only if asked."""
    spec = small(devices)
    with ExitStack() as stack:
        objects, pods, both = look(stack, name, spec)
        for pod, trainer in zip((pods[0], pods[-1]), both, strict=True):
            first = {**pod.spec, "containers": pod.spec["initContainers"]}
            before = replace(pod, template={**pod.template, "spec": first})
            seen = machine(before, objects, spec.network.resource, spec.gpu_resource)
            found = survey(stack.enter_context(seen)[2])
            assert found.identity == trainer.survey.identity
            assert found.allocation == trainer.survey.allocation
            assert found.pairs == trainer.survey.pairs


def check_places(name: str, spec: Spec, both: list[Seen]) -> None:
    orchestrator, counts = ORCHESTRATORS[name]
    ranks = [seen.resolved.job.gang.node_rank for seen in both]
    assert ranks == [0, spec.nodes - 1]
    for seen in both:
        gang, identity = seen.resolved.job.gang, seen.survey.identity
        assert identity is not None
        assert identity.orchestrator == orchestrator
        assert seen.whoami["orchestrator"] == orchestrator
        assert seen.whoami["node_rank"] == gang.node_rank
        assert (gang.min_nodes, gang.max_nodes) == (spec.nodes, spec.nodes)
        assert seen.resolved.job.nproc == spec.nproc
        # Volcano counts a restart twice: as a new version, and as a retry.
        expected = RESTARTS * 2 if name == "volcano" else RESTARTS
        assert gang.epoch == (expected if counts else 0)
        assert seen.resolved.job.secret
        assert seen.resolved.job.limits.max_restarts == spec.max_restarts
        assert seen.resolved.job.limits.grace_s == spec.grace_s
    assert len({seen.resolved.job.gang.run_id for seen in both}) == 1
    assert both[0].resolved.job.gang.run_id not in {"", "none"}


def check_names(objects: list[Object], pods: list[Pod], both: list[Seen]) -> None:
    """All go to the same place, which is pod 0, and DNS has it before that pod is ready."""
    leaders = {(seen.resolved.job.gang.leader, seen.resolved.job.gang.port) for seen in both}
    assert len(leaders) == 1
    leader, port = leaders.pop()
    assert port > 0
    assert leader in pods[0].names(published(objects, pods))


def check_devices(spec: Spec, seen: Seen) -> None:
    gpus, nics = granted(seen)
    assert gpus == {each["uuid"] for each in map(k8s_machines.gpu, range(spec.gpus))}
    intended = INTENDED[spec.network.devices]
    assert nics.keys() == intended.keys()
    for nic, network in intended.items():
        assert network is None or nics[nic] == network
    printed = seen.topo["allocation"]
    assert {each["nic"]: each["network"] for each in printed["nics"]} == nics
    assert len(printed["gpus"]) == spec.gpus
    assert [each["local_rank"] for each in seen.topo["bindings"]] == [*range(spec.nproc)]
    assert all(each.port for each in seen.survey.allocation.nics)
    assert len(seen.survey.bindings) == spec.nproc
    if spec.network.devices in {SRIOV, DRA}:
        check_pairs(seen)


@pytest.mark.parametrize("aligned", ["pcie", "numa", "prefer"])
@pytest.mark.parametrize(("gpus", "vfs"), [(2, 2), (4, 2), (2, 4), (4, 1), (1, 3)])
def test_a_claims_gpus_and_nics_are_paired(aligned: str, gpus: int, vfs: int) -> None:
    """Whatever the ratio, and where the scheduler chooses among several levels of nearness."""
    network = Network(devices=DRA, vfs=vfs, networks=("rail",), aligned=aligned)
    spec = small(DRA, gpus=gpus, network=network)
    with ExitStack() as stack:
        for seen in look(stack, "podgroup", spec)[2]:
            assert len(granted(seen)[0]) == gpus
            assert len(granted(seen)[1]) == vfs
            if aligned != "numa":
                check_pairs(seen, gpus)


@pytest.mark.parametrize("nearness", k8s_machines.NEARNESS)
@pytest.mark.parametrize(("gpus", "vfs"), [(2, 2), (4, 2), (2, 4)])
def test_a_preference_falls_back_to_what_the_node_has(
    nearness: str, gpus: int, vfs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was chosen is configured, attached and found, however far from the GPU it is."""
    monkeypatch.setattr(k8s_machines, "free", partial(k8s_machines.free, nearness=nearness))
    network = Network(devices=DRA, vfs=vfs, networks=("rail",), aligned="prefer")
    with ExitStack() as stack:
        for seen in look(stack, "podgroup", small(DRA, gpus=gpus, network=network))[2]:
            assert len(granted(seen)[0]) == gpus
            assert len(granted(seen)[1]) == vfs
            nics = [each.nic for each in seen.survey.allocation.nics]
            interfaces = {name for each in nics for name in each.netdevs}
            assert interfaces == {f"net{number}" for number in range(1, vfs + 1)}
            assert len(seen.survey.pairs) == gpus
            for pair in seen.survey.pairs:
                assert pair.nic is not None
                assert (pair.gpu.path[0] == pair.nic.path[0]) == (nearness == "pcie")
                assert (pair.gpu.numa == pair.nic.numa) == (nearness != "any")


def check_pairs(seen: Seen, gpus: int = 2) -> None:
    """Each worker's NIC is below the PCIe root of its GPU."""
    pairs = seen.survey.pairs
    assert len(pairs) == gpus
    for pair in pairs:
        assert pair.nic is not None
        assert pair.gpu.path[0] == pair.nic.path[0]


def test_a_pytorchjob_whose_pods_are_ready_late_is_not_found() -> None:
    """Its Services have only pods that are ready, and no field changes that."""
    objects = list(rendered("pytorchjob", small()).objects)
    leader = "llm-master-0"
    assert leader in pods_of(objects)[0].names(published(objects, pods_of(objects)))
    for replicas in objects[-1]["spec"]["pytorchReplicaSpecs"].values():
        replicas["template"]["spec"]["containers"][0]["readinessProbe"] = {"exec": {}}
    assert leader not in pods_of(objects)[0].names(published(objects, pods_of(objects)))


@pytest.mark.parametrize("name", KUBERNETES)
def test_nothing_is_complained_of(name: str) -> None:
    with ExitStack() as stack:
        _, _, both = look(stack, name, small())
        for seen in both:
            assert ids(seen) == KNOWN.get(name, set())
            assert not [line for line in seen.resolved.job.messages if "warning" in line]


@pytest.mark.parametrize("name", KUBERNETES)
def test_a_job_of_one_node_is_one(name: str) -> None:
    spec = queued(name, small(nodes=1))
    objects = list(rendered(name, spec).objects)
    (pod,) = pods_of(objects)
    with inside(pod, objects, spec.network.resource, spec.gpu_resource) as seen:
        gang = seen.resolved.job.gang
        assert (gang.min_nodes, gang.max_nodes, gang.node_rank) == (1, 1, 0)
        assert seen.resolved.job.nproc == spec.gpus
        assert granted(seen)[1] == INTENDED[SRIOV]


@pytest.mark.parametrize("name", KUBERNETES)
def test_pods_with_the_longest_names_find_node_0(name: str) -> None:
    spec = small("tcp", name="a" * 44)
    with ExitStack() as stack:
        objects, pods, both = look(stack, name, spec)
        check_places(name, spec, both)
        check_names(objects, pods, both)


@pytest.mark.parametrize("name", KUBERNETES)
def test_workers_are_as_many_as_the_spec_says(name: str) -> None:
    with ExitStack() as stack:
        _, _, both = look(stack, name, small(workers=6, gpus=2))
        assert [seen.resolved.job.nproc for seen in both] == [6, 6]


@pytest.mark.parametrize("name", KUBERNETES)
def test_networks_of_the_pods_are_rendered_too(name: str) -> None:
    """What the annotation names is made by the objects for the administrator, on one resource."""
    for devices in (SRIOV, SHARED):
        objects = list(rendered(name, queued(name, small(devices))).objects)
        pod = pods_of(objects)[0]
        made = {
            f"{each['spec']['networkNamespace']}/{each['metadata']['name']}"
            for each in objects
            if "networkNamespace" in each.get("spec", {})
        }
        wanted = k8s_machines.networks_of(pod.annotations, pod.namespace)
        assert {each["name"] for each in wanted} <= made


def test_every_target_is_simulated() -> None:
    assert set(ORCHESTRATORS) == {*KUBERNETES}
    assert k8s_specs.NETWORKS.keys() == set(DEVICES)
