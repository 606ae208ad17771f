# SPDX-License-Identifier: Apache-2.0
"""What is drawn together, under which name, and in which colour."""

from typing import Any

import pytest
from bench_drawings import SIZES, Record, record, sweep

from rdmatrain.bench.plots.curves import drawing
from rdmatrain.bench.plots.labels import decades, seconds_text, size_ticks, styles
from rdmatrain.errors import SettingError


def names(records: list[Record]) -> list[str]:
    return list(drawing(records).backends)


def test_a_curve_has_the_values_of_its_records_by_size():
    records = sweep("gloo", "rdmatrain")
    (view,) = drawing(list(reversed(records))).views
    ours, gloo = view.curves
    assert (ours.name, gloo.name) == ("rdmatrain (shm)", "gloo (shm)")
    for curve, of in ((ours, records[len(SIZES) :]), (gloo, records[: len(SIZES)])):
        assert [(point.nbytes, point.p50, point.p99, point.busbw) for point in curve.points] == [
            (each["nbytes"], each["seconds_p50"], each["seconds_p99"], each["busbw"]) for each in of
        ]
        assert [records[-1 - point.row] for point in curve.points] == of


@pytest.mark.parametrize(
    ("key", "value"),
    [("op", "reduce"), ("dtype", "int8"), ("redop", "MAX"), ("ranks", 4), ("hosts", 2),
     ("in_place", False), ("root", 1)],
)  # fmt: skip
def test_what_cannot_be_compared_is_drawn_apart(key: str, value: Any):
    views = drawing([*sweep("gloo"), *sweep("gloo", **{key: value})]).views
    assert [len(view.curves) for view in views] == [1, 1]
    assert views[0].title != views[1].title


def test_a_title_says_what_was_measured():
    (view,) = drawing(sweep("gloo", ranks=8, hosts=2)).views
    assert view.title == "all_reduce, float32 SUM, 8 ranks on 2 hosts, in place"
    (view,) = drawing([record(op="barrier", nbytes=0, redop="", in_place=False)]).views
    assert view.title == "barrier, 2 ranks"
    (view,) = drawing([record(op="broadcast", redop="", root=1)]).views
    assert view.title == "broadcast, 4 KiB, float32, 2 ranks, root 1, in place"


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"backend": "rdmatrain", "asked": "auto", "transport": "shm+tcp"}, "rdmatrain (shm+tcp)"),
        ({"backend": "rdmatrain", "asked": "tcp", "transport": "tcp"}, "rdmatrain/tcp"),
        ({"backend": "rdmatrain", "asked": "verbs", "transport": "tcp"}, "rdmatrain/verbs (tcp)"),
        ({"backend": "gloo", "transport": ""}, "gloo"),
        ({"backend": "limit", "transport": "memory"}, "limit: memory"),
        ({"backend": "fake", "transport": ""}, "limit: a call"),
        ({"backend": None, "asked": None, "transport": None}, "?"),
    ],
)
def test_a_name_says_what_was_asked_for_and_what_was_used(fields: Record, name: str):
    assert names([record(**fields)]) == [name]


def test_ours_is_told_first_and_limits_last():
    told = names(sweep("fake", "limit", "perftest", "rdmatrain", "gloo", transport=""))
    assert told == ["rdmatrain", "gloo", "perftest", "limit: memory", "limit: a call"]


def test_equal_contestants_of_two_files_are_told_apart_and_others_are_not():
    records = [*sweep("rdmatrain", "gloo", file="a"), *sweep("rdmatrain", "nccl", file="b")]
    assert names(records) == [
        "rdmatrain (shm) [a]", "rdmatrain (shm) [b]", "gloo (shm)", "nccl (shm)",
    ]  # fmt: skip
    apart = [*sweep("rdmatrain", file="a"), *sweep("rdmatrain", file="b", op="reduce")]
    assert names(apart) == ["rdmatrain (shm)"]


@pytest.mark.parametrize(("key", "value"), [("machine", "Another"), ("commit", "1234567")])
def test_machines_and_commits_have_curves_of_their_own(key: str, value: str):
    records = [*sweep("gloo", sizes=(8, 64)), *sweep("gloo", sizes=(512,), **{key: value})]
    (view,) = drawing(records).views
    assert [[p.nbytes for p in curve.points] for curve in view.curves] in (
        [[8, 64], [512]],
        [[512], [8, 64]],
    )
    assert {f"gloo (shm) [{record()[key]}]", f"gloo (shm) [{value}]"} == set(names(records))


