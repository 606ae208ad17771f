"""``rdmatrain run`` as users start it: real processes, tiny scripts, no torch in the workers."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

import rdmatrain

ROOT = str(Path(rdmatrain.__file__).parents[1])
RUN = [sys.executable, "-m", "rdmatrain.cli", "run"]
TWO = ["--nproc-per-node", "2"]
WAIT_S = 30.0
HOST = socket.gethostname()
FIRST = f"{HOST}:0│ ".encode()  # before each line of rank 0

Script = Callable[[str], str]
Result = subprocess.CompletedProcess[str]


NOT_INHERITED = ("RDMATRAIN_", "OMP_", "PET_")


def environment() -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(NOT_INHERITED)}
    return inherited | {"PYTHONPATH": ROOT}


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Write a worker with the usual imports and its rank as ``rank``; return its path."""

    def write(body: str) -> str:
        path = tmp_path / "worker.py"
        head = "import os, signal, subprocess, sys, time\nrank = int(os.environ['RANK'])\n"
        path.write_text(head + body, encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def pids(tmp_path: Path) -> Iterator[Callable[[int], list[int]]]:
    """Wait until workers have written ``count`` process ids as files; kill leftovers at the end."""
    folder = tmp_path / "pids"
    folder.mkdir()

    def listed(count: int = 0) -> list[int]:
        wait_until(lambda: len(list(folder.iterdir())) >= count)
        return [int(path.name) for path in folder.iterdir()]

    yield listed
    for pid in listed():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


NOTE_PID = "open(os.path.join(sys.argv[1], 'pids', str(os.getpid())), 'w').close()\n"
IGNORE_TERM = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
SETSID_CHILD = (
    "child = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
    "open(os.path.join(sys.argv[1], 'pids', str(child.pid)), 'w').close()\n"
    "while len(os.listdir(os.path.join(sys.argv[1], 'pids'))) < int(os.environ['WORLD_SIZE']):\n"
    "    time.sleep(0.01)\n"
)
SLEEP = "time.sleep(60)\n"


def run(*args: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> Result:
    return subprocess.run(
        [*RUN, *args],
        env=environment() | (env or {}),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def heed_signals() -> None:
    """Undo what a background job or nohup leaves ignored: the launcher rightly keeps that."""
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(*args: str, stdout: int | IO[bytes] = subprocess.PIPE) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*RUN, *args],
        env=environment(),
        stdout=stdout,
        stderr=subprocess.PIPE,
        preexec_fn=heed_signals,  # noqa: PLW1509
    )


def wait_until(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


# Exit codes


def test_all_workers_ending_well_give_0_and_a_quiet_stderr(script: Script) -> None:
    done = run(script("print('hello')"))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{HOST}:0│ hello\n", "")


def test_the_first_failed_workers_exit_code_is_returned(script: Script) -> None:
    done = run(*TWO, script("if rank == 1: sys.exit(77)\ntime.sleep(0.05)\nsys.exit(3)"))
    assert done.returncode == 77
    assert re.search(r"rank 1 on host \S+ \(pid \d+\): .* code 77", done.stderr)
    assert "other ranks here: 0 ended with exit code 3 by itself" in done.stderr


def test_a_killed_worker_gives_137_and_is_named(script: Script) -> None:
    done = run(*TWO, script("if rank: os.kill(os.getpid(), 9)\ntime.sleep(0.5)\nsys.exit(1)"))
    assert done.returncode == 137
    assert re.search(r"rank 1 on host \S+ \(pid \d+\): killed by SIGKILL", done.stderr)


def test_a_worker_that_ends_well_does_not_stop_the_others(script: Script) -> None:
    done = run(*TWO, script("if rank == 0: sys.exit()\ntime.sleep(1)\nprint('late')"))
    assert (done.returncode, done.stdout) == (0, f"{HOST}:1│ late\n")


def test_a_missing_module_fails_with_the_interpreters_message() -> None:
    done = run("-m", "no_such_module_anywhere")
    assert done.returncode == 1
    assert f"{HOST}:0│ " in done.stderr and "No module named no_such_module_anywhere" in done.stderr


# Arguments and environment


def test_script_arguments_pass_through_untouched(script: Script) -> None:
    args = ["--nnodes", "9", "--x=1", "--", "-m", "", "a b", "--help"]
    done = run("--nproc_per_node=1", script("import json; print(json.dumps(sys.argv[1:]))"), *args)
    assert json.loads(done.stdout.removeprefix(f"{HOST}:0│ ")) == args


def test_a_module_runs_with_its_arguments(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text("import sys; print(__name__, sys.argv[1:])")
    done = run("-m", "task", "--flag", cwd=tmp_path)
    assert done.stdout == f"{HOST}:0│ __main__ ['--flag']\n"


def test_omp_threads_are_set_and_said_once_unless_given(script: Script) -> None:
    body = script("print(os.environ.get('OMP_NUM_THREADS'))")
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    done = run(*TWO, body)
    assert sorted(done.stdout.split("\n")) == ["", f"{HOST}:0│ {threads}", f"{HOST}:1│ {threads}"]
    assert done.stderr.count("OMP_NUM_THREADS") == 1
    done = run(*TWO, body, env={"OMP_NUM_THREADS": "3"})
    assert sorted(done.stdout.split()) == sorted(["3", "3", f"{HOST}:0│", f"{HOST}:1│"])
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("name", "meant"),
    [("RDMATRAIN_TRANSPROT", "RDMATRAIN_TRANSPORT"), ("PET_NNODE", "PET_NNODES")],
)
def test_an_unknown_variable_exits_with_2_and_the_right_name(
    script: Script, name: str, meant: str
) -> None:
    done = run(script("print('started')"), env={name: "1"})
    assert (done.returncode, done.stdout) == (2, "")
    assert f"did you mean {meant}?" in done.stderr


def test_workers_see_what_torchrun_gives_them(script: Script) -> None:
    torchrun = Path(sys.executable).with_name("torchrun")
    if not torchrun.exists():
        pytest.skip("torchrun is not installed beside this interpreter")
    body = script(
        "import json\n"
        "keys = ('RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK GROUP_WORLD_SIZE '\n"
        "        'ROLE_RANK ROLE_WORLD_SIZE ROLE_NAME MASTER_ADDR MASTER_PORT '\n"
        "        'TORCHELASTIC_RESTART_COUNT TORCHELASTIC_MAX_RESTARTS PYTHONUNBUFFERED').split()\n"
        "env = {key: os.environ[key] for key in keys}\n"
        "assert os.environ['TORCHELASTIC_RUN_ID']\n"
        "open(f'{sys.argv[1]}.{rank}', 'w').write(json.dumps(env))\n"
    )
    found = {}
    for name, command in (("ours", RUN), ("theirs", [str(torchrun)])):
        options = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
        out = f"{body}.{name}"
        env = environment() | {"PYTHONUNBUFFERED": "1"}
        subprocess.run([*command, *TWO, *options, body, out], env=env, check=True, timeout=60)
        found[name] = [json.loads(Path(f"{out}.{rank}").read_text()) for rank in range(2)]
        for worker in found[name]:
            assert worker.pop("MASTER_PORT") == options[-1]
    assert found["ours"] == found["theirs"]


# Wrong input


@pytest.mark.parametrize(
    ("args", "code", "parts"),
    [
        (["--nproc-per-nod", "2"], 2, ["--nproc-per-nod", "did you mean --nproc-per-node?"]),
        (["--bogus"], 2, ["no option --bogus", "--help"]),
        (["--nproc-per-node", "2", "-x"], 2, ["-x"]),
        (["--nproc-per-node", "two"], 2, ["--nproc-per-node two", "auto"]),
        (["--nproc-per-node", "0"], 2, ["--nproc-per-node 0", "1 or more"]),
        (["--node-rank", "1"], 64, ["node rank 1 (--node-rank)", "1 node (default)", "--nnodes"]),
        (["--nnodes", "2"], 64, ["2 nodes (--nnodes)", "--master-addr"]),
        (["--master-port", "70000"], 2, ["--master-port 70000", "1 to 65535"]),
        (["--master-port", "http"], 2, ["--master-port http"]),
        (["--rdzv-backend", "etcd"], 64, ["--rdzv-backend etcd", "--master-addr"]),
        (["-m", "--no-python"], 64, ["--module and --no-python"]),
    ],
)
def test_wrong_options_say_which_and_start_nothing(
    script: Script, args: list[str], code: int, parts: list[str]
) -> None:
    done = run(*args, script("print('started')"), env={"RDMATRAIN_SECRET": "x" * 16})
    assert (done.returncode, done.stdout) == (code, "")
    for part in parts:
        assert part in done.stderr


def test_no_script_exits_with_2() -> None:
    done = run()
    assert done.returncode == 2
    assert "SCRIPT" in done.stderr


def test_a_missing_script_exits_with_64_and_names_the_working_directory(tmp_path: Path) -> None:
    done = run("gone.py", cwd=tmp_path)
    assert done.returncode == 64
    assert "'gone.py'" in done.stderr and str(tmp_path) in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_port_in_use_exits_with_64_and_says_how_to_choose_another(script: Script) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        done = run("--master-port", port, script(""))
    assert done.returncode == 64
    assert f"127.0.0.1:{port} (--master-port): Address already in use" in done.stderr
    assert "choose another port" in done.stderr


def test_a_wrong_setting_exits_with_2_before_anything_starts(script: Script) -> None:
    done = run(script("print('started')"), env={"RDMATRAIN_TRANSPORT": "ib"})
    assert (done.returncode, done.stdout) == (2, "")
    assert "RDMATRAIN_TRANSPORT='ib'" in done.stderr and "auto, verbs, shm, tcp" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--transport", "ib"], "--transport='ib' is not allowed"),
        (["--require", "auto"], "--require='auto' is not allowed"),
        (["--transport", "tcp", "--require", "verbs"], "--transport=tcp and --require=verbs"),
    ],
)
def test_a_wrong_transport_exits_with_2_and_names_the_option(
    script: Script, options: list[str], said: str
) -> None:
    done = run(*options, script("print('started')"))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_options_replace_the_variables_of_the_workers_and_say_so(script: Script) -> None:
    body = "import os; print(os.environ['RDMATRAIN_TRANSPORT'], os.environ['RDMATRAIN_REQUIRE'])"
    env = {"RDMATRAIN_TRANSPORT": "nonsense"}
    done = run("--transport", "tcp", "--require", "tcp", script(body), env=env)
    assert (done.returncode, done.stdout) == (0, f"{HOST}:0│ tcp tcp\n")
    assert "--transport tcp replaces RDMATRAIN_TRANSPORT=nonsense" in done.stderr


