#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Train the example on the tasks that mpirun starts, each a worker: once, where mpirun is.
#
#   launch/mpirun.sh -n 2 -- --steps 100
#   launch/mpirun.sh -n 16 --hostfile hosts --map-by ppr:8:node -x RDMATRAIN_SECRET_FILE -- --steps 100
#
# What stands before -- is mpirun's, the rest is the example's. Several hosts need RDMATRAIN_SECRET_FILE, a file that
# every host has; -x is Open MPI's way to pass a variable on, and MPICH passes all.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH=$here/../.venv/bin:$PATH

options=()
while (($# > 0)) && [[ $1 != -- ]]; do
  options+=("$1")
  shift
done

exec mpirun "${options[@]}" rdmatrain run --nproc-per-node 1 "$here/train_gpt.py" "${@:2}"
