"""Tensors of an accelerator, staged through pinned memory: on a fake device, see fakegpu.cpp."""

from pathlib import Path

import pytest
from fakegpu_build import fakegpu_library
from integration_jobs import WORKERS, Ended, checks_in, failure_of, run, run_by_hand, write_worker

WORKER = "staging_checks.py"
RANKS = 2
# The first test of a module may have to compile the fake device.
pytestmark = pytest.mark.timeout(400)

PEER_DIES = """
sys.path.insert(0, os.environ["WORKERS"])
from fakegpu import DOWN, UP, allow, num_finished
dist.init_process_group("cpu:rdmatrain,fakegpu:rdmatrain", timeout=timedelta(seconds=30))
tensor = torch.zeros(3_000_000, device="fakegpu")
before = num_finished(UP)
if RANK == 1:
    allow(DOWN, 1)
works = [dist.all_reduce(tensor, async_op=True) for _ in range(3)]
while RANK == 1:
    if num_finished(UP) > before:
        os._exit(3)
for work in works:
    reported(work.wait)
reported(work.get_future().wait)
note(completed=[work.is_completed() for work in works], sum=tensor.cpu().sum().item())
"""


@pytest.fixture(scope="module")
def env() -> dict[str, str]:
    return {"FAKEGPU_LIBRARY": str(fakegpu_library()), "WORKERS": str(WORKERS)}


@pytest.fixture(scope="module")
def job(env: dict[str, str]) -> Ended:
    return run(str(WORKERS / WORKER), ranks=RANKS, env=env)


@pytest.mark.parametrize("name", checks_in(WORKER))
def test_staged(job: Ended, name: str) -> None:
    assert not (text := failure_of(job, name, RANKS)), text


def test_the_job_ends_well(job: Ended) -> None:
    assert job.code == 0, job.out


def test_a_peer_that_dies_in_the_middle_of_a_tensor_is_named(
    tmp_path: Path, env: dict[str, str]
) -> None:
    ranks = [env | {"RANK": str(rank), "WORLD_SIZE": "2"} for rank in range(2)]
    survivor, died = run_by_hand(write_worker(tmp_path, PEER_DIES), ranks)
    assert died.code == 3, died.out
    facts = survivor.of(0)
    assert facts["is_dist"], survivor.out
    assert "rank 1" in facts["error"], survivor.out
    assert facts["after_s"] < 5
    assert facts["completed"] == [True] * 3
    assert facts["sum"] == 0
