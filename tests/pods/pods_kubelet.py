# SPDX-License-Identifier: Apache-2.0
"""What Kubernetes makes of an Indexed Job, in the words that `podman kube play` of 4.3 knows.

The Job's controller gives each pod its number and names; the kubelet makes files of Secrets, of the
downward API and for the termination message, and folders that everybody may write of emptyDir.
Podman would make one volume, of root, of all emptyDirs of a name.
"""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Object = dict[str, Any]

INDEX = "batch.kubernetes.io/job-completion-index"
DOMAIN = "default.svc.cluster.local"
# What Podman 4.3 does not read, and a container does not see.
UNREAD = ("subdomain", "automountServiceAccountToken", "enableServiceLinks", "affinity")


@dataclass(frozen=True)
class Pod:
    """A pod of a Job.

    Attributes:
        object: for `podman kube play`.
        names: in DNS.
        address: of the pod.
        files: where the host keeps what the kubelet made.

    """

    object: Object
    names: tuple[str, ...]
    address: str
    files: Path

    @property
    def name(self) -> str:
        return str(self.object["metadata"]["name"])

    def container(self, name: str = "trainer") -> str:
        """What Podman calls a container of it."""
        return f"{self.name}-{name}"

    def message(self) -> str:
        """The termination message."""
        return (self.files / "termination-log").read_text("utf-8")


def pods(objects: tuple[Object, ...], secret: str, folder: Path, subnet: str) -> list[Pod]:
    """Return the pods of the Job among the objects.

    Args:
        objects: that were rendered.
        secret: value of the Job's Secret.
        folder: for what the kubelet makes.
        subnet: first three numbers of the pods' addresses.

    """
    (job,) = [each for each in objects if each["kind"] == "Job"]
    return [
        _pod(job, index, secret, folder / str(index), f"{subnet}.{10 + index}")
        for index in range(job["spec"]["completions"])
    ]


def _pod(job: Object, index: int, secret: str, files: Path, address: str) -> Pod:
    name, template = job["metadata"]["name"], deepcopy(job["spec"]["template"])
    host, metadata, spec = f"{name}-{index}", template["metadata"], template["spec"]
    metadata |= {"name": host, "namespace": job["metadata"]["namespace"]}
    metadata["annotations"][INDEX] = str(index)
    metadata["labels"] |= {INDEX: str(index), "batch.kubernetes.io/job-name": name}
    service = spec["subdomain"]
    names = (f"{host}.{service}.{DOMAIN}", f"{host}.{service}", host)
    spec["hostname"] = host
    # The kubelet writes it into /etc/hosts.
    spec["hostAliases"] = [{"ip": address, "hostnames": [names[0], host]}]
    for field in UNREAD:
        spec.pop(field, None)
    _make_files(files, metadata, secret)
    spec["volumes"] = [_volume(each, files) for each in spec["volumes"]]
    spec["volumes"].append(_host_path("termination-log", files / "termination-log", "File"))
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        container["env"].append({"name": "JOB_COMPLETION_INDEX", "value": str(index)})
        # In every pod, whatever enableServiceLinks says.
        container["env"].append({"name": "KUBERNETES_SERVICE_HOST", "value": "10.96.0.1"})
        container.pop("ports", None)  # Podman would publish them on the host
        log = {"name": "termination-log", "mountPath": "/dev/termination-log"}
        container["volumeMounts"].append(log)
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    return Pod(made, names, address, files)


def _make_files(files: Path, metadata: Object, secret: str) -> None:
    for folder in ("podinfo", "secret"):
        (files / folder).mkdir(parents=True)
    for kind in ("annotations", "labels"):
        lines = "".join(f'{key}="{value}"\n' for key, value in sorted(metadata[kind].items()))
        (files / "podinfo" / kind).write_text(lines, "utf-8")
    (files / "secret" / "secret").write_text(secret, "utf-8")
    (files / "termination-log").touch()
    (files / "termination-log").chmod(0o666)


def _volume(volume: Object, files: Path) -> Object:
    name = volume["name"]
    if "downwardAPI" in volume:
        return _host_path(name, files / "podinfo", "Directory")
    if "secret" in volume:
        return _host_path(name, files / "secret", "Directory")
    # A claim is the same in all pods.
    path = files / "volumes" / name if "emptyDir" in volume else claim(files.parent)
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o777)
    return _host_path(name, path, "Directory")


def claim(folder: Path) -> Path:
    """Return where the host keeps what is in the job's claim."""
    return folder / "claim"


def _host_path(name: str, path: Path, kind: str) -> Object:
    return {"name": name, "hostPath": {"path": str(path), "type": kind}}
