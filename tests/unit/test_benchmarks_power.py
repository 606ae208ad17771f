# SPDX-License-Identifier: Apache-2.0
"""What benchmarks/compare_power.py takes, and what it writes of turns that were made before."""

import json
import sys
from pathlib import Path

import pytest
from benchmark_scripts import load

power = load("compare_power")
TURN = [[{"rounds": [1e-6 * build]}] for build in (1, 2, 3)]
PLACE = {"time": "2026-11-30T00:00:00+00:00", "machine": "another", "commit": "abc"}


def run(monkeypatch: pytest.MonkeyPatch, *options: object) -> int:
    monkeypatch.setattr(sys, "argv", ["compare_power.py", *map(str, options)])
    return power.main()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the turns that were made."""
    made: list[int] = []
    monkeypatch.setattr(power, "measured", lambda each: made.append(each) or TURN)
    monkeypatch.setattr(power, "where", lambda: PLACE)
    monkeypatch.setattr(power, "share", lambda turns, draw, *_: float(draw is power.slower))
    return made


@pytest.mark.parametrize(
    ("options", "lines", "said"),
    [
        (["--draws", "0"], None, "--draws is at least 1"),
        (["--turns", "23"], None, "--turns is at least 24"),
        (["--save"], [], "there is such a file"),
        (["--load"], [], "with 24 turns or more"),
        (["--load"], [PLACE] + [TURN] * 23, "with 24 turns or more"),
        (["--load"], [TURN] * 24, "the line that says where"),
    ],
)
def test_what_it_cannot_do_is_refused_before_it_measures(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    measured: list[int],
    options: list[str],
    lines: list[object] | None,
    said: str,
) -> None:
    if lines is not None:
        file = tmp_path / "turns.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        options = [*options, str(file)]
    with pytest.raises(SystemExit):
        run(monkeypatch, *options)
    assert said in capsys.readouterr().err
    assert measured == []


def test_records_of_saved_turns_say_where_these_were_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, measured: list[int]
) -> None:
    turns, first, again = (tmp_path / name for name in ("turns", "first", "again"))
    assert run(monkeypatch, "--turns", 24, "--save", turns, "--json", first) == 0
    assert measured == list(range(24))
    monkeypatch.setattr(power, "where", dict)
    assert run(monkeypatch, "--load", turns, "--json", again) == 0
    assert len(measured) == 24
    assert again.read_text() == first.read_text()
    records = [json.loads(line) for line in again.read_text().splitlines()]
    assert [each["build"] for each in records] == ["same", "slower"]
    assert all(PLACE.items() <= each.items() and each["turns"] == 24 for each in records)
