# SPDX-License-Identifier: Apache-2.0
"""What workers print, through the pump of a launcher in small: real processes, no torch."""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest

import rdmatrain
from rdmatrain.launcher.job import Output
from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.output import OutputPump

ROOT = str(Path(rdmatrain.__file__).parents[1])
WAIT_S = 30.0

# A round of workers, which have ranks from 10 on; arguments: Output as JSON, workers, their code.
LAUNCHER = """
import json, subprocess, sys
from rdmatrain.launcher.job import Output
from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.output import OutputPump

fields, nproc, code = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
fields = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
loop = Loop()
pump = OutputPump(loop, Output(**fields), host="host", role="role", run_id="a/b")
workers = []
for restart in range(2 if "RESTART" in code else 1):
    pump.begin_round(restart, nproc)
    for n in range(nproc):
        with pump.worker(10 + n, n) as (out, err):
            command = [sys.executable, "-u", "-c", code, str(n), str(restart)]
            workers.append(subprocess.Popen(command, stdout=out, stderr=err))
    loop.run(lambda: not pump.num_open_streams)
pump.say("end")
loop.run(lambda: not pump.num_pending_bytes)
pump.close()
pump.close()
for worker in workers:
    worker.wait()
"""
WORKER = "import sys, os, time; local_rank, restart = map(int, sys.argv[1:])\n"
SAY = WORKER + "print('out', local_rank, restart)\nprint('err', local_rank, file=sys.stderr)\n"

Result = subprocess.CompletedProcess[bytes]


def command(code: str, nproc: int, output: dict[str, object]) -> list[str]:
    return [sys.executable, "-c", LAUNCHER, json.dumps(output), str(nproc), code]


def environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": ROOT, "PYTHONIOENCODING": "utf-8"}


def run(code: str, nproc: int = 2, env: dict[str, str] | None = None, **output: object) -> Result:
    return subprocess.run(
        command(code, nproc, output),
        env=environment() | (env or {}),
        capture_output=True,
        timeout=60,
        check=True,
    )


def start(code: str, stdout: int | IO[bytes], **output: object) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command(code, 1, output), env=environment(), stdout=stdout, stderr=subprocess.PIPE
    )


def lines(data: bytes) -> list[str]:
    return sorted(data.decode().splitlines())


def files(folder: Path) -> dict[str, str]:
    """Return what the files of a run hold, by their paths below ``attempt_N``'s parent."""
    (run_folder,) = folder.iterdir()
    assert re.fullmatch(r"a_b_\w+", run_folder.name)
    return {
        str(path.relative_to(run_folder)): path.read_text(encoding="utf-8")
        for path in run_folder.rglob("*")
        if path.is_file()
    }


def test_lines_come_behind_host_and_rank() -> None:
    done = run(SAY)
    assert lines(done.stdout) == ["host:10│ out 0 0", "host:11│ out 1 0"]
    assert lines(done.stderr) == ["host:10│ err 0", "host:11│ err 1", "rdmatrain run: end"]


def test_the_bar_is_ascii_where_it_cannot_be_shown() -> None:
    done = run(SAY, 1, env={"PYTHONIOENCODING": "latin-1"})
    assert done.stdout == b"host:10| out 0 0\n"


def test_the_prefix_follows_the_template() -> None:
    done = run(SAY, 1, template="[${role_name}${local_rank} of ${rank}]:")
    assert done.stdout == b"[role0 of 10]:out 0 0\n"


def test_ranks_that_are_not_wanted_are_not_shown() -> None:
    for done in (run(SAY, only_local=[1]), run(SAY, only=[1, 11])):  # ranks are 10 and 11
        assert lines(done.stdout) == ["host:11│ out 1 0"]
        assert lines(done.stderr) == ["host:11│ err 1", "rdmatrain run: end"]
    assert run(SAY, only_local=[1], only=[10]).stdout == b""


def test_lines_without_the_text_are_in_files_alone(tmp_path: Path) -> None:
    code = WORKER + "print('loss 1\\nstep\\nloss', local_rank); print('step', file=sys.stderr)"
    done = run(
        code, 1, grep="loss", tee="3", log_dir=str(tmp_path), stdout_filters=["step"], color=False
    )
    assert done.stdout.decode() == "host:10│ loss 1\nhost:10│ loss 0\n"
    assert lines(done.stderr) == ["rdmatrain run: end"]
    assert files(tmp_path) == {
        "attempt_0/0/stdout.log": "loss 1\nstep\nloss 0\n",
        "attempt_0/0/stderr.log": "step\n",
        "attempt_0/filtered_stdout.log": "host:10│ step\n",
    }


