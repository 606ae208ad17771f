"""The arena as torch's allocator: what is in it, what a fork may do, and how it is switched."""

from pathlib import Path

import pytest
from integration_jobs import WORKERS, Ended, checks_in, failure_of, run, run_alone, write_worker

WORKER = "allocator_checks.py"
RANKS = 2

SWITCHED = """
import rdmatrain
from rdmatrain.errors import SettingError
torch.ones(100_000)
note(reserved=rdmatrain.arena_stats()["reserved_bytes"],
     peak=rdmatrain.arena_stats()["peak_in_use_bytes"])
"""
USED = """
calls = {"install": rdmatrain.install_allocator, "empty": lambda: rdmatrain.empty(5)}
for name, call in calls.items():
    try:
        call()
        note(**{name: "ok"})
    except Exception as error:
        note(**{name: f"{type(error).__name__}: {error}"})
tensor = torch.ones(100_000)
note(sum=tensor.sum().item(), num_blocks=rdmatrain.arena_stats()["num_blocks"])
"""
LITTLE_SPACE = """
import resource
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + (600 << 20),) * 2)
"""


@pytest.fixture(scope="module")
def job() -> Ended:
    return run(str(WORKERS / WORKER), ranks=RANKS)


@pytest.mark.parametrize("name", checks_in(WORKER))
def test_with_the_arena_as_torchs_allocator(job: Ended, name: str) -> None:
    assert not (text := failure_of(job, name, RANKS)), text


def test_the_job_ends_well(job: Ended) -> None:
    assert job.code == 0, job.out


def alone(folder: Path, body: str, arena: str | None) -> Ended:
    ended = run_alone(
        write_worker(folder, body), env={} if arena is None else {"RDMATRAIN_ARENA": arena}
    )
    assert ended.code == 0, ended.out
    assert ended.of(0), ended.out
    return ended


def test_on_installs_it_when_torch_is_imported(tmp_path: Path) -> None:
    facts = alone(tmp_path, SWITCHED, "on").of(0)
    assert facts["reserved"] >= 1 << 30
    assert facts["peak"] >= 400_000


def test_unset_leaves_it_to_the_program(tmp_path: Path) -> None:
    facts = alone(tmp_path, SWITCHED + USED, None).of(0)
    assert (facts["reserved"], facts["peak"]) == (0, 0)
    assert (facts["install"], facts["empty"]) == ("ok", "ok")
    assert (facts["sum"], facts["num_blocks"]) == (100_000, 1)


def test_off_forbids_it(tmp_path: Path) -> None:
    facts = alone(tmp_path, SWITCHED + USED, "off").of(0)
    assert (facts["reserved"], facts["num_blocks"]) == (0, 0)
    for name in ("install", "empty"):
        assert facts[name].startswith("SettingError: RDMATRAIN_ARENA=off"), facts[name]


def test_a_wrong_value_is_a_warning_and_torch_works(tmp_path: Path) -> None:
    ended = alone(tmp_path, SWITCHED, "yes")
    assert ended.of(0)["reserved"] == 0
    assert "RDMATRAIN_ARENA='yes' is not allowed" in ended.out


def test_too_little_address_space_is_an_error_that_says_so(tmp_path: Path) -> None:
    facts = alone(tmp_path, SWITCHED + LITTLE_SPACE + USED, None).of(0)
    assert facts["install"].startswith(
        "OutOfMemoryError: arena: not even a file and address space of 1024 MiB"
    ), facts
    assert facts["empty"].startswith(
        "RuntimeError: arena: not even a file and address space of 1024 MiB"
    ), facts
    assert (facts["sum"], facts["num_blocks"]) == (100_000, 0)
