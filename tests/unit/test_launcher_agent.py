# SPDX-License-Identifier: Apache-2.0
"""One node's agent, with real workers; each in a child interpreter, whose children it ends."""

import os
import subprocess
import sys
from pathlib import Path

import rdmatrain

PATHS = [str(Path(rdmatrain.__file__).parents[1]), str(Path(__file__).parent)]
PREAMBLE = """
import os, signal, sys, time
from dataclasses import replace
from fake_gang import FakeDoor, FakeRoom, job, pair
from rdmatrain.errors import SettingError
from rdmatrain.launcher import agent as module
from rdmatrain.launcher.agent import Agent
from rdmatrain.launcher.contracts import Parts
from rdmatrain.launcher.gang import join
from rdmatrain.launcher.job import Limits, Program
from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.messages import *
from rdmatrain.launcher.start import Start

class Reserve:
    pids = ()
    is_closed = False
    def close(self):
        self.is_closed = True

class Muster:
    reserve, error = Reserve(), None
    def __init__(self, bodies):
        self.bodies = bodies
    def start(self, crew, pump, round, store_port):
        for rank, body in enumerate(self.bodies):
            program = Program(script=sys.executable, args=("-c", HEAD + body), no_python=True)
            with pump.worker(rank, rank) as (out, err):
                crew.start(Start(rank=rank, local_rank=rank, program=program,
                                 environment=os.environ, stdout=out, stderr=err))
        if self.error:
            raise self.error

class Watcher:
    begin = lambda self, workers: None
    observe = lambda self: ()
    error_of = status_of = lambda self, local_rank: ""
    stacks = lambda self, local_rank: "line\\n" * 40

class Guardian:
    pid, cgroup = 0, None

class Silent:  # a gang that never answers
    store_port, store_pid = 1, 0
    def __init__(self):
        self.said = []
    def say(self, message):
        self.said.append(message)
    def close(self):
        pass
    def kinds(self):
        quiet = [Report(round=1, ended=ranks) for ranks in ((), (0,), (1,), (0, 1))]
        return [type(each).__name__ for each in self.said if each not in quiet]

HEAD = '''
import os, signal, sys, time
def heed(code=None):
    def handler(number, frame):
        print("got", number, flush=True)
        if code is not None: sys.exit(code)
    for number in (2, 15): signal.signal(number, handler)
    print("up", flush=True)
def wait():
    while True: time.sleep(1)
'''
UP = "heed(); wait()"
GOES = "heed(0); wait()"
NODE = Node(node_rank=0, host="h", address="", nproc=2, first_rank=0)
ROUND = Round(number=1, restart=0, nodes=(NODE,), mine=0)
FAULT = Fault(kind="exit", host="other", rank=5, detail="broke", exit_code=9)
END = EndRound(number=1, fault=FAULT, again=False)
loop = Loop()

def make(bodies, **limits):
    global agent
    usual = dict(shutdown_s=0.5, grace_s=20.0, hang_s=0)
    its = replace(job(nproc=2), limits=Limits(**{**usual, **limits}))
    agent = Agent(loop, its, Muster(bodies), Watcher(), Guardian())
    agent.shown, say = [], agent._pump.say
    agent._pump.say = lambda text: (agent.shown.append(text), say(text))
    return agent, its

def kill_me(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)

def with_gang(bodies, **limits):
    agent, its = make(bodies, **limits)
    parts = Parts(lambda loop, note: FakeRoom(loop, note), FakeDoor, pair)
    return agent.run(lambda handler: join(loop, its, b"", handler, parts=parts))

def alone(bodies, *later, **limits):
    # What the gang says, and when.
    agent, _ = make(bodies, **limits)
    agent.gang = Silent()
    def begin(handler):
        loop.later(0, lambda: agent.on_round(ROUND))
        for after_s, call in later:
            loop.later(after_s, call)
        return agent.gang
    return agent.run(begin)
"""


def run_in_child(body: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + body],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_signal_while_workers_are_being_ended_is_not_for_them() -> None:
    out = run_in_child("""
module.ANSWER_S = 0.4
def end_and_stop(end, real=Agent.on_end_round):
    real(agent, end)
    kill_me(15)
Agent.on_end_round = lambda self, end: end_and_stop(end)
finish = with_gang(["heed(); time.sleep(1); sys.exit(9)", UP], shutdown_s=1.0)
assert finish.exit_code == 9 and finish.fault.rank == 0, finish
assert [worker.status for worker in agent._crew.workers] == [9, -9]
""")
    assert out.count("1│ got 15") == 1


def test_a_signal_between_rounds_ends_the_job_without_another_round() -> None:
    run_in_child("""
Agent._on_empty = lambda self, real=Agent._on_empty: (kill_me(15), self._on_signals(), real(self))
finish = with_gang(["sys.exit(9)"], max_restarts=3)
assert finish == Finish(exit_code=143), finish
assert any(line.startswith("stopped by SIGTERM on host") for line in agent.shown), agent.shown
assert not any(line.startswith("restart") for line in agent.shown), agent.shown
""")


def test_a_gang_that_does_not_answer_is_stopped_without() -> None:
    out = run_in_child("""
module.ANSWER_S = 0.3
began = time.monotonic()
finish = alone(["heed(); time.sleep(2)", GOES], (1.0, lambda: kill_me(15)),
               (1.6, lambda: agent.on_end_round(END)),
               shutdown_s=0.1)
assert finish == Finish(exit_code=143)
assert [worker.status for worker in agent._crew.workers] == [0, 0]
assert agent.gang.kinds() == ["StopAsked"], agent.gang.said
""")
    assert out.count("got 15") == 2


