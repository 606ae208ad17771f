"""Each call that torch can make of a backend, over 2 and 3 ranks, over shm and over tcp."""

import pytest
from integration_jobs import RUN, WORKERS, Ended, checks_in, failure_of, finish, start

WORKER = "every_call.py"
LAYOUTS = {"2-over-shm": (2, "shm"), "3-over-shm": (3, "shm"), "3-over-tcp": (3, "tcp")}


@pytest.fixture(scope="module", params=list(LAYOUTS))
def job(request: pytest.FixtureRequest) -> tuple[Ended, int]:
    ranks, transport = LAYOUTS[request.param]
    command = [*RUN, "--nproc-per-node", str(ranks), str(WORKERS / WORKER)]
    return finish([start(command, {"RDMATRAIN_TRANSPORT": transport})])[0], ranks


@pytest.mark.parametrize("name", checks_in(WORKER))
def test_of_each_call(job: tuple[Ended, int], name: str) -> None:
    ended, ranks = job
    assert not (text := failure_of(ended, name, ranks)), text


def test_the_job_ends_well(job: tuple[Ended, int]) -> None:
    ended, _ = job
    assert ended.code == 0, ended.out
