# SPDX-License-Identifier: Apache-2.0
"""benchmarks/pass_lines.py and common.py: verdicts on made-up times, and jobs that fail or hang."""

import math
import os
import signal
import subprocess
import sys
import time

import pytest
from benchmark_scripts import FOLDER, load

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture(scope="module")
def common():
    return load("common")


@pytest.fixture(scope="module")
def lines():
    return load("pass_lines")


# Of the line whose text holds the words: what passes exactly, written out from the table.
EXACTLY = [
    ("8 B, 2 ranks", ("rdmatrain", 2, "all_reduce", "float32", 8), 2 * 3.0),
    ("memory limit", ("rdmatrain", 2, "all_reduce", "float32", 512 * KIB), (8.5 + 3.0) / 0.85),
    ("memory limit", ("rdmatrain", 2, "all_reduce", "float32", 64 * MIB), (8.5 + 3.0) / 0.85),
    ("outside", ("rdmatrain-staged", 2, "all_reduce", "float32", 8 * KIB), 20.0 + 3.0),
    ("outside", ("rdmatrain-staged", 2, "all_reduce", "float32", 64 * MIB), 20.0 + 3.0),
    ("64 KiB up", ("rdmatrain", 4, "all_reduce", "float32", 64 * KIB), 20.0),
    ("below 64 KiB", ("rdmatrain", 4, "all_reduce", "float32", 32 * KIB), 4 * 20.0),
    ("4 ranks, up to 64 KiB: at least 20", ("rdmatrain", 4, "all_reduce", "float32", 64 * KIB), 60),
    ("2 ranks, up to 512", ("rdmatrain", 2, "all_reduce", "float32", 512 * KIB), 1200 / 10),
    ("2 ranks, above 512", ("rdmatrain", 2, "all_reduce", "float32", MIB), 1200 / 8),
    ("4 ranks, up to 512", ("rdmatrain", 4, "all_reduce", "float32", 8), 1200 / 10),
    ("4 ranks, above 512", ("rdmatrain", 4, "all_reduce", "float32", 64 * MIB), 1200 / 8),
    ("reduce_scatter", ("rdmatrain", 2, "reduce_scatter", "float32", 4 * MIB), 0.85 * 5.0),
    ("all_gather,", ("rdmatrain", 2, "all_gather", "float32", 64 * MIB), 1.05 * 5.0),
    ("all_gather_own", ("rdmatrain", 2, "all_gather_own", "float32", 4 * MIB), 0.65 * 5.0),
    ("broadcast", ("rdmatrain", 2, "broadcast", "float32", 64 * MIB), 5.0),
    ("bfloat16", ("rdmatrain", 2, "all_reduce", "bfloat16", 4 * MIB), 5.0 / 0.8),
    ("float16, 2", ("rdmatrain", 2, "all_reduce", "float16", 512 * KIB), 5.0 / 0.8),
]


@pytest.fixture
def times(lines, common):
    """Return times of every contestant with which every line passes."""
    alike = {"rdmatrain": 5.0, "rdmatrain-staged": 6.0, "limit": 8.5, "gloo": 1200.0}
    alike |= {"openmpi": 30.0, "mpich": 20.0, "intelmpi": 25.0}
    found = {
        (name, ranks, "all_reduce", "float32", nbytes): value
        for name, value in alike.items()
        for ranks in (2, 4)
        for nbytes in lines.SIZES
    }
    found["donothing", 2, "all_reduce", "float32", 8] = 3.0
    ours = {("all_reduce", "bfloat16"), ("all_reduce", "float16")}
    ours |= {(op, "float32") for op in lines.OTHER_LIMITS}
    found |= {("rdmatrain", 2, *two, n): 1.0 for two in ours for n in lines.LARGE}
    return {key_of(lines, common, key): value * 1e-6 for key, value in found.items()}


def key_of(lines, common, key):
    return lines.Key(*key[:2], common.Case(*key[2:]))


def verdicts(lines, times, words=""):
    judged = lines.judge(times, lines.SIZES, [2, 4])
    return {line.verdict for line in judged if words in line.text}


def test_all_lines_pass_when_every_time_is_good(lines, times):
    assert verdicts(lines, times) == {"PASS"}


