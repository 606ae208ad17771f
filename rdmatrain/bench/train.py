"""``rdmatrain bench train``: training steps of the demo's model, and what communication costs them.

For each number of ranks there is a job, whose ranks train with all contestants in turns; rounds go
through the jobs, so that drift hits all numbers of ranks alike. Each rank has a batch of the same
size, whatever their number.

*Exposed communication* is the median of a step minus the step beside it that does all but
communicate: DDP with a hook that does nothing, and FSDP2 over a process group whose collectives do
nothing. So what DDP does with its buckets, and FSDP2 with its shards, is not counted, and what
backward() hides is not either. A step takes as long as on its slowest rank.
"""

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rdmatrain.bench import progress
from rdmatrain.bench.command import FAULT, Stopped, stops_raise
from rdmatrain.bench.contestants import RDMATRAIN, Command, TorchRanks
from rdmatrain.bench.footprint import RANK_BYTES, memory_available
from rdmatrain.bench.job import SLOW_FACTOR, SLOW_S, JobOfRanks
from rdmatrain.bench.machine import context_of, nic_in_use
from rdmatrain.bench.model import Entry
from rdmatrain.bench.options import check_file, names_in
from rdmatrain.bench.orders import PIN_VARIABLE, Answer
from rdmatrain.bench.records import append_lines
from rdmatrain.bench.running import ContestantError
from rdmatrain.bench.sizes import size_text
from rdmatrain.bench.train_results import JobSteps, Model, Training, lines_of, records_of
from rdmatrain.discovery.source import Tree
from rdmatrain.errors import SettingError

STRATEGIES = dict.fromkeys(("ddp", "fsdp2"))
PEERS = dict.fromkeys(("gloo",))
MAX_RANKS = 64
ROUNDS = 5
WARMUP_STEPS = 2  # of a round: other jobs have had the caches
PREPARE_S = 300.0
BYTES = 256  # values of a token
FLOAT_BYTES = 4
STATE_BYTES = 4 * FLOAT_BYTES  # of a parameter: itself, its gradient, and two moments
# Activations of a layer that backward() wants, each of a batch's size: 28 to 30 were measured.
KEPT = 28
DEMO = Model(width=96, layers=3, heads=6, seq_len=128, batch=6)  # two ranks of it


@dataclass(frozen=True)
class TrainOptions:
    """The options of ``rdmatrain bench train``, as they were given.

    Attributes:
        ranks: numbers with commas: a job each.
        strategy: names with commas.
        vs: peers, names with commas; "" for none.
        steps: timed, of each contestant.
        model: what is trained.
        json: file to append to; "" for none.
        time_budget_s: seconds for the rounds; 0: no bound.
        quiet: no progress.

    """

    ranks: str = "1,2"
    strategy: str = "ddp,fsdp2"
    vs: str = "gloo"
    steps: int = 30
    model: Model = DEMO
    json: str = ""
    time_budget_s: float = 0.0
    quiet: bool = False

    @property
    def numbers(self) -> list[int]:
        """Numbers of ranks, ascending."""
        words = [word.strip() for word in self.ranks.split(",")]
        wrong = [word for word in words if not (word.isdecimal() and 1 <= int(word) <= MAX_RANKS)]
        if wrong:
            raise SettingError(f"--ranks {wrong[0]}: give numbers from 1 to {MAX_RANKS}, as 1,2,4")
        return sorted({int(word) for word in words})

    @property
    def strategies(self) -> list[str]:
        """What is between the model and the group."""
        return names_in(self.strategy, "--strategy", STRATEGIES)

    @property
    def backends(self) -> list[str]:
        """What communicates, rdmatrain first."""
        return [RDMATRAIN, *(names_in(self.vs, "--vs", PEERS) if self.vs else [])]


