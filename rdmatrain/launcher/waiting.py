"""A wait that the user is told of: soon, and then ever more rarely."""

FIRST_S = 10.0


class Waiting:
    """Says when it is time for a line; ``now`` is of the caller's monotonic clock, in seconds."""

    def __init__(self, now: float) -> None:
        self.since_s = now
        self._next_s = FIRST_S

    def due(self, now: float) -> float:
        """Return for how long it has been going on, if that should be told now; else 0."""
        waited_s = now - self.since_s
        if waited_s < self._next_s:
            return 0.0
        self._next_s = 2 * waited_s
        return waited_s
