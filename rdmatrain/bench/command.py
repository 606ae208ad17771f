"""``rdmatrain bench OP``: from options to a table and files."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from rdmatrain.bench import agents, joined, progress
from rdmatrain.bench.conduct import Conductor, Plan
from rdmatrain.bench.contestants import Start, find, on_device
from rdmatrain.bench.footprint import check_memory, memory_available
from rdmatrain.bench.machine import context_of, nic_in_use
from rdmatrain.bench.model import Entry, Failure, Sweep, record_of
from rdmatrain.bench.options import SweepOptions, check_options
from rdmatrain.bench.orders import PIN_VARIABLE
from rdmatrain.bench.plots import draw, terminal_plot
from rdmatrain.bench.records import write_csv, write_json
from rdmatrain.bench.running import ContestantError, Running
from rdmatrain.bench.table import lines_of
from rdmatrain.discovery.source import Tree
from rdmatrain.errors import BootstrapError, SettingError

FAULT = 1  # exit code: something is wrong, or is missing
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Show = Callable[[str], object]


class Stopped(BaseException):
    """A signal that ends the sweep came.

    Attributes:
        number: of the signal.

    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run_sweep(options: SweepOptions, command: str, show: Show) -> int:
    """Measure, write the files and show the table.

    Ctrl-C, SIGTERM and SIGHUP end the rounds; what was found is written and shown all the same.

    Args:
        options: what to do.
        command: the command line, for the record.
        show: prints text.

    Returns:
        Exit code: 0; 1 if a result is wrong or is missing; 128 and the signal that stopped it.

    Raises:
        SettingError: an option is wrong; nothing was started.

    """
    here = joined.place()
    if here is not None:
        options = _with_ranks(options, here.ranks)
    check_options(options)
    starts, failures = find(options.peers, options.transports)
    starts = on_device(starts, options.device, options.operations)
    on_host = here.on_host if here else options.ranks
    check_memory(options, starts, memory_available(Tree()), on_host)
    if here is not None and here.rank:
        return agents.serve(here)
    found = measure(options, starts, failures, command, here)
    not_written = [f"# {text}" for text in write_files(options, found.sweep)]
    lines = lines_of(found.sweep.results, found.sweep.context)
    show("\n".join(lines + remarks(found.sweep, found.stopped_by) + not_written))
    if options.plot and found.sweep.results:
        show(_plot(found.sweep))
    return found.exit_code or (FAULT if not_written else 0)


@dataclass(frozen=True)
class Found:
    """What was measured, whole or as far as it came.

    Attributes:
        sweep: that.
        exit_code: 0; 1 if a result is wrong or is missing; 128 and the signal that stopped it.
        stopped_by: number of that signal; 0: none.

    """

    sweep: Sweep
    exit_code: int
    stopped_by: int


def measure(
    options: SweepOptions,
    starts: Sequence[Start],
    failures: list[Failure],
    command: str,
    here: agents.Place | None = None,
) -> Found:
    """Measure until all is done, or a signal comes.

    Args:
        options: that were checked.
        starts: the contestants.
        failures: those that were asked for and are not there.
        command: the command line, for the record.
        here: rank 0 among those that somebody else has started, if somebody has.

    """
    os.environ[PIN_VARIABLE] = "1" if options.pin else "0"  # for all processes that are started
    measured = _Measured(Sweep(context_of(command, options.pin, {}, None), failures=failures))
    measured.faulty = bool(failures)
    stopped_by = 0
    try:
        with ExitStack() as stack:
            stack.enter_context(stops_raise())
            folder = stack.enter_context(TemporaryDirectory(prefix="rdmatrain-bench-"))
            if here is not None:
                starts, refused = joined.with_crew(here, starts, options.cases, stack)
                measured.refuse(refused)
            measured.measure(options, starts, Path(folder))
    except Stopped as stop:
        stopped_by = stop.number
    sweep = measured.finish()
    wrong = not sweep.results or any(result.nwrong for result in sweep.results)
    code = 128 + stopped_by if stopped_by else FAULT if wrong or measured.faulty else 0
    return Found(sweep, code, stopped_by)


def _with_ranks(options: SweepOptions, ranks: int) -> SweepOptions:
    """Take the ranks that are there."""
    if options.ranks not in (ranks, SweepOptions.ranks):
        raise SettingError(f"--ranks {options.ranks}: {ranks} were started: leave it out")
    return replace(options, ranks=ranks)


