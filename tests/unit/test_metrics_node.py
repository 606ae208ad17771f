# SPDX-License-Identifier: Apache-2.0
"""The files of a node put together: counters never go back, gauges are of those that run."""

import os
from pathlib import Path

import pytest

from rdmatrain.metrics.node import NODE_FILE, Node
from rdmatrain.metrics.tally import Tally

COUNT, STEP, PEERS = "rdmatrain_collectives_missed_total", "rdmatrain_step", "rdmatrain_peers"
DURATION = "rdmatrain_collective_duration_seconds"
GONE = 1 << 22  # no process has such an id


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path, Tally)


def worker(folder: Path, name: str, count: float, step: float | None = None) -> None:
    tally = Tally()
    tally.add(COUNT, count)
    tally.set(PEERS, 1, "shm")
    tally.observe(DURATION, 1.0, "send")
    if step is not None:
        tally.set(STEP, step)
    tally.write(folder / name)


def launcher(folder: Path, now: dict[str, list[int]], ranks: dict[str, int]) -> None:
    tally = Tally()
    tally.set("rdmatrain_workers_expected", 2)
    tally.write(folder / NODE_FILE, now=now, ranks=ranks)


def test_each_worker_has_its_rank(node: Node, tmp_path: Path) -> None:
    worker(tmp_path, "1-0.json", 3)
    worker(tmp_path, "2-1.json", 4)
    launcher(tmp_path, {"1-0.json": [6, os.getpid()], "2-1.json": [7, GONE]}, {})
    found = node.collect()
    assert found.values[COUNT, ("6",)] == 3
    assert found.values[COUNT, ("7",)] == 4
    assert found.values["rdmatrain_workers_expected", ()] == 2
    assert found.values["rdmatrain_workers", ()] == 1
    assert found.histograms[DURATION, ("send",)][1] == 2.0  # of the node


def test_after_a_restart_counters_go_on(node: Node, tmp_path: Path) -> None:
    worker(tmp_path, "1-0.json", 3, step=10)
    launcher(tmp_path, {"1-0.json": [0, os.getpid()]}, {"1-0.json": 0})
    assert node.collect().values[COUNT, ("0",)] == 3
    # The next one has written nothing yet.
    ranks = {"1-0.json": 0, "2-0.json": 0}
    launcher(tmp_path, {"2-0.json": [0, os.getpid()]}, ranks)
    for _ in range(2):
        values = node.collect().values
        assert values[COUNT, ("0",)] == 3
        assert values[STEP, ("0",)] == 10
        assert (PEERS, ("shm", "0")) not in values
    assert not (tmp_path / "1-0.json").exists()
    worker(tmp_path, "2-0.json", 5, step=8)
    found = node.collect()
    assert (found.values[COUNT, ("0",)], found.values[STEP, ("0",)]) == (8, 8)
    assert sum(found.histograms[DURATION, ("send",)][0]) == 2


def test_a_worker_cannot_say_that_it_is_another_rank(node: Node, tmp_path: Path) -> None:
    tally = Tally()
    tally.values[COUNT, ("5",)] = 1000.0
    tally.values["rdmatrain_job_info", ("forged", "1")] = 1.0
    tally.write(tmp_path / "1-0.json")
    launcher(tmp_path, {"1-0.json": [0, os.getpid()]}, {})
    assert not [key for key in node.collect().values if key[0] == COUNT]


def test_what_runs_is_asked_of_the_kernel(node: Node, tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # it is a zombie now
    launcher(tmp_path, {"1-0.json": [0, child]}, {})
    assert node.collect().values["rdmatrain_workers", ()] == 0
    os.waitpid(child, 0)


def test_ports_are_read_at_each_scrape(tmp_path: Path) -> None:
    asked = []

    def ports() -> Tally:
        asked.append(1)
        tally = Tally()
        tally.set("rdmatrain_hca_up", 1, "mlx5_0", "1")
        return tally

    node = Node(tmp_path, ports)
    assert node.collect().values["rdmatrain_hca_up", ("mlx5_0", "1")] == 1
    node.collect()
    assert len(asked) == 2


@pytest.mark.parametrize(
    "text",
    [
        '{"version": 1}',
        '{"version": 1, "now": 3, "ranks": []}',
        '{"version": 1, "now": {"a": 1}, "ranks": {"a": []}}',
    ],
)
def test_a_launchers_file_of_another_make(node: Node, tmp_path: Path, text: str) -> None:
    (tmp_path / NODE_FILE).write_text(text)
    assert node.collect().values == {("rdmatrain_workers", ()): 0}