def check_options(options: TrainOptions, available_bytes: int) -> None:
    """Refuse what cannot work, before a process is started.

    Args:
        options: what was given.
        available_bytes: memory that is left on this host, or in this pod.

    Raises:
        SettingError: what is wrong with which option, and what to give.

    """
    options.numbers, options.strategies, options.backends  # noqa: B018 - raise if they are wrong
    model = options.model
    for name in ("steps", "width", "layers", "heads", "seq_len", "batch"):
        value = options.steps if name == "steps" else getattr(model, name)
        if value < 1:
            raise SettingError(f"--{name.replace('_', '-')} {value}: give 1 or more")
    if model.width % model.heads:
        raise SettingError(f"--width {model.width}: give a multiple of --heads {model.heads}")
    if not options.time_budget_s >= 0:  # nan is none
        raise SettingError(f"--time-budget {options.time_budget_s:g}: give 0 or more")
    check_file("--json", options.json)
    needed = memory_of(options)
    if needed > available_bytes:
        raise SettingError(
            f"--ranks {options.ranks}: training needs {size_text(needed)} of memory, and "
            f"{size_text(available_bytes)} is available: give fewer ranks, a smaller model or a "
            "smaller --batch"
        )


def memory_of(options: TrainOptions) -> int:
    """Return roughly how many bytes all jobs take, which are there together."""
    model = options.model
    batch = model.batch * model.seq_len * model.width * FLOAT_BYTES
    state = STATE_BYTES * parameters_of(model)
    trainers = len(options.backends) + 1  # and the silent one
    total = peak = 0
    for ranks in options.numbers:
        shards = {"ddp": 1.0, "fsdp2": 1 / ranks}  # of the state, on each rank
        states = trainers * sum(shards[name] for name in options.strategies)
        total += ranks * (RANK_BYTES + round(states * state))
        # Job by job, each rank trains on the batches of all, for the loss that must come.
        peak = max(peak, ranks * (state + ranks * batch * model.layers * KEPT))
    return total + peak


def parameters_of(model: Model) -> int:
    """Count the parameters of the model, without making it."""
    width = model.width
    of_layer = 12 * width * width + 13 * width
    return (2 * BYTES + model.seq_len + 2) * width + BYTES + model.layers * of_layer


def run_train(options: TrainOptions, command: str, show: Callable[[str], object]) -> int:
    """Measure, write the file and show the table.

    Args:
        options: what to do.
        command: the command line, for the record.
        show: prints text.

    Returns:
        Exit code: 0; 1 if a result is wrong or is missing; 128 and the signal that stopped it.

    Raises:
        SettingError: an option is wrong; nothing was started.

    """
    check_options(options, memory_available(Tree()))
    context = context_of(command, True, {}, None)
    run = _Run(options)
    stopped_by = 0
    try:
        with stops_raise():
            run.measure()
    except Stopped as stop:
        stopped_by = stop.number
    training = run.finish()
    if any("verbs" in result.transport for result in training.results):
        context = replace(context, nic=nic_in_use())
    if options.json:
        lines = [
            json.dumps(record, allow_nan=False) + "\n" for record in records_of(training, context)
        ]
        try:
            append_lines(Path(options.json), lines)
        except SettingError as error:
            training.failures.append(str(error))
    show("\n".join(lines_of(training, context)))
    return 128 + stopped_by if stopped_by else FAULT if training.failures else 0


def measure(options: TrainOptions) -> Training:
    """Measure, without files and signals: for other programs.

    Raises:
        SettingError: an option is wrong; nothing was started.

    """
    check_options(options, memory_available(Tree()))
    run = _Run(options)
    run.measure()
    return run.finish()


@dataclass(frozen=True)
class _Trainers(TorchRanks):
    """How the ranks of a job are started: each has all contestants.

    Attributes:
        told: arguments of ``train_rank.TrainRank``, as JSON.

    """

    told: str = ""
    module = "rdmatrain.bench.train_rank"

    def commands(self, ranks: int, socket_path: str) -> list[Command]:
        """Return one process a rank."""
        started = super().commands(ranks, socket_path)
        return [([*argv[:-1], self.told], environment) for argv, environment in started]


