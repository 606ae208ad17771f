"""The harness notices what goes wrong in a rank."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Each of these tests is added to torch's suite and run on two ranks.
WORKER = """
import json, os, time
from conformance_run import ENVIRONMENT
os.environ.update(ENVIRONMENT | {"DISTRIBUTED_TESTS_DEFAULT_TIMEOUT": "4"})
import torch.distributed as dist
from conformance_names import check_backend
from conformance_ranks import Setting, load, run

def test_passes(self):
    assert dist.get_world_size() == 2

def test_raises(self):
    assert self.rank == 0, "only rank 0 is well"

def test_hangs(self):
    self.hangs_here = time.sleep(60)

def test_exits(self):
    self._barrier()
    os._exit(3 * self.rank)

def test_skips_itself(self):
    self.skipTest("no reason")

def test_other_transport(self):
    check_backend(self.rank, 2, "tcp")

def test_other_backend(self):
    dist.destroy_process_group()
    dist.init_process_group(
        "gloo", init_method=self.suite.INIT_METHOD, rank=self.rank, world_size=2
    )
    check_backend(self.rank, 2, "shm")

setting = Setting("rdmatrain", 2, "shm")
bodies = [value for name, value in list(globals().items()) if name.startswith("test_")]
for body in bodies:
    setattr(load(setting), body.__name__, body)
outcomes = [run(setting, body.__name__) for body in bodies]
print(json.dumps({outcome.test: [outcome.verdict, outcome.text] for outcome in outcomes}))
"""


@pytest.fixture(scope="module")
def outcomes():
    ended = subprocess.run(
        [sys.executable, "-c", WORKER],
        cwd=Path(__file__).parent,
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_a_good_test_passes(outcomes):
    assert outcomes["test_passes"] == ["passed", ""]


@pytest.mark.parametrize(
    ("test", "says"),
    [
        ("test_raises", "only rank 0 is well"),
        ("test_hangs", "in test_hangs"),  # a line of the stack of a rank
        ("test_exits", "exit codes of the ranks: [0, 3]"),
        ("test_other_transport", "is joined by {'shm'}, not by tcp"),
        ("test_other_backend", "not on rdmatrain"),
    ],
)
def test_a_rank_that_is_not_well_fails_its_test(outcomes, test, says):
    verdict, text = outcomes[test]
    assert verdict == "failed"
    assert says in text


def test_a_skip_within_a_rank_has_no_acceptable_reason(outcomes):
    verdict, text = outcomes["test_skips_itself"]
    assert (verdict, text) == (
        "skipped",
        "Test skipped at subprocess level, look at subprocess log for skip reason",
    )