def test_redirected_streams_go_to_files_alone(tmp_path: Path) -> None:
    done = run(SAY, log_dir=str(tmp_path / "new" / "logs"), redirects="0:3,1:1")
    assert done.stdout == b""
    assert lines(done.stderr) == ["host:11│ err 1", "rdmatrain run: end"]
    assert files(tmp_path / "new" / "logs") == {
        "attempt_0/0/stdout.log": "out 0 0\n",
        "attempt_0/0/stderr.log": "err 0\n",
        "attempt_0/1/stdout.log": "out 1 0\n",
    }


def test_teed_streams_go_to_files_too_whoever_is_shown(tmp_path: Path) -> None:
    done = run(SAY, log_dir=str(tmp_path), redirects="1", tee="0:1,1:2", only_local=[0])
    assert lines(done.stdout) == ["host:10│ out 0 0"]
    assert lines(done.stderr) == ["host:10│ err 0", "rdmatrain run: end"]
    assert files(tmp_path) == {
        "attempt_0/0/stdout.log": "out 0 0\n",
        "attempt_0/1/stdout.log": "out 1 0\n",
        "attempt_0/1/stderr.log": "err 1\n",
    }


def test_each_attempt_has_its_own_files(tmp_path: Path) -> None:
    run(SAY + "# RESTART", 1, log_dir=str(tmp_path), tee="1", redirects="1")
    assert files(tmp_path) == {
        "attempt_0/0/stdout.log": "out 0 0\n",
        "attempt_1/0/stdout.log": "out 0 1\n",
    }


def test_filtered_lines_of_what_is_shown_are_gathered(tmp_path: Path) -> None:
    code = WORKER + "for i in range(100): print(local_rank, 'number', i)\nprint('error')"
    done = run(
        code, 3, log_dir=str(tmp_path), tee="3", only_local=[0, 2], stdout_filters=["7", "rr"]
    )
    assert len(done.stdout.splitlines()) == 202
    gathered = files(tmp_path)["attempt_0/filtered_stdout.log"].splitlines()
    numbers = [i for i in range(100) if "7" in str(i)]
    for rank in (10, 12):
        mine = [line for line in gathered if line.startswith(f"host:{rank}│ ")]
        wanted = [f"host:{rank}│ {rank - 10} number {i}" for i in numbers]
        assert mine == [*wanted, f"host:{rank}│ error"]
    assert len(gathered) == 2 * (len(numbers) + 1)


def test_files_without_a_folder_go_to_a_temporary_one_which_is_told(tmp_path: Path) -> None:
    done = run(SAY, 1, env={"TMPDIR": str(tmp_path)}, redirects="1")
    (told,) = re.findall(rb"rdmatrain run: files of output are in (\S+)\n", done.stderr)
    assert Path(told.decode(), "attempt_0/0/stdout.log").read_text() == "out 0 0\n"
    assert tmp_path in Path(told.decode()).parents


def test_the_null_device_as_folder_means_no_files() -> None:
    done = run(SAY, 1, log_dir=os.devnull, redirects="3", tee="3")
    assert done.stdout == b"host:10\xe2\x94\x82 out 0 0\n"