def test_a_worker_that_cannot_start_is_named_and_the_others_are_killed(
    script: Script, tmp_path: Path, pids: Callable[[int], list[int]]
) -> None:
    limited = ["sh", "-c", 'ulimit -n 20; exec "$@"', "sh", *RUN, "--nproc-per-node", "30"]
    done = subprocess.run(
        [*limited, script(NOTE_PID + SLEEP), str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert re.search(
        r"rank \d+ on host \S+: could not be started: .*Too many open files", done.stderr
    )
    assert "Traceback" not in done.stderr
    assert not any(map(is_alive, pids(0)))


# Output


def test_no_line_of_two_fast_ranks_is_lost_torn_or_reordered(script: Script) -> None:
    body = script("for i in range(50_000): print(rank, i, 'x' * (i % 90))")
    done = run(*TWO, body)
    seen: dict[str, int] = {"0": 0, "1": 0}
    for line in done.stdout.splitlines():
        label, rank, number, *rest = line.split(" ")
        assert label == f"{HOST}:{rank}│"
        assert int(number) == seen[rank]
        assert rest == ["x" * (int(number) % 90)]
        seen[rank] += 1
    assert seen == {"0": 50_000, "1": 50_000}


def test_stdout_and_stderr_in_one_pipe_keep_whole_lines(script: Script) -> None:
    body = script(
        "for i in range(5_000):\n"
        "    print('o' * 5000 if i % 50 == 0 else 'o')\n"
        "    print('e' * 5000 if i % 50 == 0 else 'e', file=sys.stderr)\n"
    )
    done = subprocess.run(
        [*RUN, *TWO, body],
        env=environment() | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=True,
    )
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 20_000
    assert all(re.fullmatch(rf"{HOST}:[01]│ (o|e|o{{5000}}|e{{5000}})", line) for line in lines)


def test_long_binary_and_unfinished_lines_come_through(script: Script) -> None:
    body = script(
        "out = sys.stdout.buffer\n"
        "out.write(b'y' * (1 << 20) + b'\\n' + bytes(range(14, 256)) + b'\\n')\n"
        "out.write(b'10%\\r20%\\r\\nend')\n"
    )
    done = subprocess.run([*RUN, body], env=environment(), capture_output=True, check=True)
    expected = [b"y" * (1 << 20), bytes(range(14, 256)), b"10%", b"20%", b"end"]
    assert done.stdout == b"".join(FIRST + line + b"\n" for line in expected)


def test_progress_is_shown_while_the_worker_still_runs(script: Script) -> None:
    launcher = start(script("sys.stdout.write('10%\\r')\n" + SLEEP))
    assert launcher.stdout is not None
    with launcher:
        ready, _, _ = select.select([launcher.stdout], [], [], WAIT_S)
        assert ready and os.read(launcher.stdout.fileno(), 100) == FIRST + b"10%\n"
        launcher.terminate()


@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_terminal_gets_colour_unless_no_color_is_set(script: Script, no_color: str) -> None:
    leader, follower = os.openpty()
    env = environment() | {"NO_COLOR": no_color, "TERM": "xterm"}
    subprocess.run([*RUN, script("print('hi')")], env=env, stdout=follower, check=True, timeout=60)
    shown = os.read(leader, 1000)
    os.close(leader)
    os.close(follower)
    assert b"hi" in shown
    assert (b"\x1b[" in shown) is (not no_color)


def test_a_reader_that_pauses_loses_nothing_and_a_signal_still_works(script: Script) -> None:
    launcher = start(script("for i in range(200_000): print(i)"))
    assert launcher.stdout is not None
    with launcher:
        time.sleep(1.0)
        lines = launcher.stdout.read().splitlines()
    assert lines == [FIRST + b"%d" % i for i in range(200_000)]
    launcher = start(script("while True: print('x' * 1000)"))
    with launcher:
        time.sleep(1.0)
        status = Path(f"/proc/{launcher.pid}/status").read_text(encoding="utf-8")
        assert int(status.split("VmHWM:")[1].split()[0]) < 64 << 10  # KiB
        launcher.terminate()
        assert launcher.wait(timeout=8) == 128 + signal.SIGTERM


def test_a_pipe_held_by_a_process_out_of_reach_does_not_keep_the_launcher(
    script: Script, tmp_path: Path, pids: Callable[[int], list[int]]
) -> None:
    launcher = start(script(NOTE_PID + "time.sleep(1)\nprint('end', end='')"), str(tmp_path))
    assert launcher.stdout is not None
    (worker,) = pids(1)
    with launcher, Path(f"/proc/{worker}/fd/1").open("wb"):
        assert launcher.wait(timeout=10) == 0
        assert launcher.stdout.read() == FIRST + b"end\n"


def test_a_reader_that_goes_away_ends_the_job(script: Script) -> None:
    launcher = start(script("while True: print('x' * 1000)"))
    assert launcher.stdout is not None and launcher.stderr is not None
    with launcher:
        launcher.stdout.close()
        assert launcher.wait(timeout=WAIT_S) != 0
        assert b"BrokenPipeError" in launcher.stderr.read()


# Stopping, and what is left behind


def test_killing_the_launcher_leaves_no_worker(
    script: Script, tmp_path: Path, pids: Callable[[int], list[int]]
) -> None:
    launcher = start(*TWO, script(NOTE_PID + SLEEP), str(tmp_path))
    with launcher:
        workers = pids(2)
        assert all(map(is_alive, workers))
        launcher.kill()
    wait_until(lambda: not any(map(is_alive, workers)), timeout_s=2.0)


def test_workers_that_ignore_sigterm_are_gone_when_the_grace_is_over(
    script: Script, tmp_path: Path, pids: Callable[[int], list[int]]
) -> None:
    launcher = start(*TWO, "--grace", "3", script(IGNORE_TERM + NOTE_PID + SLEEP), str(tmp_path))
    assert launcher.stderr is not None
    with launcher:
        workers = pids(2)
        started = time.monotonic()
        launcher.terminate()
        assert launcher.wait(timeout=20) == 128 + signal.SIGTERM
        took_s = time.monotonic() - started
        report = launcher.stderr.read()
    assert 2.9 < took_s < 4.5
    assert not any(map(is_alive, workers))
    assert b"stopped by SIGTERM" in report
    assert b"ranks here: 0-1 killed by SIGKILL from the launcher" in report


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_workers_get_the_launchers_signal_and_may_clean_up(
    script: Script, tmp_path: Path, pids: Callable[[int], list[int]], number: signal.Signals
) -> None:
    body = f"signal.signal({int(number)}, lambda n, f: (print('got', n), sys.exit(0)))\n"
    launcher = start(*TWO, script(body + NOTE_PID + SLEEP), str(tmp_path))
    with launcher:
        pids(2)
        launcher.send_signal(number)
        out, _ = launcher.communicate(timeout=WAIT_S)
        assert launcher.returncode == 128 + number
    assert sorted(out.splitlines()) == [
        f"{HOST}:{rank}│ got {int(number)}".encode() for rank in range(2)
    ]


def test_a_second_sigint_kills_at_once(
    script: Script, tmp_path: Path, pids: Callable[[int], list[int]]
) -> None:
    body = "signal.signal(signal.SIGINT, lambda n, f: print('no'))\n" + NOTE_PID
    launcher = start(script(body + "while True: time.sleep(1)"), str(tmp_path))
    assert launcher.stdout is not None
    with launcher:
        pids(1)
        launcher.send_signal(signal.SIGINT)
        assert launcher.stdout.readline() == FIRST + b"no\n"
        started = time.monotonic()
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(timeout=20) == 128 + signal.SIGINT
        assert time.monotonic() - started < 2.0


def test_sigterm_before_there_is_a_job_ends_with_143() -> None:
    code = (
        "import os, time, rdmatrain.cli as c\n"
        "c.cli = lambda **_: (os.kill(os.getpid(), 15), time.sleep(9))\n"
        "c.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        preexec_fn=heed_signals,
        timeout=60,
        check=False,
    )
    assert done.returncode == 143


def test_an_ignored_sighup_stays_ignored(
    script: Script, tmp_path: Path, pids: Callable[[int], list[int]]
) -> None:
    body = script(NOTE_PID + "time.sleep(1.5)\nprint('done')")
    launcher = subprocess.Popen(
        ["nohup", *RUN, body, str(tmp_path)], env=environment(), stdout=-1, stderr=-1, stdin=-3
    )
    with launcher:
        pids(1)
        launcher.send_signal(signal.SIGHUP)
        out, _ = launcher.communicate(timeout=WAIT_S)
    assert (launcher.returncode, out) == (0, FIRST + b"done\n")


def test_survivors_of_a_failure_get_sigterm_and_5_s_later_sigkill(
    script: Script, tmp_path: Path, pids: Callable[[int], list[int]]
) -> None:
    body = script(
        "if rank == 0: time.sleep(0.5); sys.exit(9)\n"
        "if rank == 1: signal.signal(signal.SIGTERM, lambda n, f: sys.exit(4))\n"
        "if rank == 2: " + IGNORE_TERM + NOTE_PID + SLEEP
    )
    started = time.monotonic()
    done = run("--nproc-per-node", "3", body, str(tmp_path))
    took_s = time.monotonic() - started
    assert done.returncode == 9
    assert 5.0 < took_s < 10.0
    assert "rank 0 " in done.stderr
    assert "1 ended with exit code 4 after SIGTERM from the launcher" in done.stderr
    assert "2 killed by SIGKILL from the launcher" in done.stderr
    assert not any(map(is_alive, pids(2)))


def test_survivors_that_end_by_themselves_are_not_waited_for(script: Script) -> None:
    started = time.monotonic()
    done = run(*TWO, script("time.sleep(0.3 * rank)\nsys.exit(5 + rank)"))
    assert done.returncode == 5
    assert time.monotonic() - started < 3.0


@pytest.mark.parametrize("ending", ["", "sys.exit(3)", "os.kill(os.getpid(), 9)"])
def test_a_grandchild_in_its_own_session_is_killed_when_the_job_ends(
    script: Script, tmp_path: Path, pids: Callable[[int], list[int]], ending: str
) -> None:
    done = run(*TWO, script(SETSID_CHILD + ending), str(tmp_path))
    assert (done.returncode == 0) is (ending == "")
    assert len(pids(2)) == 2
    assert not any(map(is_alive, pids(2)))


def test_a_grandchild_in_its_own_session_is_killed_on_sigterm(
    script: Script, tmp_path: Path, pids: Callable[[int], list[int]]
) -> None:
    launcher = start(script(SETSID_CHILD + SLEEP), str(tmp_path))
    with launcher:
        (child,) = pids(1)
        launcher.terminate()
        launcher.wait(timeout=WAIT_S)
    assert not is_alive(child)


def test_children_of_a_killed_worker_die_with_it_while_others_still_end(script: Script) -> None:
    body = script(
        "if rank == 0:\n"
        "    child = os.fork()\n"
        "    if child == 0: time.sleep(60)\n"
        "    open(sys.argv[0] + '.pid', 'w').write(str(child))\n"
        "    os.kill(os.getpid(), 9)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "time.sleep(1.5)\n"
        "child = open(sys.argv[0] + '.pid').read()\n"
        "print('alive' if os.path.exists(f'/proc/{child}') else 'gone')\n"
    )
    done = run(*TWO, body)
    assert (done.returncode, done.stdout) == (137, f"{HOST}:1│ gone\n")


def test_children_that_the_launcher_did_not_start_are_left_alone(
    script: Script, tmp_path: Path
) -> None:
    note = tmp_path / "sidecar"
    command = f'sleep 60 & echo $! >"{note}"; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", command, "sh", *RUN, script("")],
        env=environment(),
        stdout=subprocess.DEVNULL,
        timeout=60,
        check=True,
    )
    sidecar = int(note.read_text())
    assert done.returncode == 0 and is_alive(sidecar)
    os.kill(sidecar, signal.SIGKILL)


def test_the_launcher_imports_no_torch() -> None:
    code = "import sys, rdmatrain.cli, rdmatrain.launcher; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True, timeout=60)


def test_the_version_is_printed() -> None:
    command = [*RUN[:-1], "--version"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == f"rdmatrain, version {rdmatrain.__version__}\n"
