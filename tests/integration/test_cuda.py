"""CUDA tensors on a real device; test_staging.py tests more, on a fake one."""

import pytest
import torch
from integration_jobs import WORKERS, Ended, checks_in, failure_of, run

WORKER = "cuda_checks.py"
RANKS = 2

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def job() -> Ended:
    return run(str(WORKERS / WORKER), ranks=RANKS)


@pytest.mark.parametrize("name", checks_in(WORKER))
def test_cuda(job: Ended, name: str) -> None:
    if "nccl" in name and torch.cuda.device_count() < RANKS:
        pytest.skip(f"NCCL needs a CUDA device for each of {RANKS} ranks")
    assert not (text := failure_of(job, name, RANKS)), text


def test_the_job_ends_well(job: Ended) -> None:
    assert job.code == 0, job.out
