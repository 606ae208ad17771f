"""How far a sweep is, on stderr: a bar with the time left, or a line for each round."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from rdmatrain.bench.conduct import Standing, Tell

REDRAW_S = 0.2


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
                description=f"{_left(standing)}round {standing.round + 1}: "
                f"{standing.entry}, {standing.case}",
                refresh=True,
            )

        yield tell


class _Lines:
    """For a log: a line for each round."""

    def __init__(self) -> None:
        self._round = 0

    def tell(self, standing: Standing) -> None:
        if standing.round > self._round:
            self._round = standing.round
            say(f"{_left(standing)}round {standing.round} is done")


def say(text: str) -> None:
    """Write a line."""
    sys.stderr.write(f"rdmatrain bench: {text}\n")


def _left(standing: Standing) -> str:
    return left_text(standing.left_s) if standing.turns else ""  # at first nobody knows


def left_text(left_s: float) -> str:
    """Return how a line of progress begins."""
    minutes, seconds = divmod(round(left_s), 60)
    return f"{minutes}:{seconds:02} left, "
