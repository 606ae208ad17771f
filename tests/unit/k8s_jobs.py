# SPDX-License-Identifier: Apache-2.0
"""What Job 1.37 and JobSet 0.12 make of their objects, after the controllers' sources."""

import copy
from collections.abc import Iterator
from dataclasses import replace

from k8s_pods import Object, Pod, meta, pod_of

_JOBSET = "jobset.sigs.k8s.io/"


def indexed(obj: Object, _all: list[Object], _restarts: int) -> Iterator[Pod]:
    name, namespace = meta(obj)
    spec = obj["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"]
    labels = {
        "batch.kubernetes.io/job-name": name,
        "batch.kubernetes.io/controller-uid": f"uid-of-{name}",
    }
    for number in range(spec["completions"]):
        index = {"batch.kubernetes.io/job-completion-index": str(number)}
        yield pod_of(
            spec["template"],
            f"{name}-{number}-x7k2p",
            namespace,
            hostname=f"{name}-{number}",
            env={"JOB_COMPLETION_INDEX": str(number)},
            labels={**labels, **index},
            annotations=index,
        )


def jobset(obj: Object, everything: list[Object], restarts: int) -> Iterator[Pod]:
    name, namespace = meta(obj)
    spec = obj["spec"]
    total = sum(each.get("replicas", 1) for each in spec["replicatedJobs"])
    subdomain = spec.get("network", {}).get("subdomain", name)
    before = 0
    for group in spec["replicatedJobs"]:
        for job in range(group.get("replicas", 1)):
            notes = {
                f"{_JOBSET}jobset-name": name,
                f"{_JOBSET}jobset-uid": f"uid-of-{name}",
                f"{_JOBSET}replicatedjob-name": group["name"],
                f"{_JOBSET}replicatedjob-replicas": str(group.get("replicas", 1)),
                f"{_JOBSET}global-replicas": str(total),
                f"{_JOBSET}job-index": str(job),
                f"{_JOBSET}job-global-index": str(before + job),
                f"{_JOBSET}restart-attempt": str(restarts),
                **_coordinator(name, subdomain, spec),
            }
            child = copy.deepcopy(group["template"])
            child["metadata"] = {"name": f"{name}-{group['name']}-{job}", "namespace": namespace}
            child["spec"] = {
                "completionMode": "Indexed",
                "parallelism": 1,
                "completions": child["spec"].get("parallelism", 1),
                **child["spec"],
            }
            for pod in indexed(child, everything, 0):
                yield replace(
                    pod,
                    subdomain=subdomain,
                    labels={**pod.labels, **notes},
                    annotations={**pod.annotations, **notes},
                )
        before += group.get("replicas", 1)


def _coordinator(name: str, subdomain: str, spec: Object) -> dict[str, str]:
    chief = spec.get("coordinator")
    if not chief:
        return {}
    host = f"{name}-{chief['replicatedJob']}-{chief.get('jobIndex', 0)}-{chief.get('podIndex', 0)}"
    return {f"{_JOBSET}coordinator": f"{host}.{subdomain}"}
