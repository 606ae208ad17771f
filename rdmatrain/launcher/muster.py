"""From a round to running workers: environment, CPUs and output of each, then the start."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rdmatrain.launcher.crew import Crew
from rdmatrain.launcher.job import Job
from rdmatrain.launcher.messages import Round
from rdmatrain.launcher.output.pump import OutputPump
from rdmatrain.launcher.places import Place
from rdmatrain.launcher.standby import Reserve
from rdmatrain.launcher.start import Start
from rdmatrain.launcher.worker_env import worker_environment, worker_program

# What a worker connects to is always on its own host: the store, or this node's door to it.
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Muster:
    """Starts the workers of this node, round by round.

    Attributes:
        job: what each of them runs.
        places: what each inherits, and its CPUs, by its local rank.
        common: variables that each of them gets, whatever it inherits.
        own: variables of one of them, by its local rank.
        reserve: standbys, that become workers in later rounds.

    """

    job: Job
    places: Sequence[Place]
    common: Mapping[str, str]
    own: Callable[[int], Mapping[str, str]]
    reserve: Reserve

    def start(self, crew: Crew, pump: OutputPump, round: Round, store_port: int) -> None:
        """Start all workers of a round.

        Args:
            crew: they join it.
            pump: forwards their output.
            round: says which ranks they are.
            store_port: where they find the job's store on this host.

        Raises:
            OSError: one could not be started; those before it run.
            SettingError: one cannot have what options promise it.

        """
        store = {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(store_port)}
        starts = []
        for local_rank, place in enumerate(self.places):
            rank = round.node.first_rank + local_rank
            extra = {**self.common, **store, **self.own(local_rank)}
            with pump.worker(rank, local_rank) as (stdout, stderr):
                start = Start(
                    rank=rank,
                    local_rank=local_rank,
                    program=worker_program(self.job.program, self.job.first_local + local_rank),
                    environment=worker_environment(self.job, round, local_rank, place.base, extra),
                    cpus=place.cpus,
                    stdout=stdout,
                    stderr=stderr,
                )
                crew.start(start, self.reserve.take(local_rank))
            starts.append(start)
        if round.restart < self.job.limits.max_restarts:
            self.reserve.prepare(starts)
