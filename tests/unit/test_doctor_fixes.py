# SPDX-License-Identifier: Apache-2.0
"""The rule for fixes, which the helpers of all tests of checks hold each of them to."""

import pytest
from doctor_fixes import is_fix


@pytest.mark.parametrize(
    "text",
    [
        "ip link set dev net1 up",
        "unset RANK WORLD_SIZE: rdmatrain run sets them",
        "export NCCL_IB_HCA==mlx5_2:1",
        "--master-port 29501, on all nodes",
        'resources: {limits: {nvidia.com/rdma-vf: "2"}}, and as many networks',
        "kind: Service, metadata: {name: a}, spec: {clusterIP: None}",
        "podPidsLimit: 16384, in the kubelet's configuration",
        'plugins: [..., {"type": "rdma"}], in the NetworkAttachmentDefinition of its network',
    ],
)
def test_what_can_be_typed_is_a_fix(text: str) -> None:
    assert is_fix(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "see to its cable",
        "delete the pod",
        "a node with Linux 5.15 or later",
        "unset RANK and WORLD_SIZE",
        "unset the variable that is wrong",
        "export NCCL_IB_HCA with the names of one of them",
        "resources: {limits: {<resource of the VFs>: 2}}",
        "kubelet: topologyManagerPolicy: restricted",
        "--frobnicate 1",
    ],
)
def test_what_cannot_be_typed_is_none(text: str) -> None:
    assert not is_fix(text)
