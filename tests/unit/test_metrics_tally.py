# SPDX-License-Identifier: Apache-2.0
"""Values and their files: what is written is read, and nonsense is left out."""

import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest

from rdmatrain.metrics import tally as module
from rdmatrain.metrics.catalog import BY_NAME, DURATION_BUCKETS
from rdmatrain.metrics.tally import Tally, read

DURATION = "rdmatrain_collective_duration_seconds"
MISSED = "rdmatrain_collectives_missed_total"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "1-0.json"


def test_a_file_says_what_was_counted(path: Path) -> None:
    tally = Tally()
    tally.add("rdmatrain_collectives_total", 3, "all_reduce", "shm")
    tally.add("rdmatrain_collectives_total", 4, "all_reduce", "shm")
    tally.add(MISSED)
    tally.set("rdmatrain_step", 9)
    tally.set("rdmatrain_step", 8)
    for seconds in (25e-6, 26e-6, 61.0):
        tally.observe(DURATION, seconds, "send")
    tally.write(path, now={"a": [0, 1]})
    found, document = read(path)
    assert found.values == {
        ("rdmatrain_collectives_total", ("all_reduce", "shm")): 7,
        (MISSED, ()): 1,
        ("rdmatrain_step", ()): 8,
    }
    counts, total = found.histograms[DURATION, ("send",)]
    # A bound belongs to its bucket; what is above the last one is in the last.
    assert counts == [1, 1, *[0] * (len(DURATION_BUCKETS) - 2), 1]
    assert total == pytest.approx(61.000051)
    assert document["now"] == {"a": [0, 1]}
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_merging_adds_counters_and_replaces_gauges() -> None:
    one, two = Tally(), Tally()
    for tally, number in ((one, 1), (two, 5)):
        tally.add(MISSED, number)
        tally.set("rdmatrain_step", number)
        tally.observe(DURATION, number, "send")
    one.merge(two)
    assert one.values == {(MISSED, ()): 6, ("rdmatrain_step", ()): 5}
    counts, total = one.histograms[DURATION, ("send",)]
    assert (sum(counts), total) == (2, 6)
    assert two.values[MISSED, ()] == 5


GOOD: dict[str, Any] = {"version": 1, "values": [[MISSED, [], 1]], "histograms": []}
ROWS = [
    ["rdmatrain_unheard_of_total", [], 1],
    [MISSED, [], -1],
    [MISSED, [], math.nan],
    [MISSED, [], math.inf],
    [MISSED, [], "1"],
    [MISSED, [], True],
    [MISSED, ["a", "b"], 1],
    [MISSED, "a", 1],
    [MISSED, [1], 1],
    ["rdmatrain_step", ["x" * 1000], 1],
    [[], [], 1],
    [MISSED, []],
    [DURATION, ["send"], 1],
    7,
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_row_that_makes_no_sense_is_left_out(path: Path, row: Any) -> None:
    path.write_text(json.dumps(GOOD | {"values": [row, *GOOD["values"]]}))
    assert read(path)[0].values == {(MISSED, ()): 1}


@pytest.mark.parametrize("content", [[1], [-1] * 21, [1.5] * 21, [True] * 21, "x", None], ids=str)
def test_a_histogram_that_makes_no_sense_is_left_out(path: Path, content: Any) -> None:
    assert len(BY_NAME[DURATION].buckets) + 1 == 21
    path.write_text(json.dumps(GOOD | {"histograms": [[DURATION, ["send"], content, 1.0]]}))
    assert read(path)[0].histograms == {}
    path.write_text(json.dumps(GOOD | {"histograms": [[DURATION, ["send"], [1] * 21, 1.0]]}))
    assert read(path)[0].histograms == {(DURATION, ("send",)): ([1] * 21, 1.0)}


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 100_000, '{"version": 2}', "\x00\xff"])
def test_a_file_that_makes_no_sense_is_an_empty_one(path: Path, text: str) -> None:
    path.write_text(text)
    assert (read(path)[0].values, read(path)[1]) == ({}, {})


def test_no_file_is_an_empty_one(path: Path) -> None:
    assert read(path)[0].values == {}


def test_labels_that_a_program_makes_up_do_not_fill_the_memory(path: Path) -> None:
    tally = Tally()
    for number in range(module.MAX_SERIES + 100):
        tally.set("rdmatrain_peers", 1, str(number))
    assert len(tally.values) == module.MAX_SERIES
    tally.set("rdmatrain_peers", 2, "0")
    assert tally.values["rdmatrain_peers", ("0",)] == 2
    path.write_text("x" * (module.MAX_FILE_BYTES + 1))
    assert read(path)[1] == {}


def test_threads_lose_no_count() -> None:
    tally = Tally()

    def count() -> None:
        for _ in range(2000):
            tally.add(MISSED)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tally.values[MISSED, ()] == 8000
