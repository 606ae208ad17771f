# SPDX-License-Identifier: Apache-2.0
"""Too little of what processes need: descriptors, processes, CPUs, memory."""

from doctor_faults.sandbox import IN_GPU_POD, live

EIGHT = "--memlock=8388608"

FAULTS = [
    live("no memfd by a seccomp profile", "memfd", IN_GPU_POD, refuse=("memfd_create", "EPERM")),
    live("bound to one CPU of two", "cpuset", shell="taskset -cp 0 $$ >&2"),
    live("64 descriptors", "nofile", limits=("--nofile=64",)),
    live("descriptors for one peer", "nofile", IN_GPU_POD, limits=("--nofile=32:64",)),
    live("3 processes for a user", "pids", limits=("--nproc=3",), user=1000),
    live("a pids cgroup of 8", "pids", groups={"pids": {"pids.max": "8"}}),
    live(
        "a memory cgroup of 128 MiB for 2 ranks that register",
        "memory-cgroup",
        IN_GPU_POD,
        groups={"memory": {"memory.limit_in_bytes": str(128 << 20)}},
    ),
    live(
        "half a CPU for 2 ranks",
        "cpu-quota",
        IN_GPU_POD,
        groups={"cpu": {"cpu.cfs_quota_us": "50000"}},
    ),
    live(
        "1.5 CPUs, so that no CPU is the pod's own",
        "cpu-quota",
        IN_GPU_POD,
        groups={"cpu": {"cpu.cfs_quota_us": "150000"}},
    ),
    live("memlock of 64 KiB", "memlock", IN_GPU_POD, limits=("--memlock=65536",), user=1000),
    live("memlock of 8 MiB, systemd's", "memlock", IN_GPU_POD, limits=(EIGHT,), user=1000),
    live(
        "memlock that only the hard limit allows",
        "memlock",
        IN_GPU_POD,
        limits=("--memlock=65536:8388608",),
        options=("--register-mib", "2"),
        user=1000,
    ),
]
