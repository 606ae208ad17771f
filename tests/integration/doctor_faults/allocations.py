# SPDX-License-Identifier: Apache-2.0
"""Pods that did not get what they were to get, as their users reported it: tests/fixtures/pods."""

from doctor_faults.fault import Fault, saved

# By pod; those of which something else is wrong besides, or nothing, are not here.
CAUSES = {
    "a_variable_of_another_host": "device-missing",
    "dash_drops_hyphens": "env-lost-by-shell",
    "dranet_177_device_not_returned": "rdma-namespace",
    "gpus_chosen_that_are_not_here": "gpu-granted",
    "gpus_granted_and_none_here": "gpu-granted",
    "granted_and_refused": "device-opens",
    "granted_port_is_down": "port-state",
    "granted_without_gid": "gid-usable",
    "granted_without_node": "uverbs-nodes",
    "libibverbs_missing": "libibverbs",
    "multus_1113_status_empty_at_start": "vf-count",
    "multus_status_lacks_the_second_network": "vf-count",
    "nccl_1422_pf_and_vf": "pf-and-vf",
    "nccl_1422_vf_not_set_up": "pf-and-vf",
    "nccl_1464_ndv4_without_pcie": "pci-visible",
    "one_more_than_granted": "device-granted",
    "physfn_is_hidden": "pf-and-vf",
    "rdma_cm_missing_beside_the_nodes": "rdma-cm",
    "rdma_shared_118_taken_away": "device-missing",
    "rdma_shared_192_rdma_cm_missing": "uverbs-nodes",
    "rdma_shared_84_exclusive_without_rdma_cni": "rdma-namespace",
    "rdma_shared_without_network": "gid-usable",
    "roce_v1_only": "gid-version",
    "sriov_dp_258_fewer_networks_than_vfs": "vf-count",
    "status_attached_what_was_not_allocated": "device-granted",
    "toolkit_48_gpus_lost_by_daemon_reload": "gpu-driver",
    "two_gpus_share_a_vf": "gpu-nic-sharing",
}

FAULTS: list[Fault] = [saved(pod, cause, pod=pod) for pod, cause in CAUSES.items()]
