# SPDX-License-Identifier: Apache-2.0
"""``rdmatrain bench`` with real ranks: what it finds, and what becomes of its failures."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import integration_jobs as jobs
import jsonschema
import pytest
from click.testing import CliRunner, Result
from fakegpu_build import fakegpu_library

from rdmatrain.bench import command, contestants
from rdmatrain.bench.model import Entry, Failure
from rdmatrain.bench.orders import DEVICE_VARIABLE, PIN_VARIABLE
from rdmatrain.cli import cli

BENCH = [sys.executable, "-m", "rdmatrain.cli", "bench"]
GLOO = Entry("gloo")
SCHEMA = json.loads(files("rdmatrain.bench").joinpath("schemas/bench.schema.json").read_text())
STRICT = jsonschema.Draft202012Validator(SCHEMA | {"unevaluatedProperties": False})
SHORT = ("-b", "8", "-e", "4K", "-f", "8", "-n", "5")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """``run_sweep`` sets variables of this process, which its ranks inherit."""
    monkeypatch.setenv(PIN_VARIABLE, "")


def bench(*args: str) -> Result:
    with jobs.nothing_left_behind() as env:
        return CliRunner(env=env).invoke(cli, ["bench", *args])


def records(path: Path) -> list[dict[str, Any]]:
    """Read lines, each of which is as the schema says, and has no field that it does not name."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for record in found:
        STRICT.validate(record)
    return found


class Replaced(contestants.TorchRanks):
    """Gloo, with a script in place of the module of its ranks."""

    script = ""

    def commands(self, ranks: int, socket_path: str) -> list[contestants.Command]:
        found = super().commands(ranks, socket_path)
        return [([sys.executable, "-c", self.script, "gloo"], extra) for _, extra in found]


