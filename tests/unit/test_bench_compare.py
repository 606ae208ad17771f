# SPDX-License-Identifier: Apache-2.0
"""rdmatrain/bench/compare.py: verdicts on made-up runs, of which it is known what is slower."""

import json
from dataclasses import replace

import numpy as np
import pytest
from bench_runs import CASES, ROUNDS, VERSIONS, full, run, write_run
from click.testing import CliRunner

from rdmatrain.bench.change import Pair, estimate, pace_of
from rdmatrain.bench.commands.compare import command
from rdmatrain.bench.compare import compare
from rdmatrain.bench.starts import MIN_STARTS
from rdmatrain.bench.student import quantile, upper_tail
from rdmatrain.errors import SettingError


def everywhere(factor):
    return dict.fromkeys(range(CASES), factor)


def verdicts(found, level):
    return [each.verdict for each in found.judged if each.level == level]


@pytest.fixture
def files(tmp_path):
    return lambda name, records: write_run(tmp_path / name, records)


def test_quantiles_of_student_are_those_of_the_tables():
    for upper, df, value in ((0.05, 8, 1.8595), (0.005, 8, 3.3554), (0.01, 2, 6.9646)):
        assert quantile(upper, df) == pytest.approx(value, abs=1e-4)
    assert quantile(0.025, 1) == pytest.approx(12.7062, abs=1e-4)
    assert quantile(0.005, 1e6) == pytest.approx(2.5758, abs=1e-3)
    assert upper_tail(-1.8595, 8) == pytest.approx(0.95, abs=1e-4)


def test_ten_percent_everywhere_are_found_and_both_ways_are_told_apart():
    for seed in range(10):
        a, b = run(2 * seed), run(2 * seed + 1, everywhere(1.1))
        assert compare(a, b).verdict == "slower"
        assert compare(a, b).exit_code == 1
        assert compare(b, a).verdict == "faster"
        assert compare(b, a).exit_code == 0


def test_the_same_build_is_not_called_slower():
    found = [compare(run(2 * seed), run(2 * seed + 1)) for seed in range(30)]
    assert {each.verdict for each in found} <= {"same", "unsure"}
    assert sum(each.verdict == "same" for each in found) > 24


def test_the_interval_holds_the_true_ratio():
    for seed in range(20):
        found = compare(run(seed), run(seed + 1000, everywhere(1.25)))
        low, high = found.judged[0].change.interval(0.99)
        assert low < 1.25 < high
        assert high / low < 1.12


def test_one_slow_size_is_named():
    found = compare(run(1), run(2, {5: 1.4}))
    slow = [each.key.nbytes for each in found.judged if each.verdict == "slower"]
    assert slow == [8 << 5]
    assert found.exit_code == 1


def test_one_slow_operation_is_named():
    a = run(1) + run(2, op="broadcast", redop="", root=0)
    b = run(3) + run(4, everywhere(1.12), op="broadcast", redop="", root=0)
    found = compare(a, b)
    slow = [each.key.op for each in found.judged if (each.level, each.verdict) == ("op", "slower")]
    assert slow == ["broadcast"]


def test_what_the_machine_lost_is_not_held_against_the_build():
    found = compare(run(1), run(2, pace=1.4))
    assert found.pace.ratio == pytest.approx(1.4, abs=0.05)
    assert found.verdict in {"same", "unsure"}
    hidden = compare(run(1, pace=1.2), run(2, everywhere(1.3)))
    assert hidden.verdict == "slower"


def test_without_the_pace_only_great_changes_are_sure():
    a, b, c = (
        [each | {"spins": []} for each in run(seed, everywhere(factor))]
        for seed, factor in ((1, 1), (2, 1.15), (3, 3))
    )
    assert compare(a, b).verdict == "unsure"
    assert compare(a, c).verdict == "slower"
    assert any("pace" in text for text in compare(a, b).warnings)


def test_single_cases_of_a_crowded_run_are_not_judged():
    found = compare(run(1), run(2, {5: 3.0}, crowd=3.0))
    assert set(verdicts(found, "case")) == {"crowded"}
    assert any("other programs" in text for text in found.warnings)
    assert found.verdict == "unsure"


def test_peers_are_not_judged_unless_they_are_alone():
    ours, theirs = run(1), run(2, backend="gloo", asked="", transport="tcp")
    slow = run(4, everywhere(2), backend="gloo", asked="", transport="tcp")
    assert compare(ours + theirs, run(3) + slow).exit_code == 0
    assert compare(theirs, slow).exit_code == 1


def test_several_runs_in_a_file_are_put_together():
    later = "2026-11-29T01:00:00+00:00"
    a = run(1, rounds=5) + run(2, rounds=5, time=later)
    found = compare(a, run(3, everywhere(1.1), rounds=5) + run(4, everywhere(1.1), rounds=5))
    assert all(len(each.rounds) == 10 for pair in found.measured.values() for each in pair)
    assert found.verdict == "slower"


def test_many_rounds_are_compared_without_going_through_all_their_halves():
    found = compare(run(1, rounds=200), run(2, everywhere(1.1), rounds=200))
    low, high = found.judged[0].change.interval(0.99)
    assert low < 1.1 < high and found.verdict == "slower"


def test_another_transport_is_an_error_of_its_own():
    found = compare(run(1), run(2, transport="tcp"))
    assert found.exit_code == 1
    assert found.changed_transports == [
        f"rdmatrain went over shm in the first file, over tcp in the other: {CASES} cases"
    ]


