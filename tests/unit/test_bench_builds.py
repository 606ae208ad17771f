# SPDX-License-Identifier: Apache-2.0
"""``rdmatrain bench compare --builds``, over programs that stand for Pythons with a build."""

import json
import os
import re
import signal
from types import SimpleNamespace

import pytest
from bench_runs import CASES, full, run, write_run
from click.testing import CliRunner

from rdmatrain.bench import builds
from rdmatrain.bench.commands.compare import command
from rdmatrain.bench.starts import MIN_STARTS

FAKE = """#!/bin/sh
# Stands for a Python that has a build: appends what was made for it, and says its arguments.
echo "$0 $*" >> "{log}"
while [ "$1" != --json ]; do shift; done
cat "{records}" >> "$2"
{end}
"""


def fake_python(folder, name, records, end=""):
    path = folder / name
    path.write_text(FAKE.format(log=folder / "log", records=records, end=end))
    path.chmod(0o755)
    return str(path)


def test_builds_are_measured_in_turns_and_compared(tmp_path):
    records = write_run(tmp_path / "one.jsonl", full(run(1)))
    one, other = (fake_python(tmp_path, name, records) for name in ("one", "other"))
    outs = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    arguments = ["--builds", one, other, "--starts", "3", "--sweep", "broadcast -b 8"]
    done = CliRunner().invoke(command, [*outs, *arguments])
    assert done.exit_code == 0, done.output
    log = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[0] for line in log] == [one, other, other, one, one, other]
    assert "-m rdmatrain.cli bench broadcast -b 8 --quiet --json" in log[0]
    assert "start 3 of 3" in done.output
    again = CliRunner().invoke(command, [*outs, *arguments])
    assert again.exit_code == 2 and f"{outs[0]} is there" in again.output


def test_a_build_that_cannot_be_measured_is_named_with_what_it_said(tmp_path):
    records = write_run(tmp_path / "one.jsonl", full(run(1)))
    good = fake_python(tmp_path, "good", records)
    bad = fake_python(tmp_path, "bad", records, "echo no module named rdmatrain; exit 3")
    done = CliRunner().invoke(
        command, [str(tmp_path / "a"), str(tmp_path / "b"), "--builds", good, bad]
    )
    assert done.exit_code == 2
    assert bad in done.output and "ended with 3: no module named rdmatrain" in done.output
    none = CliRunner().invoke(
        command, [str(tmp_path / "c"), str(tmp_path / "d"), "--builds", str(tmp_path / "no"), good]
    )
    assert none.exit_code == 2 and "cannot be run: No such file" in none.output
    alone = CliRunner().invoke(command, [records, records, "--starts", "3"])
    assert alone.exit_code == 2 and "add --builds" in alone.output


def starts_in(path):
    """How many starts a file has, of which each has every case."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(records) % CASES == 0
    return len(records) // CASES


@pytest.fixture
def stopped(tmp_path):
    """Compare builds of which the second is stopped in its n-th start, half of it written."""
    records = write_run(tmp_path / "one.jsonl", full(run(1)))
    half = write_run(tmp_path / "half.jsonl", full(run(1))[: CASES // 2])
    outs = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]

    def made(stop_at, number=signal.SIGINT, *more):
        parent = os.getpid()
        end = (
            f'[ "$(grep -c "^$0 " {tmp_path}/log)" = {stop_at} ] || exit 0\n'
            f'cat {half} >> "$2"; kill -{number} {parent}; exec sleep 60'
        )
        pythons = fake_python(tmp_path, "one", records), fake_python(tmp_path, "two", records, end)
        return CliRunner().invoke(command, [*map(str, outs), "--builds", *pythons, *more])

    return made, outs


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_builds_that_were_stopped_are_compared_and_gone_on_with(stopped, number):
    made, outs = stopped
    done = made(MIN_STARTS + 1, number)
    assert done.exit_code == 128 + number, done.output
    name = signal.Signals(number).name
    assert f"{name} after {MIN_STARTS} of 24 starts of each build: --resume goes on" in done.output
    assert f"# {MIN_STARTS} starts of each, compared in turns" in done.output
    assert [starts_in(out) for out in outs] == [MIN_STARTS] * 2

    more = ["--resume", "--starts", str(MIN_STARTS + 3)]
    done = made(0, number, *more)
    assert done.exit_code == 0, done.output
    assert f"start {MIN_STARTS + 1} of {MIN_STARTS + 3} of each build" in done.output
    assert re.search(rf"0:\d\d left, start {MIN_STARTS + 2} of", done.output)
    assert [starts_in(out) for out in outs] == [MIN_STARTS + 3] * 2


def test_too_few_starts_are_not_compared_and_none_leave_no_file(stopped):
    made, outs = stopped
    done = made(3)
    assert done.exit_code == 130
    assert f"fewer than {MIN_STARTS} are not compared" in done.output
    assert "verdict" not in done.output
    assert [starts_in(out) for out in outs] == [2, 2]
    assert "add --resume to go on" in made(0).output
    for out in outs:
        out.unlink()
    (outs[0].parent / "log").unlink()
    assert made(1).exit_code == 130
    assert not any(out.exists() for out in outs)


def test_after_the_time_budget_no_start_is_begun(stopped, monkeypatch):
    made, outs = stopped
    now = iter(range(0, 1000, 4))
    monkeypatch.setattr(builds, "time", SimpleNamespace(monotonic=lambda: next(now)))
    done = made(0, signal.SIGINT, "--time-budget", "20")
    assert done.exit_code == 0, done.output
    num = starts_in(outs[0])
    assert f"time is up after {num} of 24 starts of each build" in done.output
    assert 0 < num < 5
    wrong = made(0, signal.SIGINT, "--time-budget", "-1")
    assert wrong.exit_code == 2 and "--time-budget -1: give 0 or more" in wrong.output
