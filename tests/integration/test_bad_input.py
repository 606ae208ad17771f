"""Wrong input of every kind: one clear error on every rank, and never a hang."""

import socket
from pathlib import Path

import pytest
from integration_jobs import (
    Ended,
    checks_in,
    failure_of,
    nothing_left_behind,
    run,
    run_by_hand,
    run_checks,
    write_worker,
)

# Wrong calls, in a group that exists

WORKER = "bad_calls.py"


@pytest.fixture(scope="module", params=["2-over-shm", "3-over-tcp"])
def job(request: pytest.FixtureRequest) -> tuple[Ended, int]:
    return run_checks(WORKER, request.param)


@pytest.mark.parametrize("name", checks_in(WORKER))
def test_an_error_on_each_rank_names_rank_and_values_for(job: tuple[Ended, int], name: str) -> None:
    ended, ranks = job
    assert not (text := failure_of(ended, name, ranks)), text


# A group that cannot form

INIT = """
SECONDS = 5
error = reported(dist.init_process_group, "rdmatrain", timeout=timedelta(seconds=SECONDS))
sys.exit(7 if error else 0)
"""


def ranks(*extra: dict[str, str], world: int | None = None) -> list[dict[str, str]]:
    """Environments of ranks 0, 1, ...; extra changes them."""
    size = str(world or len(extra))
    return [{"RANK": str(r), "WORLD_SIZE": size} | env for r, env in enumerate(extra)]


def errors_of(tmp_path: Path, environments: list[dict[str, str]], body: str = INIT) -> list[str]:
    """The error of each process; all of them must fail."""
    with nothing_left_behind() as env:
        ended = run_by_hand(write_worker(tmp_path, body), [env | e for e in environments])
    # Without a launcher no line is labelled, and every process is "rank 0" to the reader.
    for one in ended:
        assert one.code == 7, one.out
        facts = next(iter(one.facts.values()))
        # Only torch's own errors have several lines.
        assert "\n" not in facts["error"].strip() or facts["kind"].startswith("Dist"), facts
    return [next(iter(one.facts.values()))["error"] for one in ended]


def test_world_sizes_that_disagree_are_both_named_on_both_ranks(tmp_path: Path) -> None:
    # The smaller one is rank 0's: torch's store, which rank 0 serves, waits for that many only.
    for error in errors_of(tmp_path, ranks({}, {"WORLD_SIZE": "3"})):
        assert "world size" in error, error
        assert "rank 0" in error and "has 2" in error and "rank 1" in error and "has 3" in error


def test_a_world_that_rank_0_believes_to_be_larger_ends_by_the_timeout(tmp_path: Path) -> None:
    # Here torch's store makes rank 0 wait for a third process before the backend is asked.
    first, second = errors_of(tmp_path, ranks({"WORLD_SIZE": "3"}, {}))
    assert "2/3 clients joined" in first or "timed out" in first.lower(), first
    assert "rank 0" in second, second


def test_a_rank_that_does_not_come_is_named_when_the_time_is_up(tmp_path: Path) -> None:
    body = """
began = time.monotonic()
store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), 3, RANK == 0,
                      wait_for_workers=False)
error = reported(dist.init_process_group, "rdmatrain", store=store, rank=RANK, world_size=3,
                 timeout=timedelta(seconds=2))
sys.exit(7 if error and 1.9 < time.monotonic() - began < 9 else 0)
"""
    first, second = errors_of(tmp_path, ranks({}, {}, world=3), body)
    for error in (first, second):
        assert "rank 2" in error and "waited 2 s" in error, (first, second)
    assert "WORLD_SIZE" in first + second


def test_a_group_that_one_rank_does_not_make_fails_with_its_name(tmp_path: Path) -> None:
    body = """
dist.init_process_group("rdmatrain")
if RANK == 0:
    reported(dist.new_group, timeout=timedelta(seconds=2))
dist.barrier()
"""
    ended = run(write_worker(tmp_path, body))
    facts = ended.of(0)
    assert "rank 0 of 2 waited 2 s for rank 1" in facts["error"], ended.out
    assert 1.5 < facts["after_s"] < 8


def test_two_processes_with_the_same_rank_are_told_so(tmp_path: Path) -> None:
    first, *others = errors_of(tmp_path, ranks({}, {}, {"RANK": "1"}, world=3))
    for error in (first, *others):
        assert "two processes are rank 1 of this group" in error, (first, others)
        assert "check RANK" in error


