# SPDX-License-Identifier: Apache-2.0
"""What the scripts of benchmarks/ give each other and rdmatrain bench is what those take."""

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benchmark_scripts import load
from click.testing import CliRunner

from rdmatrain.bench.options import SweepOptions, check_options
from rdmatrain.cli import cli

suite, smoke, verbs, wire = (load(name) for name in ("suite", "smoke", "verbs", "wire"))
RUNNERS = ("command.run_sweep", "limit.run_limit", "train.run_train", "scale.command.run_scale")


class Parsed(Exception):
    """What a script was told is what it takes."""


def record(backend: str, nbytes: int, us: float, nwrong: int | None = 0) -> dict[str, Any]:
    return {
        "op": "all_reduce",
        "in_place": True,
        "backend": backend,
        "nbytes": nbytes,
        "seconds_p50": us * 1e-6,
        "nwrong": nwrong,
    }


def told_to_bench(monkeypatch: pytest.MonkeyPatch, argv: list[str]) -> Any:
    """What ``python ARGV`` tells the tool of rdmatrain bench that it names."""
    assert argv[:2] == ["-m", "rdmatrain.cli"]
    told: list[Any] = []
    for runner in RUNNERS:
        monkeypatch.setattr(f"rdmatrain.bench.{runner}", lambda options, *_: told.append(options))
    done = CliRunner().invoke(cli, argv[2:])
    assert done.exit_code == 0, done.output
    (options,) = told
    if isinstance(options, SweepOptions) and options.operations:
        check_options(options)
    return options


