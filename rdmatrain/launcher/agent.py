"""One node's launcher: takes part in the gang and runs its workers, round by round.

How a round ends: a worker fails, or the gang says so; then the workers get SIGTERM, and SIGKILL
``shutdown_s`` later. How a job is stopped: a launcher of the gang gets a signal, which all workers
of all nodes get once; they have ``grace_s`` to save their work. A second SIGINT kills at once.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from rdmatrain.errors import SettingError
from rdmatrain.launcher import blame, exit_codes, process
from rdmatrain.launcher.contracts import GangHandler
from rdmatrain.launcher.crew import Crew
from rdmatrain.launcher.facts import host_name
from rdmatrain.launcher.guardian import Guardian
from rdmatrain.launcher.job import Job
from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.member import Member
from rdmatrain.launcher.messages import (
    EndRound,
    Fault,
    Finish,
    RankState,
    Report,
    Round,
    StopAsked,
    Stopped,
    StopWorkers,
)
from rdmatrain.launcher.muster import Muster
from rdmatrain.launcher.output.pump import OutputPump
from rdmatrain.launcher.report import Worker, outcomes
from rdmatrain.launcher.signals import SignalInbox
from rdmatrain.launcher.watch.last_words import one_line
from rdmatrain.launcher.watch.watcher import STEP_S, Watcher

# What rdmatrain calls it when another rank has gone.
PEER_LOST = "PEER_LOST"
# The gang answers a stop within this time, or this node stops alone.
ANSWER_S = 1.0
SWEEP_S = 2.0
DRAIN_S = 2.0
# A report has at most 15 lines.
MAX_STACK_LINES = 10


class Agent:
    """Runs one node's part of a job to its end; use it once, from the main thread.

    Args:
        loop: everything happens in it.
        job: what to do.
        muster: starts the workers.
        watcher: sees how they are.
        guardian: is to live as long as this process.

    """

    def __init__(
        self, loop: Loop, job: Job, muster: Muster, watcher: Watcher, guardian: Guardian
    ) -> None:
        self._loop = loop
        self._job = job
        self._muster = muster
        self._watcher = watcher
        self._guardian = guardian
        self._host = host_name()
        self._pump = OutputPump(
            loop, job.output, host=self._host, role=job.role, run_id=job.gang.run_id
        )
        self._inbox = SignalInbox(job.limits.signals)
        enter = guardian.cgroup.join if guardian.cgroup else None
        self._crew = Crew(loop, self._on_ended, self._on_empty, enter)
        self._member: Member | None = None
        self._round: Round | None = None
        self._spare: list[int] = []  # children that are none of the workers' doing
        self._fault: Fault | None = None  # the likely cause on this node in the round
        self._end: EndRound | None = None
        self._told: Fault | None = None
        self._stop_signal = 0
        self._ended_badly: Fault | None = None  # a worker, when the job was stopped
        self._empty_since = 0.0  # monotonic seconds
        self._stopping = 0  # by this signal
        self._alone = False
        self._finish: Finish | None = None
        self._has_waited = False

    def run(self, join: Callable[[GangHandler], Member]) -> Finish:
        """Return how the job ended, when nothing of it is left on this node.

        Args:
            join: makes this node a member of the gang, whose word this agent does.

        """
        if not process.become_subreaper():
            self._pump.say("warning: not a subreaper: children that leave a worker can be missed")
        with self._inbox:
            self._loop.watch(self._inbox.fileno(), read=self._on_signals)
            for message in self._job.messages:
                self._pump.say(message)
            # A script that became this process by exec may have left children of its own.
            self._spare = process.descendants(os.getpid())
            try:
                self._member = join(self)
                self._loop.later(STEP_S, self._observe)
                self._loop.run(self._is_over)
            finally:
                self._muster.reserve.close()
                process.sweep(SWEEP_S, self._spare)
                if self._member is not None:
                    self._member.close()
                self._drain()
        assert self._finish is not None
        return replace(self._finish, fault=self._finish.fault or self._ended_badly)

    # What the gang says

    def on_note(self, text: str) -> None:
        """Tell the user."""
        self._pump.say(text)

    def on_round(self, round: Round) -> None:
        """Start the workers of a round."""
        assert self._member is not None
        if self._round is None:  # the gang's own helpers have come since
            self._spare = process.descendants(os.getpid())
        if round.restart:
            most = self._job.limits.max_restarts
            self._pump.say(f"restart {round.restart} of {most} with {round.world_size} ranks")
        self._round, self._fault, self._end, self._told = round, None, None, None
        self._crew.clear()
        try:
            self._pump.begin_round(round.restart, self._job.nproc)
            self._muster.start(self._crew, self._pump, round, self._member.store_port)
        except (OSError, SettingError) as error:
            self._blame(self._not_started(round, error))
        self._watcher.begin(
            {worker.local_rank: (worker.rank, worker.pid) for worker in self._crew.workers}
        )

    def on_end_round(self, end: EndRound) -> None:
        """End the workers, because of a fault somewhere; the gang hears when they are gone."""
        if self._end is not None:
            return
        self._end = end
        self._tell(end.fault)
        if end.fault.kind == "hang":  # who hangs heeds no other signal
            self._crew.send(signal.SIGKILL, only=end.fault.rank)
        if not end.again:
            self._muster.reserve.close()
        if not self._alone:  # else they have their signal, and the time that goes with it
            self._end_workers(signal.SIGTERM, self._job.limits.shutdown_s)

    def on_stop_workers(self, stop: StopWorkers) -> None:
        """Give the workers the signal that a launcher of the gang got; once."""
        if self._stopping:
            return
        self._stopping = signal.Signals[stop.signal]
        self._muster.reserve.close()
        self._pump.say(f"stopped by {stop.signal} on host {stop.host or self._host}")
        self._end_workers(self._stopping, self._job.limits.grace_s)

    def on_finish(self, finish: Finish) -> None:
        """Remember how the job ended; who still runs is killed."""
        if self._finish is not None:
            return
        self._finish = finish
        if finish.fault is not None:
            self._tell(finish.fault)
        elif finish.exit_code > 128 and not self._stopping:  # there was no worker to stop
            where = f" on host {self._host}" if self._stop_signal else ""
            self._pump.say(f"stopped by {blame.signal_name(finish.exit_code - 128)}{where}")
        self._crew.kill()

    # What happens on this node

    def _end_workers(self, number: signal.Signals, kill_after_s: float) -> None:
        if self._crew.alive:
            self._crew.stop(number, kill_after_s)
        else:
            self._on_empty()

    def _is_over(self) -> bool:
        return self._finish is not None and not self._crew.busy

    def _on_signals(self) -> None:
        for number in self._inbox.drain():
            if not self._stop_signal:
                self._stop_signal = number
                self._say(StopAsked(signal=number.name, host=self._host))
                self._loop.later(ANSWER_S, self._stop_alone)
            elif number == signal.SIGINT:
                self._crew.kill()
            if self._finish is not None:
                self._wait_no_more()
        if self._guardian.pid in self._crew.reap():
            self._guardian.revive()
            self._spare.append(self._guardian.pid)

    def _stop_alone(self) -> None:
        """Stop without the gang, which has not answered."""
        if self._stopping or self._finish is not None:
            return
        ended_s = time.monotonic() - self._empty_since
        if self._end is not None and (self._crew.busy or ended_s < ANSWER_S):
            self._loop.later(ANSWER_S, self._stop_alone)  # the gang ends the job, or another round
            return
        self._alone = True
        name = signal.Signals(self._stop_signal).name
        self.on_stop_workers(StopWorkers(signal=name, host=self._host))

    def _on_ended(self, ended: Sequence[Worker]) -> None:
        if self._end is not None or self._stopping:
            return
        known = [self._fault] if self._fault is not None else []
        faults = known + [self._fault_of(worker) for worker in ended if worker.failed]
        if len(faults) > len(known) and (cause := blame.root_cause(faults)) is not self._fault:
            self._blame(cause)
        elif known:  # whoever ended with 0 may be the cause
            self._say(self._report())

    def _on_empty(self) -> None:
        """No worker is left, or none that can be killed: the gang hears of it."""
        self._empty_since = time.monotonic()
        over = self._end is not None or self._stopping > 0
        if over:
            self._sweep()
        if self._stopping and self._end is None:
            self._look_at_endings()
        if self._alone:
            self.on_finish(Finish(exit_code=128 + self._stop_signal))
        elif self._round is not None and over:
            self._say(Stopped(round=self._round.number))
        elif self._round is not None and self._fault is None:
            self._say(Report(round=self._round.number, done=True))

    def _look_at_endings(self) -> None:
        """Say who ended otherwise than it should when it was told to: its last save may be missing.

        The exit code stays that of the signal: whoever preempts a job waits for that.
        """
        told = [each for each in self._crew.workers if each.sent]
        bad = [each for each in told if each.failed and not self._has_obeyed(each)]
        if bad and self._ended_badly is None:
            faults = [
                blame.of_stop(self._fault_of(each), each.sent == signal.SIGKILL) for each in bad
            ]
            self._ended_badly = blame.root_cause(faults)
            self._pump.say(blame.headline(self._ended_badly))

    def _has_obeyed(self, worker: Worker) -> bool:
        """Tell whether a worker ended by the signal; of SIGINT nobody expects a save."""
        number = self._stopping
        return number == signal.SIGINT or worker.status in {-number, 128 + number}

    def _observe(self) -> None:
        self._loop.later(STEP_S, self._observe)
        if self._round is not None and self._end is None and self._crew.alive:
            states = self._watcher.observe()
            self._say(self._report(states))

    def _blame(self, fault: Fault) -> None:
        self._fault = fault
        self._say(self._report())

    def _report(self, states: tuple[RankState, ...] = ()) -> Report:
        assert self._round is not None
        ended = tuple(worker.rank for worker in self._crew.workers if worker.status == 0)
        raised = next(filter(None, map(self._raised_by, self._crew.alive)), None)
        number = self._round.number
        return Report(round=number, fault=self._fault, ended=ended, raised=raised, states=states)

    def _raised_by(self, worker: Worker) -> Fault | None:
        """Return what will end a worker that has raised it, and does the rest of its work now."""
        if not self._watcher.error_of(worker.local_rank):
            return None
        return self._fault_of(replace(worker, status=1))

    def _fault_of(self, worker: Worker) -> Fault:
        assert worker.status is not None
        error = self._watcher.error_of(worker.local_rank)
        if not error and (line := one_line(self._pump.last_line(worker.local_rank))):
            error = f"its last line on stderr is: {line}"
        fault = blame.of_worker(worker.rank, self._host, worker.pid, worker.status, error)
        status = self._watcher.status_of(worker.local_rank)
        fault = replace(fault, consequence=fault.consequence or status == PEER_LOST)
        return blame.of_hardware(fault, error, status)

    def _not_started(self, round: Round, error: Exception) -> Fault:
        started = len(self._crew.workers)
        codes = {FileNotFoundError: exit_codes.NO_JOB, SettingError: exit_codes.USAGE}
        return Fault(
            kind="start",
            host=self._host,
            rank=round.node.first_rank + started,
            detail=f"could not be started: {error}; {started} of {self._job.nproc} workers had "
            "started and were killed",
            exit_code=codes.get(type(error), 1),
        )

    def _say(self, message: Report | Stopped | StopAsked) -> None:
        if self._member is not None:
            self._member.say(message)

    def _tell(self, fault: Fault) -> None:
        """Say whose fault it was, once, before anything is done about it."""
        if self._told == fault:
            return
        self._told = fault
        self._pump.say(blame.headline(fault))
        guilty = [worker for worker in self._crew.alive if worker.rank == fault.rank]
        if fault.kind == "hang" and fault.host == self._host and guilty:
            stacks = self._watcher.stacks(guilty[0].local_rank).splitlines()
            for line in stacks[:MAX_STACK_LINES]:
                self._pump.say(f"  {line}")

    def _sweep(self) -> None:
        """End what workers have left behind, and say what became of them."""
        # Whoever leads from a later round on has a store that was not there before the first.
        store = [self._member.store_pid] if self._member is not None else []
        left = process.sweep(SWEEP_S, [*self._spare, *store, *self._muster.reserve.pids])
        rank = self._told.rank if self._told else None
        others = [worker for worker in self._crew.workers if worker.rank != rank]
        if others:
            self._pump.say(f"{'other ' if self._told else ''}ranks here: {outcomes(others)}")
        if left:
            self._pump.say(f"processes that could not be killed: {left}")

    def _drain(self) -> None:
        """Write out what the workers left; a signal ends the wait for a reader that has stopped."""
        pump = self._pump
        # A process out of reach may hold a pipe open for ever.
        self._loop.later(DRAIN_S, pump.stop_reading)

        def over() -> bool:
            return not pump.num_open_streams and (not pump.num_pending_bytes or self._has_waited)

        if self._stop_signal:
            self._wait_no_more()
        self._loop.run(over)
        pump.close()

    def _wait_no_more(self) -> None:
        """Give up a reader of the output that has stopped, in a while."""
        self._loop.later(DRAIN_S, partial(setattr, self, "_has_waited", True))
