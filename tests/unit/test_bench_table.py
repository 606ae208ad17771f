# SPDX-License-Identifier: Apache-2.0
"""The table is nccl-tests' for scripts that read it, and the comparison below is right."""

import re
from dataclasses import replace

import pytest
from bench_results import CONTEXT, CONTEXTS, GLOO, NIC, OPENMPI, OURS, RESULTS, case, result
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.bench.model import OPS, Case, Context, Entry, Result
from rdmatrain.bench.table import count_of, dtype_name, lines_of, redop_name

# What people's scripts read nccl-tests' output with.
ROW = re.compile(
    r"^\s+(\d+)\s+(\d+)\s+(\w+)\s+(\w+)\s+(-?\d+)"
    r"\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)\s+(\d+|N/A)"
    r"\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)\s+(\d+|N/A)\s*$"
)
AVERAGE = re.compile(r"Avg bus bandwidth\s*:\s*(\d+(?:\.\d+)?)\s*$", re.MULTILINE)
BOUNDS = re.compile(r"^#\s*Out of bounds values\s*:\s*(\d+)\s+(OK|FAILED)$", re.MULTILINE)

# The formats of nccl-tests' own printf.
LEFT = "%12i  %12i  %8s  %6s  %6i"
HALF = "  %7.2f  %6.2f  %6.2f  %6s"


def text_of(*results: Result, context: Context = CONTEXT) -> str:
    return "\n".join(lines_of(results, context))


def rows_of(text: str) -> list[tuple[str, ...]]:
    found = (ROW.match(line) for line in text.splitlines())
    return [match.groups() for match in found if match]


def data_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_a_row_is_what_nccl_tests_prints() -> None:
    out = result(OURS, case("all_gather", 64 << 20, in_place=False), 5e-3, ranks=8)
    inside = result(OURS, case("all_gather", 64 << 20, in_place=True), 4e-3, ranks=8, nwrong=3)
    algbw = [(64 << 20) / 1e9 / seconds for seconds in (5e-3, 4e-3)]
    count = (64 << 20) // 4 // 8
    expected = (
        LEFT % (64 << 20, count, "float", "none", -1)
        + HALF % (5000, algbw[0], algbw[0] * 7 / 8, 0)
        + HALF % (4000, algbw[1], algbw[1] * 7 / 8, 3)
    )
    assert data_lines(text_of(out, inside)) == [expected]


def test_columns_end_where_their_names_do() -> None:
    text = text_of(result(OURS, case("all_gather", 4096, in_place=False)))
    lines = text.splitlines()
    names = next(line for line in lines if "redop" in line)
    units = lines[lines.index(names) + 1]
    row = lines[lines.index(names) + 2]
    ends = [match.end() for match in re.finditer(r"\S+", row)]
    assert [match.end() for match in re.finditer(r"[^\s#]\S*|#wrong", names)] == ends
    assert {match.end() for match in re.finditer(r"\(\S+\)", units)} < set(ends)
    above = lines[lines.index(names) - 1]
    out, inside = above.index("out-of-place"), above.index("in-place")
    assert ends[5] < out < ends[8] < inside < ends[12]


