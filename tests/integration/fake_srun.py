# SPDX-License-Identifier: Apache-2.0
"""Stands for srun: starts the tasks of a step with the variables of Slurm's, all on this host.

As where several slurmds run on one host, the nodes of the job are addresses of this one. What srun
does not know, or is not told of the step, is an error; its exit code is the highest of the tasks.
"""

import argparse
import os
import subprocess
import sys


def options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="srun", allow_abbrev=False)
    parser.add_argument("-N", "--nodes", type=int, required=True)
    parser.add_argument("--ntasks-per-node", type=int, required=True)
    parser.add_argument("--kill-on-bad-exit", choices=["0"], required=True)
    parser.add_argument("--wait", choices=["0"], required=True)
    parser.add_argument("--comment")
    parser.add_argument("-c", "--cpus-per-task", type=int)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser.parse_args(argv)


def job(nodes: int, each: int) -> dict[str, str]:
    names = f"127.0.0.[1-{nodes}]"
    tasks = f"{each}(x{nodes})" if nodes > 1 else str(each)
    return {
        "SLURM_JOB_ID": "4711",
        "SLURM_JOBID": "4711",
        "SLURM_CLUSTER_NAME": "cluster",
        "SLURM_NNODES": str(nodes),
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_JOB_NODELIST": names,
        "SLURM_NODELIST": names,
        "SLURM_TASKS_PER_NODE": tasks,
        "SLURM_NTASKS_PER_NODE": str(each),
        "SLURM_NTASKS": str(nodes * each),
        "SLURM_NPROCS": str(nodes * each),
        "SLURM_STEP_ID": "0",
        "SLURM_STEPID": "0",
        "SLURM_STEP_NUM_NODES": str(nodes),
        "SLURM_STEP_NUM_TASKS": str(nodes * each),
        "SLURM_STEP_NODELIST": names,
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
        "SLURM_MPI_TYPE": "none",
    }


def task(number: int, each: int) -> dict[str, str]:
    node = number // each
    return {
        "SLURM_PROCID": str(number),
        "SLURM_NODEID": str(node),
        "SLURM_LOCALID": str(number % each),
        "SLURM_GTIDS": ",".join(str(node * each + local) for local in range(each)),
        "SLURMD_NODENAME": f"127.0.0.{node + 1}",
    }


def main() -> int:
    asked = options(sys.argv[1:])
    if "SLURM_CPUS_PER_TASK" in os.environ and asked.cpus_per_task is None:
        sys.exit("srun: the task has one CPU: --cpus-per-task is not taken from salloc")
    common = os.environ | job(asked.nodes, asked.ntasks_per_node)
    tasks = [
        subprocess.Popen(asked.command, env=common | task(number, asked.ntasks_per_node))
        for number in range(asked.nodes * asked.ntasks_per_node)
    ]
    return max(each.wait() for each in tasks)


if __name__ == "__main__":
    sys.exit(main())
