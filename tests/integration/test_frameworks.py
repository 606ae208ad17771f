"""What is built on torch.distributed, over rdmatrain: each against plain torch in one process."""

from functools import cache

import pytest
from integration_jobs import RUN, WORKERS, Ended, checks_in, failure_of, finish, start

# Those of two ranks are thorough: the larger jobs do the same with other shards.
JOBS = {
    "parallel-2-over-shm": ("parallel_checks.py", 2, "shm"),
    "parallel-4-over-shm": ("parallel_checks.py", 4, "shm"),
    "services-2-over-shm": ("services_checks.py", 2, "shm"),
    "services-3-over-tcp": ("services_checks.py", 3, "tcp"),
}


def marked(job: str, *more: str) -> object:
    marks = [pytest.mark.thorough] if JOBS[job][1] == 2 else []
    return pytest.param(job, *more, marks=marks)


@cache
def ended(job: str) -> Ended:
    worker, ranks, transport = JOBS[job]
    command = [*RUN, "--nproc-per-node", str(ranks), str(WORKERS / worker)]
    return finish([start(command, {"RDMATRAIN_TRANSPORT": transport})])[0]


@pytest.mark.parametrize(
    ("job", "name"),
    [marked(job, name) for job, (worker, *_) in JOBS.items() for name in checks_in(worker)],
)
def test_of(job: str, name: str) -> None:
    assert not (text := failure_of(ended(job), name, JOBS[job][1])), text


@pytest.mark.parametrize("job", [marked(job) for job in JOBS])
def test_that_ends_well(job: str) -> None:
    assert ended(job).code == 0, ended(job).out
