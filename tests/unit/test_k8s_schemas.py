# SPDX-License-Identifier: Apache-2.0
"""Every object of every target is one that its cluster takes, and keeps our own rules."""

from pathlib import Path

import k8s_cel
import k8s_schemas
import k8s_specs
import pytest
import yaml
from k8s_specs import KUBERNETES, full, queued, rendered, small

from rdmatrain.errors import SettingError
from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.invariants import broken
from rdmatrain.k8s.spec import DEVICES, Spec

pytestmark = k8s_schemas.needs_crds
CASES = [
    (name, version, cluster)
    for name in KUBERNETES
    for version, cluster in k8s_specs.clusters_of(name)
]
_IDS = [f"{name}-{version}" for name, version, _ in CASES]


def faults(name: str, spec: Spec, version: str, cluster: Cluster) -> list[str]:
    objects = rendered(name, queued(name, spec), cluster).objects
    assert objects
    found = [error for each in objects for error in k8s_schemas.errors(each, version)]
    return found + broken(objects)


@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize(("name", "version", "cluster"), CASES, ids=_IDS)
def test_objects_are_valid(name: str, version: str, cluster: Cluster, devices: str) -> None:
    assert faults(name, small(devices), version, cluster) == []
    assert faults(name, full(devices), version, cluster) == []


@pytest.mark.parametrize(("version", "newer"), [("1.35", "1.36"), ("1.36", "1.37")])
def test_a_gang_of_one_version_is_none_of_the_next(version: str, newer: str) -> None:
    """So that each is rendered in its own words; and what is said too small, is found."""
    objects = list(rendered("podgroup", small(), k8s_specs.CLUSTERS[version]).objects)
    found = [error for each in objects for error in k8s_schemas.errors(each, newer)]
    assert any("scheduling.k8s.io/v1alpha" in each for each in found)
    group = objects[-2]["spec"]
    policy = group["podGroups"][0]["policy"] if version == "1.35" else group["schedulingPolicy"]
    policy["gang"]["minCount"] -= 1
    assert broken(objects) != []


@pytest.mark.parametrize("name", KUBERNETES)
def test_a_job_of_one_node_without_gpus_is_valid(name: str) -> None:
    alone = small("tcp", nodes=1, gpus=0, preflight=False, ipc_lock=False)
    assert faults(name, alone, "1.37", k8s_specs.NEW) == []


@pytest.mark.parametrize("name", KUBERNETES)
def test_topology_is_honoured_or_refused_in_a_line(name: str) -> None:
    for required in (True, False):
        near = k8s_specs.Topology(label="example.com/rack", required=required)
        try:
            assert faults(name, small(topology=near), "1.37", k8s_specs.NEW) == []
        except SettingError as error:
            assert "topology" in str(error)
            assert "\n" not in str(error)


@pytest.mark.parametrize("name", KUBERNETES)
def test_infiniband_and_the_hosts_network_are_valid(name: str) -> None:
    infiniband = small(network=k8s_specs.INFINIBAND_NETWORK)
    assert faults(name, infiniband, "1.37", k8s_specs.NEW) == []


def test_rules_of_crds_were_evaluated() -> None:
    """Of what is rendered, every rule that applies at creation; none was left out."""
    for name in KUBERNETES:
        faults(name, full(), "1.37", k8s_specs.NEW)
    assert k8s_cel.TALLY.evaluated >= 10
    assert len(k8s_cel.TALLY.rules) >= 8
    assert k8s_cel.TALLY.listed == 0


FILES = sorted((Path(__file__).parents[2] / "k8s").rglob("rendered.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: "-".join(path.parts[-3:-1]))
def test_rendered_files_are_valid(path: Path) -> None:
    objects = list(yaml.load_all(path.read_text(), k8s_schemas.Loader))
    assert len(objects) > 5
    assert [error for each in objects for error in k8s_schemas.errors(each)] == []
    assert broken(objects) == []


def test_podgroup_needs_its_kubernetes() -> None:
    with pytest.raises(SettingError, match=r"1\.34") as said:
        rendered("podgroup", small(), k8s_specs.OLD)
    assert "\n" not in str(said.value)
