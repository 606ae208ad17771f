"""Tests of PyTorch's own suite that cover every collective pass over the guest's RDMA device."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CONFORMANCE = Path(__file__).parents[1] / "conformance"
COMMAND = [sys.executable, str(CONFORMANCE / "conformance_run.py")]
COMMAND += ["--transport", "verbs", "--world", "3", "--subset", "--jobs", "2"]
LIMIT_S = 600  # it takes a third of that


@pytest.mark.thorough
@pytest.mark.timeout(LIMIT_S + 60)
def test_torchs_own_suite_passes_over_verbs(device, capsys):
    with subprocess.Popen(
        COMMAND,
        env=os.environ | {"RDMATRAIN_DEVICES": device},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, _ = process.communicate(timeout=LIMIT_S)
        finally:
            if process.poll() is None:  # its ranks too
                os.killpg(process.pid, signal.SIGKILL)
    with capsys.disabled():  # how many tests ran under which name
        lines = [line for line in out.splitlines() if " ranks, " in line]
        sys.stdout.write("\n".join(["", *lines, ""]))
    assert process.returncode == 0, out
