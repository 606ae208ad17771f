"""How far it is, on stderr: a bar with the time left, or lines that tell it."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

from rdmatrain.bench.conduct import Standing, Tell

REDRAW_S = 0.2
LOG_S = 10.0  # from a line of a log to the next one, where no round ends


@contextmanager
def shown(quiet: bool) -> Iterator[Tell]:
    """Yield what to tell each turn."""
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty() and find_spec("rich"):
        with _bar() as tell:
            yield tell
    else:
        yield _Lines().tell


@contextmanager
def _bar() -> Iterator[Tell]:
    from rich.console import Console  # noqa: PLC0415 - an optional package
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
    console = Console(stderr=True)
    # It is drawn between turns: a thread of its own would take time from the ranks.
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task("", total=None)
        drawn = 0.0

        def tell(standing: Standing) -> None:
            nonlocal drawn
            if time.monotonic() < drawn + REDRAW_S:
                return
            drawn = time.monotonic()
            progress.update(
                task,
                completed=standing.turns,
                total=standing.of_turns,
                description=_text(standing),
                refresh=True,
            )

        yield tell


class _Lines:
    """For a log: a line for each round, and some within rounds that are long."""

    def __init__(self) -> None:
        self._round = 0
        self._said = time.monotonic()

    def tell(self, standing: Standing) -> None:
        if standing.round > self._round:
            self._say(f"{_left(standing)}round {standing.round} is done")
        elif time.monotonic() >= self._said + LOG_S:
            self._say(_text(standing))
        self._round = standing.round

    def _say(self, text: str) -> None:
        say(text)
        self._said = time.monotonic()


class Left:
    """Guesses the time that is left of a list of things, by what those before took.

    Args:
        weights: of each: how long it takes, in any unit.

    """

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = weights
        self._begun = 0
        self._began = time.monotonic()

    def text(self) -> str:
        """Return how a line begins that says that the next one begins; "" for the first."""
        done, left = sum(self._weights[: self._begun]), sum(self._weights[self._begun :])
        self._begun += 1
        if not done:
            self._began = time.monotonic()
            return ""
        return left_text((time.monotonic() - self._began) * left / done)


def say(text: str) -> None:
    """Write a line."""
    sys.stderr.write(f"rdmatrain bench: {text}\n")


def _text(standing: Standing) -> str:
    left, number = _left(standing), standing.round + 1
    return f"{left}round {number}: {standing.entry}, {standing.case}"


def _left(standing: Standing) -> str:
    return left_text(standing.left_s) if standing.turns else ""  # at first nobody knows


def left_text(left_s: float) -> str:
    """Return how a line of progress begins."""
    minutes, seconds = divmod(round(left_s), 60)
    return f"{minutes}:{seconds:02} left, "