def test_two_processes_with_rank_0_cannot_both_serve_the_store(tmp_path: Path) -> None:
    worker = write_worker(tmp_path, INIT)
    environments = ranks({}, {"RANK": "0"})
    ended = run_by_hand(worker, environments)
    # torch's own store speaks first: one of them finds the port taken, the other waits in vain.
    texts = " ".join(str(one.facts) for one in ended)
    assert [one.code for one in ended] == [7, 7], texts
    assert "address already in use" in texts.lower(), texts


def test_tuning_that_differs_is_named_with_both_values_on_both_ranks(tmp_path: Path) -> None:
    ours, theirs = {"RDMATRAIN_TUNING": "direct=8K,block=64"}, {"RDMATRAIN_TUNING": "block=128"}
    for error in errors_of(tmp_path, ranks(ours, theirs)):
        assert "disagree about RDMATRAIN_TUNING" in error, error
        assert "rank 0" in error and "direct=8192,block=64" in error, error
        assert "rank 1" in error and "block=128" in error, error


def test_a_bogus_transport_on_one_rank_is_an_error_on_both(tmp_path: Path) -> None:
    # Of rank 0, which serves the store and so must not end before the other has heard.
    errors = errors_of(tmp_path, ranks({"RDMATRAIN_TRANSPORT": "bogus"}, {}))
    for error in errors:
        assert "RDMATRAIN_TRANSPORT='bogus' is not allowed" in error, error
        assert "auto, verbs, shm, tcp" in error
    assert "rank 0: RDMATRAIN_TRANSPORT='bogus'" in errors[1], errors


def test_transports_that_differ_are_both_named_on_both_ranks(tmp_path: Path) -> None:
    for error in errors_of(tmp_path, ranks({"RDMATRAIN_TRANSPORT": "tcp"}, {})):
        assert "disagree about RDMATRAIN_TRANSPORT" in error, error
        assert "has tcp" in error and "has auto" in error, error
        assert "rank 0" in error and "rank 1" in error, error


def test_an_address_of_another_machine_is_an_error_on_both_ranks(tmp_path: Path) -> None:
    tcp = {"RDMATRAIN_TRANSPORT": "tcp"}
    environments = ranks(tcp, tcp | {"RDMATRAIN_ADDR": "192.0.2.7"})
    for error in errors_of(tmp_path, environments):
        assert "rank 1" in error and "192.0.2.7" in error, error


def test_an_address_that_no_resolver_knows_is_an_error_on_both_ranks(tmp_path: Path) -> None:
    tcp = {"RDMATRAIN_TRANSPORT": "tcp"}
    environments = ranks(tcp, tcp | {"RDMATRAIN_ADDR": "no-such-host.invalid"})
    for error in errors_of(tmp_path, environments):
        assert "rank 1" in error and "RDMATRAIN_ADDR=no-such-host.invalid" in error, error


def test_a_torch_of_another_minor_on_one_rank_is_an_error_on_both(tmp_path: Path) -> None:
    body = "torch.__version__ = '2.99.0' if RANK else torch.__version__\n" + INIT
    for error in errors_of(tmp_path, ranks({}, {}), body):
        assert "this is torch 2.99.0" in error, error


def test_a_store_port_in_use_fails_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = {"MASTER_PORT": str(server.getsockname()[1])}
        (error,) = errors_of(tmp_path, ranks(port))
    assert "address already in use" in error.lower(), error


# The launcher and the example


def test_a_missing_script_fails_before_anything_starts() -> None:
    ended = run("no_such_script.py")
    assert ended.code == 64
    assert "no_such_script.py" in ended.out and ended.out.count("\n") == 1


def example() -> str:
    path = Path(__file__).parents[2] / "launch" / "train_gpt.py"
    if not path.exists():
        pytest.skip("there is no launch/train_gpt.py")
    return str(path)


@pytest.mark.parametrize(
    "kind",
    ["missing", *(pytest.param(kind, marks=pytest.mark.thorough) for kind in ("empty", "short"))],
)
def test_the_example_says_on_each_rank_what_is_wrong_with_its_text(
    tmp_path: Path, kind: str
) -> None:
    text = tmp_path / f"{kind}.txt"
    if kind != "missing":
        text.write_text("" if kind == "empty" else "short")
    with nothing_left_behind() as env:
        ended = run(example(), "--data", str(text), "--out", str(tmp_path), env=env)
    assert ended.code == 2, ended.out
    assert "Traceback" not in ended.out
    for rank in range(2):
        lines = [x for x in ended.out.splitlines() if f":{rank}│ " in x]
        assert len(lines) == 1, ended.out
        assert f"rank {rank}" in lines[0] and str(text) in lines[0], ended.out