@pytest.mark.parametrize(
    "output", [{"log_dir": "{}/file"}, {"tee": "9"}, {"redirects": "x"}, {"log_dir": "/proc/x/y"}]
)
def test_what_makes_no_sense_is_refused_with_the_options_name(
    tmp_path: Path, output: dict[str, str]
) -> None:
    (tmp_path / "file").touch()
    fields = {name: text.format(tmp_path) for name, text in output.items()}
    done = subprocess.run(
        command(SAY, 1, fields), env=environment() | {"TMPDIR": str(tmp_path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    option = next(iter(output)).replace("_", "-")
    assert f"SettingError: --{option} " in done.stderr
    assert fields[next(iter(output))] in done.stderr


def test_a_full_disk_is_told_once_and_the_rest_goes_on(tmp_path: Path) -> None:
    code = "for i in range(20_000): print(i)"
    limited = ["sh", "-c", 'ulimit -f 8; exec "$@"', "sh"]  # 4 or 8 KiB, as shells have it
    done = subprocess.run(
        [*limited, *command(code, 1, {"log_dir": str(tmp_path), "tee": "1"})],
        env=environment() | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.count(b"\n") == 20_000
    assert done.stderr.count(b"File too large") == 1
    assert re.search(rb"attempt_0/0/stdout.log: File too large: .* lost", done.stderr)


def test_numbered_lines_of_two_fast_ranks_stay_whole_and_in_order(tmp_path: Path) -> None:
    code = WORKER + "for i in range(50_000): print(local_rank, i, 'x' * (i % 90))"
    done = run(code, log_dir=str(tmp_path), tee="1")
    for rank in range(2):
        mark = f"host:{10 + rank}│ ".encode()
        mine = [line[len(mark) :] for line in done.stdout.splitlines() if line.startswith(mark)]
        wanted = [b"%d %d %s" % (rank, i, b"x" * (i % 90)) for i in range(50_000)]
        assert mine == wanted
        assert files(tmp_path)[f"attempt_0/{rank}/stdout.log"].encode().split(b"\n")[:-1] == wanted
    assert done.stdout.count(b"\n") == 100_000


def test_stdout_and_stderr_in_one_pipe_keep_whole_lines() -> None:
    code = (
        "import sys\n"
        "for i in range(2_000):\n"
        "    print('o' * (1 << 16) if i % 50 == 0 else 'o')\n"
        "    print('e' * 5000 if i % 50 == 0 else 'e', file=sys.stderr)\n"
    )
    done = subprocess.run(
        command(code, 2, {}), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=60, check=True,
    )  # fmt: skip
    shown = done.stdout.decode().splitlines()
    assert len(shown) == 8_001
    pattern = re.compile(r"host:1[01]│ (o|e|o{65536}|e{5000})|rdmatrain run: end")
    assert all(map(pattern.fullmatch, shown))


def test_junk_and_a_line_that_a_crash_left_unfinished_come_through(tmp_path: Path) -> None:
    code = (
        "import os\n"
        "os.write(1, b'y' * (1 << 16) + b'\\n' + bytes(range(14, 256)) + b'\\n')\n"
        "os.write(1, b'10%\\r20%\\r\\nend')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = run(code, 1, log_dir=str(tmp_path), tee="1")
    expected = [b"y" * (1 << 16), bytes(range(14, 256)), b"10%", b"20%", b"end"]
    assert done.stdout == b"".join("host:10│ ".encode() + line + b"\n" for line in expected)
    raw = next(tmp_path.rglob("stdout.log")).read_bytes()
    assert raw == b"\n".join([*expected[:2], b"10%\r20%\r", b"end"])


@pytest.mark.parametrize("color", [False, True])
def test_a_terminal_gets_colour_if_it_may(color: bool) -> None:
    leader, follower = os.openpty()
    with start(SAY, follower, color=color) as launcher:
        assert launcher.wait(WAIT_S) == 0
        shown = os.read(leader, 1000).decode()
    os.close(leader)
    os.close(follower)
    mark = r"\x1b\[\d+mhost:10│ \x1b\[0m" if color else "host:10│ "
    assert re.fullmatch(mark + "out 0 0\r\n", shown)


def test_a_reader_that_has_stopped_makes_the_worker_wait_and_memory_stays() -> None:
    with start("while True: print('x' * 1000)", subprocess.PIPE) as launcher:
        time.sleep(1.0)
        status = Path(f"/proc/{launcher.pid}/status").read_text(encoding="utf-8")
        launcher.kill()
    assert int(status.split("VmHWM:")[1].split()[0]) < 64 << 10  # KiB


def test_a_reader_that_goes_away_ends_what_is_only_shown(tmp_path: Path) -> None:
    with start("while True: print('x' * 1000)", subprocess.PIPE) as launcher:
        assert launcher.stdout is not None and launcher.stderr is not None
        launcher.stdout.close()
        assert launcher.wait(WAIT_S) == 0
        assert b"BrokenPipeError" in launcher.stderr.read()
    code = "for i in range(50_000): print(i)"
    with start(code, subprocess.PIPE, log_dir=str(tmp_path), tee="1") as launcher:
        assert launcher.stdout is not None
        launcher.stdout.close()
        assert launcher.wait(WAIT_S) == 0
    logged = next(tmp_path.rglob("stdout.log")).read_text().split()
    assert logged == list(map(str, range(50_000)))


def test_a_line_is_shown_at_once() -> None:
    code = "import time\nfor _ in range(20): print(time.monotonic()); time.sleep(0.05)"
    with start(code, subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        delays = []
        for line in launcher.stdout:
            delays.append(time.monotonic() - float(line.split()[-1]))
    assert len(delays) == 20
    assert sorted(delays)[10] < 0.05


def test_what_a_pipe_still_holds_is_read_when_reading_stops(tmp_path: Path) -> None:
    # A process out of the launcher's reach holds the pipe open: its end never comes.
    loop = Loop()
    pump = OutputPump(
        loop, Output(log_dir=str(tmp_path), tee="1", only_local=(0,)), host="host", role="role"
    )
    pump.begin_round(0, 1)
    with pump.worker(0, 0) as (out_fd, _):
        held = os.dup(out_fd)
    os.write(held, b"first\nlast")
    assert pump.num_open_streams > 0
    pump.stop_reading()
    assert pump.num_open_streams == 0
    assert next(tmp_path.rglob("stdout.log")).read_bytes() == b"first\nlast"
    pump.close()
    loop.close()
    with pytest.raises(BrokenPipeError):
        os.write(held, b"x")
    os.close(held)


def test_a_stopped_reader_does_not_stop_the_loop() -> None:
    code = (
        "import sys\nfrom rdmatrain.launcher.job import Output\n"
        "from rdmatrain.launcher.loop import Loop\n"
        "from rdmatrain.launcher.output import OutputPump\n"
        "loop = Loop()\npump = OutputPump(loop, Output(), host='h', role='r')\nturns = []\n"
        "for _ in range(2000): pump.say('x' * 1000)\n"
        "def tick():\n    turns.append(1)\n    loop.later(0.01, tick)\n"
        "tick()\nloop.run(lambda: len(turns) > 20)\nprint('turned', flush=True)\n"
        "loop.run(lambda: not pump.num_pending_bytes)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment(), stdout=-1, stderr=-1
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert select.select([process.stdout], [], [], WAIT_S)[0], "the loop is stuck"
        assert len(process.stderr.read().splitlines()) == 2000
        process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (b"first\nlast words\n", "last words"),
        (b"first\nnot ended", "not ended"),
        (b"first\n\n  \n", "first"),
        (b"10%\r20%\x1b[0m\xff\n", "20% [0m\ufffd"),
        (b"x" * 70_000 + b"\nlast\n", "last"),
        (b"", ""),
    ],
)
@pytest.mark.parametrize("output", [Output(), Output(only=(9,)), Output(only_local=(9,))])
def test_the_last_line_of_stderr_is_known_when_a_worker_has_ended(
    output: Output, written: bytes, expected: str
) -> None:
    code = f"import os; os.write(1, b'out\\n'); os.write(2, {written!r})"
    with contextlib.closing(Loop()) as loop:
        pump = OutputPump(loop, output, host="h", role="r")
        pump.begin_round(0, 2)
        with pump.worker(0, 0) as (_, err_fd), pump.worker(1, 1) as (_, other_fd):
            held = os.dup(other_fd)
            worker = subprocess.Popen([sys.executable, "-c", code], stdout=-3, stderr=err_fd)

        def tick() -> None:
            loop.later(0.01, tick)

        tick()
        loop.run(lambda: worker.poll() is not None)
        assert pump.last_line(0) == expected
        os.write(held, b"of another rank\n")  # and not read by the loop
        assert pump.last_line(1) == "of another rank"
        os.close(held)
        pump.begin_round(1, 2)
        assert pump.last_line(0) == ""
        pump.close()


def test_where_there_can_be_no_files_all_ranks_are_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with contextlib.closing(Loop()) as loop:
        pump = OutputPump(
            loop, Output(log_dir=str(tmp_path), tee="3", only=(9,)), host="h", role="r"
        )
        (folder,) = tmp_path.iterdir()
        (folder / "attempt_0").touch()
        pump.begin_round(0, 1)
        with pump.worker(0, 0) as fds:
            for fd in fds:
                os.write(fd, b"line\n")
        loop.run(lambda: not pump.num_open_streams and not pump.num_pending_bytes)
        pump.close()
    said = capfd.readouterr()
    assert said.out == "h:0│ line\n"
    assert "no files in" in said.err and "h:0│ line\n" in said.err
