# SPDX-License-Identifier: Apache-2.0
"""A small flood of benchmarks/listener_flood.py: members lose nothing and get in."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "listener_flood.py"
KINDS = 7


def test_a_flood_of_strangers_costs_members_nothing(tmp_path: Path) -> None:
    records_file = tmp_path / "records.jsonl"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--connections", "2000", "--json", records_file],
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "PASS" in done.stdout
    records = [json.loads(line) for line in records_file.read_text("utf-8").splitlines()]
    assert len(records) == KINDS
    assert sum(record["connections"] for record in records) >= 2000
    assert all(record["messages"] > 0 and record["joined"] > 0 for record in records)
