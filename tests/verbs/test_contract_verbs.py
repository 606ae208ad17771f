"""The contract tests of tests/contract, over the guest's RDMA device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONTRACT = Path(__file__).parents[1] / "contract"
FILES = (
    "collectives",
    "exchanges",
    "point_to_point",
    "failures",
    "connecting",
    "processes",
    "lazy",
)
# "verbs", "verbs-arena" and "verbs-lazy" are what group.py has where there is a device, with small
# sizes. CPUs of guests are slow: three ranks, and no arithmetic, which is not the transport's. What
# fails or connects late does so whatever memory is sent; ranks that connect lazily have their file.
CHOSEN = (
    "verbs and not fake and not mixed and not (-1] or -2] or -4] or -5] or 300000)"
    " and not (dtype or names_both or differ)"
    " and not (arena and (test_failures or test_connecting))"
    " and (test_lazy or not lazy)"
)
LIMIT_S = 900  # it takes a sixth of that


@pytest.mark.timeout(LIMIT_S + 30)
def test_the_contract_holds_on_a_device(device, capsys):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", CHOSEN]
        + [str(CONTRACT / f"test_{name}.py") for name in FILES],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    lines = done.stdout.splitlines()
    with capsys.disabled():  # how many ran, and how long it took
        sys.stdout.write(f"\n{lines[-1] if lines else ''}\n")
    assert done.returncode == 0, done.stdout + done.stderr
