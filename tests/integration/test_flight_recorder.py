"""Traces of real jobs, judged by torch's own analyser."""

import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from integration_jobs import Ended, run, write_worker

ANALYSER = [sys.executable, "-m", "torch.distributed.flight_recorder.fr_trace"]

HEALTHY = """
import rdmatrain
dist.init_process_group("rdmatrain", timeout=timedelta(seconds=30))
last = WORLD - 1
for i in range(3):
    dist.all_reduce(torch.ones(4 + i, 5))
dist.broadcast(torch.ones(7), 1)
dist.all_gather([torch.ones(3) for _ in range(WORLD)], torch.ones(3))
dist.all_gather_into_tensor(torch.empty(WORLD * 3), torch.ones(3))
dist.reduce_scatter_tensor(torch.empty(3), torch.ones(3 * WORLD))
dist.reduce(torch.ones(6), 1)
shards = [torch.ones(2) for _ in range(WORLD)] if RANK == 0 else None
dist.gather(torch.ones(2), shards, 0)
dist.scatter(torch.ones(2), shards, 0)
splits = [RANK + rank for rank in range(WORLD)]
dist.all_to_all_single(torch.empty(sum(splits)), torch.ones(sum(splits)), splits, splits)
parts = [torch.empty(1 + rank) for rank in range(WORLD)]
dist.all_gather(parts, torch.ones(1 + RANK))
some = dist.new_group([0, last])
if RANK in (0, last):
    dist.all_reduce(torch.ones(11), group=some)
if RANK == 0:
    sent = [dist.isend(torch.ones(7), last, tag=1), dist.isend(torch.ones(9), last, tag=2)]
    dist.recv(torch.ones(1), last)
    for work in sent:
        work.wait()
if RANK == last:
    dist.send(torch.ones(1), 0)
    dist.recv(torch.ones(9), 0, tag=2)
    dist.recv(torch.ones(7), 0, tag=1)
dist.barrier()
note(path=str(rdmatrain.dump_flight_recorder()))
dist.barrier()
"""


def traced(folder: Path, body: str, ranks: int = 2, **env: str) -> Ended:
    """Run the job with its traces in folder/traces."""
    env = {"RDMATRAIN_RECORDER_DIR": str(folder / "traces")} | env
    return run(write_worker(folder, body), ranks=ranks, env=env)


def load(folder: Path, rank: int) -> dict[str, Any]:
    return dict(pickle.loads((folder / "traces" / f"rank_{rank}").read_bytes()))


