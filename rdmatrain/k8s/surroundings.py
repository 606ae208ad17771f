"""What every job has beside its workload, whatever runs it."""

import base64
import secrets

from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.container import SECRET_KEY, has_secret, quantity
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Object, Part
from rdmatrain.k8s.spec import Spec

# What a Secret that is rendered holds: random bytes, before they are text.
SECRET_BYTES = 32
# By this label of Kubernetes' own, a policy knows a namespace by its name.
NAMESPACE_NAME = "kubernetes.io/metadata.name"


def surroundings(spec: Spec, cluster: Cluster, *, service: bool) -> Part:
    """Return Secret, claim, NetworkPolicy and PodDisruptionBudget, and a headless Service.

    Args:
        spec: of the job.
        cluster: that it is for.
        service: whether the target's controller makes no headless Service itself; this one is
            called as the job is, publishes addresses that are not ready, and selects
            :attr:`Spec.labels`.

    """
    del cluster  # All of it has had the same form since Kubernetes 1.27.
    parts = [_secret(spec), _claim(spec)]
    if service:
        parts.append(_service(spec))
    parts += [_policy(spec), _budget(spec)]
    return Part(
        tuple(each for part in parts for each in part.objects),
        tuple(each for part in parts for each in part.notes),
    )


def metadata(spec: Spec, name: str) -> Object:
    """Return the metadata of an object that belongs to the job."""
    return {"name": name, "namespace": spec.namespace, "labels": dict(spec.labels)}


def _secret(spec: Spec) -> Part:
    notes = Notes(f"Secret/{spec.secret_name}")
    if not spec.secret.create:
        why = (
            f"The Secret is to be there, or no pod starts: kubectl -n {spec.namespace} create "
            f"secret generic {spec.secret_name} --from-literal={SECRET_KEY}="
            '"$(openssl rand -hex 32)".'
        )
        mounted = has_secret(spec)
        if not mounted:
            why = "One node has nobody to prove anything to."
        path = f"stringData.{SECRET_KEY}"
        notes.add("secret.create", path, "not rendered", why, urgent=mounted)
        return Part((), notes.all())
    value = base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    made: Object = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(spec, spec.secret_name),
        "type": "Opaque",
        "stringData": {SECRET_KEY: value},
    }
    # The value is no note's business.
    why = "A new one each time: render once and keep it, or make it beforehand."
    notes.add("secret.create", f"stringData.{SECRET_KEY}", f"{SECRET_BYTES} random bytes", why)
    return Part((made,), notes.all())


def _claim(spec: Spec) -> Part:
    want = spec.checkpoint
    notes = Notes(f"PersistentVolumeClaim/{want.claim or 'none'}")
    if not want.claim or not want.size_bytes:
        why = "There is no volume for checkpoints."
        if want.claim:
            why = (
                f"The claim {want.claim} is to be there, ReadWriteMany, or no pod starts; "
                "checkpoint.size makes it."
            )
        for field in ("checkpoint.size_bytes", "checkpoint.storage_class"):
            notes.add(field, "spec", "not rendered", why, urgent=bool(want.claim))
        return Part((), notes.all())
    claim: Object = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": quantity(want.size_bytes)}},
    }
    if want.storage_class:
        claim["storageClassName"] = want.storage_class
    made: Object = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(spec, want.claim),
        "spec": claim,
    }
    why = "ReadWriteMany, as every pod writes its own shards."
    notes.add("checkpoint.size_bytes", "spec.resources.requests", quantity(want.size_bytes), why)
    why = "Of a file system that many nodes can mount."
    shown = want.storage_class or "the cluster's default"
    notes.add("checkpoint.storage_class", "spec.storageClassName", shown, why)
    return Part((made,), notes.all())


def _service(spec: Spec) -> Part:
    made: Object = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(spec, spec.name),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": dict(spec.labels),
        },
    }
    notes = Notes(f"Service/{spec.name}")
    why = "Pods have names in DNS by a headless Service, and the workload's subdomain is its name."
    notes.add("name", "metadata.name", spec.name, why)
    why = "The gang meets before any pod is ready."
    notes.add("", "spec.publishNotReadyAddresses", True, why)
    return Part((made,), notes.all())


def _policy(spec: Spec) -> Part:
    own = {"podSelector": {"matchLabels": dict(spec.labels)}}
    ingress: list[Object] = [{"from": [own]}]
    notes = Notes(f"NetworkPolicy/{spec.name}")
    why = "Peers reach each other on any port, as the ports of ranks are dealt out by the kernel."
    notes.add("", "spec.ingress[0].from", own, why)
    watched = spec.monitoring
    if watched.port:
        prometheus = {
            "namespaceSelector": {"matchLabels": {NAMESPACE_NAME: watched.namespace}},
        }
        port = {"protocol": "TCP", "port": watched.port}
        ingress.append({"from": [prometheus], "ports": [port]})
        why = "Prometheus reaches the metrics, and nothing else; nobody else reaches anything."
        notes.add("monitoring.namespace", "spec.ingress[1].from", watched.namespace, why)
    else:
        why = "There are no metrics to reach."
        notes.add("monitoring.namespace", "spec.ingress", "peers alone", why)
    why = (
        "Egress is left as it is: DNS, data and checkpoints are where only the cluster knows, "
        "and a policy that names it Egress denies what it does not list."
    )
    notes.add("", "spec.policyTypes", ["Ingress"], why)
    made: Object = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(spec, spec.name),
        "spec": {
            "podSelector": {"matchLabels": dict(spec.labels)},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }
    return Part((made,), notes.all())


def _budget(spec: Spec) -> Part:
    made: Object = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(spec, spec.name),
        "spec": {
            "minAvailable": spec.nodes,
            "selector": {"matchLabels": dict(spec.labels)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
    notes = Notes(f"PodDisruptionBudget/{spec.name}")
    why = (
        "A drain waits, as one pod less stops all; a number, as Kubernetes counts a percentage "
        "only for workloads with a scale subresource."
    )
    notes.add("nodes", "spec.minAvailable", spec.nodes, why)
    why = "A pod that is broken already does not hold up a drain."
    notes.add("", "spec.unhealthyPodEvictionPolicy", "AlwaysAllow", why)
    why = "Where all objects of the job are."
    notes.add("namespace", "metadata.namespace", spec.namespace, why)
    return Part((made,), notes.all())
