#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Train the example in an allocation of Slurm: one launcher on each node, which starts a worker for each GPU.
#
#   salloc -N 2 --gpus-per-node 8 launch/srun.sh -- --steps 100
#   launch/srun.sh -N 2 --gpus-per-node 8 --cpus-per-task 96 -- --steps 100
#
# What stands before -- is srun's, the rest is the example's. Several nodes need RDMATRAIN_SECRET_FILE, a file that every
# node has; srun passes variables on. `rdmatrain k8s render --for slurm` makes a script for sbatch.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH=$here/../.venv/bin:$PATH

options=()
while (($# > 0)) && [[ $1 != -- ]]; do
  options+=("$1")
  shift
done

# The launcher ends the workers itself, and tells why: srun is not to kill a node that still saves.
# And it does not take the CPUs of a task from salloc or sbatch.
exec srun --ntasks-per-node 1 ${SLURM_CPUS_PER_TASK:+--cpus-per-task "$SLURM_CPUS_PER_TASK"} \
  --kill-on-bad-exit=0 --wait=0 "${options[@]}" \
  rdmatrain run "$here/train_gpt.py" "${@:2}"
