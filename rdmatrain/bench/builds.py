"""Sweeps of two builds in turns, each with ranks of its own: what ``compare`` can be sure of."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from rdmatrain.errors import SettingError

SWEEP = ("all_reduce", "-b", "8", "-e", "2M", "-f", "8", "--rounds", "3")


def measure(
    pythons: tuple[str, str],
    files: tuple[Path, Path],
    starts: int,
    sweep: Sequence[str] = SWEEP,
    tell: Callable[[str], object] = lambda _: None,
) -> None:
    """Sweep with each build in turns; the one that is first changes each time.

    Args:
        pythons: interpreters, each with one build of rdmatrain.
        files: where the results of each go, as JSON lines; not there yet.
        starts: of each build.
        sweep: arguments of ``rdmatrain bench``.
        tell: is told of each turn.

    Raises:
        SettingError: a file is there, or a sweep failed; what was measured before is in the files.

    """
    for file in files:
        if file.exists():
            raise SettingError(f"{file} is there: name a new file for the results of a build")
    both = list(zip(pythons, files, strict=True))
    for number in range(starts):
        tell(f"start {number + 1} of {starts} of each build")
        for python, file in both if number % 2 == 0 else reversed(both):
            _sweep([python, "-m", "rdmatrain.cli", "bench", *sweep, "--quiet", "--json", str(file)])


def _sweep(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise SettingError(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        said = [line for line in done.stdout.splitlines() if line.strip()][-3:]
        raise SettingError(
            f"{' '.join(command)} ended with {done.returncode}: {' | '.join(said) or 'no word'}"
        )
