# SPDX-License-Identifier: Apache-2.0
"""Where pods of every target may be put, and whose images they may pull."""

import pytest
from k8s_controllers import pods_of
from k8s_specs import KUBERNETES, queued, rendered, small

from rdmatrain.k8s.spec import Topology


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