def test_a_run_that_was_made_again_has_a_curve_of_its_own_and_one_that_goes_on_has_not():
    again = [*sweep("gloo"), *sweep("gloo", time="2026-11-30")]
    assert names(again) == ["gloo (shm) [2026-11-29T06:30:00+00:00]", "gloo (shm) [2026-11-30]"]
    goes_on = [*sweep("gloo", sizes=(8,)), *sweep("gloo", sizes=(64,), time="2026-11-30")]
    assert names(goes_on) == ["gloo (shm)"]


def test_of_a_record_that_is_there_twice_the_last_one_is_drawn():
    (view,) = drawing([record(p50=1e-6), record(p50=3e-6)]).views
    assert [point.p50 for point in view.curves[0].points] == [3e-6]


def test_what_took_no_time_is_left_out():
    odd = [0, 0.0, -1.0, float("nan"), float("inf"), None, "1e-5", 10**400]
    records = [record(p50=1e-5), *(record(seconds_p50=value, nbytes=8) for value in odd)]
    (view,) = drawing(records).views
    assert [point.nbytes for point in view.curves[0].points] == [4096]
    with pytest.raises(SettingError, match="no record has a time of more than 0"):
        drawing(records[1:])


def test_no_records_are_nothing_to_draw():
    with pytest.raises(SettingError, match="nothing to draw"):
        drawing([])


def test_a_size_of_0_is_drawn_only_where_it_is_the_only_one():
    (view,) = drawing(sweep("gloo", sizes=(0, 8, 64))).views
    assert [point.nbytes for point in view.curves[0].points] == [8, 64]
    (view,) = drawing([*sweep("gloo", sizes=(0,)), *sweep("nccl", sizes=(0, 8, 64))]).views
    assert [curve.name for curve in view.curves] == ["nccl (shm)"]
    (view,) = drawing(sweep("gloo", sizes=(0,))).views
    assert [point.nbytes for point in view.curves[0].points] == [0]


def test_an_operation_of_a_newer_version_is_drawn_like_any_other():
    (view,) = drawing(sweep("rdmatrain", op="all_to_some", schema="rdmatrain-bench/9")).views
    assert (view.op, len(view.curves[0].points)) == ("all_to_some", len(SIZES))


def test_a_call_that_moves_nothing_has_no_bandwidth():
    (view,) = drawing(sweep("rdmatrain", "fake")).views
    assert [any(point.busbw for point in curve.points) for curve in view.curves] == [True, False]


def test_a_p99_that_is_missing_or_below_the_median_is_the_median():
    for odd in (None, float("nan"), 1e-9):
        (view,) = drawing([record(p50=1e-5, seconds_p99=odd)]).views
        assert view.curves[0].points[0].p99 == 1e-5


def test_wrong_results_are_counted():
    assert drawing([record(nwrong=0), record(nwrong=3), record(nwrong=None)]).num_wrong == 1


def test_contestants_look_different_and_each_library_always_the_same():
    six = dict.fromkeys(("rdmatrain", "gloo", "openmpi", "mpich", "intelmpi", "nccl"), "")
    looks = styles({name: name for name in six})
    assert len({look.light for look in looks.values()}) == len(looks)
    assert styles({"gloo": "gloo"})["gloo"] == looks["gloo"]
    ten = {f"rdmatrain {number}": "rdmatrain" for number in range(9)} | {"gloo": "gloo"}
    several = styles(ten)
    for key in ("light", "dark", "letter", "marker", "symbol"):
        assert len({getattr(look, key) for look in several.values()}) == len(ten)
    assert several["gloo"] == looks["gloo"]
    assert list(styles({str(number): str(number) for number in range(40)})) == list(
        map(str, range(40))
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2.5e-9, "2.5 ns"),
        (9.996e-7, "1000 ns"),
        (1e-6, "1 \u00b5s"),
        (0.01234, "12.3 ms"),
        (75, "75 s"),
    ],
)
def test_times_are_written_for_people(seconds: float, text: str):
    assert seconds_text(seconds) == text


def test_axes_have_a_few_round_ticks():
    sizes, texts = size_ticks(8 << power for power in range(25))
    assert len(sizes) == len(texts) <= 8
    assert texts[:2] == ["8 B", "128 B"]
    assert decades([0.02, 300]) == [0.1, 1, 10, 100]
    assert decades([2, 3]) == [1, 10]
    assert decades([5, 5]) == [1, 10]
