"""The contract between the conductor of a sweep and its contestants. Standard library only."""

from dataclasses import dataclass
from typing import Protocol

from rdmatrain.bench.model import Case


class ContestantError(Exception):
    """A contestant is gone, or cannot do a case; the text says who, where, what, and what to do.

    Attributes:
        gone: no further case can be asked of it.

    """

    def __init__(self, text: str, *, gone: bool) -> None:
        super().__init__(text)
        self.gone = gone


@dataclass(frozen=True)
class Prepared:
    """A case that is ready to be timed.

    Attributes:
        nwrong: wrong elements of one checked call, summed over the ranks; None: not checked.
        guess_s: seconds that a call takes, roughly.

    """

    nwrong: int | None
    guess_s: float


class Running(Protocol):
    """A contestant whose ranks have started and wait, asleep, for what to do."""

    @property
    def transport(self) -> str:
        """What joins the ranks: "shm", "tcp", "verbs", "shm+tcp"; "" where it does not say."""

    @property
    def device(self) -> str:
        """Where its tensors are: "cpu", "cuda"."""

    @property
    def hosts(self) -> int:
        """Number of hosts that the ranks are on."""

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the libraries that it uses, by name."""

    def why_not(self, case: Case) -> str:
        """Return why it has no such case, as "MPI has no bfloat16"; "" where it has."""

    def prepare(self, case: Case, check: bool) -> Prepared:
        """Allocate, run the call once on values of rank and index, and check it if asked.

        Raises:
            ContestantError: it failed; it may be gone.

        """

    def time(self, calls: int, warmup: int) -> list[list[float]]:
        """Meet, make ``warmup`` calls, then ``calls`` timed ones of what was prepared.

        Returns:
            Seconds of each call, for each rank.

        Raises:
            ContestantError: it failed; it may be gone.

        """

    def drop(self) -> None:
        """Free the tensors of what was prepared."""

    def close(self) -> None:
        """End the ranks; no process is left, even if they hang."""
