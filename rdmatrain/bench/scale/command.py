"""The parts of ``rdmatrain bench scale``, each of which goes on where another cannot."""

import json
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rdmatrain import _core
from rdmatrain.bench import progress
from rdmatrain.bench.command import Stopped, stops_raise
from rdmatrain.bench.footprint import memory_available
from rdmatrain.bench.machine import context_of
from rdmatrain.bench.options import check_file
from rdmatrain.bench.records import append_lines
from rdmatrain.bench.running import ContestantError
from rdmatrain.bench.scale import engine, measured, namespaces, report, setup, simulate, validate
from rdmatrain.bench.scale.figure import draw
from rdmatrain.bench.scale.measured import Measured
from rdmatrain.bench.scale.plans import Costs
from rdmatrain.bench.scale.simulate import Point
from rdmatrain.bench.scale.threads import RanksError
from rdmatrain.bench.scale.validate import Check
from rdmatrain.bench.sizes import size_text
from rdmatrain.discovery.source import Tree
from rdmatrain.errors import SettingError

PARTS = ("measure", "setup", "simulate", "validate")
SETUP_ROUNDS = 3
ITEM_BYTES = 4
GIVEN = "assumed, see --help"
Show = Callable[[str], object]


@dataclass(frozen=True)
class ScaleOptions:
    """What ``rdmatrain bench scale`` is told.

    Attributes:
        parts: of ``PARTS``.
        ranks: of the measured jobs.
        setup_ranks: of the groups that form.
        kinds: of ``setup.KINDS``.
        plan: what to simulate; its sizes are measured too.
        network: what the simulation is fed with.
        json: file to append to; "" for none.
        drawings: PNG and SVG files.
        fed_from: where the network's numbers come from.
        time_budget_s: seconds for all; 0: no bound.
        quiet: no progress.

    """

    parts: tuple[str, ...]
    ranks: tuple[int, ...]
    setup_ranks: tuple[int, ...]
    kinds: tuple[str, ...]
    plan: simulate.Plan
    network: simulate.Network
    json: str
    drawings: tuple[str, ...]
    fed_from: str = GIVEN
    time_budget_s: float = 0.0
    quiet: bool = False


class TimeUp(Exception):
    """The time budget is used up; the text says what was not begun."""


def check(options: ScaleOptions, available_bytes: int) -> None:
    """Refuse what cannot work.

    Args:
        options: what was given.
        available_bytes: memory that is left on this host, or in this pod.

    Raises:
        SettingError: names the option, the value and what may be given.

    """
    for option, numbers, least, most in (
        ("--ranks", options.ranks, 2, 1024),
        ("--setup-ranks", options.setup_ranks, 2, 4096),
        ("--gpus", options.plan.gpus, 2, simulate.MAX_GPUS),
    ):
        for number in numbers:
            if not least <= number <= most:
                raise SettingError(f"{option}: {number} is not between {least} and {most}")
    _check_simulated(options.plan, options.network)
    if "measure" in options.parts:
        _check_measured(min(options.ranks), options.plan.sizes, available_bytes)
    for file in options.drawings:
        _check_drawing(file, options.parts)
    check_file("--json", options.json)
    if not options.time_budget_s >= 0:  # nan is none
        raise SettingError(f"--time-budget {options.time_budget_s:g}: give 0 or more")


def _check_drawing(file: str, parts: Sequence[str]) -> None:
    suffix = Path(file).suffix
    if suffix not in (".png", ".svg"):
        raise SettingError(f"{file}: name it .png or .svg")
    option = f"--{suffix[1:]}"
    check_file(option, file)
    if "simulate" not in parts:
        raise SettingError(f"{option} {file}: what is drawn is the simulation: add --simulate")
    if why_not := engine.why_not():
        raise SettingError(f"{option} {file}: there is no simulation to draw: {why_not}")


def _check_simulated(plan: simulate.Plan, network: simulate.Network) -> None:
    for gpus in plan.gpus:
        if gpus > simulate.PER_HOST and gpus % simulate.PER_HOST:
            raise SettingError(f"--gpus: {gpus} are no whole hosts of {simulate.PER_HOST}")
    for nbytes in plan.sizes:
        if nbytes <= 0 or nbytes % ITEM_BYTES:
            raise SettingError(f"--bytes: {nbytes} is not a multiple of {ITEM_BYTES}, of float32")
    if network.gbps <= 0:
        raise SettingError(f"--gbps: {network.gbps:g} is no rate: give more than 0")