def analyse(folder: Path, *options: str) -> tuple[str, list[Any]]:
    """What the analyser says, and the collectives that it has matched or not."""
    command = [*ANALYSER, str(folder / "traces"), "-o", str(folder / "database"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    _types, database = pickle.loads((folder / "database").read_bytes())
    return said, database.collectives


def mismatched(collectives: list[Any]) -> list[Any]:
    return [collective for collective in collectives if not collective.pass_check]


def test_the_analyser_finds_nothing_wrong_with_a_healthy_job(tmp_path: Path) -> None:
    job = traced(tmp_path, HEALTHY, ranks=3)
    assert job.code == 0, job.out
    assert [job.of(r)["path"] for r in range(3)] == [
        str(tmp_path / "traces" / f"rank_{r}") for r in range(3)
    ]
    said, collectives = analyse(tmp_path)
    assert mismatched(collectives) == [], said
    assert "Not all ranks" not in said and "has errors" not in said
    groups = {
        name: [c for c in collectives if c.pg_desc == name]
        for name in {c.pg_desc for c in collectives}
    }
    assert {name: len(found) for name, found in groups.items()} == {
        "0:default_pg": 13,
        "1": 1,
        "0 rank 0 to rank 2:default_pg": 2,
        "0 rank 2 to rank 0:default_pg": 1,
    }
    assert [c.collective_name.removeprefix("gloo:") for c in groups["0:default_pg"]] == [
        *["all_reduce"] * 3,
        "broadcast",
        *["all_gather"] * 2,
        "reduce_scatter",
        "reduce",
        "gather",
        "scatter",
        "all_to_all",
        "all_gather_v",
        "barrier",
    ]
    states = {e["state"] for rank in range(3) for e in load(tmp_path, rank)["entries"]}
    assert states == {"completed"}


def test_a_rank_that_does_not_come_is_named_with_the_collective(tmp_path: Path) -> None:
    body = """
dist.init_process_group("rdmatrain", timeout=timedelta(seconds=2))
for i in range(2):
    dist.all_reduce(torch.ones(10))
if RANK == 1:
    time.sleep(4)  # it hears of the timeout meanwhile
else:
    reported(dist.broadcast, torch.ones(33), 0)
"""
    job = traced(tmp_path, body, ranks=3)
    assert job.of(0)["kind"] == "DistBackendError", job.out
    assert "flight recorder written to" in job.out
    said, _ = analyse(tmp_path)
    assert re.findall(r"Not all ranks joining collective, sequence number: (\d+)", said) == ["3"]
    assert "collective: gloo:broadcast" in said and "missing ranks: {1}" in said, said
    assert "has errors" not in said
    trace = load(tmp_path, 0)
    assert "did not finish within its timeout of 2.0 s" in trace["reason"]
    last = trace["entries"][-1]
    assert (last["state"], last["input_sizes"]) == ("started", [[33]])
    assert trace["pg_status"]["1"]["last_completed_collective"] == 2


def test_a_rank_that_calls_something_else_is_named_with_the_collective(tmp_path: Path) -> None:
    body = """
dist.init_process_group("rdmatrain", timeout=timedelta(seconds=20))
dist.all_reduce(torch.ones(10))
time.sleep(1)  # the error would reach a rank that is still in the first one
reported(dist.all_reduce, torch.ones(10 if RANK != 1 else 12))
"""
    job = traced(tmp_path, body)
    assert job.of(0)["kind"] == job.of(1)["kind"] == "DistBackendError", job.out
    said, collectives = analyse(tmp_path)
    (wrong,) = mismatched(collectives)
    assert (wrong.collective_name, wrong.collective_seq_id) == ("gloo:all_reduce", 2), said
    assert re.search(r"Culprit rank 1; Error type: SIZE_OR_SYNTAX_MISMATCH", said), said


def test_an_error_right_before_the_end_is_in_the_trace(tmp_path: Path) -> None:
    body = """
dist.init_process_group("rdmatrain")
dist.all_reduce(torch.ones(10))
if RANK == 1:
    os._exit(0)
dist.all_reduce(torch.ones(20))
"""
    job = traced(tmp_path, body)
    assert job.code != 0
    assert "rank 1" in load(tmp_path, 0)["reason"], job.out
    assert not (tmp_path / "traces" / "rank_1").exists()
    with pytest.raises(AssertionError, match="Missing dump files from ranks"):
        analyse(tmp_path)
    said, collectives = analyse(tmp_path, "--allow-incomplete-ranks")
    assert "gloo:all_reduce" in {c.collective_name for c in collectives}, said


def test_a_signal_writes_a_trace_while_the_main_thread_waits_in_c(tmp_path: Path) -> None:
    body = """
import pathlib, pickle, signal
dist.init_process_group("rdmatrain")
path = pathlib.Path(os.environ["RDMATRAIN_RECORDER_DIR"]) / f"rank_{RANK}"
def ask():
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGUSR2)
    while not path.exists():
        time.sleep(0.01)
    trace = pickle.loads(path.read_bytes())
    note(reason=trace["reason"], last=trace["entries"][-1]["profiling_name"],
         state=trace["entries"][-1]["state"])
    os._exit(0)
if RANK == 0:
    threading.Thread(target=ask).start()
dist.recv(torch.ones(5), 1 - RANK)  # which nobody sends
"""
    job = traced(tmp_path, body, RDMATRAIN_RECORDER_SIGNAL="USR2")
    facts = job.of(0)
    assert facts["reason"] == "signal", job.out
    assert (facts["last"], facts["state"]) == ("gloo:recv 0<-1", "scheduled")


def test_a_handler_of_the_program_is_left_alone(tmp_path: Path) -> None:
    body = """
import signal
signal.signal(signal.SIGUSR1, lambda number, frame: note(mine=True))
reported(dist.init_process_group, "rdmatrain")
signal.raise_signal(signal.SIGUSR1)
"""
    job = traced(tmp_path, body, ranks=1, RDMATRAIN_RECORDER_SIGNAL="USR1")
    assert job.of(0)["kind"] == "SettingError", job.out
    assert "RDMATRAIN_RECORDER_SIGNAL=USR1" in job.of(0)["error"]
    assert job.of(0)["mine"] is True


def test_a_trace_that_cannot_be_written_is_a_warning_beside_the_error(tmp_path: Path) -> None:
    body = """
dist.init_process_group("rdmatrain", timeout=timedelta(seconds=1))
if RANK == 0:
    reported(dist.all_reduce, torch.ones(5))
else:
    time.sleep(4)
"""
    job = traced(tmp_path, body, RDMATRAIN_RECORDER_DIR="/proc/nowhere")
    assert "did not finish within its timeout of 1.0 s" in job.of(0)["error"], job.out
    assert "the flight recorder could not be written: " in job.out
    assert job.code == 0


def test_without_a_recorder_nothing_is_remembered(tmp_path: Path) -> None:
    body = """
from rdmatrain import _core
dist.init_process_group("rdmatrain")
dist.all_reduce(torch.ones(5))
note(records=_core.recorder_read(), threads=[thread.name for thread in threading.enumerate()])
"""
    job = traced(tmp_path, body, ranks=1, RDMATRAIN_RECORDER="0")
    assert job.of(0)["records"] == [] and job.code == 0, job.out
    assert "rdmatrain-recorder" not in job.of(0)["threads"]


def test_a_forked_child_has_no_trace_of_its_parent(tmp_path: Path) -> None:
    body = """
import warnings
import rdmatrain
dist.init_process_group("rdmatrain")
dist.all_reduce(torch.ones(5))
warnings.simplefilter("ignore")  # Python has something to say of forks and threads
if os.fork() == 0:
    reported(rdmatrain.dump_flight_recorder)
    os._exit(0)
os.wait()
reported(dist.all_reduce, torch.ones(5 + RANK))  # the parent's thread still watches
time.sleep(0.5)
"""
    job = traced(tmp_path, body)
    assert "this process has formed no group" in job.out
    assert [load(tmp_path, rank)["entries"][-1]["collective_seq_id"] for rank in (0, 1)] == [2, 2]


def test_torchs_worker_server_answers_with_the_trace(tmp_path: Path) -> None:
    body = """
import pickle
from torch._C import _distributed_c10d as c10d
dist.init_process_group("rdmatrain")
dist.all_reduce(torch.ones(5))
class Request(c10d._Request):
    def __init__(self):
        super().__init__()
class Response(c10d._Response):
    def __init__(self):
        super().__init__()
    def set_status(self, status):
        note(status=status)
    def set_content(self, content, content_type):
        note(names=[entry["profiling_name"] for entry in pickle.loads(content)["entries"]])
c10d._get_handler("rdmatrain_dump_trace")(Request(), Response())
"""
    job = traced(tmp_path, body, ranks=1)
    assert job.code == 0, job.out
    assert (job.of(0)["status"], job.of(0)["names"]) == (200, ["gloo:all_reduce"])


def test_what_answers_the_worker_server_outlives_python(tmp_path: Path) -> None:
    body = """
import gc
from rdmatrain.comm import backend
dist.init_process_group("rdmatrain")
vars(backend).clear()  # as Python does at its end, but for modules that it forgets
gc.collect()
"""
    job = traced(tmp_path, body, ranks=1)
    assert job.code == 0, job.out


@pytest.mark.thorough
def test_a_full_ring_is_analysed_from_where_it_begins(tmp_path: Path) -> None:
    body = """
import rdmatrain
dist.init_process_group("rdmatrain")
for i in range(100):
    dist.all_reduce(torch.ones(1 + i))
dist.barrier()
rdmatrain.dump_flight_recorder()
"""
    job = traced(tmp_path, body, RDMATRAIN_RECORDER="30")
    assert job.code == 0, job.out
    entries = load(tmp_path, 0)["entries"]
    assert [e["collective_seq_id"] for e in entries] == list(range(70, 102))
    said, collectives = analyse(tmp_path)
    assert len(collectives) == 32 and mismatched(collectives) == [], said
