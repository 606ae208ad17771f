# SPDX-License-Identifier: Apache-2.0
"""Device nodes are claims of the least weight: the shared RDMA plugin gives nothing else."""

import errno
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_source import Link, MemorySource

from rdmatrain.discovery.model import Evidence
from rdmatrain.discovery.pod import read_pod
from rdmatrain.discovery.pod_model import Claim, Pod, Trust

LISTING = Path(__file__).parents[3] / "shared/fixtures/k8s/rdma_shared_pod_ls.txt"
RULES = "/sys/fs/cgroup/devices/devices.list"


def pod_of(*nodes: str, **files: Any) -> Pod:
    given_nodes = {f"/dev/infiniband/{name}": "" for name in nodes}
    return read_pod(MemorySource({"/proc/self/environ": "", **given_nodes, **files}))


def numbered(**numbers: str) -> dict[str, Any]:
    return {f"/sys/class/infiniband_verbs/{name}/dev": f"{dev}\n" for name, dev in numbers.items()}


def ids(pod: Pod) -> list[str]:
    return [complaint.id for complaint in pod.complaints]


def test_each_node_of_a_device_is_a_claim() -> None:
    pod = pod_of("uverbs10", "uverbs2", "umad2", "issm2", "ucm2", "rdma_cm", "by-path/x")
    assert pod.claims == tuple(
        Claim(Evidence(f"/dev/infiniband/{name}", "is there"), Trust.NAME, "nic", uverbs=name)
        for name in ("uverbs2", "uverbs10")
    )
    assert pod.complaints == ()


@pytest.mark.skipif(
    not LISTING.exists(), reason="the collected fixtures are not beside the checkout"
)
def test_a_real_listing_is_read() -> None:
    lines = LISTING.read_text().partition("/sys/class/infiniband:")[0].splitlines()
    nodes = [line.split()[-1] for line in lines if line.startswith("c")]
    pod = pod_of(*nodes)
    assert [claim.uverbs for claim in pod.claims] == ["uverbs0", "uverbs1"]
    assert pod.complaints == ()


def test_without_nodes_nothing_is_said() -> None:
    for files in ({}, {"/dev/infiniband": []}, {"/dev/infiniband": errno.EACCES}):
        pod = pod_of(**files)
        assert (pod.claims, pod.complaints) == ((), ())


def test_a_missing_connection_manager_is_complained_of() -> None:
    (complaint,) = pod_of("uverbs0", "umad0").complaints
    assert (complaint.id, complaint.source) == ("rdma-cm-missing", "/dev/infiniband/rdma_cm")
    assert "uverbs0" in complaint.text


def test_efa_needs_no_connection_manager() -> None:
    drivers: dict[str, Any] = {
        "/sys/class/infiniband_verbs/uverbs0": Link(
            "../../devices/0000:10:1b.0/infiniband_verbs/0"
        ),
        "/sys/devices/0000:10:1b.0/infiniband_verbs/0/device": Link("../../../0000:10:1b.0"),
        "/sys/devices/0000:10:1b.0/driver": Link("../../bus/pci/drivers/efa"),
    }
    assert ids(pod_of("uverbs0", **drivers)) == []
    assert ids(pod_of("uverbs0", "uverbs1", **drivers)) == ["rdma-cm-missing"]


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        ("a *:* rwm", True),
        ("c 231:192 rwm", True),
        ("c 231:192 rw", True),
        ("c 231:* rwm", True),
        ("c *:* m\nc 1:3 rwm\nc 231:192 rwm\n", True),
        ("c *:* m\nb *:* rwm\nc 1:3 rwm\nc 10:200 rwm\n", False),
        ("c 231:193 rwm", False),
        ("c 230:192 rwm", False),
        ("c 231:192 r", False),
        ("c 231:192 m", False),
        ("b 231:192 rwm", False),
        ("", False),
        ("garbage\nc\nc 231 rwm x\n\x00", False),
    ],
)
def test_the_rules_of_the_devices_cgroup_count(rules: str, allowed: bool) -> None:
    pod = pod_of("uverbs0", "rdma_cm", **numbered(uverbs0="231:192"), **{RULES: rules})
    assert [claim.granted for claim in pod.claims] == [allowed]
    assert ids(pod) == ([] if allowed else ["node-forbidden"])


def test_a_node_whose_number_is_not_known_is_not_forbidden() -> None:
    pod = pod_of("uverbs0", "rdma_cm", **{RULES: "c 1:3 rwm"})
    assert [claim.granted for claim in pod.claims] == [True]
    pod = pod_of("uverbs0", "rdma_cm", **numbered(uverbs0="231:192"), **{RULES: errno.EACCES})
    assert [claim.granted for claim in pod.claims] == [True]


@given(st.text(), st.text(), st.text(st.characters(exclude_characters="/\0"), min_size=1))
@settings(deadline=None, max_examples=100)
def test_whatever_is_beside_it_a_node_counts(rules: str, number: str, name: str) -> None:
    files = {RULES: f"{rules}\nc 231:192 rwm", f"/dev/{name}": "", f"/dev/dri/{name}": number}
    pod = pod_of("uverbs0", name, **files, **numbered(uverbs0="231:192", uverbs1=number))
    assert pod.claims[0].granted
    assert pod.claims[0].uverbs == "uverbs0"