def parse_only(monkeypatch: pytest.MonkeyPatch, argv: list[str]) -> None:
    """Let a script of the folder parse its arguments, and do nothing after that."""
    parse = argparse.ArgumentParser.parse_args

    def then_stop(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        parse(parser, *args, **kwargs)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", then_stop)
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(Parsed):
        load(Path(argv[0]).stem).main()


@pytest.mark.parametrize("step", suite.STEPS, ids=lambda step: step.name)
def test_each_step_is_a_command_that_its_program_takes(
    step: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = {suite.JSON: str(tmp_path / "x.jsonl"), suite.SVG: str(tmp_path / "x.svg")}
    argv = [files.get(word, word) for word in step.argv]
    if argv[0].startswith(suite.BUILT):
        name = argv[0].removeprefix(suite.BUILT)
        sources = (f"tests/c/{name}.c", f"benchmarks/{name.removeprefix('bench_')}.c")
        assert any((suite.ROOT / source).exists() for source in sources)
        return
    if argv[:2] == ["-m", "pytest"]:
        assert all((suite.ROOT / word).exists() for word in argv[2:] if not word.startswith("-"))
        return
    if step.guest:
        argv = argv[argv.index(".venv/bin/python") + 1 :]
    if argv[0] == "-m":
        told_to_bench(monkeypatch, argv)
    else:
        parse_only(monkeypatch, argv)


def test_only_steps_that_wait_are_made_at_once() -> None:
    groups = list(suite.at_once(suite.STEPS))
    assert [step for group in groups for step in group] == list(suite.STEPS)
    assert {len(group) for group in groups if not group[0].waits} == {1}
    (together,) = [group for group in groups if group[0].waits]
    assert [step.name for step in together] == [
        "launcher-faults",
        "restarts",
        "fault-corpus",
        "checkpoint-faults",
    ]


LEAVES = """
import subprocess, sys, time
from pathlib import Path
command = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(command, start_new_session=True)
Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""


def is_gone(pid: int) -> bool:
    """A killed process takes a moment on a busy machine."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        except OSError:
            return True
        if stat.rpartition(")")[2].split()[0] in "ZX":
            return True
        time.sleep(0.01)
    return False


def wait_for_pid(path: Path) -> int:
    deadline = time.monotonic() + 20
    while not (text := path.read_text() if path.exists() else ""):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int(text)


def test_a_step_that_is_late_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = tmp_path / "pid"
    steps = [suite.Step("late", ("-c", LEAVES, str(note)), limit_s=10)]
    monkeypatch.setattr(suite, "STEPS", steps)
    monkeypatch.setattr(sys, "argv", ["suite.py", "--out", str(tmp_path)])
    assert suite.main() == 1
    assert "FAILED, exit code 124" in capsys.readouterr().out
    assert is_gone(wait_for_pid(note))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_stops_the_suite_stops_its_step(tmp_path: Path, number: signal.Signals) -> None:
    note = tmp_path / "pid"
    program = f"""
import sys
sys.path.insert(0, {str(suite.ROOT / "benchmarks")!r})
import suite
suite.STEPS = [suite.Step("long", ("-c", {LEAVES!r}, {str(note)!r}))]
sys.argv = ["suite.py", "--out", {str(tmp_path)!r}]
suite.run_as_program()
"""
    with subprocess.Popen([sys.executable, "-c", program]) as running:
        left = wait_for_pid(note)
        running.send_signal(number)
        assert running.wait(20) == 128 + number
    assert is_gone(left)


def test_steps_that_take_too_long_together_are_missed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite, "STEPS", [suite.Step("short", ("-c", ""))])
    monkeypatch.setattr(sys, "argv", ["suite.py", "--out", str(tmp_path)])
    assert suite.main() == 0
    monkeypatch.setattr(suite, "ALL_S", 0.0)
    assert suite.main() == 1
    assert "MISSED: 0 s" in capsys.readouterr().out


def test_a_step_that_left_something_out_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = {
        "all": "print('no SKIP here')",
        "some": "print('x'); print('SKIP: there is no device')",
        "none": "print('SKIP: there is no device'); raise SystemExit(1)",
        "dead": "raise SystemExit(3)",
    }
    steps = [suite.Step(name, ("-c", program)) for name, program in programs.items()]
    steps.append(suite.Step("not-here", ("-c", "1 / 0"), missing=lambda: "get it"))
    monkeypatch.setattr(suite, "STEPS", steps)
    monkeypatch.setattr(sys, "argv", ["suite.py", "--out", str(tmp_path)])
    assert suite.main() == 1
    said = dict(line.split("s  ", 1) for line in capsys.readouterr().out.splitlines()[:-1])
    assert {name.split()[0]: verdict for name, verdict in said.items()} == {
        "all": "ok",
        "some": "SKIP: there is no device",
        "none": "MISSED",
        "dead": "FAILED, exit code 3",
        "not-here": "SKIP: get it",
    }


@pytest.mark.parametrize("script", ["suite", "smoke", "verbs", "wire"])
def test_they_say_what_they_take(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        load(script).main()
    assert ended.value.code == 0
    assert "--help" in capsys.readouterr().out


def bench_that_finds(
    monkeypatch: pytest.MonkeyPatch, records: list[dict[str, Any]], told: list[SweepOptions]
) -> None:
    """Stand in for rdmatrain bench: parse what it is told, and write these records."""
    run = subprocess.run

    def instead(argv: list[str], **kwargs: Any) -> Any:
        if argv[:3] != [sys.executable, "-m", "rdmatrain.cli"]:
            return run(argv, **kwargs)
        told.append(told_to_bench(monkeypatch, argv[1:]))
        Path(told[-1].json).write_text("".join(json.dumps(each) + "\n" for each in records))
        return subprocess.CompletedProcess(argv, 0)

    monkeypatch.setattr(subprocess, "run", instead)


def test_verbs_asks_for_the_sizes_that_it_judges(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    times = {8 << power: 150 for power in range(10)} | {65536: 600}  # us; Gloo: 2000
    found = [record("rdmatrain", nbytes, us) for nbytes, us in times.items()]
    found += [record("gloo", nbytes, 2000) for nbytes in times]
    told: list[SweepOptions] = []
    bench_that_finds(monkeypatch, found, told)
    kept = tmp_path / "kept.jsonl"
    lines = verbs.dist_lines(kept)
    assert all(line.passes for line in lines)
    assert [line.theirs for line in lines] == ["2000 us"] * 11
    assert [json.loads(line) for line in kept.read_text().splitlines()] == found
    (options,) = told
    assert set(times) <= set(options.sizes)
    assert (options.operations, options.vs) == (("all_reduce",), "gloo")
    assert (options.transport, options.pin) == ("verbs", False)


@pytest.mark.parametrize(
    ("size", "found"),
    [
        (8, []),
        (8, [record("rdmatrain", 8, 1)]),
        (8, [record("gloo", 8, 100)]),
        (8, [record("rdmatrain", 64, 1), record("gloo", 8, 100)]),
        (8, [record("rdmatrain", 8, 1, nwrong=1), record("gloo", 8, 100)]),
        (8, [record("rdmatrain", 8, 11), record("gloo", 8, 100)]),
        (65536, [record("rdmatrain", 65536, 34), record("gloo", 65536, 100)]),
    ],
)
def test_verbs_misses_a_line_without_results_as_it_does_a_slow_one(
    size: int, found: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench_that_finds(monkeypatch, found, [])
    lines = {line.text: line for line in verbs.dist_lines(None)}
    assert len(lines) == 11
    text = f"dist.all_reduce {'8 B' if size == 8 else '64 KiB'}, times Gloo"
    assert not lines[text].passes
    assert str(lines[text]).endswith("MISSED")


def on_the_wire(
    monkeypatch: pytest.MonkeyPatch, rails: tuple[str, ...], found: list[dict[str, Any]]
) -> tuple[int, list[SweepOptions]]:
    """Run wire.py beside these devices, of which rdmatrain bench finds that."""
    search = SimpleNamespace(rails=rails, why_not="there is none")
    monkeypatch.setattr(wire.rdma, "find_rails", lambda settings: search)
    told: list[SweepOptions] = []
    bench_that_finds(monkeypatch, found, told)
    monkeypatch.setattr(sys, "argv", ["wire.py", "--rounds", "3"])
    return wire.main(), told


def found_on_the_wire(ratio: float) -> list[dict[str, Any]]:
    """All sizes of wire.py; write and pingpong of the last one take that times perftest's time."""
    return [
        record(backend, nbytes, times * us) | {"op": op}
        for op, sizes in wire.SIZES.items()
        for nbytes in sizes
        for backend, us in (("rdmatrain", 100.0), ("perftest", 100.0))
        for times in [ratio if backend == "rdmatrain" and nbytes == sizes[-1] else 1.0]
    ]


def test_the_wire_asks_for_the_sizes_that_it_judges(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = on_the_wire(monkeypatch, ("rxe0",), found_on_the_wire(1.09))
    assert code == 0
    assert [(each.operations, tuple(each.sizes)) for each in told] == [
        ((op,), sizes) for op, sizes in wire.SIZES.items()
    ]
    assert {(each.transport, each.vs, each.rounds) for each in told} == {("verbs", "perftest", 3)}
    assert capsys.readouterr().out.count("  ok\n") == 7


@pytest.mark.parametrize("lost", ["slow", "rdmatrain", "perftest", "wrong"])
def test_the_wire_misses_a_size_that_is_slower_by_more_than_a_tenth_or_not_measured(
    lost: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = found_on_the_wire(1.11 if lost == "slow" else 1.0)
    found = [each for each in found if each["nbytes"] != 64 or each["backend"] != lost]
    if lost == "wrong":
        found[0]["nwrong"] = 1
    code, _ = on_the_wire(monkeypatch, ("rxe0",), found)
    assert code == 1
    assert capsys.readouterr().out.count("MISSED\n") == (2 if lost == "slow" else 1)


def test_the_wire_is_not_measured_without_a_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert on_the_wire(monkeypatch, (), [])[0] == 2
    assert "no RDMA device can be used: there is none" in capsys.readouterr().err


def test_verbs_says_what_builds_its_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["verbs.py", "--core", str(tmp_path / "bench_core")])
    assert verbs.main() == 2
    assert "bench_core: make bench builds it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        ([record("rdmatrain", 8, 5), record("gloo", 8, 100)], 0, "faster in every case"),
        ([record("rdmatrain", 8, 100), record("gloo", 8, 50)], 1, "all_reduce of 8 bytes"),
        ([record("rdmatrain", 8, 5, nwrong=2), record("gloo", 8, 100)], 1, "of 8 bytes"),
        ([record("rdmatrain", 8, 5)], 1, "no result of gloo"),
        ([record("gloo", 8, 5)], 1, "no result of rdmatrain"),
        ([], 1, ""),
    ],
)
def test_smoke_asks_for_what_it_was_told_and_judges_all_that_comes(
    found: list[dict[str, Any]],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told: list[SweepOptions] = []
    bench_that_finds(monkeypatch, found, told)
    argv = ["smoke.py", "--op", "all_reduce", "--max-bytes", "512", "--nproc", "4", "--no-pin"]
    monkeypatch.setattr(sys, "argv", argv)
    assert smoke.main() == code
    assert said in capsys.readouterr().out
    (options,) = told
    assert (options.operations, options.sizes) == (("all_reduce",), [8, 64, 512])
    assert (options.ranks, options.vs, options.pin) == (4, "gloo", False)
