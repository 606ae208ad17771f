# SPDX-License-Identifier: Apache-2.0
"""Workers are started, signalled, reaped and given up; each in a child interpreter of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rdmatrain

ROOT = str(Path(rdmatrain.__file__).parents[1])
PREAMBLE = """
import os, signal, sys, time
from rdmatrain.launcher import process
from rdmatrain.launcher.crew import Crew
from rdmatrain.launcher.job import Program
from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.signals import SignalInbox
from rdmatrain.launcher.start import Start

loop, ended, empty = Loop(), [], []
crew = Crew(loop, lambda workers: ended.append([w.rank for w in workers]), lambda: empty.append(1))

def woken():
    inbox.drain()
    crew.reap()

def start(rank, body, **more):
    args = ("-c", "import os, signal, sys, time\\n" + body)
    program = Program(script=sys.executable, args=args, no_python=True)
    crew.start(Start(rank=rank, local_rank=rank, program=program, environment=os.environ, **more))

def run(until=lambda: empty):
    global inbox
    with SignalInbox(["SIGTERM"]) as inbox:
        loop.watch(inbox.fileno(), read=woken)
        crew.reap()
        loop.run(until)
        loop.watch(inbox.fileno())

def statuses():
    return [worker.status for worker in crew.workers]
"""


def run_in_child(body: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + body],
        env=os.environ | {"PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_end_is_told_once_and_the_last_one_empties_the_crew() -> None:
    run_in_child("""
start(0, "sys.exit(3)")
start(1, "os.kill(os.getpid(), 9)")
start(2, "time.sleep(0.3)")
run()
assert statuses() == [3, -9, 0], statuses()
assert sorted(rank for ranks in ended for rank in ranks) == [0, 1, 2] and empty == [1]
assert [w.rank for w in crew.workers if w.failed] == [0, 1]
""")


def test_who_ignores_a_stop_is_killed_and_who_heeds_it_is_not() -> None:
    run_in_child("""
reader, writer = os.pipe()
for rank, handler in enumerate(["signal.SIG_IGN", "lambda *_: sys.exit(7)"]):
    body = f"signal.signal(15, {handler})\\nprint(flush=True)\\ntime.sleep(60)"
    start(rank, body, stdout=writer)
    os.read(reader, 1)
began = time.monotonic()
crew.stop(15, 0.5)
run()
assert statuses() == [-9, 7], statuses()
assert [worker.sent for worker in crew.workers] == [9, 15]
assert 0.5 <= time.monotonic() - began < 5
""")


def test_a_signal_may_be_for_one_rank_alone() -> None:
    run_in_child("""
start(0, "time.sleep(60)")
start(1, "time.sleep(0.5)")
crew.send(9, only=0)
run()
assert statuses() == [-9, 0], statuses()
""")


def test_a_kill_reaches_children_in_the_workers_group() -> None:
    run_in_child("""
reader, writer = os.pipe()
assert process.become_subreaper()
start(0, "if os.fork() == 0: print(os.getpid(), flush=True)\\ntime.sleep(60)", stdout=writer)
child = int(os.read(reader, 100))
crew.kill()
run()
assert statuses() == [-9]
end = time.monotonic() + 10
while os.path.exists(f"/proc/{child}"):
    crew.reap()
    assert time.monotonic() < end, "its child lives"
    time.sleep(0.01)
""")


def test_orphans_are_reaped_without_being_taken_for_workers() -> None:
    run_in_child("""
assert process.become_subreaper()
start(0, "pid = os.fork()\\nif pid == 0:\\n  os.setsid()\\n  sys.exit(5)\\nsys.exit(0)")
run()
time.sleep(0.3)
crew.reap()
assert statuses() == [0]
try:
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
except ChildProcessError:
    pass
else:
    raise SystemExit("a child is left")
""")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU only")
def test_a_worker_runs_on_its_cpus_alone() -> None:
    run_in_child("""
cpu = max(os.sched_getaffinity(0))
start(0, f"sys.exit(0 if os.sched_getaffinity(0) == {{{cpu}}} else 1)", cpus=(cpu,))
run()
assert statuses() == [0]
""")


def test_what_cannot_be_started_is_an_oserror() -> None:
    run_in_child("""
for script, environment in (("/no/such/program", {}), (sys.executable, {"A\\0": "b"})):
    program = Program(script=script, no_python=True)
    try:
        crew.start(Start(rank=0, local_rank=0, program=program, environment=environment))
    except OSError as error:
        assert str(error)
    else:
        raise SystemExit("started")
assert crew.workers == []
""")


def test_who_cannot_be_killed_is_given_up() -> None:
    run_in_child("""
import rdmatrain.launcher.crew as module
module.UNKILLABLE_S = 0.2
start(0, "time.sleep(60)")
real, crew.send = crew.send, lambda number: None
crew.kill()
run()
assert empty == [1] and not crew.busy and len(crew.alive) == 1
real(9)
run(lambda: not crew.alive)
assert empty == [1]
""")
