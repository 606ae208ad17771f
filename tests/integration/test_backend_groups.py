"""Groups made from groups, their options, and the monitored barrier, over 2 and 3 ranks."""

import pytest
from integration_jobs import RUN, WORKERS, Ended, checks_in, failure_of, finish, start

WORKER = "made_groups.py"


@pytest.fixture(scope="module", params=[2, 3])
def job(request: pytest.FixtureRequest) -> tuple[Ended, int]:
    ranks = request.param
    return finish([start([*RUN, "--nproc-per-node", str(ranks), str(WORKERS / WORKER)])])[0], ranks


@pytest.mark.parametrize("name", checks_in(WORKER))
def test_of_groups(job: tuple[Ended, int], name: str) -> None:
    ended, ranks = job
    assert not (text := failure_of(ended, name, ranks)), text


def test_the_job_ends_well(job: tuple[Ended, int]) -> None:
    ended, _ = job
    assert ended.code == 0, ended.out
