"""Many groups: one after another, at once from threads, and in processes that torch starts."""

import pytest
from integration_jobs import WORKERS, Ended, checks_in, failure_of, run, run_alone

WORKER = "groups_checks.py"
RANKS = 2


@pytest.fixture(scope="module")
def job() -> Ended:
    return run(str(WORKERS / WORKER), ranks=RANKS)


@pytest.mark.parametrize("name", checks_in(WORKER))
def test_of(job: Ended, name: str) -> None:
    assert not (text := failure_of(job, name, RANKS)), text


def test_the_job_ends_well(job: Ended) -> None:
    assert job.code == 0, job.out


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_ranks_that_torch_multiprocessing_starts_by(method: str) -> None:
    ended = run_alone(str(WORKERS / "multiprocessing_ranks.py"), method)
    assert ended.code == 0, ended.out
    assert ended.of(0) == {"sums": [[3.0] * 5] * 2}


def test_a_fork_runs_callbacks_of_its_own() -> None:
    ended = run_alone(str(WORKERS / "forked_callbacks.py"))
    assert ended.of(0) == {"parent": 3, "child": 3}, ended.out
    assert ended.code == 0, ended.out


def test_a_program_ends_when_its_callbacks_have_run() -> None:
    ended = run_alone(str(WORKERS / "late_callbacks.py"))
    assert ended.of(0) == {"ran": 20}, ended.out
    assert ended.code == 0, ended.out
