"""From the steps of ranks to what ``rdmatrain bench train`` shows and writes. Plain data."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rdmatrain.bench.model import Context
from rdmatrain.bench.stats import percentile, variation
from rdmatrain.bench.table import comment, context_lines

SCHEMA = "rdmatrain-bench-train/1"
SILENT = "silent"  # the contestant that communicates nothing
LOSS_TOLERANCE = 1e-3  # relative: sums of gradients are rounded differently


@dataclass(frozen=True)
class Model:
    """What is trained; see ``gpt.Shape``.

    Attributes:
        width: of the model.
        layers: of its transformer.
        heads: of its attention.
        seq_len: bytes of a sequence.
        batch: sequences of each rank in a step.
        parameters: of the model; 0: not known.

    """

    width: int
    layers: int
    heads: int
    seq_len: int
    batch: int
    parameters: int = 0


@dataclass(frozen=True)
class TrainResult:
    """Steps of one contestant.

    Attributes:
        strategy: ddp, fsdp2.
        backend: rdmatrain, gloo; silent: what the others are held against.
        ranks: how many.
        transport: what joined them over rdmatrain; "" for the other backends.
        rounds: median seconds of a step of each round.
        seconds_p50: of all steps, each as long as on its slowest rank.
        seconds_p99: likewise.
        seconds_min: likewise.
        cv: coefficient of variation of ``rounds``.
        exposed_s: median of a step minus the silent step beside it.
        tokens_per_s: of all ranks together.
        efficiency: the step of one rank by this step, over the same backend; None: not measured.
        steps: that were timed.
        loss: after a few steps, of the rank where it is farthest from what it must be; the silent
            one may have none, NaN.
        loss_expected: there, after plain training on the batches of all ranks.

    """

    strategy: str
    backend: str
    ranks: int
    transport: str
    rounds: tuple[float, ...]
    seconds_p50: float
    seconds_p99: float
    seconds_min: float
    cv: float
    exposed_s: float
    tokens_per_s: float
    efficiency: float | None
    steps: int
    loss: float
    loss_expected: float

    @property
    def wrong(self) -> str:
        """Tell why this is no training; "" if it is. The silent one never is."""
        near = math.isclose(self.loss, self.loss_expected, rel_tol=LOSS_TOLERANCE)
        if near or self.backend == SILENT:
            return ""
        return (
            f"{self.strategy} over {self.backend}, {self.ranks} ranks: the loss is "
            f"{self.loss:.5f}, and {self.loss_expected:.5f} without {self.strategy}: its gradients "
            f"or parameters are wrong"
        )


@dataclass
class Training:
    """All that a run found, whole or as far as it came.

    Attributes:
        model: that was trained.
        results: by ranks, strategy and backend.
        failures: what is missing or wrong, one text each.
        complete: all steps were made.

    """

    model: Model
    results: list[TrainResult] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    complete: bool = False


@dataclass
class JobSteps:
    """What was found of the job of one number of ranks so far.

    Attributes:
        ranks: how many.
        transport: what joins them over rdmatrain.
        losses: strategy/backend to loss, of each rank.
        expected: loss of each rank.
        rounds: of each round strategy/backend to seconds of its steps, on the slowest rank.

    """

    ranks: int
    transport: str
    losses: Sequence[dict[str, float]]
    expected: Sequence[float]
    rounds: list[dict[str, list[float]]] = field(default_factory=list)

    def add(self, answers: Sequence[dict[str, list[float]]], warmup: int) -> None:
        """Add a round.

        Args:
            answers: of each rank strategy/backend to seconds of its steps.
            warmup: steps at the begin that do not count.

        """
        self.rounds.append(
            {
                name: list(map(max, zip(*(each[name][warmup:] for each in answers), strict=True)))
                for name in answers[0]
            }
        )

    def results(self, tokens: int, alone: "JobSteps | None") -> list[TrainResult]:
        """Sum up one round or more.

        Args:
            tokens: of a rank in a step.
            alone: the job of one rank, if there is one.

        """
        return [self._result(name, tokens, alone) for name in self.rounds[0]]

    def steps_of(self, name: str) -> list[float]:
        """Return the seconds of all steps, in order."""
        return [seconds for each in self.rounds for seconds in each[name]]

    def _result(self, name: str, tokens: int, alone: "JobSteps | None") -> TrainResult:
        strategy, _, backend = name.partition("/")
        steps = self.steps_of(name)
        silent = self.steps_of(f"{strategy}/{SILENT}")
        medians = tuple(statistics.median(each[name]) for each in self.rounds)
        p50 = statistics.median(steps)
        pairs = [
            (of_rank[name], right)
            for of_rank, right in zip(self.losses, self.expected, strict=True)
        ]
        loss, expected = max(pairs, key=_distance)
        return TrainResult(
            strategy=strategy,
            backend=backend,
            ranks=self.ranks,
            transport=self.transport if backend == "rdmatrain" else "",
            rounds=medians,
            seconds_p50=p50,
            seconds_p99=percentile(steps, 0.99),
            seconds_min=min(steps),
            cv=variation(medians),
            exposed_s=statistics.median(a - b for a, b in zip(steps, silent, strict=True)),
            tokens_per_s=self.ranks * tokens / p50,
            efficiency=statistics.median(alone.steps_of(name)) / p50 if alone else None,
            steps=len(steps),
            loss=loss,
            loss_expected=expected,
        )


def _distance(pair: tuple[float, float]) -> float:
    distance = abs(pair[0] - pair[1])
    return math.inf if math.isnan(distance) else distance


def records_of(training: Training, context: Context) -> list[dict[str, Any]]:
    """Return the lines of the JSON file: see schemas/train.schema.json."""
    common = {**asdict(training.model), **asdict(context)}
    found: list[dict[str, Any]] = [
        {
            "schema": SCHEMA,
            **asdict(result),
            "loss": result.loss if math.isfinite(result.loss) else None,
            **common,
        }
        for result in training.results
    ]
    failed = [{"schema": SCHEMA, "failure": text, **common} for text in training.failures]
    return found + failed


def lines_of(training: Training, context: Context) -> list[str]:
    """Return the text of a run, without line ends."""
    model = training.model
    lines = [
        *context_lines(context),
        "#",
        *comment(
            f"GPT of {model.layers} layers of width {model.width}: "
            f"{model.parameters / 1e6:.2f} M parameters; AdamW; each rank has {model.batch} "
            f"sequences of {model.seq_len} bytes in a step"
        ),
        *_HEADER,
        *map(_line, training.results),
        *comment(
            "exposed: median of a step minus the silent step beside it, which does all but "
            "communicate: DDP with a hook that does nothing, FSDP2 over a group that does nothing"
        ),
        *comment("efficiency: the step of one rank by this one, with the same batch for each rank"),
    ]
    crowded = sorted({each.ranks for each in training.results if each.ranks > context.cpus})
    for ranks in crowded:
        share = context.cpus / ranks
        lines += comment(
            f"{ranks} ranks share {context.cpus} CPUs: efficiency is at most {share:g}"
        )
    if not training.complete:
        lines.append("# Incomplete: stopped before all steps were made")
    # One line each, whatever torch wrote.
    return [*lines, *(f"# {' '.join(text.split())}" for text in training.failures)]


_HEADER = (
    f"# {'strategy':<8}  {'backend':<9}  {'ranks':>5}  {'p50':>8}  {'p99':>8}  {'exposed':>8}"
    f"  {'':>6}  {'tokens/s':>9}  {'efficiency':>10}",
    f"# {'':<8}  {'':<9}  {'':>5}  {'(ms)':>8}  {'(ms)':>8}  {'(ms)':>8}  {'(%)':>6}",
)


def _line(result: TrainResult) -> str:
    share = 100 * result.exposed_s / result.seconds_p50
    efficiency = "-" if result.efficiency is None else f"{result.efficiency:.2f}"
    return (
        f"  {result.strategy:<8}  {result.backend:<9}  {result.ranks:>5}"
        f"  {result.seconds_p50 * 1e3:>8.2f}  {result.seconds_p99 * 1e3:>8.2f}"
        f"  {result.exposed_s * 1e3:>8.2f}  {share:>6.1f}  {result.tokens_per_s:>9.0f}"
        f"  {efficiency:>10}"
    )
