# SPDX-License-Identifier: Apache-2.0
"""Specs that tests render, and what is made of them for every target."""

from collections.abc import Iterator
from dataclasses import replace

from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.parts import Part
from rdmatrain.k8s.render import render
from rdmatrain.k8s.spec import (
    DRA,
    GIB,
    INFINIBAND,
    SHARED,
    SRIOV,
    TCP,
    Checkpoint,
    JobSecret,
    Monitoring,
    Network,
    Spec,
    Topology,
)
from rdmatrain.k8s.targets.target import TARGETS

OLD, NEW = Cluster(kubernetes=(1, 34)), Cluster()
CLUSTERS = {f"1.{minor}": Cluster(kubernetes=(1, minor)) for minor in range(34, 38)}
NETWORKS = {
    SRIOV: Network(devices=SRIOV, vfs=2, networks=("rail0", "rail1"), pfs=("ens1f0", "ens2f0")),
    SHARED: Network(
        devices=SHARED, vfs=1, resource="rdma/hca_shared_a", networks=("macvlan0",), pfs=("ens1f0",)
    ),
    DRA: Network(devices=DRA, vfs=2, networks=("rail0", "rail1"), pfs=("ens1f0", "ens2f0")),
    TCP: Network(devices=TCP, networks=()),
}
KUBERNETES = [name for name in TARGETS if name != "slurm"]


def small(devices: str = SRIOV, **fields: object) -> Spec:
    """Four nodes of two GPUs each."""
    made = Spec(
        name="llm",
        namespace="train",
        image="registry.example.com/llm:1",
        command=("rdmatrain", "run", "-m", "train"),
        nodes=4,
        gpus=2,
        cpus=16,
        memory_bytes=64 * GIB,
        shm_bytes=8 * GIB,
        network=NETWORKS[devices],
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def full(devices: str = SRIOV, **fields: object) -> Spec:
    """The same with all that can be asked for of every target."""
    made = replace(
        small(devices),
        env={"NCCL_DEBUG": "INFO", "PORT": "0x10", "SWITCH": "on"},
        checkpoint=Checkpoint("ckpt", size_bytes=1 << 40, storage_class="lustre"),
        secret=JobSecret(create=True),
        monitoring=Monitoring(port=9401, namespace="observability", labels={"release": "prom"}),
        priority="training",
        workers=4,
        node_selector={"example.com/pool": "on"},
        tolerations=("dedicated=training:NoSchedule",),
        pull_secrets=("registry",),
        volumes={"/data": "datasets"},
    )
    return replace(made, **fields)  # type: ignore[arg-type]


INFINIBAND_NETWORK = replace(NETWORKS[SRIOV], link=INFINIBAND)
NEAR = Topology(label="example.com/rack")


def rendered(name: str, spec: Spec, cluster: Cluster = NEW, *, with_cluster: bool = True) -> Part:
    return render(spec, name, cluster, with_cluster=with_cluster)


def clusters_of(name: str) -> Iterator[tuple[str, Cluster]]:
    """Versions that a target is for."""
    for version, cluster in CLUSTERS.items():
        if name != "podgroup" or cluster.gang_api:
            yield version, cluster


def queued(name: str, spec: Spec) -> Spec:
    """The spec with a queue, where the target has queues."""
    return replace(spec, queue="research") if name in {"volcano", "kueue"} else spec
