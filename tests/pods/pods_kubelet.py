# SPDX-License-Identifier: Apache-2.0
"""What Kubernetes makes of an Indexed Job, in the words that `podman kube play` of 4.3 knows.

The Job's controller gives each pod its number and names; the kubelet makes files of Secrets, of the
downward API and for the termination message, folders of emptyDir, in memory where that is said, and
gives all of them to the pod's group. Podman would make one volume, of root, of all emptyDirs of a
name.
"""

import os
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
        memory: folders that are to be of memory, and their limits as mount reads them.

    """

    object: Object
    names: tuple[str, ...]
    address: str
    files: Path
    memory: dict[Path, str]

    @property
    def name(self) -> str:
        return str(self.object["metadata"]["name"])

    def container(self, name: str = "trainer") -> str:
        """What Podman calls a container of it."""
        return f"{self.name}-{name}"

    def message(self) -> str:
        """The termination message."""
        return (self.files / "termination-log").read_text("utf-8")


def job_of(objects: tuple[Object, ...]) -> Object:
    """Return the Job among the objects that were rendered."""
    (job,) = [each for each in objects if each["kind"] == "Job"]
    return job


def make_pod(job: Object, index: int, secret: str, files: Path, address: str) -> Pod:
    """Make a pod of a Job.

    Args:
        job: as it was rendered.
        index: the pod's number.
        secret: value of the Job's Secret.
        files: for what the kubelet makes; what is beside it is of all pods.
        address: of the pod.

    """
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
    group = spec["securityContext"]["fsGroup"]
    _make_files(files, metadata, secret, spec["volumes"], group)
    memory = {
        _place(each, files): each["emptyDir"]["sizeLimit"].removesuffix("i")
        for each in spec["volumes"]
        if each.get("emptyDir", {}).get("medium") == "Memory"
    }
    spec["volumes"] = [
        _host_path(each["name"], _place(each, files), "Directory") for each in spec["volumes"]
    ]
    spec["volumes"].append(_host_path("termination-log", files / "termination-log", "File"))
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        container["env"].append({"name": "JOB_COMPLETION_INDEX", "value": str(index)})
        # In every pod, whatever enableServiceLinks says.
        container["env"].append({"name": "KUBERNETES_SERVICE_HOST", "value": "10.96.0.1"})
        container.pop("ports", None)  # Podman would publish them on the host
        log = {"name": "termination-log", "mountPath": "/dev/termination-log"}
        container["volumeMounts"].append(log)
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    return Pod(made, names, address, files, memory)


def _make_files(
    files: Path, metadata: Object, secret: str, volumes: list[Object], group: int
) -> None:
    for volume in volumes:
        place = _place(volume, files)
        place.mkdir(parents=True, exist_ok=True)
        os.chown(place, 0, group)
        if "downwardAPI" in volume:
            labels = {kind: _lines(metadata[kind]) for kind in ("annotations", "labels")}
            _project(place, labels, 0o644, group)
        elif "secret" in volume:
            _project(place, {"secret": secret}, volume["secret"]["defaultMode"], group)
        else:  # a claim has no more than the group
            place.chmod(0o2777 if "emptyDir" in volume else 0o2775)
    (files / "termination-log").touch()
    (files / "termination-log").chmod(0o666)


def _lines(values: dict[str, str]) -> str:
    return "".join(f'{key}="{value}"\n' for key, value in sorted(values.items()))


def _project(folder: Path, content: dict[str, str], mode: int, group: int) -> None:
    """Write files behind two links, as the kubelet does so that all of them change at once."""
    real = folder / "..2026_01_01"
    real.mkdir()
    (folder / "..data").symlink_to(real.name)
    for name, text in content.items():
        (real / name).write_text(text, "utf-8")
        os.chown(real / name, 0, group)
        (real / name).chmod(mode)
        (folder / name).symlink_to(f"..data/{name}")


def _place(volume: Object, files: Path) -> Path:
    """Return where a volume is; a claim is the same in all pods."""
    claimed = "persistentVolumeClaim" in volume
    return claim(files.parent) if claimed else files / "volumes" / volume["name"]


def claim(folder: Path) -> Path:
    """Return where the host keeps what is in the job's claim."""
    return folder / "claim"


def _host_path(name: str, path: Path, kind: str) -> Object:
    return {"name": name, "hostPath": {"path": str(path), "type": kind}}