@pytest.mark.parametrize(("words", "key", "allowed_us"), EXACTLY)
def test_a_line_misses_just_above_what_is_allowed(lines, common, times, words, key, allowed_us):
    times[key_of(lines, common, key)] = allowed_us * 0.999e-6
    assert "MISS" not in verdicts(lines, times, words)
    times[key_of(lines, common, key)] = allowed_us * 1.001e-6
    assert "MISS" in verdicts(lines, times, words)


@pytest.mark.parametrize("name", ["donothing", "limit", "mpich", "gloo", "rdmatrain-staged"])
def test_a_line_without_its_contestant_is_skipped_and_names_it(lines, times, name):
    left = {key: value for key, value in times.items() if key.backend != name}
    skipped = [line for line in lines.judge(left, lines.SIZES, [2, 4]) if line.verdict == "SKIP"]
    assert skipped
    assert all(name in str(line) for line in skipped)


def test_a_missed_cell_is_not_hidden_by_a_missing_one(lines):
    line = lines.Line("a line", (lines.Cell("8 B", 2.0, 1.0),), ("gloo",))
    assert line.verdict == "MISS"


def test_sizes_and_ranks_of_the_run_bound_the_lines(lines, times):
    judged = lines.judge(times, [8, 64 * KIB], [2])
    assert not any("4 ranks" in line.text for line in judged)
    labels = {cell.label for line in judged for cell in line.cells}
    assert labels == {"8 B", "64 KiB"}


def test_disturbed_rounds_do_not_count_beside_quiet_ones(common):
    host, case = load("intra_host"), common.Case("all_reduce", "float32", 8)
    rounds = [host.Round(o, {case: s}) for o, s in ((0.5, 9.0), (0.01, 1.0), (0.0, 3.0), (0.4, 7))]
    found = host.medians({("gloo", 2): host.undisturbed(rounds)})
    assert list(found.values()) == [2.0]
    assert host.undisturbed([rounds[0], rounds[3]]) == [rounds[3]]


def test_a_case_survives_the_command_line(common):
    case = common.Case("all_gather", "float16", 4 * MIB)
    assert common.Case.parse(str(case)) == case


def test_the_slowest_rank_decides_the_time(common):
    seen = []

    def largest(value):
        seen.append(value)
        return 7.0

    assert common.p50_seconds(lambda: None, lambda: None, largest, 0.01) == 7.0
    assert all(math.isfinite(value) and value >= 0 for value in seen)


def python(code):
    return ([sys.executable, "-c", code], {"WHO": "job"})


def test_a_job_returns_the_output_of_its_first_process(common):
    first, second = python("import os; print(os.environ['WHO'], 1)"), python("print(2)")
    assert common.run_job([first, second], timeout=30) == "job 1\n"


def test_a_failed_process_ends_the_job_and_is_quoted(common, tmp_path):
    mark = tmp_path / "pid"
    stuck = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    fails = (
        "import os, sys, time\n"
        f"while not os.path.exists({str(mark)!r}): time.sleep(0.01)\n"
        "time.sleep(0.1); sys.exit('told why')"
    )
    begin = time.monotonic()
    with pytest.raises(common.JobError, match="told why"):
        common.run_job([python(stuck), python(fails)], timeout=30)
    assert time.monotonic() - begin < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def test_a_late_job_is_ended(common):
    with pytest.raises(common.JobError):
        common.run_job([python("import time; time.sleep(60)")], timeout=0.5)


def test_a_job_ends_with_the_benchmark(tmp_path):
    mark = tmp_path / "pid"
    stuck = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    runs = f"import common, sys; common.run_job([([sys.executable, '-c', {stuck!r}], {{}})], 60)"
    benchmark = subprocess.Popen([sys.executable, "-c", runs], cwd=FOLDER)
    while not (mark.exists() and mark.read_text()):
        time.sleep(0.01)
    benchmark.terminate()
    assert benchmark.wait(timeout=20) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def test_memory_is_read_of_running_processes_only():
    memory = load("memory")
    ballast = bytearray(os.urandom(1)) * (32 * MIB)
    assert memory.pss_bytes(os.getpid()) > len(ballast)
    assert memory.pss_bytes(2**22 + 1) == 0  # above the largest process id