class _Measured:
    """What a sweep has found, at any moment.

    Attributes:
        faulty: something that was asked for is missing.

    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._conductor: Conductor | None = None
        self.faulty = False

    def measure(self, options: SweepOptions, starts: Sequence[Start], folder: Path) -> None:
        """Start the contestants, go through the rounds, and end the contestants."""
        plan = Plan(
            cases=options.cases,
            rounds=options.rounds,
            ranks=options.ranks,
            calls=options.iters,
            warmup=options.warmup_iters,
            check=options.check,
            budget_s=options.time_budget_s,
        )
        self._sweep.failures += _without_partner(options, starts)
        with ExitStack() as stack:
            contestants = []
            starts = self._that_can(starts, plan)
            if not options.quiet:
                names = ", ".join(dict.fromkeys(str(start.entry) for start in starts))
                progress.say(f"starting {options.ranks} ranks each of {names}")
            for index, start in enumerate(starts):
                if (running := self._open(start, plan.ranks, folder / str(index))) is not None:
                    stack.callback(running.close)
                    contestants.append((start.entry, running))
            versions = {
                name: text for _, each in contestants for name, text in each.versions.items()
            }
            over_verbs = any("verbs" in each.transport for _, each in contestants)
            self._sweep.context = replace(
                self._sweep.context,
                versions=self._sweep.context.versions | versions,
                nic=nic_in_use() if over_verbs else None,
            )
            with progress.shown(options.quiet) as tell:
                self._conductor = Conductor(plan, contestants, tell)
                self._conductor.run()

    def _that_can(self, starts: Sequence[Start], plan: Plan) -> list[Start]:
        """Leave out those that have none of the cases; what an entry lacks, another may have."""
        lacks: dict[Entry, str] = {}
        can = []
        for start in starts:
            reasons = [start.why_not(case) for case in plan.cases]
            if "" in reasons:
                can.append(start)
            else:
                lacks.setdefault(start.entry, reasons[0])
        here = {start.entry for start in can}
        for entry, reason in lacks.items():
            if entry not in here:
                self._sweep.failures.append(Failure(entry, None, reason))
        return can

    def _open(self, start: Start, ranks: int, folder: Path) -> Running | None:
        folder.mkdir()
        try:
            return start.open(ranks, folder)
        except (ContestantError, BootstrapError) as error:
            self.faulty = True
            self._sweep.failures.append(Failure(start.entry, None, str(error)))
            return None

    def refuse(self, failures: Sequence[Failure]) -> None:
        """Add contestants that cannot be started."""
        self._sweep.failures += failures
        self.faulty |= bool(failures)

    def finish(self) -> Sweep:
        """Return all that was found."""
        self._sweep.complete = False
        if self._conductor is not None:
            self._sweep.results = self._conductor.results()
            self._sweep.failures += self._conductor.failures
            self._sweep.complete = self._conductor.complete
            self.faulty |= self._conductor.failed
        return self._sweep


def _without_partner(options: SweepOptions, starts: Sequence[Start]) -> list[Failure]:
    """Name the operations that an odd number of ranks cannot do."""
    if not options.without_partner:
        return []
    names = ", ".join(options.without_partner)
    text = f"{names}: between pairs of ranks, and there are {options.ranks}: give an even --ranks"
    return [Failure(entry, None, text) for entry in dict.fromkeys(each.entry for each in starts)]


@contextmanager
def stops_raise() -> Iterator[None]:
    """Let signals raise: what waits stops waiting, and all that was begun is ended.

    Another one does so again, and so cuts the end short.

    """

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Stopped(number)

    # nohup, and a shell that starts a job in the background, have some of them ignored.
    heeded = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def write_files(options: SweepOptions, sweep: Sweep) -> list[str]:
    """Write the files; return what went wrong, as one that fails must not cost the others."""
    records = [record_of(result, sweep.context) for result in sweep.results]
    writers: list[tuple[str, Callable[[Path], None]]] = [
        (options.json, lambda path: write_json(path, sweep)),
        (options.csv, lambda path: write_csv(path, sweep)),
        *((file, lambda path: draw(records, path)) for file in options.drawings.values()),
    ]
    wrong = []
    for file, write in writers:
        if file:
            try:
                write(Path(file))
            except SettingError as error:
                wrong.append(str(error))
    return wrong


def _plot(sweep: Sweep) -> str:
    try:
        return terminal_plot([record_of(result, sweep.context) for result in sweep.results])
    except SettingError as error:  # a barrier has no bandwidth
        return f"# {error}"


def remarks(sweep: Sweep, stopped_by: int) -> list[str]:
    """Return lines on what is missing.

    Args:
        sweep: of which.
        stopped_by: number of the signal that ended it; 0: none did.

    """
    why = f"stopped by {signal.Signals(stopped_by).name}" if stopped_by else "time is up"
    lines = [] if sweep.complete else [f"# Incomplete: {why} before all rounds were made"]
    for failure in sweep.failures:
        case = f", {failure.case}" if failure.case else ""
        # One line, whatever torch or MPI wrote.
        lines.append(f"# {failure.entry}{case}: {' '.join(failure.text.split())}")
    return lines
