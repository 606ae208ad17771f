"""PyTorch's own suite for distributed backends passes on rdmatrain."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

RUN = [sys.executable, str(Path(__file__).with_name("conformance_run.py"))]
LIMIT_S = 500  # a run takes half a minute; a test that hangs is ended, with its stacks, after 100 s


@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.parametrize(
    ("transport", "world"),
    [
        pytest.param("shm", 2, marks=pytest.mark.thorough),
        ("shm", 3),
        pytest.param("shm", 4, marks=pytest.mark.thorough),
        pytest.param("shm", 8, marks=pytest.mark.thorough),
        ("tcp", 3),
    ],
)
def test_torchs_own_suite_passes(transport, world, capsys):
    code, out = run("--transport", transport, "--world", str(world))
    with capsys.disabled():  # how many tests ran is worth a line each
        print(*["", *(line for line in out.splitlines() if " ranks, " in line)], sep="\n")
    assert code == 0, out


def run(*arguments: str) -> tuple[int, str]:
    process = subprocess.Popen(
        [*RUN, *arguments],
        env={k: v for k, v in os.environ.items() if not k.startswith(("RDMATRAIN_", "TORCH"))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=LIMIT_S)
    finally:  # its ranks too, whatever happened
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out