def _check_measured(ranks: int, sizes: Sequence[int], available_bytes: int) -> None:
    """Refuse sizes that not even the smallest job has memory for."""
    needed = measured.memory_of(ranks, sizes)
    if needed > available_bytes:
        raise SettingError(
            f"--bytes: {size_text(max(sizes))} on {ranks} ranks needs {size_text(needed)} of "
            f"memory, and {size_text(available_bytes)} is available: give smaller sizes, or only "
            "simulate them: --simulate"
        )


@dataclass
class _Run:
    options: ScaleOptions
    command: str
    show: Show
    checks: list[Check] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    failed: bool = False
    skipped: list[str] = field(default_factory=list)  # parts that cannot be done here

    def __post_init__(self) -> None:
        self.context = context_of(self.command, False, {}, None)
        budget_s = self.options.time_budget_s
        self.left = progress.Left([])
        self.end = time.monotonic() + budget_s if budget_s else float("inf")

    def begin(self, what: str) -> None:
        """Say what comes next, if there is time for it.

        Raises:
            TimeUp: there is none.

        """
        if time.monotonic() >= self.end:
            raise TimeUp(what)
        if not self.options.quiet:
            progress.say(f"{self.left.text()}{what}")

    def expect(self, weights: Sequence[float]) -> None:
        """Know what begins in this part, by how long each takes, for the time that is left."""
        self.left = progress.Left(weights)

    def keep(self, records: Sequence[report.Record]) -> None:
        """Write what was found at once: whatever comes then, it is not lost."""
        if self.options.json:
            lines = (json.dumps(record, allow_nan=False) + "\n" for record in records)
            append_lines(Path(self.options.json), lines)

    def measure(self) -> None:
        """Time jobs of more and more ranks; name those that there is no memory for."""
        cpus = self.context.cpus
        self.show(f"# measured here, {cpus} CPUs, the ranks are processes with torch")
        self.show(report.HEADERS["measured"])
        available, sizes = memory_available(Tree()), self.options.plan.sizes
        needs = {ranks: measured.memory_of(ranks, sizes) for ranks in self.options.ranks}
        self.expect([ranks for ranks, needed in needs.items() if needed <= available])
        for ranks, needed in needs.items():
            if needed > available:
                self.show(
                    f"SKIP: {ranks} ranks need {size_text(needed)}, and "
                    f"{size_text(available)} are free"
                )
                continue
            self.begin(f"measuring {ranks} ranks")
            with tempfile.TemporaryDirectory(prefix="rdmatrain-scale-") as folder:
                measured.measure(ranks, sizes, Path(folder), self._measured)

    def _measured(self, one: Measured) -> None:
        self.show(report.measured_line(one))
        self.keep(report.records("measured", [one], self.context))
        self.failed |= bool(one.nwrong)

    def setup(self) -> None:
        """Form groups, and let them meet."""
        self.show("# set-up: ranks are threads, each as if on a host of its own")
        self.show(report.HEADERS["setup"])
        self.expect([*self.options.setup_ranks] * len(self.options.kinds))
        for kind in self.options.kinds:
            for ranks in self.options.setup_ranks:
                self.begin(f"forming {kind} groups of {ranks} ranks")
                try:
                    one = setup.measure(kind, ranks, SETUP_ROUNDS)
                except RanksError as error:
                    self.show(f"SKIP: {kind}, {ranks} ranks: {error}")
                    continue
                self.show(report.setup_line(one))
                self.keep(report.records("setup", [one], self.context))
                if ranks == setup.PASS_RANKS:
                    late = one.largest_s > setup.PASS_S
                    verdict = "MISS" if late else "PASS"
                    self.show(f"{verdict}: formed and met in {setup.PASS_S:g} s")
                    self.failed |= late

    def validate(self) -> None:
        """Compare predictions with what hosts of this machine measure."""
        rate = f"{validate.MBIT} Mbit/s"
        self.show(f"# validation: all_reduce over tcp between namespaces, cables of {rate}")
        self.show(report.HEADERS["validated"])
        self.expect([1.0] * len(list(validate.parts(validate.SIZES))))
        fed = validate.validate(validate.SIZES, self._checked, self.begin)
        self.show(report.fed_line(fed))
        self.show("# " + report.error_line(self.checks))

    def _checked(self, one: Check) -> None:
        self.show(report.validated_line(one))
        self.checks.append(one)
        self.keep(report.records("validated", [one], self.context))

    def simulate(self) -> None:
        """Play our plans on the fabrics."""
        network, costs = self.options.network, costs_of(self.options.network)
        self.show(f"# simulated: {describe(network, costs, self.options.fed_from)}")
        self.show(report.HEADERS["simulated"])
        self.expect(self.options.plan.gpus)
        simulate.simulate(self.options.plan, network, costs, self._simulated, self.begin)

    def _simulated(self, one: Point) -> None:
        self.show(report.simulated_line(one))
        self.points.append(one)
        network = self.options.network
        fed = {
            "fed": report.fed_with(network, costs_of(network)),
            "fed_from": self.options.fed_from,
        }
        self.keep([line | fed for line in report.records("simulated", [one], self.context)])

    def draw(self) -> None:
        """Draw what was simulated."""
        if self.options.drawings and not self.points:
            self.show("# Nothing is drawn: there is no simulation")
            self.failed = True
            return
        for file in self.options.drawings:
            draw(self.points, self._caption(), Path(file))

    def _caption(self) -> str:
        validation = (
            f"Against {len(self.checks)} all_reduces measured over tcp between 4 and 8 hosts "
            f"(namespaces of one machine): {report.error_line(self.checks)}."
            if self.checks
            else "Not validated in this run."
        )
        network = self.options.network
        text = describe(network, costs_of(network), self.options.fed_from)
        return f"Simulated, not measured (SimGrid's flow model): {text}. {validation}"