def test_who_ends_badly_when_the_job_is_stopped_is_told_of() -> None:
    """The exit code stays 143: whoever preempted the job waits for that."""
    run_in_child("""
number = 15
Agent.on_round = lambda self, its, real=Agent.on_round: (real(self, its), loop.later(2, stop))
stop = lambda: kill_me(number)
late = "heed(); wait()"
for bodies, rank, words in (
    ([GOES, "heed(5); wait()"], 1, "when the job was stopped, it ended with exit code 5"),
    ([late, GOES], 0, "had not ended when its time (--grace) was up, and was killed"),
    (["wait()", "heed(143); wait()"], None, ""),  # by the signal
):
    finish = with_gang(bodies, grace_s=1.0 if bodies[0] is late else 20.0)
    assert finish.exit_code == 143
    told = [line for line in agent.shown if "when the job was stopped" in line]
    if rank is None:
        assert finish.fault is None and told == [], agent.shown
    else:
        assert (finish.fault.kind, finish.fault.rank) == ("stop", rank), finish
        assert len(told) == 1 and told[0].startswith(f"rank {rank} on host ") and words in told[0]
""")


def test_two_sigints_at_once_kill_and_are_no_fault() -> None:
    run_in_child("""
Agent.on_round = lambda self, its, real=Agent.on_round: (real(self, its), kill_me(2, 2))
finish = with_gang([UP, UP])
assert finish == Finish(exit_code=130), finish
assert [worker.status for worker in agent._crew.workers] == [-9, -9]
""")


def test_the_end_kills_who_still_runs_and_tells_a_fault_that_is_new() -> None:
    run_in_child("""
other = replace(FAULT, kind="timeout", detail="not complete", exit_code=200)
finish = alone([UP, UP], (1.0, lambda: agent._tell(FAULT)), (1.1, lambda: agent._tell(FAULT)),
               (1.2, lambda: agent.on_finish(Finish(exit_code=200, fault=other))))
assert finish.exit_code == 200
assert [worker.status for worker in agent._crew.workers] == [-9, -9]
told = [line for line in agent.shown if "rank 5" in line]
assert len(told) == 2 and "broke" in told[0] and "not complete" in told[1], agent.shown
""")


def test_a_node_that_is_done_hears_of_a_later_fault_and_says_that_it_has_stopped() -> None:
    run_in_child("""
finish = alone(["", ""], (1.0, lambda: agent.on_end_round(END)),
               (1.1, lambda: agent.on_finish(Finish(exit_code=9, fault=FAULT))))
assert agent.gang.said[-2:] == [Report(round=1, done=True), Stopped(round=1)], agent.gang.said
assert Muster.reserve.is_closed  # no round follows
assert [line for line in agent.shown if "rank 5" in line] == agent.shown[:1]
assert len(agent.shown) == 2 and agent.shown[1].startswith("other ranks here: 0-1 ended")
""")


def test_a_worker_that_cannot_be_started_is_a_fault_with_a_code_of_its_own() -> None:
    run_in_child("""
for error, code in ((FileNotFoundError(2, "gone"), 64), (SettingError("wrong"), 2),
                    (OSError(24, "too many"), 1)):
    Muster.error = error
    finish = with_gang([GOES])
    assert (finish.exit_code, finish.fault.kind, finish.fault.rank) == (code, "start", 1), finish
    assert len(agent._crew.workers) == 1 and not agent._crew.alive
""")


def test_an_error_of_the_launcher_itself_leaves_no_worker() -> None:
    run_in_child("""
def broken(self):
    raise RuntimeError("a fault of the launcher")
Watcher.observe = broken
try:
    alone([UP, UP])
except RuntimeError:
    pass
else:
    raise SystemExit("it was not told")
for worker in agent._crew.workers:
    assert not os.path.exists(f"/proc/{worker.pid}")
""")


def test_the_report_of_a_hang_has_at_most_15_lines() -> None:
    run_in_child("""
hang = Fault(kind="hang", host=module.host_name(), rank=0, detail="idle", exit_code=204)
alone([UP, UP], (1.0, lambda: agent.on_end_round(replace(END, fault=hang))),
      (1.7, lambda: agent.on_finish(Finish(exit_code=204, fault=hang))))
assert agent.shown[0].startswith("rank 0 on host") and 10 < len(agent.shown) <= 15, agent.shown
""")


def test_who_cannot_be_killed_is_named_and_not_waited_for() -> None:
    run_in_child("""
import rdmatrain.launcher.crew as crew
crew.UNKILLABLE_S, module.SWEEP_S = 0.2, 0.1
from rdmatrain.launcher import process
sweep, process.sweep = process.sweep, lambda *_: [4711]
crew.Crew.send = lambda self, number: None
finish = alone([UP, UP], (1.0, lambda: agent.on_end_round(END)),
               (3.0, lambda: agent.on_finish(Finish(exit_code=9, fault=FAULT))))
assert finish.exit_code == 9 and agent.gang.said[-1] == Stopped(round=1)
assert agent.shown[1:] == ["other ranks here: 0-1 cannot be killed",
                           "processes that could not be killed: [4711]"], agent.shown
sweep(5.0)
""")
