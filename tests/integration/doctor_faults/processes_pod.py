# SPDX-License-Identifier: Apache-2.0
"""Limits that this machine has not, of a saved pod."""

from doctor_faults.fault import Fault, saved
from doctor_faults.wiring import STATUS

# What a container gets, and CAP_IPC_LOCK, which somebody who is not root gets nothing of.
ASKED = STATUS.replace("00000000a80425fb", "00000000a80465fb")
CGROUP = {
    "/proc/self/cgroup": "0::/\n",
    "/proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
}

FAULTS: list[Fault] = [
    saved(
        "a VF with queue pairs for 8 peers",
        "device-limits",
        probes={"device_limits": {"error": "", "devices": [{"device": "mlx5_2", "max_qp": 8}]}},
        environment={"PET_NNODES": "64", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "10.244.1.4"},
    ),
    saved("IPC_LOCK for somebody who is not root", "ipc-lock", {"/proc/self/status": ASKED}),
    saved(
        "an rdma cgroup of four objects",
        "rdma-cgroup",
        {
            **CGROUP,
            "/sys/fs/cgroup/rdma.max": "mlx5_2 hca_handle=1 hca_object=4\n",
            "/sys/fs/cgroup/rdma.current": "mlx5_2 hca_handle=0 hca_object=0\n",
        },
    ),
    saved(
        "memory of the cgroup that is nearly used up",
        "memory-cgroup",
        {
            **CGROUP,
            "/sys/fs/cgroup/memory.max": f"{4 << 30}\n",
            "/sys/fs/cgroup/memory.current": f"{(4 << 30) - (64 << 20)}\n",
            "/sys/fs/cgroup/memory.stat": f"anon {(4 << 30) - (80 << 20)}\nfile 0\n",
        },
    ),
]
