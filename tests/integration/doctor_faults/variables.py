# SPDX-License-Identifier: Apache-2.0
"""Variables that are misspelt, contradict each other, or are of another machine."""

from doctor_pods import environ

from doctor_faults.fault import saved
from doctor_faults.sandbox import IN_JOB, live

# Name, cause, variables; in the pod that is healthy without them.
IN_POD = {
    "a misspelt variable of NCCL": ("env-misspelt", {"NCCL_IB_GID_IDX": "3"}),
    "a misspelt variable of rdmatrain": ("env-misspelt", {"RDMATRAIN_TRANSPRT": "verbs"}),
    "a value that is not allowed": ("env-misspelt", {"RDMATRAIN_TRANSPORT": "rdma"}),
    "NCCL's RDMA is off": ("env-rdma-off", {"NCCL_IB_DISABLE": "1"}),
    "RDMA off and its devices named": (
        "env-contradicts",
        {"NCCL_IB_DISABLE": "1", "NCCL_IB_HCA": "mlx5_2,mlx5_3"},
    ),
    "TCP used and verbs required": (
        "env-contradicts",
        {"RDMATRAIN_TRANSPORT": "tcp", "RDMATRAIN_REQUIRE": "verbs"},
    ),
    "a GID index that is in no table": ("env-gid-index", {"NCCL_IB_GID_INDEX": "7"}),
    "a GID index of link-local addresses": ("env-gid-index", {"NCCL_IB_GID_INDEX": "0"}),
    "devices of another machine": ("env-devices", {"NCCL_IB_HCA": "mlx5_0,mlx5_1"}),
    "devices of another machine for rdmatrain": ("env-devices", {"RDMATRAIN_DEVICES": "mlx5_9"}),
    "an order of writes that slows them": (
        "relaxed-ordering",
        {"NCCL_IB_PCI_RELAXED_ORDERING": "0"},
    ),
    "an interface of another machine": ("env-interface", {"NCCL_SOCKET_IFNAME": "bond0"}),
    "an interface of another machine for Gloo": ("env-interface", {"GLOO_SOCKET_IFNAME": "ens1"}),
}

FAULTS = [
    *(saved(name, cause, environment=variables) for name, (cause, variables) in IN_POD.items()),
    saved(
        "a script that sets the device plugin's variable anew",
        "env-differs",
        {"/proc/1/environ": environ({"PCIDEVICE_NVIDIA_COM_RDMA_VF": "0000:0c:00.3,0000:2a:00.3"})},
    ),
    saved(
        "one GID index for tables that differ",
        "env-gid-index",
        pod="nccl_890_gid_index_differs",
        environment={"NCCL_IB_GID_INDEX": "3"},
    ),
    saved(
        "a prefix that takes the host's devices too",
        "env-devices",
        pod="nccl_925_foreign_hcas",
        environment={"NCCL_IB_HCA": "mlx5"},
    ),
    saved(
        "a GPU of another host",
        "gpu-granted",
        environment={"NVIDIA_VISIBLE_DEVICES": "GPU-ffffffff-0000-0000-0000-000000000000"},
    ),
    live("a misspelt variable of torchrun", "env-misspelt", IN_JOB, env={"PET_MASTER_PROT": "1"}),
    live("a rank that the job has not", "identity", IN_JOB, env={"PET_NODE_RANK": "2"}),
    live("a rank that is no number", "env-misspelt", IN_JOB, env={"PET_NODE_RANK": "one"}),
    live("a thread for each CPU of the host", "env-omp", IN_JOB, env={"OMP_NUM_THREADS": "96"}),
]
