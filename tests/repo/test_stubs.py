# SPDX-License-Identifier: Apache-2.0
"""The hand-written stubs say what the extensions export."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# torch first: _c10d relies on torch's libraries being in the process.
STUBTEST = "import sys, torch; from mypy.stubtest import main; sys.exit(main())"


def test_stubs_match_the_extensions():
    command = [sys.executable, "-c", STUBTEST, "rdmatrain._core", "rdmatrain._c10d"]
    command += ["--mypy-config-file", "pyproject.toml"]
    command += ["--allowlist", "tests/repo/stubtest_allowlist.txt"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
