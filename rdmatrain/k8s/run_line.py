"""The command line of ``rdmatrain run``, taken apart where other words go in."""

import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rdmatrain.errors import SettingError


@dataclass(frozen=True)
class RunLine:
    """A command line.

    Attributes:
        program: what starts rdmatrain: ``rdmatrain`` with its folder, if it is said.
        rest: what follows ``run``: options, script and its arguments.

    """

    program: tuple[str, ...]
    rest: tuple[str, ...]

    def with_options(self, options: Iterable[str]) -> list[str]:
        """Return the whole line, with more options of ``run`` before its own."""
        return [*self.program, "run", *options, *self.rest]

    def doctor(self, options: Iterable[str]) -> list[str]:
        """Return the line that asks the doctor of the same installation."""
        return [*self.program, "doctor", *options]


def run_line(command: Sequence[str]) -> RunLine:
    """Take a command line apart.

    Raises:
        SettingError: it does not start ``rdmatrain run``.

    """
    for at in range(1, len(command)):
        if command[at] == "run" and posixpath.basename(command[at - 1]) == "rdmatrain":
            return RunLine(tuple(command[:at]), tuple(command[at + 1 :]))
    shown = " ".join(command)
    raise SettingError(
        f"command: {shown!r} does not start rdmatrain run: give [rdmatrain, run, SCRIPT]"
    )