def costs_of(network: simulate.Network) -> Costs:
    """Return what ranks pay: of the network what was given, of the host what the table says."""
    table = _core.default_tuning(2)
    return Costs(
        latency_s=network.latency_s,
        message_s=network.message_s,
        host_latency_s=table["host_latency"] / 1e9,
        host_message_s=table["host_message"] / 1e9,
        host_bytes_per_s=table["host_bandwidth"] * 1e6,
    )


def describe(network: simulate.Network, costs: Costs, fed_from: str) -> str:
    """Say what is simulated."""
    return (
        f"our plans, {simulate.PER_HOST} GPUs and {simulate.PER_HOST} NICs a host, "
        f"{network.gbps:.4g} Gbit/s, {network.latency_s * 1e6:.3g} us an exchange and "
        f"{network.message_s * 1e6:.3g} us a message, {fed_from}; {network.hop_s * 1e6:g} us a "
        f"switch, three "
        f"levels, full bisection; in the host, and for what is reduced, "
        f"{costs.host_bytes_per_s / 1e9:g} GB/s a rank, which bounds the bandwidth"
    )


def run_scale(options: ScaleOptions, command: str, show: Show) -> int:
    """Run the parts.

    What is found is written at once, so that a signal or the end of the time costs no more than
    what was not done.

    Returns:
        Exit code: 0; 1 if a part failed, a result is wrong, or no part can be done here; 128 and
        the signal that stopped it.

    Raises:
        SettingError: an option is wrong, or a file cannot be written.

    """
    check(options, memory_available(Tree()))
    run = _Run(options, command, show)
    stopped_by, complete = 0, False
    try:
        with stops_raise():
            for part in _order(options.parts):
                _do(run, part)
            complete = True
    except Stopped as stop:
        stopped_by = stop.number
        show(f"# Incomplete: stopped by {signal.Signals(stopped_by).name}")
    except TimeUp as up:
        show(f"# Incomplete: time is up before {up}")
    if complete or run.points:
        run.draw()
    nothing_done = len(run.skipped) == len(options.parts)
    return 128 + stopped_by if stopped_by else int(run.failed or nothing_done)


def _do(run: _Run, part: str) -> None:
    try:
        getattr(run, part)()
    except (engine.EngineError, namespaces.NoHostsError) as error:
        run.show(f"SKIP {part}: {error}")
        run.skipped.append(part)
    except (ContestantError, RanksError) as error:
        run.show(f"FAILED {part}: {error}")
        run.failed = True


def _order(parts: Sequence[str]) -> list[str]:
    """Order the parts: what the picture's caption says is known before it is drawn."""
    return [part for part in ("measure", "setup", "validate", "simulate") if part in parts]
