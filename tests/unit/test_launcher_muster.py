# SPDX-License-Identifier: Apache-2.0
"""Each worker is started as what it is, and so is who may succeed it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from rdmatrain.launcher.job import Job, Limits, Program
from rdmatrain.launcher.messages import Node, Round
from rdmatrain.launcher.muster import Muster
from rdmatrain.launcher.places import Place
from rdmatrain.launcher.start import Start


class Fake:
    """Crew, pump and reserve, which remember what they are given."""

    def __init__(self) -> None:
        self.started: list[tuple[Start, str]] = []
        self.prepared: list[Start] = []

    def start(self, start: Start, standby: str) -> None:
        self.started.append((start, standby))

    @contextmanager
    def worker(self, rank: int, local_rank: int) -> Iterator[tuple[int, int]]:
        yield 10 + rank, 20 + local_rank

    def take(self, local_rank: int) -> str:
        return f"standby {local_rank}"

    def prepare(self, starts: Sequence[Start]) -> None:
        self.prepared = list(starts)


@pytest.mark.parametrize(("restart", "follows"), [(0, True), (1, False)])
def test_workers_get_their_rank_environment_cpus_output_and_arguments(
    restart: int, follows: bool
) -> None:
    fake: Any = Fake()
    program = Program(script="train.py", args=("--gpu=${local_rank}",))
    job = Job(program=program, nproc=2, first_local=2, limits=Limits(max_restarts=1))
    places = [Place(base={"PLACE": str(number)}, cpus=(number,)) for number in range(2)]
    own = {"OWN": "yes"}
    muster = Muster(job=job, places=places, common={"ALL": "x"}, own=lambda _: own, reserve=fake)
    nodes = (
        Node(node_rank=0, host="a", address="10.0.0.1", nproc=4, first_rank=0),
        Node(node_rank=1, host="b", address="10.0.0.2", nproc=2, first_rank=4),
    )
    muster.start(fake, fake, Round(number=1, restart=restart, nodes=nodes, mine=1), 1234)
    for number, (start, standby) in enumerate(fake.started):
        assert (start.rank, start.local_rank, start.cpus) == (4 + number, number, (number,))
        assert (start.stdout, start.stderr) == (14 + number, 20 + number)
        assert start.program.args == (f"--gpu={2 + number}",)
        expected = {"PLACE": str(number), "ALL": "x", "OWN": "yes", "RANK": str(4 + number)}
        expected |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1234"}
        assert expected.items() <= start.environment.items()
        assert standby == f"standby {number}"
    assert len(fake.started) == 2
    assert fake.prepared == ([start for start, _ in fake.started] if follows else [])
