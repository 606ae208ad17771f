# SPDX-License-Identifier: Apache-2.0
"""What a container of a simulated pod sees, and what discovery and the launcher make of it."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import k8s_machines
from jsonschema import Draft202012Validator
from k8s_pods import Object, Pod
from pod_scenarios import QUICK, write

from rdmatrain.cli import run
from rdmatrain.discovery.orchestrator import whoami
from rdmatrain.discovery.pod import read_pod
from rdmatrain.discovery.source import Source
from rdmatrain.discovery.survey import Survey, survey
from rdmatrain.launcher.resolve import Resolved, resolve
from rdmatrain.topo.command import as_json
from rdmatrain.topo.document import topology_document
from rdmatrain.topo.whoami import whoami_document

SECRET = "0123456789abcdef0123456789abcdef"


def _schema(name: str) -> Draft202012Validator:
    file = resources.files("rdmatrain.topo").joinpath(f"schemas/{name}.schema.json")
    return Draft202012Validator(json.loads(file.read_text("utf-8")))


_WHOAMI, _TOPO = _schema("whoami"), _schema("topo")


@dataclass(frozen=True)
class Seen:
    """What the launcher of one pod finds, and decides."""

    pod: Pod
    scenario: Mapping[str, Any]
    survey: Survey
    resolved: Resolved
    whoami: Mapping[str, Any]  # what rdmatrain whoami --json prints
    topo: Mapping[str, Any]  # and rdmatrain topo --json


def environment(pod: Pod, container: Object) -> dict[str, str]:
    """Variables of a container: the template's, then the controller's, which come after them."""
    found = {"PATH": "/usr/bin", "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    # Puts its own first, so that a template can name them.
    injected = dict(pod.env) if not pod.into or container["name"] in pod.into else {}
    for each in container.get("env", []):
        value = each.get("value")
        if value is None:
            value = _looked_up(each.get("valueFrom", {}), pod)
        found[each["name"]] = _expanded(value, {**injected, **found})
    return {**found, **injected}


def _expanded(value: str, known: Mapping[str, str]) -> str:
    return re.sub(r"\$\(([^)]+)\)", lambda match: known.get(match[1], match[0]), value)


def _looked_up(source: Object, pod: Pod) -> str:
    path = source["fieldRef"]["fieldPath"]
    match = re.fullmatch(r"metadata\.(labels|annotations)\['([^']+)'\]", path)
    if match:
        return str(getattr(pod, match[1]).get(match[2], ""))
    return {
        "metadata.name": pod.name,
        "metadata.namespace": pod.namespace,
        "metadata.uid": f"uid-of-{pod.name}",
        "status.podIP": "10.244.1.5",
        "status.hostIP": "192.168.0.5",
        "spec.nodeName": f"node-of-{pod.name}",
    }[path]


def mounted(pod: Pod, container: Object, notes: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Files of the downward API, where the container mounts them; of Secrets, with their paths."""
    files = {}
    volumes = {each["name"]: each for each in pod.spec.get("volumes", [])}
    for mount in container.get("volumeMounts", []):
        volume = volumes[mount["name"]]
        for item in volume.get("downwardAPI", {}).get("items", []):
            said = notes[item["fieldRef"]["fieldPath"].removeprefix("metadata.")]
            lines = (f"{key}={json.dumps(value)}\n" for key, value in sorted(said.items()))
            files[f"{mount['mountPath']}/{item['path']}"] = "".join(lines)
        if "secret" in volume:
            files[f"{mount['mountPath']}/secret"] = SECRET
    return files


def names_of(pod: Pod, cluster: str = "svc.cluster.local") -> dict[str, str]:
    """``/etc/hostname`` and ``/etc/hosts`` as kubelet writes them."""
    host, domain = pod.host_name, f"{pod.subdomain}.{pod.namespace}.{cluster}"
    names = f"{host}.{domain}\t{host}" if pod.subdomain else host
    return {
        "/etc/hostname": f"{host}\n",
        "/etc/hosts": "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"
        f"10.244.1.5\t{names}\n",
    }


@contextmanager
def machine(
    pod: Pod, objects: list[Object], resource: str, gpus: str
) -> Iterator[tuple[dict[str, Any], dict[str, str], Source]]:
    """What the first container of a pod finds: a scenario, its variables, and how they are read.

    Args:
        pod: of the controller.
        objects: all that were rendered.
        resource: what the node's plugin calls NICs.
        gpus: the same of GPUs.

    """
    container = pod.container()
    scenario = k8s_machines.node(pod, objects, resource, gpus)
    status = json.dumps(scenario.pop("status"))
    notes = {"labels": pod.labels, "annotations": {**pod.annotations, k8s_machines.STATUS: status}}
    files = mounted(pod, container, notes)
    own = {**environment(pod, container), **scenario["environment"]}
    scenario["environment"] = own
    scenario["files"] = {**names_of(pod), **pod.files, **files}
    with TemporaryDirectory(dir=QUICK) as folder:
        source = write(scenario, Path(folder))
        yield scenario, _readable(own, files, folder), source


@contextmanager
def inside(pod: Pod, objects: list[Object], resource: str, gpus: str) -> Iterator[Seen]:
    """Look at a pod from inside the container that trains; arguments are those of a machine."""
    with machine(pod, objects, resource, gpus) as (scenario, own, source):
        found = survey(source)
        resolved = resolve(options(pod.container()), own, found)
        identity = whoami_document(whoami(source, read_pod(source)))
        documents = _printed(identity, _WHOAMI), _printed(topology_document(found), _TOPO)
        yield Seen(pod, scenario, found, resolved, *documents)


def _printed(document: Object, schema: Draft202012Validator) -> Object:
    """What a command prints of a document, which is as its schema says."""
    found: Object = json.loads(as_json(document))
    schema.validate(found)
    return found


def options(container: Object) -> dict[str, Any]:
    """What the command line of a container says."""
    line = [*container["command"], *container.get("args", [])]
    place = line.index("run")
    assert line[place - 1].endswith("rdmatrain")
    context = run.make_context("run", line[place + 1 :])
    return dict(context.params)


def _readable(own: Mapping[str, str], files: Mapping[str, str], folder: str) -> dict[str, str]:
    """The variables, with the Secret's file where the test can read it."""
    found = dict(own)
    path = own.get("RDMATRAIN_SECRET_FILE")
    if path:
        assert path in files, f"{path} is in no volume that the container mounts"
        found["RDMATRAIN_SECRET_FILE"] = f"{folder}{path}"
        Path(found["RDMATRAIN_SECRET_FILE"]).chmod(0o400)
    return found