def replace_gloo(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(Replaced, "script", script)
    genuine = command.find

    def find(
        names: Sequence[str], transports: Sequence[str]
    ) -> tuple[list[contestants.Start], list[Failure]]:
        starts, failures = genuine(names, transports)
        return [Replaced(s.entry, s.ops) if s.entry == GLOO else s for s in starts], failures

    monkeypatch.setattr(command, "find", find)


def test_each_case_is_timed_and_right_on_each_contestant(tmp_path: Path) -> None:
    out, table = tmp_path / "out.jsonl", tmp_path / "out.csv"
    names = "all_reduce,reduce_scatter,all_to_all,barrier"
    written = ("--json", str(out), "--csv", str(table))
    ended = bench(names, *SHORT, "--vs", "gloo", "--rounds", "2", "--quiet", *written)
    assert ended.exit_code == 0, ended.output
    found = records(out)
    assert {(r["op"], r["backend"], r["nbytes"], r["in_place"]) for r in found} == {
        (op, backend, nbytes, in_place)
        for backend in ("rdmatrain", "gloo")
        for op, nbytes, in_place in [
            *(("all_reduce", size, True) for size in (8, 64, 512, 4096)),
            *(("reduce_scatter", size, place) for size in (8, 64, 512, 4096) for place in (0, 1)),
            *(("all_to_all", size, False) for size in (8, 64, 512, 4096)),
            ("barrier", 0, False),
        ]
    }
    for record in found:
        assert record["nwrong"] == (None if record["op"] == "barrier" else 0)
        assert len(record["rounds"]) == 2
        assert record["calls"] == 10
        assert record["seconds_min"] <= record["seconds_p50"] <= record["seconds_p99"]
        assert record["device"] == "cpu"
        assert record["transport"] == {"rdmatrain": "shm", "gloo": ""}[record["backend"]]
        assert record["pinned"]
    assert "# Out of bounds values : 0 OK" in ended.output
    assert len(table.read_text().splitlines()) == 1 + len(found)


WRONG = """
import sys
import torch.distributed as dist
from rdmatrain.bench import rank
genuine = dist.all_reduce
def all_reduce(tensor, *args, **kwargs):
    genuine(tensor, *args, **kwargs)
    if dist.get_rank() == 1 and tensor.numel() > 2:
        tensor.view(-1)[1:3] += 1
dist.all_reduce = all_reduce
sys.exit(rank.main())
"""


ON_FAKEGPU = """
import os, sys
sys.path.insert(0, os.environ["WORKERS"])
import fakegpu
import torch
from rdmatrain.bench import rank
torch.fakegpu.synchronize = fakegpu.synchronize
torch.fakegpu.set_device = lambda device: None
assert fakegpu.num_violations() == 0
sys.exit(rank.main())
"""


def test_tensors_of_a_device_are_timed_and_their_record_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnFakegpu(contestants.TorchRanks):
        def commands(self, ranks: int, socket_path: str) -> list[contestants.Command]:
            extra = {DEVICE_VARIABLE: "fakegpu", "WORKERS": str(jobs.WORKERS)}
            extra["FAKEGPU_LIBRARY"] = str(fakegpu_library())
            argv = [sys.executable, "-c", ON_FAKEGPU, "rdmatrain"]
            return [(argv, env | extra) for _, env in super().commands(ranks, socket_path)]

    def on_fakegpu(starts: list[contestants.Start], *_: object) -> list[contestants.Start]:
        return [
            OnFakegpu(each.entry, each.ops) if type(each) is contestants.TorchRanks else each
            for each in starts
        ]

    monkeypatch.setattr(command, "on_device", on_fakegpu)
    out = tmp_path / "out.jsonl"
    ended = bench("all_reduce,broadcast", *SHORT, "--rounds", "2", "--json", str(out))
    assert ended.exit_code == 0, ended.output
    assert {(r["op"], r["device"], r["nwrong"]) for r in records(out)} == {
        ("all_reduce", "fakegpu", 0),
        ("broadcast", "fakegpu", 0),
    }
    assert "over shm, tensors on fakegpu" in ended.output


def test_a_wrong_reduction_is_caught_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_gloo(monkeypatch, WRONG)
    out = tmp_path / "out.jsonl"
    options = ("--vs", "gloo", "--rounds", "1", "-d", "float32,int8", "--json", str(out))
    ended = bench("all_reduce", *SHORT, *options)
    assert ended.exit_code == 1, ended.output
    wrong = {(r["backend"], r["dtype"], r["nbytes"]): r["nwrong"] for r in records(out)}
    for dtype, itemsize in (("float32", 4), ("int8", 1)):
        for nbytes in (8, 64, 512, 4096):
            assert wrong["rdmatrain", dtype, nbytes] == 0
            assert wrong["gloo", dtype, nbytes] == (2 if nbytes > 2 * itemsize else 0)
    assert "FAILED" in ended.output


DIES = """
import os, signal, sys
from rdmatrain.bench import rank
genuine, turns = rank.Rank.time, []
def timed(self, order):
    turns.append(order)
    if os.environ["RANK"] == "1" and len(turns) == 6:
        print("the last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return genuine(self, order)
rank.Rank.time = timed
sys.exit(rank.main())
"""


def test_a_rank_that_dies_costs_its_contestant_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_gloo(monkeypatch, DIES)
    out = tmp_path / "out.jsonl"
    ended = bench("all_reduce", *SHORT, "--vs", "gloo", "--rounds", "3", "--json", str(out))
    assert ended.exit_code == 1, ended.output
    lines = records(out)
    rounds = {(r["backend"], r["nbytes"]): len(r["rounds"]) for r in lines if "failure" not in r}
    sizes = (8, 64, 512, 4096)
    assert rounds == {("rdmatrain", size): 3 for size in sizes} | {
        ("gloo", size): number for size, number in zip(sizes, (2, 1, 1, 1), strict=True)
    }
    (failure,) = [r for r in lines if "failure" in r]
    assert (failure["backend"], failure["nbytes"]) == ("gloo", 64)
    said = "was killed by SIGKILL; it wrote: the last words"
    assert said in failure["failure"]
    assert f"# gloo, all_reduce of 64 bytes of float32: rank 1 on {os.uname().nodename} {said}" in (
        ended.output
    )


def test_what_is_missing_is_named_and_the_rest_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_here = {"gloo": "", "mpich": "mpich is not here: get it"}
    monkeypatch.setattr(contestants, "missing", not_here.__getitem__)
    out = tmp_path / "out.csv"
    options = ("-e", "8", "-n", "5", "--rounds", "1", "--json", "/dev/full", "--csv", str(out))
    ended = bench("write", *options, "--vs", "gloo,mpich")
    assert ended.exit_code == 1
    assert "# rdmatrain, 2 ranks on 1 host over shm" in ended.output
    assert "# mpich: mpich is not here: get it" in ended.output
    assert "# gloo: gloo has no write" in ended.output
    assert "# rdmatrain: " not in ended.output  # one of its two kinds of ranks has none
    assert "# /dev/full cannot be written: No space left on device" in ended.output
    assert len(out.read_text().splitlines()) == 2


def until_a_round_is_done(process: "subprocess.Popen[str]") -> None:
    assert process.stderr is not None
    for line in process.stderr:  # one that says nothing ends with the test's timeout
        if "round 1 is done" in line:
            return
    raise AssertionError(f"it ended: {process.communicate()}")


def start(env: dict[str, str], *args: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*BENCH, "all_reduce", *SHORT, "--rounds", "1000000", *args],
        env=jobs.environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What a shell has put into the background ignores SIGINT, and these tests may be.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


@pytest.mark.parametrize(("number", "vs"), [(signal.SIGINT, "gloo"), (signal.SIGTERM, "")])
def test_a_signal_ends_the_rounds_and_keeps_the_results(
    number: signal.Signals, vs: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    with jobs.nothing_left_behind() as env:
        process = start(env | {"TMPDIR": str(tmp_path)}, "--vs", vs, "--json", str(out))
        until_a_round_is_done(process)
        os.killpg(process.pid, number)  # as a terminal does
        told, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert f"# Incomplete: stopped by {number.name} before all rounds were made" in told
    assert "Out of bounds values : 0 OK" in told
    backends = {"rdmatrain", vs} - {""}
    assert {(r["backend"], r["nbytes"]) for r in records(out)} == {
        (backend, nbytes) for backend in backends for nbytes in (8, 64, 512, 4096)
    }
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_nothing_is_left_of_a_sweep_that_is_killed(tmp_path: Path) -> None:
    with jobs.nothing_left_behind() as env:
        process = start(env | {"TMPDIR": str(tmp_path)})
        until_a_round_is_done(process)
        assert len(jobs.processes_with(env[jobs.MARKER])) == 3
        process.kill()
        process.communicate(timeout=30)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["all_reduce", "--ranks", "0"], "--ranks 0"),
        (["all_reduce", "--vs", "glooo"], "did you mean gloo?"),
        (["all_reduce", "-e", "900T"], "is available"),
        (["all_reduce", "-b", "2K", "-e", "1K"], "no size is between"),
        (["all_reduce", "-f", "4", "-i", "8"], "contradict"),
        (["all_reduce", "--json", "/absent/out.jsonl"], "there is no folder /absent"),
        (["pingpong", "--ranks", "3"], "even number"),
        (["all_reduce", "-c", "2"], "-c"),
    ],
)
def test_bad_input_starts_nothing_and_ends_with_2(args: list[str], said: str) -> None:
    began = time.monotonic()
    ended = bench(*args)
    assert ended.exit_code == 2
    assert said in ended.output
    assert time.monotonic() - began < 10