def test_a_transport_that_is_not_told_is_no_other_one():
    assert not compare(run(1, transport="tcp"), run(2, transport="")).changed_transports


def test_what_is_not_alike_or_missing_is_said():
    b = run(2, kernel="6.2", pinned=False, versions=VERSIONS | {"torch": "2.14.0"})
    found = compare(run(1)[1:], b[:-1])
    assert [key.nbytes for key in found.only_a] == [8 << (CASES - 1)]
    assert [key.nbytes for key in found.only_b] == [8]
    text = "; ".join(found.warnings)
    for words in ("kernel differs: 6.1; 6.2", "pinned differs", "torch differs: 2.13.0; 2.14.0"):
        assert words in text


def test_too_few_rounds_are_refused_with_the_number_that_is_needed():
    with pytest.raises(SettingError, match="--rounds 10, at least 5"):
        compare(run(1, rounds=4), run(2, rounds=4))


def test_files_without_a_common_case_are_refused():
    with pytest.raises(SettingError, match="no case in common"):
        compare(run(1), run(2, op="broadcast"))


def test_one_case_alone_can_be_compared():
    assert compare(run(1)[:1], run(2, everywhere(1.0))[:1]).exit_code == 0
    assert compare(run(1)[:1], run(2, everywhere(1.5))[:1]).verdict == "slower"


def test_an_odd_case_does_not_move_the_estimate_of_all():
    rng = np.random.default_rng(7)
    base = rng.exponential(0.02, (CASES, ROUNDS))
    odd = base.copy()
    odd[3] += 2.0
    no_pace = replace(pace_of(Pair(base, base)), variance=0.0)
    assert abs(estimate(Pair(base, odd), no_pace).group.log_ratio) < 0.01


def test_the_command_says_so_in_words_json_and_exit_code(files):
    a, b = files("a.jsonl", full(run(1))), files("b.jsonl", full(run(2, everywhere(1.2))))
    text = CliRunner().invoke(command, [a, b])
    assert text.exit_code == 1, text.output
    assert text.output.splitlines()[-1] == "# verdict: b is slower"
    data = json.loads(CliRunner().invoke(command, [a, b, "--json"]).stdout)
    assert data["verdict"] == "slower"
    assert data["exit_code"] == 1
    whole = data["judged"][0]
    assert (whole["level"], whole["num_cases"]) == ("contestant", CASES)
    assert whole["low"] < 1.2 < whole["high"]
    assert CliRunner().invoke(command, [a, a]).exit_code == 0
    assert CliRunner().invoke(command, [a, b, "--threshold", "0.5"]).exit_code == 0


def test_the_command_refuses_what_is_no_file_of_results(files, tmp_path):
    a = files("a.jsonl", full(run(1)))
    for other in (str(tmp_path / "none"), files("empty.jsonl", [])):
        result = CliRunner().invoke(command, [a, other])
        assert result.exit_code == 2
        assert other in result.output
    assert CliRunner().invoke(command, [a, a, "--confidence", "1"]).exit_code == 2


def turns(seed, num, factor=1.0, level=0.03, **one):
    """Runs of two builds in turns, each run with a level of its own, and a drift that both have."""
    rng = np.random.default_rng(seed)
    a, b = [], []
    for number in range(num):
        drift = 1 + 0.5 * number / num
        for build, own, second in ((a, 1.0, "00"), (b, factor, "30")):
            time = f"2026-11-29T00:{number:02d}:{second}+00:00"
            pace = drift * own * np.exp(rng.normal(0, level))
            build.extend(run(int(rng.integers(1 << 30)), pace=pace, rounds=3, time=time, **one))
    return a, b


def test_many_starts_in_turns_find_ten_percent_where_levels_and_the_machine_drift():
    found = compare(*turns(1, 24, 1.1))
    assert (found.verdict, found.starts, found.pace) == ("slower", 24, None)
    low, high = found.judged[0].change.interval(0.99)
    assert low < 1.1 < high and high / low < 1.06
    assert compare(*reversed(turns(1, 24, 1.1))).verdict == "faster"


def test_starts_of_one_build_are_rarely_called_slower_and_their_interval_holds_1():
    changes = [compare(*turns(seed, 12)).judged[0].change for seed in range(100)]
    assert sum(each.p_slower(1.0) < 0.01 for each in changes) <= 4
    held = [each.interval(0.9)[0] < 1.0 < each.interval(0.9)[1] for each in changes]
    assert 80 <= sum(held) <= 97


def test_a_start_that_was_disturbed_does_not_count():
    a, b = turns(3, 16, level=0.01)
    b = [each | {"rounds": [9.0 * t for t in each["rounds"]]} if i < CASES else each
         for i, each in enumerate(b)]  # fmt: skip
    found = compare(a, b)
    assert found.verdict == "same"


def test_fewer_starts_are_compared_by_their_rounds():
    assert compare(*turns(1, MIN_STARTS - 1)).starts == 0
    assert compare(*turns(1, MIN_STARTS)).starts == MIN_STARTS


def test_runs_that_were_not_in_turns_are_compared_by_their_rounds():
    a, b = turns(1, MIN_STARTS)
    late = [each | {"time": each["time"].replace("2026", "2027")} for each in b]
    found = compare(a, late)
    assert found.starts == 0
    assert any("not made in turns" in text for text in found.warnings)
    assert not any("in turns" in text for text in compare(a, b).warnings)
