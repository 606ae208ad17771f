"""A rank dies in the middle of training: the others say which, and nothing is left of the job."""

import re
import signal
from pathlib import Path

import pytest
from integration_jobs import (
    HEARD_OUT,
    RUN,
    facts_of,
    finish,
    nothing_left_behind,
    processes_with,
    sockets_of,
    start,
    write_worker,
)

# The promise is 0.5 s on an idle machine, which benchmarks/restarts.py measures.
DETECTED_S = 3.0

TRAIN = """
def die(how):
    # Not before the collectives are well under way.
    time.sleep(0.4)
    note(died=time.monotonic())
    how()
def loop(size, victim, how):
    dist.init_process_group("rdmatrain")
    x = torch.full((size,), 1.0)
    dist.all_reduce(x)
    note(ready=True)
    if RANK == victim:
        threading.Thread(target=die, args=(how,), daemon=True).start()
    step = 0
    while True:
        x.fill_(RANK + step)
        dist.all_reduce(x)
        assert x[-1].item() == sum(range(WORLD)) + WORLD * step
        step = (step + 1) % 100
def kill():
    os.kill(os.getpid(), 9)
"""
REPORTED = """
try:
    loop(SIZE, 1, kill)
except Exception as error:
    note(raised=time.monotonic(), error=str(error), kind=type(error).__name__)
    raise
"""


@pytest.mark.parametrize(
    ("transport", "name", "size", "ranks"),
    [
        ("shm", "small", 4, 2),
        ("tcp", "64-MiB", 16 << 20, 2),
        ("tcp", "three", 1 << 16, 3),
        pytest.param("tcp", "small", 4, 2, marks=pytest.mark.thorough),
        pytest.param("shm", "64-MiB", 16 << 20, 2, marks=pytest.mark.thorough),
        pytest.param("shm", "three", 1 << 16, 3, marks=pytest.mark.thorough),
    ],
)
def test_a_killed_rank_is_named_at_once_and_nothing_is_left(
    tmp_path: Path, transport: str, name: str, size: int, ranks: int
) -> None:
    worker = write_worker(tmp_path, HEARD_OUT + TRAIN + REPORTED.replace("SIZE", str(size)))
    with nothing_left_behind() as env:
        env["RDMATRAIN_TRANSPORT"] = transport
        job = start([*RUN, "--nproc-per-node", str(ranks), worker], env)
        said = ""
        while said.count('"ready"') < ranks:
            line = job.stdout.readline()
            assert line, said
            said += line
        env["inodes"] = ",".join(sockets_of(processes_with(env["INTEGRATION_JOB"])))
        assert env["inodes"]
        ended = finish([job])[0]
    facts = facts_of(said + ended.out)
    assert ended.code == 128 + signal.SIGKILL, ended.out
    for survivor in set(range(ranks)) - {1}:
        took_s = facts[survivor]["raised"] - facts[1]["died"]
        print(f"{name} over {transport}: rank {survivor} raised {took_s:.3f} s after the kill")  # noqa: T201
        assert 0 < took_s < DETECTED_S
        assert "rank 1" in facts[survivor]["error"], facts
        assert "died or closed its connection" in facts[survivor]["error"], facts
        assert facts[survivor]["kind"] == "DistBackendError"
    assert "rank 1 " in ended.out and "killed by SIGKILL" in ended.out


def outcome(tmp_path: Path, body: str) -> tuple[int, str, dict[int, dict[str, object]]]:
    worker = write_worker(tmp_path, HEARD_OUT + body)
    with nothing_left_behind() as env:
        ended = finish([start([*RUN, "--nproc-per-node", "2", worker], env)])[0]
    return ended.code, ended.out, ended.facts


def test_a_rank_ended_by_sigterm_is_named(tmp_path: Path) -> None:
    body = REPORTED.replace("SIZE, 1, kill", "1000, 1, lambda: os.kill(os.getpid(), 15)")
    code, out, facts = outcome(tmp_path, TRAIN + body)
    assert code == 128 + signal.SIGTERM, out
    assert "rank 1" in str(facts[0]["error"]), out
    assert facts[0]["raised"] - facts[1]["died"] < DETECTED_S
    assert "killed by SIGTERM" in out


def test_an_ordinary_exception_in_one_rank_ends_the_others_with_its_name(tmp_path: Path) -> None:
    body = """
dist.init_process_group("rdmatrain")
try:
    for step in range(10_000):
        if RANK == 1 and step == 50:
            note(died=time.monotonic())
            raise KeyError("the data set ends here")
        dist.all_reduce(torch.ones(1000))
except dist.DistBackendError as error:
    note(raised=time.monotonic(), error=str(error))
    raise
"""
    code, out, facts = outcome(tmp_path, body)
    assert code == 1, out
    assert "the data set ends here" in out
    assert "rank 1" in str(facts[0]["error"]), out
    assert facts[0]["raised"] - facts[1]["died"] < DETECTED_S
    assert re.search(r"^rdmatrain run: rank 1 on .*exit code 1: KeyError", out, re.MULTILINE), out


def test_a_rank_that_exits_in_mid_training_is_named(tmp_path: Path) -> None:
    body = """
dist.init_process_group("rdmatrain")
for step in range(100):
    if RANK == 1 and step == 50:
        note(died=time.monotonic())
        os._exit(3)
    error = reported(dist.all_reduce, torch.ones(1000))
    if error:
        raise error
"""
    code, out, facts = outcome(tmp_path, body)
    assert code == 3, out
    assert "rank 1" in str(facts[0]["error"]), out
    assert facts[0]["raised"] - facts[1]["died"] < DETECTED_S


def test_a_rank_that_dies_while_the_other_waits_in_recv_is_named(tmp_path: Path) -> None:
    body = """
dist.init_process_group("rdmatrain")
if RANK == 1:
    time.sleep(0.5)
    note(died=time.monotonic())
    os.kill(os.getpid(), 9)
error = reported(dist.recv, torch.ones(1000), 1)
raise error
"""
    code, out, facts = outcome(tmp_path, body)
    assert code == 128 + signal.SIGKILL, out
    assert "rank 1" in str(facts[0]["error"]), out
    assert facts[0]["raised"] - facts[1]["died"] < DETECTED_S
