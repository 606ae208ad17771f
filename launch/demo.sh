#!/usr/bin/env bash
# Train with 2 ranks, train again with 1 rank and the same global batch, and compare the two.
# DEMO_BACKEND=gloo runs the same over Gloo and torchrun.
set -euo pipefail
cd "$(dirname "$0")/.."

backend=${DEMO_BACKEND:-rdmatrain}
if [[ $backend == rdmatrain ]]; then
  run=(.venv/bin/rdmatrain run)
else
  run=(.venv/bin/torchrun)
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # a core for each rank

rm -rf out/demo # no result of an earlier demo can pass for this one's
echo "== 2 ranks over $backend"
"${run[@]}" --nproc-per-node 2 launch/train_gpt.py --backend "$backend" --out out/demo/2-ranks
echo "== 1 rank, the same global batch"
.venv/bin/python launch/train_gpt.py --backend "$backend" --out out/demo/1-rank

echo "== proof"
exec .venv/bin/python - <<'EOF'
import json
import sys
from pathlib import Path

two, one = (json.loads(Path(f"out/demo/{run}/result.json").read_text()) for run in ("2-ranks", "1-rank"))
difference = abs(two["heldout_loss"] - one["heldout_loss"])
close = two["world_size"] == 2 and one["world_size"] == 1 and difference <= 1e-3
equal = len(two["param_sha256"]) == 2 and len(set(two["param_sha256"])) == 1
verdict = {True: "OK", False: "FAILED"}
print(
    f"2 ranks: held-out loss {two['heldout_loss']:.6f}; 1 rank: {one['heldout_loss']:.6f}; "
    f"difference {difference:.1e} <= 0.001: {verdict[close]}"
)
print(f"parameter checksums of the 2 ranks equal: {verdict[equal]}")
for rank, sha in enumerate(two["param_sha256"]):
    print(f"  rank {rank}: {sha}")
print("loss curves: out/demo/2-ranks/loss.png, out/demo/1-rank/loss.png")
sys.exit(0 if close and equal else 1)
EOF
