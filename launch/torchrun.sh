#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Train the example with torchrun, whose nodes meet in rdmatrain's gang: the same line on every node.
#
#   launch/torchrun.sh --nproc-per-node 2 -- --steps 100
#   launch/torchrun.sh --nnodes 2 --rdzv-endpoint node0:29400 --rdzv-id llm --nproc-per-node 8 -- --steps 100
#
# What stands before -- is torchrun's, the rest is the example's. Several nodes need RDMATRAIN_SECRET_FILE.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH=$here/../.venv/bin:$PATH

options=()
while (($# > 0)) && [[ $1 != -- ]]; do
  options+=("$1")
  shift
done

# What is given twice, torchrun takes from the last.
exec torchrun --rdzv-backend rdmatrain --rdzv-endpoint 127.0.0.1:29400 "${options[@]}" \
  "$here/train_gpt.py" "${@:2}"