class _Job(JobOfRanks):
    """The ranks of a job, which answer orders of their own."""

    def begin(self) -> list[Answer]:
        """Make the contestants; see ``train_rank.TrainRank.prepare``."""
        answers = self._ask({"do": "prepare"}, PREPARE_S)
        self._guess_s = max(answer["guess_s"] for answer in answers)
        return answers

    def steps(self, count: int) -> list[dict[str, list[float]]]:
        """Train so many steps of each contestant; seconds of each, of each rank by name."""
        patience_s = SLOW_S + SLOW_FACTOR * count * self._guess_s
        return [
            answer["seconds"] for answer in self._ask({"do": "steps", "steps": count}, patience_s)
        ]


class _Run:
    """A run, and what it has found at any moment."""

    def __init__(self, options: TrainOptions) -> None:
        self._options = options
        self._training = Training(options.model)
        self._jobs: dict[int, _Job] = {}
        self._found: dict[int, JobSteps] = {}

    def measure(self) -> None:
        """Start the jobs, go through the rounds, and end the jobs."""
        os.environ[PIN_VARIABLE] = "1"  # for all processes that are started
        rounds = min(ROUNDS, self._options.steps)
        with TemporaryDirectory(prefix="rdmatrain-bench-") as folder, ExitStack() as stack:
            for ranks in self._options.numbers:
                self._start(ranks, Path(folder, str(ranks)), stack)
            budget_s = self._options.time_budget_s
            end = time.monotonic() + budget_s if budget_s else math.inf
            left = progress.Left([1.0] * rounds)
            for number in range(rounds):
                if time.monotonic() >= end:
                    return
                if not self._options.quiet:
                    progress.say(f"{left.text()}round {number + 1} of {rounds}")
                steps = len(range(number, self._options.steps, rounds))
                for ranks in list(self._jobs):
                    self._round(ranks, steps)
        self._training.complete = True

    def finish(self) -> Training:
        """Sum up all that was found."""
        model, training = self._options.model, self._training
        found = {ranks: steps for ranks, steps in self._found.items() if steps.rounds}
        for steps in found.values():
            training.results += steps.results(model.batch * model.seq_len, found.get(1))
        training.failures += filter(None, (result.wrong for result in training.results))
        return training

    def _start(self, ranks: int, folder: Path, stack: ExitStack) -> None:
        shape = asdict(self._options.model)
        del shape["parameters"]
        told = {
            "strategies": self._options.strategies,
            "backends": self._options.backends,
            "shape": shape,
        }
        folder.mkdir()
        if not self._options.quiet:
            progress.say(f"starting {_name(ranks)}")
        try:
            start = _Trainers(Entry(RDMATRAIN), frozenset(), json.dumps(told))
            job = _Job(start, ranks, folder)
            stack.callback(job.close)
            answers = job.begin()
        except ContestantError as error:
            self._training.failures.append(f"{_name(ranks)}: {error}")
            return
        self._jobs[ranks] = job
        self._training.model = replace(self._training.model, parameters=answers[0]["parameters"])
        losses, expected = zip(
            *((each["losses"], each["expected"]) for each in answers), strict=True
        )
        self._found[ranks] = JobSteps(ranks, job.transport, losses, expected)

    def _round(self, ranks: int, steps: int) -> None:
        try:
            answers = self._jobs[ranks].steps(WARMUP_STEPS + steps)
        except ContestantError as error:
            self._training.failures.append(f"{_name(ranks)}: {error}")
            del self._jobs[ranks]
            return
        self._found[ranks].add(answers, WARMUP_STEPS)


def _name(ranks: int) -> str:
    return f"the job of {ranks} rank{'s' if ranks > 1 else ''}"
