# SPDX-License-Identifier: Apache-2.0
"""The kernel's own cgroups: a process that is paid for 1.5 CPUs finds that out."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rdmatrain
from rdmatrain.discovery.quota import cpu_quota
from rdmatrain.discovery.source import Tree

FIRST = Path("/sys/fs/cgroup/cpu")
SECOND = Path("/sys/fs/cgroup")
ASK = "from rdmatrain.discovery import quota, source; print(quota.cpu_quota(source.Tree()))"


@pytest.fixture
def paid_for_one_and_a_half() -> Iterator[Path]:
    """Make a group without a quota in one that has one."""
    first = FIRST.is_dir()
    above = (FIRST if first else SECOND) / f"rdmatrain-test-{os.getpid()}"
    own = above / "own"
    try:
        try:
            for folder, quota in ((above, "150000"), (own, "-1" if first else "max")):
                folder.mkdir()
                if first:
                    (folder / "cpu.cfs_quota_us").write_text(quota)
                else:
                    (folder.parent / "cgroup.subtree_control").write_text("+cpu")
                    (folder / "cpu.max").write_text(f"{quota} 100000")
        except OSError as error:
            pytest.skip(f"a cgroup with a CPU quota cannot be made here: {error}")
        yield own
    finally:
        for folder in (own, above):
            if folder.is_dir():
                folder.rmdir()


def test_the_quota_of_the_group_above_counts(paid_for_one_and_a_half: Path) -> None:
    group = paid_for_one_and_a_half / "cgroup.procs"
    enter = f'echo $$ >"{group}" && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", enter, "sh", sys.executable, "-c", ASK],
        env={"PYTHONPATH": str(Path(rdmatrain.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # This test itself may have less.
    expected = min(1.5, cpu_quota(Tree()) or 1.5)
    assert (done.returncode, done.stdout) == (0, f"{expected}\n"), done.stderr
