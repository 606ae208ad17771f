# SPDX-License-Identifier: Apache-2.0
"""Jobs that tests of devices render, and the claim of one."""

from typing import Any

from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.devices import job_devices
from rdmatrain.k8s.spec import Network, Spec

OLD, NEW = Cluster(kubernetes=(1, 34)), Cluster(kubernetes=(1, 37))
Object = dict[str, Any]


def job(network: Network, gpus: int = 8, **fields: Any) -> Spec:
    return Spec("llm", "img:1", ("rdmatrain", "run", "t.py"), gpus=gpus, network=network, **fields)


def claim(network: Network, gpus: int = 8, cluster: Cluster = NEW) -> Object:
    (made,) = job_devices(job(network, gpus), cluster).objects
    assert made["kind"] == "ResourceClaimTemplate"
    found: Object = made["spec"]["spec"]["devices"]
    return found
