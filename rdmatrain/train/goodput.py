"""How much of a job's time made progress that stayed."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass
class Goodput:
    """Where the time of a job went, over all its restarts, as its rank 0 saw it.

    This is the runtime part of "ML productivity goodput" as Google Cloud defines it, time that went
    into steps that count, over all time::

        ratio = steps_s / (steps_s + saving_s + loading_s + waiting_s + lost_s)

    Each checkpoint has these numbers as of its own step, so steps that a crash undoes leave
    ``steps_s`` by themselves. What passed from the newest checkpoint to the restart is ``lost_s``:
    the steps that are done again, and the time in which nothing ran. It is known where both were on
    one boot of one host, by a clock that nobody sets; otherwise the restart counts as unmeasured
    and the ratio is an upper bound. Wall clocks of hosts are never compared.

    Attributes:
        steps_s: seconds in steps whose results the job still has.
        saving_s: seconds in which steps waited for checkpoints to be saved.
        loading_s: seconds in which a checkpoint was looked for, checked and loaded.
        waiting_s: seconds in which ranks waited for each other between steps.
        lost_s: seconds from the newest checkpoint to a restart from it.
        restarts: how often the job went on from a checkpoint.
        unmeasured: restarts of which ``lost_s`` knows nothing.

    """

    steps_s: float = 0.0
    saving_s: float = 0.0
    loading_s: float = 0.0
    waiting_s: float = 0.0
    lost_s: float = 0.0
    restarts: int = 0
    unmeasured: int = 0

    @property
    def total_s(self) -> float:
        """Seconds of all kinds."""
        return self.steps_s + self.saving_s + self.loading_s + self.waiting_s + self.lost_s

    @property
    def ratio(self) -> float:
        """Share of the time that made progress; 1 before any time has passed."""
        return self.steps_s / self.total_s if self.total_s else 1.0

    def record(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the numbers, and when this was by the boot's clock."""
        return {**asdict(self), "boot": _boot(), "at_s": _clock()}

    def resume(self, record: Mapping[str, Any] | None) -> None:
        """Go on from what a checkpoint kept; None if it kept nothing."""
        kept, loading_s = dict(record or {}), self.loading_s
        for name in asdict(self):
            setattr(self, name, getattr(self, name) + kept.get(name, 0))
        self.restarts += 1
        if kept.get("boot") == _boot() != "":
            # What passed since this process began to load is counted as loading already.
            self.lost_s += max(_clock() - kept["at_s"] - loading_s, 0.0)
        else:
            self.unmeasured += 1

    def __str__(self) -> str:
        bound = "at most " if self.unmeasured else ""
        return (
            f"goodput {bound}{self.ratio:.1%} of {self.total_s:.1f} s: steps {self.steps_s:.1f} s, "
            f"saving {self.saving_s:.1f} s, loading {self.loading_s:.1f} s, waiting "
            f"{self.waiting_s:.1f} s, lost {self.lost_s:.1f} s; {self.restarts} restarts"
            f"{f', {self.unmeasured} unmeasured' if self.unmeasured else ''}"
        )


def _clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _boot() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