def test_scripts_find_every_value() -> None:
    sizes = [8 << (2 * each) for each in range(12)]
    results = [result(OURS, case(nbytes=size), 2e-6 + size / 7e9) for size in sizes]
    text = text_of(*results)
    rows = rows_of(text)
    assert len(rows) == len(data_lines(text)) == len(sizes)
    for row, size in zip(rows, sizes, strict=True):
        seconds = 2e-6 + size / 7e9
        assert row[:5] == (str(size), str(size // 4), "float", "sum", "-1")
        assert float(row[9]) == pytest.approx(seconds * 1e6, abs=0.005, rel=1e-5)
        assert float(row[11]) == pytest.approx(size / seconds / 1e9, abs=0.005)
        assert row[12] == "0"
    average = float(AVERAGE.findall(text)[0])
    assert average == pytest.approx(sum(size / (2e-6 + size / 7e9) / 1e9 for size in sizes) / 12)
    assert BOUNDS.findall(text) == [("0", "OK")]


def test_fields_from_the_right_are_the_same_as_from_the_left() -> None:
    fields = data_lines(text_of(result(OURS, case("all_gather", in_place=True))))[0].split()
    assert len(fields) == 13
    assert (fields[7], fields[-2]) == (fields[-6], fields[11])


@settings(max_examples=60)
@given(st.lists(RESULTS, max_size=6), CONTEXTS)
def test_each_line_is_a_comment_or_a_row_that_scripts_read(
    results: list[Result], context: Context
) -> None:
    lines = lines_of(results, context)
    for line in lines:
        assert line.startswith("#") or ROW.match(line), line
        assert "\n" not in line
    text = "\n".join(lines)
    tables = len({(each.case.op, each.entry) for each in results})
    assert len(AVERAGE.findall(text)) == len(BOUNDS.findall(text)) == tables
    rows = {(each.entry, replace(each.case, in_place=False)) for each in results}
    assert len(rows_of(text)) == len(rows)


def test_a_half_that_does_not_exist_repeats_the_other_without_a_check() -> None:
    for op, place in (("all_reduce", "in place"), ("sendrecv", "out of place")):
        text = text_of(result(OURS, case(op)))
        row = rows_of(text)[0]
        assert row[5:8] == row[9:12]
        assert (row[8], row[12]) == (("N/A", "0") if place == "in place" else ("0", "N/A"))
        assert f"# {place} only: the other half repeats it, with N/A as #wrong" in text
        assert AVERAGE.findall(text) == [f"{result(OURS, case(op)).busbw:.6f}"]
    both = [result(OURS, case("all_gather", in_place=place)) for place in (True, False)]
    assert "only" not in text_of(*both)


def test_what_was_not_checked_says_so_and_is_in_bounds() -> None:
    both = [
        result(OURS, case("all_gather", in_place=place), nwrong=None) for place in (True, False)
    ]
    text = text_of(*both)
    assert [rows_of(text)[0][field] for field in (8, 12)] == ["N/A", "N/A"]
    assert BOUNDS.findall(text) == [("0", "OK")]


def test_wrong_values_are_counted_by_case_and_shown_in_both_tables() -> None:
    sizes = {1024: 0, 2048: 7, 4096: 1 << 40}
    text = text_of(*(result(OURS, case(nbytes=n), nwrong=wrong) for n, wrong in sizes.items()))
    assert [int(row[12]) for row in rows_of(text)] == list(sizes.values())
    assert BOUNDS.findall(text) == [("2", "FAILED")]
    assert re.search(r"^# +2048 .* 7 wrong$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (3.6e-7, "0.36"),
        (1e-9, "0.00"),
        (9.99999e-3, "9999.99"),
        (9.999999e-3, "10000.0"),
        (0.12345678, "123457"),
        (99.9999, "99999900"),
        (1234.5, "1234500000"),
    ],
)
def test_times_are_microseconds_without_an_exponent(seconds: float, shown: str) -> None:
    assert rows_of(text_of(result(OURS, case(), seconds)))[0][9] == shown


@pytest.mark.parametrize(
    ("nbytes", "shown"),
    [(0, "0.00"), (7_100, "0.0710"), (99_994, "0.9999"), (99_996, "1.00"), (46_390_000, "463.90")],
)  # fmt: skip
def test_small_bandwidths_have_more_digits(nbytes: int, shown: str) -> None:
    row = rows_of(text_of(result(OURS, case(nbytes=nbytes), 1e-4)))[0]
    assert row[10] == row[11] == shown


def test_counts_are_of_a_part_where_nccl_tests_has_parts() -> None:
    parts = {"all_gather", "reduce_scatter", "all_to_all", "gather", "scatter"}
    for op in OPS:
        expected = 12 if op in parts else 96
        assert count_of(case(op, 96 * 8, dtype="float64"), 8) == expected


@pytest.mark.parametrize(
    ("dtype", "name", "size"),
    [
        ("float16", "half", 2), ("bfloat16", "bfloat16", 2), ("float32", "float", 4),
        ("float64", "double", 8), ("int8", "int8", 1), ("uint8", "uint8", 1), ("int32", "int32", 4),
        ("uint64", "uint64", 8), ("float8_e4m3fn", "f8e4m3", 1), ("float8_e5m2", "f8e5m2", 1),
        ("bool", "bool", 1), ("complex128", "complex128", 16),
    ],
)  # fmt: skip
def test_dtypes_have_nccl_tests_names_and_their_own_size(dtype: str, name: str, size: int) -> None:
    assert dtype_name(dtype) == name
    assert count_of(case("broadcast", 4096, dtype=dtype), 2) == 4096 // size


def test_reductions_have_nccl_tests_names() -> None:
    names = ("SUM", "PRODUCT", "MIN", "MAX", "AVG", "")
    assert [redop_name(each) for each in names] == ["sum", "prod", "min", "max", "avg", "none"]


def test_a_barrier_has_no_size() -> None:
    text = text_of(result(OURS, case("barrier", 0), 3e-6))
    row = rows_of(text)[0]
    assert row[:2] == ("0", "0")
    assert row[5:8] == ("3.00", "0.00", "0.00")
    assert "# barrier\n" in text


def test_where_tensors_are_is_said_unless_they_are_on_the_cpu() -> None:
    assert "2 ranks on 1 host over shm, tensors on cuda" in text_of(
        result(OURS, case(), device="cuda")
    )
    assert "tensors on" not in text_of(result(OURS, case()))


def test_where_calls_are_timed_together_the_table_says_what_p99_is_of() -> None:
    assert "timed together: p99" in text_of(result(OURS, case("write")))
    assert "timed together" not in text_of(result(OURS, case("pingpong")))


def tables_of(text: str) -> list[tuple[str, str]]:
    """The headings of nccl-tests' tables."""
    return re.findall(r"# Collective test starting: (\w+)\n# (\S+), ", text)


def comparison_of(text: str) -> dict[tuple[str, str], list[str]]:
    """Fields after the contestant, by size and contestant, of the tables at the end."""
    lines = (line.split() for line in text.splitlines())
    return {
        (fields[1], fields[2]): fields[3:]
        for fields in lines
        if len(fields) >= 8 and fields[0] == "#" and fields[1].isdecimal()
    }


def test_contestants_have_tables_of_their_own_and_one_together() -> None:
    times = {OURS: 1.0, GLOO: 2.5, OPENMPI: 0.5}
    text = text_of(
        *(
            result(entry, case(op, size), size * 1e-8 * times[entry])
            for op in ("all_reduce", "broadcast")
            for size in (64, 1024)
            for entry in times
        )
    )
    assert tables_of(text) == [
        (op, name)
        for op in ("all_reduce", "broadcast")
        for name in ("rdmatrain/shm", "gloo", "openmpi")
    ]
    found = comparison_of(text.partition("# all_reduce, float, sum, in place")[2])
    assert found["1024", "rdmatrain/shm"][:3] == ["10.24", "15.36", "1.6"]
    ratios = {key: fields[4] for key, fields in found.items()}
    assert ratios == {
        (size, name): ratio
        for size in ("64", "1024")
        for name, ratio in (("rdmatrain/shm", "1.00"), ("gloo", "2.50"), ("openmpi", "0.50"))
    }
    assert "# ratio is that of the p50 to rdmatrain/shm's: above 1 is slower" in text


def test_where_the_first_contestant_has_no_such_case_there_is_no_ratio() -> None:
    text = text_of(
        result(OURS, case(nbytes=64)),
        result(OPENMPI, case(nbytes=64)),
        result(OPENMPI, case(nbytes=64, in_place=False)),
        result(GLOO, case(nbytes=128)),
    )
    inside, _, outside = text.partition("# all_reduce, float, sum, not in place")
    assert comparison_of(inside)["64", "openmpi"][4] == "1.00"
    assert comparison_of(inside)["128", "gloo"][4] == "-"
    assert comparison_of(outside)["64", "openmpi"][4] == "-"


def test_one_round_has_no_spread() -> None:
    text = text_of(result(OURS, case(nbytes=64), rounds=(1e-5,), cv=0.0))
    assert comparison_of(text)["64", "rdmatrain/shm"][2] == "-"


def test_one_contestant_has_no_line_about_ratios() -> None:
    assert "above 1 is slower" not in text_of(result(OURS, case()))


def test_all_but_the_tables_of_nccl_tests_fits_80_columns() -> None:
    command = "rdmatrain bench all_reduce --vs gloo " + "--dtype bfloat16 " * 9
    context = replace(CONTEXT, command=command, machine="A" * 30, nic=NIC)
    slow = Entry("intelmpi", "verbs")
    lines = lines_of(
        [result(slow, case(nbytes=1 << 33), 9.9), result(GLOO, case(nbytes=1 << 33), 1e-3)], context
    )
    wide = [len(line) for line in lines if len(line) > 80]
    # Two tables of a row each, below three lines of names.
    assert len(wide) == 2 * 4
    assert max(wide) == 118


def test_it_says_where_it_was_measured_and_over_what() -> None:
    context = replace(CONTEXT, nic=NIC, command="rdmatrain bench\nall_reduce\r -b 8", pinned=False)
    text = text_of(result(OURS, case(), hosts=2, transport="shm+tcp"), context=context)
    joined = " ".join(re.sub(r"^#\s*", "", text, flags=re.MULTILINE).split())
    for words in (
        "rdmatrain bench all_reduce -b 8",
        "2026-11-29T06:30:00+00:00 on node-7: 2 x Some Processor, 8.0 GiB, kernel 6.1.0",
        "ranks are not bound to CPUs",
        "rdmatrain 0.1.0, python 3.11.2, torch 2.13.0, commit 0501b43",
        "NIC mlx5_2 port 1: Ethernet, 100 Gbit/s, MTU 4096, GID 3 10.0.0.7, firmware 28.39.1002",
        "rdmatrain/shm, 2 ranks on 2 hosts over shm+tcp",
    ):
        assert words in joined


def test_a_run_without_results_says_where_it_was() -> None:
    assert text_of().startswith("# rdmatrain bench")


def test_rows_of_several_dtypes_and_reductions_are_one_table() -> None:
    cases = [
        Case("reduce", dtype, redop, 64, True, 1)
        for dtype in ("int32", "bfloat16")
        for redop in ("MAX", "AVG")
    ]
    rows = rows_of(text_of(*(result(OURS, each) for each in cases)))
    assert [row[1:5] for row in rows] == [
        ("16", "int32", "max", "1"),
        ("16", "int32", "avg", "1"),
        ("32", "bfloat16", "max", "1"),
        ("32", "bfloat16", "avg", "1"),
    ]
